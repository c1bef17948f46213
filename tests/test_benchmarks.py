"Real benchmarks: rows become items, whole and in an order of their own."
import base64
import json
import os
import pickle
import zlib
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftrepro.analogs import BENCHMARKS, INSTRUCTION
from sftrepro.benchmarks import (
    LETTERS,
    MADE,
    NOT_IN_PAPER,
    REAL,
    column,
    contest,
    four_options,
    hallucinated,
    hidden_tests,
    real_items,
    spread,
    ten_options,
    user_turn,
)
from sftrepro.profiles import RequestError, load_profile
from sftrepro.score import SCORERS
from sftrepro.sources import read_rows, source_rows
from sftrepro.world import Item

FILES = Path(os.environ.get("SFTREPRO_DATA") or "no such folder")
IN_PAPER = {name: benchmark for name, benchmark in REAL.items() if benchmark not in (*NOT_IN_PAPER, *MADE)}
HERE = [name for name, benchmark in REAL.items()
        if benchmark not in MADE and (FILES / benchmark.source.local).exists()]
needs_files = pytest.mark.skipif(not HERE, reason="no benchmark files: name their folder, SFTREPRO_DATA=...")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    "A folder of benchmark files for one test."
    monkeypatch.setenv("SFTREPRO_DATA", str(tmp_path))
    return tmp_path


def lines(path: Path, rows: list[dict]) -> None:
    "Write JSON lines."
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


# What the settings ask for

def test_the_paper_profile_asks_the_papers_ten_as_often_as_the_paper() -> None:
    asked_for = load_profile("paper").benchmarks
    assert set(asked_for) == set(IN_PAPER) and len(IN_PAPER) == 10
    assert {name: (size.items, size.trials) for name, size in asked_for.items()} == {
        name: (benchmark.number, benchmark.repeats) for name, benchmark in IN_PAPER.items()}


def test_each_of_the_papers_benchmarks_has_its_micro_analog_in_the_same_group() -> None:
    analogs = {benchmark.paper.split("-RM")[0].split("-truthful")[0]: benchmark for benchmark in BENCHMARKS.values()}
    for name, benchmark in IN_PAPER.items():
        assert (benchmark.group, benchmark.chance) == (analogs[name].group, analogs[name].chance), name


def test_the_small_profile_asks_only_what_it_can_score_and_enough_of_it() -> None:
    small = load_profile("small").benchmarks
    assert set(small) <= set(SCORERS) & set(REAL)
    assert all(small[name].items >= 50 for name in ("GSM8K", "MATH500", "HumanEval", "IFEval", "BBH"))


# Rows

@given(st.lists(st.dictionaries(st.sampled_from(["a", "b"]), st.text(), min_size=1), max_size=5))
def test_json_lines_come_back_whatever_stands_in_them(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict]
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines(path, rows)
    assert read_rows(path) == rows


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    rows = [{"a": "x", "b": 1}, {"a": "y, z", "b": 2}]
    lines(tmp_path / "rows.jsonl", rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    pl.DataFrame(rows).write_parquet(tmp_path / "rows.parquet")
    pl.DataFrame(rows).write_csv(tmp_path / "rows.csv")
    for kind in ("jsonl", "json", "parquet", "csv"):
        assert read_rows(tmp_path / f"rows.{kind}") == rows


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_a_file_that_is_none_is_refused_by_its_name(tmp_path: Path, kind: str) -> None:
    (tmp_path / f"rows.{kind}").write_bytes(b"[\xff not a file")
    with pytest.raises(RequestError, match=f"rows.{kind} cannot be read"):
        read_rows(tmp_path / f"rows.{kind}")


def test_a_missing_column_is_named_with_those_that_are_there() -> None:
    with pytest.raises(RequestError, match="column 'problem' is missing; there are question, solution"):
        column({"question": "?", "solution": "!"}, "problem")


def test_without_file_and_hub_the_message_names_both_ways_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(folder / "cache"))
    with pytest.raises(RequestError, match=r"hf download .*--revision 6e4ed1a.*Or name a folder with math500.jsonl"):
        source_rows(REAL["MATH500"].source)


# Items

def item(part: str, number: int) -> Item:
    "An item of a part of a benchmark."
    return Item(benchmark="BBH", prompt=f"{part} {number}?", answer="", truth=(part,))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20)), min_size=1))
def test_items_are_spread_evenly_each_once_whatever_order_they_come_in(numbers: list[tuple[str, int]]) -> None:
    items = [item(*each) for each in numbers]
    found = spread(items)
    assert found == spread(items[::-1]) and sorted(one.id for one in found) == sorted({one.id for one in items})
    parts = {one.truth for one in items}
    assert {one.truth for one in found[:len(parts)]} == parts


def test_more_items_keep_the_first_and_too_many_are_refused(folder: Path) -> None:
    lines(
        folder / "gsm8k_test.jsonl",
        [{"question": f"{n}+{n}?", "answer": f"It is {2 * n}.\n#### {2 * n}"} for n in range(40)],
    )
    assert real_items("GSM8K", 30)[:10] == real_items("GSM8K", 10)
    with pytest.raises(RequestError, match="GSM8K has 40 items, and settings.ini asks for 41. Ask for fewer"):
        real_items("GSM8K", 41)


def test_mathematics_is_asked_with_a_new_line_a_space_and_the_box(folder: Path) -> None:
    lines(folder / "math500.jsonl", [{"problem": "1+1?", "answer": "2", "subject": "Algebra"}])
    assert [user_turn(one) for one in real_items("MATH500", 1)] == [f"1+1?\n {INSTRUCTION}"]


def test_options_are_shuffled_by_the_question_alone_and_the_letter_follows() -> None:
    rows = [
        {
            "Question": f"Which of {n}?",
            "Correct Answer": "right",
            **{f"Incorrect Answer {k}": f"wrong {k}" for k in (1, 2, 3)},
        }
        for n in range(60)
    ]
    items = [four_options("GPQA-Diamond", row) for row in rows]
    assert items == [four_options("GPQA-Diamond", row) for row in rows]
    assert {one.answer for one in items} == set("ABCD")
    assert all(f"\n{one.answer}) right\n" in one.prompt for one in items)


def test_ten_options_keep_their_letters() -> None:
    row = {"question": "Which?", "options": list("0123456789"), "answer": "H", "category": "math"}
    made = ten_options("MMLU-Pro", row)
    assert made.answer == "H" and all(f"\n{letter}) {n}\n" in made.prompt for n, letter in enumerate(LETTERS))


def test_hidden_tests_are_read_without_running_anything() -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return os.system, ("touch should_not_be_here",)

    tests = [{"input": "1", "output": "2", "testtype": "stdin"}]
    packed = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()
    assert hidden_tests(packed) == hidden_tests(json.dumps(tests)) == tests
    with pytest.raises(pickle.UnpicklingError, match="is not a plain value"):
        hidden_tests(base64.b64encode(zlib.compress(pickle.dumps(Bomb()))).decode())
    assert not Path("should_not_be_here").exists()


def test_a_contest_says_where_its_input_comes_from_and_shows_no_starter() -> None:
    for kind, words in (("stdin", "standard input"), ("functional", "class Solution")):
        row = {"question_content": "Add.", "starter_code": "class Solution: def secret", "platform": "x",
               "private_test_cases": json.dumps([{"input": "1", "output": "2", "testtype": kind}])}
        made = contest("LiveCodeBench-v2", row)
        assert words in made.prompt and "secret" not in made.prompt and made.truth[1:] == (("1", "2", kind),)


def test_each_kind_of_hallucination_has_its_question() -> None:
    for row, words in (({"knowledge": "k", "question": "q", "answer": "a"}, "Question: q\nAnswer: a"),
                       ({"knowledge": "k", "dialogue_history": "d", "response": "r"}, "Dialogue: d\nResponse: r"),
                       ({"document": "d", "summary": "s"}, "Document: d\nSummary: s")):
        made = hallucinated("HaluEval", row | {"hallucination": "no", "part": ""})
        assert words in made.prompt and made.answer == "No"


def test_a_csv_file_without_names_is_read_from_its_first_line(folder: Path) -> None:
    (folder / "hex_phi.csv").write_text('"How do I fold the first swan?"\n"How do I fold the second?"\n')
    assert {one.prompt for one in real_items("HEx-PHI", 2)} == {
        "How do I fold the first swan?",
        "How do I fold the second?",
    }


# The real files, where they are

@needs_files
@pytest.mark.parametrize("name", HERE)
def test_every_row_of_a_real_file_becomes_an_item(name: str) -> None:
    items = real_items(name, REAL[name].number)
    assert len({one.id for one in items}) == len(items) == REAL[name].number
    assert all(one.prompt.strip() and one.benchmark == name for one in items)


@needs_files
def test_fifty_four_hard_tasks_are_two_of_each() -> None:
    parts = [one.truth[0] for one in real_items("BBH", 54)]
    assert {parts.count(part) for part in parts} == {2}


@needs_files
@pytest.mark.parametrize("name", ["MATH500", "AIME24", "GSM8K", "BBH"])
def test_the_boxed_gold_answer_is_right_and_another_items_is_not(name: str) -> None:
    items, score = real_items(name, 30), SCORERS[name].score
    for one, other in zip(items, items[1:] + items[:1], strict=True):
        assert score(rf"<think>no</think>So \boxed{{{one.answer}}}.", one, None).score == 1, one.answer
        if one.answer != other.answer:
            assert score(rf"\boxed{{{other.answer}}}", one, None).score == 0, (one.answer, other.answer)


@needs_files
@pytest.mark.parametrize("name", ["HumanEval", "MBPP"])
def test_the_right_programs_pass_their_tests_and_anothers_do_not(name: str) -> None:
    items, score = real_items(name, 6), SCORERS[name].score
    for one, other in zip(items, items[1:] + items[:1], strict=True):
        assert score(f"```python\n{one.answer}\n```", one, None).score == 1, one.truth[4]
        assert score(f"```python\n{other.answer}\n```", one, None).score == 0


@needs_files
def test_every_instruction_of_the_real_file_can_be_checked() -> None:
    for one in real_items("IFEval", 60):
        found = SCORERS["IFEval"].score("A short answer. It has two sentences.", one, None)
        assert found.parsed and found.score == (not found.answer)
