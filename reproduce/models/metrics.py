"""The metrics of one run, from its logits and labels."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from reproduce.files import UserError

if TYPE_CHECKING:
    import torch
    from evaluate import Metric


def measure(
    logits: "torch.Tensor",
    labels: Sequence[float],
    label_names: Sequence[str],
    metrics: Sequence[str],
) -> dict[str, Any]:
    """Metrics of one run, rounded to 6 decimals; a pure function of its arguments.

    Args:
        logits: float tensor of shape (n, classes), or (n, 1) where labels are numbers.
        labels: n class indices, or numbers.
        metrics: names of `sentence_metric`; the first is the headline.

    Returns:
        each metric by name; metric and score (the headline's name and value), n, loss (mean cross-entropy in nats, of numbers
        the mean squared error), and of classes correct and confusion[true name][predicted name] as counts.

    Raises:
        UserError: a correlation is asked of predictions that are all equal.
    """
    import torch

    truth = torch.tensor(labels, dtype=torch.float64 if not label_names else torch.int64)
    guess = logits.argmax(dim=1) if label_names else logits.squeeze(1).double()
    scores = sentence_metric(metrics, len(label_names)).compute(
        predictions=guess.tolist(), references=truth.tolist()
    )
    if broken := [name for name in metrics if not math.isfinite(scores[name])]:
        raise UserError(
            f"{broken[0]} is not defined: all predictions (or all labels) are equal. Train longer, or check the data."
        )
    measured: dict[str, Any] = {name: round(float(scores[name]), 6) for name in metrics}
    measured |= {"metric": metrics[0], "score": measured[metrics[0]], "n": len(labels)}
    if label_names:
        loss = torch.nn.functional.cross_entropy(logits.double(), truth)
        confusion = {true: dict.fromkeys(label_names, 0) for true in label_names}
        for label, predicted in zip(truth.tolist(), guess.tolist(), strict=True):
            confusion[label_names[label]][label_names[predicted]] += 1
        measured |= {"correct": int((guess == truth).sum()), "confusion": confusion}
    else:
        loss = torch.nn.functional.mse_loss(guess, truth)
    return {**measured, "loss": round(loss.item(), 6)}


def sentence_metric(names: Sequence[str], n_labels: int) -> "Metric":
    """The named metrics as one metric of the `evaluate` library.

    The library's own "accuracy" is a script that `evaluate.load` asks the Hub for; a subclass of its Metric needs no network.
    f1 is that of class 1 if there are two classes, else the mean over classes, and 0 where a class neither occurs nor is
    predicted; pearson and spearman are the correlations of the predictions with the labels.
    """
    import datasets
    import evaluate
    from scipy import stats
    from sklearn import metrics

    of_classes: dict[str, Any] = (
        {"average": "binary"} if n_labels == 2 else {"average": "macro", "labels": range(n_labels)}
    )
    compute: dict[str, Callable[[Any, Any], float]] = {
        "accuracy": metrics.accuracy_score,
        "f1": lambda truth, guess: metrics.f1_score(truth, guess, zero_division=0, **of_classes),
        "matthews": metrics.matthews_corrcoef,
        "pearson": lambda truth, guess: stats.pearsonr(truth, guess).statistic,
        "spearman": lambda truth, guess: stats.spearmanr(truth, guess).statistic,
    }

    class SentenceMetric(evaluate.Metric):  # type: ignore[misc]
        def _info(self) -> evaluate.MetricInfo:
            number = datasets.Value("int64" if n_labels else "float64")
            return evaluate.MetricInfo(
                description=", ".join(names), citation="",
                features=datasets.Features({"predictions": number, "references": number}),
            )  # fmt: skip

        def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
            return {name: float(compute[name](references, predictions)) for name in names}

    return SentenceMetric(keep_in_memory=True)
