"""How a chapter bears a hundred times the results: rows, seconds and peak memory of chapter 24, drawn by papermill
as `make book` does. The rows are those of the committed runs, each benchmark with ten times the items and ten times
the trials, in a folder of their own.

    OMP_NUM_THREADS=1 python tests/benchmarks/chapter.py
"""
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

from sftrepro import chapters, contents, item_results, store
from sftrepro.profiles import ROOT, Profile, load_profile
from sftrepro.runs import checkpoint_steps, run_specs

ITEMS, TRIALS = 10, 10
SECONDS, MEGABYTES = 60, 2000
STEM = "24_repeated_exposure"
DECIDED = [
    "response",
    "tokens",
    "truncated",
    "looped",
    "reconsiders",
    "weighs",
    "parsed",
    "answer",
    "score",
    "grades",
    "seconds",
]


def copy_of_the_repository(folder: Path) -> None:
    "What a chapter needs, with no results in it."
    shutil.copytree(ROOT / "sftrepro", folder / "sftrepro", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "data", folder / "data", ignore=shutil.ignore_patterns("bases", "results"))
    shutil.copytree(ROOT / "nbs", folder / "nbs")
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)


def enlarged(rows: pl.DataFrame) -> pl.DataFrame:
    "Many times the items and trials; what is decided is dealt out anew within each checkpoint and benchmark."
    copies = pl.DataFrame({"copy": range(ITEMS)}).join(pl.DataFrame({"more": range(TRIALS)}), how="cross")
    many = (
        rows.join(copies, how="cross")
        .with_columns(item_id=pl.format("{}-{}", "item_id", "copy"), trial=pl.col("trial") * TRIALS + pl.col("more"))
        .drop("copy", "more")
    )
    dealt = pl.struct(DECIDED).shuffle(seed=0).over("step", "benchmark").alias("dealt")
    return many.with_columns(dealt).drop(DECIDED).unnest("dealt")


def write(profile: Profile, folder: Path, run_id: str, model: dict, rows: dict[int, pl.DataFrame]) -> int:
    "Results of one run or base; the number of rows."
    given = pl.concat([part.with_columns(step=pl.lit(step, pl.Int64)) for step, part in rows.items()])
    named = enlarged(given).with_columns(
        **{name: pl.lit(value) for name, value in ({"run_id": run_id} | model).items()}
    )
    path = folder / profile.results_dir / f"{run_id}.parquet"
    store.write_table(path, named.select(list(item_results.ITEM_RESULTS.columns)))
    store.seal(path, {})
    return len(named)


def write_all(folder: Path) -> int:
    "Results of all that the chapter reads, modelled on one committed base and one committed run."
    profile = load_profile("micro")
    runs = chapters.read_chapter(contents.chapter_files()[STEM]).parameters["runs"]
    specs = run_specs(profile, tuple(runs))
    model = next(spec.run_id for spec in run_specs(profile, ("R25",)))
    base, tuned = (store.read_table(store.results_file(profile, name)) for name in ("Micro-M", model))
    total = sum(
        write(profile, folder, name, {"run_name": name, "base": name}, {0: base})
        for name in {spec.base for spec in specs}
    )
    for spec in specs:
        steps, seen = checkpoint_steps(spec), tuned["step"].unique().sort().to_list()
        rows = {step: tuned.filter(step=seen[place % len(seen)]) for place, step in enumerate(steps)}
        told = {"run_name": spec.run_name, "base": spec.base, "data": spec.data, "seed": spec.seed}
        total += write(profile, folder, spec.run_id, told, rows)
    return total


def draw(folder: Path) -> None:
    "Execute the chapter; print seconds, seconds of the processor and megabytes at most."
    began = time.perf_counter()
    chapters.execute(folder / "nbs" / f"{STEM}.ipynb", folder / "done.ipynb", folder / "failed.ipynb", {})
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{time.perf_counter() - began:.1f} {used.ru_utime + used.ru_stime:.1f} {used.ru_maxrss / 1e3:.0f}")


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place).resolve()
        copy_of_the_repository(folder)
        again = [sys.executable, __file__]
        rows = int(subprocess.run([*again, "write", folder], capture_output=True, text=True, check=True).stdout)
        inside = os.environ | {
            "PYTHONPATH": str(folder),
            "SFTREPRO_STORE": str(folder / "store"),
            "SFTREPRO_BUILD": str(folder / "build"),
        }
        ended = subprocess.run(
            [*again, "draw", folder], env=inside, cwd=folder, capture_output=True, text=True, check=True
        )
    seconds, processor, megabytes = map(float, ended.stdout.split()[-3:])
    print(
        f"chapter {STEM}: {rows:,} rows of item results, {seconds:.0f} s ({processor:.0f} s of the processor), "
        f"{megabytes:,.0f} MB at most"
    )
    if seconds > SECONDS or megabytes > MEGABYTES:
        raise SystemExit(f"more than {SECONDS} s or {MEGABYTES:,} MB")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", folder]:
            print(write_all(Path(folder)))
        case ["draw", folder]:
            draw(Path(folder))
        case _:
            main()
