"""Intervals and tests behind the verdicts: pure functions, no files. scipy does the work.

Two sources of uncertainty are kept apart. Seeds: another training run of the same recipe. Sentences: another sample of as many
sentences. An interval is a pair (low, high).
"""

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

Interval = tuple[float, float]


def score(metric: str, labels: "Array", predicted: "Array") -> "Array":
    """A metric over the last axis.

    Args:
        metric: accuracy; f1, of class 1 of the classes 0 and 1; matthews, of the classes 0 and 1 (it is Pearson's correlation of
            the two columns of zeros and ones); pearson, of two columns of numbers.
        labels, predicted: arrays of shape (..., n).

    Returns:
        array of shape (...): 0 to 1, correlations -1 to 1; 0 where F1 or a correlation is not defined (a constant column).
    """
    import numpy as np

    if metric == "accuracy":
        return np.asarray((labels == predicted).mean(axis=-1))
    if metric == "f1":
        both, either = (
            ((labels == 1) & (predicted == 1)).sum(axis=-1),
            (labels == 1).sum(axis=-1) + (predicted == 1).sum(axis=-1),
        )
        return np.asarray(2 * both / np.maximum(either, 1))
    if metric in ("matthews", "pearson"):
        x, y = (
            values - values.mean(axis=-1, keepdims=True)
            for values in (labels.astype(float), predicted.astype(float))
        )
        scale = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
        return np.asarray(
            np.where(scale > 0, (x * y).sum(axis=-1) / np.where(scale > 0, scale, 1), 0.0)
        )
    raise ValueError(f"unknown metric {metric!r}")


def wilson(correct: int, n: int, confidence: float) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927), 0 to 1: the error of `n` sentences."""
    from scipy import stats

    interval = stats.binomtest(correct, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def difference_interval(
    first: float, of_first: Interval, second: float, of_second: Interval
) -> Interval:
    """Interval of first - second from the interval of each, the two being independent.

    The square-and-add rule (Zou and Donner 2008); with Wilson's intervals of two proportions it is Newcombe's method 10 (1998).
    Two results on the same sentences are not independent but rise and fall together, which makes this interval too wide rather
    than too narrow: the right way to err for a published number whose single predictions nobody has.
    """
    difference = first - second
    low = difference - math.hypot(first - of_first[0], of_second[1] - second)
    high = difference + math.hypot(of_first[1] - first, second - of_second[0])
    return low, high


def difference_from_published(
    measured: float, interval: Interval, published: float, scale: float = 1.0
) -> Interval:
    """Interval of measured - published where only the published value is known: it is taken to be as uncertain as ours.

    Args:
        scale: the published value's error in units of ours. For a mean of k seeds beside one of m it is sqrt(k / m), and with
            Student's interval the result is m's prediction interval: mean +- t(k - 1) s sqrt(1 / k + 1 / m).
    """
    theirs = (
        published - scale * (measured - interval[0]),
        published + scale * (interval[1] - measured),
    )
    return difference_interval(measured, interval, published, theirs)


def seed_interval(values: Sequence[float], confidence: float) -> Interval | None:
    """Student's t interval of the mean over seeds; None below two seeds.

    Of the mean although medians are reported: five values have no interval of the median at 95 % (the whole range has 93.75 %).
    """
    from scipy import stats

    if len(values) < 2:
        return None
    half = (
        float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
        * statistics.stdev(values)
        / math.sqrt(len(values))
    )
    mean = statistics.fmean(values)
    return mean - half, mean + half


def ratio_interval(
    first: Sequence[float], second: Sequence[float], confidence: float
) -> Interval | None:
    """Interval over seeds of the ratio of two (geometric) means: Welch's t interval of the logarithms.

    None below two seeds of each, or where a value is not positive.
    """
    from scipy import stats

    if min(len(first), len(second)) < 2 or min(*first, *second) <= 0:
        return None
    logs = [[math.log(value) for value in values] for values in (first, second)]
    if not any(map(statistics.variance, logs)):  # Welch's degrees of freedom would be 0 / 0
        return first[0] / second[0], first[0] / second[0]
    interval = stats.ttest_ind(*logs, equal_var=False).confidence_interval(confidence)
    return math.exp(interval.low), math.exp(interval.high)


def mcnemar(first: "Array", second: "Array") -> dict[str, Any]:
    """McNemar's exact test of two models on the same sentences.

    Args:
        first, second: boolean arrays of shape (n,): which sentences each has right.

    Returns:
        counts: both right, only_first, only_second, neither; p, two-sided, if a fair coin decided which of the two has a
        sentence right that one alone has (McNemar 1947, with the binomial distribution in place of chi-squared).
    """
    from scipy import stats

    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    discordant = only_first + only_second
    return {
        "both": int((first & second).sum()),
        "only_first": only_first,
        "only_second": only_second,
        "neither": int((~first & ~second).sum()),
        "p": float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0,
    }


def bootstrap_score(
    metric: str, labels: "Array", predicted: "Array", confidence: float, resamples: int, seed: int
) -> Interval | None:
    """Bootstrap interval (percentiles) of the median score over seeds, the sentences being resampled and the seeds kept.

    Args:
        labels: shape (n,). predicted: shape (seeds, n).
    """
    import numpy as np
    from scipy import stats

    def statistic(sentences: "Array", axis: int = -1) -> "Array":
        return np.asarray(np.median(_scores(metric, labels, predicted, sentences), axis=-1))

    return _interval(
        stats.bootstrap(
            (np.arange(len(labels)),),
            statistic,
            **_options(len(labels), confidence, resamples, seed),
        )
    )


def bootstrap_ratio(
    metric: str,
    labels: "Array",
    first: "Array",
    second: "Array",
    confidence: float,
    resamples: int,
    seed: int,
    seeds_too: bool,
) -> Interval | None:
    """Paired bootstrap interval (percentiles) of the ratio of two models' median scores: both see the same resampled sentences.

    None if there is a resample in which the second's median is not positive.

    Args:
        labels: shape (n,). first, second: predictions, shape (seeds, n) each.
        seeds_too: resample each model's seeds as well, independently of the sentences (Owen 2007, "The pigeonhole bootstrap",
            which is conservative: it counts what is neither of the two alone twice).
    """
    import numpy as np
    from scipy import stats

    def statistic(
        sentences: "Array", seeds_of_first: "Array", seeds_of_second: "Array", axis: int = -1
    ) -> "Array":
        medians = []
        for predicted, seeds in ((first, seeds_of_first), (second, seeds_of_second)):
            scores = _scores(metric, labels, predicted, sentences)
            if seeds_too:
                scores = np.take_along_axis(scores, seeds.astype(int), axis=-1)
            medians.append(np.median(scores, axis=-1))
        return np.asarray(medians[0] / np.where(medians[1] > 0, medians[1], np.nan))

    # A single seed twice: scipy wants two observations of everything.
    samples = [
        np.arange(len(labels)),
        *(np.arange(len(rows)) if len(rows) > 1 else np.zeros(2, int) for rows in (first, second)),
    ]
    return _interval(
        stats.bootstrap(samples, statistic, **_options(len(labels), confidence, resamples, seed))
    )


def _scores(metric: str, labels: "Array", predicted: "Array", sentences: "Array") -> "Array":
    """Scores of each seed on resampled sentences: predicted (seeds, n), sentences (..., n) -> (..., seeds)."""
    import numpy as np

    sentences = sentences.astype(int)
    truth = labels[sentences]
    return np.stack([score(metric, truth, row[sentences]) for row in predicted], axis=-1)


def _options(n: int, confidence: float, resamples: int, seed: int) -> dict[str, Any]:
    import numpy as np

    return {
        "n_resamples": resamples, "confidence_level": confidence, "method": "percentile", "vectorized": True,
        "rng": np.random.default_rng(seed), "batch": max(1, 2_000_000 // n),
    }  # fmt: skip


def _interval(result: Any) -> Interval | None:
    low, high = float(result.confidence_interval.low), float(result.confidence_interval.high)
    return None if math.isnan(low) or math.isnan(high) else (low, high)
