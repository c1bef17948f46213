"""Pretraining tokens/s of the trainer that makes the bases against a bare PyTorch loop, interleaved in one process.

Same shape, initial weights, blocks, precision and optimizer on both sides; the trainer runs once and hands over to
the bare loop every few steps, and both are timed in seconds of the processor, so that other work on the machine
tells little. Making the documents and their tokens is not part of it on either side (tests/benchmarks/text.py);
putting batches together is part of the trainer's time only.

    OMP_NUM_THREADS=1 python tests/benchmarks/pretraining.py Micro-M Micro-L
"""
import copy
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import Trainer, TrainerCallback

from sftrepro.bases import PRETRAINING_BLOCK, blocks, new_model, pretraining_arguments, sample_text, train_tokenizer
from sftrepro.profiles import load_profile

STEPS, ROUNDS = 6, 10  # optimizer steps between two hand-overs; hand-overs


class Bare:
    "A plain PyTorch loop."

    def __init__(self, model, rows, arguments):
        self.model, self.arguments = model, arguments
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.learning_rate, betas=(0.9, 0.95),
                                           weight_decay=arguments.weight_decay, fused=True)
        size = arguments.per_device_train_batch_size
        columns = {key: torch.tensor([row[key] for row in rows]).split(size) for key in rows[0]}
        self.batches = (dict(zip(columns, batch, strict=True)) for batch in zip(*columns.values(), strict=True))

    def step(self):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.arguments.bf16):
            loss = self.model(**next(self.batches)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.arguments.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


class HandOver(TrainerCallback):
    "Times the trainer's steps, data loading included, and lets the bare loop run in between."

    def __init__(self, bare):
        self.bare, self.trainer_times, self.bare_times, self.started = bare, [], [], None

    def on_step_end(self, args, state, control, **_):
        if state.global_step % STEPS:
            return
        now = time.process_time()
        if self.started is not None:
            self.trainer_times.append(now - self.started)
        for _ in range(STEPS):
            self.bare.step()
        if self.started is not None:
            self.bare_times.append(time.process_time() - now)
        self.started = time.process_time()


def main(names):
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    profile = load_profile("micro")
    batch = PRETRAINING_BLOCK * pretraining_arguments(profile.bases[0], profile, Path()).per_device_train_batch_size
    profile = profile.model_copy(update={"pretraining_tokens": batch * STEPS * (ROUNDS + 1)})
    tokenizer = train_tokenizer(sample_text(profile))
    rows = list(blocks(profile, tokenizer, seed=0))
    for base in (base for base in profile.bases if base.name in names):
        model = new_model(base, tokenizer, seed=0)
        with tempfile.TemporaryDirectory() as folder:
            arguments = pretraining_arguments(base, profile, Path(folder))
            hand_over = HandOver(Bare(copy.deepcopy(model), rows, arguments))
            Trainer(model, arguments, train_dataset=Dataset.from_list(rows), callbacks=[hand_over]).train()
        report(base.name, batch * STEPS, hand_over.trainer_times, hand_over.bare_times)


def report(name, tokens, trainer, bare):
    "One line: both speeds, their ratio, and the ratio's range over rounds."
    ratios = [slow / fast for fast, slow in zip(trainer, bare, strict=True)]
    speeds = [tokens / statistics.median(times) for times in (trainer, bare)]
    print(
        f"{name}: trainer {speeds[0]:,.0f} tokens/s, bare loop {speeds[1]:,.0f}, ratio {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} rounds of {STEPS} steps)",
        flush=True,
    )


if __name__ == "__main__":
    main(sys.argv[1:] or ["Micro-M", "Micro-L"])
