import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sftrepro.profiles import ROOT, RequestError, load_profile, paper_runs, run_specs, scaled, variants

SETTINGS = {"description", "runs", "controls", "seeds", "temperature", "learning_rate_factor", "results_dir"}


def test_a_variant_differs_only_in_what_it_says() -> None:
    micro = load_profile("micro")
    for variant in variants(micro):
        differs = {name for name, value in variant if value != getattr(micro, name)} - {"name", "like"}
        assert differs <= SETTINGS and "results_dir" in differs
        assert set(variant.runs) <= {f"R{number:02d}" for number in range(1, 34)}


def test_variants_share_nothing_but_the_bases() -> None:
    profiles = [load_profile("micro"), *variants(load_profile("micro"))]
    assert len({profile.results_dir for profile in profiles}) == len(profiles) == 4
    assert len({profile.bases_dir for profile in profiles}) == 1


def test_a_variant_of_a_profile_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.ini").write_text("[micro]\n[other]\nlike = macro\n")
    with pytest.raises(
        RequestError, match=r"settings.ini \[other\] like: there is no profile 'macro'. Profiles: micro, other"
    ):
        load_profile("other", tmp_path / "settings.ini")


def test_a_run_whose_base_the_profile_lacks_is_refused_by_name() -> None:
    smoke = load_profile("smoke")
    message = (r"^run R05 starts from Qwen/Qwen3-8B-Base, for which profile smoke has no base. "
               r"Add one to settings.ini \[smoke\] bases: Qwen/Qwen3-8B-Base -> NAME")
    with pytest.raises(RequestError, match=message):
        scaled(paper_runs()["R05"], smoke, seed=1)
    with pytest.raises(RequestError, match=message):
        run_specs(smoke.model_copy(update={"runs": ("R25", "R05")}))


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
