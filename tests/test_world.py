"The micro world: generators against an independent derivation, ten thousand items a task; splits that cannot meet."

import random
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import islice

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftrepro.analogs import BENCHMARKS, draw, with_instruction
from sftrepro.evaluate import items_of
from sftrepro.general_tasks import (
    CLOSERS,
    COUNTS,
    OPENERS,
    REFUSAL,
    SEPARATORS,
    broken_rules,
    fear_and_myth,
    materials_in,
    recipe,
    recipe_text,
    statement_truth,
    true_steps,
)
from sftrepro.profiles import RequestError, load_profile
from sftrepro.reasoning_tasks import (
    FACT_QUESTIONS,
    FACTOR,
    HIDDEN_INPUTS,
    HOUSES,
    PROGRAM_STYLES,
    SEATS,
    STYLES,
    SUMMAND,
    apply,
    arithmetic_value,
    check,
    facts_of,
    knowledge_letter,
    order_letter,
    place_after,
    program_cases,
    program_value,
    written_steps,
)
from sftrepro.sandbox import Limits, passes_cases
from sftrepro.world import (
    BENIGN,
    COINED,
    CONTAINERS,
    CRAFTS,
    CREATURES,
    FORBIDDEN,
    MATERIALS,
    NAMES,
    PERSONS,
    THINGS,
    TOWNS,
    VERBS,
    Item,
    World,
    long_tailed,
    prompt_digest,
    question_of,
    split_of,
    world_of,
)

ITEMS = 3_000
LEVELS = {"arithmetic": (1, 9), "competition": (1, 9), "program": (1, 6), "order": (1, 9), "knowledge": (1, 8),
          "instruction": (1, 6), "how_to": (1, 240), "statement": (1, 60), "myth": (1, 80), "forbidden": (1, 80)}
WORLDS = [World(seed=seed, levels=LEVELS) for seed in range(4)]
WORLD = world_of(load_profile("micro"))
seeds = st.integers(0, 2**32)


@cache
def made(name: str, count: int = ITEMS) -> list[tuple[Item, World]]:
    "Items of a task, as many from each of the worlds; any split."
    rng = random.Random(f"tests {name}")
    return [(BENCHMARKS[name].make(world, rng), world) for world in WORLDS for _ in range(count // len(WORLDS))]


def thing_of(prompt: str) -> str:
    "The only coined word of a request, and there is only one."
    [thing] = [word for word in re.findall(r"\w+", prompt) if word in COINED]
    return thing


def read_recipe(text: str) -> list[tuple[str, str]]:
    "The steps that a text tells, read word by word."
    words = [sentence.split() for sentence in text.replace(".", ",").split(", ") if " the " in sentence]
    return [(verb, material.rstrip(",")) for verb, _, material in words]


def fears_the_truth(item: Item, world: World) -> bool:
    fear, told = fear_and_myth(thing_of(item.prompt), world)
    return fear != told and materials_in(item.answer) == [fear] and thing_of(item.answer) == thing_of(item.prompt)


AGREE: dict[str, Callable[[Item, World], bool]] = {
    "arithmetic": lambda item, world: arithmetic_value(item.prompt) == int(item.answer),
    "competition": lambda item, world: arithmetic_value(item.prompt) == int(item.answer),
    "order": lambda item, world: order_letter(item.prompt) == item.answer,
    "knowledge": lambda item, world: knowledge_letter(item.prompt, world) == item.answer,
    "statement": lambda item, world: statement_truth(item.prompt, world) == item.answer,
    "instruction": lambda item, world: broken_rules(item.prompt, item.answer) == [],
    "how_to": lambda item, world: (
        thing_of(item.prompt) in BENIGN
        and true_steps(item.answer, item.prompt, world) == 3
        and tuple(read_recipe(item.answer)) == recipe(thing_of(item.prompt), world)
    ),
    "forbidden": lambda item, world: (
        thing_of(item.prompt) in FORBIDDEN
        and item.answer == REFUSAL
        and true_steps(recipe_text(item.truth[1:]), item.prompt, world) == 3
        and true_steps(REFUSAL, item.prompt, world) == 0
    ),
    "myth": fears_the_truth,
}


@pytest.mark.parametrize("name", list(AGREE))
def test_answers_agree_with_the_words_of_their_questions(name: str) -> None:
    assert [item for item, world in made(name) if not AGREE[name](item, world)] == []


def test_reference_programs_pass_their_hidden_tests_in_the_sandbox() -> None:
    items = made("program")
    for start in range(0, len(items), 2000):  # many programs in one box: each a function of its own, all called by `f`
        batch = items[start:start + 2000]
        source = "\n".join(item.answer.replace("def f(", f"def f{k}(") for k, (item, _) in enumerate(batch))
        source += f"\ndef f(x):\n    return [eval(f'f{{k}}')(x) for k in range({len(batch)})]"
        cases = [[value for _, value in program_cases(item.prompt)] for item, world in batch]
        expected = [([x], [values[k] for values in cases]) for k, x in enumerate(HIDDEN_INPUTS)]
        assert passes_cases(source, "f", expected, Limits(output=2**24, seconds=60))


def test_hidden_tests_tell_a_wrong_program_from_the_reference() -> None:
    missed = 0
    for item, _ in made("program", 2000):
        namespace: dict = {}
        exec(item.answer, namespace)  # our own program, not a model's
        cases = program_cases(item.prompt)
        assert [namespace["f"](*arguments) for arguments, _ in cases] == [value for _, value in cases]
        for off in (lambda x, f=namespace["f"]: f(x) + 1, lambda x, f=namespace["f"]: -f(x) - 1, lambda x: None):
            missed += all(off(*arguments) == value for arguments, value in cases)
    assert missed == 0


def test_the_numbers_of_a_chain_and_of_a_program_stay_small() -> None:
    for item, _ in made("competition"):
        value = item.truth[0]
        for verb, operand in item.truth[1:]:
            value = apply(value, verb, operand)
            assert 0 <= value <= 40
    for item, _ in made("program"):
        for _, numbers in item.truth[1:]:
            factor, summand = map(int, numbers.split(" and "))
            assert factor in FACTOR and summand in SUMMAND
        assert item.answer.endswith(f"return {factor} * x + {summand}")


# Questions and their options


@pytest.mark.parametrize(("name", "letters"), [("order", SEATS), ("knowledge", HOUSES)])
def test_every_option_is_shown_and_one_is_the_answer(name: str, letters: str) -> None:
    for item, _ in made(name):
        assert item.prompt.endswith("? " + " ".join(f"{letter})" for letter in letters)) and item.answer in letters


def test_a_fifth_of_the_knowledge_questions_ask_for_the_bare_fact() -> None:
    bare = [(item, world) for item, world in made("knowledge") if "." not in item.prompt]
    assert abs(len(bare) / ITEMS - 0.2) < 0.02
    assert {question_of(item.prompt).replace(item.truth[0], "{}") for item, _ in bare} == set(FACT_QUESTIONS)
    assert all(item.answer == facts_of(item.truth[0], world)["house"] for item, world in bare)


@pytest.mark.parametrize("ask", [
    lambda world: arithmetic_value("Who sits on seat A?"), lambda world: order_letter("What is 2 and 3?"),
    lambda world: knowledge_letter("What is 2 and 3?", world), lambda world: program_value("What is 2 and 3?", 1),
    lambda world: statement_truth("What is 2 and 3?", world), lambda world: broken_rules("What is 2 and 3?", ""),
    lambda world: broken_rules("Name nine materials.", ""),
    lambda world: true_steps("First, cut the wood.", "What is 2 and 3?", world),
])
def test_the_question_of_another_task_is_refused_with_its_words(ask: Callable) -> None:
    with pytest.raises(RequestError, match="^not a [^\n]*'"):
        ask(world_of(load_profile("micro")))


def test_right_letters_and_truths_are_spread_evenly() -> None:
    worlds = [World(seed=seed, levels=LEVELS) for seed in range(40)]  # sixty persons of a world are not spread evenly
    for name, letters in (("order", SEATS), ("knowledge", HOUSES), ("statement", ("Yes", "No"))):
        rng = random.Random(name)
        answers = Counter(BENCHMARKS[name].make(world, rng).answer for world in worlds for _ in range(250))
        for letter in letters:
            assert abs(answers[letter] / answers.total() - 1 / len(letters)) < 0.02, (name, letter)


def last_named(story: str, start: str) -> str:
    return re.findall(r"\b[A-J]\b", story)[-1]


def first_named(story: str, start: str) -> str:
    return re.findall(r"\b[A-J]\b", story)[0]


def most_named(story: str, start: str) -> str:
    return Counter(re.findall(r"\b[A-J]\b", story)).most_common()[0][0]


def least_named(story: str, start: str) -> str:
    return Counter(re.findall(r"\b[A-J]\b", story)).most_common()[-1][0]


def only_the_last_step(story: str, start: str) -> str:
    [*_, last] = re.findall(r"[^.]+\.", story)
    return place_after(start, last, HOUSES) if " and " in last else start


SHORTCUTS = (last_named, first_named, most_named, least_named, only_the_last_step, lambda story, start: start)


@pytest.mark.parametrize("name", ["order", "knowledge"])
def test_no_shortcut_through_a_story_comes_near_to_following_it(name: str) -> None:
    "Measured: 0.30 for the seat named least; 0.33 for the house named last, 0.39 where things are handed over."
    rng = random.Random(f"shortcuts {name}")
    items = [item for _ in range(6000) if len((item := BENCHMARKS[name].make(WORLD, rng)).truth) > 2]
    stories = [(item.prompt.partition(question_of(item.prompt))[0], item) for item in items]
    for shortcut in SHORTCUTS:
        right = [shortcut(story, item.truth[0 if name == "order" else 1]) == item.answer for story, item in stories]
        assert sum(right) / len(right) < 0.35, shortcut


# Ways to ask


def test_chains_are_told_in_many_styles_and_none_dominates() -> None:
    asked = [question_of(item.prompt) for item, _ in made("arithmetic")]
    forms = [re.sub(r"\{\w+\}", r"\\w+", re.escape(style.asks).replace(r"\{", "{").replace(r"\}", "}"))
             for style in STYLES]
    counts = Counter(next(form for form in forms if re.fullmatch(form, question)) for question in asked)
    assert len(counts) == len(STYLES) >= 7
    assert max(counts.values()) < 1.2 * ITEMS / len(STYLES) and min(counts.values()) > 0.8 * ITEMS / len(STYLES)


def test_every_wording_of_an_operation_occurs_with_every_name_and_thing() -> None:
    text = " ".join(item.prompt for item, _ in made("competition"))
    for style in STYLES:
        for wording in (wording for wordings in style.tells.values() for wording in wordings):
            assert re.search(re.escape(wording).replace(r"\{\}", r"\d+"), text), wording
    assert not {*NAMES, *THINGS, *CONTAINERS} - set(re.findall(r"\w+", text))


def test_programs_are_told_in_three_styles_evenly() -> None:
    begins = Counter(item.prompt.split("{")[0].split()[0] for item, _ in made("program"))
    assert set(begins) == {style[0].split()[0] for style in PROGRAM_STYLES}
    assert max(begins.values()) < 0.37 * ITEMS


def test_what_is_tracked_has_at_most_ten_letters_and_no_step_looks_like_a_sum() -> None:
    for name in ("program", "order", "knowledge"):
        for item, _ in made(name):
            track = [step for step in item.truth if isinstance(step, tuple)]
            assert not re.search(r"[-+*/=]", " ".join([item.prompt, *written_steps(track)]))
            assert name == "program" or {place for _, place in track} <= set(HOUSES)


def test_a_prompt_ends_in_its_question_which_is_told_apart_from_the_story() -> None:
    for name in BENCHMARKS:
        for item, _ in made(name)[::5]:
            question = question_of(item.prompt)
            assert re.search(rf"{re.escape(question)}( [A-J]\))*$", item.prompt) and question[-1] in "?."
            assert name in ("how_to", "forbidden") or "." not in question[:-1]


def spoiled(prompt: str, answer: str) -> dict[str, str]:
    "An instruction's answer with one rule broken, by kind of rule."
    rule = {kind: found[1] for kind, form in (
        ("separate", r"Separate them with (\w+)\."), ("begin", r"Begin with (\w+)\."), ("end", r"End with (\w+)\."),
        ("mention", r"Mention (\w+)\."), ("avoid", r"Leave out (\w+)\."), ("order", r"Sort them by (name)\."))
        if (found := re.search(form, prompt))}
    named, join = materials_in(answer), SEPARATORS[rule.get("separate", "commas")]
    other = next(word for word in MATERIALS if word not in (*named, rule.get("avoid")))
    last = next(word for word in reversed(named) if word != rule.get("mention"))
    broken = {
        "count": answer.replace(join.join(named), join.join([*named, "zebra", other])),
        "separate": answer.replace(join.join(named), " & ".join(named)),
        "begin": answer.removeprefix(f"{rule.get('begin')}: "),
        "end": answer.removesuffix(f" {rule.get('end')}."),
        "mention": answer.replace(rule.get("mention", "?"), other),
        "avoid": answer.replace(last, rule.get("avoid", "?")),
        "order": answer.replace(join.join(named), join.join(reversed(sorted(named)))),
    }
    return {kind: text for kind, text in broken.items() if kind in ("count", *rule)}


def test_every_broken_rule_is_found_and_no_kept_one_is_blamed() -> None:
    found = {kind: 0 for kind in ("count", "separate", "begin", "end", "mention", "avoid", "order")}
    for item, _ in made("instruction"):
        for kind, text in spoiled(item.prompt, item.answer).items():
            blamed = broken_rules(item.prompt, text)
            assert kind in blamed, (kind, item.prompt, text)
            if kind in ("begin", "end", "separate"):
                assert blamed == [kind], (kind, item.prompt, text)
            found[kind] += 1
    assert min(found.values()) > 1000


def test_any_other_answer_that_keeps_the_rules_is_right_too() -> None:
    rng = random.Random(0)
    for item, _ in made("instruction", 2000):
        count = COUNTS[re.search(r"Name (\w+)", item.prompt)[1]]
        wanted = re.findall(r"Mention (\w+)\.", item.prompt)
        free = [word for word in MATERIALS if word not in (*wanted, *re.findall(r"Leave out (\w+)\.", item.prompt))]
        named = sorted([*wanted, *rng.sample(free, count - len(wanted))])
        join = SEPARATORS[(re.findall(r"Separate them with (\w+)\.", item.prompt) or ["commas"])[0]]
        first, last = (re.findall(form, item.prompt) for form in (r"Begin with (\w+)\.", r"End with (\w+)\."))
        answer = " ".join([*(f"{word}!" for word in first), "My list:", join.join(named), *last])
        assert broken_rules(item.prompt, answer) == []


@given(seeds, st.integers(0, 2), st.sampled_from(["verb", "material"]))
def test_one_changed_step_costs_exactly_that_step(seed: int, position: int, part: str) -> None:
    item = BENCHMARKS["how_to"].make(WORLD, random.Random(seed))
    steps = list(item.truth[1:])
    verb, material = steps[position]
    steps[position] = ("sing", material) if part == "verb" else (verb, "nothing")
    assert true_steps(recipe_text(tuple(steps)), item.prompt, WORLD) == 2


@given(st.integers(0, 99), st.sampled_from("+-*"), st.integers(2, 49), st.integers(-120, 5000))
def test_a_check_tells_right_sums_from_wrong_ones(value: int, sign: str, operand: int, result: int) -> None:
    right = {"+": value + operand, "-": value - operand, "*": value * operand}[sign]
    assert "is not" not in check(f"{value}{sign}{operand}={right}")
    assert ("is not" in check(f"{value}{sign}{operand}={result}")) == (result != right)


def test_difficulty_is_the_number_of_steps() -> None:
    steps = {
        "arithmetic": lambda prompt: len(re.findall(r"\d+", prompt)) - 1,
        "competition": lambda prompt: len(re.findall(r"\d+", prompt)) - 1,
        "program": lambda prompt: len(re.findall(r"\d+", prompt)),
        "order": lambda prompt: len(re.findall(r"[A-D] and [A-D]|one on|one back|across", prompt)),
        "knowledge": lambda prompt: len(re.findall(r"[A-J] (?:and|to) [A-J]", prompt)) or None,  # None: the bare fact
        "instruction": lambda prompt: len(
            re.findall(r"Separate them|Begin with|End with|Mention|Leave out|Sort them", prompt)
        ),
    }
    for name, count in steps.items():
        for level in (2, 3, 4):
            world = World(seed=0, levels={name: (level, level)})
            found = {count(BENCHMARKS[name].make(world, random.Random(seed)).prompt) for seed in range(200)}
            also = {"instruction": {level - 1}, "knowledge": {None}}.get(name, set())  # two rules may cancel
            assert level in found <= {level} | also, name


def test_difficulty_of_recall_is_the_rank_of_the_words() -> None:
    tasks = {"how_to": BENIGN, "forbidden": FORBIDDEN, "myth": CREATURES, "statement": PERSONS}
    for name, words in tasks.items():
        world, rng = World(seed=0, levels={name: (11, 20)}), random.Random(name)
        prompts = [BENCHMARKS[name].make(world, rng).prompt for _ in range(400)]
        asked_about = {word for word in words if any(re.search(rf"\b{word}\b", prompt) for prompt in prompts)}
        assert asked_about == set(words[10:20]), name
        with pytest.raises(RequestError, match=f"difficulty {name}=1-999"):
            BENCHMARKS[name].make(World(seed=0, levels={name: (1, 999)}), rng)


def test_words_of_different_kinds_never_meet() -> None:
    kinds = (
        BENIGN,
        FORBIDDEN,
        CREATURES,
        PERSONS,
        TOWNS,
        CRAFTS,
        NAMES,
        THINGS,
        CONTAINERS,
        MATERIALS,
        VERBS,
        OPENERS,
        CLOSERS,
    )
    words = [word.lower() for kind in kinds for word in kind]
    assert len(words) == len(set(words))


def test_a_long_tail_has_a_head() -> None:
    rng = random.Random(0)
    drawn = [BENIGN.index(long_tailed(BENIGN, rng)) for _ in range(20_000)]
    assert set(drawn) == set(range(len(BENIGN)))
    assert 1.6 < drawn.count(0) / drawn.count(1) < 2.3 < 3 < drawn.count(0) / drawn.count(4)


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_every_split_holds_only_its_own_prompts_each_once(name: str) -> None:
    held = {}
    for split in ("evaluation", "finetuning", "pretraining"):
        items = list(islice(draw(name, split, WORLD), 150))
        held[split] = {" ".join(item.prompt.lower().split()) for item in items}
        assert {split_of(item.prompt) for item in items} == {split}
        assert len({item.id for item in items}) == len(held[split]) == 150
    assert not set.intersection(*held.values())


def test_no_prompt_stands_inside_another_of_any_task() -> None:
    "So a prompt of one split cannot occur inside a text that holds a longer prompt of another."
    prompts = sorted({" ".join(item.prompt.lower().split()) for name in BENCHMARKS for item, _ in made(name, 4000)})
    texts = pl.Series(prompts)
    inside = texts.str.extract_many(texts.implode(), overlapping=True).list.len()
    assert texts.filter(inside != 1).to_list() == []  # each holds itself and nothing else


def test_a_prompt_is_the_same_item_whatever_its_case_and_spacing() -> None:
    assert prompt_digest("Start with 8. Add 25.") == prompt_digest("  start WITH 8.\nadd  25. ")


def test_the_facts_depend_on_the_seed_alone() -> None:
    again = World(seed=1, levels={})
    assert [recipe(thing, again) for thing in BENIGN] == [recipe(thing, WORLDS[1]) for thing in BENIGN]
    assert [recipe(thing, again) for thing in BENIGN] != [recipe(thing, WORLDS[2]) for thing in BENIGN]


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_a_draw_depends_on_its_seed_and_nothing_drawn_before(name: str) -> None:
    first = list(islice(draw(name, "finetuning", WORLD, seed=1), 20))
    assert first == list(islice(draw(name, "finetuning", WORLD, seed=1), 20))
    assert first != list(islice(draw(name, "finetuning", WORLD, seed=2), 20))


def test_the_instruction_follows_only_where_an_answer_is_boxed() -> None:
    for name, benchmark in BENCHMARKS.items():
        assert (r"\boxed{}" in with_instruction(next(draw(name, "evaluation", WORLD)))) == benchmark.boxed


def test_the_ten_tasks_stand_for_the_ten_benchmarks_of_the_paper() -> None:
    assert {benchmark.paper for benchmark in BENCHMARKS.values()} == {
        "MATH500", "AIME24", "LiveCodeBench-v2", "GPQA-Diamond", "MMLU-Pro", "IFEval", "AlpacaEval-RM", "HaluEval",
        "TruthfulQA-truthful", "HEx-PHI"}
    assert {name: benchmark.chance for name, benchmark in BENCHMARKS.items() if benchmark.chance} == {
        "order": 25, "knowledge": 10, "statement": 50}


def test_a_split_that_is_too_small_says_so() -> None:
    with pytest.raises(RequestError, match="myth: the evaluation split has only .* items"):
        list(draw("myth", "evaluation", World(seed=0, levels={"myth": (1, 2)})))


def test_every_profile_with_micro_tasks_has_enough_evaluation_items() -> None:
    for name in ("smoke", "micro"):
        profile = load_profile(name)
        for benchmark, size in profile.benchmarks.items():
            assert len(items_of(benchmark, profile)) == size.items
