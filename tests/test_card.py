"""The model card: it says what the run's files say, in a form that the Hub's own classes accept."""

import shutil
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import EvalResult, ModelCard

from conftest import ROOT
from reproduce.inputs.catalog import Dataset, read_model
from reproduce.params import read_yaml, validate
from reproduce.report.card import card_metadata, card_text, write_card
from reproduce.training.recipe import run_recipe
from reproduce.verdict.runs import Part, Run

PARAMS = read_yaml(ROOT / "params.yaml")
MINILM = read_model("minilm", ROOT / "catalog.yaml")
NAMES = ("NEGATIVE", "POSITIVE")


def part(counts: tuple[int, int, int, int]) -> Part:
    """Answers by label and answer: 00, 01, 10, 11."""
    labels, answers = np.repeat([0, 0, 1, 1], counts), np.repeat([0, 1, 0, 1], counts)
    return Part(labels, np.eye(2, dtype=np.float32)[answers])


RUN = Run("minilm", 2, "0" * 16, "sst2", "validation", ("accuracy", "f1"), NAMES, "cpu", "fp32",
          "A processor", "0" * 64, part((300, 28, 44, 500)))  # fmt: skip


def environment(**params: Any) -> dict[str, Any]:
    pins: dict[str, dict[str, str]] = {"dataset": {}, "model": {}}
    recipe = run_recipe({**PARAMS, **params}, "minilm", 2, pins)
    return {"run": recipe, "cpu": "A processor", "gpu": None, "precision": "fp32",
            "precision_reason": "it is so", "python": "3.11.7", "packages": {"torch": "2.13.0"},
            "seconds": 12.5, "git_commit": "abcdef0123", "peak_memory_mb": 77777}  # fmt: skip


def dataset(name: str = "sst2", **changes: Any) -> Dataset:
    entry = read_yaml(ROOT / "catalog.yaml")["datasets"][name]
    return validate(Dataset, {**entry, **changes}, "here")


def text(run: Run = RUN, data: Dataset | None = None, **params: Any) -> str:
    return card_text(run, environment(**params), data or dataset(), MINILM)


def results(run: Run, data: Dataset) -> list[EvalResult]:
    return card_metadata(run, data, MINILM).eval_results or []


def rows(card: str, heading: str) -> dict[str, list[str]]:
    """A section's tables: by first cell, the others."""
    section = card.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {first: others for first, *others in cells}


def test_the_card_beside_the_model_names_the_data_as_the_hub_does(tmp_path: Path) -> None:
    with chdir(tmp_path):
        path = write_card(RUN, environment(), dataset(), MINILM)
        metadata = ModelCard.load(path).data
    assert path == Path("models/finetuned/minilm-2/README.md")
    assert metadata.to_dict() == card_metadata(RUN, dataset(), MINILM).to_dict()
    assert (metadata.license, metadata.library_name) == ("apache-2.0", "transformers")
    assert metadata.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    result = metadata.eval_results[0]
    place = (result.dataset_type, result.dataset_config, result.dataset_split)
    assert place == ("nyu-mll/glue", "sst2", "validation")
    assert result.dataset_revision == "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.917431)


def test_the_recipe_is_what_the_run_was_made_by() -> None:
    table = rows(text(tasks={"sst2": {"epochs": 7, "learning_rate": 0.5}}), "Recipe")
    assert table["epochs"] == ["7"]
    assert table["learning rate"] == ["0.0001"]  # the model's override wins


def test_times_memory_and_commits_are_not_in_it() -> None:
    assert not [told for told in ("12.5", "abcdef0", "77777") if told in text()]


def test_the_card_is_honest_about_seed_and_data() -> None:
    card = text(replace(RUN, dataset="pocket"), dataset("pocket"), dataset="pocket")
    card = " ".join(card.split())
    assert "The seed was fixed before the training" in card
    assert "1,600 examples to train on" in card and "It is no benchmark" in card


def test_a_run_for_choosing_hyperparameters_says_so() -> None:
    run = replace(RUN, split="held out of train")
    card = text(run, selection={"holdout": 872, "train": 16000})
    assert "16,000 examples to train on" in card and "872 examples held out of train" in card
    assert "a run for choosing hyperparameters" in card
    result = results(run, dataset())[0]
    assert (result.dataset_split, result.dataset_args) == ("train", {"held_out": 872})


def test_numbers_as_labels_and_pairs() -> None:
    metrics = ("pearson", "spearman")
    data = dataset(columns=["first", "second"], labels=[], scale=[0, 5], metrics=metrics)
    answers = Part(np.array([0.0, 2.5, 5.0]), np.array([[0.5], [2.0], [4.0]]))
    run = replace(RUN, metrics=metrics, labels=(), validation=answers)
    card = text(run, data)
    assert rows(card, "Scores")["spearman"] == ["1.0000", "-", "3"]
    assert "a number from 0 to 5" in card and 'function_to_apply="none"' in card
    assert '"text_pair"' in card
    assert [result.metric_type for result in results(run, data)] == ["pearsonr", "spearmanr"]
    run = replace(run, validation=replace(answers, logits=np.ones((3, 1))))
    assert rows(text(run, data), "Scores")["pearson"][0] == "not defined"
    assert results(run, data) == [], "a metric that is not defined is no result of the Hub"


def test_a_second_validation_set_has_its_own_rows() -> None:
    entry = read_yaml(ROOT / "catalog.yaml")["datasets"]["mnli"]
    data = dataset(**{key: entry[key] for key in ("validation", "validation_mismatched")})
    run = replace(RUN, mismatched=part((25, 25, 25, 25)))
    scores = rows(text(run, data), "Scores")
    assert scores["accuracy, mismatched genres"] == ["0.5000", "0.4038 to 0.5962", "100"]
    found = [(r.dataset_split, r.metric_value) for r in results(run, data)]
    assert found[0] == ("validation_matched", 0.917431)
    assert found[2] == ("validation_mismatched", 0.5)


@pytest.mark.slow
def test_the_example_in_the_card_runs_in_its_folder(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = shutil.copytree(tiny_model, tmp_path / "minilm-2")
    names = dict(enumerate(NAMES))
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, id2label=names)
    model.save_pretrained(folder)
    with chdir(folder):
        exec(text().split("```python\n")[1].split("```")[0], {})
    out = capsys.readouterr().out
    assert "'label': 'NEGATIVE'" in out or "'label': 'POSITIVE'" in out
