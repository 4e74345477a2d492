"""One file from the Hugging Face Hub, or the reason why not, in words that give no secret away.

The Hub's client resumes, retries and waits as long as a busy Hub asks; nothing here does it again.
"""

import functools
import http.client
import logging
import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from reproduce.files import out_of_space
from reproduce.inputs.catalog import Source

Kind = Literal["dataset", "model"]


class Unavailable(Exception):
    """This source cannot give the files; the next one may."""


def redact(text: str) -> str:
    """`text` without the user:password@ and the ?query of any address in it."""
    return re.sub(r"(://[^\s?]*)\?\S*", r"\1", re.sub(r"(?<=://)[^/\s]*@", "", text))


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
        _refuse_absence(kind, source, name)
        path = hf_hub_download(
            source.hub or "", name, repo_type=kind, revision=source.revision, token=_token(),
            cache_dir=cache,
        )  # fmt: skip
    except Exception as error:  # the client's errors share no base class
        if out_of_space(error):
            raise
        raise Unavailable(_reason(error, kind, source, name)) from error
    return Path(path)


def _refuse_absence(kind: Kind, source: Source, name: str) -> None:
    """Raise, in seconds, if nobody is there or no such file; a busy Hub is left to the client.

    The client would ask an unreachable Hub for minutes.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    for handler in logging.getLogger("huggingface_hub").handlers:
        handler.addFilter(_redact_record)
    url = hf_hub_url(source.hub or "", name, repo_type=kind, revision=source.revision)
    seconds = constants.HF_HUB_ETAG_TIMEOUT  # of the environment; else 10
    _say_once(f"asking {redact(constants.ENDPOINT)}, for at most {seconds} s if it is silent")
    try:
        get_hf_file_metadata(url, token=_token(), timeout=seconds)
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status not in (408, 429) and status < 500:
            raise


def _redact_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = redact(record.getMessage()), ()
    return True


def _token() -> Literal[False] | None:
    """None: the client sends the token it finds. False: none, since anybody could read it."""
    from huggingface_hub import constants, get_token

    address = urlsplit(constants.ENDPOINT)
    this_machine = address.hostname in ("localhost", "127.0.0.1", "::1")
    if address.scheme == "https" or this_machine or not get_token():
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
    if (response := getattr(error, "response", None)) is None:
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
