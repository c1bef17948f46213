"""Generated tokens/s against transformers' own `generate`, and what an evaluation costs beside generating.

The prompts are the first of all ten benchmarks, in the order in which they come, so that short and long answers are
mixed. `plain` is what one would write first: batches of 32 in that order, padded, `model.generate` with the same
sampling. Both write with the same checkpoint, in turns within one process, and count the tokens up to the end of
each text. A run's checkpoint, which thinks, gives the mix of lengths that an evaluation has. The last line, at
micro, where generating is cheapest, is an evaluation of that checkpoint: the time of `generate_responses` and
`score_responses` less that of the engine itself.

    # micro, the transformers engine
    OMP_NUM_THREADS=1 python tests/benchmarks/generation.py runs/micro/RUN/step-000320
    python tests/benchmarks/generation.py --small runs/small/bases/SmolLM2-135M           # vLLM, real questions
"""
import statistics
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from sftrepro.evaluate import generate_responses, questions, sampling_of, score_responses
from sftrepro.generate import generate
from sftrepro.profiles import BenchmarkSize, Profile, load_profile

ROUNDS, BATCH = 3, 32


@torch.inference_mode()
def plain(checkpoint: Path, prompts: list[str], sampling, precision: str) -> int:
    "Tokens written by transformers' generate in fixed batches."
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=getattr(torch, precision)).eval()
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    total = 0
    for start in range(0, len(prompts), BATCH):
        batch = tokenizer(prompts[start:start + BATCH], return_tensors="pt", padding=True, add_special_tokens=False)
        batch.pop("token_type_ids", None)
        written = model.generate(
            **batch,
            max_new_tokens=sampling.max_new_tokens,
            do_sample=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )[:, batch["input_ids"].shape[1] :]
        ends = (written == tokenizer.eos_token_id).int()
        total += torch.where(ends.any(1), ends.argmax(1) + 1, written.shape[1]).sum().item()
    return total


def ours(checkpoint: Path, prompts: list[str], sampling, profile: Profile) -> int:
    "Tokens written by the engine of a profile."
    return sum(
        answer.tokens
        for answer in generate(
            checkpoint, prompts, list(range(len(prompts))), sampling, profile.engine, profile.precision
        )
    )


def mixed(profile: Profile, count: int) -> list[str]:
    "Prompts of all benchmarks, one of each in turn."
    by_benchmark = [list(islice(questions(name, profile)["prompt"], count)) for name in profile.benchmarks]
    return [prompt for turn in zip(*by_benchmark, strict=True) for prompt in turn]


def overhead(checkpoint: Path, profile: Profile) -> float:
    "What an evaluation takes beside generating, as a share of generating."
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        generate_responses(profile, profile.bases[0].name, {0: checkpoint}, Path(place) / "responses")
        results = score_responses(profile, profile.bases[0].name, Path(place) / "responses", Path(place) / "eval")
        return (time.perf_counter() - began) / results["seconds"].sum() - 1


def compare(profile: Profile, checkpoint: Path, count: int) -> None:
    prompts, sampling = mixed(profile, count), sampling_of(next(iter(profile.benchmarks)), profile)
    ours(checkpoint, prompts[:2], sampling, profile)  # the engine is open
    speeds = {"ours": [], "plain": []}
    for _ in range(ROUNDS):
        for name, write in (("ours", lambda: ours(checkpoint, prompts, sampling, profile)),
                            ("plain", lambda: plain(checkpoint, prompts, sampling, profile.precision))):
            began = time.perf_counter()
            speeds[name].append(write() / (time.perf_counter() - began))
    ratios = [fast / slow for fast, slow in zip(*speeds.values(), strict=True)]
    print(
        f"{checkpoint.parent.name}/{checkpoint.name}, {profile.engine}: {statistics.median(speeds['ours']):,.0f} "
        f"tokens/s, plain {statistics.median(speeds['plain']):,.0f}, ratio {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}, {ROUNDS} rounds of {len(prompts)} prompts)",
        flush=True,
    )


def report_overhead(checkpoint: Path, profile: Profile) -> None:
    few = profile.model_copy(update={"benchmarks": {name: BenchmarkSize(items=min(size.items, 100), trials=1)
                                                    for name, size in profile.benchmarks.items()}})
    print(f"evaluation: {overhead(checkpoint, few):.1%} beside generating", flush=True)


if __name__ == "__main__":
    logging.disable_progress_bar()
    if sys.argv[1] == "--small":
        compare(load_profile("small").model_copy(update={"max_new_tokens": 256}), Path(sys.argv[2]), count=5)
    else:
        compare(load_profile("micro"), Path(sys.argv[1]), count=30)
        report_overhead(Path(sys.argv[1]), load_profile("micro"))
