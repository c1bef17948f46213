"""A rebuild on a Slurm cluster ends like one on this machine, though a job and the controller are killed on the way.

The cluster is tests/slurm.sh; the rebuild on this machine is the one of tests/run. With two cores both give a job one
thread; with more, the last digits of a training may differ."""
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from sftrepro.profiles import ROOT
from sftrepro.store import read_table, store_root

pytestmark = [pytest.mark.release, pytest.mark.skipif("SFTREPRO_STORE" not in os.environ,
                                                      reason="no smoke rebuild to compare with: make test-all")]
SLURM = ("--executor", "slurm", "--jobs", "2", "--slurm-init-seconds-before-status-checks", "5")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    "Starts or stops the cluster."
    def script(word: str) -> Path:
        done = subprocess.run([ROOT / "tests/slurm.sh", word, tmp_path / "slurm"], text=True, stderr=subprocess.PIPE)
        if done.returncode == 2:
            pytest.skip(done.stderr.strip())
        assert done.returncode == 0, done.stderr
        return tmp_path / "slurm"
    script("start")
    yield script
    script("stop")


@contextmanager
def ended(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    "A process that is interrupted, if it is still at work, as by Ctrl-C."
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def running(kind: str) -> str:
    "The number of a running job of a kind; waits until there is one."
    for _ in range(1200):
        asked = subprocess.run(["squeue", "--noheader", "--states=R", "--format=%i %k"], capture_output=True, text=True)
        jobs = [line.split()[0] for line in asked.stdout.splitlines() if f"wildcards_{kind}" in line]
        if jobs:
            return jobs[0]
        time.sleep(0.5)
    raise AssertionError(f"no {kind} job ran")


def results(store: Path) -> dict[str, pl.DataFrame]:
    "All published results of a store, without how long they took."
    files = sorted(store.glob("smoke/results/**/*.parquet"))
    return {str(file.relative_to(store)): read_table(file).drop("seconds", strict=False) for file in files}


def test_smoke_on_a_cluster_ends_as_on_this_machine_though_job_and_controller_are_killed(
    cluster: Callable, tmp_path: Path
) -> None:
    own = {"SFTREPRO_STORE": str(tmp_path / "store"), "SFTREPRO_BUILD": str(tmp_path / "build")}
    command = [Path(sys.executable).with_name("sftrepro"), "rebuild", "--profile", "smoke", "--", *SLURM]
    output = (tmp_path / "output").open("w+")
    with ended(subprocess.Popen(command, cwd=ROOT, env=os.environ | own, stdout=output, stderr=output)) as rebuild:
        subprocess.run(["scancel", running("train")], check=True)
        running("generate")  # SIGTERM, for Slurm itself starts twice what it started in the seconds before a SIGKILL
        os.kill(int((cluster("start") / "slurmctld.pid").read_text()), signal.SIGTERM)
        time.sleep(20)
        cluster("start")
        assert rebuild.wait(timeout=4 * 3600) == 0, (tmp_path / "output").read_text()
    here, there = results(store_root()), results(tmp_path / "store")
    assert here.keys() == there.keys() and len(here) > 10
    assert [name for name, table in here.items() if not table.equals(there[name])] == []
    again = subprocess.run(command, cwd=ROOT, env=os.environ | own, text=True, capture_output=True)
    assert "all is fresh" in again.stdout, again.stdout + again.stderr
