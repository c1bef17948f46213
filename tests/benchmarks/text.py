"""How fast text is made: documents/s of the micro world's internet, tokens/s of the tokenizer, rows/s of an SFT
data set. Seconds are those of the processor, so that other work on the machine tells little.

    OMP_NUM_THREADS=1 python tests/benchmarks/text.py
"""
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import polars as pl

from sftrepro.bases import blocks, document_text, sample_text, train_tokenizer
from sftrepro.data import build
from sftrepro.internet import internet
from sftrepro.profiles import load_profile
from sftrepro.recipes import RECIPES

DOCUMENTS, REPEATS = 20_000, 5


def per_second(amount: float, action: Callable[[], object], repeats: int = REPEATS) -> str:
    "The median rate of some repeats, and their range."
    rates = []
    for _ in range(repeats):
        begun = time.process_time()
        action()
        rates.append(amount / (time.process_time() - begun))
    spread = f"{min(rates):,.0f} to {max(rates):,.0f}, {repeats} repeats"
    return f"{statistics.median(rates):,.0f} per second of the processor ({spread})"


def main() -> None:
    profile = load_profile("micro")
    print(
        "documents generated:", per_second(DOCUMENTS, lambda: list(islice(internet(profile, 0), DOCUMENTS))), flush=True
    )
    tokenizer = train_tokenizer(sample_text(profile))
    texts = list(map(document_text, islice(internet(profile, 1), DOCUMENTS)))
    tokens = sum(map(len, tokenizer(texts)["input_ids"]))
    print(
        f"documents have {sum(map(len, texts)) / DOCUMENTS:.0f} characters and {tokens / DOCUMENTS:.1f} tokens in the "
        f"mean"
    )
    print("tokens made by the tokenizer:", per_second(tokens, lambda: tokenizer(texts)), flush=True)
    few = profile.model_copy(update={"pretraining_tokens": 500_000})
    print("tokens generated, tokenised and put into blocks:",
          per_second(500_000, lambda: list(blocks(few, tokenizer, seed=0))), flush=True)
    for name in RECIPES:
        with tempfile.TemporaryDirectory() as folder:
            begun = time.process_time()
            build(name, 1, profile, Path(folder))
            seconds, rows = time.process_time() - begun, len(pl.read_parquet(Path(folder) / "data.parquet"))
        print(f"{name}: {rows:,} rows in {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
