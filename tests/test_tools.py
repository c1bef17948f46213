"""What the forge calls beside the tests: verdicts, releases, published pages, followed links, the weekly issue."""
import hashlib
import http.server
import importlib.util
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from sftrepro.profiles import ROOT


def tool(name: str) -> ModuleType:
    "A module of tools/."
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


verdicts, release, links = tool("verdicts"), tool("release"), tool("links")


# Verdicts


def claim(word: str, fixed: str = "2026-11-21", digest: str = "a") -> dict:
    return {"title": "Dip and recovery", "verdict": word, "chapter": 22, "criterion_fixed": fixed,
            "criterion_sha256": digest}


def file_of(version: str, **claims: dict) -> dict:
    return {"version": version, "commit": "1a2b3c4", "profile": "micro", "claims": claims}


def test_the_difference_names_what_changed_and_whether_the_criterion_did(tmp_path: Path) -> None:
    old = file_of("0.1.0", C1=claim("reproduced"), C2=claim("contradicted"), C3=claim("open", ""),
                  C4=claim("reproduced"))
    new = file_of("0.2.0", C1=claim("reproduced"), C2=claim("reproduced"), C3=claim("reproduced", "2026-12-01", "b"),
                  C5=claim("open"))
    assert verdicts.difference(old, new).splitlines() == [
        "Verdicts, 0.1.0 (1a2b3c4, profile micro) -> 0.2.0 (1a2b3c4, profile micro): 2 of 3 changed.",
        "",
        "- C2 Dip and recovery: contradicted -> reproduced (same criterion)",
        "- C3 Dip and recovery: open -> reproduced (criterion changed, none -> 2026-12-01)",
        "- C5 Dip and recovery: new, open",
        "- C4 Dip and recovery: no longer a claim of the ledger; it was reproduced",
    ]
    assert verdicts.difference(old, old).endswith("0 of 4 changed.\n")
    for name, content in (("old", old), ("new", new)):
        (tmp_path / name).write_text(verdicts.json.dumps(content))
    command = [sys.executable, "-S", "-I", ROOT / "tools/verdicts.py", "diff", "old", "new"]  # without any package
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said == verdicts.difference(old, new)


def test_a_criterion_that_was_changed_shows_though_the_verdict_is_the_same() -> None:
    old, new = file_of("1", C2=claim("open")), file_of("2", C2=claim("open", digest="b"))
    assert "still open (criterion changed)" in verdicts.difference(old, new)


# Releases

CHANGELOG = ("# Changelog\n\n## [Unreleased]\n\n- More\n\n"
             "## [0.2.0] - 2026-12-01\n\n### Added\n\n- A claim\n\n## [0.1.0]\n")


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    "A small repository and its book."
    texts = {"sftrepro/__init__.py": '__version__ = "0.2.0"\n', "CITATION.cff": "cff-version: 1.2.0\nversion: 0.2.0\n",
             "CHANGELOG.md": CHANGELOG, "data/results/micro/a.parquet": "rows", "data/bases/b/config.json": "{}",
             "micro.pdf": "%PDF", "site/index.html": "<p id='top'>", "site/nbs/22.html": "<a href='../index.html#top'>"}
    for name, text in texts.items():
        (tmp_path / "toy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "toy" / name).write_text(text)
    return tmp_path / "toy"


def test_a_tag_that_is_not_the_version_or_not_in_the_changelog_is_refused(toy: Path) -> None:
    assert release.objections("v0.2.0", toy) == []
    assert release.objections("v0.3.0", toy) == [
        "sftrepro/__init__.py says version 0.2.0, the tag v0.3.0", "CITATION.cff says version 0.2.0, the tag v0.3.0",
        "CHANGELOG.md has no part [0.3.0]"]
    command = [sys.executable, ROOT / "tools/release.py", "v9.9.9", toy / "out"]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1 and "the tag v9.9.9" in refused.stderr and not (toy / "out").exists()


def test_a_release_holds_the_site_the_results_and_the_bases_and_can_be_checked(toy: Path) -> None:
    for out in ("one", "two"):
        release.release("v0.2.0", toy / out, toy / "site", [toy / "micro.pdf"], toy)
    assert (toy / "one/sftrepro-v0.2.0.pdf").read_text() == "%PDF"
    assert (toy / "one/notes.md").read_text() == "### Added\n\n- A claim\n"
    names = {}
    for what in ("site", "results", "bases"):
        archive = f"sftrepro-v0.2.0-{what}.tar.gz"
        assert (toy / "one" / archive).read_bytes() == (toy / "two" / archive).read_bytes()
        with tarfile.open(toy / "one" / archive) as tar:
            names[what] = tar.getnames()
    assert names == {"site": ["sftrepro-v0.2.0-site/index.html", "sftrepro-v0.2.0-site/nbs/22.html"],
                     "results": ["sftrepro-v0.2.0-results/micro/a.parquet"],
                     "bases": ["sftrepro-v0.2.0-bases/b/config.json"]}
    (toy / "one/SHA256SUMS").write_text(release.checksums(toy / "one"))
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=toy / "one", check=True)
    bases = (toy / "one/sftrepro-v0.2.0-bases.tar.gz").read_bytes()
    assert hashlib.sha256(bases).hexdigest() in (toy / "one/SHA256SUMS").read_text()


def test_the_changelog_and_the_citation_agree_with_the_version() -> None:
    version = release.re.search('"(.+)"', (ROOT / "sftrepro/__init__.py").read_text())[1]
    assert [line for line in release.objections(f"v{version}") if "CHANGELOG" not in line] == []
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()


# Published pages


def git(folder: Path, *words: str) -> str:
    person = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    return subprocess.run(["git", "-C", folder, *person, *words], check=True, capture_output=True,
                          encoding="utf-8").stdout.strip()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    "A clone of an empty repository."
    git(tmp_path, "init", "--quiet", "--bare", "remote")
    git(tmp_path, "clone", "--quiet", "remote", "clone")
    return tmp_path / "clone"


def published(clone: Path) -> dict[str, str]:
    "The pages on the branch gh-pages."
    git(clone, "fetch", "--quiet", "--force", "origin", "gh-pages:pages")
    assert git(clone, "rev-list", "--count", "pages") == "1"
    names = git(clone, "ls-tree", "-r", "--name-only", "pages").split("\n")
    return {name: git(clone, "show", f"pages:{name}") for name in names}


def pages(clone: Path, *words: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run([ROOT / "tools/pages.sh", *words], cwd=clone, capture_output=True, text=True,
                          env=os.environ | {"PAGES_WAIT": "0"})


def site_saying(folder: Path, text: str, *more: str) -> Path:
    folder.mkdir()
    for name in ("index.html", *more):
        (folder / name).write_text(text)
    return folder


def test_the_book_is_published_beside_previews_and_versions(clone: Path, tmp_path: Path) -> None:
    first = site_saying(tmp_path / "first", "first", "old.html", ".hidden")
    second = site_saying(tmp_path / "second", "second")
    for words in ([first], [first, "preview/12"], [first, "versions/v0.9.0"], [first, "versions/v0.10.0"], [second]):
        done = pages(clone, *words)
        assert done.returncode == 0, done.stderr
    found = published(clone)
    assert found["index.html"] == "second" and "old.html" not in found and ".nojekyll" in found
    assert found["preview/12/index.html"] == "first" and found["versions/v0.9.0/old.html"] == "first"
    listed = found["versions/index.html"]
    assert listed.index('"v0.10.0/index.html"') < listed.index('"v0.9.0/index.html"')
    assert pages(clone, "--remove", "preview/12").returncode == 0
    assert published(clone).keys() == found.keys() - {name for name in found if name.startswith("preview/")}


@pytest.mark.parametrize("words", [["--remove"], ["--remove", "versions"], ["{site}", "preview/../versions"],
                                   ["{site}", "preview/1; rm"], ["nowhere", "preview/1"]])
def test_another_place_is_refused_and_nothing_is_published(clone: Path, tmp_path: Path, words: list[str]) -> None:
    site = site_saying(tmp_path / "site", "page")
    assert pages(clone, *(word.format(site=site) for word in words)).returncode == 2
    assert git(clone, "ls-remote", "origin") == ""


def test_what_another_publishes_meanwhile_is_kept(clone: Path, tmp_path: Path) -> None:
    "The first attempt fails: someone publishes between its look at the branch and its push."
    one, two = site_saying(tmp_path / "one", "one"), site_saying(tmp_path / "two", "two")
    assert pages(clone, one).returncode == 0
    hook = tmp_path / "clone-2/hook"
    git(tmp_path, "clone", "--quiet", "remote", "clone-2")
    hook.write_text(f'#!/bin/sh\nrm "$0"\nunset GIT_DIR GIT_QUARANTINE_PATH GIT_OBJECT_DIRECTORY '
                    f'GIT_ALTERNATE_OBJECT_DIRECTORIES\ncd "{tmp_path}/clone-2" && '
                    f'"{ROOT}/tools/pages.sh" "{two}" preview/2 >/dev/null\n')
    hook.chmod(0o755)
    hook.rename(tmp_path / "remote/hooks/pre-receive")
    done = pages(clone, one, "preview/1")
    assert done.returncode == 0 and "attempt 1 to publish failed" in done.stderr
    assert {"index.html", "preview/1/index.html", "preview/2/index.html"} <= published(clone).keys()


def test_a_branch_that_cannot_be_read_is_not_overwritten(clone: Path, tmp_path: Path) -> None:
    site = site_saying(tmp_path / "site", "page")
    assert pages(clone, site).returncode == 0
    before = git(clone, "ls-remote", "origin")
    blob = git(tmp_path / "remote", "rev-parse", "gh-pages:index.html")
    (tmp_path / f"remote/objects/{blob[:2]}/{blob[2:]}").unlink()
    assert pages(clone, site, "preview/1").returncode == 1
    assert git(clone, "ls-remote", "origin") == before


# Links


class Answers(http.server.BaseHTTPRequestHandler):
    "Answers with the status that the path names."

    def do_GET(self) -> None:
        self.send_response(int(self.path[1:4]))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_links_are_followed_within_the_site_and_to_other_hosts(toy: Path, host: str) -> None:
    assert links.check(toy / "site") == ([], [])
    (toy / "site/more.html").write_text(
        f"<a href='gone.html'><a href='nbs/22.html#x'><a href='nbs/22.html?y=1'><a href='#here'><p id='here'>"
        f"<a href='{host}/200#z'><a href='{host}/404'><a href='{host}/403'><a href='mailto:a@b'><img src='nbs/'>")
    broken, silent = links.check(toy / "site")
    assert broken == ["more.html: gone.html: no such file", "more.html: nbs/: no such file",
                      "more.html: nbs/22.html#x: no such place on that page", f"more.html: {host}/404: 404 Not Found"]
    assert silent == [f"more.html: {host}/403: 403 Forbidden"]


# The weekly issue

GH = """#!/usr/bin/env python3
import json, os, sys
from pathlib import Path
place = Path(os.environ["GH_PLACE"])
state = json.loads(place.read_text()) if place.exists() else {"open": "", "calls": []}
words = sys.argv[1:]
state["calls"].append(words[:2])
if "--body-file" in words:
    state["body"] = Path(words[words.index("--body-file") + 1]).read_text()
if words[:2] == ["issue", "list"]:
    print(state["open"])
if words[:2] == ["issue", "create"]:
    state["open"] = "7"
if words[:2] == ["issue", "close"]:
    state["open"] = ""
place.write_text(json.dumps(state))
"""


def test_the_weekly_run_keeps_one_issue(tmp_path: Path) -> None:
    (tmp_path / "gh").write_text(GH)
    (tmp_path / "gh").chmod(0o755)
    (tmp_path / "test.log").write_text("".join(f"line {n} `x` @someone\n" for n in range(400)))
    own = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "GH_PLACE": str(tmp_path / "state"),
           "RUN_URL": "https://forge.example/run/1"}
    calls = {}
    for name, words in {"first": ["failed", tmp_path / "test.log", tmp_path / "missing.log"], "again": ["failed"],
                        "good": ["passed"], "better": ["passed"]}.items():
        subprocess.run([ROOT / "tools/issue.sh", *words], check=True, env=os.environ | own)
        state = verdicts.read(tmp_path / "state")
        calls[name] = [call for call in state["calls"]]
        if name == "first":
            assert "https://forge.example/run/1" in state["body"] and "test.log" in state["body"]
            assert "    line 399 `x` @someone" in state["body"] and "line 200 " not in state["body"]
        state["calls"] = []
        (tmp_path / "state").write_text(verdicts.json.dumps(state))
    assert calls == {
        "first": [["issue", "list"], ["label", "create"], ["issue", "create"]],
        "again": [["issue", "list"], ["issue", "edit"], ["issue", "comment"]],
        "good": [["issue", "list"], ["issue", "close"]],
        "better": [["issue", "list"]],
    }
