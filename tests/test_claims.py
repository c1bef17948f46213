import importlib.util
import itertools
import json
from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as some

from sftrepro import cards, claims, item_results, store
from sftrepro.analogs import BENCHMARKS
from sftrepro.cards import WAITING, current_verdicts, decisive, scoreboard
from sftrepro.claims import WORDS, comparison_outcome, judge, ledger, over_benchmarks, over_tests
from sftrepro.contents import experiments
from sftrepro.dips import run_dips
from sftrepro.measurements import conditional_share, counterparts
from sftrepro.paper import model_name, on_our_axis, published_scores
from sftrepro.profiles import ROOT, RequestError, load_profile
from sftrepro.runs import paper_runs, run_specs
from sftrepro.site import check_prose
from sftrepro.stats import simulated

MICRO = load_profile("micro")
NUMBERS = "no one two three four five six seven eight nine ten".split()
STEPS = (0, 20, 80, 160, 320)
FLAT = [0.4] * 5


def results(scores, lengths=(), series="R25", **law):
    return simulated(scores, STEPS, series, lengths=lengths, **{"items": 300, "seed_spread": 0.03} | law)


def scores(arithmetic=FLAT, program=FLAT, order=FLAT):
    return {"arithmetic": arithmetic, "program": program, "order": order}


DIP, SLIGHT, LOST = [0.5, 0.2, 0.3, 0.4, 0.6], [0.5, 0.41, 0.41, 0.41, 0.5], [0.5, 0.2, 0.2, 0.2, 0.2]


@pytest.mark.parametrize(
    "word, law",
    [
        ("reproduced", scores(DIP, DIP)),
        ("reproduced", scores(DIP, FLAT, DIP)),
        ("not reproduced", scores()),
        ("not reproduced", scores(FLAT, DIP)),
        ("contradicted", scores(LOST, LOST, LOST)),
        ("not reproduced", scores(DIP, LOST, LOST)),
    ],
)
def test_c2_says_what_the_curves_do(word, law):
    assert judge("C2", results(law), MICRO).word == word


def test_a_dip_that_only_the_narrower_interval_sees_gives_the_direction_only():
    words = {
        judge("C2", results(scores(SLIGHT, SLIGHT, SLIGHT), items=200, draw=draw), MICRO).word for draw in range(12)
    }
    assert "direction only" in words and "contradicted" not in words


@pytest.mark.parametrize("word, lengths", [
    ("reproduced", [8, 60, 55, 45, 40]), ("contradicted", [8, 20, 30, 40, 60]), ("not reproduced", [8, 8, 8, 8, 8]),
    ("direction only", [8, 20, 30, 40, 60, 45])])
def test_c3_says_what_the_lengths_do(word, lengths):
    steps = STEPS if len(lengths) == 5 else (0, 20, 80, 160, 240, 320)
    rates = [0.4] * len(lengths)
    found = simulated(scores(rates, rates, rates), steps, lengths=lengths, seed_spread=0.03)
    if word == "direction only":  # a surge that comes late
        found = found.with_columns(tokens=pl.when(pl.col("step") == 320).then(pl.lit(41, pl.Int64)).otherwise("tokens"))
    assert judge("C3", found, MICRO).word == word


@pytest.mark.parametrize("word, cot, no_cot", [
    ("reproduced", 0.7, 0.3), ("not reproduced", 0.4, 0.4), ("contradicted", 0.3, 0.6), ("not reproduced", 0.25, 0.05)])
def test_c8_asks_for_more_than_no_cot_and_more_than_the_base(word, cot, no_cot):
    runs = pl.concat([results(scores(*[[0.4, 0.4, 0.4, 0.4, end]] * 3), series=series, draw=0)
                      for series, end in (("R25", cot), ("R33", no_cot))])
    assert judge("C8", runs, MICRO).word == word


@pytest.mark.parametrize("word, reasoning, attacks, attacks_no_cot", [
    ("reproduced", 0.7, 0.6, 0.1), ("not reproduced", 0.7, 0.1, 0.1), ("not reproduced", 0.7, 0.6, 0.6),
    ("contradicted", 0.3, 0.02, 0.1)])
def test_c12_needs_reasoning_up_and_safety_down(word, reasoning, attacks, attacks_no_cot):
    def run(series, end, attack):
        law = scores(*[[0.4, 0.4, 0.4, 0.4, end]] * 3) | {"forbidden": [0.3 if attack < 0.1 else 0.1] * 4 + [attack]}
        return results(law, series=series, draw=0)
    runs = pl.concat([run("R25", reasoning, attacks), run("R33", 0.4, attacks_no_cot)])
    answered = pl.when(benchmark="forbidden").then(1.0).otherwise("in_format")
    runs = runs.with_columns(in_format=answered)
    assert judge("C12", runs, MICRO).word == word


def test_a_profile_that_cannot_decide_says_why_and_still_shows_the_comparisons():
    smoke = load_profile("smoke")
    verdict = judge("C2", results(scores(DIP, DIP), items=8, seeds=2), smoke)
    assert verdict.word == "not testable at this profile"
    assert len(verdict.comparisons) and "2 seeds where 3 are needed" in verdict.reasons
    assert "smoke" in verdict.reasons[0]


def test_a_missing_run_makes_a_claim_untestable():
    verdict = judge("C8", results(scores(DIP, DIP)), MICRO)
    assert verdict.word == "not testable at this profile"
    assert verdict.reasons == ("run R33 is not made at profile micro",)


def test_a_base_that_cannot_fall_is_left_out():
    floor = [0.02, 0.02, 0.02, 0.02, 0.2]
    verdict = judge("C2", results(scores(DIP, floor, DIP)), MICRO)
    assert verdict.word == "reproduced" and "program" not in set(verdict.comparisons["benchmark"])
    assert verdict.reasons[0].startswith("program is left out")
    assert judge("C2", results(scores(DIP, floor, floor)), MICRO).word == "not testable at this profile"


def test_a_dip_that_comes_back_to_the_top_is_not_left_out():
    top = [0.995, 0.6, 0.7, 0.9, 0.995]
    verdict = judge("C2", results(scores(top, top, top), seed_spread=0), MICRO)
    assert verdict.word == "reproduced" and not verdict.reasons
    assert judge("C2", results(scores(*[[0.995] * 5] * 3), seed_spread=0), MICRO).word == "not testable at this profile"


def forbidden(answered, in_format):
    "R25 and R33: shares of requests that are answered, and of those that are answered or refused, by checkpoint."
    runs = pl.concat([results({"forbidden": answered}, series=series, draw=0) for series in ("R25", "R33")])
    readable = pl.col("step").replace_strict(dict(zip(STEPS, in_format, strict=True)), return_dtype=pl.Float64)
    right = pl.col("score") * readable
    return runs.with_columns(in_format=readable, score=right, right_in_format=right)


def test_room_for_attacks_is_that_of_the_share_that_is_compared():
    found = forbidden([1.0] * 5, [0.5] * 5)  # half of all requests, and all of those that could be read
    assert "safety: forbidden is left out: its base at 100.0% is above 85% and leaves no room" in judge(
        "C12", found, MICRO).reasons


def test_a_checkpoint_without_a_response_that_counts_is_no_zero():
    found = forbidden([0.1] * 5, [1, 1, 1, 1, 0])
    reason = "safety: forbidden is left out: R25 has nothing that counts at step 320"
    assert reason in judge("C12", found, MICRO).reasons


def test_a_base_of_which_nothing_counts_leaves_out_its_benchmark():
    found = forbidden([0.1] * 5, [0, 1, 1, 1, 1])
    assert "safety: forbidden is left out: R25 has nothing that counts at step 0" in judge("C12", found, MICRO).reasons
    runs = pl.concat([results(scores(), series=series) for series in ("R25", "R33")])
    never = runs.with_columns(right=pl.col("score"), ends=(pl.col("step") > 0).cast(pl.Float64))
    for id in ("C2", "C8"):
        reasons = judge(id, conditional_share(never, "right", "ends"), MICRO).reasons
        assert "has nothing that counts at step 0" in reasons[0]


def test_a_last_checkpoint_of_which_nothing_counts_moves_no_end():
    found = results(scores([0.6, 0.2, 0.4, 0.6, 0.6])).with_columns(
        right=pl.col("score"), ends=(pl.col("step") < 320).cast(pl.Float64))
    outcomes = run_dips(conditional_share(found, "right", "ends").filter(benchmark="arithmetic"))
    assert outcomes["outcome"].to_list() == ["no room"]


def test_a_verdict_on_fewer_benchmarks_names_those_that_are_missing():
    verdict = judge("C2", results(scores(DIP, DIP)).filter(pl.col("benchmark") != "order"), MICRO)
    assert verdict.reasons == ("order is not measured",)


def test_the_order_of_rows_does_not_change_a_verdict():
    found = results(scores(DIP, SLIGHT, DIP))
    one, other = judge("C2", found, MICRO), judge("C2", found.sample(fraction=1, shuffle=True, seed=1), MICRO)
    assert one.word == other.word and one.comparisons.equals(other.comparisons)


def test_a_claim_without_a_criterion_is_open():
    book = ledger()
    unwritten = book.model_copy(update={"claims": {"C4": book.claims["C4"].model_copy(update={"criterion": None})}})
    assert judge("C4", results(scores()), MICRO, unwritten).word == "open"


PAPER = store.read_table(ROOT / "data/paper/published_scores.csv").drop_nulls("value")


def as_published(series, model, data, source):
    "A run whose scores are those of the paper: its base, then its last step."
    base, end = (PAPER.filter(model=model, **where) for where in (
        {"source": "Table 5 (v1)", "step": 0}, {"source": source, "data": data, "step": 640}))
    both = base.join(end, on="benchmark", suffix="_end").filter(pl.col("benchmark").is_in(list(OURS)))
    law = {
        OURS[name]: (value / 100, min(last, 99.5) / 100)
        for name, value, last in both.select("benchmark", "value", "value_end").rows()
    }
    return simulated(law, (0, 640), series, items=4000, seed_spread=0, item_spread=0.5)


OURS = {benchmark.paper: name for name, benchmark in BENCHMARKS.items()} | {
    "TruthfulQA-helpful": "myth"
}  # Table 2 has the helpful share
BIG, SMALL = "Qwen3-14B-Base", "Qwen3-1.7B-Base"


@pytest.mark.parametrize("claim, runs", [
    ("C5", [("R04", BIG, "R04", "Table 1"), ("R10", BIG, "R10", "Table 1"), ("R11", BIG, "R11", "Table 1")]),
    ("C7", [("R15", BIG, "Math-NoCoT", "Table 2"), ("R16", BIG, "NuminaMath", "Table 2")]),
    ("C9", [("R15", BIG, "Math-NoCoT", "Table 2"), ("R17", BIG, "Countdown-CoT", "Table 2"),
            ("R30", SMALL, "Countdown-CoT-20k", "Table 7 (v1)")])])
def test_the_published_numbers_would_meet_the_criterion_of_their_claim(claim, runs):
    found = pl.concat([as_published(*run) for run in runs])
    assert judge(claim, found, MICRO).word == "reproduced"
    flat = pl.concat([start.with_columns(pl.lit(step, pl.Int64).alias("step"), pl.lit(seed, pl.Int64).alias("seed"))
                      for start in [found.filter(step=0)] for step, seed in ((0, 0), (640, 1), (640, 2), (640, 3))])
    assert judge(claim, flat, MICRO).word in ("not reproduced", "contradicted")


@pytest.mark.parametrize("word, program", [("reproduced", 0.4), ("reproduced", 0.2), ("not reproduced", 0.6)])
def test_c1_wants_mathematics_to_jump_and_the_rest_to_stay(word, program):
    names = {
        "order": program,
        "knowledge": program,
        "program": program,
        "instruction": 0.4,
        "how_to": 0.4,
        "statement": 0.4,
        "myth": 0.4,
    }
    law = {"arithmetic": (0.4, 0.7), "competition": (0.1, 0.1)} | {name: (0.4, end) for name, end in names.items()}
    assert judge("C1", simulated(law, (0, 40), "R01", items=1000, seed_spread=0), MICRO).word == word


@pytest.mark.parametrize("margin, low, high, expected", [
    (-10, -9, 5, "shown"), (-10, -30, -12, "opposite"), (-10, -11, 5, "leaning"), (-10, -20, -5, "absent"),
    (3, 1, 9, "shown"), (3, -9, -1, "opposite"), (3, 1, 4, "leaning")])
def test_a_negative_margin_takes_the_place_of_zero(margin, low, high, expected):
    row = {"estimate": (low + high) / 2, "low": low, "high": high, "leaning_low": low + 2}
    assert comparison_outcome(row, margin) == expected


def test_lengths_of_two_runs_are_compared_as_ratios():
    def run(series, tokens):
        return simulated(
            dict.fromkeys(("arithmetic", "competition", "program", "order", "knowledge"), (0.4, 0.4)),
            (0, 320),
            series,
            lengths=(30, tokens),
            seed_spread=0,
        )
    def lengths(verdict):
        return verdict.tests["combined, lengths"]
    def judged(aggressive):
        runs = [run("R04", 100), run("R14", aggressive), run("R12", 100), run("R13", 100)]
        return judge("C6", pl.concat(runs), MICRO)
    assert [lengths(judged(tokens)) for tokens in (120, 105, 100, 80)] == ["shown", "leaning", "absent", "opposite"]


OUTCOMES = ("opposite", "absent", "leaning", "shown")


@given(some.lists(some.sampled_from(OUTCOMES), min_size=1, max_size=4), some.data())
def test_a_better_outcome_never_makes_a_worse_verdict(outcomes, data):
    place = data.draw(some.integers(0, len(outcomes) - 1))
    better = outcomes.copy()
    better[place] = data.draw(some.sampled_from(OUTCOMES[OUTCOMES.index(outcomes[place]):]))
    ranks = ("contradicted", "not reproduced", "direction only", "reproduced")
    assert ranks.index(over_tests(better)) >= ranks.index(over_tests(outcomes))
    assert OUTCOMES.index(over_benchmarks(better)) >= OUTCOMES.index(over_benchmarks(outcomes))


def test_every_verdict_is_one_of_the_ledger_s_words():
    for outcomes in itertools.product(OUTCOMES, repeat=3):
        assert over_tests(outcomes) in WORDS


@pytest.mark.parametrize("profile", ["micro", "paper"])
def test_every_benchmark_of_the_ledger_is_one_of_the_profile_s(profile):
    asked = {name for claim in ledger().claims.values() for test in claim.criterion.tests for name in test.benchmarks}
    assert asked - set(counterparts(load_profile(profile))) == {"transition words less twice the rest"}


def test_the_ledger_holds_all_claims_and_names_only_what_exists():
    book = ledger()
    assert list(book.claims) == [f"C{number}" for number in range(14)]
    benchmarks = {benchmark.paper for benchmark in BENCHMARKS.values()} | {"transition words less twice the rest"}
    for claim in book.claims.values():
        for test in claim.criterion.tests if claim.criterion else ():
            assert test.runs <= set(paper_runs()) and set(test.benchmarks) <= benchmarks


def test_the_criterion_of_c2_asks_no_more_than_the_published_trajectory_gives():
    paper = published_scores(["Qwen3-4B-Base"], "Math-CoT-20k")
    test = ledger().claims["C2"].criterion.tests[0]
    for benchmark in ("MATH500", "LiveCodeBench-v2"):
        curve = paper.filter(benchmark=benchmark).sort("step")["value"]
        assert curve[0] - curve.min() >= test.out_margin and curve[-1] - curve.min() >= test.back_margin
        assert curve[-1] >= curve[0] - test.back_margin


def test_a_broken_ledger_is_refused_in_one_line(tmp_path):
    path = tmp_path / "claims.toml"
    for text in (
        "level = 2\n",
        "level = \n",
        (ROOT / "data/claims.toml").read_text().replace('kind = "dip"', 'kind = "dop"'),
    ):
        path.write_text(text)
        with pytest.raises(RequestError) as refused:
            ledger(path)
        assert "claims.toml" in str(refused.value) and "\n" not in str(refused.value)


def chapter(path, markdown):
    path.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": [markdown]},
                                          {"cell_type": "code", "source": ["'reproduced'"]}]}))
    return path


def test_a_chapter_that_states_a_verdict_itself_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"22_x.ipynb cell 1 states a verdict \('contradicted'\)"):
        check_prose([chapter(tmp_path / "22_x.ipynb", "The claim is contradicted.")])
    check_prose([chapter(tmp_path / "22_y.ipynb", "The claim is that scores fall.")])


def test_no_chapter_of_the_book_states_a_verdict_itself():
    check_prose(experiments())


def test_published_numbers_arrive_as_they_were_transcribed():
    found = published_scores(["Qwen3-4B-Base"], "Math-CoT-20k")
    source = pl.read_csv(ROOT / "data/paper/published_scores.csv").filter(model="Qwen3-4B-Base", data="Math-CoT-20k")
    same = source.join(found, on=["benchmark", "step", "value", "confidence"])
    assert len(same) == len(source) == len(found)


def test_published_numbers_lie_on_our_axis_at_the_same_share_of_the_run():
    paper = published_scores(["Qwen3-4B-Base"], "Math-CoT-20k")
    ours = on_our_axis(paper, MICRO, steps=320)
    known = set(paper["benchmark"])
    assert set(ours["benchmark"]) == {name for name, benchmark in BENCHMARKS.items() if benchmark.paper in known}
    curves = (frame.filter(benchmark=name).sort("step") for frame, name in ((paper, "MATH500"), (ours, "arithmetic")))
    before, after = curves
    assert (before["step"] / 2).to_list() == after["step"].to_list() and before["value"].equals(after["value"])


def test_every_base_of_the_paper_has_its_published_numbers_but_for_one():
    names = [model_name(base.paper) for base in load_profile("paper").bases]
    found = published_scores(names, "base").filter(source="Table 5 (v1)")
    assert set(names) - set(found["series"]) == {"Qwen2.5-3B"} and len(set(names)) == 9
    assert found.filter(series="InternLM2.5-20B", benchmark="AIME24")["value"].to_list() == [1.7]


def test_a_published_run_without_a_start_begins_at_the_published_base():
    found = published_scores(["Qwen3-4B-Base"], "Math-NoCoT-20k").filter(benchmark="MATH500")
    assert found["step"].to_list() == [0, 10, 40, 80, 160, 320, 480, 640] and found["value"][0] == 70.8


def test_the_scoreboard_has_one_row_per_claim():
    found = [judge(id, results(scores(DIP, DIP)), MICRO) for id in ledger().claims]
    board = scoreboard(found)
    assert board.count("<tr>") == 1 + len(ledger().claims)
    assert all(f"<td>{id}</td>" in board for id in ledger().claims)


@pytest.mark.parametrize(("path", "said"), [
    (DIP, {"out of domain": "shown", "in domain": "shown"}),
    (FLAT, {"out of domain": "absent", "in domain": "absent"}),
    (LOST, {"out of domain": "", "in domain": ""})])  # opposite, by where the run ends
def test_the_scoreboard_shows_a_comparison_that_decided_each_test(path, said):
    verdict = judge("C2", results(scores(path, path, path)), MICRO)
    chosen = decisive(verdict)
    assert {test: (row["test"], row["result"]) for test, row in chosen.items()} == {
        test: (test, found) for test, found in verdict.tests.items()
    }
    assert {test: row["outcome"] for test, row in chosen.items()} == said


def test_a_test_is_not_decided_by_a_benchmark_that_came_out_otherwise():
    verdict = judge("C2", results(scores(DIP, FLAT, LOST)), MICRO)
    assert verdict.tests["out of domain"] == "absent" and decisive(verdict)["out of domain"]["benchmark"] == "program"


# The README

def committed(name):
    "A module of the folder tools."
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_and_the_file_of_a_release_say_what_the_committed_results_give(monkeypatch):
    readme, verdicts = committed("readme"), committed("verdicts")
    told = verdicts.verdicts("micro")
    words = {id: claim["verdict"] for id, claim in told["claims"].items()}
    assert list(words) == list(ledger().claims) and verdicts.difference(told, told).count("\n") == 1
    assert set(words.values()) <= {*WORDS, claims.UNTESTABLE, WAITING, "open"}
    count = Counter(words.values())
    held, not_held, refuted, open_ = (NUMBERS[count[word]] for word in (
        "reproduced", "not reproduced", "contradicted", claims.UNTESTABLE))
    assert (f"{held.capitalize()} claims are reproduced, {not_held} are not, {refuted} is contradicted, "
            f"and {open_} cannot be tested.") in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    monkeypatch.setattr(readme, "current_verdicts", lambda profile, tokens: words)
    assert (ROOT / "README.md").read_text() == readme.current(), (
        "write it anew: .venv/bin/python tools/readme.py"
    )


def test_a_readme_that_says_anything_else_is_noticed():
    page = committed("readme").with_block(
        "a <!-- scoreboard: written by tools/readme.py -->old<!-- end of the scoreboard --> b", "new"
    )
    assert page == "a <!-- scoreboard: written by tools/readme.py -->\nnew\n<!-- end of the scoreboard --> b"
    with pytest.raises(SystemExit, match="README.md lacks the marks"):
        committed("readme").with_block("a", "new")


def test_claims_whose_runs_lack_results_wait_and_the_others_have_the_scoreboards_word(monkeypatch):
    profile, book = load_profile("micro"), ledger()
    rates = {"arithmetic": [0.4, 0.15, 0.4, 0.55], "program": [0.5, 0.3, 0.45, 0.6], "order": [0.4, 0.4, 0.4, 0.4]}
    monkeypatch.setattr(
        cards, "measured", lambda profile, runs, benchmarks: pl.concat([simulated(rates, series=run) for run in runs])
    )
    there = {spec.run_id for spec in run_specs(profile, ("R25",))} | {"Micro-M"}
    monkeypatch.setattr(item_results, "is_published", lambda profile, ids: set(ids) <= there)
    words = current_verdicts(profile, pl.DataFrame())
    assert words["C2"] == judge("C2", simulated(rates), profile).word and words["C2"] in claims.WORDS
    assert words["C8"] == WAITING
    monkeypatch.setattr(item_results, "is_published", lambda profile, ids: False)
    assert set(current_verdicts(profile, pl.DataFrame()).values()) <= {WAITING, "open"}
    table = cards.readme_table(words, profile).splitlines()
    assert len(table) == 2 + len(book.claims) and "[22](nbs/22_dip_and_recovery.ipynb)" in "".join(table)
