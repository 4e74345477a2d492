"""The dataset: the canonical form of what was downloaded, and sentences held out of train."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from conftest import Here, Repository
from reproduce.files import UserError
from reproduce.inputs.canonical import hold_out, read_split
from reproduce.inputs.catalog import Dataset, Source, Split
from reproduce.inputs.sentences import read_tsv, to_tsv
from reproduce.params import Selection

SOME = Split(file="some.tsv", bytes=1, sha256="a" * 64)
ONE_TEXT = Dataset(
    sources=(Source(folder="x"),), columns=("sentence",), labels=("no", "yes"),
    metrics=("accuracy",), train=SOME, validation=SOME.model_copy(update={"file": "other.tsv"}),
)  # fmt: skip
PAIRS = ONE_TEXT.model_copy(update={"columns": ("one", "two")})
NUMBERS = PAIRS.model_copy(update={"labels": (), "scale": (0.0, 5.0), "metrics": ("pearson",)})
THREE = b"sentence\tlabel\na \t0\nb\t1\nc\t1\n"


def canonical(
    path: Path, dataset: Dataset = ONE_TEXT, hidden: bool = False, **more: Any
) -> tuple[bytes, int]:
    texts, labels = read_split(path, SOME.model_copy(update=more), dataset, hidden)
    return to_tsv(texts, None if hidden else labels, dataset.columns), len(texts)


def parquet(folder: Path, metadata: dict[str, str] | None = None, **columns: Any) -> Path:
    pyarrow.parquet.write_table(pa.table(columns, metadata=metadata), folder / "some.parquet")
    return folder / "some.parquet"


def test_tsv_and_parquet_have_one_canonical_form(tmp_path: Path) -> None:
    """Columns that the catalog does not name are not read, whatever they hold."""
    (tmp_path / "some.tsv").write_bytes(THREE[:-1])
    extra = pa.array([[("key", 1)]] * 3, pa.map_(pa.string(), pa.int64()))
    parquet(tmp_path, idx=extra, label=[0, 1, 1], sentence=["a ", "b", "c"])
    md5 = hashlib.md5(THREE, usedforsecurity=False).hexdigest()
    for name in ("some.tsv", "some.parquet"):
        assert canonical(tmp_path / name, rows=3, tsv_md5=md5) == (THREE, 3)
    assert (tmp_path / "some.tsv").read_bytes() == THREE[:-1]  # it may be another split's


def test_other_rows_or_bytes_than_published_are_refused(tmp_path: Path) -> None:
    (tmp_path / "some.tsv").write_bytes(THREE)
    with pytest.raises(UserError, match=r"^some\.tsv: expected 4 rows"):
        canonical(tmp_path / "some.tsv", rows=4)
    with pytest.raises(UserError, match=r"^some\.tsv: canonical"):
        canonical(tmp_path / "some.tsv", rows=3, tsv_md5="0" * 32)


def test_tabs_and_line_breaks_in_a_text_become_spaces(tmp_path: Path) -> None:
    path = parquet(tmp_path, two=["b\r\nb", "d"], one=["a\ta ", "c\n"], label=[1, 0])
    assert canonical(path, PAIRS)[0] == b"one\ttwo\tlabel\na a \tb  b\t1\nc \td\t0\n"
    (tmp_path / "some.tsv").write_bytes(b"sentence\tlabel\na\rb\t1\n")
    assert canonical(tmp_path / "some.tsv")[0] == b"sentence\tlabel\na b\t1\n"


@pytest.mark.parametrize("labels", [[-1, -1], [1, 0], [7, 7], [None, 1], ["a", "b"], None], ids=str)
def test_labels_of_a_test_split_are_not_read(tmp_path: Path, labels: list[Any] | None) -> None:
    more: Any = {} if labels is None else {"label": labels}
    path = parquet(tmp_path, one=["a", "c"], two=["b", "d"], **more)
    assert canonical(path, PAIRS, hidden=True)[0] == b"index\tone\ttwo\n0\ta\tb\n1\tc\td\n"


NOT_UTF8 = pa.array([b"caf\xe9 noir"]).cast(pa.string(), safe=False)
UNFIT: list[tuple[Dataset, Any, list[Any] | None, str]] = [
    (PAIRS, ["a"], [-1], ", line 2: label '-1', expected one of 0, 1."),
    (PAIRS, ["a"], None, ": column label is missing, expected one and two and label once each"),
    (PAIRS, ["a", None], [0, 1], ": column one has 1 empty cell(s)"),
    (PAIRS, [1], [0], ": column one holds int64, expected text."),
    (PAIRS, ["a"], [0.5], ": column label holds double, expected integers."),
    (PAIRS, ["a"], [True], ": column label holds bool, expected integers."),
    (PAIRS, [" "], [0], ", line 2: the sentence is empty."),
    (PAIRS, NOT_UTF8, [0], ": no Parquet file, or a damaged one ("),
    (NUMBERS, ["a", "b"], [0.5, None], ": column label has 1 empty cell(s)"),
    (NUMBERS, ["a"], [float("nan")], ", line 2: label 'nan', expected a number from 0 to 5"),
    (NUMBERS, ["a"], [0.12345], ", line 2: label '0.12345', expected a number from 0 to 5"),
    (NUMBERS, ["a"], [7], ", line 2: label '7', expected a number from 0 to 5"),
]


@pytest.mark.parametrize(("dataset", "texts", "labels", "message"), UNFIT)
def test_what_a_parquet_file_may_not_hold(
    tmp_path: Path, dataset: Dataset, texts: Any, labels: list[Any] | None, message: str
) -> None:
    """Named as the catalog names the file, not by the scratch copy."""
    more: Any = {} if labels is None else {"label": labels}
    path = parquet(tmp_path, one=texts, two=[" "] * len(texts), **more)
    with pytest.raises(UserError) as error:
        canonical(path, dataset)
    assert str(error.value).startswith(f"some.tsv{message}")


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    table = pa.table([["a"], ["b"], [1]], names=["sentence", "sentence", "label"])
    pyarrow.parquet.write_table(table, tmp_path / "some.parquet")
    with pytest.raises(UserError, match=r"^some\.tsv: column sentence is there 2 times"):
        canonical(tmp_path / "some.parquet")


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path, sentence=["x" * 500], label=[1])
    data = path.read_bytes()
    page_of_noise = data[:4] + b"\xff" * 60 + data[64:]
    for damaged in (b"<html>log in</html>", page_of_noise):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"^some\.tsv: no Parquet file, or a damaged one \("):
            canonical(path)


@pytest.mark.parametrize("kind", [pa.int64(), pa.int8(), pa.uint16()], ids=str)
def test_classes_in_another_order_are_refused_whatever_the_labels_type(
    tmp_path: Path, kind: Any
) -> None:
    def named(*names: str) -> Path:
        described = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        metadata = {"huggingface": json.dumps(described)}
        return parquet(tmp_path, metadata, sentence=["a"], label=pa.array([1], kind))

    assert canonical(named("NO", "Yes"))[1] == 1  # letter case does not matter
    with pytest.raises(UserError, match=r"its classes are yes, no, in catalog\.yaml no, yes"):
        canonical(named("yes", "no"))


@pytest.mark.mirror
def test_the_real_sst2_has_the_published_md5(repository: Repository, mirror: Path) -> None:
    repository.edit("params.yaml", lambda data: data.update(dataset="sst2"))
    here = Here(repository.path, repository.env)
    done = here.stage("download_dataset", HUB_MIRROR=str(mirror.resolve()))
    assert "data/raw: sst2, train 67,349, validation 872, test 1,821 sentences" in done.stdout
    dev = (repository.path / "data/raw/validation.tsv").read_bytes()
    # torchtext's pin of dev.tsv; the stage held all three files against catalog.yaml's.
    assert hashlib.md5(dev, usedforsecurity=False).hexdigest() == "268856b487b2a31a28c0a93daaff7288"


# --- held-out sentences ---------------------------------------------------------------------------

# 300 sentences; every fifth occurs twice (as in SST-2, where 371 do), labels mixed.
SENTENCES = [f"sentence {i}" for i in range(300)] + [f"sentence {i}" for i in range(0, 300, 5)]
LABELS = [(i * 7 // 3) % 2 for i in range(360)]


def held(holdout: int) -> Any:
    return hold_out(SENTENCES, LABELS, Selection(holdout=holdout, train=0))


def test_held_out_sentences_are_apart_from_the_rest() -> None:
    more = set()
    for holdout in range(10, 50):
        kept, out = held(holdout)
        assert not set(kept[0]) & set(out[0]), "copies of a sentence were torn apart"
        parts = [*zip(*kept, strict=True), *zip(*out, strict=True)]
        assert sorted(parts) == sorted(zip(SENTENCES, LABELS, strict=True))
        more.add(len(out[0]) - holdout)
    assert more == {0, 1}  # one more, where a copy belongs to the last one


def test_which_sentences_are_held_out_depends_on_nothing_but_the_sentences() -> None:
    assert set(held(50)[1][0]) < set(held(100)[1][0])  # a smaller part lies within a larger one
    letters = "abcdefghijkl"
    order = sorted(letters, key=lambda letter: hashlib.sha256(letter.encode()).digest())
    for given in (letters, letters[::-1]):
        out = hold_out(given, [0] * 12, Selection(holdout=10, train=0))[1][0]
        # Those whose sha256 is lowest, in the file's order.
        assert out == [letter for letter in given if letter in order[:10]]


def test_too_many_held_out_sentences_are_refused() -> None:
    with pytest.raises(UserError, match=r"selection\.holdout 360 leaves nothing to train on"):
        held(360)


def test_the_stage_puts_held_out_sentences_in_the_place_of_the_validation_set(
    repository: Repository,
) -> None:
    here = Here(repository.path, repository.env)
    here.edit("params.yaml", lambda data: data["selection"].update(holdout=20, train=40))
    done = here.stage("download_dataset")
    assert "train 40, validation 20 sentences, validation held out of train" in done.stdout
    raw = [read_tsv(here.path / f"data/raw/{split}.tsv", 2) for split in ("train", "validation")]
    whole = read_tsv(here.path / "data/toy/train.tsv", 2)
    assert tuple(raw) == hold_out(*whole, Selection(holdout=20, train=40))
    assert here.json("data/dataset.json")["validation"] == "held out of train"
