"""What chapter 43 says came out, against the committed results: each sentence with what it rests on."""
import re
from collections.abc import Callable
from functools import cache

import polars as pl
import pytest
from test_findings import RESULT, near, responses_in

from sftrepro.claims import Verdict, judge, sight
from sftrepro.contents import chapter_files, notebook_cells
from sftrepro.measurements import beyond
from sftrepro.profiles import load_profile
from sftrepro.robustness import robustness_table
from sftrepro.runs import run_specs
from sftrepro.spending import in_the_time_of, spent
from sftrepro.stats import Pair, contrasts

MICRO, BEYOND = load_profile("micro"), load_profile("micro-beyond")
RUNS = ["R25", "B4301", "B4413", "B4302", "B4412", "B4303", "B4304", "B4305", "R05", "B4306"]
PAIRS = [("B4301", "R25"), ("B4306", "R05"), ("B4301", "base"), ("B4306", "base"), ("B4302", "R25"),
         ("B4302", "B4301"), ("B4305", "B4302")]  # the chapter's table
OUT = "order knowledge program".split()


@cache
def rows(name: str) -> pl.DataFrame:
    "The results of all seeds of a run, or of a base."
    place = BEYOND if name[0] == "B" else MICRO
    ids = [spec.run_id for spec in run_specs(place, (name,)) if spec.paper_run == name] if name[0] in "BR" else [name]
    return responses_in(place, ids)


def at(name: str, benchmark: str, step: int | None = None, value: str = "score") -> float:
    "A mean over items and seeds (a score in percent), at the last step if none is named."
    part = rows(name).filter(benchmark=benchmark)
    mean = part.filter(step=part["step"].max() if step is None else step)[value].cast(pl.Float64).mean()
    return mean if value == "tokens" else 100 * mean


@cache
def results() -> pl.DataFrame:
    return beyond(MICRO, RUNS, [])


@cache
def verdict(claim: str) -> Verdict:
    return judge(claim, results(), MICRO, seen=sight(claim, MICRO))


def effect(claim: str, benchmark: str, comparison: str) -> tuple[float, float, float]:
    "An estimate and its interval, as the verdict's table has them."
    found = verdict(claim).comparisons.filter(benchmark=benchmark, name=comparison)
    return found.select("estimate", "low", "high").row(0)


@cache
def table() -> pl.DataFrame:
    "The differences at the last steps, as the chapter's table has them."
    last = dict(results().group_by("series").agg(pl.col("step").max()).iter_rows()) | {"base": 0}
    return contrasts(results(), [
        Pair(benchmark=name, name=f"{above} minus {below}", above=(above, last[above]),
             below=(above if below == "base" else below, last[below]))
        for name in results()["benchmark"].unique(maintain_order=True) for above, below in PAIRS])


def apart(benchmark: str, comparison: str) -> tuple[float, float, float]:
    return table().filter(benchmark=benchmark, name=comparison).select("estimate", "low", "high").row(0)


def operations(*runs: str, step: int | None = None, unit: str = "R25") -> float:
    "What a recipe takes as a percentage of a run, or its first run up to a step."
    cost = spent(MICRO, [unit, *runs])
    own = cost.filter(pl.col("run").is_in(runs), pl.col("step") == step if step else True)
    return 100 * own.group_by("run").agg(pl.col("operations").max())["operations"].sum() / cost.filter(
        run=unit)["operations"].max()


@cache
def without_a_seed(claim: str) -> str:
    table = robustness_table(claim, results(), MICRO)
    return table.filter(pl.col("condition").str.starts_with("without one"))["verdict"][0]


METHODS: list[tuple[str, Callable[[], bool]]] = [
    ("Reinforcement rises where finetuning falls", lambda: verdict("H43a").word == "reproduced"),
    ("for 87% of the operations, it takes arithmetic from 34% to 100%, over 49% and 85%",
     lambda: near((operations("B4301"), 87), (at("Micro-M", "arithmetic"), 34), (at("B4301", "arithmetic"), 100),
                  (at("B4301", "arithmetic", 20), 49), (at("B4301", "arithmetic", 40), 85))
     and set(rows("B4301")["step"]) == {20, 40, 80, 160}),
    ("Finetuning falls to 19% and ends at 53%",
     lambda: near((min(at("R25", "arithmetic", step) for step in rows("R25")["step"].unique()), 19),
                  (at("R25", "arithmetic"), 53))),
    ("reinforcement ends at 91% and finetuning at 8%, half of what the base has",
     lambda: near((at("B4301", "competition"), 91), (at("R25", "competition"), 8),
                  (at("Micro-M", "competition") / 2, 8))),
    ("with 18% of the operations of finetuning, reinforcement is above the end of finetuning by 32 points",
     lambda: near((operations("B4301", step=40), 18), (at("B4301", "arithmetic", 40) - at("R25", "arithmetic"), 32))),
    ("All five tests of H43a come out as stated", lambda: list(verdict("H43a").tests.values()) == ["shown"] * 5),
    ("without one of them not every test is met",
     lambda: without_a_seed("H43a") == "direction only or reproduced"),
    ("facts at 99% and 100%, order questions at 95% and 100%, programs at 67% and 62%",
     lambda: near(*((at(run, name), score) for name, scores in
                    {"knowledge": (99, 100), "order": (94.5, 100), "program": (67, 62)}.items()
                    for run, score in zip(("R25", "B4301"), scores, strict=True)))),
    ("they reach 96% with reinforcement and 78% with finetuning, 19 points less (7 to 30)",
     lambda: near((at("B4306", "order"), 96), (at("R05", "order"), 77.5),
                  *zip(apart("order", "B4306 minus R05"), (18.5, 7, 30), strict=True))),
    ("A quarter of each, twice, takes 93% of the operations and ends competition questions at 75% and programs at 68%",
     lambda: near((operations("B4412", "B4303", "B4304", "B4305"), 93), (at("B4305", "competition"), 75),
                  (at("B4305", "program"), 68))),
    ("That is 8 and 6 points below half of each, and both intervals hold zero",
     lambda: near(*((apart(name, "B4305 minus B4302")[0], points) for name, points in
                    (("competition", -8), ("program", -6))))
     and all(apart(name, "B4305 minus B4302")[2] > 0 for name in ("competition", "program"))),
    ("their responses are about as long, 64 and 59 tokens",
     lambda: near((at("R25", "arithmetic", value="tokens"), 64), (at("B4301", "arithmetic", value="tokens"), 59))),
    ("reaches 100% in arithmetic as well, on the analog of the 8B base, where the usual traces leave it at 33%",
     lambda: near((at("B4606", "arithmetic"), 100), (at("R05", "arithmetic"), 33))),
    ("on which finetuning loses on the 4B analog, fall with both: 82% at the base, 69% after finetuning, 73% after "
     "reinforcement",
     lambda: near((at("Micro-M", "statement"), 82), (at("R25", "statement"), 69), (at("B4301", "statement"), 73))),
    ("The difference of 4 points may be none (from -1 to +9 in the verdict), and one below seven could have been "
     "missed",
     lambda: near(*zip(effect("H43b", "statement", "B4301 minus R25"), (4, -1, 9), strict=True))
     and 7 < verdict("H43b").comparisons.filter(name="B4301 minus R25", benchmark="statement")["smallest"][0] < 7.5),
    ("Instructions and how-to stay within four points of the base with either",
     lambda: max(abs(at(run, name) - at("Micro-M", name)) for run in ("R25", "B4301")
                 for name in ("instruction", "how_to")) < 4),
    ("none of the requests is answered after reinforcement and 1% after finetuning",
     lambda: at("B4301", "forbidden") == 0 and near((at("R25", "forbidden"), 1))),
    ("It keeps the refusals that finetuning loses", lambda: verdict("H43b").tests["refusals"] == "shown"),
    ("answering 12% of the forbidden requests and reinforcement none of them, for 86% of the operations",
     lambda: near((at("R05", "forbidden"), 12), (operations("B4306", unit="R05"), 86))
     and at("B4306", "forbidden") == 0),
    ("The difference is 12 points (from 7 to 16 in the verdict)",
     lambda: near(*zip(effect("H43b", "forbidden", "R05 minus B4306"), (12, 7, 16), strict=True))),
    ("arithmetic ends above 99%, where the base has 47.5% and finetuning 33%",
     lambda: at("B4306", "arithmetic") > 99 and at("Micro-L", "arithmetic") == 47.5
     and near((at("R05", "arithmetic"), 33))),
    ("On the 8B analog statements and instructions stay within six points",
     lambda: max(abs(at(run, name) - at("Micro-L", name)) for run in ("R05", "B4306")
                 for name in ("statement", "instruction")) < 6),
    ("98% at the base and after finetuning, 94% after reinforcement, whose answers to it have become twice as long; "
     "the interval of that difference, from -11 to 3, holds zero",
     lambda: near(*zip(apart("how_to", "B4306 minus R05")[1:], (-11, 3), strict=True),
                  (at("Micro-L", "how_to"), 98), (at("R05", "how_to"), 98), (at("B4306", "how_to"), 94),
                  (at("B4306", "how_to", value="tokens") / at("Micro-L", "how_to", value="tokens"), 2.1))),
    ("Four epochs of finetuning leave arithmetic at 27%, and half of the reinforcement lifts it to 100%",
     lambda: near((at("B4413", "arithmetic"), 27), (at("B4302", "arithmetic"), 100))),
    ("ends at 83% against 91%; the difference of 8 points may be none (from -19 to +3)",
     lambda: near((at("B4302", "competition"), 83), (at("B4301", "competition"), 91),
                  *zip(effect("H43c", "competition", "B4302 minus B4301"), (-8, -19, 3), strict=True))),
    ("75% against 62%, though that interval holds zero too",
     lambda: near((at("B4302", "program"), 75), (at("B4301", "program"), 62))
     and effect("H43c", "program", "B4302 minus B4301")[1] < 0),
    ("H43c fails, with any two of the seeds as well",
     lambda: verdict("H43c").word == without_a_seed("H43c") == "not reproduced"),
    ("The mixture is far above finetuning alone, by 75 points on competition questions",
     lambda: near((effect("H43c", "competition", "B4302 minus R25")[0], 75))),
    ("here arithmetic had gained 15 points by then",
     lambda: near((at("B4301", "arithmetic", 20) - at("Micro-M", "arithmetic"), 15))),
    ("arithmetic, order questions and facts end at 100% after reinforcement",
     lambda: min(at("B4301", name) for name in ("arithmetic", "order", "knowledge")) > 99.5),
    ("more steps at that rate still raise arithmetic: to 82% after 2,560 small ones",
     lambda: near((at("B4102", "arithmetic", 2560), 82), (at("R25", "arithmetic"), 53))),
]


@pytest.mark.parametrize(("sentence", "holds"), METHODS, ids=[text for text, _ in METHODS])
def test_chapter_43_says_what_came_out(sentence: str, holds: Callable[[], bool]) -> None:
    assert sentence in chapter_files()["43_sft_against_rl"].read_text(encoding="utf-8")
    assert holds()


def test_an_earlier_checkpoint_of_reinforcement_fits_into_the_time_of_finetuning() -> None:
    assert in_the_time_of("B4301", "R25", spent(MICRO, ["R25", "B4301"])) == 80


def test_every_sentence_of_chapter_43_that_says_what_came_out_is_held() -> None:
    cells = [cell["source"] for cell in notebook_cells(chapter_files()["43_sft_against_rl"])
             if cell["cell_type"] == "markdown"]
    section = " ".join(cell for cell in cells if "## What we make of it" in cell).replace("\n", " ")
    said = [sentence for sentence in re.split(r"(?<=[.?!])\**\s+", section) if RESULT.search(sentence)]
    loose = [sentence for sentence in said if not any(text in sentence for text, _ in METHODS)]
    assert loose == [], "add each to METHODS with what it rests on"
