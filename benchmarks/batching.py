"""Do batches of near lengths cost accuracy? MiniLM on all of SST-2 train, one epoch, two seeds, against random batches.

Nothing is timed. Both are `stages.finetune.train`, with the same sentences, number of steps, learning rates and first
weights; only which sentences meet in a batch differs. (Random batches are computed in four pieces of near lengths, to pad less:
the same sum over the batch, other dropout masks.) The interval is Student's, over the validation sentences: of each,
how often it is right with near lengths minus how often with random batches, mean over the seeds. It says nothing of seeds
that were not run.

Run as: python -m benchmarks.batching      (after `dvc repro tokenize@minilm download_weights@minilm`; a killed one goes on)
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

from benchmarks.common import report
from reproduce import batches
from reproduce.devices import choose_precision
from reproduce.stage import go_offline, write_json
from reproduce.statistics import seed_interval
from stages import finetune
from stages.evaluate import predict_split

if TYPE_CHECKING:
    import torch

MODEL = "minilm"
SEEDS = (1, 2)
EPOCHS, WARMUP = 1, 200  # a third of params.yaml's of both
PIECES = 4  # that a random batch is computed in
CONFIDENCE = 0.95
SCRATCH = Path("checkpoints/batching")


def main() -> None:
    """Train what has not been trained, then compare; with arguments (order, seed), be one of the trainings."""
    if len(sys.argv) > 1:
        train(sys.argv[1], int(sys.argv[2]))
        return
    for seed in SEEDS:
        for order in ("near", "random"):
            if not result(order, seed).is_file():
                print(f"training {MODEL}, {order} lengths, seed {seed}", flush=True)
                subprocess.run([sys.executable, "-m", "benchmarks.batching", order, str(seed)], check=True)
    runs = {order: [json.loads(result(order, seed).read_text()) for seed in SEEDS] for order in ("near", "random")}
    right = {order: [run.pop("right") for run in runs[order]] for order in runs}
    n = len(right["near"][0])
    share = {order: [sum(of_one) / len(SEEDS) for of_one in zip(*right[order], strict=True)] for order in right}
    by_sentence = [near - random for near, random in zip(share["near"], share["random"], strict=True)]
    interval = seed_interval(by_sentence, CONFIDENCE)
    assert interval
    difference, low, high = (round(100 * value, 2) for value in (sum(by_sentence) / n, *interval))
    accuracy = {order: [round(100 * sum(one) / n, 2) for one in right[order]] for order in right}
    line = (f"accuracy {accuracy['near']} with near lengths, {accuracy['random']} with random batches (seeds {list(SEEDS)}): "
            f"difference {difference:+.2f} points, {CONFIDENCE:.0%} interval {low:+.2f} .. {high:+.2f}")  # fmt: skip
    report("batching", "near lengths do not suffer: the interval is not below 0", high >= 0, line, {
        "model": MODEL, "seeds": SEEDS, "epochs": EPOCHS, "sentences": n, "accuracy": accuracy, "runs": runs,
        "difference_points": {"mean": difference, "low": low, "high": high, "confidence": CONFIDENCE},
    })  # fmt: skip


def result(order: str, seed: int) -> Path:
    """Where one training leaves which validation sentences it is right on."""
    return SCRATCH / f"{order}-{seed}.json"


def random_order(lengths: "torch.Tensor", batch_size: int, seed: int, epoch: int, pool: int = 0) -> list[int]:
    """Random batches, drawn as `length_grouped_order` draws its first order.

    Inside a batch the order is such that each piece, for which `batches.Batches` takes every PIECES-th, holds near lengths.
    """
    import torch

    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order: list[int] = []
    for batch in torch.randperm(len(lengths), generator=generator).split(batch_size):
        by_length = batch[lengths[batch].argsort(stable=True)]
        sizes = [len(range(piece, len(batch), PIECES)) for piece in range(PIECES)]
        for piece, some in enumerate(by_length.split(sizes)):
            batch[piece::PIECES] = some
        order += batch.tolist()
    return order


def train(order: str, seed: int) -> None:
    """Fine-tune and predict."""
    go_offline()
    inputs = {
        "tokenize": Path("data/tokenized") / MODEL / "train.parquet",
        "download_weights": Path("models/weights") / MODEL / "model.safetensors",
        "download_tokenizer": Path("models/tokenizers") / MODEL / "config.json",
    }
    pieces = 1 if order == "near" else PIECES
    params = finetune.read_finetune(MODEL).model_copy(update={"epochs": EPOCHS, "warmup_steps": WARMUP, "accumulation": pieces})
    machine = finetune.Machine(checkpoint_every=500, loader_workers=0)
    _, precision, _ = choose_precision(params.precision)
    folder = SCRATCH / f"{order}-{seed}"
    (folder / "out").mkdir(parents=True, exist_ok=True)
    orders = {"near": batches.length_grouped_order, "random": random_order}
    with (
        patch.object(batches, "length_grouped_order", orders[order]),
        patch.object(finetune, "length_grouped_order", orders[order]),
    ):
        outcome = finetune.train(params, machine, seed, precision, inputs, folder, folder / "out")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "out/model" / file).write_bytes((inputs["download_tokenizer"].parent / file).read_bytes())
    logits, labels, _ = predict_split(folder / "out/model", MODEL, "validation", 64)
    right = [guess == label for guess, label in zip(logits.argmax(dim=1).tolist(), labels, strict=True)]
    facts = {name: outcome[name] for name in ("steps", "padding", "last_loss")}  # padding: were the batches computed whole
    write_json(result(order, seed), {"right": right, "precision": precision, **facts})


if __name__ == "__main__":
    main()
