from pathlib import Path

import pytest

from sftrepro.profiles import RequestError, load_profile, variants

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
