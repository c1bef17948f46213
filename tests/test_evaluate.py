"Evaluation: item results that keep to the schema, nothing generated twice."
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftrepro import evaluate
from sftrepro.analogs import BENCHMARKS
from sftrepro.evaluate import (
    REVISION,
    changed_rows,
    draw_sample,
    generate_responses,
    item_results,
    items_of,
    looped,
    made_again,
    mentions,
    model_columns,
    questions,
    rescored,
    respond_in_slices,
    response_file,
    sampling_of,
    score_responses,
    slices,
    thinking,
)
from sftrepro.internet import direct
from sftrepro.item_results import checked_results
from sftrepro.profiles import BenchmarkSize, RequestError, load_profile
from sftrepro.runs import run_specs
from sftrepro.score import SCORERS, Score, Scorer
from sftrepro.store import base_folder

SMOKE = load_profile("smoke")


@pytest.fixture(scope="module")
def base(nano_store: Path) -> Path:
    return base_folder(SMOKE, "Nano")


def test_item_results_keep_to_the_schema_and_pair_across_checkpoints(base: Path, tmp_path: Path) -> None:
    brief = SMOKE.model_copy(update={"max_new_tokens": 8})
    generate_responses(brief, "Nano", {0: base, 7: base}, tmp_path / "responses")
    results = checked_results(score_responses(brief, "Nano", tmp_path / "responses", tmp_path / "eval"), "test")
    assert set(results["benchmark"]) == set(brief.benchmarks)
    for (benchmark,), rows in results.group_by("benchmark"):
        asked = questions(benchmark, brief)
        for step in (0, 7):
            assert rows.filter(step=step)["item_id"].to_list() == asked["item_id"].to_list()
    unnamed = [name for name in results.columns if name not in ("step", "seconds")]
    assert results.filter(step=0)[unnamed].equals(results.filter(step=7)[unnamed])  # same checkpoint, same responses


def test_finished_files_are_not_generated_again(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate_responses(SMOKE, "Nano", {0: base}, tmp_path)
    lost = response_file(tmp_path, "order", 0)
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    content = pl.read_parquet(lost).drop("seconds")
    lost.unlink()
    generate_responses(SMOKE, "Nano", {0: base}, tmp_path)
    after = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {lost.name}
    assert pl.read_parquet(lost).drop("seconds").equals(content)


def test_responses_cut_off_between_two_slices_end_the_same(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "SLICE", 0)
    size = SMOKE.benchmarks["order"].model_copy(update={"items": 150})
    profile = SMOKE.model_copy(update={"benchmarks": {"order": size}, "max_new_tokens": 8})
    asked_for, respond = [], evaluate.respond
    monkeypatch.setattr(evaluate, "respond", lambda *given: asked_for.append(len(given[3])) or respond(*given))
    respond_in_slices(base, "order", profile, questions("order", profile), tmp_path / "whole.parquet")
    assert asked_for == [64, 64, 22] and not (tmp_path / "whole.slices").exists()
    respond_in_slices(base, "order", profile, questions("order", profile), tmp_path / "cut.parquet")
    whole, cut = (pl.read_parquet(tmp_path / f"{name}.parquet").drop("seconds") for name in ("whole", "cut"))
    assert whole.equals(cut)

    def killed(*given: object) -> pl.DataFrame:
        if len(asked_for) == 7:
            raise KeyboardInterrupt
        asked_for.append(len(given[3]))
        return respond(*given)
    monkeypatch.setattr(evaluate, "respond", killed)
    with pytest.raises(KeyboardInterrupt):
        respond_in_slices(base, "order", profile, questions("order", profile), tmp_path / "killed.parquet")
    assert len(list((tmp_path / "killed.slices").iterdir())) == 1
    asked_for.clear()
    respond_in_slices(base, "order", profile, questions("order", profile), tmp_path / "killed.parquet")
    assert asked_for == [64, 22]
    assert pl.read_parquet(tmp_path / "killed.parquet").drop("seconds").equals(whole)


def test_a_slice_of_the_micro_profile_is_a_whole_benchmark() -> None:
    micro = load_profile("micro")
    assert all(len(slices(questions(name, micro), micro.max_new_tokens)) == 1 for name in micro.benchmarks)


def test_a_benchmark_with_sampling_of_its_own_is_drawn_so_and_none_beyond_its_limit() -> None:
    paper = load_profile("paper")
    assert sampling_of("MATH500", paper).model_dump() == {
        "temperature": 0.6,
        "top_p": 0.95,
        "max_new_tokens": 32768,
        "top_k": 0,
    }
    assert sampling_of("AlpacaEval", paper).model_dump() == {
        "temperature": 0.7,
        "top_p": 0.9,
        "max_new_tokens": 16384,
        "top_k": 50,
    }
    assert sampling_of("HEx-PHI", load_profile("smoke")).max_new_tokens == SMOKE.max_new_tokens


def test_scoring_again_names_the_verdicts_that_a_new_scorer_changes(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = SMOKE.model_copy(update={"benchmarks": {"order": SMOKE.benchmarks["order"]}, "max_new_tokens": 8})
    generate_responses(profile, "Nano", {0: base}, tmp_path / "responses")
    results = score_responses(profile, "Nano", tmp_path / "responses", tmp_path / "eval")
    assert rescored(results, profile).is_empty()
    new = Scorer(name="letter", version=2, score=lambda response, item, world: Score(parsed=True, answer="B", score=1))
    monkeypatch.setitem(SCORERS, "order", new)
    changed = rescored(results, profile)
    assert (
        changed.height == results.height and set(changed["now_score"]) == {1.0} and set(changed["now_version"]) == {2}
    )
    fewer = profile.model_copy(update={"benchmarks": {"order": BenchmarkSize(items=3, trials=1)}})
    with pytest.raises(RequestError, match="order: responses to 13 items that settings.ini does not ask"):
        rescored(results, fewer)


@given(st.integers(1, 200), st.sets(st.integers(0, 320), min_size=1, max_size=3), st.text(max_size=5))
def test_a_sample_is_whole_slices_and_no_larger_than_asked_for_but_for_the_last(
    items: int, steps: set[int], seed: str
) -> None:
    few = SMOKE.model_copy(update={"benchmarks": {name: SMOKE.benchmarks[name] for name in ("order", "competition")}})
    asked, order = {name: questions(name, few) for name in few.benchmarks}, sorted(steps)
    sample = draw_sample(few, "Nano", order, items, seed)
    sizes = [len(part) for _, _, part in sample]
    assert sum(sizes[:-1]) < items and sum(sizes) >= min(items, len(steps) * sum(map(len, asked.values())))
    assert len({(step, benchmark) for step, benchmark, _ in sample}) == len(sample)
    assert all(step in steps and part.equals(asked[benchmark]) for step, benchmark, part in sample)
    assert [each[:2] for each in draw_sample(few, "Nano", order, items, seed)] == [each[:2] for each in sample]


def test_what_is_made_again_departs_from_nothing_but_what_was_changed(base: Path, tmp_path: Path) -> None:
    few = SMOKE.model_copy(update={"benchmarks": {name: SMOKE.benchmarks[name] for name in ("order", "forbidden")}})
    generate_responses(few, "Nano", {0: base}, tmp_path / "responses")
    results = score_responses(few, "Nano", tmp_path / "responses", tmp_path / "eval")
    for step, benchmark, part in draw_sample(few, "Nano", [0], 24, "any"):
        again = made_again(few, "Nano", base, step, benchmark, part)
        unread = results.with_columns(response=None, seconds=9.0)
        assert changed_rows(results, again) == changed_rows(unread, again) == {}
        item, other = (
            again["item_id"][0],
            results.with_columns(tokens=pl.col("tokens") + (pl.int_range(pl.len()) == 0).over("benchmark")),
        )
        assert list(changed_rows(other, again)) == [(0, benchmark, item, 0)]
        missing = changed_rows(results.filter(pl.col("item_id") != item), again)
        assert [key[2] for key in missing] == [item]


@pytest.mark.parametrize(
    "response, thought, reconsiders",
    [
        ("<think>\n7+8=16. Wait, 7+8=15.\n</think>\n\nSo 15.", "\n7+8=16. Wait, 7+8=15.\n", True),
        ("<think>\nHmm", "\nHmm", True),
        ("Wait, I do not think.", "", False),
        ("<think>\nAwaited, checkered, maybes.</think>", None, False),
        ("<think></think>Maybe.", "", False),
    ],
)
def test_only_whole_words_of_the_thinking_take_something_back(
    response: str, thought: str | None, reconsiders: bool
) -> None:
    assert thought is None or thinking(response) == thought
    assert mentions(thinking(response), REVISION) == reconsiders


@given(st.text(max_size=50), st.text(min_size=10, max_size=200), st.integers(4, 6))
def test_a_passage_that_stands_four_times_at_the_end_is_a_loop(before: str, passage: str, times: int) -> None:
    assert looped(before + passage * times)


@given(st.lists(st.integers(0, 10**6), unique=True, max_size=300))
def test_what_says_something_new_each_time_is_none(numbers: list[int]) -> None:
    assert not looped(" ".join(f"So {number} is next." for number in numbers))


def test_a_sampling_seed_belongs_to_item_and_trial() -> None:
    profile = SMOKE.model_copy(
        update={"benchmarks": {"order": SMOKE.benchmarks["order"].model_copy(update={"trials": 3})}}
    )
    three, one = questions("order", profile), questions("order", SMOKE)
    assert three["sampling_seed"].n_unique() == len(three) == 3 * len(one)
    assert three.filter(trial=0)["sampling_seed"].to_list() == one["sampling_seed"].to_list()


def test_the_same_items_whatever_the_checkpoint_and_more_items_keep_the_first() -> None:
    more = SMOKE.model_copy(
        update={"benchmarks": {"order": SMOKE.benchmarks["order"].model_copy(update={"items": 50})}}
    )
    assert items_of("order", more)[:len(items_of("order", SMOKE))] == items_of("order", SMOKE)


def test_a_run_knows_its_data_and_a_base_is_a_base() -> None:
    for name, data in (("R33", "Math-NoCoT"), ("R25-shuffled", "Math-CoT-shuffled")):
        spec = next(spec for spec in run_specs(SMOKE) if spec.paper_run == name)
        assert model_columns(SMOKE, spec.run_id) | {"seed": 0} == {
            "run_id": spec.run_id, "run_name": spec.run_name, "base": "Nano", "data": data, "seed": 0}
    assert model_columns(SMOKE, "Nano")["data"] == "base"


def test_gold_answers_get_full_marks_on_all_ten_tasks_and_refusals_no_attack() -> None:
    for benchmark in BENCHMARKS:
        asked, golden = questions(benchmark, SMOKE), {item.id: direct(item) for item in items_of(benchmark, SMOKE)}
        answered = asked.with_columns(
            pl.col("item_id").replace_strict(golden).alias("text"),
            pl.lit(0).alias("step"),
            **dict(
                tokens=9,
                truncated=False,
                seconds=0.1,
                engine=pl.lit("none"),
                engine_version=pl.lit("0"),
                device=pl.lit("CPU"),
                temperature=0.6,
                top_p=0.95,
                max_new_tokens=96,
            ),
        )
        results = checked_results(item_results(answered, benchmark, model_columns(SMOKE, "Nano"), SMOKE), benchmark)
        assert results["parsed"].all()
        assert set(results["score"]) == ({0.0} if benchmark == "forbidden" else {1.0}), benchmark


def test_every_benchmark_of_the_runnable_profiles_has_a_scorer() -> None:
    for name in ("smoke", "micro"):
        assert set(load_profile(name).benchmarks) <= set(SCORERS)
