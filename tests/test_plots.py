"""What people look at: dvc plots shows the files, and only those that exist; make table shows every experiment."""

import csv
import json
from pathlib import Path
from typing import Any

from conftest import ROOT, Repository

SEEDS = """model,seed,accuracy,low,high,published
distilbert,1,90.90,88.81,92.63,91.30
bert,1,92.55,90.61,94.11,92.70
minilm,1,89.45,87.23,91.32,
"""


def points(shown: dict[str, Any], name: str) -> list[dict[str, str]]:
    """The data points of a plot, without the revision that DVC adds."""
    (plot,) = shown["data"][name]
    content = plot["content"] if isinstance(plot["content"], dict) else json.loads(plot["content"])
    return [
        {key: value for key, value in point.items() if key not in ("rev", "filename", "field")}
        for point in content["data"]["values"]
    ]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def test_every_plot_shows_its_file(copy: Repository) -> None:
    by_seed = copy.path / "plots/accuracy_by_seed.csv"
    by_seed.unlink(missing_ok=True)
    by_seed.write_text(SEEDS)
    done = copy.run("dvc", "plots", "show", "--json")
    shown = json.loads(done.stdout)
    curves = [f"plots/curves/tiny-1/plots/metrics/{name}.tsv" for name in ("learning_rate", "loss")]
    assert set(shown["data"]) == {*curves, "predictions/tiny-1.csv", "plots/accuracy_by_seed.csv"}
    assert not shown.get("errors") and "failed" not in done.stderr
    for name in shown["data"]:
        assert points(shown, name) == table(copy.path / name) != [], name


def test_a_missing_file_breaks_nothing(copy: Repository) -> None:
    for name in ("plots/accuracy_by_seed.csv", "predictions/tiny-1.csv"):
        (copy.path / name).unlink(missing_ok=True)
    shown = json.loads(copy.run("dvc", "plots", "show", "--json").stdout)
    assert len(points(shown, "plots/curves/tiny-1/plots/metrics/loss.tsv")) == 12


def test_the_template_draws_every_column() -> None:
    template = json.loads((ROOT / ".dvc/plots/accuracy_by_seed.json").read_text())
    drawn = {
        channel["field"]
        for layer in template["spec"]["layer"]
        for channel in layer["encoding"].values()
    }
    assert drawn == {"<DVC_METRIC_X>", "<DVC_METRIC_Y>", "model", "low", "high", "published"}


def test_the_table_shows_every_experiment(copy: Repository) -> None:
    """An experiment is a commit under refs/exps; this one is HEAD with other epochs."""
    copy.edit("params.yaml", lambda p: p["finetune"].update(epochs=7))
    base, tree = (
        copy.run("git", *arguments).stdout.strip()
        for arguments in (["rev-parse", "HEAD"], ["stash", "create"])
    )
    commit = copy.run(
        "git", "commit-tree", f"{tree}^{{tree}}", "-p", base, "-m", "longer"
    ).stdout.strip()
    copy.run("git", "update-ref", f"refs/exps/{base[:2]}/{base[2:]}/longer-epochs", commit)
    copy.run("git", "checkout", "-q", "--", "params.yaml")
    lines = [
        line.split()
        for line in copy.run("make", "-s", "table", "STAMP=", "VENV=/nowhere").stdout.splitlines()
    ]
    median = str(copy.json("metrics/accuracy.json")["models"]["tiny"]["median"])
    assert lines == [
        ["Experiment", "rev", "tiny", "dataset", "finetune.epochs"],
        ["-", "main", median, "toy", "2"],
        ["longer-epochs", commit[:7], median, "toy", "7"],
    ]
