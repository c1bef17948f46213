"""Follow every link of a built site: `.venv/bin/python tools/links.py _build/site/micro`.

Links within the site must lead to a file and, where they name one, to a place on its page. Links to other hosts are
asked for, each once. A host that answers 404 or 410, or whose name is unknown, is a broken link; one that refuses
robots, is slow or has a fault of its own today is only listed. The exit code is 1 if a link is broken. """
import sys
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests

GONE = (404, 410)


class Page(HTMLParser):
    "The links of a page and the places that can be linked to."

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links, self.places = set(), set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.places |= {value for name, value in attributes if name in ("id", "name") and value}
        if link := values.get("href" if tag in ("a", "link") else "src"):
            self.links.add(link)


def broken_within(site: Path) -> tuple[list[str], dict[str, str]]:  # lines; links to other hosts with a page of each
    "The links of a site that lead nowhere in it, and the links that leave it."
    found = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    broken, outside = [], {}
    for path, page in found.items():
        name = str(path.relative_to(site.resolve()))
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme in ("http", "https"):
                outside.setdefault(parts._replace(fragment="").geturl(), name)
            elif not parts.scheme and not parts.netloc:
                target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
                target = target / "index.html" if target.is_dir() else target
                if not target.exists():
                    broken.append(f"{name}: {link}: no such file")
                elif parts.fragment and target in found and unquote(parts.fragment) not in found[target].places:
                    broken.append(f"{name}: {link}: no such place on that page")
    return broken, outside


def answer(link: str) -> tuple[bool, str]:  # whether it is broken, and what was heard; empty if all is well
    "Ask for a link."
    try:
        with requests.get(link, timeout=30, stream=True, headers={"User-Agent": "sftrepro link check"}) as response:
            return response.status_code in GONE, "" if response.ok else f"{response.status_code} {response.reason}"
    except requests.RequestException as error:
        unknown = isinstance(error, requests.ConnectionError) and "NameResolutionError" in str(error)
        return unknown, "unknown host" if unknown else type(error).__name__


def check(site: Path) -> tuple[list[str], list[str]]:  # broken links, links without an answer today
    "All links of a site."
    broken, outside = broken_within(site)
    silent = []
    with ThreadPoolExecutor(8) as asking:
        for (link, name), (gone, heard) in zip(outside.items(), asking.map(answer, outside), strict=True):
            if heard:
                (broken if gone else silent).append(f"{name}: {link}: {heard}")
    return broken, silent


if __name__ == "__main__":
    site = Path(sys.argv[1])
    if not (site / "index.html").exists():
        sys.exit(f"{site} has no book. Make it: make book")
    broken, silent = check(site)
    print(*(f"broken    {line}" for line in broken), *(f"no answer {line}" for line in silent), sep="\n")
    print(f"{len(broken)} broken links, {len(silent)} links without an answer today")
    sys.exit(bool(broken))
