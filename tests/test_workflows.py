"""The workflow files and the texts for maintainers, read: every action is pinned, and every command exists.

The forge itself is not here. What the workflows call is tested where it is written: tests/test_tools.py."""
import re
import shlex
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from sftrepro import cli
from sftrepro.profiles import ROOT, load_profile, settings
from sftrepro.workflow import site_folder

WORKFLOWS = {path.stem: path for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}
TEXTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md")]
TEXTS += sorted((ROOT / ".github").rglob("*.md")) + sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
# What a run step may write into a workspace, beside what is committed: by the command that makes it.
MADE = {"make book": [".venv", "_build/site/micro"], "make pdf epub": [".venv", "_build/site/micro"],
        "tools/release.py": ["dist"],
        "tee test.log": ["test.log"], "tee links.log": ["links.log"]}


def read(name: str) -> dict:
    "A workflow; `on` is read as true by YAML 1.1."
    workflow = yaml.safe_load(WORKFLOWS[name].read_text())
    return {("on" if key is True else key): value for key, value in workflow.items()}


def jobs() -> Iterator[tuple[str, str, dict]]:
    for name in WORKFLOWS:
        for key, job in read(name)["jobs"].items():
            yield name, key, job


def commands(job: dict) -> str:
    "All shell lines of a job."
    return "\n".join(step.get("run", "") for step in job["steps"])


def runs_notebooks(job: dict) -> bool:
    "Whether a job runs code of the library: all such jobs do it by make."
    return bool(re.search(r"^\s*make ", commands(job), re.MULTILINE)) or ".venv/" in commands(job)


EVERY = pytest.mark.parametrize(("name", "key", "job"), [pytest.param(*job, id="/".join(job[:2])) for job in jobs()])


def test_there_are_the_five_workflows() -> None:
    assert list(WORKFLOWS) == ["lock", "release", "site", "test", "weekly"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_action_is_pinned_by_its_commit_and_says_its_version(name: str) -> None:
    lines = [line for line in WORKFLOWS[name].read_text().splitlines() if re.search(r"^\s*(- )?uses:", line)]
    used = [step["uses"] for _, job in read(name)["jobs"].items() for step in job["steps"] if "uses" in step]
    assert len(lines) == len(used) > 0
    for line in lines:
        assert re.search(r"uses: actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def test_an_action_has_one_pin_in_all_workflows() -> None:
    pins = {tuple(step["uses"].split("@")) for _, _, job in jobs() for step in job["steps"] if "uses" in step}
    assert len({action for action, _ in pins}) == len(pins) == 4


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_only_read_and_what_a_pull_request_says_is_no_shell(name: str) -> None:
    workflow = read(name)
    assert workflow["permissions"] == {"contents": "read"}
    assert "concurrency" in workflow and workflow["defaults"]["run"]["shell"] == "bash"
    assert "pull_request_target" not in workflow["on"] and "workflow_run" not in workflow["on"]
    for job in workflow["jobs"].values():
        assert "${{" not in commands(job)  # values reach a shell as environment variables only
        assert job["timeout-minutes"] <= 350
    text = WORKFLOWS[name].read_text()
    assert "secrets." not in text
    values = {re.sub(r"\s", "", value) for value in re.findall(r"\$\{\{(.*?)\}\}", text)}
    assert not [value for value in values if re.search(r"title|body|head_ref|head\.ref|\.label|\.login", value)]


@EVERY
def test_a_job_that_runs_notebooks_has_no_token_and_may_not_write(name: str, key: str, job: dict) -> None:
    for step in job["steps"]:
        if "actions/checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False
    if runs_notebooks(job):
        assert "permissions" not in job and "github.token" not in str(job) and "container" in job
    else:
        assert "container" not in job and "pip " not in commands(job)
        assert set(job["permissions"]) >= {"contents"} and len(job["permissions"]) <= 2


def test_the_jobs_that_publish_use_the_script_of_the_base_of_a_pull_request() -> None:
    site = read("site")["jobs"]
    for key in ("publish", "remove"):
        checkout = next(step for step in site[key]["steps"] if "actions/checkout" in step.get("uses", ""))
        assert "github.event.pull_request.base.sha" in checkout["with"]["ref"]
        assert "github.event.pull_request.head.repo.full_name == github.repository" in site[key]["if"]


def targets() -> set[str]:
    "The targets of the Makefile."
    words = re.findall(r"^([a-z][\w -]*):(?![=:])(?! part)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return {target for line in words for target in line.split()}


def problem_with_make(words: list[str]) -> str:
    "What is wrong with the words after `make`; empty if nothing is."
    goals = [word for word in words if "=" not in word]
    profiles = [word.removeprefix("PROFILE=") for word in words if "=" in word]
    unknown = [word for word in goals if word not in targets()]
    unknown += [word for word in profiles if word not in settings().sections() and word != "..."]
    return f"make {' '.join(words)}: {unknown}" if unknown or not goals else ""


def problem_with_sftrepro(words: list[str]) -> str:
    "What is wrong with the words after `sftrepro`; empty if nothing is."
    command, rest = get_command(cli.app), [word for word in words if word != "--debug"]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            return f"sftrepro {' '.join(words)}: no command {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    if hasattr(command, "commands"):
        return "" if rest == ["--help"] else f"sftrepro {' '.join(words)}: which command?"
    known = {option for parameter in command.params for option in parameter.opts if option.startswith("-")}
    own = rest[:rest.index("--")] if "--" in rest else rest
    unknown = [word for word in own if word.startswith("-") and word.split("=")[0] not in {*known, "--help"}]
    return f"sftrepro {' '.join(words)}: no option {unknown}" if unknown else ""


def problems(line: str) -> list[str]:
    "What is wrong with a shell line, as far as it calls make, the command line or a file of ours."
    found = []
    for part in re.split(r"&&|\|\||[;|]| 2>&1", line.split(" #")[0]):
        try:
            words = shlex.split(part)
        except ValueError:
            words = part.split()
        while words and (words[0] in ("if", "then", "|", "!") or re.match(r"^[A-Z_]+=", words[0])):
            words = words[1:]
        if not words:
            continue
        name, rest = words[0].removeprefix(".venv/bin/"), words[1:]
        if name == "make":
            found.append(problem_with_make([word for word in rest if not word.startswith(">")]))
        elif name == "sftrepro":
            found.append(problem_with_sftrepro(rest))
        for word in (words[0], *(rest[:1] if name in ("python", "python3", "bash", "sh") else [])):
            if word.startswith(("tools/", "tests/", ".ci/", "./")):
                found.append("" if (ROOT / word).exists() else f"{line}: no file {word}")
        if name in ("python", "python3"):
            found.append("" if rest[:1] and rest[0].startswith(("tools/", "-")) else f"{line}: which script?")
    return [problem for problem in found if problem]


@pytest.mark.parametrize(("line", "wrong"), [
    ("make test-quick", False), ("make tests", True), ("make rebuild PROFILE=micro", False), ("make", True),
    ("make rebuild PROFILE=nano", True), (".venv/bin/sftrepro results verify --runs 0", False),
    ("sftrepro verify", True), ("sftrepro results verify --run 0", True),
    ("sftrepro rebuild --profile paper -- --executor slurm --jobs 20", False),
    ("sftrepro run 22 -p runs '[\"R25\"]'", False), (".venv/bin/python tools/nothing.py", True), ("sftrepro", True),
    ("SFTREPRO_DATA=FOLDER .venv/bin/python tools/report_card.py", False), ("echo made | tee make", False),
])
def test_a_command_that_does_not_exist_is_noticed(line: str, wrong: bool) -> None:
    assert bool(problems(line)) is wrong


@EVERY
def test_every_command_of_a_workflow_exists_and_its_shell_is_right(name: str, key: str, job: dict) -> None:
    script = commands(job)
    assert [problem for line in script.splitlines() for problem in problems(line)] == []
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_workflows_keep_the_book_where_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SFTREPRO_BUILD", raising=False)
    assert site_folder(load_profile()).relative_to(ROOT).as_posix() in MADE["make book"]


@EVERY
def test_what_is_kept_is_committed_or_made_before(name: str, key: str, job: dict) -> None:
    done = ""
    for step in job["steps"]:
        done += step.get("run", "") + "\n"
        path = step.get("with", {}).get("path", "")
        if "upload-artifact" in step.get("uses", ""):
            made = [place for command, places in MADE.items() if command in done for place in places]
            assert path in made or list(ROOT.glob(path)), path
        elif "actions/cache" in step.get("uses", ""):
            assert path == ".venv" and "make" in commands(job)
            patterns = re.findall(r"'(.+?)'", step["with"]["key"])
            assert patterns and all(list(ROOT.glob(pattern)) for pattern in patterns)
            hashed = re.search(r"wanted=\$\(cat (.+?) \|", (ROOT / "setup.sh").read_text())[1].split()
            assert all(any(fnmatch(file, pattern) for pattern in patterns) for file in hashed)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_what_is_fetched_was_kept_by_a_job_that_comes_before(name: str) -> None:
    kept = {key: [step["with"]["name"] for step in job["steps"] if "upload-artifact" in step.get("uses", "")]
            for key, job in read(name)["jobs"].items()}
    for job in read(name)["jobs"].values():
        needs = [job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", [])
        before = [artefact for key in needs for artefact in kept[key]]
        for step in job["steps"]:
            if "download-artifact" in step.get("uses", ""):
                wanted = step["with"].get("name") or step["with"].get("pattern", "*")
                assert any(fnmatch(artefact, wanted) for artefact in before), wanted


# Texts


def shown_lines(path: Path) -> Iterator[str]:
    "The lines of code in a text: fenced blocks and code spans."
    text = path.read_text(encoding="utf-8")
    for block in re.findall(r"```(?:sh|bash)\n(.*?)```", text, re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def commanding(line: str) -> bool:
    "Whether a line calls something, and does not only name it."
    return bool(re.match(r"(\w+=\S+ )?(\.venv/bin/)?(make|sftrepro|python3?) .", line))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_of_a_text_exists(path: Path) -> None:
    assert [problem for line in shown_lines(path) if commanding(line) for problem in problems(line)] == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_text_links_to_or_names_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    linked = [link.split("#")[0] for link in re.findall(r"\]\((?!https?:|#)([^)\s]+)\)", text)]
    named = [span for span in shown_lines(path)
             if re.match(r"^(nbs|tests|tools|data|book|sftrepro|\.github|\.ci)/[\w./*-]+$", span)]
    assert [name for name in linked if not (path.parent / name).exists()] == []
    assert [name for name in named if not list(ROOT.glob(name))] == []


def test_the_guide_tells_of_every_target_and_workflow() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    assert [target for target in targets() if f"make {target}" not in guide] == []
    assert [name for name in WORKFLOWS if f"`{name}.yml`" not in guide] == []


def test_the_hooks_call_what_is_there() -> None:
    (source,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert source["repo"] == "local"
    for hook in source["hooks"]:
        assert hook["language"] == "system" and hook["pass_filenames"] is False
        program, *words = shlex.split(hook["entry"])
        assert program in (".venv/bin/pytest", ".venv/bin/ruff")
        assert [word for word in words if re.match(r"(nbs|tests|tools)\b", word) if not (ROOT / word).exists()] == []


def test_the_citation_is_complete_and_agrees_with_the_project() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "title", "message", "authors", "version", "license"} <= citation.keys()
    assert f'license = "{citation["license"]}"' in (ROOT / "pyproject.toml").read_text()
    assert str(citation["version"]) in (ROOT / "sftrepro/__init__.py").read_text()
    paper = citation["references"][0]
    bibliography = (ROOT / "book/references.bib").read_text()
    assert paper["identifiers"][0]["value"].removeprefix("arXiv:") in bibliography
    assert all(person["family-names"] in bibliography for person in paper["authors"])
    url = yaml.safe_load((ROOT / "book/_config.yml").read_text())["repository"]["url"]
    assert citation.get("repository-code", url) == url


@pytest.mark.parametrize("path", sorted(ROOT.glob("requirements*.lock")), ids=lambda path: path.name)
def test_a_lock_file_holds_names_and_versions_and_no_address(path: Path) -> None:
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    assert head.startswith("#") and lines and lines == sorted(lines, key=lambda line: line.split("=="))
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]*", line)] == []


def test_the_upgrade_leaves_out_what_the_lock_files_leave_out() -> None:
    left_out = re.search(r"LEFT_OUT = \{(.+?)\}", (ROOT / "tools/lock.py").read_text())[1].replace('"', "").split(", ")
    assert f"uninstall --quiet --yes {' '.join(left_out)}\n" in (ROOT / "Makefile").read_text()
