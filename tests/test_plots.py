"""`dvc plots show`: a handful of charts, whatever the number of runs, each with its whole table."""

import csv
import json

from conftest import Repository

CHARTS = ["plots/score_by_seed.csv", "plots/loss.csv", "plots/confusion.csv"]


def test_the_charts_show_their_tables_and_there_are_no_others(finished: Repository) -> None:
    shown = json.loads(finished.run("dvc", "plots", "show", "--json").stdout)
    drawn = {name for name, plots in shown["data"].items() if plots}  # a JSON of numbers: none
    assert not shown.get("errors") and drawn == set(CHARTS)
    for name in CHARTS:
        (plot,) = shown["data"][name]
        content = plot["content"]
        content = content if isinstance(content, dict) else json.loads(content)
        added = {"rev", "filename", "field"}  # by DVC
        points = [{key: point[key] for key in point.keys() - added}
                  for point in content["data"]["values"]]  # fmt: skip
        with (finished.path / name).open(newline="", encoding="utf-8") as file:
            assert points == list(csv.DictReader(file)) != [], name
