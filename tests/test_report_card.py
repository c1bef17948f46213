"The report card: cases with a known verdict, and how often the instrument agrees with it."
from pathlib import Path

import pytest

from sftrepro.profiles import ROOT
from sftrepro.report_card import DRESSES, Trial, answer_trials, card_row, dressed, program_trials, spoilt
from sftrepro.store import read_table
from sftrepro.world import Item

CARD = read_table(ROOT / "data/benchmarks/report_card.csv")
PAIRS = {"refusals": "judges/refusal", "steps": "judges/steps", "grades (five-levels)": "judges/five_levels",
         "grades (yes-or-no)": "judges/yes_or_no", "value": "value", "short answer": "short_answer",
         "last yes or no": "last_yes_or_no"}


def test_brackets_wear_nothing_and_all_else_wears_everything() -> None:
    assert [answer for _, answer in dressed("] }")] == ["] }"]
    assert len(list(dressed("58,500"))) == len(DRESSES)


def test_a_right_answer_is_tried_in_every_dress_and_another_is_tried_in_its_place() -> None:
    items = [Item(benchmark="GSM8K", prompt="?", answer=answer) for answer in ("7", "8", "8")]
    trials = list(answer_trials(items, "GSM8K"))
    assert sum(trial.expected for trial in trials) == 3 * len(DRESSES)
    assert sum(not trial.expected for trial in trials) == 2  # the third item's neighbour has the same answer
    assert all(trial.expected == trial.given for trial in trials)


def test_a_spoilt_program_is_judged_by_running_it() -> None:
    solution = "def f(x):\n    return x + 1"
    item = Item(benchmark="MBPP", prompt="?", answer="", truth=("", "", solution, "assert f(1) == 2", "f"))
    trials = list(program_trials([item], "MBPP"))
    assert [(trial.expected, trial.given) for trial in trials] == [(True, True), (False, False), (False, False)]
    assert all(source != solution for source in spoilt(solution))


def test_a_line_counts_agreement_and_names_what_differs() -> None:
    trials = [Trial("a", True, True), Trial("a", True, False), Trial("b", False, False), Trial("b", False, False)]
    row = card_row("rules", "data", trials)
    assert (row["n"], row["agreement"], row["kappa"], row["disagreements"]) == (4, 0.75, 0.5, "a: 1")
    assert card_row("rules", "data", trials[:1])["kappa"] is None


@pytest.mark.parametrize("instrument", PAIRS)
def test_the_committed_card_is_of_the_pairs_that_are_here(instrument: str) -> None:
    text = (Path(__file__).parent / f"pairs/{PAIRS[instrument]}.jsonl").read_text()
    row = CARD.filter(instrument=instrument, data="own pairs").row(0, named=True)
    assert (row["n"], row["agreement"]) == (text.count("\n"), 1)
