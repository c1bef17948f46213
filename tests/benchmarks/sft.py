"""Finetuning tokens/s of the book's trainer against a bare PyTorch loop and against TRL's untuned defaults.

All three take the same rows of `Math-CoT` in batches of 32, from the same committed base, in turns within one
process, and are timed in seconds of the processor, so that other work on the machine tells little. The bare loop
has the same order, padding and precision as ours, attention mask and full logits as `model(**batch).loss` makes
them, and no logging. TRL is given the tokens and labels, the batch size, the processor and nothing else: its
defaults are bfloat16 arithmetic, gradient checkpointing, shuffled rows, entropy and accuracy in every step. Ours is
run in float32 and in bfloat16 arithmetic. The first step of each turn is not counted.

    OMP_NUM_THREADS=1 python tests/benchmarks/sft.py Micro-M Micro-S
"""
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from sftrepro.data import build, data_set
from sftrepro.profiles import load_profile
from sftrepro.runs import run_specs
from sftrepro.sft import Finetuner, load_weights, training_rows
from sftrepro.store import base_folder

STEPS, ROUNDS = 10, int(os.environ.get("ROUNDS", "5"))  # optimizer steps in a turn; turns of each


class Clock(TrainerCallback):
    "Seconds of the processor from the end of a turn's first step to the end of its last."

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 1:
            self.began = time.process_time()
        if state.global_step == STEPS:
            self.seconds = time.process_time() - self.began


class WithoutCheckpoints(Finetuner):
    "The book's trainer; what it writes is not timed."

    def export(self, folder):
        pass


def padded(rows):
    "A batch as the bare loop wants it."
    columns = {"input_ids": 0, "labels": -100}
    batch = {name: torch.nn.utils.rnn.pad_sequence([torch.tensor(row[name]) for row in rows], batch_first=True,
                                                   padding_value=value) for name, value in columns.items()}
    lengths = torch.tensor([len(row["labels"]) for row in rows])
    return batch | {"attention_mask": (torch.arange(batch["labels"].shape[1]) < lengths[:, None]).long()}


def bare(model, batches, spec, precision):
    "A plain PyTorch loop; its seconds."
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True)
    model.train()
    for step, batch in enumerate(batches):
        if step == 1:
            began = time.process_time()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            loss = model(**batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    return time.process_time() - began


def turn(trainer):
    "The seconds of one turn of a trainer."
    trainer.add_callback(clock := Clock())
    trainer.train()
    trainer.remove_callback(clock)
    return clock.seconds


def contestants(spec, folder, rows, tokenizer):
    "What is timed, by name: functions that return their seconds."
    model = lambda: load_weights(base_folder(load_profile("micro"), spec.base), "float32")  # noqa: E731
    batches = [padded(list(rows.select(range(start, start + 32)))) for start in range(0, len(rows), 32)]
    found = {}
    for precision in ("float32", "bfloat16"):
        ours = WithoutCheckpoints(
            spec.model_copy(update={"compute_precision": precision}), model(), tokenizer, rows, folder
        )
        ours.args.save_strategy = "no"
        found[f"ours, {precision}"] = lambda ours=ours: turn(ours)
        loop = model()
        found[f"bare, {precision}"] = lambda loop=loop, kind=precision: bare(loop, batches, spec, kind)
    settings = SFTConfig(output_dir=str(folder / "trl"), per_device_train_batch_size=32, max_steps=STEPS,
                         use_cpu=not torch.cuda.is_available(), report_to=[])
    theirs = SFTTrainer(model(), settings, train_dataset=rows, processing_class=tokenizer)
    return found | {"TRL": lambda: turn(theirs)}


def main(names):
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    profile = load_profile("micro").model_copy(update={"row_divisor": 20480 // (32 * STEPS)})
    for name in names:
        spec = run_specs(profile, ("R25",))[0].model_copy(update={"base": name, "epochs": 1})
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            build(spec.data, spec.seed, profile, folder)
            tokenizer = AutoTokenizer.from_pretrained(base_folder(profile, name))
            rows = training_rows(spec, tokenizer, data_set(folder))
            tokens = sum(map(len, rows["input_ids"])) * (STEPS - 1) / STEPS
            timed = contestants(spec, folder, rows, tokenizer)
            times = {each: [] for each in timed}
            for _ in range(ROUNDS):
                for each, seconds in timed.items():
                    times[each].append(seconds())
        report(name, tokens, times)


def report(name, tokens, times):
    "One line for each, and the ratios with their range over the rounds."
    for each, seconds in times.items():
        print(f"{name}: {each}: {tokens / statistics.median(seconds):,.0f} tokens/s", flush=True)
    pairs = [("ours, float32", "bare, float32"), ("ours, bfloat16", "bare, bfloat16"), ("ours, float32", "TRL"),
             ("ours, bfloat16", "TRL"), ("ours, bfloat16", "ours, float32")]
    for one, other in pairs:
        ratios = [slow / fast for fast, slow in zip(times[one], times[other], strict=True)]
        print(f"{name}: {one} against {other}: {statistics.median(ratios):.2f} "
              f"({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} rounds of {STEPS - 1} steps)", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["Micro-M"])
