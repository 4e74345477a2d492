"""Pin a dataset of catalog.yaml whose files were never pinned: download them once, write bytes, sha256 and rows beside them.

Run as: python -m reproduce.pin rte        (make pin DATASET=rte)

The Hub is asked what the files are at the entry's revision; they are downloaded, compared with that, and read as strictly as the
pipeline reads them. Where the Hub cannot be asked, the files in HUB_MIRROR are pinned as they are. Only the lines of this
dataset change, and only if all is well. What is pinned already is compared, never replaced.
"""

import argparse
import hashlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from reproduce.catalog import CATALOG, Dataset, Pin, Source, read_dataset
from reproduce.fetch import Unavailable, fetch, stated_pin
from reproduce.params import validate
from reproduce.stage import UserError, write_text
from stages.download_dataset import canonical_tsv

# By split: what belongs beside its file.
Found = dict[str, dict[str, int | str]]


def main() -> None:
    """Pin the dataset that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="a name from catalog.yaml")
    name = parser.parse_args().dataset
    dataset = read_dataset(name)
    found = measure(name, dataset)
    before = CATALOG.read_bytes().decode("utf-8")
    after = insert(before, name, found)
    if after == before:
        print(f"{CATALOG}: datasets.{name} was pinned already, and all of it agrees: nothing to write")
        return
    write_text(CATALOG, after)
    for split, values in found.items():
        print(f"datasets.{name}.{split}: " + ", ".join(f"{key} {value}" for key, value in values.items()))
    print(f"{CATALOG}: pinned. Look at the change (`git diff {CATALOG}`) and commit it: from now on these bytes are required.")


def measure(name: str, dataset: Dataset) -> Found:
    """Download the files of a dataset and say what they are, split by split: bytes, sha256, rows.

    Raises:
        UserError: no source on the Hub; the Hub and the mirror are both silent; the catalog says otherwise already; the files
            are not what the entry says of columns, labels and rows.
    """
    hub = next((source for source in dataset.sources if source.hub), None)
    if hub is None:
        raise UserError(
            f"{CATALOG}: datasets.{name} comes from {dataset.sources[0]}, and only files on the Hub are pinned by this command. "
            "Write bytes (`wc -c FILE`), sha256 (`sha256sum FILE`) and rows of each file by hand."
        )
    pins, authority = find_pins(hub, [split.file for split in dataset.splits().values()])
    for split_name, split in dataset.splits().items():
        pin = pins[split.file]
        if split.pin and split.pin != pin:
            raise UserError(
                f"{CATALOG}: datasets.{name}.{split_name} is pinned to bytes {split.bytes}, sha256 {split.sha256}; by "
                f"{authority} {split.file} has bytes {pin.bytes}, sha256 {pin.sha256}. Nothing was written: remove the pin by "
                "hand if you mean to change it."
            )
    print(f"pins by {authority}", flush=True)
    found: Found = {}
    with tempfile.TemporaryDirectory() as scratch:
        fetch("dataset", [hub], pins, Path(scratch))
        for split_name, split in dataset.splits().items():
            hidden = split_name.startswith("test")
            _, rows = canonical_tsv(Path(scratch) / split.file, split, dataset, hidden)
            found[split_name] = {**pins[split.file].model_dump(), "rows": rows}
    return found


def find_pins(hub: Source, files: list[str]) -> tuple[dict[str, Pin], str]:
    """What each file is, and by whose word: the Hub's, or if it cannot be asked what HUB_MIRROR holds."""
    try:
        stated = {file: stated_pin("dataset", hub, file) for file in files}
        pins = {file: pin for file, pin in stated.items() if pin}
        if len(pins) == len(files):
            return pins, f"what the Hub states of {hub.hub}@{hub.revision}"
        silence = f"it states no sha256 of {next(file for file in files if file not in pins)}"
    except Unavailable as error:
        silence = str(error)
    mirror = os.environ.get("HUB_MIRROR")
    folder = Path(mirror or "").expanduser() / "datasets" / (hub.hub or "")
    missing = [folder / file for file in files if not (folder / file).is_file()]
    if not mirror or missing:
        raise UserError(
            f"{hub}: {silence}; {f'HUB_MIRROR has no {missing[0]}' if mirror else 'HUB_MIRROR is not set'}. Nothing was written. "
            "Connect to the network, set HF_ENDPOINT to a mirror of the Hub, or set HUB_MIRROR to a folder laid out like the Hub "
            "whose files you trust, and run again."
        )
    pins = {}
    for file in files:
        with (folder / file).open("rb") as reader:
            digest = hashlib.file_digest(reader, "sha256").hexdigest()
        pins[file] = Pin(bytes=(folder / file).stat().st_size, sha256=digest)
    return pins, f"what HUB_MIRROR {folder} holds, since the Hub could not be asked ({silence})"


def insert(text: str, name: str, found: Found) -> str:
    """`text`, a catalog, with the missing ones of bytes, sha256 and rows below the `file:` of each split of a dataset.

    Raises:
        UserError: the entry is written in braces, so that there is no line to insert below.
    """
    from ruamel.yaml import YAML

    entry: Any = YAML(typ="rt", pure=True).load(text)["datasets"][name]
    lines = text.split("\n")
    for split, values in sorted(found.items(), key=lambda item: -entry.lc.key(item[0])[0]):  # from the end: numbers stay true
        if entry.fa.flow_style() or entry[split].fa.flow_style():
            raise UserError(f"{CATALOG}: write datasets.{name}.{split} without braces, a line a key, as the other entries are.")
        row, column = entry[split].lc.key("file")
        missing = {key: value for key, value in values.items() if key not in entry[split]}
        lines[row + 1 : row + 1] = [f"{' ' * column}{key}: {value}" for key, value in missing.items()]
    after = "\n".join(lines)
    read = validate(Dataset, YAML(typ="safe", pure=True).load(after)["datasets"][name], f"{CATALOG}: datasets.{name}")
    if wrong := [split for split, values in found.items() if values.items() - read.splits()[split].model_dump().items()]:
        raise UserError(f"{CATALOG}: datasets.{name}.{wrong[0]}: no place found for its pins. Write by hand: {found[wrong[0]]}.")
    return after


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
