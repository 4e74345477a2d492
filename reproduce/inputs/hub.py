"""One file from the Hugging Face Hub, or the reason why not, in words that give no secret away.

The Hub's client resumes, retries and waits as long as a busy Hub asks; nothing here does it again.
"""

import functools
import hashlib
import http.client
import ipaddress
import logging
import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from reproduce.files import UserError, out_of_space, sha256
from reproduce.inputs.catalog import Pin, Source

Kind = Literal["dataset", "model"]


class Unavailable(Exception):
    """This source cannot give the files; the next one may."""


def redact(text: str) -> str:
    """`text` without the user:password@ of any address in it."""
    return re.sub(r"(?<=://)[^/\s]*@", "", text)


def cached(kind: Kind, source: Source, name: str) -> Path | None:
    """Where the client's cache has a file, if it does."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(source.hub or "", name, revision=source.revision, repo_type=kind)
    return Path(path) if isinstance(path, str) else None


def download(kind: Kind, source: Source, name: str, cache: Path | None = None) -> Path:
    """The file in the client's cache, downloaded if need be; `Unavailable` if the Hub says no.

    Args:
        cache: another folder in place of the client's cache, for a file that is damaged there.
    """
    from huggingface_hub import hf_hub_download

    try:
        _ask_once(kind, source, name)
        path = hf_hub_download(
            source.hub or "", name, repo_type=kind, revision=source.revision, token=_token(),
            cache_dir=cache,
        )  # fmt: skip
    except Exception as error:  # the client's errors share no base class
        if out_of_space(error):
            raise
        raise Unavailable(_reason(error, kind, source, name)) from error
    return Path(path)


def _ask_once(kind: Kind, source: Source, name: str) -> str:
    """The checksum (ETag) that the Hub states of a file; "" if the Hub is busy.

    Asked before a download: that nobody is there, or no such file, is then known in seconds. The
    client would ask an unreachable Hub for minutes.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    for handler in logging.getLogger("huggingface_hub").handlers:
        handler.addFilter(_redact_record)
    url = hf_hub_url(source.hub or "", name, repo_type=kind, revision=source.revision)
    try:
        seconds = constants.HF_HUB_ETAG_TIMEOUT  # of the environment; else 10
        _say_once(f"asking {redact(constants.ENDPOINT)}, for at most {seconds} s if it is silent")
        return get_hf_file_metadata(url, token=_token(), timeout=seconds).etag or ""
    except HfHubHTTPError as error:
        if error.response.status_code in (408, 429) or error.response.status_code >= 500:
            return ""
        raise


def _redact_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = redact(record.getMessage()), ()
    return True


def _token() -> Literal[False] | None:
    """None: the client sends the token it finds. False: none, since anybody could read it."""
    from huggingface_hub import constants, get_token

    address = urlsplit(constants.ENDPOINT)
    try:
        here = ipaddress.ip_address(address.hostname or "").is_loopback
    except ValueError:
        here = address.hostname == "localhost"
    if address.scheme == "https" or here or not get_token():
        return None
    _say_once(f"HF_TOKEN is not sent to {redact(constants.ENDPOINT)}, which is not encrypted")
    return False


@functools.cache
def _say_once(line: str) -> None:
    print(line, flush=True)


def _reason(error: BaseException, kind: Kind, source: Source, name: str) -> str:
    """What went wrong. Never the server's own words: they may repeat what it was sent."""
    from huggingface_hub import constants, get_token

    # The client wraps what went wrong with the first request.
    while error.__cause__ is not None and getattr(error, "response", None) is None:
        error = error.__cause__
    endpoint = redact(constants.ENDPOINT)
    response = getattr(error, "response", None)
    if response is None:
        text = redact(str(error)).strip().splitlines()
        return f"{type(error).__name__}: {text[0] if text else 'no message'} [{endpoint}]"
    status = response.status_code
    reason = f"{status} {http.client.responses.get(status, '')}".strip()
    if status in (401, 403):
        place = f"{endpoint}/{'datasets/' if kind == 'dataset' else ''}{source.hub}"
        token = "the one that is set has no access" if get_token() else "none is set"
        reason += ": gated, private or not there. Accept its licence at"
        reason += f" {place} and set HF_TOKEN ({token})"
    elif status == 404:
        reason += f": {name} in {kind} {source.hub} at revision {source.revision}"
        reason += f" ({type(error).__name__})"
    return f"{reason} [{endpoint}]"


def stated_pin(kind: Kind, source: Source, name: str) -> Pin:
    """What a file is by the Hub's word; what came (or is cached) is held against that word.

    The ETag of a file in Git LFS is its sha256, of any other file git's blob id.

    Raises:
        Unavailable: nobody there, no such file, no access, no checksum.
        UserError: other bytes than the Hub states.
    """
    try:
        etag = _ask_once(kind, source, name)
    except Exception as error:
        raise Unavailable(_reason(error, kind, source, name)) from error
    path = download(kind, source, name)
    size, digest = path.stat().st_size, sha256(path)
    found = digest if len(etag) == 64 else None
    if len(etag) == 40:  # never a large file
        content = b"blob %d\0" % size + path.read_bytes()
        found = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    if found is None:
        raise Unavailable(f"it states no checksum of {name}")
    if found != etag:
        raise UserError(
            f"{source}: {name} is not what the Hub states: expected {etag}, found {found} (in "
            f"{path.resolve()}). Delete that file and run it again."
        )
    return Pin(bytes=size, sha256=digest)
