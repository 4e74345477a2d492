"""The ways of training that benchmarks/training.py measures, each run as a process of its own.

A process works in a folder laid out like the project's. It halts between its turns: it says in a
line of JSON what the turn was, and waits for one on stdin. Its first answer comes when it is warm.
The stock Trainer's does not import stages/, which would set up its memory as it does ours.
"""

import json
import math
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.command import go_offline
from reproduce.machine import peak_memory
from reproduce.params import Finetune
from reproduce.training.devices import deterministic

if TYPE_CHECKING:
    import torch

    from reproduce.training.loop import Training

    Batch = tuple[torch.Tensor, int, int]  # rows on the device, padded length, real tokens

BATCH, PADDED = 32, 128
FACTS = Path("facts.json")  # what prepare of stages/finetune.py is given, "steps" and "turns"
# What an operation belongs to, by its name on a CPU or its kernel's on a GPU.
PARTS = {
    "matrix products": r"mm|gemm|cutlass|nvjet|linear",
    "AdamW, clipping": r"adam|foreach|multi_tensor|lpnorm|clip",
    "layer norm": r"layer_?norm|gammabeta",
    "softmax": r"softmax",
    "dropout": r"dropout|bernoulli",
    "GELU": r"gelu",
    "casts, copies": r"copy|memcpy|memset|::to",
}


def paths(model: str) -> dict[str, Path]:
    """The files that a training of `model` reads."""
    return {
        "tokens": Path("data/tokenized") / model / "train.parquet",
        "download_weights": Path("models/weights") / model / "model.safetensors",
        "download_tokenizer": Path("models/tokenizers") / model / "config.json",
    }


class Turns:
    """Halts its process between turns; `batch` is called before each step.

    Args:
        warm_up: steps before the first answer.
        more: for the first answer.
    """

    def __init__(self, name: str, warm_up: int = 0, **more: Any) -> None:
        self.steps: int = json.loads(FACTS.read_text())["steps"][name]
        self.seen, self.start, self.more = -warm_up - 1, time.perf_counter(), more
        self.sentences = self.tokens = 0
        sys.stdin.readline()

    def batch(self, sentences: int, tokens: int) -> None:
        """One more batch is about to be computed."""
        self.seen += 1
        if self.seen == 1:  # not counted: the first step of a turn, which wakes the process up
            settle()
            self.start, self.sentences, self.tokens = time.perf_counter(), 0, 0
        elif self.seen in (0, 1 + self.steps):  # warm, or the turn is over
            gb, seconds = settle(), round(time.perf_counter() - self.start, 4)
            done = {"sentences": self.sentences, "tokens": self.tokens, "seconds": seconds}
            print(json.dumps({**done, "gb": gb, **self.more}), flush=True)
            if not sys.stdin.readline():
                os._exit(0)
            self.seen, self.more = 0, {}
        self.sentences += sentences
        self.tokens += tokens


def settle() -> float:
    """Wait for the GPU; the greatest memory so far, reserved on it or of the process, in GB."""
    import torch

    if not torch.cuda.is_available():
        return round(peak_memory() / 1e9, 3)
    torch.cuda.synchronize()
    return round(torch.cuda.max_memory_reserved() / 1e9, 3)


def our_training() -> tuple["Training", list["Batch"], list["Batch"]]:
    """What the stage finetune trains; batches to warm up with; those of the turns.

    The latter stand for an epoch: every k-th by length, in random order. The longest warms up, for
    the peak of memory; on a GPU each length does, twice, so that each is recorded.
    """
    import torch

    from stages.finetune import prepare

    facts = json.loads(FACTS.read_text())
    training = prepare(Finetune(**facts["recipe"]), facts, paths(facts["run"]["model"]))
    batches = training.batches
    epoch = [
        (rows, length, int(batches.lengths[rows.cpu()].sum()))
        for rows, length in sorted(batches.epoch(0), key=lambda batch: batch[1])
        if len(rows) == BATCH
    ]
    count = (facts["steps"]["ours"] + 1) * facts["turns"] + 1
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    counted = [epoch[int((k + 0.5) * len(epoch) / count)] for k in order]
    each_length = list({batch[1]: batch for batch in epoch}.values())[::-1]
    cuda = facts["device"] == "cuda"
    return training, each_length * 2 if cuda else [epoch[-1], *counted[:2]], counted


def train_ours() -> None:
    """reproduce/training/loop.py itself; its batches halt between turns."""
    import torch

    from reproduce.training.loop import train

    training, warm_up, counted = our_training()
    encoder = training.model.base_model.named_parameters()
    parameters = sum(weight.numel() for name, weight in encoder if "embedding" not in name)
    turns = Turns("ours", len(warm_up), parameters=parameters)

    def epoch(number: int, skip: int = 0) -> Iterator[tuple["torch.Tensor", int]]:
        for rows, length, tokens in [*warm_up, *counted]:
            turns.batch(BATCH, tokens)
            yield rows, length

    training.batches.epoch = epoch  # type: ignore[method-assign]
    train(training, Path("checkpoints"), math.inf, record=torch.cuda.is_available())


def train_bare() -> None:
    """Our batches, model, autocast, clipping, AdamW and determinism, and no loop around."""
    import torch

    from reproduce.training.loop import AUTOCAST

    training, warm_up, counted = our_training()
    model, device, kind = training.model, training.device.type, AUTOCAST[training.precision]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0, fused=True)
    scaler = torch.amp.GradScaler(device, enabled=kind == torch.float16)

    def step(rows: "torch.Tensor", length: int) -> None:
        inputs, labels = training.batches.gather(rows, length)
        with torch.autocast(device, dtype=kind, enabled=kind is not None):
            logits = model(**inputs).logits
        scaler.scale(torch.nn.functional.cross_entropy(logits.float(), labels)).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    for rows, length, _ in warm_up:
        step(rows, length)
    turns = Turns("bare", seconds_a_token=computing(step, counted[:20]))
    for rows, length, tokens in counted:
        turns.batch(BATCH, tokens)
        step(rows, length)


def computing(step: Callable[..., None], some: Sequence["Batch"]) -> dict[str, float]:
    """Seconds a real token in which the device computes, by part, the largest first."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    cuda = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
        for rows, length, _ in some:
            step(rows, length)
        settle()
    spent: Counter[str] = Counter()
    for event in profiler.key_averages():
        parts = (part for part, pattern in PARTS.items() if re.search(pattern, event.key, re.I))
        time_of = event.self_device_time_total if cuda else event.self_cpu_time_total
        spent[next(parts, "other")] += int(time_of)  # microseconds
    tokens = sum(tokens for _, _, tokens in some)
    return {part: value / 1e6 / tokens for part, value in spent.most_common()}


def replay_only() -> None:
    """Our recorded steps replayed, with the rows that they were recorded with, and no logging."""
    from reproduce.training.record import Recorder, side_stream

    training, warm_up, counted = our_training()
    with side_stream(training.device):
        run = Recorder(training.step)
        for rows, length, _ in warm_up:
            run(rows, length)
        turns = Turns("replay")
        for _, length, tokens in counted:
            turns.batch(BATCH, tokens)
            run.recorded[BATCH, length][0].replay()


def train_stock(name: str) -> None:
    """transformers' Trainer as run_glue.py sets it up, without evaluation and checkpoints."""
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    files = paths(json.loads(FACTS.read_text())["run"]["model"])
    padding: Any = "max_length" if name == "fixed" else True
    tokenizer = AutoTokenizer.from_pretrained(str(files["download_tokenizer"].parent))
    pad = DataCollatorWithPadding(tokenizer, padding=padding, max_length=PADDED)
    turns = Turns(name, warm_up=3)

    def halting(examples: list[dict[str, Any]]) -> Any:
        turns.batch(len(examples), sum(len(example["input_ids"]) for example in examples))
        return pad(examples)

    arguments = TrainingArguments(
        output_dir=name, per_device_train_batch_size=BATCH, num_train_epochs=3,
        learning_rate=2e-5, save_strategy="no", report_to=[],
    )  # fmt: skip
    weights = str(files["download_weights"].parent)
    model = AutoModelForSequenceClassification.from_pretrained(weights)
    data = Dataset.from_parquet(str(files["tokens"]))
    Trainer(model=model, args=arguments, train_dataset=data, data_collator=halting).train()


def main() -> None:
    """Be one of the ways, in a folder that `prepare` of training.py made."""
    name, folder = sys.argv[1:]
    go_offline()
    os.chdir(folder)
    if name in ("fixed", "dynamic"):
        train_stock(name)
        return
    ours = {"bare": train_bare, "ours": train_ours, "replay": replay_only}
    with deterministic():
        ours[name]()


if __name__ == "__main__":
    main()
