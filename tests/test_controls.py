"""Controls: what counts as a gain, what as a loss, and when one is there."""

from pathlib import Path

import polars as pl
import pytest
from test_stats import published_row

from sftrepro import item_results
from sftrepro.controls import compared, control_rows, control_rules, is_there, shortfall
from sftrepro.profiles import changed, load_profile
from sftrepro.stats import simulated

RULES = control_rules()


def null(scores: dict[str, list[float]]) -> pl.DataFrame:
    return compared("null", "Micro-M", "R25", simulated(scores, (0, 320), "R25-null", seeds=1))


def headroom(free: dict[str, float], thinking: dict[str, float], items: int = 100) -> pl.DataFrame:
    ends = [({name: [score] for name, score in scores.items()}, series)
            for scores, series in ((free, "Micro-M"), (thinking, "Micro-M+think"))]
    results = [simulated(scores, (0,), series, items=items) for scores, series in ends]
    return compared("headroom", "Micro-M", "R25", pl.concat(results))


@pytest.mark.parametrize(("benchmark", "before", "after", "loses"), [
    ("instruction", 0.5, 0.3, True), ("instruction", 0.3, 0.5, False), ("instruction", 0.5, 0.48, False),
    ("forbidden", 0.0, 0.2, True), ("forbidden", 0.2, 0.0, False), ("forbidden", 0.0, 0.02, False),
    ("HEx-PHI", 0.1, 0.4, True), ("MATH500", 0.1, 0.4, False)])
def test_harm_that_rises_is_a_loss_as_any_other_score_that_falls(
        benchmark: str, before: float, after: float, loses: bool) -> None:
    rows = null({benchmark: [before, after]})
    assert (is_there(rows, RULES["null"]) == [benchmark]) is loses
    assert bool(shortfall("null", RULES["null"], rows)) is loses


FREE = dict.fromkeys(["arithmetic", "program", "order", "knowledge"], 0.4)


@pytest.mark.parametrize(("gains", "holds"), [
    (["arithmetic", "program", "order"], True), (["arithmetic", "order", "knowledge"], True),
    (["arithmetic", "order"], False), (["program", "order", "knowledge"], False), ([], False)])
def test_headroom_is_needed_in_domain_and_on_two_benchmarks_out_of_domain(gains: list[str], holds: bool) -> None:
    rows = headroom(FREE, FREE | dict.fromkeys(gains, 0.9))
    assert (shortfall("headroom", RULES["headroom"], rows) == "") is holds


def test_a_gain_that_its_interval_does_not_clear_is_not_there() -> None:
    few, many = (headroom(FREE, dict.fromkeys(FREE, 0.6), items=items) for items in (8, 400))
    assert not is_there(few, RULES["headroom"]) and set(is_there(many, RULES["headroom"])) == set(FREE)
    assert few["estimate"].max() > RULES["headroom"].margin  # large enough, but not clear of zero


def test_a_control_is_worked_out_once_and_anew_when_its_results_or_its_profile_change(own_store: Path) -> None:
    smoke = load_profile("smoke")
    columns = [name for name in item_results.ITEM_RESULTS.columns if name != "response"]

    def gain(score: float, profile=smoke) -> pl.DataFrame:
        for run_id, right in (("Nano", 0.0), ("Nano+think", score)):
            rows = [published_row(smoke, run_id, "Nano", 0, 0, item) | {"score": right} for item in range(4)]
            frame = pl.DataFrame(rows, schema_overrides={"answer": pl.String}).select(columns)
            item_results.publish_results(smoke, run_id, frame, {})
        return control_rows(profile, "headroom", "Nano")
    first = gain(0.5)
    assert first["estimate"].to_list() == [50] and gain(0.5) is first
    assert gain(1.0)["estimate"].to_list() == [100]
    fewer = changed(smoke, benchmarks={"order": smoke.benchmarks["order"]})
    assert gain(1.0, fewer) is not gain(1.0) and gain(1.0, fewer) is gain(1.0, fewer)
