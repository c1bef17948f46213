"""Choose the learning rate of a profile whose bases are not the paper's: by the loss on held-out rows, and nothing else.

    .venv/bin/python tools/learning_rate.py                     # micro: R25 on its second and its largest base
    .venv/bin/python tools/learning_rate.py Micro-M=2e-3 ...    # some of it

Each rate is twice the one before it. The rows are those of Math-CoT that a seed of its own draws, without the queries that
were trained on. No benchmark is looked at. Finished runs are kept in _build/learning_rate; the table is
data/benchmarks/learning_rate.csv, and chapter 06 shows it.
"""
import sys
from pathlib import Path

import polars as pl
import torch
from transformers import AutoTokenizer

from sftrepro import store, workflow
from sftrepro.data import build, data_set
from sftrepro.profiles import ROOT, RunSpec, load_profile, run_specs
from sftrepro.sft import IGNORED, answer_with_the_loss, collator, finetune, load_weights, tokenise

PROFILE = load_profile("micro")
RUN = next(spec for spec in run_specs(PROFILE, ("R25",)) if spec.seed == 1)
RATES, BASES = (1e-3, 2e-3, 4e-3, 8e-3), ("Micro-M", "Micro-XL")
HELD_OUT_SEED, HELD_OUT = 101, 200  # no run has this seed; rows
PLACE, TABLE = ROOT / "_build/learning_rate", ROOT / "data/benchmarks/learning_rate.csv"


def held_out() -> list[dict]:
    "Rows whose queries no run of seed 1 has seen."
    folder = PLACE / "held-out"
    if not (folder / "data.parquet").exists():
        folder.mkdir(parents=True, exist_ok=True)
        build(RUN.data, HELD_OUT_SEED, PROFILE.model_copy(update={"row_divisor": 4 * PROFILE.row_divisor}), folder)
    workflow.do(f"data/{RUN.data}-seed{RUN.seed}", PROFILE)
    seen = {row["messages"][0]["content"] for row in data_set(store.data_folder(PROFILE.name, RUN.data, RUN.seed))}
    return [row for row in data_set(folder) if row["messages"][0]["content"] not in seen][:HELD_OUT]


@torch.no_grad()
def loss(checkpoint: Path, rows: list[dict]) -> float:
    "The mean over the response tokens of all rows."
    model, tokenizer = load_weights(checkpoint, "float32").eval(), AutoTokenizer.from_pretrained(checkpoint)
    answer_with_the_loss(model)
    total = count = 0
    for start in range(0, len(rows), 25):
        batch = collator(tokenizer)([tokenise(tokenizer, row["messages"], row["response"]) for row in rows[start:start + 25]])
        total += model(**batch).item()
        count += (batch["labels"][:, 1:] != IGNORED).sum().item()
    return total / count


def measured(base: str, rate: float, rows: list[dict]) -> pl.DataFrame:
    "The held-out loss at every checkpoint of one run."
    spec = RunSpec(**RUN.model_dump() | {"base": base, "learning_rate": rate})
    folder = PLACE / f"{base}-{rate:g}"
    if not (folder / "train.parquet").exists():
        folder.mkdir(exist_ok=True)
        finetune(spec, folder)
    steps = {int(path.name.partition("-")[2]): loss(path, rows) for path in sorted(folder.glob("step-*"))}
    return pl.DataFrame({"base": base, "learning_rate": rate, "step": list(steps), "held_out_loss": list(steps.values()),
                         "rows": len(rows)}, schema_overrides={"rows": pl.Int64})


if __name__ == "__main__":
    wanted = [(base, float(rate)) for base, rate in (word.split("=") for word in sys.argv[1:])]
    rows = held_out()
    for base, rate in wanted or [(base, rate) for base in BASES for rate in RATES]:
        found = measured(base, rate, rows)
        print(found, flush=True)
        known = pl.read_csv(TABLE) if TABLE.exists() else found.clear()
        kept = known.join(found, on=["base", "learning_rate", "step"], how="anti")
        TABLE.parent.mkdir(parents=True, exist_ok=True)
        pl.concat([kept, found]).sort("base", "learning_rate", "step").write_csv(TABLE, float_precision=5)
