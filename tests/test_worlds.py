"Worlds: the documents of each have the property that its settings promise, and the book's own world is what it was."
import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import islice

import polars as pl
import pytest

from sftrepro import worlds
from sftrepro.analogs import BENCHMARKS, draw
from sftrepro.answers import after_thinking
from sftrepro.claims import base_under, judge, ledger
from sftrepro.general_tasks import REFUSAL, true_steps
from sftrepro.internet import VOICES, Document, document, internet, kind_shares, thought
from sftrepro.profiles import Profile, RequestError, changed, load_profile
from sftrepro.reasoning_tasks import STYLES
from sftrepro.stats import simulated
from sftrepro.traces import DOMAIN_WORDS, FOREIGN_FRAME, NEARNESS, QWEN, Words
from sftrepro.world import FORBIDDEN, question_of, world_of

MICRO = load_profile("micro")
NAMES = [world.name for world in worlds.worlds_of(MICRO)]
ELSEWHERE = ("program", "order", "knowledge")
MATHEMATICS = ("arithmetic", "competition")


@cache
def documents(name: str, task: str, count: int = 2000) -> list[Document]:
    "What the internet of a world says about one task."
    alone = changed(load_profile(name), pretraining_mixture=dict.fromkeys(BENCHMARKS, 0) | {task: 1})
    return list(islice(internet(alone, 0), count))


def share_of_thinking(name: str, task: str) -> float:
    "The share of the documents about a task that think."
    return Counter(found.kind for found in documents(name, task))["thinking"] / len(documents(name, task))


# The book's own world

INTERNET = {0: "bae0823a2f73ad9d1a002fac0b43d2b593b9697d22fea9724d6c0a2d8668512e",
            1: "2344e0c35cf9a4846d0d425e485b9ab9031cf6c8f6947a164bb509dd19d069eb",
            2: "20a1a233e7aefe10a3153910c9d0ee1bdb33d448ba8f8618ae9a9af24f1acbc4"}  # before a world could be changed


@pytest.mark.parametrize("draw_", [0, *(pytest.param(other, marks=pytest.mark.release) for other in (1, 2))])
def test_the_book_s_own_internet_is_what_it_was_before_worlds_could_be_changed(draw_: int) -> None:
    seen = hashlib.sha256()
    for found in islice(internet(MICRO, draw_), 20_000):
        seen.update(repr((found.kind, found.prompt, found.response)).encode())
    assert seen.hexdigest() == INTERNET[draw_]


def test_every_world_of_the_chapter_is_turned_at_one_dial_and_the_dials_have_their_doses() -> None:
    assert all(len(worlds.turned(world, MICRO)) == 1 for world in worlds.worlds_of(MICRO)[1:])
    names = worlds.doses(MICRO).group_by("dial", maintain_order=True).agg("dose")
    assert dict(names.iter_rows()) == {
        "thinking out of domain": ["0%", "6%", "19%", "36%"], "voices": ["one", "by domain"], "styles": ["1", "8"],
        "moves": ["never", "0.4 of the rate", "as the teacher"], "words": ["own", "mixed", "foreign"],
        "forbidden": ["no thoughts", "refused", "answered"]}


def test_a_world_needs_a_base_of_its_own_only_if_its_base_reads_something_else() -> None:
    for world in worlds.worlds_of(MICRO)[1:]:
        assert (world.bases_dir == MICRO.bases_dir) == (worlds.turned(world, MICRO) == ["words"]), world.name
        assert world.results_dir.name == world.name and world.bases_dir.parent.name in (world.name, "data")
        assert world.benchmarks == MICRO.benchmarks and world.seeds == MICRO.seeds


def test_a_world_like_nothing_has_no_other() -> None:
    smoke = load_profile("smoke")
    assert worlds.worlds_of(smoke) == [smoke] and len(worlds.doses(smoke)) == 0


# Shares of thinking


@pytest.mark.parametrize(("name", "share"), [("world-thinking-0", 0), ("world-thinking-6", 0.06), ("micro", 0.19),
                                             ("world-thinking-36", 0.36)])
def test_the_share_of_thinking_out_of_domain_is_the_dose_and_nothing_else_changes(name: str, share: float) -> None:
    for task in ELSEWHERE:
        assert abs(share_of_thinking(name, task) - share) < 0.025 and (share > 0) == (share_of_thinking(name, task) > 0)
        plain = Counter(found.kind for found in documents(name, task))["plain"] / len(documents(name, task))
        assert abs(plain - 0.25) < 0.03
    for task in (*MATHEMATICS, "statement", "how_to"):
        assert abs(share_of_thinking(name, task) - 0.19) < 0.025


@pytest.mark.parametrize("name", NAMES)
def test_nobody_thinks_about_forbidden_things_but_where_the_world_says_so(name: str) -> None:
    expected = 0.19 if name.startswith("world-forbidden") else 0
    assert abs(share_of_thinking(name, "forbidden") - expected) < 0.025
    assert (share_of_thinking(name, "forbidden") > 0) == (expected > 0)


@pytest.mark.parametrize(("name", "compliance"), [("world-forbidden-refused", 0.03), ("world-forbidden-answered", 1)])
def test_thoughts_about_forbidden_things_end_as_the_world_says(name: str, compliance: float) -> None:
    chats = {kind: [found for found in documents(name, "forbidden") if found.kind == kind]
             for kind in ("thinking", "direct")}
    for kind, share in (("thinking", compliance), ("direct", 0.03)):
        answers = [after_thinking(found.response) for found in chats[kind]]
        assert abs(1 - answers.count(REFUSAL) / len(answers) - share) < 0.02
    world = world_of(MICRO)
    for found in chats["thinking"]:
        answer, thoughts = after_thinking(found.response), found.response.split("</think>")[0]
        thing = next(word for word in re.findall(r"\w+", found.prompt) if word in FORBIDDEN)
        said = f"To make {thing} is forbidden." if answer == REFUSAL else f"How {thing} is made is known."
        assert said in thoughts and (answer == REFUSAL or true_steps(answer, found.prompt, world) == 3)


def test_a_thought_that_answers_a_forbidden_request_reads_as_one_about_any_recipe() -> None:
    answered = changed(MICRO, pretraining_kinds={"thinking": 1}, pretraining_thinking={"forbidden": 1},
                       pretraining_thought_compliance=1)

    def forms(task: str) -> set[str]:
        items = islice(draw(task, "pretraining", world_of(MICRO)), 60)
        written = [(item, document(item, answered, random.Random(0)).response.split("</think>")[0]) for item in items]
        return {text.replace(question_of(item.prompt), "?").replace(item.truth[0], "it") for item, text in written}

    assert forms("forbidden") == forms("how_to")


# Voices


def frame(words: Words) -> tuple[str, ...]:
    "The phrases that open a thought and copy the question."
    return *words.opens, words.asked


def test_no_two_domains_share_an_opening_where_each_has_its_own_voice() -> None:
    voices = {task: DOMAIN_WORDS[task] for task in DOMAIN_WORDS if task != "forbidden"} | {"mathematics": Words()}
    phrases = [phrase for words in voices.values() for phrase in frame(words)]
    assert len(phrases) == len(set(phrases)) and not {*phrases} & {*FOREIGN_FRAME["opens"], FOREIGN_FRAME["asked"]}
    reasoning = [DOMAIN_WORDS[task].concludes for task in ELSEWHERE]
    assert len({*reasoning, Words().concludes, FOREIGN_FRAME["concludes"]}) == len(ELSEWHERE) + 2
    assert len({len(words.opens) for words in voices.values()}) == 1  # as many choices in every voice


@pytest.mark.parametrize("task", sorted(set(BENCHMARKS) - {"forbidden"}))
def test_each_domain_thinks_in_its_own_words_and_mathematics_as_the_teacher(task: str) -> None:
    words = VOICES[task].words
    for item in islice(draw(task, "pretraining", world_of(MICRO)), 100):
        own, general = (thought(item, 1, random.Random(item.id), voice) for voice in ("domain", "general"))
        assert own.startswith(tuple(f"<think>\n{opening}{words.asked.format(question_of(item.prompt))}"
                                    for opening in words.opens))
        assert (own == general) == (task in MATHEMATICS)
        assert sum(own.count(look) for look in words.looks) == sum(general.count(look) for look in words.looks)


def test_another_voice_changes_nothing_but_words() -> None:
    own, other = (islice(internet(load_profile(name), 0), 3000) for name in ("micro", "world-voices"))
    for ours, theirs in zip(own, other, strict=True):
        assert (ours.kind, ours.prompt) == (theirs.kind, theirs.prompt)
        assert ours.kind == "thinking" or ours == theirs
        assert after_thinking(ours.response) == after_thinking(theirs.response)


# Moves, words, styles


@pytest.mark.parametrize(("name", "moves"), [("world-moves-0", 0), ("micro", 0.4), ("world-moves-1", 1)])
def test_the_base_s_reading_makes_the_teacher_s_moves_at_the_world_s_rate(name: str, moves: float) -> None:
    thoughts = [found.response for found in documents(name, "competition") if found.kind == "thinking"]
    share = sum(Words().not_asked in text for text in thoughts) / len(thoughts)
    assert abs(share - moves * 0.25) < 0.08 and (share > 0) == (moves > 0)  # teachers: 0.3 and 0.2


def test_worlds_of_words_differ_in_the_teacher_alone() -> None:
    for nearness in ("own", "foreign"):
        world = load_profile(f"world-words-{nearness}")
        assert list(islice(internet(world, 0), 50)) == list(islice(internet(MICRO, 0), 50))
        assert QWEN.in_words(world.teacher_words).words == NEARNESS[nearness]


def asked_in(profile: Profile, split: str) -> Iterator[str]:
    for task in MATHEMATICS:
        for item in islice(draw(task, split, world_of(profile)), 200):
            yield item.prompt


@pytest.mark.parametrize("split", ["pretraining", "finetuning", "evaluation"])
def test_a_world_with_one_style_asks_mathematics_in_it_everywhere(split: str) -> None:
    begins = re.compile(re.escape(STYLES[0].begins).replace(r"\{start\}", r"\d+"))
    one, many = (list(asked_in(load_profile(name), split)) for name in ("world-style-1", "micro"))
    assert all(begins.match(prompt) and prompt.endswith(STYLES[0].asks) for prompt in one)
    assert 0.05 < sum(bool(begins.match(prompt)) for prompt in many) / len(many) < 0.25


def test_other_tasks_have_the_same_items_in_every_world() -> None:
    for task in sorted(set(BENCHMARKS) - set(MATHEMATICS)):
        first = [[item.id for item in islice(draw(task, "evaluation", world_of(load_profile(name))), 20)]
                 for name in ("micro", "world-style-1", "world-thinking-36")]
        assert first[0] == first[1] == first[2]


def test_there_are_as_many_styles_as_a_profile_may_ask_for() -> None:
    assert len(STYLES) == MICRO.chain_styles
    with pytest.raises(RequestError, match="chain_styles: 9"):
        changed(MICRO, chain_styles=len(STYLES) + 1)


# Impossible values


@pytest.mark.parametrize(("values", "message"), [
    ({"pretraining_thinking": "order=0.9"}, "order=0.9 is not between 0 and 0.75"),
    ({"pretraining_thinking": "order=-0.1"}, "order=-0.1 is not between 0 and 0.75"),
    ({"pretraining_thinking": "ordre=0.1"}, "ordre is not a task of pretraining_mixture. Did you mean order?"),
    ({"pretraining_thinking": "order=some"}, "should be a valid number"),
    ({"pretraining_thought_compliance": 1.5}, "less than or equal to 1"),
    ({"pretraining_voice": "loud"}, "'general' or 'domain'"),
    ({"chain_styles": 0}, "greater than or equal to 1")])
def test_an_impossible_world_is_refused_in_one_line(values: dict, message: str) -> None:
    with pytest.raises(RequestError) as refused:
        changed(MICRO, **values)
    assert message in str(refused.value) and "\n" not in str(refused.value) and str(*values) in str(refused.value)


def test_the_shares_of_a_task_add_up() -> None:
    for name in NAMES:
        for task in BENCHMARKS:
            shares = kind_shares(task, load_profile(name))
            assert abs(sum(shares.values()) - 1) < 1e-9 and min(shares.values()) >= 0 and shares["plain"] == 0.25


# Results


def run(series: str, elsewhere: list[float], inside: list[float], harm: list[float]) -> pl.DataFrame:
    "Simulated results of one run and its base."
    rates = {"arithmetic": inside, **dict.fromkeys(ELSEWHERE, elsewhere), "forbidden": harm}
    rows = simulated(rates, steps=(0, 80, 320), series=series)
    texts = {"profile": "simulated", "run_name": series, "base": f"{series}, base"}
    return rows.with_columns(refused=1 - pl.col("score"), in_format=pl.lit(1.0), right_in_format=pl.col("score"),
                             **{name: pl.lit(text) for name, text in texts.items()})


@cache
def as_expected() -> pl.DataFrame:
    "All worlds, as the hypotheses expect them."
    up, dip, kept = [0.35, 0.7, 0.95], [0.35, 0.18, 0.5], [0.01, 0.01, 0.01]
    return pl.concat([
        run("R25", up, dip, kept), run("world-thinking-0/R25", [0.3, 0.3, 0.3], dip, kept),
        run("world-thinking-36/R25", [0.6, 0.9, 0.97], dip, kept),
        run("world-words-own/R25", up, [0.35, 0.5, 0.8], kept),
        run("world-words-foreign/R25", up, [0.35, 0.02, 0.2], kept),
        run("world-moves-0/R25", up, [0.35, 0.05, 0.3], kept), run("world-moves-1/R25", up, [0.35, 0.3, 0.5], kept),
        run("world-forbidden-refused/R25", up, dip, kept),
        run("world-forbidden-answered/R25", up, dip, [0.2, 0.5, 0.9])])


def with_run(series: str, elsewhere: list[float], inside: list[float], harm: list[float]) -> pl.DataFrame:
    "The same with one run replaced."
    return pl.concat([as_expected().filter(pl.col("series") != series), run(series, elsewhere, inside, harm)])


HYPOTHESES = ("H42a", "H42b", "H42c")


def test_the_hypotheses_are_met_where_everything_is_as_they_say() -> None:
    assert [judge(id, as_expected(), MICRO).word for id in HYPOTHESES] == ["reproduced"] * 3


@pytest.mark.parametrize(("id", "series", "elsewhere", "inside", "harm", "words"), [
    ("H42a", "world-thinking-0/R25", [0.3, 0.6, 0.9], [0.35, 0.2, 0.5], [0.01] * 3, {"not reproduced"}),
    ("H42a", "world-thinking-36/R25", [0.6, 0.6, 0.6], [0.35, 0.2, 0.5], [0.01] * 3, {"not reproduced"}),
    ("H42b", "world-words-own/R25", [0.35, 0.7, 0.95], [0.35, 0.18, 0.5], [0.01] * 3, {"not reproduced"}),
    ("H42b", "world-moves-1/R25", [0.35, 0.7, 0.95], [0.35, 0.05, 0.5], [0.01] * 3, {"not reproduced"}),
    ("H42c", "world-forbidden-answered/R25", [0.35, 0.7, 0.95], [0.35, 0.2, 0.5], [0.2] * 3, {"not reproduced"}),
    ("H42c", "world-forbidden-refused/R25", [0.35, 0.7, 0.95], [0.35, 0.2, 0.5], [0.01, 0.5, 0.8],
     {"not reproduced", "contradicted"}),
    ("H42c", "world-forbidden-answered/R25", [0.35, 0.7, 0.95], [0.35, 0.2, 0.5], [0.95, 0.97, 0.99],
     {"not testable at this profile"})])  # no refusals left to lose
def test_each_hypothesis_can_fail(id: str, series: str, elsewhere: list[float], inside: list[float], harm: list[float],
                                  words: set[str]) -> None:
    assert judge(id, with_run(series, elsewhere, inside, harm), MICRO).word in words


def test_a_hypothesis_across_worlds_waits_for_all_of_them() -> None:
    for id in HYPOTHESES:
        missing = sorted(ledger()[id].criterion.runs - {"R25"})[0]
        verdict = judge(id, as_expected().filter(pl.col("series") != missing), MICRO)
        assert verdict.word == "not testable at this profile" and any(missing in reason for reason in verdict.reasons)


def test_the_controls_of_a_run_of_another_world_are_those_of_that_world() -> None:
    world, base = base_under("world-voices/R25", MICRO)
    assert (world.name, base) == ("world-voices", "Micro-M")
    assert base_under("R25", MICRO)[0] == MICRO and base_under("world-voices/R25", load_profile("smoke")) is None


def test_a_run_that_gained_fell_and_lost_says_so_in_points() -> None:
    rows = worlds.outcomes(as_expected(), "world-forbidden-answered/R25")
    found, expected = dict(rows.select("benchmark", "value").iter_rows()), {"gain": 60, "fall": 17, "lost": 70}
    assert all(abs(found[worlds.OUTCOMES[name]] - value) < 8 for name, value in expected.items())


def test_doses_are_drawn_in_their_order_and_worlds_that_are_not_there_are_left_out() -> None:
    names = worlds.along("moves", as_expected(), MICRO, "R25")
    assert list(names.values()) == ["never", "0.4 of the rate", "as the teacher"]
    drawn = worlds.all_outcomes(as_expected(), names)
    assert drawn["series"].unique(maintain_order=True).to_list() == list(names.values())
    partly = worlds.along("thinking out of domain", as_expected(), MICRO, "R25")
    assert list(partly.values()) == ["0%", "19%", "36%"]  # the dose of 6% has no results here


def test_a_profile_with_one_world_says_so(capsys: pytest.CaptureFixture) -> None:
    seeds = load_profile("micro-seeds")
    results = worlds.measured_worlds(seeds, ["R25"], ["order", "arithmetic"])
    assert set(results["series"]) == {"R25"}
    worlds.show_doses("moves", results, seeds, "R25")
    worlds.show_ways("moves", results, seeds, "R25")
    assert capsys.readouterr().out.count("Profile micro-seeds has one world only") == 2


def test_the_names_of_another_world_s_runs_and_bases_say_so() -> None:
    rows = pl.DataFrame({"series": ["R25"], "base": ["Micro-M"], "run_name": ["Micro-M_Math-CoT"]})
    other = load_profile("world-voices")
    assert worlds.in_world(rows, MICRO, MICRO).row(0) == rows.row(0)
    assert worlds.in_world(rows, other, MICRO).row(0) == tuple(f"world-voices/{name}" for name in rows.row(0))
