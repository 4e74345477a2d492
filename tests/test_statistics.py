"""Each interval and test against the literature, against R's documented output, or against exact arithmetic done here."""

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from reproduce.verdict.statistics import (
    bootstrap_ratio,
    bootstrap_score,
    difference_from_published,
    difference_interval,
    mcnemar,
    ratio_interval,
    score,
    seed_interval,
    wilson,
)

# Student (1908), the data set `sleep` of R: more hours of sleep by drug 1 and by drug 2, the same ten patients.
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

# --- proportions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    # Newcombe (1998), "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17, Table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_s_interval_is_newcombe_s_table(
    correct: int, n: int, low: float, high: float
) -> None:
    assert [round(bound, 4) for bound in wilson(correct, n, 0.95)] == [low, high]


@pytest.mark.parametrize("correct", [0, 1, 436, 796, 872])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_s_bounds_are_where_the_score_test_is_just_significant(
    correct: int, confidence: float
) -> None:
    """The definition: (p - bound)^2 = z^2 bound (1 - bound) / n."""
    z = stats.norm.ppf((1 + confidence) / 2)
    low, high = wilson(correct, 872, confidence)
    assert low <= correct / 872 <= high
    for bound in (low, high):
        assert (correct / 872 - bound) ** 2 == pytest.approx(
            z**2 * bound * (1 - bound) / 872, abs=1e-12
        )


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    # Newcombe (1998), "Interval estimation for the difference between independent proportions", Statistics in Medicine 17,
    # Table II, method 10, cases (a), (b) and (g).
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 20), 0.6791, 1.0000),
    ],
)
def test_the_difference_of_two_proportions_is_newcombe_s_table(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    bounds = difference_interval(
        first[0] / first[1], wilson(*first, 0.95), second[0] / second[1], wilson(*second, 0.95)
    )  # fmt: skip
    assert [round(bound, 4) for bound in bounds] == [low, high]


def test_two_results_on_872_sentences_cannot_be_told_apart_within_two_and_a_half_points() -> None:
    """What params.yaml says of the rule: about 2.7 points at 91.3 %."""
    at = 796 / 872
    low, high = difference_interval(at, wilson(796, 872, 0.95), at, wilson(796, 872, 0.95))
    assert low == -high and 0.026 < high < 0.027


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_student_s_interval_is_r_s() -> None:
    """R: with(sleep, t.test(extra[group == 1], extra[group == 2], paired = TRUE)) prints -2.4598858 -0.7001142."""
    differences = [first - second for first, second in zip(DRUG_1, DRUG_2, strict=True)]
    assert seed_interval(differences, 0.95) == pytest.approx((-2.4598858, -0.7001142), abs=5e-8)


def test_student_s_interval_of_five_values_by_hand() -> None:
    """Mean 3, variance 10 / 4; t(0.975, 4) = 2.776445 in every table of t."""
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert seed_interval([1, 2, 3, 4, 5], 0.95) == pytest.approx((3 - half, 3 + half), abs=1e-6)


def test_one_seed_has_no_interval_and_equal_seeds_one_of_no_width() -> None:
    assert seed_interval([91.3], 0.95) is None
    assert seed_interval([91.3, 91.3, 91.3], 0.95) == (91.3, 91.3)
    assert (
        ratio_interval([91.3], [92.7, 92.8], 0.95)
        is ratio_interval([91.3, 91.0], [92.7], 0.95)
        is None
    )
    assert ratio_interval([91.0, 91.0], [92.0, 92.0], 0.95) == (91 / 92, 91 / 92)


@pytest.mark.parametrize("theirs", [5, 3])
def test_against_a_published_mean_the_interval_is_the_prediction_interval(theirs: int) -> None:
    """mean +- t(k - 1) s sqrt(1 / k + 1 / m), around the difference."""
    values = [90.6, 91.86, 91.06, 91.4, 91.28]
    interval = seed_interval(values, 0.95)
    assert interval
    found = difference_from_published(91.24, interval, 91.3, math.sqrt(5 / theirs))
    half = 2.776445 * np.std(values, ddof=1) * math.sqrt(1 / 5 + 1 / theirs)
    assert found == pytest.approx((-0.06 - half, -0.06 + half), abs=1e-6)


def test_a_published_number_has_our_error_turned_round() -> None:
    """80 in (78, 81) against 79: theirs is (77, 80), so 1 - hypot(2, 1) to 1 + hypot(1, 2)."""
    assert difference_from_published(80, (78, 81), 79) == pytest.approx(
        (1 - math.sqrt(5), 1 + math.sqrt(5))
    )


def test_the_ratio_of_means_is_welch_s_interval_of_logarithms() -> None:
    """R: with(sleep, t.test(extra ~ group)) prints -3.3654832 0.2054832. As logarithms, the ratio's interval is its exponential."""
    interval = ratio_interval([math.exp(x) for x in DRUG_1], [math.exp(x) for x in DRUG_2], 0.95)
    assert interval and tuple(map(math.log, interval)) == pytest.approx(
        (-3.3654832, 0.2054832), abs=5e-8
    )


def test_there_is_no_ratio_of_what_is_not_positive() -> None:
    assert ratio_interval([0.5, 0.4], [0.5, 0.0], 0.95) is None


# --- McNemar ----------------------------------------------------------------------------------------------------------


def columns(both: int, only_first: int, only_second: int, neither: int) -> tuple[Any, Any]:
    first = np.array([True] * (both + only_first) + [False] * (only_second + neither))
    second = np.array(
        [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    )
    order = np.random.default_rng(0).permutation(len(first))
    return first[order], second[order]


def exact_p(b: int, c: int) -> Fraction:
    """Twice the smaller tail of b + c tosses of a fair coin, at most 1, without rounding."""
    tail = sum(math.comb(b + c, i) for i in range(min(b, c) + 1))
    return min(Fraction(2 * tail, 2 ** (b + c)), Fraction(1))


@pytest.mark.parametrize(
    ("both", "b", "c", "neither"),
    # The first: approval of a prime minister in two surveys (Agresti, Categorical Data Analysis, the table of the chapter on
    # matched pairs): 794, 150, 86, 570.
    [
        (794, 150, 86, 570),
        (780, 20, 33, 39),
        (10, 1, 9, 0),
        (800, 5, 5, 62),
        (800, 0, 7, 65),
        (3, 1, 0, 0),
        (1, 6, 5, 1),
    ],
)
def test_mcnemar_is_exact(both: int, b: int, c: int, neither: int) -> None:
    result = mcnemar(*columns(both, b, c, neither))
    assert result.pop("p") == pytest.approx(float(exact_p(b, c)), rel=1e-12)
    assert result == {"both": both, "only_first": b, "only_second": c, "neither": neither}


def test_mcnemar_of_one_against_nine_by_hand() -> None:
    """2 (1 + 10) / 1024."""
    assert mcnemar(*columns(0, 1, 9, 0))["p"] == pytest.approx(22 / 1024, rel=1e-12)


def test_models_that_never_differ_have_p_1() -> None:
    assert mcnemar(*columns(5, 0, 0, 3))["p"] == 1.0


# --- scores -----------------------------------------------------------------------------------------------------------

REFERENCE = {
    "accuracy": accuracy_score,
    "f1": lambda labels, predicted: f1_score(labels, predicted, zero_division=0),
    "matthews": matthews_corrcoef,
}


@pytest.mark.parametrize("metric", REFERENCE)
def test_scores_equal_scikit_learn_s_row_by_row(metric: str) -> None:
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(0, 2, (2, 4, 3, 30)).astype(float)
    predicted[0, 0], labels[0, 1], predicted[0, 2] = (
        0,
        1,
        labels[0, 2],
    )  # a class is never predicted, or does not occur; all right
    labels[1, 0] = predicted[1, 0] = 0
    found = score(metric, labels, predicted)
    assert found.shape == (4, 3)
    for i, j in itertools.product(range(4), range(3)):
        assert found[i, j] == pytest.approx(
            REFERENCE[metric](labels[i, j], predicted[i, j]), abs=1e-12
        ), (i, j)


def test_pearson_s_correlation_is_scipy_s_and_0_where_there_is_none() -> None:
    rng = np.random.default_rng(2)
    labels, predicted = rng.normal(3, 1, (2, 5, 40))
    for found, x, y in zip(score("pearson", labels, predicted), labels, predicted, strict=True):
        assert found == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert score("pearson", np.array([1.0, 2.0]), np.array([3.0, 3.0])) == 0
    # Anscombe's quartet (1973), the first set: r = 0.816
    x, y = (
        [10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5],
        [8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68],
    )
    assert float(score("pearson", np.array(x), np.array(y))) == pytest.approx(0.816, abs=5e-4)


def test_an_unknown_metric_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown metric 'bleu'"):
        score("bleu", np.zeros(2), np.zeros(2))


# --- bootstrap --------------------------------------------------------------------------------------------------------


def test_the_bootstrap_over_sentences_is_the_exact_one() -> None:
    """Accuracy of resamples of 100 sentences of which 80 are right is binomial: its percentiles are known exactly."""
    labels, predicted = np.ones(100), np.array([[1.0] * 80 + [0.0] * 20])
    low, high = bootstrap_score("accuracy", labels, predicted, 0.95, 9999, 0) or (0, 0)
    exact = stats.binom.ppf([0.025, 0.975], 100, 0.8) / 100
    assert (low, high) == pytest.approx(tuple(exact), abs=0.0051)


def exact_ratios(first: Any, second: Any, seeds_too: bool) -> list[float]:
    """The ratios of all resamples of few sentences (and of few seeds), each as likely as any other."""
    n = first.shape[1]
    choices = [
        list(itertools.product(range(len(rows)), repeat=len(rows)))
        if seeds_too
        else [tuple(range(len(rows)))]
        for rows in (first, second)
    ]
    ratios = []
    for sentences in itertools.product(range(n), repeat=n):
        accuracy = [rows[:, sentences].mean(axis=1) for rows in (first, second)]
        for of_first, of_second in itertools.product(*choices):
            ratios.append(
                float(
                    np.median(accuracy[0][list(of_first)]) / np.median(accuracy[1][list(of_second)])
                )
            )
    return ratios


@pytest.mark.parametrize("seeds_too", [False, True])
def test_the_paired_bootstrap_is_the_exact_one(seeds_too: bool) -> None:
    """Four sentences, two seeds each: all 256 (with seeds: 4096) resamples are enumerated. The second model has the last sentence
    wrong where the first does, so resamples that lose it lose it for both."""
    first = np.array([[1, 0, 1, 1], [1, 1, 0, 1]])
    second = np.array([[1, 1, 1, 1], [1, 1, 1, 1]])
    exact = np.quantile(exact_ratios(first, second, seeds_too), [0.1, 0.9])
    found = bootstrap_ratio(
        "accuracy", np.ones(4), first, second, 0.8, 20_000, 0, seeds_too=seeds_too
    )
    assert found == pytest.approx(tuple(exact), abs=1e-9)


def test_models_that_are_wrong_together_lose_nothing() -> None:
    """Paired: where both have the same sentences right, every resample has the ratio 1, however few they are."""
    same = np.array([[1.0] * 60 + [0.0] * 40])
    assert bootstrap_ratio("accuracy", np.ones(100), same, same, 0.95, 999, 0, seeds_too=True) == (
        1.0,
        1.0,
    )


def test_seeds_widen_the_interval_and_the_seed_of_the_bootstrap_repeats_it() -> None:
    rng = np.random.default_rng(3)
    labels = np.ones(400)
    first, second = (
        (rng.random((5, 400)) < rates[:, None]).astype(float)
        for rates in (np.linspace(0.8, 0.9, 5), np.linspace(0.85, 0.95, 5))
    )
    alone, both, again = (
        bootstrap_ratio("accuracy", labels, first, second, 0.95, 1999, 7, seeds_too=too)
        for too in (False, True, True)
    )
    assert alone and both and both == again
    assert both[1] - both[0] > 1.2 * (alone[1] - alone[0])


def test_a_ratio_over_what_may_be_nothing_is_not_given() -> None:
    """Two of four sentences right: one resample in sixteen has none, and no ratio."""
    half = np.array([[1.0, 1.0, 0.0, 0.0]])
    assert (
        bootstrap_ratio("accuracy", np.ones(4), half, half, 0.95, 999, 0, seeds_too=False) is None
    )
