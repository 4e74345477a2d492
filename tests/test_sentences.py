"""TSV files: byte for byte there and back, and one message with file and line for every kind of damage."""

import hashlib
from pathlib import Path

import pytest

from conftest import ROOT
from reproduce.files import UserError
from reproduce.inputs.sentences import md5, read_tsv, to_tsv

LABELLED = (
    "sentence\tlabel\n"
    "hide new secretions from the parental units \t0\n"  # trailing space, as in SST-2
    "  two in front, naïve café – “déjà vu” 電影 🎬\t1\n"
    'a "quoted" film\\n with \r inside, no CSV rules\t1\n'
    "no-break space at the end\N{NO-BREAK SPACE}\t0\n"
).encode()
HIDDEN = "index\tsentence\n0\tuneasy mishmash . \n1\tünder\n2\t 2 + 2\n".encode()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_labelled_file_comes_back_byte_for_byte(tmp_path: Path) -> None:
    sentences, labels = read_tsv(write(tmp_path / "train.tsv", LABELLED), 2)
    assert labels == [0, 1, 1, 0]
    assert sentences == [
        "hide new secretions from the parental units ",
        "  two in front, naïve café – “déjà vu” 電影 🎬",
        'a "quoted" film\\n with \r inside, no CSV rules',
        "no-break space at the end\N{NO-BREAK SPACE}",
    ]
    assert to_tsv(sentences, labels) == LABELLED


def test_a_file_with_hidden_labels_comes_back_byte_for_byte(tmp_path: Path) -> None:
    sentences, labels = read_tsv(write(tmp_path / "test.tsv", HIDDEN), None)
    assert (sentences, labels) == (["uneasy mishmash . ", "ünder", " 2 + 2"], [-1, -1, -1])
    assert to_tsv(sentences, labels) == HIDDEN


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_pocket_files_come_back_byte_for_byte(split: str) -> None:
    path = ROOT / "data/pocket" / f"{split}.tsv"
    assert to_tsv(*read_tsv(path, 2)) == path.read_bytes()


def test_the_last_newline_may_be_missing(tmp_path: Path) -> None:
    assert read_tsv(write(tmp_path / "train.tsv", LABELLED[:-1]), 2) == read_tsv(
        write(tmp_path / "all.tsv", LABELLED), 2
    )


def test_labels_go_up_to_the_number_of_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "train.tsv", b"sentence\tlabel\na\t0\nb\t1\nc\t2\n")
    assert read_tsv(path, 3) == (["a", "b", "c"], [0, 1, 2])
    with pytest.raises(UserError, match=r"line 4: label '2', expected one of 0, 1\.$"):
        read_tsv(path, 2)


HEADER = b"sentence\tlabel\n"
BAD = {
    "label column missing": (b"sentence\nfine\n", 2,
                             r", line 1: column label is missing: found b'sentence', expected 'sentence\tlabel'."),
    "sentence column missing": (b"text\tlabel\nfine\t1\n", 2,
                                r", line 1: column sentence is missing: found b'text\tlabel', expected 'sentence\tlabel'."),
    "no header": (b"fine\t1\n", 2, r", line 1: column sentence is missing: found b'fine\t1', expected 'sentence\tlabel'."),
    "empty file": (b"", 2, r", line 1: column sentence is missing: found b'', expected 'sentence\tlabel'."),
    "wrong order": (b"label\tsentence\n1\tfine\n", 2,
                    r", line 1: wrong order of columns: found b'label\tsentence', expected 'sentence\tlabel'."),
    "labelled where hidden": (b"sentence\tlabel\nfine\t1\n", None,
                              r", line 1: column index is missing: found b'sentence\tlabel', expected 'index\tsentence'."),
    "hidden where labelled": (b"index\tsentence\n0\tfine\n", 2,
                              r", line 1: column label is missing: found b'index\tsentence', expected 'sentence\tlabel'."),
    "label 2": (HEADER + b"fine\t1\nfiner\t2\n", 2, ", line 3: label '2', expected one of 0, 1."),
    "label -1": (HEADER + b"fine\t-1\n", 2, ", line 2: label '-1', expected one of 0, 1."),
    "label +1": (HEADER + b"fine\t+1\n", 2, ", line 2: label '+1', expected one of 0, 1."),
    "label 01x": (HEADER + b"fine\t1\nfine\t0\nfine\t01x\n", 2, ", line 4: label '01x', expected one of 0, 1."),
    "label 1.0": (HEADER + b"fine\t1.0\n", 2, ", line 2: label '1.0', expected one of 0, 1."),
    "label with a space": (HEADER + b"fine\t1 \n", 2, ", line 2: label '1 ', expected one of 0, 1."),
    "label in other digits": (HEADER + "fine\t١\n".encode(), 2, ", line 2: label '١', expected one of 0, 1."),
    "label a word": (HEADER + b"fine\tPOSITIVE\n", 3, ", line 2: label 'POSITIVE', expected one of 0, 1, 2."),
    "label empty": (HEADER + b"fine\t\n", 2, ", line 2: label '', expected one of 0, 1."),
    "sentence empty": (HEADER + b"fine\t1\n\t1\n", 2, ", line 3: the sentence is empty. Remove the line or complete it."),
    "sentence blank": (HEADER + b"  \t1\n", 2, ", line 2: the sentence is empty. Remove the line or complete it."),
    "sentence a no-break space": (HEADER + "\N{NO-BREAK SPACE}\t1\n".encode(), 2,
                                  ", line 2: the sentence is empty. Remove the line or complete it."),
    "hidden sentence empty": (b"index\tsentence\n0\t\n", None,
                              ", line 2: the sentence is empty. Remove the line or complete it."),
    "not UTF-8": (HEADER + b"fine\t1\ncaf\xe9 noir\t0\n", 2,
                  ", line 3: not UTF-8 at byte 4 (invalid continuation byte). Save as UTF-8."),
    "1 column": (HEADER + b"fine\t1\nno label here\n", 2, ", line 3: expected 2 columns separated by a tab, found 1."),
    "3 columns": (HEADER + b"a tab\tin the sentence\t1\n", 2, ", line 2: expected 2 columns separated by a tab, found 3."),
    "blank line inside": (HEADER + b"fine\t1\n\nfine\t1\n", 2, ", line 3: expected 2 columns separated by a tab, found 1."),
    "blank line at the end": (HEADER + b"fine\t1\n\n", 2, ", line 3: expected 2 columns separated by a tab, found 1."),
    "header only": (HEADER, 2, ": no sentence after the header."),
    "header only, no newline": (HEADER[:-1], 2, ": no sentence after the header."),
}  # fmt: skip


@pytest.mark.parametrize(("data", "n_labels", "message"), BAD.values(), ids=BAD)
def test_damage_is_named_with_file_and_line(
    tmp_path: Path, data: bytes, n_labels: int | None, message: str
) -> None:
    path = write(tmp_path / "data.tsv", data)
    with pytest.raises(UserError) as error:
        read_tsv(path, n_labels)
    assert str(error.value) == f"{path}{message}"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_tsv(tmp_path / "train.tsv", 2)
    assert (
        str(error.value) == f"{tmp_path / 'train.tsv'} is missing. Run `dvc repro`, which makes it."
    )


def test_a_long_header_is_cut_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_tsv(write(tmp_path / "train.tsv", b"x" * 10_000), 2)
    assert f"found {b'x' * 80!r}, expected" in str(error.value)


@pytest.mark.parametrize("label", ["01", "00"])
def test_a_label_with_a_leading_zero_is_no_label(tmp_path: Path, label: str) -> None:
    """It would not come back byte for byte."""
    with pytest.raises(UserError, match=f"line 2: label '{label}', expected one of 0, 1"):
        read_tsv(write(tmp_path / "train.tsv", f"sentence\tlabel\nfine\t{label}\n".encode()), 2)


@pytest.mark.parametrize(
    ("data", "n_labels"),
    [(b"sentence\tlabel\r\nfine\t1\r\n", 2), (b"index\tsentence\r\n0\tfine\r\n", None)],
)
def test_windows_newlines_are_named_in_the_first_line(
    tmp_path: Path, data: bytes, n_labels: int | None
) -> None:
    """Else every hidden sentence would silently end in a carriage return."""
    with pytest.raises(UserError, match="line 1: "):
        read_tsv(write(tmp_path / "data.tsv", data), n_labels)


def test_sentences_and_labels_of_unequal_number_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        to_tsv(["a", "b"], [1])


def test_md5_is_that_of_the_bytes() -> None:
    assert md5(b"abc") == "900150983cd24fb0d6963f7d28e17f72"  # RFC 1321, A.5
    assert md5(LABELLED) == hashlib.md5(LABELLED, usedforsecurity=False).hexdigest()


# --- pairs and numbers ------------------------------------------------------------------------------------------------

PAIR = ("premise", "hypothesis")
PAIRS = b"premise\thypothesis\tlabel\nIt rains. \tIt is wet.\t0\nNo\t\t2\n\tonly one of them\t1\n"
SCORES = b"sentence1\tsentence2\tlabel\na\tb\t5.000\nc\td\t2.923\ne\tf\t0.000\n"
TWO = ("sentence1", "sentence2")


def test_pairs_come_back_byte_for_byte(tmp_path: Path) -> None:
    """One text of a pair may be empty (QQP has such), not both."""
    texts, labels = read_tsv(write(tmp_path / "train.tsv", PAIRS), 3, PAIR)
    assert (texts, labels) == (["It rains. \tIt is wet.", "No\t", "\tonly one of them"], [0, 2, 1])
    assert to_tsv(texts, labels, PAIR) == PAIRS
    hidden = to_tsv(texts, [-1] * 3, PAIR)
    assert (
        hidden
        == b"index\tpremise\thypothesis\n0\tIt rains. \tIt is wet.\n1\tNo\t\n2\t\tonly one of them\n"
    )
    assert read_tsv(write(tmp_path / "test.tsv", hidden), None, PAIR) == (texts, [-1] * 3)


def test_numbers_come_back_byte_for_byte_and_as_floats(tmp_path: Path) -> None:
    texts, labels = read_tsv(write(tmp_path / "train.tsv", SCORES), (0.0, 5.0), TWO)
    assert labels == [5.0, 2.923, 0.0] and {type(label) for label in labels} == {float}
    assert to_tsv(texts, labels, TWO) == SCORES
    as_float32 = [5.0, 2.9230000972747803, 1.401298464324817e-45]
    assert to_tsv(texts, as_float32, TWO) == SCORES


def test_a_number_that_three_decimals_would_change_is_refused(tmp_path: Path) -> None:
    """Rounding it in silence would train on other labels."""
    written = to_tsv(["a"], [0.1234], ["sentence"])
    assert written == b"sentence\tlabel\na\t0.1234\n"
    with pytest.raises(UserError) as error:
        read_tsv(write(tmp_path / "train.tsv", written), (0, 1))
    assert str(error.value).endswith(
        "line 2: label '0.1234', expected a number from 0 to 1 with at most three decimals."
    )


@pytest.mark.parametrize(
    "label",
    ["5.001", "-0.1", "nan", "inf", "1e0", "1_0", " 1", "1.", ".5", "", "x", "+1", "\u0661"],
)
def test_a_label_that_is_no_number_of_the_scale_is_refused(tmp_path: Path, label: str) -> None:
    path = write(tmp_path / "train.tsv", f"sentence\tlabel\nfine\t1\nfine\t{label}\n".encode())
    with pytest.raises(UserError) as error:
        read_tsv(path, (0.0, 5.0))
    assert (
        str(error.value)
        == f"{path}, line 3: label {label!r}, expected a number from 0 to 5 with at most three decimals."
    )


def test_a_scale_may_go_below_zero(tmp_path: Path) -> None:
    path = write(tmp_path / "train.tsv", b"sentence\tlabel\na\t-1.000\nb\t0.5\nc\t1\n")
    assert read_tsv(path, (-1, 1))[1] == [-1.0, 0.5, 1.0]


BAD_PAIRS = {
    "one text": (b"premise\thypothesis\tlabel\nalone\t1\n", ", line 2: expected 3 columns separated by a tab, found 2."),
    "three texts": (b"premise\thypothesis\tlabel\na\tb\tc\t1\n", ", line 2: expected 3 columns separated by a tab, found 4."),
    "both empty": (b"premise\thypothesis\tlabel\n\t \t1\n", ", line 2: the sentence is empty. Remove the line or complete it."),
    "no second column": (b"premise\tlabel\na\t1\n", ", line 1: column hypothesis is missing: found b'premise\\tlabel', "
                         "expected 'premise\\thypothesis\\tlabel'."),
    "exchanged": (b"hypothesis\tpremise\tlabel\na\tb\t1\n", ", line 1: wrong order of columns: found "
                  "b'hypothesis\\tpremise\\tlabel', expected 'premise\\thypothesis\\tlabel'."),
}  # fmt: skip


@pytest.mark.parametrize(("data", "message"), BAD_PAIRS.values(), ids=BAD_PAIRS)
def test_damaged_pairs_are_named_with_file_and_line(
    tmp_path: Path, data: bytes, message: str
) -> None:
    path = write(tmp_path / "data.tsv", data)
    with pytest.raises(UserError) as error:
        read_tsv(path, 3, PAIR)
    assert str(error.value) == f"{path}{message}"
