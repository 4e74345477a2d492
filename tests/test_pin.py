"""`make pin`: bytes, sha256 and rows of an entry of one's own, by the Hub's word or a folder's."""

import sys
from collections.abc import Callable, Iterator
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
Run = Callable[..., None]


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


@pytest.fixture
def run(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the tool, after which all lines of the catalog must be there still, in their order."""

    def run_tool(*arguments: str) -> None:
        before = Path("catalog.yaml").read_text().splitlines()
        monkeypatch.setattr(sys, "argv", ["pin", *arguments])
        tool.main()
        after = Path("catalog.yaml").read_text().splitlines()
        assert [line for line in after if line in before] == before

    return run_tool


def refused(run: Run) -> str:
    before = contents(Path())
    with pytest.raises(UserError) as error:
        run("--dataset", "films")
    assert contents(Path()) == before
    return str(error.value)


def test_lines_are_added_to_the_dataset_and_none_is_changed(hub: Hub, run: Run) -> None:
    run("--dataset", "films")
    lines = Path("catalog.yaml").read_text().splitlines()
    place = lines.index("      file: train.parquet")
    added = [line.split(":")[0] for line in lines[place + 1 : place + 3]]
    assert added == ["      bytes", "      sha256"]
    entry = read_dataset("films")
    for split, rows in ((entry.train, 3), (entry.validation, 2)):
        found = pin(hub.files["datasets/test-org/films", split.file])
        assert ({"bytes": split.bytes, "sha256": split.sha256}, split.rows) == (found, rows)
    run("--dataset", "films")
    assert Path("catalog.yaml").read_text().splitlines() == lines  # pinned already


def test_a_model_is_pinned_from_its_sources_alone(run: Run, tiny_model: Path) -> None:
    run("--model", "small")
    entry = read_model("small")
    assert set(entry.tokenizer) == set(TOKENIZER_FILES)
    assert entry.weights["model.safetensors"].model_dump() == pin(tiny_model / "model.safetensors")


FLOW = CommentedMap(file="validation.parquet")
FLOW.fa.set_flow_style()  # in braces
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("train", {"rows": 4}, "train.parquet: expected 4 rows (catalog.yaml), found 3."),
    ("", {"labels": [], "scale": [2, 3], "metrics": ["pearson"]},
     "train.parquet, line 2: label '1', expected a number from 2 to 3"),
    ("train", {"bytes": 1, "sha256": "a" * 64},
     "catalog.yaml: datasets.films.train.bytes is pinned to 1; its source has "),
    ("train", {"file": "x.parquet"}, "Hub test-org/films@01234567: 404 Not Found: x.parquet in "),
    ("", {"sources": [{"folder": "nowhere"}]}, "folder nowhere: there is no train.parquet. Nothin"),
    ("", {"sources": [{"pypi": "x==1", "inside": "x"}]}, "PyPI x==1: this command pins the files "),
    ("", {"validation": FLOW}, "catalog.yaml: datasets.films: write it without braces, a line a"),
]  # fmt: skip


@pytest.mark.parametrize(("part", "change", "message"), WRONG)
def test_what_does_not_fit_is_refused_and_the_catalog_kept(
    run: Run, part: str, change: dict[str, Any], message: str
) -> None:
    data = load_yaml(Path("catalog.yaml"))
    films = data["datasets"]["films"]
    (films[part] if part else films).update(change)
    dump_yaml(Path("catalog.yaml"), data)
    assert refused(run).startswith(message)


def test_bytes_must_be_what_the_hub_states(hub: Hub, run: Run, tmp_path: Path) -> None:
    """The sha256 of a file in Git LFS; of any other, the checksum has 40 digits."""
    path, wrong = hub.files["datasets/test-org/films", "train.parquet"], "0" * 64
    hub.etags[path] = wrong
    assert f"is not what the Hub states: expected {wrong}, found " in refused(run)
    next((tmp_path / "cache").rglob(wrong)).unlink()  # as the message says
    hub.etags[path] = "0" * 40
    run("--dataset", "films")
    assert read_dataset("films").train.sha256 == pin(path)["sha256"]
