"""What a job will cost: counted as torch counts, and right to a factor of two where it was timed."""
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from sftrepro import codegraph, costs, rebuild, sft
from sftrepro.profiles import LOGITS_PER_PIECE, BaseSpec, RequestError, load_profile
from sftrepro.runs import run_specs
from sftrepro.workflow import jobs

MICRO, PAPER, SMALL = map(load_profile, ("micro", "paper", "small"))
REAL = {base.name: base for profile in (PAPER, SMALL) for base in profile.bases}
# as the model cards state them, in billions
STATED = {
    "Qwen3-0.6B": 0.6,
    "Qwen3-1.7B": 1.7,
    "Qwen3-4B": 4.0,
    "Qwen3-8B": 8.2,
    "Qwen3-14B": 14.8,
    "Qwen2.5-1.5B": 1.54,
    "Qwen2.5-3B": 3.09,
    "Qwen2.5-7B": 7.61,
    "Qwen2.5-14B": 14.7,
    "InternLM2.5-20B": 19.9,
    "SmolLM2-135M": 0.135,
    "Gemma3-270M": 0.268,
}


def untrained(shape: costs.Shape, device: str = "meta") -> torch.nn.Module:
    "A model of a shape, without weights."
    config = AutoConfig.for_model(
        shape.family, vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_width, tie_word_embeddings=shape.tied)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager")


@pytest.mark.parametrize(
    "base", [*REAL.values(), MICRO.bases[0], MICRO.bases[4], MICRO.bases[8]], ids=lambda base: base.name
)
def test_weights_are_counted_to_the_last_one(base: BaseSpec) -> None:
    shape = costs.shape_of(base)
    assert costs.parameters(shape) == sum(weight.numel() for weight in untrained(shape).parameters())
    if base.name in STATED:
        assert costs.parameters(shape) / 1e9 == pytest.approx(STATED[base.name], rel=0.03)


@pytest.mark.parametrize("base", [MICRO.bases[0], MICRO.bases[4], MICRO.bases[8]], ids=lambda base: base.name)
def test_operations_are_those_that_torch_counts(base: BaseSpec) -> None:
    shape, length = costs.shape_of(base), 96
    model = untrained(shape, "cpu")
    tokens = torch.randint(0, 100, (2, length))
    with FlopCounterMode(display=False) as forward:
        loss = model(tokens, labels=tokens).loss
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    weights = 2 * (shape.layers * costs.layer_weights(shape) + shape.hidden * shape.vocabulary)
    attention = (
        costs.forward_flops(shape, length) - weights * length
    )  # half a square; without a kernel that skips the rest, all of it is done
    assert forward.get_total_flops() == pytest.approx(2 * (weights * length + 2 * attention), rel=1e-6)
    assert backward.get_total_flops() == pytest.approx(2 * forward.get_total_flops(), rel=0.1)


@given(length=some.integers(1, 5000), before=some.integers(0, 5000))
def test_reading_in_two_pieces_is_the_same_work(length: int, before: int) -> None:
    shape = costs.shape_of(MICRO.bases[1])
    pieces = costs.forward_flops(shape, before) + costs.forward_flops(shape, length, before)
    assert pieces == pytest.approx(costs.forward_flops(shape, before + length))


@given(rows=some.integers(1, 64), spread=some.floats(0.05, 1))
def test_a_batch_is_as_long_as_the_longest_of_its_rows(rows: int, spread: float) -> None:
    assert 0 < costs.longest(100, spread, rows, 512) <= costs.longest(100, spread, rows + 1, 512) <= 512


def test_more_gpus_and_smaller_batches_need_less_memory_of_each() -> None:
    spec = run_specs(PAPER, ("R04",))[0]
    shape = costs.shape_of(REAL[spec.base])
    needed = [costs.training_memory(shape, spec, 4, gpus, True) for gpus in (1, 8, 16)]
    assert needed == sorted(needed, reverse=True)
    assert needed[0] > 8 * costs.parameters(shape)  # weight, gradient and two averages, in bfloat16
    assert costs.training_memory(shape, spec, 2, 8, True) < needed[1]


@pytest.mark.parametrize("rows", [2, 9])
def test_the_plan_counts_as_many_logits_as_training_keeps(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    shape, length, kept = costs.shape_of(MICRO.bases[0]), 1024, []
    summed_loss = sft.summed_loss
    monkeypatch.setattr(sft, "summed_loss",
                        lambda hidden, *rest: kept.append(len(hidden)) or summed_loss(hidden, *rest))
    model = untrained(shape, "cpu")
    sft.answer_with_the_loss(model)
    with torch.no_grad():
        tokens = torch.randint(0, 100, (rows, length + 1))
        model(input_ids=tokens, labels=tokens)
    assert sum(kept) == rows * length and max(kept) == min(rows * length, LOGITS_PER_PIECE)
    spec = run_specs(MICRO)[0].model_copy(update={"max_length": length, "precision": "float32"})
    without = shape.model_copy(update={"vocabulary": 0})
    weights = costs.parameters(shape) - costs.parameters(without)
    counted = [costs.training_memory(size, spec, rows, 1, False) for size in (shape, without)]
    logits = counted[0] - counted[1] - 4 * 4 * weights
    assert logits == 3 * 4 * max(kept) * shape.vocabulary  # three float32 numbers each


def test_plan_and_training_read_one_constant() -> None:
    code = codegraph.library()
    for name in ("costs.training_memory", "sft.answer_with_the_loss", "token_logprobs.predictions"):
        assert "profiles.LOGITS_PER_PIECE" in code[name].reads


def test_a_batch_that_does_not_fit_is_said_with_one_that_does() -> None:
    spec = run_specs(PAPER, ("R04",))[0].model_copy(update={"micro_batch_size": 32})
    cost = costs.training(spec, PAPER, costs.hardware("H200"))
    assert cost.note.startswith("micro_batch_size 32 does not fit 8 x H200, ") and cost.note.endswith(" does")
    rows = int(cost.note.split()[-2])
    fits = costs.training(spec.model_copy(update={"micro_batch_size": rows}), PAPER, costs.hardware("H200"))
    assert fits.note == "" and fits.memory < costs.USABLE_MEMORY * costs.hardware("H200").memory


@pytest.mark.parametrize("profile", ["smoke", "micro", "pocket", "small", "paper"])
@pytest.mark.parametrize("on", ["CPU core", "H100", "H200"])
def test_every_job_of_every_profile_has_a_cost(profile: str, on: str) -> None:
    chosen = load_profile(profile)
    counted = {job.name: costs.cost_of(job, chosen, costs.hardware(on)) for job in jobs(chosen).values()}
    assert all(cost.seconds > 0 and cost.memory > 0 and costs.cost_words(cost) for cost in counted.values())
    work = [cost for cost in counted.values() if cost.kind in ("train", "generate")]
    assert all(cost.flops > 0 and cost.disk > 0 for cost in work)
    assert all((cost.gpus > 0) == costs.hardware(on).gpu for cost in work)
    assert costs.summary(list(counted.values()))[-1].startswith("together: ")


@pytest.mark.parametrize("profile", ["smoke", "micro", "pocket", "paper"])
def test_no_job_asks_a_scheduler_for_less_memory_than_its_processes_take(profile: str) -> None:
    chosen, named = load_profile(profile), list(jobs(load_profile(profile)).values())
    on = costs.usual_hardware(chosen)
    for job in named:
        cost = costs.cost_of(job, chosen, on)
        asked = rebuild.resources([job], named, [cost], cluster=True)["mem_mb"] * 1e6
        assert asked >= 2 * max(costs.PROCESS, cost.gpus * cost.loaded), job.name
        assert job.kind != "chapter" or asked > 5e9  # 2.5 GB were measured
    twenty_billion = costs.training(run_specs(PAPER, ("R06",))[0], PAPER, costs.hardware("H200"))
    assert twenty_billion.gpus * twenty_billion.loaded > 8 * 2 * 19e9  # each process reads all weights at first


def test_where_models_judge_scoring_gets_a_gpu() -> None:
    score = {name: next(job for job in jobs(load_profile(name)).values() if job.kind == "score")
             for name in ("micro", "paper", "small")}
    gpus = {name: costs.cost_of(job, load_profile(name), costs.hardware("H200")).gpus for name, job in score.items()}
    assert gpus == {"micro": 0, "paper": 1, "small": 0}
    assert costs.cost_of(score["paper"], PAPER, costs.hardware("CPU core")).memory > 8e9


def test_all_runs_of_the_paper_are_planned_on_what_can_be_launched() -> None:
    trainings = [costs.training(spec, PAPER, costs.hardware("H200")) for spec in run_specs(PAPER)]
    assert len(trainings) == 33 and {cost.gpus for cost in trainings} <= {1, 8, 16}
    assert all(cost.memory < costs.hardware("H200").memory for cost in trainings)


@pytest.mark.parametrize("timed", [costs.timed_trainings, costs.timed_answers])
def test_what_was_predicted_for_micro_is_what_it_took_within_a_factor_of_two(timed) -> None:
    ratios = [line["predicted"] / line["took"] for line in timed(MICRO)]
    assert 0.5 < statistics.median(ratios) < 2, ratios


def test_what_the_tables_do_not_know_is_refused_by_name() -> None:
    with pytest.raises(
        RequestError, match=r"^hardware 'abacus' is not in data/costs/hardware.csv. Known: H200, H100, CPU core, "
                            r"CPU core \(real model\)$"
    ):
        costs.hardware("abacus")
    with pytest.raises(
        RequestError, match=r"^data/costs/shapes.csv has no line for some/model. Add one from its config.json$"
    ):
        costs.shape_of(BaseSpec(paper="p", name="n", kind="hub", repo="some/model"))
    with pytest.raises(
        RequestError, match=r"^data/costs/lengths.csv has no line for Poems with queries = world. Add one$"
    ):
        costs.lengths(MICRO, "Poems")


@pytest.mark.parametrize(
    ("seconds", "words"), [(1, "1 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (86400 * 9, "9 days")]
)
def test_times_are_said_in_the_unit_that_suits_them(seconds: float, words: str) -> None:
    assert costs.duration(seconds) == words
