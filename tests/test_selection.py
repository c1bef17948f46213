"Pools of traces whose kinds are known, and what each chooser takes from them."
from collections import Counter
from functools import cache

import polars as pl
import pytest
import torch
from transformers import AutoTokenizer

from sftrepro import selection
from sftrepro.answers import boxed
from sftrepro.data import SCHEMA, DataRequest, drawn_queries, is_correct, query_text
from sftrepro.data import make as make_plain
from sftrepro.profiles import RequestError, load_profile
from sftrepro.recipes import Knobs, parse
from sftrepro.runs import run_named, scaled
from sftrepro.selection import (
    CHOOSERS,
    SHARES,
    TRACES,
    best,
    fitted,
    labelled_queries,
    mean_log_probability,
    misreadings,
    mixed_pool,
    readings,
    values,
)
from sftrepro.store import base_folder

MICRO = load_profile("micro")
FEW = MICRO.model_copy(update={"row_divisor": 640})  # 32 rows
TOKENIZER = AutoTokenizer.from_pretrained(base_folder(MICRO, "Micro-M"))


def request_for(by: str, base: str = "") -> DataRequest:
    name = f"Math-CoT,pool=mixed,by={by}" + (f",base={base}" if base else "")
    return DataRequest(*parse(name), 1, FEW, TOKENIZER)


@cache
def asked(count: int) -> tuple:
    larger = FEW.model_copy(update={"row_divisor": 20480 // count})
    return tuple(drawn_queries(request_for("random")._replace(profile=larger))[:count])


@cache
def pool(count: int = 300) -> pl.DataFrame:
    return mixed_pool(request_for("random"), asked(count))


# The pool


def test_every_query_has_the_promised_number_of_traces_and_one_that_ends_right() -> None:
    queries = pool().group_by("query").agg(pl.len(), pl.col("verified").any())
    assert len(queries) == 300 and set(queries["len"]) == {TRACES} and queries["verified"].all()


def test_the_kinds_have_the_promised_shares() -> None:
    found = Counter(pool()["kind"])
    assert set(found) == set(SHARES) and sum(SHARES.values()) == pytest.approx(1)
    for kind, share in SHARES.items():
        error = (share * (1 - share) / len(pool())) ** 0.5
        assert abs(found[kind] / len(pool()) - share) < 4 * error


def test_each_kind_is_what_its_name_says() -> None:
    items = {item.id: item for item in asked(300)}
    for row in pool().iter_rows(named=True):
        item, text = items[row["query"]], row["response"]
        assert row["verified"] == is_correct(item, text) == (row["kind"] in ("right", "unchecked", "padded"))
        assert row["truncated"] == ("</think>" not in text) == (row["kind"] == "truncated")
        assert row["kind"] != "unchecked" or not any(word in text for word in ("Verify", "hold on", "verify", "sure"))
        assert row["kind"] != "misread" or boxed(text) in {other.answer for other in misreadings(item)}
    lengths = dict(pool().group_by("kind").agg(pl.col("tokens").mean()).iter_rows())
    assert lengths["padded"] > lengths["right"] > lengths["unchecked"]


def test_traces_that_misread_a_query_agree_and_slips_scatter() -> None:
    said = pool().with_columns(said=pl.Series(list(map(boxed, pool()["response"]))))
    most = said.group_by("kind", "query").agg(same=pl.col("said").drop_nulls().unique_counts().max(), asked=pl.len())
    several = most.filter(pl.col("asked") > 1)
    agreeing = dict(several.group_by("kind").agg((pl.col("same") / pl.col("asked")).mean()).iter_rows())
    assert agreeing["misread"] == agreeing["right"] == 1 and agreeing["slipped"] < 0.8


def test_every_trace_fits_and_a_pool_is_the_same_each_time() -> None:
    assert pool()["tokens"].max() <= request_for("random").room
    assert mixed_pool(request_for("verifier"), asked(300)[:3]).equals(pool().head(3 * TRACES))



def test_a_chain_whose_operands_decide_nothing_is_misread_at_its_first_number() -> None:
    item = next(drawn for drawn in drawn_queries(request_for("random")) if len(drawn.truth) == 3)
    always_zero = item.model_copy(update={"truth": (1, ("Subtract", 1), ("Multiply by", 2)), "answer": "0"})
    assert [(other.truth[0], other.answer) for other in misreadings(always_zero)] == [(2, "2")]


def test_a_misread_chain_differs_in_one_number_and_in_its_result() -> None:
    for item in asked(300):
        assert misreadings(item)
        for other in misreadings(item):
            differing = [step for step, wrong in zip(item.truth[1:], other.truth[1:], strict=True) if step != wrong]
            assert len(differing) == 1 and other.truth[0] == item.truth[0] and other.prompt == item.prompt
            assert other.answer == str(values(other.truth)[-1]) != item.answer and min(values(other.truth)) >= 0


# The choosers


def toy(**columns: list) -> pl.DataFrame:
    "Three traces of one query, of known truth."
    frame = {"query": ["q"] * 3, "candidate": [0, 1, 2], "response": ["", "", ""], "verified": [False] * 3,
             "tokens": [3, 3, 3]}
    return pl.DataFrame(frame | columns)


def chosen(by: str, frame: pl.DataFrame) -> int:
    return best(frame, CHOOSERS[by](frame, request_for("random")), seed=1)["candidate"][0]


def test_each_chooser_that_needs_no_model_does_what_it_says() -> None:
    assert chosen("verifier", toy(verified=[False, False, True])) == 2
    assert chosen("shortest", toy(tokens=[9, 2, 5])) == 1
    assert chosen("longest", toy(tokens=[9, 2, 5])) == 0
    answers = [r"\boxed{3}", "never ended", r"So \boxed{3}."]
    assert chosen("agreement", toy(response=answers)) in (0, 2)
    assert chosen("agreement", toy(response=["never ended", "nor this", r"\boxed{7}"])) == 2


def test_lots_decide_between_equals_and_take_each_as_often() -> None:
    frame = pl.concat([toy().with_columns(query=pl.lit(f"q{number}")) for number in range(600)])
    taken = Counter(best(frame, CHOOSERS["random"](frame, request_for("random")), seed=1)["candidate"])
    assert all(abs(count - 200) < 50 for count in taken.values()) and len(taken) == 3


def test_on_a_pool_of_known_truth_the_choosers_differ_as_they_should() -> None:
    right = {by: best(pool(), CHOOSERS[by](pool(), request_for("random")), 1) for by in (
        "verifier", "agreement", "random", "shortest", "longest")}
    share = {by: frame["verified"].mean() for by, frame in right.items()}
    assert share["verifier"] == 1 and share["verifier"] > share["agreement"] > share["random"] + 0.1
    assert abs(share["random"] - 0.45) < 0.1 and share["shortest"] < share["random"]
    assert all(frame["query"].to_list() == [item.id for item in asked(300)] for frame in right.values())


def test_perplexity_is_that_of_the_base_and_the_judge_ranks_better_than_chance() -> None:
    request, small = request_for("perplexity", "Micro-S"), pool().head(40 * TRACES)
    read = readings(small, request, mean_log_probability)
    alone = readings(small[5:6], request, mean_log_probability)
    assert all(value < 0 for value in read) and alone[0] == pytest.approx(read[5], abs=1e-4)
    scores = CHOOSERS["judge"](small, request)
    ranks = scores.rank()
    yes, no = ranks.filter(small["verified"]), ranks.filter(~small["verified"])
    assert (yes.sum() - len(yes) * (len(yes) + 1) / 2) / (len(yes) * len(no)) > 0.65  # area under the curve


def test_the_judge_learns_from_other_queries() -> None:
    request = request_for("judge", "Micro-M")
    assert not {item.id for item in labelled_queries(request)} & {item.id for item in drawn_queries(request)}


def test_a_probe_finds_a_direction() -> None:
    states = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    probe = fitted(states, states[:, 2] > 0)
    assert ((probe(states) > 0.5) == (states[:, 2] > 0)).float().mean() > 0.9


# Data sets


@cache
def made(by: str) -> pl.DataFrame:
    return selection.make(request_for(by)).data


@pytest.mark.parametrize("by", ["verifier", "agreement", "shortest", "random"])
def test_all_choosers_give_the_queries_of_math_cot_in_its_order(by: str) -> None:
    plain = make_plain(request_for(by)._replace(knobs=Knobs())).data
    assert dict(made(by).schema) == SCHEMA and len(made(by)) == len(plain) == 32
    assert made(by)["messages"].to_list() == plain["messages"].to_list()
    assert made(by)["answer"].to_list() == plain["answer"].to_list()


def test_the_verifiers_rows_are_verified_and_others_say_which_are_not() -> None:
    assert made("verifier")["verified"].all() and not made("random")["verified"].all()
    items = {query_text(item): item for item in drawn_queries(request_for("random"))}
    for row in made("random").iter_rows(named=True):
        assert row["verified"] == is_correct(items[row["messages"][0]["content"]], row["response"])


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Math-CoT,pool=mixed", "pool and by go together"),
        ("Math-CoT,by=verifier", "pool and by go together"),
        ("Math-CoT,pool=mixed,by=oracle", "by = 'oracle'"),
        ("Math-CoT,pool=good,by=verifier", "pool = 'good'"),
        ("Math-CoT,pool=mixed,by=perplexity", "cannot do without it"),
        ("Math-CoT,pool=mixed,by=longest,base=Micro-M", "base is for by=perplexity and by=judge"),
        ("Math-CoT,base=Micro-M", "base is for by=perplexity and by=judge"),
        ("Math-CoT,pool=mixed,by=random,wrong=0.5", "leave out wrong, backtracking, length and habits"),
        ("NuminaMath,pool=mixed,by=random", "Knobs of NuminaMath"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_in_one_line(name: str, problem: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse(name)
    assert problem in str(refused.value) and "\n" not in str(refused.value)


def test_a_base_that_is_not_there_is_named() -> None:
    with pytest.raises(RequestError, match="base 'Micro-Q' of profile micro has not been made"):
        readings(pool().head(1), request_for("perplexity", "Micro-Q"), mean_log_probability)


def test_a_run_names_the_base_that_it_starts_from() -> None:
    smoke = load_profile("smoke")
    assert scaled(run_named("B4503"), MICRO, 1).data == "Math-CoT,pool=mixed,by=perplexity,base=Micro-M"
    assert scaled(run_named("B4503"), smoke, 1).data == "Math-CoT,pool=mixed,by=perplexity,base=Nano"
