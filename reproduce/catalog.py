"""catalog.yaml: where each dataset and checkpoint may come from, and the pin (bytes, sha256) of every file."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from reproduce.params import Section, read_yaml, validate
from reproduce.stage import UserError

CATALOG = Path("catalog.yaml")

# Relative, forward slashes, no "..": where the file lies inside its source, and below the folder it is copied to.
FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$")]


class Pin(Section):
    """What a file must be, whatever its source."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Source(Section):
    """One place that may have the files: exactly one of `hub`, `pypi`, `folder`."""

    hub: str | None = Field(default=None, pattern=r"^\w+([.-]\w+)*/\w+([.-]\w+)*$")
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")  # a commit: branches and tags move
    pypi: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+$")
    inside: str | None = None  # the folder inside the wheel
    folder: str | None = None  # a folder of this repository, or an absolute path

    @model_validator(mode="after")
    def _one_kind(self) -> "Source":
        if sum(value is not None for value in (self.hub, self.pypi, self.folder)) != 1:
            raise ValueError("a source names exactly one of hub, pypi, folder")
        if (self.hub is None) != (self.revision is None):
            raise ValueError("hub and revision go together: pin the commit (40 hexadecimal digits)")
        if (self.pypi is None) != (self.inside is None):
            raise ValueError("pypi and inside go together: name the folder inside the wheel")
        return self

    def __str__(self) -> str:
        if self.hub:
            return f"Hub {self.hub}@{(self.revision or '')[:8]}"
        return f"PyPI {self.pypi}" if self.pypi else f"folder {self.folder}"


class Split(Pin):
    """One split of a dataset: the file that carries it, and what it must be once in canonical form."""

    file: FileName
    rows: Annotated[int, Field(ge=1)]
    tsv_md5: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")  # published md5 of the canonical TSV


class Dataset(Section):
    """A set of labelled sentences."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    labels: Annotated[tuple[str, ...], Field(min_length=2)]  # names of the classes 0, 1, ...
    train: Split
    validation: Split
    test: Split | None = None  # labels hidden

    def splits(self) -> dict[str, Split]:
        """The splits that exist, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}


class Model(Section):
    """A pretrained checkpoint."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    tokenizer: Annotated[dict[FileName, Pin], Field(min_length=1)]  # the config and the tokenizer's files
    weights: Annotated[dict[FileName, Pin], Field(min_length=1)]

    @model_validator(mode="after")
    def _needed_files(self) -> "Model":
        if "config.json" not in self.tokenizer:
            raise ValueError("tokenizer must list config.json: the architecture is read from it")
        if list(self.weights) != ["model.safetensors"]:
            found = ", ".join(self.weights)
            raise ValueError(f"weights must be model.safetensors alone (a pickle can run code when it is read), not {found}")
        return self


class Catalog(Section):
    """The whole of catalog.yaml."""

    datasets: dict[str, Dataset]
    models: dict[str, Model]


def read_dataset(name: str, path: Path = CATALOG) -> Dataset:
    """The entry of dataset `name`; an unknown name raises `UserError` and lists the known ones."""
    return validate(Dataset, _entry("datasets", name, path), f"{path}: datasets.{name}")


def read_model(name: str, path: Path = CATALOG) -> Model:
    """The entry of model `name`; an unknown name raises `UserError` and lists the known ones."""
    return validate(Model, _entry("models", name, path), f"{path}: models.{name}")


def _entry(kind: str, name: str, path: Path) -> object:
    entries = read_yaml(path).get(kind)
    if not isinstance(entries, dict):
        raise UserError(f"{path}: {kind} is missing or no mapping.")
    if name not in entries:
        raise UserError(
            f"unknown {kind.removesuffix('s')} {name!r}: {path} knows {', '.join(sorted(entries))}. "
            f"Choose one of these in params.yaml, or add an entry to {path}."
        )
    return entries[name]
