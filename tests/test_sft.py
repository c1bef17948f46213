"Finetuning: what is in the loss, the schedule, and that a killed run loses nothing."
import math
from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sftrepro import sft
from sftrepro.bases import pretrain
from sftrepro.data import build, data_set
from sftrepro.profiles import RequestError, checkpoint_steps, load_profile, run_specs
from sftrepro.sft import IGNORED, arguments, step_folder, tokenise, train, training_rows
from sftrepro.store import base_folder, data_folder

SMOKE = load_profile("smoke")
SPEC = run_specs(SMOKE)[0]


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory):
    "A store with the smoke base and one data set."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFTREPRO_STORE", str(tmp_path_factory.mktemp("store")))
        for folder in (base := base_folder(SMOKE, SPEC.base), rows := data_folder(SMOKE.name, SPEC.data, SPEC.seed)):
            folder.mkdir(parents=True)
        pretrain(SMOKE.bases[0], SMOKE.model_copy(update={"pretraining_tokens": 50_000}), base)
        build(SPEC.data, SPEC.seed, SMOKE, rows)
        yield


@pytest.fixture(scope="module")
def run(store: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(SPEC, folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_the_loss_covers_the_response_and_its_end_and_nothing_else() -> None:
    tokenizer = AutoTokenizer.from_pretrained(base_folder(SMOKE, SPEC.base))
    data = data_set(data_folder(SMOKE.name, SPEC.data, SPEC.seed))
    for row, original in zip(training_rows(SPEC, tokenizer, data), data, strict=True):
        in_loss = [label for label in row["labels"] if label != IGNORED]
        assert tokenizer.decode(in_loss) == original["response"] + tokenizer.eos_token
        prompt = row["input_ids"][:len(row["input_ids"]) - len(in_loss)]
        assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n")
        assert original["messages"][0]["content"] in tokenizer.decode(prompt)


def test_a_row_that_is_too_long_is_refused_and_not_cut() -> None:
    tokenizer = AutoTokenizer.from_pretrained(base_folder(SMOKE, SPEC.base))
    data = data_set(data_folder(SMOKE.name, SPEC.data, SPEC.seed))
    short = SPEC.model_copy(update={"max_length": 20})
    with pytest.raises(RequestError, match=r"64 of 64 rows of Math-CoT are longer than 20 tokens. Raise max_length"):
        training_rows(short, tokenizer, data)


def test_a_data_set_with_too_few_rows_is_refused() -> None:
    data = data_set(data_folder(SMOKE.name, SPEC.data, SPEC.seed)).take(63)
    with pytest.raises(RequestError, match="Math-CoT has 63 rows and the run needs 64. Make it again: make rebuild PROFILE=smoke"):
        training_rows(SPEC, AutoTokenizer.from_pretrained(base_folder(SMOKE, SPEC.base)), data)


def test_checkpoints_lie_on_the_grid_and_load_anywhere(run: Path) -> None:
    assert sorted(run.glob("step-*")) == [step_folder(run, step) for step in checkpoint_steps(SPEC)]
    for step in checkpoint_steps(SPEC):
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in step_folder(run, step).iterdir()}
    assert not torch.equal(*[weights(step_folder(run, step))["model.embed_tokens.weight"] for step in (1, SPEC.steps)])


def test_the_learning_rate_follows_the_papers_schedule(run: Path) -> None:
    log = pl.read_parquet(run / "train.parquet")
    warmup = round(SPEC.warmup_ratio * SPEC.steps)
    def expected(done: int) -> float:  # verl: linear from 0, then half a cosine to 0 (FACTS section 2)
        if done < warmup:
            return done / warmup
        return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (SPEC.steps - warmup)))
    assert log["step"].to_list() == list(range(1, SPEC.steps + 1))
    assert log["learning_rate"].to_list() == pytest.approx([SPEC.learning_rate * expected(step) for step in range(SPEC.steps)])


def test_the_first_loss_is_the_mean_over_the_batchs_response_tokens(run: Path) -> None:
    base = base_folder(SMOKE, SPEC.base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(base)
    data = data_set(data_folder(SMOKE.name, SPEC.data, SPEC.seed))
    losses = []
    for row in data.take(SPEC.batch_size):
        tokens = tokenise(tokenizer, row["messages"], row["response"])
        logits = model(torch.tensor([tokens["input_ids"]])).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(tokens["labels"][1:]), reduction="none",
                                                        ignore_index=IGNORED)[torch.tensor(tokens["labels"][1:]) != IGNORED])
    assert pl.read_parquet(run / "train.parquet")["loss"][0] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-3)


@pytest.mark.parametrize("killed_at", [3, 17, 31])
def test_resumed_training_ends_with_the_same_weights(run: Path, tmp_path: Path, monkeypatch, killed_at: int) -> None:
    class Killed(sft.Grid):
        def on_step_end(self, args, state, control, **kwargs) -> None:
            super().on_step_end(args, state, control, **kwargs)
            if state.global_step == killed_at:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sft, "Grid", Killed)
        train(SPEC, tmp_path)
    train(SPEC, tmp_path)
    for step in checkpoint_steps(SPEC):
        once, twice = weights(step_folder(run, step)), weights(step_folder(tmp_path, step))
        assert all(torch.equal(once[name], twice[name]) for name in once)
    columns = ["step", "loss", "learning_rate", "grad_norm", "tokens"]
    assert pl.read_parquet(run / "train.parquet")[columns].equals(pl.read_parquet(tmp_path / "train.parquet")[columns])


def test_an_optimizer_is_the_authors() -> None:
    settings = arguments(SPEC, Path("nowhere"))
    assert (settings.adam_beta1, settings.adam_beta2, settings.adam_epsilon) == (0.9, 0.999, 1e-8)
    assert (settings.weight_decay, settings.max_grad_norm) == (0.01, 1.0)
