"""Files for GLUE's server: their form, and whose predictions they hold."""

import csv
import shutil

import pytest
import torch

from conftest import ROOT, Repository
from reproduce.inputs.catalog import read_dataset
from tools.submission import FILES, IN_WORDS, submission_tsv


@pytest.mark.parametrize(
    ("dataset", "names", "answers"),
    [
        ("sst2", ["NEGATIVE", "POSITIVE"], ["0", "1"]),
        ("rte", ["entailment", "not_entailment"], ["entailment", "not_entailment"]),
    ],
)
def test_classes_are_numbers_or_words(dataset: str, names: list[str], answers: list[str]) -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    text = submission_tsv(dataset, logits, names, None)
    assert text == f"index\tprediction\n0\t{answers[0]}\n1\t{answers[1]}\n"


def test_numbers_have_three_decimals_and_stay_on_the_scale() -> None:
    numbers = torch.tensor([[-0.5], [2.34567], [7.0]])
    text = submission_tsv("stsb", numbers, [], (0.0, 5.0))
    assert text == "index\tprediction\n0\t0.000\n1\t2.346\n2\t5.000\n"


@pytest.mark.parametrize("name", FILES)
def test_every_task_has_a_test_set_and_the_servers_words(name: str) -> None:
    dataset = read_dataset(name, ROOT / "catalog.yaml")
    assert dataset.test
    assert bool(dataset.test_mismatched) == (name == "mnli")
    if name in IN_WORDS:
        assert set(dataset.labels) <= {"entailment", "neutral", "contradiction", "not_entailment"}


def as_sst2(copy: Repository) -> None:
    """Call the toy data SST-2, and its validation sentences the test set."""
    copy.edit(
        "catalog.yaml",
        lambda c: c["datasets"].update(
            sst2={**c["datasets"]["toy"], "test": c["datasets"]["toy"]["validation"]}
        ),
    )
    copy.edit("params.yaml", lambda p: p.update(dataset="sst2"))
    tokenized = copy.path / "data/tokenized/tiny"
    shutil.copyfile(tokenized / "validation.parquet", tokenized / "test.parquet")


def submit(copy: Repository, model: str, code: int) -> str:
    done = copy.run("python", "-m", "tools.submission", f"--model={model}", ok=False)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_file_holds_the_models_own_predictions(copy: Repository) -> None:
    as_sst2(copy)
    assert "submission/SST-2.tsv: 24 predictions of tiny-1" in submit(copy, "tiny", 0)
    with (copy.path / "submission/SST-2.tsv").open(newline="") as file:
        answers = list(csv.reader(file, delimiter="\t"))
    with (copy.path / "predictions/tiny-1.csv").open(newline="") as file:
        predicted = [row["predicted"] for row in csv.DictReader(file)]
    assert answers == [["index", "prediction"], *([str(i), x] for i, x in enumerate(predicted))]
    assert copy.run("git", "status", "--porcelain", "submission").stdout == ""


@pytest.mark.slow
def test_what_cannot_be_submitted_is_refused(copy: Repository) -> None:
    assert "dataset toy has no test set on GLUE's server" in submit(copy, "tiny", 1)
    as_sst2(copy)
    for model in ("bert", "", "../x"):
        assert "params.yaml has tiny" in submit(copy, model, 1)
    (copy.path / "data/tokenized/tiny/test.parquet").unlink()
    assert "test.parquet is missing" in submit(copy, "tiny", 1)
    assert not (copy.path / "submission").exists()
