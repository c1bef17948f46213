"The teachers: honest log-probabilities, checks that do not lie, searches that really go back."
import math
import random
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import accumulate, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sftrepro.analogs import BENCHMARKS
from sftrepro.answers import boxed
from sftrepro.countdown import SEARCHER, countdown, makes, puzzles, solves, takes_back
from sftrepro.profiles import load_profile
from sftrepro.reasoning_tasks import OPERATIONS, arithmetic_value
from sftrepro.store import base_folder
from sftrepro.traces import (
    DEEPSEEK,
    NEARNESS,
    PEOPLE,
    QWEN,
    Chain,
    Pen,
    Solver,
    Teacher,
    Words,
    answer_text,
    in_parts,
    inverse,
    right_sum,
    token_log_probabilities,
)
from sftrepro.world import Item, question_of, split_of, world_of

WORLD = world_of(load_profile("micro"))
SOLVERS = {"countdown": (SEARCHER,), "arithmetic": (QWEN, DEEPSEEK, PEOPLE), "competition": (QWEN, DEEPSEEK, PEOPLE)}
SUM = re.compile(r"(-?\d+)([-+*/])(\d+)(=| is not )(-?\d+)")


def item_of(task: str, seed: int) -> Item:
    rng = random.Random(seed)
    return countdown(rng) if task == "countdown" else BENCHMARKS[task].make(WORLD, rng)


def traces(solver: Solver | Teacher, count: int, task: str = "competition") -> list[tuple[Item, str]]:
    return [(item, solver.write(item, random.Random(seed)).text)
            for seed in range(count) for item in [item_of(task, seed)]]


def holds(a: str, sign: str, b: str, c: str) -> bool:
    "Is a sum right? By integers, not by the library."
    a, b, c = int(a), int(b), int(c)
    return {"+": a + b == c, "-": a - b == c, "*": a * b == c, "/": c * b == a}[sign]


# The pen


@given(
    st.sampled_from([(task, solver) for task, solvers in SOLVERS.items() for solver in solvers]),
    st.integers(0, 2**32),
    st.data(),
)
def test_the_tokens_log_probabilities_add_up_to_the_choices_whatever_the_tokens(chosen, seed: int, data) -> None:
    task, solver = chosen
    pen = solver.write(item_of(task, seed), random.Random(seed))
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=len(pen.text), max_size=len(pen.text)))
    ends = [end for end in accumulate(lengths) if end < len(pen.text)] + [len(pen.text)]
    on_token = token_log_probabilities(pen.choices, ends)
    assert len(on_token) == len(ends) + 1 and max(on_token) <= 0
    assert sum(on_token) == pytest.approx(sum(log for _, log in pen.choices))


def test_a_choice_counts_on_the_token_in_which_its_words_begin() -> None:
    pen = Pen(random.Random(0))
    pen.write("ab")
    pen.pick("xy")
    pen.write("cd")
    pen.chance(0.25)
    assert token_log_probabilities(pen.choices, ends=[1, 3, 4]) == pytest.approx(
        [0, math.log(0.5), 0, pen.choices[-1][1]]
    )
    assert token_log_probabilities(pen.choices, ends=[2, 4]) == pytest.approx([0, math.log(0.5), pen.choices[-1][1]])


ASKED = "Which number is it?"
SHORT = Item(benchmark="arithmetic", prompt=ASKED, answer="18", truth=(6, ("Multiply by", 3)))
CHAIN = Item(benchmark="arithmetic", prompt=ASKED, answer="15", truth=(6, ("Multiply by", 3), ("Subtract", 3)))
PUZZLE = Item(benchmark="countdown", prompt="", answer="", truth=(11, 2, 3, 5))


@pytest.mark.parametrize(
    "solver, item",
    [(QWEN, SHORT), (DEEPSEEK, SHORT), (QWEN, CHAIN), (DEEPSEEK, CHAIN), (PEOPLE, CHAIN), (SEARCHER, PUZZLE)],
    ids=lambda value: getattr(value, "name", None),
)
def test_texts_are_as_frequent_as_their_log_probability_says(solver: Solver | Teacher, item: Item) -> None:
    rng, count, seen, said = random.Random(0), 8_000, Counter(), {}
    for _ in range(count):
        pen = solver.write(item, rng)
        seen[pen.text] += 1
        log_probability = sum(log for _, log in pen.choices)
        assert said.setdefault(pen.text, log_probability) == pytest.approx(log_probability)
    assert sum(map(math.exp, said.values())) <= 1 + 1e-9
    frequent = [text for text in said if math.exp(said[text]) > 0.002]
    assert len(frequent) >= 5
    for text in frequent:
        expected = count * math.exp(said[text])
        assert abs(seen[text] - expected) < 5 * math.sqrt(expected)


# Chains


@pytest.mark.parametrize("nearness", NEARNESS)
@pytest.mark.parametrize("teacher", [QWEN, DEEPSEEK], ids=lambda teacher: teacher.name)
def test_a_teacher_writes_in_one_voice_and_its_box_is_what_it_settled_on(teacher: Teacher, nearness: str) -> None:
    words = NEARNESS[nearness]
    for item, text in traces(teacher.in_words(nearness), 300):
        opening = next(opening for opening in words.opens if text.startswith(f"<think>\n{opening}"))
        asked = words.asked.format(question_of(item.prompt))
        conclusion = words.concludes.format(boxed(text))
        end = f"{conclusion}\n</think>\n\n{answer_text(boxed(text))}"
        assert text.startswith(f"<think>\n{opening}{asked} ") and text.endswith(end)
        assert text.count("<think>") == text.count("</think>") == text.count(asked) == text.count(conclusion) == 1
        if boxed(text) == item.answer:
            assert int(boxed(text)) == arithmetic_value(item.prompt)
        else:
            assert any(not holds(a, sign, b, c) for a, sign, b, says, c in SUM.findall(text) if says == "=")


@pytest.mark.parametrize("teacher", [QWEN, DEEPSEEK], ids=lambda teacher: teacher.name)
def test_other_words_change_nothing_but_words(teacher: Teacher) -> None:
    moves = [name for name in Words.model_fields if name not in ("opens", "asked", "concludes", "ready")]
    for seed in range(300):
        item = item_of("competition", seed)
        pens = {nearness: teacher.in_words(nearness).write(item, random.Random(seed)) for nearness in NEARNESS}
        sums = {nearness: re.findall(r"\d+[-+*/]\d+(?:=| is not )\d+", pen.text) for nearness, pen in pens.items()}
        assert sums["own"] == sums["mixed"] == sums["foreign"]
        chances = {nearness: [chance for _, chance in pen.choices] for nearness, pen in pens.items()}
        assert chances["own"] == chances["mixed"] == chances["foreign"]
    own, mixed, foreign = (NEARNESS[nearness].model_dump() for nearness in ("own", "mixed", "foreign"))
    assert all(own[name] != mixed[name] == foreign[name] for name in moves)
    assert all(own[name] == mixed[name] != foreign[name] for name in ("opens", "asked", "concludes"))


@pytest.mark.parametrize("teacher", [QWEN, DEEPSEEK], ids=lambda teacher: teacher.name)
def test_a_teacher_is_fallible_a_careful_one_is_not(teacher: Teacher) -> None:
    def right(teacher: Teacher) -> float:
        return sum(boxed(text) == item.answer for item, text in traces(teacher, 300)) / 300

    assert 0.5 < right(teacher) < 0.9
    assert right(teacher.turned(slip=0.4, check=1, backtracking=1, looks=1)) == 1
    assert right(teacher.turned(slip=0.4, check=0, look=0)) < 0.4
    assert right(teacher.turned(slip=0)) == 1


@pytest.mark.parametrize("teacher", [QWEN, DEEPSEEK], ids=lambda teacher: teacher.name)
@pytest.mark.parametrize("task", ["arithmetic", "competition"])
def test_the_share_of_traces_that_take_back_is_the_habit(teacher: Teacher, task: str) -> None:
    for share in (0, 0.3, 1):
        count = sum(takes_back(text) for _, text in traces(teacher.turned(backtracking=share), 1000, task))
        assert abs(count - 1000 * share) <= 4 * math.sqrt(1000 * share * (1 - share))


@pytest.mark.parametrize("teacher", [QWEN, DEEPSEEK], ids=lambda teacher: teacher.name)
def test_nothing_is_doubted_by_those_who_take_nothing_back(teacher: Teacher) -> None:
    words = teacher.words
    for _, text in traces(teacher.turned(backtracking=0, slip=0.3), 300):
        without_looks = re.sub("|".join(words.looks), "", text)
        assert words.doubt not in without_looks and " is not " not in text and words.restart not in text
    texts = [text for _, text in traces(teacher.turned(backtracking=1, slip=0.3), 300)]
    assert any(f"{words.doubt} 1" in text for text in texts) and any(words.restart in text for text in texts)


def test_a_false_start_is_never_the_step_that_belongs_there() -> None:
    for seed in range(200):
        chain, results = Chain(item_of("competition", seed)), []
        for _ in range(len(chain)):
            step, wrong = chain.step(results), chain.false_starts(results)
            assert wrong and not any(sum_.startswith(step.sum_) for sum_ in wrong)
            assert all(holds(a, sign, b, c) for sum_ in wrong for a, sign, b, _, c in SUM.findall(sum_))
            results.append(str(step.value))


def test_a_check_never_lies() -> None:
    found = Counter()
    for _, text in traces(QWEN.turned(slip=0.2), 2000):
        for checked in re.findall(r"Check: ([^.]+)\.", text):
            a, sign, b, says, c = SUM.fullmatch(checked).groups()
            assert holds(a, sign, b, c) == (says == "=")
            found[says] += 1
    assert min(found["="], found[" is not "]) > 50


@given(st.integers(0, 99), st.sampled_from(list(OPERATIONS)), st.integers(1, 12), st.sampled_from([-10, -1, 0, 1, 10]))
def test_both_tests_of_a_sum_tell_a_slip(value: int, verb: str, operand: int, slip: int) -> None:
    right = right_sum(value, (verb, operand))
    written = f"{right.split('=')[0]}={int(right.split('=')[1]) + slip}"
    assert (" is not " not in inverse(written)) == (slip == 0)
    if verb != "Multiply by" or operand > 1:
        smaller = SUM.findall(in_parts(written))
        assert all(holds(a, sign, b, c) for a, sign, b, _, c in smaller) and smaller[0][0] == str(value)
        assert [one[-1] for one in smaller[:-1]] == [one[0] for one in smaller[1:]]
        assert smaller[-1][-1] == right.split("=")[1]


def test_looks_are_as_many_as_asked_for() -> None:
    for looks in range(4):
        teacher = QWEN.turned(looks=looks, look=0, look_again=0, slip=0)
        assert {len(re.findall("|".join(teacher.words.looks), text)) for _, text in traces(teacher, 50)} == {looks}


def test_the_two_teachers_differ_in_their_tests_and_habits_alone() -> None:
    assert QWEN.words == DEEPSEEK.words and QWEN.tests is inverse and DEEPSEEK.tests is in_parts
    assert all(getattr(QWEN.habits, habit) > getattr(DEEPSEEK.habits, habit)
               for habit in ("slip", "check", "backtracking", "look", "look_again"))
    quiet = dict(slip=0, check=0, backtracking=0, look=0, look_again=0)
    assert traces(QWEN.turned(**quiet), 50) == traces(DEEPSEEK.turned(**quiet), 50)


# People


def test_people_are_short_skip_steps_are_often_wrong_and_always_box() -> None:
    written = traces(PEOPLE, 1000)
    assert all(boxed(text) is not None and "think" not in text for _, text in written)
    wrong = sum(boxed(text) != item.answer for item, text in written) / len(written)
    assert 0.2 < wrong < 0.5
    sums = sum(len(SUM.findall(text)) for _, text in written) / sum(len(item.truth) - 1 for item, _ in written)
    assert 0.4 < sums < 0.6
    longer = [text for _, text in traces(QWEN, 1000)]
    assert sum(len(text) for _, text in written) < sum(map(len, longer)) / 3


# Countdown


def test_every_puzzle_is_solvable_and_no_prompt_is_in_two_splits() -> None:
    drawn = {split: [item for seed in (1, 2, 3) for item in islice(puzzles(split, seed), 100)]
             for split in ("evaluation", "finetuning", "pretraining")}
    for split, items in drawn.items():
        for item in items:
            target, *numbers = item.truth
            assert split_of(item.prompt) == split and 10 <= target <= 99 and target not in numbers
            assert solves(item.answer, item.prompt) and not solves(item.answer + "+1", item.prompt)
    prompts = [{item.prompt for item in items} for items in drawn.values()]
    assert not (prompts[0] & prompts[1] or prompts[0] & prompts[2] or prompts[1] & prompts[2])
    assert len({item.id for item in islice(puzzles("finetuning", 1), 1200)}) == 1200


expressions = st.recursive(st.integers(1, 30).map(str), lambda inner: st.builds(
    lambda a, sign, b: f"({a}{sign}{b})", inner, st.sampled_from("+-*/"), inner), max_leaves=5)


@given(expressions, st.integers(-3, 3))
def test_the_verifier_agrees_with_arithmetic(expression: str, off: int) -> None:
    numbers = list(map(int, re.findall(r"\d+", expression)))
    try:
        value = eval(re.sub(r"(\d+)", r"Fraction(\1)", expression), {"Fraction": Fraction})
    except ZeroDivisionError:
        assert not makes(expression, numbers, 0)
        return
    assert makes(expression, numbers, value + off) == (off == 0)
    assert not makes(expression, [*numbers, 1], value)


@pytest.mark.parametrize(
    "expression",
    [
        None,
        "",
        "46",
        "25+21",
        "25+3*7=46",
        "25+3*7+0",
        "25+7*3*1",
        "25+3*7**1",
        "-(-25-3*7)",
        "25+3*True",
        "25+3*7.0",
        "25+3*x",
        "abs(25+3*7)",
        "__import__('os').system('true')",
        "25+3*7)",
        "(" * 5000 + "25+3*7" + ")" * 5000,
        "9" * 5000,
        "25+3*7;1",
        "a:=46",
        "[25+3*7]",
        "25 if 3 else 7",
        "\0",
        "25+3*７",
        "٢٥+3*7+",
    ],
)
def test_awkward_boxes_are_refused_quietly(expression: str | None) -> None:
    assert not solves(expression, "Make 46 of 3 7 25, each number once with + - * /.")


def test_latex_signs_are_understood() -> None:
    assert makes(r"25 + 3 \times 7", [3, 7, 25], 46) and makes(r"(25 - 7) \div 3", [3, 7, 25], 6)


def replayed(item: Item, text: str) -> tuple[int, int]:
    "Follow a search sentence by sentence: every move must be possible where it is made. Returns failures and returns."
    target, *numbers = item.truth
    path, tried, failures, returns = [sorted(numbers)], [set()], 0, 0
    thinking = text.split(f" Asked: {question_of(item.prompt)}")[1].split(" Therefore")[0]
    sentence = re.compile(r" (\d+)([-+*/])(\d+)=(\d+)(?: with ([\d ]+))?\.| Wait, again ([\d ]+)\.|"
                          r" Alternatively,| Hmm, let me start over\.")
    assert sentence.sub("", thinking) == ""
    for said in sentence.finditer(thinking):
        a, sign, b, c, rest, again = said.groups()
        if again:
            back, returns = sorted(map(int, again.split())), returns + 1
            while path[-1] != back:
                path.pop(), tried.pop()
        elif said[0] == " Hmm, let me start over.":
            path, tried, returns = [sorted(numbers)], [set()], returns + 1
        elif a:
            assert holds(a, sign, b, c)
            left = list(path[-1])
            left.remove(int(a)), left.remove(int(b))
            assert said[0] not in tried[-1]
            tried[-1].add(said[0])
            if rest:
                assert sorted(map(int, rest.split())) == left
                path.append(sorted([*left, int(c)]))
                tried.append(set())
            else:
                assert left == []
                failures += int(c) != target
    return failures, returns


def test_a_search_goes_back_to_where_it_was_and_finds_the_target() -> None:
    failures = returns = 0
    for item, text in traces(SEARCHER, 500, "countdown"):
        assert solves(boxed(text), item.prompt)
        failed, returned = replayed(item, text)
        assert (returned > 0) == takes_back(text)
        failures, returns = failures + (failed > 0), returns + (returned > 0)
    assert failures > 200 and returns > 150


# Words


def test_teachers_and_the_search_use_the_words_of_the_internet(micro_words: Callable[[str], int]) -> None:
    texts = [text for task, solvers in SOLVERS.items() for solver in solvers for _, text in traces(solver, 200, task)]
    words = {word for text in texts for word in re.findall(r" ?[A-Za-z]+", text.replace("think>", ""))}
    assert {word for word in words if micro_words(word) > 3} == set()
    assert sum(micro_words(word) == 1 for word in words) >= 0.8 * len(words)


@pytest.fixture(scope="module")
def micro_words() -> Callable[[str], int]:
    "How many tokens of the micro bases a word has."
    tokenizer = AutoTokenizer.from_pretrained(base_folder(load_profile("micro"), "Micro-M"))
    return lambda word: len(tokenizer(word)["input_ids"])
