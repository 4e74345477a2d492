"""GLUE's other tasks: catalog entries, the real RTE, and pairs and numbers through the stages."""

from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, Here, Repository, pin, pocket_lines
from reproduce.inputs.tokenized import read_tokenized
from reproduce.params import read_yaml, validate
from reproduce.verdict.published import Published


def test_every_dataset_has_a_recipe_and_every_published_row_its_headline_metric() -> None:
    catalog = read_yaml(ROOT / "catalog.yaml")["datasets"]
    assert set(read_yaml(ROOT / "params.yaml")["tasks"]) == set(catalog)
    published = validate(Published, read_yaml(ROOT / "published.yaml"), "published.yaml:")
    for row in (row for row in published.results if row.model):
        assert row.metric in (catalog[row.dataset]["metrics"][0], "not named"), row


def test_no_margin_is_wider_than_what_lies_between_the_article_s_models() -> None:
    published = validate(Published, read_yaml(ROOT / "published.yaml"), "published.yaml:")
    for task in published.titles:
        rows = [published.row(model, task, "validation") for model in ("distilbert", "bert")]
        assert rows[0] and rows[1]
        margin = published.claims["distilbert_accuracy"].margin_on(task)
        assert margin and margin <= abs(rows[0].score - rows[1].score) + 1e-9, task


@pytest.fixture
def here(repository: Repository) -> Here:
    made = Here(repository.path, repository.env)
    made.stage("download_model", "--model", "tiny", "--files", "tokenizer")
    return made


@pytest.mark.mirror
def test_the_real_rte_is_downloaded_and_tokenised(
    here: Here, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.edit("params.yaml", lambda data: data.update(dataset="rte"))
    done = here.stage("download_dataset", HUB_MIRROR=str(mirror.resolve()))
    assert "data/raw: rte, train 2,490, validation 277, test 3,000 sentences" in done.stdout
    here.stage("tokenize_text", "--model", "tiny")
    monkeypatch.chdir(here.path)
    split = read_tokenized("tiny", "validation")
    assert split.label_names == ["entailment", "not_entailment"]
    assert split.token_type_ids and {t for row in split.token_type_ids for t in row} == {0, 1}
    assert set(read_tokenized("tiny", "test").labels) == {-1}


def make_pairs_of_numbers(here: Here, values: list[str]) -> None:
    """The dataset `toy` becomes pairs, whose labels are in turn those of `values`."""
    toy: dict[str, Any] = {"sources": [{"folder": "data/toy"}], "columns": ["one", "two"]}
    toy |= {"labels": [], "scale": [0, 5], "metrics": ["pearson"]}
    for split, rows in (("train", 40), ("validation", 20)):
        texts = [line.split("\t")[0] for line in pocket_lines(split, 2 * rows)]
        pairs = zip(texts[::2], texts[1::2], strict=True)
        lines = [f"{a}\t{b}\t{values[i % len(values)]}" for i, (a, b) in enumerate(pairs)]
        path = here.path / f"data/toy/{split}.tsv"
        path.write_text("\n".join(["one\ttwo\tlabel", *lines]) + "\n")
        toy[split] = {"file": path.name, "rows": rows, **pin(path)}
    here.edit("catalog.yaml", lambda data: data["datasets"].update(toy=toy))


def test_pairs_and_numbers_go_through_the_stages_to_their_metric(here: Here) -> None:
    values = ["0.000", "2.923", "3.800", "5.000"]
    make_pairs_of_numbers(here, values)
    for stage in ("check", "download_dataset"):
        here.stage(stage)
    here.stage("download_model", "--model", "tiny", "--files", "weights")
    here.stage("tokenize_text", "--model", "tiny")
    for stage in ("finetune", "evaluate"):
        here.stage(stage, "--model", "tiny", "--seed", "1")
    lines = (here.path / "predictions/tiny-1.csv").read_text().splitlines()
    labels = [float(line.split(",")[1]) for line in lines[1:]]
    assert labels == [float(value) for value in values] * 5
    assert "pearson" in here.json("predictions/tiny-1.json")["metrics"]
    assert len(here.json("models/finetuned/tiny-1/config.json")["id2label"]) == 1
