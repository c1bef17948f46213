"""Pretraining tokens/s of the trainer that makes the bases against a bare PyTorch loop, interleaved in one process.

Same shape, initial weights, documents, precision and optimizer on both sides; the trainer runs once and hands over to
the bare loop every few steps, and both are timed in seconds of the processor, so that other work on the machine tells little.
Making the documents and their tokens is not part of it on either side (tests/benchmarks/text.py); putting batches together
is part of the trainer's time only.

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

from sftrepro.bases import PARTS, STEP, new_model, padded, pages, pretraining_arguments, sample_text, train_tokenizer
from sftrepro.profiles import load_profile

STEPS, ROUNDS = 10, 12  # optimizer steps between two hand-overs; hand-overs
BATCH = STEP // PARTS


class Bare:
    "A plain PyTorch loop."

    def __init__(self, model, rows, arguments):
        self.model, self.arguments = model, arguments
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.learning_rate, betas=(0.9, 0.95),
                                           weight_decay=arguments.weight_decay, fused=True)
        self.batches = iter([padded(rows[start:start + BATCH]) for start in range(0, len(rows), BATCH)])

    def step(self):
        batches = [next(self.batches) for _ in range(PARTS)]
        counted = sum((batch["labels"][:, 1:] != -100).sum() for batch in batches)
        for batch in batches:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.arguments.bf16):
                loss = self.model(**batch, num_items_in_batch=counted).loss
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
    tokenizer = train_tokenizer(sample_text(profile))
    rows = list(pages(profile.model_copy(update={"pretraining_tokens": STEP * STEPS * (ROUNDS + 1) * 60}), tokenizer, seed=0))
    rows = rows[:STEP * STEPS * (ROUNDS + 1)]
    tokens = [sum(len(row["input_ids"]) for row in rows[start:start + STEP * STEPS])
              for start in range(STEP * STEPS, len(rows), STEP * STEPS)]
    for base in (base for base in profile.bases if base.name in names):
        model = new_model(base, tokenizer, seed=0)
        with tempfile.TemporaryDirectory() as folder:
            arguments = pretraining_arguments(profile, Path(folder))
            hand_over = HandOver(Bare(copy.deepcopy(model), rows, arguments))
            Trainer(model, arguments, train_dataset=Dataset.from_list(rows), data_collator=padded, callbacks=[hand_over]).train()
        report(base.name, tokens, hand_over.trainer_times, hand_over.bare_times)


def report(name, tokens, trainer, bare):
    "One line: both speeds, their ratio, and the ratio's range over rounds."
    ratios = [slow / fast for fast, slow in zip(trainer, bare, strict=True)]
    speeds = [statistics.median(count / seconds for count, seconds in zip(tokens, times, strict=True)) for times in (trainer, bare)]
    print(f"{name}: trainer {speeds[0]:,.0f} tokens/s, bare loop {speeds[1]:,.0f}, ratio {statistics.median(ratios):.3f} "
          f"({min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} rounds of {STEPS} steps)", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["Micro-M", "Micro-L"])
