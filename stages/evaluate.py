"""Evaluate one fine-tuned model on the validation sentences: its metrics, confusion counts, loss, every prediction.

Run as: python -m stages.evaluate --model distilbert --seed 1
"""

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce.command import go_offline, run_command
from reproduce.files import UserError, write_json, write_text
from reproduce.inputs.sentences import read_about, read_tsv
from reproduce.models.logits import predict_split
from reproduce.models.metrics import measure
from reproduce.params import Evaluate, read_section
from reproduce.training.checkpoints import forget_finished

if TYPE_CHECKING:
    import torch


def main() -> None:
    """Write metrics/runs/MODEL-SEED.json and predictions/MODEL-SEED.csv."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a name from catalog.yaml")
    parser.add_argument("--seed", required=True, type=int, help="the seed it was fine-tuned with")
    arguments = parser.parse_args()
    run = f"{arguments.model}-{arguments.seed}"
    params = read_section("evaluate", Evaluate)
    model_dir = Path("models/finetuned") / run
    if not (model_dir / "model.safetensors").is_file():
        raise UserError(
            f"{model_dir} has no model.safetensors. Run `dvc repro finetune@{run}`, or `dvc pull finetune@{run}`."
        )
    dataset = read_about()
    go_offline()
    logits, tokenized_labels, label_names = predict_split(
        model_dir, arguments.model, "validation", params.batch_size
    )
    texts, labels = read_tsv(Path("data/raw/validation.tsv"), dataset.label_values, dataset.columns)
    # Numbers are float32 in data/tokenized; those of data/raw are what the metrics and the predictions file are about.
    if [f"{label:.3f}" for label in labels] != [f"{label:.3f}" for label in tokenized_labels]:
        raise UserError(
            "data/raw and data/tokenized hold different sentences. Run `dvc repro tokenize`."
        )
    metrics = measure(logits, labels, label_names, dataset.metrics)
    if (Path("data/tokenized") / arguments.model / "validation_mismatched.parquet").is_file():
        others = predict_split(
            model_dir, arguments.model, "validation_mismatched", params.batch_size
        )
        metrics["mismatched"] = measure(*others, dataset.metrics)
    about = {
        "dataset": dataset.dataset,
        "split": dataset.validation,
        "model": arguments.model,
        "seed": arguments.seed,
    }
    write_text(
        Path("predictions") / f"{run}.csv", predictions_csv(texts, dataset.columns, labels, logits)
    )
    write_json(Path("metrics/runs") / f"{run}.json", {**about, **metrics})
    forget_finished(run, model_dir / "model.safetensors")
    counts = f" ({metrics['correct']} of {metrics['n']} right)" if "correct" in metrics else ""
    values = ", ".join(f"{name} {metrics[name]:.4f}" for name in (*dataset.metrics, "loss"))
    print(f"metrics/runs/{run}.json: {values}{counts}")


def predictions_csv(
    texts: Sequence[str], columns: Sequence[str], labels: Sequence[float], logits: "torch.Tensor"
) -> str:
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
        answers = [
            [guess, f"{p:.6f}"]
            for guess, p in zip(guesses.tolist(), probabilities.tolist(), strict=True)
        ]
    else:
        answers = [[value] for value in logits.squeeze(1).tolist()]
    for example, label, answer in zip(texts, labels, answers, strict=True):
        writer.writerow([*example.split("\t"), label, *answer])
    return text.getvalue()


if __name__ == "__main__":
    run_command(main)
