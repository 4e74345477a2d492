"""Metrics against scikit-learn and scipy; the stage evaluate on a tiny model."""

import contextlib
import math
import shutil

import numpy as np
import pyarrow.parquet
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from transformers import AutoModelForSequenceClassification

from conftest import Here, Repository
from reproduce.machine import cpu_name
from reproduce.models.metrics import measure
from reproduce.verdict.runs import Run, read_run

NAMES = ["NEGATIVE", "POSITIVE", "NEUTRAL"]


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


def test_metrics_of_three_classes_by_hand() -> None:
    """F1 is the mean over classes: 1 / 2, 1 / 2 and, of the class that is not there, 0."""
    logits = np.eye(3)[[0, 1, 1, 1]]
    found = measure(logits, np.array([0, 0, 0, 1]), NAMES, ("accuracy", "f1", "matthews"))
    assert (found["accuracy"], found["f1"], found["matthews"]) == (0.5, 0.333333, 0.333333)
    counts = [list(row.values()) for row in found["confusion"].values()]
    assert counts == [[1, 2, 0], [0, 1, 0], [0, 0, 0]]


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
