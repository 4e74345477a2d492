"""Metrics against scikit-learn and scipy; the stage evaluate on a tiny model."""

import contextlib
import math
import shutil
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss, matthews_corrcoef
from transformers import AutoModelForSequenceClassification

from conftest import Here, Repository
from reproduce.machine import cpu_name
from reproduce.models.metrics import measure
from reproduce.verdict.runs import Run, read_run

NAMES = ["NEGATIVE", "POSITIVE", "NEUTRAL"]
Case = tuple[int, Any, Any]


def random_case(classes: int, n: int) -> Case:
    draw = np.random.default_rng(n)
    return classes, draw.normal(0, 3, (n, classes)), draw.integers(0, classes, n)


def always(answer: int, labels: list[int], classes: int = 2) -> Case:
    return classes, np.eye(classes)[[answer] * len(labels)] * 2, np.array(labels)


CASES = {
    "2 classes": random_case(2, 872),
    "3 classes": random_case(3, 500),
    "class 1 never predicted": always(0, [0, 1, 1, 0, 1]),
    "all labels and predictions 0": always(0, [0, 0, 0]),
    "all labels and predictions 1": always(1, [1, 1, 1]),
    "a class of 3 neither there nor predicted": always(1, [0, 1, 1, 0], classes=3),
    "one sentence": always(0, [1]),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("classes", "logits", "labels"), CASES.values(), ids=CASES)
def test_metrics_equal_scikit_learn_s(classes: int, logits: Any, labels: Any) -> None:
    names = NAMES[:classes]
    found = measure(logits, labels, names, ("accuracy", "f1", "matthews"))
    average: dict[str, Any] = {"average": "binary"}
    if classes > 2:
        average = {"average": "macro", "labels": range(classes)}
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    guess = logits.argmax(axis=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *arguments, **keywords: None)
        expected = {
            "accuracy": accuracy_score(labels, guess),
            "f1": f1_score(labels, guess, zero_division=0, **average),
            "matthews": matthews_corrcoef(labels, guess),
            "loss": log_loss(labels, probabilities, labels=range(classes)),
        }
        counts = confusion_matrix(labels, guess, labels=range(classes)).tolist()
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert [list(row.values()) for row in found["confusion"].values()] == counts
    assert (found["correct"], found["n"]) == (int((guess == labels).sum()), len(labels))


def test_metrics_of_four_sentences_by_hand() -> None:
    """Two hits of class 1, a miss, a false alarm: F1 = 4 / 6. Logits (0, x): log(1 + exp(-+x))."""
    logits = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, -1.0], [0.0, 3.0]])
    loss = sum(math.log1p(math.exp(x)) for x in (-1, -2, 1, 3)) / 4
    assert measure(logits, np.array([1, 1, 1, 0]), NAMES[:2], ("accuracy", "f1")) == {
        "metric": "accuracy", "score": 0.5, "accuracy": 0.5, "f1": 0.666667, "correct": 2, "n": 4,
        "loss": round(loss, 6),
        "confusion": {"NEGATIVE": {"NEGATIVE": 0, "POSITIVE": 1},
                      "POSITIVE": {"NEGATIVE": 1, "POSITIVE": 2}},
    }  # fmt: skip


def test_correlations_equal_scipy_s() -> None:
    draw = np.random.default_rng(5)
    labels = draw.uniform(0, 5, 300).round(1)  # with ties
    logits = labels[:, None] + draw.normal(0, 1, (300, 1))
    found = measure(logits, labels, [], ("pearson", "spearman"))
    expected = {
        "pearson": pearsonr(labels, logits[:, 0]).statistic,
        "spearman": spearmanr(labels, logits[:, 0]).statistic,
        "loss": ((logits[:, 0] - labels) ** 2).mean(),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert "confusion" not in found


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("labels", [[1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [2.0]])
def test_a_correlation_that_is_not_defined_is_none(labels: list[float]) -> None:
    found = measure(np.ones((len(labels), 1)), np.array(labels), [], ("pearson", "spearman"))
    assert (found["pearson"], found["spearman"], found["score"]) == (None, None, None)


# --- the stage ---

RUN = ("evaluate", "--model", "tiny", "--seed", "1")
MODEL = "models/finetuned/tiny-1"
ENVIRONMENT = "environment/tiny-1.json"


def result(repository: Repository) -> Run:
    with contextlib.chdir(repository.path):
        run = read_run("tiny", 1, repository.json(ENVIRONMENT)["recipe"], "toy", "validation")
    assert isinstance(run, Run), run
    return run


def test_the_predictions_are_those_of_the_saved_model(finished: Repository) -> None:
    """Each sentence alone and unpadded, by transformers and nothing of ours."""
    folder = finished.path / MODEL
    model = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    table = pyarrow.parquet.read_table(finished.path / "data/tokenized/tiny/validation.parquet")
    with torch.inference_mode():
        alone = [model(torch.tensor([ids])).logits for ids in table["input_ids"].to_pylist()]
    run = result(finished)
    np.testing.assert_allclose(run.validation.logits, torch.cat(alone).numpy(), atol=1e-6)
    assert run.validation.labels.tolist() == table["label"].to_pylist()
    assert (run.device, run.precision, run.labels) == ("cpu", "fp32", ("NEGATIVE", "POSITIVE"))
    assert run.evaluated_on == cpu_name()
    curve = (finished.path / "curves/tiny-1.tsv").read_bytes()
    assert curve == (folder / "loss.tsv").read_bytes()
    assert (folder / "README.md").read_text(encoding="utf-8").startswith("---\n")


def test_evaluating_again_without_a_home_gives_the_same_bytes(here: Here) -> None:
    files = [here.path / f"predictions/tiny-1.{ending}" for ending in ("csv", "json")]
    before = [file.read_bytes() for file in files]
    shutil.rmtree(here.path / "predictions")
    here.stage(*RUN, HOME="/proc/none")
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize("text", ["a lone \r in the middle", "word " * 30_000])
def test_whatever_a_sentence_holds_the_result_can_be_read(here: Here, text: str) -> None:
    raw = here.path / "data/raw/validation.tsv"
    head, first, *rest = raw.read_bytes().split(b"\n")
    raw.write_bytes(b"\n".join([head, text.encode() + b"\t" + first.split(b"\t")[1], *rest]))
    here.stage(*RUN)
    assert result(here).measured["n"] == 24


NO_RECIPE = f"{ENVIRONMENT} is missing, or does not name the run's recipe. Run `git"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (f"{MODEL}/model.safetensors", None,
         f"{MODEL} has no model.safetensors. Run `dvc repro finetune@tiny-1`"),
        (ENVIRONMENT, None, NO_RECIPE),
        (ENVIRONMENT, '{"device": "cpu"}', NO_RECIPE),
        ("data/raw/validation.tsv", "sentence\tlabel\ngood\t1\n",
         "data/raw and data/tokenized hold other sentences. Run `dvc repro"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found_and_nothing_is_written(
    here: Here, file: str, content: str | None, message: str
) -> None:
    (here.path / file).unlink()
    if content:
        (here.path / file).write_text(content)
    shutil.rmtree(here.path / "predictions")
    assert here.refused(*RUN).startswith(message)
    assert not (here.path / "predictions").exists()
