"""Pin an entry of catalog.yaml: download its files once and write what they are into it.

Run as: python -m tools.pin --dataset mine       (make pin DATASET=mine)
        python -m tools.pin --model small        (make pin MODEL=small)

What is written: bytes and sha256 of each file, and the rows of a dataset's splits. The files are
those of the entry's first source, a repository on the Hub at its revision or a folder. What the
Hub sends of files in Git LFS is held against the sha256 that it states. A dataset is read as
strictly as the pipeline reads it. Lines are added, none is changed: what is pinned already is
compared.
"""

import contextlib
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

from reproduce.command import command_line, run_command
from reproduce.files import UserError, sha256, write_text
from reproduce.inputs.canonical import read_split
from reproduce.inputs.catalog import (
    CATALOG,
    TOKENIZER_FILES,
    WEIGHTS,
    Dataset,
    Model,
    Source,
    read_raw_entry,
)
from reproduce.inputs.hub import Kind, Unavailable, download
from reproduce.params import validate

Entry = dict[str, Any]  # as catalog.yaml writes it
UNKNOWN = {"bytes": 0, "sha256": "0" * 64}  # stands for a pin until it is known


def main() -> None:
    """Pin the entry that the command line names."""
    parser = command_line(__doc__)
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--dataset", help="a name from catalog.yaml")
    group.add_argument("--model", help="a name from catalog.yaml")
    arguments = parser.parse_args()
    kind: Kind = "dataset" if arguments.dataset else "model"
    if not (name := arguments.dataset or arguments.model):
        raise UserError("name an entry: make pin DATASET=... or make pin MODEL=...")
    place = f"{CATALOG}: {kind}s.{name}"
    entry = read_raw_entry(f"{kind}s", name)
    facts = dataset_facts(entry, place) if kind == "dataset" else model_facts(entry, place)
    for part, values in facts.items():
        for key, value in values.items():
            if (pinned := entry.get(part, {}).get(key, value)) != value:
                raise UserError(
                    f"{place}.{part}.{key} is pinned to {pinned}; its source has {value}. Nothing "
                    "was written: remove the pin by hand if you mean to change it."
                )
    complete = entry | {part: entry.get(part, {}) | facts[part] for part in facts}
    validate(Dataset if kind == "dataset" else Model, complete, place)
    if complete == entry:
        print(f"{place} was pinned already, and all of it agrees: nothing to write")
        return
    write_text(CATALOG, insert(CATALOG.read_bytes().decode("utf-8"), f"{kind}s", name, complete))
    print(f"{place} pinned. Look at the change (`git diff {CATALOG}`) and commit it.")


def dataset_facts(entry: Entry, place: str) -> dict[str, Entry]:
    """Bytes, sha256 and rows of each split; `UserError` if a file is not what the entry says."""
    assumed = {key: UNKNOWN | part for key, part in entry.items() if isinstance(part, dict)}
    dataset = validate(Dataset, entry | assumed, place)
    facts = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, split in dataset.splits().items():
            path = locate("dataset", dataset.sources[0], split.file)
            copy = Path(shutil.copyfile(path, Path(scratch, f"{name}{Path(split.file).suffix}")))
            texts, _ = read_split(copy, split, dataset, hidden=name.startswith("test"))
            facts[name] = {**pin_of(path), "rows": len(texts)}
    return facts


def model_facts(entry: Entry, place: str) -> dict[str, Entry]:
    """The pins of the tokenizer's files and of the weights; the entry may be its sources alone."""
    assumed = {"tokenizer": dict.fromkeys(TOKENIZER_FILES, UNKNOWN), "weights": {WEIGHTS: UNKNOWN}}
    model = validate(Model, assumed | entry, place)
    parts = {"tokenizer": model.tokenizer, "weights": model.weights}
    return {p: {f: pin_of(locate("model", model.sources[0], f)) for f in parts[p]} for p in parts}


def pin_of(path: Path) -> Entry:
    """What catalog.yaml says of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def locate(kind: Kind, source: Source, name: str) -> Path:
    """Where a folder has a file, or the client's cache has it after a download.

    `UserError` if there is none, or it has not the checksum that the Hub states.
    """
    try:
        if source.hub:
            path = download(kind, source, name)
        elif not source.folder:
            raise Unavailable("this command pins the files of a hub or a folder")
        elif not (path := Path(source.folder, name)).is_file():
            raise Unavailable(f"there is no {name}")
    except Unavailable as error:
        raise UserError(
            f"{source}: {error}. Nothing was written. Correct the entry's first source, connect to "
            "the network, or set HF_ENDPOINT to a mirror of the Hub, and run again."
        ) from error
    # The client names what it keeps by the Hub's word: of a file in Git LFS its sha256.
    stated, found = path.resolve().name, sha256(path)
    if source.hub and len(stated) == 64 and found != stated:
        raise UserError(
            f"{source}: {name} is not what the Hub states: expected {stated}, found {found} (in "
            f"{path.resolve()}). Delete that file and run it again."
        )
    return path


def insert(text: str, kind: str, name: str, complete: Entry) -> str:
    """`text`, a catalog, with what it lacks of the `complete` entry: below `file:`, or `sources:`.

    `UserError` if the entry is written in braces.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    entry: Any = YAML().load(text)[kind][name]
    row = max(source.lc.key(key)[0] for source in entry["sources"] for key in source)
    lacking = {key: part for key, part in complete.items() if key not in entry}
    added = [(row, entry.lc.key("sources")[1], lacking)]
    for key in complete if kind == "datasets" else ():
        if isinstance(part := complete[key], dict):
            new = {name: value for name, value in part.items() if name not in entry[key]}
            added.append((*entry[key].lc.key("file"), new))
    lines = text.split("\n")
    # From the end: the numbers of lines stay true.
    for row, column, values in sorted(added, key=lambda block: block[0], reverse=True):
        block = io.StringIO()
        YAML().dump(values, block)
        new_lines = block.getvalue().splitlines() if values else []
        lines[row + 1 : row + 1] = [" " * column + line for line in new_lines]
    after = "\n".join(lines)
    with contextlib.suppress(YAMLError):
        if YAML(typ="safe").load(after)[kind][name] == complete:
            return after
    raise UserError(f"{CATALOG}: {kind}.{name}: write it without braces, a line a key, as others.")


if __name__ == "__main__":
    run_command(main)
