"""The result of a run: predictions/MODEL-SEED.csv and, beside it, MODEL-SEED.json. In git.

The CSV has a line an example: index, label, predicted and the logit of each class (none where the
label is a number); of MNLI, which has a second validation set, the column `split` after
`predicted`. The JSON says what made it: the recipe's digest, dataset, split, device. `write_run`
alone writes them and `read_run` reads them; a result that is not today's recipe's is "not run".
"""

import csv
import functools
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from reproduce.files import UserError, read_json, write_json, write_text
from reproduce.inputs.catalog import digests, read_dataset, read_model
from reproduce.models.metrics import Array, measure
from reproduce.training.recipe import recipe_digest, run_recipe

PREDICTIONS = Path("predictions")
SPLITS = ("validation", "validation_mismatched")  # as data/tokenized and the column `split` say


@dataclass(frozen=True)
class Part:
    """What a model answered on one split: labels of shape (n,), logits of shape (n, classes).

    Labels are int64 classes and logits float32; where the label is a number, both are float64 and
    there is one logit, the number.
    """

    labels: Array
    logits: Array

    @property
    def predicted(self) -> Array:
        """The classes or numbers that the model answered, shape (n,)."""
        return self.logits.argmax(axis=1) if self.logits.shape[1] > 1 else self.logits[:, 0]


@dataclass(frozen=True)
class Run:
    """The whole result of one run."""

    model: str
    seed: int
    recipe: str  # the digest of what it was made by
    dataset: str
    split: str  # what the validation set is: "validation", or "held out of train"
    metrics: tuple[str, ...]  # the first is the headline
    labels: tuple[str, ...]  # names of the classes; none where the label is a number
    device: str  # of the training: "cpu" or "cuda"
    precision: str
    evaluated_on: str  # the device's name, e.g. "Tesla T4"; always in fp32
    sentences: str  # sha256 of data/raw/validation.tsv
    validation: Part
    mismatched: Part | None = None

    @property
    def name(self) -> str:
        """MODEL-SEED."""
        return f"{self.model}-{self.seed}"

    @functools.cached_property
    def measured(self) -> dict[str, Any]:
        """All metrics (see reproduce/models/metrics.py)."""
        return measure(self.validation.logits, self.validation.labels, self.labels, self.metrics)

    @property
    def score(self) -> float | None:
        """The headline metric times 100, an accuracy exact; None where it is not defined."""
        if self.metrics[0] == "accuracy":
            correct: int = self.measured["correct"]
            return 100 * correct / len(self.validation.labels)
        return None if self.measured["score"] is None else 100 * float(self.measured["score"])


@dataclass(frozen=True)
class NotRun:
    """A run that params.yaml names and that has no result of today's recipe."""

    name: str  # MODEL-SEED
    why: Literal["absent", "other recipe", "other data set", "other sentences", "damaged"]
    detail: str = ""

    def __str__(self) -> str:
        return "not run" if self.why == "absent" else f"not run ({self.why})"


Runs = dict[str, dict[int, Run | NotRun]]


def write_run(run: Run) -> Path:
    """Write both files of a run; the CSV's path. Every metric follows from them exactly."""
    text, split = io.StringIO(), ["split"] if run.mismatched else []
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["index", "label", "predicted", *split, *run.labels])
    for name, part in zip(SPLITS, (run.validation, run.mismatched), strict=True):
        rows = zip(part.labels.tolist(), part.predicted, part.logits, strict=True) if part else ()
        for index, (label, predicted, logits) in enumerate(rows):
            # str of a numpy number: the fewest digits that read back as the same number.
            row = [index, label, str(predicted), *([name] if split else [])]
            writer.writerow([*row, *(map(str, logits) if run.labels else ())])
    path = PREDICTIONS / f"{run.name}.csv"
    write_text(path, text.getvalue())
    names = (field.name for field in fields(Run))
    about = {name: getattr(run, name) for name in names if name not in ("validation", "mismatched")}
    about |= {"n": len(run.validation.labels), "csv": _digest(path.read_bytes())}
    write_json(path.with_suffix(".json"), about)
    return path


def read_run(model: str, seed: int, recipe: str, dataset: str, split: str) -> Run | NotRun:
    """The result of a run, if it is of this recipe, data set and split."""
    name = f"{model}-{seed}"
    path = PREDICTIONS / f"{name}.csv"
    try:
        about = read_json(path.with_suffix(".json"), "")
        if (about["dataset"], about["split"]) != (dataset, split):
            return NotRun(name, "other data set", f"{about['dataset']}, {about['split']}")
        if about["recipe"] != recipe:
            return NotRun(name, "other recipe", f"recipe {about['recipe']}, today's is {recipe}")
        if about["csv"] != _digest(content := path.read_bytes()):
            return NotRun(name, "damaged", f"{path} is not the file that evaluate wrote")
        parts = _read_parts(content.decode(), len(about["labels"]))
        facts: list[Any] = [tuple(about[key]) for key in ("metrics", "labels")]
        facts += (about[key] for key in ("device", "precision", "evaluated_on", "sentences"))
        return Run(model, seed, recipe, dataset, split, *facts, *parts)
    except FileNotFoundError as error:
        if error.filename == str(path):
            return NotRun(name, "damaged", f"{path} is missing")
        return NotRun(name, "absent")
    except (UserError, KeyError, TypeError, ValueError, IndexError) as error:
        return NotRun(name, "damaged", f"{path.with_suffix('.json')} or .csv: {error}")


def _read_parts(text: str, classes: int) -> list[Part]:
    """The parts of a CSV. By place, not by name: a class may be called like a column."""
    import numpy as np

    header, *rows = csv.reader(io.StringIO(text))
    first = len(header) - classes  # column of logits
    by_split: dict[str, list[list[str]]] = {}
    for row in rows:
        by_split.setdefault(row[3] if first == 4 else "", []).append(row)
    parts = []
    for chosen in by_split.values():  # in the order of SPLITS, as they were written
        labels = np.array([float(row[1]) for row in chosen])
        if classes:
            logits = np.array([row[first:] for row in chosen], np.float32)
            parts.append(Part(labels.astype(int), logits))
        else:
            parts.append(Part(labels, np.array([row[2:3] for row in chosen], float)))
    return parts


def recipe_of(params: dict[str, Any], model: str, seed: int) -> str:
    """The digest of what a run would be made by today: params.yaml and the pins of catalog.yaml."""
    entry, dataset = read_model(model), read_dataset(params["dataset"])
    pins = {"dataset": digests(dataset.pins()), "model": digests(entry.tokenizer | entry.weights)}
    return recipe_digest(run_recipe(params, model, seed, pins))


def split_of(params: dict[str, Any]) -> str:
    """What the validation set is."""
    return "held out of train" if params["selection"]["holdout"] > 0 else SPLITS[0]


def read_runs(params: dict[str, Any]) -> Runs:
    """Every run that params.yaml names, in its order.

    Their metrics are those of catalog.yaml today: all follow from the logits. Where runs are not of
    the same sentences in the same order, those count of which most are alike.
    """
    split, dataset = split_of(params), read_dataset(params["dataset"])
    runs: Runs = {model: {} for model in params["models"]}
    for model, by_seed in runs.items():
        for seed in params["seeds"]:
            recipe = recipe_of(params, model, seed)
            run = read_run(model, seed, recipe, params["dataset"], split)
            if isinstance(run, Run):
                run = replace(run, metrics=dataset.metrics)
                if run.labels != dataset.labels:
                    detail = f"its classes are {', '.join(run.labels) or 'numbers'}"
                    run = NotRun(run.name, "other data set", detail)
            by_seed[seed] = run
    answered = [(run, (run.sentences, run.validation.labels.tobytes())) for run in done(runs)]
    counts = Counter(sentences for _, sentences in answered)
    for run, sentences in answered:
        if sentences != counts.most_common(1)[0][0]:
            detail = "its sentences are not those of the other runs"
            runs[run.model][run.seed] = NotRun(run.name, "other sentences", detail)
    return runs


def done(runs: Runs) -> Iterator[Run]:
    """The runs that have a result."""
    return (run for by_seed in runs.values() for run in by_seed.values() if isinstance(run, Run))


def by_device(runs: Iterable[Run]) -> list[tuple[str, list[Run]]]:
    """Runs by what trained them, kind of device and precision: "cpu bf16" first."""
    kinds: dict[str, list[Run]] = {}
    for run in runs:
        kinds.setdefault(f"{run.device} {run.precision}", []).append(run)
    return sorted(kinds.items())


def _digest(content: bytes) -> str:
    """The sha256 of a text, whatever its line ends: git may change them."""
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()
