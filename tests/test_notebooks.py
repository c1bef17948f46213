"""The notebooks are the source: exported, clean, and their parameters survive the cleaning."""
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sftrepro import chapters, contents, export
from sftrepro.profiles import ROOT, load_profile


def clean(folder: Path) -> None:
    "Run nbdev's cleaning on the notebooks of a folder, with the repository's configuration."
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "sftrepro").mkdir()
    (folder / "sftrepro/__init__.py").write_text('__version__ = "0"\n')
    subprocess.run([Path(sys.executable).with_name("nbdev-clean")], cwd=folder, check=True)


def test_the_export_is_in_sync() -> None:
    assert export.unexported() == [], "run nbdev-export"


def test_notebooks_are_clean(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs", ignore=shutil.ignore_patterns(".*"))
    clean(tmp_path)
    unclean = [
        path.name
        for path in contents.chapter_files().values()
        if path.read_bytes() != (tmp_path / "nbs" / path.name).read_bytes()
    ]
    assert unclean == [], "run nbdev-clean"
    cells = [
        (path.name, cell)
        for path in contents.chapter_files().values()
        for cell in json.loads(path.read_text())["cells"]
    ]
    full = sorted({name for name, cell in cells if cell.get("outputs") or cell.get("execution_count")})
    assert full == [], "run jupyter nbconvert --clear-output --inplace nbs/*.ipynb, then nbdev-clean"


def test_a_cleaned_notebook_keeps_its_parameters_and_runs_with_others(tmp_path: Path, notebook: Callable) -> None:
    (tmp_path / "nbs").mkdir()
    path = tmp_path / "nbs/20_toy.ipynb"
    notebook(path, [("# A chapter", ()), ("seeds = [1, 2, 3]", ("parameters",)), ("sum(seeds)", ())])
    run = json.loads(path.read_text())
    run["cells"][1]["metadata"]["collapsed"] = True
    path.write_text(json.dumps(run))
    clean(tmp_path)
    assert json.loads(path.read_text())["cells"][1]["metadata"] == {"tags": ["parameters"]}

    values = chapters.checked_parameters(chapters.read_chapter(path), {"seeds": "30,12"},
                                         load_profile("smoke"))
    chapters.execute(path, tmp_path / "executed.ipynb", tmp_path / "failed.ipynb", values)
    assert json.loads((tmp_path / "executed.ipynb").read_text())["cells"][-1]["outputs"][0]["data"]["text/plain"] == [
        "42"
    ]


BROKEN_KERNEL = {"argv": ["/nowhere/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                 "display_name": "Python 3", "language": "python"}


def test_a_notebook_runs_with_our_python_whatever_kernel_the_user_has(
        tmp_path: Path, notebook: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    "And it imports nothing from the folder that it runs in."
    (tmp_path / "kernels/python3").mkdir(parents=True)
    (tmp_path / "kernels/python3/kernel.json").write_text(json.dumps(BROKEN_KERNEL))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    path = tmp_path / "20_toy.ipynb"
    notebook(path, [("import sys\nprint(sys.executable, '' in sys.path, sys.path[0] == sys.path[-1])", ())])
    chapters.execute(path, tmp_path / "done.ipynb", tmp_path / "failed.ipynb", {})
    printed = json.loads((tmp_path / "done.ipynb").read_text())["cells"][-1]["outputs"][0]["text"]
    assert printed == [f"{sys.executable} False False\n"]


@pytest.mark.parametrize("stem", [path.stem for path in contents.experiments()])
def test_every_experiment_declares_its_parameters(stem: str) -> None:
    parameters = chapters.read_chapter(contents.chapter_files()[stem]).parameters
    assert parameters.get("profile") == "micro"


def test_every_notebook_is_in_the_book_once() -> None:
    listed = list(contents.chapter_files())
    assert len(set(listed)) == len(listed) and set(listed) == {path.stem for path in (ROOT / "nbs").glob("*.ipynb")}
