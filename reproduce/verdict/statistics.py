"""Intervals, tests and rules behind the verdicts: pure functions, no files. scipy does the work.

Two sources of uncertainty are kept apart. Seeds: another training run of the same recipe.
Sentences: these are a sample of all of their kind. An interval is a pair (low, high).
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any

from reproduce.models.metrics import Array

Number = float | Array
Interval = tuple[float, float]

REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE = "reproduced", "not reproduced", "inconclusive"
NOT_RUN = "not run"


# --- over seeds: ours and the published number ---------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """Measured minus published, its standard error and that error's degrees of freedom.

    Each is a number, or an array: one a study, when the rules are simulated.
    """

    value: Number
    error: Number
    freedom: Number

    def interval(self, confidence: float) -> tuple[Array, Array]:
        """Student's t interval, (low, high)."""
        import numpy as np
        from scipy import stats

        half = stats.t.ppf((1 + confidence) / 2, self.freedom) * self.error
        return np.asarray(self.value - half), np.asarray(self.value + half)


def difference_over_seeds(
    means: Any, deviations: Any, counts: Any, published: Number, published_seeds: int | None
) -> Difference:
    """What the seeds say about measured minus published.

    The last axis of the arrays has one place, a score, or two, of which the measured value is the
    ratio of means in percent; other axes are studies. The published value is a median of
    `published_seeds` runs, taken to spread as ours do: the variance of such a median is pi / 2
    times that of a mean (asymptotically, of a normal distribution; of one or two runs it is the
    mean's). None: it is exact.

    Args:
        means, deviations: of our seeds; deviations with n - 1.
        counts: how many seeds, at least 2 each.

    Returns:
        with Welch's (1947) degrees of freedom, n - 1 for a single score.
    """
    import numpy as np

    means, deviations, counts = (np.asarray(x, float) for x in (means, deviations, counts))
    measured, slopes = means[..., 0], np.ones(1)
    if means.shape[-1] == 2:
        measured = 100 * means[..., 0] / means[..., 1]
        # Of the ratio, by each mean, without the sign (delta method).
        slopes = np.stack([np.full_like(measured, 100.0), measured], -1) / means[..., 1:]
    of_published = 1 / published_seeds if published_seeds else 0.0
    of_published *= math.pi / 2 if of_published < 1 / 2 else 1
    variances = (slopes * deviations) ** 2 * (1 / counts + of_published)
    total, parts = variances.sum(-1), (variances**2 / (counts - 1)).sum(-1)
    least = np.broadcast_to(counts.min(-1) - 1, total.shape)
    freedom = np.divide(total**2, parts, out=least.astype(float).copy(), where=parts > 0)
    return Difference(measured - published, np.sqrt(total), freedom)


def decide(rule: str, difference: Difference, margin: float, confidence: float) -> Array:
    """The verdicts of a rule, "difference" or "at least", within a margin.

    With confidence 0.95: reproduced if the 90 % interval lies within the margin (two one-sided
    tests at 5 %, Schuirmann 1987), not reproduced if the 95 % interval lies outside. "at least"
    has no upper margin: more than was claimed is no failure.
    """
    import numpy as np

    low, high = difference.interval(2 * confidence - 1)
    wide_low, wide_high = difference.interval(confidence)
    within, outside = low >= -margin, wide_high < -margin
    if rule == "difference":
        within, outside = within & (high <= margin), outside | (wide_low > margin)
    return np.select([within, outside], [REPRODUCED, NOT_REPRODUCED], INCONCLUSIVE)


# --- over sentences ------------------------------------------------------------------------------


def score(metric: str, labels: Array, predicted: Array) -> Array:
    """A metric over the last axis, fast enough for a bootstrap.

    Args:
        metric: accuracy; f1, of class 1 of the classes 0 and 1; matthews, of the classes 0 and 1
            (it is Pearson's correlation of the two columns); pearson, of two columns of numbers.
        labels, predicted: arrays of shape (..., n).

    Returns:
        array of shape (...): 0 to 1, correlations -1 to 1; 0 where F1 or a correlation is not
        defined (a constant column).
    """
    import numpy as np

    if metric == "accuracy":
        return np.asarray((labels == predicted).mean(axis=-1))
    if metric == "f1":
        both = ((labels == 1) & (predicted == 1)).sum(axis=-1)
        either = (labels == 1).sum(axis=-1) + (predicted == 1).sum(axis=-1)
        return np.asarray(2 * both / np.maximum(either, 1))
    if metric not in ("matthews", "pearson"):
        raise ValueError(f"unknown metric {metric!r}")
    x, y = (
        values - values.mean(axis=-1, keepdims=True)
        for values in (labels.astype(float), predicted.astype(float))
    )
    scale = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    zero = np.zeros_like(scale)
    return np.asarray(np.divide((x * y).sum(axis=-1), scale, out=zero, where=scale > 0))


def wilson(correct: int, n: int, confidence: float) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927), 0 to 1: the error of `n` sentences."""
    from scipy import stats

    interval = stats.binomtest(correct, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap(
    metric: str,
    labels: Array,
    models: list[Array],
    confidence: float,
    resamples: int,
    seed: int,
) -> Interval | None:
    """Bootstrap interval (percentiles) over sentences: of a model's median score, or two's ratio.

    Of a ratio the seeds of each model are resampled too, independently of the sentences, which
    both share (Owen 2007, "The pigeonhole bootstrap": rather too wide than too narrow).

    Args:
        labels: shape (n,).
        models: the predictions of one model or two, shape (seeds, n) each.

    Returns:
        None of a single sentence, or if the second median is not positive in some resample.
    """
    import numpy as np
    from scipy import stats

    def medians(sentences: Array, *seeds: Array, axis: int = -1) -> Array:
        chosen = sentences.astype(int)
        truth, found = labels[chosen], []
        for index, predicted in enumerate(models):
            scores = np.stack([score(metric, truth, row[chosen]) for row in predicted], axis=-1)
            if seeds:
                scores = np.take_along_axis(scores, seeds[index].astype(int), axis=-1)
            found.append(np.median(scores, axis=-1))
        if len(found) == 2:
            found[0] = found[0] / np.where(found[1] > 0, found[1], np.nan)
        return np.asarray(found[0])

    if len(labels) < 2:
        return None
    # A single seed twice: scipy wants two observations of everything.
    seeds = [np.arange(len(m)) if len(m) > 1 else np.zeros(2, int) for m in models]
    resampled = (np.arange(len(labels)), *(seeds if len(models) > 1 else ()))
    options = {"method": "percentile", "vectorized": True, "rng": np.random.default_rng(seed)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of resamples that are all alike: the interval says so
        found = stats.bootstrap(
            resampled, medians, n_resamples=resamples, confidence_level=confidence,
            batch=max(1, 2_000_000 // len(labels)), **options,
        ).confidence_interval  # fmt: skip
    return None if np.isnan([*found]).any() else (float(found.low), float(found.high))
