"""Pages to explore and the printed book: what they show is what was published, and they work without a network."""
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import altair as alt
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page, expect, sync_playwright

from sftrepro import plots, printing, site, stats, trace_browser, what_if
from sftrepro.item_results import read_gallery
from sftrepro.measurements import measured
from sftrepro.profiles import ROOT, RequestError, load_profile
from sftrepro.runs import run_specs

CHROMIUM = shutil.which("chromium")
browsing = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
MICRO = load_profile("micro")
RUNS = ["R25", "R33"]


@pytest.fixture(scope="module")
def results() -> pl.DataFrame:
    return measured(MICRO, RUNS, [])


@pytest.fixture(scope="module")
def traces(results: pl.DataFrame) -> dict:
    return trace_browser.trace_data(results, MICRO, "R33")


@pytest.fixture(scope="module")
def path(results: pl.DataFrame) -> pl.DataFrame:
    return what_if.rows_of(what_if.paths(what_if.measurements_by_rate(MICRO, RUNS, results), MICRO))


# The trace browser


def test_the_browser_shows_the_published_responses(traces: dict) -> None:
    run_id = next(spec.run_id for spec in run_specs(MICRO) if spec.paper_run == "R25")
    published = {(row["benchmark"], row["item_id"], row["step"]): row
                 for row in read_gallery(MICRO, ["Micro-M", run_id]).iter_rows(named=True)}
    run = next(run for run in traces["runs"] if run["id"] == "R25")
    compared = 0
    for asked, part in zip(traces["benchmarks"], run["benchmarks"], strict=True):
        assert len(part["items"]) == len(asked["questions"]) == MICRO.gallery
        for item in part["items"]:
            scores = [published[asked["name"], item["id"], step]["score"] for step in run["steps"]]
            assert item["scores"] == scores
            for step, score, tokens, _, cut, text in item["responses"]:
                row = published[asked["name"], item["id"], step]
                assert (score, tokens, cut, text) == tuple(row[name] for name in (
                    "score", "tokens", "truncated", "response"))
                compared += 1
    assert compared >= 3 * MICRO.gallery * len(traces["benchmarks"])


def test_nothing_forbidden_can_be_read(traces: dict) -> None:
    assert "forbidden" in MICRO.benchmarks
    shown = [asked["name"] for asked in traces["benchmarks"]]
    assert shown == [name for name in MICRO.benchmarks if name != "forbidden"]


@given(st.dictionaries(st.integers(1, 700), st.floats(0, 1), min_size=1))
def test_the_moments_are_base_lowest_half_way_and_end(means: dict[int, float]) -> None:
    moments = trace_browser.moments(means | {0: 0.5})
    steps = {name: moment.step for moment in moments for name in moment.name.split(", ")}
    assert list(steps.values()) == sorted(steps.values()) and set(steps) == {"base", "lowest", "half way", "end"}
    assert steps["base"] == 0 and steps["end"] == max(means) and means[steps["lowest"]] == min(means.values())
    assert all(abs(steps["half way"] - max(means) / 2) <= abs(step - max(means) / 2) for step in means)


def test_the_lowest_checkpoint_is_that_of_the_estimates(results: pl.DataFrame) -> None:
    estimates = stats.estimates(results.filter(series="R25", benchmark="arithmetic"))
    lowest = estimates.filter(pl.col("step") > 0).sort("value", "step")["step"][0]
    assert [moment.step for moment in trace_browser.moments_of(results, "R25", "arithmetic")
            if "lowest" in moment.name] == [lowest]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


def opened(browser: Browser, folder: Path, body: str, address: str = "", width: int = 1280) -> Page:
    "A page with the book's scripts, from a disk and without a network; a request or an error fails the test."
    (folder / "nbs").mkdir(exist_ok=True)
    shutil.copytree(ROOT / "book/_static", folder / "_static", dirs_exist_ok=True)
    (folder / "_static/vega.js").write_text(site.bundle(), encoding="utf-8")
    head = ('<meta charset="utf-8"><script>DOCUMENTATION_OPTIONS = {}</script>'
            '<link rel="stylesheet" href="../_static/book.css"><script src="../_static/book.js"></script>')
    file = folder / "nbs/page.html"
    file.write_text(f'<html data-theme="light"><head>{head}</head><body class="bd-article">{body}</body></html>',
                    encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
    page = context.new_page()
    page.set_default_timeout(20_000)
    faults = page.faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: faults.append(request.url) if not request.url.startswith("file:") else None)
    page.goto(file.as_uri() + address)
    return page


@browsing
def test_an_address_opens_the_responses_it_names_and_follows_the_choice(
        browser: Browser, tmp_path: Path, traces: dict) -> None:
    page = opened(browser, tmp_path, trace_browser.trace_browser(traces), "#run=R33&benchmark=order&item=4&marks=base")
    place = [asked["name"] for asked in traces["benchmarks"]].index("order")
    part = next(run for run in traces["runs"] if run["id"] == "R33")["benchmarks"][place]
    columns = page.locator(".sft-moment")
    expect(columns).to_have_count(len(part["moments"]))
    for i, (step, _, tokens, seen, _, text) in enumerate(part["items"][3]["responses"]):
        shown = columns.nth(i)
        assert f"step {step}" in shown.inner_text() and f"{tokens} tokens" in shown.inner_text()
        assert shown.locator(".sft-seen code").text_content() == seen
        assert shown.locator(".sft-text").text_content().split() == text.split()
    page.get_by_label("Run", exact=True).select_option("R25")
    page.get_by_role("button", name="Next item").press("Enter")
    assert page.evaluate("location.hash") == "#run=R25&benchmark=order&item=5&marks=base"
    assert traces["benchmarks"][place]["questions"][4][0] in page.locator(".sft-question").inner_text()
    page.goto(page.url.split("#")[0] + "#run=R99&benchmark=order&item=400")
    expect(page.locator(".sft-moment").first).to_be_visible()
    assert page.faults == []


@browsing
def test_without_an_address_the_run_of_the_chapter_is_open(
        browser: Browser, tmp_path: Path, traces: dict, results: pl.DataFrame) -> None:
    page = opened(browser, tmp_path, trace_browser.trace_browser(traces), "")
    assert page.get_by_label("Run", exact=True).input_value() == traces["opens"] == "R33"
    assert trace_browser.trace_data(results, MICRO, "R99")["opens"] == "R25"


@browsing
def test_marked_words_are_those_that_the_other_response_lacks(browser: Browser, tmp_path: Path, traces: dict) -> None:
    data = json.loads(json.dumps(traces))
    for response, text in zip(data["runs"][0]["benchmarks"][0]["items"][0]["responses"],
                              ["<think>\n2+3=5 so\n</think>\n\nIt is 5.",
                               "<think>\n2+3=6 so\n</think>\n\nIt is now 6."], strict=False):
        response[5] = text
    page = opened(browser, tmp_path, trace_browser.trace_browser(data), "#run=R25&item=1")
    assert page.locator(".sft-moment").nth(1).locator("mark").all_text_contents() == ["2+3=6", "now 6."]
    assert page.locator(".sft-moment").nth(0).locator("mark").count() == 0


@browsing
@pytest.mark.parametrize("what", ["traces", "what-if"])
def test_a_telephone_stacks_what_a_desk_has_side_by_side(
        browser: Browser, tmp_path: Path, traces: dict, path: pl.DataFrame, what: str) -> None:
    body = trace_browser.trace_browser(traces) if what == "traces" else what_if.controls(path, MICRO) + plots.figure(
        what_if.plane(path, MICRO), "A caption.", "from here", path.head(1), "what-if")
    page = opened(browser, tmp_path, body, width=390)
    parts = page.locator(".sft-moment" if what == "traces" else ".sft-field")
    expect(parts.first).to_be_visible()
    assert len({round(part.bounding_box()["x"]) for part in parts.all()}) == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for field in page.locator(".sft-live select, .sft-live button, form select, form input").all():
        assert field.bounding_box()["height"] >= 40
        assert field.evaluate("field => (field.labels?.[0] ?? field).textContent").strip()


def test_without_scripts_a_question_stands_there(traces: dict) -> None:
    still = trace_browser.still_traces(traces)
    assert traces["benchmarks"][0]["questions"][0][0] in still and still.count("<dd>") >= 4


# The what-if figure


def test_a_benchmark_without_scores_is_left_out_of_both(results: pl.DataFrame) -> None:
    rest = results.filter(pl.col("benchmark") != "how_to")
    assert set(trace_browser.shown_benchmarks(results, MICRO)) - {"how_to"} == set(
        trace_browser.shown_benchmarks(rest, MICRO))
    path = what_if.positions(rest, "R25", MICRO)
    assert "how_to" not in set(path["benchmark"]) and "statement" in set(path["benchmark"])


def test_a_point_is_the_library_s_estimate(results: pl.DataFrame) -> None:
    path = what_if.positions(results, "R25", MICRO)
    inside, others = what_if.axes(MICRO)
    gains = stats.contrasts(results, [stats.Pair(benchmark=benchmark, name="gain", above=("R25", 320), below=("R25", 0))
                                      for benchmark in (inside, *others)])
    for benchmark, value, low, high in gains.select("benchmark", "estimate", "low", "high").iter_rows():
        axis = "x" if benchmark == inside else "y"
        rows = path.filter(step=320) if benchmark == inside else path.filter(step=320, benchmark=benchmark)
        assert rows[axis].to_list() == pytest.approx([value] * len(rows))
        assert (rows[f"{axis}_low"] <= low + 1e-9).all() and (rows[f"{axis}_high"] >= high - 1e-9).all(), (
            "the interval of the whole run is the wider one")


def test_every_rate_that_was_published_is_there(path: pl.DataFrame) -> None:
    rates = sorted(path.filter(run="R25")["rate"].unique())
    assert rates == pytest.approx([5e-5 / 3, 5e-5, 15e-5], rel=1e-4)
    assert (path.filter(step=0).select("x", "y") == 0).to_numpy().all()


def test_the_plane_is_valid_vega_lite(path: pl.DataFrame) -> None:
    alt.Chart.from_dict(what_if.plane(path, MICRO).panels[0], validate=True)


@browsing
def test_the_sliders_move_the_point_and_the_sentence_says_its_numbers(
        browser: Browser, tmp_path: Path, path: pl.DataFrame) -> None:
    figure = plots.figure(what_if.plane(path, MICRO), "A caption.", "from here", path.head(1), "what-if")
    page = opened(browser, tmp_path, what_if.controls(path, MICRO) + figure, "#run=R33&benchmark=order&step=40")
    page.locator(".vega-embed svg").wait_for()

    def says(run: str, step: int, rate: float) -> str:
        near = (pl.col("rate") - rate).abs() < 1e-7
        row = path.filter(near, run=run, benchmark="order", step=step).row(0, named=True)
        expect(page.get_by_role("status")).to_contain_text(row["x_text"])
        expect(page.get_by_role("status")).to_contain_text(f"{row['y_text']} points.")
        expect(page.locator(".vega-embed svg text", has_text=re.compile(rf"^{step}$")).last).to_be_visible()
        return page.locator(".vega-embed svg g.mark-symbol path").last.get_attribute("transform")

    first = says("R33", 40, 5e-5)
    page.get_by_role("slider", name="Step").press("ArrowRight")
    second = says("R33", 80, 5e-5)
    page.get_by_role("slider", name="Learning rate").press("ArrowRight")
    third = says("R33", 80, 15e-5)
    assert len({first, second, third}) == 3
    assert "step=80" in page.url and page.get_by_role("slider", name="Step").get_attribute("aria-valuetext") == "80"
    assert page.faults == []


# The printed book


TOC = {"root": "book/index", "parts": [{"caption": "Results & records", "chapters": [
    {"file": "nbs/21_first"}, {"file": "nbs/22_second"}]}]}
CHART = ('<div class="sft-panel"><script type="application/json">{"a": "<"}</script><div class="sft-still">'
         '<svg viewBox="0 0 9 9"><clipPath id="clip0"><rect width="9" height="9"/></clipPath>'
         '<path d="M0,0H9" clip-path="url(#clip0)" stroke="var(--sft-1, #2a6bb0)"/></svg></div></div>')
BODIES = {
    "book/index": "<h1>The book</h1><p>See <a href='../nbs/22_second.html#the-end'>the end</a>.</p>",
    "nbs/21_first": f"<h1 id='top'>21 · First<a class='headerlink' href='#top'>#</a></h1>{CHART}{CHART}"
                    "<details><summary>Answer</summary><p>Forty-two</p></details><button>Copy</button>",
    "nbs/22_second": "<h1>22 · Second</h1><p>A <a href='data:text/csv,1' download='x'>file</a>, "
                     "<a href='https://arxiv.org/abs/2604.06628'>a paper</a></p><h2 id='the-end'>The end</h2>"
                     "<pre>a control\x1bcharacter &amp; an ampersand, epub:type=\"toc\"</pre>"
                     "<div role='doc-biblioentry'>a book</div><div class='sft-traces alive'>"
                     "<div class='sft-still'>a still question</div><div class='sft-live'><select></select></div></div>"}


@pytest.fixture(scope="module")
def small_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    for entry, body in BODIES.items():
        (folder / entry).parent.mkdir(exist_ok=True)
        (folder / f"{entry}.html").write_text(f"<!DOCTYPE html><meta charset='utf-8'><article>{body}</article>",
                                              encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def articles(small_site: Path) -> list[printing.Article]:
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium")
    return apart(printing.articles_of, small_site, TOC)


def apart(function: Callable, *arguments: object) -> object:
    "Call something that starts a browser, while the browser of the other tests runs: in a thread of its own."
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()


def test_an_epub_is_valid_xhtml_that_needs_no_script(articles: list[printing.Article], tmp_path: Path) -> None:
    printing.write_epub(articles, TOC, tmp_path / "book.epub")
    with zipfile.ZipFile(tmp_path / "book.epub") as archive:
        first = archive.infolist()[0]
        assert (first.filename, first.compress_type, archive.read(first)) == ("mimetype", 0, b"application/epub+zip")
        texts = {name: archive.read(name).decode() for name in archive.namelist()[1:]}
    trees = {name: ElementTree.fromstring(text) for name, text in texts.items() if not name.endswith(".css")}
    listed = [item.get("href") for item in trees["book/content.opf"].iter() if item.tag.endswith("}item")]
    assert sorted(f"book/{name}" for name in listed) == sorted(name for name in texts if name.startswith("book/")
                                                                and not name.endswith(".opf"))
    contents = [item for item in trees["book/content.opf"].iter() if "nav" in item.get("properties", "")]
    assert [item.get("href") for item in contents] == ["nav.xhtml"]
    for name, tree in trees.items():
        assert "doc-biblioentry" not in texts[name]
        tags = {printing.local(element) for element in tree.iter()}
        assert not tags & {"script", "button", "select", "details"}, name
        ids = [element.get("id") for element in tree.iter() if element.get("id")]
        assert len(ids) == len(set(ids)), name
        for link in (element.get("href") for element in tree.iter() if printing.local(element) == "a"):
            file, _, place = (link or "").partition("#")
            if file.endswith(".xhtml"):
                assert not place or f'id="{place}"' in texts[f"book/{file}"]
    assert "22_second.xhtml#22_second.the-end" in texts["book/index.xhtml"]
    assert "Forty-two" in texts["book/21_first.xhtml"] and "#2a6bb0" in texts["book/21_first.xhtml"]
    assert "a still question" in texts["book/22_second.xhtml"] and "var(" not in texts["book/21_first.xhtml"]


def test_a_pdf_has_all_pages_an_outline_by_parts_and_links_inside(
        articles: list[printing.Article], tmp_path: Path) -> None:
    pikepdf = pytest.importorskip("pikepdf")
    out = tmp_path / "book.pdf"
    apart(printing.write_pdf, articles, TOC, out)
    with pikepdf.open(out) as book, book.open_outline() as outline:
        parts = {part.title: [chapter.title for chapter in part.children] for part in outline.root}
        kinds = [str(link.A.S) if "/A" in link else "/GoTo" for page in book.pages for link in page.get("/Annots", [])]
        assert len(book.pages) == 6  # title, contents, three pages and one for the part
        numbers = {page.objgen: number for number, page in enumerate(book.pages, 1)}
        leads = [numbers[book.Root.Dests[link.A.D if "/A" in link else link.Dest][0].objgen]
                 for link in book.pages[1].get("/Annots", [])]
    assert parts["Results & records"] == ["21 · First", "22 · Second"]
    assert kinds.count("/URI") == 1 and len(kinds) >= 4
    assert [file.name for file in tmp_path.iterdir()] == ["book.pdf"]
    if shutil.which("pdftotext"):
        text = subprocess.run(["pdftotext", str(out), "-"], capture_output=True, text=True, check=True).stdout
        listed = re.findall(r"^\d+$", text.split("\f")[1], re.MULTILINE)
        assert sorted(listed) == sorted([*map(str, leads), "2"]) == ["2", "3", "5", "6"]
        assert "Forty-two" in text and "a still question" in text and "Copy" not in text


def test_a_site_that_lacks_a_page_is_not_printed(small_site: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="has no page nbs/23_missing.html. Render the book: make book"):
        printing.articles_of(small_site, TOC | {"root": "nbs/23_missing"})
