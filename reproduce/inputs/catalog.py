"""catalog.yaml: where datasets and checkpoints may come from, and the pin of every file."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from reproduce.files import UserError, write_json
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


PINNED = {"bytes", "sha256"}


class Pin(Section):
    """What a file must be, whatever its source."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _raise_first(problems: dict[str, bool]) -> None:
    """Raise ValueError with the first text whose problem is there."""
    for text, there in problems.items():
        if there:
            raise ValueError(text)


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
        problems = {
            "a source names exactly one of hub, pypi, folder":
                sum(value is not None for value in (self.hub, self.pypi, self.folder)) != 1,
            "hub and revision go together: pin the commit (40 hexadecimal digits)":
                (self.hub is None) != (self.revision is None),
            "pypi and inside go together: name the folder inside the wheel":
                (self.pypi is None) != (self.inside is None),
            "embedded goes with pypi: the wheel that has the vocabulary":
                self.embedded is not None and self.pypi is None,
        }  # fmt: skip
        _raise_first(problems)
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


class Dataset(Section):
    """A set of labelled sentences, or of pairs of them."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    note: str | None = None  # what the card of a model that was fine-tuned on it must say
    columns: Annotated[OneOrMore[Column], Field(max_length=2)]  # the texts
    labels: Distinct[str]  # names of the classes 0, 1, ...; none where the label is a number
    scale: tuple[float, float] | None = None  # the range of that number
    metrics: OneOrMore[MetricName]  # the first is the headline
    train: Split
    validation: Split
    test: Split | None = None  # labels hidden
    validation_mismatched: Split | None = None  # MNLI: other genres than those of train
    test_mismatched: Split | None = None

    @field_validator("columns")
    @classmethod
    def _no_column_of_ours(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if taken := OWN_COLUMNS.intersection(values):
            raise ValueError(f"{min(taken)} is a column of our own tables; rename it in the source")
        return values

    @model_validator(mode="after")
    def _classes_or_numbers(self) -> "Dataset":
        scale, headline = self.scale, self.metrics[0]
        of_numbers = {"pearson", "spearman"}
        unfit = [m for m in self.metrics if (m in of_numbers) != (scale is not None)]
        problems = {
            "name two labels or more, or none and a scale ([lowest, highest]) of numbers":
                (len(self.labels) >= 2) == (scale is not None) or len(self.labels) == 1,
            "scale goes from the lowest to the highest label":
                scale is not None and scale[0] >= scale[1],
            f"metric {unfit and unfit[0]} does not fit {'numbers' if scale else 'classes'}":
                bool(unfit),
            # What reproduce/verdict/statistics.py can give an interval: found before training.
            "metric spearman cannot be the headline: put pearson first": headline == "spearman",
            f"metric {headline} cannot be the headline of three classes: put accuracy first":
                headline in ("f1", "matthews") and len(self.labels) > 2,
        }  # fmt: skip
        _raise_first(problems)
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
        """By file, what it must be."""
        return {s.file: Pin(bytes=s.bytes, sha256=s.sha256) for s in self.splits().values()}


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
        missing = [name for name in TOKENIZER_FILES if name not in self.tokenizer]
        pickles = "weights must be model.safetensors alone (a pickle can run code when it is read)"
        _raise_first(
            {
                f"tokenizer must list {missing and missing[0]}": bool(missing),
                f"{pickles}, not {', '.join(self.weights)}": [*self.weights] != [WEIGHTS],
            }
        )
        return self


class Catalog(Section):
    """The whole of catalog.yaml."""

    datasets: dict[str, Dataset]
    models: dict[str, Model]


def read_dataset(name: str, path: Path = CATALOG) -> Dataset:
    """The entry of dataset `name`.

    Raises:
        UserError: an unknown name, with the known ones; a wrong entry; files never pinned.
    """
    entry = read_raw_entry("datasets", name, path)
    if unpinned := unpinned_splits(entry):
        raise UserError(
            f"{path}: datasets.{name}.{unpinned[0]} has no bytes and sha256: its files were never "
            f"pinned. Run `make pin DATASET={name}`, which downloads them once and writes what "
            f"they are into {path}."
        )
    return validate(Dataset, entry, f"{path}: datasets.{name}")


def unpinned_splits(entry: Any) -> list[str]:
    """Of a dataset's entry as it is written: the splits that have neither bytes nor sha256."""
    parts = {name: entry.get(name) for name in SPLITS} if isinstance(entry, dict) else {}
    return [n for n, part in parts.items() if isinstance(part, dict) and not PINNED & {*part}]


def read_model(name: str, path: Path = CATALOG) -> Model:
    """The entry of model `name`; an unknown name raises `UserError` and lists the known ones."""
    return validate(Model, read_raw_entry("models", name, path), f"{path}: models.{name}")


def digests(pins: dict[str, Pin]) -> dict[str, str]:
    """The sha256 of each file: what decides a result, where an entry's sources do not."""
    return {name: pin.sha256 for name, pin in pins.items()}


def write_entry(path: Path, entry: Dataset | Model) -> None:
    """Leave `entry` at `path` as JSON, for `read_entry`."""
    write_json(path, entry.model_dump(mode="json", exclude_none=True))


def read_raw_entry(kind: str, name: str, path: Path = CATALOG) -> Any:
    """An entry as it is written; an unknown name raises `UserError` and lists the known ones."""
    entries = read_yaml(path).get(kind)
    if not isinstance(entries, dict):
        raise UserError(f"{path}: {kind} is missing or no mapping.")
    if name not in entries:
        raise UserError(
            f"unknown {kind.removesuffix('s')} {name!r}: {path} knows {', '.join(sorted(entries))}."
            f" Choose one of these in params.yaml, or add an entry to {path}."
        )
    return entries[name]
