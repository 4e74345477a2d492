"""A folder as the pipeline leaves it, with toy results: what `compare` and `report` read.

The numbers mean nothing. `toy_results(folder, {"bert": [1, 2]})` writes settings and runs.
"""

import json
import math
import os
import random
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np

from conftest import ROOT, Here, dump_yaml, load_yaml
from reproduce.files import sha256, write_json
from reproduce.inputs.catalog import Dataset, read_dataset
from reproduce.verdict.runs import Part, Run, recipe_of, split_of, write_run

RATES = "benchmarks/results/verdicts.json"
SENTENCES = Path("data/raw/validation.tsv")
WORDS = ["film", "plot", "score", "story", "wit", "dull", "brave",
         "not", "never", "but", "although", "<b>bold</b>", "&", "fine"]  # fmt: skip
MILLIONS = {"bert": 110, "distilbert": 50, "minilm": 22}  # parameters, not the real ones


def toy_results(
    folder: Path,
    runs: dict[str, list[int]],
    *,
    dataset: str = "sst2",
    sentences: int = 120,
    speed: bool = True,
    wrong: float = 0.1,
    device: Callable[[str, int], str] = lambda model, seed: "cpu",
    params: Callable[[Any], object] = lambda params: None,
) -> Here:
    """The real settings, changed by `params`, and toy outputs of the `runs` (model: seeds).

    Args:
        wrong: the share of wrong answers of the first model; each further one has more.
    """
    for name in ("params.yaml", "published.yaml", "catalog.yaml", RATES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    settings = load_yaml(folder / "params.yaml")
    settings["dataset"] = dataset
    settings["compare"]["bootstrap"]["resamples"] = 100
    params(settings)
    dump_yaml(folder / "params.yaml", settings)
    with chdir(folder):
        task = read_dataset(dataset)
        labels = write_sentences(task, sentences)
        for rank, (model, seeds) in enumerate(runs.items()):
            share = wrong * (1 + 0.3 * rank)
            for seed in seeds:
                logits = toy_logits(labels, len(task.labels), share, f"{model} {seed}")
                recipe = recipe_of(settings, model, seed)
                run = Run(model, seed, recipe, dataset, split_of(settings), task.metrics,
                          task.labels, device(model, seed), "fp32", "A Processor",
                          sha256(SENTENCES), Part(labels, logits))  # fmt: skip
                write_run(run)
                write_beside(run)
                if seed == settings["seeds"][0]:  # what `report` reads of an export
                    forms = {"int8": {"bytes": MILLIONS[model] * 10**6, "score": 0.88}}
                    export = {"recipe": recipe, "forms": forms}
                    write_json(Path(f"metrics/export/{run.name}.json"), export)
        if speed:
            measured = {model: toy_speed(MILLIONS[model]) for model in settings["models"]}
            speeds = {"sentences": sentences, "teacher": "bert", "models": measured}
            machine = {"cpu": "A Processor", "threads": 2}
            write_json(Path("metrics/speed.json"), {**speeds, "environment": machine})
    return Here(folder, dict(os.environ))


def write_sentences(task: Dataset, count: int) -> np.ndarray:
    """data/raw/validation.tsv in GLUE's form; the labels."""
    draw = random.Random(5)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(2, 40))) for _ in range(count)]
    classes = len(task.labels)
    labels = [draw.randrange(classes) if classes else round(draw.uniform(0, 5), 2) for _ in texts]
    lines = ["\t".join([*task.columns, "label"])]
    for text, label in zip(texts, labels, strict=True):
        columns = [text, text[::-1]][: len(task.columns)]
        lines.append("\t".join([*columns, str(label)]))
    SENTENCES.parent.mkdir(parents=True)
    SENTENCES.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return np.array(labels)


def toy_logits(labels: np.ndarray, classes: int, wrong: float, seed: str) -> np.ndarray:
    """Answers of which a share is wrong, shape (n, classes); (n, 1) where labels are numbers."""
    draw = np.random.default_rng(list(seed.encode()))
    if not classes:
        return labels[:, None] + draw.normal(0, 0.5, (len(labels), 1))
    others = (labels + draw.integers(1, classes, len(labels))) % classes
    answers = np.where(draw.random(len(labels)) < wrong, others, labels)
    logits = draw.normal(0, 0.3, (len(labels), classes)).astype(np.float32)
    logits[np.arange(len(labels)), answers] += draw.uniform(1.5, 5, len(labels)).astype(np.float32)
    return logits


def write_beside(run: Run) -> None:
    """The curve and the environment of a run, as far as the report reads it."""
    write_json(Path(f"environment/{run.name}.json"), {
        "recipe": run.recipe, "cpu": "A Processor", "gpu": None, "precision": "fp32",
        "steps": 400, "seconds": 61.5, "peak_memory_mb": 900, "python": "3.11.7",
        "packages": {"torch": "2.0"}, "git_commit": "0123456789abcdef", "git_dirty": False,
        "not_deterministic": {"a_kernel": True} if run.name == "bert-1" else {},
    })  # fmt: skip
    draw = random.Random(run.name)
    lines = [f"{s}\t{0.7 * math.exp(-s / 150) + 0.05 * draw.random()}" for s in range(10, 401, 10)]
    path = Path(f"curves/{run.name}.tsv")
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(["step\tloss", *lines]) + "\n")


def toy_speed(millions: int) -> dict[str, Any]:
    """A model's part of metrics/speed.json: as fast as it has few parameters."""
    passes = [round(seconds * millions / 110, 3) for seconds in (9.0, 9.1, 9.3)]
    size = {"parameters_encoder": millions * 10**6, "bytes": 4 * millions * 10**6}
    return {**size, "seconds": passes[1], "seconds_by_pass": passes, "speedup": 110 / millions}


def change_json(path: Path, **changes: Any) -> None:
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)
