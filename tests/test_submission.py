"""Files for GLUE's server: their form, and whose predictions they hold."""

import contextlib
import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from conftest import ROOT, Repository, load_yaml, run_here
from reproduce.inputs.catalog import read_dataset
from reproduce.params import read_yaml
from reproduce.verdict.runs import recipe_of
from tools.submission import FILES, IN_WORDS, submission_tsv


@pytest.mark.parametrize(
    ("dataset", "logits", "scale", "answers"),
    [
        ("sst2", [[2.0, 1.0], [0.0, 3.0]], None, ["0", "1"]),
        ("rte", [[2.0, 1.0], [0.0, 3.0]], None, ["no", "yes"]),
        ("stsb", [[-0.5], [2.34567], [7.0]], (0.0, 5.0), ["0.000", "2.346", "5.000"]),
    ],
    ids=["numbers of classes", "words", "on a scale"],
)
def test_the_form_of_the_answers(
    dataset: str, logits: list[list[float]], scale: tuple[float, float] | None, answers: list[str]
) -> None:
    text = submission_tsv(dataset, torch.tensor(logits), ["no", "yes"], scale)
    rows = [f"{i}\t{answer}\n" for i, answer in enumerate(answers)]
    assert text == "index\tprediction\n" + "".join(rows)


@pytest.mark.parametrize("name", FILES)
def test_every_task_has_a_test_set_and_the_servers_words(name: str) -> None:
    dataset = read_dataset(name, ROOT / "catalog.yaml")
    assert dataset.test
    assert bool(dataset.test_mismatched) == (name == "mnli")
    if name in IN_WORDS:
        assert set(dataset.labels) <= {"entailment", "neutral", "contradiction", "not_entailment"}


def as_sst2(copy: Repository) -> None:
    """Call the toy data SST-2, and its validation sentences the test set."""
    toy = load_yaml(copy.path / "catalog.yaml")["datasets"]["toy"]
    toy["test"] = {**toy["validation"], "file": "test.tsv"}
    copy.edit("catalog.yaml", lambda c: c["datasets"].update(sst2=toy))
    copy.edit("params.yaml", lambda p: p.update(dataset="sst2"))
    with contextlib.chdir(copy.path):
        today = recipe_of(read_yaml(Path("params.yaml")), "tiny", 1)
    changes = {"data/dataset.json": {"dataset": "sst2"}}
    changes["environment/tiny-1.json"] = {"recipe": today}
    for file, change in changes.items():
        (copy.path / file).write_text(json.dumps(copy.json(file) | change))
    tokenized = copy.path / "data/tokenized/tiny"
    shutil.copyfile(tokenized / "validation.parquet", tokenized / "test.parquet")


def submit(copy: Repository, model: str, code: int) -> str:
    """Run the command in this process; what it says."""
    done = run_here(copy.path, copy.env, "tools.submission", f"--model={model}")
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_the_file_holds_the_models_own_predictions(copy: Repository) -> None:
    as_sst2(copy)
    assert "submission/SST-2.tsv: 24 predictions of tiny-1" in submit(copy, "tiny", 0)
    with (copy.path / "predictions/tiny-1.csv").open(newline="") as file:
        predicted = [row["predicted"] for row in csv.DictReader(file)]
    rows = ["index\tprediction", *(f"{i}\t{answer}" for i, answer in enumerate(predicted))]
    assert (copy.path / "submission/SST-2.tsv").read_text().splitlines() == rows
    assert copy.run("git", "status", "--porcelain", "submission").stdout == ""


def test_what_cannot_be_submitted_is_refused(copy: Repository) -> None:
    assert "dataset toy has no test set on GLUE's server" in submit(copy, "tiny", 1)
    as_sst2(copy)
    for model in ("bert", "", "../x"):
        assert "params.yaml has tiny" in submit(copy, model, 1)
    (copy.path / "data/tokenized/tiny/test.parquet").unlink()
    assert "test.parquet is missing" in submit(copy, "tiny", 1)
    copy.edit("params.yaml", lambda p: p["finetune"].update(epochs=1))
    assert "is not of today's params.yaml" in submit(copy, "tiny", 1)
    assert not (copy.path / "submission").exists()
