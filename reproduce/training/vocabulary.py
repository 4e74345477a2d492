"""The token embedding cut down to the rows that the training sentences use, exactly, and made whole again afterwards.

SST-2's train sentences use 11,573 of BERT's 30,522 word pieces. The gradient of every other row is 0 at every step, so AdamW
without weight decay leaves it as it is (both moments stay 0, and the update is 0 / (0 + eps)). To train without those rows
changes no weight and spares a fifth of DistilBERT's parameters their gradient, clipping, update and checkpoint.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def used_rows(sentences: "Iterable[torch.Tensor]", pad_id: int) -> "torch.Tensor":
    """The token ids that occur, and `pad_id`: int64 tensor of shape (used,), ascending."""
    import torch

    rows: torch.Tensor = torch.cat([*sentences, torch.tensor([pad_id])]).long().unique()  # type: ignore[no-untyped-call]
    return rows


def cut_embedding(model: "PreTrainedModel", rows: "torch.Tensor") -> "torch.nn.Embedding":
    """Give `model` a token embedding of `rows` alone, in their order; return the whole one, for `restore_embedding`.

    A sentence is then made of positions in `rows`: torch.searchsorted(rows, input_ids).
    """
    import torch

    whole: torch.nn.Embedding = model.get_input_embeddings()  # type: ignore[assignment]
    padding = (
        None if whole.padding_idx is None else int(torch.searchsorted(rows, whole.padding_idx))
    )
    part = torch.nn.Embedding.from_pretrained(
        whole.weight.detach()[rows].clone(), freeze=False, padding_idx=padding
    )
    model.set_input_embeddings(part)
    return whole


def restore_embedding(
    model: "PreTrainedModel", whole: "torch.nn.Embedding", rows: "torch.Tensor"
) -> None:
    """Put the trained rows into the whole embedding, and that back into `model`."""
    import torch

    part: torch.nn.Embedding = model.get_input_embeddings()  # type: ignore[assignment]
    with torch.no_grad():
        whole.weight[rows] = part.weight.detach().to(whole.weight.device)
    model.set_input_embeddings(whole)
