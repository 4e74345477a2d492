"""What the report says about answers: calibration, accuracy by group, worst errors.

Pure functions of numpy arrays. `correct` and `probability` (of the answer that was given, 0 to 1)
have the shape (seeds, n): a row a run, all of one model on the same n sentences.
"""

import re
from collections.abc import Sequence

from reproduce.models.metrics import Array
from reproduce.verdict.statistics import Interval, wilson

BINS = 15  # of the reliability diagram, as in its article, section 4
LENGTHS = ((1, 10), (11, 20), (21, 30), (31, None))  # words; None: no upper end

# GLUE splits sentences into words ("does n't"), other corpora do not ("doesn't"): both match.
KINDS = {
    "negation": r"\b(?:no|not|nor|never|none|nothing|nobody|nowhere|neither|without|cannot"
    r"|hardly|barely|scarcely)\b|n't\b",
    "contrast": r"\b(?:but|although|though|however|yet|despite|while|whereas|nevertheless"
    r"|nonetheless|instead|unless)\b",
}


def share(correct: Array, confidence: float) -> tuple[float, Interval]:
    """The mean accuracy over runs with Wilson's interval, in percent.

    The interval is that of one run: another seed answers the same sentences, it adds none.
    """
    mean, n = float(correct.mean()), correct.shape[1]
    low, high = wilson(round(mean * n), n, confidence)
    return 100 * mean, (100 * low, 100 * high)


def calibration(
    probability: Array, correct: Array, bins: int = BINS
) -> tuple[list[tuple[int, float, float]], float]:
    """Reliability diagram and ECE (Guo et al. 2017, arXiv:1706.04599, section 2, equations 1 to 3).

    Bin m of M equal-width bins holds probabilities in ((m - 1) / M, m / M]; 0 falls in the first.

    Returns:
        of each bin that is not empty its n, mean confidence and accuracy; and the ECE. In percent.
    """
    import numpy as np

    place = np.clip(np.ceil(probability * bins).astype(int) - 1, 0, bins - 1)
    filled = []
    for inside in (place == m for m in np.unique(place)):
        sure, accuracy = (100 * float(of[inside].mean()) for of in (probability, correct))
        filled.append((int(inside.sum()), sure, accuracy))
    ece = sum(n * abs(accuracy - sure) for n, sure, accuracy in filled) / place.size
    return filled, ece


def by_length(texts: Sequence[str]) -> list[tuple[int, int | None, Array]]:
    """Groups by length in words: shortest, longest (None: no upper end), which sentences."""
    import numpy as np

    words = np.array([len(text.split()) for text in texts])
    return [(low, high, (words >= low) & (words <= (high or words.max()))) for low, high in LENGTHS]


def kinds(text: str) -> list[str]:
    """The names in KINDS of which the text has a word; ["neither"] if of none."""
    of = [name for name, pattern in KINDS.items() if re.search(pattern, text.lower())]
    return of or ["neither"]


def worst_errors(
    labels: Array, predicted: Array, probability: Array
) -> list[tuple[int, float, int]]:
    """The sentences that runs get wrong, those that most do first, then by the surest answers.

    Args:
        labels: shape (n,). predicted, probability: shape (seeds, n).

    Returns:
        row, mean probability of the wrong answers, the wrong answer given most often.
    """
    import numpy as np

    wrong, errors = predicted != labels, []
    for row in np.flatnonzero(wrong.any(axis=0)):
        at = wrong[:, row]
        answer = int(np.bincount(predicted[at, row].astype(int)).argmax())
        errors.append((-int(at.sum()), -float(probability[at, row].mean()), int(row), answer))
    return [(row, -sure, answer) for _, sure, row, answer in sorted(errors)]
