"""What is stale, why, and that being killed changes nothing."""
import ast
import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from conftest import NANO, Repository, write_notebook

from sftrepro import chapters, codegraph, execution, mixtures, workflow
from sftrepro.contents import chapter_files
from sftrepro.profiles import ROOT, RequestError, load_profile

CODE = codegraph.library()


def modules(**sources: str) -> codegraph.Library:
    "The library that some module texts make."
    parsed = {name: codegraph.parse_module(ast.parse(text)) for name, text in sources.items()}
    return {f"{module}.{name}": codegraph.define(module, name, parsed)
            for module, each in parsed.items() for name in each.definitions}


# What a piece of code depends on

def test_definitions_worked_out_on_demand_are_those_worked_out_all_at_once() -> None:
    texts = {path.stem: path.read_text() for path in (ROOT / "sftrepro").glob("*.py") if path.stem != "_modidx"}
    assert {name: CODE[name] for name in modules(**texts)} == modules(**texts)
    assert [name for name in ("store.verify", "store", "store.nothing", "nothing.verify") if name in CODE] == [
        "store.verify"
    ]


def test_what_a_parser_makes_is_kept_until_the_file_changes_and_a_damaged_cache_does_no_harm(tmp_path: Path) -> None:
    (file := tmp_path / "a.py").write_text("X = 1")
    asked = []

    def parse(path: Path) -> str:
        asked.append(path)
        return path.read_text(encoding="utf-8")
    assert [codegraph.kept(file, parse) for _ in range(3)] == ["X = 1"] * 3 and len(asked) == 1
    file.write_text("X = 2")
    assert [codegraph.kept(file, parse) for _ in range(3)] == ["X = 2"] * 3 and len(asked) == 2
    cache, = (tmp_path / "__pycache__").iterdir()
    for content in (b"", cache.read_bytes()[:-9], b"X"):
        cache.write_bytes(content)
        assert codegraph.kept(file, parse) == "X = 2"
    assert len(asked) == 5
    shutil.rmtree(cache.parent)
    cache.parent.write_text("where nothing can be written")
    assert codegraph.kept(file, parse) == "X = 2"


@pytest.mark.parametrize(("text", "names"), [
    ("def f(x, *y, **z): return x + y + z + w", {"w"}),
    ("def f(x=a, *, y: b = 1) -> c: return x", {"a", "b", "c"}),
    ("def f():\n    for i in g(): h = i\n    return h", {"g"}),
    ("def f(): return [x for x in xs if x > y]", {"xs", "y"}),
    ("f = lambda q: q + r", {"r"}), ("def f(x=x): return x", {"x"}), ("table = 3", set()),
    ("def f():\n    def g(k): return k + m\n    return g", {"m"}),
    ("def f():\n    with a() as b, c: return b.d", {"a", "c"}),
    ("def f():\n    try: g()\n    except e as error: raise h from error", {"g", "e", "h"}),
    ("def f(x):\n    match x:\n        case A(b=c, d=[*e]): return c, e", {"A"}),
    ("@cache\ndef f(): return store.read.csv", {"cache", "store.read.csv"}),
    ("class C(B):\n    x: T = d\n    def m(self): return self.n + g", {"B", "T", "d", "g"}),
])
def test_only_names_from_outside_are_read(text: str, names: set[str]) -> None:
    assert set(codegraph.free_names(ast.parse(text).body[0])) == names


def test_a_change_reaches_what_depends_on_it_through_modules_and_nothing_else() -> None:
    one = {
        "a": "from sftrepro.b import h as helper\nX = 1\ndef f(): return helper()\ndef g(): return X\ndef alone(): "
             "return 3",
        "b": "from sftrepro import c\ndef h(): return c.deep(1)",
        "c": "def deep(x): return x\nSCORERS = {}\nSCORERS['k'] = deep",
    }
    other = one | {"c": one["c"].replace("return x", "return -x")}
    before, after = modules(**one), modules(**other)
    changed = {name for name in before if before[name].digest != after[name].digest}
    touched = {name for name in before if codegraph.closure({name}, after) & changed}
    assert changed == {"c.deep"} and touched == {"a.f", "b.h", "c.deep", "c.SCORERS"}


def test_comments_and_docstrings_decide_nothing_and_statements_of_a_module_decide_for_all_of_it() -> None:
    plain, documented = (
        modules(m="def f(): return 1"),
        modules(m='"A module."\n# a comment\ndef f():\n    "Says one."\n    return 1  # one'),
    )
    assert plain == documented
    assert "m." in codegraph.closure({"m.f"}, modules(m="import os\nos.environ['X'] = '1'\nprint()\ndef f(): return 1"))


def test_whatever_runs_is_in_the_closure(tmp_path: Path) -> None:
    "Record which functions of the library a real job calls; the closure must know them all."
    called = set()

    def record(frame, event, _argument) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.parent == ROOT / "sftrepro" and not frame.f_code.co_name.startswith("<"):
            called.add(f"{path.stem}.{frame.f_code.co_qualname.split('.')[0]}")

    profile = load_profile("smoke").model_copy(update={"row_divisor": 1280})
    sys.setprofile(record)
    try:
        mixtures.build("Math-CoT,refusals=0.3,refusing=thinking,brief=0.3", 1, profile, tmp_path)
    finally:
        sys.setprofile(None)
    assert len(called) > 10 and called <= codegraph.closure({"mixtures.build"}, CODE)


def test_settings_enter_by_value_and_new_ones_leave_the_code_alone() -> None:
    text = (ROOT / "sftrepro/profiles.py").read_text()
    added = text.replace("    top_p: float", "    top_k: int = 0\n    top_p: float", 1)
    assert text != added
    assert modules(profiles=text)["profiles.Profile"] == modules(profiles=added)["profiles.Profile"]
    used = workflow.load_flow(load_profile("smoke"))
    assert "temperature" not in used.inputs["pretrain/Nano"]["settings"]
    assert {"temperature", "pretraining_tokens"} <= used.inputs["generate/Nano"]["settings"].keys()
    below = [name for name, job in used.jobs.items() if job.kind not in ("chapter", "book")]
    assert not any(workflow.SELECTING_SETTINGS & used.inputs[name]["settings"].keys() for name in below)


# Fresh or stale, in a small repository whose chapters count as run

SEAL = """
from sftrepro import store, workflow
from sftrepro.profiles import load_profile
flow = workflow.load_flow(load_profile("tiny"))
for job in flow.jobs.values():
    if job.kind == "chapter":
        store.write_bytes(job.output, b"{}")
        reads = [store.results_file(flow.profile, key) for key in job.spec["results"]]
        files = {store.display_path(path): store.file_digest(path) for path in reads}
        store.seal(job.output, flow.inputs[job.name] | {"files": files})
"""
STALE = """
import json
from sftrepro import workflow
from sftrepro.profiles import load_profile
flow = workflow.load_flow(load_profile("tiny"))
found = {job.name: workflow.results_reasons(job, flow) if job.kind == "score" else workflow.reasons(job, flow)
         for job in flow.jobs.values() if job.kind in ("score", "chapter")}
print(json.dumps({name.split("_lr")[0]: why for name, why in found.items() if why}))
"""


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    "The small repository with fresh results and chapters."
    repository = Repository.new(tmp_path_factory.mktemp("made") / "repository")
    repository.publish()
    repository.python(SEAL)
    assert json.loads(repository.python(STALE)) == {}
    return repository


@pytest.fixture
def made(made_once: Repository, tmp_path: Path) -> Repository:
    "A copy of it to change."
    return made_once.copied(tmp_path / "made")


def test_prose_makes_its_own_chapter_stale_and_no_other(made: Repository) -> None:
    made.edit("nbs/21_plain.ipynb", "# Another", "# Some other")
    assert json.loads(made.python(STALE)) == {"chapter/21_plain": [workflow.TEXT_CHANGED]}


def test_new_text_is_put_around_the_outputs_of_the_last_run_and_new_code_is_run(tmp_path: Path) -> None:
    repository = Repository.new(tmp_path / "repository")
    repository.publish()
    write_notebook(repository.folder / "nbs/20_toy.ipynb", [
        ("# A clock", ()), ("profile = 'smoke'", ("parameters",)), ("# Now", ()),
        ("import time\nprint(profile, time.time())", ()), ("# The end", ())])
    def done() -> list[list[str]]:
        "Run the chapter; its text, and what it printed."
        stale = repository.python(
            "from sftrepro import execution, workflow\nfrom sftrepro.profiles import load_profile\n"
            f"execution.do('chapter/20_toy', workflow.load_flow(load_profile('tiny')))\n{STALE}")
        assert "chapter/20_toy" not in json.loads(stale)
        cells = json.loads((repository.build / "executed/tiny/20_toy.ipynb").read_text())["cells"]
        text = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        return [text, *(output["text"] for cell in cells for output in cell.get("outputs", []))]
    text, first = done()
    assert text == ["# A clock", "# Now", "# The end"] and first[0].startswith("tiny ")
    repository.edit("nbs/20_toy.ipynb", "# Now", "# Later")
    assert done() == [["# A clock", "# Later", "# The end"], first]
    repository.edit("nbs/20_toy.ipynb", "# The end", "# The very end")
    repository.edit("nbs/20_toy.ipynb", "print(profile, ", "print(profile,  ")
    text, last = done()
    assert text == ["# A clock", "# Later", "# The very end"] and last != first
    why = "Profile `tiny` makes none of the runs of this chapter, so it was not run: B4101, B4102."
    repository.edit("nbs/20_toy.ipynb", "profile = 'smoke'", "profile = 'smoke'; runs = ['B4101', 'B4102']")
    assert done() == [["# A clock", why]]
    repository.edit("nbs/20_toy.ipynb", "# A clock", "# No clock")
    assert done() == [["# No clock", why]]


def test_each_chapter_is_run_at_the_profile_of_the_published_book_and_at_smoke() -> None:
    micro, smoke, paper = map(load_profile, ("micro", "smoke", "paper"))
    for profile in (micro, smoke):
        assert not [stem for stem, path in chapter_files().items()
                    if workflow.unmade(chapters.read_chapter(path), profile)]
    at_paper = [stem for stem, path in chapter_files().items() if workflow.unmade(chapters.read_chapter(path), paper)]
    assert {stem[:2] for stem in at_paper} == {"41", "43", "44", "45", "46"}


@pytest.mark.parametrize(
    ("path", "old", "new", "stale", "named"),
    [
        ("sftrepro/answers.py", "def boxed(", "SIDE = 1\n\ndef boxed(", set(), ""),
        (
            "sftrepro/answers.py",
            "def boxes(",
            "def boxes(added=None, *,",
            {"chapter/21_plain", "score/Nano", "score/Nano+think", "score/Nano_Math-CoT"},
            "function answers.boxes changed",
        ),
        (
            "sftrepro/sft.py",
            'COMPLETE_FILE = "whole.json"',
            'COMPLETE_FILE = "all.json"',
            {"score/Nano_Math-CoT"},
            "function sft.COMPLETE_FILE changed",
        ),
        (
            "sftrepro/item_results.py",
            '"this chapter"',
            '"that chapter"',
            {"chapter/20_toy"},
            "function item_results.verified_results changed",
        ),
        ("sftrepro/plots.py", "FONT =", "FONT = ''\nFONT =", set(), ""),
    ],
)
def test_a_changed_function_makes_exactly_its_dependents_stale_and_is_named(
        made: Repository, path: str, old: str, new: str, stale: set[str], named: str) -> None:
    made.edit(path, old, new)
    found = json.loads(made.python(STALE))
    assert found.keys() == stale
    assert all(why == [named] for why in found.values())


def test_a_changed_setting_is_named_by_what_uses_it(made: Repository) -> None:
    made.profile("tiny", "tiny", temperature="0.7")
    found = json.loads(made.python(STALE))
    assert found == {
        name: ["setting temperature changed from 0.6 to 0.7"]
        for name in ("score/Nano", "score/Nano+think", "score/Nano_Math-CoT")
    }


def test_another_base_or_seed_leaves_what_is_there_fresh(made: Repository) -> None:
    more = f"\n{NANO}\nQwen/Qwen3-1.7B-Base -> Pico: qwen3 layers=1 hidden=16 heads=2 kv_heads=1 mlp=32"
    made.profile("tiny", "tiny", bases=more, seeds="1 2")
    found = json.loads(made.python(STALE))
    assert {name for name in found if name.startswith("score")} == {
        "score/Pico", "score/Pico+think", "score/Nano_Math-CoT"}
    assert found["score/Nano_Math-CoT"] == ["it has not been made here"]            # seed 2


def test_a_changed_file_is_named_by_the_chapter_that_read_it(made: Repository) -> None:
    made.python(
        "from sftrepro import item_results, store; from sftrepro.profiles import load_profile\n"
        "path = store.results_file(load_profile('tiny'), 'Nano'); frame = item_results.read_published(path)\n"
        "item_results.publish_results(load_profile('tiny'), 'Nano', frame.with_columns(tokens=9), "
        "store.read_manifest(path).inputs)"
    )
    assert json.loads(made.python(STALE)) == {"chapter/20_toy": ["file runs/tiny/results/Nano.parquet changed"]}


def test_status_names_what_is_stale_and_why(made: Repository) -> None:
    made.edit("sftrepro/answers.py", "def boxes(", "def boxes(added=None, *,")
    code, out, errors = made.run("status", "--profile", "tiny")
    assert code == 0, errors
    assert "fresh  chapter/20_toy" in out and "stale  chapter/21_plain: function answers.boxes changed" in out
    assert "stale  results/Nano: function answers.boxes changed" in out


# Chapters

def test_a_name_may_be_a_number_or_a_part_and_must_be_one_chapter() -> None:
    assert (
        chapters.find_chapter("11") == chapters.find_chapter("stats") == chapters.find_chapter("11_stats") == "11_stats"
    )
    for name in ("99", "0", ""):
        with pytest.raises(RequestError, match="Chapters: 90_scoreboard, 00_quickstart, "):
            chapters.find_chapter(name)


MICRO = load_profile("micro")
RUNS, FEW = ["R25"], [1]


def chapter_with(name: str, default: object) -> chapters.Chapter:
    "A chapter with one parameter."
    return chapters.Chapter(Path("20.ipynb"), "", "", {name: default}, {}, frozenset(), frozenset(), frozenset())


@pytest.mark.parametrize(("default", "text", "value"), [
    (3, "4", 4), (0.5, "1", 1.0), (0.5, "2e-4", 2e-4), (True, "False", False), ("micro", "smoke", "smoke"),
    (FEW, "[2, 3]", [2, 3]), (FEW, "2", [2]), (FEW, "2,3", [2, 3]), (RUNS, "['R33']", ["R33"]), (RUNS, "R33", ["R33"]),
    (RUNS, "R33,R25", ["R33", "R25"]), (RUNS, "R33 R25", ["R33", "R25"]), (RUNS, '["R33", "R25"]', ["R33", "R25"]),
    (RUNS, "[R33, R25]", ["R33", "R25"]), ([], "R33,R25-null", ["R33", "R25-null"]), ([], "all", ["all"]),
    ([], "Micro-M,Micro-M+think", ["Micro-M", "Micro-M+think"]), (RUNS, "[]", [])])
def test_parameters_get_the_type_of_their_default(default: object, text: str, value: object) -> None:
    assert chapters.checked_parameters(chapter_with("p", default), {"p": text}, MICRO) == {"p": value}


@pytest.mark.parametrize("default", [[], ["order"]])
@pytest.mark.parametrize("text", ["order,MATH500", '["order", "MATH500"]'])
def test_benchmarks_are_named_as_the_profile_or_as_the_paper_names_them(default: list[str], text: str) -> None:
    chapter = chapter_with("benchmarks", default)
    assert chapters.checked_parameters(chapter, {"benchmarks": text}, MICRO) == {"benchmarks": ["order", "MATH500"]}


@pytest.mark.parametrize(("name", "default", "text", "problem"), [
    ("p", 3, "three", "'three' is not of type int"), ("p", 3, "4.5", "'4.5' is not of type int"),
    ("p", 3, "True", "'True' is not of type int"), ("p", 0.5, "half", "'half' is not of type float"),
    ("p", True, "1", "'1' is not of type bool"), ("p", FEW, "['a']", "'a' is not of type int"),
    ("p", FEW, "one,2", "'one' is not of type int"), ("p", RUNS, "[1]", "run '1' is not one of the paper's"),
    ("p", RUNS, "R25,R99", "run 'R99' is not one of the paper's"), ("p", [], "R34", "run 'R34' is not one of"),
    ("p", RUNS, "R10-null", "run 'R10-null' is not made at profile micro. Its runs: R01, "),
    ("benchmarks", [], "R25", "benchmark 'R25' is not evaluated at profile micro"),
    ("benchmarks", ["order"], "order,orders", "benchmark 'orders' is not evaluated at profile micro")])
def test_a_parameter_that_a_chapter_cannot_take_is_refused_with_an_example_that_it_can(
        name: str, default: object, text: str, problem: str) -> None:
    chapter = chapter_with(name, default)
    with pytest.raises(RequestError) as refused:
        chapters.checked_parameters(chapter, {name: text}, MICRO)
    line, example = str(refused.value).split(f" Example: -p {name} ")
    assert line.startswith(f"chapter 20 parameter {name}: {problem}") and "\n" not in line
    assert chapters.checked_parameters(chapter, {name: example}, MICRO)[name] not in (None, [])


# Damaged, or killed at any moment

def test_a_damaged_folder_is_put_in_quarantine_and_made_again(own_store: Path) -> None:
    profile = load_profile("smoke")
    job = workflow.load_flow(profile).jobs["data/Math-CoT-seed1"]
    execution.do(job.name, workflow.load_flow(profile))
    good = (job.output / "data.parquet").read_bytes()
    (job.output / "data.parquet").write_bytes(good[:-1] + b"x")
    assert workflow.reasons(job, workflow.load_flow(profile)) == [
        "runs/smoke/data/Math-CoT-seed1/data.parquet: sha256 differs from its manifest"]
    execution.do(job.name, workflow.load_flow(profile))
    assert workflow.reasons(job, workflow.load_flow(profile)) == []
    assert (job.output / "data.parquet").read_bytes() == good
    assert [path.read_bytes()[-1:] for path in (own_store / "quarantine").rglob("data.parquet")] == [b"x"]


def test_a_job_does_not_start_from_something_damaged(own_store: Path) -> None:
    profile = load_profile("smoke")
    job = next(job for job in workflow.jobs(profile).values() if job.name.startswith("train/Nano_"))
    with pytest.raises(
        RequestError, match="runs/smoke/bases/nano is missing. Make it again: make rebuild PROFILE=smoke"
    ):
        execution.do(job.name, workflow.load_flow(profile))
    assert not (own_store / "smoke").exists()


def results(repository: Repository) -> pl.DataFrame:
    "What the tiny profile measured, without how long it took."
    files = sorted((repository.store / "tiny/results").glob("*.parquet"))
    return pl.concat([pl.read_parquet(file).drop("seconds") for file in files])


@pytest.mark.minutes
@pytest.mark.parametrize(("kills", "what"), [(1, ("--only", "toy")), pytest.param(4, (), marks=pytest.mark.release)])
def test_a_rebuild_killed_at_random_moments_ends_with_the_same_results(
    finished: Repository, tmp_path: Path, kills: int, what: tuple[str, ...]
) -> None:
    killed, chance = finished.copied(tmp_path / "killed"), random.Random(kills)
    for path in [*killed.store.glob("tiny/Nano_*"), *killed.store.glob("tiny/results/Nano_*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    one_core = ("--", "--cores", "1")  # with as many threads, on which rounding depends
    again = ("rebuild", *what, "--profile", "tiny", *one_core)
    for _ in range(kills):
        process = killed.start(*again)
        with pytest.raises(subprocess.TimeoutExpired):  # it is at work
            process.wait(chance.uniform(3, 15) if kills == 1 else chance.uniform(3, 8))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    code, out, errors = killed.run(*again)
    assert code == 0, errors
    assert results(killed).equals(results(finished)) and results(killed).height > 30
    assert (killed.build / "site/tiny/index.html").exists() == (what == ())
    assert Path(out.splitlines()[-1].removeprefix("Open ")).is_file()
    executed = {path.stem for path in (killed.build / "executed/tiny").glob("*.ipynb")}
    assert executed == ({"20_toy"} if what else {"20_toy", "21_plain"})
    assert not [name for name in killed.files() if "partial" in name or "inputs.json" in name]
    assert "all is fresh" in killed.run("rebuild", *what, "--profile", "tiny")[1]
