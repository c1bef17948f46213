"""What several test files share: a store of their own, and a small repository to break."""
import configparser
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from sftrepro.export import exported_mark, sources_digest
from sftrepro.profiles import ROOT, changed, load_profile

settings.register_profile("change", deadline=None, max_examples=20)  # no deadline: a busy machine is no failure
settings.register_profile("release", deadline=None, max_examples=100)
settings.load_profile("change")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
NANO = "Qwen/Qwen3-4B-Base -> Nano: qwen3 layers=2 hidden=32 heads=1 kv_heads=1 mlp=64"
TOY = [("# A toy chapter", ()), ('profile = "tiny"\nruns = ["R25"]\nrows = 3', ("parameters",)),
       ("from sftrepro.profiles import load_profile\nfrom sftrepro.runs import run_specs\n"
        "from sftrepro.item_results import read_results", ()),
       ("chosen = load_profile(profile)\n"
        "ids = [spec.run_id for spec in run_specs(chosen, tuple(runs))]\n"
        "read_results(chosen, ids).head(rows).height", ())]


def pytest_addoption(parser: pytest.Parser) -> None:
    "`--all` for `make test-all`."
    parser.addoption("--all", action="store_true", help="also the tests that only a release needs")


def pytest_configure(config: pytest.Config) -> None:
    "Draw more examples before a release than before a change."
    if config.getoption("--all"):
        settings.load_profile("release")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    "Leave out what only a release needs, and begin with the tests that take minutes."
    if not config.getoption("--all"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("release")])
        items[:] = [item for item in items if not item.get_closest_marker("release")]
    items.sort(key=lambda item: item.get_closest_marker("minutes") is None)


@pytest.fixture
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    "A store for one test."
    monkeypatch.setenv("SFTREPRO_STORE", str(tmp_path / "store"))
    return (tmp_path / "store").resolve()


def write_notebook(path: Path, cells: list[tuple[str, tuple[str, ...]]]) -> None:
    "A notebook of (source, tags); what begins with # and a space is prose."
    written = []
    for number, (source, tags) in enumerate(cells):
        code = {"cell_type": "code", "execution_count": None, "outputs": []}
        kind = {"cell_type": "markdown"} if source.startswith("# ") else code
        written.append({"id": f"cell-{number}", "metadata": {"tags": list(tags)} if tags else {},
                        "source": source.splitlines(keepends=True), **kind})
    metadata = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    notebook = {"cells": written, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(notebook), encoding="utf-8")


class Repository:
    "A copy of the library with two chapters and a tiny profile, and a store and a build folder of its own."

    def __init__(self, folder: Path):
        self.folder, self.store, self.build = folder, folder.parent / "store", folder.parent / "build"

    @classmethod
    def new(cls, folder: Path) -> "Repository":
        "Make one."
        self = cls(folder)
        folder.mkdir(parents=True)
        passing = shutil.ignore_patterns("_modidx.py", "*.pyc.*", ".partial.*", "exported.sha256", "results", "bases")
        for name in ("sftrepro", "data"):  # with Python's caches and ours: the first command is as quick as the second
            shutil.copytree(ROOT / name, folder / name, ignore=passing)
        for name in ("pyproject.toml", "Snakefile", "settings.ini"):
            shutil.copy(ROOT / name, folder / name)
        for name in ("book", "nbs"):
            (folder / name).mkdir()
        shutil.copytree(ROOT / "book/_static", folder / "book/_static")
        for path in [ROOT / "book/_config.yml", *(ROOT / "book").glob("*.bib"), *(ROOT / "book").glob("*.py")]:
            shutil.copy(path, folder / "book" / path.name)
        (folder / "book/index.md").write_text("# A small book\n")
        (folder / "_toc.yml").write_text(
            "format: jb-book\nroot: book/index\nparts:\n  - caption: Toys\n    chapters:\n"
            "      - file: nbs/20_toy\n      - file: nbs/21_plain\n      - file: book/api\n")
        write_notebook(folder / "nbs/20_toy.ipynb", TOY)
        write_notebook(folder / "nbs/21_plain.ipynb", [("# Another", ()), ("from sftrepro.answers import boxed", ()),
                                                       ("boxed(r'\\boxed{3}')", ())])
        self.profile(
            "smoke",
            "tiny",
            bases=NANO,
            runs="R25",
            controls="",
            seeds="1",
            row_divisor="640",
            pretraining_tokens="40000",
            max_new_tokens="16",
            benchmarks="arithmetic=4x1 order=4x1",
            bases_dir="runs/tiny/bases",
            results_dir="runs/tiny/results",
        )
        exported_mark(folder).parent.mkdir(exist_ok=True)  # Python may have been told to write no caches
        exported_mark(folder).write_text(sources_digest(folder))  # its notebooks export nothing
        return self

    def profile(self, source: str, section: str, **values: str) -> None:
        "Write a section of settings.ini: another one with some values changed."
        parser = configparser.ConfigParser(interpolation=None)
        parser.optionxform = str
        parser.read(self.folder / "settings.ini")
        parser[section] = {**parser[source], **values}
        with open(self.folder / "settings.ini", "w", encoding="utf-8") as file:
            parser.write(file)

    def edit(self, path: str, old: str, new: str) -> None:
        "Change a text that occurs in a file."
        text = (self.folder / path).read_text()
        assert old in text, f"{path} has no {old!r}"
        (self.folder / path).write_text(text.replace(old, new, 1))

    def environment(self) -> dict[str, str]:
        "Variables with which the library is this copy's."
        return os.environ | {"PYTHONPATH": str(self.folder), "SFTREPRO_STORE": str(self.store),
                             "SFTREPRO_BUILD": str(self.build)}

    def python(self, code: str) -> str:
        "What some code prints that runs with this copy's library."
        return subprocess.run([sys.executable, "-c", code], cwd=self.folder, env=self.environment(), text=True,
                              capture_output=True, check=True).stdout

    def start(self, *words: str, before: tuple[str, ...] = ()) -> subprocess.Popen:
        "Start the command line."
        command = [*before, str(Path(sys.executable).with_name("sftrepro")), *words]
        return subprocess.Popen(command, cwd=self.folder, env=self.environment(), text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, start_new_session=True)

    def run(self, *words: str, before: tuple[str, ...] = ()) -> tuple[int, str, str]:
        "Exit code, output and errors of the command line."
        process = self.start(*words, before=before)
        out, errors = process.communicate(timeout=600)
        return process.returncode, out, errors

    def refusals(self, *commands: tuple[str, ...]) -> list[tuple[int, list[str]]]:
        "Exit code and lines of error of some commands, each in a copy of one process, since most of it is imports."
        told = subprocess.run([sys.executable, "-c", COMMANDS, json.dumps(commands)], cwd=self.folder, check=True,
                              env=self.environment(), text=True, capture_output=True).stdout
        return [(code, errors.strip().splitlines()) for code, errors in map(json.loads, told.splitlines())]

    def copied(self, place: Path) -> "Repository":
        "The same, elsewhere, with what its store and its build folder hold."
        place.mkdir()
        for folder in (self.folder, self.store, self.build):
            if folder.exists():
                shutil.copytree(folder, place / folder.name)
        return Repository(place / self.folder.name)

    def publish(self) -> None:
        "Invented results for every run and base of the tiny profile, as if they were fresh."
        self.python(PUBLISH)

    def files(self) -> set[str]:
        "All files of the store and the build folder, without logs and locks."
        found = [path.relative_to(folder.parent) for folder in (self.store, self.build) for path in folder.rglob("*")]
        return {str(path) for path in found if path.parts[1:2] not in (("logs",), ("locks",))}


COMMANDS = """
import json, os, sys, tempfile
from sftrepro import cli, item_results, rebuild  # what commands import where they need it
for words in json.loads(sys.argv[1]):
    with tempfile.TemporaryFile() as errors:
        if not (copy := os.fork()):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(errors.fileno(), 2)
            sys.argv = ["sftrepro", *words]
            try:
                cli.main()
            except SystemExit as end:
                os._exit(end.code or 0)
        code = os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])
        errors.seek(0)
        print(json.dumps([code, errors.read().decode()]), flush=True)
"""

PUBLISH = """
import polars as pl
from sftrepro import item_results, workflow
from sftrepro.profiles import load_profile
flow = workflow.load_flow(load_profile("tiny"))
for job in flow.jobs.values():
    if job.kind == "score":
        row = dict(profile="tiny", run_id=job.key, run_name=job.key, base="Nano", data="base", seed=0, step=0,
                   benchmark="order", item_id="1", trial=0, prompt_digest="d", tokens=3, truncated=False,
                   looped=False, reconsiders=False, weighs=False, parsed=True, answer="B", score=1.0, lenient=None,
                   grades=None, scorer="choice", scorer_version=1, engine="transformers", engine_version="5",
                   device="CPU", temperature=0.6, top_p=0.95, max_new_tokens=16, sampling_seed=1, seconds=0.1)
        item_results.publish_results(flow.profile, job.key, pl.DataFrame([row]), flow.inputs[job.name])
"""


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    "A folder that the first test process to ask for it makes and all share, so copy it to change it."
    own = factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
        if not (folder / "done").exists():
            make(folder)
            (folder / "done").touch()
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    "The small repository with every job below its chapters done."
    folder = made_once(tmp_path_factory, "finished", lambda place: Repository.new(place / "repository").python(FINISH))
    return Repository(folder / "repository")


def pretrain_nano(folder: Path) -> None:
    "Make a store with the base Nano of the profile smoke, little trained, and the first data set of R25."
    from sftrepro import bases, data, runs, store
    smoke = load_profile("smoke")
    spec = runs.run_specs(smoke, ("R25",))[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFTREPRO_STORE", str(folder / "store"))
        for place in (base := store.base_folder(smoke, "Nano"), rows := store.data_folder("smoke", spec.data, 1)):
            place.mkdir(parents=True)
        base_spec = next(base for base in smoke.bases if base.name == "Nano")
        bases.pretrain(base_spec, changed(smoke, pretraining_tokens=50_000), base)
        data.build(spec.data, 1, smoke, rows)


@pytest.fixture(scope="module")
def nano_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    "A store for one module, with a base and a data set of the profile smoke."
    made = made_once(tmp_path_factory, "nano", pretrain_nano)
    copy = shutil.copytree(made / "store", tmp_path_factory.mktemp("nano") / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFTREPRO_STORE", str(copy))
        yield copy


FINISH = """
from sftrepro import execution, workflow
from sftrepro.profiles import load_profile
profile = load_profile("tiny")
for job in workflow.jobs(profile).values():
    if job.kind not in ("chapter", "book"):
        execution.do(job.name, workflow.load_flow(profile))
"""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    "A small repository to change and to break."
    return Repository.new(tmp_path / "repository")


@pytest.fixture
def notebook() -> Callable:
    "Writes notebooks."
    return write_notebook
