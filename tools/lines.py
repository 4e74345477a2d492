"""Lines of text in, rows of CSV out: what tools.predict reads and writes."""

import codecs
import contextlib
import csv
import os
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from reproduce.files import UserError

# What is read, computed and written at a time; the bytes are also the longest line.
WINDOW_LINES, WINDOW_BYTES = 512, 2**22
STDIO = Path("-")
Example = tuple[str, ...]  # one sentence, or the two of a pair


def open_source(path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    """The input as bytes; opened once, for a pipe can be read once only."""
    try:
        return contextlib.nullcontext(sys.stdin.buffer) if path == STDIO else path.open("rb")
    except OSError as error:
        raise UserError(f"--file {path}: {error.strerror}; expected a file of text.") from error


def read_lines(source: BinaryIO) -> Iterator[bytes]:
    """The lines as they come; of one that is too long only as much as shows it."""
    return iter(partial(source.readline, WINDOW_BYTES + 1), b"")


def read_windows(lines: Iterable[bytes], name: str, pairs: bool) -> Iterator[list[Example]]:
    """The examples of some hundred lines at a time, without a byte order mark.

    Raises:
        UserError: a line is too long, not UTF-8 or no pair; after all lines before it were given.
    """
    window: list[Example] = []
    size = 0
    for number, line in enumerate(lines, 1):
        raw = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        try:
            window.append(parse_line(raw, f"{name} {number}", pairs))
        except UserError:
            yield window
            raise
        size += len(line)
        if len(window) == WINDOW_LINES or size >= WINDOW_BYTES:
            yield window
            window, size = [], 0
    yield window


def parse_line(raw: bytes, where: str, pairs: bool) -> Example:
    """A sentence, or the two of a pair (an empty line: two empty ones), without the line's end."""
    if len(raw) > WINDOW_BYTES:
        raise UserError(f"{where}: longer than {WINDOW_BYTES:,} bytes; expected a sentence.")
    try:
        text = raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8: byte 0x{error.object[error.start]:02x} at byte {error.start + 1} "
            "of the line. Convert it: iconv -f ENCODING -t UTF-8 (`file` names the encoding)."
        ) from None
    parts = tuple((text or "\t").split("\t")) if pairs else (text,)
    if len(parts) != 1 + pairs:
        raise UserError(f"{where}: {len(parts) - 1} tabs; with --pairs, expected one.")
    return parts


@contextlib.contextmanager
def open_target(target: Path, source: BinaryIO | None = None) -> Iterator[TextIO]:
    """Standard output, or a file that takes the name `target` when the block ends without error.

    Until then it has a name of its own: neither another run nor a person's file is touched. What
    cannot be replaced is written to: a device, a pipe, /dev/stdout. `UserError` if it cannot be
    written, or is the file `source`.
    """
    if target == STDIO:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8")
        yield sys.stdout
        return
    other = target.exists() and not (target.is_file() or target.is_dir())
    if other or target.absolute().parts[1:2] in (("dev",), ("proc",)):
        with target.open("a", encoding="utf-8", newline="") as out:
            yield out
        return
    place = Path(os.path.realpath(target))  # a link stays a link
    if place.is_dir() or not os.access(place if place.exists() else place.parent, os.W_OK):
        raise UserError(f"--output {target}: expected a file in a directory that you may write to.")
    if source and place.exists() and os.path.samestat(os.fstat(source.fileno()), place.stat()):
        raise UserError(f"--output {target} is the input itself. Name another file.")
    partial = place.with_name(f".predict-{secrets.token_hex(4)}.partial")
    try:
        with partial.open("x", encoding="utf-8", newline="") as out:
            yield out
        if place.exists():
            shutil.copymode(place, partial)
        partial.replace(place)
    finally:
        partial.unlink(missing_ok=True)


def write_row(out: TextIO, cells: Sequence[str]) -> None:
    """Write a row of CSV, quoted where it has to be."""
    # Before Python 3.13 a lone \r is not quoted, and would end the row for a reader.
    rule: Any = csv.QUOTE_ALL if any("\r" in cell for cell in cells) else csv.QUOTE_MINIMAL
    csv.writer(out, lineterminator="\n", quoting=rule).writerow(cells)
