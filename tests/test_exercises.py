"""Each exercise with a check is open as it stands, right with its answer, and not right with another one."""
import ast
import json
import re

import pytest

from sftrepro.contents import chapter_files
from sftrepro.exercises import OPEN, RIGHT, check

SOLUTION = re.compile(r"(?ms)^```python\n(.*?)^```")


def exercises() -> list[tuple[str, str, str]]:
    "Chapter, the exercise's cell, and the code of the answer in the cell behind it."
    found = []
    for stem, path in chapter_files().items():
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for cell, behind in zip(cells, cells[1:], strict=False):
            if "exercise" in cell["metadata"].get("tags", []):
                solution = SOLUTION.search("".join(behind["source"]))
                found.append((stem, "".join(cell["source"]), solution[1] if solution else ""))
    return found


EXERCISES = exercises()


def split(source: str) -> tuple[str, str]:
    "The cell up to its check, and the check."
    tree = ast.parse(source)
    *before, last = [ast.get_source_segment(source, node) for node in tree.body]
    return "\n\n".join(before), last


@pytest.mark.parametrize(("stem", "source", "solution"), EXERCISES, ids=[stem for stem, _, _ in EXERCISES])
def test_an_exercise_is_open_until_it_is_answered_and_its_answer_is_right(
        stem: str, source: str, solution: str) -> None:
    before, asked = split(source)
    names: dict = {}
    exec(before, names)
    assert eval(asked, names) == OPEN
    (name,) = [node.name for node in ast.parse(solution).body if isinstance(node, ast.FunctionDef)]
    exec(solution, names)
    assert eval(asked, names) == RIGHT
    names[name] = lambda *case: "wrong"
    names[name].__name__ = name
    assert eval(asked, names).startswith("Not yet: ")


def test_there_are_exercises_with_checks_in_the_first_part_and_in_the_lab() -> None:
    assert {"00_quickstart", "01c_runs", "04a_answers", "06_generate", "09_sft", "10_evaluate", "92_own_data",
            "93_own_model"} <= {stem for stem, _, _ in EXERCISES}


@pytest.mark.parametrize(("answer", "right", "cases", "said"), [
    (..., 3, (), OPEN), (3, 3, (), RIGHT), (0.1 + 0.2, 0.3, (), RIGHT), (4, 3, (), "Not yet: 4 is not it."),
    (len, {("ab",): 2}, (), RIGHT), (len, {("ab",): 3}, (), "Not yet: len('ab') gives 2 and should give 3."),
    (max, min, [(1, 1)], RIGHT), (lambda *_: ..., min, [(1, 1)], OPEN), ("3", 3.0, (), "Not yet: '3' is not it.")])
def test_a_check_says_what_is_wrong(answer: object, right: object, cases: tuple, said: str) -> None:
    assert check(answer, right, cases) == said
