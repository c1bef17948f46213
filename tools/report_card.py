"""Put every scorer and judge to cases whose verdict is known, and write how often each agrees.

    SFTREPRO_DATA=FOLDER .venv/bin/python tools/report_card.py

The benchmarks' files are those that `SFTREPRO_DATA` has; what it lacks is left out. Our own pairs are in tests/pairs.
The table is data/benchmarks/report_card.csv, numbers only; chapter 11d shows it. """
import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from sftrepro.answers import same_value
from sftrepro.benchmarks import real_items
from sftrepro.judges import FIVE_LEVELS, YES_OR_NO
from sftrepro.profiles import ROOT, RequestError
from sftrepro.refusals import refusal_in, steps_told
from sftrepro.report_card import Trial, answer_trials, card_row, program_trials
from sftrepro.score import SCORERS
from sftrepro.world import Item

PAIRS, TABLE = ROOT / "tests/pairs", ROOT / "data/benchmarks/report_card.csv"
ANSWERS = {"MATH500": 500, "AIME24": 30, "GSM8K": 300, "BBH": 1000}  # items
PROGRAMS = {"HumanEval": 60, "MBPP": 60}


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def pair_trials(name: str) -> Iterator[Trial]:
    "The pairs of a scorer of real benchmarks; those of the micro world need its items and are tests only."
    for pair in read(PAIRS / f"{name}.jsonl"):
        if "made" in pair or "truth" in pair:
            continue
        item = Item(benchmark=pair["benchmark"], prompt="?", answer=pair["answer"])
        text = pair.get("before", "") + pair["response"] * pair.get("times", 1) + pair.get("after", "")
        verdict = SCORERS[pair["benchmark"]].score(text, item, None)
        yield Trial("strict", bool(pair["score"]), verdict.score == 1)
        if "lenient" in pair:
            yield Trial("lenient", bool(pair["lenient"]), verdict.lenient == 1)


def judge_rows() -> Iterator[dict]:
    "What the rules and the readers of grades say of our own pairs."
    for data, folder in (("own pairs", "judges"), ("known limits", "limits")):
        refusals = [Trial(pair.get("kind", ""), pair["refuses"], refusal_in(pair["response"]) is not None)
                    for pair in read(PAIRS / folder / "refusal.jsonl")]
        yield card_row("refusals", data, refusals)
    steps = read(PAIRS / "judges/steps.jsonl")
    counts = [Trial("steps", True, steps_told(pair["response"]) == pair["steps"]) for pair in steps]
    yield card_row("steps", "own pairs", counts)
    for name, rubric in (("five_levels", FIVE_LEVELS), ("yes_or_no", YES_OR_NO)):
        replies = [Trial("reply", True, rubric.read(pair["reply"]).level == pair["level"])
                   for pair in read(PAIRS / f"judges/{name}.jsonl")]
        yield card_row(f"grades ({rubric.name})", "own pairs", replies)


def rows() -> Iterator[dict]:
    for counts, trials_of in ((ANSWERS, answer_trials), (PROGRAMS, program_trials)):
        for benchmark, count in counts.items():
            try:
                items = real_items(benchmark, count)
            except RequestError as error:
                print(f"{benchmark} is left out: {error}")
                continue
            yield card_row(SCORERS[benchmark].name, benchmark, list(trials_of(items, benchmark)))
    for name in ("value", "short_answer", "letter", "first_letter", "last_yes_or_no"):
        yield card_row(name.replace("_", " "), "own pairs", list(pair_trials(name)))
    limits = [Trial(pair["kind"], bool(pair["score"]), same_value(pair["box"], pair["answer"]))
              for pair in read(PAIRS / "limits/value.jsonl")]
    yield card_row("value", "known limits", limits)
    yield from judge_rows()


if __name__ == "__main__":
    table = pl.DataFrame(list(rows()), infer_schema_length=None).with_columns(
        kappa=pl.when(pl.col("data") != "known limits").then("kappa"))
    table.write_csv(TABLE)
    print(table)
