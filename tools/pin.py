"""Pin an entry of catalog.yaml: download its files once and write what they are into it.

Run as: python -m tools.pin --dataset mine       (make pin DATASET=mine)
        python -m tools.pin --model small        (make pin MODEL=small)

What is written: bytes and sha256 of each file, and the rows of a dataset's splits. The files are
those of the entry's first source, a repository on the Hub at its revision or a folder. What the
Hub sends is held against the checksum that it states; where it cannot be asked, the files in
HUB_MIRROR are pinned as they are. A dataset is read as strictly as the pipeline reads it. Lines are
added, none is changed: what is pinned already is compared.
"""

import argparse
import hashlib
import tempfile
from pathlib import Path
from typing import Any

from reproduce.command import run_command
from reproduce.files import UserError, write_text
from reproduce.inputs.canonical import canonical_tsv
from reproduce.inputs.catalog import (
    CATALOG,
    TOKENIZER_FILES,
    WEIGHTS,
    Dataset,
    Model,
    Pin,
    Source,
    read_model,
    read_raw_entry,
    unpinned_splits,
)
from reproduce.inputs.fetch import fetch, hub_mirror
from reproduce.inputs.hub import Kind, Unavailable, stated_pin
from reproduce.params import validate

# What belongs into the entry. Of a dataset, by split: bytes, sha256, rows. Of a model, by section
# (tokenizer, weights): the files' pins.
Facts = dict[str, dict[str, Any]]


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
    facts = dataset_facts(name) if kind == "dataset" else model_facts(name)
    before = CATALOG.read_bytes().decode("utf-8")
    after = insert(before, kind, name, facts)
    entry = f"{CATALOG}: {kind}s.{name}"
    if after == before:
        print(f"{entry} was pinned already, and all of it agrees: nothing to write")
        return
    write_text(CATALOG, after)
    print(f"{entry} pinned. Look at the change (`git diff {CATALOG}`) and commit it.")


def dataset_facts(name: str) -> Facts:
    """Bytes, sha256 and rows of each split; `UserError` if a file is not what the entry says."""
    entry = read_raw_entry("datasets", name)
    unpinned = unpinned_splits(entry)
    unknown = {"bytes": 0, "sha256": "0" * 64}
    entry |= {split: unknown | entry[split] for split in unpinned}
    dataset = validate(Dataset, entry, f"{CATALOG}: datasets.{name}")
    splits = dataset.splits()
    known = {s.file: dataset.pins()[s.file] for n, s in splits.items() if n not in unpinned}
    facts = {}
    with tempfile.TemporaryDirectory() as scratch:
        into, files = Path(scratch), [split.file for split in splits.values()]
        pins = download("dataset", name, dataset.sources[0], files, known, into)
        for split, described in splits.items():
            hidden = split.startswith("test")
            rows = canonical_tsv(into / described.file, described, dataset, hidden)[1]
            facts[split] = {**pins[described.file].model_dump(), "rows": rows}
    return facts


def model_facts(name: str) -> Facts:
    """The pins of the tokenizer's files and of the weights; the entry may be its sources alone."""
    entry, place = read_raw_entry("models", name), f"{CATALOG}: models.{name}"
    if not isinstance(entry, dict) or not entry.get("sources"):
        raise UserError(f"{place} has no sources. Write them first: `sources:` and one source.")
    known: dict[str, Pin] = {}
    if {"tokenizer", "weights"} & set(entry):
        model = read_model(name)
        known = model.tokenizer | model.weights
    source = validate(Source, entry["sources"][0], f"{place}.sources.0")
    files = list(known) or [*TOKENIZER_FILES, WEIGHTS]
    with tempfile.TemporaryDirectory() as scratch:
        pins = download("model", name, source, files, known, Path(scratch))
    weights = pins.pop(WEIGHTS)
    return {"tokenizer": dict(pins), "weights": {WEIGHTS: weights}}


def download(
    kind: Kind, name: str, source: Source, files: list[str], known: dict[str, Pin], into: Path
) -> dict[str, Pin]:
    """Bring `files` into the directory `into`, each verified; their pins agree with `known`."""
    pins, authority = find_pins(kind, source, files)
    for file, pin in known.items():
        if (now := pins[file]) != pin:
            raise UserError(
                f"{CATALOG}: {kind}s.{name}: {file} is pinned to bytes {pin.bytes}, sha256 "
                f"{pin.sha256}; by {authority} it has bytes {now.bytes}, sha256 {now.sha256}. "
                "Nothing was written: remove the pin by hand if you mean to change it."
            )
    print(f"pins by {authority}", flush=True)
    fetch(kind, [source], pins, into)
    return pins


def find_pins(kind: Kind, source: Source, files: list[str]) -> tuple[dict[str, Pin], str]:
    """What each file is, and by whose word: the folder's, the Hub's, or else HUB_MIRROR's."""
    if source.pypi:
        raise UserError(
            f"{CATALOG}: {source}: a wheel is not pinned by this command. Put a hub or a folder "
            "first, or pin by hand."
        )
    if source.folder:
        return pins_of(Path(source.folder), files, str(source)), f"what {source} holds"
    try:
        stated = {file: stated_pin(kind, source, file) for file in files}
        return stated, f"what the Hub states of {source.hub}@{source.revision}"
    except Unavailable as error:
        silence = str(error)
    if not (mirror := hub_mirror()):
        raise UserError(
            f"{source}: {silence}; HUB_MIRROR is not set. Nothing was written. Connect to the "
            "network, set HF_ENDPOINT to a mirror of the Hub, or set HUB_MIRROR to a folder laid "
            "out like the Hub whose files you trust, and run again."
        )
    folder = mirror / f"{kind}s" / (source.hub or "")
    pins = pins_of(folder, files, f"{source}: {silence}; HUB_MIRROR")
    return pins, f"what HUB_MIRROR {folder} holds, since the Hub could not be asked ({silence})"


def pins_of(folder: Path, files: list[str], who: str) -> dict[str, Pin]:
    """What the files in a folder are."""
    pins = {}
    for path in (folder / file for file in files):
        if not path.is_file():
            raise UserError(
                f"{who} has no {path}. Nothing was written. Put the file there, or correct "
                f"{CATALOG}."
            )
        with path.open("rb") as reader:
            digest = hashlib.file_digest(reader, "sha256").hexdigest()
        pins[str(path.relative_to(folder))] = Pin(bytes=path.stat().st_size, sha256=digest)
    return pins


def insert(text: str, kind: Kind, name: str, facts: Facts) -> str:
    """`text`, a catalog, with what is missing of `facts`.

    It goes below the `file:` of each split, or below the sources of a model.

    Raises:
        UserError: the entry is written in braces, so that there is no line to insert below.
    """
    from ruamel.yaml import YAML

    entry: Any = YAML(typ="rt", pure=True).load(text)[f"{kind}s"][name]
    sources = entry["sources"]
    parts = [entry[s] for s in facts] if kind == "dataset" else [sources, *sources]
    if any(part.fa.flow_style() for part in (entry, *parts)):
        raise UserError(
            f"{CATALOG}: write {kind}s.{name} without braces, a line a key, as the other entries "
            "are."
        )
    below: dict[int, list[str]] = {}  # by line, what comes after it
    if kind == "dataset":
        for part, values in zip(parts, facts.values(), strict=True):
            row, column = part.lc.key("file")
            new = {key: value for key, value in values.items() if key not in part}
            below[row] = [f"{' ' * column}{key}: {value}" for key, value in new.items()]
    else:
        column, row = entry.lc.key("sources")[1], max(sources[-1].lc.key(k)[0] for k in sources[-1])
        below[row] = []
        for section, pins in facts.items():
            if section not in entry:
                lines = [f"{section}:"]
                for file, pin in pins.items():
                    lines += [f"  {file}:", f"    bytes: {pin.bytes}", f"    sha256: {pin.sha256}"]
                below[row] += [f"{' ' * column}{line}" for line in lines]
    lines = text.split("\n")
    for row in sorted(below, reverse=True):  # from the end: the numbers of lines stay true
        lines[row + 1 : row + 1] = below[row]
    after = "\n".join(lines)
    again = YAML(typ="safe", pure=True).load(after)[f"{kind}s"][name]
    validate(Dataset if kind == "dataset" else Model, again, f"{CATALOG}: {kind}s.{name}")
    return after


if __name__ == "__main__":
    run_command(main)
