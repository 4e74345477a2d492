"""The result of a run: what is written is read back, and only a result of today's recipe counts."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Here
from reproduce.params import read_yaml
from reproduce.verdict.runs import NotRun, Part, Run, read_run, read_runs, write_run
from toy_results import toy_results

CLASSES = Run(
    "bert", 1, "0123456789abcdef", "sst2", "validation", ("accuracy", "f1"),
    ("predicted", 'no, "x"'), "cuda", "bf16", "A GPU", "f" * 64,
    Part(np.array([0, 1, 1]), np.array([[0.1, -2.5], [1e-7, 3.4028235e38], [5, 4]], np.float32)),
)  # fmt: skip
TWO_SETS = replace(CLASSES, mismatched=Part(np.array([1, 0]), np.zeros((2, 2), np.float32)))
NUMBERS = replace(
    CLASSES, metrics=("pearson",), labels=(),
    validation=Part(np.array([2.923, 5.0, 0.1]), np.array([[1 / 3], [-0.5], [1e-9]])),
)  # fmt: skip


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read_again(run: Run) -> Run | NotRun:
    return read_run(run.model, run.seed, run.recipe, run.dataset, run.split)


def every_bit(part: Part | None) -> list[Any]:
    arrays = (part.labels, part.logits) if part else ()
    return [(array.dtype, array.shape, array.tobytes()) for array in arrays]


@pytest.mark.parametrize("run", [CLASSES, NUMBERS, TWO_SETS], ids=["classes", "numbers", "two"])
def test_a_run_reads_back_as_it_was(run: Run) -> None:
    write_run(run)
    again = read_again(run)
    assert isinstance(again, Run)
    assert every_bit(again.validation) == every_bit(run.validation)
    assert every_bit(again.mismatched) == every_bit(run.mismatched)
    assert replace(again, validation=run.validation, mismatched=run.mismatched) == run


def test_a_file_by_hand() -> None:
    path = write_run(CLASSES)
    assert path.read_text().splitlines() == [
        'index,label,predicted,predicted,"no, ""x"""',
        "0,0,0,0.1,-2.5",
        "1,1,1,1e-07,3.4028235e+38",
        "2,1,0,5.0,4.0",
    ]
    about = json.loads(path.with_suffix(".json").read_text())
    del about["csv"]
    assert about == {
        "recipe": "0123456789abcdef", "dataset": "sst2", "split": "validation", "model": "bert",
        "seed": 1, "metrics": ["accuracy", "f1"], "labels": ["predicted", 'no, "x"'], "n": 3,
        "device": "cuda", "precision": "bf16", "evaluated_on": "A GPU", "sentences": "f" * 64,
    }  # fmt: skip


def test_windows_line_ends_are_no_change() -> None:
    path = write_run(CLASSES)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert isinstance(read_again(CLASSES), Run)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"recipe": "fedcba9876543210"}, "other recipe"),
        ({"dataset": "rte"}, "other data set"),
        ({"split": "held out of train"}, "other data set"),
    ],
)
def test_a_result_of_something_else_is_not_run(change: dict[str, Any], why: str) -> None:
    assert read_again(CLASSES) == NotRun("bert-1", "absent")
    write_run(replace(CLASSES, **change))
    found = read_again(CLASSES)
    assert isinstance(found, NotRun) and str(found) == f"not run ({why})"
    assert str(next(iter(change.values()))) in found.detail


def edit(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "an answer was changed": lambda p: edit(p, p.read_text().replace("0,0,0,", "0,1,0,")),
    "a line is missing": lambda p: edit(p, "\n".join(p.read_text().splitlines()[:-1])),
    "the CSV is missing": lambda p: p.unlink(),
    "the JSON is none": lambda p: edit(p.with_suffix(".json"), "<<<<<<< HEAD"),
    "the JSON lacks a key": lambda p: edit(p.with_suffix(".json"), '{"dataset": "sst2"}'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_result_is_not_run_and_named(damage: Callable[[Path], object]) -> None:
    damage(write_run(CLASSES))
    found = read_again(CLASSES)
    assert isinstance(found, NotRun) and found.why == "damaged"
    assert "predictions/bert-1" in found.detail


# --- all runs of an experiment -------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """Three runs, in the working directory."""
    made = toy_results(tmp_path / "toy", {"distilbert": [1, 2], "bert": [1]}, sentences=30)
    monkeypatch.chdir(made.path)
    return made


def all_runs() -> dict[str, Run | NotRun]:
    by_model = read_runs(read_yaml(Path("params.yaml")))
    found = {f"{model}-{seed}": run for model in by_model for seed, run in by_model[model].items()}
    return {name: run for name, run in found.items() if run != NotRun(name, "absent")}


def test_results_of_another_recipe_do_not_count(project: Here) -> None:
    project.edit("params.yaml", lambda p: p["tasks"]["sst2"].update(epochs=1))
    assert [str(run) for run in all_runs().values()] == ["not run (other recipe)"] * 3


def test_a_run_is_scored_by_today_s_metrics(project: Here) -> None:
    project.edit("catalog.yaml", lambda c: c["datasets"]["sst2"].update(metrics=["f1"]))
    run = all_runs()["bert-1"]
    assert isinstance(run, Run) and run.score == 100 * run.measured["f1"]


def test_a_run_over_other_classes_does_not_count(project: Here) -> None:
    labels = ["no", "yes", "perhaps"]
    project.edit("catalog.yaml", lambda c: c["datasets"]["sst2"].update(labels=labels))
    assert {str(run) for run in all_runs().values()} == {"not run (other data set)"}


def test_a_run_over_other_sentences_does_not_count(project: Here) -> None:
    run = all_runs()["bert-1"]
    assert isinstance(run, Run)
    write_run(replace(run, sentences="1" * 64))
    found = all_runs()
    assert isinstance(found["distilbert-1"], Run) and isinstance(found["distilbert-2"], Run)
    assert str(found["bert-1"]) == "not run (other sentences)"
