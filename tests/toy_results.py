"""A folder as the pipeline leaves it, with toy results: what `compare` and `report` read. The numbers mean nothing."""

import csv
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import ROOT, dump_yaml, load_yaml

WORDS = [
    "film",
    "plot",
    "score",
    "story",
    "wit",
    "dull",
    "brave",
    "not",
    "never",
    "but",
    "although",
    "<b>bold</b>",
    "&",
    "fine",
]
MILLIONS = {"bert": 110, "distilbert": 50, "minilm": 22}  # parameters, not the real ones


def toy_results(
    folder: Path,
    runs: dict[str, list[int]],
    *,
    sentences: int = 120,
    classes: int = 2,
    metric: str = "accuracy",
    pairs: bool = False,
    speed: bool = True,
    wrong: float = 0.1,
    params: Callable[[Any], object] = lambda params: None,
) -> Path:
    """Write the real settings, changed by `params`, and toy outputs of the `runs` (model: seeds). `metric` pearson: values, no classes."""
    folder.mkdir(parents=True)
    for name in ("params.yaml", "published.yaml", "catalog.yaml"):
        shutil.copyfile(ROOT / name, folder / name)
    (folder / "stages").mkdir()
    (folder / "reproduce/report/templates").symlink_to(ROOT / "reproduce/report/templates")
    settings = load_yaml(folder / "params.yaml")
    settings["compare"]["bootstrap"]["resamples"] = 100
    params(settings)
    dump_yaml(folder / "params.yaml", settings)
    catalog = load_yaml(folder / "catalog.yaml")
    dataset = catalog["datasets"][settings["dataset"]]
    if metric == "pearson":
        dataset.update(labels=[], scale=[0, 5], metrics=["pearson"])
    elif classes > 2:
        dataset.update(labels=[f"CLASS_{i}" for i in range(classes)])
    names = list(dataset["labels"])
    dump_yaml(folder / "catalog.yaml", catalog)
    split = "held out of train" if settings["selection"]["holdout"] else "validation"
    draw = random.Random(5)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(2, 40))) for _ in range(sentences)]
    labels: list[float] = [
        draw.randrange(classes) if metric == "accuracy" else round(draw.uniform(0, 5), 2)
        for _ in texts
    ]
    for rank, (model, seeds) in enumerate(runs.items()):
        for seed in seeds:
            rows = [
                toy_answer(
                    label,
                    classes,
                    metric,
                    wrong * (1 + 0.3 * rank),
                    random.Random(f"{model} {seed} {i}"),
                )
                for i, label in enumerate(labels)
            ]
            about = {
                "dataset": settings["dataset"],
                "split": split,
                "model": model,
                "seed": seed,
                "metric": metric,
                "n": sentences,
            }
            write_run(folder, f"{model}-{seed}", about, names, texts, labels, rows, pairs)
        if seeds[:1] == settings["seeds"][:1]:
            write(
                folder / "metrics/export" / f"{model}-{seeds[0]}.json",
                toy_export(settings["dataset"], MILLIONS[model], metric == "accuracy"),
            )
    if speed:
        machine = {"cpu": "A Processor", "threads": 2}
        measured = {model: toy_speed(MILLIONS[model]) for model in settings["models"]}
        write(
            folder / "metrics/speed.json",
            {"sentences": sentences, "teacher": "bert", "models": measured, "environment": machine},
        )
    return folder


def toy_answer(
    label: float, classes: int, metric: str, wrong: float, draw: random.Random
) -> tuple[float, float]:
    """What a model answers, and its probability."""
    if metric != "accuracy":
        return round(label + draw.gauss(0, 0.5), 3), math.nan
    probability = 1 / classes + (1 - 1 / classes) * draw.random() ** 0.3
    return (
        int(label) + draw.randrange(1, classes)
    ) % classes if draw.random() < wrong else label, probability


def toy_export(dataset: str, millions: int, classes: bool) -> dict[str, Any]:
    """As `stages.export` writes it, with what `report` reads of it."""
    forms: dict[str, dict[str, Any]] = {"pytorch": {"bytes": 4 * millions * 10**6, "score": 0.9}}
    for form, size, difference in (
        ("onnx", 4, 1.1e-05),
        ("optimized", 4, 1.2e-05),
        ("int8", 1, 0.52),
    ):
        forms[form] = {
            "bytes": size * millions * 10**6,
            "score": 0.88 if form == "int8" else 0.9,
            "largest_logit_difference": difference,
        }
        if classes:
            forms[form]["other_labels"] = 7 if form == "int8" else 0
    return {"dataset": dataset, "forms": forms}


def toy_speed(millions: int) -> dict[str, Any]:
    passes = [round(seconds * millions / 110, 3) for seconds in (9.0, 9.1, 9.3)]
    return {"parameters": millions * 10**6, "parameters_encoder": millions * 10**6, "bytes": 4 * millions * 10**6, "seconds": passes[1],
            "seconds_by_pass": passes, "sentences_per_second": 9.9, "speedup": 110 / millions, "speedup_by_pass": [110 / millions] * 3}  # fmt: skip


def write_run(
    folder: Path, run: str, about: dict[str, Any], names: list[str], texts: list[str], labels: list[float],
    answers: list[tuple[float, float]], pairs: bool,
) -> None:  # fmt: skip
    """The files of one run: metrics, predictions, curve, environment."""
    classes = about["metric"] == "accuracy"
    columns = ["sentence1", "sentence2"] if pairs else ["sentence"]
    path = folder / "predictions" / f"{run}.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*columns, "label", "predicted", *(["probability"] if classes else [])])
        for text, label, (answer, probability) in zip(texts, labels, answers, strict=True):
            writer.writerow(
                [
                    *([text, text[::-1]] if pairs else [text]),
                    label,
                    answer,
                    *([f"{probability:.6f}"] if classes else []),
                ]
            )
    metrics = {**about, "score": pearson(labels, [answer for answer, _ in answers])}
    if classes:
        correct = sum(label == answer for label, (answer, _) in zip(labels, answers, strict=True))
        confusion = {true: dict.fromkeys(names, 0) for true in names}
        for label, (answer, _) in zip(labels, answers, strict=True):
            confusion[names[int(label)]][names[int(answer)]] += 1
        metrics |= {"score": round(correct / len(texts), 6), "accuracy": round(correct / len(texts), 6), "correct": correct, "f1": 0.9, "loss": 0.3,
                    "confusion": confusion}  # fmt: skip
    write(folder / "metrics/runs" / f"{run}.json", metrics)
    write(folder / "environment" / f"{run}.json", {
        "cpu": "A Processor", "gpu": None, "precision": "fp32", "steps": 400, "seconds": 61.5, "peak_memory_mb": 900, "python": "3.11.7",
        "packages": {"torch": "2.0", "transformers": "5.0"}, "git_commit": "0123456789abcdef", "git_dirty": False,
        "not_deterministic": ["a_kernel"] if run == "bert-1" else [],
    })  # fmt: skip
    curve = folder / "plots/curves" / run / "plots/metrics/loss.tsv"
    curve.parent.mkdir(parents=True)
    draw = random.Random(run)
    points = [
        f"{step}\t{0.7 * math.exp(-step / 150) + 0.05 * draw.random()}"
        for step in range(10, 401, 10)
    ]
    curve.write_text("\n".join(["step\tloss", *points]) + "\n")


def pearson(x: list[float], y: list[float]) -> float:
    import numpy as np

    return round(float(np.corrcoef(x, y)[0, 1]), 6)


def write(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")
