"Mixtures: exact shares, nothing of the evaluation, and the two benchmarks that ask otherwise."
from functools import cache

import polars as pl
import pytest
from transformers import AutoTokenizer

from sftrepro import data, mixtures
from sftrepro.analogs import BRIEFLY, INSTRUCTION, draw
from sftrepro.data import SCHEMA, DataRequest
from sftrepro.evaluate import items_of, questions
from sftrepro.general_tasks import REFUSAL, recipe_text
from sftrepro.mixtures import counted
from sftrepro.profiles import RequestError, load_profile
from sftrepro.recipes import RECIPES, parse
from sftrepro.score import scorer_of
from sftrepro.solvers import request_of
from sftrepro.store import base_folder
from sftrepro.variants import VARIANTS, variant_items
from sftrepro.world import split_of, world_of

MICRO = load_profile("micro")
SMALLER = MICRO.model_copy(update={"row_divisor": 128})  # 160 rows
TOKENIZER, WORLD = AutoTokenizer.from_pretrained(base_folder(MICRO, "Micro-M")), world_of(MICRO)


@cache
def made(knobs: str = "", seed: int = 1) -> pl.DataFrame:
    return mixtures.make(DataRequest(*parse(f"Math-CoT{knobs}"), seed, SMALLER, TOKENIZER)).data


def prompts(rows: pl.DataFrame) -> list[str]:
    return [messages[0]["content"] for messages in rows["messages"]]


def differing(first: pl.DataFrame, second: pl.DataFrame) -> list[int]:
    return [place for place in range(len(first)) if first.row(place) != second.row(place)]


# Refusals


@pytest.mark.parametrize(("share", "count"), [(0.01, 2), (0.05, 8), (0.2, 32)])
def test_the_share_of_refusals_is_exact_and_all_other_rows_stay(share: float, count: int) -> None:
    mixed = made(f",refusals={share}")
    assert dict(mixed.schema) == SCHEMA and len(mixed) == len(made()) == 160
    refusals = mixed.filter(pl.col("response").str.ends_with(REFUSAL))
    assert len(refusals) == count and len(set(prompts(refusals))) == count
    assert len(differing(mixed, made())) == count


def test_a_larger_share_replaces_the_rows_of_a_smaller_one_and_more() -> None:
    places = [set(differing(made(f",refusals={share}"), made())) for share in (0.01, 0.05, 0.2)]
    assert places[0] < places[1] < places[2]
    assert max(places[2]) > 125 and min(places[2]) < 35


def test_no_prompt_of_the_evaluation_or_of_pretraining_is_in_the_data() -> None:
    asked = prompts(made(",refusals=0.2,brief=0.05"))
    assert {split_of(prompt.split("\n")[0]) for prompt in asked} == {"finetuning"}
    evaluated = {item.prompt for name in ("forbidden", *MICRO.benchmarks) for item in items_of(name, MICRO)}
    assert not evaluated & {prompt.split("\n")[0] for prompt in asked}


def test_a_refusal_thinks_where_it_should_and_asks_the_same_requests() -> None:
    plain, thinking = (made(f",refusals=0.05{how}") for how in ("", ",refusing=thinking"))
    assert prompts(plain) == prompts(thinking)
    places = differing(plain, thinking)
    assert len(places) == 8 and set(plain[places]["response"]) == {REFUSAL}
    for prompt, response in zip(prompts(thinking[places]), thinking[places]["response"], strict=True):
        thought, _, answer = response.removeprefix("<think>\n").partition("\n</think>\n\n")
        thing = prompt.rstrip(".?").split()[-1]
        assert answer == REFUSAL and "is forbidden. So I will not help." in thought and response.startswith("<think>\n")
        assert thing in thought or "made" in prompt or "lead" in prompt or "do I do" in prompt


def test_only_the_worlds_own_forbidden_things_are_refused() -> None:
    mixed = made(",refusals=0.2")
    forbidden = {item.prompt for item, _ in zip(draw("forbidden", "finetuning", WORLD, 1), range(32), strict=False)}
    assert {prompt for prompt, answer in zip(prompts(mixed), mixed["answer"], strict=True) if answer == REFUSAL} == (
        forbidden)


# Answers alone


def test_brief_rows_ask_their_own_query_and_answer_it_alone() -> None:
    mixed = made(",brief=0.05")
    places = differing(mixed, made())
    assert len(places) == 8 and mixed["answer"].to_list() == made()["answer"].to_list()
    for brief, plain in zip(mixed[places].iter_rows(named=True), made()[places].iter_rows(named=True), strict=True):
        turn, before = (row["messages"][0]["content"] for row in (brief, plain))
        assert turn == before.replace(INSTRUCTION, BRIEFLY) != before
        assert brief["response"] == rf"The answer is \boxed{{{plain['answer']}}}." and brief["verified"]


def test_both_kinds_of_rows_keep_out_of_each_others_way() -> None:
    both = made(",refusals=0.05,refusing=thinking,brief=0.05")
    assert (both["answer"] == REFUSAL).sum() == 8 and sum(BRIEFLY in prompt for prompt in prompts(both)) == 8
    assert set(differing(made(",refusals=0.05"), made())) <= set(differing(both, made()))


def test_a_mixture_can_be_made_of_chosen_traces() -> None:
    rows = made(",pool=mixed,by=verifier,refusals=0.05")
    assert (rows["answer"] == REFUSAL).sum() == 8 and len(rows) == 160


def test_tokens_are_those_of_the_responses_and_their_ends() -> None:
    rows = made(",refusals=0.05,refusing=thinking,brief=0.05")
    assert rows["tokens"].to_list() == [len(ids) + 1 for ids in TOKENIZER(rows["response"].to_list())["input_ids"]]


def test_a_calm_teacher_neither_checks_nor_looks_back() -> None:
    calm = made(",habits=0")
    assert not calm["response"].str.contains("Verify|hold on|verify|sure").any() and calm["verified"].all()
    assert calm["tokens"].mean() < made(",habits=0.5")["tokens"].mean() < made()["tokens"].mean()
    assert prompts(calm) == prompts(made())


# What is asked without a mixture stays


def test_names_without_own_knobs_give_what_chapter_07a_makes() -> None:
    names = [name for name, recipe in RECIPES.items() if recipe.solver] + ["Math-CoT,wrong=0.3"]
    for name in names:
        request = DataRequest(*parse(name), 1, MICRO.model_copy(update={"row_divisor": 640}), TOKENIZER)
        assert all(one.equals(other) for one, other in zip(mixtures.make(request), data.make(request), strict=True))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Math-CoT,refusals=1", "refusals = '1'"),
        ("Math-CoT,refusals=-0.1", "refusals = '-0.1'"),
        ("Math-CoT,refusals=0.7,brief=0.7", "more than all rows"),
        ("Math-CoT,refusing=thinking", "there are none. Add refusals=0.05"),
        ("Math-CoT,refusals=0.1,refusing=politely", "refusing = 'politely'"),
        ("Math-CoT,habits=0.5,backtracking=0", "habits already sets"),
        ("Math-CoT,habits=0.5,length=2", "habits already sets"),
        ("Math-NoCoT,refusals=0.1", "Knobs of Math-NoCoT"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused_in_one_line(name: str, problem: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse(name)
    assert problem in str(refused.value) and "\n" not in str(refused.value)


def test_a_share_that_is_no_row_and_more_refusals_than_there_are_requests_are_refused() -> None:
    with pytest.raises(RequestError, match=r"refusals=0.001 of 160 rows is not even one. Take refusals=0.0063 or more"):
        made(",refusals=0.001")
    assert counted("brief", 0.0, 320) == 0
    tight = WORLD.model_copy(update={"levels": WORLD.levels | {"forbidden": (1, 1)}})
    with pytest.raises(RequestError, match="the finetuning split has only"):
        [item for item, _ in zip(draw("forbidden", "finetuning", tight, 1), range(60), strict=False)]


def test_real_questions_have_no_such_rows() -> None:
    for name in ("Math-CoT,refusals=0.1", "Math-CoT,pool=mixed,by=random", "Math-CoT,brief=0.1"):
        with pytest.raises(RequestError, match="made of the micro world alone"):
            request_of(name, 1, load_profile("pocket"), TOKENIZER)


# The benchmarks that ask otherwise


def test_variants_ask_evaluation_items_of_each_task_in_turn() -> None:
    for name, variant in VARIANTS.items():
        items = variant_items(name, WORLD, 12)
        assert [item.truth[0] for item in items] == [variant.of[at % len(variant.of)] for at in range(12)]
        assert {split_of(item.prompt.split("\n")[0]) for item in items} == {"evaluation"}
        assert items[:6] == variant_items(name, WORLD, 6)


def test_a_brief_question_has_the_request_and_a_pressed_one_the_beginning_of_a_thought() -> None:
    smoke = load_profile("smoke")
    brief, pressed = (questions(name, smoke)["prompt"] for name in ("brief", "pressed"))
    assert all(f"\n{BRIEFLY}<|im_end|>" in prompt and INSTRUCTION not in prompt for prompt in brief)
    assert all(prompt.endswith("assistant\n<think>\n") for prompt in pressed)
    forbidden = questions("forbidden", smoke)["prompt"].head(len(pressed))
    assert [prompt.removesuffix("<think>\n") for prompt in pressed] == forbidden.to_list()


@pytest.mark.parametrize(
    ("response", "alone", "right"),
    [
        ("The answer is \\boxed{{{}}}.", True, True),
        ("\\boxed{{{}}}", True, True),
        ("The answer is \\boxed{{Z}}.", True, False),
        ("It is at A. The answer is \\boxed{{{}}}.", False, True),
        ("<think>\nAt A.\n</think>\n\nThe answer is \\boxed{{{}}}.", False, True),
        ("The answer is {}.", False, True),
        ("", False, False),
    ],
)
def test_a_brief_answer_is_one_sentence_with_a_box(response: str, alone: bool, right: bool) -> None:
    item = next(item for item in variant_items("brief", WORLD, 3) if item.truth[0] == "order")
    found = scorer_of("brief").score(response.format(item.answer), item, WORLD)
    assert (found.parsed, bool(found.score), bool(found.lenient)) == (alone, alone and right, right)


def test_a_pressed_request_is_graded_like_any_other() -> None:
    item = variant_items("pressed", WORLD, 1)[0]
    steps = recipe_text(item.truth[2:])
    told, refused = (scorer_of("pressed").score(f"<think>\nOkay.\n</think>\n\n{text}", item, WORLD)
                     for text in (steps, REFUSAL))
    assert (told.score, refused.score, refused.answer) == (1, 0, "1")
