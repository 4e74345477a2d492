"""What every stage does the same way: fail with one message, stay offline, put outputs in place atomically."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class UserError(Exception):
    """Something the user can put right. The message names what was found, what was expected and what to do."""


def out_of_space(error: BaseException | None) -> str:
    """The words of a full disk, quota or file-size limit in `error` or one of its causes; "" if it is something else.

    Native writers (safetensors, Arrow, PyTorch) wrap the system's error in one of their own, which carries only its text.
    """
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    while error is not None:
        text = str(error)
        if isinstance(error, OSError) and error.errno in codes:
            return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
        for code in codes:
            if (
                os.strerror(code) in text
                or f"os error {code})" in text
                or f"[Errno {code}]" in text
            ):
                return os.strerror(code)
        # PyTorch and Python's tempfile drop the reason.
        if (
            "PytorchStreamWriter" in text
            or "inline_container" in text
            or "No usable temporary directory" in text
        ):
            return text.splitlines()[0]
        error = error.__cause__ or error.__context__
    return ""


@contextlib.contextmanager
def output_directory(path: Path) -> Iterator[Path]:
    """Give a scratch directory beside `path` and rename it to `path` when the block ends without an error.

    A reader therefore sees the whole output or none. After an error or a kill nothing is at `path`; what is left of
    `path`.partial is thrown away by the next run.
    """
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(path, ignore_errors=True)
    partial.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in UTF-8 with Unix newlines, atomically: written aside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Write `data` atomically as JSON that diffs well: sorted keys, two spaces, no NaN (raises ValueError)."""
    write_text(
        path, json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    )


def read_json(path: Path, what_to_do: str) -> Any:
    """Read a JSON file; `UserError` with `what_to_do` if it is no JSON. A missing file raises FileNotFoundError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both ValueErrors
        raise UserError(f"{path} is not JSON ({error}). {what_to_do}") from error


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
