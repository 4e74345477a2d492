"""What each kind of claim measures: the evidence on which claims.py gives its verdicts."""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reproduce.files import UserError, read_json
from reproduce.inputs.catalog import read_dataset
from reproduce.params import PARAMS, Compare, read_section, read_yaml
from reproduce.verdict.published import Claim, Published, Row, read_published
from reproduce.verdict.runs import Run, Runs, by_device, read_runs, split_of
from reproduce.verdict.statistics import (
    NOT_RUN,
    Difference,
    Interval,
    bootstrap,
    difference_over_seeds,
    wilson,
)

SPEED = Path("metrics/speed.json")
NOT_DEFINED = "not defined"  # in place of a number


@dataclass(frozen=True)
class Evidence:
    """What was published and what was measured, as far as it was run. Scores are times 100."""

    dataset: str
    split: str
    metric: str  # the headline
    runs: Runs
    speed: dict[str, Any] | None  # metrics/speed.json
    settings: Compare
    published: Published

    def of_model(self, model: str) -> dict[int, Run]:
        """The runs of a model that have a result, by seed."""
        by_seed = self.runs.get(model, {})
        return {seed: run for seed, run in by_seed.items() if isinstance(run, Run)}

    def scores(self, model: str) -> dict[int, float]:
        """The scores of a model by seed, where they are defined."""
        runs = self.of_model(model).items()
        return {seed: run.score for seed, run in runs if run.score is not None}

    def median(self, *models: str) -> float | None:
        """A model's median score, or the ratio of two models' in percent; None if there is none."""
        samples = [list(self.scores(model).values()) for model in models]
        if not all(samples) or any(statistics.fmean(sample) <= 0 for sample in samples[1:]):
            return None
        return _ratio([statistics.median(sample) for sample in samples])

    def over_sentences(self, *samples: Sequence[Run]) -> Interval | None:
        """Interval over sentences, times 100, of runs' median score, or of two such's ratio.

        Of one accuracy: Wilson's, of the median run (an even number of runs: of their middle, to a
        whole sentence). Of other metrics and of a ratio: bootstrap. None where there is no score.
        """
        import numpy as np

        runs = [[run for run in sample if run.score is not None] for sample in samples]
        if not all(runs):
            return None
        confidence, options = self.settings.confidence, self.settings.bootstrap
        interval: Interval | None
        if self.metric == "accuracy" and len(runs) == 1:
            correct = round(statistics.median(run.measured["correct"] for run in runs[0]))
            interval = wilson(correct, runs[0][0].measured["n"], confidence)
        else:
            labels = runs[0][0].validation.labels
            predicted = [np.stack([run.validation.predicted for run in of_one]) for of_one in runs]
            settings = (confidence, options.resamples, options.seed)
            interval = bootstrap(self.metric, labels, predicted, *settings)
        return interval and (round(100 * interval[0], 2), round(100 * interval[1], 2))


def read_evidence() -> Evidence:
    """All that the verdicts rest on: the settings and what the stages before `compare` wrote."""
    params, settings = read_yaml(PARAMS), read_section("compare", Compare)
    speed = read_json(SPEED, "Run `dvc repro -f -s benchmark`.") if SPEED.exists() else None
    if SPEED.exists() and not (isinstance(speed, dict) and "models" in speed):
        raise UserError(f"{SPEED}: found no `models`. Run `dvc repro -f -s benchmark`.")
    dataset, split, runs = params["dataset"], split_of(params), read_runs(params)
    metric = read_dataset(dataset).metrics[0]
    return Evidence(dataset, split, metric, runs, speed, settings, read_published())


@dataclass
class Measured:
    """What a claim's verdict rests on."""

    published: float
    published_seeds: int | None = None  # it is a median of so many; None: taken as exact
    value: float | None = None  # None: not run, or not defined
    defined: bool = True  # False: all ran, and no score, or no ratio of them, is defined
    samples: list[list[float]] = field(default_factory=list)  # one, or two of which it is a ratio
    by_repetition: dict[str, float | str] = field(default_factory=dict)
    repetitions: str | None = None  # "seeds", "seeds of each model" or "passes"
    over_sentences: Interval | None = None  # of the value
    step: float = 0.0  # to what the values are rounded: of an accuracy, what a sentence makes
    comparable: bool = True  # the published metric is the measured one
    remarks: list[dict[str, str]] = field(default_factory=list)  # each by language
    files: list[str] = field(default_factory=list)

    @property
    def required(self) -> int:
        """So many repetitions at least."""
        return max(2, self.published_seeds or 0)

    @property
    def repeated(self) -> int:
        """The number of repetitions; of two unequal ones the smaller."""
        return min(map(len, self.samples), default=0)

    def difference(self, more: Any = 0) -> Difference:
        """Measured minus published, as if each sample had `more` repetitions that spread alike.

        Args:
            more: a number, or an array of shape (k, 1) for k answers.
        """
        import numpy as np

        means = [statistics.fmean(sample) for sample in self.samples]
        # Equal seeds are no proof of no spread: a rounding to `step` hides step / sqrt(12).
        least = self.step / math.sqrt(12)
        deviations = [max(least, statistics.stdev(sample)) for sample in self.samples]
        counts = np.array([len(sample) for sample in self.samples]) + more
        return difference_over_seeds(
            means, deviations, counts, self.published, self.published_seeds
        )


def of_runs(claim: Claim, evidence: Evidence) -> Measured | None:
    """The median score of the seeds of a model, or of two the first's in percent of the second's.

    None where nothing was published.
    """
    models = claim.models
    found = (evidence.published.row(m, evidence.dataset, evidence.split) for m in models)
    rows = [row for row in found if row]
    if len(rows) < len(models):
        return None
    number = rows[0].score if len(rows) == 1 else round(100 * rows[0].score / rows[1].score, 2)
    measured = Measured(number, max(row.seeds or 1 for row in rows))
    measured.repetitions = "seeds" if len(models) == 1 else "seeds of each model"
    scores = [evidence.scores(model) for model in models]
    measured.samples = [list(of_model.values()) for of_model in scores]
    for seed in evidence.runs.get(models[0], {}):
        ran = all(seed in of_model for of_model in scores)
        value = _ratio([of_model[seed] for of_model in scores]) if ran else None
        measured.by_repetition[str(seed)] = NOT_RUN if value is None else round(value, 2)
    measured.value = evidence.median(*models)
    samples = [list(evidence.of_model(model).values()) for model in models]
    if measured.value is not None:
        measured.over_sentences = evidence.over_sentences(*samples)
    measured.defined = measured.value is not None or not all(samples)
    runs = [run for sample in samples for run in sample]
    measured.files = [f"predictions/{run.name}.csv" for run in runs]
    if runs and evidence.metric == "accuracy":
        measured.step = 100 / len(runs[0].validation.labels)
    measured.comparable = all(row.metric == evidence.metric for row in rows)
    measured.remarks = list(_remarks_on_runs(claim, evidence, rows, measured))
    return measured


def _remarks_on_runs(
    claim: Claim, evidence: Evidence, rows: list[Row], measured: Measured
) -> Iterator[dict[str, str]]:
    """What must be known of the runs behind a number."""
    say, word = evidence.published.say, evidence.published.word
    models, metric = claim.models, evidence.metric
    runs = [run for model in models for run in evidence.of_model(model).values()]
    if left_out := [model for model in models if model not in evidence.runs]:
        yield say("left_out", models=", ".join(left_out))
    elif absent := [model for model in models if not evidence.of_model(model)]:
        yield say("no_run", models=", ".join(absent))
    if broken := [run.name for run in runs if run.score is None]:
        yield say("undefined", models=", ".join(broken), metric=word(metric))
    if other := [row.metric for row in rows if row.metric != metric]:
        yield say("other_metric", metric=word(metric), published=word(other[0]))
    kinds = by_device(runs)
    if len(kinds) > 1:
        lists = (f"{kind} {', '.join(run.name for run in of_one)}" for kind, of_one in kinds)
        yield say("devices", devices="; ".join(lists))
    if measured.repeated and measured.value is None:
        yield say("no_ratio")
    counts = [f"{m} {len(s)}" for m, s in zip(models, measured.samples, strict=True)]
    if measured.repeated and len(set(map(len, measured.samples))) > 1:
        yield say("unequal", counts=", ".join(counts))
    if len(rows) == 1 and rows[0].note:
        yield rows[0].note.fill()


def parameters(claim: Claim, evidence: Evidence) -> Measured:
    """How many percent fewer parameters, without the classification head."""
    measured = Measured(claim.published or 0.0)
    if models := _in_speed(claim, evidence, measured):
        student, teacher = (model["parameters_encoder"] for model in models)
        measured.value = 100 * (1 - student / teacher)
    return measured


def speed(claim: Claim, evidence: Evidence) -> Measured:
    """The ratio of seconds, teacher to student, of each pass."""
    student, teacher = (evidence.published.table3.seconds[model] for model in claim.models)
    measured = Measured(round(teacher / student, 2), repetitions="passes")
    if models := _in_speed(claim, evidence, measured):
        fast, slow = (model["seconds_by_pass"] for model in models)
        ratios = [one / other for one, other in zip(slow, fast, strict=True)]
        measured.samples, measured.value = [ratios], statistics.median(ratios)
        measured.by_repetition = {str(i): round(r, 3) for i, r in enumerate(ratios, start=1)}
    return measured


# By what a claim measures; None where it does not apply.
MEASURES: dict[str, Callable[[Claim, Evidence], Measured | None]] = {
    "score": of_runs, "retention": of_runs, "parameters": parameters, "speed": speed,
    "nothing": lambda claim, _: Measured(claim.published or 0.0),  # no stage measures it
}  # fmt: skip


def _in_speed(claim: Claim, evidence: Evidence, measured: Measured) -> list[dict[str, Any]]:
    """The claim's models in metrics/speed.json; none, and a remark, unless all are there."""
    found = (evidence.speed or {"models": {}})["models"]
    if absent := [model for model in claim.models if model not in found]:
        measured.remarks.append(evidence.published.say("no_speed", models=", ".join(absent)))
        return []
    measured.files = ["metrics/speed.json"]
    return [found[model] for model in claim.models]


def _ratio(values: Sequence[float]) -> float | None:
    """One value itself; of two the first in percent of the second, None unless that is positive."""
    if len(values) == 1:
        return values[0]
    return 100 * values[0] / values[1] if values[1] > 0 else None
