"""Evaluate one fine-tuned model on the validation sentences: its metrics, confusion counts, loss, every prediction.

Run as: python -m stages.evaluate --model distilbert --seed 1
"""

import argparse
import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from reproduce.checkpoints import forget_finished
from reproduce.params import Section, read_section
from reproduce.sentences import read_about, read_tsv
from reproduce.stage import UserError, go_offline, run_stage, write_json, write_text

if TYPE_CHECKING:
    import torch
    from evaluate import Metric


class Evaluate(Section):
    """Section `evaluate` of params.yaml."""

    batch_size: Annotated[int, Field(ge=1)]


def main() -> None:
    """Write metrics/runs/MODEL-SEED.json and predictions/MODEL-SEED.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a name from catalog.yaml")
    parser.add_argument("--seed", required=True, type=int, help="the seed it was fine-tuned with")
    arguments = parser.parse_args()
    run = f"{arguments.model}-{arguments.seed}"
    params = read_section("evaluate", Evaluate)
    model_dir = Path("models/finetuned") / run
    if not (model_dir / "model.safetensors").is_file():
        raise UserError(f"{model_dir} has no model.safetensors. Run `dvc repro finetune@{run}`, or `dvc pull finetune@{run}`.")
    dataset = read_about()
    go_offline()
    logits, tokenized_labels, label_names = predict_split(model_dir, arguments.model, "validation", params.batch_size)
    texts, labels = read_tsv(Path("data/raw/validation.tsv"), dataset.label_values, dataset.columns)
    # Numbers are float32 in data/tokenized; those of data/raw are what the metrics and the predictions file are about.
    if [f"{label:.3f}" for label in labels] != [f"{label:.3f}" for label in tokenized_labels]:
        raise UserError("data/raw and data/tokenized hold different sentences. Run `dvc repro tokenize`.")
    metrics = measure(logits, labels, label_names, dataset.metrics)
    if (Path("data/tokenized") / arguments.model / "validation_mismatched.parquet").is_file():
        others = predict_split(model_dir, arguments.model, "validation_mismatched", params.batch_size)
        metrics["mismatched"] = measure(*others, dataset.metrics)
    about = {"dataset": dataset.dataset, "split": dataset.validation, "model": arguments.model, "seed": arguments.seed}
    write_text(Path("predictions") / f"{run}.csv", predictions_csv(texts, dataset.columns, labels, logits))
    write_json(Path("metrics/runs") / f"{run}.json", {**about, **metrics})
    forget_finished(run, model_dir / "model.safetensors")
    counts = f" ({metrics['correct']} of {metrics['n']} right)" if "correct" in metrics else ""
    values = ", ".join(f"{name} {metrics[name]:.4f}" for name in (*dataset.metrics, "loss"))
    print(f"metrics/runs/{run}.json: {values}{counts}")


def predict_split(model_dir: Path, model: str, split: str, batch_size: int) -> tuple["torch.Tensor", list[float], list[str]]:
    """Logits for a tokenised split, its labels, and the names of the classes (none if labels are numbers)."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(Path("data/tokenized") / model / f"{split}.parquet")
    types = table["token_type_ids"].to_pylist() if "token_type_ids" in table.column_names else None
    logits, label_names = predict(model_dir, table["input_ids"].to_pylist(), batch_size, types)
    return logits, table["label"].to_pylist(), label_names


def predict(
    model_dir: Path, token_ids: list[list[int]], batch_size: int, token_types: list[list[int]] | None = None
) -> tuple["torch.Tensor", list[str]]:
    """Logits for tokenised sentences, in fp32 whatever the model was trained in.

    Args:
        token_ids: special tokens included, unpadded. Batches hold near lengths; the order of the result is that given.
        token_types: of pairs, for a model that tells their sentences apart by them; shaped like token_ids.

    Returns:
        logits, float32 tensor of shape (sentences, classes) on the CPU (one column if labels are numbers), and the names of
        the classes.
    """
    import torch
    from safetensors import SafetensorError
    from torch.nn.utils.rnn import pad_sequence
    from tqdm import tqdm
    from transformers import AutoModelForSequenceClassification

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            str(model_dir), local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
    except (OSError, ValueError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        name = f"finetune@{model_dir.name}"
        raise UserError(f"{model_dir} is no model: {reason} Delete it and run `dvc checkout {name}`.") from error
    model.to(device).eval()
    pad_id = model.config.pad_token_id or 0
    logits = torch.empty(len(token_ids), model.config.num_labels)
    by_length = sorted(range(len(token_ids)), key=lambda i: len(token_ids[i]))
    with torch.inference_mode():
        for start in tqdm(range(0, len(by_length), batch_size), desc="evaluate", unit="batch"):
            chosen = by_length[start : start + batch_size]
            ids = [torch.tensor(token_ids[i]) for i in chosen]
            batch = pad_sequence(ids, batch_first=True, padding_value=pad_id).to(device)
            mask = pad_sequence([torch.ones_like(i) for i in ids], batch_first=True).to(device)
            types = {}
            if token_types:
                rows = [torch.tensor(token_types[i]) for i in chosen]
                types["token_type_ids"] = pad_sequence(rows, batch_first=True).to(device)
            logits[chosen] = model(input_ids=batch, attention_mask=mask, **types).logits.float().cpu()
    n_labels = model.config.num_labels
    return logits, [] if n_labels == 1 else [model.config.id2label[i] for i in range(n_labels)]


def measure(
    logits: "torch.Tensor", labels: Sequence[float], label_names: Sequence[str], metrics: Sequence[str]
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
    scores = sentence_metric(metrics, len(label_names)).compute(predictions=guess.tolist(), references=truth.tolist())
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

    of_classes: dict[str, Any] = {"average": "binary"} if n_labels == 2 else {"average": "macro", "labels": range(n_labels)}
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


def predictions_csv(texts: Sequence[str], columns: Sequence[str], labels: Sequence[float], logits: "torch.Tensor") -> str:
    """One line an example: its text(s), label, predicted and, of classes, probability.

    The probability is the softmax of the predicted class, with 6 decimals. Predicted numbers are not rounded: the correlations,
    which do not care how near to each other predictions are, follow from this file alone.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    classes = logits.shape[1] > 1
    writer.writerow([*columns, "label", "predicted", *["probability"][: int(classes)]])
    if classes:
        probabilities, guesses = logits.double().softmax(dim=1).max(dim=1)
        answers = [[guess, f"{p:.6f}"] for guess, p in zip(guesses.tolist(), probabilities.tolist(), strict=True)]
    else:
        answers = [[value] for value in logits.squeeze(1).tolist()]
    for example, label, answer in zip(texts, labels, answers, strict=True):
        writer.writerow([*example.split("\t"), label, *answer])
    return text.getvalue()


if __name__ == "__main__":
    run_stage(main)
