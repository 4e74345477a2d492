"""Pin a model of catalog.yaml that has sources only: download its files once, write bytes and sha256 below them.

Run as: python -m reproduce.pin_model small        (make pin-model MODEL=small)

The files come from the first source, a folder or the Hub at the entry's revision (or HUB_MIRROR, where it has them). Each is held
against the checksum that the Hub states. Nothing else of catalog.yaml changes, and nothing if a file is missing.
"""

import argparse
import hashlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from reproduce.catalog import CATALOG, TOKENIZER_FILES, Model, Pin, Source
from reproduce.params import read_yaml, validate
from reproduce.stage import UserError, write_text

WEIGHTS = "model.safetensors"
OPTIONAL = "vocab.txt"  # tokenizer.json has it all


def main() -> None:
    """Pin the model that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name from catalog.yaml")
    name = parser.parse_args().model
    entry = (read_yaml(CATALOG).get("models") or {}).get(name)
    if not isinstance(entry, dict) or not entry.get("sources"):
        raise UserError(f"{CATALOG}: models.{name} has no sources. Write them first: `sources:` and one source.")
    if {"tokenizer", "weights"} & set(entry):
        raise UserError(
            f"{CATALOG}: models.{name} is pinned already. Remove its tokenizer and weights if you mean to pin it anew."
        )
    source = validate(Source, entry["sources"][0], f"{CATALOG}: models.{name}.sources.0")
    with tempfile.TemporaryDirectory() as scratch:
        pins = {file: pin for file in (*TOKENIZER_FILES, OPTIONAL, WEIGHTS) if (pin := measure(source, file, Path(scratch)))}
    write_text(CATALOG, insert(CATALOG.read_text(encoding="utf-8"), name, pins))
    print(f"{CATALOG}: models.{name} pinned, {len(pins)} files from {source}. Look at the change and commit it.")


def measure(source: Source, name: str, scratch: Path) -> Pin | None:
    """What one file of a source is; None for an optional file that it does not have."""
    mirrored = Path(os.environ.get("HUB_MIRROR") or os.devnull, "models", source.hub or "", name).expanduser()
    if source.hub and mirrored.is_file():
        path: Path | None = mirrored
    elif source.hub:
        path = from_hub(source, name, scratch)
    elif source.folder:
        path = Path(source.folder, name) if Path(source.folder, name).is_file() else None
    else:
        raise UserError(
            f"{CATALOG}: {source}: a wheel is not pinned by this command. Put a hub or a folder first, or pin by hand."
        )
    if path is None:
        if name == OPTIONAL:
            return None
        raise UserError(f"{source} has no {name}. Needed: {', '.join(TOKENIZER_FILES)} and {WEIGHTS}. Nothing was written.")
    with path.open("rb") as file:
        return Pin(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def from_hub(source: Source, name: str, scratch: Path) -> Path | None:
    """Download one file and compare it with its ETag: the sha256 of a file in Git LFS, git's blob id (sha1) of any other."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    try:
        about = get_hf_file_metadata(hf_hub_url(source.hub or "", name, revision=source.revision))
        path = Path(hf_hub_download(source.hub or "", name, revision=source.revision, local_dir=scratch, force_download=True))
    except EntryNotFoundError:
        return None
    except Exception as error:  # whatever the HTTP library raises
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{source}: {name} cannot be downloaded: {reason}. Nothing was written. Connect to the network, check the name and "
            "the revision, set HF_ENDPOINT to a mirror of the Hub or HUB_MIRROR to a folder laid out like the Hub, and run again."
        ) from error
    etag, found = about.etag or "", ""
    if len(etag) == 64:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    elif len(etag) == 40:
        data = path.read_bytes()
        found = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    if found != etag:
        raise UserError(
            f"{source}: {name} is not what the Hub states: expected {etag}, found {found or 'no such checksum'}. Run again."
        )
    return path


def insert(text: str, name: str, pins: dict[str, Pin]) -> str:
    """`text`, a catalog, with `tokenizer` and `weights` after the sources of a model. `UserError` for an entry in braces."""
    from ruamel.yaml import YAML

    entry: Any = YAML(typ="rt", pure=True).load(text)["models"][name]
    if entry.fa.flow_style() or any(part.fa.flow_style() for part in (entry["sources"], *entry["sources"])):
        raise UserError(f"{CATALOG}: write models.{name} without braces, a line a key, as the other entries are.")
    last = entry["sources"][-1]
    column = entry.lc.key("sources")[1]
    lines = text.split("\n")
    new = []
    for key, files in (("tokenizer", [file for file in pins if file != WEIGHTS]), ("weights", [WEIGHTS])):
        new.append(f"{' ' * column}{key}:")
        new += [f"{' ' * (column + 2)}{file}: {{bytes: {pins[file].bytes}, sha256: {pins[file].sha256}}}" for file in files]
    row = max(last.lc.key(key)[0] for key in last)
    lines[row + 1 : row + 1] = new
    after = "\n".join(lines)
    validate(Model, YAML(typ="safe", pure=True).load(after)["models"][name], f"{CATALOG}: models.{name}")
    return after


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
