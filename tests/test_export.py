"""The export: one notebook for a module, a broken one named, nothing written but what changed."""
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sftrepro import export
from sftrepro.chapters import read_chapter
from sftrepro.contents import notebook_cells, read_toc
from sftrepro.export import export_notebooks, unexported
from sftrepro.profiles import ROOT, RequestError, load_profile

EXPORT = (sys.executable, "-c", "import pathlib, sys; from sftrepro.export import export_notebooks\n"
                                "export_notebooks(pathlib.Path(sys.argv[1]))")
HALF = ("#| export\ndef half(number):\n    return number / 2", ())
DOUBLE = [("#| default_exp toy", ()), ("#| export\ndef double(number):\n    return 2 * number", ())]


@pytest.fixture
def house(tmp_path: Path, notebook: Callable) -> Path:
    "A repository with two notebooks, one of which exports."
    for name in ("nbs", "sftrepro"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "sftrepro/__init__.py").write_text('__version__ = "0"\n')
    notebook(tmp_path / "nbs/01_toy.ipynb", DOUBLE)
    notebook(tmp_path / "nbs/20_results.ipynb", [("1 + 1", ())])
    export_notebooks(tmp_path)
    return tmp_path


def stamps(folder: Path) -> dict[str, int]:
    "When each file was last written."
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.*")}


@pytest.mark.parametrize("name", ["01_toy-Copy1", "00_toy", "19_mine"])
def test_two_notebooks_of_one_module_are_refused_and_both_are_named(house: Path, notebook: Callable, name: str) -> None:
    notebook(house / f"nbs/{name}.ipynb", [DOUBLE[0], ("#| export\ndef double(number):\n    return 3 * number", ())])
    before = stamps(house / "sftrepro")
    first, second = sorted(["01_toy", name], key=lambda stem: f"{stem}.ipynb")
    for command in (export_notebooks, unexported):
        with pytest.raises(RequestError, match=f"^nbs/{first}.ipynb and nbs/{second}.ipynb both export sftrepro/toy"):
            command(house)
    assert stamps(house / "sftrepro") == before


def test_a_copy_of_a_chapter_is_ignored_in_one_line(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(house / "nbs/20_results.ipynb", house / "nbs/20_results-Copy1.ipynb")
    export_notebooks(house)
    assert capsys.readouterr().out.splitlines()[-1] == "ignored 20_results-Copy1.ipynb: not in _toc.yml"


BROKEN = {"empty": "", "merged": '{"cells": [\n<<<<<<< HEAD\n', "list": "[]", "no cells": '{"cells": []}',
          "no source": '{"cells": [{"cell_type": "code"}]}', "a number": "3", "not text": b"\xff\xfe\x00"}


@pytest.mark.parametrize("stem", ["01_toy", "20_results"])
@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_notebook_is_named(house: Path, stem: str, content: str | bytes) -> None:
    path = house / f"nbs/{stem}.ipynb"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for read in (notebook_cells, read_chapter, lambda path: export_notebooks(house)):
        with pytest.raises(RequestError, match=rf"{stem}.ipynb is not a notebook \(.+\). Mend it, or restore it: git"):
            read(path)
    path.unlink()
    with pytest.raises(RequestError, match=f"{stem}.ipynb is missing"):
        read_chapter(path)


@pytest.mark.parametrize(("cells", "fault"), [
    ([*DOUBLE, ("#| export\ndef half(number:", ())], r"has a cell that is not Python .*never closed: 'def half"),
    ([*DOUBLE, ("<<<<<<< HEAD\nx = 1", ())], r"has a cell that is not Python .*'<<<<<<< HEAD"),
    ([("rows = 3 * width", ("parameters",))], "declares a parameter whose default is not a plain value"),
])
def test_a_broken_cell_is_named_by_its_notebook(house: Path, notebook: Callable, cells: list, fault: str) -> None:
    notebook(house / "nbs/01_toy.ipynb", cells)
    with pytest.raises(RequestError, match=f"01_toy.ipynb {fault}"):
        read_chapter(house / "nbs/01_toy.ipynb")
    if "Python" in fault:
        with pytest.raises(RequestError, match=f"01_toy.ipynb {fault}"):
            export_notebooks(house)


@pytest.mark.parametrize("content", ["<<<<<<< HEAD\n[smoke]\n", "[smoke]\nruns = R01\n[smoke]\n"])
def test_a_broken_settings_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "settings.ini").write_text(content)
    with pytest.raises(RequestError, match=r"settings.ini cannot be read \(.*line\W+[0-9]"):
        load_profile("smoke", tmp_path / "settings.ini")


@pytest.mark.parametrize("content", ["parts: [", "<<<<<<< HEAD\nformat: jb-book\n"])
def test_a_broken_table_of_contents_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "_toc.yml").write_text(content)
    with pytest.raises(RequestError, match="_toc.yml is not readable as YAML .*line"):
        read_toc(tmp_path / "_toc.yml")


def test_only_what_changed_is_written(house: Path, notebook: Callable) -> None:
    before = stamps(house / "sftrepro")
    export_notebooks(house)
    assert stamps(house / "sftrepro") == before
    notebook(house / "nbs/01_toy.ipynb", [*DOUBLE, HALF])
    assert unexported(house) == ["_modidx.py", "toy.py"] and stamps(house / "sftrepro") == before
    export_notebooks(house)
    after = stamps(house / "sftrepro")
    assert {name for name in after if after[name] != before[name]} == {"_modidx.py", "toy.py", "exported.sha256"}


def test_nbdev_starts_only_where_something_changed(
        house: Path, notebook: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    export_notebooks(house)
    started, real = [], export.nbdev_export
    monkeypatch.setattr(export, "nbdev_export", lambda folder: (started.append(folder), real(folder)))
    notebook(house / "nbs/20_results.ipynb", [("2 + 2", ())])  # exports nothing
    assert export_notebooks(house) == [] and not started
    (house / "sftrepro/toy.py").write_text("edited = True\n")  # by hand, in the wrong place
    assert export_notebooks(house) == ["toy.py"] and len(started) == 1
    export.exported_mark(house).unlink()
    assert export_notebooks(house) == [] and len(started) == 2


def test_an_export_waits_for_another_one(house: Path, notebook: Callable) -> None:
    notebook(house / "nbs/01_toy.ipynb", [*DOUBLE, HALF])
    handle = os.open(house / "sftrepro", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    second = subprocess.Popen([*EXPORT, str(house)], stdout=subprocess.PIPE, text=True)
    time.sleep(3)
    assert second.poll() is None and "half" not in (house / "sftrepro/toy.py").read_text()
    os.close(handle)
    assert second.communicate()[0] == "exported _modidx.py, toy.py\n"


def test_a_reader_never_meets_half_a_module(house: Path, notebook: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced, real = [], os.replace
    monkeypatch.setattr(os, "replace", lambda new, old: (replaced.append(Path(old).name), real(new, old)))
    notebook(house / "nbs/01_toy.ipynb", [*DOUBLE, HALF])
    export_notebooks(house)
    assert replaced == ["_modidx.py", "toy.py", "exported.sha256"]


@pytest.mark.skipif(not shutil.which("bwrap"), reason="a read-only folder is made with bubblewrap")
def test_a_read_only_checkout_is_enough_until_a_module_changes(house: Path, notebook: Callable) -> None:
    command = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", str(house), str(house), *EXPORT, str(house)]
    assert subprocess.run(command, capture_output=True, text=True).returncode == 0
    notebook(house / "nbs/01_toy.ipynb", [*DOUBLE, HALF])
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.stderr.strip().splitlines()[-1].endswith(
        "sftrepro/_modidx.py: its notebook changed, and the module cannot be written (Read-only file system). "
        "Export it where it can: nbdev-export")
