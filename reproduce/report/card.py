"""The model card of a fine-tuned model: README.md beside its weights, as the Hub reads it.

stages/evaluate.py calls `write_card`. A card holds no time, path or commit.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.files import markdown_table, write_text
from reproduce.inputs.catalog import Dataset, Model, Source, Split, on_the_hub
from reproduce.models.metrics import measure
from reproduce.verdict.runs import Run
from reproduce.verdict.statistics import wilson

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

# Of the interval. Not params.yaml's `compare.confidence`, which must not evaluate all models again.
CONFIDENCE = 0.95
# The Hub's names of the metrics that it calls otherwise than we do.
HUB_METRICS = {"matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}

CARD = """# {run.model} fine-tuned on {run.dataset}, seed {run.seed}

The pretrained encoder `{run.model}` ({base}) with a new head, fine-tuned on `{run.dataset}` by a
DVC pipeline that reproduces the DistilBERT article
([arXiv:1910.01108](https://arxiv.org/abs/1910.01108)). The seed was fixed before the training, not
chosen by its score.

```python
from transformers import pipeline

model = "."  # the folder of this card, or the name of its repository on the Hub
{usage}
```

## Data

`{run.dataset}`: {data}; {rows:,} examples to train on. Text: {columns}; {answer}.{note}

## Recipe

AdamW; the learning rate rises linearly from 0, then falls linearly to 0. The result is the last
epoch: nothing was selected on the validation set. Texts are cut to {recipe[max_length]} tokens.

{settings}

Trained in {environment[precision]}, because {environment[precision_reason]}, on {machine}, by
Python {environment[python]}, PyTorch {environment[packages][torch]}.

## Scores

On {where}.

{scores}

## Limits

- English, and texts like those above: nothing was measured on others.
- One training run: how far seeds lie apart is not in the interval above.
- What the base checkpoint learned from its own data, biases included, may still be there.
- {score_limit}

## Licence

The base checkpoint's, {license}. The data has terms of its own.
"""


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
    results = eval_results(run, run.measured, dataset.validation, data)
    if run.mismatched and dataset.validation_mismatched:
        results += eval_results(run, _second(run), dataset.validation_mismatched, data)
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


def eval_results(
    run: Run, measured: dict[str, Any], split: Split, data: Source | None
) -> list["EvalResult"]:
    """One result a metric. A dataset of the Hub is named as there, with its commit."""
    from huggingface_hub import EvalResult

    file, task = Path(split.file), "text-classification"
    place: dict[str, Any] = {"dataset_type": run.dataset, "dataset_split": file.stem}
    if data:  # there a file is CONFIGURATION/SPLIT-00000-of-00001.parquet
        place = {"dataset_type": data.hub, "dataset_revision": data.revision}
        place |= {"dataset_config": file.parent.name, "dataset_split": file.name.split("-")[0]}
    if run.split != "validation":
        place |= {"dataset_split": "train", "dataset_args": {"held_out": measured["n"]}}
    values = {HUB_METRICS.get(metric, metric): measured[metric] for metric in run.metrics}
    return [
        EvalResult(task, metric_type=name, metric_value=value, dataset_name=run.dataset, **place)
        for name, value in values.items()
        if value is not None
    ]


def card_text(run: Run, environment: dict[str, Any], dataset: Dataset, model: Model) -> str:
    """The card below its metadata, in Markdown."""
    recipe, held_out, n = environment["run"], run.split != "validation", run.measured["n"]
    rows = (dataset.train.rows or 0) - (n if held_out else 0)
    answer = f"classes: {', '.join(dataset.labels)}"
    if dataset.scale:
        answer = "label: a number from {:g} to {:g}".format(*dataset.scale)
    settings = [[key.replace("_", " "), str(value)]
                for key, value in sorted(recipe["finetune"].items())]  # fmt: skip
    where = "examples, the whole validation set"
    score_limit = "Probabilities were not calibrated, and nothing was scored on the test set."
    if held_out:
        where = "examples held out of train"
        score_limit = "Scored on sentences held out of train: a run for choosing hyperparameters."
    return CARD.format(
        run=run,
        recipe=recipe,
        base=_place(model.sources),
        data=_place(dataset.sources, "datasets/"),
        usage=_usage(dataset),
        rows=min(rows, recipe["selection"]["train"] or rows),
        columns=", ".join(dataset.columns),
        answer=answer,
        note=f"\n\n{dataset.note.strip()}" if dataset.note else "",
        settings=markdown_table([["parameter", "value"], *settings]),
        where=f"{n:,} {where}",
        scores=_scores(run),
        environment=environment,
        machine=environment["gpu"] or environment["cpu"],
        score_limit=score_limit,
        license=model.license,
    )


def _place(sources: tuple[Source, ...], kind: str = "") -> str:
    """Where something comes from, as Markdown: the Hub's page if it has one; no absolute path."""
    if source := on_the_hub(sources):
        url = f"https://huggingface.co/{kind}{source.hub}"
        return f"[{source.hub}]({url}) at commit {(source.revision or '')[:8]}"
    folder = Path(sources[0].folder or "")
    return f"folder {folder.name}" if folder.is_absolute() else str(sources[0])


def _usage(dataset: Dataset) -> str:
    pair = len(dataset.columns) > 1
    example = '{"text": "A man.", "text_pair": "Nobody."}' if pair else '"a gripping film"'
    options = "" if dataset.labels else ', function_to_apply="none"'
    make = f'classify = pipeline("text-classification", model=model{options})'
    return f"{make}\nprint(classify({example}))"


def _second(run: Run) -> dict[str, Any]:
    """The metrics on the second validation set, which MNLI has."""
    assert run.mismatched
    return measure(run.mismatched.logits, run.mismatched.labels, run.labels, run.metrics)


def _scores(run: Run) -> str:
    rows = [["metric", "value", f"{CONFIDENCE:.0%} interval (Wilson)", "examples"]]
    parts = {"": run.measured} | ({", mismatched genres": _second(run)} if run.mismatched else {})
    for where, measured in parts.items():
        for metric in (*run.metrics, "loss"):
            value, interval = measured[metric], "-"
            if metric == "accuracy":
                low, high = wilson(measured["correct"], measured["n"], CONFIDENCE)
                interval = f"{low:.4f} to {high:.4f}"
            text = "not defined" if value is None else f"{value:.4f}"
            rows.append([f"{metric}{where}", text, interval, f"{measured['n']:,}"])
    return markdown_table(rows)
