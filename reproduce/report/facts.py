"""All that the report shows, in no language: read once, from the files that the stages wrote."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reproduce.files import UserError, read_json, sha256
from reproduce.inputs.catalog import Dataset, on_the_hub, read_dataset, read_model
from reproduce.inputs.sentences import read_tsv
from reproduce.models.metrics import Array
from reproduce.params import PARAMS, Finetune, read_yaml
from reproduce.report.analysis import worst_errors
from reproduce.training.recipe import read_recipe
from reproduce.verdict.claims import judge
from reproduce.verdict.evidence import Evidence, read_evidence
from reproduce.verdict.runs import NotRun, Run
from reproduce.verdict.statistics import Interval

SENTENCES = Path("data/raw/validation.tsv")


@dataclass(frozen=True)
class Model:
    """One model: its recipe, its runs, and what is there beside them."""

    name: str
    source: str
    recipe: Finetune
    median: float | None  # of the scores; None where there is none
    published: float | None  # on the same metric
    runs: list[Run]
    intervals: dict[int, Interval | None]  # by seed, over sentences
    missing: list[NotRun]
    environments: dict[int, dict[str, Any]]  # by seed
    curves: dict[int, Array]  # by seed, shape (points, 2): step, loss
    int8: dict[str, Any] | None  # the first seed's exported form: bytes, score ...

    @cached_property
    def predicted(self) -> Array:
        """What each run answered, shape (seeds, n)."""
        import numpy as np

        return np.stack([run.validation.predicted for run in self.runs])

    @cached_property
    def correct(self) -> Array:
        """Which sentences each run gets right: bool, shape (seeds, n)."""
        found: Array = self.predicted == self.runs[0].validation.labels
        return found

    @cached_property
    def probability(self) -> Array:
        """The probability of each run's answer, 0 to 1, shape (seeds, n)."""
        import numpy as np
        from scipy.special import softmax

        logits = np.stack([run.validation.logits for run in self.runs]).astype(float)
        return softmax(logits, axis=2).max(axis=2)  # type: ignore[no-any-return]

    @property
    def confusion(self) -> list[list[int]]:
        """Counts by label (rows) and answer (columns), the runs added up."""
        tables = [run.measured["confusion"] for run in self.runs]
        names = self.runs[0].labels
        return [[sum(table[true][guess] for table in tables) for guess in names] for true in names]

    @property
    def curve(self) -> Array | None:
        """Shape (points, 1 + seeds): the steps that all curves have, and each loss; None: none."""
        import numpy as np

        if not self.curves:
            return None
        curves = list(self.curves.values())
        steps = sorted(set.intersection(*(set(curve[:, 0]) for curve in curves)))
        losses = (curve[np.isin(curve[:, 0], steps), 1] for curve in curves)
        return np.column_stack([steps, *losses])


@dataclass(frozen=True)
class Facts:
    """All of it. What a stage wrote is as it wrote it, None if it is not there."""

    params: dict[str, Any]
    dataset: Dataset
    evidence: Evidence
    claims: dict[str, Any]  # as `compare` writes them
    error_rates: dict[str, Any] | None
    reference: dict[str, Any] | None
    models: list[Model]
    texts: list[str] | None  # of the sentences that the runs answered

    @property
    def speed(self) -> dict[str, Any] | None:
        """metrics/speed.json."""
        return self.evidence.speed

    @property
    def ran(self) -> list[Model]:
        """The models that have a run."""
        return [model for model in self.models if model.runs]

    @property
    def shown(self) -> Model:
        """The model whose errors are shown: the student if it ran."""
        return min(self.ran, key=lambda model: model.name != self.evidence.settings.student)

    @cached_property
    def errors(self) -> list[tuple[str, str, str, float, list[tuple[int, int]]]]:
        """What the model shown gets wrong, worst first.

        Text, label, answer, its probability, and of each model how many of how many runs do.
        """
        texts, names, shown = self.texts or [], self.dataset.labels, self.shown
        labels = shown.runs[0].validation.labels
        wrong = [((~model.correct).sum(axis=0), len(model.runs)) for model in self.ran]
        return [
            (texts[row].replace("\t", " | "), names[labels[row]], names[answer], sure,
             [(int(count[row]), runs) for count, runs in wrong])
            for row, sure, answer in worst_errors(labels, shown.predicted, shown.probability)
        ]  # fmt: skip


def read_facts() -> Facts:
    """Read params.yaml, catalog.yaml, published.yaml and what the other stages wrote.

    The claims are judged anew, so that they are of the runs that are there. `UserError` if a file
    is damaged.
    """
    params, evidence = read_yaml(PARAMS), read_evidence()
    dataset = read_dataset(evidence.dataset)
    rates = read_optional("benchmarks/results/verdicts.json", "git checkout benchmarks")
    reference = read_optional("reference/result.json", "dvc repro reference/dvc.yaml")
    models = [read_model_facts(name, params, evidence) for name in evidence.runs]
    ran = [run for model in models for run in model.runs]
    texts = read_texts(ran[0].sentences, dataset) if ran else None
    return Facts(params, dataset, evidence, judge(evidence), rates, reference, models, texts)


def read_model_facts(name: str, params: dict[str, Any], evidence: Evidence) -> Model:
    """What is there of one model. What is beside its runs is that of today's recipe."""
    runs = evidence.of_model(name)
    source = on_the_hub(read_model(name).sources)
    row = evidence.published.row(name, evidence.dataset, evidence.split)
    environments: dict[int, dict[str, Any]] = {}
    curves: dict[int, Array] = {}
    export: dict[str, Any] | None = None
    for seed, run in runs.items():
        about = read_optional(f"environment/{run.name}.json", f"dvc repro finetune@{run.name}")
        if about and about.get("recipe") == run.recipe:
            environments[seed] = about
            if (curve := read_curve(run.name)) is not None:
                curves[seed] = curve
        if seed == params["seeds"][0]:
            export = read_optional(f"metrics/export/{run.name}.json", f"dvc repro export@{name}")
            export = export if export and export.get("recipe") == run.recipe else None
    return Model(
        name,
        f"{source.hub} @ {(source.revision or '')[:8]}" if source else "–",
        read_recipe(name, params),
        evidence.median(name),
        row.score if row and row.metric == evidence.metric else None,
        list(runs.values()),
        {seed: evidence.over_sentences([run]) for seed, run in runs.items()},
        [run for run in evidence.runs[name].values() if isinstance(run, NotRun)],
        environments,
        curves,
        export["forms"].get("int8") if export else None,
    )


def read_optional(path: str, command: str) -> dict[str, Any] | None:
    """A JSON object that a stage wrote; None if it is not there."""
    try:
        data = read_json(Path(path), f"Run `{command}`.")
    except FileNotFoundError:
        return None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a JSON object, found {data!r:.40}. Run `{command}`.")
    return data


def read_curve(run: str) -> Array | None:
    """The training loss that DVCLive wrote, shape (points, 2): step, loss; None if not there."""
    import pandas as pd

    path = Path(f"curves/{run}.tsv")
    try:
        curve: Array = pd.read_csv(path, sep="\t")[["step", "loss"]].to_numpy(float)
        return curve
    except FileNotFoundError:
        return None
    except (ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: {reason}. Run `dvc repro finetune@{run}`.") from error


def read_texts(digest: str, dataset: Dataset) -> list[str] | None:
    """The sentences that the runs answered; None where data/raw is not there, or holds others."""
    if not SENTENCES.is_file() or sha256(SENTENCES) != digest:
        return None
    return read_tsv(SENTENCES, dataset.label_values, dataset.columns)[0]
