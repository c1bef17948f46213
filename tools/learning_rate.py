"""Choose the learning rate of a profile whose bases are not the paper's: the largest at which the null control holds.

    .venv/bin/python tools/learning_rate.py                  # micro: both bases and all rates
    .venv/bin/python tools/learning_rate.py R25=1e-4 ...     # some of them

The null control finetunes a base on its own answers, which teach it nothing (chapter 13). It is run on the two middle
bases of the first family (those of R25 and R05), at rates each twice the one before. No run of a claim is looked at.
Beside it stands the loss in domain: the same rates with Math-CoT, on rows that a seed of its own draws; it decides
nothing. Finished runs are kept in _build/learning_rate; the tables are data/benchmarks/null_control.csv and
learning_rate.csv, and chapter 13 shows them. """
import sys
from pathlib import Path

import polars as pl
import torch
from transformers import AutoTokenizer

from sftrepro import execution, store, workflow
from sftrepro.controls import compared
from sftrepro.data import build, data_set
from sftrepro.evaluate import generate_responses, score_responses
from sftrepro.measurements import by_item
from sftrepro.profiles import ROOT, load_profile
from sftrepro.runs import RunSpec, run_specs
from sftrepro.sft import IGNORED, answer_with_the_loss, collator, finetune, load_weights, step_folder, tokenise

PROFILE = load_profile("micro").model_copy(update={"controls": ("R25-null", "R05-null")})
RUNS = {spec.paper_run: spec for spec in run_specs(PROFILE, ("R25", "R05", *PROFILE.controls)) if spec.seed == 1}
RATES, DATA = (2.5e-5, 5e-5, 1e-4, 2e-4, 4e-4), "Math-CoT"
HELD_OUT_SEED, HELD_OUT = 101, 200  # no run has this seed; rows
PLACE, TABLES = ROOT / "_build/learning_rate", ROOT / "data/benchmarks"


def finetuned(run: str, rate: float) -> Path:
    "The last checkpoint of a run at a rate."
    spec, folder = RunSpec(**RUNS[run].model_dump() | {"learning_rate": rate}), PLACE / f"{run}-{rate:g}"
    if not (folder / "train.parquet").exists():
        folder.mkdir(parents=True, exist_ok=True)
        finetune(spec, folder)
    return step_folder(folder, spec.steps)


def answers(name: str, step: int, checkpoint: Path, folder: Path) -> pl.DataFrame:
    "The item means of a checkpoint on all benchmarks."
    generate_responses(PROFILE, name, {step: checkpoint}, folder / "responses")
    rows = score_responses(PROFILE, name, folder / "responses", folder / "eval")
    return by_item(rows.lazy()).with_columns(seed=pl.lit(1 if step else 0, pl.Int16))


def null_control(run: str, rate: float) -> pl.DataFrame:
    "What the null control costs a base at a rate."
    spec, series = RUNS[f"{run}-null"], pl.lit(f"{run}-null")
    execution.do(f"data/{spec.data}-seed1", workflow.load_flow(PROFILE))
    checkpoint = finetuned(f"{run}-null", rate)
    base = answers(spec.base, 0, store.base_folder(PROFILE, spec.base), PLACE / spec.base)
    after = answers(spec.base, spec.steps, checkpoint, PLACE / f"{run}-null-{rate:g}/evaluated")
    rows = compared("null", spec.base, run, pl.concat([base, after]).with_columns(series=series))
    return rows.select(base=pl.lit(spec.base), learning_rate=rate, benchmark="benchmark", cost="estimate", low="low",
                       high="high")


def held_out() -> list[dict]:
    "Rows whose queries no run of seed 1 has seen."
    folder = PLACE / "held-out"
    if not (folder / "data.parquet").exists():
        folder.mkdir(parents=True, exist_ok=True)
        build(DATA, HELD_OUT_SEED, PROFILE.model_copy(update={"row_divisor": 4 * PROFILE.row_divisor}), folder)
    execution.do(f"data/{DATA}-seed1", workflow.load_flow(PROFILE))
    seen = {row["messages"][0]["content"] for row in data_set(store.data_folder(PROFILE.name, DATA, 1))}
    return [row for row in data_set(folder) if row["messages"][0]["content"] not in seen][:HELD_OUT]


@torch.no_grad()
def loss(checkpoint: Path, rows: list[dict]) -> float:
    "The mean over the response tokens of all rows."
    model, tokenizer = load_weights(checkpoint, "float32").eval(), AutoTokenizer.from_pretrained(checkpoint)
    answer_with_the_loss(model)
    total = count = 0
    for start in range(0, len(rows), 25):
        tokens = [tokenise(tokenizer, row["messages"], row["response"]) for row in rows[start : start + 25]]
        batch = collator(tokenizer)(tokens)
        total += model(**batch).item()
        count += (batch["labels"][:, 1:] != IGNORED).sum().item()
    return total / count


def in_domain(run: str, rate: float, rows: list[dict]) -> pl.DataFrame:
    "The loss in domain of a base at a rate."
    return pl.DataFrame({"base": [RUNS[run].base], "learning_rate": [rate], "rows": [len(rows)],
                         "held_out_loss": [loss(finetuned(run, rate), rows)]})


if __name__ == "__main__":
    wanted = [(run, float(rate)) for run, rate in (word.split("=") for word in sys.argv[1:])]
    pairs = wanted or [(run, rate) for run in ("R25", "R05") for rate in RATES]
    rows, costs, losses = held_out(), [], []
    for run, rate in pairs:
        costs.append(null_control(run, rate))
        losses.append(in_domain(run, rate, rows))
        print(costs[-1].sort("cost").tail(1), losses[-1], flush=True)
    if not wanted:
        for name, tables in (("null_control", costs), ("learning_rate", losses)):
            store.write_bytes(TABLES / f"{name}.csv", pl.concat(tables).write_csv(float_precision=6).encode())
