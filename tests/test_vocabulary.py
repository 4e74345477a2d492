"""The token embedding without the rows that no training sentence uses: the same training, to the bit where sums allow."""

import copy

import pytest
import torch
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from reproduce.training.vocabulary import cut_embedding, restore_embedding, used_rows

SENTENCES = [
    torch.tensor([2, 7, 7, 31, 3], dtype=torch.int32),
    torch.tensor([2, 19, 3], dtype=torch.int32),
]


def tiny() -> DistilBertForSequenceClassification:
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=40,
        dim=8,
        hidden_dim=16,
        n_layers=2,
        n_heads=2,
        dropout=0.0,
        attention_dropout=0.0,
    )
    return DistilBertForSequenceClassification(
        config
    )  # from_pretrained would call eval(); this is in training mode


def train(
    model: DistilBertForSequenceClassification, ids: torch.Tensor, mask: torch.Tensor
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(5):
        model(input_ids=ids, attention_mask=mask, labels=torch.tensor([0, 1])).loss.backward()
        torch.nn.utils.clip_grad_norm_(
            model.parameters(), 0.05
        )  # always clips: the norm must be that of the whole
        optimizer.step()
        optimizer.zero_grad()


def test_used_rows_are_the_ids_that_occur_and_the_padding() -> None:
    rows = used_rows(SENTENCES, pad_id=0)
    assert rows.tolist() == [0, 2, 3, 7, 19, 31] and rows.dtype == torch.int64


def test_training_on_the_used_rows_is_training_on_all() -> None:
    ids = torch.nn.utils.rnn.pad_sequence([s.long() for s in SENTENCES], batch_first=True)
    mask = (ids != 0).long()
    whole = tiny()
    before = copy.deepcopy(whole.state_dict())
    train(whole, ids, mask)

    part = tiny()
    rows = used_rows(SENTENCES, pad_id=0)
    kept = cut_embedding(part, rows)
    assert part.get_input_embeddings().weight.shape == (6, 8)
    assert part.get_input_embeddings().padding_idx == 0 == kept.padding_idx
    train(part, torch.searchsorted(rows, ids), mask)
    restore_embedding(part, kept, rows)

    name = "distilbert.embeddings.word_embeddings.weight"
    assert part.state_dict().keys() == before.keys()
    for key, value in whole.state_dict().items():
        assert torch.allclose(part.state_dict()[key], value, rtol=1e-5, atol=1e-7), key
    others = [i for i in range(40) if i not in rows.tolist()]
    assert torch.equal(part.state_dict()[name][others], before[name][others])
    assert torch.equal(whole.state_dict()[name][others], before[name][others]), (
        "what the whole training does to them: nothing"
    )
    assert not torch.allclose(part.state_dict()[name][rows[1:]], before[name][rows[1:]])


def test_a_padding_row_elsewhere_keeps_its_place() -> None:
    config = DistilBertConfig(
        vocab_size=40, dim=8, hidden_dim=16, n_layers=1, n_heads=2, pad_token_id=25
    )
    model = DistilBertForSequenceClassification(config)
    rows = used_rows(SENTENCES, pad_id=25)
    kept = cut_embedding(model, rows)
    assert model.get_input_embeddings().padding_idx == rows.tolist().index(25) == 4
    with pytest.raises(IndexError):
        model(torch.tensor([[31]]))  # an id of the whole vocabulary is none of the part's
    restore_embedding(model, kept, rows)
    assert model.get_input_embeddings() is kept
