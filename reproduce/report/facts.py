"""All that the report shows, in no language: read once, from the files that the stages wrote."""

import hashlib
import itertools
import statistics
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.files import UserError, read_json
from reproduce.inputs.catalog import Dataset, on_the_hub, read_dataset, read_model
from reproduce.inputs.sentences import read_tsv
from reproduce.params import PARAMS, Finetune, read_yaml, validate
from reproduce.report.analysis import Calibration, Point, agreement, calibration, worst_errors
from reproduce.report.charts import Band
from reproduce.training.recipe import read_recipe
from reproduce.verdict.published import PUBLISHED, Published
from reproduce.verdict.runs import NotRun, Run, read_export, read_runs, recipe_of, split_of

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

ERRORS = 20  # worst errors shown
SENTENCES = Path("data/raw/validation.tsv")


@dataclass(frozen=True)
class Model:
    """One model: its recipe, its runs, and what is there beside them."""

    name: str
    source: str
    recipe: Finetune
    published: float | None
    runs: list[Run]
    missing: list[NotRun]
    curves: "dict[int, Array]"  # by seed, shape (points, 2): step, loss
    environments: dict[int, dict[str, Any]]  # by seed
    export: dict[str, Any] | None
    confidence: float  # of intervals, 0 to 1

    @property
    def seeds(self) -> list[int]:
        """The seeds that ran."""
        return [run.seed for run in self.runs]

    @property
    def median(self) -> float | None:
        """The median score over seeds; None where there is none."""
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
    def predicted(self) -> "Array":
        """What each run answered, shape (seeds, n)."""
        import numpy as np

        return np.stack([run.validation.predicted for run in self.runs])

    @cached_property
    def correct(self) -> "Array":
        """Which sentences each run gets right: bool, shape (seeds, n)."""
        return self.predicted == self.runs[0].validation.labels

    @cached_property
    def probability(self) -> "Array":
        """The probability of each run's answer, 0 to 1, shape (seeds, n)."""
        import numpy as np
        from scipy.special import softmax

        logits = np.stack([run.validation.logits for run in self.runs]).astype(float)
        return softmax(logits, axis=2).max(axis=2)  # type: ignore[no-any-return]

    @cached_property
    def calibration(self) -> Calibration:
        """Of all runs together."""
        return calibration(self.probability, self.correct, self.confidence)

    @property
    def confusion(self) -> list[list[int]]:
        """Counts by label (rows) and answer (columns), the runs added up."""
        tables = [run.measured["confusion"] for run in self.runs]
        names = self.runs[0].labels
        return [[sum(table[true][guess] for table in tables) for guess in names] for true in names]

    @property
    def band(self) -> Band | None:
        """The training curve over seeds, at the steps that all have; None without a curve."""
        import numpy as np

        if not self.curves:
            return None
        steps = sorted(set.intersection(*(set(curve[:, 0]) for curve in self.curves.values())))
        losses = np.stack([c[np.isin(c[:, 0], steps), 1] for c in self.curves.values()])
        middle = np.median(losses, axis=0)
        return Band(self.name, np.array(steps), middle, losses.min(axis=0), losses.max(axis=0))


@dataclass(frozen=True)
class Mistake:
    """A sentence that is often answered wrongly; `wrong` by model: (wrong runs, all runs)."""

    text: str
    label: int
    answer: int
    probability: float
    wrong: list[tuple[int, int]]


@dataclass(frozen=True)
class Pair:
    """Mean agreement (in percent) and kappa over all pairs of runs of one model or of two."""

    first: str
    second: str
    pairs: int
    same: float
    kappa: float


@dataclass(frozen=True)
class Facts:
    """All of it."""

    params: dict[str, Any]
    split: str  # "validation", or "held out of train"
    dataset: Dataset
    published: Published
    claims: dict[str, Any]  # metrics/claims.json
    error_rates: dict[str, Any] | None  # benchmarks/results/verdicts.json
    speed: dict[str, Any] | None  # metrics/speed.json
    reference: dict[str, Any] | None  # metrics/reference.json
    models: list[Model]
    texts: list[str] | None  # the sentences of the validation set, None where they are not there

    @property
    def ran(self) -> list[Model]:
        """The models that have a run."""
        return [model for model in self.models if model.runs]

    @property
    def shown(self) -> Model:
        """The model whose errors are shown: the student if it ran."""
        student = [model for model in self.ran if model.name == self.params["compare"]["student"]]
        return (student or self.ran)[0]

    @property
    def n(self) -> int:
        """How many sentences were evaluated."""
        return len(self.ran[0].runs[0].validation.labels) if self.ran else 0

    @cached_property
    def errors(self) -> list[Mistake]:
        """The worst errors of the model shown, and how many runs of every model make them."""
        if self.texts is None:
            return []
        labels = self.shown.runs[0].validation.labels
        worst = worst_errors(labels, self.shown.predicted, self.shown.probability, ERRORS)
        return [
            Mistake(
                self.texts[error.row].replace("\t", " | "),
                int(labels[error.row]),
                error.answer,
                error.probability,
                [(int((~m.correct[:, error.row]).sum()), len(m.runs)) for m in self.ran],
            )
            for error in worst
        ]

    @cached_property
    def agreement(self) -> list[Pair]:
        """Of each model with itself and with each other one, as far as there are two runs."""
        pairs = []
        for one, other in itertools.combinations_with_replacement(self.ran, 2):
            if one is other:
                runs = list(itertools.combinations(one.predicted, 2))
            else:
                runs = list(itertools.product(one.predicted, other.predicted))
            if runs:
                values = zip(*(agreement(*run) for run in runs), strict=True)
                same, kappa = (statistics.mean(column) for column in values)
                pairs.append(Pair(one.name, other.name, len(runs), 100 * same, kappa))
        return pairs

    @property
    def points(self) -> list[Point]:
        """The models whose time and size were measured."""
        medians = {model.name: model.median for model in self.models}
        speed = self.speed or {"models": {}}
        return [
            Point(
                name, medians.get(name), 1000 * m["seconds"] / speed["sentences"], m["bytes"] / 1e6
            )
            for name, m in speed["models"].items()
        ]


def read_facts() -> Facts:
    """Read params.yaml, catalog.yaml, published.yaml and what the other stages wrote.

    Raises:
        UserError: metrics/claims.json is missing or of another experiment, or a file is damaged.
    """
    params = read_yaml(PARAMS)
    published = validate(Published, read_yaml(PUBLISHED), f"{PUBLISHED}:")
    claims = read_optional("metrics/claims.json", "dvc repro compare")
    split = split_of(params)
    if claims is None or (claims["dataset"], claims["split"]) != (params["dataset"], split):
        wanted = f"{params['dataset']}, {split}"
        raise UserError(
            f"metrics/claims.json is missing or of another experiment; expected: {wanted}. "
            "Run `dvc repro compare`."
        )
    dataset, runs = read_dataset(params["dataset"]), read_runs(params)
    models = [
        read_facts_of(name, list(by_seed.values()), params, published)
        for name, by_seed in runs.items()
    ]
    first = next((model.runs[0] for model in models if model.runs), None)
    return Facts(
        params=params,
        split=split,
        dataset=dataset,
        published=published,
        claims=claims,
        error_rates=read_optional("benchmarks/results/verdicts.json", "git checkout benchmarks"),
        speed=read_optional("metrics/speed.json", "dvc repro benchmark"),
        reference=read_optional("metrics/reference.json", "dvc repro reference"),
        models=models,
        texts=read_texts(first, dataset) if first else None,
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


def read_facts_of(
    name: str, runs: list[Run | NotRun], params: dict[str, Any], published: Published
) -> Model:
    """What is there of one model. A curve or an environment of another recipe is left out."""
    done = [run for run in runs if isinstance(run, Run)]
    source = on_the_hub(read_model(name).sources)
    row = published.row(name, params["dataset"], split_of(params))
    environments = {}
    for run in done:
        path, command = f"environment/{run.name}.json", f"dvc repro finetune@{run.name}"
        about = read_optional(path, command)
        if about and about.get("recipe") == run.recipe:
            environments[run.seed] = about
    curves = {run.seed: read_curve(run.name) for run in done if run.seed in environments}
    export = read_export(name, params["seeds"][0], recipe_of(params, name, params["seeds"][0]))
    return Model(
        name=name,
        source=f"{source.hub} @ {(source.revision or '')[:8]}" if source else "\N{EN DASH}",
        recipe=read_recipe(name, params),
        published=row.score if row and done and row.metric == done[0].metrics[0] else None,
        runs=done,
        missing=[run for run in runs if isinstance(run, NotRun)],
        curves={seed: curve for seed, curve in curves.items() if curve is not None},
        environments=environments,
        export=None if isinstance(export, NotRun) else export,
        confidence=params["compare"]["confidence"],
    )


def read_curve(run: str) -> "Array | None":
    """The training loss that DVCLive wrote, shape (points, 2): step, loss; None if not there."""
    import pandas as pd

    path = Path(f"curves/{run}.tsv")
    try:
        table = pd.read_csv(path, sep="\t")[["step", "loss"]].to_numpy(float)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: {reason}. Run `dvc repro finetune@{run}`.") from error
    return table if len(table) else None


def read_texts(run: Run, dataset: Dataset) -> list[str] | None:
    """The sentences that `run` answered, from data/raw; None where these are others or not there.

    data/raw is not in git and no dependency of this stage, so that the report can be written
    without it. Predictions name its sha256.
    """
    if not SENTENCES.is_file():
        return None
    if hashlib.sha256(SENTENCES.read_bytes()).hexdigest() != run.sentences:
        return None
    return read_tsv(SENTENCES, dataset.label_values, dataset.columns)[0]
