import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy import stats as reference

from sftrepro import item_results
from sftrepro.calibration import calibration, families, middle
from sftrepro.measurements import benchmark_names, by_item, conditional_share, measured, parts
from sftrepro.profiles import RequestError, changed, load_profile
from sftrepro.runs import checkpoint_steps, paper_runs, run_specs
from sftrepro.stats import (
    Pair,
    contrasts,
    estimates,
    excursion,
    family,
    furthest_step,
    paired,
    simulated,
    smallest_effect,
    wilson,
)


def experiment(rng, seed_spread=0.0, seeds=3, items=150, checkpoints=6, rate=0.4, fall=0.0):
    "Checkpoint minus base, seeds x items x checkpoints, and its true mean; `fall` lowers all checkpoints."
    level = reference.norm.ppf(rate)
    difficulty, talent = rng.normal(size=items), rng.normal(0, seed_spread, (seeds, 1, checkpoints))
    base = rng.random(items) < reference.norm.cdf(level * math.sqrt(2) + difficulty)
    mean = reference.norm.ppf(rate - fall) * math.sqrt(2 + seed_spread**2)
    tuned = rng.random((seeds, items, checkpoints)) < reference.norm.cdf(mean + difficulty[None, :, None] + talent)
    return tuned.astype(float) - base[None, :, None], -fall


def plain_bootstrap(block, rng, resamples=300):
    "Resamples seeds and items as they are: errors and simultaneous critical value."
    seeds, items, _ = block.shape
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds
    by_item = rng.multinomial(items, np.full(items, 1 / items), resamples) / items
    means = np.einsum("bs,sik,bi->bk", by_seed, block, by_item, optimize=True)
    error = means.std(axis=0)
    return error, np.quantile((np.abs(means - block.mean((0, 1))) / error).max(axis=1), 0.95)


@pytest.mark.parametrize("seed_spread", [0.0, 0.1, 0.25])
def test_a_simultaneous_interval_holds_all_truths_in_95_of_100_experiments(seed_spread):
    rng, held = np.random.default_rng(3), []
    for _ in range(250):
        block, truth = experiment(rng, seed_spread)
        found = family([block], replays=1000)
        held.append((np.abs(found.estimate - truth) <= found.critical(0.95) * found.error).all())
    assert 0.92 <= np.mean(held) <= 1.0


def test_resampling_three_seeds_holds_the_truth_less_often_than_replaying_them():
    rng, ours, plain = np.random.default_rng(5), [], []
    for _ in range(200):
        block, truth = experiment(rng, seed_spread=0.35)
        found = family([block], replays=1000)
        ours.append((np.abs(found.estimate - truth) <= found.critical(0.95) * found.error).all())
        error, critical = plain_bootstrap(block, rng)
        plain.append((np.abs(block.mean((0, 1)) - truth) <= critical * error).all())
    assert np.mean(plain) < 0.88 and np.mean(ours) >= 0.92


def test_one_seed_and_many_items_give_the_paired_t_interval():
    rng = np.random.default_rng(0)
    above, below = rng.normal(1, 1, 300), rng.normal(0, 1, 300)
    found = family([(above - below)[None, :, None]], imaginary=0, replays=40_000)
    expected = reference.ttest_rel(above, below).confidence_interval(0.95)
    half = found.critical(0.95)[0] * found.error[0]
    assert found.estimate[0] == pytest.approx((expected.low + expected.high) / 2)
    assert half == pytest.approx((expected.high - expected.low) / 2, rel=0.03)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_when_only_seeds_differ_the_interval_is_student_s(seeds):
    by_seed = np.random.default_rng(1).normal(size=(seeds, 1, 1))
    found = family([np.repeat(by_seed, 50, axis=1)], imaginary=0, replays=100_000)
    expected = reference.ttest_1samp(by_seed.ravel(), 0).confidence_interval(0.95)
    half = found.critical(0.95)[0] * found.error[0]
    assert half == pytest.approx((expected.high - expected.low) / 2, rel=0.08)


def test_independent_comparisons_need_sidak_s_critical_value():
    rng = np.random.default_rng(2)
    found = family([rng.normal(size=(1, 400, 1)) for _ in range(10)], imaginary=0, replays=40_000)
    assert found.critical(0.95)[0] == pytest.approx(reference.norm.ppf((1 + 0.95**0.1) / 2), rel=0.02)


def test_identical_comparisons_cost_nothing():
    block = np.repeat(np.random.default_rng(2).normal(size=(3, 100, 1)), 5, axis=2)
    found = family([block])
    assert found.critical(0.95)[0] == pytest.approx(found.critical(0.95, alone=True)[0])


def test_the_smallest_visible_effect_is_found_four_times_in_five():
    rng, seen = np.random.default_rng(7), []
    block, _ = experiment(rng, seeds=1, items=400, checkpoints=1)
    found = family([block])
    fall = smallest_effect(found.error, found.critical(0.95))[0]
    for _ in range(400):
        again, _ = experiment(rng, seeds=1, items=400, checkpoints=1, fall=fall)
        replay = family([again], replays=1000)
        seen.append(replay.estimate[0] + replay.critical(0.95)[0] * replay.error[0] < 0)
    assert 0.72 <= np.mean(seen) <= 0.90


@given(some.integers(1, 400), some.data())
def test_a_share_of_independent_answers_gets_wilson_s_interval(items, data):
    right = data.draw(some.integers(0, items))
    share = np.array([right / items])
    guarded = (right + 1) / (items + 2)
    low, high = wilson(share, np.sqrt(guarded * (1 - guarded) / items), np.array([reference.norm.ppf(0.975)]), items)
    expected = reference.binomtest(right, items).proportion_ci(0.95, method="wilson")
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_benchmark_that_nothing_solves_is_not_known_to_be_unsolvable():
    nothing = simulated({"program": [1e-12, 1e-12]}, steps=(0, 320))
    found = estimates(nothing)
    assert (found["value"] == 0).all() and (found["low"] == 0).all()
    assert found["high"].is_between(1, 4).all()


def test_an_estimate_is_the_mean_and_lies_in_its_interval():
    results = simulated({"arithmetic": [0.4, 0.2, 0.5], "order": [0.3, 0.3, 0.9]}, steps=(0, 5, 320), trials=3,
                       lengths=[5, 60, 40])
    for value, unit in (("score", 100), ("tokens", 1)):
        found = estimates(results, value)
        means = results.group_by("benchmark", "series", "step").agg(mean=unit * pl.col(value).mean())
        joined = found.join(means, on=["benchmark", "series", "step"])
        assert len(joined) == 6 and np.allclose(joined["value"], joined["mean"])
        assert (joined["low"] < joined["value"]).all() and (joined["value"] < joined["high"]).all()
        assert found.filter(step=0)["seeds"].to_list() == [1, 1]


@settings(max_examples=20, deadline=None)
@given(some.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(random):
    results = simulated({"arithmetic": [0.4, 0.2], "order": [0.4, 0.5]}, steps=(0, 320), items=20, trials=2)
    order = list(range(len(results)))
    random.shuffle(order)
    asked = [
        Pair(benchmark=name, name="gain", above=("R25", 320), below=("R25", 0)) for name in ("arithmetic", "order")
    ]
    assert contrasts(results[order], asked).equals(contrasts(results, asked))
    assert estimates(results[order]).sort("benchmark", "step").equals(estimates(results).sort("benchmark", "step"))


def test_a_hole_in_the_results_is_an_error():
    results = simulated({"arithmetic": [0.4, 0.2]}, steps=(0, 320), items=5)
    holed = results.filter(~((pl.col("seed") == 2) & (pl.col("item_id") == "item3")))
    with pytest.raises(RequestError, match="arithmetic: some items lack"):
        paired(holed, "score", [("R25", 0), ("R25", 320)])


def test_a_seed_that_the_compared_conditions_lack_is_an_error_and_not_a_smaller_sample():
    results = simulated({"arithmetic": [0.4, 0.3, 0.2]}, steps=(0, 40, 320), items=5)
    holed = results.filter(~((pl.col("seed") == 2) & (pl.col("step") == 320)))
    pair = Pair(benchmark="arithmetic", name="end", above=("R25", 320), below=("R25", 0))
    assert len(contrasts(results, [pair])) == 1
    for ask in (lambda: contrasts(holed, [pair]), lambda: estimates(holed)):
        with pytest.raises(RequestError, match=r"some items lack a seed \(of \[1, 2, 3\]\) or a checkpoint"):
            ask()


def test_bases_are_compared_as_if_no_run_lay_beside_them():
    bases = pl.concat([simulated({"arithmetic": [rate]}, steps=(0,), series=name)
                       for rate, name in ((0.4, "Micro-M"), (0.5, "Micro-L"))])
    pair = Pair(benchmark="arithmetic", name="size", above=("Micro-L", 0), below=("Micro-M", 0))
    beside = pl.concat([bases, simulated({"arithmetic": [0.4, 0.2]}, steps=(0, 320))])
    assert contrasts(beside, [pair]).equals(contrasts(bases, [pair]))


def test_turning_a_comparison_around_mirrors_its_interval():
    results = simulated({"arithmetic": [0.4, 0.2]}, steps=(0, 320))
    ends = ("R25", 0), ("R25", 320)
    one, other = (
        contrasts(results, [Pair(benchmark="arithmetic", name="", above=above, below=below)]).row(0, named=True)
        for above, below in (ends, ends[::-1])
    )
    assert one["estimate"] == pytest.approx(-other["estimate"])
    assert (one["low"], one["high"]) == pytest.approx((-other["high"], -other["low"]), rel=0.05)


def test_lengths_are_compared_as_ratios_whatever_their_unit():
    results = simulated({"arithmetic": [0.4, 0.2]}, steps=(0, 320), lengths=[10, 40])
    asked = [Pair(benchmark="arithmetic", name="", above=("R25", 320), below=("R25", 0))]
    tenfold = contrasts(results.with_columns(tokens=10 * pl.col("tokens")), asked, "tokens")
    once = contrasts(results, asked, "tokens")
    assert np.allclose(tenfold["low"], once["low"])
    means = [results.filter(step=step)["tokens"].mean() for step in (320, 0)]
    assert once["estimate"][0] == pytest.approx(math.log(means[0] / means[1]))


def test_pairing_narrows_the_interval_of_a_comparison():
    results = simulated({"arithmetic": [0.4, 0.4]}, steps=(0, 320), item_spread=3.0)
    paired_error = contrasts(results, [Pair(benchmark="arithmetic", name="", above=("R25", 320), below=("R25", 0))])[
        "error"
    ][0]
    alone = [family([paired(results, "score", [("R25", step)])]).error[0] for step in (0, 320)]
    assert paired_error < 0.75 * 100 * math.hypot(*alone)


def test_a_dip_that_is_not_there_is_seldom_found():
    rng, found = np.random.default_rng(11), 0
    for _ in range(60):
        results = simulated(
            {"arithmetic": [0.4] * 5}, (0, 10, 40, 160, 320), items=100, draw=int(rng.integers(1 << 30))
        )
        legs = excursion(results, ["arithmetic"], "R25")
        legs = legs.filter(step=furthest_step(legs, "arithmetic"))
        found += len(legs) == 2 and bool((legs["low"] > 0).all())
    assert found <= 3


def test_a_surge_is_a_dip_upside_down():
    results = simulated({"arithmetic": [0.4, 0.1, 0.5]}, (0, 40, 320))
    mirrored = results.with_columns(score=1 - pl.col("score"))
    dip, surge = excursion(results, ["arithmetic"], "R25"), excursion(mirrored, ["arithmetic"], "R25", down=False)
    assert furthest_step(dip, "arithmetic") == furthest_step(surge, "arithmetic") == 40
    assert np.allclose(dip["estimate"], surge["estimate"])


def test_a_benchmark_goes_by_our_name_or_the_paper_s():
    micro, paper = load_profile("micro"), load_profile("paper")
    assert benchmark_names(micro, ["MATH500", "program"]) == ["arithmetic", "program"]
    assert benchmark_names(paper, ["arithmetic", "GPQA-Diamond"]) == ["MATH500", "GPQA-Diamond"]
    with pytest.raises(
        RequestError, match="benchmark 'sudoku' is not evaluated at profile micro. Benchmarks: arithmetic"
    ):
        benchmark_names(micro, ["sudoku"])


def test_no_benchmark_named_means_all():
    assert benchmark_names(load_profile("micro"), []) == list(load_profile("micro").benchmarks)


def test_families_go_by_the_paper_s_names_and_have_two_middle_sizes():
    found = families(load_profile("paper"))
    assert {name: len(members) for name, members in found.items()} == {"Qwen3": 4, "Qwen2.5": 4, "internlm2_5": 1}
    assert middle(found["Qwen3"]) == ["Qwen3-4B", "Qwen3-8B"] and middle(["one"]) == ["one"]


def sized(rates, made=0.97, refused=0.9, items=400):
    "Four bases with these rates on order, statements at 70%, as many refusals, and order when they are made to think."
    parts = []
    for draw, (name, rate) in enumerate(zip("SMLX", rates, strict=True)):
        free = {"order": [rate], "statement": [0.7], "forbidden": [0.05]}
        parts += [simulated(free, (0,), name, items=items, draw=draw),
                  simulated({"order": [made]}, (0,), f"{name}+think", items=items, draw=draw + 4)]
    return pl.concat(parts).with_columns(refused=pl.int_range(pl.len()) % 100 < 100 * refused)


def test_calibration_asks_for_room_thinking_that_pays_refusals_and_growth():
    asked = calibration(sized((0.3, 0.45, 0.6, 0.75)), list("SMLX"))
    assert asked["met"].all()
    assert asked.group_by("target", maintain_order=True).len()["len"].to_list() == [4, 2, 2, 1, 3]
    assert asked["base"].to_list() == [*"MMLL", "M+think", "L+think", *"ML", "X minus S", "M minus S", "L minus M",
                                       "X minus L"]
    assert set(asked.filter(pl.col("target").str.contains("beyond"))["benchmark"]) == {"order"}


def test_calibration_names_what_is_not_met():
    asked = calibration(sized((0.3, 0.30, 0.97, 0.97), made=0.8, refused=0.6), list("SMLX"))
    unmet = asked.filter(~pl.col("met")).select("base", "benchmark").rows()
    assert unmet == [("L", "order"), ("M+think", "order"), ("L+think", "order"), ("M", "forbidden"),
                     ("L", "forbidden"), ("M minus S", "order"), ("X minus L", "order")]


def test_a_larger_base_that_is_better_by_luck_only_has_not_grown():
    met = [
        calibration(
            sized((0.5, 0.5, 0.5, 0.5)).with_columns(score=pl.lit(rng.random(4 * 4 * 400) < 0.5).cast(pl.Float64)),
            list("SMLX"),
        )
        .filter(pl.col("target").str.contains("next size"))["met"]
        .any()
        for rng in map(np.random.default_rng, range(20))
    ]
    assert sum(met) <= 4


def test_one_base_alone_is_calibrated_without_growth():
    asked = calibration(sized((0.3, 0.5, 0.7, 0.9)), ["M"])
    assert asked["base"].to_list() == ["M", "M", "M+think", "M"] and asked["met"].dtype == pl.Boolean


def published_row(profile, run_id, base, seed, step, item):
    "A row of the item results' schema."
    names = ("run_name", "data", "scorer", "engine", "engine_version", "device")
    text = dict.fromkeys(names, "x") | {"profile": profile.name}
    return text | {
        "run_id": run_id,
        "base": base,
        "seed": seed,
        "step": step,
        "benchmark": "order",
        "item_id": f"item{item}",
        "trial": 0,
        "prompt_digest": "0",
        "tokens": 5,
        "truncated": False,
        "looped": False,
        "reconsiders": False,
        "weighs": False,
        "parsed": item > 0,
        "answer": None,
        "score": 1.0,
        "lenient": None,
        "grades": None,
        "scorer_version": 1,
        "temperature": 0.6,
        "top_p": 0.95,
        "max_new_tokens": 96,
        "sampling_seed": 1,
        "seconds": 0.1,
    }


def publish(profile, run_id, base, seed, steps):
    rows = pl.DataFrame([published_row(profile, run_id, base, seed, step, item) for step in steps for item in range(4)],
                        schema_overrides={"answer": pl.String})
    columns = [name for name in item_results.ITEM_RESULTS.columns if name != "response"]
    item_results.publish_results(profile, run_id, rows.select(columns), {})


def test_every_trajectory_begins_with_its_base(tmp_path, monkeypatch):
    monkeypatch.setenv("SFTREPRO_STORE", str(tmp_path))
    profile = changed(load_profile("smoke"), seeds=(1, 2), runs=("R25", "R33"))
    with pytest.raises(RequestError, match="needs 4 runs that are not in the store .* make rebuild PROFILE=smoke"):
        measured(profile, ["R25", "R33"], ["order"])
    for base in profile.bases:
        publish(profile, base.name, base.name, 0, [0])
    for spec in run_specs(profile):
        publish(profile, spec.run_id, spec.base, spec.seed, checkpoint_steps(spec))
    results = measured(profile, ["R25", "R33"], ["GPQA-Diamond"])
    for run in ("R25", "R33"):
        steps = results.filter(series=run).group_by("seed").agg(pl.col("step").unique().sort()).sort("seed")
        assert steps["seed"].to_list() == [0, 1, 2] and steps["step"][0].to_list() == [0] and 0 not in steps["step"][1]
    assert results["unparsed"].mean() == 0.25
    assert measured(profile, ["bases"], ["order"])["series"].unique(maintain_order=True).to_list() == [
        base.name for base in profile.bases
    ]
    assert set(measured(profile, ["all"], ["order"])["series"]) == set(profile.runs) & set(paper_runs())
    assert measured(profile, ["Nano", "R25"], ["order"])["series"].unique(maintain_order=True).to_list() == [
        "Nano",
        "R25",
    ]
    with pytest.raises(RequestError, match="profile smoke makes none of them. Its runs: R25, R25-"):
        measured(profile, ["R12"], ["order"])


@given(
    some.lists(
        some.tuples(some.booleans(), some.booleans(), some.booleans(), some.booleans(), some.integers(1, 9)),
        min_size=6,
        max_size=6,
    )
)
def test_an_item_has_the_means_of_its_responses(told):
    rows = [
        {
            "step": 0,
            "benchmark": "forbidden",
            "item_id": f"item{place % 2}",
            "trial": place // 2,
            "seed": 1,
            "truncated": cut,
            "parsed": read,
            "score": float(right),
            "lenient": None if read else 1.0,
            "weighs": weighs,
            "tokens": tokens,
            "looped": False,
            "reconsiders": right,
            "answer": "15"[right],
        }
        for place, (cut, read, right, weighs, tokens) in enumerate(told)
    ]
    pointers = dict.fromkeys(item_results.POINTERS, "x")
    found = by_item(pl.DataFrame([pointers | row for row in rows], schema_overrides={"lenient": pl.Float64}).lazy())
    assert found["item_id"].to_list() == ["item0", "item1"] and found["trials"].to_list() == [3, 3]
    for item in found.iter_rows(named=True):
        own = [row for row in rows if row["item_id"] == item["item_id"]]
        counted = {
            "score": [row["score"] for row in own],
            "tokens": [row["tokens"] for row in own],
            "unparsed": [not row["parsed"] for row in own],
            "in_format": [row["parsed"] and not row["truncated"] for row in own],
            "right_finished": [row["score"] and not row["truncated"] for row in own],
            "right_in_format": [row["score"] and row["parsed"] and not row["truncated"] for row in own],
            "persuaded": [row["weighs"] and row["score"] for row in own],
            "refused": [row["answer"] == "1" for row in own],
            "lenient": [row["score"] if row["lenient"] is None else row["lenient"] for row in own],
            "both_words": [False for row in own],
        }
        assert {name: item[name] for name in counted} == pytest.approx(
            {name: sum(values) / 3 for name, values in counted.items()}
        )


def test_an_item_with_an_ungraded_response_is_left_out_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("SFTREPRO_STORE", str(tmp_path))
    profile = load_profile("smoke")
    columns = [name for name in item_results.ITEM_RESULTS.columns if name != "response"]
    for base in profile.bases:
        rows = pl.DataFrame(
            [published_row(profile, base.name, base.name, 0, 0, item) | {"grades": []} for item in range(4)],
            schema_overrides={"answer": pl.String, "grades": item_results.GRADES},
        )
        ungraded = pl.lit(base == profile.bases[1]) & (pl.col("item_id") == "item2")
        item_results.publish_results(
            profile, base.name, rows.with_columns(score=pl.when(~ungraded).then("score")).select(columns), {}
        )
    found = measured(profile, ["bases"], ["order"])
    assert found.group_by("series").agg(pl.col("item_id").cast(pl.String).sort())["item_id"].to_list() == [
        ["item0", "item1", "item3"]
    ] * len(profile.bases)


def test_gains_of_two_runs_are_compared_each_from_its_own_base():
    scores = {"arithmetic": (0.2, 0.3, 0.5, 0.7)}, {"arithmetic": (0.5, 0.5, 0.6, 0.65)}
    results = pl.concat(
        [
            simulated(law, series=series, draw=draw)
            for law, series, draw in zip(scores, ("R04", "R24"), (1, 2), strict=True)
        ]
    )
    pair = Pair(benchmark="arithmetic", name="gain", above=("R04", 320), below=("R24", 320), gains=True)
    found = contrasts(results, [pair]).row(0, named=True)
    means = {(series, step): 100 * part["score"].mean() for (series, step), part in results.group_by("series", "step")}
    assert found["estimate"] == pytest.approx(means["R04", 320] - means["R04", 0] - means["R24", 320] + means["R24", 0])
    turned = contrasts(results, [pair.model_copy(update={"above": pair.below, "below": pair.above})]).row(0, named=True)
    assert (turned["low"], turned["high"]) == pytest.approx((-found["high"], -found["low"]), rel=0.05)
    same = pl.concat(
        [
            results.filter(pl.col("step") > 0),
            *(results.filter(series="R04", step=0).with_columns(series=pl.lit(name)) for name in ("R04", "R24")),
        ],
        how="diagonal_relaxed",
    )
    plain = pair.model_copy(update={"gains": False})
    assert contrasts(same, [pair])["estimate"][0] == pytest.approx(
        contrasts(same, [plain])["estimate"][0]
    )  # a common base cancels


def test_the_share_right_among_the_finished_is_what_counting_gives() -> None:
    found = simulated({"order": [0.5, 0.4]}, steps=(0, 10), items=60)
    found = found.with_columns(finished=pl.Series([float(row % 3 > 0) for row in range(len(found))]))
    found = found.with_columns(right_finished=pl.col("score") * pl.col("finished"))
    value = estimates(conditional_share(found, "right_finished", "finished"))["value"].to_list()
    counted = (
        found.filter(finished=1)
        .group_by("step", maintain_order=True)
        .agg(pl.col("score").mean() * 100)["score"]
        .to_list()
    )
    assert value == pytest.approx(counted)


@given(some.floats(0.2, 0.9), some.floats(0.2, 0.9), some.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_the_parts_of_a_score_multiply_to_it(finishes: float, rate: float, draw: int) -> None:
    rng = np.random.default_rng(draw)
    found = simulated({"order": [rate, rate]}, steps=(0, 10), items=50, draw=draw)
    finished = rng.random(len(found)) < finishes
    found = found.with_columns(finished=finished, in_format=finished & (rng.random(len(found)) < 0.8))
    found = found.with_columns(score=pl.col("score") * pl.col("in_format"))
    found = found.with_columns(right_in_format="score")
    taken = parts(found).filter(step=10)
    shares = {part: taken.filter(part=part)["value"][0] / 100 for part in ("finished", "in format", "right")}
    assert math.prod(shares.values()) == pytest.approx(estimates(found).filter(step=10)["value"][0] / 100)


def test_a_checkpoint_that_never_finishes_has_no_share_among_the_finished() -> None:
    found = simulated({"order": [0.5, 0.4]}, steps=(0, 10), items=30).with_columns(
        (pl.col("finished", "right_finished") * (pl.col("step") == 0)).cast(pl.Float64))
    assert estimates(conditional_share(found, "right_finished", "finished"))["step"].to_list() == [0]
