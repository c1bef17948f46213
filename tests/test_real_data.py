"Real questions: what a program makes of them is right where it says so, and whatever is left out is listed."
import copy
import json
import math
import os
import random
import re
from collections.abc import Callable
from fractions import Fraction
from itertools import islice, product
from pathlib import Path

import polars as pl
import pytest
import reasoning_gym
from huggingface_hub import constants
from hypothesis import assume, given
from hypothesis import strategies as st
from stand_ins import authors_rows
from tokenizers import normalizers

from sftrepro import authors, language_teacher, solvers, word_problems
from sftrepro.analogs import draw
from sftrepro.answers import boxed
from sftrepro.authors import Published, as_rows, authors_data
from sftrepro.bases import prompt_text, train_tokenizer
from sftrepro.countdown import SEARCHER, takes_back
from sftrepro.data import SCHEMA, SPARE, candidate, checked_columns, is_correct, query_text, random_generator
from sftrepro.generate import Sampling
from sftrepro.language_teacher import Teaching, construct, questions_in
from sftrepro.profiles import ROOT, RequestError, load_profile
from sftrepro.runs import paper_runs
from sftrepro.solvers import SHORT, THINKERS, backwards, by_parts, is_right, make, request_of
from sftrepro.word_problems import (
    GSM8K,
    GYM,
    Calculation,
    exact,
    gsm8k,
    gym,
    gym_items,
    holds,
    islanders_item,
    steps_of,
    word_problem,
    written,
)
from sftrepro.world import Item, split_of, world_of

SMALL = load_profile("small").model_copy(update={"row_divisor": 512, "candidates": 2})
DATA = Path(os.environ.get("SFTREPRO_DATA") or "nowhere")
needs_gsm8k = pytest.mark.skipif(not (DATA / "gsm8k_train.jsonl").exists(),
                                 reason="GSM8K is not here: SFTREPRO_DATA names no folder with gsm8k_train.jsonl")
NAMES = ("Math-CoT", "Math-NoCoT", "NuminaMath", "DeepSeek-R1", "Countdown-CoT")
KINDS = ("chain_sum", "simple_equations", "leg_counting", "knights_knaves")


def made_up(number: int) -> dict[str, str]:
    "A question in the form of GSM8K, with a line without notes and a line with two."
    boxes, nuts, eaten = number + 2, 3 * number + 5, number % 4 + 1
    total, left, price = boxes * nuts, boxes * nuts - eaten, Fraction(boxes * nuts - eaten, 2)
    return {
        "question": f"There are {boxes} boxes with {nuts} nuts each. {eaten} are eaten. At $.50 each, what are the "
                    f"others worth?",
        "answer": f"Every box is full.\nThe boxes hold {boxes}*{nuts} = <<{boxes}*{nuts}={total}>>{total} nuts, so "
                  f"{total}-{eaten} = "
        f"<<{total}-{eaten}={left}>>{left} are left\nThey are worth {left}*.5 = $<<{left}*.5={written(price)}>>"
        f"{written(price)}\n#### {written(price)}",
    }


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(iter([THINKERS[0].write(word_problem(made_up(number)), random.Random(number)).text
                                 for number in range(300)]))


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A folder with questions in the form of GSM8K; some of them no program can follow, one is asked in the test file."
    folder = tmp_path_factory.mktemp("questions")
    rows = [made_up(number) for number in range(200)]
    rows += [
        row | {"question": f"Again: {row['question']}", "answer": row["answer"].replace("<<", "<").replace(">>", ">")}
        for row in rows[:20]
    ]
    rows += [row | {"question": f"Once more: {row['question']}", "answer": f"{row['answer']}9"} for row in rows[20:40]]
    for split, part in (("train", rows), ("test", [made_up(7) | {"question": made_up(7)["question"].upper()}])):
        (folder / f"gsm8k_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder


@pytest.fixture(scope="module")
def sets(questions: Path, tokenizer):
    "The five data sets, of forty rows."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFTREPRO_DATA", str(questions))
        return {name: make(request_of(name, 1, SMALL, tokenizer)) for name in NAMES}


# Numbers and steps


@given(st.fractions(-9999, 9999, max_denominator=400))
def test_a_written_number_has_its_value(value: Fraction) -> None:
    assert exact(written(value)) == value


@given(st.decimals(0, 10**6, places=3, allow_nan=False, allow_infinity=False))
def test_a_decimal_is_exact(number) -> None:
    assert exact(f"{number:,}") == Fraction(number) == exact(f"({number})*100%")


@pytest.mark.parametrize("text", ["__import__('os')", "2**99999", "x+1", "", "1//2", "[1]*9", "1_000_", "f'{1}'"])
def test_what_is_no_plain_arithmetic_is_refused(text: str) -> None:
    with pytest.raises((ValueError, SyntaxError)):
        exact(text)


@given(st.integers(-99, 999), st.sampled_from("+-*/"), st.integers(0, 99), st.integers(-12, 12))
def test_a_test_of_a_sum_fails_just_when_the_sum_is_wrong(a: int, sign: str, b: int, slip: int) -> None:
    assume(sign != "/" or (b and a % b == 0))
    expression = f"{a} {sign} {b}"
    sum_ = f"{expression} = {written(exact(expression) + slip)}"
    for test in (backwards, by_parts):
        assert (", not " in test(sum_)) == (slip != 0) == (not is_right(sum_))
        for part in test(sum_).split(", not ")[0].rstrip(".").split(", "):
            assert is_right(part)


def test_a_solution_without_slips_has_the_words_and_numbers_of_the_human_one() -> None:
    careful = THINKERS[0].turned(slip=0, backtracking=0)
    for number in range(50):
        item = word_problem(made_up(number))
        summary = careful.write(item, random.Random(number)).text.split("</think>")[1].split("The answer is")[0]
        assert re.sub(r"[\s.]", "", summary) == re.sub(r"[\s.]", "", item.truth[0])


def test_lines_without_notes_stay_with_the_step_that_they_lead_to() -> None:
    steps = steps_of("Ann has a cat.\nIt eats 2*3=<<2*3=6>>6 fish, then 6+1=<<6+1=7>>7 more.\nThat is all.")
    assert steps == (Calculation("Ann has a cat. It eats 2*3=", "2*3", ""),
                     Calculation("fish, then 6+1=", "6+1", " more. That is all."))


@pytest.mark.parametrize("solution", ["<<2*3=7>>7", "<<2*3=6>>60", "2 <<x*3=6>>6", "<<1/0=0>>0"])
def test_a_note_that_does_not_hold_is_noticed(solution: str) -> None:
    with pytest.raises((ValueError, SyntaxError, ZeroDivisionError)):
        steps_of(solution)


# Teachers


def items(kind: str, count: int) -> list[Item]:
    if kind == "gsm8k":
        return [word_problem(made_up(number)) for number in range(count)]
    return [item for item in islice(gym_items(kind, seed=5), count) if isinstance(item, Item)]


@pytest.mark.parametrize("kind", ["gsm8k", *KINDS])
def test_a_teacher_who_never_slips_is_always_right(kind: str) -> None:
    for number, item in enumerate(items(kind, 150)):
        for teacher in THINKERS:
            text = teacher.turned(slip=0, look=0.5).write(item, random.Random(number)).text
            assert is_correct(item, text), text
            assert text.startswith("<think>\n") and text.count("</think>") == 1


@pytest.mark.parametrize("kind", ["gsm8k", *KINDS])
def test_slips_that_nobody_notices_mostly_end_in_a_wrong_answer(kind: str) -> None:
    careless = [teacher.turned(slip=1, check=0, look=0, backtracking=0) for teacher in THINKERS]
    answers = [(boxed(teacher.write(item, random.Random(number)).text), item.answer)
               for number, item in enumerate(items(kind, 60)) for teacher in careless]
    assert sum(exact(found) != exact(answer) for found, answer in answers) > 0.75 * len(answers)


def test_a_slip_is_carried_on_into_the_next_step() -> None:
    for number, item in enumerate(items("chain_sum", 80)):
        text = THINKERS[0].turned(slip=0.7, check=0, look=0, backtracking=0).write(item, random.Random(number)).text
        lines = text.split("</think>")[1].strip().split("\n")[:-2]
        for line, following in zip(lines, lines[1:], strict=False):
            assert following.startswith(line.split(" = ")[1].rstrip(".") + " "), text


@pytest.mark.parametrize("kind", ["gsm8k", *KINDS])
@pytest.mark.parametrize("share", [0, 1])
def test_backtracking_is_in_the_share_of_traces_that_was_asked_for(kind: str, share: int) -> None:
    for number, item in enumerate(items(kind, 60)):
        for teacher in THINKERS:
            text = teacher.turned(backtracking=share, look=0).write(item, random.Random(number)).text
            assert takes_back(text) == bool(share), text


def test_the_log_probabilities_of_a_trace_sum_to_those_of_its_choices(tokenizer) -> None:
    for kind in ("gsm8k", *KINDS):
        for number, item in enumerate(items(kind, 20)):
            pen = THINKERS[0].write(item, random.Random(number))
            row = candidate(item, pen, 10**4, tokenizer)
            assert math.isclose(sum(row["log_probabilities"]), sum(each for _, each in pen.choices), abs_tol=1e-9)
            assert len(row["log_probabilities"]) == row["tokens"]


# Problems of reasoning-gym


def test_the_islanders_have_one_solution_and_it_is_reasoning_gyms() -> None:
    for problem in islice(gym("knights_knaves", seed=2), 300):
        about = problem["metadata"]
        fitting = [case for case in product((True, False), repeat=len(about["names"]))
                   if all(holds(said, case) == honest for said, honest in zip(about["statements"], case, strict=True))]
        assert fitting == [tuple(about["solution"])]
        assert islanders_item(problem).answer == str(sum(about["solution"]))


def test_countdown_solutions_are_right_in_reasoning_gyms_eyes_as_well() -> None:
    game = reasoning_gym.create_dataset("countdown", seed=1, size=1, **GYM["countdown"])
    for number, item in enumerate(islice(gym_items("countdown", seed=3), 40)):
        if isinstance(item, Item):
            answer = boxed(SEARCHER.write(item, random.Random(number)).text)
            entry = {"metadata": {"numbers": list(item.truth[1:]), "target": item.truth[0]}}
            assert is_correct(item, f"\\boxed{{{answer}}}") and game.score_answer(answer, entry) == 1


@pytest.mark.parametrize("kind", GYM)
def test_neighbouring_seeds_ask_other_questions(kind: str) -> None:
    one, other = ({problem["question"] for problem in islice(gym(kind, seed), 200)} for seed in (1, 2))
    assert len(one & other) <= 20


@pytest.mark.parametrize("kind", GYM)
def test_prompts_are_distinct_and_of_the_finetuning_split(kind: str) -> None:
    found = list(islice((each for each in gym_items(kind, 5) if isinstance(each, Item)), 160))
    assert len({item.id for item in found}) == len(found) == 160
    assert {split_of(item.prompt) for item in found} == {"finetuning"}


# Data sets of `small`


def prompts_of(table: pl.DataFrame) -> list[str]:
    return [turns[0]["content"] for turns in table["messages"]]


def test_every_set_has_the_columns_of_the_world(sets) -> None:
    for name, made in sets.items():
        assert checked_columns(made.data, name).schema == pl.Schema(SCHEMA) and len(made.data) == 40


def test_the_mathematical_sets_ask_the_same_questions(sets) -> None:
    assert len({tuple(prompts_of(sets[name].data)) for name in NAMES[:4]}) == 1


def test_taking_the_thinking_out_is_all_that_tells_the_two_sets_apart(sets) -> None:
    for long, short in zip(sets["Math-CoT"].data["response"], sets["Math-NoCoT"].data["response"], strict=True):
        assert long.split("</think>")[1].strip() == short and "<think>" in long


def test_chosen_rows_are_right_and_people_may_be_wrong(sets) -> None:
    for name in ("Math-CoT", "Math-NoCoT", "DeepSeek-R1", "Countdown-CoT"):
        assert sets[name].data["verified"].all()
    people = sets["NuminaMath"].data
    assert people.filter(pl.col("source") == "gsm8k")["verified"].all()
    assert set(people["teacher"]) == {"people of GSM8K", "symbolic people"}


def test_the_verdict_on_a_row_is_that_of_its_box(sets) -> None:
    for name in NAMES[:4]:
        for row in sets[name].data.iter_rows(named=True):
            assert row["verified"] == (exact(boxed(row["response"])) == exact(row["answer"]))


def test_no_question_of_the_test_file_is_trained_on_and_every_one_left_out_is_listed(sets) -> None:
    held_out = query_text(word_problem(made_up(7)))
    for name in NAMES[:4]:
        excluded = sets[name].excluded
        assert held_out not in prompts_of(sets[name].data)
        assert not set(excluded["prompt"]) & set(prompts_of(sets[name].data))
        reasons = excluded["reason"].to_list()
        assert any("notes do not lead" in reason for reason in reasons)
    asked = sets["Math-CoT"].pool["prompt"].n_unique()
    unsolved = sets["Math-CoT"].excluded.filter(pl.col("reason").str.contains("none of"))["query"].n_unique()
    assert asked == int(40 * SPARE) + 8 >= 40 + unsolved


def test_a_held_out_question_is_given_as_excluded(questions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFTREPRO_DATA", str(questions))
    found = list(word_problems.word_problems(seed=1))
    reasons = [each["reason"] for each in found if isinstance(each, dict)]
    assert reasons.count("gsm8k: asked in the test file, too") == 1
    assert reasons.count("gsm8k: its notes do not lead to the answer") == 40
    assert len(found) == 240


def test_the_same_seed_makes_the_same_rows_and_another_seed_others(
    sets, questions: Path, tokenizer, monkeypatch
) -> None:
    monkeypatch.setenv("SFTREPRO_DATA", str(questions))
    again, other = (make(request_of("Math-CoT", seed, SMALL, tokenizer)).data for seed in (1, 2))
    assert again.equals(sets["Math-CoT"].data) and not set(prompts_of(again)) == set(prompts_of(other))


def test_an_eighth_is_a_part_of_the_whole(sets, questions: Path, tokenizer, monkeypatch) -> None:
    monkeypatch.setenv("SFTREPRO_DATA", str(questions))
    part = make(request_of("Math-CoT-1of8", 1, SMALL, tokenizer)).data
    assert len(part) == 5 and len(part.join(sets["Math-CoT"].data, on=["response", "answer"], how="semi")) == 5


def test_knobs_turn(questions: Path, tokenizer, monkeypatch) -> None:
    monkeypatch.setenv("SFTREPRO_DATA", str(questions))
    made = make(request_of("Math-CoT,wrong=0.5,types=1", 1, SMALL, tokenizer)).data
    assert set(made["source"]) == {"gsm8k"} and 0.2 < made["verified"].mean() < 0.8


def test_rows_that_are_too_long_are_listed_with_their_tokens(questions: Path, tokenizer, monkeypatch) -> None:
    monkeypatch.setenv("SFTREPRO_DATA", str(questions))
    tight = SMALL.model_copy(update={"max_length": 700, "row_divisor": 1024})
    made = make(request_of("Countdown-CoT", 1, tight, tokenizer))
    texts = [prompt_text(prompt) + response for prompt, response in
             zip(prompts_of(made.data), made.data["response"], strict=True)]
    assert max(len(tokenizer(text)["input_ids"]) + 1 for text in texts) <= 700
    cut = made.pool.filter("truncated")
    assert (cut["tokens"] == 350).all() and not cut["verified"].any()


def test_too_few_questions_are_refused_with_what_to_do(questions: Path, tokenizer, monkeypatch) -> None:
    monkeypatch.setenv("SFTREPRO_DATA", str(questions))
    with pytest.raises(
        RequestError, match=r"^only \d+ of \d+ queries .* 204 rows are needed\. Raise candidates"
    ) as refused:
        make(request_of("Math-CoT,types=1", 1, SMALL.model_copy(update={"row_divisor": 100}), tokenizer))
    assert "\n" not in str(refused.value)


def test_a_tokenizer_that_loses_a_text_is_noticed(sets, tokenizer) -> None:
    class Lossy:
        "Lower case only."
        def __call__(self, text, **kwargs):
            return tokenizer(text.lower(), **kwargs)
        decode = staticmethod(tokenizer.decode)

    order = request_of("Math-CoT", 1, SMALL, Lossy())
    lost = solvers.not_given_back(order, sets["Math-CoT"].pool.head(6))
    assert len(lost) == 6 and set(lost["reason"]) == {"the tokenizer does not give it back"}
    assert solvers.not_given_back(request_of("Math-CoT", 1, SMALL, tokenizer), sets["Math-CoT"].pool.head(6)).is_empty()


@needs_gsm8k
def test_most_of_gsm8k_can_be_followed_and_its_traces_are_right() -> None:
    rows, found = random_generator("test").sample(gsm8k("train"), 400), []
    for row in rows:
        try:
            found.append(word_problem(row))
        except (ValueError, SyntaxError, ZeroDivisionError):
            pass
    assert len(found) > 0.9 * len(rows)
    for number, item in enumerate(found):
        for teacher in THINKERS:
            text = teacher.turned(slip=0).write(item, random.Random(number)).text
            assert is_correct(item, text), text
        assert is_correct(item, SHORT.write(item, random.Random(number)).text) and "<<" not in text


# Bad input


def test_without_a_folder_and_without_a_hub_gsm8k_says_what_to_do(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SFTREPRO_DATA", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        RequestError, match=r"^openai/gsm8k at \w+: .*bin/hf download openai/gsm8k .* SFTREPRO_DATA="
    ) as refused:
        gsm8k("train")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"question": "1+1?", "solution": "2"}\n',
            r"^gsm8k_train.jsonl: column 'answer' is missing; it has question, solution",
        ),
        ('{"question": "1+1?", \n', r"^gsm8k_train.jsonl cannot be read: "),
        ('[1, 2]\n', r"^gsm8k_train.jsonl"),
        ("", r"^gsm8k_train.jsonl: column 'question' is missing"),
    ],
)
def test_changed_columns_and_broken_lines_are_named(text: str, message: str, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "gsm8k_train.jsonl").write_text(text)
    monkeypatch.setenv("SFTREPRO_DATA", str(tmp_path))
    with pytest.raises(RequestError, match=message) as refused:
        gsm8k("train")
    assert "\n" not in str(refused.value)


# The authors' data sets, in a hub's cache of our own


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    "Puts tables into the hub's cache, as if they had been downloaded."
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(repo: str, revision: str, files: dict[str, pl.DataFrame]) -> None:
        folder = tmp_path / "hub" / f"datasets--{repo.replace('/', '--')}" / "snapshots" / revision
        for name, table in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            table.write_parquet(folder / name)
    return put


REVISION = authors.AUTHORS["Math-CoT-20k"].revision


def test_the_authors_rows_keep_their_texts_and_get_a_verdict(hub, tokenizer) -> None:
    hub("jasonrqh/Math-CoT-20k", REVISION, {"Math-CoT-20k.parquet": authors_rows(64)})
    made = authors_data("Math-CoT-20k", 1, load_profile("paper"), tokenizer)
    assert made.data["response"].to_list() == authors_rows(64)["response"].to_list() and made.excluded.is_empty()
    assert made.data["verified"].to_list() == [number != 3 for number in range(64)]
    assert made.data["teacher"][0] == "Qwen3-32B" and made.data["source"][0] == "OpenR1"
    part = authors_data("Math-CoT-2.5k", 1, load_profile("paper"), tokenizer).data
    assert len(part) == 8 and len(part.join(made.data, on="response", how="semi")) == 8


def test_the_authors_long_rows_are_listed(hub, tokenizer) -> None:
    hub("jasonrqh/Math-CoT-20k", REVISION, {"Math-CoT-20k.parquet": authors_rows(64)})
    rows = as_rows(authors_rows(64), "Math-CoT-20k", tokenizer)
    limit = rows["tokens"].max() + 8
    made = authors_data("Math-CoT-20k", 1, load_profile("paper").model_copy(update={"max_length": limit}), tokenizer)
    assert (
        0 < len(made.excluded) and len(made.data) + len(made.excluded) == 64 and (made.excluded["tokens"] > limit).all()
    )


def test_a_row_that_the_tokenizer_normalises_stays_since_the_papers_runs_need_every_row(hub, tokenizer) -> None:
    composing = copy.deepcopy(tokenizer)
    composing.backend_tokenizer.normalizer = normalizers.NFC()  # as Qwen's
    rows = authors_rows(64).with_columns(pl.col("response").str.replace("It is", "At 5 \u2126 it is"))
    hub("jasonrqh/Math-CoT-20k", REVISION, {"Math-CoT-20k.parquet": rows})
    made = authors_data("Math-CoT-20k", 1, load_profile("paper"), composing)
    assert made.excluded.is_empty() and made.data["response"].to_list() == rows["response"].to_list()


@pytest.mark.parametrize(("change", "message"), [
    (lambda rows: rows.rename({"response": "output"}), r"^Math-CoT-20k: column 'response' is missing; it has .*output"),
    (lambda rows: rows.with_columns(message=pl.lit("user: 1+1?")), r"^Math-CoT-20k: column 'message' is not a list of "
                                                                   r"one"),
    (lambda rows: rows.with_columns(message=pl.concat_list("message", "message")), r"^Math-CoT-20k: column 'message' "
                                                                                   r"is not")])
def test_changed_columns_of_the_authors_are_named(hub, tokenizer, change: Callable, message: str) -> None:
    hub("jasonrqh/Math-CoT-20k", REVISION, {"a.parquet": change(authors_rows(8))})
    with pytest.raises(RequestError, match=message) as refused:
        authors_data("Math-CoT-20k", 1, load_profile("paper"), tokenizer)
    assert "\n" not in str(refused.value)


def test_every_data_set_of_the_papers_runs_is_declared() -> None:
    assert {run.data for run in paper_runs().values()} == set(authors.AUTHORS)
    assert all(isinstance(each, Published) and each.repo.startswith("jasonrqh/") for each in authors.AUTHORS.values())


def test_unknown_and_unreachable_data_sets_are_refused(hub, tokenizer) -> None:
    with pytest.raises(
        RequestError, match=r"^data set 'Math-CoT-30k' is not one of the authors'. Data sets: Math-CoT-20k,"
    ):
        authors_data("Math-CoT-30k", 1, load_profile("paper"), tokenizer)
    with pytest.raises(
        RequestError,
        match=r"^jasonrqh/Countdown-CoT-20k at main: .*bin/hf download jasonrqh/Countdown-CoT-20k "
        r"--repo-type dataset --revision main$",
    ):
        authors_data("Countdown-CoT-20k", 1, load_profile("paper"), tokenizer)


def test_gsm8k_comes_from_the_hub_where_there_is_no_folder(hub, monkeypatch) -> None:
    monkeypatch.delenv("SFTREPRO_DATA", raising=False)
    rows = [made_up(number) for number in range(3)]
    hub(GSM8K["train"].repo, GSM8K["train"].revision, {"main/train-00000-of-00001.parquet": pl.DataFrame(rows)})
    assert gsm8k("train") == rows


# The paper's construction


BASE = ROOT / "data/bases/micro-m"
MICRO = load_profile("micro")


@pytest.fixture
def sums(tmp_path: Path) -> list[Item]:
    "Questions that a micro base can answer."
    drawn = islice(draw("arithmetic", "finetuning", world_of(MICRO), seed=1), 24)
    path = tmp_path / "sums.jsonl"
    path.write_text(
        "".join(json.dumps({"question": item.prompt, "answer": f"so\n#### {item.answer}"}) + "\n" for item in drawn)
    )
    return questions_in(path)


def taught_by(checkpoint: Path, tokens: int = 40) -> Teaching:
    return Teaching(teacher="Micro-M", checkpoint=checkpoint, candidates=3, engine="transformers", precision="float32",
                    sampling=Sampling(temperature=0.6, top_p=0.95, top_k=20, max_new_tokens=tokens))


def tables(folder: Path) -> dict[str, pl.DataFrame]:
    return {name: pl.read_parquet(folder / f"{name}.parquet") for name in ("data", "pool", "excluded")}


def test_a_language_model_teaches_and_one_correct_answer_per_query_is_kept(sums: list[Item], tmp_path: Path) -> None:
    construct(sums, 24, taught_by(BASE), 1, MICRO, tmp_path / "made")
    made = tables(tmp_path / "made")
    assert len(made["pool"]) == 72 and made["pool"]["query"].n_unique() == 24
    assert checked_columns(made["data"], "made").equals(made["data"]) and made["data"]["verified"].all()
    assert len(made["data"]) + len(made["excluded"]) == 24 and len(made["data"]) > 0
    right = made["pool"].filter("verified")
    for row in made["data"].iter_rows(named=True):
        assert len(
            right.filter((pl.col("prompt") == row["messages"][0]["content"]) & (pl.col("response") == row["response"]))
        )
        assert boxed(row["response"]) == row["answer"]
    assert set(made["data"]["teacher"]) == {"Micro-M"} and set(made["data"]["source"]) == {"file sums"}


def test_a_killed_construction_goes_on_and_ends_with_the_same_rows(
    sums: list[Item], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(language_teacher, "QUESTIONS_PER_PIECE", 6)
    construct(sums, 24, taught_by(BASE), 1, MICRO, tmp_path / "once")
    answered = language_teacher.generate

    def killed(*arguments):
        if len(list((tmp_path / "twice/pieces").glob("*.parquet"))) == 2:
            raise KeyboardInterrupt
        return answered(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(language_teacher, "generate", killed)
        construct(sums, 24, taught_by(BASE), 1, MICRO, tmp_path / "twice")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "twice/pieces").glob("*.parquet")}
    assert len(before) == 2 and not (tmp_path / "twice/data.parquet").exists()
    construct(sums, 24, taught_by(BASE), 1, MICRO, tmp_path / "twice")
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())
    for name, table in tables(tmp_path / "once").items():
        assert table.equals(tables(tmp_path / "twice")[name])


def test_pieces_of_another_request_are_not_used(sums: list[Item], tmp_path: Path) -> None:
    for tokens in (40, 41):
        construct(sums, 24, taught_by(BASE, tokens), 1, MICRO, tmp_path / "made")
    assert len(list((tmp_path / "made/pieces").glob("*.parquet"))) == 2


def test_a_teacher_who_is_never_right_leaves_an_error_and_no_data(sums: list[Item], tmp_path: Path) -> None:
    wrong = [item.model_copy(update={"answer": "-7/9"}) for item in sums]
    with pytest.raises(RequestError, match=r"^none of 8 queries has a correct candidate of Micro-M .*another teacher$"):
        construct(wrong, 8, taught_by(BASE), 1, MICRO, tmp_path / "made")
    assert not (tmp_path / "made/data.parquet").exists()
    with pytest.raises(RequestError, match="^there are no questions to ask"):
        construct([], 8, taught_by(BASE), 1, MICRO, tmp_path / "made")


@needs_gsm8k
def test_questions_of_gsm8k_are_read_with_their_final_answers() -> None:
    found = questions_in(DATA / "gsm8k_train.jsonl")
    assert len(found) == 7473 and all(exact(item.answer) is not None for item in found[:500])
