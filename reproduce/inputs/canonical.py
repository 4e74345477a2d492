"""A downloaded split in GLUE's own TSV form, and sentences held out of train."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from reproduce.files import UserError
from reproduce.inputs.catalog import Dataset, Split
from reproduce.inputs.sentences import md5, read_tsv, to_tsv
from reproduce.params import Selection


def canonical_tsv(path: Path, split: Split, dataset: Dataset, hidden: bool) -> tuple[bytes, int]:
    """Bring a downloaded split (.parquet or .tsv) into GLUE's TSV form.

    That form has no place for a tab or a line break in a sentence: from Parquet, each becomes a space, which is what the
    tokenizer takes it for. Labels of a hidden split are dropped where the source has them (MRPC).

    Returns:
        the bytes of the file and the number of sentences (or pairs) in it.

    Raises:
        UserError: a malformed TSV (file and line), a Parquet file with other columns, types or classes, a wrong number of
            rows, a canonical form whose md5 is not the published one.
    """
    columns = dataset.columns
    if path.suffix == ".parquet":
        texts, labels = read_parquet(path, split.file, dataset)
        # Through the TSV form: what cannot be written and read back as such (an empty sentence, label 5) is refused.
        path = path.with_suffix(".tsv")
        path.write_bytes(to_tsv(texts, [-1] * len(texts) if hidden else labels, columns))
    try:
        sentences, labels = read_tsv(path, None if hidden else dataset.label_values, columns)
    except UserError as error:
        raise UserError(
            str(error).replace(str(path), split.file)
        ) from error  # not the scratch copy, which is gone by then
    if split.rows is not None and len(sentences) != split.rows:
        raise UserError(
            f"{split.file}: expected {split.rows} rows (catalog.yaml), found {len(sentences)}."
        )
    data = to_tsv(sentences, labels, columns)
    if split.tsv_md5 and md5(data) != split.tsv_md5:
        raise UserError(
            f"{split.file}: canonical TSV has md5 {md5(data)}, expected {split.tsv_md5} as published (catalog.yaml, tsv_md5)."
        )
    return data, len(sentences)


Labelled = tuple[list[str], list[float]]


def read_parquet(path: Path, file: str, dataset: Dataset) -> Labelled:
    """Texts (those of a pair joined by a tab) and labels of a Parquet file, as they are there; messages call it `file`.

    Raises:
        UserError: it is no Parquet file; a column is missing, of another type or has empty cells; it names its classes (as
            files of the Hub do) and catalog.yaml names them otherwise or in another order. Letter case does not matter.
    """
    import pyarrow.parquet
    from datasets import Features
    from pyarrow import types

    columns = dataset.columns
    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{file}: no Parquet file ({str(error).splitlines()[0]}).") from error
    for name in (*columns, "label"):
        if name not in table.column_names:
            there = ", ".join(table.column_names)
            raise UserError(
                f"{file}: column {name} is missing, expected {', '.join(columns)} and label, found {there}."
            )
        found = table[name].type
        expected = "text" if name != "label" else "numbers" if dataset.scale else "integers"
        fits = {
            "text": types.is_string(found) or types.is_large_string(found),
            "numbers": types.is_integer(found) or types.is_floating(found),
            "integers": types.is_integer(found),
        }
        if not fits[expected]:
            raise UserError(f"{file}: column {name} holds {found}, expected {expected}.")
        if empty := table[name].null_count:
            raise UserError(f"{file}: column {name} has {empty} empty cell(s), expected none.")
    named = getattr(Features.from_arrow_schema(table.schema)["label"], "names", None)
    if named and [name.casefold() for name in named] != [
        name.casefold() for name in dataset.labels
    ]:
        raise UserError(
            f"{file}: its classes are {', '.join(named)}, in catalog.yaml {', '.join(dataset.labels) or 'none'}."
        )
    space = str.maketrans("\t\n\r", "   ")
    rows = zip(*(table[column].to_pylist() for column in columns), strict=True)
    return ["\t".join(text.translate(space) for text in row) for row in rows], table[
        "label"
    ].to_pylist()


def hold_out(
    sentences: Sequence[str], labels: Sequence[float], selection: Selection
) -> tuple[Labelled, Labelled]:
    """Split train into (kept, held out), by the sha256 of the sentence, so that copies of a sentence stay together.

    Both parts keep the file's order. The held-out part may exceed `selection.holdout` by the copies of its last sentence.
    """
    ranked = sorted(
        range(len(sentences)), key=lambda i: hashlib.sha256(sentences[i].encode()).digest()
    )
    end = min(selection.holdout, len(ranked))
    while 0 < end < len(ranked) and sentences[ranked[end]] == sentences[ranked[end - 1]]:
        end += 1
    rest = ranked[end:][: selection.train or None]
    if not rest:
        raise UserError(
            f"params.yaml: selection.holdout {selection.holdout} leaves nothing to train on; use a smaller one."
        )

    def take(chosen: list[int]) -> Labelled:
        return [sentences[i] for i in sorted(chosen)], [labels[i] for i in sorted(chosen)]

    return take(rest), take(ranked[:end])
