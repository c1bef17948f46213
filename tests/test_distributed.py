"Several processes: data-parallel training over gloo, one sharded step, and launches that are refused."
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from transformers import AutoModelForCausalLM

from sftrepro.profiles import RequestError, changed, load_profile
from sftrepro.runs import RunSpec, run_specs
from sftrepro.sft import CONFIGS, REFUSAL_FILE, finetune, launch, sharing, step_folder
from sftrepro.store import base_folder

SMOKE = load_profile("smoke")
SPEC = changed(run_specs(SMOKE)[0], base="Nano", micro_batch_size=4, epochs=2)  # 8 steps of 16 rows
WORKER = "from sftrepro.sft import worker; worker()"
pytestmark = pytest.mark.usefixtures("nano_store")


@pytest.fixture
def torchrun(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    "Starts processes that find each other over gloo."
    def start(processes: int, *command: str) -> subprocess.CompletedProcess:
        run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", "0",
               "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--no-python", sys.executable, *command]
        return subprocess.run(run, capture_output=True, text=True, env=os.environ | {"ACCELERATE_USE_CPU": "true"})
    return start


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


@pytest.mark.release
@pytest.mark.parametrize("changes", [{}, {"averaging": "authors", "replicas": 2}])
def test_two_processes_train_what_one_does(torchrun: Callable, tmp_path: Path, changes: dict) -> None:
    spec = RunSpec(**SPEC.model_dump() | changes)
    for folder in (one := tmp_path / "one", two := tmp_path / "two"):
        folder.mkdir()
    finetune(spec, one)
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    done = torchrun(2, "-c", WORKER, str(tmp_path / "spec.json"), str(two), "2")
    assert done.returncode == 0, done.stderr[-3000:]
    logs = [pl.read_parquet(folder / "train.parquet") for folder in (one, two)]
    for column, rel in (("loss", 1e-4), ("grad_norm", 1e-3), ("learning_rate", 1e-9)):
        assert logs[1][column].to_list() == pytest.approx(logs[0][column].to_list(), rel=rel)
    assert logs[0]["tokens"].equals(logs[1]["tokens"])
    last, twice = weights(step_folder(one, spec.steps)), weights(step_folder(two, spec.steps))
    first = weights(base_folder(SMOKE, SPEC.base))
    for name, weight in last.items():  # the difference is small beside what training changed
        changed = (weight - first[name].to(weight.dtype)).norm()
        assert (twice[name] - weight).norm() <= 0.02 * changed + 1e-6, name


SHARDED = """
import sys, torch
from pathlib import Path
from torch.distributed import destroy_process_group, get_rank, init_process_group
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoTokenizer
from sftrepro.sft import answer_with_the_loss, collator, load_weights

base, rows, out = sys.argv[1], torch.load(sys.argv[2]), sys.argv[3]
init_process_group("gloo")
rank, world = get_rank(), torch.distributed.get_world_size()
model = load_weights(Path(base), "float32")
answer_with_the_loss(model)
for layer in model.model.layers:
    fully_shard(layer)
fully_shard(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
batch = collator(AutoTokenizer.from_pretrained(base))(rows[rank::world])
tokens = sum(label != -100 for row in rows for label in row["labels"][1:])
loss = model(**batch) * world / tokens
loss.backward()
norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
optimizer.step()
full = {name: weight.full_tensor() if isinstance(weight, DTensor) else weight
        for name, weight in model.named_parameters()}
norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
assert world == 1 or any(weight.to_local().shape != weight.shape for weight in model.parameters())
if rank == 0:
    torch.save({"weights": full, "norm": norm}, out)
destroy_process_group()
"""


@pytest.mark.release
def test_one_step_of_a_sharded_model_is_that_of_a_whole_one(torchrun: Callable, tmp_path: Path) -> None:
    from test_sft import rows
    torch.save(list(rows().select(range(8))), tmp_path / "rows.pt")
    base = base_folder(SMOKE, SPEC.base)
    for processes in (1, 2):
        done = torchrun(
            processes, "-c", SHARDED, str(base), str(tmp_path / "rows.pt"), str(tmp_path / f"{processes}.pt")
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = torch.load(tmp_path / "1.pt"), torch.load(tmp_path / "2.pt")
    assert two["norm"].item() == pytest.approx(one["norm"].item(), rel=1e-5)
    before = weights(base)
    for name, weight in one["weights"].items():
        assert not torch.equal(weight, before[name].float())
        torch.testing.assert_close(two["weights"][name], weight, rtol=0, atol=2e-4)  # Adam's first step is 1e-3


@pytest.mark.release
def test_a_world_of_another_size_is_refused_by_the_process(torchrun: Callable, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(SPEC.model_dump_json())
    done = torchrun(2, "-c", WORKER, str(tmp_path / "spec.json"), str(tmp_path), "1")
    assert done.returncode != 0
    assert "1 processes were asked for and the world has 2" in (tmp_path / REFUSAL_FILE).read_text()
    assert not list(tmp_path.glob("step-*"))


@pytest.mark.release
@pytest.mark.skipif(torch.cuda.is_available(), reason="on GPUs the launch would be a real one")
def test_a_launch_that_starts_fewer_processes_is_refused(tmp_path: Path) -> None:
    asked = yaml.safe_load((CONFIGS / "gpu-8.yaml").read_text()) | {
        "distributed_type": "NO"
    }  # then accelerate starts one
    (config := tmp_path / "one.yaml").write_text(yaml.safe_dump(asked))
    (folder := tmp_path / "run").mkdir()
    with pytest.raises(RequestError, match="2 processes were asked for and the world has 1: each would train alone"):
        launch(SPEC, folder, 2, config)
    assert {path.name for path in folder.iterdir()} <= {"spec.json", REFUSAL_FILE, "trainer"}


@pytest.mark.parametrize(("name", "machines", "processes"), [("gpu-1", 1, 1), ("gpu-8", 1, 8), ("gpu-2x8", 2, 16)])
def test_the_packages_configurations_are_accelerates(name: str, machines: int, processes: int) -> None:
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))  # refuses unknown keys
    assert (config.num_machines, config.num_processes, config.use_cpu) == (machines, processes, False)
    assert config.mixed_precision == "no"  # the weights are bfloat16 themselves
    if processes > 1:
        known = {option.dest for option in launch_command_parser()._actions}
        sharding = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["fsdp_config"]
        assert set(sharding) <= known
        assert (sharding["fsdp_version"], sharding["fsdp_reshard_after_forward"]) == (2, True)


def test_a_run_takes_as_many_gpus_as_can_share_its_batch() -> None:
    paper = load_profile("paper")
    large, small = (run_specs(paper, (run,))[0] for run in ("R04", "R10"))
    assert [sharing(large, gpus) for gpus in (0, 1, 6, 8, 16)] == [1, 1, 4, 8, 16]
    theirs = run_specs(paper.model_copy(update={"loss_averaging": "authors"}), ("R10",))[0]
    assert [sharing(theirs, gpus) for gpus in (8, 16)] == [8, 8]
    assert sharing(small, 64) == 32
    assert json.loads(theirs.model_dump_json())["replicas"] == 8
