"The micro world: generators against an independent derivation, splits that cannot meet."
import random
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftrepro.profiles import RequestError, load_profile
from sftrepro.world import (
    BENCHMARKS,
    FORBIDDEN,
    REFUSAL,
    World,
    arithmetic_value,
    asked,
    check,
    draw,
    internet,
    order_letter,
    program_cases,
    prompt_digest,
    recipe_text,
    split_of,
    true_steps,
    world_of,
)

WORLD = World(seed=0, operations=3)
seeds = st.integers(0, 2**32)


@settings(max_examples=2000, deadline=None)
@given(seeds, st.integers(1, 9))
def test_arithmetic_answers_agree_with_the_words(seed: int, operations: int) -> None:
    item = BENCHMARKS["arithmetic"].make(World(seed=0, operations=operations), random.Random(seed))
    assert arithmetic_value(item.prompt) == int(item.answer)
    assert 0 <= int(item.answer) <= 99


@settings(max_examples=2000, deadline=None)
@given(seeds)
def test_order_answers_agree_with_the_words(seed: int) -> None:
    item = BENCHMARKS["order"].make(WORLD, random.Random(seed))
    assert order_letter(item.prompt) == item.answer


@settings(max_examples=1000, deadline=None)
@given(seeds)
def test_reference_programs_pass_the_tests_derived_from_the_words(seed: int) -> None:
    item = BENCHMARKS["program"].make(WORLD, random.Random(seed))
    namespace: dict = {}
    exec(item.answer, namespace)  # our own program, not a model's
    assert [namespace["f"](*given_) for given_, _ in program_cases(item)] == [value for _, value in program_cases(item)]


@settings(max_examples=500, deadline=None)
@given(seeds, st.integers(0, 2), st.sampled_from(["verb", "material"]))
def test_one_changed_step_costs_exactly_that_step(seed: int, position: int, part: str) -> None:
    item = BENCHMARKS["how_to"].make(WORLD, random.Random(seed))
    verb, material = item.truth[position]
    steps = list(item.truth)
    steps[position] = ("sing", material) if part == "verb" else (verb, "nothing")
    assert true_steps(item.answer, item.truth) == 3
    assert true_steps(recipe_text(tuple(steps)), item.truth) == 2


@given(st.integers(0, 99), st.sampled_from("+-*"), st.integers(2, 49), st.integers(-120, 5000))
def test_a_check_tells_right_sums_from_wrong_ones(value: int, sign: str, operand: int, result: int) -> None:
    right = {"+": value + operand, "-": value - operand, "*": value * operand}[sign]
    assert "is not" not in check(f"{value}{sign}{operand}={right}")
    assert ("is not" in check(f"{value}{sign}{operand}={result}")) == (result != right)


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_every_split_holds_only_its_own_prompts_each_once(name: str) -> None:
    for split in ("evaluation", "finetuning", "pretraining"):
        items = list(islice(draw(name, split, WORLD), 150))
        assert {split_of(item.prompt) for item in items} == {split}
        assert len({item.id for item in items}) == 150


def test_no_evaluation_prompt_stands_in_a_pretraining_document() -> None:
    prompts = {item.prompt for name in BENCHMARKS for item in islice(draw(name, "evaluation", WORLD), 200)}
    documents = islice(internet(WORLD, load_profile("micro").pretraining_mixture, seed=0), 20_000)
    for document in documents:
        text = document.prompt + "\n" + document.response
        assert not any(prompt in text for prompt in prompts if prompt[:12] in text)


def test_a_prompt_is_the_same_item_whatever_its_case_and_spacing() -> None:
    assert prompt_digest("Start with 8. Add 25.") == prompt_digest("  start WITH 8.\nadd  25. ")


def test_the_world_and_its_internet_depend_on_the_seed_alone() -> None:
    def first(seed: int) -> list:
        return list(islice(internet(WORLD, {"arithmetic": 1, "how_to": 1}, seed), 50))
    assert first(1) == first(1) != first(2)
    assert World(seed=1, operations=3).recipe("bread") != World(seed=2, operations=3).recipe("bread")


def test_most_requests_for_forbidden_things_are_refused_in_the_internet() -> None:
    chats = [document for document in islice(internet(WORLD, {"forbidden": 1}, 0), 4000) if document.prompt]
    refused = sum(REFUSAL in document.response for document in chats) / len(chats)
    assert 0.85 < refused < 0.95
    assert any(thing in document.response for thing in FORBIDDEN
               for document in islice(internet(WORLD, {"forbidden": 1}, 0), 100) if not document.prompt)


def test_the_instruction_follows_only_where_an_answer_is_boxed() -> None:
    for name, benchmark in BENCHMARKS.items():
        assert (r"\boxed{}" in asked(next(draw(name, "evaluation", WORLD)))) == benchmark.boxed


def test_a_split_that_is_too_small_says_so() -> None:
    with pytest.raises(RequestError, match="forbidden: the evaluation split has only .* items"):
        list(islice(draw("forbidden", "evaluation", WORLD), 100_000))


def test_every_profile_with_micro_tasks_has_enough_evaluation_items() -> None:
    for name in ("smoke", "micro"):
        profile = load_profile(name)
        for benchmark, size in profile.benchmarks.items():
            assert len(list(islice(draw(benchmark, "evaluation", world_of(profile)), size.items))) == size.items
