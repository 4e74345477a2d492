"""data/raw: sentences with labels in GLUE's own TSV form, read strictly, written byte for byte."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from reproduce.files import UserError
from reproduce.inputs.catalog import Task
from reproduce.params import read_entry

DESCRIPTION = Path("data/dataset.json")


class RawData(Task):
    """data/dataset.json: what data/raw holds, in the words of catalog.yaml."""

    dataset: str
    splits: tuple[str, ...]  # a TSV file each
    validation: str  # what validation.tsv is: "validation", or "held out of train"


def read_raw_data() -> RawData:
    """data/dataset.json; `UserError` if it is missing or something else."""
    return read_entry(DESCRIPTION, RawData, "download_dataset")


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
        UserError: naming file and line, for invalid UTF-8, another header, a label that cannot
            be, an empty sentence (of a pair: both).
    """
    try:
        lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing. Run `dvc repro`, which makes it.") from error
    header = "\t".join(["index", *columns] if labels is None else [*columns, "label"])
    if lines[0] != header.encode():
        advice = " Save it with Unix line ends (LF)." if lines[0].endswith(b"\r") else ""
        raise UserError(f"{path}, line 1: header {lines[0][:80]!r}, expected {header!r}.{advice}")
    texts: list[str] = []
    values: list[float] = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            fields = line.decode("utf-8").split("\t")
            if (count := len(fields)) != (expected := len(columns) + 1):
                raise ValueError(f"expected {expected} columns separated by a tab, found {count}.")
            text = fields[1:] if labels is None else fields[:-1]
            if labels is None and fields[0] != str(number - 2):
                raise ValueError(f"index {fields[0]!r}, expected {number - 2}: they count lines.")
            values.append(-1 if labels is None else _label(fields[-1], labels))
            if not "".join(text).strip():
                raise ValueError("the sentence is empty. Remove the line or complete it.")
        except UnicodeDecodeError as error:
            problem = f"not UTF-8 at byte {error.start + 1} ({error.reason}). Save as UTF-8."
            raise UserError(f"{path}, line {number}: {problem}") from error
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from error
        texts.append("\t".join(text))
    if not texts:
        raise UserError(f"{path}: no sentence after the header.")
    return texts, values


def _label(text: str, labels: int | tuple[float, float]) -> float:
    if isinstance(labels, int):
        expected = f"one of {', '.join(map(str, range(labels)))}"
        if text in map(str, range(labels)):
            return int(text)
    else:
        low, high = labels
        expected = f"a number from {low:g} to {high:g} with at most three decimals"
        if re.fullmatch(r"-?[0-9]+(\.[0-9]{1,3})?", text) and low <= float(text) <= high:
            return float(text)
    raise ValueError(f"label {text!r}, expected {expected}.")


def to_tsv(
    texts: Sequence[str], labels: Sequence[float] | None, columns: Sequence[str] = ("sentence",)
) -> bytes:
    """A split as GLUE writes it. Labels None: hidden, an index from 0 takes their place.

    Numbers (floats) have three decimals, as in GLUE's STS-B; one that needs more keeps them, and
    `read_tsv` refuses it.
    """
    if labels is None:
        rows = ["\t".join(["index", *columns])]
        rows += [f"{index}\t{text}" for index, text in enumerate(texts)]
    else:
        rows = ["\t".join([*columns, "label"])]
        rows += [f"{text}\t{_written(label)}" for text, label in zip(texts, labels, strict=True)]
    return ("\n".join(rows) + "\n").encode("utf-8")


def _written(label: float) -> str:
    if isinstance(label, int):
        return str(label)
    # The source may hold float32: 2.923 is 2.9230000972747803 there.
    short = f"{label:.3f}"
    return short if math.isclose(float(short), label, rel_tol=1e-6, abs_tol=1e-6) else repr(label)
