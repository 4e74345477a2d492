"""Labelled sentences on disk: GLUE's own TSV form, read strictly and written byte for byte."""

import hashlib
from pathlib import Path

from reproduce.stage import UserError


def read_tsv(path: Path, n_labels: int | None) -> tuple[list[str], list[int]]:
    """Read a split: header `sentence<TAB>label`, or `index<TAB>sentence` where labels are hidden (label -1).

    Args:
        n_labels: labels must be in 0 .. n_labels - 1; None for a split with hidden labels.

    Returns:
        sentences and labels, in file order. Trailing spaces of sentences are kept: SST-2 has them.

    Raises:
        UserError: naming file and line, for invalid UTF-8, a missing column, a label that is not one of the classes,
            an empty sentence.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing. Run `dvc repro`, which makes it.") from error
    header = "index\tsentence" if n_labels is None else "sentence\tlabel"
    if lines[0].endswith(b"\r"):
        raise UserError(f"{path}, line 1: Windows line ends (CRLF). Save it with Unix line ends (LF).")
    if lines[0] != header.encode():
        missing = [column for column in header.split("\t") if column.encode() not in lines[0].split(b"\t")]
        problem = f"column {missing[0]} is missing" if missing else "wrong order of columns"
        raise UserError(f"{path}, line 1: {problem}: found {lines[0][:80]!r}, expected {header!r}.")
    if lines[-1] == b"":
        lines.pop()
    sentences, labels = [], []
    for number, raw in enumerate(lines[1:], start=2):
        where = f"{path}, line {number}"
        try:
            fields = raw.decode("utf-8").split("\t")
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: not UTF-8 at byte {error.start + 1} ({error.reason}). Save as UTF-8.") from error
        if len(fields) != 2:
            raise UserError(f"{where}: expected 2 columns separated by a tab, found {len(fields)}.")
        if n_labels is None:
            sentence, label = fields[1], -1
        else:
            sentence, label = fields[0], _label(fields[1], n_labels, where)
        if not sentence.strip():
            raise UserError(f"{where}: the sentence is empty. Remove the line or complete it.")
        sentences.append(sentence)
        labels.append(label)
    if not sentences:
        raise UserError(f"{path}: no sentence after the header.")
    return sentences, labels


def _label(text: str, n_labels: int, where: str) -> int:
    if text in map(str, range(n_labels)):
        return int(text)
    raise UserError(f"{where}: label {text!r}, expected one of {', '.join(map(str, range(n_labels)))}.")


def to_tsv(sentences: list[str], labels: list[int]) -> bytes:
    """A split as GLUE writes it. All labels -1 means hidden: an index from 0 takes the labels' place."""
    if all(label == -1 for label in labels):
        lines = ["index\tsentence", *(f"{index}\t{sentence}" for index, sentence in enumerate(sentences))]
    else:
        lines = [
            "sentence\tlabel",
            *(f"{sentence}\t{label}" for sentence, label in zip(sentences, labels, strict=True)),
        ]
    return ("\n".join(lines) + "\n").encode("utf-8")


def md5(data: bytes) -> str:
    """Hexadecimal md5: a name for bytes, as published for GLUE, not a protection."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
