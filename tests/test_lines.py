"""What tools.predict reads and writes: every line as it is, and files that are not its own."""

import csv
import io
import stat
from pathlib import Path
from unittest import mock

import pytest

from reproduce.files import UserError
from tools import lines, predict

TEXTS = ["A gripping film.", "", '"quoted", and; a comma', " \t ", "nul \0 here", "lone \r return"]
TEXTS += ["tab\tin it", "電影 ü", "", "end"]


def refused(*arguments: object) -> str:
    with pytest.raises(UserError) as error:
        predict.main([str(argument) for argument in arguments])
    return str(error.value)


@pytest.mark.parametrize(
    ("start", "between", "end"), [("", "\n", "\n"), ("\ufeff", "\r\n", "")], ids=["unix", "windows"]
)
def test_what_a_line_holds_comes_back_from_the_csv(start: str, between: str, end: str) -> None:
    source = io.BytesIO((start + between.join(TEXTS) + end).encode())
    (window,) = lines.read_windows(lines.read_lines(source), "line", pairs=False)
    assert window == [(text,) for text in TEXTS]
    out = io.StringIO()
    for example in window:
        lines.write_row(out, [*example, "POSITIVE"])
    rows = csv.reader(io.StringIO(out.getvalue(), newline=""))
    assert list(rows) == [[text, "POSITIVE"] for text in TEXTS]


def test_a_window_ends_at_so_many_bytes_too() -> None:
    with mock.patch.object(lines, "WINDOW_BYTES", 10):
        windows = list(lines.read_windows([b"aaaaa\n", b"bbbbb\n", b"c\n"], "line", False))
    assert [len(window) for window in windows] == [2, 1]


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"good\nna\xefve film\n", "line 2: not UTF-8: byte 0xef at byte 3 of the line"),
        (b"good\n" * 5000 + b"cut \xc3", "line 5001: not UTF-8: byte 0xc3 at byte 5"),
        (b"good\n" + b"x" * (lines.WINDOW_BYTES + 1), "line 2: longer than 4,194,304 bytes"),
        (b"a\tb\n\na\tb\tc\n", "line 3: 2 tabs; with --pairs, expected one"),
    ],
    ids=["latin-1", "cut off", "endless", "no pair"],
)
def test_a_bad_line_of_a_file_is_found_before_any_work(
    tmp_path: Path, data: bytes, where: str
) -> None:
    source, out = tmp_path / "s.txt", tmp_path / "out.csv"
    source.write_bytes(data)
    out.write_text("older")
    options = ["--output", out, "--model", "none: the input is looked at first"]
    options += ["--pairs"] if b"\t" in data else []
    assert f"{source}, {where}" in refused("--file", source, *options)
    assert out.read_text() == "older" and len(list(tmp_path.iterdir())) == 2


# --- files ---


def test_two_runs_to_one_output_write_whole_files(tmp_path: Path) -> None:
    target = tmp_path / "o.csv"
    (tmp_path / "o.csv.partial").write_text("mine")
    with lines.open_target(target) as first, lines.open_target(target) as second:
        first.write("first\n" * 100)
        second.write("second\n")
    assert target.read_text() == "first\n" * 100
    assert (tmp_path / "o.csv.partial").read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


def test_an_output_keeps_its_mode_and_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real.csv").touch(mode=0o640)
    (tmp_path / "link.csv").symlink_to("real.csv")
    with lines.open_target(tmp_path / "link.csv") as out:
        out.write("new")
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "real.csv").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "real.csv").stat().st_mode) == 0o640


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    """As root /dev/stdout could be replaced; where it leads to a file, that keeps what it has."""
    with (tmp_path / "log").open("w+") as log:
        log.write("older\n")
        log.flush()
        with lines.open_target(Path(f"/dev/fd/{log.fileno()}")) as out:
            out.write("new\n")
    assert (tmp_path / "log").read_text() == "older\nnew\n"


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    source = tmp_path / "s.txt"
    source.write_text("good\n")
    assert "s.tx: No such file" in refused("--file", tmp_path / "s.tx")
    assert "Is a directory; expected a file of text" in refused("--file", tmp_path)
    for place in (tmp_path / "no/o.csv", tmp_path, Path("/")):
        message = refused("good", "--output", place)
        assert f"--output {place}: expected a file in a directory that you may write to" in message
    assert "is the input itself" in refused("--file", source, "--output", source)
    assert source.read_text() == "good\n"
