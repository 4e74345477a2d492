"""Write the predictions of one fine-tuned model for the hidden test set, in the form that GLUE's server takes.

Run as: python -m tools.submission --model minilm        (make submission MODEL=minilm)

The run is that with the median validation score of the seeds that have run: of an even number the lower of the two in the middle,
of equal scores the lowest seed.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from reproduce.command import go_offline, run_command
from reproduce.files import UserError, read_json, write_text
from reproduce.inputs.catalog import read_dataset
from reproduce.models.logits import predict
from reproduce.params import Evaluate, read_experiment, read_section

if TYPE_CHECKING:
    import torch

OUT = Path("submission")


class Task(NamedTuple):
    """What the server calls a test split, and what it wants in the column `prediction`."""

    file: str
    answers: tuple[str, ...]  # of the classes 0, 1, ...; none: the number itself


NUMBERS = ("0", "1")
ENTAILMENT = ("entailment", "not_entailment")
MNLI = ("entailment", "neutral", "contradiction")
# By dataset and split. File names and what stands in them are those on which public scripts for the server agree; the server
# itself was never asked. Classes in the order of the Hub's nyu-mll/glue.
TASKS = {
    ("cola", "test"): Task("CoLA.tsv", NUMBERS),
    ("sst2", "test"): Task("SST-2.tsv", NUMBERS),
    ("mrpc", "test"): Task("MRPC.tsv", NUMBERS),
    ("stsb", "test"): Task("STS-B.tsv", ()),
    ("qqp", "test"): Task("QQP.tsv", NUMBERS),
    ("mnli", "test"): Task("MNLI-m.tsv", MNLI),
    ("mnli", "test_mismatched"): Task("MNLI-mm.tsv", MNLI),
    ("qnli", "test"): Task("QNLI.tsv", ENTAILMENT),
    ("rte", "test"): Task("RTE.tsv", ENTAILMENT),
    ("wnli", "test"): Task("WNLI.tsv", NUMBERS),
}


def main() -> None:
    """Write submission/TASK.tsv."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a name from params.yaml")
    model = parser.parse_args().model
    experiment = read_experiment()
    dataset = read_dataset(experiment.dataset)
    tasks = {split: task for (name, split), task in TASKS.items() if name == experiment.dataset}
    if not tasks or not dataset.test:
        known = ", ".join(sorted({name for name, _ in TASKS}))
        raise UserError(
            f"params.yaml: dataset {experiment.dataset} has no test set on GLUE's server; these have: {known}."
        )
    if model not in experiment.models:
        raise UserError(
            f"model {model!r} is not one of params.yaml's: {', '.join(experiment.models)}."
        )
    scores = read_scores(model, experiment.dataset, experiment.seeds)
    seed = median_seed(scores)
    run = f"{model}-{seed}"
    listed = ", ".join(f"{seed}: {score:.4f}" for seed, score in scores.items())
    print(
        f"{run} has the median validation score of {len(scores)} of {len(experiment.seeds)} seeds ({listed})"
    )
    inputs = {split: Path("data/tokenized") / model / f"{split}.parquet" for split in tasks}
    for path in (Path("models/finetuned") / run / "model.safetensors", *inputs.values()):
        if not path.is_file():
            raise UserError(
                f"{path} is missing. Run `dvc repro evaluate@{run}`, or `dvc pull finetune@{run} tokenize@{model}`."
            )
    go_offline()
    for split, task in tasks.items():
        path = OUT / task.file
        rows = write_predictions(
            inputs[split], Path("models/finetuned") / run, task, dataset.scale, path
        )
        check_format(path, task, rows)
        print(f"{path}: {rows:,} predictions")
    print(
        "Next: gluebenchmark.com/submit takes one zip with eleven files at its top level: nine tasks, MNLI twice, and AX.tsv,\n"
        "the diagnostic set. For a task without a model, take the file of the site's sample submission; its score means nothing."
    )


def read_scores(model: str, dataset: str, seeds: Sequence[int]) -> dict[int, float]:
    """The headline score of each of `seeds` that has run, from metrics/runs; `UserError` if none has."""
    scores = {}
    for seed in seeds:
        path = Path("metrics/runs") / f"{model}-{seed}.json"
        if not path.exists():
            continue
        run = read_json(path, f"Run `dvc repro evaluate@{model}-{seed}`.")
        if run.get("dataset") != dataset or run.get("split") != "validation" or "score" not in run:
            raise UserError(
                f"{path}: expected a score on the validation set of {dataset}. Run `dvc repro evaluate@{model}-{seed}`."
            )
        scores[seed] = float(run["score"])
    if not scores:
        raise UserError(
            f"no run of {model} on {dataset} in metrics/runs. Run `dvc repro evaluate`."
        )
    return scores


def median_seed(scores: dict[int, float]) -> int:
    """The seed with the median score: the lower middle of an even number, the lowest seed of equal scores."""
    ranked = sorted(scores.values())
    median = ranked[(len(ranked) - 1) // 2]
    return min(seed for seed, score in scores.items() if score == median)


def write_predictions(
    tokens: Path, model_dir: Path, task: Task, scale: tuple[float, float] | None, path: Path
) -> int:
    """Predict a tokenised split and write it as `path`; returns the number of predictions."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(tokens)
    types = table["token_type_ids"].to_pylist() if "token_type_ids" in table.column_names else None
    logits, _ = predict(
        model_dir,
        table["input_ids"].to_pylist(),
        read_section("evaluate", Evaluate).batch_size,
        types,
    )
    write_text(path, submission_tsv(logits, task, scale))
    return len(table)


def submission_tsv(logits: "torch.Tensor", task: Task, scale: tuple[float, float] | None) -> str:
    """Header and one line a test example: index from 0, answer. Numbers have three decimals and are kept within `scale`.

    Args:
        logits: float tensor of shape (examples, classes), or (examples, 1) where the answer is a number.
    """
    if scale:
        answers = [f"{value:.3f}" for value in logits.squeeze(1).double().clamp(*scale).tolist()]
    else:
        answers = [task.answers[guess] for guess in logits.argmax(dim=1).tolist()]
    return "".join(
        ["index\tprediction\n", *(f"{index}\t{answer}\n" for index, answer in enumerate(answers))]
    )


def check_format(path: Path, task: Task, rows: int) -> None:
    """Read the file back as the server does; `UserError` (and no file) if it is not `rows` answers in order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    cells = [line.split("\t") for line in lines[1:]]
    good = (
        lines[:1] == ["index\tprediction"]
        and [cell[0] for cell in cells] == [str(index) for index in range(rows)]
        and all(
            len(cell) == 2
            and (cell[1] in task.answers if task.answers else math.isfinite(float(cell[1])))
            for cell in cells
        )
    )
    if not good:
        path.unlink()
        raise UserError(
            f"{path}: not {rows} answers in order; it was deleted. Run `dvc repro -f evaluate` and try again."
        )


if __name__ == "__main__":
    run_command(main)
