"""What was tried to make a training step cheaper on a CPU: each option against the bare loop of benchmarks/training.py, in pairs.

kept by stages/finetune.py
    whole embedding     the loop with all rows of the token embedding, to show what leaving out the unused ones saves
    sdpa                with PyTorch's attention function, to show what plain attention saves
not kept
    compile             torch.compile(dynamic=True), once it has compiled
    one clip            the gradient is scaled by the fused AdamW as it reads it, not in a pass of its own
    malloc              glibc keeps freed memory (MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_): no new page faults
    huge pages          PyTorch asks for huge pages (THP_MEM_ALLOC_ENABLE)

And why `auto` takes bf16 only where the processor computes in it: the products of a feed-forward layer, forward and backward, in
bf16 against fp32.

The value of an option is its sentences/s over the loop's, both measured in turns on the same batches (median and range of the
turns' ratios).

Run as: python -m benchmarks.training_options
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import training
from benchmarks.common import report, spread, sst2_train, take_turns
from benchmarks.memory import prepare
from reproduce.devices import choose_precision
from reproduce.stage import go_offline

LOOP = "loop"
OPTIONS: dict[str, Callable[[Path, str], None]] = {
    "whole embedding": partial(training.train_bare, cut=False),
    "sdpa": partial(training.train_bare, attention="sdpa"),
    "compile": partial(training.train_bare, compiled=True),
    "one clip": partial(training.train_bare, one_clip=True),
    "malloc": training.train_bare,
    "huge pages": training.train_bare,
}
ENVIRONMENT = {
    "malloc": {"MALLOC_TRIM_THRESHOLD_": "8589934592", "MALLOC_MMAP_THRESHOLD_": "8589934592"},
    "huge pages": {"THP_MEM_ALLOC_ENABLE": "1"},
}
NOISE = 1.03
TURNS = 3
LAYER = (420, 768, 3072)  # tokens in a batch, inputs, outputs: DistilBERT's first feed-forward layer


def main() -> None:
    """Measure each pair; with arguments (who, folder), be one of a pair."""
    if len(sys.argv) > 1:
        go_offline()
        name, folder = sys.argv[1], Path(sys.argv[2])
        OPTIONS.get(name, training.train_bare)(folder, name)
        return
    ratios, started = {}, {}
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = sst2_train()
        go_offline()
        prepare(training.MODEL, folder, *data)
        (folder / "sample.json").write_text(json.dumps(training.sample(folder)))
        for name in OPTIONS:
            print(name, flush=True)
            start = time.monotonic()
            with training.contenders([LOOP, name], folder, "benchmarks.training_options", ENVIRONMENT.get(name)) as turn:
                started[name] = round(time.monotonic() - start, 1)  # both have loaded and warmed up
                turns = take_turns({who: partial(turn, who) for who in (LOOP, name)}, TURNS)
            pairs = zip(turns[LOOP], turns[name], strict=True)  # the same sentences in the same turn
            ratios[name] = spread([round(loop["seconds"] / option["seconds"], 4) for loop, option in pairs])
    products = take_turns({name: partial(product_seconds, name) for name in ("float32", "bfloat16")}, TURNS)
    bf16 = spread([round(a / b, 4) for a, b in zip(products["float32"], products["bfloat16"], strict=True)])
    medians = {name: ratio["median"] for name, ratio in ratios.items()}
    line = "sentences/s over the loop's: " + ", ".join(f"{name} {value:.2f}" for name, value in medians.items())
    line += f"; a layer's products in bf16 {bf16['median']:.2f} x as fast as in fp32"
    met = max(medians.values()) <= NOISE
    target = f"nothing that the pipeline does without is faster (<= {NOISE})"
    report("training_options", target, met, line, {
        "model": training.MODEL, "precision": choose_precision("auto")[1], "unit": "ratio of sentences/s, one a turn",
        "options": ratios, "bf16_products": {**bf16, "layer": LAYER},
        "compile_seconds": round(started["compile"] - started["sdpa"], 1),
    })  # fmt: skip


def product_seconds(dtype: str) -> float:
    """Seconds of a linear layer of the shape LAYER, forward and backward, three times."""
    import torch

    tokens, inputs, outputs = LAYER
    kind = getattr(torch, dtype)
    x, weight = (torch.randn(n, inputs, dtype=kind, requires_grad=True) for n in (tokens, outputs))
    gradient = torch.ones(tokens, outputs, dtype=kind)
    start = time.perf_counter()
    for _ in range(3):
        torch.nn.functional.linear(x, weight).backward(gradient)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
