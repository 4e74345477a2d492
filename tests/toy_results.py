"""A folder as the pipeline leaves it, with toy results: what `compare` and `report` read.

The numbers mean nothing. `toy_results(folder, {"bert": [1, 2]})` writes settings and runs.
"""

import json
import math
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from conftest import ROOT, dump_yaml, load_yaml
from reproduce.verdict.runs import Part, Run, recipe_of, split_of, write_run

WORDS = ["film", "plot", "score", "story", "wit", "dull", "brave",
         "not", "never", "but", "although", "<b>bold</b>", "&", "fine"]  # fmt: skip
MILLIONS = {"bert": 110, "distilbert": 50, "minilm": 22}  # parameters, not the real ones


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in `folder`, as the stages work in the project's root."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


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
    device: Callable[[str, int], str] = lambda model, seed: "cpu",
    params: Callable[[Any], object] = lambda params: None,
) -> Path:
    """The real settings, changed by `params`, and toy outputs of the `runs` (model: seeds).

    Args:
        metric: accuracy, or pearson: labels are numbers.
        wrong: the share of wrong answers of the first model; each further one has more.
    """
    folder.mkdir(parents=True)
    for name in ("params.yaml", "published.yaml", "catalog.yaml"):
        shutil.copyfile(ROOT / name, folder / name)
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
    if pairs:
        dataset.update(columns=["sentence1", "sentence2"])
    dump_yaml(folder / "catalog.yaml", catalog)
    labels = write_sentences(folder, sentences, 0 if metric == "pearson" else classes, pairs)
    with inside(folder):
        for rank, (model, seeds) in enumerate(runs.items()):
            share = wrong * (1 + 0.3 * rank)
            for seed in seeds:
                logits = toy_logits(labels, len(dataset["labels"]), share, f"{model} {seed}")
                run = Run(model, seed, recipe_of(settings, model, seed), settings["dataset"],
                          split_of(settings), tuple(dataset["metrics"]), tuple(dataset["labels"]),
                          device(model, seed), "fp32", "A Processor", "0" * 64,
                          Part(labels, logits))  # fmt: skip
                write_run(run)
                write_beside(run)
            if seeds[:1] == settings["seeds"][:1]:
                recipe = recipe_of(settings, model, seeds[0])
                forms = {"int8": {"bytes": MILLIONS[model] * 10**6, "score": 0.88}}
                export = {"recipe": recipe, "forms": forms}  # what `report` reads of it
                write(Path("metrics/export") / f"{model}-{seeds[0]}.json", export)
    if speed:
        machine = {"cpu": "A Processor", "threads": 2}
        measured = {model: toy_speed(MILLIONS.get(model, 4)) for model in settings["models"]}
        speeds = {"sentences": sentences, "teacher": "bert", "models": measured}
        write(folder / "metrics/speed.json", {**speeds, "environment": machine})
    return folder


def write_sentences(folder: Path, count: int, classes: int, pairs: bool) -> np.ndarray:
    """data/raw/validation.tsv in GLUE's form; the labels, numbers if there are no classes."""
    draw = random.Random(5)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(2, 40))) for _ in range(count)]
    numbers = [draw.randrange(classes) if classes else round(draw.uniform(0, 5), 2) for _ in texts]
    head = ["sentence1", "sentence2", "label"] if pairs else ["sentence", "label"]
    rows = [[text, text[::-1], str(n)] if pairs else [text, str(n)]
            for text, n in zip(texts, numbers, strict=True)]  # fmt: skip
    path = folder / "data/raw/validation.tsv"
    path.parent.mkdir(parents=True)
    path.write_text("".join("\t".join(row) + "\n" for row in [head, *rows]), encoding="utf-8")
    return np.array(numbers)


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
    """The curve and the environment of a run."""
    write(Path(f"environment/{run.name}.json"), {
        "recipe": run.recipe, "run": {"model": run.model, "seed": run.seed}, "device": run.device,
        "device_name": "A Processor", "cpu": "A Processor", "gpu": None, "precision": "fp32",
        "precision_reason": "asked for", "steps": 400, "seconds": 61.5, "ms_per_step": 150.0,
        "peak_memory_mb": 900, "last_loss": 0.06, "python": "3.11.7", "threads": 2,
        "packages": {"torch": "2.0", "transformers": "5.0"}, "git_commit": "0123456789abcdef",
        "git_dirty": False, "not_deterministic": {"a_kernel": True} if run.name == "bert-1" else {},
    })  # fmt: skip
    draw = random.Random(run.name)
    lines = [f"{s}\t{0.7 * math.exp(-s / 150) + 0.05 * draw.random()}" for s in range(10, 401, 10)]
    path = Path(f"curves/{run.name}.tsv")
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(["step\tloss", *lines]) + "\n")


def toy_speed(millions: int) -> dict[str, Any]:
    """A model's part of metrics/speed.json: as fast as it has few parameters."""
    passes = [round(seconds * millions / 110, 3) for seconds in (9.0, 9.1, 9.3)]
    size = {"parameters": millions * 10**6, "parameters_encoder": millions * 10**6,
            "bytes": 4 * millions * 10**6}  # fmt: skip
    return size | {"seconds": passes[1], "seconds_by_pass": passes, "sentences_per_second": 9.9,
                   "speedup": 110 / millions, "speedup_by_pass": [110 / millions] * 3}  # fmt: skip


def write(path: Path, data: Any) -> None:
    """JSON, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")
