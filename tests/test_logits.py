"""Padded prediction: the same answers whatever the batch; one message for each fault."""

from collections.abc import Callable
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
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Save a tiny BERT as a folder in the place of a run's."""

    def save(**config: Any) -> Path:
        torch.manual_seed(3)
        config |= {"hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 20}
        config |= {"num_attention_heads": 2, "intermediate_size": 8}
        model = BertForSequenceClassification(BertConfig(**config))
        with torch.no_grad():
            model.classifier.weight.mul_(50)
        model.save_pretrained(tmp_path / "tiny-1")
        return tmp_path / "tiny-1"

    return save


@pytest.mark.parametrize("batch_size", [2, 3, 100])
def test_answers_do_not_depend_on_the_batch_and_keep_the_order(make: Make, batch_size: int) -> None:
    folder = make()
    one_by_one = torch.cat([predict(folder, [row], 1)[0] for row in SENTENCES])
    assert torch.allclose(predict(folder, SENTENCES, batch_size)[0], one_by_one, atol=1e-5)


def test_the_longest_batch_comes_first(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    forward = BertForSequenceClassification.forward

    def watch(self: object, **inputs: torch.Tensor) -> object:
        seen.append(inputs["input_ids"].shape[1])
        return forward(self, **inputs)

    monkeypatch.setattr(BertForSequenceClassification, "forward", watch)
    predict(make(), SENTENCES, 2)
    assert seen == [6, 4, 3]


def test_token_types_count(make: Make) -> None:
    folder, types = make(), [[0] * (len(row) - 1) + [1] for row in SENTENCES]
    assert not torch.allclose(
        predict(folder, SENTENCES, 2)[0], predict(folder, SENTENCES, 2, types)[0]
    )


def test_names_are_those_of_the_classes_and_none_of_a_number(make: Make) -> None:
    names = predict(make(id2label={0: "no", 1: "yes"}), SENTENCES, 2)[1]
    assert (names, predict(make(num_labels=1), SENTENCES, 2)[1]) == (["no", "yes"], [])


def test_a_logit_that_is_no_number_is_one_message(make: Make) -> None:
    with pytest.raises(UserError, match="gives 1 of 5 sentences a logit that is not finite"):
        folder = make()
        model = BertForSequenceClassification.from_pretrained(folder)
        with torch.no_grad():
            model.bert.embeddings.word_embeddings.weight[11] = torch.nan
        model.save_pretrained(folder)
        predict(folder, SENTENCES, 2)


@pytest.mark.parametrize(
    ("batch_size", "setting", "todo"),
    [(64, "x.batch_size", "Set x.batch_size to 32"), (1, "x.batch_size", "with more memory"),
     (64, "", "with more memory")],
)  # fmt: skip
@pytest.mark.parametrize("where", ["load_finetuned", "predict_padded"])
def test_out_of_memory_is_one_message_that_says_what_to_do(
    make: Make, monkeypatch: pytest.MonkeyPatch, where: str, batch_size: int, setting: str,
    todo: str,
) -> None:  # fmt: skip
    error = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")
    monkeypatch.setattr(logits, where, mock.Mock(side_effect=error))
    with pytest.raises(UserError, match=f"out of memory with {batch_size} sentence.*{todo}"):
        predict(make(), SENTENCES, batch_size, setting=setting)
