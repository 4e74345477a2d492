"""Read a split that the stage `tokenize` wrote: data/tokenized/MODEL/SPLIT.parquet."""

from dataclasses import dataclass
from pathlib import Path

from reproduce.files import UserError

TOKENIZED = Path("data/tokenized")


@dataclass(frozen=True)
class Tokenized:
    """A tokenised split, in the order of data/raw; nothing is padded."""

    input_ids: list[list[int]]  # special tokens included
    token_type_ids: list[list[int]] | None  # of pairs, where the model tells their sentences apart
    labels: list[float]  # class indices; -1 where hidden; numbers where there are no classes
    label_names: list[str]  # of the classes 0, 1, ...; [] where the label is a number


def read_tokenized(model: str, split: str) -> Tokenized:
    """Read one split; `UserError` if it is missing or no Parquet file."""
    import pyarrow.parquet
    from datasets import Features

    path = TOKENIZED / model / f"{split}.parquet"
    try:
        table = pyarrow.parquet.read_table(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing. Run `dvc repro tokenize@{model}`.") from error
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path} is damaged: {error}. Run `dvc checkout {path.parent}`.") from error
    types = "token_type_ids" in table.column_names
    return Tokenized(
        table["input_ids"].to_pylist(),
        table["token_type_ids"].to_pylist() if types else None,
        table["label"].to_pylist(),
        list(getattr(Features.from_arrow_schema(table.schema)["label"], "names", None) or []),
    )
