"Base models: a tokenizer that loses nothing, pretraining that can be killed, the committed base."
import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer

from sftrepro import bases
from sftrepro.bases import BLOCK, blocks, document_text, pretrain, prompt_text, sample_text, train_tokenizer
from sftrepro.profiles import ROOT, RequestError, load_profile
from sftrepro.world import MATERIALS, NAMES, VERBS, internet, world_of

SMOKE = load_profile("smoke").model_copy(update={"pretraining_tokens": 100_000})
TOKENIZER = train_tokenizer(sample_text(SMOKE, documents=2_000))


@given(st.text(max_size=200))
def test_any_text_comes_back_from_its_tokens(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"]) == text


def test_digits_stand_apart_and_words_of_the_world_are_whole() -> None:
    assert TOKENIZER.tokenize("8+25=33") == ["8", "+", "2", "5", "=", "3", "3"]
    assert len(TOKENIZER("<think>")["input_ids"]) == 1
    committed = AutoTokenizer.from_pretrained(ROOT / "data/bases/micro-m")
    assert [word for word in (*VERBS, *MATERIALS, *NAMES) if len(committed(f" {word}")["input_ids"]) != 1] == []


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="{}"), max_size=100))
def test_the_chat_template_and_the_pretraining_documents_agree(prompt: str) -> None:
    turn = [{"role": "user", "content": prompt}]
    assert TOKENIZER.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) == prompt_text(prompt)


def test_blocks_are_the_documents_end_to_end() -> None:
    made = list(islice(blocks(SMOKE, TOKENIZER, seed=3), 20))
    assert {len(block["input_ids"]) for block in made} == {BLOCK}
    text = TOKENIZER.decode([token for block in made for token in block["input_ids"]])
    documents = map(document_text, internet(world_of(SMOKE), SMOKE.pretraining_mixture, 3))
    assert "".join(islice(documents, 300)).startswith(text)


def test_killed_pretraining_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    often = bases.pretraining_arguments

    class Killed(Trainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step == 9:
                raise KeyboardInterrupt
            return super().training_step(*args, **kwargs)

    def arguments(profile, folder):
        settings = often(profile, folder)
        settings.save_steps = 4
        return settings

    monkeypatch.setattr(bases, "pretraining_arguments", arguments)
    pretrain(SMOKE.bases[0], SMOKE, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(bases, "Trainer", Killed)
        pretrain(SMOKE.bases[0], SMOKE, tmp_path / "killed")
    assert (tmp_path / "killed/checkpoints/checkpoint-8").is_dir()
    pretrain(SMOKE.bases[0], SMOKE, tmp_path / "killed")
    whole, killed = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_a_model_from_elsewhere_is_not_pretrained_here(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="base 'Qwen3-14B' is not pretrained here: it comes from hub"):
        pretrain(next(base for base in load_profile("paper").bases if base.name == "Qwen3-14B"), SMOKE, tmp_path)


def test_the_committed_base_is_small_whole_and_of_the_declared_shape() -> None:
    base, folder = load_profile("micro").bases[0], ROOT / "data/bases/micro-m"
    config = json.loads((folder / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"], config["model_type"]) == (base.layers, base.hidden, base.kind)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert 800_000 < model.num_parameters() < 1_200_000 and model.dtype == torch.bfloat16
    assert len(AutoTokenizer.from_pretrained(folder)) == config["vocab_size"]
