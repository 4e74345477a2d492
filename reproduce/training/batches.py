"""Training batches: sentences of near lengths together, drawn anew every epoch, padded to the longest of the batch."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def length_grouped_order(
    lengths: "torch.Tensor", batch_size: int, seed: int, epoch: int, pool: int = 100
) -> list[int]:
    """An order of the examples whose consecutive batches hold sentences of near lengths, drawn anew every epoch.

    All examples are shuffled, cut into pools of `pool` batches, each pool is sorted by length and cut into batches, and the
    batches are shuffled. Which sentences meet is random, when a length comes is random, and little is left to pad.

    Args:
        lengths: int64 tensor of shape (n,), tokens a sentence.

    Returns:
        The n indices; batch k is [k * batch_size : (k + 1) * batch_size]. An incomplete batch comes last.
    """
    import torch

    # One generator an epoch, not torch's global one: resuming in epoch 2 must draw what an undisturbed run drew.
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    shuffled = torch.randperm(len(lengths), generator=generator)
    batches: list[torch.Tensor] = []
    for some in shuffled.split(pool * batch_size):
        batches.extend(some[lengths[some].argsort(stable=True)].split(batch_size))
    last = [batches.pop()] if len(batches[-1]) < batch_size else []
    order = torch.randperm(len(batches), generator=generator).tolist()
    return torch.cat([batches[i] for i in order] + last).tolist()  # type: ignore[no-any-return]


class Batches:
    """The batch sampler of one process: its part of every batch, in `accumulation` pieces, for the epoch last set.

    The batches themselves are those of `length_grouped_order`, however many processes and pieces there are: both only say
    who computes which sentences of a batch.

    Args:
        lengths: int64 tensor of shape (n,), tokens a sentence.
        batch_size: sentences a step, over all processes and pieces.
        process: this process, from 0.

    Raises:
        ValueError: a batch, if only the incomplete last one, has fewer sentences than there are parts.
    """

    def __init__(
        self,
        lengths: "torch.Tensor",
        batch_size: int,
        seed: int,
        accumulation: int = 1,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.accumulation, self.process, self.processes = accumulation, process, processes
        self.epoch = 0
        smallest = min(batch_size, len(lengths) % batch_size or batch_size)
        if smallest < accumulation * processes:
            raise ValueError(
                f"{smallest} sentence(s) of a batch cannot be cut into {accumulation} x {processes} (accumulation x processes)"
            )

    def set_epoch(self, epoch: int) -> None:
        """The Trainer says which epoch (from 0) comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size) * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        order = length_grouped_order(self.lengths, self.batch_size, self.seed, self.epoch)
        parts = self.accumulation * self.processes
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            for piece in range(self.accumulation):
                yield batch[
                    piece * self.processes + self.process :: parts
                ]  # strided: near lengths stay together


def padding_share(lengths: "torch.Tensor", order: Sequence[int], batch_size: int) -> float:
    """The share of padding among all tokens that an epoch in this order computes (0 .. 1)."""
    import torch

    batches = lengths[torch.tensor(order)].split(batch_size)
    computed = sum(int(batch.max()) * len(batch) for batch in batches)
    return 1 - int(lengths.sum()) / computed


def collate(examples: Sequence[dict[str, Any]], pad_id: int) -> "dict[str, torch.Tensor]":
    """Pad a batch to its longest sentence.

    Args:
        examples: n dicts of `input_ids` (int tensor of shape (length,)), `labels` (an int, or a float) and, where a model
            tells the sentences of a pair apart by them, `token_type_ids` (like input_ids).

    Returns:
        input_ids, attention_mask and token_type_ids, int64 tensors of shape (n, longest), and labels, int64 or float32 of
        shape (n,).
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = [example["input_ids"].long() for example in examples]
    batch = {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_id),
        "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
        "labels": torch.tensor([example["labels"] for example in examples]),
    }
    if "token_type_ids" in examples[0]:
        batch["token_type_ids"] = pad_sequence(
            [example["token_type_ids"].long() for example in examples], batch_first=True
        )
    return batch
