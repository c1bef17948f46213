"The law of gains and the factorial: what is known is found, what is absent is not claimed, what cannot be is refused."
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from sftrepro import rebuild
from sftrepro.chapters import find_chapter, read_chapter
from sftrepro.claims import judge, ledger
from sftrepro.contents import chapter_files
from sftrepro.costs import hardware
from sftrepro.factorial import averages, design, effects, matched_pairs, of_both_signs
from sftrepro.law import (
    FACTORS,
    Law,
    Sweep,
    cells_of,
    fitted,
    interval,
    lack_of_fit,
    law_column,
    nearest,
    pooled,
    predicted,
    prediction_errors,
    reasoning_groups,
    replayed,
    shortened,
    sweep,
    varying,
    worth_doubling,
)
from sftrepro.profiles import RequestError, changed, load_profile
from sftrepro.runs import own_runs, paper_runs, run_specs, scaled
from sftrepro.stats import simulated
from sftrepro.workflow import jobs_named, load_flow, run_jobs, with_needs

MICRO, BEYOND = load_profile("micro"), load_profile("micro-beyond")
SIZES, QUERIES, STEPS = (3e5, 1e6, 1.5e6, 2e6), (32, 160, 640, 1280), (40, 80, 160, 320)
CELLS = pl.DataFrame(
    [
        {"series": f"{size} {queries}", "base": str(size), "step": step, "steps": step, "queries": queries,
         "parameters": size, "room": 55.0}
        for size in SIZES for queries in QUERIES for step in STEPS
    ]
)
MIDDLE = {factor: math.exp(CELLS[factor].log().mean()) for factor in FACTORS}
TRUTH = Law(0.8, 1.0, {"steps": 1.5, "queries": 0.4, "parameters": 0.3}, MIDDLE)
FACTORIAL = ["R25", *(f"B410{place}" for place in range(1, 8))]


def noisy(gains, draw, cells=CELLS, items=400, seed_noise=1.5):
    "A sweep whose gains vary by item, by seed, and by response."
    rng = np.random.default_rng(draw)
    item, seed = rng.normal(0, 20, (1, items, len(cells))), rng.normal(0, seed_noise, (3, 1, len(cells)))
    return Sweep(cells, gains + item + seed + rng.normal(0, 30, (3, items, len(cells))))


@settings(deadline=None, max_examples=25)
@given(
    some.floats(0.3, 0.95), some.floats(0.3, 3), some.floats(0.5, 3), some.floats(-1, 1), some.floats(-1, 1),
)
def test_without_noise_the_law_is_found_again(ceiling, odds, steps, queries, parameters):
    truth = Law(ceiling, odds, {"steps": steps, "queries": queries, "parameters": parameters}, MIDDLE)
    law = fitted(CELLS, predicted(truth, CELLS))
    assert law.exponents == pytest.approx(truth.exponents, abs=0.01)
    assert law.ceiling == pytest.approx(ceiling, abs=0.01)


def test_a_law_of_losses_has_a_negative_ceiling():
    loss = Law(-0.4, 1.0, {"steps": 1.5, "queries": 0.4, "parameters": 0.3}, MIDDLE)
    assert fitted(CELLS, predicted(loss, CELLS)).ceiling == pytest.approx(-0.4, abs=0.01)


@pytest.mark.parametrize("queries", [0.4, 0.0])
def test_known_exponents_lie_in_their_intervals(queries):
    truth, held = TRUTH._replace(exponents=TRUTH.exponents | {"queries": queries}), []
    for draw in range(10):
        data = noisy(predicted(truth, CELLS), draw)
        law = fitted(data.cells, data.gains)
        others = replayed(law, data, 120)
        for factor in FACTORS:
            low, high = interval([other.exponents[factor] for other in others])
            assert low <= law.exponents[factor] <= high
            held.append(low <= truth.exponents[factor] <= high)
    assert np.mean(held) >= 0.9


def test_noise_alone_is_no_lack_of_fit_and_a_dip_is():
    data = noisy(predicted(TRUTH, CELLS), 1)
    dip = noisy(np.select([CELLS["step"] == step for step in STEPS], [-15.0, -20.0, -5.0, 10.0]), 1)
    assert lack_of_fit(fitted(CELLS, data.gains), data, 100)[1] > 0.05
    miss, p = lack_of_fit(fitted(CELLS, dip.gains), dip, 100)
    assert miss > 5 and p < 0.05


def test_a_law_that_predicts_no_better_than_the_mean_is_called_none_and_shows_no_exponents():
    column = law_column(noisy(np.full(len(CELLS), 20.0), 2))
    assert column["standing"].startswith("no law") and not any("exponent" in row for row in column)
    found = law_column(noisy(predicted(TRUTH, CELLS), 2))
    assert found["standing"] == "a law" and "exponent of queries" in found


def test_gains_that_are_all_zero_are_no_law():
    assert law_column(Sweep(CELLS, np.zeros((2, 8, len(CELLS)))))["standing"].startswith("no law")


def test_returns_diminish_where_a_doubling_gains_a_point():
    cell = CELLS.filter(steps=320, queries=1280, parameters=1e6).row(0, named=True)
    value = worth_doubling(TRUTH, cell, "queries")

    def doubling(queries):
        once, twice = predicted(TRUTH, pl.DataFrame(cell | {"queries": [queries, 2 * queries]}))
        return twice - once

    assert doubling(value) >= 1 > doubling(value * 1.1)
    assert worth_doubling(TRUTH, cell, "queries", points=50) == 0
    assert worth_doubling(TRUTH, cell, "queries", points=-1) == math.inf


# Cells


def test_cells_that_differ_in_nothing_and_too_few_are_refused():
    with pytest.raises(RequestError, match=r"all 16 cells have the same queries \(160\)"):
        fitted(CELLS.filter(queries=160), np.zeros(16))
    with pytest.raises(RequestError, match="have the same steps"):
        fitted(CELLS.filter(steps=40), np.zeros(16), ("queries", "parameters"))
    few = CELLS.filter(pl.col("steps") < 100, pl.col("queries") < 200, parameters=1e6)
    with pytest.raises(RequestError, match="4 cells cannot decide the 4 numbers of a law"):
        fitted(few, np.zeros(4), varying(few))
    one = CELLS.filter(queries=160, parameters=1e6)
    with pytest.raises(RequestError, match="differ in steps alone, so nothing can be held out"):
        prediction_errors(Sweep(one, np.zeros((3, 5, 4))))


def test_cells_are_the_checkpoints_that_all_runs_share():
    steps = {"R25": (0, 5, 40, 80, 240, 320), "B4405": (0, 40, 80, 160, 320)}
    results = pl.DataFrame([{"series": run, "step": step} for run, own in steps.items() for step in own])
    cells = cells_of(results, MICRO)
    assert cells["step"].to_list() == [40, 80, 320] * 2
    assert cells["queries"].to_list() == [1280] * 3 + [640] * 3 and cells["parameters"].n_unique() == 1


@given(some.integers(2, 6), some.integers(2, 6))
def test_each_benchmark_weighs_the_same_and_brings_its_own_variance(few, many):
    rng = np.random.default_rng(few * 10 + many)
    blocks = [rng.normal(size=(2, items, 3)) for items in (few, 7 * many)]
    block = pooled(blocks)
    assert block.mean(1) == pytest.approx(np.mean([one.mean(1) for one in blocks], axis=0))
    own = sum(one.mean(0).var(0) / one.shape[1] for one in blocks) / 4
    assert block.mean(0).var(0) / block.shape[1] == pytest.approx(own)


def test_the_nearest_cell_is_the_fewest_doublings_away():
    out, known = CELLS.filter(parameters=2e6), CELLS.filter(pl.col("parameters") < 2e6)
    expected = out.with_columns(parameters=pl.lit(1.5e6)).select(FACTORS).rows()
    assert known[nearest(out, known)].select(FACTORS).rows() == expected


# The ledger


@pytest.mark.parametrize("word, gains", [
    ("reproduced", predicted(TRUTH._replace(exponents={"steps": 2, "queries": 1.2, "parameters": 1.5}), CELLS)),
    ("not reproduced", np.full(len(CELLS), 20.0)),
])
def test_h44b_asks_for_better_predictions_than_two_simple_rules(word, gains):
    assert judge("H44b", prediction_errors(noisy(gains, 3)), MICRO).word == word


def runs_at(rates, runs, benchmarks=("program", "order", "knowledge", "arithmetic", "competition")):
    "Simulated results of the factorial, by a rule from a run's design to its score."
    steps = design(MICRO, runs).to_dicts()
    return pl.concat([
        simulated(dict.fromkeys(benchmarks, [0.45, rates(row)]), (0, row["steps"]), row["run"], seed_spread=0.02,
                  items=400, draw=place)
        for place, row in enumerate(steps)
    ])


@pytest.mark.parametrize("id, word, rates", [
    ("H41a", "reproduced", lambda row: 0.5 if row["steps"] < 100 else 0.7),
    ("H41a", "not reproduced", lambda row: 0.5 if row["reads"] < 2000 else 0.7),
    ("H41b", "reproduced", lambda row: 0.7 if row["rows"] < 200 else 0.55),
    ("H41b", "contradicted", lambda row: 0.55 if row["rows"] < 200 else 0.7),
])
def test_the_hypotheses_of_chapter_41_can_hold_and_fail(id, word, rates):
    assert judge(id, runs_at(rates, FACTORIAL), MICRO).word == word


@pytest.mark.parametrize("word, few", [("reproduced", 0.5), ("not reproduced", 0.7), ("contradicted", 0.85)])
def test_h44a_follows_the_queries(word, few):
    runs = ["R25", "R04", "B4404", "B4409"]
    assert judge("H44a", runs_at(lambda row: few if row["rows"] < 200 else 0.7, runs), MICRO).word == word


def test_nothing_is_seen_where_all_runs_solve_everything():
    verdict = judge("H44a", runs_at(lambda row: 0.995, ["R25", "R04", "B4404", "B4409"]), MICRO)
    assert verdict.word == "not testable at this profile" and "both ends are above 98%" in verdict.reasons[0]


# The factorial


def test_the_factorial_is_complete_and_each_question_has_its_pairs():
    runs = design(MICRO, FACTORIAL)
    assert len(runs.select("rows", "reads", "batch").unique()) == 8
    assert (runs["reads"] == runs["steps"] * runs["batch"]).all()
    pairs = matched_pairs(runs)
    assert pairs["times"].unique().to_list() == [8.0]
    counts = dict(pairs.group_by("changes", "stay").len().select(pl.concat_str("changes", "stay"), "len").iter_rows())
    assert counts == {"batchrows and steps": 2, "batchrows and reads": 4, "rowsbatch and steps": 4,
                      "passesrows and batch": 4}


def test_effects_tell_steps_from_batch():
    results = runs_at(lambda row: 0.45 + 0.08 * math.log(row["steps"] / 20, 8), FACTORIAL)
    pairs = matched_pairs(design(MICRO, FACTORIAL))
    found = effects(results, pairs, reasoning_groups(results)).filter(group="out of domain")
    expected = {"rows and steps": 0, "rows and reads": -8, "batch and steps": 0, "rows and batch": 8}
    for stay, low, high in found.select("stay", "low", "high").iter_rows():
        assert low <= expected[stay] <= high and high - low < 12


def test_an_average_over_pairs_of_both_signs_says_so():
    results = runs_at(lambda row: 0.7 if row["run"] == "B4105" else 0.5, FACTORIAL)
    pairs = matched_pairs(design(MICRO, FACTORIAL))
    found = effects(results, pairs, {"out of domain": ["program"]})
    between = found.filter(pl.col("value").is_between(pl.col("lowest"), pl.col("highest")))
    assert len(between) == len(found) == len(averages(pairs)[0])
    assert found["lowest"].min() == pytest.approx(-20, abs=8) and found["highest"].max() < 10
    ranges = pl.DataFrame({"lowest": [-3.0, 1.0, -5.0], "highest": [4.0, 9.0, -1.0]})
    assert "In 1 of the 3 averages some pairs gain and others lose" in of_both_signs(ranges)
    assert of_both_signs(ranges[1:]) == ""


def test_runs_that_differ_in_too_much_are_refused():
    with pytest.raises(RequestError, match="among the runs R25, B4105 no two differ .* Add some of R25"):
        matched_pairs(design(MICRO, ["R25", "B4105"]))


@pytest.mark.parametrize("other, near", [("B4108", "R25"), ("R13", "R04"), ("B4304", "R25")])
def test_a_run_with_another_rate_schedule_or_start_is_matched_with_none(other, near):
    pairs = matched_pairs(design(MICRO, [*FACTORIAL, near, other]))
    assert len(pairs) and other not in {*pairs["above"], *pairs["below"]}


def test_laws_are_about_reasoning():
    results = simulated({"how_to": [0.5, 0.6]}, (0, 320))
    with pytest.raises(RequestError, match="benchmarks how_to: none is a reasoning benchmark"):
        reasoning_groups(results)


def test_a_sweep_of_results_has_the_gains_and_the_room_of_its_benchmarks():
    results = simulated({"program": [0.4, 0.5, 0.6], "order": [0.2, 0.5, 0.8]}, (0, 160, 320), items=2000)
    cells = pl.DataFrame({"series": "R25", "base": "Micro-M", "step": [160, 320], "steps": [160, 320],
                          "queries": 1280, "parameters": 1e6})
    found = sweep(results, cells, ["program", "order"])
    assert found.gains == pytest.approx([20, 40], abs=4)
    assert found.cells["room"].to_list() == pytest.approx([70, 70], abs=3)


def test_short_runs_are_compared_with_the_long_one_at_their_last_step():
    short = simulated({"order": [0.3, 0.6]}, (0, 40), "B4106")
    long = simulated({"order": [0.3, 0.4, 0.8]}, (0, 40, 320), "R25", draw=1)
    row = shortened(pl.concat([short, long]), "R25", ["B4106"]).row(0, named=True)
    assert (row["above_step"], row["below_step"]) == (40, 40) and row["estimate"] == pytest.approx(20, abs=8)


# The runs, and what they cost


@pytest.mark.parametrize("run", [run for run in own_runs().values() if run.feeds in ("ch. 41", "ch. 44")])
def test_the_runs_of_the_sweeps_read_all_their_rows(run):
    spec = scaled(run, BEYOND, 1)
    assert spec.rows % spec.batch_size == 0 and spec.steps * 2 == run.steps == run.epochs * run.rows // run.batch_size


def test_criteria_name_runs_that_exist():
    book, known = ledger(), {*paper_runs(), *own_runs(), "law", "mean", "nearest"}
    assert all(book[id].criterion.runs <= known for id in ("H41a", "H41b", "H44a", "H44b"))


def sweep_jobs():
    "The jobs of the runs of chapter 41."
    jobs = load_flow(BEYOND).jobs
    return [jobs[name] for name in with_needs(jobs_named("41", jobs, BEYOND), jobs)]


@pytest.mark.parametrize("chapter", ["41", "44", "scaling_law"])
def test_a_chapter_of_part_iii_stands_for_every_run_of_part_iii_that_it_names(chapter):
    jobs, stem = load_flow(BEYOND).jobs, find_chapter(chapter)
    lists = [value for value in read_chapter(chapter_files()[stem]).parameters.values() if isinstance(value, list)]
    named = {run for value in lists for run in value if run in own_runs()}
    keys = {jobs[name].key for name in jobs_named(chapter, jobs, BEYOND)}
    made = {spec.paper_run for spec in run_specs(BEYOND) if spec.run_id in keys}
    assert made == named and ({"B4101", "B4106"} <= made)


def test_a_run_without_a_full_batch_is_refused_before_anything_is_planned():
    smoke = load_profile("smoke")
    says = "run B4101 has 8 rows at profile smoke, which do not fill one batch of 16, so it would take no step"
    with pytest.raises(RequestError, match=says):
        run_jobs(changed(smoke, runs=("R25", "B4101")))
    assert run_jobs(changed(smoke, runs=("R25", "B4106")))


def test_a_sweep_that_is_too_large_says_what_it_costs_and_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("SFTREPRO_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("SFTREPRO_STORE", str(tmp_path / "store"))
    jobs, on = sweep_jobs(), hardware("CPU core")
    says = rf"the {len(jobs)} jobs would take about \d+ (min|h) on \d+ cores and .* --profile micro-beyond --hours \d+$"
    with pytest.raises(RequestError, match=says):
        rebuild.run_or_describe(jobs, BEYOND, on, [], hours=0.01)
    assert not (tmp_path / "build").exists() and not (tmp_path / "store").exists()


def test_a_sweep_that_the_disk_cannot_hold_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("SFTREPRO_STORE", str(tmp_path))
    monkeypatch.setattr(rebuild.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 5e6}))
    jobs = sweep_jobs()
    with pytest.raises(RequestError, match=r"and 5\.0 MB are free .* SFTREPRO_STORE=FOLDER"):
        rebuild.check_size(jobs, BEYOND, hardware("CPU core"))
