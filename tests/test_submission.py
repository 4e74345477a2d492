"""Files for GLUE's server: which run they come from, and their form."""

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import ROOT, Repository
from reproduce.files import UserError
from reproduce.inputs.catalog import Dataset
from reproduce.params import read_yaml, validate
from tools.submission import TASKS, check_format, median_seed, submission_tsv

pytestmark = pytest.mark.usefixtures("warm")

SST2, RTE, STSB = TASKS["sst2", "test"], TASKS["rte", "test"], TASKS["stsb", "test"]


@pytest.mark.parametrize(
    ("scores", "seed"),
    [
        ({1: 0.9}, 1),
        ({1: 0.3, 2: 0.1, 3: 0.2}, 3),
        ({1: 0.4, 2: 0.1, 3: 0.3, 4: 0.2}, 4),  # between 0.2 and 0.3
        ({5: 0.2, 4: 0.2, 3: 0.1, 2: 0.2, 1: 0.3}, 2),  # three share the median
    ],
)
def test_the_median_run(scores: dict[int, float], seed: int) -> None:
    assert median_seed(scores) == seed


def test_the_form_of_each_kind_of_answer() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    assert submission_tsv(logits, SST2, None) == "index\tprediction\n0\t0\n1\t1\n"
    assert (
        submission_tsv(logits, RTE, None) == "index\tprediction\n0\tentailment\n1\tnot_entailment\n"
    )
    numbers = torch.tensor([[-0.5], [2.34567], [7.0]])
    assert (
        submission_tsv(numbers, STSB, (0.0, 5.0))
        == "index\tprediction\n0\t0.000\n1\t2.346\n2\t5.000\n"
    )


@pytest.mark.parametrize(
    "lines",
    [
        ["index\tlabel", "0\t0", "1\t1"],
        ["index\tprediction", "0\t0"],
        ["index\tprediction", "0\t0", "2\t1"],
        ["index\tprediction", "0\t0", "1\tPOSITIVE"],
        ["index\tprediction", "0\t0", "1"],
        ["index\tprediction", "0\t0", "1\t1", "2\t1"],
        [],
    ],
)
def test_what_the_server_would_refuse_is_deleted(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "SST-2.tsv"
    path.write_text("index\tprediction\n0\t0\n1\t1\n")
    check_format(path, SST2, 2)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="not 2 answers in order"):
        check_format(path, SST2, 2)
    assert not path.exists()


def test_tasks_fit_the_catalog() -> None:
    """As many answers as classes, and where the catalog has the server's names, in the same order."""
    entries = read_yaml(ROOT / "catalog.yaml")["datasets"]
    compared = 0
    for (name, split), task in TASKS.items():
        if name in entries:
            dataset = validate(Dataset, entries[name], name)
            assert getattr(dataset, split) is not None and len(task.answers) == len(dataset.labels)
            if set(task.answers) == set(dataset.labels):
                assert task.answers == dataset.labels
            compared += 1
    assert compared >= 1


def as_sst2(copy: Repository) -> None:
    """Call the toy data SST-2, its validation sentences the test set, and say so in what the run left."""
    copy.edit(
        "catalog.yaml",
        lambda c: c["datasets"].update(
            sst2={**c["datasets"]["toy"], "test": c["datasets"]["toy"]["validation"]}
        ),
    )
    copy.edit("params.yaml", lambda p: p.update(dataset="sst2"))
    run = copy.path / "metrics/runs/tiny-1.json"
    run.write_text(json.dumps({**copy.json("metrics/runs/tiny-1.json"), "dataset": "sst2"}))
    shutil.copyfile(
        copy.path / "data/tokenized/tiny/validation.parquet",
        copy.path / "data/tokenized/tiny/test.parquet",
    )


def submit(copy: Repository, model: str = "tiny", ok: bool = True) -> Any:
    return copy.run(sys.executable, "-m", "tools.submission", "--model", model, ok=ok)


def test_the_file_holds_the_models_own_predictions(copy: Repository) -> None:
    as_sst2(copy)
    copy.edit("params.yaml", lambda p: p.update(seeds=[1, 2]))
    done = submit(copy)
    assert "tiny-1 has the median validation score of 1 of 2 seeds" in done.stdout
    assert "submission/SST-2.tsv: 24 predictions" in done.stdout and "Next: " in done.stdout
    with (copy.path / "submission/SST-2.tsv").open(newline="") as file:
        answers = list(csv.reader(file, delimiter="\t"))
    with (copy.path / "predictions/tiny-1.csv").open(newline="") as file:
        expected = [row["predicted"] for row in csv.DictReader(file)]
    assert answers == [
        ["index", "prediction"],
        *([str(i), label] for i, label in enumerate(expected)),
    ]
    assert copy.run("git", "status", "--porcelain", "submission").stdout == ""


def test_what_cannot_be_submitted_is_refused(copy: Repository) -> None:
    def refused(model: str = "tiny") -> str:
        done = submit(copy, model, ok=False)
        assert (
            done.returncode == 1
            and "Traceback" not in done.stderr
            and not (copy.path / "submission").exists()
        )
        return str(done.stderr)

    assert "dataset toy has no test set on GLUE's server; these have: cola, mnli, " in refused()
    as_sst2(copy)
    assert "model 'bert' is not one of params.yaml's: tiny." in refused("bert")
    (copy.path / "data/tokenized/tiny/test.parquet").unlink()
    assert (
        "data/tokenized/tiny/test.parquet is missing. Run `dvc repro evaluate@tiny-1`" in refused()
    )
    run = copy.path / "metrics/runs/tiny-1.json"
    run.write_text(
        json.dumps({**copy.json("metrics/runs/tiny-1.json"), "split": "held out of train"})
    )
    assert "expected a score on the validation set of sst2" in refused()
    run.unlink()
    assert "no run of tiny on sst2 in metrics/runs" in refused()
