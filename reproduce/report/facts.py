"""All that the report shows, in no language: read once, from the files that the stages wrote."""

import hashlib
import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.files import UserError, read_json
from reproduce.inputs.catalog import Dataset, on_the_hub, read_dataset, read_model
from reproduce.inputs.sentences import read_tsv
from reproduce.params import Experiment, Finetune
from reproduce.report.analysis import (
    Calibration,
    Group,
    Point,
    agreement,
    by_kind,
    by_length,
    calibration,
    worst_errors,
)
from reproduce.report.charts import Band
from reproduce.verdict.published import Published
from reproduce.verdict.runs import NotRun, Run

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

ERRORS = 20  # worst errors shown
SENTENCES = Path("data/raw/validation.tsv")
NO_BREAK_HYPHEN = "\N{NON-BREAKING HYPHEN}"


@dataclass(frozen=True)
class Form:
    """One form of an exported model, beside PyTorch's. `score` times 100."""

    name: str
    megabytes: float
    score: float | None
    other_answers: int | None
    logit_difference: float | None


@dataclass(frozen=True)
class Environment:
    """What some seeds of a model were trained on; minutes and memory from least to greatest."""

    model: str
    seeds: list[int]
    device: str
    precision: str
    steps: int
    software: str
    commit: str
    minutes: tuple[float, float]
    memory: tuple[float, float]


@dataclass(frozen=True)
class ModelFacts:
    """One model: its recipe, its runs by seed, and what is there beside them."""

    name: str
    source: str
    recipe: Finetune
    published: float | None
    runs: list[Run]
    missing: dict[int, str]  # why a seed has no run
    curves: dict[int, dict[str, "Array"]]  # steps and losses, shape (points,)
    environments: dict[int, dict[str, Any]]
    forms: list[Form]
    confidence: float

    @property
    def median(self) -> float | None:
        """The median score over seeds, None if there is none."""
        scores = [run.score for run in self.runs if run.score is not None]
        return statistics.median(scores) if scores else None

    @property
    def devices(self) -> dict[str, list[int]]:
        """The seeds by the kind of device that they were trained on."""
        kinds: dict[str, list[int]] = {}
        for run in self.runs:
            kinds.setdefault(run.device, []).append(run.seed)
        return kinds

    @cached_property
    def correct(self) -> "Array":
        """Which sentences each run gets right: bool, shape (seeds, n)."""
        import numpy as np

        return np.stack([run.predicted == run.labels for run in self.runs])

    @cached_property
    def probability(self) -> "Array":
        """The probability of each run's answer, 0 to 1, shape (seeds, n)."""
        import numpy as np
        from scipy.special import softmax

        return np.stack([softmax(run.logits, axis=1).max(axis=1) for run in self.runs])

    @cached_property
    def calibration(self) -> Calibration:
        """Of all runs together."""
        return calibration(self.probability, self.correct, self.confidence)

    @property
    def confusion(self) -> list[list[int]]:
        """Counts by label (rows) and answer (columns), the runs added up."""
        tables = [run.measured["confusion"] for run in self.runs]
        names = list(tables[0])
        return [[sum(t[true][guess] for t in tables) for guess in names] for true in names]

    @property
    def band(self) -> Band | None:
        """The training curve over seeds at the steps that all have; None without a curve."""
        import numpy as np

        if not self.curves:
            return None
        steps = sorted(set.intersection(*(set(c["step"].tolist()) for c in self.curves.values())))
        rows = [c["loss"][np.isin(c["step"], steps)] for c in self.curves.values()]
        losses = np.stack(rows)
        middle = np.median(losses, axis=0)
        return Band(self.name, np.array(steps), middle, losses.min(axis=0), losses.max(axis=0))
