"""Intervals, tests and rules behind the verdicts: pure functions, no files. scipy does the work.

Two sources of uncertainty are kept apart. Seeds: another training run of the same recipe.
Sentences: another sample of as many sentences. An interval is a pair (low, high).
"""

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]
    Number = float | Array

Interval = tuple[float, float]

REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE = "reproduced", "not reproduced", "inconclusive"
NOT_RUN = "not run"


# --- over seeds: ours and the published number ---------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """Measured minus published, its standard error, and the degrees of freedom of that error.

    Each is a number, or an array of them: one a study, when the rules are simulated.
    """

    value: "Number"
    error: "Number"
    freedom: "Number"

    def interval(self, confidence: float) -> tuple["Array", "Array"]:
        """Student's t interval, (low, high)."""
        import numpy as np
        from scipy import stats

        half = stats.t.ppf((1 + confidence) / 2, self.freedom) * self.error
        return np.asarray(self.value - half), np.asarray(self.value + half)


def difference_over_seeds(
    means: Any, deviations: Any, counts: Any, published: "Number", published_seeds: int | None
) -> Difference:
    """What the seeds say about measured minus published.

    The last axis of the arrays has one place, a score, or two, of which the measured value is the
    ratio of means in percent; other axes are studies. The published value is a median of
    `published_seeds` runs, taken to spread as ours do: the variance of such a median is pi / 2
    times that of a mean (asymptotically, of a normal distribution). None: it is exact.

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
        slopes = measured[..., None] / means  # of the ratio, by each mean (delta method)
    of_published = math.pi / 2 / published_seeds if published_seeds else 0.0
    variances = (slopes * deviations) ** 2 * (1 / counts + of_published)
    total, parts = variances.sum(-1), (variances**2 / (counts - 1)).sum(-1)
    least = np.broadcast_to(counts.min(-1) - 1, total.shape)
    freedom = np.divide(total**2, parts, out=least.astype(float).copy(), where=parts > 0)
    return Difference(measured - published, np.sqrt(total), freedom)


def equivalence(difference: Difference, margin: float, confidence: float) -> "Array":
    """Verdicts on a number that should be the published one, within a margin on either side.

    With confidence 0.95: reproduced if the 90 % interval lies within the margin (two one-sided
    tests at 5 %, Schuirmann 1987), not reproduced if the 95 % interval lies outside.
    """
    import numpy as np

    low, high = difference.interval(2 * confidence - 1)
    within = (-margin <= low) & (high <= margin)
    low, high = difference.interval(confidence)
    outside = (low > margin) | (high < -margin)
    return np.select([within, outside], [REPRODUCED, NOT_REPRODUCED], INCONCLUSIVE)


def at_least(difference: Difference, margin: float, confidence: float) -> "Array":
    """Verdicts on an advantage: more than was claimed is no failure.

    With confidence 0.95: reproduced if the lower end of the 90 % interval reaches the margin (a
    one-sided test at 5 %), not reproduced if the upper end of the 95 % interval does not.
    """
    import numpy as np

    reaches = difference.interval(2 * confidence - 1)[0] >= -margin
    fails = difference.interval(confidence)[1] < -margin
    return np.select([reaches, fails], [REPRODUCED, NOT_REPRODUCED], INCONCLUSIVE)


RULES = {"difference": equivalence, "at least": at_least}


# --- over sentences ------------------------------------------------------------------------------


def score(metric: str, labels: "Array", predicted: "Array") -> "Array":
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


def mcnemar(first: "Array", second: "Array") -> dict[str, Any]:
    """McNemar's exact test of two models on the same sentences.

    Args:
        first, second: boolean arrays of shape (n,): which sentences each has right.

    Returns:
        counts: both right, only_first, only_second, neither; p, two-sided, if a fair coin decided
        which of the two has a sentence right that one alone has (McNemar 1947, with the binomial
        distribution in place of chi-squared).
    """
    from scipy import stats

    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    differing = only_first + only_second
    return {
        "both": int((first & second).sum()),
        "only_first": only_first,
        "only_second": only_second,
        "neither": int((~first & ~second).sum()),
        "p": float(stats.binomtest(only_first, differing).pvalue) if differing else 1.0,
    }


def bootstrap(
    metric: str,
    labels: "Array",
    models: "list[Array]",
    confidence: float,
    resamples: int,
    seed: int,
) -> Interval | None:
    """Bootstrap interval (percentiles) over sentences, of one model or of a ratio of two.

    Of one model's median score the sentences alone are resampled. Of the ratio of two models'
    median scores the seeds of each are too, independently of the sentences, which both models
    share (Owen 2007, "The pigeonhole bootstrap": the interval is rather too wide than too narrow).

    Args:
        labels: shape (n,).
        models: the predictions of one model or two, shape (seeds, n) each.

    Returns:
        None of a single sentence, or if the second median is not positive in some resample.
    """
    import numpy as np
    from scipy import stats

    def medians(sentences: "Array", *seeds: "Array", axis: int = -1) -> "Array":
        chosen = sentences.astype(int)
        truth, found = labels[chosen], []
        for index, predicted in enumerate(models):
            scores = np.stack([score(metric, truth, row[chosen]) for row in predicted], axis=-1)
            if seeds:
                scores = np.take_along_axis(scores, seeds[index].astype(int), axis=-1)
            found.append(np.median(scores, axis=-1))
        if len(found) == 1:
            return np.asarray(found[0])
        return np.asarray(found[0] / np.where(found[1] > 0, found[1], np.nan))

    if len(labels) < 2:
        return None
    # A single seed twice: scipy wants two observations of everything.
    seeds = [np.arange(len(m)) if len(m) > 1 else np.zeros(2, int) for m in models]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of resamples that are all alike: the interval says so
        result = stats.bootstrap(
            (np.arange(len(labels)), *(seeds if len(models) > 1 else ())),
            medians,
            n_resamples=resamples,
            confidence_level=confidence,
            method="percentile",
            vectorized=True,
            rng=np.random.default_rng(seed),
            batch=max(1, 2_000_000 // len(labels)),
        )
    low, high = float(result.confidence_interval.low), float(result.confidence_interval.high)
    return None if math.isnan(low) or math.isnan(high) else (low, high)
