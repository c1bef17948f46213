"""Programs that try to get out, to get more, or to get a verdict that they have not earned."""
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftrepro import sandbox, score
from sftrepro.profiles import ROOT, RequestError
from sftrepro.sandbox import (
    Limits,
    Outcome,
    Unjudged,
    judged_run,
    literal,
    passes_cases,
    prove,
    returned_values,
    run_program,
)
from sftrepro.world import Item

SHORT = Limits(seconds=1)
CASES = [([2], 4), ([-3], 9), ([10], 100)]
SQUARE = "def f(x): return x * x"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap is for Linux")


def processes_named(mark: str) -> list[str]:
    "Command lines of this machine that hold a word."
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(line.read_text(errors="replace"))
        except OSError:
            continue
    return [line for line in found if mark in line]


def gone(mark: str) -> bool:
    "Have all processes with this word ended? The kernel is given a few seconds to sweep up."
    for _ in range(600):
        if not processes_named(mark):
            return True
        time.sleep(0.1)
    return False


def test_the_box_proves_itself() -> None:
    prove.cache_clear()
    prove()


def test_a_program_reads_its_input_and_its_output_comes_back() -> None:
    outcome = run_program("print(input()[::-1])\nprint('é')", stdin="abc\n")
    assert (outcome.status, outcome.stdout) == ("ok", "cba\né\n")


def test_the_main_block_of_a_program_runs_but_that_of_a_judged_function_does_not() -> None:
    main = "\nif __name__ == '__main__': print(int(input()))"
    assert run_program("x = 1" + main, stdin="5").stdout == "5\n"
    assert passes_cases(SQUARE + main, "f", CASES)


def test_an_error_names_its_last_line() -> None:
    outcome = run_program("1 / 0")
    assert (outcome.status, outcome.error) == ("error", "ZeroDivisionError: division by zero")


@pytest.mark.parametrize(("status", "source"), [
    ("ok", "raise SystemExit(0)"), ("error", "raise SystemExit(3)"), ("error", "def f(:"), ("error", "\0"),
    ("timeout", "while True: pass"), ("timeout", "import time; time.sleep(60)"),
    ("limit", "x = bytearray(2**30)"), ("limit", "x = 'a'\nwhile True: x += x"), ("limit", "while True: print('spam' "
                                                                                           "* 1000)"),
    ("error", "def f(): f()\nf()"),
])
def test_an_outcome_has_the_right_name(status: str, source: str) -> None:
    patience = SHORT if status == "timeout" else Limits(seconds=60)  # on a busy machine, too
    assert run_program(source, limits=patience).status == status


def test_a_program_that_solves_the_task_passes() -> None:
    assert passes_cases(SQUARE, "f", CASES)
    assert passes_cases("import math\ndef f(x):\n    print('working...')\n    return math.prod([x, x])", "f", CASES)


def test_tuples_strings_and_nested_values_come_back_as_they_are() -> None:
    value = {"a": [1, (2.5, None)], 3: {True, "x\n'\""}, b"\xff": ""}
    assert passes_cases("def f(x): return x", "f", [([value], value)])
    assert not passes_cases("def f(x): return list(x)", "f", [([(1, 2)], (1, 2))])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=8),
    min_size=1, max_size=5))
def test_any_plain_value_survives_the_way_in_and_out(values: list) -> None:
    assert passes_cases("def f(x): return x", "f", [([value], value) for value in values])


def test_one_wrong_case_is_enough_to_fail() -> None:
    assert not passes_cases("def f(x): return abs(x) * 2 if abs(x) < 3 else x * x", "f", [*CASES, ([1], 1)])
    assert not passes_cases("def f(x):\n    if x == 10: raise ValueError\n    return x * x", "f", CASES)


FORGERIES = {
    "prints a report": "print(['4', '9', '100'])",
    "prints and exits with success": "print(['4', '9', '100'])\nraise SystemExit(0)",
    "exits before any case": SQUARE + "\nimport sys; sys.exit(0)",
    "leaves at once": SQUARE + "\nimport os; os._exit(0)",
    "leaves within a case": "import os\ndef f(x): os._exit(0)",
    "exits within a case": "def f(x): raise SystemExit(0)",
    "kills itself": "import os\ndef f(x): os.kill(os.getpid(), 9)",
    "writes into every file that is open": (
        "import os\nfor fd in range(32):\n    try: os.write(fd, b\"['4', '9', '100']\")\n    except OSError: "
        "pass\nos._exit(0)"
    ),
    "overwrites the report afterwards": (
        "import os, atexit\ndef late():\n    for fd in range(3, 32):\n        try: os.pwrite(fd, b\"['4', '9', "
        "'100']\", 0)\n"
        "        except OSError: pass\natexit.register(late)\ndef f(x): return 0"
    ),
    "equals everything": "class A:\n    __eq__ = lambda s, o: True\n    __repr__ = lambda s: '4'\ndef f(x): return A()",
    "is an integer of its own kind": "class A(int):\n    __repr__ = lambda s: str(x * x)\ndef f(y):\n    global x\n   "
                                     " x = y\n    return A()",
    "breaks repr": "import builtins\nbuiltins.repr = lambda v: '4'\ndef f(x): return 0",
    "breaks equality of lists": "def f(x): return [x * x]",
    "returns a text that looks right": "def f(x): return str(x * x)",
    "reports more than it was asked": "import builtins\nold = repr\nbuiltins.repr = lambda v: old([*v, '1']) if "
                                      "type(v) is list else old(v)\n"
    + SQUARE,
    "returns something endless to read": "def f(x): return '[' * 10**7",
    "nests without end": "def f(x):\n    y = []\n    for _ in range(10**5): y = [y]\n    return y",
    "defines another name": "def g(x): return x * x",
    "has no function": "f = 4",
    "changes the driver's stack": (
        "import sys\nframe = sys._getframe(1)\nframe.f_globals['cases'] = []\ndef f(x): return 0"
    ),
}


@pytest.mark.parametrize("source", FORGERIES.values(), ids=FORGERIES)
def test_a_verdict_cannot_be_forged(source: str) -> None:
    assert not passes_cases(source, "f", CASES, SHORT)


ATTACKS = {path.stem: path.read_text() for path in sorted((ROOT / "tests/attacks").glob("*.py"))}


@pytest.fixture(scope="module")
def listeners() -> Iterator[list[socket.socket]]:
    "Ears outside the box: on the network, and on a Unix socket without a file."
    with socket.create_server(("127.0.0.1", 0)) as network, socket.socket(socket.AF_UNIX) as name:
        name.bind(f"\0sftrepro-{os.getpid()}")
        name.listen()
        for listener in (network, name):
            listener.settimeout(0.1)
        yield [network, name]


@pytest.mark.parametrize("source", ATTACKS.values(), ids=ATTACKS)
def test_an_attack_is_contained_and_counts_as_wrong(source: str, listeners: list[socket.socket]) -> None:
    "Each ends in the way that its second line says, so that no attack passes for contained because of a slip in it."
    given = {"PORT": listeners[0].getsockname()[1], "ROOT": str(ROOT), "PID": os.getpid(), "HOME": str(Path.home())}
    attack = "\n".join(f"{name} = {value!r}" for name, value in given.items()) + "\n" + source + SQUARE
    patience = SHORT if "# ends with: timeout" in source else Limits(seconds=10)
    outcome = judged_run(attack, patience, function="f", cases=repr([arguments for arguments, _ in CASES]))
    assert re.search(r"# ends with: (.*)", source)[1].strip() in f"{outcome.status} {outcome.error}"
    assert outcome.status != "ok" and outcome.report is None
    for listener in listeners:
        with pytest.raises(TimeoutError):
            listener.accept()


def test_an_attack_fails_its_item() -> None:
    for name in ("forks", "becomes_another_program", "prints_without_end"):
        assert not passes_cases(ATTACKS[name] + SQUARE, "f", CASES, SHORT)


def test_a_program_dies_with_the_process_that_asked_for_it() -> None:
    mark = 2 * 10**6 + os.getpid()
    asker = subprocess.Popen([sys.executable, "-c", "from sftrepro.sandbox import *\n"
                              f"run_program('import time; time.sleep(60)', limits=Limits(seconds=60, files={mark}))"])
    while not processes_named(str(mark)) and asker.poll() is None:
        time.sleep(0.05)
    asker.kill()
    asker.wait()
    assert gone(str(mark))


@pytest.mark.parametrize(
    "name", ["ignores_signals", "forgets_its_parent", "becomes_another_program", "stops_its_clock"]
)
def test_a_program_that_wants_to_stay_is_gone_when_its_time_is_up(name: str) -> None:
    mark = 3 * 10**6 + os.getpid()
    assert run_program(ATTACKS[name], limits=Limits(seconds=1, files=mark)).status == "timeout"
    assert gone(str(mark))


@pytest.fixture
def busy_machine() -> Iterator[None]:
    "All that this test starts has one processor, and two others want it as well."
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    loop = f"import os\nwhile os.getppid() == {os.getpid()}: pass"  # no longer than this test, whatever ends it
    hog = [sys.executable, "-c", loop]  # in sessions of their own, since Linux may share between those
    hogs = [subprocess.Popen(hog, start_new_session=True) for _ in range(2)]
    yield
    for process in hogs:
        process.kill()
        process.wait()
    os.sched_setaffinity(0, before)


def test_a_right_program_on_a_busy_machine_passes_by_its_processor_time(busy_machine: None) -> None:
    slow = "import time\nbegun = time.monotonic()\nwhile time.monotonic() < begun + 1.2: pass\n"  # longer than it may
    outcome = run_program(slow + "print('done')", limits=Limits(seconds=1))
    assert (outcome.status, outcome.stdout) == ("ok", "done\n")


@pytest.mark.parametrize("source", ["import time; time.sleep(60)", ATTACKS["takes_naps"]])
def test_an_endless_program_on_a_busy_machine_is_still_wrong(source: str, busy_machine: None) -> None:
    assert run_program(source, limits=SHORT).status == "timeout"


def test_an_endless_program_gets_its_processor_time_on_a_busy_machine(busy_machine: None) -> None:
    "The wall clock would give it a third. The kernel counts in ticks, on a virtual machine some tenths off."
    tells = "import os, time\nwhile True: os.pwrite(1, b'%.4f' % time.process_time(), 0)"
    outcome = run_program(tells, limits=SHORT)
    assert outcome.status == "timeout" and float(outcome.stdout) == pytest.approx(1, abs=0.4)


STARVED = Limits(seconds=60)  # more than a program can use up within the patience of these tests


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    "No patience; the list tells of each try whether it was alone."
    start, alone = sandbox.start_program, []
    monkeypatch.setattr(sandbox, "patience", lambda limits: 1)
    prove()

    def start_program(*given: object, **named: object) -> Outcome:
        alone.append(named["alone"])
        return start(*given, **named)

    monkeypatch.setattr(sandbox, "start_program", start_program)
    return alone


def test_a_starved_program_is_tried_again_alone_and_then_not_judged(tries: list[bool]) -> None:
    for _ in range(2):  # nothing is remembered
        tries.clear()
        with pytest.raises(Unjudged, match="^sandbox: a program was ready to run for 1 s, twice"):
            passes_cases("while True: pass", "f", CASES, STARVED)
        assert tries == [False, True]


def test_a_program_that_is_not_judged_has_no_score_and_its_answer_says_why(
    tries: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "program_cases", lambda *given: CASES)
    monkeypatch.setattr(score, "passes_cases", lambda *given: passes_cases(*given, STARVED))
    item = Item(benchmark="program", prompt="", answer="")
    verdict = score.score_program("```python\nwhile True: pass\n```", item, None)
    assert (verdict.parsed, verdict.score) == (True, None)
    assert verdict.answer.startswith("not judged: sandbox: a program was ready to run")


def test_a_program_that_the_machine_starved_once_is_judged_by_its_second_try(
    tries: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, once = sandbox.watched, iter(["unjudged"])
    monkeypatch.setattr(sandbox, "watched", lambda *given: next(once, None) or watched(*given))
    monkeypatch.setattr(sandbox, "patience", lambda limits: 30)
    assert run_program("print('done')").stdout == "done\n"
    assert tries == [False, True]


def test_a_program_that_is_too_slow_is_not_tried_again(tries: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "patience", lambda limits: 30)
    assert run_program("while True: pass", limits=SHORT).status == "timeout"
    assert tries == [False]


def test_alone_means_that_no_other_box_runs_in_any_process(tmp_path: Path) -> None:
    "Three processes write down when they come and go; one of them wants to be alone."
    code = (
        "import sys, time\nfrom sftrepro.sandbox import box_lock\nwith box_lock(sys.argv[1] == 'alone'):\n"
        "    print('in', time.monotonic(), flush=True)\n    time.sleep(0.5)\n    print('out', time.monotonic(), "
        "flush=True)"
    )
    kinds = ["beside", "alone", "beside", "alone", "beside"]
    askers = [subprocess.Popen([sys.executable, "-c", code, kind], stdout=subprocess.PIPE, text=True) for kind in kinds]
    stays = [[float(line.split()[1]) for line in asker.communicate()[0].splitlines()] for asker in askers]
    for kind, (come, leave) in zip(kinds, stays, strict=True):
        others = [stay for stay in stays if stay != [come, leave]]
        assert kind == "beside" or all(other[1] <= come or leave <= other[0] for other in others)


NUMPY = Limits(seconds=6, numpy=True)


def test_numpy_is_the_only_package_and_only_where_it_is_allowed() -> None:
    assert run_program("import numpy as np; print(np.arange(5).sum())", limits=NUMPY).stdout == "10\n"
    assert run_program("import numpy").error == "ModuleNotFoundError: No module named 'numpy'"
    for name in ("scipy", "polars", "pydantic", "torch", "pip"):
        assert run_program(f"import {name}", limits=NUMPY).error == f"ModuleNotFoundError: No module named '{name}'"


def test_numpy_in_the_box_can_be_neither_changed_nor_used_to_start_threads() -> None:
    assert "Read-only file system" in run_program("import numpy; open(numpy.__file__, 'a')", limits=NUMPY).error
    source = ("import os, numpy as np\nx = np.ones((400, 400))\nfor _ in range(20): x = x @ x / 400\n"
              "np.linalg.inv(x + np.eye(400))\nimport threading, time\nbegun = time.perf_counter(), "
              "time.process_time()\nfor _ in range(50): x = x @ x / 400\n"
              "print(time.process_time() - begun[1] <= 1.1 * (time.perf_counter() - begun[0]) + 0.05)")
    assert run_program(source, limits=NUMPY).stdout == "True\n"


def test_numbers_of_numpy_count_as_the_plain_numbers_that_they_equal() -> None:
    source = "import numpy as np\ndef f(kind, x): return getattr(np, kind)(x)"
    plain = [(["int64", 4], 4), (["float64", 0.5], 0.5), (["bool_", 1], True), (["str_", "a"], "a")]
    assert passes_cases(source, "f", plain, NUMPY)
    assert passes_cases("import numpy as np\ndef f(x): return {'a': [np.int64(x)]}", "f", [([3], {"a": [3]})], NUMPY)
    assert returned_values(source, "f", "[['array', [1, 2]], ['longdouble', 1]]", NUMPY) == (None, None)
    forged = "class A:\n    item = lambda self: [x * x]\nA.__module__ = 'numpy'\ndef f(y): return A()"
    assert not passes_cases(forged, "f", CASES, NUMPY)


@pytest.mark.parametrize("name", ["changes_a_library", "loops", "reads_the_repository", "takes_memory"])
def test_an_attack_is_contained_beside_numpy(name: str) -> None:
    attack = f"ROOT, HOME = {str(ROOT)!r}, {str(Path.home())!r}\n" + ATTACKS[name] + SQUARE
    outcome = judged_run(attack, Limits(seconds=1, numpy=True), function="f", cases="[[2]]")
    assert re.search(r"# ends with: (.*)", attack)[1].strip() in f"{outcome.status} {outcome.error}"


def test_two_programs_do_not_meet() -> None:
    assert run_program("open('/tmp/note', 'w').write('x')").status == "ok"
    assert run_program("import os\nprint(os.listdir('/tmp'))").stdout == "[]\n"


def test_the_environment_stays_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_WORD", "rosebud")
    assert "rosebud" not in run_program("import os\nprint(dict(os.environ))").stdout


def test_a_verdict_does_not_depend_on_the_hash_seed() -> None:
    assert run_program("print(hash('a'))").stdout == run_program("print(hash('a'))").stdout


@given(
    st.text(alphabet="[](){},'\"-+0123456789einfx\\ \n#:", max_size=60)
    | st.sampled_from(["[" * 10**5, "-" * 10**6 + "1"])
)
def test_reading_what_comes_out_never_raises(text: str) -> None:
    literal(text)


def test_without_bubblewrap_programs_are_refused_with_the_package_named(monkeypatch: pytest.MonkeyPatch) -> None:
    prove.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        RequestError, match="^sandbox: bubblewrap is not installed. Install it: apt-get install bubblewrap$"
    ):
        run_program("print(1)")


@pytest.fixture
def python_elsewhere(tmp_path: Path) -> Path:
    "A Python with a library of its own, under /tmp."
    base = Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}").resolve()
    (tmp_path / "python/bin").mkdir(parents=True)
    shutil.copy(base, tmp_path / "python/bin")
    (tmp_path / "python/lib").symlink_to(base.parent.parent / "lib")
    (tmp_path / "linked").symlink_to(tmp_path / "python")
    return tmp_path / "python/bin" / base.name


COPY = f'{sys.executable} -m venv --copies --without-pip $0/env && exec $0/env/bin/python "$@"'
WHERE = {"under /tmp": lambda python: [str(python)],
         "behind a link": lambda python: [str(python.parents[1].with_name("linked") / "bin" / python.name)],
         "copied into an environment": lambda python: ["sh", "-c", COPY, str(python.parent)]}


@pytest.mark.parametrize("command", WHERE.values(), ids=WHERE)
def test_programs_run_wherever_python_lies(command: Callable, python_elsewhere: Path) -> None:
    code = "from sftrepro.sandbox import run_program; print(run_program('import json, ctypes; print(3)').stdout)"
    path = os.pathsep.join([str(ROOT), *(folder for folder in sys.path if folder.endswith("site-packages"))])
    ended = subprocess.run([*command(python_elsewhere), "-c", code], env=os.environ | {"PYTHONPATH": path},
                           capture_output=True, text=True)
    assert ended.stdout == "3\n\n", ended.stderr


@pytest.mark.parametrize(("said", "blamed"), [
    ("bwrap: No permissions to create new namespace", "Programs are run only where bubblewrap can make namespaces"),
    ("bwrap: execvp /opt/python: No such file or directory", "Programs are run only with a Python that lies"),
])
def test_what_kept_the_box_from_starting_is_blamed(
        said: str, blamed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sandbox, "bubblewrap", lambda: str(broken))
    prove.cache_clear()
    with pytest.raises(RequestError, match=f"^sandbox: {said}. {blamed}"):
        run_program("print(1)")


def test_a_box_in_which_python_does_not_start_says_what_python_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "DRIVER", "import nothing_of_that_name")
    prove.cache_clear()
    with pytest.raises(RequestError, match="failed .error: ModuleNotFoundError: No module named 'nothing_of_that_"):
        run_program("print(1)")
    prove.cache_clear()


@pytest.mark.parametrize(("hole", "named"), [
    (["--share-net"], "reach the network"), (["--bind", str(ROOT), str(ROOT)], "write files outside"),
])
def test_a_leaking_box_is_refused(hole: list[str], named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sandbox.box

    def leaking(*given: object) -> list[str]:
        command = whole(*given)
        place = command.index("--remount-ro")
        return command[:place] + hole + command[place:]

    monkeypatch.setattr(sandbox, "box", leaking)
    prove.cache_clear()
    with pytest.raises(RequestError, match=f"^sandbox: a program in the box can .*{named}"):
        run_program("print(1)")
    prove.cache_clear()


def test_a_box_without_its_filter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "no_processes", lambda: struct.pack("HBBI", 0x06, 0, 0, sandbox.ALLOW))
    prove.cache_clear()
    with pytest.raises(RequestError, match="^sandbox: a program in the box can .*start a process, share memory"):
        run_program("print(1)")
    prove.cache_clear()
