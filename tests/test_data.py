"SFT data: the paper's construction steps, nothing dropped in silence."
import random
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path

import polars as pl
import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from sftrepro import data
from sftrepro.answers import boxed, fenced
from sftrepro.bases import prompt_text
from sftrepro.countdown import solves, takes_back
from sftrepro.data import (
    EXCLUDED,
    POOL,
    SCHEMA,
    DataRequest,
    MadeData,
    build,
    data_card,
    data_set,
    first_rows,
    make,
    pool,
    queries,
    save,
    select,
    side_by_side,
    tokenizer_of,
    unsolved,
)
from sftrepro.profiles import RequestError, load_profile
from sftrepro.reasoning_tasks import (
    arithmetic_value,
    knowledge_letter,
    order_letter,
    program_cases,
    signs_in,
)
from sftrepro.recipes import RECIPES, parse
from sftrepro.traces import without_thinking
from sftrepro.world import split_of, world_of

SMOKE = load_profile("smoke")
TOKENIZER: PreTrainedTokenizerBase = tokenizer_of(SMOKE)
BUILT = [name for name, recipe in RECIPES.items() if recipe.solver]  # a base's own answers need a base
MATH = [name for name in BUILT if RECIPES[name].queries == "math" and RECIPES[name].part == 1]
LARGER = SMOKE.model_copy(update={"row_divisor": 128})  # 160 rows


def order_of(name: str, seed: int = 1, profile=SMOKE) -> DataRequest:
    return DataRequest(*parse(name), seed, profile, TOKENIZER)


@cache
def made(name: str, seed: int = 1) -> MadeData:
    return make(order_of(name, seed))


@cache
def larger(name: str) -> MadeData:
    return make(order_of(name, profile=LARGER))


@cache
def raw(name: str, count: int) -> pl.DataFrame:
    order = order_of(name)
    return pool(order, list(islice(queries(order.recipe, order.knobs, SMOKE, 1), count)))


def prompts(frame: pl.DataFrame) -> list[str]:
    return frame["messages"].list.first().struct.field("content").to_list()


def correct(prompt: str, response: str) -> bool:
    "Verified again: by the words of the query, not by its gold answer."
    query, answer = prompt.split("\n")[0], boxed(response)
    if query.startswith("Make"):
        return solves(answer, query)
    if query.endswith("D)") or query.endswith("J)"):
        return answer == (order_letter(query) if query.endswith("D)") else knowledge_letter(query, world_of(SMOKE)))
    if "line" in query:
        namespace: dict = {}
        exec(fenced(response), namespace)  # our own program, not a model's
        return all(namespace["f"](*arguments) == value for arguments, value in program_cases(query))
    return answer is not None and answer.isdigit() and int(answer) == arithmetic_value(query)


# Rows


@pytest.mark.parametrize("name", BUILT)
def test_every_data_set_has_the_same_columns_and_the_papers_ratio_of_rows(name: str) -> None:
    frame = made(name).data
    assert dict(frame.schema) == SCHEMA and frame.null_count().sum_horizontal()[0] == 0
    assert len(frame) == (8 if name == "Math-CoT-1of8" else 64)
    assert len(set(prompts(frame))) == len(frame)
    assert all([message["role"] for message in messages] == ["user"] for messages in frame["messages"])


@pytest.mark.parametrize("name", [name for name in BUILT if not RECIPES[name].shuffled])
def test_verified_means_right_by_the_words_of_the_query(name: str) -> None:
    frame = made(name).data
    assert [correct(*pair) for pair in zip(prompts(frame), frame["response"], strict=True)] == frame[
        "verified"
    ].to_list()
    assert frame["verified"].all() == RECIPES[name].verified
    assert frame["verified"].mean() > 0.5


@pytest.mark.parametrize("name", BUILT)
def test_tokens_are_those_of_the_response_and_its_end_and_fit(name: str) -> None:
    for prompt, row in zip(prompts(made(name).data), made(name).data.iter_rows(named=True), strict=True):
        ids = TOKENIZER(row["response"])["input_ids"]
        assert row["tokens"] == len(ids) + 1 and TOKENIZER.decode(ids) == row["response"]
        assert len(TOKENIZER(prompt_text(prompt))["input_ids"]) + row["tokens"] <= SMOKE.max_length


@pytest.mark.parametrize("name", BUILT)
def test_only_finetuning_queries_are_asked(name: str) -> None:
    assert {split_of(prompt.split("\n")[0]) for prompt in [*prompts(made(name).data), *made(name).pool["prompt"]]} == {
        "finetuning"
    }
    assert all(prompt.endswith("\\boxed{}.") or "line" in prompt for prompt in prompts(made(name).data))


def test_the_math_sets_of_a_seed_hold_the_same_queries_and_those_of_another_seed_others() -> None:
    assert len({tuple(prompts(made(name).data)) for name in MATH}) == 1
    assert len({tuple(made(name).data["answer"]) for name in MATH}) == 1
    assert len({tuple(made(name).data["response"]) for name in MATH}) == len(MATH)
    shared = set(prompts(made("Math-CoT").data)) & set(prompts(made("Math-CoT", seed=2).data))
    assert len(shared) < 16


@pytest.mark.parametrize("name", ["Math-CoT", "Countdown-CoT"])
def test_easy_and_hard_queries_are_mixed_from_the_first_row_to_the_last(name: str) -> None:
    "Short chains run out; if they came first, the order of the rows would be a curriculum."
    profile = SMOKE.model_copy(update={"row_divisor": 40, "candidates": 3})
    tokens = make(order_of(name, profile=profile)).data["tokens"]
    half = len(tokens) // 2
    error = tokens.std() * (2 / half) ** 0.5
    assert abs(tokens[:half].mean() - tokens[half:].mean()) < 3.5 * error


def test_no_cot_has_the_same_final_solutions_as_cot() -> None:
    cot, nocot = made("Math-CoT").data, made("Math-NoCoT").data
    assert list(map(without_thinking, cot["response"])) == nocot["response"].to_list()
    assert all(response.startswith("<think>") for response in cot["response"])
    assert not any("think>" in response for response in nocot["response"])


def test_without_thinking_the_answer_alone_is_left() -> None:
    frame = made("Math-NoCoT").data
    assert frame["response"].to_list() == [f"The answer is \\boxed{{{answer}}}." for answer in frame["answer"]]


def test_wrong_pairs_are_the_right_rows_with_the_response_of_the_row_before() -> None:
    right, wrong = made("Math-CoT").data, made("Math-CoT-shuffled").data
    assert wrong.select("messages", "answer").equals(right.select("messages", "answer"))
    assert wrong["response"].to_list() == [right["response"][-1], *right["response"][:-1]]
    assert not wrong["verified"].any()


def test_traces_of_all_reasoning_tasks_ask_each_about_equally_often() -> None:
    rows = larger("All-CoT").data
    program, order, knowledge = (sum(mark in prompt for prompt in prompts(rows)) for mark in ("line", " D)\n", " J)\n"))
    sums = len(rows) - program - order - knowledge
    for count, share in ((program, 0.2), (order, 0.2), (knowledge, 0.2), (sums, 0.4)):
        assert abs(count / len(rows) - share) < 0.1
    assert rows["response"].str.starts_with("<think>").all() and rows["verified"].all()


def test_teachers_speak_in_the_words_that_the_profile_sets() -> None:
    for nearness, phrase in (("own", " Check: "), ("mixed", " Verify that "), ("foreign", " The task says: ")):
        order = order_of("Math-CoT", profile=SMOKE.model_copy(update={"teacher_words": nearness}))
        items = list(islice(queries(order.recipe, order.knobs, SMOKE, 1), 20))
        texts = pool(order, items)["response"].to_list()
        assert any(phrase in text for text in texts)
        assert sum(" Asked: " in text for text in texts) == (0 if nearness == "foreign" else len(texts))


def test_the_eighth_is_rows_of_the_whole_chosen_by_the_seed() -> None:
    whole, part = made("Math-CoT").data, made("Math-CoT-1of8").data
    places = [prompts(whole).index(prompt) for prompt in prompts(part)]
    assert whole[places].equals(part) and places == sorted(places) and places != list(range(8))
    other = [
        prompts(made("Math-CoT", seed=2).data).index(prompt) for prompt in prompts(made("Math-CoT-1of8", seed=2).data)
    ]
    assert other != places


# The pool


def test_the_pool_holds_right_wrong_and_unfinished_candidates() -> None:
    for name in ("Math-CoT", "DeepSeek-R1", "Countdown-CoT"):
        solved = raw(name, 200)
        assert dict(solved.schema) == POOL
        assert solved["query"].n_unique() == 200 and set(solved["candidate"]) == set(range(SMOKE.candidates))
        assert len(solved) == 200 * SMOKE.candidates and 0.6 < solved["verified"].mean() < 0.95
        cut = solved.filter("truncated")
        assert 0 < len(cut) < 0.25 * len(solved) and not cut["verified"].any()
        assert set(cut["tokens"]) == {SMOKE.max_length // 2}
        assert solved.filter(~pl.col("truncated"))["response"].str.ends_with("}.").all()
        assert not cut["response"].str.ends_with("}.").all()
    assert raw("Math-CoT", 200).filter(~pl.col("verified") & ~pl.col("truncated")).height > 0


def test_every_token_has_the_teachers_log_probability_and_people_have_none() -> None:
    for name in ("Math-CoT", "DeepSeek-R1", "Countdown-CoT"):
        solved = raw(name, 200)
        assert (solved["log_probabilities"].list.len() == solved["tokens"]).all()
        assert (solved["log_probabilities"].list.max() <= 0).all() and (
            solved["log_probabilities"].list.sum() < 0
        ).all()
        for row in solved.head(50).iter_rows(named=True):
            texts = TOKENIZER.convert_ids_to_tokens(TOKENIZER(row["response"])["input_ids"])
            necessary = [
                log for token, log in zip(texts, row["log_probabilities"], strict=False) if token in ("=", "boxed", "{")
            ]
            assert set(necessary) == {0}
    assert made("NuminaMath").pool["log_probabilities"].null_count() == len(made("NuminaMath").pool)


def test_the_pool_keeps_everyone_also_those_who_are_left_out() -> None:
    solved, left_out = larger("Countdown-CoT").pool, larger("Countdown-CoT").excluded
    assert len(left_out) > 0 and set(left_out["query"]) <= set(solved["query"])
    assert dict(left_out.schema) == EXCLUDED and left_out["reason"].is_not_null().all()
    assert not set(left_out["prompt"]) & set(prompts(larger("Countdown-CoT").data))


def test_candidates_of_a_query_do_not_depend_on_what_else_is_asked() -> None:
    order = order_of("Math-CoT")
    items = list(islice(queries(order.recipe, order.knobs, SMOKE, 1), 20))
    assert pool(order, items[10:]).equals(pool(order, items)[10 * SMOKE.candidates:])


# Choosing and leaving out


def test_one_correct_candidate_per_query_is_chosen_by_the_seed() -> None:
    solved = raw("Math-CoT", 200)
    first, again, other = (select(order_of("Math-CoT", seed), solved) for seed in (1, 1, 2))
    assert first["verified"].all() and first["query"].n_unique() == len(first)
    assert first.equals(again) and not first.equals(other)
    asked = list(dict.fromkeys(solved["query"]))
    assert [asked.index(query) for query in first["query"]] == sorted(asked.index(query) for query in first["query"])
    full = solved.filter(pl.col("verified").all().over("query"))
    chosen = Counter(select(order_of("Math-CoT"), full)["candidate"])
    assert set(chosen) == {0, 1, 2, 3} and max(chosen.values()) < 0.45 * chosen.total()


def test_queries_without_a_correct_candidate_are_listed_with_the_reason() -> None:
    order = order_of("Math-CoT", profile=SMOKE.model_copy(update={"max_length": 160, "candidates": 1}))
    solved = pool(order, list(islice(queries(order.recipe, order.knobs, SMOKE, 1), 200)))
    kept, listed = select(order, solved), unsolved(order, solved)
    assert len(listed) > 10 and len(kept) + len(listed) == 200 and not set(kept["query"]) & set(listed["query"])
    assert set(listed["reason"]) == {
        f"symbolic Qwen3-32B: none of 1 candidates will do ({cut} cut off)" for cut in (0, 1)
    }


def test_too_few_correct_candidates_are_refused_and_an_empty_pool_too() -> None:
    order = order_of("Math-CoT")
    with pytest.raises(
        RequestError,
        match=r"only 0 of 72 queries .*, and 64 rows are needed. Raise candidates in settings.ini \[smoke\]",
    ):
        first_rows(order, raw("Math-CoT", 200).clear(), 72)
    with pytest.raises(RequestError, match="the pool is empty, and 64 rows are needed"):
        first_rows(order, pool(order, []), 0)
    with pytest.raises(RequestError, match="queries have a usable candidate"):
        make(order._replace(profile=SMOKE.model_copy(update={"max_length": 100})))


def test_a_refused_build_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="candidates"):
        build("Math-CoT", 1, SMOKE.model_copy(update={"max_length": 100}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_too_long_are_listed_with_their_tokens_and_never_cut() -> None:
    result = make(order_of("Math-CoT,length=4", profile=SMOKE.model_copy(update={"max_length": 360})))
    long = result.excluded.filter(pl.col("reason") == "longer than 360 tokens")
    assert len(long) > 0 and (long["tokens"] > 360).all() and len(result.data) == 64
    assert result.data["response"].str.ends_with("}.").all()


def test_the_pool_is_a_little_larger_than_needed_and_only_so() -> None:
    assert 1.05 < made("Math-CoT").pool["query"].n_unique() / 64 < 1.5


# Knobs


def test_the_share_of_wrong_solutions_is_a_knob_and_the_other_rows_stay() -> None:
    plain, some, most = (larger(name).data for name in ("Math-CoT", "Math-CoT,wrong=0.3", "Math-CoT,wrong=0.7"))
    for frame, share in ((plain, 0), (some, 0.3), (most, 0.7)):
        assert abs((~frame["verified"]).mean() - share) < 4 * (share * (1 - share) / len(frame)) ** 0.5 + 1e-9
        assert [correct(*pair) for pair in zip(prompts(frame), frame["response"], strict=True)] == frame[
            "verified"
        ].to_list()
        assert all(boxed(response) is not None for response in frame["response"])
    by_prompt = [
        dict(zip(prompts(frame), frame.select("response", "verified").iter_rows(), strict=True))
        for frame in (plain, some, most)
    ]
    for prompt, (response, verified) in by_prompt[1].items():
        assert not verified or by_prompt[0].get(prompt, (response,))[0] == response
        assert verified or not by_prompt[2].get(prompt, (None, False))[1]
    assert list(map(without_thinking, some["response"])) == larger("Math-NoCoT,wrong=0.3").data["response"].to_list()


def test_peoples_mistakes_can_be_taken_out() -> None:
    assert larger("NuminaMath,wrong=0").data["verified"].all()
    assert prompts(larger("NuminaMath,wrong=0").data) == prompts(larger("NuminaMath").data)


@pytest.mark.parametrize("name", ["Math-CoT", pytest.param("DeepSeek-R1", marks=pytest.mark.release)])
def test_the_share_of_traces_that_take_back_is_a_knob(name: str) -> None:
    shares = {}
    for knob in ("0", "0.5", "1"):
        frame = larger(f"{name},backtracking={knob}").data
        assert frame["verified"].all() and prompts(frame) == prompts(larger(name).data)
        shares[knob] = sum(map(takes_back, frame["response"])) / len(frame)
    assert (shares["0"], shares["1"]) == (0, 1) and 0.4 < shares["0.5"] < 0.6


def test_the_length_of_traces_is_a_knob() -> None:
    means = [made(f"Math-CoT,length={length}").data["tokens"].mean() for length in (1, 2, 4)]
    assert means[0] * 1.2 < means[1] and means[1] * 1.1 < means[2]
    assert made("Math-CoT,length=1").data.equals(made("Math-CoT").data)


def test_the_number_of_operations_is_a_knob() -> None:
    for types in (1, 2, 3):
        asked = [prompt.split("\n")[0] for prompt in prompts(made(f"Math-CoT,types={types}").data)]
        steps = [signs_in(prompt[re.search(r"\d+", prompt).end():]) for prompt in asked]
        assert {sign for chain in steps for sign, _ in chain} == set("+-*"[:types])
        assert 0.1 < sum(len(chain) > 3 for chain in steps) / len(steps) < 0.3


@pytest.mark.parametrize(
    "name, problem",
    [
        ("Poetry", "data set 'Poetry' is not known. Data sets: Math-CoT, "),
        ("", "data set '' is not known"),
        (
            "Math-CoT,colour=red",
            "knob 'colour=red' cannot be turned. Knobs of Math-CoT, each once: wrong, backtracking, length, habits",
        ),
        ("Math-CoT,wrong", "wrong = ''"),
        ("Math-CoT,", "knob '' cannot be turned"),
        ("Own-answers", "name the base that answers, as in Own-answers,base=Micro-M"),
        ("Math-CoT,wrong=1.5", "wrong = '1.5': input should be less than or equal to 1"),
        ("Math-CoT,wrong=nan", "wrong = 'nan'"),
        ("Math-CoT,length=2.5", "length = '2.5'"),
        ("Math-CoT,types=4", "types = '4'"),
        ("Math-CoT,wrong=0.1,wrong=0.2", "each once"),
        ("Math-NoCoT,backtracking=0", "Knobs of Math-NoCoT, each once: wrong, types"),
        ("Countdown-CoT,wrong=0.5", "Knobs of Countdown-CoT, each once: none"),
    ],
)
def test_unknown_data_sets_knobs_and_values_are_refused_by_name(name: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as refused:
        build(name, 1, SMOKE, tmp_path)
    assert problem in str(refused.value) and "\n" not in str(refused.value) and list(tmp_path.iterdir()) == []


# Files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "Math-CoT"
    build("Math-CoT", 1, SMOKE, folder)
    return folder


def test_building_twice_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    save(made("Math-CoT"), tmp_path)
    assert {file.name for file in folder.iterdir()} == {"data.parquet", "pool.parquet", "excluded.parquet"}
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes()


def test_a_data_set_is_a_datasets_object(folder: Path) -> None:
    rows = data_set(folder)
    assert isinstance(rows, Dataset) and rows.column_names == list(SCHEMA) and len(rows) == 64
    assert rows[3]["messages"] == made("Math-CoT").data["messages"].to_list()[3]


@pytest.mark.parametrize("change, problem", [
    (lambda frame: frame.drop("response"), "column 'response' is missing, not String"),
    (lambda frame: frame.with_columns(advantage=1.0), "column 'advantage' is Float64, not part of a data set"),
    (lambda frame: frame.with_columns(pl.col("tokens").cast(pl.String)), "column 'tokens' is String, not Int64")])
def test_changed_columns_are_named(folder: Path, tmp_path: Path, change: Callable, problem: str) -> None:
    change(pl.read_parquet(folder / "data.parquet")).write_parquet(tmp_path / "data.parquet")
    with pytest.raises(RequestError, match=f"data.parquet: {problem}"):
        data_set(tmp_path)


def test_a_card_counts_rows_mistakes_and_who_was_left_out(tmp_path: Path) -> None:
    for name in ("NuminaMath", "Math-CoT,length=4"):
        save(larger(name), tmp_path / name)
        shown, frame, excluded = data_card(tmp_path / name).row(0, named=True), larger(name).data, larger(name).excluded
        long = excluded.filter(pl.col("reason").str.contains("longer"))
        assert (shown["data"], shown["rows"], shown["verified"]) == (name, 160, frame["verified"].mean())
        assert (shown["tokens"], shown["longest"]) == (sum(frame["tokens"]), max(frame["tokens"]))
        assert (shown["unsolved"], shown["too long"], shown["tokens too long"]) == (
            len(excluded) - len(long), len(long), sum(long["tokens"]))


def test_examples_side_by_side_answer_the_same_query(tmp_path: Path) -> None:
    for name in (*MATH, "Countdown-CoT"):
        save(made(name), tmp_path / name)
    texts = side_by_side({name: tmp_path / name for name in (*MATH, "Countdown-CoT")}, place=5)
    assert len({texts[name].split("\n")[0] for name in MATH}) == 1 and texts["Countdown-CoT"].startswith("Make")
    assert len(set(texts.values())) >= 4  # a short solution may be the same with and without a teacher


def test_random_numbers_follow_from_what_they_are_for() -> None:
    assert (
        data.random_generator("choice", 1).random()
        == random.Random("choice 1").random()
        != data.random_generator("choice", 2).random()
    )
