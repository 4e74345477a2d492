"""Pin an entry of catalog.yaml: download its files once and write what they are (bytes, sha256, a dataset's rows) into it.

Run as: python -m tools.pin --dataset rte        (make pin DATASET=rte)
        python -m tools.pin --model small        (make pin MODEL=small)

The files are those of the entry's first source: a repository on the Hub at its revision, or a folder. What the Hub sends is held
against the checksum that it states; where it cannot be asked, the files in HUB_MIRROR are pinned as they are. A dataset is read
as strictly as the pipeline reads it. Lines are added to this entry, if all is well, and no line is changed: what is pinned
already is compared.
"""

import argparse
import hashlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from reproduce.files import UserError, write_text
from reproduce.inputs.canonical import canonical_tsv
from reproduce.inputs.catalog import (
    CATALOG,
    TOKENIZER_FILES,
    Dataset,
    Model,
    Pin,
    Source,
    read_dataset,
    read_model,
)
from reproduce.inputs.fetch import Kind, Unavailable, fetch, stated_pin
from reproduce.params import read_yaml, validate

WEIGHTS = "model.safetensors"
OPTIONAL = "vocab.txt"  # tokenizer.json has it all

# What belongs into the entry. Of a dataset, by split: bytes, sha256, rows. Of a model, by section: the files' pins.
Found = dict[str, dict[str, Any]]


def main() -> None:
    """Pin the entry that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--dataset", help="a name from catalog.yaml")
    group.add_argument("--model", help="a name from catalog.yaml")
    arguments = parser.parse_args()
    kind: Kind = "dataset" if arguments.dataset else "model"
    name = arguments.dataset or arguments.model
    before = CATALOG.read_bytes().decode("utf-8") if CATALOG.is_file() else ""
    after = insert(before, kind, name, of_dataset(name) if kind == "dataset" else of_model(name))
    if after == before:
        print(
            f"{CATALOG}: {kind}s.{name} was pinned already, and all of it agrees: nothing to write"
        )
        return
    write_text(CATALOG, after)
    print(
        f"{CATALOG}: {kind}s.{name} pinned. Look at the change (`git diff {CATALOG}`) and commit it."
    )


def of_dataset(name: str) -> Found:
    """Bytes, sha256 and rows of each split; `UserError` if a file is not what the entry says of columns, labels and rows."""
    dataset = read_dataset(name)
    splits = dataset.splits()
    with tempfile.TemporaryDirectory() as scratch:
        pins = download(
            "dataset",
            name,
            dataset.sources[0],
            [s.file for s in splits.values()],
            dataset.pins(),
            Path(scratch),
        )
        return {
            split: {
                **pins[about.file].model_dump(),
                "rows": canonical_tsv(
                    Path(scratch) / about.file, about, dataset, split.startswith("test")
                )[1],
            }
            for split, about in splits.items()
        }


def of_model(name: str) -> Found:
    """The pins of the tokenizer's files and of the weights; the entry may consist of sources alone."""
    entry = (read_yaml(CATALOG).get("models") or {}).get(name)
    if not isinstance(entry, dict) or not entry.get("sources"):
        raise UserError(
            f"{CATALOG}: models.{name} has no sources. Write them first: `sources:` and one source."
        )
    known: dict[str, Pin] = {}
    if {"tokenizer", "weights"} & set(entry):
        model = read_model(name)
        known = model.tokenizer | model.weights
    source = validate(Source, entry["sources"][0], f"{CATALOG}: models.{name}.sources.0")
    with tempfile.TemporaryDirectory() as scratch:
        pins = download(
            "model",
            name,
            source,
            list(known) or [*TOKENIZER_FILES, OPTIONAL, WEIGHTS],
            known,
            Path(scratch),
        )
    weights = pins.pop(WEIGHTS)
    return {"tokenizer": dict(pins), "weights": {WEIGHTS: weights}}


def download(
    kind: Kind, name: str, source: Source, files: list[str], known: dict[str, Pin], into: Path
) -> dict[str, Pin]:
    """Bring the files into the directory `into`, each verified; returns their pins, which must agree with those `known`."""
    pins, authority = find_pins(kind, source, files)
    for file, pin in known.items():
        if (found := pins.get(file)) != pin:
            fact = f"has bytes {found.bytes}, sha256 {found.sha256}" if found else "is not there"
            raise UserError(
                f"{CATALOG}: {kind}s.{name}: {file} is pinned to bytes {pin.bytes}, sha256 {pin.sha256}; by {authority} "
                f"it {fact}. Nothing was written: remove the pin by hand if you mean to change it."
            )
    print(f"pins by {authority}", flush=True)
    fetch(kind, [source], pins, into)
    return pins


def find_pins(kind: Kind, source: Source, files: list[str]) -> tuple[dict[str, Pin], str]:
    """What each file is, and by whose word: the folder's, the Hub's, or if it cannot be asked HUB_MIRROR's."""
    if source.pypi:
        raise UserError(
            f"{CATALOG}: {source}: a wheel is not pinned by this command. Put a hub or a folder first, or pin by hand."
        )
    if source.folder:
        return pins_of(Path(source.folder), files, f"{source}:"), f"what {source} holds"
    try:
        stated = {
            file: pin
            for file in files
            if (pin := stated_pin(kind, source, file, optional=file == OPTIONAL))
        }
        return stated, f"what the Hub states of {source.hub}@{source.revision}"
    except Unavailable as error:
        silence = str(error)
    mirror = os.environ.get("HUB_MIRROR")
    if not mirror:
        raise UserError(
            f"{source}: {silence}; HUB_MIRROR is not set. Nothing was written. Connect to the network, set HF_ENDPOINT to a "
            "mirror of the Hub, or set HUB_MIRROR to a folder laid out like the Hub whose files you trust, and run again."
        )
    folder = Path(mirror).expanduser() / f"{kind}s" / (source.hub or "")
    pins = pins_of(folder, files, f"{source}: {silence}; HUB_MIRROR")
    return pins, f"what HUB_MIRROR {folder} holds, since the Hub could not be asked ({silence})"


def pins_of(folder: Path, files: list[str], who: str) -> dict[str, Pin]:
    """What the files in a folder are."""
    pins = {}
    for file in files:
        path = folder / file
        if path.is_file():
            with path.open("rb") as reader:
                pins[file] = Pin(
                    bytes=path.stat().st_size,
                    sha256=hashlib.file_digest(reader, "sha256").hexdigest(),
                )
        elif file != OPTIONAL:
            raise UserError(
                f"{who} has no {path}. Nothing was written. Put the file there, or correct {CATALOG}."
            )
    return pins


def insert(text: str, kind: Kind, name: str, found: Found) -> str:
    """`text`, a catalog, with what is missing of `found`: below the `file:` of each split, or below the sources of a model.

    Raises:
        UserError: the entry is written in braces, so that there is no line to insert below.
    """
    from ruamel.yaml import YAML

    entry: Any = YAML(typ="rt", pure=True).load(text)[f"{kind}s"][name]
    parts = (
        [entry[split] for split in found]
        if kind == "dataset"
        else [entry["sources"], *entry["sources"]]
    )
    if any(part.fa.flow_style() for part in (entry, *parts)):
        raise UserError(
            f"{CATALOG}: write {kind}s.{name} without braces, a line a key, as the other entries are."
        )
    below: dict[int, list[str]] = {}  # by line, what comes after it
    if kind == "dataset":
        for part, values in zip(parts, found.values(), strict=True):
            row, column = part.lc.key("file")
            below[row] = [
                f"{' ' * column}{key}: {value}" for key, value in values.items() if key not in part
            ]
    else:
        column, row = entry.lc.key("sources")[1], max(parts[-1].lc.key(key)[0] for key in parts[-1])
        below[row] = [
            f"{' ' * column}{line}"
            for section, pins in found.items()
            if section not in entry
            for line in (
                f"{section}:",
                *(
                    f"  {file}: {{bytes: {p.bytes}, sha256: {p.sha256}}}"
                    for file, p in pins.items()
                ),
            )
        ]
    lines = text.split("\n")
    for row in sorted(below, reverse=True):  # from the end: the numbers of lines stay true
        lines[row + 1 : row + 1] = below[row]
    after = "\n".join(lines)
    schema = Dataset if kind == "dataset" else Model
    validate(
        schema,
        YAML(typ="safe", pure=True).load(after)[f"{kind}s"][name],
        f"{CATALOG}: {kind}s.{name}",
    )
    return after


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
