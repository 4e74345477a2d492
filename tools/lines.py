"""Lines of text in, rows of CSV out: what tools.predict reads and writes.

with open_source(path) as source, open_target(Path("out.csv")) as out: ...
"""

import codecs
import contextlib
import csv
import os
import secrets
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from reproduce.files import UserError

# What is read, computed and written at a time; the bytes are also the longest line.
WINDOW_LINES, WINDOW_BYTES = 512, 2**22
STDIO = Path("-")
Example = tuple[str, ...]  # one sentence, or the two of a pair


def open_source(path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    """The input as bytes; opened once, for a pipe can be read once only."""
    if path == STDIO:
        return contextlib.nullcontext(sys.stdin.buffer)
    if path.is_fifo():
        print(f"{path} is a pipe: waiting for what is written to it", file=sys.stderr)
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"--file {path}: {error.strerror}; expected a file of text.") from error


def read_source(
    source: BinaryIO | None, arguments: Namespace
) -> tuple[int | None, Iterable[list[Example]]]:
    """The number of lines (None: unknown) and the lines; those of a file are all checked first."""
    if source is None:
        given = enumerate((s.encode("utf-8", "surrogateescape") for s in arguments.sentences), 1)
        window = [parse_line(raw, f"sentence {i}", arguments.pairs) for i, raw in given]
        return len(window), [window]
    total = None
    if arguments.file.is_file():
        total = sum(map(len, read_windows(source, arguments)))
        source.seek(0)
    return total, read_windows(source, arguments)


def read_windows(file: BinaryIO, arguments: Namespace) -> Iterator[list[Example]]:
    r"""The lines of `file`, some hundreds at a time, without \n, \r\n and a byte order mark.

    Raises:
        UserError: a line is too long, not UTF-8 or no pair; after all lines before it were given.
    """
    name = "standard input" if arguments.file == STDIO else arguments.file
    window: list[Example] = []
    size = 0
    for number, line in enumerate(iter(lambda: file.readline(WINDOW_BYTES + 1), b""), 1):
        raw = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        try:
            raw = raw.removesuffix(b"\n").removesuffix(b"\r")
            window.append(parse_line(raw, f"{name}, line {number}", arguments.pairs))
        except UserError:
            yield window
            raise
        size += len(raw)
        if len(window) == WINDOW_LINES or size >= WINDOW_BYTES:
            yield window
            window, size = [], 0
    yield window


def parse_line(raw: bytes, where: str, pairs: bool) -> Example:
    """A sentence, or the two of a pair (an empty line: two empty ones)."""
    if len(raw) > WINDOW_BYTES:
        raise UserError(f"{where}: longer than {WINDOW_BYTES:,} bytes; expected a sentence.")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        utf16 = raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        kind = "UTF-16" if utf16 else "ISO-8859-1"
        raise UserError(
            f"{where}: not UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the "
            f"line ({error.reason}). If it is {kind}, convert it: iconv -f {kind} -t UTF-8."
        ) from None
    parts = tuple((text or "\t").split("\t")) if pairs else (text,)
    if len(parts) != 1 + pairs:
        raise UserError(f"{where}: {len(parts) - 1} tabs; with --pairs, expected one.")
    return parts


def is_special(path: Path) -> bool:
    """Whether `path` is nothing that can be replaced: a device, a pipe, /dev/stdout, /dev/fd/3."""
    place = os.path.abspath(path)  # noqa: PTH100 - resolve() would follow the link
    return place.startswith(("/dev/", "/proc/")) or (path.exists() and not path.is_file())


def check_target(target: Path, source: BinaryIO | None) -> None:
    """`UserError` if the output cannot be written, before any work."""
    place = Path(os.path.realpath(target))
    if target == STDIO or (is_special(target) and not target.is_dir()):
        return
    if target.is_dir() or not place.parent.is_dir():
        what = "a directory" if target.is_dir() else f"there is no directory {place.parent}"
        raise UserError(f"--output {target}: {what}; expected a file in a directory that exists.")
    for path in (place, place.parent):
        if path.exists() and not os.access(path, os.W_OK):
            raise UserError(f"--output {target}: you may not write to {path}.")
    if source and place.is_file() and os.path.samestat(os.fstat(source.fileno()), place.stat()):
        raise UserError(f"--output {target} is the input itself. Name another file.")


@contextlib.contextmanager
def open_target(target: Path) -> Iterator[TextIO]:
    """Standard output, or a file that takes the name `target` when the block ends without error.

    Until then it has a name of its own: neither another run nor a person's file is touched.
    """
    if target == STDIO:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8")
        yield sys.stdout
        sys.stdout.flush()
    elif is_special(target):
        with target.open("a", encoding="utf-8", newline="") as out:
            yield out
    else:
        place = Path(os.path.realpath(target))  # a link stays a link
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
