"""Each interval, test and rule against the literature, R's output, or exact arithmetic."""

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from benchmarks import verdicts
from conftest import ROOT
from reproduce.verdict import statistics

# Student (1908), R's data set `sleep`: more hours of sleep by drug 1 and 2, the same ten patients.
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
SCORES = [90.6, 91.86, 91.06, 91.4, 91.28]
RATES = json.loads((ROOT / verdicts.RESULT).read_text())["rules"]


def over_seeds(*samples: list[float], published: float, seeds: int | None) -> statistics.Difference:
    means = [np.mean(sample) for sample in samples]
    deviations = [np.std(sample, ddof=1) for sample in samples]
    counts = [len(sample) for sample in samples]
    return statistics.difference_over_seeds(means, deviations, counts, published, seeds)


# --- over seeds ----------------------------------------------------------------------------------


def test_against_an_exact_number_the_interval_is_student_s() -> None:
    """R: with(sleep, t.test(extra[group == 1], extra[group == 2], paired = TRUE))."""
    differences = [first - second for first, second in zip(DRUG_1, DRUG_2, strict=True)]
    interval = over_seeds(differences, published=0, seeds=None).interval(0.95)
    assert interval == pytest.approx((-2.4598858, -0.7001142), abs=5e-8)


def test_the_article_s_median_adds_its_own_error() -> None:
    """The variance of a median of 5 is pi / 2 times that of their mean; t(0.95, 4) = 2.131847."""
    found = over_seeds(SCORES, published=91.3, seeds=5)
    half = 2.131847 * np.std(SCORES, ddof=1) * math.sqrt(1 / 5 + math.pi / 10)
    middle = np.mean(SCORES) - 91.3
    assert found.interval(0.9) == pytest.approx((middle - half, middle + half), abs=1e-6)


def test_a_ratio_has_welch_s_degrees_of_freedom() -> None:
    """For small spreads a ratio's relative error is that of a difference of logarithms."""
    first, second = [91.3, 91.4, 91.1], [92.7, 92.5, 92.8, 92.9]
    found = over_seeds(first, second, published=98.0, seeds=None)
    logs = [np.log(values) for values in (first, second)]
    welch = stats.ttest_ind(*logs, equal_var=False)
    low, high = welch.confidence_interval(0.95)
    assert float(found.freedom) == pytest.approx(welch.df, rel=2e-3)
    expected = (100 * math.exp(low) - 98, 100 * math.exp(high) - 98)
    assert found.interval(0.95) == pytest.approx(expected, abs=2e-3)


def difference(low: float, high: float) -> statistics.Difference:
    """A difference with this 90 % interval and so many degrees of freedom that t is normal."""
    return statistics.Difference((low + high) / 2, (high - low) / 2 / stats.norm.ppf(0.95), 1e9)


@pytest.mark.parametrize(
    ("low", "high", "two_sided", "one_sided"),
    [
        (-0.9, 0.9, "reproduced", "reproduced"),
        (-1.1, 0.9, "inconclusive", "inconclusive"),
        (0.2, 1.8, "inconclusive", "reproduced"),
        (1.3, 2.0, "not reproduced", "reproduced"),
        (-2.0, -1.3, "not reproduced", "not reproduced"),
        (-2.0, -1.05, "inconclusive", "inconclusive"),  # outside at 90 %, not at 95 %
    ],
)
def test_an_interval_and_a_margin_of_1_make_a_verdict(
    low: float, high: float, two_sided: str, one_sided: str
) -> None:
    found = difference(low, high)
    assert str(statistics.decide("difference", found, 1, 0.95)) == two_sided
    assert str(statistics.decide("at least", found, 1, 0.95)) == one_sided


@pytest.mark.parametrize("rule", verdicts.SIMULATED)
def test_the_committed_error_rates_are_those_of_the_rules(rule: str) -> None:
    """A fifth of the studies: a share's standard error is then at most 1.1 points."""
    again = verdicts.table(verdicts.SIMULATED[rule], verdicts.STUDIES // 5)
    for row, other in zip(RATES[rule], again, strict=True):
        for verdict in verdicts.VERDICTS:
            assert other[verdict] == pytest.approx(row[verdict], abs=5), (row, other)


def test_at_the_margin_reproduced_is_wrong_in_five_of_a_hundred() -> None:
    at_margin = [r for rule in verdicts.SIMULATED for r in RATES[rule] if r["difference"] == 1]
    assert len(at_margin) == 16
    assert max(row["reproduced"] for row in at_margin) <= 5.5


def test_the_interval_over_seeds_and_sentences_covers_the_truth() -> None:
    assert min(row["covered"] for row in RATES["paired"]) > 92  # nominal 95, of 300 studies


def test_the_page_on_error_rates_has_the_committed_numbers() -> None:
    page = (ROOT / "docs/error_rates.md").read_text(encoding="utf-8")
    assert all(verdicts.rates(rule) in page for rule in RATES)
    words = " ".join(page.split())
    assert f"in at least {min(row['covered'] for row in RATES['paired'])} % of" in words
    for rule in ("paired", "retention"):
        exact = [row for row in RATES[rule] if row["seeds"] == 5 and not row["difference"]]
        shares = [row["reproduced"] for row in exact]
        assert f"{min(shares):.0f} to {max(shares):.0f} %" in words


# --- proportions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    # Newcombe (1998), "Two-sided confidence intervals ...", Table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)],
)
def test_wilson_s_interval_is_newcombe_s(correct: int, n: int, low: float, high: float) -> None:
    assert [round(bound, 4) for bound in statistics.wilson(correct, n, 0.95)] == [low, high]


# --- scores --------------------------------------------------------------------------------------

REFERENCE = {
    "accuracy": accuracy_score,
    "f1": lambda labels, predicted: f1_score(labels, predicted, zero_division=0),
    "matthews": matthews_corrcoef,
}


@pytest.mark.filterwarnings("ignore:A single label")
@pytest.mark.parametrize("metric", REFERENCE)
def test_scores_equal_scikit_learn_s_row_by_row(metric: str) -> None:
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(0, 2, (2, 4, 3, 30)).astype(float)
    predicted[0, 0], labels[0, 1] = 0, 1  # a class is never predicted, or does not occur
    labels[1, 0] = predicted[1, 0] = 0
    found = statistics.score(metric, labels, predicted)
    assert found.shape == (4, 3)
    for i, j in itertools.product(range(4), range(3)):
        expected = REFERENCE[metric](labels[i, j], predicted[i, j])
        assert found[i, j] == pytest.approx(expected, abs=1e-12), (i, j)


def test_pearson_s_correlation_is_scipy_s_and_0_where_there_is_none() -> None:
    rng = np.random.default_rng(2)
    labels, predicted = rng.normal(3, 1, (2, 5, 40))
    expected = [stats.pearsonr(x, y).statistic for x, y in zip(labels, predicted, strict=True)]
    found = statistics.score("pearson", labels, predicted)
    assert found == pytest.approx(expected, abs=1e-12)
    assert statistics.score("pearson", np.array([1.0, 2.0]), np.array([3.0, 3.0])) == 0


# --- bootstrap -----------------------------------------------------------------------------------


def exact_ratios(first: Any, second: Any) -> list[float]:
    """The ratios of all resamples of few sentences and few seeds, each as likely as any other."""
    ratios, n = [], first.shape[1]
    seeds = [list(itertools.product(range(len(m)), repeat=len(m))) for m in (first, second)]
    for sentences in itertools.product(range(n), repeat=n):
        scores = [rows[:, sentences].mean(axis=1) for rows in (first, second)]
        for one, other in itertools.product(*seeds):
            ratios.append(np.median(scores[0][list(one)]) / np.median(scores[1][list(other)]))
    return ratios


def test_the_paired_bootstrap_is_the_exact_one() -> None:
    """Four sentences, two seeds each: all 4,096 resamples are enumerated."""
    first, second = np.array([[1, 0, 1, 1], [1, 1, 0, 1]]), np.ones((2, 4), int)
    labels = np.array([1, 0, 0, 1])
    answers = [np.where(right, labels, 1 - labels) for right in (first, second)]
    exact = np.quantile(exact_ratios(first, second), [0.1, 0.9])
    found = statistics.bootstrap("accuracy", labels, answers, 0.8, 20_000, 0)
    assert found == pytest.approx(tuple(exact), abs=1e-9)


def test_models_that_are_wrong_together_lose_nothing() -> None:
    """Paired: where both have the same sentences right, every resample has the ratio 1."""
    same = np.array([[1.0] * 60 + [0.0] * 40])
    assert statistics.bootstrap("accuracy", np.ones(100), [same, same], 0.95, 999, 0) == (1.0, 1.0)


def test_what_may_be_nothing_has_no_interval() -> None:
    """A ratio of two of four right: one resample in sixteen has none. And a single sentence."""
    half = np.array([[1.0, 1.0, 0.0, 0.0]])
    assert statistics.bootstrap("accuracy", np.ones(4), [half, half], 0.95, 999, 0) is None
    assert statistics.bootstrap("accuracy", np.ones(1), [np.ones((2, 1))], 0.95, 999, 0) is None
