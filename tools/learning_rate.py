"""Choose the learning rate of a profile whose bases are not the paper's: by the loss on held-out rows, and nothing
else.

    .venv/bin/python tools/learning_rate.py                  # micro: all runs and rates
    .venv/bin/python tools/learning_rate.py R25=2e-3 ...     # some of them

All runs share one rate, as in the paper, so it is tried on four that differ in what a rate meets: R25 and R04 (the
second and the largest base, batches of 32), R10 and R11 (batches of 4, many epochs and one). Each rate is twice the
one before it. The rows are those of Math-CoT that a seed of its own draws, without the queries that were trained
on. No benchmark is looked at. Finished runs are kept in _build/learning_rate; the table is
data/benchmarks/learning_rate.csv, and chapter 09 shows it. """
import sys
from pathlib import Path

import polars as pl
import torch
from transformers import AutoTokenizer

from sftrepro import execution, store, workflow
from sftrepro.data import build, data_set
from sftrepro.profiles import ROOT, RunSpec, load_profile, run_specs
from sftrepro.sft import IGNORED, answer_with_the_loss, collator, finetune, load_weights, tokenise

PROFILE = load_profile("micro").model_copy(update={"runs": ("all",)})
RUNS = {spec.paper_run: spec for spec in run_specs(PROFILE, ("R25", "R04", "R10", "R11")) if spec.seed == 1}
RATES, DATA = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2), "Math-CoT"
HELD_OUT_SEED, HELD_OUT = 101, 200  # no run has this seed; rows
PLACE, TABLE = ROOT / "_build/learning_rate", ROOT / "data/benchmarks/learning_rate.csv"


def held_out() -> list[dict]:
    "Rows whose queries no run of seed 1 has seen."
    folder = PLACE / "held-out"
    if not (folder / "data.parquet").exists():
        folder.mkdir(parents=True, exist_ok=True)
        build(DATA, HELD_OUT_SEED, PROFILE.model_copy(update={"row_divisor": 4 * PROFILE.row_divisor}), folder)
    seen = {row["messages"][0]["content"] for row in data_set(store.data_folder(PROFILE.name, DATA, 1))}
    return [row for row in data_set(folder) if row["messages"][0]["content"] not in seen][:HELD_OUT]


@torch.no_grad()
def loss(checkpoint: Path, rows: list[dict]) -> float:
    "The mean over the response tokens of all rows."
    model, tokenizer = load_weights(checkpoint, "float32").eval(), AutoTokenizer.from_pretrained(checkpoint)
    answer_with_the_loss(model)
    total = count = 0
    for start in range(0, len(rows), 25):
        batch = collator(tokenizer)(
            [tokenise(tokenizer, row["messages"], row["response"]) for row in rows[start : start + 25]]
        )
        total += model(**batch).item()
        count += (batch["labels"][:, 1:] != IGNORED).sum().item()
    return total / count


def measured(run: str, rate: float, rows: list[dict]) -> pl.DataFrame:
    "The held-out loss at every checkpoint of one run."
    spec, folder = RunSpec(**RUNS[run].model_dump() | {"learning_rate": rate}), PLACE / f"{run}-{rate:g}"
    if not (folder / "train.parquet").exists():
        folder.mkdir(exist_ok=True)
        finetune(spec, folder)
    steps = {int(path.name.partition("-")[2]): loss(path, rows) for path in sorted(folder.glob("step-*"))}
    return pl.DataFrame(
        {
            "run": run,
            "base": spec.base,
            "batch_size": spec.batch_size,
            "learning_rate": rate,
            "step": list(steps),
            "held_out_loss": list(steps.values()),
            "rows": len(rows),
        },
        schema_overrides=dict.fromkeys(("batch_size", "rows"), pl.Int64),
    )


if __name__ == "__main__":
    wanted = [(run, float(rate)) for run, rate in (word.split("=") for word in sys.argv[1:])]
    for data in {spec.data for spec in RUNS.values()}:
        execution.do(f"data/{data}-seed1", workflow.load_flow(PROFILE))
    rows, tables = held_out(), []
    for run, rate in wanted or [(run, rate) for run in RUNS for rate in RATES]:
        tables.append(measured(run, rate, rows))
        print(tables[-1].tail(1), flush=True)
    if not wanted:
        store.write_bytes(TABLE, pl.concat(tables).write_csv(float_precision=5).encode())
