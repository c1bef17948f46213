"""The profile `paper` rehearsed: its jobs, one of each kind and more, with stand-ins for all that the hub would send.

What differs from the profile are values: the engine, since there is no GPU, and how many rows, steps and tokens."""
import json
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import polars as pl
import pytest
import stand_ins
from conftest import Repository

from sftrepro import workflow
from sftrepro.chapters import read_chapter
from sftrepro.contents import chapter_files
from sftrepro.profiles import ROOT, load_profile, settings
from sftrepro.runs import paper_runs

PAPER = load_profile("paper")
SMOKE = [run for run in load_profile("smoke").runs if run in paper_runs()]  # those that every chapter needs
RUNS = (*SMOKE, "R09", "R10", "R16", "R17")  # and all data sets
BASES = ("Qwen3-4B", "Qwen3-14B", "Qwen2.5-14B", "InternLM2.5-20B")
UNTOLD = {"14c_token_figures", "29_tokens"}  # they compare words of thinking, which the teacher's stand-in leaves out
LAB = {"00_quickstart", "92_own_data", "93_own_model"}  # they train on micro's rows, of which the stand-in leaves four
CHAPTERS = [stem for stem, path in chapter_files().items()
            if "profile" in read_chapter(path).parameters and stem not in UNTOLD | LAB]
JOBS = """
import sys
from sftrepro import execution, generate, workflow
from sftrepro.profiles import load_profile
generate.ENGINES = {"transformers": generate.TransformersEngine}  # the profile's, and no other
for name in sys.argv[1:] or workflow.jobs(load_profile("paper")):
    print(name, flush=True)
    execution.do(name, workflow.load_flow(load_profile("paper")))
"""


class Judge(BaseHTTPRequestHandler):
    "The endpoint that judges safety: nothing is harmful."
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"choices": [{"message": {"content": "It declines.\nGrade: 1"}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def rehearsal(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    "A repository whose profile `paper` has few rows and short texts, and a hub's cache with stand-ins."
    cache = tmp_path / "hub"
    stand_ins.models(cache)
    stand_ins.data_sets(cache, count=10)
    stand_ins.benchmarks(cache, count=10)
    bases = [line for line in settings()["paper"]["bases"].splitlines() if any(f"-> {name}:" in line for name in BASES)]
    sizes = " ".join(f"{name}=2x{min(size.trials, 2)}" for name, size in PAPER.benchmarks.items())
    repository.profile("paper", "paper", bases="\n".join(["", *bases]), runs=" ".join(RUNS), batch_divisor="64",
                       engine="transformers", max_new_tokens="64", benchmarks=sizes, traces="2", traced="R04 R25",
                       results_dir="runs/paper/results")
    for name in settings().sections():  # some chapters name runs of other profiles, too
        if name != "paper":
            repository.profile(name, name, row_divisor="1", batch_divisor="64")
    for name in ("pocket-seeds", "pocket-gemma"):
        shutil.copytree(ROOT / "data/results" / name, repository.folder / "data/results" / name)
    runs = pl.read_csv(repository.folder / "data/paper/runs.csv", infer_schema=False)
    rows = pl.when(data="Math-CoT-2.5k").then(pl.lit("1")).otherwise(pl.lit("4"))
    runs.with_columns(rows=rows).write_csv(repository.folder / "data/paper/runs.csv")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {"HF_HUB_CACHE": str(cache), "HF_HOME": str(tmp_path / "home"), "SFTREPRO_DATA": "",
                        "OPENAI_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1"}.items():
        monkeypatch.setenv(name, value)
    yield repository
    server.shutdown()
    server.server_close()


def done(rehearsal: Repository, *names: str) -> list[str]:
    "Do some jobs, or all; their kinds, in order."
    command = [sys.executable, "-c", JOBS, *names]
    ended = subprocess.run(command, cwd=rehearsal.folder, env=rehearsal.environment(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-500:] + ended.stderr[-3000:]
    return [line.split("/")[0] for line in ended.stdout.splitlines()]


@pytest.mark.release
def test_every_kind_of_job_of_the_paper_runs_and_every_chapter_draws_its_results(rehearsal: Repository) -> None:
    assert set(done(rehearsal)) >= {job.kind for job in workflow.jobs(PAPER).values()}
    assert "all is fresh" in rehearsal.run("rebuild", "--profile", "paper", "--hardware", "CPU core")[1]
    results = pl.read_parquet(rehearsal.store / "paper/results/*.parquet")
    assert set(results["benchmark"]) == set(PAPER.benchmarks)
    assert results["run_id"].n_unique() == len(RUNS) + 2 * len(BASES)  # a base also answers after thinking
    judged = results.filter(pl.col("benchmark").is_in(["HEx-PHI", "TruthfulQA", "AlpacaEval"]))
    assert judged["grades"].list.len().to_list().count(0) == 0 and judged["grades"].null_count() == 0
    for stem, path in chapter_files().items():  # a chapter may name any other
        shutil.copy(path, rehearsal.folder / "nbs")
        rehearsal.edit("_toc.yml", "      - file: book/api", f"      - file: nbs/{stem}\n      - file: book/api")
    assert len(done(rehearsal, *(f"chapter/{stem}" for stem in CHAPTERS))) >= len(CHAPTERS) > 12
