"Answers: what a response says, whatever it wears."

import json
import os
import random
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sftrepro.answers import (
    LONGEST,
    amount,
    boxes,
    closing_braces,
    closing_group,
    fenced,
    fences,
    in_main_thread,
    lenient_letter,
    letter,
    row_of_brackets,
    same_value,
    short_box,
    strict_letter,
    undressed,
    unwrapped,
    within,
)
from sftrepro.refusals import refusal_in
from sftrepro.score import future_first, scorer_of
from sftrepro.world import Item

DATA = os.environ.get("SFTREPRO_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="SFTREPRO_DATA names no folder with the benchmarks' files")
DRESSES = (
    "{}",
    " {} ",
    "${}$",
    r"\({}\)",
    "**{}**",
    r"\text{{{}}}",
    r"\textbf{{{}}}",
    r"\mathbf{{{}}}",
    "{}.",
    r"\,{}\,",
    r"\boldsymbol{{{}}}",
    "`{}`",
    "{{{}}}",
    r"\displaystyle {}",
    r"\color{{red}}{{{}}}",
    r"\boxed{{{}}}",
)


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (Path(DATA) / name).read_text().splitlines()]


def verdict(benchmark: str, gold: str, content: str) -> float:
    return (
        scorer_of(benchmark)
        .score(rf"So \boxed{{{content}}}", Item(benchmark=benchmark, prompt="", answer=gold), None)
        .score
    )


# Boxes and braces


@given(st.text(alphabet="{}\\ab", max_size=30))
def test_a_closing_brace_lies_behind_its_opening_one_and_braces_nest(text: str) -> None:
    closed = closing_braces(text)
    assert all(opening < end and (text[opening], text[end]) == ("{", "}") for opening, end in closed.items())
    assert not any(a < b < closed[a] < closed[b] for a in closed for b in closed)


@given(st.text(alphabet="()[]<>", min_size=1, max_size=8), st.integers(0, 3), st.sampled_from(["", ".", "$", " done"]))
def test_a_box_of_brackets_holds_them_all(row: str, braces: int, after: str) -> None:
    answer = row + "}" * braces
    assert row_of_brackets(short_box(rf"So \boxed{{{answer}}}{after}")) == answer
    assert row_of_brackets(short_box(rf"\text{{So \boxed{{{answer}}}}}")) == answer


@pytest.mark.parametrize(
    ("text", "contents"),
    [
        (r"\boxed{1} and \boxed{2}", ["1", "2"]),
        (r"$\boxed{1}$, $\boxed{2}$ or $\boxed{3}$", ["1", "2", "3"]),
        (r"\boxed{1}; \boxed{2}.", ["1", "2"]),
        (r"\boxed{1}. And \boxed{2}", ["2"]),
        (r"\boxed{1} \boxed{2}", ["2"]),
        (r"\boxed{1} is wrong, \boxed{2}", ["2"]),
        (r"$x=\boxed{1}$ or $x=\boxed{2}$", ["1", "2"]),
        ("none", []),
    ],
)
def test_the_closing_group_is_what_a_word_joins(text: str, contents: list[str]) -> None:
    assert [box.content for box in closing_group(text)] == contents


# Undressing


@given(st.from_regex(r"[A-Za-z0-9]{1,5}", fullmatch=True), st.lists(st.sampled_from(DRESSES), max_size=3, unique=True))
def test_what_is_worn_does_not_matter(text: str, dresses: list[str]) -> None:
    dressed = text
    for dress in dresses:
        dressed = dress.format(dressed)
    assert unwrapped(undressed(dressed)) == text


@given(
    st.lists(st.integers(1, 99), min_size=2, max_size=4), st.sampled_from([", ", " ", "; ", r"\, ", r",\ ", r" \\ "])
)
@example([1, 2], ",")
@example([10, 20], ",")
def test_undressing_never_joins_what_was_apart(numbers: list[int], between: str) -> None:
    assert re.findall(r"-?\d+", undressed(between.join(map(str, numbers)))) == list(map(str, numbers))
    assert not same_value(between.join(map(str, numbers)), "".join(map(str, numbers)))


@given(st.text(max_size=60))
def test_undressing_twice_changes_nothing(text: str) -> None:
    assert undressed(undressed(text)) == undressed(text)
    assert isinstance(amount(text), str | None) and isinstance(letter(text), str | None)


@given(
    st.integers(0, 10**9), st.sampled_from([",", "{,}", r"\,", r",\!", r"\ ", "~", "\N{NARROW NO-BREAK SPACE}", " "])
)
def test_digits_in_groups_are_one_number(number: int, between: str) -> None:
    grouped = f"{number:,}".replace(",", between)
    assert same_value(grouped, str(number)) and same_value(str(number), grouped)
    assert not same_value(grouped, str(number + 1))


@given(
    st.integers(-9999, 9999),
    st.sampled_from(
        [
            "{} dollars",
            r"\${}",
            "{} cm",
            r"{}\text{{ cm}}^2",
            r"{}\,\mathrm{{km/h}}",
            "{} miles per hour",
            "{} USD",
            "{}^\\circ",
        ]
    ),
)
def test_a_unit_does_not_change_an_amount(number: int, form: str) -> None:
    assert same_value(form.format(number), str(number))
    assert not same_value(form.format(number), str(number + 1))


@pytest.mark.parametrize(
    "text", ["20x", "20i", "20 million", "20 thirds", "20, 1", "20/7", "(20, 1)", "20!", "x = 20 y", "twenty"]
)
def test_a_factor_is_no_unit(text: str) -> None:
    assert not same_value(text, "20")


@pytest.mark.parametrize(
    "text", [r"\text{" * 5000, "{" * 9000, "1 m/" * 9000, "(A) " * 9000, "1,000" * 9000, "a" * 90_000]
)
def test_long_noise_is_read_at_once(text: str) -> None:
    assert len(text) > LONGEST and undressed(text) == text
    for read in (boxes, short_box, letter, amount, fenced, lenient_letter, strict_letter):
        assert not read(text)


# Processor time


VALUES = [("1/2", r"\frac{1}{2}"), (r"\sqrt{8}", r"2\sqrt{2}"), ("x+1", "1+x"), ("0.5", r"\frac{1}{3}")] * 8


def test_values_are_compared_in_any_thread() -> None:
    with ThreadPoolExecutor(4) as pool:
        compared = list(pool.map(lambda pair: same_value(*pair), VALUES))
    assert compared == [same_value(*pair) for pair in VALUES] and {True, False} == set(compared)


def burn(seconds: float) -> bool:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return True


def stubborn() -> bool:
    while True:
        try:
            sum(range(1000))
        except Exception:
            pass


@pytest.mark.parametrize("endless", [stubborn, lambda: 9**9**9 > 0], ids=["in Python", "in C"])
def test_what_computes_for_ever_ends_by_its_own_processor_time(endless: Callable) -> None:
    begun = time.thread_time()
    assert within(0.5, endless) is False
    assert time.thread_time() - begun == pytest.approx(0.5, abs=0.2)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: in_main_thread(lambda: within(0.2, endless)), range(2))) == [False] * 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_python_drops_while_it_clears_up_is_raised_again() -> None:
    class Dear:
        def __del__(self) -> None:
            burn(0.5)
    assert not within(0.2, lambda: bool(Dear()) and burn(2))


def test_a_limit_counts_no_other_thread() -> None:
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(burn, 0.9)
        assert within(0.4, lambda: burn(0.3))
        assert other.result()


def test_a_copy_that_fails_is_no_verdict() -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="ended with exit code 2"):
        pool.submit(in_main_thread, lambda: 1 / 0).result()


def test_waiting_for_the_processor_costs_nothing_and_an_error_passes_through() -> None:
    assert within(0.1, lambda: time.sleep(1) is None)
    with pytest.raises(ZeroDivisionError):
        within(1, lambda: 1 / 0)


def test_work_that_ends_at_the_limit_is_not_interrupted_later() -> None:
    assert {within(0.05, lambda: burn(0.05)) for _ in range(20)} <= {True, False}
    assert burn(0.1)


def limits(name: str) -> list[dict]:
    text = (Path(__file__).parent / f"pairs/limits/{name}.jsonl").read_text()
    return [json.loads(line) for line in text.split("\n")[:-1]]


def test_what_is_called_a_known_limit_is_one() -> None:
    assert not [pair for pair in limits("value") if same_value(pair["box"], pair["answer"]) == bool(pair["score"])]
    assert not [pair for pair in limits("refusal") if (refusal_in(pair["response"]) is not None) == pair["refuses"]]


# Fences

SOURCE = "def f(x):\n    return x + 1"
QUOTED = "\n".join(f"> {line}" for line in SOURCE.split("\n"))


def indented(width: int) -> str:
    return "\n".join(" " * width + line for line in SOURCE.split("\n"))


@pytest.mark.parametrize(
    "response",
    [
        *(
            f"```{tag}\n{SOURCE}\n```"
            for tag in (
                "",
                "python",
                "py",
                "Python",
                "PYTHON",
                "python3",
                "python3.11",
                " python",
                "python ",
                "{.python}",
                "{python}",
                'python title="f.py"',
                "python {linenos}",
                "python:f.py",
                "ipython",
            )
        ),
        f"```python\n{SOURCE}\n```".replace("\n", "\r\n"),
        f"~~~python\n{SOURCE}\n~~~",
        f"````python\n{SOURCE}\n````",
        f"```python\n{SOURCE}",
        f"```python\n{SOURCE}```",
        f"```python\n{SOURCE}\n```.",
        f"```python\n{SOURCE}\n``` So there.",
        f"Here: ```python\n{SOURCE}\n```",
        f"First ```python\nno = 1\n```. Better: ```python\n{SOURCE}\n```. Done.",
        f"1. So:\n   ```python\n{indented(3)}\n   ```",
        f"- ```python\n{indented(2)}\n  ```",
        f"10) ```python\n{indented(4)}\n    ```",
        f"    ```python\n{indented(4)}\n    ```",
        f"> ```python\n{QUOTED}\n> ```",
        f"```python\nS = '```'\n{SOURCE}\n```",
        f'```python\n{SOURCE}\n\ndef g():\n    """\n    ```\n    f(1)\n    ```\n    """\n```',
        f"````python\nS = '''\n```\n'''\n{SOURCE}\n````",
        f"```python\nfrom __future__ import annotations\n{SOURCE}\n```",
        f"```bash\nls\n```\n```python\n{SOURCE}\n```\n```text\n2\n```",
        f"```\n{SOURCE}\n```\n```\n2\n```",
        f"<think>```python\nno = 1\n```</think>\n```python\n{SOURCE}\n```",
    ],
)
def test_a_program_is_read_from_any_fence(response: str) -> None:
    scope = {}
    exec(future_first("import math\n" + fenced(response)), scope)
    assert scope["f"](1) == 2


@pytest.mark.parametrize(
    "response",
    [
        SOURCE,
        f"`{SOURCE}`",
        f"```java\n{SOURCE}\n```",
        f"```text\n{SOURCE}\n```",
        f"<think>```python\n{SOURCE}\n```</think>",
    ],
)
def test_what_is_in_no_fence_of_python_is_no_program(response: str) -> None:
    assert fenced(response) is None


@given(st.text(alphabet="`~ \n>-1.ab", max_size=60))
def test_no_text_makes_the_reading_of_fences_fail(text: str) -> None:
    assert all(fence.code.endswith("\n") or not fence.code for fence in fences(text))


# The benchmarks' own answers


@needs_data
@pytest.mark.parametrize("form", ["{}", "{}.", "${}$", r"\text{{{}}}", "**{}**"])
def test_every_right_answer_of_bbh_can_be_given(form: str) -> None:
    golds = {(row["task"], row["target"]) for row in rows("bbh.jsonl")}
    brackets = {gold for task, gold in golds if task == "dyck_languages"}
    lost = [
        gold
        for _, gold in golds
        if (form == "{}" or gold not in brackets) and not verdict("BBH", gold, form.format(gold))
    ]
    assert not lost


@needs_data
def test_every_right_answer_of_mathematics_can_be_given_as_it_is_and_in_plain_digits() -> None:
    for row in rows("math500.jsonl"):
        gold = row["answer"]
        assert verdict("MATH500", gold, gold), gold
        digits = re.sub(r"\\!|\\\$|\^\\circ|[ ,{}]", "", gold)
        if re.fullmatch(r"(?:\\\$)?\d{1,3}(?:(?:,|,\\!|\{,\})\s*\d{3})*(?:\^\\circ)?", gold):
            assert verdict("MATH500", gold, digits), gold


@needs_data
@pytest.mark.parametrize("form", ["{}", r"\${}", "{} dollars", r"\text{{{} eggs}}", "**{}**", "{}.", "{}.0", "{:,}"])
def test_every_right_answer_of_gsm8k_can_be_given(form: str) -> None:
    for gold in {row["answer"].split("####")[1].strip().replace(",", "") for row in rows("gsm8k_test.jsonl")}:
        assert verdict("GSM8K", gold, form.format(int(gold))), gold


@needs_data
def test_the_answer_to_another_question_is_wrong() -> None:
    draw = random.Random(0)
    mathematics = [row["answer"] for row in rows("math500.jsonl")]
    bbh: dict[str, list[str]] = {}
    for row in rows("bbh.jsonl"):
        bbh.setdefault(row["task"], []).append(row["target"])
    pairs = [("MATH500", *draw.sample(mathematics, 2)) for _ in range(300)]
    pairs += [("BBH", *draw.sample(golds, 2)) for golds in bbh.values() for _ in range(40)]
    same = {"36", r"36^\circ"}  # math-verify holds degrees for numbers
    wrong = [
        (gold, other)
        for name, gold, other in pairs
        if gold != other and {gold, other} != same and verdict(name, gold, other)
    ]
    assert not wrong
