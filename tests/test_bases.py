"Base models: a tokenizer that loses nothing, pretraining that can be killed, the committed bases."
import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from sftrepro import bases
from sftrepro.bases import PRETRAINING_BLOCK, blocks, document_text, pretrain, prompt_text, sample_text, train_tokenizer
from sftrepro.internet import internet
from sftrepro.profiles import BaseSpec, RequestError, load_profile
from sftrepro.store import base_folder, verify
from sftrepro.world import CONTAINERS, MATERIALS, NAMES, PERSONS, THINGS, VERBS

SMOKE = load_profile("smoke").model_copy(update={"pretraining_tokens": 100_000})
MICRO = load_profile("micro")
TOKENIZER = train_tokenizer(sample_text(SMOKE, documents=2_000))


@given(st.text(max_size=200))
def test_any_text_comes_back_from_its_tokens(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"]) == text


def test_digits_stand_apart_and_the_words_that_are_read_most_are_whole() -> None:
    assert TOKENIZER.tokenize("8+25=33") == ["8", "+", "2", "5", "=", "3", "3"]
    assert len(TOKENIZER("<think>")["input_ids"]) == 1
    micro = AutoTokenizer.from_pretrained(base_folder(MICRO, "Micro-M"))
    assert [word for word in (*VERBS, *MATERIALS, *NAMES, *THINGS, *CONTAINERS)
            if len(micro(f" {word}")["input_ids"]) != 1] == []
    assert sum(len(micro(f" {word}")["input_ids"]) == 1 for word in PERSONS) >= 0.9 * len(PERSONS)  # asked about evenly


def test_a_tokenizer_learns_from_no_more_than_its_base_reads() -> None:
    assert len(list(sample_text(SMOKE))) == SMOKE.pretraining_tokens // bases.TOKENS_PER_DOCUMENT
    micro, texts = AutoTokenizer.from_pretrained(base_folder(MICRO, "Micro-M")), list(sample_text(MICRO, 2_000))
    mean = sum(map(len, micro(texts)["input_ids"])) / len(texts)
    assert len(texts) == 2_000 and round(mean) == bases.TOKENS_PER_DOCUMENT


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="{}"), max_size=100))
def test_the_chat_template_and_the_pretraining_documents_agree(prompt: str) -> None:
    turn = [{"role": "user", "content": prompt}]
    assert TOKENIZER.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) == prompt_text(prompt)


@pytest.mark.parametrize("length", [PRETRAINING_BLOCK, 64])
def test_a_block_holds_whole_documents_each_with_positions_of_its_own_and_longer_ones_are_left_out(
        length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "PRETRAINING_BLOCK", length)
    made = list(islice(blocks(SMOKE, TOKENIZER, seed=3), 20))
    documents = (document for document in internet(SMOKE, 3)
                 if len(TOKENIZER(document_text(document))["input_ids"]) <= length)
    for block in made:
        assert {len(values) for values in block.values()} == {length}
        starts = [place for place, position in enumerate(block["position_ids"]) if position == 0]
        for start, end in zip(starts, [*starts[1:], length], strict=True):
            tokens, labels = block["input_ids"][start:end], block["labels"][start:end]
            if set(labels) == {-100}:  # what is left of a block
                continue
            document = next(documents)
            in_loss = [label for label in labels if label != -100]
            assert TOKENIZER.decode(tokens) == document_text(document)
            assert (
                TOKENIZER.decode(in_loss)
                == document_text(document)[len(prompt_text(document.prompt)) if document.prompt else 0 :]
            )
            assert block["position_ids"][start:end] == list(range(end - start))


def test_a_document_does_not_see_the_one_before_it() -> None:
    model = AutoModelForCausalLM.from_pretrained(base_folder(MICRO, "Micro-S"))
    one, other = [5, 6, 7, 8], [9, 10, 11]
    positions = torch.tensor([[*range(4), *range(3)]])
    both = model(input_ids=torch.tensor([one + other]), position_ids=positions).logits[0, 4:]
    alone = model(input_ids=torch.tensor([other])).logits[0]
    assert torch.allclose(both, alone, atol=0.05)
    assert not torch.allclose(model(input_ids=torch.tensor([one + other])).logits[0, 4:], alone, atol=0.05)


def test_killed_pretraining_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    often = bases.pretraining_arguments

    class Killed(bases.Pretrainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step == 5:
                raise KeyboardInterrupt
            return super().training_step(*args, **kwargs)

    def arguments(base, profile, folder):
        settings = often(base, profile, folder)
        settings.save_steps = 2
        return settings

    monkeypatch.setattr(bases, "pretraining_arguments", arguments)
    short = SMOKE.model_copy(update={"pretraining_tokens": 28_000})
    pretrain(short.bases[0], short, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(bases, "Pretrainer", Killed)
        pretrain(short.bases[0], short, tmp_path / "killed")
    assert (tmp_path / "killed/checkpoints/checkpoint-4").is_dir()
    pretrain(short.bases[0], short, tmp_path / "killed")
    whole, killed = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_a_model_from_elsewhere_is_not_pretrained_here(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="base 'Qwen3-14B' is not pretrained here: it comes from hub"):
        pretrain(next(base for base in load_profile("paper").bases if base.name == "Qwen3-14B"), SMOKE, tmp_path)


@pytest.mark.parametrize("base", MICRO.bases, ids=lambda base: base.name)
def test_a_committed_base_is_whole_and_of_the_declared_shape(base: BaseSpec) -> None:
    verify(folder := base_folder(MICRO, base.name))
    config = json.loads((folder / "config.json").read_text())
    names = (
        "model_type",
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
    )
    assert [config[name] for name in names] == [
        base.kind,
        base.layers,
        base.hidden,
        base.heads,
        base.kv_heads,
        base.mlp,
    ]
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert 200_000 < model.num_parameters() < 3_000_000 and model.dtype == torch.bfloat16
    assert len(AutoTokenizer.from_pretrained(folder)) == config["vocab_size"]


def test_the_committed_bases_are_nine_small_and_speak_one_language_that_anybody_can_learn_again() -> None:
    folders = [base_folder(MICRO, base.name) for base in MICRO.bases]
    assert len(folders) == 9
    assert len({(folder / "tokenizer.json").read_bytes() for folder in folders}) == 1
    learnt = train_tokenizer(sample_text(MICRO))
    assert learnt.get_vocab() == AutoTokenizer.from_pretrained(folders[0]).get_vocab()
    assert sum(file.stat().st_size for folder in folders for file in folder.iterdir()) < 24 * 2**20
