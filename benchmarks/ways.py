"""The ways of training that benchmarks/training.py measures: each is a process of its own.

It works in a folder laid out like the project's, warms up, takes the steps of one turn, says in a
line of JSON what they took, and ends.
"""

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.machine import peak_memory
from reproduce.params import Finetune
from reproduce.training.devices import deterministic
from stages.finetune import prepare

if TYPE_CHECKING:
    import torch

    from reproduce.training.loop import Training

    Batch = tuple[torch.Tensor, int]  # rows on the device, padded length

BATCH, PADDED = 32, 128
FACTS = Path("facts.json")  # what prepare of stages/finetune.py is given, and the "steps" of a way


def paths(model: str) -> dict[str, Path]:
    """The files that a training of `model` reads."""
    return {
        "tokens": Path("data/tokenized") / model / "train.parquet",
        "download_weights": Path("models/weights") / model / "model.safetensors",
        "download_tokenizer": Path("models/tokenizers") / model / "config.json",
    }


class Turn:
    """Measures the steps after `warm_up` of them; `batch` is called before each."""

    def __init__(self, name: str, warm_up: int) -> None:
        self.steps: int = json.loads(FACTS.read_text())["steps"][name]
        self.seen, self.start, self.sentences = -warm_up, time.perf_counter(), 0

    def batch(self, sentences: int) -> None:
        """One more batch is about to be computed. After the last step the process ends here."""
        if self.seen == 0:
            settle()
            self.start, self.sentences = time.perf_counter(), 0
        elif self.seen == self.steps:
            gb, seconds = settle(), time.perf_counter() - self.start
            done = {"sentences": self.sentences, "seconds": round(seconds, 4), "gb": gb}
            print(json.dumps(done), flush=True)
            os._exit(0)
        self.seen += 1
        self.sentences += sentences


def settle() -> float:
    """Wait for the GPU; the greatest memory so far, reserved on it or of the process, in GB."""
    import torch

    if not torch.cuda.is_available():
        return round(peak_memory() / 1e9, 3)
    torch.cuda.synchronize()
    return round(torch.cuda.max_memory_reserved() / 1e9, 3)


def our_training() -> tuple["Training", list["Batch"], list["Batch"]]:
    """What the stage finetune trains; batches to warm up with; those of the turn.

    The latter stand for an epoch: every k-th by length, in random order. The longest warms up, for
    the peak of memory; on a GPU each length does, twice, so that each is recorded.
    """
    import torch

    facts = json.loads(FACTS.read_text())
    training = prepare(Finetune(**facts["recipe"]), facts, paths(facts["run"]["model"]))
    full = [batch for batch in training.batches.epoch(0) if len(batch[0]) == BATCH]
    epoch = sorted(full, key=lambda batch: batch[1])
    count = facts["steps"]["ours"] + 1
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    counted = [epoch[int((k + 0.5) * len(epoch) / count)] for k in order]
    each_length = list({batch[1]: batch for batch in epoch}.values())[::-1]
    cuda = facts["device"] == "cuda"
    return training, each_length * 2 if cuda else [epoch[-1], *counted[:2]], counted


def train_ours() -> None:
    """reproduce/training/loop.py itself."""
    import torch

    from reproduce.training.loop import train

    training, warm_up, counted = our_training()
    turn = Turn("ours", len(warm_up))

    def epoch(number: int, skip: int = 0) -> Iterator["Batch"]:
        for batch in [*warm_up, *counted]:
            turn.batch(BATCH)
            yield batch

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

    turn = Turn("bare", len(warm_up))
    for rows, length in [*warm_up, *counted]:
        turn.batch(BATCH)
        step(rows, length)


def replay_only() -> None:
    """Our recorded steps replayed, with the rows that they were recorded with, and no logging."""
    from reproduce.training.record import Recorder, side_stream

    training, warm_up, counted = our_training()
    with side_stream(training.device):
        run = Recorder(training.step)
        for rows, length in warm_up:
            run(rows, length)
        turn = Turn("replay", warm_up=0)
        for _, length in counted:
            turn.batch(BATCH)
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
    turn = Turn(name, warm_up=3)

    def measured(examples: list[dict[str, Any]]) -> Any:
        turn.batch(len(examples))
        return pad(examples)

    arguments = TrainingArguments(
        output_dir=name, per_device_train_batch_size=BATCH, num_train_epochs=3,
        learning_rate=2e-5, save_strategy="no", report_to=[], disable_tqdm=True,
    )  # fmt: skip
    weights = str(files["download_weights"].parent)
    model = AutoModelForSequenceClassification.from_pretrained(weights)
    data = Dataset.from_parquet(str(files["tokens"]))
    Trainer(model=model, args=arguments, train_dataset=data, data_collator=measured).train()


def be(name: str, folder: Path) -> None:
    """Be one of the ways, in `folder`."""
    os.chdir(folder)
    if name in ("fixed", "dynamic"):
        train_stock(name)
        return
    ours = {"bare": train_bare, "ours": train_ours, "replay": replay_only}
    with deterministic():
        ours[name]()
