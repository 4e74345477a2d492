"""Write the model card of one fine-tuned model: its data, recipe, scores with intervals, environment, limits and licence.

Run as: python -m reproduce.report.card --model distilbert --seed 1
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.command import run_command
from reproduce.files import UserError, read_json, write_text
from reproduce.inputs.catalog import (
    DATASET_ENTRY,
    MODEL_ENTRIES,
    Dataset,
    Model,
    Source,
    Split,
    on_the_hub,
    read_entry,
)
from reproduce.params import PARAMS, read_yaml
from reproduce.verdict.statistics import wilson

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

# Of the interval. Not params.yaml's `compare.confidence`: a report with another one must not evaluate all models again.
CONFIDENCE = 0.95
# The Hub's names of the metrics that it calls otherwise than we do.
HUB_METRICS = {"matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}


def main() -> None:
    """Write models/finetuned/MODEL-SEED/README.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a name from catalog.yaml")
    parser.add_argument("--seed", required=True, type=int, help="the seed it was fine-tuned with")
    arguments = parser.parse_args()
    name = f"{arguments.model}-{arguments.seed}"
    params = read_yaml(PARAMS)
    measured, computed_on = (
        Path("metrics/runs") / f"{name}.json",
        Path("environment") / f"{name}.json",
    )
    for file, stage in ((measured, "evaluate"), (computed_on, "finetune")):
        if not file.is_file():
            raise UserError(f"{file} is missing. Run `dvc repro {stage}@{name}`, which writes it.")
    run, environment = (
        read_run(measured, params["dataset"]),
        read_json(computed_on, f"Run `git checkout {computed_on}`."),
    )
    dataset = read_entry(DATASET_ENTRY, Dataset)
    model = read_entry(MODEL_ENTRIES / f"{arguments.model}.json", Model)
    metadata = card_metadata(run, dataset, model)
    text = card_text(run, environment, dataset, model, params)
    path = Path("models/finetuned") / name / "README.md"
    write_text(path, f"---\n{metadata.to_yaml()}\n---\n\n{text}")
    print(
        f"{path}: {run['metric']} {run['score']:.4f} on {run['n']:,} sentences, licence {model.license}"
    )


def read_run(path: Path, dataset: str) -> dict[str, Any]:
    """The metrics of one run; `UserError` if the file holds none of this dataset."""
    remedy = f"Run `dvc repro evaluate@{path.stem}`, which writes it."
    run = read_json(path, remedy)
    if not isinstance(run, dict) or run.get("dataset") != dataset or "score" not in run:
        raise UserError(
            f"{path}: expected the metrics of a run on {dataset} with a score. {remedy}"
        )
    return run


def card_metadata(run: dict[str, Any], dataset: Dataset, model: Model) -> "ModelCardData":
    """What the Hub reads: base model, licence, data, and every metric of metrics/runs/MODEL-SEED.json as a result."""
    from huggingface_hub import ModelCardData

    base, data = on_the_hub(model.sources), on_the_hub(dataset.sources)
    results = eval_results(run, run, dataset.validation, dataset)
    if dataset.validation_mismatched and "mismatched" in run:
        results += eval_results(run, run["mismatched"], dataset.validation_mismatched, dataset)
    return ModelCardData(
        model_name=f"{run['model']}-{run['seed']}",
        language="en",
        license=model.license,
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=base.hub if base else None,
        datasets=[data.hub] if data and data.hub else None,
        metrics=[HUB_METRICS.get(metric, metric) for metric in dataset.metrics],
        eval_results=results,
    )


def eval_results(
    run: dict[str, Any], measured: dict[str, Any], split: Split, dataset: Dataset
) -> list["EvalResult"]:
    """One result a metric. A dataset of the Hub is named as there: repository, configuration, split and commit."""
    from huggingface_hub import EvalResult

    source = on_the_hub(dataset.sources)
    file = Path(split.file)  # on the Hub CONFIGURATION/SPLIT-00000-of-00001.parquet
    about: dict[str, Any] = {"dataset_type": run["dataset"], "dataset_split": file.stem}
    if source:
        about = {"dataset_type": source.hub, "dataset_config": file.parent.name, "dataset_split": file.name.split("-")[0],
                 "dataset_revision": source.revision}  # fmt: skip
    if run["split"] != "validation":
        about |= {"dataset_split": "train", "dataset_args": {"held_out": run["n"]}}
    return [
        EvalResult(task_type="text-classification", dataset_name=run["dataset"], metric_type=HUB_METRICS.get(metric, metric),
                   metric_value=measured[metric], **about)
        for metric in dataset.metrics
    ]  # fmt: skip


def card_text(
    run: dict[str, Any],
    environment: dict[str, Any],
    dataset: Dataset,
    model: Model,
    params: dict[str, Any],
) -> str:
    """The card below its metadata, in Markdown: a pure function of its arguments, of which no time is read.

    Args:
        run: metrics/runs/MODEL-SEED.json. environment: environment/MODEL-SEED.json.
        params: the whole of params.yaml.
    """
    name, data, held_out = run["model"], run["dataset"], run["split"] != "validation"
    rows = (dataset.train.rows or 0) - (run["n"] if held_out else 0)
    rows = min(rows, params["selection"]["train"] or rows)
    # As finetune reads them: what the dataset changes, over that what the model changes.
    recipe = {**params["finetune"], **params["tasks"][data], **params["overrides"][name]}
    answer = f"classes: {', '.join(dataset.labels)}"
    if dataset.scale:
        answer = f"label: a number from {dataset.scale[0]:g} to {dataset.scale[1]:g}"
    note = f"\n\n{dataset.note.strip()}" if dataset.note else ""
    return f"""# {name} fine-tuned on {data}, seed {run["seed"]}

The pretrained encoder `{name}` ({_place(model.sources)}) with a new head, fine-tuned on `{data}` by a DVC pipeline that
reproduces the DistilBERT article ([arXiv:1910.01108](https://arxiv.org/abs/1910.01108)). Seeds are
fixed before the training: {run["seed"]} was not chosen by its score.

```python
from transformers import pipeline

{_usage(run, dataset)}
```

## Data

`{data}`: {_place(dataset.sources, "datasets/")}; {rows:,} examples to train on.
Text: {", ".join(dataset.columns)}; {answer}.{note}

## Recipe

AdamW; the learning rate rises linearly from 0, then falls linearly to 0. The result is the last epoch: nothing was selected
on the validation set. Texts are cut to {params["tokenize"]["max_length"]} tokens.

{_table(["parameter", "value"], [[key.replace("_", " "), str(value)] for key, value in sorted(recipe.items())])}

## Scores

On {f"{run['n']:,} examples held out of train" if held_out else f"the validation set, {run['n']:,} examples"}.

{_scores(run, dataset)}

## Environment

{_table(["what", "value"], _environment(environment))}

## Limits

{_limits(dataset, held_out)}

## Licence

The base checkpoint's, {model.license}. The data has terms of its own.
"""


def _place(sources: tuple[Source, ...], kind: str = "") -> str:
    """Where something comes from, as Markdown: the Hub's page if it has one."""
    if source := on_the_hub(sources):
        return f"[{source.hub}](https://huggingface.co/{kind}{source.hub}) at commit {(source.revision or '')[:8]}"
    folder = sources[0].folder
    return (
        f"folder {Path(folder).name if Path(folder).is_absolute() else folder}"
        if folder
        else str(sources[0])
    )


def _usage(run: dict[str, Any], dataset: Dataset) -> str:
    example = (
        '"a gripping film"'
        if len(dataset.columns) == 1
        else '{"text": "A man sleeps.", "text_pair": "Nobody is awake."}'
    )
    options = "" if dataset.labels else ', function_to_apply="none"'
    folder = f"models/finetuned/{run['model']}-{run['seed']}"
    return f'classify = pipeline("text-classification", model="{folder}"{options})\nclassify({example})'


def _scores(run: dict[str, Any], dataset: Dataset) -> str:
    parts = [run, run["mismatched"]] if "mismatched" in run else [run]
    rows = []
    for measured, where in zip(parts, ("", ", mismatched genres"), strict=False):
        for metric in (*dataset.metrics, "loss"):
            interval = "-"
            if metric == "accuracy":
                interval = "{:.4f} to {:.4f}".format(
                    *wilson(measured["correct"], measured["n"], CONFIDENCE)
                )
            rows.append(
                [f"{metric}{where}", f"{measured[metric]:.4f}", interval, f"{measured['n']:,}"]
            )
    text = _table(["metric", "value", f"{CONFIDENCE:.0%} interval", "examples"], rows)
    if "accuracy" in dataset.metrics:
        text += "\n\nThe interval is Wilson's: the error that the number of examples leaves."
    if "confusion" in run:
        names = list(run["confusion"])
        counts = [
            [f"**{true}**", *(f"{run['confusion'][true][guess]:,}" for guess in names)]
            for true in names
        ]
        text += (
            "\n\nWhat the examples are (rows), and what they were taken for (columns):\n\n"
            + _table(["", *names], counts)
        )
    return text


def _environment(environment: dict[str, Any]) -> list[list[str]]:
    """What can matter to the bits of the result; times and memory stay where they were measured."""
    return [
        ["computed on", f"{environment['device']}: {environment['gpu'] or environment['cpu']}"],
        ["precision", f"{environment['precision']}, because {environment['precision_reason']}"],
        ["processes, threads each", f"{environment['processes']}, {environment['threads']}"],
        ["Python", f"{environment['python']}, {environment['platform']}"],
        [
            "packages",
            ", ".join(
                f"{name} {version}" for name, version in sorted(environment["packages"].items())
            ),
        ],
        [
            "operations that do not repeat bit by bit",
            "; ".join(environment["not_deterministic"]) or "none known",
        ],
    ]


def _limits(dataset: Dataset, held_out: bool) -> str:
    limits = [
        "English, and texts like those above: nothing was measured on others.",
        "One training run: how far seeds lie apart is not in the interval above.",
        "The probability that the pipeline prints was not calibrated."
        if dataset.labels
        else "Predictions can leave the scale.",
        "Whatever the base checkpoint learned from its own data, biases included, may still be there.",
    ]
    if held_out:
        limits.append(
            "Scored on sentences held out of train only: this run is for choosing hyperparameters."
        )
    elif dataset.test:
        limits.append("No score on the test set: its labels are not public.")
    return "\n".join(f"- {limit}" for limit in limits)


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


if __name__ == "__main__":
    run_command(main)
