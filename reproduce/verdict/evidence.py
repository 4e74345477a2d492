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
        """The runs of a model that have a result."""
        by_seed = self.runs.get(model, {})
        return {seed: run for seed, run in by_seed.items() if isinstance(run, Run)}

    def scores(self, model: str) -> dict[int, float]:
        """The scores of a model by seed, where they are defined."""
        runs = self.of_model(model).items()
        return {seed: run.score for seed, run in runs if run.score is not None}

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
        """Interval times 100 over sentences: of a model's median score, or of two's ratio."""
        import numpy as np

        if (labels := self.labels) is None or not all(map(self.scores, models)):
            return None
        runs = [self.of_model(model).values() for model in models]
        predicted = [np.stack([run.validation.predicted for run in of_one]) for of_one in runs]
        options = self.settings.bootstrap
        return _percent(bootstrap(self.metric, labels, predicted, self.settings.confidence,
                                  options.resamples, options.seed))  # fmt: skip

    def sentence_interval(self, model: str) -> Interval | None:
        """Interval over sentences of a model's median score, times 100.

        Accuracy: Wilson's, of the median run (an even number of runs: of their middle, to a whole
        sentence). Other metrics: bootstrap.
        """
        if self.metric != "accuracy":
            return self.bootstrap(model)
        measured = [run.measured for run in self.of_model(model).values()]
        correct = round(statistics.median(run["correct"] for run in measured))
        return _percent(wilson(correct, measured[0]["n"], self.settings.confidence))


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
    remarks: list[dict[str, str]] = field(default_factory=list)  # each by language
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

        means, deviations = (
            [function(sample) for sample in self.samples]
            for function in (statistics.fmean, statistics.stdev)
        )
        counts = np.array([len(sample) for sample in self.samples]) + more
        return difference_over_seeds(
            means, deviations, counts, self.published, self.published_seeds
        )


def score(claim: Claim, evidence: Evidence) -> Measured | None:
    """The median score of the seeds."""
    model = claim.models[0]
    row = evidence.published.row(model, evidence.dataset, evidence.split)
    if row is None:
        return None
    measured = _of_runs(claim, evidence, [row], row.score)
    measured.repetitions = "seeds"
    if measured.samples[0]:
        measured.value = statistics.median(measured.samples[0])
        measured.over_sentences = evidence.sentence_interval(model)
    if row.note:
        measured.remarks.append(row.note.fill())
    return measured


def retention(claim: Claim, evidence: Evidence) -> Measured | None:
    """The student's score in percent of the teacher's: of their medians."""
    say = evidence.published.say
    found = (evidence.published.row(m, evidence.dataset, evidence.split) for m in claim.models)
    rows = [row for row in found if row]
    if len(rows) < 2:
        return None
    measured = _of_runs(claim, evidence, rows, round(100 * rows[0].score / rows[1].score, 2))
    measured.repetitions = "seeds of each model"
    measured.value = evidence.ratio_of_medians(*claim.models)
    counts = {m: len(s) for m, s in zip(claim.models, measured.samples, strict=True)}
    if measured.value is not None:
        measured.over_sentences = evidence.bootstrap(*claim.models)
    elif all(counts.values()):
        measured.remarks.append(say("no_ratio"))
    if all(counts.values()) and len(set(counts.values())) > 1:
        text = ", ".join(f"{model} {count}" for model, count in counts.items())
        measured.remarks.append(say("unequal", counts=text))
    return measured


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


def nothing(claim: Claim, evidence: Evidence) -> Measured:
    """A claim that no stage measures."""
    return Measured(claim.published or 0.0)


# By what a claim measures; None where it does not apply.
MEASURES: dict[str, Callable[[Claim, Evidence], Measured | None]] = {
    "score": score, "retention": retention, "parameters": parameters, "speed": speed,
    "nothing": nothing,
}  # fmt: skip


def _of_runs(claim: Claim, evidence: Evidence, rows: list[Row], number: float) -> Measured:
    """What claims on fine-tuned models share: seeds, files, and remarks on them."""
    say, models = evidence.published.say, claim.models
    seeds = max(row.seeds or 1 for row in rows)
    scores = [evidence.scores(model) for model in models]
    runs = [run for model in models for run in evidence.of_model(model).values()]
    measured = Measured(number, seeds, required=max(2, seeds))
    measured.samples = [list(of_model.values()) for of_model in scores]
    measured.files = [f"predictions/{run.name}.csv" for run in runs]
    for seed in evidence.runs.get(models[0], {}):
        values = [of_model[seed] for of_model in scores if seed in of_model]
        missing = len(values) < len(models) or (len(values) == 2 and values[1] <= 0)
        value = 0 if missing else values[0] if len(values) == 1 else 100 * values[0] / values[1]
        measured.by_repetition[str(seed)] = NOT_RUN if missing else round(value, 2)
    if left_out := [model for model in models if model not in evidence.runs]:
        measured.remarks.append(say("left_out", models=" and ".join(left_out)))
    elif absent := [model for model in models if not evidence.of_model(model)]:
        measured.remarks.append(say("no_run", models=", ".join(absent)))
    if broken := [run.name for run in runs if run.score is None]:
        text = say("undefined", models=", ".join(broken), metric=evidence.metric)
        measured.remarks.append(text)
    if other := [row.metric for row in rows if row.metric != evidence.metric]:
        measured.comparable = False
        text = say("other_metric", metric=evidence.metric, published=other[0])
        measured.remarks.append(text)
    kinds: dict[str, list[str]] = {}
    for run in runs:
        kinds.setdefault(run.device, []).append(run.name)
    if len(kinds) > 1:
        lists = "; ".join(f"{kind} {', '.join(names)}" for kind, names in sorted(kinds.items()))
        measured.remarks.append(say("devices", devices=lists))
    return measured


def _in_speed(claim: Claim, evidence: Evidence, measured: Measured) -> list[dict[str, Any]]:
    """The claim's models in metrics/speed.json; none, and a remark, unless all are there."""
    found = (evidence.speed or {"models": {}})["models"]
    if absent := [model for model in claim.models if model not in found]:
        measured.remarks.append(evidence.published.say("no_speed", models=" and ".join(absent)))
        return []
    measured.files = ["metrics/speed.json"]
    return [found[model] for model in claim.models]


def _percent(interval: Interval | None) -> Interval | None:
    return interval and (round(100 * interval[0], 2), round(100 * interval[1], 2))
