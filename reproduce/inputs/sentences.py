"""data/raw: sentences with labels in GLUE's own TSV form, read strictly, written byte for byte."""

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from reproduce.files import UserError
from reproduce.params import Section

ABOUT = Path("data/dataset.json")


class About(Section):
    """data/dataset.json: what data/raw holds, in the words of catalog.yaml and params.yaml."""

    dataset: str
    splits: tuple[str, ...]  # a TSV file each
    validation: str  # what validation.tsv is: "validation", or "held out of train"
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    scale: tuple[float, float] | None
    metrics: tuple[str, ...]

    @property
    def label_values(self) -> int | tuple[float, float]:
        """The number of classes, or the range of the numbers."""
        return self.scale or len(self.labels)


def read_about(path: Path = ABOUT) -> About:
    """data/dataset.json; `UserError` if it is missing or something else."""
    try:
        return About.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing. Run `dvc repro download_dataset`, which writes it."
        ) from error
    except ValidationError as error:
        raise UserError(
            f"{path} is not what download_dataset writes. Delete it and run `dvc checkout {path}`."
        ) from error


def read_tsv(
    path: Path, labels: int | tuple[float, float] | None, columns: Sequence[str] = ("sentence",)
) -> tuple[list[str], list[float]]:
    """Read a split: header `sentence<TAB>label`, or `index<TAB>sentence` where labels are hidden.

    Args:
        labels: the number of classes (labels are ints from 0), or the range of the numbers that
            the labels are (floats with at most three decimals), or None where they are hidden.
        columns: the names of the texts of an example: one sentence, or the two of a pair.

    Returns:
        texts and labels, in file order; the two texts of a pair joined by a tab; a hidden label
        is -1. Trailing spaces are kept: SST-2 has them.

    Raises:
        UserError: naming file and line, for invalid UTF-8, a missing column, a label that cannot
            be, an empty sentence (of a pair: both).
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing. Run `dvc repro`, which makes it.") from error
    header = "\t".join(["index", *columns] if labels is None else [*columns, "label"])
    if lines[0].endswith(b"\r"):
        raise UserError(
            f"{path}, line 1: Windows line ends (CRLF). Save it with Unix line ends (LF)."
        )
    if lines[0] != header.encode():
        missing = [
            column for column in header.split("\t") if column.encode() not in lines[0].split(b"\t")
        ]
        problem = f"column {missing[0]} is missing" if missing else "wrong order of columns"
        raise UserError(f"{path}, line 1: {problem}: found {lines[0][:80]!r}, expected {header!r}.")
    if lines[-1] == b"":
        lines.pop()
    texts: list[str] = []
    values: list[float] = []
    label: float
    for number, raw in enumerate(lines[1:], start=2):
        where = f"{path}, line {number}"
        try:
            fields = raw.decode("utf-8").split("\t")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{where}: not UTF-8 at byte {error.start + 1} ({error.reason}). Save as UTF-8."
            ) from error
        if len(fields) != len(columns) + 1:
            raise UserError(
                f"{where}: expected {len(columns) + 1} columns separated by a tab, found "
                f"{len(fields)}."
            )
        if labels is None:
            text, label = fields[1:], -1
        else:
            text, label = fields[:-1], _label(fields[-1], labels, where)
        if not "".join(text).strip():
            raise UserError(f"{where}: the sentence is empty. Remove the line or complete it.")
        texts.append("\t".join(text))
        values.append(label)
    if not texts:
        raise UserError(f"{path}: no sentence after the header.")
    return texts, values


def _label(text: str, labels: int | tuple[float, float], where: str) -> float:
    if isinstance(labels, int):
        if text in map(str, range(labels)):
            return int(text)
        raise UserError(
            f"{where}: label {text!r}, expected one of {', '.join(map(str, range(labels)))}."
        )
    low, high = labels
    if re.fullmatch(r"-?[0-9]+(\.[0-9]{1,3})?", text) and low <= float(text) <= high:
        return float(text)
    raise UserError(
        f"{where}: label {text!r}, expected a number from {low:g} to {high:g} with at most three "
        "decimals."
    )


def to_tsv(
    texts: Sequence[str], labels: Sequence[float] | None, columns: Sequence[str] = ("sentence",)
) -> bytes:
    """A split as GLUE writes it. Labels None: hidden, an index from 0 takes their place.

    Numbers (floats) have three decimals, as in GLUE's STS-B; one that needs more keeps them, and
    `read_tsv` refuses it.
    """
    if labels is None:
        header = ["index", *columns]
        lines = [f"{index}\t{text}" for index, text in enumerate(texts)]
    else:
        header = [*columns, "label"]
        lines = [f"{text}\t{_written(label)}" for text, label in zip(texts, labels, strict=True)]
    return ("\n".join(["\t".join(header), *lines]) + "\n").encode("utf-8")


def _written(label: float) -> str:
    if isinstance(label, int):
        return str(label)
    # The source may hold float32: 2.923 is 2.9230000972747803 there.
    short = f"{label:.3f}"
    return short if math.isclose(float(short), label, rel_tol=1e-6, abs_tol=1e-6) else repr(label)


def md5(data: bytes) -> str:
    """Hexadecimal md5: a name for bytes, as published for GLUE, not a protection."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
