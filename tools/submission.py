"""Predict the hidden test set with a fine-tuned model, in the form that GLUE's server takes.

Run as: python -m tools.submission --model minilm        (make submission MODEL=minilm)

It takes the first seed of params.yaml, as the registered models and the export do: nobody chooses.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from reproduce.command import command_line, go_offline, run_command
from reproduce.files import UserError, write_text
from reproduce.inputs.catalog import read_dataset
from reproduce.inputs.sentences import read_raw_data
from reproduce.inputs.tokenized import read_tokenized
from reproduce.models.logits import predict
from reproduce.params import PARAMS, Evaluate, read_experiment, read_section, read_yaml
from reproduce.verdict.runs import recipe_of
from stages.evaluate import read_environment

if TYPE_CHECKING:
    import torch

# The server's file names, as public scripts for it have them; the server itself was never asked.
FILES = {"cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B", "qqp": "QQP",
         "mnli": "MNLI-m", "qnli": "QNLI", "rte": "RTE", "wnli": "WNLI"}  # fmt: skip
IN_WORDS = ("mnli", "qnli", "rte")  # whose answers are the classes' names, not their numbers


def submission_tsv(
    dataset: str, logits: "torch.Tensor", names: list[str], scale: tuple[float, float] | None
) -> str:
    """A header and a line a test example: its index from 0, and the answer.

    `logits` are of shape (examples, classes), or (examples, 1) of numbers, kept within `scale`.
    """
    if scale:
        answers = [f"{value:.3f}" for value in logits.squeeze(1).double().clamp(*scale).tolist()]
    else:
        classes = logits.argmax(dim=1).tolist()
        answers = [names[i] if dataset in IN_WORDS else str(i) for i in classes]
    rows = [f"{index}\t{answer}\n" for index, answer in enumerate(answers)]
    return "".join(["index\tprediction\n", *rows])


def main() -> None:
    """Write submission/TASK.tsv, of MNLI two files."""
    parser = command_line(__doc__)
    parser.add_argument("--model", required=True, help="a name from params.yaml")
    model = parser.parse_args().model
    experiment = read_experiment()
    name, run = experiment.dataset, f"{model}-{experiment.seeds[0]}"
    dataset, size = read_dataset(name), read_section("evaluate", Evaluate).batch_size
    if model not in experiment.models:
        raise UserError(f"model {model!r}: params.yaml has {', '.join(experiment.models)}.")
    if name not in FILES:
        raise UserError(f"dataset {name} has no test set on GLUE's server; {', '.join(FILES)} do.")
    today = recipe_of(read_yaml(PARAMS), model, experiment.seeds[0])
    if (read_raw_data().dataset, read_environment(run)["recipe"]) != (name, today):
        raise UserError(
            f"data/ or models/finetuned/{run} is not of today's params.yaml. Run `dvc repro "
            f"evaluate@{run}` first."
        )
    go_offline()
    splits = {"test": FILES[name]} | ({"test_mismatched": "MNLI-mm"} if name == "mnli" else {})
    for split, task in splits.items():
        rows, folder = read_tokenized(model, split), Path("models/finetuned") / run
        logits, names = predict(folder, rows.input_ids, size, rows.token_type_ids)
        path = Path("submission") / f"{task}.tsv"
        write_text(path, submission_tsv(name, logits, names, dataset.scale))
        print(f"{path}: {len(rows.input_ids):,} predictions of {run}")
    print("Next: gluebenchmark.com/submit takes one zip of eleven files: MNLI's two, AX's too.")


if __name__ == "__main__":
    run_command(main)
