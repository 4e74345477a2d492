"""What the report says about predictions: calibration, accuracy by group, worst errors, agreement.

Pure functions of numpy arrays. `correct` and `probability` (of the answer that was given, 0 to 1)
have the shape (seeds, n): one row a run, all of one model on the same n sentences.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reproduce.verdict.statistics import wilson

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

BINS = 15  # of the reliability diagram, as in the article on calibration, section 4
LENGTHS = (10, 20, 30)  # words: upper ends of the groups; the last group is open

# GLUE splits sentences into words ("does n't"), other corpora do not ("doesn't"): both match.
KINDS = {
    "negation": r"\b(?:no|not|nor|never|none|nothing|nobody|nowhere|neither|without|cannot"
    r"|hardly|barely|scarcely)\b|n't\b",
    "contrast": r"\b(?:but|although|though|however|yet|despite|while|whereas|nevertheless"
    r"|nonetheless|instead|unless)\b",
}


@dataclass(frozen=True)
class Share:
    """Accuracy on `n` sentences in percent, the mean over runs, with its interval."""

    n: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Group:
    """Sentences of a length (in words) or of a kind. `at_most` None: no upper end."""

    kind: str  # "length", or a name of KINDS, or "neither"
    share: Share
    at_least: int = 0
    at_most: int | None = None


@dataclass(frozen=True)
class Calibration:
    """How well probabilities match accuracy. All values but `n` of a bin in percent.

    `bins` holds (n, mean confidence, accuracy) of each bin that is not empty; `ece` is the expected
    calibration error; `accuracy` is that of all sentences.
    """

    bins: tuple[tuple[int, float, float], ...]
    ece: float
    confidence: float
    accuracy: Share

    @property
    def tendency(self) -> str:
        """over, under, or unclear where the mean confidence is within the accuracy's interval."""
        if self.confidence > self.accuracy.high:
            return "over"
        return "under" if self.confidence < self.accuracy.low else "unclear"


@dataclass(frozen=True)
class Mistake:
    """A sentence (by its row) that `wrong` runs get wrong, most of them by answering `answer`."""

    row: int
    answer: int
    probability: float  # mean over the wrong runs
    wrong: int


@dataclass(frozen=True)
class Point:
    """A model in the Pareto picture. `accuracy` in percent, None where it was not measured."""

    name: str
    accuracy: float | None
    milliseconds: float  # one sentence at batch size 1
    megabytes: float


def share(correct: "Array", confidence: float) -> Share:
    """The mean accuracy over runs with Wilson's interval.

    The interval is that of one run: another seed answers the same sentences, it adds none.
    """
    mean, n = float(correct.mean()), correct.shape[1]
    low, high = wilson(round(mean * n), n, confidence)
    return Share(n, 100 * mean, 100 * low, 100 * high)


def calibration(
    probability: "Array", correct: "Array", confidence: float, bins: int = BINS
) -> Calibration:
    """Reliability diagram and ECE (Guo et al. 2017, arXiv:1706.04599, section 2, equations 1 to 3).

    Bin m of M equal-width bins holds probabilities in ((m - 1) / M, m / M]; 0 falls in the first.
    """
    import numpy as np

    place = np.clip(np.ceil(probability * bins).astype(int) - 1, 0, bins - 1)
    filled = []
    for m in np.unique(place):
        inside = place == m
        means = (100 * float(values[inside].mean()) for values in (probability, correct))
        filled.append((int(inside.sum()), *means))
    ece = sum(n * abs(accuracy - sure) for n, sure, accuracy in filled) / place.size
    mean = 100 * float(probability.mean())
    return Calibration(tuple(filled), ece, mean, share(correct, confidence))


def by_length(correct: "Array", texts: Sequence[str], confidence: float) -> list[Group]:
    """Accuracy in groups of length in words; a group without a sentence is left out."""
    import numpy as np

    words = np.array([len(text.split()) for text in texts])
    edges: list[int | None] = [0, *LENGTHS, None]
    groups = []
    for low, high in itertools.pairwise(edges):
        inside = (words > (low or 0)) & (words <= (high or words.max()))
        if inside.any():
            part = share(correct[:, inside], confidence)
            groups.append(Group("length", part, (low or 0) + 1, high))
    return groups


def kinds(text: str) -> list[str]:
    """The names in KINDS of which the text has a word; ["neither"] if of none."""
    of = [name for name, pattern in KINDS.items() if re.search(pattern, text.lower())]
    return of or ["neither"]


def by_kind(correct: "Array", texts: Sequence[str], confidence: float) -> list[Group]:
    """Accuracy on sentences with a negation, with a contrast (some have both), with neither."""
    import numpy as np

    of = [kinds(text) for text in texts]
    groups = []
    for name in (*KINDS, "neither"):
        inside = np.array([name in names for names in of])
        if inside.any():
            groups.append(Group(name, share(correct[:, inside], confidence)))
    return groups


def worst_errors(
    labels: "Array", predicted: "Array", probability: "Array", count: int
) -> list[Mistake]:
    """The rows that most runs get wrong; among equals those whose wrong answers were surest.

    Args:
        labels: shape (n,). predicted, probability: shape (seeds, n).
    """
    import numpy as np

    wrong = predicted != labels
    mistakes = []
    for row in np.flatnonzero(wrong.any(axis=0)):
        answers = predicted[wrong[:, row], row].astype(int)
        sure = float(probability[wrong[:, row], row].mean())
        mistakes.append(Mistake(int(row), int(np.bincount(answers).argmax()), sure, len(answers)))
    return sorted(mistakes, key=lambda m: (-m.wrong, -m.probability, m.row))[:count]


def agreement(first: "Array", second: "Array") -> tuple[float, float]:
    """Share of sentences on which two runs agree, and Cohen's kappa (1960), free of chance."""
    from sklearn.metrics import cohen_kappa_score

    same = float((first == second).mean())
    # Where both always give one answer, kappa is 0 / 0.
    return same, 1.0 if same == 1 else float(cohen_kappa_score(first, second))


def pareto_front(points: Iterable[Point]) -> list[Point]:
    """The measured points that no other one beats in both accuracy and time. Fastest first."""
    front: list[Point] = []
    best = (float("-inf"), 0.0)  # accuracy, milliseconds
    measured = [(p.accuracy, p.milliseconds, p) for p in points if p.accuracy is not None]
    for accuracy, time, point in sorted(measured, key=lambda entry: (entry[1], -entry[0])):
        if accuracy > best[0] or (accuracy, time) == best:
            best = (accuracy, time)
            front.append(point)
    return front
