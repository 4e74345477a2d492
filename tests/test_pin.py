"""`make pin`: bytes, sha256 and rows of an entry of one's own, by the Hub's word or a folder's."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from ruamel.yaml.comments import CommentedMap

from conftest import dump_yaml, load_yaml, pin
from hub import COMMIT, Hub, contents, face, serving
from reproduce.files import UserError
from reproduce.inputs.catalog import TOKENIZER_FILES, read_dataset, read_model
from tools import pin as tool

CATALOG = """\
# A comment that stays.
datasets:

  films:    # as is this one
    sources:
      - hub: test-org/films
        revision: {commit}
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
    text = CATALOG.format(commit=COMMIT, folder=tiny_model)
    (project / "catalog.yaml").write_text(text)
    monkeypatch.chdir(project)
    with serving() as server:
        server.add("datasets/test-org/films", data)
        face(monkeypatch, server.url, tmp_path)
        yield server


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["pin", *arguments])
    tool.main()


def refused(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    before = contents(Path())
    with pytest.raises(UserError) as error:
        run(monkeypatch, *(arguments or ("--dataset", "films")))
    assert contents(Path()) == before
    return str(error.value)


def test_lines_are_added_to_the_dataset_and_none_is_changed(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Path("catalog.yaml").read_text().splitlines()
    run(monkeypatch, "--dataset", "films")
    after = Path("catalog.yaml").read_text().splitlines()
    assert [line for line in after if line in before] == before
    place = after.index("      file: train.parquet")
    added = [line.split(":")[0].strip() for line in after[place + 1 : place + 3]]
    assert added == ["bytes", "sha256"]
    entry = read_dataset("films")
    for split, rows in ((entry.train, 3), (entry.validation, 2)):
        found = pin(hub.files["datasets/test-org/films", split.file])
        assert ({"bytes": split.bytes, "sha256": split.sha256}, split.rows) == (found, rows)


def test_a_model_is_pinned_from_its_sources_alone(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, "--model", "small")
    assert set(read_model("small").tokenizer) == set(TOKENIZER_FILES)


FLOW = CommentedMap(file="validation.parquet")
FLOW.fa.set_flow_style()  # in braces
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("train", {"rows": 4}, "train.parquet: expected 4 rows (catalog.yaml), found 3."),
    ("", {"labels": [], "scale": [2, 3], "metrics": ["pearson"]},
     "train.parquet, line 2: label '1', expected a number from 2 to 3"),
    ("train", {"bytes": 1, "sha256": "a" * 64},
     "catalog.yaml: datasets.films.train.bytes is pinned to 1; its source has "),
    ("train", {"file": "x.parquet"}, "Hub test-org/films@01234567: 404 Not Found: x.parquet in "),
    ("", {"sources": [{"folder": "nowhere"}]}, "there is no nowhere/train.parquet. Nothing was"),
    ("", {"validation": FLOW}, "catalog.yaml: datasets.films: write it without braces, a line a"),
]  # fmt: skip


@pytest.mark.parametrize(("part", "change", "message"), WRONG)
def test_what_does_not_fit_is_refused_and_the_catalog_kept(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, part: str, change: dict[str, Any], message: str
) -> None:
    data = load_yaml(Path("catalog.yaml"))
    films = data["datasets"]["films"]
    (films[part] if part else films).update(change)
    dump_yaml(Path("catalog.yaml"), data)
    assert refused(monkeypatch).startswith(message)


def test_bytes_must_be_what_the_hub_states(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sha256 (Git LFS), or git's blob id of any other file."""
    path = hub.files["datasets/test-org/films", "train.parquet"]
    for wrong in ("0" * 64, "0" * 40):
        hub.etags[path] = wrong
        assert f"is not what the Hub states: expected {wrong}, found " in refused(monkeypatch)
    blob = subprocess.check_output(["git", "hash-object", "--no-filters", path], text=True)
    hub.etags[path] = blob.strip()
    run(monkeypatch, "--dataset", "films")
    assert read_dataset("films").train.sha256 == pin(path)["sha256"]


def test_without_the_hub_a_mirror_is_believed(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    face(monkeypatch, "http://127.0.0.1:9")
    assert "HUB_MIRROR is not set. Nothing was written." in refused(monkeypatch)
    place = tmp_path / "mirror/datasets/test-org/films"
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "data")
    monkeypatch.setenv("HUB_MIRROR", str(tmp_path / "mirror"))
    run(monkeypatch, "--dataset", "films")
    assert read_dataset("films").train.rows == 3
