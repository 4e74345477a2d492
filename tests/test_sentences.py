"""TSV files: byte for byte there and back, and one message with file and line for each damage."""

from pathlib import Path
from typing import Any

import pytest

from reproduce.files import UserError
from reproduce.inputs.sentences import read_raw_data, read_tsv, to_tsv

ONE = ("sentence",)
PAIR = ("premise", "hypothesis")
LABELLED = (
    "sentence\tlabel\n"
    "hide new secretions from the parental units \t0\n"  # trailing space, as in SST-2
    "  two in front, naïve café – “déjà vu” 電影 🎬\t1\n"
    'a "quoted" film\\n, no CSV rules\t1\n'
    "no-break space at the end\N{NO-BREAK SPACE}\t0\n" + "long " * 30_000 + "\t1\n"
)
HIDDEN = "index\tsentence\n0\tuneasy mishmash . \n1\tünder\n2\t 2 + 2\n"
# One text of a pair may be empty (QQP has such), not both.
PAIRS = "premise\thypothesis\tlabel\nIt rains. \tIt is wet.\t0\nNo\t\t2\n\tonly one of them\t1\n"
HIDDEN_PAIRS = "index\tpremise\thypothesis\n0\tIt rains. \tIt is wet.\n"
SCORES = "sentence\tlabel\na\t5.000\nb\t2.923\nc\t0.000\n"
MINUS_ONE = "sentence\tlabel\na\t-1.000\nb\t-1.000\n"  # a label like others, where it can be
GOOD: list[tuple[str, Any, tuple[str, ...], list[float]]] = [
    (LABELLED, 2, ONE, [0, 1, 1, 0, 1]),
    (HIDDEN, None, ONE, [-1, -1, -1]),
    (PAIRS, 3, PAIR, [0, 2, 1]),
    (HIDDEN_PAIRS, None, PAIR, [-1]),
    (SCORES, (0.0, 5.0), ONE, [5.0, 2.923, 0.0]),
    (MINUS_ONE, (-1.0, 1.0), ONE, [-1.0, -1.0]),
]


@pytest.mark.parametrize(("text", "values", "columns", "labels"), GOOD)
def test_a_file_comes_back_byte_for_byte(
    tmp_path: Path, text: str, values: Any, columns: tuple[str, ...], labels: list[float]
) -> None:
    path = tmp_path / "data.tsv"
    for data in (text.encode(), text.encode()[:-1]):
        path.write_bytes(data)
        texts, found = read_tsv(path, values, columns)
        assert all(each in text for each in texts)
        assert found == labels and set(map(type, found)) == set(map(type, labels))
        assert to_tsv(texts, None if values is None else found, columns) == text.encode()


def test_numbers_are_written_as_float32_has_them() -> None:
    assert to_tsv(["a", "b", "c"], [5.0, 2.9230000972747803, 1.4e-45]) == SCORES.encode()


HEADER = b"sentence\tlabel\n"
EXPECTED = r", expected 'sentence\tlabel'."
BAD: list[tuple[bytes, int | None, str]] = [
    (b"", 2, ", line 1: header b''" + EXPECTED),
    (HEADER, None, r", line 1: header b'sentence\tlabel', expected 'index\tsentence'."),
    (b"sentence\tlabel\r\nfine\t1\r\n", 2,
     r", line 1: header b'sentence\tlabel\r'" + EXPECTED + " Save it with Unix line ends (LF)."),
    (b"index\tsentence\n0\tfine\n0\tfiner\n", None,
     ", line 3: index '0', expected 1: they count lines."),
    (HEADER + b"fine\t1\nfiner\t2\n", 2, ", line 3: label '2', expected one of 0, 1."),
    (HEADER + "fine\t١\n".encode(), 3, ", line 2: label '١', expected one of 0, 1, 2."),
    (HEADER + b"\t1\n", 2, ", line 2: the sentence is empty. Remove the line or complete it."),
    (HEADER + b"fine\t1\ncaf\xe9 noir\t0\n", 2,
     ", line 3: not UTF-8 at byte 4 (invalid continuation byte). Save as UTF-8."),
    (HEADER + b"a tab\tin the sentence\t1\n", 2,
     ", line 2: expected 2 columns separated by a tab, found 3."),
    (HEADER, 2, ": no sentence after the header."),
]  # fmt: skip


@pytest.mark.parametrize(("data", "classes", "message"), BAD)
def test_damage_is_named_with_file_and_line(
    tmp_path: Path, data: bytes, classes: int | None, message: str
) -> None:
    path = tmp_path / "data.tsv"
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        read_tsv(path, classes)
    assert str(error.value) == f"{path}{message}"


@pytest.mark.parametrize("label", ["5.001", "-0.1", "nan", "1e0", "1_0", ".5", "", "0.1234", "١"])
def test_a_label_that_is_no_number_of_the_scale_is_refused(tmp_path: Path, label: str) -> None:
    path = tmp_path / "train.tsv"
    path.write_text(f"sentence\tlabel\nfine\t1\nfine\t{label}\n")
    with pytest.raises(UserError, match=f"line 3: label '{label}', expected a number from 0 to 5"):
        read_tsv(path, (0.0, 5.0))


@pytest.mark.parametrize("row", ["alone\t1", "\t \t1"])
def test_a_pair_without_texts_is_refused(tmp_path: Path, row: str) -> None:
    (tmp_path / "data.tsv").write_text(f"premise\thypothesis\tlabel\n{row}\n")
    with pytest.raises(UserError, match="line 2: "):
        read_tsv(tmp_path / "data.tsv", 3, PAIR)


def test_a_missing_file_says_what_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"is missing\. Run `dvc repro`, which makes it"):
        read_tsv(tmp_path / "train.tsv", 2)
    with pytest.raises(UserError, match=r"is missing\. Run `dvc repro download_dataset`"):
        read_raw_data()
