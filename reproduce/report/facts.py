"""All that the report shows, in no language."""

import itertools
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.files import UserError, read_json
from reproduce.params import PARAMS, read_experiment, read_yaml, validate
from reproduce.report.analysis import (
    BINS,
    Point,
    agreement,
    by_kind,
    by_length,
    calibration,
    kinds,
    pareto_front,
    read_predictions,
    worst_errors,
)
from reproduce.report.card import read_run
from reproduce.verdict.published import PUBLISHED, Claims, Published
from reproduce.verdict.runs import percent
from reproduce.verdict.statistics import wilson

if TYPE_CHECKING:
    pass

NO_BREAK_HYPHEN = "\N{NON-BREAKING HYPHEN}"


ERRORS = 20  # worst errors shown


def gather() -> dict[str, Any]:
    """All that the pages show, in no language: read from params.yaml, published.yaml and what the other stages wrote.

    Raises:
        UserError: a file is missing, or two files are not of the same runs.
    """
    experiment, params = read_experiment(), read_yaml(PARAMS)
    published = validate(Published, read_yaml(PUBLISHED), f"{PUBLISHED}:")
    catalog = read_yaml(Path("catalog.yaml"))
    dataset = catalog["datasets"][experiment.dataset]
    split = "held out of train" if params["selection"]["holdout"] > 0 else "validation"
    claims = read_result("metrics/claims.json", "dvc repro compare")
    accuracy = read_result("metrics/accuracy.json", "dvc repro compare")
    speed = (
        read_result("metrics/speed.json", "dvc repro benchmark")
        if Path("metrics/speed.json").exists()
        else None
    )
    for path, data in (("metrics/claims.json", claims), ("metrics/accuracy.json", accuracy)):
        if (data["dataset"], data["split"]) != (experiment.dataset, split):
            wanted = f"{experiment.dataset}, {split}"
            raise UserError(
                f"{path} is of {data['dataset']}, {data['split']}; params.yaml asks for {wanted}. Run `dvc repro compare`."
            )
    confidence = claims["confidence"]
    models = []
    for style, name in enumerate(experiment.models):
        runs = {
            seed: gather_run(name, seed, experiment.dataset, split, confidence)
            for seed in experiment.seeds
        }
        settings = {
            **params["finetune"],
            **params["tasks"][experiment.dataset],
            **params["overrides"][name],
        }
        source = next((s for s in catalog["models"][name]["sources"] if "hub" in s), None)
        size = (speed or {"models": {}})["models"].get(name)
        row = published.row(name, experiment.dataset, split)
        models.append({"name": name, "style": style, "settings": settings, "source": source, "speed": size,
                       "published": row.score if row else None, **gather_model(runs, confidence)})  # fmt: skip
    ran = [model for model in models if model["runs"]]
    shown = next(
        (m for m in ran if m["name"] == params["compare"]["student"]), ran[0] if ran else None
    )
    points = [Point(m["name"], m["median"], 1000 * m["speed"]["seconds"] / speed["sentences"], m["speed"]["bytes"] / 1e6)
              for m in models if speed and m["speed"]]  # fmt: skip
    return {
        "dataset": experiment.dataset,
        "split": split,
        "title": published.titles.get(experiment.dataset, experiment.dataset).replace(
            "-", NO_BREAK_HYPHEN
        ),
        "seeds": list(experiment.seeds),
        "labels": dataset["labels"],
        "data_source": next((s for s in dataset["sources"] if "hub" in s), None),
        "train_rows": params["selection"]["train"]
        or dataset["train"]["rows"] - params["selection"]["holdout"],
        "max_length": params["tokenize"]["max_length"],
        "confidence": 100 * confidence,
        "teacher": params["compare"]["teacher"],
        "student": params["compare"]["student"],
        "metric": ran[0]["runs"][0]["metrics"]["metric"] if ran else "accuracy",
        "sentences": accuracy["sentences"],
        "claims": {
            name: claims["claims"][name]
            for name in (*Claims.model_fields, *claims["claims"])
            if name in claims["claims"]
        },
        "paired": claims["paired"],
        "majority": claims["majority_class"]
        if isinstance(claims["majority_class"], dict)
        else None,
        "models": models,
        "ran": ran,
        "table3": published.table3,
        "speed": speed,
        "points": points,
        "exported": {
            model["name"]: gather_export(model["name"], experiment.seeds[0], experiment.dataset)
            for model in models
        },
        "front": [point.name for point in pareto_front(points)],
        "agreement": gather_agreement(ran),
        "shown": shown,
        "errors": gather_errors(shown, ran),
        "bins": BINS,
        "environments": gather_environments(ran),
        "not_deterministic": sorted(
            {
                name
                for m in ran
                for run in m["runs"]
                for name in run["environment"]["not_deterministic"]
            }
        ),
    }


def read_result(path: str, command: str) -> dict[str, Any]:
    """A JSON object that another stage wrote; `UserError` with the command that writes it."""
    remedy = f"Run `{command}`."
    try:
        data = read_json(Path(path), remedy)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing. {remedy}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(data).__name__}. {remedy}")
    return data


def gather_run(
    model: str, seed: int, dataset: str, split: str, confidence: float
) -> dict[str, Any] | None:
    """One run: metrics, predictions, training curve, environment; None if it was not run.

    Raises:
        UserError: it was evaluated, but one of its other files is missing or of another run.
    """
    metrics = read_run(model, seed, dataset, split)
    if metrics is None:
        return None
    run = f"{model}-{seed}"
    remedy = f"Run `dvc pull` or `dvc repro evaluate@{run}`."
    table = read_predictions(Path("predictions") / f"{run}.csv", remedy)
    classifies = "probability" in table
    correct = int((table["label"] == table["predicted"]).sum())
    if len(table) != metrics["n"] or (classifies and correct != metrics["correct"]):
        said = f"{metrics.get('correct')} of {metrics['n']}"
        raise UserError(
            f"predictions/{run}.csv has {correct} of {len(table)} right, metrics/runs/{run}.json {said}. {remedy}"
        )
    low, high = (
        wilson(correct, len(table), confidence) if metrics["metric"] == "accuracy" else (None, None)
    )
    return {
        "seed": seed,
        "value": percent(metrics),
        "low": None if low is None else 100 * low,
        "high": None if high is None else 100 * high,
        "metrics": metrics,
        "table": table,
        "ece": calibration(table)["ece"] if classifies else None,
        "curve": read_curve(Path("plots/curves") / run / "plots/metrics/loss.tsv", run),
        "environment": read_result(f"environment/{run}.json", f"dvc repro finetune@{run}"),
    }


def gather_export(model: str, seed: int, dataset: str) -> dict[str, Any] | None:
    """What `stages.export` found of the exported forms of one run; None if it was not exported."""
    path = f"metrics/export/{model}-{seed}.json"
    if not Path(path).exists():
        return None
    found = read_result(path, f"dvc repro export@{model}")
    if found.get("dataset") != dataset:
        raise UserError(
            f"{path} is of {found.get('dataset')}; params.yaml asks for {dataset}. Run `dvc repro export@{model}`."
        )
    return found


def read_curve(path: Path, run: str) -> dict[str, list[float]]:
    """The training loss that DVCLive wrote: {"step", "loss"}."""
    import pandas as pd

    try:
        table = pd.read_csv(path, sep="\t")
        return {"step": table["step"].tolist(), "loss": table["loss"].astype(float).tolist()}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: {' '.join(str(error).split())}. Run `dvc pull` or `dvc repro finetune@{run}`."
        ) from error


def gather_model(by_seed: dict[int, dict[str, Any] | None], confidence: float) -> dict[str, Any]:
    """What one model's runs say together. An entry is None without a run, or where it needs a classifier."""
    import pandas as pd

    runs = [run for run in by_seed.values() if run]
    tables = [run["table"] for run in runs]
    classifies = bool(tables) and "probability" in tables[0]
    confusion = None
    if classifies and all("confusion" in run["metrics"] for run in runs):
        first = runs[0]["metrics"]["confusion"]
        confusion = {
            true: {
                guess: sum(run["metrics"]["confusion"][true][guess] for run in runs)
                for guess in first
            }
            for true in first
        }
    return {
        "seeds": by_seed,
        "runs": runs,
        "median": statistics.median(run["value"] for run in runs) if runs else None,
        "confusion": confusion,
        "hardest": hardest(confusion) if confusion else None,
        "calibration": calibration(pd.concat(tables)) if classifies else None,
        "lengths": by_length(tables, confidence) if classifies else None,
        "kinds": by_kind(tables, confidence) if classifies else None,
    }


def hardest(confusion: dict[str, dict[str, int]]) -> dict[str, Any]:
    """The class with the largest share of wrong answers: {"label", "share" (percent)}."""
    shares = {
        label: 100 * (1 - row[label] / sum(row.values()))
        for label, row in confusion.items()
        if sum(row.values())
    }
    label = max(shares, key=lambda name: shares[name])
    return {"label": label, "share": shares[label]}


def gather_agreement(ran: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each pair of models, and each model with itself, the mean agreement over all pairs of two different runs."""
    rows = []
    for first, second in itertools.combinations_with_replacement(
        [m for m in ran if m["calibration"]], 2
    ):
        same_model = first is second
        pairs = list(
            itertools.combinations(first["runs"], 2)
            if same_model
            else itertools.product(first["runs"], second["runs"])
        )
        if pairs:
            found = [agreement(one["table"], other["table"]) for one, other in pairs]
            same, kappa = (statistics.mean(values) for values in zip(*found, strict=True))
            rows.append(
                {
                    "first": first["name"],
                    "second": second["name"],
                    "pairs": len(pairs),
                    "same": 100 * same,
                    "kappa": kappa,
                }
            )
    return rows


def gather_environments(ran: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the trainings ran on: a model's runs on the same machine and software together."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for name, run in ((model["name"], run) for model in ran for run in model["runs"]):
        found = run["environment"]
        software = ", ".join(
            [
                "Python " + found["python"],
                *(f"{name} {found['packages'][name]}" for name in ("torch", "transformers")),
            ]
        )
        commit = (found["git_commit"] or "\N{EN DASH}")[:8] + ("+" if found["git_dirty"] else "")
        key = (
            name,
            found["gpu"] or found["cpu"],
            found["precision"],
            found["steps"],
            software,
            commit,
        )
        groups.setdefault(key, []).append(run)
    names = ("model", "device", "precision", "steps", "software", "commit")
    return [
        {
            **dict(zip(names, key, strict=True)),
            "seeds": [run["seed"] for run in runs],
            "minutes": [run["environment"]["seconds"] / 60 for run in runs],
            "memory": [run["environment"]["peak_memory_mb"] for run in runs],
        }
        for key, runs in groups.items()
    ]


def gather_errors(shown: dict[str, Any] | None, ran: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The worst errors of one model, each with its kinds and with how many runs of every model get it wrong."""
    if not shown or not shown["calibration"]:
        return []
    errors = worst_errors([run["table"] for run in shown["runs"]], ERRORS)
    for error in errors:
        rows = {
            model["name"]: [run["table"].iloc[error["place"]] for run in model["runs"]]
            for model in ran
        }
        error["by_model"] = {
            name: (sum(row["label"] != row["predicted"] for row in found), len(found))
            for name, found in rows.items()
        }
        error["kinds"] = kinds(error["text"])
    return errors
