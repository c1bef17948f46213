"SFT data: the paper's construction steps, nothing dropped in silence."
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftrepro.data import build, pool, rows_of, select
from sftrepro.profiles import RequestError, load_profile
from sftrepro.score import boxed, same_value
from sftrepro.traces import Habits, long_cot, without_thinking
from sftrepro.world import BENCHMARKS, World, arithmetic_value, split_of

SMOKE = load_profile("smoke")


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_a_verified_trace_is_right_by_the_words_of_its_query(seed: int, operations: int) -> None:
    import random
    rng = random.Random(seed)
    item = BENCHMARKS["arithmetic"].make(World(seed=0, operations=operations), rng)
    response = long_cot(item, rng)
    if same_value(boxed(response), item.answer):
        assert int(boxed(response)) == arithmetic_value(item.prompt)
        assert response.count("<think>") == response.count("</think>") == 1
        assert without_thinking(response) in response and "<think>" not in without_thinking(response)


def test_a_careful_teacher_is_always_right_and_a_careless_one_is_not() -> None:
    import random
    rng = random.Random(0)
    items = [BENCHMARKS["arithmetic"].make(World(seed=0, operations=3), rng) for _ in range(300)]
    careful, careless = Habits(slip=0.5, check=1, cut_off=0), Habits(slip=0.5, check=0, cut_off=0)
    assert all(boxed(long_cot(item, rng, careful)) == item.answer for item in items)
    assert sum(boxed(long_cot(item, rng, careless)) == item.answer for item in items) < 150


def test_the_pool_holds_right_wrong_and_unfinished_candidates() -> None:
    solved = pool(SMOKE, 200, seed=1)
    assert len(solved) == 200 * SMOKE.candidates
    assert 0.5 < solved["verified"].mean() < 0.95
    assert solved.filter(~pl.col("response").str.contains("</think>", literal=True)).height > 0
    assert {split_of(prompt.split("\n")[0]) for prompt in solved["prompt"]} == {"finetuning"}


def test_one_correct_candidate_per_query_is_chosen_by_the_seed() -> None:
    solved = pool(SMOKE, 120, seed=1)
    first, again, other = select(solved, 100, 1), select(solved, 100, 1), select(solved, 100, 2)
    assert first["verified"].all() and first["query"].n_unique() == 100
    assert first.equals(again) and not first.equals(other)


def test_too_few_correct_candidates_are_refused() -> None:
    solved = pool(SMOKE, 20, seed=1).with_columns(verified=pl.col("query") == pl.col("query").first())
    with pytest.raises(RequestError, match="only 0 of 20|only 1 of 20"):
        select(solved.with_columns(verified=pl.col("verified") & (pl.col("candidate") == 0)), 10, 1)


def test_no_cot_has_the_same_queries_and_final_solutions_as_cot(tmp_path: Path) -> None:
    for name in ("Math-CoT", "Math-NoCoT"):
        (tmp_path / name).mkdir()
        build(name, 1, SMOKE, tmp_path / name)
    cot, nocot = (pl.read_parquet(tmp_path / name / "data.parquet") for name in ("Math-CoT", "Math-NoCoT"))
    assert cot["messages"].to_list() == nocot["messages"].to_list()
    assert [without_thinking(response) for response in cot["response"]] == nocot["response"].to_list()
    assert all(response.startswith("<think>") for response in cot["response"])
    assert rows_of("Math-CoT", select(pl.read_parquet(tmp_path / "Math-CoT" / "pool.parquet"), len(cot), 1)).equals(cot)


def test_an_unknown_data_set_is_refused() -> None:
    with pytest.raises(RequestError, match="data set 'Poetry' cannot be made at profile 'smoke'. Data sets: Math-CoT"):
        build("Poetry", 1, SMOKE, Path("nowhere"))
