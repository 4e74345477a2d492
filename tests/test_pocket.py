"""The embedded corpus: balance, plain text, no sentence twice or nearly so, pins, clones."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from conftest import ROOT, Repository, pin
from reproduce.inputs.catalog import read_dataset
from reproduce.inputs.sentences import md5, read_tsv

POCKET = ROOT / "data/pocket"
WORDS, CHARACTERS, CONTAINED = 0.5, 0.5, 0.8  # from here on two sentences are near-duplicates


def read(split: str) -> tuple[list[str], list[float]]:
    return read_tsv(POCKET / f"{split}.tsv", 2)


def plain(sentence: str) -> str:
    """Lower case, words separated by single spaces, no punctuation."""
    return " ".join(re.findall(r"[a-z0-9]+(?:'[a-z]+)?", sentence.lower()))


def near_duplicates(left: list[str], right: list[str]) -> list[tuple[str, str]]:
    """Pairs that share half of their words, or of their runs of 4 characters, or nearly all of one.

    The first finds exchanged and reordered words, the second inflections and typing errors, the
    third a sentence that was continued; it is asked only of sentences with 20 runs of 4 characters
    or more, because chance fills shorter ones.
    """

    def overlap(**kind: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        vectorizer = CountVectorizer(preprocessor=plain, binary=True, dtype=np.int32, **kind)
        counts = vectorizer.fit_transform([*left, *right])
        a, b = counts[: len(left)], counts[len(left) :]
        return (a @ b.T).toarray(), np.asarray(a.sum(axis=1)), np.asarray(b.sum(axis=1)).T

    shared, a, b = overlap(token_pattern=r"\S+")
    near = shared >= WORDS * (a + b - shared)
    shared, a, b = overlap(analyzer="char", ngram_range=(4, 4))
    near |= shared >= CHARACTERS * (a + b - shared)
    smaller = np.minimum(a, b)
    near |= (shared >= CONTAINED * smaller) & (smaller >= 20)
    return [(left[i], right[j]) for i, j in zip(*near.nonzero(), strict=True)]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_labels_are_balanced_and_text_is_plain_ascii(split: str) -> None:
    labels = read(split)[1]
    assert labels.count(0) == labels.count(1) == len(labels) / 2
    for line in (POCKET / f"{split}.tsv").read_bytes().decode("ascii").splitlines():
        assert re.fullmatch(r"[ -~]+\t(?:[01]|label)", line), line
    assert all(sentence == " ".join(sentence.split()) for sentence in read(split)[0])


def test_no_sentence_occurs_twice() -> None:
    sentences = [plain(s) for split in ("train", "validation") for s in read(split)[0]]
    assert len(set(sentences)) == len(sentences)


def test_nothing_near_a_validation_sentence_is_in_train() -> None:
    assert near_duplicates(read("train")[0], read("validation")[0]) == []


MORE = "and after all of that the rest of us went home by tram in rain and slept"
# Edits of real validation sentences; every one must be found.
EDITS: dict[str, Callable[[list[str]], list[str]]] = {
    "exchanged": lambda words: [*words[: len(words) // 2], "x", *words[len(words) // 2 + 1 :]],
    "shouted": lambda words: [*(word.upper() for word in words), "!!!"],
    "reordered": lambda words: words[::-1],
    "inflected": lambda words: [word + "s" * (i % 3 == 1) for i, word in enumerate(words)],
    "continued": lambda words: [*words, MORE],
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_planted_near_duplicate_is_found(edit: Callable[[list[str]], list[str]]) -> None:
    validation = read("validation")[0]
    victims = [sentence for sentence in validation if 10 <= len(sentence.split()) <= 25][:20]
    planted = [" ".join(edit(victim.split())) for victim in victims]
    assert set(near_duplicates(planted, validation)) == set(zip(planted, victims, strict=True))


def test_the_pins_of_the_catalog_match_the_files() -> None:
    pocket = read_dataset("pocket", ROOT / "catalog.yaml")
    assert set(pocket.splits()) == {"train", "validation"}
    for name, split in pocket.splits().items():
        path = POCKET / split.file
        assert {"bytes": split.bytes, "sha256": split.sha256} == pin(path)
        assert (split.rows, split.tsv_md5) == (len(read(name)[0]), md5(path.read_bytes()))


@pytest.mark.parametrize("setting", ["core.autocrlf=true", "core.eol=crlf"])
def test_a_clone_has_the_same_bytes_whatever_git_does_to_line_ends(
    repository: Repository, tmp_path: Path, setting: str
) -> None:
    settings = ("-c", setting, "-c", "core.autocrlf=true")
    repository.run("git", *settings, "clone", "-q", ".", str(tmp_path / "clone"))
    for name in repository.run("git", "ls-files", "-z").stdout.split("\0")[:-1]:
        assert (tmp_path / "clone" / name).read_bytes() == (repository.path / name).read_bytes()
