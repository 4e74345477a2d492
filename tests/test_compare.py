"""The stage compare: what it writes from the runs in git, and that nothing there can stop it."""

import csv
import statistics
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, Here, load_yaml
from reproduce.verdict.runs import recipe_of
from toy_results import change_json, toy_results

RUNS = {"distilbert": [1, 2, 3, 4, 5], "bert": [1, 2, 3, 4, 5], "minilm": [1, 2]}
TABLES = ("score_by_seed", "loss", "confusion")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Here:
    """A project with every run but three, compared."""
    project = toy_results(
        tmp_path_factory.mktemp("compare") / "toy", RUNS,
        device=lambda model, seed: "cuda" if (model, seed) == ("bert", 5) else "cpu",
    )  # fmt: skip
    project.stage("compare")
    return project


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def columns(data: Any) -> int:
    """How many columns DVC makes of a mapping: one of every number, text and list."""
    return sum(map(columns, data.values())) if isinstance(data, dict) else 1


def test_the_metrics_file_has_a_column_a_model_and_few_more(compared: Here) -> None:
    accuracy = compared.json("metrics/accuracy.json")
    assert set(RUNS) <= set(accuracy)
    shown = columns(accuracy) - 2  # `seeds` and `verdicts`: of lists in metrics DVC makes none
    assert shown == 7
    assert columns(load_yaml(ROOT / "params.yaml")) + shown <= 60


def test_the_median_is_that_of_the_predictions(compared: Here) -> None:
    scores = []
    for seed in RUNS["bert"]:
        rows = rows_of(compared.path / f"predictions/bert-{seed}.csv")
        scores.append(100 * statistics.fmean(row["label"] == row["predicted"] for row in rows))
    assert compared.json("metrics/accuracy.json")["bert"] == round(statistics.median(scores), 2)


def test_the_same_runs_give_the_same_bytes(compared: Here) -> None:
    files = [*compared.path.glob("metrics/*.*"), *compared.path.glob("plots/*")]
    before = {path: path.read_bytes() for path in files}
    compared.stage("compare")
    assert {path: path.read_bytes() for path in files} == before


def test_results_are_one_table_of_claims_in_two_languages(compared: Here) -> None:
    english, portuguese = (
        (compared.path / "metrics" / name).read_text(encoding="utf-8")
        for name in ("results.md", "results.pt-BR.md")
    )
    assert english.count("\n| --- ") == portuguese.count("\n| --- ") == 1
    claims = compared.json("metrics/claims.json")["claims"].values()
    with_verdict = [claim for claim in claims if claim["verdict"] != "not run"]
    assert english.count("**") == 2 * len(with_verdict)
    english, portuguese = english.replace("\n", " "), portuguese.replace("\n", " ")
    assert "DistilBERT keeps 98.49 %" in english and "mantém 98,49%" in portuguese
    assert "Not run, because no stage measures them" in english and "207 MB" in english
    assert "(n = 5, cpu fp32 + cuda fp32)" in english, "bert's seeds are of two kinds of device"


def test_the_charts_have_a_line_a_seed_and_the_classes_names(compared: Here) -> None:
    scores, losses, counts = (rows_of(compared.path / f"plots/{name}.csv") for name in TABLES)
    assert len(scores) == 12
    runs = {(model, str(seed)) for model, seeds in RUNS.items() for seed in seeds}
    assert {(row["model"], row["seed"]) for row in losses} == runs
    assert {row["label"] for row in counts} == {"NEGATIVE", "POSITIVE"}
    assert sum(int(row["count"]) for row in counts) == 12 * 120


def test_runs_of_two_recipes_are_not_one_study(tmp_path: Path) -> None:
    """Another warm-up, and only seed 2 run again with it."""
    project = toy_results(tmp_path / "toy", {"bert": [1, 2, 3]})
    project.edit("params.yaml", lambda p: p["finetune"].update(warmup_steps=9))
    with chdir(project.path):
        recipe = recipe_of(load_yaml(Path("params.yaml")), "bert", 2)
    change_json(project.path / "predictions/bert-2.json", recipe=recipe)
    printed = project.stage("compare").stdout
    accuracy = project.json("metrics/accuracy.json")
    assert accuracy["seeds"][5:9] == [
        "bert-1: not run (other recipe)", f"bert-2: {accuracy['bert']:.2f}",
        "bert-3: not run (other recipe)", "bert-4: not run",
    ]  # fmt: skip
    assert "bert-1: not run (other recipe): recipe " in printed


CASES: dict[str, dict[str, Any]] = {
    "nothing": {"runs": {}, "speed": False},
    "one number": {"runs": {"bert": [1]}, "dataset": "stsb", "sentences": 1},
    "pocket": {
        "runs": {"minilm": [1]},
        "dataset": "pocket",
        "params": lambda p: p.update(models=["minilm"]),
    },
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", CASES)
def test_whatever_was_run_is_compared(tmp_path: Path, case: str) -> None:
    project = toy_results(tmp_path / "toy", **CASES[case])
    project.stage("compare")
    seeds = project.json("metrics/accuracy.json")["seeds"]
    assert ("bert-1: not defined" in seeds) == (case == "one number")
    assert (project.json("metrics/claims.json")["sentences"] == "not run") == (case == "nothing")
    for name in TABLES:
        assert rows_of(project.path / f"plots/{name}.csv"), "DVC warns of a table without a row"
