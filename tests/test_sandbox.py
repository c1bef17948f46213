"""Programs that try to get out, to get more, or to get a verdict that they have not earned."""
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftrepro import sandbox
from sftrepro.profiles import ROOT, RequestError
from sftrepro.sandbox import Limits, literal, passes, prove, run_program

SHORT = Limits(seconds=1.5)
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
    for _ in range(100):
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
    assert passes(SQUARE + main, "f", CASES)


def test_an_error_names_its_last_line() -> None:
    outcome = run_program("1 / 0")
    assert (outcome.status, outcome.error) == ("error", "ZeroDivisionError: division by zero")


@pytest.mark.parametrize(("status", "source"), [
    ("ok", "raise SystemExit(0)"), ("error", "raise SystemExit(3)"), ("error", "def f(:"), ("error", "\0"),
    ("timeout", "while True: pass"), ("timeout", "import time; time.sleep(60)"),
    ("limit", "x = bytearray(2**30)"), ("limit", "x = 'a'\nwhile True: x += x"), ("limit", "while True: print('spam' * 1000)"),
    ("error", "def f(): f()\nf()"),
])
def test_an_outcome_has_the_right_name(status: str, source: str) -> None:
    patience = SHORT if status == "timeout" else Limits(seconds=60)  # on a busy machine, too
    assert run_program(source, limits=patience).status == status


def test_a_program_that_solves_the_task_passes() -> None:
    assert passes(SQUARE, "f", CASES)
    assert passes("import math\ndef f(x):\n    print('working...')\n    return math.prod([x, x])", "f", CASES)


def test_tuples_strings_and_nested_values_come_back_as_they_are() -> None:
    value = {"a": [1, (2.5, None)], 3: {True, "x\n'\""}, b"\xff": ""}
    assert passes("def f(x): return x", "f", [([value], value)])
    assert not passes("def f(x): return list(x)", "f", [([(1, 2)], (1, 2))])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=8),
    min_size=1, max_size=5))
def test_any_plain_value_survives_the_way_in_and_out(values: list) -> None:
    assert passes("def f(x): return x", "f", [([value], value) for value in values])


def test_one_wrong_case_is_enough_to_fail() -> None:
    assert not passes("def f(x): return abs(x) * 2 if abs(x) < 3 else x * x", "f", [*CASES, ([1], 1)])
    assert not passes("def f(x):\n    if x == 10: raise ValueError\n    return x * x", "f", CASES)


FORGERIES = {
    "prints a report": "print(['4', '9', '100'])",
    "prints and exits with success": "print(['4', '9', '100'])\nraise SystemExit(0)",
    "exits before any case": SQUARE + "\nimport sys; sys.exit(0)",
    "leaves at once": SQUARE + "\nimport os; os._exit(0)",
    "leaves within a case": "import os\ndef f(x): os._exit(0)",
    "exits within a case": "def f(x): raise SystemExit(0)",
    "kills itself": "import os\ndef f(x): os.kill(os.getpid(), 9)",
    "writes into every file that is open": (
        "import os\nfor fd in range(32):\n    try: os.write(fd, b\"['4', '9', '100']\")\n    except OSError: pass\nos._exit(0)"),
    "overwrites the report afterwards": (
        "import os, atexit\ndef late():\n    for fd in range(3, 32):\n        try: os.pwrite(fd, b\"['4', '9', '100']\", 0)\n"
        "        except OSError: pass\natexit.register(late)\ndef f(x): return 0"),
    "equals everything": "class A:\n    __eq__ = lambda s, o: True\n    __repr__ = lambda s: '4'\ndef f(x): return A()",
    "is an integer of its own kind": "class A(int):\n    __repr__ = lambda s: str(x * x)\ndef f(y):\n    global x\n    x = y\n    return A()",
    "breaks repr": "import builtins\nbuiltins.repr = lambda v: '4'\ndef f(x): return 0",
    "breaks equality of lists": "def f(x): return [x * x]",
    "returns a text that looks right": "def f(x): return str(x * x)",
    "reports more than it was asked": "import builtins\nold = repr\nbuiltins.repr = lambda v: old([*v, '1']) if type(v) is list else old(v)\n" + SQUARE,
    "returns something endless to read": "def f(x): return '[' * 10**7",
    "nests without end": "def f(x):\n    y = []\n    for _ in range(10**5): y = [y]\n    return y",
    "defines another name": "def g(x): return x * x",
    "has no function": "f = 4",
    "changes the driver's stack": (
        "import sys\nframe = sys._getframe(1)\nframe.f_globals['cases'] = []\ndef f(x): return 0"),
}


@pytest.mark.parametrize("source", FORGERIES.values(), ids=FORGERIES)
def test_a_verdict_cannot_be_forged(source: str) -> None:
    assert not passes(source, "f", CASES, SHORT)


ATTACKS = {
    "connects to this machine": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)",
    "connects to the world": "import socket\nsocket.create_connection(('1.1.1.1', 53), 1)",
    "sends a datagram": "import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('1.1.1.1', 53))",
    "asks for a name": "import socket\nsocket.getaddrinfo('example.org', 80)",
    "reads the repository": "print(open({root!r} + '/settings.ini').read())",
    "reads the password file": "print(open('/etc/passwd').read())",
    "reads the home folder": "import os\nprint(os.listdir(os.path.expanduser({home!r})))",
    "writes beside Python": "import os\nopen(os.path.dirname(os.__file__) + '/evil.py', 'w')",
    "removes a library": "import os\nos.remove(os.__file__)",
    "writes to the root": "open('/evil', 'w')",
    "makes the root writable": "import os\nos.chmod('/', 0o777)\nopen('/evil', 'w')",
    "follows a symlink out": "import os\nos.symlink({root!r}, '/tmp/out')\nprint(os.listdir('/tmp/out'))",
    "makes a hard link": "import os\nos.link(os.__file__, '/tmp/os.py')\nopen('/tmp/os.py', 'a')",
    "reads its parent's memory": "print(open('/proc/1/environ', 'rb').read())",
    "mounts": "import ctypes\nassert ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0",
    "makes namespaces": "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "becomes root": "import os\nos.setuid(0)",
    "raises its limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nbytearray(2**30)",
    "forks": "import os\nos.fork()",
    "is a fork bomb": "import os\nwhile True: os.fork()",
    "starts a shell": "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'echo hi'], check=True)",
    "spawns": "import os, sys\nos.posix_spawn(sys.executable, [sys.executable, '-c', '1'], {{}})",
    "uses processes": "import multiprocessing as m\np = m.get_context('fork').Process(target=print)\np.start()",
    "is a thread bomb": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()",
    "opens files without end": "files = []\nwhile True: files.append(open('/dev/null'))",
    "fills the disk": "for n in range(1000): open(f'/tmp/{{n}}', 'wb').write(b'x' * 2**20)",
    "fills memory through files": (
        "import os\nfor n in range(1000): os.write(os.memfd_create(str(n)), b'x' * 2**20)\n"),
    "writes one large file": "open('/tmp/large', 'wb').write(b'x' * 2**22)",
    "maps memory": "import mmap\nx = [mmap.mmap(-1, 2**28) for _ in range(9)]",
    "traces its parent": "import ctypes\nassert ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0",
    "signals this machine's processes": "import os\nos.kill({pid}, 0)",
    "is a recursion bomb in C": "x = None\nfor _ in range(10**6): x = (x,)\nhash(x)",
}


@pytest.fixture(scope="module")
def listener() -> socket.socket:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        yield server


@pytest.mark.parametrize("source", ATTACKS.values(), ids=ATTACKS)
def test_an_attack_is_contained_and_counts_as_wrong(source: str, listener: socket.socket) -> None:
    source = source.format(port=listener.getsockname()[1], root=str(ROOT), home="~root", pid=os.getpid())
    outcome = run_program(source, limits=SHORT)
    assert outcome.status != "ok" and outcome.stdout == ""
    assert not passes(source + "\n" + SQUARE, "f", CASES, SHORT)
    with pytest.raises(TimeoutError):
        listener.accept()


def test_killing_everything_hits_only_the_program_itself() -> None:
    assert not passes("import os\nos.kill(-1, 9)\nos.kill(1, 9)\nos.kill(os.getppid(), 15)\nwhile True: pass", "f", CASES, SHORT)


def test_a_program_that_ignores_signals_ends_at_its_time_and_leaves_nothing_behind() -> None:
    mark = 10**6 + os.getpid()  # stands in the command line of the box
    outcome = run_program("import signal, time\nfor s in set(signal.Signals) - {9, 19}: signal.signal(s, signal.SIG_IGN)\n"
                          "while True: time.sleep(1)", limits=Limits(seconds=1.5, files=mark))
    assert outcome.status == "timeout"
    assert gone(str(mark))


def test_a_program_dies_with_the_process_that_asked_for_it() -> None:
    mark = 2 * 10**6 + os.getpid()
    asker = subprocess.Popen([sys.executable, "-c", "from sftrepro.sandbox import *\n"
                              f"run_program('import time; time.sleep(60)', limits=Limits(seconds=60, files={mark}))"])
    while not processes_named(str(mark)) and asker.poll() is None:
        time.sleep(0.05)
    asker.kill()
    asker.wait()
    assert gone(str(mark))


def test_two_programs_do_not_meet() -> None:
    assert run_program("open('/tmp/note', 'w').write('x')").status == "ok"
    assert run_program("import os\nprint(os.listdir('/tmp'))").stdout == "[]\n"


def test_the_environment_stays_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_WORD", "rosebud")
    assert "rosebud" not in run_program("import os\nprint(dict(os.environ))").stdout


def test_a_verdict_does_not_depend_on_the_hash_seed() -> None:
    assert run_program("print(hash('a'))").stdout == run_program("print(hash('a'))").stdout


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="[](){},'\"-+0123456789einfx\\ \n#:", max_size=60) | st.sampled_from(["[" * 10**5, "-" * 10**6 + "1"]))
def test_reading_what_comes_out_never_raises(text: str) -> None:
    literal(text)


def test_without_bubblewrap_programs_are_refused_with_the_package_named(monkeypatch: pytest.MonkeyPatch) -> None:
    prove.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RequestError, match="^sandbox: bubblewrap is not installed. Install it: apt-get install bubblewrap$"):
        run_program("print(1)")


def test_where_no_box_can_be_made_programs_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sandbox, "bubblewrap", lambda: str(broken))
    prove.cache_clear()
    with pytest.raises(RequestError, match="No permissions to create new namespace.*namespaces"):
        run_program("print(1)")


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
