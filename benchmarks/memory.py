"""Peak resident memory of training on a CPU in fp32, against the stock Trainer with every sentence padded to 128 tokens.

Ours is `stages.finetune.train` itself on all of SST-2 train, with the settings of params.yaml, left after the checkpoint of
step 30; its first batch is the longest sentences (66 tokens). The peer is left after 2 steps and a checkpoint: its batches
all have one shape, and AdamW's moments are there from the first step on. Every training is a process of its own (ru_maxrss),
on random weights: memory does not depend on their values. Targets: minilm < 3 GB, distilbert < 5 GB, both at batch size 32.

Run as: python -m benchmarks.memory
"""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from unittest.mock import patch

from benchmarks.common import report, spread, sst2_train, take_turns, tokenizer_directory
from reproduce import batches
from reproduce.batches import length_grouped_order
from reproduce.environment import peak_memory
from reproduce.stage import go_offline
from stages import finetune
from stages.tokenize import load_tokenizer, tokenize_split

if TYPE_CHECKING:
    import torch

LIMITS = {"minilm": 3.0, "distilbert": 5.0}  # GB (10^9 bytes)
STEPS, PEER_STEPS = 30, 2
ROUNDS = 2
PADDED = 128  # run_glue.py's default


class Enough(Exception):
    """The checkpoint that was waited for is written."""


def main() -> None:
    """Train each model both ways in turn; with arguments (who, model, folder), be one of these trainings."""
    if len(sys.argv) > 1:
        who, model, folder = sys.argv[1:]
        {"ours": train_ours, "peer": train_peer}[who](model, Path(folder))
        return
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with TemporaryDirectory() as scratch:
        data = sst2_train()
        go_offline()
        tasks: dict[str, Callable[[], float]] = {}
        for model in LIMITS:
            prepare(model, Path(scratch) / model, *data)
            tasks |= {f"{who} {model}": partial(peak, who, model, Path(scratch) / model) for who in ("ours", "peer")}
        gigabytes = take_turns(tasks, ROUNDS)
    results = {name: spread(values) for name, values in gigabytes.items()}
    ratio = {m: round(results[f"ours {m}"]["median"] / results[f"peer {m}"]["median"], 3) for m in LIMITS}
    line = "; ".join(
        f"{m} {results[f'ours {m}']['median']:.2f} GB, {ratio[m]} x the stock Trainer at {PADDED} tokens" for m in LIMITS
    )
    target = ", ".join(f"{model} < {limit} GB" for model, limit in LIMITS.items())
    met = all(results[f"ours {model}"]["max"] < limit for model, limit in LIMITS.items())
    report("memory", target, met, line, {"unit": "GB (10^9 bytes), peak resident memory", "steps": STEPS,
           "peer_steps": PEER_STEPS, "ratio": ratio, **results})  # fmt: skip


def prepare(model: str, folder: Path, sentences: list[str], labels: list[float], names: list[str]) -> None:
    """Write what a training reads: tokenizer and config, random weights, all of SST-2 train tokenised."""
    from transformers import AutoConfig, AutoModel

    tokenizer = tokenizer_directory(model, folder)
    (folder / "out").mkdir(parents=True)
    (folder / "tokenizer").symlink_to(tokenizer.resolve())
    AutoModel.from_config(AutoConfig.from_pretrained(str(tokenizer))).save_pretrained(str(folder / "weights"))
    dataset = tokenize_split(load_tokenizer(tokenizer), sentences, labels, names, PADDED)
    dataset.to_parquet(str(folder / "train.parquet"))


def peak(who: str, model: str, folder: Path) -> float:
    """Run one training in a process of its own; its peak in GB is the last line that it prints."""
    command = [sys.executable, "-m", "benchmarks.memory", who, model, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{who} {model}: exit code {done.returncode}\n{done.stderr}")
    return float(done.stdout.split()[-1])


def print_peak() -> None:
    """The greatest resident memory that this process had, in GB."""
    print(round(peak_memory() / 1e9, 3))


def train_ours(model: str, folder: Path) -> None:
    """`stages.finetune.train`, changed in two places: the longest sentences come first, and it is left at the checkpoint."""

    def longest_first(lengths: "torch.Tensor", batch_size: int, seed: int, epoch: int) -> list[int]:
        longest = lengths.argsort(descending=True)[:batch_size].tolist()
        rest = set(longest)
        return longest + [i for i in length_grouped_order(lengths, batch_size, seed, epoch) if i not in rest]

    def leave(checkpoint: Path) -> None:
        raise Enough(checkpoint)

    params = finetune.read_finetune(model).model_copy(update={"log_every": STEPS // 3})
    with (
        TemporaryDirectory(dir=folder) as checkpoints,
        patch.object(batches, "length_grouped_order", longest_first),
        patch.object(finetune, "mark_complete", leave),
        suppress(Enough),
    ):
        inputs = {
            "tokenize": folder / "train.parquet",
            "download_weights": folder / "weights/model.safetensors",
            "download_tokenizer": folder / "tokenizer/config.json",
        }
        machine = finetune.Machine(checkpoint_every=STEPS, loader_workers=0)
        finetune.train(params, machine, 1, "fp32", inputs, Path(checkpoints), folder / "out")
    print_peak()


def train_peer(model: str, folder: Path) -> None:
    """The Trainer as it comes: random batches, all padded to 128 tokens."""
    from datasets import load_dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    params = finetune.read_finetune(model)
    data = load_dataset("parquet", data_files=str(folder / "train.parquet"), split="train", cache_dir=str(folder / "cache"))
    tokenizer = AutoTokenizer.from_pretrained(str(folder / "tokenizer"))
    with TemporaryDirectory(dir=folder) as checkpoints:
        Trainer(
            model=AutoModelForSequenceClassification.from_pretrained(str(folder / "weights"), num_labels=2),
            args=TrainingArguments(output_dir=checkpoints, per_device_train_batch_size=params.batch_size, max_steps=PEER_STEPS,
                                   save_steps=PEER_STEPS, use_cpu=True, report_to=[]),
            train_dataset=data,
            data_collator=DataCollatorWithPadding(tokenizer, padding="max_length", max_length=PADDED),
        ).train()  # fmt: skip
        print_peak()


if __name__ == "__main__":
    main()
