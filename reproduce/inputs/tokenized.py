"""Read a split that the stage `tokenize` wrote: data/tokenized/MODEL/SPLIT.parquet."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduce.files import UserError

TOKENIZED = Path("data/tokenized")


@dataclass(frozen=True)
class Tokenized:
    """A tokenised split, in the order of data/raw; nothing is padded."""

    input_ids: list[list[int]]  # special tokens included
    token_type_ids: list[list[int]] | None  # of pairs, where the model tells their texts apart
    labels: list[float]  # class indices; -1 where hidden; numbers where there are no classes
    label_names: list[str]  # of the classes 0, 1, ...; [] where the label is a number


def read_tokenized(model: str, split: str) -> Tokenized:
    """Read one split; `UserError` if it is missing or damaged."""
    import pyarrow
    import pyarrow.parquet

    path = TOKENIZED / model / f"{split}.parquet"
    try:
        with pyarrow.parquet.ParquetFile(path) as file:  # read_table would import pandas first
            table = file.read()
        columns = {name: table[name].to_pylist() for name in table.column_names}
        return Tokenized(
            columns["input_ids"],
            columns.get("token_type_ids"),
            columns["label"],
            class_names(table.schema),
        )
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing. Run `dvc repro tokenize@{model}`.") from error
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{path} is damaged: {error}. Run `dvc checkout {path.parent}`.") from error


def class_names(schema: Any) -> list[str]:
    """The classes that a Parquet file of the Hub names in its metadata; [] where it names none.

    Read from the metadata itself: `datasets` believes it only where every type is its own.
    """
    try:
        described = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]["label"]
        names = described.get("names") or []
    except (KeyError, TypeError, ValueError, AttributeError):
        return []
    return [str(name) for name in (names.values() if isinstance(names, dict) else names)]
