"""Metrics against scikit-learn and scipy; the stage evaluate on a tiny model."""

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss, matthews_corrcoef

from conftest import ROOT
from reproduce.files import UserError
from reproduce.machine import cpu_name
from reproduce.models.metrics import measure
from reproduce.verdict.runs import Run, read_run
from toy_results import write

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


# --- the stage -----------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path) -> Path:
    """What finetune and tokenize leave, of a tiny model with a new head and eight sentences."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from reproduce.inputs.tokenizer import tokenize_split

    lines = (ROOT / "data/pocket/validation.tsv").read_text(encoding="utf-8").splitlines()[:9]
    texts, labels = zip(*(line.split("\t") for line in lines[1:]), strict=True)
    (tmp_path / "data/raw").mkdir(parents=True)
    (tmp_path / "data/raw/validation.tsv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    (tmp_path / "params.yaml").write_text("evaluate: {batch_size: 3}\n")
    tokenizer: Any = AutoTokenizer.from_pretrained(str(tiny_model))
    (tmp_path / "data/tokenized/tiny").mkdir(parents=True)
    split = tokenize_split(tokenizer, texts, list(map(int, labels)), NAMES[:2], 32)
    split.to_parquet(str(tmp_path / "data/tokenized/tiny/validation.parquet"))
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(
        str(tiny_model), id2label=dict(enumerate(NAMES[:2]))
    )
    folder = tmp_path / "models/finetuned/tiny-1"
    model.save_pretrained(str(folder))
    (folder / "loss.tsv").write_text("step\tloss\n1\t0.7\n")
    facts = {"dataset": "toy", "splits": ["validation"], "validation": "validation",
             "columns": ["sentence"], "labels": NAMES[:2], "scale": None,
             "metrics": ["accuracy", "f1"]}  # fmt: skip
    write(tmp_path / "data/dataset.json", facts)
    file = {"file": "validation.tsv", "bytes": 1, "sha256": "0" * 64, "rows": 8}
    entry = {"sources": [{"folder": "data/pocket"}], "columns": ["sentence"], "labels": NAMES[:2],
             "metrics": ["accuracy", "f1"], "train": {**file, "file": "train.tsv"},
             "validation": file}  # fmt: skip
    write(tmp_path / "data/checked/dataset.json", entry)
    pin = {"bytes": 1, "sha256": "0" * 64}
    files = ("config.json", "tokenizer.json", "tokenizer_config.json")
    entry = {"sources": [{"folder": "data/pocket"}], "tokenizer": dict.fromkeys(files, pin),
             "weights": {"model.safetensors": pin}}  # fmt: skip
    write(tmp_path / "data/checked/models/tiny.json", entry)
    write(tmp_path / "environment/tiny-1.json", {
        "recipe": "0123456789abcdef", "device": "cpu", "device_name": "A Processor",
        "precision": "fp32", "precision_reason": "asked for", "cpu": "A Processor", "gpu": None,
        "seconds": 61.5, "ms_per_step": 150.0, "peak_memory_mb": 900, "steps": 400, "threads": 2,
        "python": "3.11.7", "packages": {"torch": "2.0", "transformers": "5.0"},
        "not_deterministic": {}, "platform": "Linux x86_64", "driver": None, "cuda": None,
        "run": {"model": "tiny", "seed": 1, "dataset": "toy", "max_length": 32, "pins": {},
                "selection": {"holdout": 0, "train": 0}, "finetune": {"learning_rate": 1e-5}},
    })  # fmt: skip
    return tmp_path


@pytest.fixture
def evaluate(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The stage's main in this process, without a home to write to."""
    from stages.evaluate import main

    monkeypatch.chdir(project)
    monkeypatch.setattr(os, "environ", {**os.environ, "HOME": "/proc/none"})
    monkeypatch.setattr(sys, "argv", ["evaluate", "--model", "tiny", "--seed", "1"])
    return main


def result() -> Run:
    run = read_run("tiny", 1, "0123456789abcdef", "toy", "validation")
    assert isinstance(run, Run), run
    return run


def test_the_predictions_are_those_of_the_saved_model(evaluate: Callable[[], None]) -> None:
    """Each sentence alone and unpadded, by transformers and nothing of ours."""
    import pyarrow.parquet
    import torch
    from transformers import AutoModelForSequenceClassification

    evaluate()
    model = AutoModelForSequenceClassification.from_pretrained("models/finetuned/tiny-1").eval()
    table = pyarrow.parquet.read_table("data/tokenized/tiny/validation.parquet")
    with torch.inference_mode():
        alone = [model(torch.tensor([ids])).logits for ids in table["input_ids"].to_pylist()]
    run = result()
    np.testing.assert_allclose(run.validation.logits, torch.cat(alone).numpy(), atol=1e-6)
    assert run.validation.labels.tolist() == table["label"].to_pylist()
    assert (run.device, run.precision, run.labels) == ("cpu", "fp32", ("NEGATIVE", "POSITIVE"))
    assert run.evaluated_on == cpu_name()
    assert Path("curves/tiny-1.tsv").read_text() == "step\tloss\n1\t0.7\n"
    assert Path("models/finetuned/tiny-1/README.md").read_text(encoding="utf-8").startswith("---\n")


def test_evaluating_again_gives_the_same_bytes(evaluate: Callable[[], None]) -> None:
    files = [Path(f"predictions/tiny-1.{ending}") for ending in ("csv", "json")]
    evaluate()
    before = [file.read_bytes() for file in files]
    evaluate()
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize("text", ["a lone \r in the middle", "word " * 30_000])
def test_whatever_a_sentence_holds_the_result_can_be_read(
    evaluate: Callable[[], None], text: str
) -> None:
    raw = Path("data/raw/validation.tsv")
    head, first, *rest = raw.read_bytes().split(b"\n")
    raw.write_bytes(b"\n".join([head, text.encode() + b"\t" + first.split(b"\t")[1], *rest]))
    evaluate()
    assert result().measured["n"] == 8


def cut_a_sentence() -> None:
    raw = Path("data/raw/validation.tsv")
    raw.write_text("\n".join([*raw.read_text(encoding="utf-8").splitlines()[:-1], ""]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: Path("models/finetuned/tiny-1/model.safetensors").unlink(),
         "models/finetuned/tiny-1 has no model.safetensors. Run `dvc repro finetune@tiny-1`"),
        (lambda: Path("environment/tiny-1.json").unlink(),
         "environment/tiny-1.json is missing, or does not name the run's recipe. Run `git"),
        (lambda: Path("environment/tiny-1.json").write_text('{"device": "cpu"}'),
         "environment/tiny-1.json is missing, or does not name the run's recipe. Run `git"),
        (cut_a_sentence, "data/raw and data/tokenized hold other sentences. Run `dvc repro"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found_and_nothing_is_written(
    evaluate: Callable[[], None], change: Callable[[], None], message: str
) -> None:
    change()
    with pytest.raises(UserError) as error:
        evaluate()
    assert str(error.value).startswith(message)
    assert not Path("predictions").exists()
