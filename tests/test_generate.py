"""What the engines promise: the right tokens, each prompt for itself, and one answer whichever engine is asked."""
import json
import os
import random
import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch
from conftest import made_once
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sftrepro import generate as module
from sftrepro.analogs import BENCHMARKS, draw, with_instruction
from sftrepro.bases import prompt_text
from sftrepro.generate import (
    Sampling,
    TransformersEngine,
    batches,
    choose,
    close_engines,
    generate,
    groups,
    opened,
    uniforms,
    vllm_missing,
)
from sftrepro.profiles import ROOT, RequestError, load_profile
from sftrepro.world import world_of

BASE = ROOT / "data/bases/micro-m"
GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=48)
WARM = Sampling(temperature=1, top_p=0.9, max_new_tokens=48)
NEAR_TIE = 1e-3  # of logits, in float32: two engines add up in different orders


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    "Bytes, a few pairs of them, the paper's special tokens, and thinking tags that are not special."
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(["la la lo lo li"] * 9, trainers.BpeTrainer(
        vocab_size=300, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"]))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>",
                                   additional_special_tokens=["<|im_start|>", "<|im_end|>"])
    fast.add_tokens(["<think>", "</think>"])
    return fast


def song(rng: random.Random) -> tuple[str, str]:
    "A prompt and a response that is as long as the prompt asks, roughly."
    syllable, times = rng.choice("aio"), rng.randint(1, 9)
    thought = "<think>" + " ".join("l" + rng.choice("aio") for _ in range(rng.randint(0, 9))) + "</think>"
    return f"<|im_start|>sing {syllable * times}<|im_end|>", thought + f" l{syllable}" * times


def learn_to_sing(folder: Path) -> None:
    "Make a checkpoint of a few thousand weights that has learnt to sing, so that its responses end at all lengths."
    rng, tokenizer = random.Random(0), tiny_tokenizer()
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=256, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        texts = [prompt + response + tokenizer.eos_token for prompt, response in (song(rng) for _ in range(16))]
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        end = tokenizer.eos_token_id
        labels = batch["input_ids"].masked_fill((batch["input_ids"] == end).cumsum(-1) > 1, -100)
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.to(torch.bfloat16).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A checkpoint that sings."
    return made_once(tmp_path_factory, "tiny", learn_to_sing) / "model"


@pytest.fixture(scope="session")
def prompts() -> list[str]:
    rng = random.Random(1)
    return [song(rng)[0] for _ in range(24)]


def tokens_of(checkpoint: Path, texts: list[str]) -> list[list[int]]:
    return AutoTokenizer.from_pretrained(checkpoint)(texts, add_special_tokens=False)["input_ids"]


def reference(checkpoint: Path, precision: torch.dtype = torch.float32) -> Qwen3ForCausalLM:
    "transformers, as it comes."
    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=precision).eval()


def assert_same_but_for_near_ties(checkpoint: Path, prompt: list[int], ours: list[int], other: list[int]) -> bool:
    "Are two continuations the same? Where they part, the two candidates must be as good as equal to the model."
    if ours == other:
        return True
    place = next(place for place, (a, b) in enumerate(zip(ours, other, strict=False)) if a != b)
    with torch.inference_mode():
        logits = reference(checkpoint)(torch.tensor([prompt + ours[:place]])).logits[0, -1]
    assert abs(logits[ours[place]] - logits[other[place]]) < NEAR_TIE, (place, ours, other)
    return False


# What is asked


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.1}, {"max_new_tokens": 0}, {"top_k": -1}, {"top_h": 5}]
)
def test_impossible_sampling_is_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Sampling(**{"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 9} | wrong)


# Drawing


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=12), st.floats(0.2, 3), st.floats(0.05, 1), st.integers(0, 14))
def test_tokens_are_drawn_as_often_as_transformers_would(logits: list[float], temperature: float, top_p: float,
                                                         top_k: int) -> None:
    table, draws = torch.tensor([logits], dtype=torch.float64), (torch.arange(4000) + 0.5) / 4000
    warm = TemperatureLogitsWarper(temperature)(None, table)
    kept = TopKLogitsWarper(top_k)(None, warm) if top_k else warm
    expected = TopPLogitsWarper(top_p)(None, kept).softmax(-1)[0]
    ordered = kept.softmax(-1).sort(descending=True).values[0]
    if (ordered.cumsum(0) - top_p).abs().min() < 1e-6 or warm.softmax(-1).sort().values.diff().abs().min() < 1e-9:
        return  # which candidates are kept hangs on the last bit
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k, max_new_tokens=1)
    drawn = choose(table.expand(4000, -1), draws.double(), sampling).bincount(minlength=len(logits)) / 4000
    assert (drawn - expected).abs().max() < 2e-3


@given(st.lists(st.integers(0, 2**63), min_size=1, max_size=5), st.integers(1, 40))
def test_random_numbers_depend_on_the_seed_alone(seeds: list[int], length: int) -> None:
    together = uniforms(seeds, length)
    assert all(torch.equal(uniforms([seed], length)[0], row) for seed, row in zip(seeds, together, strict=True))
    assert torch.equal(uniforms(seeds, length + 7)[:, :length], together)


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 100), st.integers(50, 2000))
def test_batches_hold_every_prompt_once_and_keep_to_the_budget(lengths: list[int], new: int, budget: int) -> None:
    cut = batches(lengths, new, budget)
    assert sorted(place for batch in cut for place in batch) == list(range(len(lengths)))
    widths = [max(lengths[place] for place in batch) for batch in cut]
    assert widths == sorted(widths, reverse=True)
    assert all(
        len(batch) == 1 or len(batch) * (width + new) <= budget for batch, width in zip(cut, widths, strict=True)
    )


# The transformers engine


def test_greedy_tokens_are_those_of_transformers_own_generate(tiny: Path, prompts: list[str]) -> None:
    model, tokenizer = reference(tiny), AutoTokenizer.from_pretrained(tiny)
    for prompt, response in zip(prompts, generate(tiny, prompts, [0] * len(prompts), GREEDY), strict=True):
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        whole = model.generate(**ids, max_new_tokens=GREEDY.max_new_tokens, do_sample=False)
        written = whole[0, ids["input_ids"].shape[1]:]
        assert response.text == tokenizer.decode(written, skip_special_tokens=True)
        assert response.tokens == len(written)
        assert response.truncated == (written[-1] != tokenizer.eos_token_id)


@pytest.mark.parametrize(("kind", "more"), [
    ("qwen2", {}), ("llama", {}), ("gemma3_text", {"sliding_window": 8, "query_pre_attn_scalar": 32})])
def test_other_families_too_write_what_transformers_writes(kind: str, more: dict, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    AutoModelForCausalLM.from_config(AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=7, head_dim=32,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256, bos_token_id=None, eos_token_id=0,
        pad_token_id=0, **more)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, texts = reference(tmp_path), ["la", "la lo li " * 5, "<think>lo"]
    tokens = tokens_of(tmp_path, texts)
    ours = TransformersEngine(tmp_path, "float32").complete(tokens, [0] * 3, GREEDY, end=0)
    for prompt, written in zip(tokens, ours, strict=True):
        alone = model.generate(torch.tensor([prompt]), max_new_tokens=GREEDY.max_new_tokens, do_sample=False)[0]
        assert_same_but_for_near_ties(tmp_path, prompt, written, alone[len(prompt):].tolist())


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
def test_a_response_does_not_depend_on_its_batch_mates(tiny: Path, prompts: list[str], sampling: Sampling) -> None:
    seeds = list(range(len(prompts)))
    together = [response.text for response in generate(tiny, prompts, seeds, sampling)]
    shuffled = random.Random(2).sample(seeds, len(seeds))
    again = generate(tiny, [prompts[at] for at in shuffled], [seeds[at] for at in shuffled], sampling)
    assert [response.text for response in again] == [together[at] for at in shuffled]
    alone = [generate(tiny, [prompts[at]], [seeds[at]], sampling)[0].text for at in range(6)]
    assert alone == together[:6]


def test_many_small_batches_give_what_one_batch_gives(
    tiny: Path, prompts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = list(range(len(prompts)))
    one = [response.text for response in generate(tiny, prompts, seeds, WARM)]
    monkeypatch.setattr(module, "batches", lambda lengths, new: batches(lengths, new, budget=3 * (max(lengths) + new)))
    assert [response.text for response in generate(tiny, prompts, seeds, WARM)] == one


def test_another_seed_gives_another_response(tiny: Path, prompts: list[str]) -> None:
    texts = {response.text for response in generate(tiny, [prompts[0]] * 20, list(range(20)), WARM)}
    assert len(texts) > 5


def test_tokens_are_counted_with_the_end_and_truncation_is_its_absence(tiny: Path, prompts: list[str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    short = Sampling(temperature=1, top_p=1, max_new_tokens=12)
    responses = generate(tiny, prompts, list(range(len(prompts))), short)
    assert {response.truncated for response in responses} == {True, False}
    for response in responses:
        assert "<|endoftext|>" not in response.text and 1 <= response.tokens <= 12
        assert response.tokens == 12 or not response.truncated
        rewritten = len(tokenizer(response.text, add_special_tokens=False)["input_ids"]) + (not response.truncated)
        assert rewritten <= response.tokens  # special tokens within a response count but do not show
        assert response.seconds > 0


def test_thinking_tags_stay_in_the_text(tiny: Path, prompts: list[str]) -> None:
    assert all(response.text.startswith("<think>") for response in generate(tiny, prompts, [0] * len(prompts), GREEDY))


def test_shared_key_heads_give_the_logits_of_transformers(tiny: Path, prompts: list[str]) -> None:
    models = TransformersEngine(tiny, "float32").model.cpu(), reference(tiny)
    ids, mask = module.padded(tokens_of(tiny, prompts), filler=0)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.inference_mode():
        ours, theirs = (each(input_ids=ids, attention_mask=mask, position_ids=positions).logits[mask.bool()]
                        for each in models)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_checkpoint_written_anew_under_the_same_name_is_loaded_anew(
    tiny: Path, prompts: list[str], tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny, tmp_path / "copy")
    first = generate(copy, prompts, [0] * len(prompts), GREEDY)
    model = reference(copy, torch.bfloat16)
    torch.nn.init.normal_(model.model.layers[0].mlp.up_proj.weight)
    model.save_pretrained(copy)
    assert [r.text for r in generate(copy, prompts, [0] * len(prompts), GREEDY)] != [r.text for r in first]


def test_bfloat16_is_loaded_as_asked(tiny: Path, prompts: list[str]) -> None:
    assert len(generate(tiny, prompts, [0] * len(prompts), GREEDY, precision="bfloat16")) == len(prompts)
    assert opened(tiny, "transformers", "bfloat16").model.dtype == torch.bfloat16


def test_what_a_checkpoint_holds_can_be_given_back(tiny: Path) -> None:
    opened(tiny, "transformers", "float32")
    close_engines()
    assert not module._opened


# Refusals


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="^[^\n]*holds no checkpoint[^\n]*sftrepro status$"):
        generate(tmp_path, ["x"], [0], GREEDY)


def test_a_response_that_cannot_fit_is_refused_before_anything_is_loaded(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "opened", lambda *_: pytest.fail("loaded"))
    with pytest.raises(RequestError, match="^max_new_tokens = 300 after a prompt of .* 256 positions.*settings.ini$"):
        generate(tiny, ["la"], [0], Sampling(temperature=0, top_p=1, max_new_tokens=300))


@pytest.mark.parametrize(("prompts", "seeds"), [([], []), (["la"], []), (["la"], [0, 1])])
def test_a_request_without_a_prompt_or_a_seed_for_each_is_refused(tiny: Path, prompts: list, seeds: list) -> None:
    with pytest.raises(RequestError, match=f"^generate: {len(prompts)} prompts with {len(seeds)} seeds. Give at least"):
        generate(tiny, prompts, seeds, GREEDY)


def test_a_missing_engine_is_refused_with_the_other_one_named(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "vllm_missing", lambda: "vLLM is not installed")
    with pytest.raises(
        RequestError, match="^engine 'vllm': vLLM is not installed.*engine = transformers in settings.ini$"
    ):
        generate(tiny, ["la"], [0], GREEDY, engine="vllm")


# vLLM


@pytest.fixture(scope="session")
def vllm() -> None:
    "Skips where vLLM cannot serve, unless it must (SFTREPRO_REQUIRE_VLLM=1)."
    if reason := vllm_missing():
        (pytest.fail if os.environ.get("SFTREPRO_REQUIRE_VLLM") == "1" else pytest.skip)(reason)


LIKELIEST = Sampling(temperature=1.5, top_p=1, top_k=1, max_new_tokens=48)


@pytest.fixture(scope="session")
def served(vllm: None, tiny: Path, prompts: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict:
    "What vLLM writes, started once for all tests, and its exit code when its input ends."
    def ask(folder: Path) -> None:
        seeds = list(range(len(prompts)))
        said = {name: generate(tiny, prompts, seeds, sampling, "vllm")
                for name, sampling in (("greedy", GREEDY), ("warm", WARM), ("likeliest", LIKELIEST))}
        said["stopped"] = generate(tiny, prompts, seeds, GREEDY, "vllm", thinking_limit=6)
        said["backwards"] = generate(tiny, prompts[::-1], seeds[::-1], WARM, "vllm")
        said["alone"] = [generate(tiny, [prompts[at]], [at], WARM, "vllm")[0] for at in range(4)]
        process = opened(tiny, "vllm", "float32").servers[0].process
        process.stdin.close()
        code = process.wait(timeout=600)
        module._opened.clear()
        texts = {name: [response.model_dump(exclude={"seconds"}) for response in said[name]] for name in said}
        (folder / "said.json").write_text(json.dumps(texts | {"exit code": code}), encoding="utf-8")
    return json.loads((made_once(tmp_path_factory, "vllm", ask) / "said.json").read_text(encoding="utf-8"))


def test_the_engines_agree_on_a_small_model(served: dict, tiny: Path, prompts: list[str]) -> None:
    ours = generate(tiny, prompts, [0] * len(prompts), GREEDY)
    same = [a.model_dump(exclude={"seconds"}) == b for a, b in zip(ours, served["greedy"], strict=True)]
    assert sum(same) >= 0.9 * len(prompts)


def test_with_vllm_too_a_response_does_not_depend_on_its_batch_mates(served: dict) -> None:
    together = served["warm"]
    assert served["alone"] == together[:4] and len({response["text"] for response in together}) > 10
    assert served["backwards"][::-1] == together


def test_with_one_candidate_left_even_a_warm_draw_is_the_likeliest(
        served: dict, tiny: Path, prompts: list[str]) -> None:
    greedy, warm = (generate(tiny, prompts[:8], list(range(8)), sampling) for sampling in (GREEDY, LIKELIEST))
    assert [response.text for response in warm] == [response.text for response in greedy]
    assert served["likeliest"] == served["greedy"]


def test_vllm_ends_when_its_input_ends_as_it_does_when_its_asker_is_killed(served: dict) -> None:
    assert served["exit code"] == 0


@pytest.mark.release
def test_two_copies_share_the_prompts_and_keep_their_order(vllm: None, tiny: Path, prompts: list[str],
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    one = generate(tiny, prompts, [0] * len(prompts), GREEDY, "vllm")
    monkeypatch.setattr(module, "places", lambda checkpoint: [[], []])
    module._opened.clear()
    two = generate(tiny, prompts, [0] * len(prompts), GREEDY, "vllm")
    assert sum(a.text == b.text for a, b in zip(one, two, strict=True)) >= 0.9 * len(prompts)
    servers = opened(tiny, "vllm", "float32").servers
    assert len({server.process.pid for server in servers}) == 2
    opened(tiny, "vllm", "float32").close()
    module._opened.clear()


@given(st.integers(1, 10**12), st.integers(0, 16), st.integers(10**9, 10**12))
def test_gpus_are_shared_out_once_and_hold_what_they_are_given(weights: int, count: int, memory: int) -> None:
    try:
        found = groups(weights, [memory] * count)
    except RequestError:
        assert all(weights > 0.6 * memory * size for size in (1, 2, 4, 8) if size <= count)
        return
    assert len({gpu for group in found for gpu in group}) == sum(map(len, found)) <= count
    if count:
        size, = {len(group) for group in found}
        assert (
            weights <= 0.6 * memory * size
            and (size == 1 or weights > 0.6 * memory * size / 2)
            and count - len(found) * size < size
        )


@pytest.mark.release
def test_an_engine_that_fails_says_why(vllm: None, tiny: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(tiny, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(RuntimeError, match="(?s)^vLLM exited. The end of its log: .*safetensors"):
        generate(broken, ["la"], [0], GREEDY, "vllm")


@pytest.mark.release
def test_the_engines_write_the_same_tokens_on_the_committed_base(vllm: None) -> None:
    world = world_of(load_profile("micro"))
    texts = [
        prompt_text(with_instruction(item))
        for name in BENCHMARKS
        for item in islice(draw(name, "evaluation", world), 12)
    ]
    tokens, end = tokens_of(BASE, texts), AutoTokenizer.from_pretrained(BASE).eos_token_id
    sampling = Sampling(temperature=0, top_p=1, max_new_tokens=96)
    ours, theirs = (opened(BASE, engine, "float32").complete(tokens, [0] * len(tokens), sampling, end)
                    for engine in ("transformers", "vllm"))
    same = [assert_same_but_for_near_ties(BASE, *each) for each in zip(tokens, ours, theirs, strict=True)]
    assert sum(same) >= 0.95 * len(same)
