"""All that the report shows, in no language: read once, from the files that the stages wrote."""

import hashlib
import statistics
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.files import UserError, read_json
from reproduce.inputs.catalog import Dataset, on_the_hub, read_dataset, read_model
from reproduce.inputs.sentences import read_tsv
from reproduce.params import PARAMS, Finetune, read_yaml
from reproduce.report.analysis import Calibration, calibration, share, worst_errors
from reproduce.training.recipe import read_recipe
from reproduce.verdict.published import Published, read_published
from reproduce.verdict.runs import NotRun, Run, read_export, read_runs, recipe_of, split_of

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

SENTENCES = Path("data/raw/validation.tsv")


@dataclass(frozen=True)
class Model:
    """One model: its recipe, its runs, and what is there beside them."""

    name: str
    source: str
    recipe: Finetune
    published: float | None
    runs: list[Run]
    missing: list[NotRun]
    curves: "dict[int, Array]"  # by seed, shape (points, 2): step, loss
    environments: dict[int, dict[str, Any]]  # by seed
    export: dict[str, Any] | None
    confidence: float  # of intervals, 0 to 1

    @property
    def seeds(self) -> list[int]:
        """The seeds that ran."""
        return [run.seed for run in self.runs]

    @property
    def median(self) -> float | None:
        """The median score over seeds; None where there is none."""
        scores = [run.score for run in self.runs if run.score is not None]
        return statistics.median(scores) if scores else None

    @property
    def intervals(self) -> dict[int, tuple[float, float] | None]:
        """By seed, the interval of an accuracy over sentences."""
        accuracy = bool(self.runs) and self.runs[0].metrics[0] == "accuracy"
        return {
            run.seed: share(self.correct[i : i + 1], self.confidence).interval if accuracy else None
            for i, run in enumerate(self.runs)
        }

    @cached_property
    def predicted(self) -> "Array":
        """What each run answered, shape (seeds, n)."""
        import numpy as np

        return np.stack([run.validation.predicted for run in self.runs])

    @cached_property
    def correct(self) -> "Array":
        """Which sentences each run gets right: bool, shape (seeds, n)."""
        found: Array = self.predicted == self.runs[0].validation.labels
        return found

    @cached_property
    def probability(self) -> "Array":
        """The probability of each run's answer, 0 to 1, shape (seeds, n)."""
        import numpy as np
        from scipy.special import softmax

        logits = np.stack([run.validation.logits for run in self.runs]).astype(float)
        return softmax(logits, axis=2).max(axis=2)  # type: ignore[no-any-return]

    @cached_property
    def calibration(self) -> Calibration:
        """Of all runs together."""
        return calibration(self.probability, self.correct, self.confidence)

    @property
    def confusion(self) -> list[list[int]]:
        """Counts by label (rows) and answer (columns), the runs added up."""
        tables = [run.measured["confusion"] for run in self.runs]
        names = self.runs[0].labels
        return [[sum(table[true][guess] for table in tables) for guess in names] for true in names]

    @property
    def curve(self) -> "tuple[str, Array] | None":
        """Name, and step and loss of each seed at the steps that all have; None without a curve."""
        import numpy as np

        if not self.curves:
            return None
        curves = list(self.curves.values())
        steps = sorted(set.intersection(*(set(curve[:, 0]) for curve in curves)))
        losses = (curve[np.isin(curve[:, 0], steps), 1] for curve in curves)
        return self.name, np.column_stack([steps, *losses])


@dataclass(frozen=True)
class Mistake:
    """A sentence that is often answered wrongly; `wrong` a model: (wrong runs, all runs)."""

    text: str
    label: str
    answer: str
    probability: float
    wrong: list[tuple[int, int]]


@dataclass(frozen=True)
class Facts:
    """All of it. What a stage wrote is as it wrote it, None if it is not there."""

    params: dict[str, Any]
    split: str  # "validation", or "held out of train"
    dataset: Dataset
    published: Published
    claims: dict[str, Any]
    error_rates: dict[str, Any] | None
    speed: dict[str, Any] | None
    reference: dict[str, Any] | None
    models: list[Model]
    texts: list[str] | None  # of the sentences that the runs answered

    @property
    def ran(self) -> list[Model]:
        """The models that have a run."""
        return [model for model in self.models if model.runs]

    @property
    def shown(self) -> Model:
        """The model whose errors are shown: the student if it ran."""
        student = self.params["compare"]["student"]
        return min(self.ran, key=lambda model: model.name != student)

    @cached_property
    def errors(self) -> list[Mistake]:
        """What the model shown gets wrong, worst first, and how many runs of each model do."""
        texts, names, shown = self.texts or [], self.dataset.labels, self.shown
        labels = shown.runs[0].validation.labels
        wrong = [((~model.correct).sum(axis=0), len(model.runs)) for model in self.ran]
        return [
            Mistake(texts[row].replace("\t", " | "), names[labels[row]], names[answer], sure,
                    [(int(count[row]), runs) for count, runs in wrong])
            for row, sure, answer in worst_errors(labels, shown.predicted, shown.probability)
        ]  # fmt: skip


def read_facts() -> Facts:
    """Read params.yaml, catalog.yaml, published.yaml and what the other stages wrote.

    Raises:
        UserError: metrics/claims.json is missing or of another experiment, or a file is damaged.
    """
    params = read_yaml(PARAMS)
    claims, split = read_optional("metrics/claims.json", "dvc repro compare"), split_of(params)
    wanted = (params["dataset"], split)
    if claims is None or (claims["dataset"], claims["split"]) != wanted:
        raise UserError(
            f"metrics/claims.json is missing or of another experiment; expected "
            f"{', '.join(wanted)}. Run `dvc repro compare`."
        )
    published = read_published()
    dataset = read_dataset(params["dataset"])
    models = [
        read_model_facts(name, list(runs.values()), params, published)
        for name, runs in read_runs(params).items()
    ]
    first = next((model.runs[0] for model in models if model.runs), None)
    rates = read_optional("benchmarks/results/verdicts.json", "git checkout benchmarks")
    speed = read_optional("metrics/speed.json", "dvc repro benchmark")
    reference = read_optional("reference/result.json", "dvc repro reference/dvc.yaml")
    texts = read_texts(first.sentences, dataset) if first else None
    return Facts(params, split, dataset, published, claims, rates, speed, reference, models, texts)


def read_model_facts(
    name: str, runs: list[Run | NotRun], params: dict[str, Any], published: Published
) -> Model:
    """What is there of one model. Curves and environments are those of today's recipe."""
    done = [run for run in runs if isinstance(run, Run)]
    source = on_the_hub(read_model(name).sources)
    row = published.row(name, params["dataset"], split_of(params))
    environments, curves = {}, {}
    for run in done:
        about = read_optional(f"environment/{run.name}.json", f"dvc repro finetune@{run.name}")
        if about and about.get("recipe") == run.recipe:
            environments[run.seed] = about
            if (curve := read_curve(run.name)) is not None:
                curves[run.seed] = curve
    export = read_export(name, params["seeds"][0], recipe_of(params, name, params["seeds"][0]))
    known = row and done and row.metric == done[0].metrics[0]
    return Model(
        name,
        f"{source.hub} @ {(source.revision or '')[:8]}" if source else "–",
        read_recipe(name, params),
        row.score if row and known else None,
        done,
        [run for run in runs if isinstance(run, NotRun)],
        curves,
        environments,
        None if isinstance(export, NotRun) or not export["forms"] else export,  # not exported
        params["compare"]["confidence"],
    )


def read_optional(path: str, command: str) -> dict[str, Any] | None:
    """A JSON object that a stage wrote; None if it is not there."""
    try:
        data = read_json(Path(path), f"Run `{command}`.")
    except FileNotFoundError:
        return None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a JSON object, found {data!r:.40}. Run `{command}`.")
    return data


def read_curve(run: str) -> "Array | None":
    """The training loss that DVCLive wrote, shape (points, 2): step, loss; None if not there."""
    import pandas as pd

    path = Path(f"curves/{run}.tsv")
    try:
        curve: Array = pd.read_csv(path, sep="\t")[["step", "loss"]].to_numpy(float)
        return curve
    except FileNotFoundError:
        return None
    except (ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: {reason}. Run `dvc repro finetune@{run}`.") from error


def read_texts(sha256: str, dataset: Dataset) -> list[str] | None:
    """The sentences that the runs answered; None where data/raw is not there, or holds others."""
    if not SENTENCES.is_file():
        return None
    if hashlib.sha256(SENTENCES.read_bytes()).hexdigest() != sha256:
        return None
    return read_tsv(SENTENCES, dataset.label_values, dataset.columns)[0]
