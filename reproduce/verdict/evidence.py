"""What each kind of claim measures: the evidence on which claims.py gives its verdicts."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reproduce.params import Compare
from reproduce.verdict.published import Claim, Published, Row
from reproduce.verdict.runs import Run, Runs, done
from reproduce.verdict.statistics import (
    NOT_RUN,
    Difference,
    Interval,
    bootstrap,
    difference_over_seeds,
    wilson,
)

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

Sentence = dict[str, str]  # by language


@dataclass(frozen=True)
class Evidence:
    """What was measured, as far as it was run. Scores are times 100."""

    dataset: str
    split: str
    metric: str  # the headline
    runs: Runs
    speed: dict[str, Any] | None  # metrics/speed.json
    settings: Compare

    def of_model(self, model: str) -> dict[int, Run]:
        """The runs of a model that have a result."""
        by_seed = self.runs.get(model, {})
        return {seed: run for seed, run in by_seed.items() if isinstance(run, Run)}

    def scores(self, model: str) -> dict[int, float]:
        """The scores of a model by seed, where they are defined."""
        found = {seed: run.score for seed, run in self.of_model(model).items()}
        return {seed: score for seed, score in found.items() if score is not None}

    def predicted(self, model: str) -> "Array":
        """The predictions of a model, shape (seeds, sentences)."""
        import numpy as np

        return np.stack([run.validation.predicted for run in self.of_model(model).values()])

    @property
    def labels(self) -> "Array | None":
        """The labels that all runs share; None if nothing was run."""
        return next((run.validation.labels for run in done(self.runs)), None)

    def ratio_of_medians(self, student: str, teacher: str) -> float | None:
        """The student's median score in percent of the teacher's; None if there is no ratio."""
        first, second = self.scores(student).values(), self.scores(teacher).values()
        if not (first and second) or min(statistics.median(second), statistics.fmean(second)) <= 0:
            return None
        return 100 * statistics.median(first) / statistics.median(second)

    def bootstrap(self, *models: str) -> Interval | None:
        """Interval times 100 over sentences: of a model's median score, or of a ratio of two."""
        if (labels := self.labels) is None or not all(map(self.scores, models)):
            return None
        settings, predicted = self.settings, [self.predicted(model) for model in models]
        options = (settings.confidence, settings.bootstrap.resamples, settings.bootstrap.seed)
        return _percent(bootstrap(self.metric, labels, predicted, *options))


@dataclass
class Measured:
    """What a claim's verdict rests on."""

    published: float
    published_seeds: int | None = None  # it is a median of so many; None: taken as exact
    value: float | None = None  # None: not run
    samples: list[list[float]] = field(default_factory=list)  # one, or two of which it is a ratio
    by_repetition: dict[str, float | str] = field(default_factory=dict)
    repetitions: str | None = None  # "seeds", "seeds of each model" or "passes"
    required: int = 2  # so many repetitions at least
    over_sentences: Interval | None = None  # of the value
    comparable: bool = True  # the published metric is the measured one
    remarks: list[Sentence] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

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
        deviations = [statistics.stdev(sample) for sample in self.samples]
        counts = np.array([len(sample) for sample in self.samples]) + more
        return difference_over_seeds(
            means, deviations, counts, self.published, self.published_seeds
        )


# --- what each kind of claim measures ------------------------------------------------------------


def score(claim: Claim, evidence: Evidence, published: Published) -> Measured | None:
    """The median score of the seeds."""
    model = claim.models[0]
    row = published.row(model, evidence.dataset, evidence.split)
    if row is None:
        return None
    values = evidence.scores(model)
    measured = _measured_runs(claim, evidence, published, [row], row.score)
    measured.repetitions = "seeds"
    if values:
        measured.value = statistics.median(values.values())
        measured.over_sentences = sentence_interval(evidence, model)
    return measured


def retention(claim: Claim, evidence: Evidence, published: Published) -> Measured | None:
    """The student's score in percent of the teacher's: of their medians."""
    rows = [published.row(model, evidence.dataset, evidence.split) for model in claim.models]
    if rows[0] is None or rows[1] is None:
        return None
    ratio = round(100 * rows[0].score / rows[1].score, 2)
    measured = _measured_runs(claim, evidence, published, [rows[0], rows[1]], ratio)
    measured.repetitions = "seeds of each model"
    measured.value = evidence.ratio_of_medians(*claim.models)
    if measured.value is not None:
        measured.over_sentences = evidence.bootstrap(*claim.models)
    elif all(measured.samples):
        measured.remarks.append(published.words["no_ratio"].fill())
    counts = [len(sample) for sample in measured.samples]
    if measured.value is not None and len(set(counts)) > 1:
        text = ", ".join(f"{m} {n}" for m, n in zip(claim.models, counts, strict=True))
        measured.remarks.append(published.words["unequal"].fill(counts=text))
    return measured


def parameters(claim: Claim, evidence: Evidence, published: Published) -> Measured:
    """How many percent fewer parameters, without the classification head."""
    measured = Measured(claim.published or 0.0)
    if models := _speed_of(claim, evidence, published, measured):
        student, teacher = (model["parameters_encoder"] for model in models)
        measured.value = 100 * (1 - student / teacher)
    return measured


def speed(claim: Claim, evidence: Evidence, published: Published) -> Measured:
    """The ratio of seconds, teacher to student, of each pass."""
    student, teacher = claim.models
    seconds = published.table3.seconds
    measured = Measured(round(seconds[teacher] / seconds[student], 2), repetitions="passes")
    if models := _speed_of(claim, evidence, published, measured):
        passes = zip(*(model["seconds_by_pass"] for model in reversed(models)), strict=True)
        measured.samples = [[slow / fast for slow, fast in passes]]
        measured.value = statistics.median(measured.samples[0])
        ratios = (round(ratio, 3) for ratio in measured.samples[0])
        measured.by_repetition = {str(i): ratio for i, ratio in enumerate(ratios, start=1)}
    return measured


def nothing(claim: Claim, evidence: Evidence, published: Published) -> Measured:
    """A claim that no stage measures."""
    return Measured(claim.published or 0.0)


MEASURES: dict[str, Callable[[Claim, Evidence, Published], Measured | None]] = {
    "score": score,
    "retention": retention,
    "parameters": parameters,
    "speed": speed,
    "nothing": nothing,
}


def _measured_runs(
    claim: Claim, evidence: Evidence, published: Published, rows: list[Row], number: float
) -> Measured:
    """What claims on fine-tuned models share: seeds, files, and remarks on them."""
    words = published.words
    seeds = max(row.seeds or 1 for row in rows)
    measured = Measured(number, seeds, required=max(2, seeds))
    measured.samples = [list(evidence.scores(model).values()) for model in claim.models]
    runs = [run for model in claim.models for run in evidence.of_model(model).values()]
    measured.files = [f"predictions/{run.name}.csv" for run in runs]
    for seed in evidence.runs.get(claim.models[0], {}):
        values = [evidence.scores(model).get(seed) for model in claim.models]
        measured.by_repetition[str(seed)] = _value_of_seed(values)
    left_out = [model for model in claim.models if model not in evidence.runs]
    absent = [model for model in claim.models if not evidence.of_model(model)]
    if left_out:
        measured.remarks.append(words["left_out"].fill(models=" and ".join(left_out)))
    elif absent:
        measured.remarks.append(words["no_run"].fill(models=", ".join(absent)))
    if broken := [run.name for run in runs if run.score is None]:
        text = words["undefined"].fill(models=", ".join(broken), metric=evidence.metric)
        measured.remarks.append(text)
    if other := next((row.metric for row in rows if row.metric != evidence.metric), None):
        measured.comparable = False
        measured.remarks.append(words["other_metric"].fill(metric=evidence.metric, published=other))
    devices = sorted({run.device for run in runs})
    if len(devices) > 1:
        kinds = [
            f"{device} {', '.join(run.name for run in runs if run.device == device)}"
            for device in devices
        ]
        measured.remarks.append(words["devices"].fill(devices="; ".join(kinds)))
    if len(rows) == 1 and rows[0].note:
        measured.remarks.append(rows[0].note.fill())
    return measured


def _speed_of(
    claim: Claim, evidence: Evidence, published: Published, measured: Measured
) -> list[dict[str, Any]]:
    """The claim's models in metrics/speed.json; none, and a remark, unless all are there."""
    found = (evidence.speed or {"models": {}})["models"]
    if absent := [model for model in claim.models if model not in found]:
        measured.remarks.append(published.words["no_speed"].fill(models=" and ".join(absent)))
        return []
    measured.files = ["metrics/speed.json"]
    return [found[model] for model in claim.models]


def _value_of_seed(scores: list[float | None]) -> float | str:
    """A score, or the ratio of two in percent; "not run" without one of them."""
    known = [score for score in scores if score is not None]
    if len(known) < len(scores) or (len(known) == 2 and known[1] <= 0):
        return NOT_RUN
    return round(known[0] if len(known) == 1 else 100 * known[0] / known[1], 2)


def sentence_interval(evidence: Evidence, model: str) -> Interval | None:
    """Interval over sentences of a model's median score, times 100.

    Accuracy: Wilson's, of the median run (an even number of runs: of their middle, to a whole
    sentence). Other metrics: bootstrap.
    """
    if evidence.metric != "accuracy":
        return evidence.bootstrap(model)
    runs = evidence.of_model(model).values()
    correct = statistics.median(run.measured["correct"] for run in runs)
    count = next(iter(runs)).measured["n"]
    return _percent(wilson(round(correct), count, evidence.settings.confidence))


def _percent(interval: Interval | None) -> Interval | None:
    return interval and (100 * interval[0], 100 * interval[1])
