"""A downloaded split in GLUE's own TSV form, and sentences held out of train."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from reproduce.files import UserError
from reproduce.inputs.catalog import Dataset, Split, read_dataset
from reproduce.inputs.fetch import fetch
from reproduce.inputs.sentences import read_tsv, to_tsv
from reproduce.inputs.tokenized import class_names
from reproduce.params import Selection

Labelled = tuple[list[str], list[float]]


def download_split(name: str, part: str) -> Labelled:
    """Sentences and labels of one split of a dataset, straight from its source."""
    dataset = read_dataset(name)
    split = dataset.splits()[part]
    with TemporaryDirectory() as scratch:
        fetch("dataset", dataset.sources, {split.file: split}, Path(scratch))
        return read_split(Path(scratch) / split.file, split, dataset, hidden=False)


def read_split(path: Path, split: Split, dataset: Dataset, hidden: bool) -> Labelled:
    """Sentences and labels of a downloaded split (.parquet or .tsv), fit for GLUE's TSV form.

    That form has no place for a tab or a line break in a sentence: each becomes a space, which is
    what the tokenizer takes it for. Labels of a hidden split are not read (MRPC's are there).

    Raises:
        UserError: a malformed TSV (file and line), a Parquet file with other columns, types or
            classes, a wrong number of rows, an md5 that is not the published one.
    """
    if path.suffix == ".parquet":
        # Through the TSV form: what cannot be read back (an empty sentence, label 5) is refused.
        data = _read_parquet(path, split.file, dataset, hidden)
        path = path.with_name(f"{path.name}.tsv")  # no name that another split's file may have
        path.write_bytes(data)
    try:
        texts, labels = read_tsv(path, None if hidden else dataset.label_values, dataset.columns)
    except UserError as error:  # named as the catalog does, not by the scratch copy
        raise UserError(str(error).replace(str(path), split.file)) from error
    if split.rows is not None and len(texts) != split.rows:
        rows = f"expected {split.rows} rows (catalog.yaml), found {len(texts)}"
        raise UserError(f"{split.file}: {rows}.")
    texts = [text.replace("\r", " ") for text in texts]
    data = to_tsv(texts, None if hidden else labels, dataset.columns)
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()  # a name, as published for GLUE
    if split.tsv_md5 and md5 != split.tsv_md5:
        raise UserError(
            f"{split.file}: canonical TSV has md5 {md5}, expected {split.tsv_md5} as published "
            "(catalog.yaml, tsv_md5)."
        )
    return texts, labels


def _read_parquet(path: Path, file: str, dataset: Dataset, hidden: bool) -> bytes:
    """The columns that the catalog names of a Parquet file, as TSV; `file` is its name in messages.

    Refused: damage; a column that is missing, there twice, of another type or with empty cells;
    classes that the file names (as files of the Hub do) otherwise or in another order than
    catalog.yaml. Letter case does not matter.
    """
    import pyarrow
    import pyarrow.parquet

    wanted = [*dataset.columns, *([] if hidden else ["label"])]
    try:
        schema = pyarrow.parquet.read_schema(path)
        _refuse_columns(schema, wanted, file, dataset)
        table = pyarrow.parquet.read_table(path, columns=wanted, partitioning=None)
        table.validate(full=True)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{file}: no Parquet file, or a damaged one ({reason}). Take it from its source again."
        ) from error
    for name in wanted:
        if nulls := table[name].null_count:
            raise UserError(f"{file}: column {name} has {nulls} empty cell(s), expected none.")
    space = str.maketrans("\t\n\r", "   ")
    rows = zip(*(table[column].to_pylist() for column in dataset.columns), strict=True)
    texts = ["\t".join(text.translate(space) for text in row) for row in rows]
    return to_tsv(texts, None if hidden else table["label"].to_pylist(), dataset.columns)


def _refuse_columns(schema: Any, wanted: Sequence[str], file: str, dataset: Dataset) -> None:
    from pyarrow import types

    for name in wanted:
        if (count := schema.names.count(name)) != 1:
            problem = f"is there {count} times" if count else "is missing"
            expected = f"expected {' and '.join(wanted)} once each, found {', '.join(schema.names)}"
            raise UserError(f"{file}: column {name} {problem}, {expected}.")
        kind = schema.field(name).type
        fits, expected = types.is_integer(kind), "integers"
        if name != "label":
            fits, expected = types.is_string(kind) or types.is_large_string(kind), "text"
        elif dataset.scale:
            fits, expected = fits or types.is_floating(kind), "numbers"
        if not fits:
            raise UserError(f"{file}: column {name} holds {kind}, expected {expected}.")
    names = class_names(schema) if "label" in wanted else []
    if names and [n.casefold() for n in names] != [n.casefold() for n in dataset.labels]:
        ours = ", ".join(dataset.labels) or "none"
        raise UserError(f"{file}: its classes are {', '.join(names)}, in catalog.yaml {ours}.")


def hold_out(
    texts: Sequence[str], labels: Sequence[float], selection: Selection
) -> tuple[Labelled, Labelled]:
    """Split train into (kept, held out), by the sha256 of the text: copies stay together.

    Both parts keep the file's order. The held-out part may exceed `selection.holdout` by the
    copies of its last text.
    """
    ranked = sorted(range(len(texts)), key=lambda i: hashlib.sha256(texts[i].encode()).digest())
    end = min(selection.holdout, len(ranked))
    while 0 < end < len(ranked) and texts[ranked[end]] == texts[ranked[end - 1]]:
        end += 1
    rest = ranked[end:][: selection.train or None]
    if not rest:
        holdout = f"selection.holdout {selection.holdout}"
        raise UserError(f"params.yaml: {holdout} leaves nothing to train on; use a smaller one.")

    def take(chosen: list[int]) -> Labelled:
        return [texts[i] for i in sorted(chosen)], [labels[i] for i in sorted(chosen)]

    return take(rest), take(ranked[:end])
