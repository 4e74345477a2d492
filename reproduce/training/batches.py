"""The training sentences on the device, and which of them make each step's batch.

Sentences of near lengths come together, in an order drawn anew every epoch; a batch is padded to
its longest sentence.
"""

from collections.abc import Iterator
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from reproduce.inputs.tokenized import Tokenized

# On a GPU lengths are rounded up to this, so that few different shapes are to be recorded. Of 1, 2,
# 4, 8 and 16 it gave the shortest training of DistilBERT (docs/speed.md).
GPU_MULTIPLE = 8


def length_grouped_order(
    lengths: Tensor, batch_size: int, seed: int, epoch: int, pool: int = 100
) -> Tensor:
    """An order of the sentences in which each batch holds near lengths.

    All are shuffled, cut into pools of `pool` batches, each pool is sorted by length and cut into
    batches, and the batches are shuffled. Which sentences meet is random, when a length comes is
    random, and little is left to pad.

    Args:
        lengths: int64, shape (n,), tokens a sentence.

    Returns:
        int64, shape (n,): batch k is [k * batch_size : (k + 1) * batch_size]. An incomplete batch
        comes last.
    """
    # One generator an epoch, not the global one: who resumes in epoch 2 draws the same.
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    shuffled = torch.randperm(len(lengths), generator=generator)
    batches: list[Tensor] = []
    for some in shuffled.split(pool * batch_size):
        batches.extend(some[lengths[some].argsort(stable=True)].split(batch_size))
    last = [batches.pop()] if len(batches[-1]) < batch_size else []
    order = torch.randperm(len(batches), generator=generator).tolist()
    return torch.cat([batches[i] for i in order] + last)


class Batches:
    """A tokenised split on the device, padded once to its longest sentence.

    Args:
        multiple: lengths of batches are rounded up to it (but not beyond the longest sentence).
    """

    def __init__(
        self,
        split: Tokenized,
        batch_size: int,
        seed: int,
        pad_id: int,
        device: torch.device,
        multiple: int = 1,
    ) -> None:
        self.batch_size, self.seed, self.device, self.multiple = batch_size, seed, device, multiple
        self.lengths = torch.tensor([len(ids) for ids in split.input_ids])  # stays on the host
        self.ids = self._padded(split.input_ids, pad_id)
        self.types = self._padded(split.token_type_ids, 0) if split.token_type_ids else None
        self.device_lengths = self.lengths.to(device)
        kind = torch.int64 if split.label_names else torch.float32
        self.labels = torch.tensor(split.labels, dtype=kind, device=device)

    def _padded(self, sentences: list[list[int]], pad_id: int) -> Tensor:
        """All sentences in one int32 tensor on the device, shape (n, longest)."""
        table = np.full((len(sentences), int(self.lengths.max())), pad_id, dtype=np.int32)
        inside = np.arange(table.shape[1]) < self.lengths.numpy()[:, None]
        table[inside] = np.fromiter(chain.from_iterable(sentences), np.int32)
        return torch.from_numpy(table).to(self.device)

    def __len__(self) -> int:
        """Steps an epoch."""
        return -(-len(self.lengths) // self.batch_size)

    def epoch(self, number: int, skip: int = 0) -> Iterator[tuple[Tensor, int]]:
        """Rows and length of each step of epoch `number` (from 0), after the first `skip` steps.

        Rows are int64 on the device, shape (batch,); the length is in tokens.
        """
        order = length_grouped_order(self.lengths, self.batch_size, self.seed, number)
        longest = [int(batch.max()) for batch in self.lengths[order].split(self.batch_size)]
        rows = order.to(self.device).split(self.batch_size)
        for k in range(skip, len(self)):
            yield rows[k], self._rounded(longest[k])

    def gather(self, rows: Tensor, length: int) -> tuple[dict[str, Tensor], Tensor]:
        """The model's inputs, int64 of shape (rows, length), and the labels, shape (rows,)."""
        inside = torch.arange(length, device=self.device) < self.device_lengths[rows].unsqueeze(1)
        inputs = {"input_ids": self.ids[rows, :length].long(), "attention_mask": inside.long()}
        if self.types is not None:
            inputs["token_type_ids"] = self.types[rows, :length].long()
        return inputs, self.labels[rows]

    def padding_share(self) -> float:
        """The share of padding among the tokens that the first epoch computes (0 .. 1)."""
        computed = sum(len(rows) * length for rows, length in self.epoch(0))
        return 1 - int(self.lengths.sum()) / computed

    def _rounded(self, length: int) -> int:
        return min(-(-length // self.multiple) * self.multiple, self.ids.shape[1])
