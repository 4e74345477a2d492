"""TSV files: byte for byte there and back, and one message with file and line for each damage."""

from pathlib import Path

import pytest

from reproduce.files import UserError
from reproduce.inputs.sentences import read_raw_data, read_tsv, to_tsv

LABELLED = (
    "sentence\tlabel\n"
    "hide new secretions from the parental units \t0\n"  # trailing space, as in SST-2
    "  two in front, naïve café – “déjà vu” 電影 🎬\t1\n"
    'a "quoted" film\\n, no CSV rules\t1\n'
    "no-break space at the end\N{NO-BREAK SPACE}\t0\n" + "long " * 30_000 + "\t1\n"
).encode()
HIDDEN = "index\tsentence\n0\tuneasy mishmash . \n1\tünder\n2\t 2 + 2\n".encode()
PAIR = ("premise", "hypothesis")
PAIRS = b"premise\thypothesis\tlabel\nIt rains. \tIt is wet.\t0\nNo\t\t2\n\tonly one of them\t1\n"
SCORES = b"sentence\tlabel\na\t5.000\nb\t2.923\nc\t0.000\n"


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_labelled_file_comes_back_byte_for_byte(tmp_path: Path) -> None:
    sentences, labels = read_tsv(write(tmp_path / "train.tsv", LABELLED), 2)
    assert labels == [0, 1, 1, 0, 1] and sentences[0].endswith("units ")
    assert to_tsv(sentences, labels) == LABELLED
    assert read_tsv(write(tmp_path / "cut.tsv", LABELLED[:-1]), 2) == (sentences, labels)


def test_a_file_with_hidden_labels_comes_back_byte_for_byte(tmp_path: Path) -> None:
    sentences, labels = read_tsv(write(tmp_path / "test.tsv", HIDDEN), None)
    assert (sentences, labels) == (["uneasy mishmash . ", "ünder", " 2 + 2"], [-1, -1, -1])
    assert to_tsv(sentences, None) == HIDDEN


def test_pairs_come_back_byte_for_byte(tmp_path: Path) -> None:
    """One text of a pair may be empty (QQP has such), not both."""
    texts, labels = read_tsv(write(tmp_path / "train.tsv", PAIRS), 3, PAIR)
    assert (texts, labels) == (["It rains. \tIt is wet.", "No\t", "\tonly one of them"], [0, 2, 1])
    assert to_tsv(texts, labels, PAIR) == PAIRS
    hidden = write(tmp_path / "test.tsv", to_tsv(texts, None, PAIR))
    assert read_tsv(hidden, None, PAIR) == (texts, [-1] * 3)


def test_numbers_come_back_byte_for_byte_and_as_floats(tmp_path: Path) -> None:
    texts, labels = read_tsv(write(tmp_path / "train.tsv", SCORES), (0.0, 5.0))
    assert labels == [5.0, 2.923, 0.0] and {type(label) for label in labels} == {float}
    assert to_tsv(texts, [5.0, 2.9230000972747803, 1.4e-45]) == SCORES  # as float32 has them


def test_minus_one_is_a_label_like_others_where_it_can_be(tmp_path: Path) -> None:
    data = b"sentence\tlabel\na\t-1.000\nb\t-1.000\n"
    texts, labels = read_tsv(write(tmp_path / "train.tsv", data), (-1.0, 1.0))
    assert labels == [-1.0, -1.0] and to_tsv(texts, labels) == data


HEADER = b"sentence\tlabel\n"
EXPECTED = r", expected 'sentence\tlabel'."
EMPTY = ", line 2: the sentence is empty. Remove the line or complete it."
BAD: list[tuple[bytes, int | None, str]] = [
    (b"sentence\nfine\n", 2, ", line 1: column label is missing: found b'sentence'" + EXPECTED),
    (b"", 2, ", line 1: column sentence is missing: found b''" + EXPECTED),
    (b"label\tsentence\n1\tfine\n", 2,
     r", line 1: wrong order of columns: found b'label\tsentence'" + EXPECTED),
    (b"sentence\tlabel\nfine\t1\n", None,
     r", line 1: column index is missing: found b'sentence\tlabel', expected 'index\tsentence'."),
    (b"sentence\tlabel\r\nfine\t1\r\n", 2,
     ", line 1: Windows line ends (CRLF). Save it with Unix line ends (LF)."),
    (HEADER + b"fine\t1\nfiner\t2\n", 2, ", line 3: label '2', expected one of 0, 1."),
    (HEADER + "fine\t١\n".encode(), 2, ", line 2: label '١', expected one of 0, 1."),
    (HEADER + b"fine\tPOSITIVE\n", 3, ", line 2: label 'POSITIVE', expected one of 0, 1, 2."),
    (HEADER + b"\t1\n", 2, EMPTY),
    (b"index\tsentence\n0\t\n", None, EMPTY),
    (HEADER + b"fine\t1\ncaf\xe9 noir\t0\n", 2,
     ", line 3: not UTF-8 at byte 4 (invalid continuation byte). Save as UTF-8."),
    (HEADER + b"a tab\tin the sentence\t1\n", 2,
     ", line 2: expected 2 columns separated by a tab, found 3."),
    (HEADER + b"fine\t1\n\n", 2, ", line 3: expected 2 columns separated by a tab, found 1."),
    (HEADER, 2, ": no sentence after the header."),
]  # fmt: skip


@pytest.mark.parametrize(("data", "classes", "message"), BAD)
def test_damage_is_named_with_file_and_line(
    tmp_path: Path, data: bytes, classes: int | None, message: str
) -> None:
    path = write(tmp_path / "data.tsv", data)
    with pytest.raises(UserError) as error:
        read_tsv(path, classes)
    assert str(error.value) == f"{path}{message}"


@pytest.mark.parametrize("label", ["5.001", "-0.1", "nan", "1e0", "1_0", ".5", "", "0.1234", "١"])
def test_a_label_that_is_no_number_of_the_scale_is_refused(tmp_path: Path, label: str) -> None:
    path = write(tmp_path / "train.tsv", f"sentence\tlabel\nfine\t1\nfine\t{label}\n".encode())
    with pytest.raises(UserError, match=f"line 3: label '{label}', expected a number from 0 to 5"):
        read_tsv(path, (0.0, 5.0))


@pytest.mark.parametrize(
    "data", [b"premise\thypothesis\tlabel\nalone\t1\n", b"premise\thypothesis\tlabel\n\t \t1\n"]
)
def test_a_pair_without_texts_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UserError, match="line 2: "):
        read_tsv(write(tmp_path / "data.tsv", data), 3, PAIR)


def test_a_missing_file_says_what_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"is missing\. Run `dvc repro`, which makes it"):
        read_tsv(tmp_path / "train.tsv", 2)
    with pytest.raises(UserError, match=r"is missing\. Run `dvc repro download_dataset`"):
        read_raw_data()
