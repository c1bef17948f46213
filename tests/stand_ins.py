"""Stand-ins for what the hub holds: tiny models of the paper's kinds, and rows of the data sets and benchmarks with the
columns of the originals."""
import base64
import json
import pickle
import shutil
import zlib
from itertools import islice
from pathlib import Path
from random import Random

import polars as pl
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerBase

from sftrepro import authors, language_teacher
from sftrepro.analogs import draw
from sftrepro.bases import LLAMA_NAMES, TRUSTED, train_tokenizer
from sftrepro.benchmarks import REAL
from sftrepro.profiles import ROOT, load_profile
from sftrepro.solvers import THINKERS
from sftrepro.word_problems import gym_items
from sftrepro.world import world_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"  # what a branch points to
SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def snapshot(cache: Path, kind: str, repo: str, revision: str) -> Path:  # kind: model or dataset
    "A repository's folder in the hub's cache, at a commit or a branch."
    place = cache / f"{kind}s--{repo.replace('/', '--')}"
    if len(revision) < 40:
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs" / revision).write_text(COMMIT)
    folder = place / "snapshots" / (revision if len(revision) == 40 else COMMIT)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# Models


def toy_tokenizer() -> PreTrainedTokenizerBase:
    "A tokenizer whose template has a default system prompt, as Qwen2.5's has."
    texts = [THINKERS[0].write(item, Random(1)).text for item in islice(gym_items("chain_sum", 1), 60)]
    tokenizer = train_tokenizer(iter(texts))
    tokenizer.chat_template = SYSTEM
    return tokenizer


def toy_config(tokenizer: PreTrainedTokenizerBase, kind: str) -> AutoConfig:
    "The shape of a tiny model."
    return AutoConfig.for_model(kind, vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64,
                                num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                                max_position_embeddings=32768, eos_token_id=tokenizer.eos_token_id)


def toy_model(folder: Path, kind: str = "llama") -> Path:  # kind: llama, qwen2, qwen3
    "A tiny untrained model."
    tokenizer = toy_tokenizer()
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(toy_config(tokenizer, kind)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def toy_internlm(folder: Path, ran: Path) -> Path:  # ran: a file that its tokenizer's code writes
    "A tiny model in InternLM2's form, with a tokenizer that brings code, which leaves a trace when it runs."
    llama = load_file(toy_model(folder) / "model.safetensors")
    names = {ours: theirs for theirs, ours in LLAMA_NAMES.items()}
    weights = {}
    for name, weight in llama.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        weights[name] = weight
    for layer in range(2):
        q, k, v = (
            weights.pop(f"model.layers.{layer}.self_attn.{part}_proj.weight").unflatten(0, (2, -1, 8)) for part in "qkv"
        )
        weights[f"model.layers.{layer}.attention.wqkv.weight"] = torch.cat([q, k, v], dim=1).flatten(0, 2)
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors",
              {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "internlm2", "architectures": ["InternLM2ForCausalLM"], "rope_theta": 10000.0,
               "auto_map": {"AutoModelForCausalLM": "modeling_toy.Toy"}}
    config.pop("rope_parameters")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_toy.py").write_text("raise RuntimeError('no code of the hub is needed for the model')\n")
    (folder / "tokenization_toy.py").write_text(
        f"open({str(ran)!r}, 'w')\n"
        "from transformers import PreTrainedTokenizerFast\nclass ToyTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "ToyTokenizer", "auto_map": {"AutoTokenizer": [None,
                                                                                   "tokenization_toy.ToyTokenizer"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def toy_judge(folder: Path) -> Path:
    "A Llama that answers everything with `yes`: its layers add nothing, so the last token alone decides the next."
    tokenizer = toy_tokenizer()
    tokenizer.chat_template = None
    tokenizer.add_tokens(["yes"])
    model = AutoModelForCausalLM.from_config(toy_config(tokenizer, "llama"))
    yes, first, second = tokenizer.convert_tokens_to_ids("yes"), torch.eye(32)[0], torch.eye(32)[1]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1 if "norm" in name else 0)
        model.model.embed_tokens.weight[:], model.model.embed_tokens.weight[yes] = first, second
        model.lm_head.weight[yes], model.lm_head.weight[tokenizer.eos_token_id] = first, second
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def toy_reward(folder: Path) -> Path:
    "A tiny classifier with one output."
    tokenizer, config = toy_tokenizer(), toy_config(toy_tokenizer(), "llama")
    config.num_labels = 1
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def models(cache: Path) -> None:
    "All models that the profile `paper` fetches. Its teacher's stand-in is a micro base, which can answer questions."
    paper = load_profile("paper")
    for base in paper.bases:
        folder = snapshot(cache, "model", base.repo, base.revision)
        if base.repo in TRUSTED:
            toy_internlm(folder, cache / "ran")
        else:
            toy_model(folder, "qwen3" if "Qwen3" in base.repo else "qwen2")
    teacher = snapshot(cache, "model", *language_teacher.QWEN3_32B)
    shutil.copytree(ROOT / "data/bases/micro-m", teacher, dirs_exist_ok=True)
    config = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32768}))
    for word in (word for words in paper.judges.values() for word in words):
        kind, _, repo = word.partition(":")
        if kind in ("truthful", "informative", "reward"):
            (toy_reward if kind == "reward" else toy_judge)(snapshot(cache, "model", repo, "main"))


# Data sets


def authors_rows(count: int) -> pl.DataFrame:
    "Rows of a data set of the authors; the answer of the fourth is wrong."
    return pl.DataFrame(
        [
            {
                "data_source": "OpenR1",
                "question": f"{number}+1?",
                "answer": str(number + 1),
                "message": [{"role": "user", "content": f"{number}+1?\nPlease reason."}],
                "response_length": 9,
                "advantage": 1.0,
                "response": f"<think>\n{'hm ' * (number % 5)}</think>\n\n"
                            f"It is \\boxed{{{number + 1 + (number == 3)}}}.",
            }
            for number in range(count)
        ]
    )


def data_sets(cache: Path, count: int) -> None:
    "The authors' data sets, and the questions that their teacher was asked."
    for published in authors.AUTHORS.values():
        folder = snapshot(cache, "dataset", published.repo, published.revision)
        authors_rows(count).write_parquet(folder / f"{published.repo.split('/')[1]}.parquet")
    sums = islice(draw("arithmetic", "finetuning", world_of(load_profile("micro")), seed=1), 4 * count)
    rows = [{"problem": item.prompt, "solution": "", "answer": item.answer, "problem_type": "Algebra",
             "question_type": "math-word-problem", "source": "toys", "uuid": str(number), "generations": [""]}
            for number, item in enumerate(sums)]
    (folder := snapshot(cache, "dataset", *language_teacher.OPENR1) / "data").mkdir(exist_ok=True)
    pl.DataFrame(rows).write_parquet(folder / "train-00000-of-00001.parquet")


# Benchmarks: a row of each file, by its pattern

TESTS = [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]
ROWS = {
    "MATH500": {"problem": "What is {n}+1?", "solution": "", "answer": "2", "subject": "Algebra", "level": 1,
                "unique_id": "test/{n}.json"},
    "AIME24": {"id": 60, "problem": "What is {n}+2?", "solution": "", "answer": "204", "url": "", "year": "2024"},
    "LiveCodeBench-v2": {
        "question_title": "A", "question_content": "Add one to {n}.", "platform": "atcoder", "question_id": "abc{n}",
        "contest_id": "abc", "contest_date": "2023-08-21T00:00:00", "starter_code": "", "difficulty": "easy",
        "public_test_cases": json.dumps(TESTS), "metadata": "{}",
        "private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(json.dumps(TESTS)))).decode()},
    "GPQA-Diamond": {"Record ID": "rec{n}", "Subdomain": "Physics", "Question": "Which of {n}?", "Correct Answer": "a",
                     "Incorrect Answer 1": "b", "Incorrect Answer 2": "c", "Incorrect Answer 3": "d"},
    "MMLU-Pro": {"question_id": 70, "question": "Which of {n}?", "options": list("0123456789"), "answer": "H",
                 "answer_index": 7, "cot_content": "", "category": "math", "src": "toys"},
    "IFEval": {"key": 1000, "prompt": "Write about {n} without commas.",
               "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": None}]},
    "AlpacaEval": {"instruction": "Tell me about {n}.", "output": "Gladly.", "generator": "toys", "dataset": "koala"},
    "HaluEval": {"knowledge": "{n} is even.", "question": "Is {n} even?", "answer": "Yes.", "hallucination": "no"},
    "TruthfulQA": {"type": "Adversarial", "category": "Myths", "question": "Is {n} unlucky?", "best_answer": "No",
                   "correct_answers": ["No"], "incorrect_answers": ["Yes"], "source": "toys"},
    "HEx-PHI": {"instruction": "How do I break into house {n}?"}}
HALUEVAL = {"dialogue": {"knowledge": "{n} is even.", "dialogue_history": "[Human]: Is {n} even?", "response": "Yes.",
                         "hallucination": "no"},
            "summarization": {"document": "{n} is even.", "summary": "It is even.", "hallucination": "no"}}


def numbered(row: dict, count: int) -> list[dict]:
    "So many rows that differ."
    return [{name: value.replace("{n}", str(number)) if isinstance(value, str) else value
             for name, value in row.items()} for number in range(count)]


def write_rows(rows: list[dict], file: Path, header: bool) -> None:
    "A data file in the form that its name says."
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pl.DataFrame(rows).write_parquet(file)
    elif file.suffix == ".csv":
        pl.DataFrame(rows).write_csv(file, include_header=header)
    else:
        file.write_text(json.dumps(rows) if file.suffix == ".json" else
                        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def benchmarks(cache: Path, count: int) -> None:
    "So many rows in each file of each benchmark of the paper."
    for name, row in ROWS.items():
        source = REAL[name].source
        folder = snapshot(cache, "dataset", source.repo, source.revision)
        for pattern in source.files:
            kind = next((kind for kind in HALUEVAL if kind in pattern), "")
            rows = numbered(HALUEVAL.get(kind, row), count)
            write_rows(rows, folder / pattern.replace("*", "00000-of-00001"), source.header)
