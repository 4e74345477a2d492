"""The runs that params.yaml names, as the other stages wrote them."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.files import UserError, read_json
from reproduce.params import Compare, Experiment
from reproduce.verdict.claims import Evidence, run_interval
from reproduce.verdict.published import Published
from reproduce.verdict.statistics import score

if TYPE_CHECKING:
    import numpy as np

RUNS, PREDICTIONS = Path("metrics/runs"), Path("predictions")


METRICS = ("accuracy", "f1", "matthews", "pearson")


Runs = dict[str, dict[int, dict[str, Any] | None]]


def read_run(model: str, seed: int, dataset: str, split: str) -> dict[str, Any] | None:
    """The metrics of one run; None if it was not run. `UserError` if the file is no metrics of this experiment."""
    path = RUNS / f"{model}-{seed}.json"
    remedy = f"Delete it and run `dvc repro evaluate@{model}-{seed}`."
    if not path.exists():
        return None
    run = read_json(path, remedy)
    expected = {"dataset": dataset, "split": split, "model": model, "seed": seed}
    if not isinstance(run, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(run).__name__}. {remedy}")
    for key, value in expected.items():
        if run.get(key) != value:
            raise UserError(f"{path}: {key} is {run.get(key)!r}, expected {value!r}. {remedy}")
    metric, value = run.get("metric"), run.get("score")
    if metric not in METRICS:
        raise UserError(
            f"{path}: metric is {metric!r}, expected one of {', '.join(METRICS)}. {remedy}"
        )
    if not isinstance(value, int | float) or isinstance(value, bool) or not -1 <= value <= 1:
        raise UserError(f"{path}: score is {value!r}, expected a number from -1 to 1. {remedy}")
    if not isinstance(run.get("n"), int) or run["n"] < 1:
        raise UserError(
            f"{path}: n is {run.get('n')!r}, expected how many sentences were evaluated. {remedy}"
        )
    if metric == "accuracy" and not (
        isinstance(run.get("correct"), int) and 0 <= run["correct"] <= run["n"]
    ):
        raise UserError(
            f"{path}: correct {run.get('correct')!r} of n {run['n']!r} is no count. {remedy}"
        )
    return run


def percent(run: dict[str, Any]) -> float:
    """The score of a run times 100; an accuracy from its counts, unrounded."""
    return (
        100 * run["correct"] / run["n"]
        if run["metric"] == "accuracy"
        else 100 * float(run["score"])
    )


@dataclass(frozen=True)
class Predictions:
    """One file of predictions: the sentences' texts, and labels and predictions as float64 arrays of shape (n,)."""

    texts: list[tuple[str, ...]]
    labels: "np.ndarray[Any, Any]"
    predicted: "np.ndarray[Any, Any]"


def read_predictions(model: str, seed: int, run: dict[str, Any]) -> Predictions:
    """Read predictions/MODEL-SEED.csv; `UserError` unless it is a table of numbers from which the score of `run` follows.

    Its columns: the text or texts, label, predicted, and what is not needed here. Of rows with a `split` those of the
    validation set count.
    """
    import numpy as np

    path = PREDICTIONS / f"{model}-{seed}.csv"
    remedy = f"Run `dvc checkout {path}`, or `dvc pull {path}`, or `dvc repro -f -s evaluate@{model}-{seed}`."
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                row
                for row in csv.DictReader(file)
                if row.get("split", "validation") == "validation"
            ]
        texts = [
            tuple(
                row[name]
                for name in row
                if name not in ("label", "predicted", "probability", "split")
            )
            for row in rows
        ]
        labels, predicted = (
            np.array([float(row[name]) for row in rows]) for name in ("label", "predicted")
        )
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing, but {RUNS}/{model}-{seed}.json is there. {remedy}"
        ) from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path} is no table with numbers for label and predicted ({error}). {remedy}"
        ) from error
    found = float(score(run["metric"], labels, predicted)) if rows else 0.0
    if len(rows) != run["n"] or abs(100 * found - percent(run)) > 1e-3:
        said = f"{run['metric']} {percent(run) / 100:.6f} over {run['n']} sentences"
        raise UserError(
            f"{path}: {found:.6f} over {len(rows)}, but {RUNS}/{model}-{seed}.json says {said}. {remedy}"
        )
    return Predictions(texts, labels, predicted)


def gather(
    experiment: Experiment, split: str, metric: str, runs: Runs, speed: dict[str, Any] | None
) -> Evidence:
    """All that the verdicts rest on. `UserError` if two runs are not over the same sentences, in the same order."""
    scores: dict[str, dict[int, float]] = {model: {} for model in runs}
    predicted: dict[str, dict[int, np.ndarray[Any, Any]]] = {model: {} for model in runs}
    first: tuple[str, Predictions] | None = None
    for model, by_seed in runs.items():
        for seed, run in by_seed.items():
            if not run:
                continue
            found = read_predictions(model, seed, run)
            first = first or (f"{model}-{seed}", found)
            if found.texts != first[1].texts or (found.labels != first[1].labels).any():
                names = f"{model}-{seed}.csv and {first[0]}.csv"
                raise UserError(
                    f"{PREDICTIONS}: {names} are not over the same sentences. Run `dvc repro`, which evaluates all alike."
                )
            scores[model][seed], predicted[model][seed] = percent(run), found.predicted
    labels = first[1].labels if first else None
    return Evidence(
        experiment.dataset,
        split,
        metric,
        experiment.models,
        experiment.seeds,
        scores,
        predicted,
        labels,
        speed,
    )


def scores_csv(evidence: Evidence, published: Published, params: Compare) -> str:
    """One line a run: model, seed, accuracy (the headline score, times 100), its interval over sentences, what was published."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "seed", "accuracy", "low", "high", "published"])
    for model, by_seed in evidence.scores.items():
        theirs = published.row(model, evidence.dataset, evidence.split)
        for seed, value in by_seed.items():
            low, high = run_interval(evidence, model, seed, params) or ("", "")
            numbers = [value, low, high, theirs.score if theirs else ""]
            writer.writerow(
                [
                    model,
                    seed,
                    *(
                        f"{number:.2f}" if isinstance(number, float) else number
                        for number in numbers
                    ),
                ]
            )
    return text.getvalue()
