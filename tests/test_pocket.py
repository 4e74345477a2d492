"""The embedded corpus: balance, plain text, no sentence twice or nearly so, pins, clones."""

import hashlib
from pathlib import Path

from conftest import ROOT, Repository, pin
from reproduce.inputs.catalog import read_dataset
from reproduce.inputs.sentences import read_tsv

POCKET = ROOT / "data/pocket"


def read(split: str) -> tuple[list[str], list[float]]:
    return read_tsv(POCKET / f"{split}.tsv", 2)


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
