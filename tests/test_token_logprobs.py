"""Token by token: which tokens, which traces, how likely, and what is made of it."""
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch
from conftest import Repository
from hypothesis import given
from hypothesis import strategies as some
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from sftrepro import (
    bases,
    codegraph,
    data,
    item_results,
    language_teacher,
    store,
    token_figures,
    token_logprobs,
    word_problems,
    workflow,
)
from sftrepro.claims import judge, ledger
from sftrepro.data import POOL, DataRequest, data_set
from sftrepro.profiles import LOGITS_PER_PIECE, ROOT, RequestError, load_profile
from sftrepro.recipes import RECIPES, Knobs
from sftrepro.sft import tokenise
from sftrepro.stats import Pair, contrasts
from sftrepro.traces import QWEN
from sftrepro.world import split_of

MICRO = load_profile("micro")
FEW = MICRO.model_copy(update={"traces": 8})
TOKENIZER = AutoTokenizer.from_pretrained(ROOT / "data/bases/micro-m")
TRACES = token_logprobs.from_world(FEW, TOKENIZER, Path())


def tiny(dtype: torch.dtype = torch.float32) -> Qwen3ForCausalLM:
    "A model that has learned nothing."
    torch.manual_seed(0)
    return (
        Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=len(TOKENIZER),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=8,
            )
        )
        .to(dtype)
        .eval()
    )


def pieces(text: str) -> list[str]:
    "A text token by token."
    return [text[begin:end] for begin, end in TOKENIZER(text, return_offsets_mapping=True)["offset_mapping"]]


def classified(text: str) -> dict[str, list[str]]:
    "The tokens of each class."
    offsets = TOKENIZER(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    found = token_logprobs.token_classes(text, offsets)
    return {
        name: [piece for piece, own in zip(pieces(text), found, strict=False) if own == name]
        for name in token_logprobs.CLASSES
    }


# Classes

@given(text=some.text(some.sampled_from("so Wait,12-+=*/\n.<think>é×{}\\")) | some.text(max_size=60))
def test_every_token_has_exactly_one_class_whatever_the_text(text: str) -> None:
    offsets = TOKENIZER(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    found = token_logprobs.token_classes(text, offsets)
    assert len(found) == len(offsets) + 1 and set(found) <= set(token_logprobs.CLASSES) and found[-1] == "rest"


@given(
    word=some.sampled_from(token_logprobs.TRANSITIONS), change=some.sampled_from([str.lower, str.upper, str.capitalize])
)
def test_every_token_of_a_transition_word_counts_and_nothing_around_it(word: str, change) -> None:
    found = classified(f"1. {change(word)}, is it? {change(word)}ed or un{change(word)}")
    assert "".join(found["transition words"]).strip() == change(word)


@pytest.mark.parametrize(
    ("text", "numbers", "operators"),
    [
        ("12+5=17.", "12517", "+="),
        ("33-25=8", "33258", "-="),
        ("is -7.", "-7", ""),
        ("\\boxed{-133}", "-133", ""),
        ("a well-known and/or case", "", ""),
        ("<think>\nx</think>", "", ""),
        ("2 \\times 3", "23", "\\times"),
        ("**bold** 3*4", "34", "*"),
        ("1,000.5 apples", "1,000.5", ""),
        ("(3)-4", "34", "-"),
        ("x-y", "", "-"),
    ],
)
def test_numbers_and_operators_are_told_apart(text: str, numbers: str, operators: str) -> None:
    found = classified(text)
    assert ["".join(found[name]).replace(" ", "") for name in ("numbers", "operators")] == [numbers, operators]


def test_the_words_are_those_of_the_criterion() -> None:
    wording = ledger().claims["C11"].criterion.wording
    assert f"({', '.join(token_logprobs.TRANSITIONS[:-1])}, {token_logprobs.TRANSITIONS[-1]})" in wording


# Traces

def test_a_trace_that_was_finetuned_on_is_never_among_the_held_out_ones(tmp_path: Path) -> None:
    held_out = token_logprobs.from_world(MICRO.model_copy(update={"traces": 60}), TOKENIZER, tmp_path)
    assert {split_of(prompt.split("\n")[0]) for prompt in held_out["prompt"]} == {"evaluation"}
    few = MICRO.model_copy(update={"row_divisor": 160, "pretraining_tokens": 160_000})  # of these its tokenizer
    for seed in (1, token_logprobs.SEED):
        data.build("Math-CoT", seed, few, tmp_path / str(seed))
        trained = {row["messages"][0]["content"] for row in data_set(tmp_path / str(seed))}
        assert len(trained) > 100 and not trained & set(held_out["prompt"])


def test_all_traces_are_right_and_the_same_at_every_call() -> None:
    assert len(TRACES) == TRACES["query"].n_unique() == FEW.traces and TRACES["verified"].all()
    assert token_logprobs.from_world(FEW, TOKENIZER, Path()).equals(TRACES)


def test_too_few_held_out_queries_are_refused_by_number() -> None:
    none_right = TRACES.with_columns(verified=False)
    order = DataRequest(RECIPES["Math-CoT"], Knobs(), token_logprobs.SEED, FEW, TOKENIZER)
    with pytest.raises(
        RequestError,
        match=r"^only 0 of 8 held-out queries have a right solution, and 8 are needed. Lower traces in "
        r"settings.ini \[micro\]",
    ):
        token_logprobs.enough_traces(order, none_right)


QUESTIONS = [
    {
        "question": f"Ann has {n} nuts and finds {n + 2} more. How many nuts has she?",
        "answer": f"She has {n}+{n + 2}=<<{n}+{n + 2}={2 * n + 2}>>{2 * n + 2} nuts.\n#### {2 * n + 2}",
    }
    for n in range(3, 30)
]


def test_real_questions_are_those_of_the_test_file(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(word_problems, "gsm8k", lambda split: asked.append(split) or QUESTIONS)
    held_out = token_logprobs.from_gsm8k(load_profile("small").model_copy(update={"traces": 5}), TOKENIZER, Path())
    assert asked == ["test"] and len(held_out) == 5 and held_out["log_probabilities"].null_count() == 0
    found = token_logprobs.token_table(held_out, tiny(), TOKENIZER)
    assert set(found["token_class"]) == set(token_logprobs.CLASSES)


def test_a_language_model_teacher_is_asked_what_no_row_asks_and_its_log_probabilities_are_unknown(
        monkeypatch: pytest.MonkeyPatch, own_store: Path, tmp_path: Path) -> None:
    profile = load_profile("paper").model_copy(update={"traces": 3})
    items = [word_problems.word_problem(row) for row in QUESTIONS]
    seen = items[:20]
    rows = pl.DataFrame(
        {
            "messages": [[{"role": "user", "content": f"{item.prompt}\nPut it in a box."}] for item in seen],
            "response": ["x"] * 20,
            "answer": ["x"] * 20,
            "source": ["x"] * 20,
            "teacher": ["x"] * 20,
            "verified": [True] * 20,
            "tokens": [1] * 20,
        }
    )
    store.write_table(store.data_folder("paper", "Math-CoT-20k", 1) / "data.parquet", rows)

    def teach(items, teaching, seed, folder) -> pl.DataFrame:
        return pl.DataFrame(
            [
                {
                    "query": item.id,
                    "prompt": item.prompt,
                    "answer": item.answer,
                    "candidate": 0,
                    "tokens": 9,
                    "response": f"<think>\nWait.\n</think>\n\n\\boxed{{{item.answer}}}",
                    "truncated": False,
                    "verified": True,
                    "log_probabilities": None,
                }
                for item in items
            ],
            schema=POOL,
        )

    monkeypatch.setattr(language_teacher, "openr1", lambda: items)
    monkeypatch.setattr(bases, "hub_folder", lambda *_: ROOT / "data/bases/micro-m")
    monkeypatch.setattr(language_teacher, "teach", teach)
    held_out = token_logprobs.from_openr1(profile, TOKENIZER, tmp_path)
    assert len(held_out) == 3 and not set(held_out["prompt"]) & {item.prompt for item in seen}
    found = token_logprobs.by_class(token_logprobs.token_table(held_out, tiny(), TOKENIZER))
    assert found["teacher_log_probability"].null_count() == len(found) and found["log_probability"].null_count() == 0


# Log-probabilities

def reference(model: Qwen3ForCausalLM, prompt: str, response: str) -> list[float]:
    "One trace at a time, all logits, nothing clever."
    row = tokenise(TOKENIZER, [{"role": "user", "content": prompt}], response)
    ids = torch.tensor([row["input_ids"]])
    with torch.no_grad():
        logits = model(ids).logits[0]
    said = torch.log_softmax(logits.double(), dim=-1)
    first = len([label for label in row["labels"] if label == -100])
    return [said[place - 1, ids[0, place]].item() for place in range(first, ids.shape[1])]


@pytest.mark.parametrize("piece", [LOGITS_PER_PIECE, 7])
def test_log_probabilities_are_those_of_a_plain_forward_pass(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(token_logprobs, "LOGITS_PER_PIECE", piece)
    monkeypatch.setattr(token_logprobs, "batches", lambda lengths, *_, **__: [[2, 0], [1], [*range(3, len(lengths))]])
    model = tiny(torch.float64)
    found = token_logprobs.token_table(TRACES, model, TOKENIZER)
    for trace in TRACES.iter_rows(named=True):
        ours = found.filter(item_id=trace["query"])["log_probability"].to_list()
        theirs = reference(model, trace["prompt"], trace["response"])
        assert len(ours) == len(theirs) and ours == pytest.approx(theirs, abs=1e-5)


def test_the_teachers_log_probabilities_line_up_with_the_tokens() -> None:
    found = token_logprobs.token_table(TRACES, tiny(), TOKENIZER)
    for trace in TRACES.iter_rows(named=True):
        own = found.filter(item_id=trace["query"])
        assert "".join(own["token"]) == trace["response"] and own["token"][-1] == ""
        assert own["teacher_log_probability"].to_list() == trace["log_probabilities"]
        chosen = own.filter(pl.col("teacher_log_probability") < 0)
        assert set(chosen["token_class"]) <= {"rest", "transition words", "numbers"}


def test_a_look_shows_in_its_first_word_with_the_teachers_chance_of_it() -> None:
    own_words = FEW.model_copy(update={"teacher_words": "own"})
    found = token_logprobs.token_table(token_logprobs.from_world(own_words, TOKENIZER, Path()), tiny(), TOKENIZER)
    looked = found.filter((pl.col("token") == " Alternatively") & (pl.col("teacher_log_probability") < 0))
    assert len(looked) and looked["teacher_log_probability"].max() < math.log(QWEN.habits.look_again / 3) + 1e-9


def test_a_tokenizers_own_first_token_takes_nothing_from_the_teacher() -> None:
    assert (
        token_logprobs.aligned([0.0, -1.0, -2.0], 2) == [-1.0, -2.0]
        and token_logprobs.aligned([-1.0], 1) == [-1.0]
        and token_logprobs.aligned(None, 2) == [None, None]
    )
    with pytest.raises(ValueError, match="^4 log-probabilities of the teacher for 2 tokens$"):
        token_logprobs.aligned([0.0] * 4, 2)


def test_means_are_those_of_the_tokens_and_no_token_is_lost() -> None:
    found = token_logprobs.token_table(TRACES, tiny(), TOKENIZER)
    means = token_logprobs.by_class(found)
    assert means["tokens"].sum() == len(found)
    whole = (means["log_probability"] * means["tokens"]).sum() / means["tokens"].sum()
    assert whole == pytest.approx(found["log_probability"].mean())


# What is made of it

def imagined(
    gains: dict[str, float], runs: dict[str, str] | None = None, seeds: int = 3, noise: float = 0.1
) -> pl.DataFrame:
    "Token results of two runs; the second is better by so many nats, class by class."
    rng, rows = random.Random(0), []
    counts = {"transition words": 2, "numbers": 30, "operators": 12, "rest": 40}
    for run, base in (runs or {"R24": "Micro-S", "R04": "Micro-XL"}).items():
        for seed in range(1, 1 + seeds):
            for item, step, (name, count) in [
                (item, step, each) for item in range(60) for step in (0, 320) for each in counts.items()
            ]:
                better = gains[name] * (1 if step else 0.5) if run == "R04" else 0.0
                rows.append(
                    {
                        "profile": "micro",
                        "run_id": f"{run}-{seed}",
                        "run_name": run,
                        "base": base,
                        "data": "Math-CoT",
                        "seed": seed,
                        "step": step,
                        "item_id": str(item),
                        "trace_digest": "d",
                        "token_class": name,
                        "tokens": count + item % 3,
                        "log_probability": -3 + better + (rng.gauss(0, noise) if step else 0),
                        "teacher_log_probability": -0.5,
                        "series": run,
                    }
                )
    return pl.DataFrame(rows)


def test_the_derived_quantity_is_the_advantage_on_words_less_twice_that_on_the_rest() -> None:
    gains = {"transition words": 1.0, "numbers": 0.4, "operators": 0.1, "rest": 0.2}
    published = imagined(gains, noise=0.0)
    rows = token_logprobs.arranged(published)
    pair = Pair(benchmark=token_logprobs.DERIVED, name="c", above=("R04", 320), below=("R24", 320))
    expected = []
    for item in range(60):
        counts = {name: count + item % 3 for name, count in (("numbers", 30), ("operators", 12), ("rest", 40))}
        others = sum(gains[name] * count for name, count in counts.items()) / sum(counts.values())
        expected.append(gains["transition words"] - 2 * others)
    assert contrasts(rows, [pair], "nats")["estimate"][0] == pytest.approx(sum(expected) / 60)


def test_the_criterion_judges_these_rows() -> None:
    def word(**gains: float) -> str:
        names = dict(zip(("words", "numbers", "operators", "rest"), token_logprobs.CLASSES, strict=True))
        return judge(
            "C11", token_logprobs.arranged(imagined({names[name]: gain for name, gain in gains.items()})), MICRO
        ).word

    assert word(words=1.0, numbers=0.2, operators=0.2, rest=0.2) == "reproduced"
    assert word(words=0.2, numbers=0.2, operators=0.2, rest=0.2) == "contradicted"
    assert (
        judge("C11", token_logprobs.arranged(imagined(dict.fromkeys(token_logprobs.CLASSES, 0.1), seeds=1)), MICRO).word
        == "not testable at this profile"
    )


def test_a_base_counts_once_and_its_seeds_are_not_invented() -> None:
    rows = token_logprobs.arranged(imagined(dict.fromkeys(token_logprobs.CLASSES, 0.1)))
    assert set(rows.filter(step=0)["seed"]) == {0} and set(rows.filter(step=320)["seed"]) == {1, 2, 3}
    assert rows.group_by("series", "seed", "step", "benchmark", "item_id").len()["len"].unique().to_list() == [1]


def test_shares_add_up_to_the_whole() -> None:
    rows = token_logprobs.arranged(imagined({"transition words": 1.0, "numbers": 0.4, "operators": 0.0, "rest": 0.2}))
    found = token_figures.shares(rows, ("R04", 320), ("R24", 320))
    assert found["estimate"].sum() == pytest.approx(1) and (found["low"] < found["estimate"]).all()
    assert found.filter(benchmark="operators")["low"][0] < 0 < found.filter(benchmark="operators")["high"][0]


def test_an_advantage_that_may_be_nothing_has_no_shares() -> None:
    rows = token_logprobs.arranged(imagined(dict.fromkeys(token_logprobs.CLASSES, 0.0)))
    assert set(token_figures.shares_of(rows, MICRO)["series"]) == {"of the tokens"}
    rows = token_logprobs.arranged(imagined(dict.fromkeys(token_logprobs.CLASSES, 0.2)))
    assert set(token_figures.shares_of(rows, MICRO)["series"]) == {
        "of the tokens",
        "Micro-XL over Micro-S, base",
        "Micro-XL over Micro-S, finetuned",
    }


def test_traces_that_differ_are_not_compared_and_missing_words_leave_the_trace_in_the_other_classes() -> None:
    published = imagined(dict.fromkeys(token_logprobs.CLASSES, 0.1))
    first = (pl.col("series") == "R04") & (pl.col("item_id") == "0")
    rows = token_logprobs.arranged(
        published.with_columns(trace_digest=pl.when(first).then(pl.lit("e")).otherwise("trace_digest"))
    )
    assert "0" not in set(rows["item_id"]) and rows["item_id"].n_unique() == 59
    rows = token_logprobs.arranged(
        published.filter(~((pl.col("item_id") == "1") & (pl.col("token_class") == "transition words")))
    )
    held = {name: "1" in set(part["item_id"]) for (name,), part in rows.group_by("benchmark")}
    assert held == {name: name not in ("transition words", token_logprobs.DERIVED) for name in held}
    message = "come from other traces than those of the other runs. Make them again: make rebuild PROFILE=micro$"
    with pytest.raises(RequestError, match=message):
        token_logprobs.arranged(published.with_columns(trace_digest="series"))


def test_models_that_cut_texts_otherwise_are_left_out_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    published = imagined(dict.fromkeys(token_logprobs.CLASSES, 0.1)).with_columns(
        tokens=pl.when(pl.col("series") == "R04").then(pl.col("tokens") + 1).otherwise("tokens"))
    rows = token_logprobs.arranged(published)
    assert token_figures.comparisons(rows, MICRO) == []
    token_figures.show_advantages(rows, MICRO)
    assert set(token_figures.shares_of(rows, MICRO)["series"]) == {"of the tokens"}


# The store

ROW = imagined({name: 0.1 for name in token_logprobs.CLASSES}).filter(run_id="R24-1").drop("series")


def test_what_is_published_comes_back_and_damage_is_refused(own_store: Path) -> None:
    smoke = load_profile("smoke")
    path = item_results.publish_tokens(smoke, "R24-1", ROW, {"spec": 1})
    assert path == own_store / "smoke/results/tokens/R24-1.parquet"
    assert item_results.read_tokens(smoke, ["R24-1"]).equals(
        item_results.checked_tokens(ROW, "")
        .sort("step", "item_id", "token_class")
        .with_columns(pl.col("log_probability", "teacher_log_probability").round(6))
    )
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(
        RequestError, match="R24-1.parquet: sha256 differs from its manifest. Make it again: make rebuild PROFILE=smoke"
    ):
        item_results.read_tokens(smoke, ["R24-1"])
    with pytest.raises(
        RequestError, match=r"^chapter 29 needs the token results of 1 runs that are not in the store \(first: R04-1\)"
    ):
        item_results.verified_tokens(smoke, ["R04-1"], "chapter 29")


@pytest.mark.parametrize(
    "wrong",
    [{"log_probability": 0.5}, {"tokens": 0}, {"step": -1}, {"item_id": None}, {"token_class": None}, {"extra": 1}],
)
def test_rows_that_cannot_be_are_refused_and_nothing_is_written(own_store: Path, wrong: dict) -> None:
    with pytest.raises(RequestError, match="^token results of R24-1: "):
        item_results.publish_tokens(
            load_profile("smoke"),
            "R24-1",
            ROW.with_columns(**{name: pl.lit(value) for name, value in wrong.items()}),
            {},
        )
    assert not own_store.exists()


# The job

def test_only_traced_runs_are_read_and_settings_say_which() -> None:
    traced = {name: [job.key for job in workflow.jobs(load_profile(name)).values() if job.kind == "tokens"]
              for name in ("smoke", "micro", "micro-third", "small", "paper")}
    assert {name: len(keys) for name, keys in traced.items()} == {
        "smoke": 2,
        "micro": 12,
        "micro-third": 9,
        "small": 2,
        "paper": 4,
    }
    flow = workflow.load_flow(MICRO)
    inputs = flow.inputs[f"tokens/{traced['micro'][0]}"]
    assert "traced" not in inputs["settings"] and inputs["settings"]["traces"] == 200
    assert workflow.entry_points("tokens", MICRO)[-1] == "token_logprobs.from_world" and workflow.entry_points(
        "data", MICRO
    ) == ("mixtures.build",)
    assert (
        "language_teacher.teach" not in inputs["code"]
        and "token_logprobs.predictions" in inputs["code"]
        and "token_figures.shares" not in inputs["code"]
    )


def test_training_and_generation_do_not_depend_on_tokens() -> None:
    code = codegraph.library()
    for entry in (
        "sft.train",
        "bases.pretrain",
        "evaluate.generate_responses",
        "evaluate.score_responses",
        "mixtures.build",
    ):
        assert not {name for name in codegraph.closure({entry}, code) if name.startswith("token_logprobs.")}


def test_a_chapter_that_imports_tokens_needs_those_of_its_runs() -> None:
    chapter = workflow.jobs(MICRO)["chapter/29_tokens"]
    assert len(chapter.spec["tokens"]) == 12 and {f"tokens/{key}" for key in chapter.spec["tokens"]} <= set(
        chapter.needs
    )
    assert "tokens" not in workflow.jobs(MICRO)["chapter/20_base_models"].spec


DO = """
from sftrepro import execution, workflow
from sftrepro.profiles import load_profile
flow = workflow.load_flow(load_profile("tiny"))
for name in [name for name in flow.jobs if name.startswith("tokens/")]:
    execution.do(name, flow)
"""
WHY = """
import json
from sftrepro import workflow
from sftrepro.profiles import load_profile
flow = workflow.load_flow(load_profile("tiny"))
print(json.dumps([workflow.reasons(job, flow) for job in flow.jobs.values() if job.kind == "tokens"][0]))
"""


@pytest.fixture
def made(finished: Repository, tmp_path: Path) -> Repository:
    "A copy of the small repository to change; its run has been read as well."
    return finished.copied(tmp_path / "made")


def published(repository: Repository) -> Path:
    "The tiny profile's token results."
    return next((repository.store / "tiny/results/tokens").glob("*.parquet"))


def test_the_job_is_fresh_until_what_it_is_made_from_changes(made: Repository) -> None:
    assert json.loads(made.python(WHY)) == []
    made.edit("sftrepro/token_figures.py", "def shares(", "def shares(added=None, *,")
    assert json.loads(made.python(WHY)) == []
    made.edit("sftrepro/token_logprobs.py", '"maybe", ', "")
    assert json.loads(made.python(WHY)) == ["function token_logprobs.TRANSITIONS changed"]
    made.profile("tiny", "tiny", traces="7")
    assert "setting traces changed from 20 to 7" in json.loads(made.python(WHY))


def test_the_job_reads_the_base_and_the_last_checkpoint_with_the_same_traces(made: Repository) -> None:
    found = pl.read_parquet(published(made))
    assert found["item_id"].n_unique() == 20 and found["step"].n_unique() == 2 and found["step"].min() == 0
    folder = next(made.store.glob("tiny/Nano_*/tokens"))
    last = max(int(path.name[-6:]) for path in folder.parent.glob("step-*"))
    assert found["step"].max() == last
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json",
        "traces.parquet",
        "step-000000.parquet",
        f"step-{last:06d}.parquet",
    }
    status = made.run("status", "--profile", "tiny")[1]
    assert f"fresh  results/tokens/{published(made).stem}" in status


def test_damaged_results_are_named(made: Repository) -> None:
    path = published(made)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert json.loads(made.python(WHY)) == [f"runs/tiny/results/tokens/{path.name}: sha256 differs from its manifest"]


@pytest.mark.release
def test_a_killed_job_goes_on_and_ends_with_the_same_results(made: Repository) -> None:
    path, folder = published(made), next(made.store.glob("tiny/Nano_*/tokens"))
    good = path.read_bytes()
    path.unlink()
    shutil.rmtree(folder)
    slow = DO.replace(
        "flow = ",
        (
            "import time\nfrom sftrepro import token_logprobs\nread, patience = token_logprobs.token_table, [0, 600]\n"
            "def slowly(*given):\n    table = read(*given)\n    print('read', flush=True)\n"
            "    time.sleep(patience.pop(0))\n    return table\n"
            "token_logprobs.token_table = slowly\nflow = "
        ),
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow], cwd=made.folder, env=made.environment(), text=True, stdout=subprocess.PIPE
    )
    assert (
        process.stdout.readline() == "read\n" and process.stdout.readline() == "read\n"
    )  # the first table is on the disk
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    partial = folder.with_name("tokens.partial")
    kept = partial / "step-000000.parquet"
    assert kept.exists() and len(list(partial.glob("step-*"))) == 1 and not folder.exists() and not path.exists()
    before = kept.stat().st_mtime_ns
    time.sleep(0.01)
    made.python(DO)
    assert (folder / kept.name).stat().st_mtime_ns == before and path.read_bytes() == good
    path.write_bytes(good[:-1] + b"x")
    made.python(DO)
    assert path.read_bytes() == good and json.loads(made.python(WHY)) == []
