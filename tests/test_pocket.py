"""The embedded corpus: size, balance, plain text, no duplicate, nothing near a validation sentence in train, pins."""

import re
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from conftest import ROOT, load_yaml, pin
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
    """Pairs that share half of their words, or half of their runs of 4 characters, or where one holds nearly all of the other.

    The first finds exchanged and reordered words, the second inflections and typing errors, the third a sentence that was
    continued; it is asked only of sentences with 20 runs of 4 characters or more, because chance fills shorter ones.
    """

    def overlap(**kind: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        counts = CountVectorizer(
            preprocessor=plain, binary=True, dtype=np.int32, **kind
        ).fit_transform([*left, *right])
        a, b = counts[: len(left)], counts[len(left) :]
        return (a @ b.T).toarray(), np.asarray(a.sum(axis=1)), np.asarray(b.sum(axis=1)).T

    shared, a, b = overlap(token_pattern=r"\S+")
    near = shared >= WORDS * (a + b - shared)
    shared, a, b = overlap(analyzer="char", ngram_range=(4, 4))
    near |= shared >= CHARACTERS * (a + b - shared)
    smaller = np.minimum(a, b)
    near |= (shared >= CONTAINED * smaller) & (smaller >= 20)
    return [(left[i], right[j]) for i, j in zip(*near.nonzero(), strict=True)]


def test_there_are_enough_sentences() -> None:
    train, validation = read("train")[0], read("validation")[0]
    assert len(train) + len(validation) >= 1200
    assert len(validation) >= 240


@pytest.mark.parametrize("split", ["train", "validation"])
def test_labels_are_balanced(split: str) -> None:
    labels = read(split)[1]
    assert labels.count(0) == labels.count(1) == len(labels) / 2


@pytest.mark.parametrize("split", ["train", "validation"])
def test_text_is_plain_ascii(split: str) -> None:
    data = (POCKET / f"{split}.tsv").read_bytes()
    assert data.isascii() and data.endswith(b"\n")
    for line in data.decode().splitlines():
        assert re.fullmatch(r"[ -~]+\t(?:[01]|label)", line), line
    assert all(sentence == " ".join(sentence.split()) for sentence in read(split)[0]), (
        "spaces doubled or at an end"
    )


def test_no_sentence_occurs_twice() -> None:
    everything = [
        plain(sentence) for split in ("train", "validation") for sentence in read(split)[0]
    ]
    assert len(set(everything)) == len(everything)


def test_nothing_near_a_validation_sentence_is_in_train() -> None:
    assert near_duplicates(read("train")[0], read("validation")[0]) == []


MORE = [
    "and",
    "after",
    "all",
    "of",
    "that",
    "the",
    "rest",
    "of",
    "us",
    "went",
    "home",
    "by",
    "tram",
    "in",
    "rain",
    "and",
    "slept",
]
# Edits of real validation sentences; every one must be found.
EDITS: dict[str, Callable[[list[str]], list[str]]] = {
    "as it is": lambda words: words,
    "a word exchanged": lambda words: [*words[: len(words) // 2], "zebra", *words[len(words) // 2 + 1 :]],
    "a word left out": lambda words: [*words[: len(words) // 2], *words[len(words) // 2 + 1 :]],
    "a word put in": lambda words: [*words[:2], "really", *words[2:]],
    "shouted": lambda words: [*(word.upper() for word in words), "!!!"],
    "reordered": lambda words: words[::-1],
    "every third word inflected": lambda words: [word + "s" * (i % 3 == 1) for i, word in enumerate(words)],
    "negated": lambda words: ["It", "is", "not", "true", "that", *words],
    "continued": lambda words: [*words, *MORE],
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_planted_near_duplicate_is_found(edit: Callable[[list[str]], list[str]]) -> None:
    validation = read("validation")[0]
    victims = [sentence for sentence in validation if 10 <= len(sentence.split()) <= 25][:20]
    assert len(victims) == 20
    planted = [" ".join(edit(victim.split())) for victim in victims]
    assert set(near_duplicates(planted, validation)) == set(zip(planted, victims, strict=True))


def test_the_pins_of_the_catalog_match_the_files() -> None:
    catalog = ROOT / "catalog.yaml"
    pocket = read_dataset("pocket", catalog)
    assert [source.folder for source in pocket.sources] == ["data/pocket"]
    assert set(pocket.splits()) == {"train", "validation"}
    for name, split in pocket.splits().items():
        path = POCKET / split.file
        assert split.file == f"{name}.tsv"
        assert {"bytes": split.bytes, "sha256": split.sha256} == pin(path)
        assert split.rows == len(read(name)[0])
        assert split.tsv_md5 == md5(path.read_bytes())
    assert load_yaml(catalog)["datasets"]["pocket"]["labels"] == ["NEGATIVE", "POSITIVE"]


def test_the_readme_tells_the_numbers_of_the_files() -> None:
    readme = (POCKET / "README.md").read_text(encoding="utf-8")
    train, validation = len(read("train")[0]), len(read("validation")[0])
    for number in (
        f"{train + validation:,} sentences",
        f"{train:,} to",
        f"{validation} to",
        f"{100 / validation:.2f} points",
    ):
        assert number in readme
