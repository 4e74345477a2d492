"""What the report says about predictions: calibration, accuracy by length and kind, worst errors, agreement, Pareto front.

Pure functions of a table of predictions with one row a sentence and the columns `text` (str), `words` (int), `label`, `predicted`
and, for a classifier, `probability` (0 .. 1, the softmax of the predicted class). Shares are 0 .. 1.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.files import UserError
from reproduce.verdict.statistics import wilson

if TYPE_CHECKING:
    import pandas as pd

BINS = 15  # of the reliability diagram
LENGTHS = (10, 20, 30)  # words: upper ends of the buckets; the last bucket is open

# GLUE's sentences are lower-cased and split into words ("does n't"), other corpora are not ("doesn't"): both are found.
KINDS = {
    "negation": r"\b(?:no|not|nor|never|none|nothing|nobody|nowhere|neither|without|cannot|hardly|barely|scarcely)\b|n't\b",
    "contrast": r"\b(?:but|although|though|however|yet|despite|while|whereas|nevertheless|nonetheless|instead|unless)\b",
}


@dataclass(frozen=True)
class Point:
    """A model (or one form of it) in the Pareto picture. `accuracy` in percent, None where it was not measured."""

    name: str
    accuracy: float | None
    milliseconds: float  # one sentence at batch size 1
    megabytes: float


def read_predictions(path: Path, remedy: str) -> "pd.DataFrame":
    """Read predictions/MODEL-SEED.csv: text columns, `label`, `predicted` and, for a classifier, `probability`.

    Several text columns (pairs of sentences) are joined by " | "; with a column `split`, the rows of "validation" are read.

    Raises:
        UserError: missing or not such a file; the message ends with `remedy`.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, keep_default_na=False, encoding="utf-8")
    except (OSError, ValueError) as error:  # a parser's and a decoder's errors are ValueErrors
        raise UserError(f"{path}: {' '.join(str(error).split())}. {remedy}") from error
    columns = list(table.columns)
    if not {"label", "predicted"} <= set(columns) or columns[0] == "label":
        raise UserError(
            f"{path}: columns are {', '.join(columns)}; expected text, label, predicted[, probability]. {remedy}"
        )
    texts = [name for name in columns[: columns.index("label")] if name != "split"]
    if "split" in columns:
        table = table[table["split"] == "validation"].reset_index(drop=True)
    numbers = [name for name in ("label", "predicted", "probability") if name in columns]
    if table.empty:
        raise UserError(f"{path}: no rows. {remedy}")
    if bad := [name for name in numbers if not pd.api.types.is_numeric_dtype(table[name])]:
        raise UserError(f"{path}: {bad[0]} is not a number everywhere. {remedy}")
    if "probability" in columns and not table["probability"].between(0, 1).all():
        raise UserError(f"{path}: a probability outside 0 .. 1. {remedy}")
    text = table[texts].astype(str).agg(" | ".join, axis=1)
    words = table[texts].astype(str).agg(" ".join, axis=1).str.split().str.len()
    return table[numbers].assign(text=text, words=words)


def calibration(table: "pd.DataFrame", bins: int = BINS) -> dict[str, Any]:
    """Reliability diagram and expected calibration error (Guo et al. 2017, arXiv:1706.04599, section 2, equations 1 to 3).

    Bin m of M equal-width bins holds the sentences with a probability in ((m - 1) / M, m / M]; 0 itself falls in the first.
    ECE is the mean over sentences of |accuracy - confidence| of their bin. M = 15 is theirs (section 4).

    Returns:
        {"ece", "confidence" and "accuracy" (means over sentences), "bins": [{"n", "confidence", "accuracy"}]}; bins that hold no
        sentence are left out.
    """
    import numpy as np

    confidence = table["probability"].to_numpy(float)
    correct = (table["label"] == table["predicted"]).to_numpy(float)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    found = []
    for m in range(bins):
        inside = place == m
        if inside.any():
            found.append(
                {
                    "n": int(inside.sum()),
                    "confidence": float(confidence[inside].mean()),
                    "accuracy": float(correct[inside].mean()),
                }
            )
    ece = sum(b["n"] * abs(b["accuracy"] - b["confidence"]) for b in found) / len(table)
    return {
        "ece": ece,
        "confidence": float(confidence.mean()),
        "accuracy": float(correct.mean()),
        "bins": found,
    }


def by_length(tables: "Sequence[pd.DataFrame]", confidence: float) -> list[dict[str, Any]]:
    """Accuracy in buckets of length in words: {"at_least", "at_most" (None: open)} and what `accuracy_of` says, each."""
    words = tables[0]["words"]
    edges = [0, *LENGTHS, float("inf")]
    return [
        {
            "at_least": low + 1,
            "at_most": None if high == edges[-1] else high,
            **accuracy_of(tables, (words > low) & (words <= high), confidence),
        }
        for low, high in itertools.pairwise(edges)
    ]


def kinds(text: str) -> list[str]:
    """The kinds of a sentence: the names in KINDS of which it has a word; ["neither"] if of none."""
    return [name for name, pattern in KINDS.items() if re.search(pattern, text.lower())] or [
        "neither"
    ]


def by_kind(tables: "Sequence[pd.DataFrame]", confidence: float) -> list[dict[str, Any]]:
    """Accuracy on the sentences with a negation, with a contrast (a sentence can have both) and with neither."""
    found = tables[0]["text"].map(kinds)
    names = [*KINDS, "neither"]
    return [
        {
            "kind": name,
            **accuracy_of(tables, found.map(lambda of, name=name: name in of), confidence),
        }
        for name in names
    ]


def accuracy_of(
    tables: "Sequence[pd.DataFrame]", inside: "pd.Series", confidence: float
) -> dict[str, Any]:
    """Accuracy on the rows `inside`, the mean over one model's runs on the same sentences, with Wilson's interval.

    The interval is that of one run whose accuracy is the mean: another seed answers the same sentences, it adds none.

    Returns:
        {"n", "share", "low", "high"}; the last three are None if there is no such row.
    """
    n = int(inside.sum())
    if not n:
        return {"n": 0, "share": None, "low": None, "high": None}
    mean = sum(
        int((inside & (table["label"] == table["predicted"])).sum()) for table in tables
    ) / len(tables)
    low, high = wilson(round(mean), n, confidence)
    return {"n": n, "share": mean / n, "low": low, "high": high}


def worst_errors(tables: "Sequence[pd.DataFrame]", count: int = 20) -> list[dict[str, Any]]:
    """The sentences that one model's runs get wrong most often; among equals those whose wrong answers were surest.

    Args:
        tables: predictions of the same sentences, one table a seed.

    Returns:
        {"place" (row number), "text", "label", "predicted" (the wrong class given most often), "probability" (mean over the wrong
        answers), "wrong" (how many seeds)} each, worst first.
    """
    import pandas as pd

    rows = pd.concat([table.assign(place=range(len(table))) for table in tables])
    wrong = rows[rows["label"] != rows["predicted"]].groupby("place")
    if not len(wrong):
        return []
    worst = wrong.agg(
        text=("text", "first"), label=("label", "first"), predicted=("predicted", lambda of: of.mode().min()),
        probability=("probability", "mean"), wrong=("label", "size"),
    )  # fmt: skip
    worst = worst.reset_index().sort_values(
        ["wrong", "probability", "place"], ascending=[False, False, True]
    )
    return worst.head(count).to_dict("records")  # type: ignore[no-any-return]


def agreement(first: "pd.DataFrame", second: "pd.DataFrame") -> tuple[float, float]:
    """How far two runs give the same answers: share of sentences, and Cohen's kappa (Cohen 1960), which takes off chance."""
    from sklearn.metrics import cohen_kappa_score

    same = float((first["predicted"] == second["predicted"]).mean())
    # Where both always give one answer, kappa is 0 / 0.
    return same, 1.0 if same == 1 else float(
        cohen_kappa_score(first["predicted"], second["predicted"])
    )


def pareto_front(points: Iterable[Point]) -> list[Point]:
    """The measured points that no other one beats: at least as accurate, at least as fast, and better in one of the two.

    Fastest first.
    """
    front: list[Point] = []
    best = (float("-inf"), 0.0)  # accuracy, milliseconds
    measured = [
        (point.accuracy, point.milliseconds, point)
        for point in points
        if point.accuracy is not None
    ]
    for accuracy, milliseconds, point in sorted(measured, key=lambda entry: (entry[1], -entry[0])):
        if accuracy > best[0] or (accuracy, milliseconds) == best:
            best = (accuracy, milliseconds)
            front.append(point)
    return front
