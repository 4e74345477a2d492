"""The card stage: what it says is what the run's files say, in a form that the Hub's own classes accept."""

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from scipy import stats

from conftest import ROOT, Repository
from reproduce.files import UserError
from reproduce.inputs.catalog import Dataset, read_model
from reproduce.params import read_yaml, validate
from reproduce.report.card import card_metadata, card_text, read_run
from reproduce.training.recipe import read_finetune

PARAMS = read_yaml(ROOT / "params.yaml")
MINILM = read_model("minilm", ROOT / "catalog.yaml")
CLASSES = {
    "NEGATIVE": {"NEGATIVE": 300, "POSITIVE": 28},
    "POSITIVE": {"NEGATIVE": 44, "POSITIVE": 500},
}
RUN: dict[str, Any] = {"model": "minilm", "seed": 2, "dataset": "sst2", "split": "validation", "metric": "accuracy",
                       "score": 0.917431, "accuracy": 0.917431, "f1": 0.932836, "n": 872, "correct": 800, "loss": 0.25,
                       "confusion": CLASSES}  # fmt: skip
ENVIRONMENT: dict[str, Any] = {"device": "cpu", "cpu": "A processor", "gpu": None, "precision": "fp32", "precision_reason": "it is so",
               "processes": 1, "threads": 2, "python": "3.11.7", "platform": "Linux x86_64", "packages": {"torch": "2.13.0"},
               "not_deterministic": []}  # fmt: skip


def dataset(name: str = "sst2", **changes: Any) -> Dataset:
    entry = read_yaml(ROOT / "catalog.yaml")["datasets"][name]
    return validate(Dataset, {**entry, **changes}, "here")


def text(run: dict[str, Any] = RUN, data: Dataset | None = None, **params: Any) -> str:
    tasks = {**PARAMS["tasks"], run["dataset"]: PARAMS["tasks"].get(run["dataset"], {})}
    return card_text(
        run, ENVIRONMENT, data or dataset(), MINILM, {**PARAMS, "tasks": tasks, **params}
    )


def results(run: dict[str, Any], data: Dataset) -> list[EvalResult]:
    found = card_metadata(run, data, MINILM).eval_results
    assert found
    return found


def rows(card: str, heading: str) -> dict[str, list[str]]:
    """A section's table: by first cell, the others."""
    section = card.split(f"## {heading}\n")[1].split("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    return {first: others for first, *others in cells}


def test_the_card_of_a_run_is_what_the_hub_accepts_and_what_the_files_say(
    finished: Repository,
) -> None:
    card = ModelCard.load(finished.path / "models/finetuned/tiny-1/README.md")
    run = finished.json("metrics/runs/tiny-1.json")
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == (
        "apache-2.0",
        "transformers",
        "text-classification",
    )
    by_metric = {result.metric_type: result for result in card.data.eval_results}
    assert {name: result.metric_value for name, result in by_metric.items()} == {
        name: run[name] for name in ("accuracy", "f1")
    }
    assert (by_metric["accuracy"].dataset_type, by_metric["accuracy"].dataset_split) == (
        "toy",
        "validation",
    )
    assert rows(card.text, "Scores")["accuracy"][0] == f"{run['accuracy']:.4f}"
    environment = finished.json("environment/tiny-1.json")
    assert rows(card.text, "Environment")["Python"] == [
        f"{environment['python']}, {environment['platform']}"
    ]
    assert rows(card.text, "Recipe")["learning rate"] == ["0.01"]
    for told in (str(environment["git_commit"])[:7], str(finished.path.parent)):
        assert told not in card.content


def test_the_usage_in_the_card_runs(finished: Repository) -> None:
    code = (
        (finished.path / "models/finetuned/tiny-1/README.md")
        .read_text(encoding="utf-8")
        .split("```python\n")[1]
        .split("```")[0]
    )
    shown = code.replace('classify("', 'print(*classify("').replace('film")', 'film"))')
    done = finished.run(sys.executable, "-c", shown, HF_HUB_OFFLINE="1")
    assert "'label': 'NEGATIVE'" in done.stdout or "'label': 'POSITIVE'" in done.stdout


def test_metadata_names_the_data_as_the_hub_does() -> None:
    metadata = card_metadata(RUN, dataset(), MINILM)
    again = ModelCard(f"---\n{metadata.to_yaml()}\n---\n").data
    assert isinstance(again, ModelCardData) and again.eval_results
    assert again.to_dict() == metadata.to_dict()
    assert again.base_model == "sentence-transformers/all-MiniLM-L6-v2" and again.datasets == [
        "nyu-mll/glue"
    ]
    result = again.eval_results[0]
    assert (result.dataset_type, result.dataset_config, result.dataset_split) == (
        "nyu-mll/glue",
        "sst2",
        "validation",
    )
    assert result.dataset_revision == "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
    assert (again.model_name, result.metric_type, result.metric_value) == (
        "minilm-2",
        "accuracy",
        0.917431,
    )


def test_the_interval_is_wilsons_and_the_table_is_the_confusion() -> None:
    scores = rows(text(), "Scores")
    low, high = stats.binomtest(800, 872).proportion_ci(0.95, method="wilson")
    assert scores["accuracy"] == ["0.9174", f"{low:.4f} to {high:.4f}", "872"]
    assert scores["f1"][1] == "-"
    assert scores["**NEGATIVE**"] == ["300", "28"] and scores["**POSITIVE**"] == ["44", "500"]


def test_the_recipe_is_what_finetune_reads(tmp_path: Path) -> None:
    changed = {**PARAMS, "tasks": {**PARAMS["tasks"], "sst2": {"epochs": 7, "learning_rate": 0.5}}}
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps(changed))
    table = rows(text(tasks=changed["tasks"]), "Recipe")
    read = read_finetune("minilm", path).model_dump()
    assert {name.replace("_", " "): [str(value)] for name, value in read.items()} == {
        name: value for name, value in table.items() if name not in ("parameter", "---")
    }
    assert table["epochs"] == ["7"] and table["learning rate"] == [
        "0.0001"
    ]  # the model's override wins


def test_times_and_commits_are_not_read() -> None:
    busy = {
        **ENVIRONMENT,
        "seconds": 12.5,
        "git_commit": "abc",
        "peak_memory_mb": 3,
        "last_loss": 0.1,
    }
    assert card_text(RUN, busy, dataset(), MINILM, PARAMS) == text()


def test_the_card_is_honest_about_seed_and_data() -> None:
    assert "2 was not chosen by its score" in text()
    pocket = text({**RUN, "dataset": "pocket"}, dataset("pocket"))
    assert (
        "1,600 examples to train on" in pocket
        and "2,000 sentences about films" in pocket
        and "It is no benchmark" in pocket
    )
    assert "test set" not in pocket and "No score on the test set" in text()


def test_a_run_for_choosing_hyperparameters_says_so() -> None:
    run = {**RUN, "split": "held out of train", "n": 4000}
    chosen = text(run, selection={"holdout": 4000, "train": 16000})
    assert "16,000 examples to train on" in chosen and "4,000 examples held out of train" in chosen
    assert "this run is for choosing hyperparameters" in chosen and "validation set, " not in chosen
    assert "63,349 examples to train on" in text(run, selection={"holdout": 4000, "train": 0})
    result = results(run, dataset())[0]
    assert (result.dataset_split, result.dataset_args) == ("train", {"held_out": 4000})


def test_numbers_as_labels_and_pairs() -> None:
    data = dataset(
        columns=["first", "second"], labels=[], scale=[0, 5], metrics=["pearson", "spearman"]
    )
    run = {
        key: value
        for key, value in RUN.items()
        if key not in ("accuracy", "f1", "correct", "confusion")
    }
    run |= {"metric": "pearson", "score": 0.87, "pearson": 0.87, "spearman": 0.86}
    card = text(run, data)
    assert rows(card, "Scores")["pearson"] == ["0.8700", "-", "872"]
    assert (
        "a number from 0 to 5" in card
        and 'function_to_apply="none"' in card
        and '"text_pair"' in card
        and "Wilson" not in card
    )
    assert [result.metric_type for result in results(run, data)] == ["pearsonr", "spearmanr"]


def test_a_second_validation_set_has_its_own_rows() -> None:
    entry = read_yaml(ROOT / "catalog.yaml")["datasets"]["sst2"]
    matched, mismatched = (
        {**entry["validation"], "file": f"mnli/validation_{name}-00000-of-00001.parquet"}
        for name in ("matched", "mismatched")
    )
    data = dataset(metrics=["accuracy"], validation=matched, validation_mismatched=mismatched)
    other = {
        "accuracy": 0.5,
        "correct": 50,
        "n": 100,
        "loss": 1.0,
        "metric": "accuracy",
        "score": 0.5,
    }
    run = {**deepcopy(RUN), "mismatched": other}
    assert rows(text(run, data), "Scores")["accuracy, mismatched genres"] == [
        "0.5000",
        "0.4038 to 0.5962",
        "100",
    ]
    found = results(run, data)
    assert [(r.dataset_split, r.metric_value) for r in found] == [
        ("validation_matched", 0.917431),
        ("validation_mismatched", 0.5),
    ]


def test_matthews_alone() -> None:
    run = {
        **{key: value for key, value in RUN.items() if key not in ("accuracy", "f1")},
        "metric": "matthews",
        "matthews": 0.5,
        "score": 0.5,
    }
    assert rows(text(run, dataset(metrics=["matthews"])), "Scores")["matthews"] == [
        "0.5000",
        "-",
        "872",
    ]
    assert card_metadata(run, dataset(metrics=["matthews"]), MINILM).metrics == [
        "matthews_correlation"
    ]


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"dataset": "pocket", "score": 1}', '{"dataset": "sst2"}', "{"]
)
def test_metrics_of_something_else_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "minilm-1.json"
    path.write_text(content)
    with pytest.raises(UserError, match="Run `dvc repro evaluate@minilm-1`"):
        read_run(path, "sst2")


def test_the_catalog_knows_every_licence() -> None:
    for name in PARAMS["models"]:
        assert (
            read_model(name, ROOT / "catalog.yaml").license == "apache-2.0"
        )  # read on the Hub, checkpoint by checkpoint


def test_a_card_without_its_inputs_is_refused(copy: Repository) -> None:
    card = copy.path / "models/finetuned/tiny-1/README.md"
    before = card.read_bytes()
    for file, stage in (
        ("environment/tiny-1.json", "finetune"),
        ("metrics/runs/tiny-1.json", "evaluate"),
    ):
        (copy.path / file).unlink()
        assert (
            copy.refused("card", "--model", "tiny", "--seed", "1")
            == f"{file} is missing. Run `dvc repro {stage}@tiny-1`, which writes it."
        )
    assert card.read_bytes() == before
