"""What README.md and README.pt-BR.md say of measured files; cog puts it there.

Run as: make format     (make lint checks that it was done)
"""

import json
import statistics
from pathlib import Path

from reproduce.files import markdown_table
from reproduce.verdict.published import in_language

DEMO = {
    "en": "On two CPU cores: {seconds} s, accuracy {scores}; half of the sentences are positive.",
    "pt": "Em dois núcleos de CPU: {seconds} s, acurácia de {scores}; metade das frases é "
    "positiva.",
}
HEADS = {
    "en": ("model", "device", "precision", "runs", "minutes a run", "memory, GB"),
    "pt": (
        "modelo", "dispositivo", "precisão", "execuções",
        "minutos por execução", "memória, GB",
    ),
}  # fmt: skip


def demo(language: str) -> str:
    """How long the demo took, and the accuracy of each seed."""
    measured = json.loads(Path("benchmarks/results/demo.json").read_text(encoding="utf-8"))
    percent = {"en": " %", "pt": "%"}[language]
    accuracy = measured["accuracy_by_seed"].values()
    join = {"en": " and ", "pt": " e "}[language].join
    scores = join(in_language(value, language) + percent for value in accuracy)
    return DEMO[language].format(seconds=round(measured["wall"]["median"]), scores=scores)


def trainings(language: str) -> str:
    """A table of medians: a row for each model, device and precision that trainings ran on."""
    groups: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for path in sorted(Path("environment").glob("*-*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        group = (path.stem.rsplit("-", 1)[0], run["gpu"] or run["cpu"], run["precision"])
        memory = run["peak_memory_mb"] * 2**20 / 1e9
        groups.setdefault(group, []).append((run["seconds"] / 60, memory))
    rows: list[tuple[str, ...]] = [HEADS[language]]
    for group, runs in groups.items():
        medians = (round(statistics.median(column), 1) for column in zip(*runs, strict=True))
        numbers = (in_language(value, language) for value in medians)
        rows.append((*group, str(len(runs)), *numbers))
    return markdown_table(rows)
