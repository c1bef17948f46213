"""What chapter 42 says came out of the worlds, against the committed results: each sentence with its numbers."""

import re
from collections.abc import Callable
from functools import cache

import polars as pl
import pytest
from test_findings import RESULT, near

from sftrepro import worlds
from sftrepro.claims import judge
from sftrepro.contents import chapter_files, notebook_cells
from sftrepro.controls import control_rows, failure
from sftrepro.measurements import measured, responses
from sftrepro.profiles import load_profile
from sftrepro.stats import Pair, contrasts
from sftrepro.worlds import POOL, WAYS

MICRO = load_profile("micro")
HERE = "R25"
NONE, RARE, COMMON, VOICES = (f"world-{name}/R25" for name in ("thinking-0", "thinking-6", "thinking-36", "voices"))
STYLE, NEVER, ALWAYS = (f"world-{name}/R25" for name in ("style-1", "moves-0", "moves-1"))
REFUSED, ANSWERED = (f"world-forbidden-{name}/R25" for name in ("refused", "answered"))
OWN, FOREIGN = (f"world-words-{name}/R25" for name in ("own", "foreign"))


@cache
def results() -> pl.DataFrame:
    return worlds.measured_worlds(MICRO, ["R25"], [])


def at(series: str, benchmark: str, step: int = 320, value: str = "score") -> float:
    own = results().filter(series=series, benchmark=benchmark, step=step)
    return own[value].mean() * (1 if value == "tokens" else 100)


@cache
def outcome(series: str, name: str) -> tuple[float, ...]:
    "An outcome of a world with its interval: gain, fall or lost."
    row = worlds.outcomes(results(), series).filter(benchmark=worlds.OUTCOMES[name])
    return row.select("value", "low", "high").row(0)


def says(found: tuple[float, ...], *printed: float) -> bool:
    "Are a value and, if three numbers are printed, its interval rounded to them?"
    return near(*zip(found, printed, strict=False)) and len(printed) in (1, 3)


@cache
def ways() -> dict[tuple[str, str], dict[str, float]]:
    "The three scores of each series and benchmark out of domain, and of the pool."
    names = {said: series for series, said in worlds.world_names(results(), MICRO, "R25").items()}
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in worlds.ceilings(results(), MICRO, "R25").iter_rows(named=True):
        found.setdefault((names[row["series"]], row["benchmark"]), {})[row["way"]] = row["value"]
    return found


def made_to_think(series: str, benchmark: str = POOL) -> float:
    return ways()[series, benchmark][WAYS[1]]


@cache
def comparison(id: str, name: str, benchmark: str) -> tuple[float, ...]:
    rows = judge(id, results(), MICRO).comparisons.filter(test=name, benchmark=benchmark)
    return rows.select("estimate", "low", "high").row(0)


@cache
def at_the_end(benchmark: str) -> tuple[float, ...]:
    "The base's own words against mixed ones, in one family with the other two comparisons."
    pairs = ((OWN, HERE), (OWN, FOREIGN), (HERE, FOREIGN))
    asked = [Pair(benchmark=benchmark, name=f"{x} {y}", above=(x, 320), below=(y, 320)) for x, y in pairs]
    return contrasts(results(), asked).select("estimate", "low", "high").row(0)


@cache
def thoughts(world: str) -> pl.DataFrame:
    "Of forbidden requests, by step and by whether the response thinks: how many there are, refused and answered."
    rows = responses(load_profile(world), ["R25"], ["forbidden"]).with_columns(thinks=pl.col("tokens") > 20)
    rows = rows.group_by("step", "thinks").agg(
        pl.len().alias("n"), (100 * (pl.col("answer") == "1").mean()).alias("refused"),
        (100 * pl.col("score").mean()).alias("answered"))
    return rows.with_columns(share=100 * pl.col("n") / pl.col("n").sum().over("step"))


def thought(world: str, step: int, column: str, thinks: bool = True) -> float:
    return thoughts(world).filter(step=step, thinks=thinks)[column][0]


def share_that_thinks(world: str, benchmark: str) -> float:
    rows = responses(load_profile(world), ["R25"], [benchmark]).filter(step=0)
    return 100 * (rows["tokens"] > 20).mean()


@cache
def own_answers(world: str, benchmark: str) -> tuple[float, ...]:
    "What finetuning on a base's own answers costs."
    rows = control_rows(load_profile(world), "null", "Micro-M").filter(benchmark=benchmark)
    return rows.select("estimate", "low", "high").row(0)


def above_the_ceiling() -> float:
    return max(way[WAYS[2]] - max(way[WAYS[0]], way[WAYS[1]]) for (_, name), way in ways().items() if name != POOL)


def facts_are_near_the_ceiling() -> bool:
    pairs = [way for (series, name), way in ways().items() if name == "knowledge" and series != NONE]
    forced = [way[WAYS[1]] for way in pairs]
    return (len(pairs) == 11 and all(abs(way[WAYS[2]] - way[WAYS[1]]) <= 8.01 for way in pairs)
            and near((min(forced), 28), (max(forced), 100)))


def programs() -> bool:
    pairs = [way for (series, name), way in ways().items() if name == "program" and series != NONE]
    ends = [way[WAYS[2]] for way in pairs]
    return min(way[WAYS[1]] for way in pairs) >= 98 and near((min(ends), 26), (max(ends), 91))


HELD: list[tuple[str, Callable[[], bool]]] = [
    ("the run gains nothing on them: $-3$ points, with an interval from $-7$ to 0",
     lambda: says(outcome(NONE, "gain"), -3, -7, 0)),
    ("Where 19% of the documents think it gains 47, where 36% do 37, and there it ends highest, at 96%",
     lambda: says(outcome(HERE, "gain"), 47) and says(outcome(COMMON, "gain"), 37)
     and near((ways()[COMMON, POOL][WAYS[2]], 96))
     and max((way[WAYS[2]], series) for (series, name), way in ways().items() if name == POOL)[1] == COMMON),
    ("lifts them from 56% to 98%", lambda: near((at(NONE, "myth", 0), 56.5), (at(NONE, "myth"), 98))),
    ("it answers order questions in 10 tokens, as before",
     lambda: near((at(NONE, "order", 0, "tokens"), 10), (at(NONE, "order", value="tokens"), 10))),
    ("does the run end more than 2 points above the better of its base's two scores",
     lambda: len(ways()) == 48 and above_the_ceiling() <= 2.01),
    ("On facts it ends within 8 points of the base made to think in all eleven worlds where the base has such "
     "thoughts, whether that score is 28% or 100%", facts_are_near_the_ceiling),
    ("solves 98% of the programs when it is made to think, and the finetuned models end between 26% and 91%",
     programs),
    ("Its base, made to think, solves 58% of these tasks and not 100%, and the run gains 7 points and not 47",
     lambda: near((made_to_think(REFUSED), 58), (made_to_think(HERE), 100)) and says(outcome(REFUSED, "gain"), 7)),
    ("On arithmetic it falls by 27 points, and in the world of answering thoughts, which has the same documents about "
     "mathematics, by 0", lambda: says(outcome(REFUSED, "fall"), 27) and says(outcome(ANSWERED, "fall"), 0)),
    ("its base is right in 1.5% of the thoughts that are forced on it, and no other base in fewer than 57%",
     lambda: abs(made_to_think(NONE) - 1.5) < 0.05
     and min(made_to_think(series) for series, name in ways() if name == POOL and series != NONE) > 57),
    ("Nothing does for the gain of 15 points where the base has read all of the teacher's moves, nor for the missing "
     "gain at 6%", lambda: says(outcome(ALWAYS, "gain"), 15) and outcome(RARE, "gain")[2] < 2
     and near((made_to_think(RARE), 62), (made_to_think(ALWAYS), 60))),
    ("With the base's own words arithmetic never falls and ends at 95%",
     lambda: outcome(OWN, "fall")[0] < 0 and near((at(OWN, "arithmetic"), 95))),
    ("With half of them foreign it falls by 15 points and ends at 53%",
     lambda: says(outcome(HERE, "fall"), 15) and near((at(HERE, "arithmetic"), 53))),
    ("With foreign words it falls by 22 points and stays there, at 16%",
     lambda: says(outcome(FOREIGN, "fall"), 22) and near((at(FOREIGN, "arithmetic"), 16))),
    ("Own against mixed words are 42 points at the end (31 to 54), on competition questions 56",
     lambda: near(*zip(at_the_end("arithmetic"), (42.5, 31, 54), strict=True))
     and near((at_the_end("competition")[0], 56))),
    ("the run gains 47, 47 and 37 points",
     lambda: all(says(outcome(series, "gain"), said) for series, said in ((OWN, 47), (HERE, 47), (FOREIGN, 37)))),
    ("how-to falls from 97% to 71%",
     lambda: near((at(FOREIGN, "how_to", 0), 97), (at(FOREIGN, "how_to"), 71)) and at(OWN, "how_to") > 95),
    ("is 4 points better off than the one that has read none, with an interval from $-5$ to 13",
     lambda: says(comparison("H42b", "known moves against unknown", "arithmetic"), 4, -5, 13)),
    ("the hypothesis as a whole fails, although all that it says about words is shown",
     lambda: list(judge("H42b", results(), MICRO).tests.values()) == ["shown", "shown", "absent"]),
    ("Where the base has read thoughts that answer, 32 points of refusals are lost (23 to 41); where they refuse, 10 "
     "(6 to 14); where there are none, 1",
     lambda: says(outcome(ANSWERED, "lost"), 32, 23, 41) and says(outcome(REFUSED, "lost"), 10, 6, 14)
     and says(outcome(HERE, "lost"), 1)),
    ("the model thinks about 56% of the requests instead of 22%, and 98% of these thoughts answer; what it answers at "
     "once it still refuses",
     lambda: near(*((thought("world-forbidden-answered", step, name), said) for step, name, said in
                    ((320, "share", 56), (0, "share", 22.5), (320, "answered", 98))))
     and thought("world-forbidden-answered", 320, "refused", thinks=False) > 97),
    ("finetuning on the base's own answers costs 12 points there by itself (4 to 20), so the control fails",
     lambda: says(own_answers("world-forbidden-answered", "forbidden"), 12, 4, 20)
     and bool(failure(load_profile("world-forbidden-answered"), "null", "Micro-M"))),
    ("Its second half would have failed anyway: refusing thoughts do not keep all refusals",
     lambda: judge("H42c", results(), MICRO).tests["thoughts that refuse keep them"] == "absent"),
    ("They refuse 98% before finetuning and 83% after it",
     lambda: near((thought("world-forbidden-refused", 0, "refused"), 98),
                  (thought("world-forbidden-refused", 320, "refused"), 83))),
    ("It lies at the dose of 0%", lambda: made_to_think(NONE) < ways()[NONE, POOL][WAYS[0]]),
    ("the run gains 49 points (44 to 53)", lambda: says(outcome(VOICES, "gain"), 49, 44, 53)),
    ("One way to ask does little: 40 (36 to 45), and it ends at 86% against 87%",
     lambda: says(outcome(STYLE, "gain"), 40, 36, 45)
     and near((ways()[STYLE, POOL][WAYS[2]], 86), (ways()[HERE, POOL][WAYS[2]], 87))),
    ("because the base's own answers cost 13 points", lambda: says(own_answers("world-style-1", "arithmetic"), 13)),
    ("That score was the most that traces about something else brought, on twelve worlds and ten bases",
     lambda: above_the_ceiling() <= 2.01 and len(worlds.worlds_of(MICRO)) == 12
     and len({world.bases_dir for world in worlds.worlds_of(MICRO)}) == 10),
    ("on the same base this was the difference between 95%, 53% and 16%",
     lambda: near(*((at(series, "arithmetic"), said) for series, said in ((OWN, 95), (HERE, 53), (FOREIGN, 16))))),
]
ELSEWHERE_ON_THE_PAGE: list[tuple[str, Callable[[], bool]]] = [
    ("whenever it happens to think: with 24% of the requests", lambda: near((at(ANSWERED, "forbidden", 0), 24.5))),
    ("Three of them solve no more questions about facts by thinking than by answering at once",
     lambda: sum(way[WAYS[1]] <= way[WAYS[0]] for (series, name), way in ways().items()
                 if name == "knowledge" and series != NONE) == 3),
    ("gains 44 points on order questions. The one that has read it in 19% gains 60",
     lambda: near((at(COMMON, "order") - at(COMMON, "order", 0), 44), (at(HERE, "order") - at(HERE, "order", 0), 60))),
    ("thinks before 40% of its answers, so it starts at 55% and not at 34%, and it ends at 99% and not at 94%",
     lambda: near((share_that_thinks("world-thinking-36", "order"), 40), (at(COMMON, "order", 0), 55),
                  (at(HERE, "order", 0), 34.5), (at(COMMON, "order"), 99), (at(HERE, "order"), 94.5))),
    ("two bases with the same reading out of domain differ here by 40 points of gain",
     lambda: near((outcome(ANSWERED, "gain")[0] - outcome(REFUSED, "gain")[0], 40))),
    ("that it has not read, arithmetic fell on the way where it would have risen",
     lambda: near(*((at(series, "arithmetic", 80), said) for series, said in ((OWN, 77), (HERE, 19))),
                  (at(OWN, "arithmetic", 0), 34))),
    ("the same finetuning loses 32 points of refusals", lambda: says(outcome(ANSWERED, "lost"), 32)),
]
PAGE = chapter_files()["42_where_transfer_comes_from"]


@pytest.mark.parametrize(("sentence", "holds"), HELD + ELSEWHERE_ON_THE_PAGE,
                         ids=[text[:60] for text, _ in HELD + ELSEWHERE_ON_THE_PAGE])
def test_the_chapter_says_what_came_out(sentence: str, holds: Callable[[], bool]) -> None:
    assert sentence in PAGE.read_text(encoding="utf-8")
    assert holds()


def test_every_sentence_of_the_chapter_that_says_what_came_out_is_held() -> None:
    cells = [cell["source"] for cell in notebook_cells(PAGE) if "## What we make of it" in cell["source"]]
    section = cells[0].split("## What we make of it")[1].split("\n## ")[0]
    sentences = re.split(r"(?<=[.?!])\**\s+", section.replace("\n", " "))
    held = [part for text, _ in HELD for part in text.split(". ")]
    loose = [said for said in sentences if RESULT.search(said) and not any(part in said for part in held)]
    assert loose == [], "add each to HELD with what it rests on"


def test_the_three_scores_of_a_world_are_those_of_its_base_and_its_run() -> None:
    way = ways()["world-voices/R25", "order"]
    base = measured(load_profile("world-voices"), ["Micro-M", "Micro-M+think"], ["order"])
    means = {name: 100 * mean for name, mean in base.group_by("series").agg(pl.col("score").mean()).iter_rows()}
    assert way[WAYS[0]] == pytest.approx(means["Micro-M"]) and way[WAYS[1]] == pytest.approx(means["Micro-M+think"])
    assert way[WAYS[2]] == pytest.approx(at(VOICES, "order"))


def test_the_picture_of_the_ceilings_has_a_panel_for_each_benchmark_and_a_point_for_each_world() -> None:
    rows = worlds.ceilings(results(), MICRO, "R25").filter(pl.col("benchmark") != POOL)
    panels = worlds.ceiling_picture(rows, {"order": "Order"}).panels
    assert [panel["title"]["text"] for panel in panels] == ["program", "Order", "knowledge"]
    assert all(len(panel["datasets"]["rows"]) == 12 for panel in panels)


def test_a_profile_whose_base_was_never_made_to_think_has_no_ceilings() -> None:
    greedy = results().filter(series="R25").head(0)
    assert worlds.ceilings(greedy, MICRO, "R25").is_empty()
