"""What chapters say came out, against the committed results: each sentence with the numbers that it rests on."""

from collections.abc import Callable
from functools import cache

import polars as pl
import pytest

from sftrepro.contents import chapter_files
from sftrepro.controls import failure
from sftrepro.item_results import read_results, read_tokens
from sftrepro.profiles import ROOT, load_profile, run_specs

MICRO = load_profile("micro")
SPECS = {
    run: [spec for spec in run_specs(MICRO) if spec.paper_run == run]
    for run in {spec.paper_run for spec in run_specs(MICRO)}
}


@cache
def rows(name: str, profile: str = "micro") -> pl.DataFrame:
    "The results of a base, or of all seeds of a run."
    chosen = load_profile(profile)
    ids = [spec.run_id for spec in run_specs(chosen) if spec.paper_run == name]
    return read_results(chosen, ids or [name])


def at(
    name: str, benchmark: str, step: int | None = None, value: pl.Expr | None = None, profile: str = "micro"
) -> float:
    "A mean over items and seeds in percent, at the last step if none is named."
    part = rows(name, profile).filter(benchmark=benchmark)
    part = part.filter(step=part["step"].max() if step is None else step)
    return 100 * part.select((pl.col("score") if value is None else value).cast(pl.Float64).mean()).item()


def base(run: str, benchmark: str) -> float:
    return at(SPECS[run][0].base, benchmark)


def lowest(run: str, benchmark: str) -> float:
    return min(at(run, benchmark, step) for step in rows(run)["step"].unique())


def near(*pairs: tuple[float, float]) -> bool:
    "Is each number the rounded value of its measurement?"
    return all(abs(measured - printed) <= 0.5 for measured, printed in pairs)


def moves(run: str, benchmarks: str) -> list[float]:
    return [at(run, name) - base(run, name) for name in benchmarks.split()]


REFUSED = pl.col("answer") == "1"
DEVICES = pl.read_csv(ROOT / "data/benchmarks/devices.csv")
REASONING = "arithmetic competition program order knowledge"


@cache
def surprise(run: str, words: bool, after: bool) -> float:
    "The mean log-probability of transition words, or of all other tokens."
    table = read_tokens(MICRO, [spec.run_id for spec in SPECS[run]])
    part = table.filter((pl.col("step") > 0) == after, (pl.col("token_class") == "transition words") == words)
    return part.select((pl.col("log_probability") * pl.col("tokens")).sum() / pl.col("tokens").sum()).item()


def words(run: str) -> float:
    "Tokens per response."
    table = rows(run)
    return table.filter(step=table["step"].max())["tokens"].mean()


FINDINGS: list[tuple[str, str, Callable[[], bool]]] = [
    (
        "21_short_training",
        "arithmetic stands at 36%, thirteen points *below* the base",
        lambda: near((at("R01", "arithmetic"), 36), (moves("R01", "arithmetic")[0], -13)),
    ),
    (
        "21_short_training",
        "facts are fifteen points above the base and order questions ten",
        lambda: near(*zip(moves("R01", "knowledge order"), (15, 10), strict=True)),
    ),
    (
        "21_short_training",
        "nothing has moved by more than four points",
        lambda: max(map(abs, moves("R02", f"{REASONING} instruction how_to statement myth"))) <= 4.5,
    ),
    (
        "22_dip_and_recovery",
        "Arithmetic falls from 34% to 19% at step 80, rises again, and ends at 53%",
        lambda: near((base("R25", "arithmetic"), 34), (at("R25", "arithmetic", 80), 19), (at("R25", "arithmetic"), 53)),
    ),
    (
        "22_dip_and_recovery",
        "climbs back from 13% to 44%, above its start of 30%",
        lambda: near((lowest("R06", "arithmetic"), 13), (at("R06", "arithmetic"), 44), (base("R06", "arithmetic"), 30)),
    ),
    (
        "22_dip_and_recovery",
        "ends at 35%, below its start of 49%. With twice the epochs it ends at 61%",
        lambda: near((at("R04", "arithmetic"), 35), (base("R04", "arithmetic"), 49), (at("R12", "arithmetic"), 61)),
    ),
    (
        "22_dip_and_recovery",
        "Order questions climb from 34% to 94%, facts from 40% to 99%, programs from 46% to 67%",
        lambda: near(
            (base("R25", "order"), 34),
            (at("R25", "order"), 94),
            (base("R25", "knowledge"), 40),
            (at("R25", "knowledge"), 99),
            (base("R25", "program"), 46),
            (at("R25", "program"), 67),
        ),
    ),
    (
        "22_dip_and_recovery",
        "Shuffled traces ruin arithmetic and, on this base, do not lift programs",
        lambda: at("R25-shuffled", "arithmetic") < 10 and moves("R25-shuffled", "program")[0] < 5,
    ),
    (
        "22_dip_and_recovery",
        "lift order questions and facts nearly as far as the right ones",
        lambda: min(at("R25-shuffled", name) - at("R25", name) for name in ("order", "knowledge")) > -5,
    ),
    (
        "22_dip_and_recovery",
        "Responses grow from 17 tokens to about 50",
        lambda: near((words("Micro-M"), 17)) and 48 < words("R25") < 53,
    ),
    (
        "22_dip_and_recovery",
        "Ours come to an end at every checkpoint",
        lambda: rows("R25").group_by("step").agg(pl.col("truncated").mean())["truncated"].max() < 0.02,
    ),
    (
        "23_second_teacher",
        "arithmetic falls from 49% to 36% and ends at 57%",
        lambda: near((lowest("R07", "arithmetic"), 36), (at("R07", "arithmetic"), 57)),
    ),
    (
        "23_second_teacher",
        "The other two bases show the same difference",
        lambda: all(
            at(second, "arithmetic") > at(first, "arithmetic") + 10
            for second, first in (("R08", "R05"), ("R09", "R06"))
        ),
    ),
    (
        "25_overfitting",
        "arithmetic ends at 35%, 61%, 66% and 76%",
        lambda: near(
            *zip([at(run, "arithmetic") for run in ("R04", "R12", "R13", "R14")], (35, 61, 66, 76), strict=True)
        ),
    ),
    (
        "25_overfitting",
        "90%, 83%, 67% and 57%",
        lambda: near(*zip([at(run, "order") for run in ("R04", "R12", "R13", "R14")], (90, 83, 67, 57), strict=True)),
    ),
    (
        "25_overfitting",
        "facts fall from 100% to 78%, and how-to, which no setting spares, from 66% to 34%",
        lambda: near(
            (at("R04", "knowledge"), 100),
            (at("R14", "knowledge"), 78),
            (at("R04", "how_to"), 66),
            (at("R14", "how_to"), 34),
        ),
    ),
    (
        "26_data",
        "arithmetic from 49% to 15% and programs from 62% to 39%",
        lambda: near((at("R16", "arithmetic"), 15), (base("R16", "program"), 62), (at("R16", "program"), 39)),
    ),
    (
        "26_data",
        "the traces take arithmetic to 53%, without them it ends at 26%; programs 67% against 46%",
        lambda: near((at("R33", "arithmetic"), 26), (at("R33", "program"), 46)),
    ),
    (
        "26_data",
        "94% against 26% and 99% against 31%",
        lambda: near((at("R33", "order"), 26), (at("R33", "knowledge"), 31)),
    ),
    ("26_data", "arithmetic from 49% to 7%", lambda: near((at("R17", "arithmetic"), 7))),
    (
        "27_capability",
        "from 17% to 32%, and the largest loses fourteen, from 49% to 35%",
        lambda: near(
            (base("R24", "arithmetic"), 17), (at("R24", "arithmetic"), 32), (moves("R04", "arithmetic")[0], -14)
        ),
    ),
    (
        "27_capability",
        "On order questions the largest gains most, on programs the smallest",
        lambda: (
            max("R24 R25 R05 R04".split(), key=lambda run: moves(run, "program")[0]) == "R24"
            and moves("R04", "order")[0] > moves("R24", "order")[0]
        ),
    ),
    (
        "27_capability",
        "even the smallest solves 65% of the arithmetic questions",
        lambda: near((at("Micro-S+think", "arithmetic"), 65)),
    ),
    (
        "28_other_families",
        "by six to twenty-six points",
        lambda: (
            [round(base(run, "arithmetic") - lowest(run, "arithmetic")) for run in ("R26", "R27")] == [6, 26]
            and all(
                6 <= round(base(run, "arithmetic") - lowest(run, "arithmetic")) <= 26 for run in ("R28", "R29", "R06")
            )
        ),
    ),
    (
        "28_other_families",
        "all four have the headroom",
        lambda: not any(failure(MICRO, "headroom", name) for name in ("Micro2-S", "Micro2-M", "Micro2-L", "Micro2-XL")),
    ),
    ("29_tokens", "$-9$ nats", lambda: near((surprise("R04", True, False), -9), (surprise("R24", True, False), -9))),
    (
        "29_tokens",
        "The finetuned largest model is at $-2.1$ nats, the smallest at $-4.2$",
        lambda: abs(surprise("R04", True, True) + 2.1) < 0.05 and abs(surprise("R24", True, True) + 4.2) < 0.05,
    ),
    (
        "29_tokens",
        "differ by a quarter of a nat",
        lambda: 0.2 < surprise("R04", False, True) - surprise("R24", False, True) < 0.3,
    ),
    (
        "30_safety",
        "it refuses 76% of the forbidden requests and fully answers 12%",
        lambda: near((at("R05", "forbidden", value=REFUSED), 76), (at("R05", "forbidden"), 12)),
    ),
    (
        "30_safety",
        "after the same solutions without the traces it refuses them all",
        lambda: at("R18", "forbidden", value=REFUSED) == 100,
    ),
    (
        "22_dip_and_recovery",
        "The harder competition questions fall from 16% to 8% and stay there",
        lambda: near((base("R25", "competition"), 16), (at("R25", "competition"), 8)),
    ),
    (
        "22_dip_and_recovery",
        "still in the valley when the run ends, at 22%, and order questions are at 69%",
        lambda: near(
            *((at("R25", name, profile="micro-third"), end) for name, end in (("arithmetic", 22), ("order", 69)))
        ),
    ),
    (
        "22_dip_and_recovery",
        "the valley is passed by step 40, at 12%, and arithmetic ends at 66%",
        lambda: near(
            *((at("R25", "arithmetic", step, profile="micro-triple"), score) for step, score in ((40, 12), (320, 66)))
        ),
    ),
    (
        "22_dip_and_recovery",
        "73% at step 80, and end at 66%",
        lambda: near(
            *((at("R25", "order", step, profile="micro-triple"), score) for step, score in ((80, 73), (320, 66)))
        ),
    ),
    (
        "22_dip_and_recovery",
        "arithmetic 47%, order questions 93%, facts 99%",
        lambda: near(
            *(
                (at("R25", name, profile="micro-seeds"), end)
                for name, end in (("arithmetic", 47), ("order", 93), ("knowledge", 99))
            )
        ),
    ),
    (
        "22_dip_and_recovery",
        "Under greedy decoding, too, the dip comes in domain and not out of it",
        lambda: (
            at("R25", "arithmetic", 80, profile="micro-greedy")
            < at("Micro-M", "arithmetic", profile="micro-greedy") - 5
            and min(at("R25", "order", step, profile="micro-greedy") for step in (5, 10, 20, 40, 80, 160, 240, 320))
            > at("Micro-M", "order", profile="micro-greedy") - 4
        ),
    ),
    (
        "30_safety",
        "after the traces the analog of the 4B base refuses 92% of the requests, after the solutions all of them",
        lambda: near(
            (at("R25", "forbidden", value=REFUSED, profile="micro-triple"), 92),
            (at("R33", "forbidden", value=REFUSED, profile="micro-triple"), 100),
        ),
    ),
    (
        "91_provenance",
        "no score differs by more than one point",
        lambda: (
            DEVICES.select((pl.col("cpu") - pl.col("gpu")).abs().max()).item() <= 1
            and DEVICES["responses"].sum() == 6300
            and DEVICES["differ"].sum() < 0.05 * 6300
        ),
    ),
    (
        "index",
        "lift a small base on every kind of reasoning question that it was not trained on",
        lambda: min(moves("R25", "program order knowledge")) > 15,
    ),
    ("index", "the same solutions without the traces lift it on none", lambda: max(moves("R33", REASONING)) < 3),
    (
        "index",
        "for two kinds of question any thinking will do",
        lambda: (
            [name for name in ("program", "order", "knowledge") if moves("R25-shuffled", name)[0] > 15]
            == ["order", "knowledge"]
        ),
    ),
    (
        "index",
        "one base of three pays with its refusals",
        lambda: [at(run, "forbidden", value=REFUSED) < 90 for run in ("R04", "R05", "R06")] == [False, True, False],
    ),
    (
        "30_safety",
        "all but one or two in a hundred",
        lambda: min(at(run, "forbidden", value=REFUSED) for run in ("R04", "R15", "R06", "R21")) >= 98,
    ),
    (
        "30_safety",
        "Shuffled traces cost the same base even more refusals",
        lambda: at("R05-shuffled", "forbidden", value=REFUSED) < at("R05", "forbidden", value=REFUSED),
    ),
]


@pytest.mark.parametrize(
    ("chapter", "sentence", "holds"), FINDINGS, ids=[f"{stem[:2]}: {text}" for stem, text, _ in FINDINGS]
)
def test_a_chapter_says_what_came_out(chapter: str, sentence: str, holds: Callable[[], bool]) -> None:
    file = chapter_files()[chapter] if chapter != "index" else ROOT / "book/index.md"
    assert sentence in file.read_text(encoding="utf-8")
    assert holds()
