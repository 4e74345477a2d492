"""Padded prediction: the same answers whatever the batch; one message for each fault."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from reproduce.files import UserError
from reproduce.models import logits
from reproduce.models.logits import predict

SENTENCES = [[2, 9, 3], [2, 7, 8, 9, 10, 3], [2, 5, 3], [2, 11, 12, 3], [2, 6, 7, 8, 3]]


def save_tiny_bert(place: Path, **config: Any) -> Path:
    torch.manual_seed(3)
    config |= {"hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 20}
    config |= {"num_attention_heads": 2, "intermediate_size": 8}
    model = BertForSequenceClassification(BertConfig(**config))
    with torch.no_grad():
        model.classifier.weight.mul_(50)
    model.save_pretrained(place / "tiny-1")
    return place / "tiny-1"


@pytest.mark.parametrize("batch_size", [2, 3, 100])
def test_answers_do_not_depend_on_the_batch_and_keep_the_order(
    tmp_path: Path, batch_size: int
) -> None:
    folder = save_tiny_bert(tmp_path)
    one_by_one = torch.cat([predict(folder, [row], 1)[0] for row in SENTENCES])
    assert torch.allclose(predict(folder, SENTENCES, batch_size)[0], one_by_one, atol=1e-5)


def test_token_types_count(tmp_path: Path) -> None:
    folder, types = save_tiny_bert(tmp_path), [[0] * (len(row) - 1) + [1] for row in SENTENCES]
    without, with_types = (predict(folder, SENTENCES, 2, each)[0] for each in (None, types))
    assert not torch.allclose(without, with_types)


def test_the_longest_batch_comes_first(tmp_path: Path) -> None:
    model, forward = BertForSequenceClassification, BertForSequenceClassification.forward
    with mock.patch.object(model, "forward", autospec=True, side_effect=forward) as seen:
        predict(save_tiny_bert(tmp_path), SENTENCES, 2)
    assert [call.kwargs["input_ids"].shape[1] for call in seen.call_args_list] == [6, 4, 3]


def test_names_are_those_of_the_classes_and_none_of_a_number(tmp_path: Path) -> None:
    classes = save_tiny_bert(tmp_path, id2label={0: "no", 1: "yes"})
    assert predict(classes, SENTENCES, 2)[1] == ["no", "yes"]
    assert predict(save_tiny_bert(tmp_path, num_labels=1), SENTENCES, 2)[1] == []


def test_a_logit_that_is_no_number_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = torch.zeros(5, 2)
    answers[3, 1] = torch.nan
    monkeypatch.setattr(logits, "predict_padded", mock.Mock(return_value=answers))
    with pytest.raises(UserError, match="gives 1 of 5 sentences a logit that is not finite"):
        predict(save_tiny_bert(tmp_path), SENTENCES, 2)


@pytest.mark.parametrize(
    ("where", "batch_size", "setting", "todo"),
    [
        ("load_finetuned", 64, "x.batch_size", "Set x.batch_size to 32"),
        ("predict_padded", 1, "x.batch_size", "with more memory"),
        ("predict_padded", 64, "", "with more memory"),
    ],
)
def test_out_of_memory_is_one_message_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, batch_size: int, setting: str,
    todo: str,
) -> None:  # fmt: skip
    error = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")
    monkeypatch.setattr(logits, where, mock.Mock(side_effect=error))
    with pytest.raises(UserError, match=f"out of memory with {batch_size} sentence.*{todo}"):
        predict(save_tiny_bert(tmp_path), SENTENCES, batch_size, setting=setting)
