"""Evaluation: metrics against scikit-learn, logits that do not depend on the batch, files that agree with each other."""

import io
import json
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss, matthews_corrcoef

from conftest import Repository
from reproduce.files import UserError
from reproduce.inputs.sentences import read_tsv
from reproduce.models.logits import predict
from reproduce.models.metrics import measure
from stages.evaluate import main, predictions_csv

NAMES = ["NEGATIVE", "POSITIVE", "NEUTRAL"]
RUN, PREDICTIONS, MODEL = (
    "metrics/runs/tiny-1.json",
    Path("predictions/tiny-1.csv"),
    Path("models/finetuned/tiny-1"),
)


def random_case(classes: int, n: int, seed: int) -> tuple[torch.Tensor, list[int]]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator) * 3
    return logits, torch.randint(0, classes, (n,), generator=generator).tolist()


def always(predicted: int, labels: list[int], classes: int = 2) -> tuple[torch.Tensor, list[int]]:
    logits = torch.zeros(len(labels), classes)
    logits[:, predicted] = 2
    return logits, labels


CASES = {
    "2 classes": (2, *random_case(2, 872, 0)),
    "2 classes, other numbers": (2, *random_case(2, 57, 1)),
    "3 classes": (3, *random_case(3, 500, 2)),
    "class 1 never predicted": (2, *always(0, [0, 1, 1, 0, 1])),
    "class 0 never predicted": (2, *always(1, [0, 1, 1, 0, 1])),
    "all labels and predictions 0": (2, *always(0, [0, 0, 0])),
    "all labels and predictions 1": (2, *always(1, [1, 1, 1])),
    "all wrong": (2, *always(1, [0, 0, 0])),
    "a class of 3 neither there nor predicted": (3, *always(1, [0, 1, 1, 0], classes=3)),
    "one sentence": (2, *always(0, [1])),
}


@pytest.mark.parametrize(("classes", "logits", "labels"), CASES.values(), ids=CASES)
def test_metrics_equal_scikit_learn_s(
    classes: int, logits: torch.Tensor, labels: list[int]
) -> None:
    names = NAMES[:classes]
    result = measure(logits, labels, names, ("accuracy", "f1"))
    predicted = logits.argmax(dim=1).numpy()
    average: dict[str, Any] = (
        {"pos_label": 1} if classes == 2 else {"average": "macro", "labels": range(classes)}
    )
    assert result["accuracy"] == round(accuracy_score(labels, predicted), 6)
    assert result["f1"] == pytest.approx(
        f1_score(labels, predicted, zero_division=0, **average), abs=1e-6
    )
    probabilities = logits.double().softmax(dim=1).numpy()
    assert result["loss"] == pytest.approx(
        log_loss(labels, probabilities, labels=range(classes)), abs=1e-6
    )
    counts = confusion_matrix(labels, predicted, labels=range(classes))
    assert result["confusion"] == {
        true: {guess: counts[i, j] for j, guess in enumerate(names)} for i, true in enumerate(names)
    }
    assert (result["correct"], result["n"]) == (
        int((predicted == np.array(labels)).sum()),
        len(labels),
    )
    assert result["accuracy"] == round(result["correct"] / result["n"], 6)


def test_metrics_of_four_sentences_by_hand() -> None:
    """Two hits of class 1, one miss, one false alarm: F1 = 4 / 6. Logits (0, x) cost log(1 + exp(-+x))."""
    logits = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, -1.0], [0.0, 3.0]])
    loss = (
        math.log1p(math.exp(-1))
        + math.log1p(math.exp(-2))
        + math.log1p(math.exp(1))
        + math.log1p(math.exp(3))
    ) / 4
    assert measure(logits, [1, 1, 1, 0], NAMES[:2], ("accuracy", "f1")) == {
        "metric": "accuracy",
        "score": 0.5,
        "accuracy": 0.5,
        "f1": 0.666667,
        "loss": round(loss, 6),
        "correct": 2,
        "n": 4,
        "confusion": {
            "NEGATIVE": {"NEGATIVE": 0, "POSITIVE": 1},
            "POSITIVE": {"NEGATIVE": 1, "POSITIVE": 2},
        },
    }


def test_metrics_are_plain_numbers() -> None:
    result = measure(*random_case(2, 10, 3), NAMES[:2], ("accuracy", "f1"))
    assert {key: type(value) for key, value in result.items()} == {
        "accuracy": float, "f1": float, "metric": str, "score": float, "loss": float, "correct": int, "n": int, "confusion": dict,
    }  # fmt: skip


@pytest.fixture(scope="module")
def token_ids(finished: Repository) -> list[list[int]]:
    table = pyarrow.parquet.read_table(finished.path / "data/tokenized/tiny/validation.parquet")
    ids: list[list[int]] = table["input_ids"].to_pylist()
    return ids


@pytest.fixture(scope="module")
def one_by_one(finished: Repository, token_ids: list[list[int]]) -> torch.Tensor:
    """Logits of each sentence alone and unpadded, by transformers and nothing of ours."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        str(finished.path / MODEL), dtype=torch.float32
    ).eval()
    with torch.inference_mode():
        return torch.cat([model(input_ids=torch.tensor([ids])).logits for ids in token_ids])


@pytest.mark.parametrize("batch_size", [1, 2, 5, 24, 1000])
def test_logits_come_in_file_order_whatever_the_batch_size(
    finished: Repository, token_ids: list[list[int]], one_by_one: torch.Tensor, batch_size: int
) -> None:
    lengths = [len(ids) for ids in token_ids]
    assert lengths != sorted(lengths), "a file in order of length would prove nothing"
    logits, names = predict(finished.path / MODEL, token_ids, batch_size)
    assert names == ["NEGATIVE", "POSITIVE"]
    assert logits.dtype == torch.float32 and logits.shape == (24, 2)
    torch.testing.assert_close(logits, one_by_one, atol=1e-5, rtol=0)
    assert (one_by_one[1:] - one_by_one[:-1]).abs().max() > 1e-3, "equal logits would have no order"


def test_predictions_read_back_as_they_were() -> None:
    sentences = [
        "plain",
        "one, two",
        'he said "no"',
        '", both',
        " space kept ",
        "naïve – 電影",
        "NA",
        "a\rb",
        "'",
        "1",
    ]
    logits, labels = random_case(3, len(sentences), 4)
    text = predictions_csv(sentences, ["sentence"], labels, logits)
    assert text.startswith("sentence,label,predicted,probability\nplain,")
    frame = pd.read_csv(
        io.StringIO(text, newline=""),
        keep_default_na=False,
        dtype={"sentence": str},
        lineterminator="\n",
    )
    assert list(frame.columns) == ["sentence", "label", "predicted", "probability"]
    assert frame["sentence"].tolist() == sentences
    assert frame["label"].tolist() == labels
    assert frame["predicted"].tolist() == logits.argmax(dim=1).tolist()
    expected = logits.double().softmax(dim=1).max(dim=1).values.numpy()
    assert frame["probability"].to_numpy() == pytest.approx(expected, abs=5.1e-7)


def test_a_line_of_the_predictions_by_hand() -> None:
    """Logits (0, log 3): probability 3/4 of class 1."""
    assert predictions_csv(['a, "b"'], ["sentence"], [0], torch.tensor([[0.0, math.log(3)]])) == (
        'sentence,label,predicted,probability\n"a, ""b""",0,1,0.750000\n'
    )


def test_the_metrics_file_equals_what_the_predictions_file_says(finished: Repository) -> None:
    metrics = finished.json(RUN)
    frame = pd.read_csv(finished.path / PREDICTIONS, keep_default_na=False)
    sentences, labels = read_tsv(finished.path / "data/raw/validation.tsv", 2)
    assert (frame["sentence"].tolist(), frame["label"].tolist()) == (sentences, labels)
    hit = frame["label"] == frame["predicted"]
    assert (metrics["correct"], metrics["n"]) == (int(hit.sum()), 24)
    assert metrics["accuracy"] == round(hit.mean(), 6)
    assert metrics["f1"] == pytest.approx(f1_score(frame["label"], frame["predicted"]), abs=1e-6)
    counts = confusion_matrix(frame["label"], frame["predicted"], labels=[0, 1])
    assert [list(row.values()) for row in metrics["confusion"].values()] == counts.tolist()
    right = np.where(hit, frame["probability"], 1 - frame["probability"])
    assert metrics["loss"] == pytest.approx(
        -np.log(right).mean(), abs=1e-4
    )  # probabilities have 6 decimals


def test_the_predictions_are_those_of_the_saved_model(
    finished: Repository, one_by_one: torch.Tensor, token_ids: list[list[int]]
) -> None:
    frame = pd.read_csv(finished.path / PREDICTIONS, keep_default_na=False)
    probabilities, predicted = one_by_one.double().softmax(dim=1).max(dim=1)
    assert frame["predicted"].tolist() == predicted.tolist()
    assert frame["probability"].to_numpy() == pytest.approx(probabilities.numpy(), abs=1e-5)


def test_the_metrics_file_holds_results_and_nothing_of_the_machine(finished: Repository) -> None:
    metrics = finished.json(RUN)
    about = {key: metrics.pop(key) for key in ("dataset", "split", "model", "seed")}
    assert about == {"dataset": "toy", "split": "validation", "model": "tiny", "seed": 1}
    assert set(metrics) == {
        "metric",
        "score",
        "accuracy",
        "f1",
        "loss",
        "correct",
        "n",
        "confusion",
    }
    text = (finished.path / RUN).read_text(encoding="utf-8")
    assert text.endswith("}\n") and "/" not in text and "\\" not in text
    assert not re.search(r"20\d\d|:\d\d|second|time|date|host", text)


def test_evaluating_again_elsewhere_gives_the_same_bytes(copy: Repository) -> None:
    before = [(copy.path / file).read_bytes() for file in (RUN, PREDICTIONS)]
    for file in (RUN, PREDICTIONS):
        (copy.path / file).unlink()
    copy.stage(
        "evaluate",
        "--model",
        "tiny",
        "--seed",
        "1",
        HF_HOME=str(copy.path.parent / "hf"),
        PYTHONHASHSEED="7",
    )
    assert [(copy.path / file).read_bytes() for file in (RUN, PREDICTIONS)] == before


@pytest.fixture
def evaluate_here(copy: Repository, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The stage's main in this process and in the copy."""
    monkeypatch.chdir(copy.path)
    monkeypatch.setattr(os, "environ", os.environ.copy())  # the stage switches the Hub off
    monkeypatch.setattr(sys, "argv", ["evaluate", "--model", "tiny", "--seed", "1"])
    return main


def test_a_model_directory_without_weights(
    copy: Repository, evaluate_here: Callable[[], None]
) -> None:
    (copy.path / MODEL / "model.safetensors").unlink()
    with pytest.raises(UserError) as error:
        evaluate_here()
    assert str(error.value) == (
        "models/finetuned/tiny-1 has no model.safetensors. Run `dvc repro finetune@tiny-1`, or `dvc pull finetune@tiny-1`."
    )


def test_what_validation_tsv_is_comes_from_the_download(
    copy: Repository, evaluate_here: Callable[[], None]
) -> None:
    about = copy.path / "data/dataset.json"
    facts = copy.json("data/dataset.json")
    assert facts == {"dataset": "toy", "splits": ["train", "validation"], "validation": "validation", "columns": ["sentence"],
                     "labels": ["NEGATIVE", "POSITIVE"], "scale": None, "metrics": ["accuracy", "f1"]}  # fmt: skip
    about.unlink()
    with pytest.raises(
        UserError, match=r"^data/dataset\.json is missing\. Run `dvc repro download_dataset`"
    ):
        evaluate_here()
    about.write_text(json.dumps({**facts, "metrics": "f1"}))
    with pytest.raises(
        UserError,
        match=r"^data/dataset\.json is not what download_dataset writes\. Delete it and run `dvc checkout",
    ):
        evaluate_here()
    about.write_text(json.dumps({**facts, "validation": "held out of train", "metrics": ["f1"]}))
    evaluate_here()
    run = copy.json(RUN)
    assert (run["split"], run["metric"], "accuracy" in run) == ("held out of train", "f1", False)


def test_data_that_were_not_tokenised_are_refused(
    copy: Repository, evaluate_here: Callable[[], None]
) -> None:
    raw = copy.path / "data/raw/validation.tsv"
    lines = raw.read_text(encoding="utf-8").splitlines()
    raw.unlink()
    raw.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    before = (copy.path / RUN).read_bytes()
    with pytest.raises(UserError) as error:
        evaluate_here()
    assert (
        str(error.value)
        == "data/raw and data/tokenized hold different sentences. Run `dvc repro tokenize`."
    )
    assert (copy.path / RUN).read_bytes() == before


# --- other metrics, numbers, pairs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "logits", "labels"), CASES.values(), ids=CASES)
def test_matthews_equals_scikit_learn_s(
    classes: int, logits: torch.Tensor, labels: list[int]
) -> None:
    result = measure(logits, labels, NAMES[:classes], ("matthews", "accuracy"))
    assert result["matthews"] == pytest.approx(
        matthews_corrcoef(labels, logits.argmax(dim=1).numpy()), abs=1e-6
    )
    assert (result["metric"], result["score"]) == ("matthews", result["matthews"])


def test_matthews_by_hand() -> None:
    """3 true positives, 2 true negatives, 1 false positive, 2 false negatives: (3*2 - 1*2) / sqrt(4 * 5 * 3 * 4)."""
    labels, guesses = [1, 1, 1, 0, 0, 0, 1, 1], [1, 1, 1, 0, 0, 1, 0, 0]
    logits = torch.nn.functional.one_hot(torch.tensor(guesses), 2).float()
    assert measure(logits, labels, NAMES[:2], ("matthews",))["matthews"] == round(
        4 / math.sqrt(240), 6
    )


def test_correlations_equal_scipy_s() -> None:
    generator = torch.Generator().manual_seed(5)
    labels = (torch.rand(300, generator=generator) * 5).round(decimals=1).tolist()  # with ties
    logits = torch.tensor(labels)[:, None] + torch.randn(300, 1, generator=generator)
    result = measure(logits, labels, [], ("pearson", "spearman"))
    guesses = logits.squeeze(1).double().numpy()
    assert result["pearson"] == pytest.approx(pearsonr(labels, guesses).statistic, abs=1e-6)
    assert result["spearman"] == pytest.approx(spearmanr(labels, guesses).statistic, abs=1e-6)
    assert result["loss"] == pytest.approx(((guesses - np.array(labels)) ** 2).mean(), abs=1e-6)
    assert set(result) == {"pearson", "spearman", "metric", "score", "n", "loss"}
    assert 0.7 < result["pearson"] != result["spearman"]


def test_correlations_by_hand() -> None:
    """Predictions 1, 2, 9 of 1, 2, 3: deviations (-3, -2, 5) and (-1, 0, 1), so 8 / sqrt(38 * 2); the order is right."""
    result = measure(
        torch.tensor([[1.0], [2.0], [9.0]]), [1.0, 2.0, 3.0], [], ("spearman", "pearson")
    )
    assert result == {
        "spearman": 1.0,
        "pearson": round(8 / math.sqrt(76), 6),
        "metric": "spearman",
        "score": 1.0,
        "n": 3,
        "loss": 12.0,
    }


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_a_correlation_that_is_not_defined_is_an_error_and_no_number() -> None:
    for name in ("pearson", "spearman"):
        with pytest.raises(UserError) as error:
            measure(torch.ones(3, 1), [1.0, 2.0, 3.0], [], (name,))
        assert str(error.value).startswith(
            f"{name} is not defined: all predictions (or all labels) are equal."
        )


def test_predictions_of_pairs_have_a_column_a_text() -> None:
    text = predictions_csv(
        ["a, b\tc", "d\t"],
        ["one", "two"],
        [1, 0],
        torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]]),
    )
    assert text == 'one,two,label,predicted,probability\n"a, b",c,1,1,0.750000\nd,,0,1,0.750000\n'


def test_predictions_of_numbers_are_numbers_without_a_probability() -> None:
    text = predictions_csv(
        ["a\tb", "c\td"], ["one", "two"], [2.923, 5.0], torch.tensor([[1 / 3], [-0.5]])
    )
    assert text == "one,two,label,predicted\na,b,2.923,0.3333333432674408\nc,d,5.0,-0.5\n"


def test_correlations_follow_from_the_predictions_file_however_near_the_predictions_are() -> None:
    logits = 3 + 1e-6 * torch.randn(50, 1, generator=torch.Generator().manual_seed(6))
    labels = [float(i % 6) for i in range(50)]
    frame = pd.read_csv(io.StringIO(predictions_csv(["a"] * 50, ["sentence"], labels, logits)))
    assert frame["predicted"].tolist() == logits.squeeze(1).tolist()
    expected = measure(logits, labels, [], ("pearson", "spearman"))
    assert pearsonr(frame["label"], frame["predicted"]).statistic == pytest.approx(
        expected["pearson"], abs=1e-5
    )
    assert spearmanr(frame["label"], frame["predicted"]).statistic == pytest.approx(
        expected["spearman"], abs=1e-5
    )


def test_a_model_that_tells_a_pair_s_sentences_apart_is_told_which_is_which(
    tiny_model: Path, tmp_path: Path
) -> None:
    """The types that `predict` is given reach the model, in file order; left out, all are of the first sentence."""
    from transformers import AutoModelForSequenceClassification

    ids = [[2, 40, 41, 3, 42, 43, 44, 3], [2, 50, 3, 51, 3], [2, 45, 46, 47, 3, 48, 3]]
    types = [[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1, 1]]
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(str(tiny_model)).eval()
    model.save_pretrained(tmp_path)
    told, untold = (predict(tmp_path, ids, 2, given)[0] for given in (types, None))
    with torch.inference_mode():
        one_by_one = [
            model(input_ids=torch.tensor([i]), token_type_ids=torch.tensor([t])).logits
            for i, t in zip(ids, types, strict=True)
        ]
    torch.testing.assert_close(told, torch.cat(one_by_one), atol=1e-5, rtol=0)
    assert (told - untold).abs().max() > 1e-4
