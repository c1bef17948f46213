"Reinforcement learning: what is rewarded, that it learns, stops and resumes, what it costs, and what is refused."
import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
import torch
from datasets import Dataset
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from sftrepro import rl, runs, sft, workflow
from sftrepro.costs import Shape, answer_flops, hardware, reinforcement
from sftrepro.data import data_set
from sftrepro.execution import perform
from sftrepro.profiles import RequestError, changed, load_profile
from sftrepro.runs import ContinuedSpec, OwnRun, RLSpec, run_specs, spec_of
from sftrepro.store import base_folder, data_folder, run_folder

SMOKE = load_profile("smoke")
SFT = run_specs(SMOKE, ("R25",))[0]
SPEC = spec_of(dict(SFT) | {"paper_run": "B4301", "rows": 64, "batch_size": 4, "micro_batch_size": 4, "epochs": 1,
                            "schedule": "constant", "learning_rate": 5e-3, "group_size": 8, "max_new_tokens": 24})
pytestmark = pytest.mark.usefixtures("nano_store")


def tokenizer():
    return AutoTokenizer.from_pretrained(base_folder(SMOKE, SPEC.base))


def rows() -> Dataset:
    return rl.queries(SPEC, tokenizer(), data_set(data_folder(SMOKE.name, SPEC.data, SPEC.seed)))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def numeral(completions: Sequence[str], answers: Sequence[str], ended: Sequence[bool]) -> list[float]:
    "A reward that any model earns now and then: there is a digit in the answer."
    return [float(any(map(str.isdigit, text))) for text in completions]


@pytest.fixture(scope="module")
def run(nano_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rl.train(SPEC, folder := tmp_path_factory.mktemp("run"), numeral)
    return folder


# What is asked, and what is rewarded


def test_the_queries_are_those_of_finetuning_and_leave_thinking_to_the_model() -> None:
    data = data_set(data_folder(SMOKE.name, SPEC.data, SPEC.seed))
    tuned = sft.training_rows(SFT, tokenizer(), data)
    for row, original, reference in zip(rows(), data, tuned, strict=True):
        prompt = [token for token, label in zip(reference["input_ids"], reference["labels"], strict=True)
                  if label == sft.IGNORED]
        assert row == {"prompt": tokenizer().decode(prompt), "answer": original["answer"]}
        assert row["prompt"].endswith("<|im_start|>assistant\n")


def test_the_teachers_own_solutions_earn_the_reward_unless_cut_off() -> None:
    data = data_set(data_folder(SMOKE.name, SPEC.data, SPEC.seed))
    texts, answers = list(data["response"]), list(data["answer"])
    assert set(rl.verified(texts, answers, [True] * len(texts))) == {1.0}
    assert set(rl.verified(texts, answers, [False] * len(texts))) == {0.0}
    assert set(rl.verified([text.replace("boxed", "box") for text in texts], answers, [True] * len(texts))) == {0.0}


def test_a_countdown_puzzle_is_refused() -> None:
    with pytest.raises(RequestError, match=r"Countdown puzzle has many right answers.*Take another data set"):
        rl.queries(changed(SPEC, data="Countdown-CoT"), tokenizer(), Dataset.from_list([]))


def test_too_few_queries_are_refused() -> None:
    with pytest.raises(RequestError, match="Math-CoT has 64 rows and the run needs 65. Make it again: make rebuild"):
        rl.queries(changed(SPEC, rows=65), tokenizer(), data_set(data_folder(SMOKE.name, SPEC.data, SPEC.seed)))


# Learning


def test_a_tiny_base_learns_a_trivial_reward(run: Path) -> None:
    reward = pl.read_parquet(run / "train.parquet")["reward"]
    assert len(reward) == SPEC.steps == 16
    assert reward[-4:].mean() > reward[:4].mean() + 0.2


def test_a_run_leaves_what_a_finetuning_run_leaves(run: Path) -> None:
    steps = runs.checkpoint_steps(SPEC)
    assert sorted(path.name for path in run.iterdir()) == sorted(
        ["spec.json", "train.parquet", *(sft.step_folder(run, step).name for step in steps)])
    assert not torch.equal(*[weights(sft.step_folder(run, step))["model.embed_tokens.weight"]
                             for step in (steps[0], steps[-1])])


def test_the_log_counts_the_tokens_that_were_read_and_written(nano_store: Path, tmp_path: Path) -> None:
    short, seen = changed(SPEC, rows=8, micro_batch_size=2, kl_weight=0.1), []  # two passes a step, and a reference

    class Counting(rl.Reinforcer):
        def roll_out(self, prompts, trainer):
            seen.append(found := super().roll_out(prompts, trainer))
            return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rl, "Reinforcer", Counting)
        rl.train(short, tmp_path, numeral)
    written = [sum(map(len, found["completion_ids"])) for found in seen]
    read = [sum(map(len, found["prompt_ids"])) for found in seen]
    log = pl.read_parquet(tmp_path / "train.parquet")
    assert log["generated"].to_list() == written
    assert log["tokens"].to_list() == [asked + told for asked, told in zip(read, written, strict=True)]


@pytest.mark.parametrize("death", [pytest.param(1, marks=pytest.mark.release), 7])
def test_a_run_killed_and_resumed_ends_with_the_same_weights(
        run: Path, tmp_path: Path, monkeypatch, death: int) -> None:
    left, loss = [death], rl.Reinforcer.compute_loss

    def deadly(self, *args, **kwargs):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return loss(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rl.Reinforcer, "compute_loss", deadly)
        rl.train(SPEC, tmp_path, numeral)
    rl.train(SPEC, tmp_path, numeral)
    for step in runs.checkpoint_steps(SPEC):
        once, twice = weights(sft.step_folder(run, step)), weights(sft.step_folder(tmp_path, step))
        assert all(torch.equal(once[name], twice[name]) for name in once)
    columns = ["step", "reward", "same", "grad_norm", "generated", "tokens"]
    assert pl.read_parquet(run / "train.parquet")[columns].equals(
        pl.read_parquet(tmp_path / "train.parquet")[columns])


@pytest.mark.parametrize(("reward", "share", "way_out"), [(0.0, "0%", "Take easier queries"),
                                                          (1.0, "100%", "Take harder queries")])
def test_a_reward_that_is_always_the_same_stops_the_run(
        tmp_path: Path, reward: float, share: str, way_out: str) -> None:
    with pytest.raises(RequestError, match=rf"GRPO: {share} of the first 160 answers were right, and in no group did "
                                           rf"the rewards differ, so there is nothing to learn from. {way_out}"):
        rl.train(SPEC, tmp_path, lambda completions, answers, ended: [reward] * len(completions))
    assert not (tmp_path / "train.parquet").exists() and not (tmp_path / "spec.json").exists()


def test_reading_in_pieces_changes_no_probability(tmp_path: Path) -> None:
    folder = base_folder(SMOKE, SPEC.base)
    trainer = rl.Reinforcer(SPEC, sft.load_weights(folder, "float32"), tokenizer(), rows(), tmp_path)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 500, (40, 30), generator=generator)
    left, right = (torch.randint(*limits, (40, 1), generator=generator) for limits in ((0, 9), (12, 31)))
    columns = torch.arange(30)
    mask = ((columns >= left) & (columns < right)).long()
    model = trainer.model.cpu()
    own = trainer._get_per_token_logps_and_entropies(model, ids, mask, 20, compute_entropy=True)
    in_trl = rl.GRPOTrainer._get_per_token_logps_and_entropies
    whole = in_trl(trainer, model, ids, mask, 20, compute_entropy=True)
    used = mask[:, 10:].bool()
    for ours, theirs in zip(own[:2], whole[:2], strict=True):
        assert torch.allclose(ours[used], theirs[used], atol=1e-4)


# Starting from another run


def test_a_continued_run_starts_from_the_last_checkpoint_of_its_start(run: Path) -> None:
    start = run_folder(SMOKE.name, SPEC.run_id)
    start.symlink_to(run)
    for kind, extra in ((ContinuedSpec, {}), (RLSpec, {"group_size": 8, "max_new_tokens": 24})):
        spec = kind(**dict(SFT) | extra, start=SPEC.run_id)
        assert sft.start_folder(spec) == sft.step_folder(start, SPEC.steps)
        assert SPEC.run_id[-8:] in spec.run_name and spec.run_id != kind(**dict(SFT) | extra).run_id


def test_finetuning_continues_another_runs_weights(run: Path, tmp_path: Path) -> None:
    start = run_folder(SMOKE.name, SPEC.run_id)
    if not start.exists():
        start.symlink_to(run)
    still = ContinuedSpec(**dict(SFT) | {"learning_rate": 1e-30, "rows": 16, "epochs": 1, "start": SPEC.run_id})
    sft.train(still, tmp_path)
    there, here = weights(sft.step_folder(run, SPEC.steps)), weights(sft.step_folder(tmp_path, still.steps))
    assert all(torch.equal(there[name], here[name]) for name in there)


def test_a_start_that_was_not_trained_is_refused() -> None:
    with pytest.raises(RequestError, match="starts from the run Nano_gone, which has not been trained here. Make it: "
                                           "make rebuild PROFILE=smoke"):
        sft.start_folder(ContinuedSpec(**dict(SFT), start="Nano_gone"))


@pytest.fixture
def table(monkeypatch):
    "Runs of part III: finetuning, reinforcement from it, and impossible starts."
    values = dict(runs.paper_runs()["R25"]) | {"method": "rl", "start": ""}
    lines = [{"id": "B9901", "method": "sft"}, {"id": "B9902", "start": "B9901"}, {"id": "B9903", "start": "B9903"},
             {"id": "B9904", "start": "B9901", "base_model": "Qwen/Qwen3-14B-Base"}, {"id": "B9905", "start": "B9906"},
             {"id": "B9906", "start": "B9905"}, {"id": "B9907"}]
    known = {line["id"]: OwnRun(**values | line) for line in lines}
    monkeypatch.setattr(runs, "own_runs", lambda: known)
    return known


def test_a_rows_method_and_start_decide_what_kind_of_run_it_is(table: dict[str, OwnRun]) -> None:
    first, second = (runs.scaled(table[id], SMOKE, seed=2) for id in ("B9901", "B9902"))
    assert type(first) is runs.RunSpec and type(second) is RLSpec
    assert second.start == first.run_id and second.max_new_tokens == SMOKE.max_new_tokens
    assert spec_of(second.model_dump(mode="json")) == second and spec_of(first.model_dump(mode="json")) == first


@pytest.mark.parametrize(("run", "start", "earlier"), [
    ("B9903", "B9903", "B9901, B9902"), ("B9904", "B9901", "none"), ("B9905", "B9906", "B9901, B9902, B9903")])
def test_a_start_on_itself_on_another_base_or_on_a_later_run_is_refused(
        table: dict[str, OwnRun], run: str, start: str, earlier: str) -> None:
    message = f"^run {run} starts from '{start}', which is no earlier run of .*runs.csv. Its earlier runs: {earlier}$"
    with pytest.raises(RequestError, match=message):
        runs.scaled(table[run], SMOKE, seed=1)


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        RLSpec(**dict(SPEC) | {"group_size": 1})


# Jobs and costs


def test_a_training_job_needs_the_training_of_its_start(table: dict[str, OwnRun], monkeypatch) -> None:
    profile = changed(SMOKE, runs=("B9901", "B9902"), controls=(), traced=(), seeds=(1,))
    monkeypatch.setattr(workflow, "run_specs", runs.run_specs)
    trained = [job for job in workflow.run_jobs(profile) if job.kind == "train"]
    assert trained[0].name in trained[1].needs
    assert not any(need.startswith("train/") for need in trained[0].needs)
    assert [workflow.entry_points(job.method, profile) for job in trained] == [("sft.train",), ("rl.train",)]
    with pytest.raises(RequestError, match=r"run B9902 of profile smoke starts from Nano_.*, which this profile does "
                                           r"not make. Add that run to settings.ini \[smoke\] runs"):
        workflow.run_jobs(changed(profile, runs=("B9902",)))


def test_a_job_of_reinforcement_is_done_with_the_verifier(table: dict[str, OwnRun], tmp_path: Path) -> None:
    profile = changed(SMOKE, runs=("B9907",), controls=(), traced=(), seeds=(1,), max_new_tokens=8)
    job = next(job for job in workflow.run_jobs(profile) if job.kind == "train")
    with pytest.raises(RequestError, match="0% of the first .* were right"):  # the smoke base solves nothing
        perform(job, workflow.Flow(profile, {}, workflow.Inputs(profile, {}, {}), {}), tmp_path)


def test_the_operations_of_an_answer_agree_with_a_count_by_hand() -> None:
    shape = Shape(family="qwen3", layers=2, hidden=8, heads=2, kv_heads=1, head_width=4, mlp=16, vocabulary=32,
                  tied=True)
    projections = 8 * 8 + 2 * 8 * 4 + 8 * 8   # queries, keys and values, output
    weights = 2 * (projections + 3 * 8 * 16) + 8 * 32
    def forward(tokens: int) -> int:  # 2 operations for each weight; scores and their use: 2 x 2 x 8 for each pair
        pairs = tokens * tokens / 2
        return 2 * weights * tokens + 2 * (4 * 8) * pairs
    assert answer_flops(shape, 5, 7) == forward(12) + 3 * forward(12)
    assert answer_flops(shape, 5, 7, passes=4) == 5 * forward(12)


def test_the_plan_prices_reinforcement_by_its_answers() -> None:
    spec = next(spec for spec in run_specs(load_profile("micro-beyond")) if spec.paper_run == "B4301")
    profile, core = load_profile("micro-beyond"), hardware("CPU core")
    once = reinforcement(spec, profile, core)
    twice, watched = (reinforcement(changed(spec, **change), profile, core)
                      for change in ({"group_size": 16}, {"kl_weight": 0.04}))
    assert twice.flops == pytest.approx(2 * once.flops) and watched.flops == pytest.approx(1.25 * once.flops)
    assert re.fullmatch(r"\d+", str(once.gpus)) and once.seconds < twice.seconds
