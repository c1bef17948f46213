"The profile `pocket`: its answers are right by a second derivation, nothing it asks is trained on, and it is cheap."
import re
from collections import Counter
from functools import cache
from itertools import islice
from random import Random

import polars as pl
import pytest
import reasoning_gym
from hypothesis import given
from hypothesis import strategies as some

from sftrepro import costs
from sftrepro.analogs import INSTRUCTION
from sftrepro.bases import train_tokenizer
from sftrepro.benchmarks import MADE, real_items
from sftrepro.controls import group_of
from sftrepro.evaluate import benchmarks_of, questions
from sftrepro.item_results import read_results
from sftrepro.measurements import measured
from sftrepro.profiles import load_profile
from sftrepro.runs import THINKING, run_specs
from sftrepro.score import scorer_of
from sftrepro.solvers import MIXTURES, THINKERS, make, request_of
from sftrepro.stats import estimates
from sftrepro.word_problems import cube_item, family_item, gym, gym_items
from sftrepro.workflow import jobs
from sftrepro.world import Item, split_of

POCKET = load_profile("pocket")
NAMES = [benchmark.name for benchmark in MADE]
WRONG = {"ChainSum": "99999", "Equations": "0.5", "Legs": "-1", "Families": "cousin", "Sorting": "1, 2", "Cubes": "up"}
FEW = POCKET.model_copy(update={"row_divisor": 512, "candidates": 2})


@cache
def items(name: str) -> list[Item]:
    return real_items(name, 200)


def bare(item: Item) -> str:
    "A question without the instruction to box its answer."
    return item.prompt.removesuffix(f"\n {INSTRUCTION}")


# Answers, derived a second time from the words of the questions


def sum_of(question: str) -> str:
    numbers = question.removeprefix("Calculate ").removesuffix(".").replace("- ", "-").replace("+ ", "").split()
    return str(sum(map(int, numbers)))


def unknown_of(question: str) -> str:
    "The number that fits an equation, found by trying."
    left, right = question.rpartition(": ")[2].split(" = ")
    terms = [(int(sign + number), bool(factor)) for sign, number, factor in
             re.findall(r"(-?)(\d+)(\*\w)?", left.replace("- ", "-"))]
    return next(str(unknown) for unknown in range(1, 2000)
                if sum(number * (unknown if factor else 1) for number, factor in terms) == int(right))


LEGS = {"snake": 0, "sea slug": 0, "jellyfish": 0, "flatworm": 0, "leech": 0, "chicken": 2, "bird": 2, "human": 2,
        "duck": 2, "dog": 4, "cat": 4, "cow": 4, "horse": 4, "lion": 4, "elephant": 4, "giraffe": 4, "tiger": 4,
        "deer": 4, "sheep": 4, "starfish": 5, "spider": 8, "scorpion": 8, "crab": 10, "lobster": 10, "shrimp": 10,
        "woodlouse": 14}  # the others are insects


def legs_of(question: str) -> str:
    counted = re.findall(r"(\d+) ([a-z ]+)", question.partition(" have ")[2])
    return str(sum(int(count) * LEGS.get(animal.removesuffix("s") if int(count) > 1 else animal, 6)
                   for count, animal in counted))


MEN = set(reasoning_gym.create_dataset("family_relationships", size=1).config.male_names)


def relation_of(question: str) -> str:
    "By the couples and the children that the story names."
    couples, parents = [], {}
    for sentence in question.split(".")[:-1]:
        if married := re.search(r"(\w+) is married to (\w+)", sentence):
            couples.append(set(married.groups()))
        else:
            parents |= dict.fromkeys(re.findall(r"[A-Z]\w+", sentence.partition("called")[2]), couples[-1])
    one, other = re.search(r"is (\w+) (?:related )?to (\w+)\?", question).groups()
    grandparents = {old for parent in parents.get(other, ()) for old in parents.get(parent, ())}
    cases = {"father mother": one in parents.get(other, ()), "son daughter": other in parents.get(one, ()),
             "husband wife": {one, other} in couples, "grandfather grandmother": one in grandparents,
             "brother sister": one in parents and parents[one] == parents.get(other)}
    (words,) = (words for words, holds in cases.items() if holds)
    return words.split()[one not in MEN]


def order_of(question: str) -> str:
    numbers = sorted(map(int, re.findall(r"\d+", question)), reverse="descending" in question)
    return ", ".join(map(str, numbers))


PLACES = {"top": (0, 0, 1), "bottom": (0, 0, -1), "front": (0, -1, 0), "back": (0, 1, 0), "left": (-1, 0, 0),
          "right": (1, 0, 0)}


def colour_of(question: str) -> str:
    "By turning vectors: the side that comes to the top goes up, the top goes to the other side of it."
    colours = {PLACES[side]: colour for colour, side in re.findall(r"- a (\w+) (\w+) side", question)}
    begin, up = PLACES[re.search(r"before at the (\w+)", question)[1]], PLACES["top"]

    def turned(place: tuple[int, ...]) -> tuple[int, ...]:
        along, height = (sum(map(int.__mul__, place, axis)) for axis in (begin, up))
        return tuple(value + along * (above - side) - height * (above + side)
                     for value, above, side in zip(place, up, begin, strict=True))
    after = {turned(place): colour for place, colour in colours.items()}
    return after[PLACES[re.search(r"color of the (\w+) side", question)[1]]]


DERIVED = {"ChainSum": sum_of, "Equations": unknown_of, "Legs": legs_of, "Families": relation_of, "Sorting": order_of,
           "Cubes": colour_of}


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_is_right_by_a_second_derivation(name: str) -> None:
    for item in items(name):
        assert DERIVED[name](bare(item)) == item.answer, item.prompt


def test_answers_that_reasoning_gym_has_wrong_or_open_are_not_asked() -> None:
    def left_out(kind: str, make) -> list[dict]:
        return [problem for problem in islice(gym(kind, 1), 300) if make(problem) is None]
    assert {problem["answer"] for problem in left_out("family_relationships", family_item)} == {
        "mother-in-law", "father-in-law"}
    assert {tuple(problem["metadata"]["rotations"]) for problem in left_out("color_cube_rotation", cube_item)} == {
        ("bottom",)}


@pytest.mark.parametrize("name", NAMES)
def test_always_saying_the_same_is_not_worth_it(name: str) -> None:
    (_, most), = Counter(item.answer for item in items(name)).most_common(1)
    assert most <= 0.3 * len(items(name))


# What is asked, and what is trained on


@pytest.mark.parametrize("name", NAMES)
def test_questions_are_distinct_and_of_the_evaluation_split(name: str) -> None:
    assert len({item.id for item in items(name)}) == len(items(name))
    assert {split_of(bare(item)) for item in items(name)} == {"evaluation"}
    assert real_items(name, 20) == items(name)[:20]


@pytest.fixture(scope="module")
def tokenizer():
    "A stand-in that has read traces of each kind."
    kinds = [kind for part in MIXTURES["gym"] for kind in part]
    return train_tokenizer(THINKERS[0].write(item, Random(number)).text for kind in kinds
                           for number, item in enumerate(islice(gym_items(kind, 3), 60)) if isinstance(item, Item))


def test_the_data_sets_share_their_questions_and_ask_none_that_is_evaluated(tokenizer) -> None:
    made = {name: make(request_of(name, 1, FEW, tokenizer)).data
            for name in ("Math-CoT", "Math-NoCoT", "Math-CoT-shuffled")}
    asked = {name: [turns[0]["content"] for turns in rows["messages"]] for name, rows in made.items()}
    assert len(asked["Math-CoT"]) == 40 and asked["Math-CoT"] == asked["Math-NoCoT"] == asked["Math-CoT-shuffled"]
    kinds = {f"reasoning-gym, {kind}" for part in MIXTURES["gym"] for kind in part}
    assert set(made["Math-CoT"]["source"]) == kinds
    assert {split_of(prompt.removesuffix(f"\n{INSTRUCTION}")) for prompt in asked["Math-CoT"]} == {"finetuning"}
    assert made["Math-CoT"]["verified"].all() and not made["Math-CoT-shuffled"]["verified"].any()


def test_the_profile_asks_all_six_of_a_base_that_is_made_to_think_as_well() -> None:
    assert list(POCKET.benchmarks) == NAMES == benchmarks_of(POCKET, f"SmolLM2-135M{THINKING}")
    groups = Counter(map(group_of, NAMES))
    assert groups == {"in-domain": 3, "OOD reasoning": 3}
    rows = questions("Families", POCKET)
    assert len(rows) == POCKET.benchmarks["Families"].items
    assert rows["prompt"].str.contains(INSTRUCTION, literal=True).all()


# Scores

DRESSES = (r"\boxed{{{}}}", r"So the answer is $\boxed{{\text{{{}}}}}$.", r"\boxed{{ {} }}.",
           r"**Answer:** \boxed{{{}}}")


@given(some.sampled_from(NAMES), some.integers(0, 199), some.sampled_from(DRESSES), some.booleans())
def test_a_right_answer_counts_in_any_dress_and_a_wrong_one_in_none(
        name: str, number: int, dress: str, thinks: bool) -> None:
    item, score = items(name)[number], scorer_of(name).score
    before = "<think>\nIs it \\boxed{7}?\n</think>\n\n" if thinks else ""
    assert score(before + dress.format(item.answer), item, None).score == 1
    assert score(before + dress.format(WRONG[name]), item, None).score == 0


@pytest.mark.parametrize("name", NAMES)
def test_without_a_box_or_with_unfinished_thinking_there_is_no_answer(name: str) -> None:
    item = items(name)[0]
    for response in (f"The answer is {item.answer}.", f"<think>\n\\boxed{{{item.answer}}}", ""):
        assert not scorer_of(name).score(response, item, None).parsed


# What it takes


def test_whole_batches_and_enough_steps_to_learn() -> None:
    specs = run_specs(POCKET)
    assert {spec.paper_run for spec in specs} == {"R24", "R31", "R24-null", "R24-shuffled"}
    for spec in specs:
        assert (spec.rows, spec.epochs, spec.rows % spec.batch_size) == (256, 8, 0) and 32 <= spec.steps <= 64


def test_the_profile_takes_at_most_two_hours_of_two_cores() -> None:
    on = costs.usual_hardware(POCKET)
    assert not on.gpu
    chapters = ("chapter", "book")
    taken = [costs.cost_of(job, POCKET, on).seconds for job in jobs(POCKET).values() if job.kind not in chapters]
    assert sum(taken) / 2 <= 7200


# What came out, as chapter 28a says it


def ends(profile: str, *series: str) -> dict[tuple[str, str], tuple[float, float, float]]:
    "Estimate and interval of each series and benchmark at its last step."
    table = estimates(measured(load_profile(profile), list(series), []))
    last = table.filter(pl.col("step") == pl.col("step").max().over("series"))
    return {(row["series"], row["benchmark"]): (row["value"], row["low"], row["high"])
            for row in last.iter_rows(named=True)}


def test_both_data_sets_teach_the_domain_and_nothing_outside_it() -> None:
    found = ends("pocket-seeds", "R24", "R31", "R24-shuffled", "SmolLM2-135M+think")
    for run in ("R24", "R31"):
        assert found[run, "Legs"][1] > 40
        assert found[run, "ChainSum"][1] > 5
        assert {found[run, name][0] for name in ("Families", "Sorting", "Cubes")} == {0}
    assert max(value for (run, _), (value, *_) in found.items() if run not in ("R24", "R31")) < 3  # controls


@pytest.mark.parametrize(("profile", "run"), [("pocket-seeds", "R24"), ("pocket-gemma", "R25")])
def test_the_answers_outside_are_numbers(profile: str, run: str) -> None:
    profile = load_profile(profile)
    rows = read_results(profile, [spec.run_id for spec in run_specs(profile, (run,))])
    boxes = rows.filter(pl.col("step") == pl.col("step").max(), "parsed",
                        pl.col("benchmark").is_in(["Families", "Sorting", "Cubes"]))["answer"]
    assert boxes.str.contains(r"^-?[\d.]+$").mean() > 0.95
    assert len(boxes) > 50


@pytest.mark.parametrize(("profile", "base"), [("pocket-seeds", "SmolLM2-135M"), ("pocket-gemma", "Gemma3-270M")])
def test_a_real_base_gets_nothing_right_in_the_form_asked_for(profile: str, base: str) -> None:
    assert {value for value, *_ in ends(profile, base, base + THINKING).values()} == {0}
