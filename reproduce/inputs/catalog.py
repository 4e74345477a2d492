"""catalog.yaml: where datasets and checkpoints may come from, and the pin of every file."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from reproduce.files import UserError, write_json
from reproduce.params import Section, SectionType, read_yaml, validate

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


class Split(Section):
    """One split of a dataset: the file that carries it, and what it must be once in canonical form.

    `bytes` and `sha256` are missing until `make pin`; no stage downloads the file before.
    """

    file: FileName
    bytes: int | None = Field(default=None, ge=0)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    rows: int | None = Field(default=None, ge=1)
    tsv_md5: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")  # published, canonical

    @model_validator(mode="after")
    def _all_or_none(self) -> "Split":
        given = [value is not None for value in (self.bytes, self.sha256, self.rows)]
        if any(given[:2]) and not all(given):
            raise ValueError(
                "bytes, sha256 and rows go together: give all three, or neither bytes nor sha256 "
                "and run `make pin`"
            )
        return self

    @property
    def pin(self) -> Pin | None:
        """What the file must be; None if that is not known yet."""
        if self.bytes is None or self.sha256 is None:
            return None
        return Pin(bytes=self.bytes, sha256=self.sha256)


# The texts of an example become columns of data/raw and predictions/, beside these.
Column = Annotated[str, Field(pattern=r"^\w[\w. -]*$")]
OWN_COLUMNS = {"index", "label", "predicted", "probability", "split"}

# Metrics of GLUE (Wang et al. 2018, section 3): what a run can be judged by.
MetricName = Literal["accuracy", "f1", "matthews", "pearson", "spearman"]


class Dataset(Section):
    """A set of labelled sentences, or of pairs of them."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    note: str | None = None  # what the card of a model that was fine-tuned on it must say
    columns: Annotated[tuple[Column, ...], Field(min_length=1, max_length=2)]  # the texts
    labels: tuple[str, ...]  # names of the classes 0, 1, ...; none where the label is a number
    scale: tuple[float, float] | None = None  # the range of that number
    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1)]  # the first is the headline
    train: Split
    validation: Split
    test: Split | None = None  # labels hidden
    validation_mismatched: Split | None = None  # MNLI: other genres than those of train
    test_mismatched: Split | None = None

    @field_validator("columns", "labels", "metrics")
    @classmethod
    def _no_repetition(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if repeated := sorted({value for value in values if values.count(value) > 1}):
            raise ValueError(f"listed more than once: {', '.join(repeated)}; list each once")
        return values

    @field_validator("columns")
    @classmethod
    def _no_column_of_ours(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if taken := OWN_COLUMNS.intersection(values):
            raise ValueError(f"{min(taken)} is a column of our own tables; rename it in the source")
        return values

    @model_validator(mode="after")
    def _classes_or_numbers(self) -> "Dataset":
        if (len(self.labels) >= 2) == (self.scale is not None) or len(self.labels) == 1:
            raise ValueError(
                "name two labels or more, or none and a scale ([lowest, highest]) where the label "
                "is a number"
            )
        if self.scale and self.scale[0] >= self.scale[1]:
            low, high = self.scale
            raise ValueError(f"scale goes from lowest to highest, not from {low:g} to {high:g}")
        of_numbers = {"pearson", "spearman"}
        wrong = [m for m in self.metrics if (m in of_numbers) != (self.scale is not None)]
        if wrong:
            kind = "numbers" if self.scale else "classes"
            raise ValueError(f"metric {wrong[0]} does not fit {kind}")
        # What reproduce/verdict/statistics.py can give an interval: found here, before training.
        headline, binary = self.metrics[0], len(self.labels) == 2
        if headline == "spearman":
            raise ValueError("metric spearman cannot be the headline: put pearson first")
        if headline in ("f1", "matthews") and not binary:
            raise ValueError(
                f"metric {headline} cannot be the headline of more than two classes: put accuracy "
                "first"
            )
        return self

    @property
    def label_values(self) -> int | tuple[float, float]:
        """The number of classes, or the range of the numbers."""
        return self.scale or len(self.labels)

    def splits(self) -> dict[str, Split]:
        """The splits that exist, by name."""
        named = {name: getattr(self, name) for name in SPLITS}
        return {name: split for name, split in named.items() if split is not None}

    def pins(self) -> dict[str, Pin]:
        """By file, what it must be; a file that is not pinned yet is left out."""
        return {split.file: split.pin for split in self.splits().values() if split.pin}


# Of a model with a fast tokenizer, these suffice.
TOKENIZER_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")


class Model(Section):
    """A pretrained checkpoint."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    license: Annotated[str, Field(pattern=r"^[a-z0-9.-]+$")] = "unknown"  # as the Hub spells it
    tokenizer: Annotated[dict[FileName, Pin], Field(min_length=1)]  # with config.json
    weights: Annotated[dict[FileName, Pin], Field(min_length=1)]

    @model_validator(mode="after")
    def _needed_files(self) -> "Model":
        if missing := [name for name in TOKENIZER_FILES if name not in self.tokenizer]:
            raise ValueError(
                f"tokenizer must list {missing[0]} (config.json, where the architecture is, and a "
                "fast tokenizer's two files)"
            )
        if list(self.weights) != ["model.safetensors"]:
            found = ", ".join(self.weights)
            raise ValueError(
                "weights must be model.safetensors alone (a pickle can run code when it is read), "
                f"not {found}"
            )
        return self


class Catalog(Section):
    """The whole of catalog.yaml."""

    datasets: dict[str, Dataset]
    models: dict[str, Model]


def read_dataset(name: str, path: Path = CATALOG) -> Dataset:
    """The entry of dataset `name`; an unknown name raises `UserError` and lists the known ones."""
    return validate(Dataset, _entry("datasets", name, path), f"{path}: datasets.{name}")


def read_pinned_dataset(name: str, path: Path = CATALOG) -> Dataset:
    """Like `read_dataset`; `UserError` if it is not known yet what bytes its files must have."""
    dataset = read_dataset(name, path)
    if unknown := [split for split, entry in dataset.splits().items() if entry.pin is None]:
        raise UserError(
            f"{path}: datasets.{name}.{unknown[0]} has no bytes and sha256: its files were never "
            f"pinned. Run `make pin DATASET={name}`, which downloads them once and writes what "
            f"they are into {path}."
        )
    return dataset


def read_model(name: str, path: Path = CATALOG) -> Model:
    """The entry of model `name`; an unknown name raises `UserError` and lists the known ones."""
    return validate(Model, _entry("models", name, path), f"{path}: models.{name}")


def digests(pins: dict[str, Pin]) -> dict[str, str]:
    """The sha256 of each file: what decides a result, where an entry's sources do not."""
    return {name: pin.sha256 for name, pin in pins.items()}


def write_entry(path: Path, entry: Dataset | Model) -> None:
    """Leave `entry` at `path` as JSON, for `read_entry`."""
    write_json(path, entry.model_dump(mode="json", exclude_none=True))


def read_entry(path: Path, schema: type[SectionType]) -> SectionType:
    """What `write_entry` left at `path`; `UserError` if it is missing or something else."""
    try:
        return schema.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing. Run `dvc repro {path}`, which writes it, or `dvc pull {path}`."
        ) from error
    except ValidationError as error:
        raise UserError(
            f"{path} is no entry of {CATALOG}. Delete it and run `dvc checkout {path}`."
        ) from error


def _entry(kind: str, name: str, path: Path) -> object:
    entries = read_yaml(path).get(kind)
    if not isinstance(entries, dict):
        raise UserError(f"{path}: {kind} is missing or no mapping.")
    if name not in entries:
        raise UserError(
            f"unknown {kind.removesuffix('s')} {name!r}: {path} knows "
            f"{', '.join(sorted(entries))}. Choose one of these in params.yaml, or add an entry to "
            f"{path}."
        )
    return entries[name]
