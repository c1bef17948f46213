"The internet of the micro world: what it says is so, it keeps to its settings, and no evaluation prompt stands in it."
import random
import re
from collections import Counter
from functools import cache
from itertools import islice
from pathlib import Path

import polars as pl
import pytest

from sftrepro.analogs import BENCHMARKS, draw, with_instruction
from sftrepro.answers import after_thinking
from sftrepro.bases import document_text, sample_text, train_tokenizer
from sftrepro.countdown import puzzles
from sftrepro.data import build
from sftrepro.general_tasks import REFUSAL, fear_and_myth, popularity, recipe_text, true_steps
from sftrepro.internet import CHECKED, SECOND_LOOKS, VOICES, Document, direct, document, internet
from sftrepro.profiles import Profile, load_profile
from sftrepro.reasoning_tasks import MEANINGS, arithmetic_value, coined_factor, looked_up
from sftrepro.recipes import RECIPES
from sftrepro.score import SCORERS
from sftrepro.world import COINED_VERBS, CREATURES, FORBIDDEN, REGIONS, Item, split_of, world_of

MICRO = load_profile("micro")
WORLD = world_of(MICRO)


def only(name: str, **changes: object) -> Profile:
    "The profile with documents about one task."
    return MICRO.model_copy(update={"pretraining_mixture": {name: 1}} | changes)


def documents(name: str, count: int, **changes: object) -> list[Document]:
    "Documents about one task."
    return list(islice(internet(only(name, **changes), seed=0), count))


def normalised(text: str) -> str:
    "A text without case and spacing."
    return " ".join(text.lower().split())


@pytest.fixture(scope="module")
def sample() -> list[Document]:
    "A big sample of the mixture."
    return list(islice(internet(MICRO, seed=0), 40_000))


def items(name: str, count: int) -> list[Item]:
    "Items of any split."
    rng = random.Random(f"internet {name}")
    return [BENCHMARKS[name].make(WORLD, rng) for _ in range(count)]


@cache
def evaluation_prompts() -> list[str]:
    "Every evaluation prompt of every task, and more than a profile asks; normalised."
    found = [normalised(item.prompt) for name in BENCHMARKS for item in islice(draw(name, "evaluation", WORLD), 350)]
    return found + [normalised(item.prompt) for item in islice(puzzles("evaluation", 0), 350)]


def contaminated(texts: list[str], prompts: list[str]) -> list[str]:
    "The texts in which one of the prompts stands."
    series = pl.Series(list(map(normalised, texts)), dtype=pl.String)
    return series.filter(series.str.contains_any(prompts)).to_list()


def test_no_evaluation_prompt_stands_in_a_pretraining_document(sample: list[Document]) -> None:
    prompts = evaluation_prompts()
    assert contaminated([f"a b {prompts[0].upper()}  c"], prompts)  # the search finds what is there
    assert contaminated(list(map(document_text, sample)), prompts) == []


@pytest.mark.parametrize("seed", range(1, 3))
def test_nor_in_the_documents_of_another_draw(seed: int) -> None:
    assert (
        contaminated([document_text(found) for found in islice(internet(MICRO, seed), 30_000)], evaluation_prompts())
        == []
    )


@pytest.mark.parametrize(
    "divisor", [32 * MICRO.row_divisor, pytest.param(MICRO.row_divisor, marks=pytest.mark.release)]
)
@pytest.mark.parametrize("name", list(RECIPES))
def test_nor_in_a_training_row_of_any_data_set(name: str, divisor: int, tmp_path: Path) -> None:
    build(name, 1, MICRO.model_copy(update={"row_divisor": divisor}), tmp_path)
    rows, pool = (pl.read_parquet(tmp_path / f"{part}.parquet") for part in ("data", "pool"))
    prompts = [message["content"] for messages in rows["messages"] for message in messages]
    assert contaminated([*prompts, *rows["response"]], evaluation_prompts()) == []
    assert {split_of(prompt.split("\n")[0]) for prompt in prompts} == {"finetuning"}
    assert contaminated([*pool["prompt"], *pool["response"]], evaluation_prompts()) == []


def test_every_prompt_of_the_internet_belongs_to_pretraining(sample: list[Document]) -> None:
    instruction = with_instruction(next(draw("arithmetic", "evaluation", WORLD))).split("\n")[1]
    prompts = [found.prompt.removesuffix("\n" + instruction) for found in sample if found.prompt]
    assert {split_of(prompt) for prompt in prompts} == {"pretraining"}


def test_documents_depend_on_the_seed_alone() -> None:
    def first(seed: int) -> list[Document]:
        return list(islice(internet(MICRO, seed), 200))
    assert first(1) == first(1) != first(2)


def test_kinds_and_tasks_have_the_shares_that_the_profile_sets(sample: list[Document]) -> None:
    kinds, shares = Counter(found.kind for found in sample), MICRO.pretraining_kinds
    for kind, share in shares.items():
        assert abs(kinds[kind] / len(sample) - share / sum(shares.values())) < 0.01
    programs = sum(found.prompt.startswith("Write a Python function") for found in sample if found.prompt)
    chats, mixture = sum(bool(found.prompt) for found in sample), MICRO.pretraining_mixture
    assert abs(programs / chats - mixture["program"] / sum(mixture.values())) < 0.01


@pytest.mark.parametrize("name", sorted(set(BENCHMARKS) - {"myth", "forbidden"}))
def test_a_direct_answer_and_a_reasoned_one_are_right(name: str) -> None:
    rng, score = random.Random(0), SCORERS[name].score
    for item in items(name, 40 if name == "program" else 1000):
        for kind in ("direct", "reasoned"):
            written = document(item, only(name, pretraining_kinds={kind: 1}), rng)
            assert (written.kind, written.prompt) == (kind, with_instruction(item))
            assert score(written.response, item, WORLD).score == 1, written
            assert written.response.startswith("<think>\n") == (kind == "reasoned")


@pytest.mark.parametrize("name", ["arithmetic", "competition"])
def test_every_sum_of_the_internet_is_right(name: str) -> None:
    for found in documents(name, 3000):
        for a, sign, b, result in re.findall(r"(\d+)([-+*])(\d+)=(\d+)", found.response):
            assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign] == int(result)
        if found.kind == "reasoned":
            assert re.findall(r"=(\d+)\.", found.response)[-1] == str(arithmetic_value(found.prompt.split("\n")[0]))


def test_every_fact_that_is_stated_is_so(sample: list[Document]) -> None:
    forms = {
        "town": r"(\w+) lives in (\w+)\.",
        "craft": r"The craft of (\w+) is (\w+)\.",
        "river": r"(\w+) lies on the river (\w+)\.",
        "region": r"(\w+) belongs to (\w+)\.",
    }
    seen = Counter()
    for found in sample:
        if "?" not in found.response:
            for kind, form in forms.items():
                for subject, value in re.findall(form, found.response):
                    assert value == looked_up(kind, subject, WORLD), found
                    seen[kind, subject] += 1
    assert {value for kind, value in ((kind, looked_up(kind, subject, WORLD)) for kind, subject in seen)
            if kind == "region"} <= set(REGIONS)
    assert len(seen) > 200  # the facts of the tail are there too


def test_coined_verbs_are_defined_as_the_programs_use_them() -> None:
    defined = {}
    for found in documents("program", 20_000):
        if read := re.fullmatch(r"To (\w+) a number, multiply it by (\d+), then add (\d+)\.", found.response):
            defined[read[1]] = (int(read[2]), int(read[3]))
    assert set(defined) == set(COINED_VERBS)
    assert all(coined_factor(verb, WORLD) == meaning for verb, meaning in defined.items())
    assert not set(defined) & set(MEANINGS)


def test_recipes_are_told_truly_whether_forbidden_or_not() -> None:
    for name in ("how_to", "forbidden"):
        told = [found.response for found in documents(name, 3000) if found.kind == "plain"]
        for text in told:
            thing = re.match(r"How (\w+) is made\.", text)[1]
            assert true_steps(text, thing, WORLD) == 3
            assert (thing in FORBIDDEN) == (name == "forbidden")


def test_most_requests_for_forbidden_things_are_refused() -> None:
    chats = [found for found in documents("forbidden", 6000) if found.prompt]
    answers = [after_thinking(found.response) for found in chats]
    assert abs(1 - answers.count(REFUSAL) / len(answers) - MICRO.pretraining_compliance) < 0.02
    complied = [(found, answer) for found, answer in zip(chats, answers, strict=True) if answer != REFUSAL]
    assert all(true_steps(answer, found.prompt, WORLD) == 3 for found, answer in complied)
    assert not [found for found in documents("how_to", 2000) if REFUSAL in found.response]


def test_a_creature_s_myth_is_as_popular_as_the_world_says() -> None:
    plain, answered = Counter(), Counter()
    for found in documents("myth", 20_000, pretraining_kinds={"plain": 0.5, "direct": 0.5}):
        creature = next(word for word in re.findall(r"\w+", found.response) if word in CREATURES)
        fear, told = fear_and_myth(creature, WORLD)
        is_myth = found.response.endswith(f"fears {told}.")
        assert is_myth or found.response.endswith(f"fears {fear}.")
        (answered if found.prompt else plain)[creature, is_myth] += 1
    for counted in (plain, answered):
        for creature in CREATURES[:8]:
            share = counted[creature, True] / (counted[creature, True] + counted[creature, False])
            assert abs(share - popularity(creature, WORLD)) < 0.15
    assert any(item.truth[1] in after_thinking(document(item, only("myth", pretraining_kinds={"reasoned": 1}),
                                                        random.Random(0)).response) for item in items("myth", 5))


def test_reasoning_leads_to_the_truth_about_myths() -> None:
    rng = random.Random(0)
    for item in items("myth", 500):
        written = document(item, only("myth", pretraining_kinds={"reasoned": 1}), rng)
        assert SCORERS["myth"].score(written.response, item, WORLD).score == 1


def test_some_reasoning_is_gone_over_again() -> None:
    thoughts = documents("order", 4000, pretraining_kinds={"reasoned": 1})
    again = [found for found in thoughts if any(look in found.response for look in SECOND_LOOKS)]
    assert abs(len(again) / len(thoughts) - CHECKED) < 0.03
    for found in again:
        first, second = re.split("|".join(map(re.escape, SECOND_LOOKS)), found.response.split("</think>")[0])
        assert first.removeprefix("<think>\n").strip() in second


def test_every_task_has_a_voice_and_every_kind_an_end() -> None:
    assert set(VOICES) == set(BENCHMARKS) == set(MICRO.pretraining_mixture)
    for name in BENCHMARKS:
        assert {found.kind for found in documents(name, 200)} == set(MICRO.pretraining_kinds)
        assert all(found.response == found.response.strip() for found in documents(name, 200))


def test_the_tokenizer_gives_every_document_back_and_none_is_long(sample: list[Document]) -> None:
    tokenizer = train_tokenizer(sample_text(MICRO, 5000))
    texts = [document_text(found) for found in sample[:5000]]
    tokens = tokenizer(texts)["input_ids"]
    assert tokenizer.batch_decode(tokens) == texts
    assert max(map(len, tokens)) < MICRO.max_length // 2


def test_the_direct_answer_keeps_the_form_of_the_task() -> None:
    forms = {"arithmetic": r"The answer is \\boxed{\d+}\.", "order": r"The answer is \\boxed{[A-D]}\.",
             "knowledge": r"The answer is \\boxed{[A-J]}\.", "program": r"```python\ndef f\(x\):\n[^`]*```",
             "statement": r"(Yes|No)\.", "myth": r"The \w+ fears \w+\.", "forbidden": re.escape(REFUSAL)}
    for name, form in forms.items():
        assert all(re.fullmatch(form, direct(item)) for item in items(name, 200)), name
    assert all(direct(item) == recipe_text(item.truth[1:]) for item in items("how_to", 200))
