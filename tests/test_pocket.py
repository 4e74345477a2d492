"""The embedded corpus: balance, plain text, no sentence twice or nearly so, pins, clones."""

import hashlib
import re
from pathlib import Path

import pytest

from conftest import ROOT, Repository, pin
from reproduce.inputs.catalog import read_dataset
from reproduce.inputs.sentences import read_tsv

POCKET = ROOT / "data/pocket"


def read(split: str) -> tuple[list[str], list[float]]:
    return read_tsv(POCKET / f"{split}.tsv", 2)


def plain(sentence: str) -> str:
    """Lower case, words separated by single spaces, no punctuation."""
    return " ".join(re.findall(r"[a-z0-9]+(?:'[a-z]+)?", sentence.lower()))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_labels_are_balanced_and_text_is_plain_ascii(split: str) -> None:
    labels = read(split)[1]
    assert labels.count(0) == labels.count(1) == len(labels) / 2
    for line in (POCKET / f"{split}.tsv").read_bytes().decode("ascii").splitlines():
        assert re.fullmatch(r"[ -~]+\t(?:[01]|label)", line), line
    assert all(sentence == " ".join(sentence.split()) for sentence in read(split)[0])


def test_no_sentence_occurs_twice_and_nothing_near_a_validation_sentence_is_in_train() -> None:
    """No two of them share half of their words."""
    train, validation = ([plain(s) for s in read(split)[0]] for split in ("train", "validation"))
    assert len({*train, *validation}) == len(train) + len(validation)
    words = [set(sentence.split()) for sentence in train]
    for a in (set(sentence.split()) for sentence in validation):
        assert [b for b in words if 2 * len(a & b) >= len(a | b)] == []


def test_the_pins_of_the_catalog_match_the_files() -> None:
    pocket = read_dataset("pocket", ROOT / "catalog.yaml")
    assert set(pocket.splits()) == {"train", "validation"}
    for name, split in pocket.splits().items():
        path = POCKET / split.file
        assert {"bytes": split.bytes, "sha256": split.sha256} == pin(path)
        assert split.rows == len(read(name)[0])
        assert split.tsv_md5 == hashlib.md5(path.read_bytes()).hexdigest()


def test_a_clone_has_the_same_bytes_whatever_git_does_to_line_ends(
    repository: Repository, tmp_path: Path
) -> None:
    repository.run("git", "-c", "core.autocrlf=true", "clone", "-q", ".", str(tmp_path / "clone"))
    for name in repository.run("git", "ls-files", "-z").stdout.split("\0")[:-1]:
        assert (tmp_path / "clone" / name).read_bytes() == (repository.path / name).read_bytes()
