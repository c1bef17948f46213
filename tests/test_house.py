"""The house: rooms in the order of their imports, each shown on its page, none too large, every door labelled."""
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sftrepro import site
from sftrepro.codegraph import imports_of
from sftrepro.contents import chapter_file, chapter_files, chapter_label, experiments, instrument
from sftrepro.profiles import ROOT

ROOMS = instrument()
MENTION = re.compile(r"\b[Cc]hapters? (\d{1,2}[a-z]?)\b")
LINKED = re.compile(r"\[[^\]\n]*?\b(\d\d[a-z]?)\]\((?:\.\./nbs/)?(\w+)\.ipynb\)")


def cells(path: Path, kind: str) -> list[str]:
    "The sources of a notebook's cells of one kind."
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def module_tree(name: str) -> ast.Module:
    "A parsed module."
    return ast.parse((ROOT / f"sftrepro/{name}.py").read_text())


def test_every_module_is_exported_by_one_notebook_of_the_table() -> None:
    modules = {path.stem for path in (ROOT / "sftrepro").glob("*.py")} - {"__init__", "_modidx"}
    assert modules == set(ROOMS)


def test_the_api_page_lists_every_module_in_the_order_of_the_table() -> None:
    assert re.findall(r"^## sftrepro\.(\w+)$", site.api_page(), re.MULTILINE) == list(ROOMS)


@pytest.mark.parametrize("name", ROOMS)
def test_the_code_of_an_instrument_is_shown(name: str) -> None:
    notebook = {"cells": [{"cell_type": "markdown", "source": "# A room", "metadata": {}},
                          {"cell_type": "code", "source": "#| export\nx = 1", "metadata": {}, "outputs": []}]}
    assert "hide-input" not in site.page(notebook, ROOMS[name].stem)["cells"][1]["metadata"]["tags"]
    assert "hide-input" in site.page(notebook, experiments()[0].stem)["cells"][1]["metadata"]["tags"]


@pytest.mark.parametrize("name", ROOMS)
def test_a_module_imports_only_from_rooms_before_it(name: str) -> None:
    before = list(ROOMS)[:list(ROOMS).index(name)]
    needed = {target.split(".")[0] for target in imports_of(module_tree(name)).values()}
    assert needed <= {*before, name}, f"{name} needs {needed - {*before, name}}, which come later in _toc.yml"


# the rooms that tokenize, generate or train, or that lead into one that does
HEAVY = {"bases", "data", "selection", "mixtures", "word_problems", "solvers", "authors", "language_teacher",
         "generate", "evaluate", "sft", "rl", "judges", "token_logprobs", "token_figures", "own", "lab"}


def test_pages_and_commands_are_made_without_pytorch() -> None:
    "Importing it takes seconds, and each of a hundred chapters would take them."
    light = ", ".join(f"sftrepro.{name}" for name in ROOMS if name not in HEAVY)
    script = f"import {light}, sys; print({{'torch', 'transformers'}} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout == "set()\n"


@pytest.mark.parametrize("name", ROOMS)
def test_no_module_has_more_than_450_lines(name: str) -> None:
    assert len((ROOT / f"sftrepro/{name}.py").read_text().splitlines()) <= 450


@pytest.mark.parametrize("stem", chapter_files())
def test_a_mention_of_a_chapter_is_a_link_to_it(stem: str) -> None:
    path = chapter_files()[stem]
    for source in cells(path, "markdown"):
        for label, target in LINKED.findall(source):
            assert chapter_file(label) is not None and chapter_file(label).stem == target, (
                f"{stem}: {label} links to {target}"
            )
        bare = MENTION.search(re.sub(r"\[[^\]\n]*\]\([^)\n]*\)", "", source))
        assert bare is None, f"{stem}: {bare[0]!r} is not a link"


@pytest.mark.parametrize("stem", chapter_files())
def test_a_chapter_named_in_code_exists(stem: str) -> None:
    for source in cells(chapter_files()[stem], "code"):
        for label in MENTION.findall(source):
            assert chapter_file(label) is not None, f"{stem}: there is no chapter {label}"


def test_a_mention_in_a_docstring_is_a_link_on_the_api_page() -> None:
    page = re.sub(r"\[[^\]\n]*\]\([^)\n]*\)", "", re.sub(r"(?s)```.*?```", "", site.api_page()))
    assert MENTION.search(page) is None


@pytest.mark.parametrize("name", ROOMS)
def test_no_python_that_we_start_looks_into_the_current_folder(name: str) -> None:
    source = (ROOT / f"sftrepro/{name}.py").read_text()
    starts = re.findall(r"(?<!Path\()sys\.executable[),]+\s*(.*)", source)
    assert all(start.startswith('"-P"') for start in starts), starts


def test_labels_are_unique() -> None:
    labels = list(map(chapter_label, chapter_files()))
    assert len(set(labels)) == len(labels)


# Shown at work

def sources(path: Path) -> list[tuple[str, str]]:  # exported, shown, import or prose; source
    "The cells of a notebook, and what each is for."
    found = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        code = "\n".join(line for line in source.splitlines() if not line.startswith(("#|", "%", "!")))
        if cell["cell_type"] == "markdown":
            found.append(("prose", source))
        elif site.only_imports(code):
            found.append(("import", code))
        elif code.strip():
            found.append(("exported" if source.startswith("#| export") else "shown", code))
    return found


def names_of(path: Path) -> tuple[set[str], set[str]]:
    "The names that a notebook exports, and those of them that it shows at work."
    exported, shown = set(), set()
    for kind, code in sources(path):
        if kind == "exported":
            for node in ast.parse(code).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    exported.add(node.name)
                elif isinstance(node, ast.Assign | ast.AnnAssign):
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    exported |= {
                        part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)
                    }
        elif kind == "shown":
            shown |= {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    return exported, exported & shown


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_shows_two_fifths_of_its_names_at_work(name: str) -> None:
    exported, shown = names_of(ROOMS[name])
    assert len(shown) >= 0.4 * len(exported), f"{len(shown)} of {len(exported)}; not shown: {sorted(exported - shown)}"


def test_the_house_shows_three_fifths_of_its_names_at_work() -> None:
    counts = [tuple(map(len, names_of(path))) for path in ROOMS.values()]
    exported, shown = map(sum, zip(*counts, strict=True))
    assert shown >= 0.6 * exported


@pytest.mark.parametrize("name", ROOMS)
def test_no_more_than_four_exported_cells_stand_without_a_word_or_an_example(name: str) -> None:
    streak = longest = 0
    for kind, _ in sources(ROOMS[name]):
        streak = streak + 1 if kind == "exported" else streak if kind == "import" else 0
        longest = max(longest, streak)
    assert longest <= 4


# Nothing is left behind

LEAVES = re.compile(r"^(?:os\.environ\[|del os\.environ|os\.environ "
                    r"\|=|os\.environ\.(?:update|pop)|os\.chdir|\w+constants\.\w+ = )",
                    re.MULTILINE)


@pytest.mark.parametrize("stem", chapter_files())
def test_an_example_leaves_the_environment_as_it_was(stem: str) -> None:
    changes = [source for source in cells(chapter_files()[stem], "code")
               if not source.startswith("#| export") and LEAVES.search(source)]
    assert changes == [], "change it in a block: with patch.dict(os.environ, ...)"
