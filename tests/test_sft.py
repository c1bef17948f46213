"Finetuning: the paper's runs, what is in the loss and how it is averaged, and that a killed run loses nothing."
import csv
import math
import random
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from sftrepro import sft
from sftrepro.data import data_set
from sftrepro.profiles import ROOT, RequestError, changed, load_profile
from sftrepro.runs import checkpoint_steps, paper_runs, run_specs
from sftrepro.sft import (
    IGNORED,
    Finetuner,
    arguments,
    check_memory,
    last_whole,
    load_weights,
    memory_explained,
    row_order,
    rows_per_pass,
    step_folder,
    tokenise,
    train,
    training_rows,
)
from sftrepro.store import base_folder, data_folder

SMOKE = load_profile("smoke")
SPEC = changed(run_specs(SMOKE)[0], base="Nano")
pytestmark = pytest.mark.usefixtures("nano_store")


@pytest.fixture(scope="module")
def run(nano_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    with pytest.raises(
        RequestError,
        match=r"64 of 64 rows of Math-CoT are longer than 20 tokens, the end-of-text token counted. Raise max_length",
    ):
        training_rows(short, tokenizer, data)


def test_a_data_set_with_too_few_rows_is_refused() -> None:
    data = data_set(data_folder(SMOKE.name, SPEC.data, SPEC.seed)).take(63)
    with pytest.raises(
        RequestError, match="Math-CoT has 63 rows and the run needs 64. Make it again: make rebuild PROFILE=smoke"
    ):
        training_rows(SPEC, AutoTokenizer.from_pretrained(base_folder(SMOKE, SPEC.base)), data)


def test_a_run_whose_gradient_is_lost_stops_at_once_and_says_so(tmp_path: Path) -> None:
    message = "the gradient of step [23] is not finite, and the weights after it would be lost. Lower the learning rate"
    with pytest.raises(RequestError, match=message):
        train(changed(SPEC, learning_rate=1e30, schedule="constant"), tmp_path)
    assert not (tmp_path / "train.parquet").exists()


def test_checkpoints_lie_on_the_grid_and_load_anywhere(run: Path) -> None:
    assert sorted(run.glob("step-*")) == [step_folder(run, step) for step in checkpoint_steps(SPEC)]
    for step in checkpoint_steps(SPEC):
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
            file.name for file in step_folder(run, step).iterdir()
        }
    assert not torch.equal(*[weights(step_folder(run, step))["model.embed_tokens.weight"] for step in (1, SPEC.steps)])


def test_the_learning_rate_follows_the_papers_schedule(run: Path) -> None:
    log = pl.read_parquet(run / "train.parquet")
    warmup = round(SPEC.warmup_ratio * SPEC.steps)
    def expected(done: int) -> float:  # verl: linear from 0, then half a cosine to 0
        if done < warmup:
            return done / warmup
        return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (SPEC.steps - warmup)))
    assert log["step"].to_list() == list(range(1, SPEC.steps + 1))
    assert log["learning_rate"].to_list() == pytest.approx(
        [SPEC.learning_rate * expected(step) for step in range(SPEC.steps)]
    )


def test_the_first_loss_is_the_mean_over_the_batchs_response_tokens(run: Path) -> None:
    base = base_folder(SMOKE, SPEC.base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(base)
    data = data_set(data_folder(SMOKE.name, SPEC.data, SPEC.seed))
    losses = []
    for row in data.take(SPEC.batch_size):
        tokens = tokenise(tokenizer, row["messages"], row["response"])
        logits = model(torch.tensor([tokens["input_ids"]])).logits[0, :-1]
        losses.append(
            torch.nn.functional.cross_entropy(
                logits, torch.tensor(tokens["labels"][1:]), reduction="none", ignore_index=IGNORED
            )[torch.tensor(tokens["labels"][1:]) != IGNORED]
        )
    assert pl.read_parquet(run / "train.parquet")["loss"][0] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-3)


def rows() -> Dataset:
    tokenizer = AutoTokenizer.from_pretrained(base_folder(SMOKE, SPEC.base))
    return training_rows(SPEC, tokenizer, data_set(data_folder(SMOKE.name, SPEC.data, SPEC.seed)))


def finetuner(spec, folder: Path) -> Finetuner:
    base = base_folder(SMOKE, SPEC.base)
    return Finetuner(spec, load_weights(base, "float32"), AutoTokenizer.from_pretrained(base), rows(), folder)


# four forward passes in a batch, in mixed precision as at micro
PASSES = SPEC.model_copy(update={"micro_batch_size": 4, "compute_precision": "bfloat16"})


@pytest.fixture(scope="module")
def whole(nano_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    train(PASSES, folder := tmp_path_factory.mktemp("whole"))
    return folder


@pytest.mark.parametrize("round", [0, *(pytest.param(other, marks=pytest.mark.release) for other in (1, 2))])
def test_a_run_killed_anywhere_and_resumed_ends_with_the_same_weights(
    whole: Path, tmp_path: Path, monkeypatch, round: int
) -> None:
    left = random.Random(round).sample(range(1, 4 * PASSES.steps), 2)  # forward passes until each of two deaths
    loss = Finetuner.compute_loss

    def deadly(self, *args, **kwargs):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return loss(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Finetuner, "compute_loss", deadly)
        while left:
            try:
                train(PASSES, tmp_path)
            except KeyboardInterrupt:
                pass
            left.pop(0)
    if not (tmp_path / "train.parquet").exists():
        train(PASSES, tmp_path)
    for step in checkpoint_steps(PASSES):
        once, twice = weights(step_folder(whole, step)), weights(step_folder(tmp_path, step))
        assert all(torch.equal(once[name], twice[name]) for name in once)
    columns = ["step", "loss", "learning_rate", "grad_norm", "tokens"]
    assert pl.read_parquet(whole / "train.parquet")[columns].equals(
        pl.read_parquet(tmp_path / "train.parquet")[columns]
    )


def test_a_state_that_was_not_saved_to_its_end_is_not_continued_from(tmp_path: Path) -> None:
    for step in (3, 20, 100):
        (state := tmp_path / f"checkpoint-{step}").mkdir()
        (state / "optimizer.pt").write_bytes(b"half")
    assert last_whole(tmp_path) is None
    sft.mark_whole(tmp_path / "checkpoint-3")
    sft.mark_whole(tmp_path / "checkpoint-20")
    assert last_whole(tmp_path) == tmp_path / "checkpoint-20"


def reference(spec, rows: list[dict], device: torch.device) -> dict[str, torch.Tensor]:
    "The gradient of one batch, in float64 and row by row."
    model = AutoModelForCausalLM.from_pretrained(base_folder(SMOKE, SPEC.base), dtype=torch.float64).to(device)
    def losses(row: dict) -> torch.Tensor:
        labels = torch.tensor(row["labels"][1:], device=device)
        logits = model(torch.tensor([row["input_ids"]], device=device)).logits[0, :-1]
        return torch.nn.functional.cross_entropy(logits[labels != IGNORED], labels[labels != IGNORED], reduction="none")
    if spec.averaging == "batch":
        loss = torch.cat([losses(row) for row in rows]).mean()
    else:  # rank r and pass t hold the rows r + GPUs x (rows x t + 0, 1, ...)
        gpus, size = spec.replicas, spec.micro_batch_size
        loss = sum(torch.cat([losses(rows[r + gpus * (size * t + j)]) for j in range(size)]).mean()
                   for r in range(gpus) for t in range(len(rows) // (gpus * size))) / gpus
    loss.backward()
    return {name: weight.grad for name, weight in model.named_parameters()}


@pytest.mark.parametrize(("averaging", "replicas"), [("batch", 1), ("authors", 1), ("authors", 2), ("authors", 4)])
def test_the_gradient_of_a_batch_is_that_of_a_reference(tmp_path: Path, averaging: str, replicas: int) -> None:
    spec = PASSES.model_copy(update={"averaging": averaging, "replicas": replicas})
    trainer = finetuner(spec, tmp_path)
    trainer.model.double()
    batch, tokens = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 4, trainer.args.device)
    for inputs in batch:
        trainer.training_step(trainer.model, inputs, tokens)
    expected = reference(spec, list(rows().select(range(spec.batch_size))), trainer.args.device)
    for name, weight in trainer.model.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], rtol=1e-6, atol=1e-9)


def test_logits_made_in_pieces_give_the_same_gradient(tmp_path: Path, monkeypatch) -> None:
    gradients = []
    for piece in (sft.LOGITS_PER_PIECE, 37):
        monkeypatch.setattr(sft, "LOGITS_PER_PIECE", piece)
        trainer = finetuner(PASSES, tmp_path)
        trainer.model.double()(**next(iter(trainer.get_train_dataloader()))).backward()
        gradients.append({name: weight.grad for name, weight in trainer.model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-9, atol=1e-12)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 70))
def test_every_row_is_read_once_and_in_its_own_batch(rows: int, replicas: int, turns: int, extra: int) -> None:
    size = rows * replicas * turns
    spec = SPEC.model_copy(
        update={"micro_batch_size": rows, "replicas": replicas, "batch_size": size, "rows": 3 * size + extra % size}
    )
    order = row_order(spec)
    for batch in range(3):
        assert sorted(order[batch * size:(batch + 1) * size]) == list(range(batch * size, (batch + 1) * size))
    assert len(order) == 3 * size


def test_the_papers_rows_share_a_forward_pass_as_in_the_authors_sampler() -> None:
    profile = load_profile("paper").model_copy(update={"loss_averaging": "authors"})
    spec = run_specs(profile, ("R04",))[0]
    assert (spec.replicas, spec.micro_batch_size, spec.batch_size) == (8, 4, 256)
    order = row_order(spec)
    for k, t, r in [(0, 0, 0), (0, 3, 5), (2, 7, 7)]:  # the authors' code: 256k + r + 32t + {0, 8, 16, 24}
        start = 256 * k + 32 * t + 4 * r
        assert order[start:start + 4] == [256 * k + r + 32 * t + 8 * j for j in range(4)]


def test_a_batch_that_forward_passes_do_not_fill_is_refused() -> None:
    with pytest.raises(ValidationError, match="batch_size 16 is not a multiple of micro_batch_size 5 x replicas 1"):
        SPEC.__class__(**SPEC.model_dump() | {"micro_batch_size": 5})
    with pytest.raises(RequestError, match="a batch of 16 rows cannot be shared by 3 processes"):
        rows_per_pass(SPEC, 3)
    with pytest.raises(RequestError, match="a batch of 16 rows cannot be shared by 8 processes of 4 rows each"):
        rows_per_pass(PASSES.model_copy(update={"averaging": "authors"}), 8)


def test_the_33_runs_are_the_papers() -> None:
    profile = load_profile("paper")
    specs = {spec.paper_run: spec for spec in run_specs(profile)}
    hub = {base.paper: base for base in profile.bases}
    with open(ROOT / "data/paper/runs.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(specs) == [row["id"] for row in table] and len(specs) == 33
    for row in table:
        spec, settings = specs[row["id"]], arguments(specs[row["id"]], Path("nowhere"))
        assert spec.base == hub[row["base_model"]].name
        assert (spec.data, spec.schedule) == (row["data"], row["schedule"])
        assert (spec.learning_rate, settings.learning_rate) == (float(row["lr"]),) * 2
        for field in ("rows", "batch_size", "micro_batch_size", "epochs", "steps", "max_length"):
            assert getattr(spec, field) == int(row[field]), (row["id"], field)
        assert (settings.max_steps, settings.warmup_steps) == (int(row["steps"]), int(row["warmup_steps"]))
        assert settings.lr_scheduler_type == {"cosine": "cosine", "constant": "constant_with_warmup"}[row["schedule"]]
        assert settings.per_device_train_batch_size * settings.gradient_accumulation_steps == int(row["batch_size"])
        assert (spec.precision, settings.optim, settings.weight_decay, settings.max_grad_norm) == (
            "bfloat16",
            "adamw_torch_fused",
            0.01,
            1,
        )
        assert (settings.adam_beta1, settings.adam_beta2, settings.adam_epsilon) == (0.9, 0.999, 1e-8)


def test_the_micro_matrix_is_the_same_33_runs_on_the_analogs() -> None:
    micro = load_profile("micro").model_copy(update={"runs": ("all",), "controls": (), "seeds": (1,)})
    analog = {base.paper: base.name for base in micro.bases}
    specs = run_specs(micro)
    assert [spec.paper_run for spec in specs] == list(paper_runs())
    assert len({spec.run_name for spec in specs}) == 33
    for spec in specs:
        run = paper_runs()[spec.paper_run]
        assert (spec.base, spec.epochs, spec.schedule) == (analog[run.base_model], run.epochs, run.schedule)
        assert spec.learning_rate == pytest.approx(run.lr * micro.learning_rate_factor)
        assert spec.rows * micro.row_divisor == run.rows and spec.batch_size * micro.batch_divisor == run.batch_size
        assert spec.steps * micro.row_divisor == run.steps * micro.batch_divisor
        assert spec.max_length == min(run.max_length, micro.max_length)


def test_a_base_with_pickled_or_missing_weights_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    base = shutil.copytree(base_folder(SMOKE, SPEC.base), tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    lost = next(name for name in tensors if "q_proj" in name)
    save_file(
        {name: tensor for name, tensor in tensors.items() if name != lost}, base / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(
        RequestError, match=rf"base: 1 weights are missing \(first: {lost}\). Make the base again: make rebuild"
    ):
        load_weights(base, "float32")
    (base / "model.safetensors").unlink()
    with pytest.raises(RequestError, match="base: no weights. Give model.safetensors"):
        load_weights(base, "float32")
    torch.save(tensors, base / "pytorch_model.bin")
    with pytest.raises(RequestError, match=r"only pickled weights \(pytorch_model.bin\), which can run code when read"):
        load_weights(base, "float32")


def test_a_row_without_room_for_its_end_is_refused() -> None:
    tokenizer = AutoTokenizer.from_pretrained(base_folder(SMOKE, SPEC.base))
    data = data_set(data_folder(SMOKE.name, SPEC.data, SPEC.seed))
    longest = max(len(row["input_ids"]) for row in rows())
    training_rows(SPEC.model_copy(update={"max_length": longest}), tokenizer, data)
    with pytest.raises(RequestError, match="rows of Math-CoT are longer than .* tokens, the end-of-text token counted"):
        training_rows(SPEC.model_copy(update={"max_length": longest - 1}), tokenizer, data)
    tokenizer.eos_token = None
    with pytest.raises(RequestError, match="the tokenizer has no token for the end of a text"):
        training_rows(SPEC, tokenizer, data)


def test_a_lack_of_memory_says_what_would_fit() -> None:
    with pytest.raises(
        RequestError,
        match=rf"{SPEC.base}: weights, gradients and optimizer take 14.9 GiB, and 1 x 8.0 GiB are there. "
        r"It would fit on 2 such devices",
    ):
        check_memory(SPEC, 10**9, processes=1, available=2**33)
    check_memory(SPEC, 10**9, processes=2, available=2**33)
    with (
        pytest.raises(
            RequestError, match=r"of 4 rows .* Passes of 2 rows \(micro_batch_size\) need half of that; on 2 devices"
        ),
        memory_explained(PASSES, 10**6, processes=1),
    ):
        torch.empty(2**60)
    with pytest.raises(RuntimeError, match="shape"), memory_explained(PASSES, 10**6, processes=1):
        torch.ones(3).reshape(2)


def test_an_optimizer_is_the_authors() -> None:
    settings = arguments(SPEC, Path("nowhere"))
    assert (settings.adam_beta1, settings.adam_beta2, settings.adam_epsilon) == (0.9, 0.999, 1e-8)
    assert (settings.weight_decay, settings.max_grad_norm) == (0.01, 1.0)


@pytest.mark.release
def test_a_model_with_fused_operations_follows_the_same_losses(nano_store: Path, tmp_path: Path) -> None:
    logs = {}
    for compiled in (False, True):
        train(PASSES.model_copy(update={"compiled": compiled}), tmp_path / str(compiled))
        logs[compiled] = pl.read_parquet(tmp_path / str(compiled) / "train.parquet")
    assert logs[True]["loss"].to_list() == pytest.approx(logs[False]["loss"].to_list(), rel=2e-3)
