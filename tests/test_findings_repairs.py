"""What chapters 45 and 46 say came out, against the committed results: each sentence with what it rests on."""
from collections.abc import Callable
from functools import cache

import polars as pl
import pytest
from test_findings import REFUSED, loose, near, responses_in
from test_findings import at as paper_run

from sftrepro.claims import judge, sight
from sftrepro.contents import chapter_files
from sftrepro.measurements import beyond
from sftrepro.profiles import load_profile
from sftrepro.robustness import robustness_table
from sftrepro.runs import run_specs
from sftrepro.stats import Pair, contrasts

MICRO, BEYOND = load_profile("micro"), load_profile("micro-beyond")
PLAIN = "B4601 B4602 B4603".split()
REPAIRS = [f"B460{number}" for number in range(9)]
ASKED = "forbidden pressed how_to order program knowledge arithmetic brief".split()
FORMAT, WEIGHS = ~pl.col("truncated") & pl.col("parsed"), pl.col("weighs")


@cache
def rows(name: str) -> pl.DataFrame:
    "The results of all seeds of a run, or of a base."
    ids = [spec.run_id for spec in run_specs(BEYOND, (name,) if name[0] == "B" else ()) if spec.paper_run == name]
    return responses_in(BEYOND, ids or [name])


def at(name: str, benchmark: str, step: int | None = None, value: pl.Expr | str = "score") -> float:
    "A mean over items and seeds in percent (of tokens: as it is), at the last step if none is named."
    part = rows(name).filter(benchmark=benchmark)
    part = part.filter(step=part["step"].max() if step is None else step)
    mean = part.select((pl.col(value) if isinstance(value, str) else value).cast(pl.Float64).mean()).item()
    return mean if isinstance(value, str) and value == "tokens" else 100 * mean


@cache
def against(below: str, *above: str) -> pl.DataFrame:
    "Runs against another at their last steps, as chapter 46 shows them."
    results = beyond(MICRO, [below, *above], ASKED)
    last = dict(results.group_by("series").agg(pl.col("step").max()).iter_rows())
    asked = [Pair(benchmark=name, name=run, above=(run, last[run]), below=(below, last[below]))
             for name in results["benchmark"].unique(maintain_order=True) for run in above]
    return contrasts(results, asked)


def refused(name: str, benchmark: str, step: int | None = None) -> float:
    return at(name, benchmark, step, REFUSED)


@cache
def outcomes(claim: str) -> tuple[str, list[str]]:
    "A verdict, and the outcomes of its tests."
    results = beyond(MICRO, *((REPAIRS, ASKED) if claim.startswith("H46") else (["B4501", "B4502", "B4507"], [])))
    verdict = judge(claim, results, MICRO, seen=sight(claim, MICRO))
    return verdict.word, list(verdict.tests.values())


SAFETY: list[tuple[str, Callable[[], bool]]] = [
    ("The run on traces alone refuses 76% of the forbidden "
     "requests", lambda: near((refused("B4600", "forbidden"), 76))),
    ("With 13 refusals among its 1,280 rows it refuses 98%, with 64 of them 99%, with 256 all",
     lambda: near(*zip([refused(run, "forbidden") for run in PLAIN], (98, 99, 100), strict=True))
     and [round(share * 1280) for share in (0.01, 0.05, 0.2)] == [13, 64, 256]),
    ("Full answers fall from 12% to 2%, 1% and none",
     lambda: near(*zip([at(run, "forbidden") for run in ("B4600", *PLAIN)], (12, 2, 1, 0), strict=True))
     and at("B4603", "forbidden") == 0),
    ("none of these three runs ends more than two points below the run without refusals; "
     "the table could have missed up "
     "to nine",
     lambda: (kept := against("B4600", *REPAIRS[1:]).filter(
         pl.col("name").is_in(PLAIN), ~pl.col("benchmark").is_in(["forbidden", "pressed", "brief"])
     ))["estimate"].min() > -2 and -9 < kept["low"].min() < -8),
    ("The base refuses everything, and at step 80 even the run on traces alone still refuses 99%",
     lambda: refused("Micro-L", "forbidden") == 100 and near((refused("B4600", "forbidden", 80), 99))),
    ("refuse less than one request in a hundred and fully answer 35% to 36%, as does the run without refusals, and the "
     "base 39%",
     lambda: max(refused(run, "pressed") for run in PLAIN) < 1
     and near(*((at(run, "pressed"), 35) for run in ("B4600", "B4601")), (at("Micro-L", "pressed"), 39),
              *((at(run, "pressed"), 36) for run in PLAIN[1:]))),
    ("Nothing was lost here that could be repaired: the base has no refusal that comes after a thought",
     lambda: refused("Micro-L", "pressed") == 0),
    ("The rows that show a thought before the refusal teach the model to think about such "
     "requests, and thinking is what "
     "loses the refusal",
     lambda: at("B4604", "forbidden", None, WEIGHS) > 35 and at("B4600", "forbidden", None, WEIGHS) < 1),
    ("Refusals that think hold against this pressure in three cases of ten, and do harm where there is none",
     lambda: near((refused("B4604", "pressed"), 31)) and at("B4604", "forbidden") > at("B4600", "forbidden")),
    ("Under pressure the run with 5% of them refuses 31% and fully answers 18%, half of what plain refusals leave",
     lambda: near((refused("B4604", "pressed"), 31), (at("B4604", "pressed"), 18), (at("B4602", "pressed") / 2, 18))),
    ("the same run refuses only 53% and fully answers 22%, nearly twice as much as with no refusals at all",
     lambda: near((refused("B4604", "forbidden"), 53), (at("B4604", "forbidden"), 22))
     and 1.8 < at("B4604", "forbidden") / at("B4600", "forbidden") < 2),
    ("How-to, which has nothing to do with it, falls by 11 points",
     lambda: near((at("B4600", "how_to") - at("B4604", "how_to"), 11))),
    ("in four of five of the refusals under pressure the thinking has just said whether to help",
     lambda: near((100 * at("B4604", "pressed", None, REFUSED & WEIGHS) / refused("B4604", "pressed"), 79))),
    ("for of the responses that do help 28% hold the true recipe, against 35% without refusals",
     lambda: near(*((100 * at(run, "pressed") / at(run, "pressed", None, pl.col("answer").is_in(list("2345"))), share)
                    for run, share in (("B4604", 28), ("B4600", 35))))),
    ("without one of the three seeds the test only leans",
     lambda: "leaning" in " ".join(
         robustness_table("H46b", beyond(MICRO, REPAIRS, ASKED), MICRO)["tests"].drop_nulls())),
    ("the run refuses 96% and fully answers 3%",
     lambda: near((refused("B4606", "forbidden"), 96), (at("B4606", "forbidden"), 3))),
    ("Its responses to arithmetic are shorter by a seventh only",
     lambda: 0.13 < 1 - at("B4606", "arithmetic", None, "tokens") / at("B4600", "arithmetic", None, "tokens") < 0.16),
    ("arithmetic at 100% against 33%, order questions at 94% against 78%, programs at 78% against 60%",
     lambda: near(*((at(run, name), score) for name, scores in
                    {"arithmetic": (100, 33), "order": (94, 77.5), "program": (77.5, 60)}.items()
                    for run, score in zip(("B4606", "B4600"), scores, strict=True)))),
    ("The calm run is no safer under pressure, at 38%, and it loses on the myths that "
     "this chapter leaves out: 83% against "
     "99%",
     lambda: near((at("B4606", "pressed"), 38), (at("B4606", "myth"), 83), (at("B4600", "myth"), 99))),
    ("40 steps of reinforcement on mathematics lift arithmetic from 33% to 99% and order questions from 78% to 89%",
     lambda: near((at("B4600", "arithmetic"), 33), (at("B4608", "arithmetic"), 99), (at("B4600", "order"), 77.5),
                  (at("B4608", "order"), 89)) and rows("B4608")["step"].max() == 40),
    ("Yet the share that refuses rises from 76% to 91%, at every checkpoint a little more, and full answers fall from "
     "12% to 3%",
     lambda: near((refused("B4600", "forbidden"), 76), (refused("B4608", "forbidden"), 90.5),
                  (at("B4600", "forbidden"), 12), (at("B4608", "forbidden"), 3))
     and (way := [refused("B4608", "forbidden", step) for step in (5, 10, 20, 40)]) == sorted(way)),
    ("the difference of 9 points has an interval from -19 to +1",
     lambda: near(*zip(against("B4600", *REPAIRS[1:]).filter(name="B4608", benchmark="forbidden").select(
         "estimate", "low", "high").row(0), (-9, -19, 1), strict=True))),
    ("where reinforcement from the base itself loses no refusal", lambda: refused("B4306", "forbidden") == 100),
    ("Under pressure the polish changes nothing: 35% before and after",
     lambda: near(*((at(run, "pressed"), 35) for run in ("B4600", "B4608")))),
    ("The base gives the answer alone in 88% of the cases",
     lambda: near((at("Micro-L", "brief", None, FORMAT), 88))),
    ("Along every run the share falls, and at the end it is zero in all of them, brief "
     "rows or not: 64 rows of this kind "
     "changed none of 360 responses",
     lambda: max(at(run, "brief", None, FORMAT) for run in REPAIRS) == 0
     and rows("B4607").filter(benchmark="brief", step=320).height == 360),
    ("because the ledger compares no two numbers below 2%", lambda: outcomes("H46c")[0].startswith("not testable")),
    ("it sees the base's 88%, and 22% at step 80", lambda: near((at("B4600", "brief", 80, FORMAT), 22))),
    ("38% of the brief questions are solved after 65 tokens, 37% by the base after 16",
     lambda: near((at("B4600", "brief", None, "lenient"), 38), (at("Micro-L", "brief", None, "lenient"), 37),
                  (at("B4600", "brief", None, "tokens"), 65), (at("Micro-L", "brief", None, "tokens"), 16))),
]
TRACES = ["R25", *(f"B450{number}" for number in range(1, 8))]
GRADING: list[tuple[str, Callable[[], bool]]] = [
    ("Right answers buy nothing out of domain", lambda: outcomes("H45a")[1] == ["absent", "leaning"]),
    ("ends at 61% and the one on traces taken at random at 63%",
     lambda: near((at("B4501", "program"), 61), (at("B4507", "program"), 63))),
    ("Order questions end at 95% and 97%, facts at 99% both",
     lambda: near((at("B4501", "order"), 95), (at("B4507", "order"), 97),
                  *((at(run, "knowledge"), 99) for run in ("B4501", "B4507")))),
    ("In arithmetic the verifier is ahead, 74% against 64%",
     lambda: near((at("B4501", "arithmetic"), 74), (at("B4507", "arithmetic"), 64))),
    ("It ends at 72% in arithmetic, beyond chance, and out of domain within two points of the verifier everywhere",
     lambda: near((at("B4502", "arithmetic"), 72)) and outcomes("H45b")[1] == ["absent", "shown"]
     and max(abs(at("B4502", name) - at("B4501", name)) for name in ("program", "order", "knowledge")) < 2),
    ("It ends at 98% in arithmetic and 67% on competition questions, against 74% and 21% for the verifier",
     lambda: near((at("B4503", "arithmetic"), 98), (at("B4503", "competition"), 67), (at("B4501", "competition"), 21))),
    ("facts end at 95% instead of 99%", lambda: near((at("B4503", "knowledge"), 95))),
    ("its run ends at 48% in arithmetic, below the one on random "
     "traces", lambda: near((at("B4504", "arithmetic"), 47.5))),
    ("The longest traces do worse, below 20%", lambda: at("B4506", "arithmetic") < 20),
    ("their run is still the best on programs, at 74%",
     lambda: near((at("B4505", "program"), 74)) and max(TRACES[1:], key=lambda run: at(run, "program")) == "B4505"),
    ("on competition questions one response in three is without an answer in the right format",
     lambda: 30 < 100 - at("B4505", "competition", None, FORMAT) < 37),
    ("eleven points above random ones on programs, and the base's favourites thirty-four "
     "points above them in arithmetic",
     lambda: near((at("B4505", "program") - at("B4507", "program"), 11),
                  (at("B4503", "arithmetic") - at("B4507", "arithmetic"), 34))),
    ("it ends at 53% in arithmetic, below random traces", lambda: near((paper_run("R25", "arithmetic"), 53))),
]
FINDINGS = [(stem, *finding) for stem, findings in
            {"45_grading_traces": GRADING, "46_repairing_safety": SAFETY}.items() for finding in findings]


@pytest.mark.parametrize(("chapter", "sentence", "holds"), FINDINGS,
                         ids=[f"{stem[:2]}: {text}" for stem, text, _ in FINDINGS])
def test_a_chapter_of_part_iii_says_what_came_out(chapter: str, sentence: str, holds: Callable[[], bool]) -> None:
    assert sentence in chapter_files()[chapter].read_text(encoding="utf-8")
    assert holds()


@pytest.mark.parametrize("stem", sorted({stem for stem, _, _ in FINDINGS}))
def test_every_sentence_of_part_iii_that_says_what_came_out_is_held(stem: str) -> None:
    assert loose(stem, FINDINGS) == [], "add each to FINDINGS with what it rests on"
