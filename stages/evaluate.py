"""Evaluate one fine-tuned model on the validation sentences: accuracy, F1, confusion counts, loss, every prediction.

Run as: python -m stages.evaluate --model distilbert --seed 1
"""

import argparse
import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from reproduce.checkpoints import forget_finished
from reproduce.params import Section, read_experiment, read_section, read_yaml
from reproduce.sentences import read_tsv
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
    held_out = read_yaml(Path("params.yaml"))["selection"]["holdout"]
    model_dir = Path("models/finetuned") / run
    if not (model_dir / "model.safetensors").is_file():
        raise UserError(f"{model_dir} has no model.safetensors. Run `dvc repro finetune@{run}`, or `dvc pull {model_dir}`.")
    go_offline()
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(Path("data/tokenized") / arguments.model / "validation.parquet")
    token_ids, labels = table["input_ids"].to_pylist(), table["label"].to_pylist()
    logits, label_names = predict(model_dir, token_ids, params.batch_size)
    sentences, raw_labels = read_tsv(Path("data/raw/validation.tsv"), len(label_names))
    if raw_labels != labels:
        raise UserError("data/raw and data/tokenized hold different sentences. Run `dvc repro tokenize`.")
    metrics = measure(logits, labels, label_names)
    about = {"dataset": read_experiment().dataset, "split": "held out of train" if held_out else "validation",
             "model": arguments.model, "seed": arguments.seed}  # fmt: skip
    write_text(Path("predictions") / f"{run}.csv", predictions_csv(sentences, labels, logits))
    write_json(Path("metrics/runs") / f"{run}.json", {**about, **metrics})
    forget_finished(run, model_dir / "model.safetensors")
    print(f"metrics/runs/{run}.json: accuracy {metrics['accuracy'] * 100:.2f} % "
          f"({metrics['correct']} of {metrics['n']}), F1 {metrics['f1']:.4f}, loss {metrics['loss']:.4f}")  # fmt: skip


def predict(model_dir: Path, token_ids: list[list[int]], batch_size: int) -> tuple["torch.Tensor", list[str]]:
    """Logits for tokenised sentences, in fp32 whatever the model was trained in.

    Args:
        token_ids: special tokens included, unpadded. Batches hold near lengths; the order of the result is that given.

    Returns:
        logits, float32 tensor of shape (sentences, classes) on the CPU, and the names of the classes.
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
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{model_dir} is no model: {reason} Delete it and run `dvc checkout {model_dir}`.") from error
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
            logits[chosen] = model(input_ids=batch, attention_mask=mask).logits.float().cpu()
    return logits, [model.config.id2label[i] for i in range(model.config.num_labels)]


def measure(logits: "torch.Tensor", labels: list[int], label_names: list[str]) -> dict[str, Any]:
    """Metrics of one run, rounded to 6 decimals; a pure function of its arguments.

    Args:
        logits: float tensor of shape (n, classes).
        labels: n class indices.

    Returns:
        accuracy and f1 (0 .. 1; f1 of class 1 if there are two classes, else the mean over classes), loss (mean
        cross-entropy in nats), correct, n, and confusion[true name][predicted name] as counts.
    """
    import torch

    predicted = logits.argmax(dim=1).tolist()
    scores = classification_metric(len(label_names)).compute(predictions=predicted, references=labels)
    confusion = {true: dict.fromkeys(label_names, 0) for true in label_names}
    for label, guess in zip(labels, predicted, strict=True):
        confusion[label_names[label]][label_names[guess]] += 1
    loss = torch.nn.functional.cross_entropy(logits.double(), torch.tensor(labels)).item()
    return {
        "accuracy": round(scores["accuracy"], 6),
        "f1": round(scores["f1"], 6),
        "loss": round(loss, 6),
        "correct": sum(guess == label for guess, label in zip(predicted, labels, strict=True)),
        "n": len(labels),
        "confusion": confusion,
    }


def classification_metric(n_labels: int) -> "Metric":
    """Accuracy and F1 as a metric of the `evaluate` library.

    The library's own "accuracy" is a script that `evaluate.load` asks the Hub for; a subclass of its Metric needs no network.
    F1 is 2 TP / (2 TP + FP + FN), 0 where a class neither occurs nor is predicted.
    """
    import datasets
    import evaluate
    import numpy as np

    class Classification(evaluate.Metric):  # type: ignore[misc]
        def _info(self) -> evaluate.MetricInfo:
            integer = datasets.Value("int64")
            return evaluate.MetricInfo(
                description="accuracy and F1", citation="",
                features=datasets.Features({"predictions": integer, "references": integer}),
            )  # fmt: skip

        def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
            guess, truth = np.asarray(predictions), np.asarray(references)
            f1 = []
            for c in [1] if n_labels == 2 else range(n_labels):
                hits, errors = ((guess == c) & (truth == c)).sum(), ((guess == c) != (truth == c)).sum()
                f1.append(2 * hits / max(2 * hits + errors, 1))
            return {"accuracy": float((guess == truth).mean()), "f1": float(np.mean(f1))}

    return Classification(keep_in_memory=True)


def predictions_csv(sentences: list[str], labels: list[int], logits: "torch.Tensor") -> str:
    """One line a sentence: sentence, label, predicted, probability (softmax, of the predicted class, 6 decimals)."""
    probabilities, predicted = logits.double().softmax(dim=1).max(dim=1)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sentence", "label", "predicted", "probability"])
    for sentence, label, guess, p in zip(sentences, labels, predicted.tolist(), probabilities.tolist(), strict=True):
        writer.writerow([sentence, label, guess, f"{p:.6f}"])
    return text.getvalue()


if __name__ == "__main__":
    run_stage(main)
