"""`make pin`: bytes, sha256 and rows of an entry of one's own, by the Hub's word or a folder's."""

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from conftest import pin, run_here
from hub import COMMIT, Hub, contents, face, serving
from reproduce.inputs.catalog import TOKENIZER_FILES, read_dataset, read_model

HUB = f"""hub: test-org/films
        revision: {COMMIT}"""
CATALOG = """\
# A comment that stays.
datasets:

  films:    # as is this one
    sources:
      - {hub}
    columns: [sentence]
    labels: [bad, good]
    metrics: [accuracy]
    train:
      file: train.parquet
      rows: 3  # by the card
    validation:
      file: validation.parquet
models:
  small:
    sources:
      - folder: {folder}
    license: mit
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> Iterator[Hub]:
    """A folder with a catalog in which one dataset, of this Hub, and one model are not pinned."""
    data, project = tmp_path / "data", tmp_path / "project"
    for folder in (data, project):
        folder.mkdir()
    for split, rows in (("train", 3), ("validation", 2)):
        table = pa.table({"sentence": ["fine"] * rows, "label": [1] * rows})
        pyarrow.parquet.write_table(table, data / f"{split}.parquet")
    (project / "catalog.yaml").write_text(CATALOG.format(hub=HUB, folder=tiny_model))
    monkeypatch.chdir(project)
    with serving() as server:
        server.add("datasets/test-org/films", data)
        face(monkeypatch, server.url, tmp_path)
        yield server


def lines() -> list[str]:
    return Path("catalog.yaml").read_text().splitlines()


def run(*arguments: str) -> str:
    """The tool's message. The catalog keeps all its lines in their order, a refusal all files."""
    before, files = lines(), contents(Path())
    done = run_here(Path.cwd(), dict(os.environ), "tools.pin", *arguments)
    assert [line for line in lines() if line in before] == before
    message = done.stderr.partition("error: ")[2]  # behind the client's progress
    assert done.returncode == (1 if message else 0), done.stderr
    if message:
        assert contents(Path()) == files
    return message


def test_lines_are_added_to_the_dataset_and_none_is_changed(hub: Hub) -> None:
    assert run("--dataset", "films") == ""
    pinned = lines()
    place = pinned.index("      file: train.parquet")
    added = [line.split(":")[0] for line in pinned[place + 1 : place + 3]]
    assert added == ["      bytes", "      sha256"]
    entry = read_dataset("films")
    for split, rows in ((entry.train, 3), (entry.validation, 2)):
        found = pin(hub.files["datasets/test-org/films", split.file])
        assert ({"bytes": split.bytes, "sha256": split.sha256}, split.rows) == (found, rows)
    assert run("--dataset", "films") == "" and lines() == pinned  # already


def test_a_model_is_pinned_from_its_sources_alone(hub: Hub, tiny_model: Path) -> None:
    assert run("--model", "small") == ""
    entry = read_model("small")
    assert set(entry.tokenizer) == set(TOKENIZER_FILES)
    assert entry.weights["model.safetensors"].model_dump() == pin(tiny_model / "model.safetensors")


WRONG = [
    ("rows: 3", "rows: 4", "train.parquet: expected 4 rows (catalog.yaml), found 3."),
    ("rows: 3", "bytes: 1", "catalog.yaml: datasets.films.train.bytes is pinned to 1; its source"),
    ("train.parquet", "x.parquet", "Hub test-org/films@01234567: 404 Not Found: x.parquet in "),
    (HUB, "folder: nowhere", "folder nowhere: there is no train.parquet. Nothing was written."),
    (HUB, "{pypi: x==1, inside: x}", "PyPI x==1: this command pins the files "),
    ("\n      file: validation.parquet", " {file: validation.parquet}",
     "catalog.yaml: datasets.films: write it without braces, a line a"),
]  # fmt: skip


@pytest.mark.parametrize(("part", "other", "message"), WRONG)
def test_what_does_not_fit_is_refused_and_the_catalog_kept(
    hub: Hub, part: str, other: str, message: str
) -> None:
    text = Path("catalog.yaml").read_text()
    assert part in text
    Path("catalog.yaml").write_text(text.replace(part, other))
    assert run("--dataset", "films").startswith(message)


def test_bytes_must_be_what_the_hub_states(hub: Hub, tmp_path: Path) -> None:
    """The sha256 of a file in Git LFS; of any other, the checksum has 40 digits."""
    path, wrong = hub.files["datasets/test-org/films", "train.parquet"], "0" * 64
    hub.etags[path] = wrong
    message = run("--dataset", "films")
    assert f"is not what the Hub states: expected {wrong}, found " in message
    next((tmp_path / "cache").rglob(wrong)).unlink()  # as the message says
    hub.etags[path] = "0" * 40
    assert run("--dataset", "films") == ""
    assert read_dataset("films").train.sha256 == pin(path)["sha256"]
