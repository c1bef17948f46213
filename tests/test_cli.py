"""Bad input: one clear line that names the thing and the command that helps, the right exit code, nothing left
behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Repository, write_notebook
from hypothesis import given
from hypothesis import strategies as some
from snakemake.target_jobs import parse_target_jobs_cli_args

from sftrepro import cli, execution, processes, rebuild, store, workflow
from sftrepro.costs import hardware, usual_hardware
from sftrepro.profiles import ROOT, RequestError, load_profile, settings

ONE = ("--profile", "tiny")
NO_MACRO = f"profile 'macro' is not in settings.ini. Profiles: {', '.join([*settings().sections(), 'tiny'])}"


@pytest.fixture(scope="module")
def published_once(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    "The small repository with results; its chapters have not been run."
    repository = Repository.new(tmp_path_factory.mktemp("published") / "repository")
    repository.publish()
    repository.python("from sftrepro import store\nfrom sftrepro.profiles import load_profile\n"
                      "base = store.base_folder(load_profile('tiny'), 'Nano')\n"
                      "store.write_bytes(base / 'model.safetensors', b'weights')\nstore.seal(base, {})")
    return repository


@pytest.fixture
def published(published_once: Repository, tmp_path: Path) -> Repository:
    "A copy of it to break."
    return published_once.copied(tmp_path / "published")


def refused(repository: Repository, *words: str, code: int = 2) -> str:
    "The one line with which a command refuses."
    found, _, errors = repository.run(*words)
    lines = errors.strip().splitlines()
    assert (found, len(lines)) == (code, 1), errors
    return lines[0]


REFUSED = [
    (("book", "--profile", "macro"), NO_MACRO),
    (("run", "99", *ONE), "chapter '99' is not in nbs. Chapters: 20_toy, 21_plain"),
    (("run", "20", "-p", "seed", "1", *ONE), "chapter 20_toy has no parameter 'seed'. Parameters: profile, runs, rows"),
    (("run", "20", "-p", "rows", "many", *ONE), "chapter 20_toy parameter rows: 'many' is not of type int. Example: "
                                                "-p rows 3"),
    (("run", "20", "-p", "profile", "macro"), NO_MACRO),
    (("run", "20", "-p", "runs", "['R99']", *ONE), "chapter 20_toy parameter runs: run 'R99' is not one of the paper's "
                                                   "(R01 to R33, data/paper/runs.csv), nor a control of one (R25-null, "
                                                   "R25-ceiling, R25-shuffled), nor one of part III "
                                                   "(data/beyond/runs.csv). Example: -p runs R25"),
    (("run", "20", "-p", "runs", "R25,R33", *ONE), "chapter 20_toy parameter runs: run 'R33' is not made at profile "
                                                   "tiny. Its runs: R25. Example: -p runs R25"),
    (("run", "21", "-p", "rows", "1", *ONE), "chapter 21_plain has no parameter 'rows'. Parameters: none"),
    (("run",), "Missing argument 'chapter'. See: sftrepro --help"),
    (("rebuild", "smoke"), "rebuild 'smoke': only options for Snakemake may follow, after `--`. Is it a profile? "
                           "sftrepro rebuild --profile smoke"),
    (("rebuild", "tiny", "--", "--dry-run"), "rebuild 'tiny': only options for Snakemake may follow, after `--`. Is it "
                                             "a profile? sftrepro rebuild --profile tiny"),
    (("rebuild", "--only", "r25", *ONE), "'r25' is neither a chapter nor a run that profile tiny makes. Did you mean "
                                         "R25?"),
    (("rebuilt",), "No such command 'rebuilt'. Did you mean 'rebuild', 'results'? See: sftrepro --help"),
    (("job", "train/none", *ONE), json.dumps({"job": "train/none", "code": 2, "line": "job 'train/none' is not one of "
                                              "profile tiny. Jobs: sftrepro plan --profile tiny"})),
]


def test_a_wrong_request_is_one_line_and_touches_nothing(published: Repository) -> None:
    before = published.files()
    assert published.refusals(*(words for words, _ in REFUSED)) == [(2, [line]) for _, line in REFUSED]
    assert published.files() == before


@pytest.mark.parametrize(("visible", "listed", "names"), [
    (None, "GPU 0: NVIDIA GeForce RTX 4060 Laptop GPU (UUID: GPU-1)\n", ["0"]),
    (None, "GPU 0: NVIDIA H100 (UUID: GPU-1)\nGPU 1: NVIDIA H100 (UUID: GPU-2)\n", ["0", "1"]),
    ("4,5", "", ["4", "5"]), ("-1", "", []), ("", "", [])])
def test_gpus_are_counted_by_lines_and_may_be_hidden(
    visible: str | None, listed: str, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tool := tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '{listed}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert processes.gpu_names() == names


def test_of_output_that_nobody_reads_to_its_end_nothing_is_said(published: Repository) -> None:
    process = published.start("status", *ONE)
    process.stdout.close()
    assert process.stderr.read() == ""


def test_a_wrong_setting_is_named_with_an_example(published: Repository) -> None:
    published.profile("tiny", "tiny", learning_rate_factor="fast")
    assert refused(published, "plan", *ONE).startswith("settings.ini [tiny] learning_rate_factor: 'fast': ")


def test_missing_and_damaged_results_and_bases_name_what_brings_them_back(published: Repository) -> None:
    results = published.store / "tiny/results/Nano.parquet"
    results.write_bytes(results.read_bytes()[:-1])
    for words in (("book", *ONE), ("run", "20", *ONE), ("results", "verify", *ONE)):
        assert refused(published, *words) == ("runs/tiny/results/Nano.parquet: sha256 differs from its manifest. "
                                              "Make it again: make rebuild PROFILE=tiny")
    results.unlink()
    assert refused(published, "book", *ONE) == ("chapter 20_toy needs 1 runs that are not in the store (first: Nano). "
                                                "Make them: make rebuild PROFILE=tiny")
    assert not (published.build / "executed").exists()


def test_a_damaged_committed_base_comes_back_from_git_and_is_not_made_again(published: Repository) -> None:
    published.profile("tiny", "tiny", bases_dir="data/bases")
    base = published.folder / "data/bases/nano"
    shutil.copytree(published.store / "tiny/bases/nano", base)
    (base / "model.safetensors").write_bytes(b"weightz")
    for words in (("book", *ONE), ("rebuild", *ONE), ("results", "verify", *ONE)):
        assert refused(published, *words) == ("data/bases/nano/model.safetensors: sha256 differs from its manifest. "
                                              "Restore it: git checkout data/bases/nano")


def test_a_profile_never_writes_over_what_the_one_that_it_is_like_has_made(published: Repository) -> None:
    published.python("from sftrepro import store, workflow\nfrom sftrepro.profiles import load_profile\n"
                     "flow = workflow.load_flow(load_profile('tiny'))\njob = flow.jobs['pretrain/Nano']\n"
                     "store.seal(job.output, flow.inputs[job.name])")
    own = {"bases_dir": "runs/other/bases", "results_dir": "runs/other/results"}
    published.profile("tiny", "warm", like="tiny", temperature="1.0")
    published.profile("tiny", "longer", like="tiny", pretraining_tokens="50000", results_dir=own["results_dir"])
    published.profile("tiny", "apart", like="tiny", temperature="1.0", pretraining_tokens="50000", **own)
    dry = [("rebuild", "--profile", name, "--", "--dry-run") for name in ("warm", "longer", "apart", "tiny")]
    belongs = "{0} belongs to profile tiny, and {1} would write another one over it ({2}). Give that a folder of its " \
              "own: settings.ini [{1}] {3} = runs/{1}/{4}"
    assert published.refusals(*dry) == [
        (2, [belongs.format("runs/tiny/results/Nano.parquet", "warm", "setting temperature changed from 0.6 to 1.0",
                            "results_dir", "results")]),
        (2, [belongs.format("runs/tiny/bases/nano", "longer",
                            "setting pretraining_tokens changed from 40000 to 50000", "bases_dir", "bases")]),
        (0, []), (0, [])]


def test_a_processor_without_bfloat16_is_told_what_training_on_it_takes(
        capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, own_store: Path) -> None:
    def said(profile: str = "micro", kind: str = "train", on: str = "CPU core") -> str:
        chosen = load_profile(profile)
        planned = [job for job in workflow.jobs(chosen).values() if job.kind == kind]
        with pytest.raises(RequestError, match="more than 0 h"):
            rebuild.run_or_describe(planned, chosen, hardware(on), [], hours=0)
        return capsys.readouterr().out

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)
    slow = "micro trains in bfloat16, for which this processor has no instructions: training takes 6 to 40 times"
    assert slow in said() and slow in said(kind="pretrain")
    assert "bfloat16" not in said("smoke") + said(kind="generate")
    assert rebuild.slow_training(list(workflow.jobs(load_profile("paper")).values()), load_profile("paper"),
                                 hardware("H200")) == ""
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": True})
    assert "bfloat16" not in said()


def printed(notebook: Path) -> list[list[str]]:
    "What the cells of an executed notebook printed."
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [output["text"] for cell in cells for output in cell.get("outputs", []) if output["output_type"] == "stream"]


SHADOWS = ("random", "json", "typing", "logging", "tqdm", "polars", "numpy", "yaml", "papermill", "snakemake",
           "IPython", "ipykernel", "sphinx", "docutils", "traitlets", "jinja2", "asyncio", "html", "secrets", "bisect")


@contextmanager
def locked(repository: Repository) -> Iterator[tuple[str, ...]]:
    "What a command begins with to find a read-only checkout and, in the current folder, false libraries."
    place, library = str(repository.folder), repository.folder.parent / "library"
    library.mkdir(exist_ok=True)
    if not (library / "sftrepro").exists():
        (library / "sftrepro").symlink_to(repository.folder / "sftrepro")
    repository.python("from sftrepro.export import export_notebooks; export_notebooks()")
    shadows = [repository.folder / f"{name}.py" for name in SHADOWS]  # here lies the Snakefile, and here kernels run
    for shadow in shadows:
        shadow.write_text(f"raise SystemExit('{shadow.stem} of the current folder')")
    box = ("bwrap", "--dev-bind", "/", "/", "--ro-bind", place, place) if shutil.which("bwrap") else ()
    yield *box, "env", f"PYTHONPATH={library}"
    for shadow in shadows:
        shadow.unlink()


def test_the_book_is_built_once_in_a_read_only_checkout_too_and_what_fails_fails_alone(published: Repository) -> None:
    write_notebook(published.folder / "nbs/22_more.ipynb", [("# More", ()), ("'more'", ())])
    published.edit("_toc.yml", "      - file: book/api\n", "      - file: nbs/22_more\n      - file: book/api\n")
    published.edit("nbs/21_plain.ipynb", "from sftrepro.answers",
                   "import sys, bisect, random, tqdm; print('sftrepro.answers' in sys.modules, *tqdm.tqdm('ab')); "
                   "from sftrepro.answers")
    with locked(published) as before:
        code, out, errors = published.run("book", *ONE, before=before)
    assert code == 0, errors
    page = Path(out.strip().splitlines()[-1].removeprefix("Open "))
    assert page.is_file() and page == published.build.resolve() / "site/tiny/index.html"
    toy, plain, more = (published.build / f"executed/tiny/{stem}.ipynb" for stem in ("20_toy", "21_plain", "22_more"))
    assert printed(plain) == [["True a b\n"]]                       # it begins with the library imported
    assert "tiny: all is fresh" in published.run("book", *ONE)[1]

    before = {path: path.read_bytes() for path in (toy, plain)}
    published.edit("nbs/20_toy.ipynb", "read_results(chosen, ids)", "import os; os.abort(); read_results(chosen, ids)")
    published.edit("nbs/21_plain.ipynb", "boxed(r", "1 / 0; boxed(r")
    published.edit("sftrepro/answers.py", "import unicodedata", "import unicodely")
    published.edit("nbs/22_more.ipynb", "# More", "# Some more")
    line = refused(published, "book", *ONE, code=1)
    assert line.startswith("chapter/2") and line.endswith(" (1 more failed as well)")
    log = (published.build / "logs/tiny/snakemake.log").read_text(encoding="utf-8").splitlines()
    said = {told["job"]: told["line"] for told in map(json.loads, filter(re.compile(r'{"job"').match, log))}
    assert said["chapter/20_toy"].startswith("DeadKernelError: Kernel died")
    assert said["chapter/21_plain"].startswith(
        "nbs/21_plain.ipynb raised ModuleNotFoundError: No module named 'unicodely'")
    assert {path: path.read_bytes() for path in before} == before and "Some more" in more.read_text(encoding="utf-8")
    assert "Some more" not in (published.build / "site/tiny/nbs/22_more.html").read_text()  # the last book stays

    published.edit("sftrepro/answers.py", "import unicodely", "import unicodedata")
    failed = published.build / "failed/tiny/21_plain.ipynb"
    code, _, errors = published.run("run", "21", *ONE)
    line = errors.strip().splitlines()[-1]
    assert code == 1 and "nbs/21_plain.ipynb raised ZeroDivisionError: division by zero. Read it: " in line
    assert failed.exists() and "failed/tiny/21_plain.ipynb" in line and plain.read_bytes() == before[plain]

    published.edit("nbs/21_plain.ipynb", "1 / 0; ", "1 / 1; ")
    with locked(published) as before:  # a kernel of its own, which in a book is copied from our process
        assert published.run("run", "21", *ONE, before=before)[0] == 0
    assert not failed.exists()


def test_stale_results_are_said_in_one_line_and_not_remade(published: Repository) -> None:
    published.edit("sftrepro/sft.py", 'COMPLETE_FILE = "whole.json"', 'COMPLETE_FILE = "all.json"')
    profile_line = published.python(
        "from sftrepro import rebuild, workflow; from sftrepro.profiles import load_profile\n"
        "print(rebuild.stale_results(workflow.load_flow(load_profile('tiny'))))"
    )
    assert profile_line.startswith("2 of 4 results are out of date (first: Nano_Math-CoT")
    assert profile_line.endswith("function sft.COMPLETE_FILE changed). Make them again: make rebuild PROFILE=tiny\n")


def test_a_wrong_request_exports_nothing(published: Repository) -> None:
    shutil.copy(ROOT / "nbs/03_world.ipynb", published.folder / "nbs/03_world.ipynb")
    published.edit("sftrepro/world.py", "\ndef ", "\ndef edited_by_hand(): pass\ndef ")
    (published.store / "tiny/results/Nano.parquet").unlink()
    told = published.refusals(("run", "20", "-p", "runs", "['R99']", *ONE), ("run", "20", *ONE),
                              ("run", "20", "-p", "rows", "many", *ONE), ("book", *ONE), ("rebuild", "tiny"))
    assert [(code, len(lines)) for code, lines in told] == [(2, 1)] * 5
    assert "edited_by_hand" in (published.folder / "sftrepro/world.py").read_text()


def test_a_copy_of_a_chapter_is_never_taken_for_it(published: Repository) -> None:
    shutil.copy(published.folder / "nbs/21_plain.ipynb", published.folder / "nbs/21_plain-Copy1.ipynb")
    for name in ("21", "21_plain", "plain"):
        assert find(published, name) == "21_plain\n"
    assert refused(published, "run", "21_plain-Copy1", *ONE).startswith(
        "chapter '21_plain-Copy1' is not in _toc.yml. Chapters: 20_toy, 21_plain")


def find(repository: Repository, name: str) -> str:
    "The chapter that a name means there."
    return repository.python(f"from sftrepro.chapters import find_chapter; print(find_chapter({name!r}))")


@pytest.mark.parametrize(("name", "words"), [
    ("20_toy", ("book", *ONE)), ("21_plain", ("status", *ONE)), ("21_plain", ("run", "20", *ONE))])
def test_a_broken_chapter_is_named_by_every_command(published: Repository, name: str, words: tuple[str, ...]) -> None:
    (published.folder / f"nbs/{name}.ipynb").write_text("<<<<<<< HEAD\n")
    assert refused(published, *words) == (
        f"nbs/{name}.ipynb is not a notebook (Expecting value: line 1 column 1 (char 0)). "
        f"Mend it, or restore it: git checkout nbs/{name}.ipynb")


@pytest.mark.parametrize(("option", "said"), [
    ("--nonsense", "unrecognized arguments: --nonsense"), ("--executor=none", "none")])
def test_what_keeps_snakemake_from_starting_is_said_in_its_own_words(
        published: Repository, option: str, said: str) -> None:
    line = refused(published, "rebuild", *ONE, "--", option, code=1)
    assert line.startswith("Snakemake did not start: ") and said in line and "memory" not in line, line
    log = published.build / "logs/tiny/snakemake.log"
    assert line.endswith(f"Its log: {log.resolve()}") and said in log.read_text(encoding="utf-8")


def test_a_chapter_run_with_another_parameter_leaves_the_book_alone_and_what_was_edited_is_exported_first(
        published: Repository) -> None:
    shutil.copy(ROOT / "nbs/03_world.ipynb", published.folder / "nbs/03_world.ipynb")
    published.edit("sftrepro/world.py", "\ndef ", "\ndef edited_by_hand(): pass\ndef ")
    out = published.run("status", *ONE)[1]
    assert "stale  sftrepro/world.py: its notebook changed and is not exported. Export it: nbdev-export" in out

    code, out, errors = published.run("run", "toy", "-p", "rows", "1", *ONE)
    assert code == 0, errors
    assert "exported world.py" in out.replace("_modidx.py, ", "")
    assert "edited_by_hand" not in (published.folder / "sftrepro/world.py").read_text()
    page = Path(out.strip().splitlines()[-1].removeprefix("Open "))
    assert page.is_file() and "A toy chapter" in page.read_text(encoding="utf-8")
    executed = json.loads(next((published.build / "runs").rglob("20_toy.ipynb")).read_text())
    assert executed["cells"][-1]["outputs"][0]["data"]["text/plain"] == ["1"]
    assert not (published.build / "executed").exists()


def test_debug_shows_the_traceback_and_the_line(published: Repository) -> None:
    code, _, errors = published.run("--debug", "run", "99")
    assert (
        code == 2 and "Traceback" in errors and errors.strip().splitlines()[-1].startswith("chapter '99' is not in nbs")
    )


# Only what is asked for

@pytest.fixture
def complete(finished: Repository, tmp_path: Path) -> Repository:
    "A copy of the repository with a base, a run and their results, all really made."
    return finished.copied(tmp_path / "complete")


def test_a_chapter_without_its_results_names_the_command_that_makes_them_and_its_price(published: Repository) -> None:
    (published.store / "tiny/results/Nano.parquet").unlink()
    before = published.files()
    line = refused(published, "run", "toy", "-p", "rows", "1", *ONE)
    assert re.fullmatch(r"chapter 20_toy needs 1 results that are not there \(first: Nano\). Make them first, which "
                        r"takes about .+ on \d+ cores and .+ of disk: "
                        r"sftrepro run toy -p rows 1 --profile tiny --make", line)
    assert published.files() == before


@pytest.mark.minutes
def test_a_chapter_makes_what_it_lacks_and_says_first_what_that_costs(complete: Repository) -> None:
    (complete.store / "tiny/results/Nano.parquet").unlink()
    code, out, errors = complete.run("run", "toy", *ONE, "--make")
    assert code == 0, errors
    first, second, *_ = (line for line in out.splitlines() if line.startswith("tiny: "))
    assert first == "tiny: 1 of 3 jobs to run" and second.startswith("tiny: about ") and "of disk" in second
    page = Path(out.splitlines()[-1].removeprefix("Open "))
    assert page.is_file() and "A toy chapter" in page.read_text(encoding="utf-8")
    assert (complete.store / "tiny/results/Nano.parquet").exists()


def planned_for(repository: Repository, *names: str) -> list[str]:
    "The jobs that a rebuild of some names plans in the tiny profile, without digests."
    words = repository.python(f"""
from sftrepro import workflow
from sftrepro.profiles import load_profile
flow = workflow.load_flow(load_profile("tiny"))
only = [job for name in {names} for job in workflow.jobs_named(name, flow.jobs, flow.profile)]
print(*(name.split("_lr")[0] for name in workflow.plan(flow, "rebuild", only)))""")
    return words.split()


def test_a_rebuild_of_one_run_or_chapter_plans_what_that_needs_and_no_more(repository: Repository) -> None:
    of_run = ["pretrain/Nano", "generate/Nano", "score/Nano", "data/Math-CoT-seed1", "train/Nano_Math-CoT",
              "generate/Nano_Math-CoT", "score/Nano_Math-CoT"]
    traced = ["tokens/Nano_Math-CoT"]
    assert planned_for(repository, "R25") == of_run + traced
    assert planned_for(repository, "toy") == [*of_run, "chapter/20_toy"]
    assert planned_for(repository, "21", "R25") == [*of_run, *traced, "chapter/21_plain"]


def test_status_counts_and_shows_only_what_is_stale_and_speaks_to_programs(published: Repository) -> None:
    published.edit("sftrepro/sft.py", 'COMPLETE_FILE = "whole.json"', 'COMPLETE_FILE = "all.json"')
    code, out, errors = published.run("status", "--stale", *ONE)
    assert code == 0, errors
    *lines, last = out.splitlines()
    assert lines and all(line.startswith("stale  ") for line in lines)
    told = json.loads(published.run("status", "--json", *ONE)[1])
    assert told.keys() == {"profile", "counts", "items"} and told["profile"] == "tiny"
    assert all(item.keys() == {"name", "kind", "fresh", "reasons"} for item in told["items"])
    assert last == "; ".join(f"{kind}: {number['fresh']} fresh, {number['stale']} stale"
                             for kind, number in told["counts"].items())
    stale = [item for item in told["items"] if not item["fresh"]]
    assert [f"stale  {item['name']}" for item in stale] == [line.split(":")[0] for line in lines]
    assert sum(number["stale"] for number in told["counts"].values()) == len(stale) < len(told["items"])


def test_rescoring_without_responses_says_why_there_are_none_and_what_makes_some(own_store: Path) -> None:
    with pytest.raises(RequestError, match=r"^profile smoke has no responses in the store; they are not committed, .*: "
                                           r"sftrepro rebuild --only R01 --profile smoke$"):
        cli.rescore("smoke")
    assert not own_store.exists()


# Results made again

EVERYTHING = ("results", "verify", *ONE, "--items", "1000")


def run_of(repository: Repository) -> str:
    "The id of the tiny profile's only run."
    return next(repository.store.glob("tiny/results/Nano_*.parquet")).stem


@pytest.mark.parametrize("trained_again", [False, pytest.param(True, marks=pytest.mark.release)])
def test_a_falsified_row_is_found_though_its_manifest_is_new_and_even_its_checkpoints_are_gone(
        complete: Repository, trained_again: bool) -> None:
    run_id = run_of(complete)
    item = complete.python(f"""
import polars as pl
from sftrepro import item_results, store
from sftrepro.profiles import load_profile
path = store.results_file(load_profile('tiny'), '{run_id}')
inputs, rows = store.verify(path).inputs, item_results.read_published(path).with_row_index()
row = rows.filter(~pl.col('parsed'), tokens=16, score=0.0).sample(seed=0).row(0, named=True)
this = pl.col('index') == row['index']
false = {{'tokens': pl.col('tokens') + this, 'score': pl.when(this).then(0.5).otherwise('score')}}
store.write_table(path, item_results.with_numbers(rows.with_columns(**false).drop('index'), path.parent))
store.seal(path, inputs)
print('step', row['step'], row['benchmark'], row['item_id'], 'trial', row['trial'], end='')""")
    if trained_again:
        shutil.rmtree(complete.store / "tiny" / run_id)
    code, out, errors = complete.run(*EVERYTHING, "--seed", "5", "--train")
    assert code == 1
    first, second, *training = (line for line in out.splitlines() if " responses made again, " not in line)
    each = [line for line in out.splitlines() if " responses made again, " in line]
    if trained_again:
        cost, done = training
        assert cost.startswith("tiny: about ") and cost.endswith(" of disk. Each job: sftrepro plan --profile tiny")
        assert done.startswith("tiny: 1 of 1 jobs done")
    assert first == "4 results and 1 bases are as their manifests say"
    assert second == "making responses of 3 of 3 runs and bases again, drawn with --seed 5"
    said = "tokens 17 -> 16, score 0.5 -> 0"
    line, = (line for line in each if line.startswith(run_id))
    assert len(each) == 3 and all(other.endswith(" equal") for other in each if other != line)
    assert "Nano: 8 responses made again, 8 equal" in each
    made = int(line.split()[1])
    assert line == f"{run_id}: {made} responses made again, {made - 1} equal; first difference: {item}: {said}"
    assert errors == (f"1 responses differ from what is published (first: {run_id} {item}: {said}). "
                      "Has the code changed? sftrepro status --profile tiny\n")


@pytest.mark.release
def test_a_run_without_checkpoints_is_said_to_be_unchecked_and_trained_again_when_asked(complete: Repository) -> None:
    run_id = run_of(complete)
    shutil.rmtree(complete.store / "tiny" / run_id)
    code, out, errors = complete.run(*EVERYTHING)
    assert code == 0, errors
    *bases, last = out.splitlines()[2:]  # in the order in which they were drawn
    assert {*bases} == {"Nano: 8 responses made again, 8 equal", "Nano+think: 8 responses made again, 8 equal"}
    assert last == (
        f"1 of 3 results cannot be made again here, their checkpoints are missing or out of date (first: {run_id}). "
        "Train them first: sftrepro results verify --profile tiny --train")
    code, out, errors = complete.run(*EVERYTHING, "--train")
    assert code == 0, errors
    assert "tiny: about " in out and " of disk. Each job: sftrepro plan --profile tiny" in out
    line, = (line for line in out.splitlines() if line.startswith(run_id))
    made = int(line.split()[1])
    assert made > 8 and line == f"{run_id}: {made} responses made again, {made} equal"


# Interrupted, crowded, full

def parent(pid: str) -> int | None:
    "The process that started one, if that is still there; None for a process that is gone or a zombie."
    try:
        state, above = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[:2]
    except FileNotFoundError:
        return None
    return None if state == "Z" else int(above)


def children(pid: int) -> list[int]:
    "All processes below one."
    found = [int(path.name) for path in Path("/proc").glob("[0-9]*") if parent(path.name) == pid]
    return [each for child in found for each in (child, *children(child))]


def at_work(folder: Path, process: subprocess.Popen, begun: str = "pretrain/*.log") -> list[int]:
    "Wait until a file says that the work has begun; the processes of a rebuild or a book."
    while not list(folder.rglob(begun)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    return children(process.pid)


def end(process: subprocess.Popen, below: list[int], how: int, line: str) -> None:
    "End a command; what it started must end as well."
    assert below
    os.kill(process.pid, how)
    _, errors = process.communicate(timeout=600)
    assert errors.strip() == line and process.returncode == (1 if line else -signal.SIGKILL)
    until = time.monotonic() + 600
    while any(map(parent, map(str, below))) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(parent, map(str, below)))


STOPPED = (signal.SIGINT, "interrupted. What is finished is kept: give the same command to go on")
KILLED = (signal.SIGKILL, "")


@pytest.mark.skipif(sys.platform != "linux", reason="processes end with their parent on Linux")
@pytest.mark.parametrize(("how", "line"), [STOPPED, KILLED])
@pytest.mark.release  # a book's processes are those of a rebuild, but for the models
def test_an_interrupted_rebuild_leaves_no_process_behind(repository: Repository, how: int, line: str) -> None:
    process = repository.start("rebuild", *ONE)
    end(process, at_work(repository.build, process), how, line)


@pytest.mark.skipif(sys.platform != "linux", reason="processes end with their parent on Linux")
@pytest.mark.parametrize(("how", "line"), [STOPPED, KILLED])
def test_a_second_book_is_refused_and_an_interrupted_one_leaves_no_kernel_behind(
        published: Repository, how: int, line: str) -> None:
    begun = published.folder.resolve() / "begun"
    published.edit(
        "nbs/21_plain.ipynb",
        "boxed(r",
        f"import pathlib, time; pathlib.Path('{begun}').touch(); time.sleep(600); boxed(r",
    )
    process = published.start("book", *ONE)
    below = at_work(published.folder, process, begun.name)
    if how == signal.SIGINT:
        assert refused(published, "rebuild", *ONE) == (
            f"another build of tiny is already running. Wait, or stop it: kill {process.pid}")
    end(process, below, how, line)


@pytest.mark.skipif(sys.platform != "linux", reason="processes end with their parent on Linux")
def test_a_process_whose_starter_is_gone_before_it_looks_does_nothing(published: Repository) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    before = published.files()
    assert published.run("book", *ONE, before=("env", f"SFTREPRO_PARENT={ended.pid}")) == (1, "", "")
    assert published.files() == before


@pytest.mark.skipif(not shutil.which("bwrap"), reason="process 1 is made with bubblewrap")
@pytest.mark.parametrize("proc", [(), ("--proc", "/proc"), ("--tmpfs", "/proc")], ids=["of the host", "own", "none"])
def test_make_may_be_process_1(proc: tuple[str, ...]) -> None:
    box = ["bwrap", "--unshare-pid", "--as-pid-1", "--die-with-parent", "--dev-bind", "/", "/", *proc]
    ended = subprocess.run([*box, "make", "--silent", "--old-file=setup", "book", "PROFILE=macro"], cwd=ROOT,
                           capture_output=True, text=True)
    assert ended.stderr.startswith("profile 'macro' is not in settings.ini"), ended.stderr


@pytest.mark.skipif(
    not shutil.which("bwrap"), reason="a small disk is made with bubblewrap: apt-get install bubblewrap"
)
@pytest.mark.release  # that the store says so is in test_store.py
def test_a_full_disk_is_one_line(repository: Repository) -> None:
    repository.store.mkdir()
    box = ("bwrap", "--dev-bind", "/", "/", "--size", "100000", "--tmpfs", str(repository.store))
    code, _, errors = repository.run("rebuild", *ONE, before=box)
    lines = errors.strip().splitlines()
    assert (code, len(lines)) == (2, 1) and " of disk, and " in lines[0] and "are free in runs" in lines[0], errors
    code, _, errors = repository.run("job", *ONE, "pretrain/Nano", before=box)
    assert code == 1 and "runs: the disk is full. What is finished is kept: free some space" in errors


# What a rebuild will take, and where it may run

def test_a_plan_says_what_each_job_and_the_whole_will_take(published: Repository) -> None:
    before = published.files()
    code, out, errors = published.run("plan", *ONE)
    assert code == 0, errors
    lines = out.strip().splitlines()
    assert any(
        line.startswith("train/Nano_Math-CoT") and " of a core, " in line and line.endswith(" of disk")
        for line in lines
    )
    assert any(line.startswith("together: ") for line in lines) and lines[-1].endswith(
        "jobs would run: make rebuild PROFILE=tiny"
    )
    out = published.run("plan", "--profile", "paper", "--hardware", "H100")[1]
    assert "33 x train: " in out and "51 x generate: " in out and "GPU-hours" in out and "Counted for H100" in out
    assert refused(published, "plan", *ONE, "--hardware", "abacus").startswith(
        "hardware 'abacus' is not in data/costs/hardware.csv"
    )
    assert published.files() == before


def test_slurm_is_asked_for_what_the_plan_says(published: Repository) -> None:
    "Snakemake's own back end reads the graph of the paper; nothing is sent anywhere."
    code, out, errors = published.run(
        "rebuild", "--profile", "paper", "--", "--executor", "slurm", "--jobs", "20", "--dry-run"
    )
    assert code == 0, errors
    assert "GPU-hours (H200)" in out and "Open " not in out
    plan = json.loads((published.build / "plan/paper/plan.json").read_text())["jobs"]
    assert {*plan["chapters"]["needs"], "chapters", "book/paper"} == plan.keys(), "chapters read controls as well"
    largest = next(name for name in plan if name.startswith("train/Qwen3-14B_Math-CoT-20k_lr5e-5_ep8_bs256"))
    asked = plan[largest]
    assert asked["gpu"] == 8 and asked["threads"] == 64 and asked["runtime"] > 60
    blocks = [block for block in out.split("rule job:") if f"wildcards: job={largest}\n" in block]
    assert len(blocks) == 1
    for resource in (f"gpu={asked['gpu']}", f"mem_mb={asked['mem_mb']}", f"runtime={asked['runtime']}"):
        assert resource in blocks[0], blocks[0]
    assert "threads: 64" in blocks[0]
    assert not (published.store / "paper").exists()


def test_snakemake_hands_every_job_to_a_cluster_by_its_whole_name(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFTREPRO_BUILD", str(tmp_path))
    smoke = load_profile("smoke")
    planned = [job for job in workflow.jobs(smoke).values() if "refusals=" in job.name]
    entries = json.loads(rebuild.write_plan(planned, smoke, usual_hardware(smoke), True).read_text())["jobs"]
    assert len(planned) > 2 and {name for entry in entries.values() for name in entry["names"]} == {
        job.name for job in planned}
    assert [dict(target.wildcards_dict) for target in parse_target_jobs_cli_args([f"job:job={key}" for key in entries])
            ] == [{"job": key} for key in entries]
    assert {need for entry in entries.values() for need in entry["needs"]} < entries.keys()
    assert all(processes.stamp_file(smoke, entry["names"][0]) == processes.plan_folder(smoke) / "stamps" / key
               for key, entry in entries.items())


def program(folder: Path, name: str, code: str) -> None:
    "A shell script in a folder."
    (folder / name).write_text(f"#!/bin/sh\n{code}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("fails", [False, True])
def test_where_slurm_keeps_no_accounts_its_queue_is_asked(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "sacct", f"exit {int(fails)}")
    program(tmp_path, "squeue", 'echo "$@"')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    own = rebuild.cluster_environment(["--executor", "slurm"])
    asked = subprocess.run(["sacct", "-X", "--name", "run-7"], env=own, text=True, capture_output=True).stdout
    assert ("--states=all" in asked and asked.endswith("--name=run-7\n")) == fails
    assert rebuild.cluster_environment([])["PATH"] == os.environ["PATH"]


def test_failures_on_a_cluster_are_told_by_the_job_and_else_by_the_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFTREPRO_BUILD", str(tmp_path))
    smoke, own = load_profile("smoke"), {"job": "train/a", "code": 2, "line": "too few rows"}
    told = ["SLURM-job '3' failed, SLURM status is: 'TIMEOUT'. Reason: Unknown.", "SLURM sbatch failed. The error "
            "message was 'sbatch: error: no memory\nsbatch: error: no such node'.", "None"]
    log = processes.log_file(smoke, "snakemake")
    log.parent.mkdir(parents=True)
    reports = [f"Error in rule job:\n    message: {message}\n    jobid: 1\n    output: stamps/train/{name}\n"
               for message, name in zip(told, "abc", strict=True)]
    log.write_text("".join(reports))
    killed = tmp_path / "4.log"
    killed.write_text("slurmstepd-n1: error: StepId=4.0 exceeded memory limit (9 > 8), being killed\n"
                      "slurmstepd-n1: error: Exceeded job memory limit\n")
    with log.open("a") as file:
        file.write("Error in rule job:\n    message: SLURM-job '4' failed.For further error details see\n"
                   f"    output: stamps/train/d\n    log: {killed} (check log file(s) for error details)\n")
    slurm = processes.plan_folder(smoke) / ".snakemake/slurm_logs/rule_job/train_a/3.log"
    slurm.parent.mkdir(parents=True)
    slurm.write_text(f"Building DAG\n{json.dumps(own)}\nshutting down\n")
    assert rebuild.cluster_failures(smoke) == [
        {"job": "train/a", "code": 1, "log": "snakemake",
         "line": "SLURM-job '3' failed, SLURM status is: 'TIMEOUT'. Reason: Unknown"},
        {"job": "train/b", "code": 1, "log": "snakemake", "line": "sbatch: error: no such node"},
        {"job": "train/d", "code": 1, "log": "snakemake",
         "line": "StepId=4.0 exceeded memory limit (9 > 8), being killed"},
        own]


GPU_JOB = """
import os, sys
from sftrepro import processes
with processes.own_gpus(int(sys.argv[1])):
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.read()
"""


def test_jobs_side_by_side_never_share_a_gpu(own_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,4,7")
    jobs = []
    for count in (1, 2, 1):
        jobs.append(subprocess.Popen([sys.executable, "-c", GPU_JOB, str(count)], text=True, stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, cwd=ROOT))
        jobs[-1].seen = jobs[-1].stdout.readline().strip()
    assert [job.seen for job in jobs] == ["2", "3,4", "7"]
    with pytest.raises(RequestError, match=r"^2 GPUs are needed and 0 of 4 are free"), processes.own_gpus(2):
        pass
    for job in jobs:
        job.kill()
        job.communicate()
    with processes.own_gpus(4):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3,4,7"


@pytest.mark.parametrize("cluster", [False, True])
def test_only_on_one_machine_does_a_job_look_for_its_gpus(
    cluster: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFTREPRO_BUILD", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(8))))
    paper = load_profile("paper")
    train = next(job for job in workflow.jobs(paper).values() if job.name.startswith("train/Qwen3-14B"))
    plan = rebuild.write_plan([train], paper, usual_hardware(paper), cluster)
    environment = json.loads(plan.read_text(encoding="utf-8"))["jobs"][train.name]["environment"]
    assert [word for word in environment if "GPUS" in word] == ([] if cluster else ["SFTREPRO_GPUS=8"])


@pytest.mark.skipif(rebuild.gpus() > 0, reason="this machine has GPUs")
def test_a_gpu_that_is_not_there_is_said_before_anything_runs(published: Repository) -> None:
    line = refused(published, "rebuild", "--profile", "paper")
    assert line == (
        "generate/Qwen3-1.7B needs 1 x H200 (130 GB each) and this machine has 0 GPUs. On a cluster: sftrepro rebuild "
        '--profile paper -- --executor slurm --jobs 20. Without GPUs: add --hardware "CPU core"'
    )
    assert not (published.store / "paper").exists()


def test_two_jobs_never_write_the_same_run(published: Repository) -> None:
    run = next(name for name in workflow.jobs(load_profile("micro")) if name.startswith("data/"))
    name = f"data/{run.split('/')[1].split('-seed')[0]}-seed1"
    before = published.files()
    with store.locked(published.store / "locks/tiny" / f"{name}.lock", "this test"):
        said = json.loads(refused(published, "job", name, *ONE))
        assert said == {"job": name, "code": 2, "line": f"{name} is already running. "
                                                        f"Wait, or stop it: kill {os.getpid()}"}
        assert published.files() == before


def test_a_hub_that_cannot_be_reached_is_one_line_and_leaves_no_base(own_store: Path) -> None:
    with pytest.raises(RequestError, match="not in the hub's cache, and the hub cannot be reached. Download it where "
                                           "there is a network: .venv/bin/hf download"):
        execution.do("fetch/Qwen3-1.7B", workflow.load_flow(load_profile("paper")))
    assert not (own_store / "paper/bases/qwen3-1.7b").exists()


# Help and the rest

def test_a_path_is_relative_to_where_the_command_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    given = {"file": "mine.jsonl", "model": "Micro-S", "profile": "micro"}
    assert cli.from_here(given) == given | {"file": str(tmp_path / "mine.jsonl")}


@pytest.mark.parametrize(
    "command", [(), ("book",), ("rebuild",), ("run",), ("status",), ("plan",), ("results", "verify")]
)
def test_every_command_shows_examples(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    cli.app(args=[*command, "--help"], prog_name="sftrepro", standalone_mode=False)
    assert f"Examples:\n    sftrepro {' '.join(command)}" in capsys.readouterr().out


def test_a_disk_error_from_any_library_is_recognised() -> None:
    try:
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    except RuntimeError as error:
        code, line = processes.exit_line(error)
    assert code == 1 and "the disk is full" in line


def test_jobs_side_by_side_share_the_cores() -> None:
    jobs = [workflow.Job(kind="train", key=str(number), output=ROOT) for number in range(64)]
    assert rebuild.thread_share(jobs[0], jobs) == 1 and rebuild.thread_share(jobs[0], jobs[:1]) == processes.cores()


@given(
    some.dictionaries(some.text(min_size=1, max_size=3), some.floats(1, 1e4), min_size=1, max_size=9),
    some.floats(1, 1e5),
    some.data(),
)
def test_what_remains_is_predicted_at_first_and_measured_later(costs: dict[str, float], elapsed: float, data) -> None:
    left = data.draw(some.lists(some.sampled_from(sorted(costs)), unique=True))
    assert rebuild.time_left(costs, [], elapsed) == 0
    assert rebuild.time_left(costs, list(costs), elapsed) == pytest.approx(sum(costs.values()) / processes.cores())
    done = sum(costs.values()) - sum(costs[name] for name in left)
    if done > sum(costs.values()) / 10:
        assert rebuild.time_left(costs, left, elapsed) == pytest.approx(
            elapsed * sum(costs[name] for name in left) / done
        )


class Late:
    "A copy that failed: its sentinel is ready before its exit code can be asked for, as the kernel may have it."

    def __init__(self) -> None:
        self.sentinel, end = os.pipe()
        os.close(end)
        self.asked = False

    @property
    def exitcode(self) -> int | None:
        return 1 if self.asked else None

    def is_alive(self) -> bool:
        self.asked = True
        return False

    def join(self) -> None:
        self.asked = True


def test_a_failure_is_a_line_of_its_own_whatever_stands_before_it(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SFTREPRO_BUILD", str(tmp_path))
    flow = workflow.load_flow(load_profile("smoke"))
    os.write(2, b"a library's last words")
    with pytest.raises(SystemExit):
        processes.run_job("train/none", flow)
    line, = (line for line in capfd.readouterr().err.splitlines() if line.startswith('{"job"'))
    assert json.loads(line)["job"] == "train/none"


def test_the_failure_of_a_chapter_is_never_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = workflow.load_flow(load_profile("smoke"))
    monkeypatch.setattr(processes, "copy_for", lambda names, flow: Late())
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(SystemExit):
        processes.run_side_by_side(["chapter/01_profiles", "chapter/02_store"], flow, threads=2)


def test_scores_have_shifted_only_where_changes_go_one_way() -> None:
    from sftrepro.audit import shifted
    worse, better = ({item: {"score": pair} for item in range(12)} for pair in ((1.0, 0.0), (0.0, 1.0)))
    both = worse | {item + 12: columns for item, columns in better.items()}
    told_otherwise = {item: {"response": ("a", "b")} for item in range(12)}
    assert (shifted(worse), shifted(better), shifted(both), shifted(told_otherwise)) == (True, True, False, False)


class Ended(Late):
    "A copy that has ended."

    def __init__(self, exitcode: int) -> None:
        super().__init__()
        self.code = exitcode

    exitcode = property(lambda self: self.code)


def test_side_by_side_each_job_waits_for_what_it_needs_and_only_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    flow, begun = workflow.load_flow(load_profile("smoke")), []

    def copy_for(names: list[str], flow: workflow.Flow) -> Ended:
        begun.extend(names)
        assert {os.environ[library] for library in processes.THREADS} == {"1"}
        return Ended(int(names[0] == "pretrain/Nano-XL"))
    monkeypatch.setattr(processes, "copy_for", copy_for)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    below = [name for name, job in flow.jobs.items() if job.kind not in ("chapter", "book")]
    with pytest.raises(SystemExit):
        processes.run_side_by_side(sum(reversed(processes.in_turns(below)), []), flow, threads=2)
    assert all(begun.index(need) < begun.index(name) for name in begun for need in flow.jobs[name].needs)
    assert [name for name in below if name not in begun] == [name for name in below if re.search("/Nano-XL[+_]", name)]


def test_only_small_models_share_one_process(own_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuild, "gpus", lambda: 0)
    monkeypatch.setenv("SFTREPRO_BUILD", str(tmp_path / "build"))
    for name, one in (("smoke", True), ("micro", False)):
        profile = load_profile(name)
        planned = list(workflow.jobs(profile).values())
        plan = json.loads(rebuild.write_plan(planned, profile, usual_hardware(profile)).read_text(encoding="utf-8"))
        assert (plan["jobs"].keys() == {"models", "chapters", f"book/{name}"}) == one
        assert sorted(name for entry in plan["jobs"].values() for name in entry["names"]) == sorted(
            job.name for job in planned)
