"""Downloads: pins, the order of sources, folder and wheel, the catalog, the canonical form, held-out sentences (Hub: test_hub.py)."""

import hashlib
import importlib.util
import zipfile
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from conftest import MODEL_FILES, ROOT, Repository, dump_yaml, load_yaml, pin
from hub import COMMIT, contents
from reproduce.files import UserError
from reproduce.inputs.canonical import canonical_tsv, hold_out
from reproduce.inputs.catalog import (
    TOKENIZER_FILES,
    Dataset,
    Model,
    Pin,
    Source,
    Split,
    read_dataset,
    read_entry,
    read_model,
    read_pinned_dataset,
    write_entry,
)
from reproduce.inputs.fetch import fetch
from reproduce.inputs.sentences import read_tsv
from reproduce.params import Selection

WAYS_OUT = (
    "Ways out: connect to the network and run again; set HF_ENDPOINT to a mirror of the Hub; set HUB_MIRROR to a folder laid out "
    "like the Hub (models/OWNER/NAME/FILE, datasets/OWNER/NAME/FILE); or run `make demo`, which needs no Hub."
)


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HUB_MIRROR", raising=False)


def folder_with(path: Path, **files: bytes) -> Source:
    """A folder source at `path` whose files are NAME.bin."""
    path.mkdir(parents=True)
    for name, data in files.items():
        (path / f"{name}.bin").write_bytes(data)
    return Source(folder=str(path))


def pins(**files: bytes) -> dict[str, Pin]:
    return {
        f"{name}.bin": Pin(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in files.items()
    }


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


# --- pins -------------------------------------------------------------------------------------------------------------


def test_a_file_of_another_size_is_refused(tmp_path: Path, into: Path) -> None:
    source = folder_with(tmp_path / "a", one=b"12345")
    with pytest.raises(UserError) as error:
        fetch("model", [source], pins(one=b"1234"), into)
    assert str(error.value).startswith(
        f"folder {tmp_path}/a: one.bin: bytes expected 4, found 5 (in {tmp_path}/a/one.bin). "
    )
    assert contents(into) == {}
    assert contents(tmp_path / "a") == {"one.bin": b"12345"}


def test_a_file_with_one_other_byte_is_refused(tmp_path: Path, into: Path) -> None:
    source = folder_with(tmp_path / "a", one=b"1235")
    with pytest.raises(UserError) as error:
        fetch("model", [source], pins(one=b"1234"), into)
    expected, found = hashlib.sha256(b"1234").hexdigest(), hashlib.sha256(b"1235").hexdigest()
    assert str(error.value) == (
        f"folder {tmp_path}/a: one.bin: sha256 expected {expected}, found {found} (in {tmp_path}/a/one.bin). The file is damaged "
        "or not the pinned one: delete it and download again, or correct the pin in catalog.yaml if you meant to change it."
    )
    assert contents(into) == {}


def test_wrong_bytes_are_never_a_reason_to_try_elsewhere(tmp_path: Path, into: Path) -> None:
    sources = [
        folder_with(tmp_path / "bad", one=b"1235"),
        folder_with(tmp_path / "good", one=b"1234"),
    ]
    with pytest.raises(UserError, match=r"folder .*/bad: one\.bin: sha256 expected"):
        fetch("model", sources, pins(one=b"1234"), into)


def test_a_file_longer_than_one_read_is_copied_whole(tmp_path: Path, into: Path) -> None:
    data = bytes(range(256)) * 4096 + b"x"  # 1 MiB and a byte
    fetch("model", [folder_with(tmp_path / "a", one=data)], pins(one=data), into)
    assert contents(into) == {"one.bin": data}


def test_a_refused_download_leaves_nothing_and_an_earlier_one_as_it_was(
    repository: Repository, tiny_model: Path
) -> None:
    repository.stage("download_tokenizer", "--model", "tiny")
    earlier = contents(repository.path / "models/tokenizers")
    assert set(earlier) == {f"tiny/{name}" for name in MODEL_FILES}
    size = (tiny_model / "vocab.txt").stat().st_size

    def change(data: Any) -> None:
        for model in ("tiny", "other"):
            data["models"][model]["tokenizer"]["vocab.txt"]["bytes"] = size + 1

    repository.edit("catalog.yaml", change)
    for model in ("tiny", "other"):
        message = repository.refused("download_tokenizer", "--model", model)
        assert message.startswith(
            f"folder {tiny_model}: vocab.txt: bytes expected {size + 1}, found {size} (in "
        )
    assert contents(repository.path / "models/tokenizers") == earlier


def test_a_refused_dataset_leaves_nothing_and_an_earlier_one_as_it_was(
    repository: Repository,
) -> None:
    path = repository.path / "data/toy/validation.tsv"
    right = path.read_bytes()
    path.write_bytes(
        right[:-2] + (b"1" if right[-2:-1] == b"0" else b"0") + b"\n"
    )  # the last label turned over
    start = "folder data/toy: validation.tsv: sha256 expected "
    assert repository.refused("download_dataset").startswith(start)
    assert not (repository.path / "data/raw").exists()
    path.write_bytes(right)
    repository.stage("download_dataset")
    earlier = contents(repository.path / "data/raw")
    assert set(earlier) == {"train.tsv", "validation.tsv"} and earlier["validation.tsv"] == right
    path.write_bytes(right[:-2] + b"x\n")
    assert repository.refused("download_dataset").startswith(start)
    assert contents(repository.path / "data/raw") == earlier


# --- sources ----------------------------------------------------------------------------------------------------------


def test_the_first_source_that_answers_wins(
    tmp_path: Path, into: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second answers; the third, whose bytes are wrong, is never read. One line an attempt."""
    half = folder_with(tmp_path / "half", one=b"1")
    good = folder_with(tmp_path / "good", one=b"1", two=b"2")
    bad = folder_with(tmp_path / "bad", one=b"x", two=b"y")
    fetch("model", [half, good, bad], pins(one=b"1", two=b"2"), into)
    assert contents(into) == {"one.bin": b"1", "two.bin": b"2"}
    assert capsys.readouterr().out.splitlines() == [
        f"source folder {tmp_path}/half: has no two.bin",
        f"source folder {tmp_path}/good: 2 file(s), sha256 verified",
    ]


def test_when_no_source_answers_all_are_listed_with_the_ways_out(
    tmp_path: Path, into: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = [folder_with(tmp_path / "a"), Source(folder=str(tmp_path / "absent"))]
    with pytest.raises(UserError) as error:
        fetch("model", sources, pins(one=b"1", two=b"2"), into)
    attempts = [
        f"folder {tmp_path}/a: has no one.bin, two.bin",
        f"folder {tmp_path}/absent: has no one.bin, two.bin",
    ]
    assert (
        str(error.value)
        == f"no source has the files. Tried:\n  {attempts[0]}\n  {attempts[1]}\n{WAYS_OUT}"
    )
    assert capsys.readouterr().out.splitlines() == [f"source {attempt}" for attempt in attempts]


@pytest.mark.parametrize("kind", ["dataset", "model"])
def test_the_mirror_goes_before_every_source(
    tmp_path: Path,
    into: Path,
    kind: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, hub = folder_with(tmp_path / "a", one=b"x"), Source(hub="some/thing", revision=COMMIT)
    folder_with(tmp_path / f"mirror/{kind}s/some/thing", one=b"1")
    monkeypatch.setenv("HUB_MIRROR", str(tmp_path / "mirror"))
    fetch(kind, [first, hub], pins(one=b"1"), into)
    assert contents(into) == {"one.bin": b"1"}
    assert (
        capsys.readouterr().out
        == f"source HUB_MIRROR {tmp_path}/mirror/{kind}s/some/thing: 1 file(s), sha256 verified\n"
    )


def test_a_mirror_without_the_file_is_passed_over(
    tmp_path: Path, into: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = [folder_with(tmp_path / "a", one=b"1"), Source(hub="some/thing", revision=COMMIT)]
    monkeypatch.setenv("HUB_MIRROR", str(tmp_path / "mirror"))
    fetch("model", sources, pins(one=b"1"), into)
    assert capsys.readouterr().out.splitlines() == [
        f"source HUB_MIRROR {tmp_path}/mirror/models/some/thing: has no one.bin",
        f"source folder {tmp_path}/a: 1 file(s), sha256 verified",
    ]


def test_wrong_bytes_in_the_mirror_are_refused(
    tmp_path: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [Source(hub="some/thing", revision=COMMIT), folder_with(tmp_path / "a", one=b"1")]
    folder_with(tmp_path / "mirror/models/some/thing", one=b"x")
    monkeypatch.setenv("HUB_MIRROR", str(tmp_path / "mirror"))
    with pytest.raises(
        UserError, match=r"HUB_MIRROR .*/models/some/thing: one\.bin: sha256 expected"
    ):
        fetch("model", sources, pins(one=b"1"), into)
    assert contents(into) == {}


def test_the_mirror_s_home_may_be_a_tilde(
    tmp_path: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_with(tmp_path / "mirror/models/some/thing", one=b"1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HUB_MIRROR", "~/mirror")
    fetch("model", [Source(hub="some/thing", revision=COMMIT)], pins(one=b"1"), into)
    assert contents(into) == {"one.bin": b"1"}


def test_files_of_one_name_in_two_folders_stay_apart(repository: Repository) -> None:
    """train/0000.parquet and validation/0000.parquet: how the Hub's converter lays a dataset out."""
    folder = repository.path / "data/toy"
    lines = (
        ["sentence\tlabel", "one\t0", "two\t1", ""],
        ["sentence\tlabel", "three\t1", "four\t0", ""],
    )
    splits = {}
    for split, text in zip(("train", "validation"), lines, strict=True):
        (folder / split).mkdir()
        (folder / split / "0000.tsv").write_text("\n".join(text))
        splits[split] = {"file": f"{split}/0000.tsv", "rows": 2, **pin(folder / split / "0000.tsv")}
    repository.edit("catalog.yaml", lambda data: data["datasets"]["toy"].update(splits))
    repository.stage("download_dataset")
    assert (repository.path / "data/raw/train.tsv").read_text().splitlines()[1:3] == [
        "one\t0",
        "two\t1",
    ]
    assert (repository.path / "data/raw/validation.tsv").read_text().splitlines()[1:3] == [
        "three\t1",
        "four\t0",
    ]


# --- wheel ------------------------------------------------------------------------------------------------------------

WHEEL = Source(pypi="small-model-for-a-test==1.2.3", inside="small_model_for_a_test/model")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only index, with one wheel. Whatever imports the package leaves a file `imported`."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info, package = "small_model_for_a_test-1.2.3.dist-info", "small_model_for_a_test"
    members = {
        f"{package}/__init__.py": f"open({str(tmp_path / 'imported')!r}, 'w')\n".encode(),
        f"{package}/model/one.bin": b"1",
        f"{package}/model/two.bin": b"2" * 100_000,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: small-model-for-a-test\nVersion: 1.2.3\nRequires-Dist: no-such-package\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*members, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / "small_model_for_a_test-1.2.3-py3-none-any.whl", "w") as wheel:
        for name, data in {**members, f"{info}/RECORD": record.encode()}.items():
            wheel.writestr(name, data)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def test_files_come_out_of_a_wheel_and_nothing_is_installed(
    index: Path, tmp_path: Path, into: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(each.name for each in distributions())
    fetch("model", [WHEEL], pins(one=b"1", two=b"2" * 100_000), into)
    assert contents(into) == {"one.bin": b"1", "two.bin": b"2" * 100_000}
    assert (
        capsys.readouterr().out
        == "source PyPI small-model-for-a-test==1.2.3: 2 file(s), sha256 verified\n"
    )
    importlib.invalidate_caches()
    assert sorted(each.name for each in distributions()) == before
    assert importlib.util.find_spec("small_model_for_a_test") is None
    assert not (tmp_path / "imported").exists()


def test_wrong_bytes_in_a_wheel_are_refused(index: Path, into: Path) -> None:
    with pytest.raises(
        UserError, match=r"^PyPI small-model-for-a-test==1\.2\.3: one\.bin: sha256 expected"
    ):
        fetch("model", [WHEEL], pins(one=b"x"), into)
    assert contents(into) == {}


def test_a_wheel_without_the_file_or_of_another_version_is_passed_over(
    index: Path, tmp_path: Path, into: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Source(pypi="small-model-for-a-test==1.2.4", inside="small_model_for_a_test/model")
    fetch("model", [WHEEL, other, folder_with(tmp_path / "a", three=b"3")], pins(three=b"3"), into)
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0]
        == "source PyPI small-model-for-a-test==1.2.3: the wheel has no small_model_for_a_test/model/three.bin"
    )
    assert lines[1].startswith(
        "source PyPI small-model-for-a-test==1.2.4: ERROR: Could not find a version that satisfies"
    )
    assert lines[2:] == [f"source folder {tmp_path}/a: 1 file(s), sha256 verified"]


# --- catalog ----------------------------------------------------------------------------------------------------------


def good_catalog() -> Any:
    def a_pin() -> Any:
        return {"bytes": 1, "sha256": "a" * 64}

    def hub() -> Any:
        return {"hub": "some/thing", "revision": COMMIT}

    return {
        "datasets": {
            "films": {
                "sources": [hub()], "columns": ["sentence"], "labels": ["NO", "YES"], "metrics": ["accuracy"],
                "train": {"file": "a.tsv", "rows": 1, **a_pin()}, "validation": {"file": "b.tsv", "rows": 1, **a_pin()},
            },
            "books": {},
        },
        "models": {"small": {"sources": [hub()], "license": "mit", "tokenizer": {name: a_pin() for name in TOKENIZER_FILES},
                             "weights": {"model.safetensors": a_pin()}}},
    }  # fmt: skip


def set_in(*path: Any) -> Callable[[Any], None]:
    """A change of a catalog: the last of `path` is the new value of what the others name; DELETE removes it."""

    def change(data: Any) -> None:
        *parents, key, value = path
        for parent in parents:
            data = data[parent]
        if value is DELETE:
            del data[key]
        else:
            data[key] = value

    return change


def with_scale(low: float, high: float, *metrics: str) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        data["datasets"]["films"].update(
            labels=[], scale=[low, high], metrics=list(metrics) or ["accuracy"]
        )

    return change


def f1_of_three(data: Any) -> None:
    data["datasets"]["films"].update(labels=["NO", "YES", "MAYBE"], metrics=["f1"])


DELETE = object()
FILMS, SMALL = ("datasets", "films"), ("models", "small")
WEIGHTS = (*SMALL, "weights", "model.safetensors")
TOGETHER = "bytes, sha256 and rows go together: give all three, or neither bytes nor sha256 and run `make pin` "
ONE_KIND = "a source names exactly one of hub, pypi, folder"
BAD_CATALOGS = {
    "no revision": (set_in(*FILMS, "sources", 0, "revision", DELETE), "films.sources.0: hub and revision go together: pin the commit"),
    "a branch": (set_in(*FILMS, "sources", 0, "revision", "main"), "films.sources.0.revision: string should match pattern '^[0-9a-f]{40}$' "
                 '(found "main").'),
    "39 digits": (set_in(*FILMS, "sources", 0, "revision", COMMIT[:39]), f'films.sources.0.revision: string should match pattern '
                  f"'^[0-9a-f]{{40}}$' (found \"{COMMIT[:39]}\")."),
    "no sha256": (set_in(*FILMS, "train", "sha256", DELETE), f"films.train: {TOGETHER}"),
    "63 digits": (set_in(*FILMS, "train", "sha256", "a" * 63), "films.train.sha256: string should match pattern '^[0-9a-f]{64}$'"),
    "capitals": (set_in(*FILMS, "train", "sha256", "A" * 64), "films.train.sha256: string should match pattern '^[0-9a-f]{64}$'"),
    "no bytes": (set_in(*FILMS, "validation", "bytes", DELETE), f"films.validation: {TOGETHER}"),
    "bytes in quotes": (set_in(*FILMS, "train", "bytes", "1"), 'films.train.bytes: input should be a valid integer (found "1").'),
    "negative bytes": (set_in(*FILMS, "train", "bytes", -1), "films.train.bytes: input should be greater than or equal to 0 (found -1)."),
    "no rows": (set_in(*FILMS, "train", "rows", DELETE), f"films.train: {TOGETHER}"),
    "bad md5": (set_in(*FILMS, "train", "tsv_md5", "abc"), "films.train.tsv_md5: string should match pattern '^[0-9a-f]{32}$' "
                '(found "abc").'),
    "no validation": (set_in(*FILMS, "validation", DELETE), "films.validation: missing."),
    "one label": (set_in(*FILMS, "labels", ["NO"]), "films: name two labels or more, or none and a scale"),
    "no label and no scale": (set_in(*FILMS, "labels", []), "films: name two labels or more, or none and a scale"),
    "labels and a scale": (set_in(*FILMS, "scale", [0, 5]), "films: name two labels or more, or none and a scale"),
    "a label twice": (set_in(*FILMS, "labels", ["NO", "NO"]), "films.labels: listed more than once: NO; list each once"),
    "a scale upside down": (with_scale(5, 0), "films: scale goes from the lowest to the highest label, not from 5 to 0"),
    "a scale of three": (set_in(*FILMS, "scale", [0, 1, 2]), "films.scale: "),
    "accuracy of numbers": (with_scale(0, 5), "films: metric accuracy does not fit numbers"),
    "a correlation of classes": (set_in(*FILMS, "metrics", ["pearson"]), "films: metric pearson does not fit classes"),
    "an unknown metric": (set_in(*FILMS, "metrics", ["auc"]), "films.metrics.0: input should be 'accuracy', 'f1', 'matthews',"),
    "a rank correlation as the headline": (with_scale(0, 5, "spearman", "pearson"),
                                           "films: metric spearman cannot be the headline: put pearson first"),
    "F1 of three classes as the headline": (f1_of_three, "films: metric f1 cannot be the headline of more than two classes: put accuracy first"),
    "no metric": (set_in(*FILMS, "metrics", []), "films.metrics: empty. Name at least one."),
    "three texts": (set_in(*FILMS, "columns", ["a", "b", "c"]), "films.columns: "),
    "a text twice": (set_in(*FILMS, "columns", ["a", "a"]), "films.columns: listed more than once: a; list each once"),
    "a text called label": (set_in(*FILMS, "columns", ["a", "label"]), "films.columns: label is a column of our own tables"),
    "a tab in a column's name": (set_in(*FILMS, "columns", ["a\tb"]), "films.columns.0: string should match pattern"),
    "no sources": (set_in(*FILMS, "sources", []), "films.sources: empty. Name at least one."),
    "sources missing": (set_in(*FILMS, "sources", DELETE), "films.sources: missing."),
    "empty source": (set_in(*FILMS, "sources", [{}]), f"films.sources.0: {ONE_KIND} (found {{}})."),
    "two kinds": (set_in(*FILMS, "sources", 0, "folder", "x"), f"films.sources.0: {ONE_KIND} "),
    "unknown key": (set_in(*FILMS, "licence", "x"), "films.licence: unknown key. Known here: columns, labels, metrics, note, scale, sources, "
                    "test, test_mismatched, train, validation, validation_mismatched. Correct the spelling or remove it."),
    "unknown key in a source": (set_in(*FILMS, "sources", 0, "branch", "x"), "films.sources.0.branch: unknown key."),
    "a repository without an owner": (set_in(*SMALL, "sources", 0, "hub", "thing"), "small.sources.0.hub: string should match pattern"),
    "a wheel of any version": (set_in(*SMALL, "sources", [{"pypi": "thing", "inside": "x"}]),
                               "small.sources.0.pypi: string should match pattern"),
    "a wheel, but where inside": (set_in(*SMALL, "sources", [{"pypi": "thing==1"}]),
                                  "small.sources.0: pypi and inside go together: name the folder inside the wheel"),
    "a pickle": (set_in(*SMALL, "weights", {"pytorch_model.bin": {"bytes": 1, "sha256": "a" * 64}}),
                 "small: weights must be model.safetensors alone (a pickle can run code when it is read), not pytorch_model.bin"),
    "a pickle beside": (set_in(*SMALL, "weights", "pytorch_model.bin", {"bytes": 1, "sha256": "a" * 64}),
                        "small: weights must be model.safetensors alone (a pickle can run code when it is read), "
                        "not model.safetensors, pytorch_model.bin"),
    "no weights": (set_in(*SMALL, "weights", {}), "small.weights: empty. Name at least one."),
    "weights without a pin": (set_in(*WEIGHTS, {}), "small.weights.model.safetensors.bytes: missing."),
    "no config": (set_in(*SMALL, "tokenizer", {"vocab.txt": {"bytes": 1, "sha256": "a" * 64}}),
                  "small: tokenizer must list config.json (config.json is where the architecture is read from)"),
    "unknown key of a model": (set_in(*SMALL, "size", 1), "small.size: unknown key. Known here: license, sources, tokenizer, weights. "),
    "an entry that is a list": (set_in(*SMALL, [1]), "small: "),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD_CATALOGS.values(), ids=BAD_CATALOGS)
def test_a_wrong_entry_is_named_by_its_place(
    tmp_path: Path, change: Callable[[Any], None], message: str
) -> None:
    data, path = good_catalog(), tmp_path / "catalog.yaml"
    dump_yaml(path, data)
    assert len(read_dataset("films", path).splits()) == 2 and list(
        read_model("small", path).weights
    ) == ["model.safetensors"]
    change(data)
    dump_yaml(path, data)
    with pytest.raises(UserError) as error:
        read_dataset("films", path)
        read_model("small", path)
    kind = "datasets" if message.startswith("films") else "models"
    assert f"{path}: {kind}.{message}" in str(error.value)


def test_an_unpinned_file_is_refused_where_it_would_be_used(tmp_path: Path) -> None:
    """Rows alone are no pin: they are what someone says of the file."""
    data, path = good_catalog(), tmp_path / "catalog.yaml"
    for key in ("bytes", "sha256"):
        del data["datasets"]["films"]["validation"][key]
    dump_yaml(path, data)
    assert read_dataset("films", path).validation.pin is None
    with pytest.raises(UserError) as error:
        read_pinned_dataset("films", path)
    assert str(error.value) == (
        f"{path}: datasets.films.validation has no bytes and sha256: its files were never pinned. "
        f"Run `make pin DATASET=films`, which downloads them once and writes what they are into {path}."
    )


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    dump_yaml(path, good_catalog())
    remedy = f"Choose one of these in params.yaml, or add an entry to {path}."
    with pytest.raises(UserError) as error:
        read_dataset("film", path)
    assert str(error.value) == f"unknown dataset 'film': {path} knows books, films. {remedy}"
    with pytest.raises(UserError) as error:
        read_model("films", path)
    assert str(error.value) == f"unknown model 'films': {path} knows small. {remedy}"


def test_a_stage_refuses_an_unknown_name(repository: Repository) -> None:
    assert repository.refused("download_weights", "--model", "tinny").startswith(
        "unknown model 'tinny': catalog.yaml knows bert, distilbert, minilm, other, tiny. "
    )


def test_every_entry_of_the_catalog_is_complete() -> None:
    catalog = load_yaml(ROOT / "catalog.yaml")
    assert set(catalog["datasets"]) >= {"sst2", "pocket"} and set(catalog["models"]) >= {
        "distilbert",
        "bert",
        "minilm",
    }
    for name in catalog["datasets"]:
        read_dataset(name, ROOT / "catalog.yaml")
    for name in catalog["models"]:
        assert set(read_model(name, ROOT / "catalog.yaml").tokenizer) == set(MODEL_FILES)


def test_an_entry_comes_out_of_its_file_as_it_went_in(tmp_path: Path) -> None:
    for kind, read, schema in (("datasets", read_dataset, Dataset), ("models", read_model, Model)):
        for name in load_yaml(ROOT / "catalog.yaml")[kind]:
            entry = read(name, ROOT / "catalog.yaml")
            write_entry(tmp_path / f"{name}.json", entry)
            assert read_entry(tmp_path / f"{name}.json", schema) == entry


@pytest.mark.parametrize("content", [b"", b"{", b'{"sources": []}', b"\xff"])
def test_a_file_that_holds_no_entry_is_refused(tmp_path: Path, content: bytes) -> None:
    place = tmp_path / "entry.json"
    with pytest.raises(UserError) as error:
        read_entry(place, Dataset)
    assert (
        str(error.value)
        == f"{place} is missing. Run `dvc repro {place}`, which writes it, or `dvc pull {place}`."
    )
    place.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_entry(place, Dataset)
    assert (
        str(error.value)
        == f"{place} is no entry of catalog.yaml. Delete it and run `dvc checkout {place}`."
    )


# --- canonical form ---------------------------------------------------------------------------------------------------


def split_of(rows: int, md5: str | None = None) -> Split:
    return Split(file="some.tsv", bytes=1, sha256="a" * 64, rows=rows, tsv_md5=md5)


BINARY = Dataset(
    sources=(Source(folder="x"),), columns=("sentence",), labels=("NEGATIVE", "POSITIVE"), metrics=("accuracy",),
    train=Split(file="t"), validation=Split(file="v"),
)  # fmt: skip
THREE = b"sentence\tlabel\na \t0\nb\t1\nc\t1\n"
THREE_MD5 = hashlib.md5(THREE, usedforsecurity=False).hexdigest()


def test_tsv_and_parquet_have_one_canonical_form(tmp_path: Path) -> None:
    (tmp_path / "some.tsv").write_bytes(THREE[:-1])
    pd.DataFrame({"idx": [7, 8, 9], "label": [0, 1, 1], "sentence": ["a ", "b", "c"]}).to_parquet(
        tmp_path / "some.parquet"
    )
    for name in ("some.tsv", "some.parquet"):
        assert canonical_tsv(tmp_path / name, split_of(3, THREE_MD5), BINARY, hidden=False) == (
            THREE,
            3,
        )


def test_a_wrong_number_of_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "some.tsv").write_bytes(THREE)
    with pytest.raises(UserError) as error:
        canonical_tsv(tmp_path / "some.tsv", split_of(4, THREE_MD5), BINARY, hidden=False)
    assert str(error.value) == "some.tsv: expected 4 rows (catalog.yaml), found 3."


def test_an_md5_that_was_not_published_is_refused(tmp_path: Path) -> None:
    (tmp_path / "some.tsv").write_bytes(THREE.replace(b"a ", b"a"))
    found = hashlib.md5(THREE.replace(b"a ", b"a"), usedforsecurity=False).hexdigest()
    with pytest.raises(UserError) as error:
        canonical_tsv(tmp_path / "some.tsv", split_of(3, THREE_MD5), BINARY, hidden=False)
    assert str(error.value) == (
        f"some.tsv: canonical TSV has md5 {found}, expected {THREE_MD5} as published (catalog.yaml, tsv_md5)."
    )


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        ({"text": ["a"], "label": [0]}, "sentence"),
        ({"sentence": ["a"], "label": [5]}, "5"),
        ({"sentence": [""], "label": [0]}, "empty"),
    ],
    ids=["no column", "label 5", "empty"],
)
def test_a_parquet_file_is_read_as_strictly_as_a_tsv_file(
    tmp_path: Path, frame: dict[str, Any], complaint: str
) -> None:
    pd.DataFrame(frame).to_parquet(tmp_path / "some.parquet")
    with pytest.raises(UserError, match=complaint):
        canonical_tsv(tmp_path / "some.parquet", split_of(1), BINARY, hidden=False)


PAIRS = Dataset(
    sources=(Source(folder="x"),), columns=("one", "two"), labels=("no", "yes"), metrics=("accuracy",),
    train=Split(file="t"), validation=Split(file="v"),
)  # fmt: skip
NUMBERS = PAIRS.model_copy(update={"labels": (), "scale": (0.0, 5.0), "metrics": ("pearson",)})


def parquet(path: Path, **columns: Any) -> Path:
    pd.DataFrame(columns).to_parquet(path / "some.parquet", index=False)
    return path / "some.parquet"


def test_tabs_and_line_breaks_of_a_parquet_file_become_spaces(tmp_path: Path) -> None:
    path = parquet(tmp_path, two=["b\r\nb", "d"], one=["a\ta ", "c\n"], label=[1, 0])
    assert canonical_tsv(path, split_of(2), PAIRS, hidden=False) == (
        b"one\ttwo\tlabel\na a \tb  b\t1\nc \td\t0\n",
        2,
    )


@pytest.mark.parametrize(
    "labels", [[-1, -1], [1, 0], [7, 7]], ids=["hidden", "there, as in MRPC", "there and odd"]
)
def test_labels_of_a_test_split_are_dropped(tmp_path: Path, labels: list[int]) -> None:
    path = parquet(tmp_path, one=["a", "c"], two=["b", "d"], label=labels)
    assert canonical_tsv(path, split_of(2), PAIRS, hidden=True) == (
        b"index\tone\ttwo\n0\ta\tb\n1\tc\td\n",
        2,
    )


def test_numbers_are_read_from_float32_as_they_were_meant(tmp_path: Path) -> None:
    path = parquet(
        tmp_path, one=["a", "c"], two=["b", "d"], label=pd.Series([2.923, 5], dtype="float32")
    )
    assert canonical_tsv(path, split_of(2), NUMBERS, hidden=False) == (
        b"one\ttwo\tlabel\na\tb\t2.923\nc\td\t5.000\n",
        2,
    )


UNFIT: dict[str, tuple[Dataset, dict[str, Any], str]] = {
    "hidden labels where they are needed": (PAIRS, {"one": ["a"], "two": ["b"], "label": [-1]},
                                            "some.tsv, line 1: column label is missing: "),
    "no label column": (PAIRS, {"one": ["a"], "two": ["b"]}, "some.tsv: column label is missing, expected one, two and label, found one, two."),
    "a text that is missing": (PAIRS, {"one": ["a", None], "two": ["b", "c"], "label": [0, 1]},
                               "some.tsv: column one has 1 empty cell(s), expected none."),
    "a label that is missing": (NUMBERS, {"one": ["a", "b"], "two": ["b", "c"], "label": [0.5, None]},
                                "some.tsv: column label has 1 empty cell(s), expected none."),
    "numbers for texts": (PAIRS, {"one": [1], "two": ["b"], "label": [0]}, "some.tsv: column one holds int64, expected text."),
    "fractions for classes": (PAIRS, {"one": ["a"], "two": ["b"], "label": [0.5]}, "some.tsv: column label holds double, expected integers."),
    "words for classes": (PAIRS, {"one": ["a"], "two": ["b"], "label": ["yes"]}, "some.tsv: column label holds "),
    "a number beyond the scale": (NUMBERS, {"one": ["a"], "two": ["b"], "label": [5.5]},
                                  "some.tsv, line 2: label '5.500', expected a number from 0 to 5 with at most three decimals."),
    "a number of more decimals": (NUMBERS, {"one": ["a"], "two": ["b"], "label": [0.12345]}, "some.tsv, line 2: label '0.12345', expected "),
    "class 2 of two": (PAIRS, {"one": ["a"], "two": ["b"], "label": [2]}, "some.tsv, line 2: label '2', expected one of 0, 1."),
}  # fmt: skip


@pytest.mark.parametrize(("dataset", "columns", "message"), UNFIT.values(), ids=UNFIT)
def test_what_a_parquet_file_may_not_hold(
    tmp_path: Path, dataset: Dataset, columns: dict[str, Any], message: str
) -> None:
    """Named as the catalog names the file, not by the scratch copy."""
    path = parquet(tmp_path, **columns)
    with pytest.raises(UserError) as error:
        canonical_tsv(path, split_of(1), dataset, hidden=False)
    assert str(error.value).startswith(message)


def test_a_file_that_is_no_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "some.parquet").write_bytes(b"<html>log in</html>")
    with pytest.raises(UserError, match=r"^some\.tsv: no Parquet file \("):
        canonical_tsv(tmp_path / "some.parquet", split_of(1), PAIRS, hidden=False)


def test_classes_that_the_file_names_must_be_the_catalog_s_in_any_letters(tmp_path: Path) -> None:
    from datasets import ClassLabel, Features, Value
    from datasets import Dataset as Table

    for names, fits in ((["NO", "Yes"], True), (["yes", "no"], False)):
        features = Features(
            {"one": Value("string"), "two": Value("string"), "label": ClassLabel(names=names)}
        )
        path = tmp_path / "some.parquet"
        Table.from_dict({"one": ["a"], "two": ["b"], "label": [1]}, features).to_parquet(str(path))
        if fits:
            assert (
                canonical_tsv(path, split_of(1), PAIRS, hidden=False)[0]
                == b"one\ttwo\tlabel\na\tb\t1\n"
            )
        else:
            with pytest.raises(UserError) as error:
                canonical_tsv(path, split_of(1), PAIRS, hidden=False)
            assert str(error.value) == "some.tsv: its classes are yes, no, in catalog.yaml no, yes."


@pytest.mark.mirror
def test_the_real_sst2_has_the_published_md5(repository: Repository, mirror: Path) -> None:
    repository.edit("params.yaml", lambda data: data.update(dataset="sst2"))
    done = repository.stage("download_dataset", HUB_MIRROR=str(mirror))
    assert done.stdout.splitlines() == [
        f"source HUB_MIRROR {mirror}/datasets/nyu-mll/glue: 3 file(s), sha256 verified",
        "data/raw: sst2, train 67,349, validation 872, test 1,821 sentences",
    ]
    published = {
        f"{split}.tsv": load_yaml(ROOT / "catalog.yaml")["datasets"]["sst2"][split]["tsv_md5"]
        for split in ("train", "validation", "test")
    }
    assert (
        published["validation.tsv"] == "268856b487b2a31a28c0a93daaff7288"
    )  # torchtext's pin of dev.tsv
    files = contents(repository.path / "data/raw")
    assert {
        name: hashlib.md5(data, usedforsecurity=False).hexdigest() for name, data in files.items()
    } == published


# --- held-out sentences -----------------------------------------------------------------------------------------------

# 300 sentences; every fifth occurs twice (as in SST-2, where 371 do), labels mixed.
SENTENCES = [f"sentence {i}" for i in range(300)] + [f"sentence {i}" for i in range(0, 300, 5)]
LABELS = [(i * 7 // 3) % 2 for i in range(360)]


def chosen(
    holdout: int, train: int = 0
) -> tuple[tuple[list[str], list[float]], tuple[list[str], list[float]]]:
    return hold_out(SENTENCES, LABELS, Selection(holdout=holdout, train=train))


@pytest.mark.parametrize("holdout", [1, 7, 50, 200])
def test_held_out_sentences_are_apart_from_the_rest(holdout: int) -> None:
    (kept, kept_labels), (held, held_labels) = chosen(holdout)
    assert len(held) in (holdout, holdout + 1)  # one more, where a copy belongs to the last one
    assert not set(kept) & set(held), "copies of a sentence were torn apart"
    assert sorted([*kept, *held]) == sorted(SENTENCES)
    assert sorted(zip([*kept, *held], [*kept_labels, *held_labels], strict=True)) == sorted(
        zip(SENTENCES, LABELS, strict=True)
    )


def test_copies_of_the_last_held_out_sentence_go_with_it() -> None:
    """For every size: the number is the smallest one that tears no copies apart."""
    sizes = {holdout: len(chosen(holdout)[1][0]) for holdout in range(1, 200)}
    assert {size - holdout for holdout, size in sizes.items()} == {0, 1}
    assert all(sizes[holdout] <= sizes[holdout + 1] for holdout in range(1, 199))


def test_both_parts_keep_the_order_of_the_file() -> None:
    (kept, _), (held, _) = chosen(100)
    places = {pair: i for i, pair in reversed(list(enumerate(SENTENCES)))}
    for part in (kept, held):
        first_times = [places[sentence] for sentence in dict.fromkeys(part)]
        assert first_times == sorted(first_times)


def test_which_sentences_are_held_out_depends_on_nothing_but_the_sentences() -> None:
    (kept, _), (held, _) = chosen(100)
    assert chosen(100) == chosen(100)
    assert set(chosen(50)[1][0]) < set(held)  # a smaller part lies within a larger one
    reversed_kept, reversed_held = hold_out(
        SENTENCES[::-1], LABELS[::-1], Selection(holdout=100, train=0)
    )
    assert (sorted(reversed_kept[0]), sorted(reversed_held[0])) == (sorted(kept), sorted(held))
    # Golden: by sha256 the order is d, c, b, a.
    a_to_d = Selection(holdout=2, train=0)
    assert hold_out(["a", "b", "c", "d"], [0, 1, 1, 0], a_to_d) == (
        (["a", "b"], [0, 1]),
        (["c", "d"], [1, 0]),
    )


def test_training_on_fewer_leaves_the_held_out_ones_alone() -> None:
    (kept, labels), held = chosen(100, train=30)
    assert len(kept) == len(labels) == 30
    assert held == chosen(100)[1] and set(kept) <= set(chosen(100)[0][0])
    with pytest.raises(ValueError, match="set holdout too, or train to 0"):
        Selection(holdout=0, train=30)
    assert len(chosen(100, train=10_000)[0][0]) == 360 - len(held[0])  # no more than there are


@pytest.mark.parametrize("holdout", [360, 10_000])
def test_too_many_held_out_sentences_are_refused(holdout: int) -> None:
    with pytest.raises(UserError) as error:
        chosen(holdout)
    assert (
        str(error.value)
        == f"params.yaml: selection.holdout {holdout} leaves nothing to train on; use a smaller one."
    )


def test_the_stage_puts_held_out_sentences_in_the_place_of_the_validation_set(
    repository: Repository,
) -> None:
    repository.edit("params.yaml", lambda data: data["selection"].update(holdout=20, train=40))
    done = repository.stage("download_dataset")
    assert (
        "data/raw: toy, train 40, validation 20 sentences, validation held out of train (selection.holdout)\n"
        in done.stdout
    )
    raw, toy = repository.path / "data/raw", repository.path / "data/toy"
    train, held = read_tsv(raw / "train.tsv", 2), read_tsv(raw / "validation.tsv", 2)
    assert (train, held) == hold_out(
        *read_tsv(toy / "train.tsv", 2), Selection(holdout=20, train=40)
    )
    assert repository.json("data/dataset.json")["validation"] == "held out of train"
