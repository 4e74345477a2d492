"""Outputs that appear whole or not at all, JSON, and the error that a person can put right."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


class UserError(Exception):
    """Something the user can put right: what was found, what was expected, what to do."""


def out_of_space(error: BaseException | None) -> str:
    """The words of a full disk, quota or file-size limit in `error` or its causes; else "".

    Native writers (safetensors, Arrow, PyTorch) wrap the system's error and keep only its text.
    """
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    # PyTorch and Python's tempfile drop the reason.
    unnamed = ("PytorchStreamWriter", "inline_container", "No usable temporary directory")
    while error is not None:
        text = str(error)
        if isinstance(error, OSError) and error.errno in codes:
            return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
        for code in codes:
            marks = (os.strerror(code), f"os error {code})", f"[Errno {code}]")
            if any(mark in text for mark in marks):
                return os.strerror(code)
        if any(mark in text for mark in unnamed):
            return text.splitlines()[0]
        error = error.__cause__ or error.__context__
    return ""


@contextlib.contextmanager
def output_directory(path: Path) -> Iterator[Path]:
    """Give a scratch directory beside `path`, renamed to `path` when the block ends without error.

    A reader therefore sees the whole output or none. What a kill leaves at `path`.partial is
    thrown away by the next run.
    """
    partial = path.with_name(path.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    old = path.with_name(path.name + ".old.partial")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.replace(old)  # whole, also where one of its files cannot be deleted
    partial.replace(path)
    shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in UTF-8 with Unix newlines: written aside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Write `data` as JSON that diffs well: sorted keys, two spaces; ValueError for a NaN."""
    text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: Path, what_to_do: str) -> Any:
    """Read a JSON file; `UserError` with `what_to_do` if it is no JSON.

    A missing file raises FileNotFoundError.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both ValueErrors
        raise UserError(f"{path} is not JSON ({error}). {what_to_do}") from error


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head. A bar in a cell is escaped."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
