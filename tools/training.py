"""Write what training runs had spent at their checkpoints, from the logs in the store, to data/beyond/training.csv.

    .venv/bin/python tools/training.py               # the runs of chapter 43
    .venv/bin/python tools/training.py R24 B4401     # these runs as well
    .venv/bin/python tools/training.py --alone       # with the seconds

Operations are the same on every machine. Seconds are written with --alone, for trainings on a CPU of two cores that did
nothing else; without them the plan's are shown. A run whose log is not in the store keeps the lines that it has; one
that has none is named. """
import sys

import polars as pl

from sftrepro.chapters import read_chapter
from sftrepro.contents import chapter_files
from sftrepro.costs import shape_of
from sftrepro.profiles import load_profile
from sftrepro.runs import run_specs
from sftrepro.spending import TRAINING, spending
from sftrepro.store import read_table, run_folder, write_bytes

PROFILES = ("micro", "micro-beyond")


def lines(runs: list[str], kept: pl.DataFrame, alone: bool = False) -> list[pl.DataFrame]:
    "The lines of some runs, one table for each run and seed."
    found = []
    for profile in map(load_profile, PROFILES):
        shapes = {base.name: shape_of(base) for base in profile.bases}
        for spec in run_specs(profile, tuple(runs)):
            log = run_folder(profile.name, spec.run_id) / "train.parquet"
            old = kept.filter(run=spec.paper_run, seed=spec.seed) if len(kept) else kept
            if not log.exists() and not len(old):
                print(f"{log} is missing. Make it: make rebuild PROFILE={profile.name}", file=sys.stderr)
            if log.exists():
                new = spending(read_table(log), spec, shapes[spec.base])
                found.append(new if alone else new.with_columns(seconds=pl.lit(None, pl.Float64)))
            else:
                found.append(old)
    return [table for table in found if len(table)]


def main() -> None:
    stem = next(stem for stem in chapter_files() if stem.startswith("43_"))
    runs = [*read_chapter(chapter_files()[stem]).parameters["runs"], *(run for run in sys.argv[1:] if run != "--alone")]
    kept = read_table(TRAINING) if TRAINING.exists() else pl.DataFrame()
    rounded = {"operations": pl.col("operations").round_sig_figs(5), "seconds": pl.col("seconds").round(1)}
    table = pl.concat(lines(runs, kept, "--alone" in sys.argv)).with_columns(**rounded)
    write_bytes(TRAINING, table.write_csv().encode())


if __name__ == "__main__":
    main()
