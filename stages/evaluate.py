"""Evaluate one fine-tuned model on the validation sentences.

Run as: python -m stages.evaluate --model distilbert --seed 1

The result is every answer, in predictions/MODEL-SEED.csv: all metrics follow from it.
"""

from pathlib import Path

from reproduce.command import command_line, go_offline, run_command
from reproduce.files import UserError, read_json, sha256, write_text
from reproduce.inputs.catalog import DATASET_ENTRY, MODEL_ENTRIES, Dataset, Model, read_entry
from reproduce.inputs.sentences import read_raw_data, read_tsv
from reproduce.inputs.tokenized import TOKENIZED, read_tokenized
from reproduce.machine import describe
from reproduce.models.logits import predict
from reproduce.params import Evaluate, read_section
from reproduce.report.card import write_card
from reproduce.training.checkpoints import forget_finished
from reproduce.verdict.runs import SPLITS, Part, Run, write_run

VALIDATION = Path("data/raw/validation.tsv")


def main() -> None:
    """Write predictions/MODEL-SEED.csv and .json, curves/MODEL-SEED.tsv, and the model card."""
    parser = command_line(__doc__)
    parser.add_argument("--model", required=True, help="a name from catalog.yaml")
    parser.add_argument("--seed", required=True, type=int, help="the seed it was fine-tuned with")
    arguments = parser.parse_args()
    name = f"{arguments.model}-{arguments.seed}"
    params, folder = read_section("evaluate", Evaluate), Path("models/finetuned") / name
    data, environment = read_raw_data(), read_environment(name)
    _, labels = read_tsv(VALIDATION, data.label_values, data.columns)
    go_offline()
    import numpy as np

    kind = int if data.labels else float
    tokenized = TOKENIZED / arguments.model
    # Without any file, the message says what to run.
    splits = [s for s in SPLITS if (tokenized / f"{s}.parquet").is_file()] or SPLITS[:1]
    parts = []
    for split in splits:
        rows = read_tokenized(arguments.model, split)
        logits, _ = predict(folder, rows.input_ids, params.batch_size, rows.token_type_ids)
        answers = logits.numpy() if data.labels else logits.double().numpy()
        parts.append(Part(np.array(rows.labels, kind), answers))
    # Numbers are float32 in data/tokenized; the metrics are about those of data/raw.
    if [f"{label:.3f}" for label in labels] != [f"{label:.3f}" for label in parts[0].labels]:
        other = "data/raw and data/tokenized hold other sentences. Run `dvc repro tokenize`."
        raise UserError(other)
    machine = describe()
    run = Run(arguments.model, arguments.seed, environment["recipe"], data.dataset,
              data.validation, data.metrics, data.labels, environment["device"],
              environment["precision"], machine["gpu"] or machine["cpu"], sha256(VALIDATION),
              Part(np.array(labels, kind), parts[0].logits), *parts[1:])  # fmt: skip
    path = write_run(run)
    # Out of DVC's cache into git, for people: as an output of finetune it could not be both.
    write_text(Path(f"curves/{name}.tsv"), (folder / "loss.tsv").read_text(encoding="utf-8"))
    model = read_entry(MODEL_ENTRIES / f"{arguments.model}.json", Model)
    card = write_card(run, environment, read_entry(DATASET_ENTRY, Dataset), model)
    forget_finished(name, folder / "model.safetensors")
    values = ", ".join(f"{key} {run.measured[key]}" for key in (*data.metrics, "loss"))
    print(f"{path}: {values}; {card}")


def read_environment(name: str) -> dict[str, str]:
    """environment/MODEL-SEED.json, which finetune wrote: the run's recipe, and its device."""
    path = Path("environment") / f"{name}.json"
    remedy = f"Run `git checkout {path}`, or `dvc repro -f -s finetune@{name}`."
    environment = read_json(path, remedy) if path.is_file() else None
    if not isinstance(environment, dict) or "recipe" not in environment:
        raise UserError(f"{path} is missing, or does not name the run's recipe. {remedy}")
    return environment


if __name__ == "__main__":
    run_command(main)
