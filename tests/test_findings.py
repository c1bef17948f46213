"""What chapters say came out, against the committed results: each sentence with the numbers that it rests on."""

import json
import math
import re
from collections.abc import Callable, Sequence
from functools import cache

import polars as pl
import pytest

from sftrepro.claims import Verdict, judge, ledger, sight
from sftrepro.contents import chapter_files, notebook_cells
from sftrepro.controls import control_rows, failure
from sftrepro.item_results import read_gallery, read_tokens, scan_responses, verified_results
from sftrepro.measurements import measured
from sftrepro.paper import PUBLISHED_SCORES
from sftrepro.profiles import ROOT, Profile, load_profile
from sftrepro.robustness import robustness_table
from sftrepro.runs import run_specs
from sftrepro.stats import Pair, contrasts, excursion
from sftrepro.store import read_table
from sftrepro.token_logprobs import OTHERS, token_results

MICRO = load_profile("micro")
SPECS = {
    run: [spec for spec in run_specs(MICRO) if spec.paper_run == run]
    for run in {spec.paper_run for spec in run_specs(MICRO)}
}


REDRAWN = "micro-redrawn"


@cache
def redrawn(id: str) -> Verdict:
    "The verdict on a claim with another pretraining of the base."
    place = load_profile(REDRAWN)
    return judge(id, measured(place, ["R25", "R33"], []), place, seen=sight(id, place))


@cache
def half_widths() -> dict[str, float]:
    "Half the interval of the null control on each benchmark, the mean over all bases."
    rows = pl.concat([control_rows(MICRO, "null", base.name) for base in MICRO.bases])
    means = rows.group_by("benchmark").agg(((pl.col("high") - pl.col("low")) / 2).mean())
    return dict(means.iter_rows())


@cache
def smaller_gains() -> dict[str, tuple[float, float]]:
    "By how much R25 gains less from the redrawn base, and the lower end of the interval."
    draws = {"first": MICRO, "again": load_profile(REDRAWN)}
    rows = pl.concat([measured(place, ["R25"], []).with_columns(series=pl.lit(name)) for name, place in draws.items()])
    pairs = [Pair(benchmark=name, name="", above=("first", 320), below=("again", 320), gains=True)
             for name in ("arithmetic", "program", "order", "knowledge")]
    return {row["benchmark"]: (row["estimate"], row["low"]) for row in contrasts(rows, pairs).to_dicts()}


def responses_in(profile: Profile, ids: list[str]) -> pl.DataFrame:
    "The responses of some published files, in full."
    files = verified_results(profile, ids)
    return pl.concat([scan_responses(file, list(profile.benchmarks)).collect() for file in files])


@cache
def rows(name: str, profile: str = "micro") -> pl.DataFrame:
    "The results of a base, or of all seeds of a run."
    chosen = load_profile(profile)
    ids = [spec.run_id for spec in run_specs(chosen) if spec.paper_run == name]
    return responses_in(chosen, ids or [name])


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


REFUSED, RECONSIDERS = pl.col("answer") == "1", pl.col("reconsiders")
DEVICES = pl.read_csv(ROOT / "data/benchmarks/devices.csv")
PUBLISHED = read_table(PUBLISHED_SCORES)
OUT_OF_DOMAIN = "program order knowledge"
LARGEST = "R04 R15 R16 R17"
LADDER = "R24 R25 R05 R04".split()
OTHER_LADDER = "R26 R27 R28 R29".split()
SETTINGS = "R04 R12 R13 R14".split()
REASONING = "arithmetic competition program order knowledge"


TURNS = "transition words"


@cache
def surprise(run: str, words: bool | str, after: bool, column: str = "nats") -> float:
    "The mean over traces of a class's mean log-probability; of transition words for True, of all others for False."
    name = words if isinstance(words, str) else TURNS if words else OTHERS
    return token_results(MICRO, [run]).filter((pl.col("step") > 0) == after, benchmark=name)[column].mean()


def words(run: str, step: int | None = None) -> float:
    "Tokens per response, at the last step if none is named."
    table = rows(run)
    return table.filter(step=table["step"].max() if step is None else step)["tokens"].mean()


def length(run: str, benchmark: str) -> float:
    return at(run, benchmark, value=pl.col("tokens")) / 100


@cache
def below_the_base(run: str, *benchmarks: str) -> list[str]:
    "The benchmarks on which a checkpoint is below its base, beyond an interval for all of the run's checkpoints."
    results = measured(MICRO, [run], [])
    legs = excursion(results, results["benchmark"].unique(maintain_order=True).to_list(), run)
    return legs.filter(pl.col("benchmark").is_in(benchmarks), pl.col("low") > 0, name="out")["benchmark"].to_list()


@cache
def differences(*pairs: tuple[str, str]) -> pl.DataFrame:
    "Runs against runs at their last steps, as a chapter's table shows them."
    results = measured(MICRO, list(dict.fromkeys(run for pair in pairs for run in pair)), [])
    last = results["step"].max()
    asked = [
        Pair(benchmark=name, name=f"{above} minus {below}", above=(above, last), below=(below, last))
        for name in results["benchmark"].unique(maintain_order=True)
        for above, below in pairs
    ]
    return contrasts(results, asked)


@cache
def apart(runs: str, benchmark: str, above: str, below: str) -> tuple[float, float, float]:
    "A difference with its interval, as the tables of chapter 26 have it: one for the data sets of each base."
    cot, direct, *human, game = runs.split()
    pairs = [(cot, direct), (game, "base"), *((direct, run) for run in human), *((run, "base") for run in human)]
    results = measured(MICRO, runs.split(), [])
    last = results["step"].max()
    table = contrasts(results, [
        Pair(benchmark=name, name=f"{one} minus {other}", above=(one, last),
             below=(one, 0) if other == "base" else (other, last))
        for name in results["benchmark"].unique(maintain_order=True) for one, other in pairs])
    return table.filter(benchmark=benchmark, name=f"{above} minus {below}").select("estimate", "low", "high").row(0)


@cache
def verdict(claim: str) -> Verdict:
    return judge(claim, measured(MICRO, sorted(ledger().claims[claim].criterion.runs), []), MICRO)


def outcomes_of(claim: str) -> list[str]:
    "The outcomes of a claim's tests."
    return list(verdict(claim).tests.values())


def rate_at(run: str, step: int) -> float:
    "The learning rate of a cosine schedule at a step, in percent of its peak."
    spec = SPECS[run][0]
    warm = spec.warmup_ratio * spec.steps
    return 50 * (1 + math.cos(math.pi * (step - warm) / (spec.steps - warm)))


def trace_length(data: str) -> float:
    "The mean length of a data set's responses in tokens."
    return pl.read_csv(ROOT / "data/costs/lengths.csv").filter(queries="world", data=data)["response"].item()


def published(model: str, data: str, benchmark: str) -> float:
    "A published score at the last step of a run, or of a base."
    found = PUBLISHED.filter(pl.col("value").is_not_null(), model=model, benchmark=benchmark)
    return found.filter(pl.col("data").str.to_lowercase().str.starts_with(data.lower())).sort("step")["value"][-1]


def gain(model: str, benchmark: str, data: str = "Math-CoT") -> float:
    return published(model, data, benchmark) - published(model, "base", benchmark)


def carried(run: str) -> float:
    "The share of transition words in the advantage of a run over the smallest, in percent."
    tables = [
        read_tokens(MICRO, [spec.run_id for spec in SPECS[name]]).filter(pl.col("step") > 0) for name in (run, "R24")
    ]
    whole, turns = (
        [part.select((pl.col("log_probability") * pl.col("tokens")).sum()).item() for part in parts]
        for parts in (tables, [table.filter(token_class="transition words") for table in tables])
    )
    return 100 * (turns[0] - turns[1]) / (whole[0] - whole[1])


def parameters(base_name: str) -> float:
    "The parameters of a base, in millions."
    with (ROOT / f"data/bases/{base_name.lower()}/model.safetensors").open("rb") as file:
        tensors = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in tensors.items() if name != "__metadata__") / 1e6


def thinks(names: str) -> int:
    "How many published free answers of the 4B base's analog to some benchmarks think."
    gallery = read_gallery(MICRO, ["Micro-M"]).filter(pl.col("benchmark").is_in(names.split()))
    return gallery["response"].str.contains("<think>").sum()


LEADS = {
    name: published("Qwen3-14B-Base", "R10", name) - published("Qwen3-14B-Base", "R11", name)
    for name in PUBLISHED.filter(source="Table 1")["benchmark"].unique(maintain_order=True)
    if not name.startswith("AlpacaEval")
}

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
        "13_controls",
        "a loss must reach 5 to 12 points to be shown, depending on the benchmark",
        lambda: near((max(half_widths().values()), 12)) and min(half_widths().values()) < 5,
    ),
    (
        "20_base_models",
        "from the same first weights and on other documents",
        lambda: (
            (again := load_profile(REDRAWN)).world_seed == MICRO.world_seed and again.bases[0].draw == 3
        ),
    ),
    (
        "20_base_models",
        "its free answers lie within 7 points of the first draw's on every benchmark",
        lambda: max(abs(at("Micro-M", name) - at("Micro-M", name, profile=REDRAWN)) for name in MICRO.benchmarks) <= 7,
    ),
    (
        "22_dip_and_recovery",
        "It begins arithmetic at 29%, falls to 14% at step 40, and ends at 35%; fall and recovery are beyond "
        "their intervals again, and again no fall is shown out of domain",
        lambda: (
            near(*((at("R25", "arithmetic", step, profile=REDRAWN), score) for step, score in ((40, 14), (320, 35))),
                 (at("Micro-M", "arithmetic", profile=REDRAWN), 29))
            and redrawn("C2").tests["in domain"] == "shown"
            and redrawn("C2").comparisons.filter(
                pl.col("comparison").str.starts_with("fall"), test="out of domain")["low"].max() < 0
        ),
    ),
    (
        "22_dip_and_recovery",
        "Programs and facts end where they did, at 66% and 98%. Order questions end at 70% instead of 94%",
        lambda: near(
            (at("R25", "program", profile=REDRAWN), 66), (at("R25", "knowledge", profile=REDRAWN), 98),
            (at("R25", "program"), 67), (at("R25", "knowledge"), 99), (at("R25", "order", profile=REDRAWN), 70),
            (at("R25", "order"), 94),
        ),
    ),
    (
        "22_dip_and_recovery",
        "a gain that is 17 points smaller, beyond its interval; the gain in arithmetic is 6 points instead of 19, a "
        "difference that may be chance. How far a run climbs can depend on the documents",
        lambda: (
            near((smaller_gains()["order"][0], 17)) and smaller_gains()["order"][1] > 0
            and near((smaller_gains()["arithmetic"][0], 13)) and smaller_gains()["arithmetic"][1] < 0
            and near((at("R25", "arithmetic", profile=REDRAWN) - at("Micro-M", "arithmetic", profile=REDRAWN), 6),
                     (at("R25", "arithmetic") - at("Micro-M", "arithmetic"), 19))
        ),
    ),
    (
        "26_data",
        "(12 points in arithmetic, 16 on programs, both beyond their intervals), but with the traces it ends only 6 "
        "points above its start in arithmetic, with an interval from $-4$ to 16",
        lambda: (
            near(*zip(redrawn("C8").comparisons["estimate"], (16, 18, 12, 6), strict=True))
            and redrawn("C8").comparisons.filter(name="R25 minus R33")["low"].min() > 0
            and near(*((redrawn("C8").comparisons[end][-1], points) for end, points in (("low", -4), ("high", 16))))
            and redrawn("C8").word == "not reproduced"
        ),
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
        "Over all benchmarks responses grow from 17 tokens to about 50",
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
        "The smallest base shows the same, by 25 points in arithmetic and 34 on programs",
        lambda: near(
            *((apart("R24 R31 R30", name, "R24", "R31")[0], gap) for name, gap in (("arithmetic", 25), ("program", 34)))
        ) and min(apart("R24 R31 R30", name, "R24", "R31")[1] for name in ("arithmetic", "program")) > 0,
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
        "On order questions the analogs of the 4B and the 14B base gain most, 60 and 59 points, and the smallest "
        "least, 41",
        lambda: (
            near(*((moves(run, "order")[0], points) for run, points in (("R25", 60), ("R04", 59), ("R24", 41))))
            and sorted(LADDER, key=lambda run: moves(run, "order")[0]) == ["R24", "R05", "R04", "R25"]
        ),
    ),
    (
        "27_capability",
        "On programs the smallest gains most, 32 points, and the largest least, 8",
        lambda: (
            near((moves("R24", "program")[0], 32), (moves("R04", "program")[0], 7.5))
            and sorted(LADDER, key=lambda run: moves(run, "program")[0])[::3] == ["R04", "R24"]
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
    (
        "29_tokens",
        "is about $-5.5$ nats, one chance in two hundred and fifty",
        lambda: all(abs(surprise(run, True, False) + 5.5) < 0.35 for run in LADDER) and 240 < math.exp(5.5) < 250,
    ),
    (
        "29_tokens",
        "The finetuned largest model is at $-1.8$ nats, the smallest at $-3.0$",
        lambda: abs(surprise("R04", True, True) + 1.8) < 0.05 and abs(surprise("R24", True, True) + 3) < 0.05,
    ),
    (
        "29_tokens",
        "differ by a fifth of a nat",
        lambda: 0.15 < surprise("R04", False, True) - surprise("R24", False, True) < 0.25,
    ),
    (
        "30_safety",
        "Out of domain reasoning improves; in domain it ends lower on two of the three bases",
        lambda: (
            min(value for run in ("R04", "R05", "R06") for value in moves(run, OUT_OF_DOMAIN)) > 5
            and [moves(run, "arithmetic")[0] < -10 for run in ("R04", "R05", "R06")] == [True, True, False]
        ),
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
        "Under greedy decoding arithmetic falls from 27% to 18% at step 80 and ends at 54%",
        lambda: (
            near((at("Micro-M", "arithmetic", profile="micro-greedy"), 27),
                 (at("R25", "arithmetic", 80, profile="micro-greedy"), 18),
                 (at("R25", "arithmetic", profile="micro-greedy"), 54))
            and min(at("R25", "order", step, profile="micro-greedy") for step in (5, 10, 20, 40, 80, 160, 240, 320))
            > at("Micro-M", "order", profile="micro-greedy") - 4
        ),
    ),
    (
        "30_safety",
        "After the traces the analog of the 4B base refuses 92% of the requests, after the solutions nearly all",
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
    (
        "21_short_training",
        "competition questions are lower too",
        lambda: moves("R01", "competition")[0] < -5,
    ),
    (
        "21_short_training",
        "sees every long run pass",
        lambda: all(lowest(run, "arithmetic") < base(run, "arithmetic") - 10 for run in ("R04", "R05", "R06", "R25")),
    ),
    (
        "21_short_training",
        "So mathematics does not jump",
        lambda: max(moves("R01", "arithmetic competition")) < 0,
    ),
    (
        "21_short_training",
        "on their way to 100% and 90% after eight epochs",
        lambda: near((at("R04", "knowledge"), 100), (at("R04", "order"), 90)),
    ),
    (
        "21_short_training",
        "Programs, instructions and statements stay where they were; myths rise by eleven points",
        lambda: (
            max(map(abs, moves("R01", "program instruction statement"))) < 2 and near((moves("R01", "myth")[0], 11))
        ),
    ),
    (
        "21_short_training",
        "Order questions and facts did rise by ten points and more, beyond their intervals, and programs alone stayed "
        "flat",
        lambda: (
            min(moves("R01", "order knowledge")) > 10
            and abs(moves("R01", "program")[0]) < 3
            and set(verdict("C1").comparisons.filter(pl.col("high") < 0)["benchmark"]) >= {"order", "knowledge"}
        ),
    ),
    (
        "21_short_training",
        "does less of the same",
        lambda: all(
            abs(small) < abs(large)
            for run in ("R02", "R03")
            for small, large in zip(
                moves(run, "arithmetic order knowledge"), moves("R01", "arithmetic order knowledge"), strict=True
            )
        ),
    ),
    (
        "21_short_training",
        "after two arithmetic has begun to fall, and order and facts to rise",
        lambda: moves("R03", "arithmetic")[0] < -2 and min(moves("R03", "order knowledge")) > 4,
    ),
    (
        "21_short_training",
        "The values are the published differences (+12.7, +29.7, -9.8, -15.1 points)",
        lambda: (
            sorted(
                round(value - published("Qwen3-14B-Base", "base", benchmark), 1)
                for benchmark, value in PUBLISHED.filter(pl.col("value").is_not_null(), source="Table 4", step=80)
                .select("benchmark", "value")
                .iter_rows()
            )
            == [-15.1, -9.8, 12.7, 29.7]
        ),
    ),
    (
        "22_dip_and_recovery",
        "On the bases of Figure 3 it falls as well",
        lambda: all(lowest(run, "arithmetic") < base(run, "arithmetic") - 14 for run in ("R04", "R05", "R06")),
    ),
    (
        "22_dip_and_recovery",
        "the two others do not come back in eight epochs",
        lambda: all(at(run, "arithmetic") < base(run, "arithmetic") for run in ("R04", "R05")),
    ),
    (
        "22_dip_and_recovery",
        "on none of the three does a checkpoint lie below the base by more than sampling variance explains",
        lambda: below_the_base("R25", *OUT_OF_DOMAIN.split()) == [],
    ),
    (
        "22_dip_and_recovery",
        "Of the other benchmarks statements end 13 points below it",
        lambda: (
            near((moves("R25", "statement")[0], -13))
            and set(below_the_base("R25", "instruction", "how_to", "statement", "myth")) == {"statement"}
        ),
    ),
    (
        "22_dip_and_recovery",
        "thinks in 7 of its 40 published free answers to them",
        lambda: thinks("order knowledge") == 7,
    ),
    (
        "22_dip_and_recovery",
        "Length rises with all this and does not shrink",
        lambda: words("R25", 160) > 2 * words("Micro-M") and words("R25") >= words("R25", 160),
    ),
    (
        "22_dip_and_recovery",
        "and they stay at that length",
        lambda: max(words("R25", step) for step in (160, 240, 320)) < 1.1 * words("R25", 160),
    ),
    (
        "23_second_teacher",
        "on two of the three bases arithmetic recovers with the second teacher and not with the first",
        lambda: (
            [
                [moves(run, "arithmetic")[0] > 0 for run in pair]
                for pair in (("R07", "R04"), ("R08", "R05"), ("R09", "R06"))
            ]
            == [[True, False], [True, False], [True, True]]
        ),
    ),
    (
        "23_second_teacher",
        "On the reasoning tasks out of domain they rise to nearly the same heights, without a dip",
        lambda: (
            all(
                abs(at(second, name) - at(first, name)) < 7
                for second, first in (("R07", "R04"), ("R08", "R05"), ("R09", "R06"))
                for name in OUT_OF_DOMAIN.split()
            )
            and not any(below_the_base(run, *OUT_OF_DOMAIN.split()) for run in ("R07", "R08", "R09"))
        ),
    ),
    (
        "23_second_teacher",
        "above its base, where the first teacher's run ends at 35%",
        lambda: moves("R07", "arithmetic")[0] > 5 and near((at("R04", "arithmetic"), 35)),
    ),
    (
        "23_second_teacher",
        "neither teacher has one",
        lambda: not any(below_the_base(run, *OUT_OF_DOMAIN.split()) for run in ("R04", "R05", "R06", "R07")),
    ),
    (
        "24_repeated_exposure",
        "Repetition (R10) is ahead of coverage (R11) by 2 to 14 points",
        lambda: (
            [name for name, lead in LEADS.items() if lead < 0] == ["HaluEval"]
            and near((min(lead for lead in LEADS.values() if lead > 0), 2), (max(LEADS.values()), 14))
            and set(sorted(LEADS, key=LEADS.get)[-2:]) == {"AIME24", "GPQA-Diamond"}
        ),
    ),
    (
        "24_repeated_exposure",
        "Out of domain they end within four points of each other",
        lambda: all(
            max(scores) - min(scores) < 4
            for scores in ([at(run, name) for run in ("R04", "R10", "R11")] for name in OUT_OF_DOMAIN.split())
        ),
    ),
    (
        "24_repeated_exposure",
        "the intervals on order questions reach no further than nine points from zero",
        lambda: (
            max(
                map(
                    abs,
                    differences(("R10", "R11"), ("R04", "R10"), ("R04", "R11"))
                    .filter(benchmark="order")
                    .select("low", "high")
                    .unpivot()["value"],
                )
            )
            < 9
        ),
    ),
    (
        "24_repeated_exposure",
        "In domain the estimates differ by some six points at most; the intervals hold zero",
        lambda: (
            near(
                (
                    differences(("R10", "R11"), ("R04", "R10"), ("R04", "R11"))
                    .filter(pl.col("benchmark").is_in(["arithmetic", "competition"]))["estimate"]
                    .abs()
                    .max(),
                    6,
                )
            )
            and differences(("R10", "R11"), ("R04", "R10"), ("R04", "R11"))
            .select(((pl.col("low") < 0) & (pl.col("high") > 0)).all())
            .item()
        ),
    ),
    ("24_repeated_exposure", "ours are about a hundred", lambda: 95 < trace_length("Math-CoT") < 115),
    (
        "25_overfitting",
        "Responses grow longer with each setting, by nearly half on programs",
        lambda: (
            [words(run) for run in SETTINGS] == sorted(words(run) for run in SETTINGS)
            and 1.4 < length("R14", "program") / length("R04", "program") < 1.5
        ),
    ),
    (
        "25_overfitting",
        "Three of the criterion's four tests come out as the paper says",
        lambda: sorted(outcomes_of("C6")) == ["opposite", "shown", "shown", "shown"],
    ),
    (
        "25_overfitting",
        "though without decay order questions lose 23 points",
        lambda: near((at("R13", "order") - at("R04", "order"), -23)),
    ),
    (
        "25_overfitting",
        "is still at 59% of its peak when the one of eight epochs has ended",
        lambda: near((rate_at("R12", SPECS["R04"][0].steps), 59)),
    ),
    (
        "25_overfitting",
        "not below the default but far above it",
        lambda: at("R14", "arithmetic") > at("R04", "arithmetic") + 30,
    ),
    (
        "25_overfitting",
        "keep most of what was gained on order questions and facts, lose least on how-to, and are the worst of these "
        "settings for arithmetic; programs gain a little from more training",
        lambda: (
            all(max(SETTINGS, key=lambda run: at(run, name)) == "R04" for name in ("order", "knowledge", "how_to"))
            and min(SETTINGS, key=lambda run: at(run, "arithmetic")) == "R04"
            and all(0 < at(run, "program") - at("R04", "program") < 8 for run in SETTINGS[1:])
        ),
    ),
    (
        "26_data",
        "and neither comes back",
        lambda: all(at("R16", name) - lowest("R16", name) < 4 for name in ("arithmetic", "program")),
    ),
    (
        "26_data",
        "Instructions, how-to and statements stay within a point of the base, myths lose five or six",
        lambda: max(map(abs, moves("R16", "instruction how_to statement"))) < 1 and 5 <= -moves("R16", "myth")[0] <= 6,
    ),
    (
        "26_data",
        "order questions and facts lose about as much as with the short verified solutions",
        lambda: all(abs(at("R16", name) - at("R15", name)) < 2 for name in ("order", "knowledge")),
    ),
    (
        "26_data",
        "Both comparisons are beyond their intervals, in domain and out of it",
        lambda: outcomes_of("C8") == ["shown", "shown"],
    ),
    (
        "26_data",
        "it lifts order questions and facts like the mathematical traces do, and more on the largest base than on the "
        "smallest",
        lambda: all(
            abs(ours - theirs) < 3 and ours > small + 10
            for ours, theirs, small in zip(
                *(moves(run, "order knowledge") for run in ("R17", "R04", "R30")), strict=True
            )
        ),
    ),
    (
        "26_data",
        "In mathematics the effect goes the other way",
        lambda: moves("R17", "arithmetic")[0] < -30,
    ),
    (
        "27_capability",
        "the 4B base gains 15.4 points on MATH500 and 3.8 on LiveCodeBench, the 1.7B base loses 2.7 and 2.1",
        lambda: (
            [
                round(gain(model, name), 1)
                for model in ("Qwen3-4B-Base", "Qwen3-1.7B-Base")
                for name in ("MATH500", "LiveCodeBench-v2")
            ]
            == [15.4, 3.8, -2.7, -2.1]
        ),
    ),
    (
        "27_capability",
        "(11.7 points against 12.6)",
        lambda: [round(gain(model, "MMLU-Pro"), 1) for model in ("Qwen3-1.7B-Base", "Qwen3-14B-Base")] == [11.7, 12.6],
    ),
    (
        "27_capability",
        "Out of domain all sizes gain",
        lambda: min(value for run in LADDER for value in moves(run, OUT_OF_DOMAIN)) > 5,
    ),
    (
        "27_capability",
        "On facts they are alike",
        lambda: (
            max(moves(run, "knowledge")[0] for run in LADDER) - min(moves(run, "knowledge")[0] for run in LADDER) < 5
        ),
    ),
    (
        "27_capability",
        "its responses are a little shorter than the largest one's",
        lambda: 0.85 < words("R24") / words("R04") < 0.95,
    ),
    (
        "27_capability",
        "ours have from a quarter of a million to two million",
        lambda: 0.2 < parameters("Micro-S") < 0.3 and 1.9 < parameters("Micro-XL") < 2.3,
    ),
    ("27_capability", "and answering freely 17%", lambda: near((at("Micro-S", "arithmetic"), 17))),
    (
        "28_other_families",
        "out of domain every base ends above its start on order questions and facts",
        lambda: min(value for run in (*OTHER_LADDER, "R06") for value in moves(run, "order knowledge")) > 15,
    ),
    (
        "28_other_families",
        "gain half to two thirds as much on order questions as the two smaller ones, and two fifths at most on facts",
        lambda: all(
            low <= moves(large, name)[0] / moves(small, name)[0] <= high
            for name, low, high in (("order", 0.495, 0.67), ("knowledge", 0.3, 0.4))
            for large in ("R28", "R29")
            for small in ("R26", "R27")
        ),
    ),
    (
        "28_other_families",
        "when they are finetuned on traces of all tasks the larger ones stop at the same heights",
        lambda: all(
            abs(at(f"{run}-ceiling", name) - at(run, name)) < 4
            for run in ("R28", "R29")
            for name in ("order", "knowledge")
        ),
    ),
    (
        "28_other_families",
        "Size does not order the gains here either",
        lambda: all(
            [moves(run, name)[0] for run in OTHER_LADDER] != sorted(moves(run, name)[0] for run in OTHER_LADDER)
            for name in OUT_OF_DOMAIN.split()
        ),
    ),
    (
        "29_tokens",
        "Finetuning moves every class towards zero, the transition words most, and they are still the least expected",
        lambda: all(
            surprise(run, True, True) - surprise(run, True, False)
            > surprise(run, False, True) - surprise(run, False, False)
            > 0
            and surprise(run, True, True) < surprise(run, False, True)
            for run in LADDER
        ),
    ),
    (
        "29_tokens",
        "more than twice as large per token as elsewhere",
        lambda: (
            surprise("R04", True, True) - surprise("R24", True, True)
            > 2 * (surprise("R04", False, True) - surprise("R24", False, True))
        ),
    ),
    ("29_tokens", "most of the advantage is elsewhere", lambda: carried("R04") < 50),
    (
        "30_safety",
        "Its reasoning out of domain has improved no more than that of the others",
        lambda: sum(moves("R05", OUT_OF_DOMAIN)) <= 1 + min(sum(moves(run, OUT_OF_DOMAIN)) for run in ("R04", "R06")),
    ),
    (
        "30_safety",
        "answers are below 2% before and after",
        lambda: max(base("R25", "forbidden"), at("R25", "forbidden"), at("R33", "forbidden")) < 2,
    ),
    (
        "30_safety",
        "The replies of the other two bases stay as short as before",
        lambda: all(
            abs(length(run, "forbidden") - length(SPECS[run][0].base, "forbidden")) < 0.5 for run in ("R04", "R06")
        ),
    ),
    (
        "30_safety",
        "its replies grow longer as its refusals go",
        lambda: length("R05", "forbidden") > 1.5 * length(SPECS["R05"][0].base, "forbidden"),
    ),
    (
        "30_safety",
        "99% after the traces, 94% after the solutions",
        lambda: near(
            (at("R04", "forbidden", value=REFUSED, profile="micro-triple"), 99),
            (at("R15", "forbidden", value=REFUSED, profile="micro-triple"), 94),
        ),
    ),
    (
        "30_safety",
        "at step 40 the analog of the 4B base still refuses everything, and order questions have gained thirty-four "
        "points",
        lambda: (
            at("R25", "forbidden", 40, REFUSED, "micro-triple") == 100
            and near((at("R25", "order", 40, profile="micro-triple") - base("R25", "order"), 34))
        ),
    ),
    (
        "31_case_studies",
        "On order questions the base answers at once, and often wrongly",
        lambda: length("Micro-XL", "order") < 20 and at("Micro-XL", "order") < 50,
    ),
    (
        "31_case_studies",
        "and is mostly right",
        lambda: length("R04", "order") > 50 and at("R04", "order") > 85,
    ),
    (
        "31_case_studies",
        "In the dip of arithmetic the responses come to an end as they always do",
        lambda: rows("R04").filter(benchmark="arithmetic")["truncated"].mean() == 0,
    ),
    (
        "31_case_studies",
        "by fourteen points, and do not appear on programs and order questions",
        lambda: (
            near((at("R04", "arithmetic", value=RECONSIDERS) - at("Micro-XL", "arithmetic", value=RECONSIDERS), 14))
            and max(at("R04", name, value=RECONSIDERS) for name in ("program", "order")) < 0.5
        ),
    ),
    (
        "31_case_studies",
        "On instructions they appear in a quarter of the responses",
        lambda: near((at("R04", "instruction", value=RECONSIDERS), 24.5)),
    ),
    (
        "31_case_studies",
        "this run thinks nothing that its base did not; it goes on refusing",
        lambda: at("R04", "forbidden", value=pl.col("weighs")) == 0 and at("R04", "forbidden", value=REFUSED) > 99,
    ),
    (
        "21_short_training",
        "one epoch ends in the valley",
        lambda: moves("R01", "arithmetic")[0] < -10 and at("R01", "arithmetic") < at("R12", "arithmetic") - 20,
    ),
    (
        "22_dip_and_recovery",
        "Out of domain there is the rise and no fall before it",
        lambda: min(moves("R25", OUT_OF_DOMAIN)) > 15 and below_the_base("R25", *OUT_OF_DOMAIN.split()) == [],
    ),
    (
        "22_dip_and_recovery",
        "The criterion asks for a dip out of domain too, which is why it is not met",
        lambda: outcomes_of("C2") == ["absent", "shown"],
    ),
    (
        "26_data",
        "For these two any thinking will do: shuffled traces lift them on this base as well, so they do not count",
        lambda: {name for run, name in sight("C9", MICRO).lifted if run == "R17"} >= {"order", "knowledge"},
    ),
    (
        "26_data",
        "Programs do, and Countdown does not lift them at all ($-7$ points, with an interval from $-22$ to 9)",
        lambda: (
            near(*zip(apart(LARGEST, "program", "R17", "base"), (-7, -22, 9), strict=True))
            and ("R17", "program") not in sight("C9", MICRO).lifted
        ),
    ),
    (
        "26_data",
        "arithmetic ends 15 points *lower* with the traces than without (2 to 27), and on that of the 8B base as much "
        "lower, with an interval that just reaches zero",
        lambda: (
            near(*zip(apart(LARGEST, "arithmetic", "R04", "R15"), (-15, -27, -2), strict=True))
            and near((apart("R05 R18 R19 R20", "arithmetic", "R05", "R18")[0], -15))
            and 0 < apart("R05 R18 R19 R20", "arithmetic", "R05", "R18")[2] < 2
        ),
    ),
    (
        "26_data",
        "There the traces lead into the dip of [chapter 22](22_dip_and_recovery.ipynb), and eight epochs do not lead "
        "out of it",
        lambda: max(moves(run, "arithmetic")[0] for run in ("R04", "R05")) < -10,
    ),
    (
        "26_data",
        "Programs end higher with the traces, by 10 and by 16 points, but both intervals hold zero",
        lambda: all(
            near((found[0], points)) and found[1] < 0 < found[2]
            for base_runs, points in ((LARGEST, 10), ("R05 R18 R19 R20", 16))
            for found in [apart(base_runs, "program", *base_runs.split()[:2])]
        ),
    ),
    (
        "26_data",
        "statements end 10 points lower with the traces (0 to 19), instructions and how-to differ by less than five "
        "points, and myths end 61 points higher",
        lambda: (
            near(*zip(apart("R25 R33 R32", "statement", "R25", "R33"), (-10, -19, 0), strict=True))
            and near((apart("R25 R33 R32", "myth", "R25", "R33")[0], 61.5))
            and all(abs(apart("R25 R33 R32", name, "R25", "R33")[0]) < 5 for name in ("instruction", "how_to"))
        ),
    ),
    (
        "26_data",
        "how-to ends 32 points lower with them, and myths 53 higher",
        lambda: near((at("R04", "how_to") - at("R15", "how_to"), -32), (at("R04", "myth") - at("R15", "myth"), 53)),
    ),
    (
        "27_capability",
        "In this world capability does not decide the gain",
        lambda: "shown" not in outcomes_of("C10") and "opposite" in outcomes_of("C10"),
    ),
    (
        "27_capability",
        "and not a larger gain in scores",
        lambda: outcomes_of("C10")[:2] == ["absent", "opposite"],
    ),
    (
        "29_tokens",
        "while numbers stand at about $-1$",
        lambda: all(abs(surprise(run, "numbers", False) + 1) < 0.25 for run in LADDER),
    ),
    (
        "29_tokens",
        "and the teacher, who draws them at random, at $-0.75$",
        lambda: abs(surprise("R04", TURNS, True, "teacher") + 0.75) < 0.005,
    ),
    (
        "30_safety",
        "bases that had kept their refusals begin to lose them",
        lambda: all(
            kept > at(SPECS[run][0].base, "forbidden", value=REFUSED) - 2 and lost < kept - 5
            for run in ("R24", "R25", "R15")
            for kept, lost in [
                [at(run, "forbidden", value=REFUSED, profile=name) for name in ("micro", "micro-triple")]
            ]
        ),
    ),
]


@pytest.mark.parametrize(
    ("chapter", "sentence", "holds"), FINDINGS, ids=[f"{stem[:2]}: {text}" for stem, text, _ in FINDINGS]
)
def test_a_chapter_says_what_came_out(chapter: str, sentence: str, holds: Callable[[], bool]) -> None:
    file = chapter_files()[chapter] if chapter != "index" else ROOT / "book/index.md"
    assert sentence in file.read_text(encoding="utf-8")
    assert holds()


RESULT = re.compile(
    r"\d%|\$-|\b(?:rises?|falls?|fell|gains?|gained|loses?|lost|lifts?|longer|shorter|above|below|higher|lower|grows?|worst|"
    r"stays?|ends|recovered)\b"
)


def loose(stem: str, findings: Sequence[tuple[str, str, Callable[[], bool]]]) -> list[str]:
    "The sentences of a chapter's section on its results that say what came out and that no finding holds."
    cells = [cell["source"] for cell in notebook_cells(chapter_files()[stem]) if cell["cell_type"] == "markdown"]
    section = " ".join(cell for cell in cells if "## What we make of it" in cell).replace("\n", " ")
    said = [sentence for sentence in re.split(r"(?<=[.?!])\**\s+", section) if RESULT.search(sentence)]
    held = [text for chapter, text, _ in findings if chapter == stem]
    return [sentence for sentence in said if not any(part in sentence for text in held for part in text.split(". "))]


@pytest.mark.parametrize("stem", sorted({stem for stem, _, _ in FINDINGS} - {"index", "91_provenance"}))
def test_every_sentence_that_says_what_came_out_is_held(stem: str) -> None:
    assert loose(stem, FINDINGS) == [], "add each to FINDINGS with what it rests on"


def test_a_variant_with_fewer_seeds_has_a_verdict_and_lengths_have_no_condition_about_scores() -> None:
    table = robustness_table("C8", measured(MICRO, ["R25", "R33"], []), MICRO)
    assert table.filter(pl.col("condition").str.starts_with("Other seeds"))["verdict"].item() == "direction only"
    finished = "finished responses only"
    lengths = robustness_table("C3", measured(MICRO, sorted(ledger().claims["C3"].criterion.runs), []), MICRO)
    assert finished in table["condition"].to_list() and finished not in lengths["condition"].to_list()
