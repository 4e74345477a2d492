"""Evaluate one fine-tuned model on the validation sentences.

Run as: python -m stages.evaluate --model distilbert --seed 1

The result is every answer, in predictions/MODEL-SEED.csv: all metrics follow from it.
"""

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce.command import go_offline, run_command
from reproduce.files import UserError, read_json, write_text
from reproduce.inputs.catalog import DATASET_ENTRY, MODEL_ENTRIES, Dataset, Model, read_entry
from reproduce.inputs.sentences import read_raw_data, read_tsv
from reproduce.inputs.tokenized import TOKENIZED, read_tokenized
from reproduce.machine import describe
from reproduce.models.logits import predict
from reproduce.params import Evaluate, read_section
from reproduce.report.card import write_card
from reproduce.training.checkpoints import forget_finished
from reproduce.verdict.runs import SPLITS, Part, Run, write_run

if TYPE_CHECKING:
    import numpy as np

VALIDATION = Path("data/raw/validation.tsv")


def main() -> None:
    """Write predictions/MODEL-SEED.csv and .json, curves/MODEL-SEED.tsv, and the model card."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a name from catalog.yaml")
    parser.add_argument("--seed", required=True, type=int, help="the seed it was fine-tuned with")
    arguments = parser.parse_args()
    name = f"{arguments.model}-{arguments.seed}"
    params, folder = read_section("evaluate", Evaluate), Path("models/finetuned") / name
    if not (folder / "model.safetensors").is_file():
        raise UserError(
            f"{folder} has no model.safetensors. "
            f"Run `dvc repro finetune@{name}`, or `dvc pull finetune@{name}`."
        )
    data, environment = read_raw_data(), read_environment(name)
    _, labels = read_tsv(VALIDATION, data.label_values, data.columns)
    go_offline()
    splits = [s for s in SPLITS if (TOKENIZED / arguments.model / f"{s}.parquet").is_file()]
    parts = [
        predict_part(folder, arguments.model, split, params.batch_size)
        for split in splits or SPLITS[:1]  # without a file, the message says what to run
    ]
    # Numbers are float32 in data/tokenized; the metrics are about those of data/raw.
    if [f"{label:.3f}" for label in labels] != [f"{label:.3f}" for label in parts[0].labels]:
        raise UserError(
            "data/raw and data/tokenized hold other sentences. Run `dvc repro tokenize`."
        )
    sentences = hashlib.sha256(VALIDATION.read_bytes()).hexdigest()
    machine = describe()
    run = Run(arguments.model, arguments.seed, environment["recipe"], data.dataset,
              data.validation, data.metrics, data.labels, environment["device"],
              environment["precision"], machine["gpu"] or machine["cpu"], sentences,
              Part(as_labels(labels, data.labels), parts[0].logits), *parts[1:])  # fmt: skip
    path = write_run(run)
    # Out of DVC's cache into git, for people: as an output of finetune it could not be both.
    write_text(Path(f"curves/{name}.tsv"), (folder / "loss.tsv").read_text(encoding="utf-8"))
    dataset = read_entry(DATASET_ENTRY, Dataset)
    model = read_entry(MODEL_ENTRIES / f"{arguments.model}.json", Model)
    card = write_card(run, environment, dataset, model)
    forget_finished(name, folder / "model.safetensors")
    measured = run.measured
    counts = f" ({measured['correct']} of {measured['n']} right)" if data.labels else ""
    values = ", ".join(f"{key} {measured[key]}" for key in (*data.metrics, "loss"))
    print(f"{path}: {values}{counts}; {card}")


def read_environment(name: str) -> dict[str, str]:
    """environment/MODEL-SEED.json, which finetune wrote: the run's recipe, and its device."""
    path = Path("environment") / f"{name}.json"
    remedy = f"Run `git checkout {path}`, or `dvc repro -f -s finetune@{name}`."
    environment = read_json(path, remedy) if path.is_file() else None
    if not isinstance(environment, dict) or "recipe" not in environment:
        raise UserError(f"{path} is missing, or does not name the run's recipe. {remedy}")
    return environment


def predict_part(folder: Path, model: str, split: str, batch_size: int) -> Part:
    """What the model in `folder` answers on a tokenised split."""
    split_tokens = read_tokenized(model, split)
    logits, names = predict(folder, split_tokens.input_ids, batch_size, split_tokens.token_type_ids)
    values = logits.numpy() if names else logits.double().numpy()
    return Part(as_labels(split_tokens.labels, names), values)


def as_labels(labels: list[float], names: "list[str] | tuple[str, ...]") -> "np.ndarray":  # type: ignore[type-arg]
    """Labels as an array: int64 classes, or float64 numbers."""
    import numpy as np

    return np.array(labels, int if names else float)


if __name__ == "__main__":
    run_command(main)
