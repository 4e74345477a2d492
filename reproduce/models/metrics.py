"""The metrics of one run, from its logits and labels: numpy arrays in, numbers out; no PyTorch.

measure(logits, labels, ["NEGATIVE", "POSITIVE"], ["accuracy", "f1"])
"""

import functools
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


def measure(
    logits: "Array", labels: "Array", label_names: Sequence[str], metrics: Sequence[str]
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

    logits, count = np.asarray(logits, float), len(labels)
    if label_names:
        truth, guess = np.asarray(labels).astype(int), logits.argmax(axis=1)
        loss = -log_softmax(logits, axis=1)[np.arange(count), truth].mean()
    else:
        truth, guess = np.asarray(labels, float), logits[:, 0]
        loss = ((guess - truth) ** 2).mean()
    measured: dict[str, Any] = compute_metrics(metrics, truth, guess, len(label_names))
    measured |= {"metric": metrics[0], "score": measured[metrics[0]], "n": count}
    measured["loss"] = round(float(loss), 6)
    if label_names:
        counts = np.zeros((len(label_names), len(label_names)), int)
        np.add.at(counts, (truth, guess), 1)
        measured["correct"] = int(counts.trace())
        measured["confusion"] = {
            name: dict(zip(label_names, row, strict=True))
            for name, row in zip(label_names, counts.tolist(), strict=True)
        }
    return measured


def compute_metrics(
    names: Sequence[str], truth: "Array", guess: "Array", n_labels: int
) -> dict[str, float | None]:
    """The named metrics by the `evaluate` library, rounded to 6 decimals.

    f1 is that of class 1 if there are two classes, else the mean over classes, and 0 where a class
    neither occurs nor is predicted. pearson and spearman are the correlations of predictions and
    labels: None where either are all equal.
    """
    import warnings

    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a correlation that is not defined: None says so
        metric = metric_class()(names, n_labels, cache_dir=scratch, keep_in_memory=True)
        values = metric.compute(predictions=guess.tolist(), references=truth.tolist())
    return {name: None if values[name] is None else round(values[name], 6) for name in names}


@functools.cache
def metric_class() -> Callable[..., Any]:
    """Our metric as a class of the `evaluate` library's.

    The library's own "accuracy" is a script that `evaluate.load` asks the Hub for; a subclass of
    its Metric needs no network.
    """
    evaluate = import_evaluate()
    import datasets
    import numpy as np
    from scipy import stats
    from sklearn import metrics

    def correlation(function: Callable[[Any, Any], Any], truth: Any, guess: Any) -> float | None:
        if len(truth) < 2 or np.ptp(truth) == 0 or np.ptp(guess) == 0:
            return None
        value = float(function(truth, guess).statistic)
        return value if np.isfinite(value) else None

    class SentenceMetric(evaluate.Metric):  # type: ignore[misc]
        def __init__(self, names: Sequence[str], n_labels: int, **options: Any) -> None:
            self.names, self.n_labels = names, n_labels
            super().__init__(**options)

        def _info(self) -> Any:
            number = datasets.Value("int64" if self.n_labels else "float64")
            features = datasets.Features({"predictions": number, "references": number})
            return evaluate.MetricInfo(", ".join(self.names), citation="", features=features)

        def _compute(self, predictions: Any, references: Any) -> dict[str, float | None]:
            average = {"average": "binary"}
            if self.n_labels != 2:
                average = {"average": "macro", "labels": range(self.n_labels)}  # type: ignore[dict-item]
            known: dict[str, Callable[[Any, Any], float | None]] = {
                "accuracy": metrics.accuracy_score,
                "f1": functools.partial(metrics.f1_score, zero_division=0, **average),
                "matthews": metrics.matthews_corrcoef,
                "pearson": functools.partial(correlation, stats.pearsonr),
                "spearman": functools.partial(correlation, stats.spearmanr),
            }
            values = {name: known[name](references, predictions) for name in self.names}
            return {name: None if value is None else float(value) for name, value in values.items()}

    return SentenceMetric


def import_evaluate() -> Any:
    """Import the `evaluate` library, which makes a folder in HOME when it is imported: in none."""
    if "evaluate" not in sys.modules:
        before = os.environ.get("HF_MODULES_CACHE")
        with tempfile.TemporaryDirectory() as scratch:
            os.environ["HF_MODULES_CACHE"] = scratch
            import evaluate
        del os.environ["HF_MODULES_CACHE"]
        if before is not None:
            os.environ["HF_MODULES_CACHE"] = before
    import evaluate

    return evaluate
