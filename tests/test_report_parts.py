"""What the report is made of: numbers worked out by hand, and words in two languages."""

import re

import numpy as np
import pytest

from reproduce.params import read_yaml
from reproduce.report.analysis import by_length, calibration, kinds, share, worst_errors
from reproduce.report.wording import LANGUAGES, TEXTS, Wording
from reproduce.verdict.published import in_language
from reproduce.verdict.statistics import wilson

WORDS = read_yaml(TEXTS)


def test_calibration_by_hand() -> None:
    """Five bins. (0.4, 0.6]: 0.6 wrong, 0.5 right; (0.8, 1]: 0.9 and 1.0 right, 0.9 wrong."""
    probability, correct = np.array([[0.6, 0.5, 0.9, 1.0, 0.9]]), np.array([[0, 1, 1, 1, 0]]) == 1
    bins, ece = calibration(probability, correct, bins=5)
    assert np.array(bins) == pytest.approx(np.array([[2, 55, 50], [3, 280 / 3, 200 / 3]]))
    assert ece == pytest.approx((2 * 5 + 3 * 80 / 3) / 5)


def test_accuracy_is_the_mean_over_seeds_with_the_interval_of_one_run() -> None:
    found = share(np.array([[1, 1, 1, 1], [1, 1, 0, 0]]) == 1, 0.95)
    low, high = wilson(3, 4, 0.95)
    assert found == (75.0, (100 * low, 100 * high))


def test_groups_by_length() -> None:
    texts = ["word " * count for count in (1, 10, 11, 30, 31, 99)]
    groups = [(low, high, int(inside.sum())) for low, high, inside in by_length(texts)]
    assert groups == [(1, 10, 2), (11, 20, 1), (21, 30, 1), (31, None, 2)]


def test_kinds_of_sentences() -> None:
    expected = {
        "it does n't work": ["negation"],
        "It doesn't work": ["negation"],
        "Not bad, but long": ["negation", "contrast"],
        "although slow , it holds": ["contrast"],
        "another notable butler in the nave": ["neither"],  # words, not pieces of words
        "": ["neither"],
    }
    assert {text: kinds(text) for text in expected} == expected


def test_the_worst_errors_are_the_most_frequent_then_the_surest() -> None:
    predicted = np.array([[1, 1, 0, 1], [0, 1, 1, 1]])
    probability = np.array([[0.9, 0.6, 0.99, 0.8], [0.5, 0.8, 0.95, 0.8]])
    found = worst_errors(np.array([0, 0, 0, 1]), predicted, probability)
    assert found == [(1, pytest.approx(0.7), 1), (2, 0.95, 1), (0, 0.9, 1)]


def test_a_text_has_the_same_places_in_both_languages() -> None:
    for key, texts in WORDS.items():
        assert set(texts) == set(LANGUAGES) and all(texts.values()), key
        places = [set(re.findall(r"{(\w+)}", text)) for text in texts.values()]
        assert places[0] == places[1], key


def test_numbers_and_texts_are_written_as_the_language_writes_them() -> None:
    en, pt = (Wording(WORDS, language) for language in LANGUAGES)
    assert (en.number(1234.567), pt.number(1234.567)) == ("1,234.57", "1.234,57")
    assert (en.number(-0.5, 1, sign=True), pt.number(None)) == ("−0.5", "sem resultado")
    assert (en.short(1e-05), en.short(0.0001), pt.short(0.1)) == ("1e-5", "1e-4", "0,1")
    assert (en.interval((1, 2.5)), en.interval((1, 1.001))) == ("1.00 to 2.50", "1.00")
    assert pt.interval(None) == "–" and en.number("not defined") == "not defined"
    assert (in_language(-0.004, "en"), in_language(-1.5, "pt")) == ("0", "-1,5")
    assert (en.seeds([3]), pt.seeds([1, 2])) == ("seed 3", "sementes 1, 2")
    assert (pt("threads", n=1), pt("threads", n=2)) == ("1 thread", "2 threads")
    assert en("published_value", value="<b>") == "published &lt;b&gt;"
    statement = pt.statement({"pt": "97 % do BERT, `dvc repro`, de -1"})
    assert statement == "97% do BERT, <code>dvc repro</code>, de −1"
