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
import tempfile
from pathlib import Path
from typing import Any

from reproduce.command import run_command
from reproduce.files import UserError, sha256, write_text
from reproduce.inputs.canonical import canonical_tsv
from reproduce.inputs.catalog import (
    CATALOG,
    TOKENIZER_FILES,
    WEIGHTS,
    Dataset,
    Model,
    Pin,
    Source,
    read_raw_entry,
    unpinned_splits,
)
from reproduce.inputs.fetch import fetch, hub_mirror
from reproduce.inputs.hub import Kind, Unavailable, stated_pin
from reproduce.params import validate

# What belongs into the entry. Of a dataset, by split: bytes, sha256, rows. Of a model, by section
# (tokenizer, weights) and file: bytes, sha256.
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
    place = f"{CATALOG}: {kind}s.{name}"
    entry = read_raw_entry(f"{kind}s", name)
    facts = dataset_facts(entry, place) if kind == "dataset" else model_facts(entry, place)
    before = CATALOG.read_bytes().decode("utf-8")
    after = insert(before, kind, name, facts)
    if after == before:
        print(f"{place} was pinned already, and all of it agrees: nothing to write")
        return
    write_text(CATALOG, after)
    print(f"{place} pinned. Look at the change (`git diff {CATALOG}`) and commit it.")


def dataset_facts(entry: Any, place: str) -> Facts:
    """Bytes, sha256 and rows of each split; `UserError` if a file is not what the entry says."""
    unknown = {"bytes": 0, "sha256": "0" * 64}
    assumed = {split: unknown | entry[split] for split in unpinned_splits(entry)}
    dataset = validate(Dataset, {**entry, **assumed} if assumed else entry, place)
    facts: Facts = {}
    with tempfile.TemporaryDirectory() as scratch:
        splits = dataset.splits()
        files = [split.file for split in splits.values()]
        pins = download("dataset", dataset.sources[0], files, Path(scratch))
        for name, split in splits.items():
            hidden = name.startswith("test")
            rows = canonical_tsv(Path(scratch) / split.file, split, dataset, hidden)[1]
            facts[name] = {**pins[split.file].model_dump(), "rows": rows}
    return facts


def model_facts(entry: Any, place: str) -> Facts:
    """The pins of the tokenizer's files and of the weights; the entry may be its sources alone."""
    if not isinstance(entry, dict) or not entry.get("sources"):
        raise UserError(f"{place} has no sources. Write them first: `sources:` and one source.")
    if {"tokenizer", "weights"} & set(entry):
        validate(Model, entry, place)
    source = validate(Source, entry["sources"][0], f"{place}.sources.0")
    with tempfile.TemporaryDirectory() as scratch:
        files = [*entry.get("tokenizer", TOKENIZER_FILES), WEIGHTS]
        pins = download("model", source, files, Path(scratch))
    described = {file: pin.model_dump() for file, pin in pins.items()}
    weights = {WEIGHTS: described.pop(WEIGHTS)}
    return {"tokenizer": described, "weights": weights}


def download(kind: Kind, source: Source, files: list[str], into: Path) -> dict[str, Pin]:
    """Bring `files` into the directory `into`; what each is, by whose word is printed."""
    if source.pypi:
        raise UserError(
            f"{CATALOG}: {source}: a wheel is not pinned by this command. Put a hub or a folder "
            "first, or pin by hand."
        )
    if source.folder:
        pins, authority = pins_of(Path(source.folder), files), f"what {source} holds"
    else:
        try:
            pins = {file: stated_pin(kind, source, file) for file in files}
            authority = f"what the Hub states of {source.hub}@{source.revision}"
        except Unavailable as error:
            if not (mirror := hub_mirror()):
                raise UserError(
                    f"{source}: {error}; HUB_MIRROR is not set. Nothing was written. Connect to "
                    "the network, set HF_ENDPOINT to a mirror of the Hub, or set HUB_MIRROR to a "
                    "folder laid out like the Hub whose files you trust, and run again."
                ) from error
            folder = mirror / f"{kind}s" / (source.hub or "")
            pins = pins_of(folder, files)
            authority = f"what {folder} holds, since the Hub could not be asked ({error})"
    print(f"pins by {authority}", flush=True)
    fetch(kind, [source], pins, into)
    return pins


def pins_of(folder: Path, files: list[str]) -> dict[str, Pin]:
    """What the files in a folder are."""
    for path in (folder / file for file in files):
        if not path.is_file():
            raise UserError(
                f"there is no {path}. Nothing was written. Put it there or correct {CATALOG}."
            )
    return {f: Pin(bytes=(folder / f).stat().st_size, sha256=sha256(folder / f)) for f in files}


def insert(text: str, kind: Kind, name: str, facts: Facts) -> str:
    """`text`, a catalog, with what is missing of `facts`: below a split's `file:`, or a model's
    sources. `UserError` if something else is pinned, or the entry is written in braces.
    """
    from ruamel.yaml import YAML

    entry: Any = YAML(typ="rt", pure=True).load(text)[f"{kind}s"][name]
    place, lines = f"{CATALOG}: {kind}s.{name}", text.split("\n")
    for part, values in facts.items():
        for key, value in values.items():
            pinned = entry.get(part, {}).get(key, value)
            if pinned != value:
                raise UserError(
                    f"{place}.{part}.{key} is pinned to {pinned}; its source has {value}. Nothing "
                    "was written: remove the pin by hand if you mean to change it."
                )
    blocks = (
        [entry, *(entry[s] for s in facts)] if kind == "dataset" else [entry, *entry["sources"]]
    )
    if any(block.fa.flow_style() for block in (*blocks, entry["sources"])):
        raise UserError(
            f"{place}: write it without braces, a line a key, as the other entries are."
        )
    below: dict[int, list[str]] = {}  # by line, what comes after it
    for part, values in facts.items():
        if kind == "dataset":
            row, column = entry[part].lc.key("file")
            new = [f"{key}: {value}" for key, value in values.items() if key not in entry[part]]
        else:
            source, column = entry["sources"][-1], entry.lc.key("sources")[1]
            row, new = max(source.lc.key(key)[0] for key in source), []
            for file, pin in values.items() if part not in entry else ():
                new += [f"  {file}:", *(f"    {key}: {value}" for key, value in pin.items())]
            new = [f"{part}:", *new] if new else []
        below.setdefault(row, []).extend(" " * column + line for line in new)
    for row in sorted(below, reverse=True):  # from the end: the numbers of lines stay true
        lines[row + 1 : row + 1] = below[row]
    after = "\n".join(lines)
    again = YAML(typ="safe", pure=True).load(after)[f"{kind}s"][name]
    validate(Dataset if kind == "dataset" else Model, again, place)
    return after


if __name__ == "__main__":
    run_command(main)
