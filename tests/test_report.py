"What the chapters of part II have in common: the right runs, the right published numbers, examples chosen by rule."
import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as some

from sftrepro import cards, chapters, contents, item_results, paper, report, store
from sftrepro import robustness as module
from sftrepro.claims import Sight, judge, ledger
from sftrepro.measurements import measured
from sftrepro.paper import comparable, published_for, published_here, run_of
from sftrepro.profiles import load_profile
from sftrepro.report import cases, dips, end_points, labels, turned, versus
from sftrepro.robustness import robustness_table, variant_results
from sftrepro.runs import paper_runs, run_specs
from sftrepro.stats import simulated

MICRO = load_profile("micro")
PUBLISHED = store.read_table(paper.PUBLISHED_SCORES)


def test_every_published_row_belongs_to_a_run_or_to_a_base():
    for model, data, step in PUBLISHED.select("model", "data", "step").unique().iter_rows():
        run = run_of(model, data)
        assert (run is None) == (data.lower() == "base") and (run or step == 0), (model, data)
        if run:
            assert report.model_name(paper_runs()[run].base_model) == model and step <= paper_runs()[run].steps


@pytest.mark.parametrize(
    "run, benchmark, step, value",
    [
        ("R04", "arithmetic", 320, 95.1),
        ("R16", "program", 320, 20.4),
        ("R25", "order", 20, 19.4),
        ("R01", "instruction", 40, 54.4),
        ("R11", "knowledge", 320, 70.5),
        ("R24", "competition", 5, 4.3),
        ("R30", "order", 320, 18.7),
    ],
)
def test_a_published_number_comes_to_its_run_and_its_step(run, benchmark, step, value):
    assert published_for(MICRO, [run]).filter(benchmark=benchmark, step=step)["value"].to_list() == [value]


def test_every_run_with_published_numbers_begins_at_the_published_base():
    for run in published_here(MICRO)["run"].drop_nulls().unique():
        table = published_for(MICRO, [run])
        start = table.filter(step=0)
        assert len(start) and not table.select("series", "benchmark", "step").is_duplicated().any()
        assert set(start["benchmark"]) <= set(table.filter(pl.col("step") > 0)["benchmark"])


def test_rewards_are_not_set_beside_shares():
    assert "how_to" not in set(published_here(MICRO)["benchmark"]) and "AlpacaEval-RM" not in comparable(MICRO)


@pytest.mark.parametrize("runs, said", [
    (["R04"], {"R04": "R04"}),
    (["R04", "R05"], {"R04": "R04: Micro-XL", "R05": "R05: Micro-L"}),
    (["R04", "R13"], {"R04": "R04: cosine, 8 epochs", "R13": "R13: constant, 16 epochs"})])
def test_a_series_is_called_by_what_sets_it_apart(runs, said):
    assert labels(MICRO, runs) == said


def test_labels_tell_all_runs_apart():
    names = labels(MICRO, list(paper_runs()))
    assert len(set(names.values())) == 33


def run_of_scores(*scores, series="R25", items=2000):
    found = simulated(
        {"order": scores}, steps=(0, 5, 10, 20, 40)[: len(scores)], series=series, items=items, seed_spread=0
    )
    return found.with_columns(base=pl.lit("Micro-M"))


@pytest.mark.parametrize(
    "scores, lowest, recovered",
    [
        ((0.5, 0.2, 0.3, 0.6, 0.7), 5, "20"),
        ((0.5, 0.4, 0.3, 0.2, 0.1), 40, "not"),
        ((0.5, 0.3, 0.1, 0.2, 0.4), 10, "not"),
    ],
)
def test_the_dip_table_names_the_lowest_step_and_the_recovery(scores, lowest, recovered):
    row = dips(run_of_scores(*scores)).row(0, named=True)
    assert (row["lowest at step"], row["recovered at step"]) == (lowest, recovered)
    assert row["rise to the last step"].startswith("none") == (lowest == 40)


def test_ends_have_each_base_once_and_each_run_s_last_step():
    both = pl.concat([run_of_scores(0.5, 0.4, 0.6), run_of_scores(0.5, 0.4, 0.6, 0.7, series="R33")])
    found = end_points(both)
    assert found.group_by("series", maintain_order=True).agg(pl.col("step").unique().first()).rows() == [
        ("Micro-M, base", 0), ("R25", 10), ("R33", 20)]
    assert len(found.filter(step=0)) == 2000


def test_a_refusal_turns_only_where_the_base_refused_and_the_answer_is_full():
    def row(step, item, answer, score, weighs=False):
        return {
            "series": "R25",
            "seed": min(step, 1),
            "step": step,
            "benchmark": "forbidden",
            "item_id": item,
            "trial": 0,
            "answer": answer,
            "score": score,
            "weighs": weighs,
        }

    found = turned(
        pl.DataFrame([row(0, "a", "1", 0.0), row(0, "b", "5", 1.0), row(5, "a", "5", 1.0, True), row(5, "b", "5", 1.0)])
    )
    assert found.select("item_id", "turned", "weighing", "unweighed").rows() == [("a", True, True, False)]


@given(some.lists(some.tuples(some.booleans(), some.booleans(), some.booleans()), min_size=1, max_size=6))
def test_examples_are_the_first_items_of_their_kind(verdicts):
    shown = pl.DataFrame(
        [
            {"benchmark": "order", "item_id": f"item{number}", "step": step, "score": float(right)}
            for number, moments in enumerate(verdicts)
            for step, right in zip((0, 20, 320), moments, strict=True)
        ]
    )
    rules = {
        "recovered": lambda base, low, last: base and not low and last,
        "lost": lambda base, low, last: base and not last,
        "gained": lambda base, low, last: not base and last,
    }
    for kind, rule in rules.items():
        right = [f"item{number}" for number, moments in enumerate(verdicts) if rule(*moments)]
        assert report.first_of(kind, shown, [0, 20, 320])["item_id"].unique().to_list() == right[:1]


def test_a_variant_without_results_is_not_run(tmp_path, monkeypatch):
    variant = MICRO.model_copy(update={"results_dir": tmp_path, "runs": ("R25",)})
    assert variant_results(variant, ["R25"]) is None and variant_results(variant, ["R04"]) is None


def test_the_variants_at_other_rates_are_found_and_no_others():
    found = module.rate_variants(MICRO, ["R25", "R33"], ["arithmetic"])
    assert [variant.name for variant, _ in found] == ["micro-third", "micro-triple"]
    for _, results in found:
        assert set(results["series"]) == {"R25", "R33"} and set(results["benchmark"]) == {"arithmetic"}
    assert (
        module.rate_variants(MICRO, ["R07"], ["arithmetic"])
        == []
        == module.rate_variants(load_profile("smoke"), ["R25"], ["arithmetic"])
    )


def test_a_verdict_without_unfinished_responses_is_another_row(monkeypatch):
    monkeypatch.setattr(module, "variants", lambda profile: [])
    law = [0.5, 0.2, 0.3, 0.6, 0.7]
    found = simulated(
        {"arithmetic": law, "order": law, "program": law}, steps=(0, 5, 10, 20, 40), items=400, seed_spread=0
    )
    half = found.with_columns(finished=(pl.col("step") != 5) | (pl.col("score") == 1))
    rows = robustness_table("C2", half, MICRO)
    assert rows["condition"].to_list() == [
        "as the criterion says",
        "finished responses only",
        "without one of the seeds, each in turn",
    ]
    assert rows["verdict"][0] == "reproduced"


def test_a_word_that_hangs_on_one_seed_is_another_without_it(monkeypatch):
    monkeypatch.setattr(module, "variants", lambda profile: [])

    def all_three(law):
        return simulated(
            dict.fromkeys(("arithmetic", "order", "program"), law), steps=(0, 5, 10, 20, 40), items=400, seed_spread=0
        )
    dipping = all_three([0.5, 0.2, 0.3, 0.6, 0.7])
    mixed = pl.concat([dipping.filter(pl.col("seed") < 3), all_three([0.5] * 5).filter(pl.col("seed") == 3)])
    words = [verdict.word for verdict in module.without_each_seed("C2", mixed, MICRO)]
    assert len(words) == 3 and words[2] == "reproduced" and "reproduced" not in words[:2]
    assert robustness_table("C2", mixed, MICRO)["verdict"][2] == f"{words[0]} or reproduced" and words[0] == words[1]
    assert robustness_table("C2", dipping, MICRO)["verdict"].to_list() == ["reproduced"] * 3
    assert module.without_each_seed("C2", dipping.filter(pl.col("seed") < 2), MICRO) == []


def test_a_published_table_keeps_its_rows_apart_from_ours(monkeypatch):
    monkeypatch.setattr(report, "ours_for", lambda model, data, results, profile: None)
    found = versus("Table 2", pl.DataFrame(), MICRO)
    assert found["whose"].to_list() == ["published", "ours"] * 15
    theirs = found.filter(model="Qwen3-14B-Base", data="NuminaMath", whose="published")
    assert theirs["LiveCodeBench-v2"].to_list() == ["20.4"]
    assert set(found.filter(whose="ours")["model"]) == {"Micro-L", "Micro-XL", "Micro-Llama"}  # never the paper's names


def test_the_gallery_gives_the_responses_of_the_first_seed(tmp_path, monkeypatch):
    first = next(spec for spec in run_specs(MICRO, ("R25",)) if spec.seed == 1)
    asked = []
    def gallery(profile, ids):
        asked.extend(ids)
        return pl.DataFrame(
            [
                {
                    "benchmark": "order",
                    "item_id": "a",
                    "step": step,
                    "tokens": 1,
                    "score": float(step != 5),
                    "response": str(step),
                }
                for step in (0, 5, 10)
            ]
        )
    monkeypatch.setattr(item_results, "read_gallery", gallery)
    found = cases(run_of_scores(0.5, 0.2, 0.6).with_columns(base=pl.lit("Micro-M")), MICRO)
    assert asked == ["Micro-M", first.run_id] and found["kind"].unique().to_list() == ["recovered"]
    assert found["response"].to_list() == ["0", "5", "10"]


# The head of a chapter

EXPERIMENTS = [path for path in contents.experiments() if re.match(r"(2\d[a-z]?|3[01]|4\d)_", path.stem)]


def dipping(chapter_profile=MICRO):
    law = {"arithmetic": [0.5, 0.2, 0.3, 0.6, 0.7], "order": [0.4] * 5, "program": [0.4] * 5}
    return judge("C2", simulated(law, steps=(0, 5, 10, 20, 40), items=400, seed_spread=0), chapter_profile)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_a_chapter_opens_with_its_claims_and_its_key_figure(path):
    cells = [(cell["cell_type"], cell["source"], cell["metadata"].get("tags", [])) for cell in
             contents.notebook_cells(path)]
    assert cells[0][0] == "markdown" and len(cells[0][1].splitlines()) == 1
    head = [source for kind, source, tags in cells[1:] if "head" in tags]
    (_, box, tags), (kind, figure, _) = cells[1 + len(head) : 3 + len(head)]
    label = contents.chapter_label(path.stem)
    assert re.search(rf"show_opening\(\"?{label}\"?, ", box) and "remove-input" in tags
    assert kind == "code" and re.search(r"^ *(with .*: )?show", figure, re.MULTILINE)
    here = {id for id, claim in (ledger().claims | ledger().hypotheses).items() if str(claim.chapter) == label}
    assert here <= set(re.findall(r"\b[CH]\d+[a-z]?\b", "\n".join([*head, box])))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_parameters_come_before_what_uses_them(path):
    sources = [cell["source"] for cell in contents.notebook_cells(path)]
    declared = next(i for i, source in enumerate(sources) if source.startswith('profile = "micro"'))
    assert declared < next(i for i, source in enumerate(sources) if "load_profile(profile)" in source)
    assert chapters.read_chapter(path).parameters["profile"] == "micro"


def test_a_box_says_what_the_verdict_says_and_no_more():
    verdict = dipping()
    box = cards.opening(22, [verdict], MICRO)
    text = re.sub("<[^>]+>", "", box)
    assert f"{verdict.claim.title} {verdict.word}" in text
    for test, row in cards.decisive(verdict).items():
        assert f"{test}: {cards.OUTCOMES[verdict.tests[test]]} ({row['benchmark']}, " in text
        assert cards.effect(row) in text
    assert "3 seeds, 400 items" in text and cards.REACH[verdict.word] in text


def test_a_box_of_what_cannot_be_tested_says_why():
    verdict = dipping(load_profile("smoke"))
    box = re.sub("<[^>]+>", "", cards.opening(22, [verdict], load_profile("smoke")))
    assert verdict.word in box and f"Why: {verdict.reasons[0]}" in box and "C2: nothing" in box


def test_a_control_that_fails_is_named_in_the_box():
    verdict = judge("C2", simulated({"arithmetic": [0.5] * 4, "order": [0.5] * 4}), MICRO,
                    seen=Sight(failed=("control null fails for Micro-M: it costs",)))
    assert "Control null fails for Micro-M: it costs." in cards.basis([verdict])


@pytest.mark.parametrize(("words", "minutes"), [(1, 1), (200, 1), (201, 2)])
def test_reading_time_counts_prose_alone(tmp_path, notebook, words, minutes):
    folded = "\n\n```{dropdown} Answer\n" + "word " * 500 + "\n```"
    path = tmp_path / "20_toy.ipynb"
    notebook(path, [("# " + "word " * (words - 1) + folded, ()), ("x = 1  # " + "word " * 500, ())])
    assert cards.reading_minutes(path) == minutes


def test_a_path_through_the_book_takes_as_long_as_its_chapters() -> None:
    minutes = sum(cards.reading_minutes(contents.chapter_file(label)) for label in ("22", "26"))
    shown = cards.reading_paths({"What came out": ("22", "26")})
    assert f"{minutes} minutes" in shown
    assert re.findall(r'href="([^"]+)"', shown) == ["../nbs/22_dip_and_recovery.html", "../nbs/26_data.html"]


def test_more_is_better_unless_it_harms():
    assert report.better("score", ["order", "forbidden"]) == {"order": "higher", "forbidden": "lower"}
    assert set(report.better("tokens", ["order"]).values()) == {""}
    assert report.better("truncated", ["order"]) == {"order": "lower"}


def test_a_variant_with_controls_of_its_own_is_judged_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(module, "sight", lambda id, profile: asked.append(profile.name) or Sight())
    robustness_table("C8", measured(MICRO, ["R25", "R33"], []), MICRO)
    assert set(asked) == {"micro", "micro-redrawn"}
