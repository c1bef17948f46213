"""Every command that the book, the README or a help text prints can be given as it stands. Each is read by the command
line itself, in this process, up to where its work would begin."""
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import pytest
import typer

from sftrepro import cli, profiles, store
from sftrepro.profiles import ROOT, RequestError, load_profile
from sftrepro.runs import own_runs
from sftrepro.workflow import jobs

FENCE = re.compile(r"(?ms)^```(\w*)[^\n]*\n(.*?)^```")
OURS = ("sftrepro", "make", "nbdev-export")
OF_OTHERS = {  # commands of set-up and of other tools, and what we do not check of them
    ".": "reads a file into the shell",
    "accelerate": "starts training on a node; its place and address are the cluster's",
    "sftrepro job NAME ...": "stands for what Snakemake starts",
}
WORK = ("cli.update", "cli.ready", "cli.load_flow", "audit.check_manifests", "evaluate.stored_evaluations")


class Begun(Exception):
    "A command has been understood, and its work would begin now."


def prose() -> Iterator[tuple[str, str]]:
    "The texts of the book, with the file that each is from."
    for path in [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))]:
        yield path.name, path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "nbs").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                yield path.name, "".join(cell["source"])


def helps() -> Iterator[tuple[str, str]]:
    "The examples in the help of each command."
    group = typer.main.get_command(cli.app)
    for command in (group, *group.commands.values(), *group.commands["results"].commands.values()):
        for line in (command.epilog or "").splitlines():
            if line.startswith("  "):
                yield f"help of {command.name}", line.strip()


def named(text: str) -> bool:
    "Does a text begin like a command?"
    program = (text.split() or [""])[0]
    return program in (*OURS, *OF_OTHERS) or program.startswith(".venv/bin/")


def printed_commands() -> list[tuple[str, str]]:
    "All commands in fenced blocks, inline code and help texts, with the place of each."
    found = list(helps())
    for place, text in prose():
        for language, block in FENCE.findall(text):
            lines = block.replace("\\\n", " ").splitlines()
            shell = language in ("sh", "bash") or (not language and any(map(named, lines)))
            found += [(place, line) for line in lines if shell and not line.startswith("#") and line.strip()]
        spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", FENCE.sub("", text))
        found += [(place, span) for span in spans if named(span) and span != "sftrepro"]
    return list(dict.fromkeys(found))


def check_sftrepro(words: list[str]) -> None:
    "Give a command to the command line; raise what is wrong with it."
    with ExitStack() as stack:
        for work in WORK:
            stack.enter_context(patch(f"sftrepro.{work}", side_effect=Begun))
        try:
            cli.app(args=cli.join_parameters([word for word in words if word != "--debug"]), standalone_mode=False)
        except Begun:
            return
    assert "--help" in words, "the command ended before its work began"


def check_make(words: list[str]) -> None:
    "A target of the Makefile, and variables that it knows."
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, is_variable, value = word.partition("=")
        rule = rf"^{name} \?=" if is_variable else rf"^[\w -]*\b{name}\b[\w -]*:"
        assert re.search(rule, makefile, re.MULTILINE), word
        if name == "PROFILE":
            load_profile(value)


def check(line: str) -> None:
    "Raise what is wrong with a printed command."
    program, *words = shlex.split(line, comments=True)
    if line in OF_OTHERS or program in OF_OTHERS:
        return
    match Path(program).name:
        case "sftrepro":
            check_sftrepro(words)
        case "make":
            check_make(words)
        case "python":
            assert (ROOT / words[0]).exists()
        case name:
            assert (ROOT / program).exists() or (ROOT / ".venv/bin" / name).exists(), f"there is no {name}"


COMMANDS = printed_commands()
COPIED = re.compile(r"[Cc]opy the row of (B\d{4}) in `data/beyond/runs\.csv` as (B\d{4})")
COPIES = {place: found for place, text in prose() if (found := COPIED.findall(text))}


SECTIONS = {place: found for place, text in prose()
            if (found := [block for language, block in FENCE.findall(text) if language == "ini"])}


@pytest.fixture
def with_additions(place: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    "The runs of part III and the settings, with those that the place tells a reader to add."
    added = {new: own_runs()[old].model_copy(update={"id": new}) for old, new in COPIES.get(place, [])}
    own_runs().update(added)
    written = (ROOT / "settings.ini").read_text(encoding="utf-8") + "\n".join(SECTIONS.get(place, []))
    monkeypatch.setattr(profiles, "settings", lambda *path: profiles.parsed_settings(written))
    yield
    for id in added:
        del own_runs()[id]


@pytest.mark.parametrize(("place", "line"), COMMANDS, ids=[f"{place}: {line}" for place, line in COMMANDS])
def test_a_printed_command_is_understood(place: str, line: str, with_additions: None) -> None:
    check(line)


@pytest.mark.parametrize(("place", "block"), [(place, block) for place, found in SECTIONS.items() for block in found])
def test_a_printed_profile_differs_as_it_says_and_has_folders_of_its_own(
        place: str, block: str, with_additions: None) -> None:
    mine = load_profile(block.splitlines()[0].strip("[]"))
    other = load_profile(mine.like)
    assert {field for field, value in mine if value != getattr(other, field)} == {
        "name", *re.findall(r"(?m)^(\w+) = ", block)}
    mines, others = ({job.output for job in jobs(profile).values()} | {store.results_file(profile, "any")}
                     for profile in (mine, other))
    assert not mines & others


def test_commands_are_found_wherever_they_stand() -> None:
    found = {(place, shlex.join(shlex.split(line, comments=True))) for place, line in COMMANDS}
    assert {("README.md", "make book"), ("README.md", "sftrepro run 22 --profile smoke --make"),
            ("index.md", "make rebuild PROFILE=micro"), ("25_overfitting.ipynb", "make rebuild PROFILE=micro-third"),
            ("18a_rebuild.ipynb", "sftrepro rebuild --profile paper -- --executor slurm --jobs 20"),
            ("help of run", "sftrepro run 22 -p runs R25"),
            ("help of verify", "sftrepro results verify --runs 0")} <= found
    assert sum(" -p " in line for _, line in COMMANDS) >= 26
    assert all(any(exception in (line, line.split()[0]) for _, line in COMMANDS) for exception in OF_OTHERS)


@pytest.mark.parametrize("line", [
    "sftrepro rebuilt", "sftrepro run 99", "sftrepro run 22 -p runs R99", "sftrepro run 22 -p seeds 1",
    "sftrepro run 22 -p benchmarks orders", "sftrepro plan --profile macro", "sftrepro plan --hardware abacus",
    "sftrepro rebuild --only R99", "sftrepro rebuild smoke", "make books", "make book PROFIL=smoke",
    "make book PROFILE=macro", ".venv/bin/python tools/nothing.py", ".venv/bin/nothing"])
def test_a_command_that_cannot_be_given_is_found_out(line: str) -> None:
    with pytest.raises((AssertionError, RequestError, typer.TyperException)):
        check(line)
