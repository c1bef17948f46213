"""What a smoke rebuild from nothing left behind, in the store and build folder that the environment names
(tests/run)."""

import json
import os
import re
import sys

import polars as pl
import pytest

from sftrepro import cli, contents, execution, item_results, store, workflow
from sftrepro.evaluate import generate_responses, items_of, score_responses
from sftrepro.generate import vllm_missing
from sftrepro.profiles import load_profile
from sftrepro.runs import checkpoint_steps, run_specs

SMOKE = load_profile("smoke")
THIS = workflow.load_flow(SMOKE)
pytestmark = pytest.mark.skipif(
    "SFTREPRO_STORE" not in os.environ, reason="no smoke rebuild of its own to look at: make test"
)


def test_everything_is_fresh_afterwards() -> None:
    assert workflow.plan(THIS, "rebuild") == {}


def test_results_and_bases_are_as_their_manifests_say(capsys: pytest.CaptureFixture[str]) -> None:
    cli.verify_results("smoke", runs=2, items=100)
    results = sum(job.kind in ("score", "tokens") for job in THIS.jobs.values())
    said = capsys.readouterr().out
    assert f"{results} results and {len(SMOKE.bases)} bases are as their manifests say" in said
    assert said.count("responses made again") == 2


def test_every_run_answered_every_question_at_every_checkpoint() -> None:
    specs = run_specs(SMOKE)
    results = item_results.read_results(SMOKE, [*(base.name for base in SMOKE.bases), *(spec.run_id for spec in specs)])
    asked = sum(len(items_of(name, SMOKE)) * size.trials for name, size in SMOKE.benchmarks.items())
    counts = results.group_by("run_id", "step").len()
    assert set(counts["len"]) == {asked} and counts.height == len(SMOKE.bases) + sum(
        len(checkpoint_steps(spec)) for spec in specs
    )


@pytest.mark.parametrize("stem", list(contents.chapter_files()))
def test_every_notebook_ran_to_its_end(stem: str) -> None:
    cells = json.loads(workflow.executed_file(SMOKE, stem).read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code if "".join(cell["source"]).strip())
    assert any(cell["outputs"] for cell in code)


def test_no_page_or_notebook_names_a_place_on_this_machine() -> None:
    pages = [
        *workflow.site_folder(SMOKE).glob("**/*.html"),
        *workflow.executed_file(SMOKE, "any").parent.glob("*.ipynb"),
    ]
    places = re.compile(
        "|".join(map(re.escape, [str(store.ROOT), str(store.store_root()), str(workflow.build_root()), sys.prefix]))
    )
    assert len(pages) > 20
    for page in pages:
        text = page.read_text()
        if page.suffix == ".ipynb":
            text = json.dumps(json.loads(text)["cells"])
        assert not places.search(text), page


@pytest.mark.release  # what it says is in test_generate.py
def test_the_other_engine_serves_a_finetuned_checkpoint_as_well(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := vllm_missing():
        (pytest.fail if os.environ.get("SFTREPRO_REQUIRE_VLLM") == "1" else pytest.skip)(reason)
    job = next(job for name, job in THIS.jobs.items() if name.startswith("generate/Nano_Math-CoT"))
    step, checkpoint = max(execution.checkpoints(job, THIS).items())
    other = SMOKE.model_copy(update={"engine": "vllm", "benchmarks": {"order": SMOKE.benchmarks["order"]}})
    generate_responses(other, job.key, {step: checkpoint}, tmp_path / "responses")
    results = item_results.checked_results(
        score_responses(other, job.key, tmp_path / "responses", tmp_path / "eval"), "vLLM"
    )
    assert results["engine"].unique().to_list() == ["vllm"] and results.height == len(items_of("order", SMOKE))
    assert results.filter(pl.col("tokens") > 0).height == results.height
