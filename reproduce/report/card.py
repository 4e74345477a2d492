"""The model card of a fine-tuned model: README.md beside its weights, as the Hub reads it.

`stages.evaluate` calls `write_card`; the card holds no time, path or commit.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.files import write_text
from reproduce.inputs.catalog import Dataset, Model, Source, Split, on_the_hub
from reproduce.models.metrics import measure
from reproduce.verdict.runs import Run
from reproduce.verdict.statistics import wilson
from reproduce.verdict.tables import markdown_table

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

# Of the interval. Not params.yaml's `compare.confidence`, which must not evaluate all models again.
CONFIDENCE = 0.95
# The Hub's names of the metrics that it calls otherwise than we do.
HUB_METRICS = {"matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}


def write_card(run: Run, environment: dict[str, Any], dataset: Dataset, model: Model) -> Path:
    """Write models/finetuned/MODEL-SEED/README.md; its path.

    Args:
        environment: environment/MODEL-SEED.json, with the run's recipe in it.
    """
    path = Path("models/finetuned") / run.name / "README.md"
    metadata = card_metadata(run, dataset, model).to_yaml()
    write_text(path, f"---\n{metadata}\n---\n\n{card_text(run, environment, dataset, model)}")
    return path


def card_metadata(run: Run, dataset: Dataset, model: Model) -> "ModelCardData":
    """What the Hub reads: base model, licence, data, and every metric that is defined."""
    from huggingface_hub import ModelCardData

    base, data = on_the_hub(model.sources), on_the_hub(dataset.sources)
    results = eval_results(run, run.measured, dataset.validation, dataset)
    if dataset.validation_mismatched and (others := mismatched(run)):
        results += eval_results(run, others, dataset.validation_mismatched, dataset)
    return ModelCardData(
        model_name=run.name,
        language="en",
        license=model.license,
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=base.hub if base else None,
        datasets=[data.hub] if data and data.hub else None,
        metrics=[HUB_METRICS.get(metric, metric) for metric in dataset.metrics],
        eval_results=results,
    )


def mismatched(run: Run) -> dict[str, Any] | None:
    """The metrics on a second validation set."""
    part = run.mismatched
    return measure(part.logits, part.labels, run.labels, run.metrics) if part else None


def eval_results(
    run: Run, measured: dict[str, Any], split: Split, dataset: Dataset
) -> list["EvalResult"]:
    """One result a metric. A dataset of the Hub is named as there, with its commit."""
    from huggingface_hub import EvalResult

    source, file = on_the_hub(dataset.sources), Path(split.file)
    place: dict[str, Any] = {"dataset_type": run.dataset, "dataset_split": file.stem}
    if source:  # there a file is CONFIGURATION/SPLIT-00000-of-00001.parquet
        place = {"dataset_type": source.hub, "dataset_revision": source.revision}
        place |= {"dataset_config": file.parent.name, "dataset_split": file.name.split("-")[0]}
    if run.split != "validation":
        place |= {"dataset_split": "train", "dataset_args": {"held_out": measured["n"]}}
    return [
        EvalResult(
            task_type="text-classification",
            dataset_name=run.dataset,
            metric_type=HUB_METRICS.get(metric, metric),
            metric_value=measured[metric],
            **place,
        )
        for metric in dataset.metrics
        if measured[metric] is not None
    ]


def card_text(run: Run, environment: dict[str, Any], dataset: Dataset, model: Model) -> str:
    """The card below its metadata, in Markdown."""
    made_by, held_out, n = environment["run"], run.split != "validation", len(run.validation.labels)
    rows = (dataset.train.rows or 0) - (n if held_out else 0)
    rows = min(rows, made_by["selection"]["train"] or rows)
    recipe = sorted(made_by["finetune"].items())
    answer = f"classes: {', '.join(dataset.labels)}"
    if dataset.scale:
        answer = f"label: a number from {dataset.scale[0]:g} to {dataset.scale[1]:g}"
    note = f"\n\n{dataset.note.strip()}" if dataset.note else ""
    where = (
        f"{n:,} examples held out of train" if held_out else f"the validation set, {n:,} examples"
    )
    settings = [["parameter", "value"], *([k.replace("_", " "), str(v)] for k, v in recipe)]
    return f"""# {run.model} fine-tuned on {run.dataset}, seed {run.seed}

The pretrained encoder `{run.model}` ({_place(model.sources)}) with a new head, fine-tuned on
`{run.dataset}` by a DVC pipeline that reproduces the DistilBERT article
([arXiv:1910.01108](https://arxiv.org/abs/1910.01108)). The seed was fixed before the training, not
chosen by its score.

```python
from transformers import pipeline

model = "."  # the folder of this card; or the name of its repository on the Hub
{_usage(dataset)}
```

## Data

`{run.dataset}`: {_place(dataset.sources, "datasets/")}; {rows:,} examples to train on.
Text: {", ".join(dataset.columns)}; {answer}.{note}

## Recipe

AdamW; the learning rate rises linearly from 0, then falls linearly to 0. The result is the last
epoch: nothing was selected on the validation set. Texts are cut to {made_by["max_length"]} tokens.

{markdown_table(settings)}

## Scores

On {where}.

{_scores(run, dataset)}

## Environment

{markdown_table([["what", "value"], *_environment(environment)])}

## Limits

{_limits(dataset, held_out)}

## Licence

The base checkpoint's, {model.license}. The data has terms of its own.
"""


def _place(sources: tuple[Source, ...], kind: str = "") -> str:
    """Where something comes from, as Markdown: the Hub's page if it has one."""
    if source := on_the_hub(sources):
        url = f"https://huggingface.co/{kind}{source.hub}"
        return f"[{source.hub}]({url}) at commit {(source.revision or '')[:8]}"
    folder = Path(sources[0].folder or "")
    return (
        f"folder {folder.name if folder.is_absolute() else folder}"
        if folder.name
        else str(sources[0])
    )


def _usage(dataset: Dataset) -> str:
    pair = '{"text": "A man sleeps.", "text_pair": "Nobody is awake."}'
    example = '"a gripping film"' if len(dataset.columns) == 1 else pair
    options = "" if dataset.labels else ', function_to_apply="none"'
    return (
        f'classify = pipeline("text-classification", model=model{options})\n'
        f"print(classify({example}))"
    )


def _scores(run: Run, dataset: Dataset) -> str:
    rows = [["metric", "value", f"{CONFIDENCE:.0%} interval", "examples"]]
    parts = {"": run.measured, ", mismatched genres": mismatched(run)}
    for where, measured in parts.items():
        for metric in (*dataset.metrics, "loss") if measured else ():
            value = "not defined" if measured[metric] is None else f"{measured[metric]:.4f}"
            interval = "-"
            if metric == "accuracy":
                low, high = wilson(measured["correct"], measured["n"], CONFIDENCE)
                interval = f"{low:.4f} to {high:.4f}"
            rows.append([f"{metric}{where}", value, interval, f"{measured['n']:,}"])
    text = markdown_table(rows)
    if "accuracy" in dataset.metrics:
        text += "\n\nThe interval is Wilson's: the error that the number of examples leaves."
    if dataset.labels:
        table = run.measured["confusion"]
        counts = [[f"**{true}**", *(f"{n:,}" for n in row.values())] for true, row in table.items()]
        text += "\n\nLabels (rows) and answers (columns):\n\n"
        text += markdown_table([["", *dataset.labels], *counts])
    return text


def _environment(environment: dict[str, Any]) -> list[list[str]]:
    """What can matter to the bits of the result."""
    packages = sorted(environment["packages"].items())
    device = environment["gpu"] or environment["cpu"]
    return [
        ["computed on", f"{environment['device']}: {device}"],
        ["precision", f"{environment['precision']}, because {environment['precision_reason']}"],
        ["threads", str(environment["threads"])],
        ["Python", environment["python"]],
        ["packages", ", ".join(f"{name} {version}" for name, version in packages)],
        ["not bit by bit the same", "; ".join(environment["not_deterministic"]) or "none known"],
    ]


def _limits(dataset: Dataset, held_out: bool) -> str:
    limits = [
        "English, and texts like those above: nothing was measured on others.",
        "One training run: how far seeds lie apart is not in the interval above.",
        "The probability that the pipeline prints was not calibrated."
        if dataset.labels
        else "Predictions can leave the scale.",
        "What the base checkpoint learned from its own data, biases included, may still be there.",
    ]
    if held_out:
        limits.append("Scored on sentences held out of train: a run for choosing hyperparameters.")
    elif dataset.test:
        limits.append("No score on the test set: its labels are not public.")
    return "\n".join(f"- {limit}" for limit in limits)
