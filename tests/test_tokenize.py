"""Tokenising: the tokenizer's own ids, cut and unpadded, in Parquet files that are the same bytes everywhere."""

import os
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from conftest import Repository
from reproduce.files import UserError
from reproduce.inputs.sentences import read_tsv
from reproduce.inputs.tokenizer import length_summary, load_tokenizer, tokenize_split
from stages import tokenize

NAMES = ["NEGATIVE", "POSITIVE"]
SENTENCES = ["A gripping film. ", "x" * 40, "Not funny, not once!", "ÜBER – 電影"]


def of_lengths(*lengths: int) -> Dataset:
    return Dataset.from_dict(
        {"input_ids": [list(range(n)) for n in lengths]},
        Features({"input_ids": List(Value("int32"))}),
    )


def test_ids_are_the_tokenizer_s_own(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    ids = tokenize_split(tokenizer, SENTENCES, [1, 0, 1, 0], NAMES, 128)["input_ids"]
    assert list(ids) == [tokenizer(sentence)["input_ids"] for sentence in SENTENCES]
    # And they are a real WordPiece tokenizer's: words of the vocabulary whole, others in pieces, unknown letters [UNK].
    tokens = [tokenizer.convert_ids_to_tokens(row) for row in ids]
    assert tokens[1] == ["[CLS]", "x", *["##x"] * 39, "[SEP]"]
    assert tokens[2][0] == "[CLS]" and tokens[2][-2:] == ["!", "[SEP]"]
    assert tokens[3].count("[UNK]") == 3  # the dash and two characters


def test_long_sentences_are_cut_at_max_length_and_still_end_in_sep(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    rows = list(tokenize_split(tokenizer, SENTENCES, [1, 0, 1, 0], NAMES, 10)["input_ids"])
    whole = [tokenizer(sentence)["input_ids"] for sentence in SENTENCES]
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert rows[1] == [cls, *whole[1][1:9], sep] and len(rows[1]) == 10
    assert rows[3] == whole[3]
    assert max(map(len, rows)) == 10


def test_nothing_is_padded_and_no_mask_is_stored(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    dataset = tokenize_split(tokenizer, SENTENCES, [1, 0, 1, 0], NAMES, 128)
    assert dataset.column_names == ["input_ids", "label"]
    lengths = [len(row) for row in dataset["input_ids"]]
    assert len(set(lengths)) > 1 and lengths[1] == 42
    assert not any(tokenizer.pad_token_id in row for row in dataset["input_ids"])
    dataset.to_parquet(str(tmp_path / "a.parquet"))
    schema = pyarrow.parquet.read_schema(tmp_path / "a.parquet")
    assert schema.names == ["input_ids", "label"]
    assert (
        schema.field("input_ids").type.value_type == pa.int32()
        and schema.field("label").type == pa.int64()
    )


def test_the_parquet_file_names_the_classes(finished: Repository) -> None:
    for split, count in (("train", 96), ("validation", 24)):
        table = pyarrow.parquet.read_table(
            finished.path / "data/tokenized/tiny" / f"{split}.parquet"
        )
        assert Features.from_arrow_schema(table.schema)["label"] == ClassLabel(names=NAMES)
        assert (
            table["label"].to_pylist()
            == read_tsv(finished.path / "data/raw" / f"{split}.tsv", 2)[1]
        )
        assert table.num_rows == count


def test_hidden_labels_stay_hidden(tiny_model: Path, tmp_path: Path) -> None:
    dataset = tokenize_split(load_tokenizer(tiny_model), ["a film", "a plot"], [-1, -1], NAMES, 128)
    dataset.to_parquet(str(tmp_path / "test.parquet"))
    assert pyarrow.parquet.read_table(tmp_path / "test.parquet")["label"].to_pylist() == [-1, -1]


def test_rows_keep_their_order_over_many_batches(tiny_model: Path) -> None:
    """10,000 sentences are a batch of `map`; here are two and a bit."""
    sentences = [f"film {'x' * (i % 7)} {chr(97 + i % 26)}" for i in range(20_011)]
    labels = [i % 3 % 2 for i in range(20_011)]
    tokenizer = load_tokenizer(tiny_model)
    dataset = tokenize_split(tokenizer, sentences, labels, NAMES, 128)
    assert dataset["label"][:] == labels
    rows = dataset["input_ids"][:]
    for i in (0, 1, 9_999, 10_000, 10_001, 19_999, 20_000, 20_010):
        assert rows[i] == tokenizer(sentences[i])["input_ids"]


def test_parquet_is_the_same_bytes_in_another_directory(
    copy: Repository, finished: Repository
) -> None:
    """Another path, another cache, another hash seed, an emptied output; DVC must see no change."""
    folder = Path("data/tokenized/tiny")
    expected = {path.name: path.read_bytes() for path in (finished.path / folder).iterdir()}
    assert set(expected) == {"train.parquet", "validation.parquet", "summary.json"}
    shutil.rmtree(copy.path / folder)
    copy.stage(
        "tokenize",
        "--model",
        "tiny",
        HF_HOME=str(copy.path.parent / "hf"),
        PYTHONHASHSEED="7",
        TZ="Asia/Tokyo",
    )
    assert {path.name: path.read_bytes() for path in (copy.path / folder).iterdir()} == expected


def test_length_summary_of_known_lengths() -> None:
    # 1 .. 100 tokens: mean 50.5, median 50.5, and the 99th percentile interpolates between 99 and 100.
    assert length_summary(of_lengths(*range(1, 101)), 100) == {
        "sentences": 100, "tokens": 5050, "mean": 50.5, "median": 50.5, "p99": 99.0, "max": 100, "at_max_length": 1,
    }  # fmt: skip
    assert length_summary(of_lengths(8, 3, 8, 5, 8), 8) == {
        "sentences": 5, "tokens": 32, "mean": 6.4, "median": 8.0, "p99": 8.0, "max": 8, "at_max_length": 3,
    }  # fmt: skip
    assert length_summary(of_lengths(4), 128) == {
        "sentences": 1, "tokens": 4, "mean": 4.0, "median": 4.0, "p99": 4.0, "max": 4, "at_max_length": 0,
    }  # fmt: skip


def test_the_summary_file_counts_what_the_parquet_files_hold(finished: Repository) -> None:
    summary = finished.json("data/tokenized/tiny/summary.json")
    assert set(summary) == {"train", "validation"}
    for split, numbers in summary.items():
        table = pyarrow.parquet.read_table(
            finished.path / "data/tokenized/tiny" / f"{split}.parquet"
        )
        lengths = [len(row) for row in table["input_ids"].to_pylist()]
        assert (numbers["sentences"], numbers["tokens"], numbers["max"]) == (
            len(lengths),
            sum(lengths),
            max(lengths),
        )


def test_a_missing_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_tokenizer(tmp_path / "tiny")
    assert (
        str(error.value)
        == f"{tmp_path}/tiny has no tokenizer.json. Run `dvc repro download_tokenizer`."
    )


def test_damaged_data_are_refused_and_the_earlier_output_stays(
    copy: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {
        path.name: path.read_bytes() for path in (copy.path / "data/tokenized/tiny").iterdir()
    }
    raw = copy.path / "data/raw/validation.tsv"
    text = raw.read_text(encoding="utf-8")
    raw.unlink()
    raw.write_text(text + "a sentence\t2\n", encoding="utf-8")
    monkeypatch.chdir(copy.path)
    monkeypatch.setattr(os, "environ", os.environ.copy())  # the stage switches the Hub off
    monkeypatch.setattr(sys, "argv", ["tokenize", "--model", "tiny"])
    with pytest.raises(
        UserError, match=r"^data/raw/validation\.tsv, line 26: label '2', expected one of 0, 1\.$"
    ):
        tokenize.main()
    assert {
        path.name: path.read_bytes() for path in (copy.path / "data/tokenized/tiny").iterdir()
    } == before
    assert [path.name for path in (copy.path / "data/tokenized").iterdir()] == ["tiny"]


# --- pairs and numbers ------------------------------------------------------------------------------------------------

FIRST = ["A gripping film. ", "x" * 12, "Not funny.", ""]
SECOND = ["The film grips.", "y" * 30, "", "Only this one"]
PAIRS = [f"{a}\t{b}" for a, b in zip(FIRST, SECOND, strict=True)]


@pytest.mark.parametrize("max_length", [128, 21])
def test_pairs_are_what_the_tokenizer_makes_of_two_texts(tiny_model: Path, max_length: int) -> None:
    tokenizer = load_tokenizer(tiny_model)
    directly = tokenizer(FIRST, SECOND, truncation=True, max_length=max_length)
    typed = tokenize_split(tokenizer, PAIRS, [1, 0, 1, 0], NAMES, max_length, token_types=True)
    assert typed.column_names == ["input_ids", "token_type_ids", "label"]
    assert list(typed["input_ids"]) == directly["input_ids"]
    assert list(typed["token_type_ids"]) == directly["token_type_ids"]
    plain = tokenize_split(
        tokenizer, PAIRS, [1, 0, 1, 0], NAMES, max_length
    )  # DistilBERT: the ids, and no types
    assert plain.column_names == ["input_ids", "label"]
    assert list(plain["input_ids"]) == directly["input_ids"]
    # By hand: [CLS] first [SEP] second [SEP], type 1 from behind the first [SEP].
    ids, types = typed["input_ids"][0], typed["token_type_ids"][0]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    cut = tokens.index("[SEP]")
    assert tokens[0] == "[CLS]" and tokens[-1] == "[SEP]" and tokens.count("[SEP]") == 2
    assert types == [0] * (cut + 1) + [1] * (len(ids) - cut - 1)


def test_of_a_pair_too_long_the_longer_text_is_cut(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    row = tokenizer.convert_ids_to_tokens(
        tokenize_split(tokenizer, PAIRS, [1, 0, 1, 0], NAMES, 21, True)["input_ids"][1]
    )
    # 12 pieces and 30 in 18 places.
    assert row == ["[CLS]", "x", *["##x"] * 8, "[SEP]", "y", *["##y"] * 8, "[SEP]"]


def test_single_sentences_have_no_token_types_whatever_the_model(tiny_model: Path) -> None:
    dataset = tokenize_split(
        load_tokenizer(tiny_model), SENTENCES, [1, 0, 1, 0], NAMES, 128, token_types=True
    )
    assert dataset.column_names == ["input_ids", "label"]


def test_labels_without_names_are_numbers(tiny_model: Path, tmp_path: Path) -> None:
    dataset = tokenize_split(
        load_tokenizer(tiny_model), PAIRS, [0.0, 2.923, 5.0, 1], [], 128, token_types=True
    )
    dataset.to_parquet(str(tmp_path / "a.parquet"))
    table = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    assert table.schema.field("label").type == pa.float32()
    assert table.schema.field("token_type_ids").type.value_type == pa.int32()
    assert table["label"].to_pylist() == pytest.approx([0.0, 2.923, 5.0, 1.0])
    assert Features.from_arrow_schema(table.schema)["label"] == Value("float32")
