"The internet of the micro world: what it says is so, it keeps to its settings, and no evaluation prompt stands in it."
import random
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import islice

import polars as pl
import pytest
from transformers import PreTrainedTokenizerBase

from sftrepro.analogs import BENCHMARKS, draw, with_instruction
from sftrepro.answers import after_thinking
from sftrepro.bases import document_text, sample_text, train_tokenizer
from sftrepro.countdown import puzzles
from sftrepro.data import DataRequest, make, queries
from sftrepro.general_tasks import REFUSAL, fear_and_myth, popularity, recipe_text, true_steps
from sftrepro.internet import VOICES, Document, direct, document, internet, thinkers, thought
from sftrepro.profiles import PRETRAINING_BLOCK, Profile, load_profile
from sftrepro.reasoning_tasks import arithmetic_value, facts_of
from sftrepro.recipes import RECIPES, parse
from sftrepro.score import SCORERS
from sftrepro.traces import DEEPSEEK, QWEN, Words
from sftrepro.world import CREATURES, FORBIDDEN, PERSONS, Item, question_of, split_of, world_of

MICRO = load_profile("micro")
WORLD = world_of(MICRO)
WORDS = Words()


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
    return list(islice(internet(MICRO, seed=0), 20_000))


def items(name: str, count: int) -> list[Item]:
    "Items of any split."
    rng = random.Random(f"internet {name}")
    return [BENCHMARKS[name].make(WORLD, rng) for _ in range(count)]


@cache
def evaluation_prompts() -> list[str]:
    "Every evaluation prompt of every task, and more than a profile asks; normalised."
    found = [normalised(item.prompt) for name in BENCHMARKS for item in islice(draw(name, "evaluation", WORLD), 280)]
    return found + [normalised(item.prompt) for item in islice(puzzles("evaluation", 0), 350)]


@cache
def finetuning_prompts() -> list[str]:
    "Queries of the recipes for all seeds, and finetuning prompts of every task; normalised."
    asked = [item for name in ("Math-CoT", "Countdown-CoT") for seed in MICRO.seeds
             for item in islice(queries(*parse(name), MICRO, seed), 1500)]
    others = [item for name in BENCHMARKS for item in islice(draw(name, "finetuning", WORLD, seed=1), 280)]
    return [normalised(item.prompt) for item in (*asked, *others)]


def contaminated(texts: list[str], prompts: list[str]) -> list[str]:
    "The texts in which one of the prompts stands."
    series = pl.Series(list(map(normalised, texts)), dtype=pl.String)
    return series.filter(series.str.contains_any(prompts)).to_list()


@pytest.mark.parametrize("of", [evaluation_prompts, finetuning_prompts])
def test_no_prompt_of_another_split_stands_in_a_pretraining_document(of: Callable, sample: list[Document]) -> None:
    prompts = of()
    assert contaminated([f"a b {prompts[0].upper()}  c"], prompts)  # the search finds what is there
    assert contaminated(list(map(document_text, sample)), prompts) == []


@pytest.mark.parametrize("seed", [3, *(pytest.param(other, marks=pytest.mark.release) for other in (1, 2))])
def test_nor_in_the_documents_of_another_draw(seed: int) -> None:
    assert (
        contaminated([document_text(found) for found in islice(internet(MICRO, seed), 15_000)], evaluation_prompts())
        == []
    )


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(sample_text(MICRO, 5000))


@pytest.mark.parametrize(
    "divisor", [32 * MICRO.row_divisor, pytest.param(MICRO.row_divisor, marks=pytest.mark.release)]
)
@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.solver])
def test_nor_in_a_training_row_of_any_data_set(name: str, divisor: int, tokenizer: PreTrainedTokenizerBase) -> None:
    rows, pool, _ = make(DataRequest(*parse(name), 1, MICRO.model_copy(update={"row_divisor": divisor}), tokenizer))
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
    kinds, mixture = Counter(found.kind for found in sample), MICRO.pretraining_mixture
    shares = {kind: share / sum(MICRO.pretraining_kinds.values()) for kind, share in MICRO.pretraining_kinds.items()}
    at_once = shares["thinking"] * mixture["forbidden"] / sum(mixture.values())  # nobody thinks about forbidden things
    shares |= {"direct": shares["direct"] + at_once, "thinking": shares["thinking"] - at_once}
    for kind, share in shares.items():
        assert abs(kinds[kind] / len(sample) - share) < 0.01
    programs = sum("line" in found.prompt for found in sample if found.prompt)
    chats = sum(bool(found.prompt) for found in sample)
    assert abs(programs / chats - mixture["program"] / sum(mixture.values())) < 0.01


def test_plain_text_asks_nothing(sample: list[Document]) -> None:
    assert not [found for found in sample if found.kind == "plain" and "?" in found.response]
    assert not [found for found in sample if (found.kind == "plain") != (found.prompt == "")]


@pytest.mark.parametrize("name", sorted(set(BENCHMARKS) - {"myth", "forbidden"}))
def test_a_direct_answer_and_a_thinking_one_are_right(name: str) -> None:
    rng, score = random.Random(0), SCORERS[name].score
    for item in items(name, 40 if name == "program" else 1000):
        for kind in ("direct", "thinking"):
            written = document(item, only(name, pretraining_kinds={kind: 1}), rng)
            assert (written.kind, written.prompt) == (kind, with_instruction(item))
            assert score(written.response, item, WORLD).score == 1, written
            assert written.response.startswith("<think>\n") == (kind == "thinking")


def is_right(a: str, sign: str, b: str, result: str) -> bool:
    return {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign] == int(result)


def unnoticed(text: str) -> list[str]:
    "The wrong sums of a text that are neither doubted nor followed by a fresh start."
    doubted = re.compile(rf"\.{WORDS.check}[-+*/=, \disnot]+\.{WORDS.doubt} ")
    return [match[0] for match in re.finditer(r"(\d+)([-+*])(\d+)=(\d+)", text) if not is_right(*match.groups())
            and not doubted.match(text[match.end():]) and WORDS.restart not in text[match.end():]]


@pytest.mark.parametrize("name", ["arithmetic", "competition"])
def test_a_slip_of_the_internet_is_taken_back_unless_another_slip_cancels_it(name: str) -> None:
    found = documents(name, 4000)
    for text in found:
        wrong = unnoticed(text.response)
        assert not wrong or (text.kind == "thinking" and len(wrong) > 1), text
        if text.kind != "plain":
            assert f"{{{arithmetic_value(text.prompt.partition(chr(10))[0])}}}" in text.response
    assert sum(bool(unnoticed(text.response)) for text in found) < 8


def test_every_fact_that_is_stated_is_so(sample: list[Document]) -> None:
    forms = {"house": r"(\w+) is of house (\w+)\.", "town": r"(\w+) lives in (\w+)\.",
             "craft": r"The craft of (\w+) is (\w+)\."}
    seen = Counter()
    for found in sample:
        for kind, form in forms.items():
            for person, value in re.findall(form, found.response):
                assert value == facts_of(person, WORLD)[kind], found
                seen[kind, person] += 1
    assert {person for kind, person in seen if kind == "house"} == set(PERSONS)
    assert len(seen) == 3 * len(PERSONS)  # nobody is so rare that a base never reads of them


# Thinking: one voice

THOUGHT_ABOUT = sorted(set(BENCHMARKS) - {"forbidden"})


def any_of(phrases: tuple[str, ...]) -> str:
    return "(?:" + "|".join(map(re.escape, phrases)) + ")"


@pytest.mark.parametrize("name", THOUGHT_ABOUT)
def test_all_thinking_has_one_voice(name: str) -> None:
    "Opening, the question copied, steps, perhaps second looks, conclusion, and after it exactly the direct answer."
    conclusion = any_of((WORDS.concludes, WORDS.ready)).replace(r"\{\}", r"[^.]+")
    rng = random.Random(name)
    for item in items(name, 500):
        text = thought(item, 1, rng)
        begins = rf"<think>\n{any_of(WORDS.opens)}{re.escape(WORDS.asked.format(question_of(item.prompt)))} "
        steps = re.fullmatch(rf"{begins}(.+?){conclusion}\n</think>\n\n", text, re.DOTALL)
        assert steps, text
        if VOICES[name].steps:
            first, *again = re.split(any_of(WORDS.looks), " " + steps[1])
            assert first.split() and {*again} <= {first}, text
            assert not re.search(r"[-+*/=]", text.removeprefix("<think>").removesuffix("</think>\n\n")), text


def test_a_document_that_thinks_ends_in_the_words_of_the_one_that_does_not() -> None:
    rng = random.Random(0)
    for name in THOUGHT_ABOUT:
        for item in items(name, 100):
            written = document(item, only(name, pretraining_kinds={"thinking": 1}), rng)
            assert written.response.split("</think>\n\n")[1] == direct(item)


def test_nobody_thinks_about_forbidden_things(sample: list[Document]) -> None:
    forbidden = re.compile(rf"\b(?:{'|'.join(FORBIDDEN)})\b")
    assert not [found for found in sample if found.kind == "thinking" and forbidden.search(document_text(found))]
    assert {found.kind for found in documents("forbidden", 500)} == {"plain", "direct"}


def test_a_thinker_of_the_internet_makes_the_teachers_moves_at_a_share_of_their_rates() -> None:
    calm = thinkers(MICRO.pretraining_moves)
    for thinker, teacher in zip(calm, (QWEN, DEEPSEEK), strict=True):
        habits, rates = thinker.habits.model_dump(), teacher.habits.model_dump()
        assert habits == {name: rate * MICRO.pretraining_moves if name != "looks" else rate
                          for name, rate in rates.items()}
        assert (thinker.tests, thinker.words) == (teacher.tests, Words())
    rng, chains, others = random.Random(0), items("competition", 3000), items("order", 3000)
    for moves in (0, MICRO.pretraining_moves, 1):
        def mean(habit: str, moves: float = moves) -> float:
            return moves * sum(getattr(teacher.habits, habit) for teacher in (QWEN, DEEPSEEK)) / 2
        sums, steps = ([thought(item, moves, rng) for item in asked] for asked in (chains, others))
        false_starts = sum(WORDS.not_asked in text for text in sums) / len(sums)
        assert abs(false_starts - mean("backtracking")) < 0.06 and (false_starts > 0) == (moves > 0)
        for texts in (sums, steps):
            looks = sum(bool(re.search(any_of(WORDS.looks), text)) for text in texts) / len(texts)
            assert abs(looks - mean("look")) < 0.04 and (looks > 0) == (moves > 0)
        tested = sum(text.count(WORDS.check) for text in sums) / sum(len(item.truth) - 1 for item in chains)
        assert abs(tested - mean("check")) < 0.05 and (tested > 0) == (moves > 0)


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
    assert any(item.truth[1] in after_thinking(document(item, only("myth", pretraining_kinds={"thinking": 1}),
                                                        random.Random(0)).response) for item in items("myth", 5))


def test_thinking_leads_to_the_truth_about_myths() -> None:
    rng = random.Random(0)
    for item in items("myth", 500):
        written = document(item, only("myth", pretraining_kinds={"thinking": 1}), rng)
        assert SCORERS["myth"].score(written.response, item, WORLD).score == 1


def test_every_task_has_a_voice_and_every_kind_an_end() -> None:
    assert set(VOICES) == set(BENCHMARKS) == set(MICRO.pretraining_mixture)
    for name in BENCHMARKS:
        assert {found.kind for found in documents(name, 200)} == set(MICRO.pretraining_kinds) - (
            {"thinking"} if name == "forbidden" else set())
        assert all(found.response == found.response.strip() for found in documents(name, 200))


def test_the_tokenizer_gives_every_document_back_and_hardly_any_is_longer_than_a_block(
        sample: list[Document], tokenizer: PreTrainedTokenizerBase) -> None:
    texts = [document_text(found) for found in sample[:10_000]]
    tokens = tokenizer(texts)["input_ids"]
    assert tokenizer.batch_decode(tokens) == texts
    assert sum(len(row) > PRETRAINING_BLOCK for row in tokens) < 10


def test_the_direct_answer_keeps_the_form_of_the_task() -> None:
    forms = {"arithmetic": r"The answer is \\boxed{\d+}\.", "order": r"The answer is \\boxed{[A-D]}\.",
             "knowledge": r"The answer is \\boxed{[A-J]}\.", "program": r"```python\ndef f\(x\):\n[^`]*```",
             "statement": r"(Yes|No)\.", "myth": r"The \w+ fears \w+\.", "forbidden": re.escape(REFUSAL)}
    for name, form in forms.items():
        assert all(re.fullmatch(form, direct(item)) for item in items(name, 200)), name
    assert all(direct(item) == recipe_text(item.truth[1:]) for item in items("how_to", 200))
