import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sftrepro.profiles import (
    ROOT,
    BenchmarkSize,
    RequestError,
    beyond_profile,
    changed,
    load_profile,
    settings,
    variants,
)
from sftrepro.runs import checkpoint_steps, own_runs, paper_runs, run_specs, scaled
from sftrepro.workflow import jobs

SETTINGS = {"description", "runs", "controls", "seeds", "temperature", "learning_rate_factor", "results_dir"}
REDRAWN = SETTINGS | {"bases", "bases_dir", "gallery", "traced"}


def test_a_variant_differs_only_in_what_it_says() -> None:
    micro = load_profile("micro")
    for variant in variants(micro):
        differs = {name for name, value in variant if value != getattr(micro, name)} - {"name", "like"}
        assert differs <= (REDRAWN if variant.name == "micro-redrawn" else SETTINGS) and "results_dir" in differs
        assert set(variant.runs) <= {f"R{number:02d}" for number in range(1, 34)}


def test_variants_share_nothing_but_the_bases() -> None:
    micro, *others = profiles = [load_profile("micro"), *variants(load_profile("micro"))]
    assert len({profile.results_dir for profile in profiles}) == len(profiles)
    assert [other.name for other in others if other.bases_dir != micro.bases_dir] == ["micro-redrawn"]


def test_the_redrawn_base_differs_from_the_first_in_its_draw_alone() -> None:
    first, = (base for base in load_profile("micro").bases if base.name == "Micro-M")
    again, = load_profile("micro-redrawn").bases
    assert again.draw not in {base.draw for base in load_profile("micro").bases}
    assert again == changed(first, draw=again.draw)


def test_profiles_of_part_iii_are_no_conditions_of_others_and_have_no_chapters() -> None:
    micro = load_profile("micro")
    beyond = beyond_profile(micro)
    assert beyond.name == "micro-beyond" and beyond.beyond and beyond not in variants(micro)
    assert {name: size for name, size in beyond.benchmarks.items() if name in micro.benchmarks} == micro.benchmarks
    assert {base.name for base in beyond.bases} <= {base.name for base in micro.bases}
    assert {job.kind for job in jobs(beyond).values()}.isdisjoint({"chapter", "book"})
    assert beyond_profile(load_profile("smoke")).name == "smoke"


@pytest.mark.parametrize("id", own_runs())
def test_a_run_of_part_iii_is_one_that_the_paper_could_have_made(id: str) -> None:
    run, like = own_runs()[id], paper_runs()["R25"]
    assert re.fullmatch(r"B4[0-6]\d\d", id) and run.feeds == f"ch. {id[1:3]}"
    assert run.steps == run.epochs * (run.rows // run.batch_size) and run.warmup_steps == run.steps // 10
    assert run.rows <= like.rows and (run.max_length, run.gpus) == (like.max_length, like.gpus)
    specs = run_specs(beyond_profile(load_profile("micro")), (id,))
    assert len(specs) == 3 and checkpoint_steps(specs[0])[-1] == specs[0].steps


def test_a_variant_of_a_profile_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.ini").write_text("[micro]\n[other]\nlike = macro\n")
    with pytest.raises(
        RequestError, match=r"settings.ini \[other\] like: there is no profile 'macro'. Profiles: micro, other"
    ):
        load_profile("other", tmp_path / "settings.ini")


def test_a_run_whose_base_the_profile_lacks_is_refused_by_name() -> None:
    smoke = load_profile("smoke")
    message = (r"^run R24 starts from Qwen/Qwen3-1.7B-Base, for which profile smoke has no base. "
               r"Add one to settings.ini \[smoke\] bases: Qwen/Qwen3-1.7B-Base -> NAME")
    with pytest.raises(RequestError, match=message):
        scaled(paper_runs()["R24"], smoke, seed=1)
    with pytest.raises(RequestError, match=message):
        run_specs(smoke.model_copy(update={"runs": ("R25", "R24")}))


# Settings with other values

MICRO = load_profile("micro")
SPEC = run_specs(MICRO, ("R25",))[0]


@pytest.mark.parametrize("name", settings().sections())
def test_settings_that_are_changed_to_what_they_are_stay_the_same(name: str) -> None:
    profile = load_profile(name)
    assert changed(profile) == changed(profile, **dict(profile)) == profile
    for run in run_specs(profile)[:3]:
        assert changed(run, **dict(run)) == run and changed(run).run_id == run.run_id


def test_changed_values_are_converted_as_in_the_file_and_the_rest_stays() -> None:
    few = changed(MICRO, benchmarks="order=20x2", seeds=(7,))
    assert few.benchmarks == {"order": BenchmarkSize(items=20, trials=2)} and few.seeds == (7,)
    assert few.model_copy(update={"benchmarks": MICRO.benchmarks, "seeds": MICRO.seeds}) == MICRO
    assert changed(SPEC, epochs=1).steps < SPEC.steps


@pytest.mark.parametrize(("given", "values", "line"), [
    (MICRO, {"temprature": 0}, "Profile temprature: no such setting. Did you mean temperature?"),
    (MICRO, {"top_p": "all"}, "Profile top_p: 'all': input should be a valid number, unable to parse string as a "
                              "number. Example: top_p = 0.95"),
    (MICRO, {"benchmarks": {"order": 20}}, "Profile benchmarks order: 20: input should be a valid dictionary or "
                                           "instance of BenchmarkSize"),
    (MICRO, {"benchmarks": "order=20"}, "Profile benchmarks: 'order=20': value error, '20' is not of the form "
                                        "ITEMSxTRIALS"),
    (MICRO, {"benchmarks": "order=20x1x3"}, "Profile benchmarks order trials: '1x3': input should be a valid integer, "
                                                  "unable to parse string as an integer"),
    (MICRO, {"judges": "forbidden"}, "Profile judges: 'forbidden': value error, 'forbidden' is not of the form "
                                     "name=value"),
    (MICRO, {"difficulty": "order=3"}, "Profile difficulty: 'order=3': value error, '3' is not of the form LOW-HIGH"),
    (MICRO, {"bases": "Qwen/Qwen3-4B-Base -> Micro-M: qwen3 hiden=96"}, "Profile bases hiden: no such value"),
    (MICRO, {"bases": "Qwen/Qwen3-4B-Base -> Micro-M: qwen3 layers=four"},
     "Profile bases layers: 'four': input should be a valid integer, unable to parse string as an integer"),
    (SPEC, {"epochs": 0}, f"RunSpec epochs: 0: input should be greater than or equal to 1. Example: epochs = "
                          f"{SPEC.epochs}"),
    (SPEC, {"batch_size": 3}, f"RunSpec: Value error, batch_size 3 is not a multiple of micro_batch_size "
                              f"{SPEC.micro_batch_size} x replicas 1"),
    (SPEC, {"xyz": 3}, "RunSpec xyz: no such setting")])
def test_an_impossible_change_is_refused_with_a_right_example(given, values: dict, line: str) -> None:
    with pytest.raises(RequestError) as refused:
        changed(given, **values)
    assert str(refused.value) == line


@pytest.mark.parametrize(("words", "below"), [
    (("run", "22"), "."), (("book",), "."), (("status",), "clone/.venv/lib/site-packages")])
def test_a_package_without_its_repository_says_so_in_one_line(
        tmp_path: Path, words: tuple[str, ...], below: str) -> None:
    "Also where it lies inside a clone, whose notebooks and settings are not those that it was made from."
    packages = tmp_path / below
    packages.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "sftrepro", packages / "sftrepro", ignore=shutil.ignore_patterns("__pycache__"))
    if below != ".":
        for name in ("settings.ini", "_toc.yml", "pyproject.toml"):
            shutil.copy(ROOT / name, tmp_path / "clone")
    code = f"import sys; sys.argv = ['sftrepro', *{words!r}]; from sftrepro.cli import main; main()"
    ended = subprocess.run([sys.executable, "-P", "-c", code], env=os.environ | {"PYTHONPATH": str(packages)},
                           cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        2, "", f"sftrepro is installed in {packages.resolve()} without its repository, which has the notebooks, the "
        "settings and the data. Install it from a clone of the repository: make setup\n")
