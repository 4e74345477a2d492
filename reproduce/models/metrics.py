"""The metrics of one run, from its logits and labels: numpy arrays in, numbers out; no PyTorch."""

import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]
else:
    Array = Any  # numpy itself is imported where it is used


def measure(
    logits: Array, labels: Array, label_names: Sequence[str], metrics: Sequence[str]
) -> dict[str, Any]:
    """All metrics of one run, rounded to 6 decimals.

    Args:
        logits: float array of shape (n, classes), or (n, 1) where labels are numbers.
        labels: shape (n,): class indices, or numbers.
        label_names: of the classes; none where labels are numbers.
        metrics: names of `compute_metrics`; the first is the headline.

    Returns:
        each metric by name, None where it is not defined; metric and score (the headline's name
        and value); n; loss (mean cross-entropy in nats; of numbers the mean squared error); and
        of classes correct and confusion[true name][predicted name], both counts.
    """
    import numpy as np
    from scipy.special import log_softmax
    from sklearn.metrics import confusion_matrix

    logits, classes = np.asarray(logits, float), len(label_names)
    guess = logits.argmax(axis=1) if classes else logits[:, 0]
    truth = np.asarray(labels, int if classes else float)
    measured: dict[str, Any] = compute_metrics(metrics, truth, guess, classes)
    measured |= {"metric": metrics[0], "score": measured[metrics[0]], "n": len(truth)}
    if classes:
        loss = -log_softmax(logits, axis=1)[np.arange(len(truth)), truth].mean()
        counts = confusion_matrix(truth, guess, labels=range(classes)).tolist()
        rows = (dict(zip(label_names, row, strict=True)) for row in counts)
        measured["confusion"] = dict(zip(label_names, rows, strict=True))
        measured["correct"] = int((guess == truth).sum())
    else:
        loss = ((guess - truth) ** 2).mean()
    measured["loss"] = round(float(loss), 6)
    return measured


def compute_metrics(
    names: Sequence[str], truth: Array, guess: Array, classes: int
) -> dict[str, float | None]:
    """The named metrics by the `evaluate` library, rounded to 6 decimals.

    The library's own "accuracy" is a script that `evaluate.load` asks the Hub for; a subclass of
    its Metric needs no network. f1 is that of class 1 if there are two classes, else the mean over
    classes, and 0 where a class neither occurs nor is predicted. pearson and spearman are the
    correlations of predictions and labels: None where either are all equal.
    """
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings(action="ignore"):
        with patch.dict(os.environ, HF_MODULES_CACHE=scratch):  # else it makes a folder in HOME
            import evaluate
        import datasets
        import numpy as np
        from scipy import stats
        from sklearn import metrics

        average: dict[str, Any] = {"average": "binary"}
        if classes != 2:
            average = {"average": "macro", "labels": range(classes)}
        known: dict[str, Callable[[Any, Any], float]] = {
            "accuracy": metrics.accuracy_score,
            "f1": lambda x, y: metrics.f1_score(x, y, zero_division=0, **average),
            "matthews": metrics.matthews_corrcoef,
            "pearson": lambda x, y: stats.pearsonr(x, y).statistic,
            "spearman": lambda x, y: stats.spearmanr(x, y).statistic,
        }

        class SentenceMetric(evaluate.Metric):  # type: ignore[misc]
            def _info(self) -> Any:
                number = datasets.Value("int64" if classes else "float64")
                columns = datasets.Features({"predictions": number, "references": number})
                return evaluate.MetricInfo(", ".join(names), citation="", features=columns)

            def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
                if not classes and min(map(np.ptp, (predictions, references))) == 0:
                    return dict.fromkeys(names, float("nan"))
                return {name: float(known[name](references, predictions)) for name in names}

        metric = SentenceMetric(keep_in_memory=True, cache_dir=scratch)
        values = metric.compute(predictions=guess.tolist(), references=truth.tolist())
    return {n: round(values[n], 6) if np.isfinite(values[n]) else None for n in names}
