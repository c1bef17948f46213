"""The lock file keeps what pyproject.toml promises."""
import tomllib
from importlib.metadata import distribution

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from sftrepro.profiles import ROOT


def test_every_locked_package_runs_on_the_oldest_python_that_is_promised() -> None:
    promised = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    oldest = next(part.version for part in SpecifierSet(promised) if part.operator == ">=")
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    wanted = {line: distribution(Requirement(line).name).metadata.get("Requires-Python") or "" for line in lines}
    assert len(wanted) > 100
    assert {line: asks for line, asks in wanted.items() if not SpecifierSet(asks).contains(oldest)} == {}
