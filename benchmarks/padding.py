"""The share of padding among the tokens that training computes, on the real lengths of SST-2 train. Nothing is timed.

Ours is `reproduce.batches.length_grouped_order`. Peers: random batches padded to their longest sentence (the Trainer's
default with DataCollatorWithPadding), and every sentence padded to 128 tokens (run_glue.py's default). Target: ours <= 5 %.

Run as: python -m benchmarks.padding
"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.common import report, spread, sst2_train, tokenizer_directory
from reproduce.batches import length_grouped_order, padding_share
from reproduce.stage import go_offline
from stages.finetune import read_finetune
from stages.tokenize import load_tokenizer, tokenize_split

MODEL = "distilbert"
SEEDS = (1, 2, 3)
LONGEST = 128  # what run_glue.py pads to
LIMIT = 0.05


def main() -> None:
    """Count tokens for every seed and epoch."""
    params = read_finetune(MODEL)
    go_offline()
    lengths = sst2_lengths()
    epochs = [(seed, epoch) for seed in SEEDS for epoch in range(params.epochs)]
    share = partial(padding_share, lengths, batch_size=params.batch_size)
    ours = [share(length_grouped_order(lengths, params.batch_size, seed, epoch)) for seed, epoch in epochs]
    random = [share(torch.randperm(len(lengths), generator=torch.Generator().manual_seed(s * 1_000_003 + e)).tolist())
              for s, e in epochs]  # fmt: skip
    fixed = 1 - int(lengths.sum()) / (len(lengths) * LONGEST)
    mean = {"ours": sum(ours) / len(ours), "random": sum(random) / len(random), "fixed": fixed}
    # The real tokens are the same, so computed tokens go as 1 / (1 - share of padding).
    ratio = {peer: round((1 - mean["ours"]) / (1 - mean[peer]), 3) for peer in ("random", "fixed")}
    line = (f"{max(ours):.1%} of the computed tokens at most ({min(ours):.1%} at least), random batches {mean['random']:.1%}, "
            f"padded to {LONGEST} {fixed:.1%}; they compute {ratio['random']} x and {ratio['fixed']} x our tokens")  # fmt: skip
    report("padding", f"ours <= {LIMIT:.0%} in every epoch", max(ours) <= LIMIT, line, {
        "unit": "share of padding, one value for each seed and epoch",
        "seeds": SEEDS, "epochs": params.epochs, "batch_size": params.batch_size, "sentences": len(lengths),
        "ratio": ratio,
        "ours": spread([round(value, 5) for value in ours]),
        "peer_random_batches": spread([round(value, 5) for value in random]),
        "peer_padded_to_128": round(fixed, 5),
    })  # fmt: skip


def sst2_lengths() -> torch.Tensor:
    """Tokens of every train sentence, int64 of shape (n,)."""
    with TemporaryDirectory() as scratch:
        tokenizer = load_tokenizer(tokenizer_directory(MODEL, Path(scratch)))
        dataset = tokenize_split(tokenizer, *sst2_train(), LONGEST)
    return torch.tensor([len(ids) for ids in dataset.data.column("input_ids").to_pylist()])


if __name__ == "__main__":
    main()
