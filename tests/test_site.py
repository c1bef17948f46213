"""The rendered book, opened in a browser, every page of it; and the rendering of a small one.

The folder of pages is SFTREPRO_SITE, or the book as `make book` leaves it.
"""
import base64
import functools
import html
import http.server
import inspect
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import polars as pl
import pytest
from fastcore.docments import docments
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page, sync_playwright

from sftrepro import mentions, plots, profiles, site, store
from sftrepro.claims import ledger
from sftrepro.contents import instrument
from sftrepro.profiles import ROOT, RequestError, load_profile
from sftrepro.runs import paper_runs

SITE = Path(os.environ.get("SFTREPRO_SITE") or ROOT / "_build/site/micro").resolve()
PAGES = sorted(str(page.relative_to(SITE)) for folder in ("book", "nbs") for page in (SITE / folder).glob("*.html"))
CHROMIUM = shutil.which("chromium")

built = pytest.mark.skipif(not PAGES, reason=f"no rendered book in {SITE}: make book")
browsing = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
every_page = pytest.mark.parametrize("name", PAGES or ["none"])


@functools.cache
def panels(name: str) -> int:
    "How many charts a page has."
    return (SITE / name).read_text(encoding="utf-8").count('<div class="sft-panel"')


def things(name: str) -> set[str]:
    "What a page is made of: the classes of its elements, and the marks and scales of its charts."
    text = (SITE / name).read_text(encoding="utf-8")
    classes = {word for names in re.findall(r'class="([^"<]*)"', text) for word in names.split()}
    own = {word for word in classes if re.fullmatch("[a-z_-]{3,}", word) and not word.startswith("tag_")}
    return own | set(re.findall(r'"type": ?"(\w+)"', text))


def covering(names: list[str]) -> list[str]:
    "Pages that together hold every kind of thing that there is on a page, those with few charts first."
    seen, chosen = set(), []
    for name in sorted(names, key=lambda name: (panels(name), len((SITE / name).read_bytes()))):
        if new := things(name) - seen:
            chosen.append(name)
            seen |= new
    return chosen


richest = max(PAGES, key=panels, default="none")


# Opening pages


class Visit:
    "A page in the browser, with all that went wrong on it."

    def __init__(self, page: Page, root: str) -> None:
        self.page, self.root, self.faults = page, root, []
        page.on("console", lambda message: self.faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("requestfailed", self.fail)
        page.on("request", self.see)

    def fail(self, request: object) -> None:
        if request.failure != "net::ERR_ABORTED":  # the page was left before the file came
            self.faults.append(f"failed ({request.failure}): {request.url}")

    def see(self, request: object) -> None:
        if not request.url.startswith((self.root, "data:", "blob:")):
            self.faults.append(f"asks another host: {request.url}")

    def open(self, name: str) -> Page:
        self.page.goto(f"{self.root}/{name}", wait_until="load")
        return self.page


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    yield Visit(context.new_page(), SITE.as_uri())
    context.close()


@pytest.fixture(scope="session")
def reader(browser: Browser) -> Iterator[Visit]:
    "One who reads page after page: the browser keeps the scripts that it has compiled."
    context = browser.new_context()
    yield Visit(context.new_page(), SITE.as_uri())
    context.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    "A browser opens pages that together hold every kind of thing; before a release, and before it is published, each."
    if "opened" in metafunc.fixturenames:
        pages = PAGES if metafunc.config.getoption("--all") else covering(PAGES)
        metafunc.parametrize("opened", pages or ["none"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def opened(reader: Visit, request: pytest.FixtureRequest) -> Visit:
    "A page opened once for all the tests of it, its charts brought to life."
    reader.page.set_viewport_size({"width": 1280, "height": 900})
    reader.page.emulate_media(color_scheme="light")
    reader.faults.clear()
    awaken(reader.open(request.param))
    return reader


@pytest.fixture(scope="session")
def served() -> Iterator[str]:
    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=SITE)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


AWAKEN = """async () => {
    const frame = () => new Promise(requestAnimationFrame), panels = document.querySelectorAll(".sft-panel");
    for (const panel of panels) {
        panel.scrollIntoView({block: "center"});
        const end = performance.now() + 60000;
        while (!panel.querySelector(".vega-embed svg")) {
            if (performance.now() > end) throw new Error("a chart stays a drawing");
            await frame();
        }
    }
    return panels.length;
}"""


def awaken(page: Page) -> int:
    "Bring every chart of a page to life; how many there are."
    return page.evaluate(AWAKEN)


# Every page


@built
@browsing
def test_a_page_opens_from_a_disk_without_an_error_or_a_foreign_request(opened: Visit) -> None:
    opened.page.wait_for_function("!window.MathJax?.startup || window.MathJax.startup.promise.then(() => true)")
    assert opened.faults == []


@built
@browsing
def test_a_chart_of_every_figure_answers_the_pointer(opened: Visit) -> None:
    for figure in opened.page.locator(".sft-figure:has(.vega-embed)").all():
        chart = figure.locator(".sft-panel .vega-embed svg").first  # the other panels have the same specification
        chart.scroll_into_view_if_needed()
        box = chart.locator(
            ".role-frame path.background"
        ).first.bounding_box()  # long names may reach beyond the middle of the chart
        opened.page.mouse.move(0, 0)
        tooltip = opened.page.locator("#vg-tooltip-element.visible")
        for nudge in range(100):  # a page that is still scrolling swallows what the pointer does
            opened.page.mouse.move(box["x"] + box["width"] / 2 + nudge, box["y"] + box["height"] / 2, steps=4)
            if tooltip.is_visible():
                break
            opened.page.wait_for_timeout(100)
        tooltip.wait_for()
        assert re.search(r"\d", tooltip.inner_text()) and "undefined" not in tooltip.inner_text()


@built
@browsing
def test_formulas_are_set_and_none_is_broken(opened: Visit) -> None:
    formulas = opened.page.locator(".bd-article .math").count()
    opened.page.wait_for_function("n => document.querySelectorAll('.math mjx-container svg').length >= n", arg=formulas)
    assert opened.page.locator("mjx-merror, [data-mjx-error]").count() == 0


@built
@browsing
def test_every_chart_can_be_read_in_light_and_dark(opened: Visit) -> None:
    for scheme in ("light", "dark"):
        opened.page.emulate_media(color_scheme=scheme)
        opened.page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
        assert opened.page.evaluate(FAINTEST) >= 4.5


@built
@browsing
def test_a_page_fits_a_telephone(opened: Visit) -> None:
    opened.page.set_viewport_size({"width": 390, "height": 844})
    opened.page.wait_for_function(
        "[...document.querySelectorAll('.sft-panel svg')].every(svg => svg.clientWidth <= 390)"
    )
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert opened.page.evaluate("parseFloat(getComputedStyle(document.querySelector('.bd-article')).fontSize)") >= 16


@built
@browsing
@pytest.mark.parametrize("name", ["book/index.html", richest])  # all pages have the same scripts
def test_a_page_opens_from_a_server_as_well(visit: Visit, served: str, name: str) -> None:
    visit.root = served
    awaken(visit.open(name))
    assert visit.faults == []


# The smallest contrast ratio between a text of a chart and what lies behind it.
FAINTEST = """() => {
  const canvas = document.createElement("canvas").getContext("2d");
  const rgba = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
                             return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = (colour) => { const [r, g, b] = colour.slice(0, 3).map((c) => c / 255)
                                .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
                              return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (element) => { for (let e = element; e; e = e.parentElement) {
                                  const colour = rgba(getComputedStyle(e).backgroundColor);
                                  if (colour[3] === 255) return colour; } return [255, 255, 255, 255]; };
  return Math.min(21, ...[...document.querySelectorAll(".vega-embed svg text")].map((text) => {
    const [a, b] = [light(rgba(getComputedStyle(text).fill)), light(behind(text))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05); }));
}"""


@built
@every_page
def test_no_directive_of_the_notebooks_shows(name: str) -> None:
    text = (SITE / name).read_text()
    cells = re.findall(r'<div class="cell_input.*?<pre>(.*?)</pre>', text, re.DOTALL)
    assert not [cell for cell in cells if re.search(r"^#\|", re.sub(r"<[^>]+>", "", cell), re.MULTILINE)]


@built
@every_page
def test_every_figure_says_where_it_comes_from_and_holds_its_numbers(name: str) -> None:
    text = (SITE / name).read_text()
    figures = re.findall(r'<figure class="sft-figure.*?</figure>', text, re.DOTALL)
    assert sum(figure.count('<div class="sft-panel"') for figure in figures) == text.count('<div class="sft-panel"')
    for figure in figures:
        line = re.search(r'<p class="sft-provenance">(.*?)</p>', figure, re.DOTALL).group(1)
        assert line.count("\N{MIDDLE DOT}") >= 2, line
        data = re.search(r'download="[\w-]+\.csv" href="data:text/csv;base64,([^"]+)"', line).group(1)
        numbers = pl.read_csv(base64.b64decode(data), infer_schema=False)
        assert numbers.height > 0 or "<td" not in figure, line


@built
@every_page
def test_no_address_on_a_page_is_given_twice(name: str) -> None:
    body = re.sub(r"<(script|svg)\b.*?</\1>", "", (SITE / name).read_text(), flags=re.DOTALL)
    article = body.split('class="bd-article"')[1].split("</article>")[0]
    addresses = re.findall(r'<\w+[^<>]*? id="([^"]+)"', article)
    assert len(addresses) == len(set(addresses))


@built
@every_page
def test_no_output_holds_a_chart_outside_a_figure(name: str) -> None:
    assert not re.search(r"cdn\.jsdelivr\.net/npm/vega@6\?noext|application/vnd\.vegalite", (SITE / name).read_text())


@built
@every_page
def test_every_link_within_the_book_leads_somewhere(name: str) -> None:
    links = re.findall(r'<(?:a|link|script|img)\b[^<>]*?\b(?:href|src)="([^"]+)"', (SITE / name).read_text())
    local = {urlsplit(link).path for link in links if not urlsplit(link).scheme and urlsplit(link).path}
    assert [link for link in local if not ((SITE / name).parent / unquote(link)).exists()] == []


# The book as a whole


@built
@browsing
def test_the_first_file_leads_into_the_book(visit: Visit) -> None:
    page = visit.open("index.html")
    page.wait_for_url("**/book/index.html")
    assert visit.faults == []


def linked(name: str, label: str) -> str | None:
    "The page that a page's link with this label leads to."
    found = re.search(rf'class="{label}"\s+href="([^"]+)"', (SITE / name).read_text(encoding="utf-8"))
    return os.path.normpath(Path(name).parent / found[1]) if found else None


@built
def test_turning_pages_leads_through_the_whole_book() -> None:
    seen = ["book/index.html"]
    while following := linked(seen[-1], "right-next"):
        assert linked(following, "left-prev") == seen[-1]
        seen.append(following)
    assert sorted(seen) == PAGES


@built
@browsing
def test_a_page_is_turned_and_turned_back(visit: Visit) -> None:
    page = visit.open("book/index.html")
    page.locator("a.right-next").click()
    assert page.url.removeprefix(f"{visit.root}/") == linked("book/index.html", "right-next")
    page.locator("a.left-prev").click()
    assert page.url.endswith("book/index.html")


@built
@browsing
@pytest.mark.parametrize("where", ["disk", "server"])
def test_search_finds_a_chapter(visit: Visit, served: str, where: str) -> None:
    visit.root = served if where == "server" else visit.root
    page = visit.open("book/glossary.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("manifest")
    page.keyboard.press("Enter")
    page.locator("#search-results li a").first.wait_for()
    found = page.locator("#search-results li a").all_inner_texts()
    assert any("store" in title.lower() for title in found), found
    assert visit.faults == []


@built
@browsing
def test_a_reader_can_switch_to_dark_and_stays_there(visit: Visit) -> None:
    page = visit.open("book/index.html")
    for _ in range(30):  # a click does nothing before the theme's script is there
        if page.evaluate("document.documentElement.dataset.theme") == "dark":
            break
        page.locator("button.theme-switch-button:visible").first.click()
        page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert visit.open("book/glossary.html").evaluate("document.documentElement.dataset.theme") == "dark"


@built
@browsing
def test_without_scripts_the_still_drawings_are_seen(browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{SITE.as_uri()}/nbs/14_plots.html")
    stills = page.locator(".sft-still svg")
    assert stills.count() > 1
    assert all(stills.nth(i).bounding_box()["height"] > 50 for i in range(stills.count()))
    context.close()


@built
def test_the_book_has_charts_formulas_and_several_charts_on_a_page() -> None:
    texts = [(SITE / name).read_text() for name in PAGES]
    assert max(text.count('<div class="sft-panel"') for text in texts) > 3
    assert any('class="math' in text for text in texts)


# Rendering


ESTIMATES = pl.DataFrame(
    {
        "benchmark": ["order"] * 3,
        "series": ["Math-CoT"] * 3,
        "step": [0, 5, 40],
        "value": [20.0, 12.0, 31.0],
        "low": [15.0, 8.0, 27.0],
        "high": [25.0, 17.0, 36.0],
        "seeds": [3] * 3,
        "items": [200] * 3,
    }
)


def notebook(*cells: dict) -> dict:
    whole = [{"cell_type": "markdown", "id": "title", "metadata": {}, "source": "# Dip: and recovery"}, *cells]
    return {"cells": whole, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def code(source: str, *outputs: str, tags: tuple[str, ...] = ()) -> dict:
    shown = [{"output_type": "display_data", "data": {"text/html": output}, "metadata": {}} for output in outputs]
    return {"cell_type": "code", "id": f"c{abs(hash(source))}", "metadata": {"tags": list(tags)}, "execution_count": 1,
            "source": source, "outputs": shown}


def test_a_cell_of_directives_goes_and_an_exported_one_is_marked() -> None:
    cells = site.page(
        notebook(code("#| default_exp plots"), code("#| export\nx = 1"), code("#| hide\nsecret")), "14_plots"
    )["cells"]
    assert [cell["source"] for cell in cells[1:]] == ["x = 1", "secret"]
    assert cells[1]["metadata"]["tags"] == ["exported"] and cells[2]["metadata"]["tags"] == ["remove-cell"]


def test_code_is_folded_in_chapters_but_parameters_are_not() -> None:
    cells = site.page(notebook(code("seeds = 3", tags=("parameters",)), code("show(x)")), "22_dip_and_recovery")[
        "cells"
    ]
    assert cells[0]["source"] == "# 22 · Dip: and recovery" and site.short_title({"cells": cells}) == "22 · Dip"
    assert [cell["metadata"]["tags"] for cell in cells[1:]] == [["parameters"], ["hide-input"]]
    assert "hide-input" not in site.page(notebook(code("x = 1")), "14_plots")["cells"][1]["metadata"]["tags"]


def test_an_output_that_loads_from_another_host_is_refused() -> None:
    for remote in ('<script src="https://example.org/x.js">', "import('https://example.org/x.js')", "<img src='http://example.org'>"):
        with pytest.raises(RequestError, match="nbs/22_dip.ipynb: the output of 'chart' loads from another host"):
            site.page(notebook(code("chart", remote)), "22_dip")
    site.page(notebook(code("chart", '<a href="https://example.org">a link</a>')), "22_dip")


def test_a_page_that_borrows_what_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "90_scoreboard.ipynb").write_text(json.dumps(notebook(code("x", "<b>found</b>", tags=("landing",)))))
    assert "<b>found</b>" in site.borrowed("<!-- outputs: nbs/90_scoreboard.ipynb landing -->", tmp_path)
    with pytest.raises(RequestError, match="no cell tagged 'other'"):
        site.borrowed("<!-- outputs: nbs/90_scoreboard.ipynb other -->", tmp_path)


def test_the_bundle_needs_nothing_and_is_no_module() -> None:
    assert not re.search(r"\bimport\.meta|\bimport\s*[{*\"']|\bexport\s*[{*]", site.bundle())


def test_a_chapter_that_was_not_executed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="nbs/22_dip.ipynb is in _toc.yml and has not been executed"):
        site.pages(tmp_path, {"root": "nbs/22_dip"})


def test_a_failed_rendering_leaves_the_last_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "site"
    figure = plots.figure(
        plots.trajectory(ESTIMATES, y="score (%)"), "Caption.", "micro · 1a2b3c4", ESTIMATES, "scores"
    )
    (tmp_path / "22_dip.ipynb").write_text(json.dumps(notebook(code("show(scores)", figure))))
    page = site.render_chapter(tmp_path / "22_dip.ipynb", out)
    assert page.exists() and "sft-panel" in page.read_text() and (out / "_static/vega.js").stat().st_size > 500_000
    before = page.read_text()
    monkeypatch.setattr(site, "MATHEMATICS", "no-such-file.js")
    with pytest.raises(FileNotFoundError):
        site.render_chapter(tmp_path / "22_dip.ipynb", out)
    assert page.read_text() == before


@pytest.mark.parametrize("url", ["", "https://github.com/someone/book"])
def test_pages_link_to_their_source_where_the_repository_has_an_address(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    shutil.copytree(ROOT / "book", tmp_path / "repository/book")
    config = tmp_path / "repository/book/_config.yml"
    text = config.read_text(encoding="utf-8")
    assert text.count('  url: ""\n') == 1
    config.write_text(text.replace('  url: ""\n', f'  url: "{url}"\n'), encoding="utf-8")
    monkeypatch.setattr(site, "ROOT", tmp_path / "repository")
    monkeypatch.setattr(site, "api_page", lambda: "# API reference\n")  # the real one is long
    (tmp_path / "22_dip.ipynb").write_text(json.dumps(notebook()))
    toc = {"format": "jb-book", "root": "nbs/22_dip", "chapters": [{"file": "book/api"}, {"file": "book/glossary"}]}
    site.build_site(tmp_path, toc, tmp_path / "site", strict=False)
    pages = {name: (tmp_path / f"site/{name}.html").read_text() for name in ("nbs/22_dip", "book/api", "book/glossary")}
    sources = {"nbs/22_dip": "nbs/22_dip.ipynb", "book/api": "nbs/15_site.ipynb", "book/glossary": "book/glossary.md"}
    for name, page in pages.items():
        links = set(re.findall(r'href="(https://github\.com/someone/[^"]+)"', page))
        assert {link.split("&")[0] for link in links} == (set() if not url else {
            url, f"{url}/edit/main/{sources[name]}", f"{url}/blob/main/{sources[name]}?plain=1",
            f"{url}/issues/new?title=Issue%20on%20page%20%2F{name}.html"}), name
        assert ("source-edit-button" in page or "btn-source-edit" in page) is bool(url)
    assert (tmp_path / "site/_sources/book/api.md").exists() and "_sources/book/api.md" in pages["book/api"]


# What is named can be followed


NAMED = re.compile(r"(?<![\w/-])(?:R\d\d(?:-(?:null|ceiling|shuffled))?|B\d{4}|C\d{1,2}|H\d\d[a-z]?)(?!\w)")
UNLINKED = {"a", "button", "code", "dt", "h1", "h2", "h3", "h4", "h5", "h6", "kbd", "label", "option", "pre",
            "summary"}


@functools.cache
def places(page: Path) -> set[str]:
    "The addresses on a page."
    return set(re.findall(r'\b(?:id|name)="([^"]+)"', page.read_text(encoding="utf-8")))


@built
@every_page
def test_every_link_within_the_book_leads_to_a_place_that_exists(name: str) -> None:
    page = SITE / name
    links = {html.unescape(link) for link in re.findall(r'<a\b[^<>]*?\bhref="([^"]+)"', page.read_text())}
    for link in map(urlsplit, links):
        target = (page.parent / unquote(link.path)).resolve() if link.path else page
        chooses = "=" in link.fragment and target in (SITE / "nbs/32_traces.html", SITE / "nbs/33_what_if.html")
        if not link.scheme and link.fragment and target.suffix == ".html" and not chooses:
            assert unquote(link.fragment) in places(target), link.geturl()


class Prose(HTMLParser):
    "The texts of a page's article that are neither in a link, in code, in a heading, nor a place themselves."

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts, self.around = [], []
        article = page.split('class="bd-article"')[1].split("</article>")[0]
        self.feed(re.sub(r"<(script|style|svg)\b.*?</\1>", "", article, flags=re.DOTALL))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        told = dict(attributes)
        named = tag == "span" and NAMED.fullmatch(told.get("id") or "")
        ours = named or re.search(r"\b(?:math|sft-case|sft-legend|sft-provenance)\b", told.get("class") or "")
        if tag not in mentions.EMPTY:
            self.around.append((tag, bool(ours) or tag in UNLINKED))

    def handle_endtag(self, tag: str) -> None:
        if self.around and self.around[-1][0] == tag:
            self.around.pop()

    def handle_data(self, data: str) -> None:
        if not any(quiet for _, quiet in self.around):
            self.texts.append(data)


@built
@every_page
def test_every_run_and_claim_that_is_named_is_a_link(name: str) -> None:
    known = {*ledger().claims, *mentions.run_notes(load_profile())}
    bare = [found[0] for text in Prose((SITE / name).read_text()).texts for found in NAMED.finditer(text)]
    assert [word for word in bare if word in known] == []


@built
@every_page
def test_every_figure_has_a_link_to_itself(name: str) -> None:
    text = (SITE / name).read_text()
    figures = re.findall(r'<figure class="sft-figure[^>]* id="([^"]+)"', text)
    assert re.findall(r'<a class="sft-permalink" href="#([^"]+)"', text) == figures


@built
def test_every_run_has_a_row_and_every_claim_a_place_on_the_scoreboard() -> None:
    assert {*paper_runs(), *mentions.made(load_profile(SITE.name))} <= places(SITE / "book/runs.html")
    assert set(ledger().claims) <= places(SITE / "nbs/90_scoreboard.html")


@built
def test_every_term_of_the_glossary_is_used_on_another_page() -> None:
    terms = mentions.term_notes((ROOT / "book/glossary.md").read_text(encoding="utf-8"))
    pages = [(SITE / name).read_text() for name in PAGES if name != "book/glossary.html"]
    link = re.compile(r'sft-term" href="[./]*(?:book/)?(glossary\.html#[^"]+)"')
    used = {found for page in pages for found in link.findall(page)}
    assert [term for term, note in terms.items() if note.address.removeprefix("book/") not in used] == []


@built
@browsing
def test_a_mention_says_what_it_names_to_pointer_keyboard_and_finger(browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    visited = Visit(context.new_page(), SITE.as_uri())
    page = visited.open("nbs/22_dip_and_recovery.html")
    run = page.locator('.bd-article a.sft-note[href="../book/runs.html#R25"]').first
    note = page.locator("#sft-note-shown")
    for act, undo in ((run.hover, lambda: page.mouse.move(0, 0)), (run.focus, lambda: page.keyboard.press("Escape")),
                      (run.tap, lambda: None)):
        page.keyboard.press("Tab")  # the keyboard is in use, so what has the focus shows it
        act()
        note.wait_for()
        assert re.search(r"R25 at profile \w+: .* learning rate [\d.e-]+, 8 epochs.*seed", note.inner_text())
        box = note.bounding_box()
        assert 0 <= box["x"] and box["x"] + box["width"] <= 390
        undo()
    assert page.url.endswith("22_dip_and_recovery.html")
    run.tap()
    page.wait_for_url("**/book/runs.html#R25")
    assert visited.faults == []
    context.close()


@built
def test_the_note_of_a_claim_has_the_verdict_of_the_scoreboard() -> None:
    verdicts = mentions.verdicts_shown((SITE / "nbs/90_scoreboard.html").read_text())
    told = re.search(r'href="90_scoreboard.html#C8" title="([^"]+)"', (SITE / "nbs/26_data.html").read_text())
    assert set(verdicts) == set(ledger().claims) and told[1].endswith(f"Verdict: {verdicts['C8']}.")


WORDS = ["R25", "R25-shuffled", "C8", "R99", "the dip", "a checkpoint", "Two trials", " and ", "\n", "&amp;", "x < y"]
WRAPS = ["<p>{}</p>", "<code>{}</code>", "<h2>{}</h2>", '<a href="x">{}</a>', "<td>{}</td>", "<br>{}", "<!-- R25 -->{}",
         '<img alt="R25 > C8">{}', "<table>{}</table>", '<span class="math">{}</span>', "<script>R25 < C8</script>{}"]
TERMS = mentions.term_notes((ROOT / "book/glossary.md").read_text(encoding="utf-8"))
NOTES = mentions.run_notes(load_profile("smoke")) | mentions.claim_notes({"C8": "reproduced"})


@given(st.lists(st.tuples(st.sampled_from(WRAPS), st.lists(st.sampled_from(WORDS), max_size=4)), max_size=5))
def test_linking_adds_links_and_changes_nothing_else(parts: list[tuple[str, list[str]]]) -> None:
    body = "".join(wrap.format(" ".join(words).replace("<", "&lt;")) for wrap, words in parts)
    page = f'<h1>R25</h1><article class="bd-article">{body}</article><footer>R25, a dip</footer>'
    linked = mentions.with_mentions(page, "nbs/22.html", NOTES, TERMS)
    assert re.sub(r'<a class="sft-note[^>]*>(.*?)</a>', r"\1", linked, flags=re.DOTALL) == page
    quiet = re.findall(r'<code>.*?</code>|<h[12]>.*?</h[12]>|<a href="x">.*?</a>|<footer>.*', linked, re.DOTALL)
    assert not any("sft-note" in element for element in quiet)


def test_a_term_is_linked_once_and_a_verb_is_no_term() -> None:
    def terms(body: str) -> list[str]:
        page = mentions.with_mentions(f'<article class="bd-article">{body}</article>', "nbs/22.html", NOTES, TERMS)
        return re.findall(r'sft-term" href="\.\./book/glossary\.html#term-([\w.-]+)"', page)
    assert terms("<p>We run and judge. A run has a dip. This run too.</p>") == ["run", "dip"]
    assert terms("<p>held-out\ntraces</p><td>a trace</td>") == ["held-out-trace", "trace"]
    assert terms('<p>A <a href="../book/glossary.html#term-dip">dip</a>, or a dip</p>') == []
    assert terms("<p>Math-CoT of the run_name</p><table><tr><td>a run</td></tr></table>") == []


def test_the_page_that_explains_a_name_gets_its_address() -> None:
    page = '<article class="bd-article"><p>C8</p><table><tr><td>C8</td><td>C8</td></tr></table></article>'
    linked = mentions.with_mentions(page, "nbs/90_scoreboard.html", NOTES, {})
    assert linked.count('<td><span id="C8">C8</span></td>') == 1 and linked.count('href="#C8"') == 2
    assert "Verdict: reproduced." in linked


def test_a_name_stays_plain_where_the_site_does_not_explain_it(tmp_path: Path) -> None:
    page = tmp_path / "nbs/22.html"
    page.parent.mkdir()
    page.write_text('<article class="bd-article"><p>R25 has a dip.</p></article>')
    mentions.link_mentions(tmp_path, tmp_path)
    assert "<a " not in page.read_text()
    (tmp_path / "book").mkdir()
    (tmp_path / "book/runs.html").touch()
    mentions.link_mentions(tmp_path, tmp_path)
    assert re.findall(r'<a [^>]*href="([^"]+)"', page.read_text()) == ["../book/runs.html#R25"]


def test_parameters_are_explained_as_nbdev_explains_them() -> None:
    for module in (store, mentions, profiles):
        entries = {entry.name: entry for entry in site.reference(Path(module.__file__))}
        functions = {name: getattr(module, name) for name in entries if inspect.isfunction(getattr(module, name))}
        for name, function in functions.items():
            told = {key.replace("return", "returns"): text.strip()
                    for key, text in docments(function, args_kwargs=True).items()
                    if text}
            assert entries[name].explained == told, name


def test_every_function_on_the_api_page_leads_to_the_cell_that_defines_it() -> None:
    for name, notebook in instrument().items():
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        tags = [tag for cell in map(site.without_directives, cells) for tag in cell["metadata"].get("tags", [])]
        assert {f"code-{entry.name}" for entry in site.reference(ROOT / f"sftrepro/{name}.py")} <= set(tags)


def test_no_page_refers_to_a_document_that_the_repository_does_not_have() -> None:
    for file in (*(ROOT / "nbs").glob("*.ipynb"), *(ROOT / "book").glob("*.md"), *ROOT.glob("*.md")):
        named = re.findall(r"\b([A-Z]{3,}) section \d", file.read_text(encoding="utf-8"))
        assert [name for name in named if not (ROOT / f"{name}.md").exists()] == [], file.name
