"""The result of a run: what is written is read back, and only a result of today's recipe counts."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import dump_yaml, load_yaml
from reproduce.params import read_yaml
from reproduce.verdict.runs import (
    NotRun,
    Part,
    Run,
    read_run,
    read_runs,
    recipe_of,
    write_run,
)
from toy_results import inside, toy_results

CLASSES = Run(
    "bert", 1, "0123456789abcdef", "sst2", "validation", ("accuracy", "f1"),
    ("predicted", 'no, "x"'), "cuda", "bf16", "A GPU", "f" * 64,
    Part(np.array([0, 1, 1]), np.array([[0.1, -2.5], [1e-7, 3.4028235e38], [5, 4]], np.float32)),
)  # fmt: skip
NUMBERS = replace(
    CLASSES, metrics=("pearson",), labels=(),
    validation=Part(np.array([2.923, 5.0, 0.1]), np.array([[1 / 3], [-0.5], [1e-9]])),
)  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_again(run: Run) -> Run | NotRun:
    return read_run(run.model, run.seed, run.recipe, run.dataset, run.split)


@pytest.mark.parametrize("run", [CLASSES, NUMBERS], ids=["classes", "numbers"])
def test_a_run_reads_back_as_it_was(here: Path, run: Run) -> None:
    write_run(run)
    again = read_again(run)
    assert isinstance(again, Run)
    for name in ("labels", "logits"):
        one, other = (getattr(each.validation, name) for each in (run, again))
        assert one.tobytes() == other.tobytes() and one.dtype == other.dtype, name
    assert replace(again, validation=run.validation) == run


def test_a_file_by_hand(here: Path) -> None:
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


def test_a_second_validation_set_has_its_own_metrics(here: Path) -> None:
    mismatched = Part(np.array([1, 1]), np.array([[0, 1], [0, 1]], np.float32))
    write_run(replace(CLASSES, mismatched=mismatched))
    again = read_again(CLASSES)
    assert isinstance(again, Run) and again.mismatched is not None
    assert again.measured["correct"] == 2
    assert [len(part.labels) for part in (again.validation, again.mismatched)] == [3, 2]


def test_windows_line_ends_are_no_change(here: Path) -> None:
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
def test_a_result_of_something_else_is_not_run(here: Path, change: Any, why: str) -> None:
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
def test_a_damaged_result_is_not_run_and_named(here: Path, damage: Callable[[Path], Any]) -> None:
    damage(write_run(CLASSES))
    found = read_again(CLASSES)
    assert isinstance(found, NotRun) and found.why == "damaged"
    assert "predictions/bert-1" in found.detail


def test_without_files_a_run_is_absent(here: Path) -> None:
    assert read_again(CLASSES) == NotRun("bert-1", "absent")


# --- all runs of an experiment -------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return toy_results(tmp_path / "toy", {"distilbert": [1, 2], "bert": [1]}, sentences=30)


def states(project: Path) -> dict[str, str]:
    with inside(project):
        runs = read_runs(read_yaml(Path("params.yaml")))
    return {
        f"{model}-{seed}": "ran" if isinstance(run, Run) else str(run)
        for model, by_seed in runs.items()
        for seed, run in by_seed.items()
        if isinstance(run, Run) or run.why != "absent"
    }


CHANGES: dict[str, Callable[[Any], Any]] = {
    "another warm-up": lambda p: p["finetune"].update(warmup_steps=100),
    "fewer tokens": lambda p: p["tokenize"].update(max_length=64),
    "fewer epochs on this task": lambda p: p["tasks"]["sst2"].update(epochs=1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_results_of_another_recipe_do_not_count(project: Path, change: Any) -> None:
    params = load_yaml(project / "params.yaml")
    change(params)
    dump_yaml(project / "params.yaml", params)
    assert set(states(project).values()) == {"not run (other recipe)"}


def test_a_run_is_scored_by_today_s_metrics(project: Path) -> None:
    catalog = load_yaml(project / "catalog.yaml")
    catalog["datasets"]["sst2"]["metrics"] = ["f1"]
    dump_yaml(project / "catalog.yaml", catalog)
    with inside(project):
        run = read_runs(read_yaml(Path("params.yaml")))["bert"][1]
    assert isinstance(run, Run) and run.score == 100 * run.measured["f1"]


def test_a_run_over_other_sentences_does_not_count(project: Path) -> None:
    with inside(project):
        recipe = recipe_of(load_yaml(Path("params.yaml")), "bert", 1)
        run = read_run("bert", 1, recipe, "sst2", "validation")
        assert isinstance(run, Run)
        write_run(replace(run, sentences="1" * 64))
    assert states(project) == {
        "distilbert-1": "ran", "distilbert-2": "ran", "bert-1": "not run (other sentences)"
    }  # fmt: skip
