"""Figures: numbers always with their intervals, published points apart from ours, everything needed inside the page."""
import base64
import json
import re

import altair as alt
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftrepro import histograms, plots

ESTIMATES = pl.DataFrame(
    [
        {
            "benchmark": benchmark,
            "series": series,
            "step": step,
            "value": 20.0 + step,
            "low": 15.0 + step,
            "high": 26.0 + step,
            "seeds": 3,
            "items": 200,
        }
        for benchmark in ("arithmetic", "order")
        for series in ("Math-CoT", "Math-NoCoT")
        for step in (0, 5, 40)
    ]
)
PUBLISHED = pl.DataFrame({"benchmark": ["order"] * 3, "series": ["Qwen3-4B"] * 3, "step": [0, 10, 40],
                          "value": [14.6, 19.9, None], "confidence": ["B"] * 3})
finite = st.floats(-1e6, 1e6)


def layers(picture: plots.Picture, panel: int) -> list[dict]:
    return picture.panels[panel]["layer"]


def rows(picture: plots.Picture, panel: int) -> list[dict]:
    return picture.panels[panel]["datasets"]["rows"]


@given(finite, finite, finite)
def test_an_estimate_is_never_written_without_its_interval(value: float, low: float, high: float) -> None:
    text = plots.estimate(value, low, high)
    parts = re.fullmatch(r"([^ ]+) \[([^ ]+), ([^ ]+)\]", text).groups()
    back = [float(part.replace(",", "").replace("\N{MINUS SIGN}", "-")) for part in parts]
    assert back == pytest.approx([value, low, high], abs=0.0501)


def test_what_is_unknown_is_neither_zero_nor_blank() -> None:
    assert plots.estimate(None, 1.0, 2.0) == "unknown"
    assert "unknown" in plots.table(pl.DataFrame({"score": [None]}, schema={"score": pl.Float64}))
    assert len(rows(plots.trajectory(ESTIMATES, PUBLISHED, y="score (%)"), 1)) == 6 + 2


def test_each_benchmark_gets_a_panel_of_its_own() -> None:
    picture = plots.trajectory(ESTIMATES, y="score (%)", titles={"order": "Order (GPQA-Diamond)"})
    assert [panel["title"]["text"] for panel in picture.panels] == ["arithmetic", "Order (GPQA-Diamond)"]
    assert {row["benchmark"] for row in rows(picture, 0)} == {"arithmetic"}


def test_published_points_are_hollow_and_dashed_and_ours_are_not() -> None:
    picture = plots.trajectory(ESTIMATES, PUBLISHED, y="score (%)")
    ours, theirs = picture.legend[0], picture.legend[-1]
    assert (ours.hollow, theirs.hollow) == (False, True)
    encoding = layers(picture, 1)[-1]["encoding"]
    fills = dict(zip(encoding["fill"]["scale"]["domain"], encoding["fill"]["scale"]["range"], strict=True))
    assert fills["Qwen3-4B"] == plots.PAPER and fills["Math-CoT"] == ours.colour
    assert {row["note"] for row in rows(picture, 1)} == {"3 seeds, 200 items", "published, confidence B"}


def test_a_published_series_of_our_name_stays_apart_from_ours() -> None:
    same = PUBLISHED.with_columns(series=pl.lit("Math-CoT"))
    picture = plots.trajectory(ESTIMATES, same, y="score (%)")
    assert [key.label for key in picture.legend] == ["Math-CoT", "Math-NoCoT", "Math-CoT (published)"]
    drawn = pl.DataFrame(rows(picture, 1))
    assert drawn.filter(key="Math-CoT")["step"].to_list() == [0, 5, 40]
    assert drawn.filter(key="Math-CoT (published)")["step"].to_list() == [0, 10]


def test_a_published_line_does_not_cross_a_checkpoint_that_nobody_published() -> None:
    known = pl.DataFrame({"benchmark": "order", "series": "Math-CoT", "step": [0, 5, 40], "value": [1.0, 2.0, 3.0],
                          "confidence": "A"})
    for published, stretch in ((known, [0, 0, 0]), (known.filter(pl.col("step") != 5), [0, 1])):
        drawn = [row for row in rows(plots.trajectory(ESTIMATES, published, y="score (%)"), 1) if row.get("confidence")]
        assert [row["stretch"] for row in drawn] == stretch
    assert {row["stretch"] for row in rows(plots.trajectory(ESTIMATES, y="score (%)"), 1)} == {0}


@pytest.mark.parametrize(("with_intervals", "bands"), [(True, 2), (False, 0)])
def test_what_has_no_interval_gets_no_band(with_intervals: bool, bands: int) -> None:
    shown = ESTIMATES if with_intervals else ESTIMATES.with_columns(low=None, high=None)
    assert plots.drawing(plots.trajectory(shown, y="score (%)").panels[0]).count('opacity="0.16"') == bands


def test_published_points_can_be_drawn_alone() -> None:
    picture = plots.trajectory(ESTIMATES.clear(), PUBLISHED, y="score (%)")
    assert len(picture.panels) == 1 and "<svg" in plots.charts(picture)


@given(st.integers(1, 640), st.integers(0, 8))
def test_the_step_axis_shows_the_base_and_every_doubling(first: int, doublings: int) -> None:
    steps = [0, *(first * 2**i for i in range(doublings + 1))]
    axis = plots.step_axis([*steps, first * 3]).to_dict()
    assert axis["axis"]["values"] == steps


def test_points_give_every_series_a_row() -> None:
    picture = plots.points(ESTIMATES.filter(step=40), x="score (%)")
    assert {row["series"] for row in rows(picture, 0)} == {"Math-CoT", "Math-NoCoT"}
    assert "34.0 [" not in plots.charts(picture) and "60.0 [55.0, 66.0]" in plots.charts(picture)


def test_long_names_of_runs_leave_room_for_the_points() -> None:
    ends = ESTIMATES.filter(step=40, benchmark="order")
    long = ends.with_columns(series=pl.lit("B4302: RL from B4413, Micro-M, 640 rows, ") + pl.col("series"))
    for frame, shown in ((long, ["B4302", "B4302"]), (ends, ["Math-CoT", "Math-NoCoT"])):
        still = plots.drawing(plots.points(frame, x="score (%)").panels[0])
        assert [name for name in re.findall(r">([^<>]+)</text>", still) if name[0] in "BM"] == shown


def test_tables_show_numbers_on_the_right_and_escape_text() -> None:
    shown = plots.table(pl.DataFrame({"run": ["<b>R25</b>"], "score": [3.14159], "steps": [1280]}))
    assert "&lt;b&gt;R25&lt;/b&gt;" in shown
    assert re.search(r"sft-number'?\"?>3\.1<", shown) and re.search(r"sft-number'?\"?>1,280<", shown)


def test_wide_keeps_each_interval_in_its_cell() -> None:
    crossed = plots.wide(ESTIMATES.filter(step=5))
    assert crossed.columns == ["series", "arithmetic", "order"]
    assert crossed.filter(series="Math-CoT")["order"].item() == "25.0 [20.0, 31.0]"


def test_a_figure_carries_its_numbers_and_needs_no_other_file() -> None:
    shown = plots.figure(plots.trajectory(ESTIMATES, y="score (%)"), "A caption & more.", "micro", ESTIMATES, "scores")
    data = re.search(r'download="scores.csv" href="data:text/csv;base64,([^"]+)"', shown).group(1)
    assert pl.read_csv(base64.b64decode(data)).equals(ESTIMATES)
    assert "A caption &amp; more." in shown
    assert not re.search(r"""(src|href)=["']http""", shown)


def test_a_specification_cannot_end_its_script_element() -> None:
    hostile = ESTIMATES.with_columns(series=pl.lit("</script><script>alert(1)</script>"))
    shown = plots.charts(plots.trajectory(hostile, y="score (%)"))
    inside = re.findall(r'<script type="application/json">(.*?)</script>', shown)
    assert len(inside) == 2 and shown.count("<script") == 2
    assert all(json.loads(text)["layer"] for text in inside)


@pytest.mark.parametrize(
    "picture",
    [
        plots.trajectory(ESTIMATES, PUBLISHED, y="score (%)"),
        plots.trajectory(ESTIMATES, y="tokens"),
        plots.points(ESTIMATES.filter(step=0), PUBLISHED, x="score (%)"),
        plots.points(ESTIMATES.filter(step=0), x="score (%)"),
        histograms.histogram(
            histograms.bins(pl.DataFrame({"series": ["a", "a", "b"], "value": [1, 9, 4]}), 2), 2, "tokens"
        ),
    ],
)
def test_every_kind_of_figure_keeps_to_the_schema(picture: plots.Picture) -> None:
    for panel in picture.panels:
        assert alt.LayerChart.from_dict(panel).to_dict(validate=True)["layer"]


def test_the_still_drawing_follows_the_page_in_light_and_dark() -> None:
    drawn = plots.drawing(plots.trajectory(ESTIMATES, PUBLISHED, y="score (%)").panels[1])
    colours = set(re.findall(r'(?:fill|stroke)="([^"]+)"', drawn)) - {"none", "transparent"}
    assert colours and all(colour.startswith("var(--sft-") for colour in colours), colours


def test_provenance_counts_what_was_drawn() -> None:
    results = pl.DataFrame([
        {"profile": "micro", "run_name": "Micro-M_Math-CoT", "base": "Micro-M", "seed": seed, "step": step,
         "benchmark": benchmark, "item_id": f"{item}", "trials": 2}
        for seed in (1, 2) for step in (0, 320) for benchmark, items in (("order", 30), ("program", 20))
        for item in range(items)])
    line = plots.provenance(results)
    assert line.startswith("micro · 1 run x 2 seeds · 20 to 30 items x 2 trials · ")
    assert plots.provenance(results.filter(step=0)).startswith("micro · 1 base model · ")


def test_a_histogram_counts_every_value_once_and_answers_everywhere() -> None:
    values = pl.DataFrame({"series": ["a"] * 4 + ["b"], "value": [0, 7, 8, 31, 40]})
    shares = histograms.bins(values, 8)
    assert shares.filter(series="a")["share"].to_list() == [50, 25, 0, 25, 0, 0]
    assert shares.group_by("series").agg(pl.sum("share")).sort("series").rows() == [("a", 100), ("b", 100)]
    picture = histograms.histogram(shares, 8, "tokens")
    for panel in (0, 1):
        _, reach = layers(picture, panel)
        assert reach["encoding"]["x"]["scale"] == {"padding": 0} and "y" not in reach["encoding"]
        assert len(rows(picture, panel)) == 6


def test_the_second_figure_of_a_name_has_an_address_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(plots, "display", lambda content: shown.append(content.data))
    for name in ("twice-shown", "twice-shown", "shown-once"):
        plots.show("<table></table>", "A caption.", "micro", ESTIMATES, name)
    assert [re.search(r'id="figure-([^"]*)"', figure)[1] for figure in shown] == [
        "twice-shown",
        "twice-shown-2",
        "shown-once",
    ]
    assert 'download="twice-shown-2.csv"' in shown[1]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=6), st.sampled_from(["score (%)", "mean tokens"]))
def test_only_a_panel_of_shares_at_one_end_is_not_drawn(values: list[float], label: str) -> None:
    shown = pl.DataFrame({"benchmark": "order", "series": "run", "step": range(len(values)), "value": values,
                          "low": values, "high": values, "seeds": 3, "items": 200})
    picture = plots.trajectory(shown, y=label, titles={"order": "Order"})
    flat = label.endswith("(%)") and (max(values) < 2 or min(values) > 98)
    assert (len(picture.panels), picture.left_out != "") == (1 - flat, flat)


def test_a_figure_names_the_panels_that_are_not_drawn_and_why() -> None:
    floor = ESTIMATES.with_columns(benchmark=pl.lit("program"), value=0.5)
    picture = plots.points(pl.concat([ESTIMATES, floor]).filter(step=5), x="score (%)", titles={"program": "Programs"})
    line = "Not drawn, because every value is within 2 points of 0%: Programs."
    assert line == picture.left_out and f"<p>{line}</p>" in plots.figure(picture, "A caption.", "micro", floor, "ends")
    assert len(picture.panels) == 2
    alone = plots.figure(plots.trajectory(floor, y="score (%)"), "A caption.", "micro", floor, "scores")
    assert "sft-panel" not in alone and "sft-legend" not in alone and "0%: all panels." in alone


def test_a_panel_says_which_direction_is_better() -> None:
    picture = plots.trajectory(ESTIMATES, y="score (%)", better={"arithmetic": "higher"})
    assert [panel["title"]["subtitle"] for panel in picture.panels] == ["score (%), higher is better", "score (%)"]


def test_a_folded_figure_is_whole_behind_its_heading() -> None:
    whole = plots.figure("<table></table>", "A caption.", "micro", ESTIMATES, "parts")
    folded = plots.figure("<table></table>", "A caption.", "micro", ESTIMATES, "parts", fold="Parts")
    assert folded.startswith("<details") and f"<summary>Parts</summary>{whole}</details>" in folded


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ({"R25": [1, 2, 3], "R33": [1, 2, 3]}, "2 runs x 3 seeds"),
        ({"R25": [1]}, "1 run x 1 seed (first seed only)"),
        ({"R25": [4]}, "1 run x 1 seed"),
        ({"R25": [1, 2, 3], "R25-null": [1]}, "2 runs x 1 to 3 seeds (some: first seed only)"),
    ],
)
def test_provenance_says_where_only_the_first_seed_was_used(seeds: dict[str, list[int]], said: str) -> None:
    results = pl.DataFrame(
        [
            {"profile": "micro", "run_name": run, "seed": seed, "step": 5, "benchmark": "order", "item_id": "a",
             "trials": 1}
            for run, own in seeds.items()
            for seed in own
        ]
    )
    assert f"\N{MIDDLE DOT} {said} \N{MIDDLE DOT}" in plots.provenance(results)
