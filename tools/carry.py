"""Carry committed bases and results over a renaming: `python tools/carry.py COMMIT PROFILE...`.

A manifest lists the code that made a result, by the names of that code. When names change and nothing else does,
the result is still what the code would make; this writes the new names and digests into the manifests, keeps when
and at which commit the result was made, and adds the commit up to which it was fresh. Whoever runs it says that
only names have changed, and shows it afterwards by making a sample again: `sftrepro results verify --train`. """
import sys
from pathlib import Path

import polars as pl

from sftrepro import store
from sftrepro.item_results import tokens_file
from sftrepro.profiles import Profile, load_profile
from sftrepro.workflow import Flow, load_flow


def carry(old: Path, new: Path, inputs: dict, fresh_at: str) -> None:
    "Write a manifest with these inputs for the files of an old one; a results file also gets the new run id."
    made = store.verify(old).made
    if old != new:
        rows = store.read_table(old).with_columns(run_id=pl.lit(new.stem))
        store.write_table(new, rows)
        old.unlink()
        store.manifest_path(old).unlink()
    manifest = store.seal(new, inputs)
    store.write_manifest(new, manifest.model_copy(update={"made": made | {"carried_from": fresh_at}}))


def earlier(place: Path, run_id: str) -> Path | None:
    "The results file of a run by its name and seed, whatever digest of its specification it ends in."
    found = sorted(place.parent.glob(f"{run_id.rpartition('_')[0]}_????????.parquet"))
    return place if place.exists() else found[0] if found else None


def carry_profile(profile: Profile, flow: Flow, fresh_at: str) -> int:
    "Carry all published results of a profile; how many there were."
    kinds = {"score": store.results_file, "tokens": tokens_file}
    count = 0
    for job in [job for job in flow.jobs.values() if job.kind in kinds]:
        new = kinds[job.kind](profile, job.key)
        old = earlier(new, job.key)
        if old is not None:
            carry(old, new, flow.inputs[job.name], fresh_at)
            count += 1
    return count


def tidy(folder: Path) -> None:
    "Remove the lists of code that no manifest of a folder names any more."
    manifests = [path for path in folder.glob("*.json") if not path.name.startswith(("code-", "items-"))]
    named = {store.read_json(path)["inputs"].get("code") for path in manifests}
    for path in folder.glob("code-*.json"):
        if path.stem not in named:
            path.unlink()


if __name__ == "__main__":
    fresh_at, *names = sys.argv[1:]
    for name in names:
        profile = load_profile(name)
        flow = load_flow(profile)
        for job in flow.jobs.values():
            committed = job.kind == "pretrain" and not job.output.is_relative_to(store.store_root())
            if committed and not profile.like:  # a variant has the bases of the profile that it is like
                carry(job.output, job.output, flow.inputs[job.name], fresh_at)
        print(name, carry_profile(profile, flow, fresh_at), "results")
        for folder in (store.locate(profile.results_dir), store.locate(profile.results_dir) / "tokens"):
            tidy(folder)
