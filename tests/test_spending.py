"What runs have spent: counted from logs, put end to end, and kept where the book reads it."
import importlib.util
from pathlib import Path

import polars as pl
import pytest

from sftrepro import spending
from sftrepro.costs import forward_flops, shape_of
from sftrepro.profiles import ROOT, changed, load_profile
from sftrepro.runs import run_specs
from sftrepro.store import run_folder, write_table

MICRO, BEYOND = load_profile("micro"), load_profile("micro-beyond")
R25, B4301 = run_specs(MICRO, ("R25",))[0], run_specs(BEYOND, ("B4301",))[0]
SHAPE = shape_of(next(base for base in MICRO.bases if base.name == R25.base))
STEP = {"R25": pl.DataFrame({"tokens": [32 * 160], "seconds": [0.5]}),
        "B4301": pl.DataFrame({"tokens": [64 * 120], "generated": [64 * 70], "seconds": [2.0]})}


def test_a_step_of_finetuning_is_three_readings_of_its_rows() -> None:
    assert spending.operations(STEP["R25"], R25, SHAPE) == [3 * 32 * forward_flops(SHAPE, 160)]


@pytest.mark.parametrize(("weight", "readings"), [(0, 3), (0.04, 4)])
def test_a_step_of_reinforcement_writes_its_answers_and_reads_them_again(weight: float, readings: int) -> None:
    writing = forward_flops(SHAPE, 50) + forward_flops(SHAPE, 70, before=50)
    found = spending.operations(STEP["B4301"], changed(B4301, kl_weight=weight), SHAPE)
    assert found == [pytest.approx(64 * (writing + readings * forward_flops(SHAPE, 120)))]


def logged() -> pl.DataFrame:
    logs = {run: pl.concat([STEP[run]] * spec.steps) for run, spec in (("R25", R25), ("B4301", B4301))}
    tables = [spending.spending(logs[spec.paper_run], spec, SHAPE) for spec in (R25, B4301)]
    return pl.concat(tables)


def test_the_runs_that_are_compared_are_matched_in_operations() -> None:
    last = logged().group_by("run", maintain_order=True).agg(pl.col("operations").last())
    finetuned, reinforced = last["operations"]
    assert 0.9 < reinforced / finetuned < 1.1  # at 160 tokens a row, and 50 + 70 an answer


def test_recipes_are_put_end_to_end() -> None:
    rows = [{"series": run, "step": step, "benchmark": "arithmetic", "item_id": "a", "seed": 1, "score": 0.0}
            for run, steps in (("R25", (0, 160, 320)), ("B4301", (0, 80, 160))) for step in steps]
    results = pl.DataFrame(rows).with_columns(pl.col("step").cast(pl.Int32))
    chained = spending.stitched(results, {"both": ["R25", "B4301"], "none": ["B9999"]}, logged(), unit="R25")
    steps = chained["step"].to_list()
    assert steps[:3] == [0, 160, 320] and len(steps) == 5  # the base once
    assert steps[4] - 320 == pytest.approx(2 * (steps[3] - 320), abs=1) and set(chained["series"]) == {"both"}


def test_a_checkpoint_that_took_no_longer_is_found() -> None:
    assert spending.in_the_time_of("B4301", "R25", logged()) == 80      # 160 s for both
    early = logged().with_columns(pl.col("seconds") * pl.when(run="R25").then(0.1).otherwise(1))
    assert spending.in_the_time_of("B4301", "R25", early) == 0


def tool():
    spec = importlib.util.spec_from_file_location("training_tool", ROOT / "tools/training.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_written_from_the_store_and_keeps_what_it_has(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("SFTREPRO_STORE", str(tmp_path))
    training = tool()
    write_table(run_folder("micro", R25.run_id) / "train.parquet", pl.concat([STEP["R25"]] * R25.steps))
    first = pl.concat(training.lines(["R25", "B4301"], pl.DataFrame()))
    assert first["run"].unique().to_list() == ["R25"] and first["step"].max() == R25.steps
    assert "train.parquet is missing. Make it: make rebuild PROFILE=micro-beyond" in capsys.readouterr().err
    (run_folder("micro", R25.run_id) / "train.parquet").unlink()
    assert pl.concat(training.lines(["R25"], first)).equals(first)


def test_what_was_not_logged_is_predicted_and_said(tmp_path: Path, monkeypatch) -> None:
    (table := tmp_path / "training.csv").write_text(logged().filter(run="R25").write_csv())
    monkeypatch.setattr(spending, "TRAINING", table)
    cost = spending.spent(MICRO, ["R25", "B4301"])
    assert dict(cost.select("run", "source").unique().iter_rows()) == {"R25": "logged", "B4301": "predicted"}
    assert spending.origin(cost) == " (predicted, not logged: B4301)"
    assert spending.origin(cost.filter(run="R25")) == ""


def test_seconds_are_kept_only_of_trainings_that_had_their_machine_to_themselves(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SFTREPRO_STORE", str(tmp_path))
    write_table(run_folder("micro", R25.run_id) / "train.parquet", pl.concat([STEP["R25"]] * R25.steps))
    shared, alone = (pl.concat(tool().lines(["R25"], pl.DataFrame(), alone=kept)) for kept in (False, True))
    assert shared["seconds"].null_count() == len(shared) and alone["seconds"][-1] == 160
    other = shared.filter(pl.col("step").is_in([20, 40, 80, 160])).with_columns(
        run=pl.lit("B4413"), profile=pl.lit("micro-beyond"))
    (place := tmp_path / "training.csv").write_text(pl.concat([alone, other]).write_csv())
    monkeypatch.setattr(spending, "TRAINING", place)
    cost = spending.spent(MICRO, ["R25", "B4413"])
    assert spending.clock(cost) == "seconds of one process on two cores, measured for R25, else as planned"
    planned = spending.predicted(run_specs(BEYOND, ("B4413",))[0])[-1]["seconds"]
    assert cost.filter(run="B4413", step=160)["seconds"][0] == pytest.approx(planned)
