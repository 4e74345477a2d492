"""The stage compare: what it writes from the runs in git, and that nothing there can stop it."""

import csv
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, load_yaml
from stages import compare
from toy_results import inside, toy_results

ALL = {model: [1, 2, 3, 4, 5] for model in ("distilbert", "bert", "minilm")}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with every run but three, compared."""
    runs = {**ALL, "minilm": [1, 2]}
    folder = toy_results(
        tmp_path_factory.mktemp("compare") / "toy", runs,
        device=lambda model, seed: "cuda" if (model, seed) == ("bert", 5) else "cpu",
    )  # fmt: skip
    run(folder)
    return folder


def run(folder: Path) -> None:
    """The stage's main in this process and in `folder`."""
    with pytest.MonkeyPatch.context() as patch, inside(folder):
        patch.setattr(os, "environ", os.environ.copy())  # the stage switches the Hub off
        patch.setattr(sys, "argv", ["compare"])
        compare.main()


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / "metrics" / name).read_text(encoding="utf-8"))


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "plots" / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def numbers_and_texts(data: Any) -> int:
    """What DVC makes a column of: every number and text of a metrics file, but of its lists."""
    if isinstance(data, dict):
        return sum(map(numbers_and_texts, data.values()))
    return 0 if isinstance(data, list) else 1


def test_the_metrics_file_has_a_column_a_model_and_few_more(done: Path) -> None:
    accuracy = read(done, "accuracy.json")
    assert set(ALL) <= set(accuracy)
    assert numbers_and_texts(accuracy) == 7
    params = load_yaml(ROOT / "params.yaml")
    lists = 3  # models, seeds and the like: a column each
    assert numbers_and_texts(params) + lists + numbers_and_texts(accuracy) <= 60


def test_the_median_is_that_of_the_predictions(done: Path) -> None:
    correct = []
    for seed in (1, 2, 3, 4, 5):
        rows = list(csv.DictReader((done / f"predictions/bert-{seed}.csv").open()))
        correct.append(sum(row["label"] == row["predicted"] for row in rows))
    median = sorted(100 * count / len(rows) for count in correct)[2]
    assert read(done, "accuracy.json")["bert"] == round(median, 2)


def test_the_same_runs_give_the_same_bytes(done: Path) -> None:
    files = [*sorted((done / "metrics").glob("*.*")), *sorted((done / "plots").iterdir())]
    before = {path: path.read_bytes() for path in files}
    run(done)
    assert {path: path.read_bytes() for path in files} == before


def test_results_are_one_table_of_claims_in_two_languages(done: Path) -> None:
    english, portuguese = (
        (done / "metrics" / name).read_text(encoding="utf-8")
        for name in ("results.md", "results.pt-BR.md")
    )
    assert english.count("\n| --- ") == portuguese.count("\n| --- ") == 1
    verdicts = [claim["verdict"] for claim in read(done, "claims.json")["claims"].values()]
    assert english.count("**") == 2 * (len(verdicts) - verdicts.count("not run"))
    english, portuguese = english.replace("\n", " "), portuguese.replace("\n", " ")
    assert "DistilBERT keeps 98.49 %" in english and "mantém 98,49%" in portuguese
    assert "Not run, because no stage measures it" in english and "207 MB" in english
    assert "(n = 5, cpu fp32 + cuda fp32)" in english, "bert's seeds are of two kinds of device"


def test_the_charts_have_a_line_a_seed_and_the_classes_names(done: Path) -> None:
    assert len(table(done, "score_by_seed.csv")) == 12
    assert {(row["model"], row["seed"]) for row in table(done, "loss.csv")} == {
        (model, str(seed)) for model, seeds in {**ALL, "minilm": [1, 2]}.items() for seed in seeds
    }
    confusion = table(done, "confusion.csv")
    assert {row["label"] for row in confusion} == {"NEGATIVE", "POSITIVE"}
    assert sum(int(row["count"]) for row in confusion) == 12 * 120


def test_no_table_that_a_stage_writes_for_each_run_is_a_chart() -> None:
    """DVC draws one of every CSV and TSV under a stage's `plots`."""
    stages = load_yaml(ROOT / "dvc.yaml")["stages"].values()
    outputs = [name for stage in stages for output in stage.get("plots", []) for name in output]
    assert outputs and all(name.endswith(".json") for name in outputs)


def change(**sections: Any) -> Callable[[Any], object]:
    return lambda params: [params[name].update(new) for name, new in sections.items()]


def test_runs_of_two_recipes_are_not_one_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another warm-up, and only seed 2 run again with it."""
    folder = toy_results(tmp_path / "toy", {"bert": [1, 2, 3]})
    old = {path: path.read_bytes() for path in (folder / "predictions").iterdir()}
    new = toy_results(tmp_path / "new", {"bert": [2]}, params=change(finetune={"warmup_steps": 9}))
    for path, content in old.items():
        if "bert-2" not in path.name:
            (new / "predictions" / path.name).write_bytes(content)
    run(new)
    assert read(new, "accuracy.json")["seeds"][5:9] == [
        "bert-1: not run (other recipe)", f"bert-2: {read(new, 'accuracy.json')['bert']:.2f}",
        "bert-3: not run (other recipe)", "bert-4: not run",
    ]  # fmt: skip
    assert "bert-1: not run (other recipe): recipe " in capsys.readouterr().out


def pocket(params: Any) -> None:
    params.update(dataset="pocket", models=["minilm"])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "options",
    [
        {"runs": {}},
        {"runs": {}, "speed": False},
        {"runs": {"bert": [1]}, "sentences": 1},
        {"runs": {"bert": [1, 2], "distilbert": [1]}, "metric": "pearson"},
        {"runs": {"bert": [1]}, "metric": "pearson", "sentences": 1},
        {"runs": {"bert": [1]}, "classes": 3, "params": lambda p: p.update(dataset="mnli")},
        {"runs": {"bert": [1]}, "params": change(selection={"holdout": 4000, "train": 9})},
        {"runs": {"minilm": [1]}, "params": pocket},
    ],
    ids=[
        "no run",
        "no speed",
        "one sentence",
        "numbers",
        "one number",
        "three classes",
        "held out",
        "pocket",
    ],
)
def test_whatever_was_run_is_compared(tmp_path: Path, options: dict[str, Any]) -> None:
    undefined = "metric" in options and "sentences" in options
    folder = toy_results(tmp_path / "toy", options.pop("runs"), **options)
    run(folder)
    claims = read(folder, "claims.json")
    assert ("bert-1: not defined" in read(folder, "accuracy.json")["seeds"]) == undefined
    assert (claims["sentences"] == "not run") == (not (folder / "predictions").exists())
    for name in ("score_by_seed", "loss", "confusion"):
        assert table(folder, f"{name}.csv"), "DVC warns of a table without a row"
