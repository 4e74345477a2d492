"""Downloads: pins, the order of sources, folders, wheels; the catalog's entries."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, pin
from hub import COMMIT, contents
from reproduce.files import UserError
from reproduce.inputs.catalog import Dataset, Pin, Source, read_dataset, read_entry, read_model
from reproduce.inputs.fetch import bare_tokenizer, fetch
from reproduce.params import read_yaml


def folder_with(path: Path, data: bytes | None) -> Source:
    """A folder source at `path` with the file one.bin; None: without it."""
    path.mkdir(parents=True)
    if data is not None:
        (path / "one.bin").write_bytes(data)
    return Source(folder=str(path))


def pin_of(data: bytes) -> Pin:
    return Pin(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


ONE = {"one.bin": pin_of(b"1234")}


def fetched(tmp_path: Path, *sources: Source, files: dict[str, Pin] = ONE) -> dict[str, bytes]:
    """What is in the folder `into` after a fetch."""
    fetch("model", sources, files, tmp_path / "into")
    return contents(tmp_path / "into")


# --- pins and sources -----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HUB_MIRROR", raising=False)


@pytest.mark.parametrize(
    ("found", "what"), [(b"12345", "bytes expected 4, found 5"), (b"1235", "sha256 expected")]
)
def test_wrong_bytes_are_refused_whatever_is_next(tmp_path: Path, found: bytes, what: str) -> None:
    sources = [folder_with(tmp_path / "a", found), folder_with(tmp_path / "b", b"1234")]
    with pytest.raises(UserError, match=rf"^folder .*/a: one\.bin: {what}"):
        fetched(tmp_path, *sources)
    assert contents(tmp_path / "into") == {} and contents(tmp_path / "a") == {"one.bin": found}


def test_when_no_source_answers_all_are_listed_with_the_ways_out(tmp_path: Path) -> None:
    places = [tmp_path / "empty", tmp_path / "absent"]
    with pytest.raises(UserError) as error:
        fetched(tmp_path, folder_with(places[0], None), Source(folder=str(places[1])))
    first, *tried, last = str(error.value).splitlines()
    assert first == "no source has the files. Tried:" and last.startswith("Ways out: ")
    why = "cannot read {0}/one.bin: No such file or directory"
    assert tried == [f"  folder {place}: {why.format(place)}" for place in places]


@pytest.mark.parametrize("state", ["there", "absent", "unreadable", "a folder"])
def test_the_mirror_goes_first_and_the_next_source_is_tried_where_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    place = tmp_path / "mirror/models/some/thing"
    folder_with(place, b"1234" if state == "there" else None)
    if state == "a folder":
        (place / "one.bin").mkdir()
    if state == "unreadable":  # also for root, who may run the tests
        (place / "one.bin").symlink_to("/proc/self/mem")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HUB_MIRROR", "~/mirror")
    second = folder_with(tmp_path / "b", b"1234" if state != "there" else b"wrong")
    hub = Source(hub="some/thing", revision=COMMIT)
    assert fetched(tmp_path, second, hub) == {"one.bin": b"1234"}


def test_a_relative_mirror_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_MIRROR", "mirror")
    with pytest.raises(UserError, match=r"^HUB_MIRROR is 'mirror', a relative path.*HUB_MIRROR=/"):
        fetched(tmp_path, folder_with(tmp_path / "a", b"1234"))


# --- wheels ---------------------------------------------------------------------------------------

PACKAGE = "small_model_for_a_test"
WHEEL = Source(pypi="small-model-for-a-test==1.2.3", inside=f"{PACKAGE}/model")
KEPT = ".dvc/tmp/wheels/small-model-for-a-test==1.2.3.whl"
VOCABULARY = "é\n".encode()
THEIRS: dict[str, Any] = {"truncation": {"max_length": 8}, "padding": {"length": 8}}
THEIRS |= {"model": {"type": "WordPiece", "vocab": {"é": 0}}}
BARE = '{"truncation":null,"padding":null,"model":{"vocab":{"é":0}}}'.encode()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only index, with one wheel; no wheel is kept yet."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    info, folder = f"{PACKAGE}-1.2.3.dist-info", tmp_path / "wheels"
    members: dict[str, str | bytes] = {
        f"{PACKAGE}/__init__.py": f"open({str(tmp_path / 'imported')!r}, 'w')\n",
        f"{PACKAGE}/model/one.bin": "1234",
        f"{PACKAGE}/model/vocab.txt": VOCABULARY,
        f"{PACKAGE}/model/tokenizer.json": json.dumps(THEIRS, indent=1),
        f"{PACKAGE}/model/model.safetensors": "the other model's",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.2.3\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    folder.mkdir()
    with zipfile.ZipFile(folder / f"{PACKAGE}-1.2.3-py3-none-any.whl", "w") as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
    settings = {"NO_INDEX": "1", "FIND_LINKS": str(folder), "CONFIG_FILE": "/dev/null"}
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return folder


def test_a_wheel_is_downloaded_once_and_not_run(index: Path, tmp_path: Path) -> None:
    assert fetched(tmp_path, WHEEL) == {"one.bin": b"1234"}
    shutil.rmtree(index)
    both = fetched(tmp_path, WHEEL, files={"vocab.txt": pin_of(VOCABULARY)})
    assert both == {"one.bin": b"1234", "vocab.txt": VOCABULARY}
    assert [f".dvc/{name}" for name in contents(tmp_path / ".dvc")] == [KEPT]
    assert not (tmp_path / "imported").exists()


def test_a_kept_wheel_that_is_damaged_is_downloaded_again(index: Path, tmp_path: Path) -> None:
    fetched(tmp_path, WHEEL)
    kept = tmp_path / KEPT
    whole = kept.read_bytes()
    for damaged in (b"", whole[:100], whole[150:]):
        kept.write_bytes(damaged)
        assert fetched(tmp_path, WHEEL) == {"one.bin": b"1234"} and kept.read_bytes() == whole


def test_a_wheel_of_other_bytes_is_refused_and_not_kept(index: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"PyPI .*: one\.bin: bytes expected 3, found 4"):
        fetched(tmp_path, WHEEL, files={"one.bin": pin_of(b"123")})
    assert contents(tmp_path / "into") == contents(tmp_path / ".dvc") == {}


def test_a_wheel_without_the_file_or_of_another_version_is_passed_over(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = WHEEL.model_copy(update={"inside": "elsewhere"})
    other = WHEEL.model_copy(update={"pypi": "small-model-for-a-test==1.2.4"})
    fetched(tmp_path, empty, other, folder_with(tmp_path / "a", b"1234"))
    lines = [line for line in capsys.readouterr().out.splitlines() if "downloading" not in line]
    assert lines[0].endswith(": the wheel has no elsewhere/one.bin")
    assert ": ERROR: Could not find a version that satisfies" in lines[1]
    assert lines[2:] == [f"source folder {tmp_path}/a: 1 file(s), sha256 verified"]


def test_a_tokenizer_follows_from_another_model_s_wheel_and_weights_do_not(
    index: Path, tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own/config.json").write_text("{}")
    source = WHEEL.model_copy(update={"embedded": str(tmp_path / "own")})
    right = {"config.json": b"{}", "vocab.txt": VOCABULARY, "tokenizer.json": BARE}
    pins = {name: pin_of(data) for name, data in right.items()}
    assert fetched(tmp_path, source, files=pins) == right
    weights = {"model.safetensors": pin_of(b"the other model's")}
    with pytest.raises(UserError, match=r"cannot read .*/own/model\.safetensors: No such file"):
        fetched(tmp_path, source, files=weights)


@pytest.mark.parametrize("model", ["distilbert", "bert"])
def test_what_is_embedded_has_the_catalog_s_pins(model: str) -> None:
    entry = read_model(model, ROOT / "catalog.yaml")
    (folder,) = [ROOT / s.embedded for s in entry.sources if s.embedded]
    assert set(contents(folder)) == {"config.json", "tokenizer_config.json"}
    for name in contents(folder):
        assert entry.tokenizer[name] == Pin(**pin(folder / name))


@pytest.mark.mirror
def test_the_real_tokenizer_is_already_bare(mirror: Path) -> None:
    data = (mirror / "models/google-bert/bert-base-uncased/tokenizer.json").read_bytes()
    typed = json.loads(data)
    typed["model"] = {"type": "WordPiece", **typed["model"]}
    assert bare_tokenizer(json.dumps(typed).encode()) == data


# --- catalog --------------------------------------------------------------------------------------

A_PIN = {"bytes": 1, "sha256": "a" * 64}
NUMBERS = {"labels": [], "scale": [0, 5], "metrics": ["pearson"]}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"sources": [{"hub": "some/thing"}]}, ".sources.0: hub and revision go together: pin the"),
    ({"sources": [{"hub": "some/thing", "revision": COMMIT, "folder": "x"}]},
     ".sources.0: a source names exactly one of hub, pypi, folder"),
    ({"sources": [{"folder": "x", "embedded": "x"}]}, ".sources.0: embedded goes with pypi"),
    ({"sources": [{"pypi": "thing==1"}]}, ".sources.0: pypi and inside go together"),
    ({"train": {"file": "x.tsv", "sha256": "a" * 64}}, ".train.bytes: missing: never pinned. Run"),
    ({"train": {"file": "validation.tsv", **A_PIN}}, ": two splits name the same file"),
    ({"train": {"file": "../x.tsv", **A_PIN}}, ".train.file: string should match pattern"),
    ({"labels": ["NO"]}, ": name two labels or more, or none and a scale"),
    ({"labels": ["NO", "NO"]}, ".labels: listed more than once: NO; list each once"),
    ({"metrics": ["pearson"]}, ": metric pearson does not fit classes"),
    (NUMBERS | {"scale": [5, 0]}, ": scale goes from the lowest to the highest label"),
    (NUMBERS | {"metrics": ["f1"]}, ": metric f1 does not fit numbers"),
    (NUMBERS | {"metrics": ["spearman"]}, ": metric spearman cannot be the headline"),
    ({"labels": ["a", "b", "c"], "metrics": ["f1"]}, ": metric f1 cannot be the headline"),
    ({"columns": ["a", "label"]}, ".columns: label is a column of our own tables"),
    ({"weights": {"pytorch_model.bin": A_PIN}}, ": weights must be model.safetensors alone"),
    ({"tokenizer": {"vocab.txt": A_PIN}}, ": tokenizer must list config.json"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD)
def test_a_wrong_entry_is_named_by_its_place(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    catalog, path = read_yaml(ROOT / "catalog.yaml"), tmp_path / "catalog.yaml"
    of_a_model = {"weights", "tokenizer"} & set(change)
    kind, name = ("models", "bert") if of_a_model else ("datasets", "pocket")
    catalog[kind][name].update(change)
    path.write_text(json.dumps(catalog))  # which is YAML too
    with pytest.raises(UserError) as error:
        read_dataset("pocket", path)
        read_model("bert", path)
    assert f"{path}: {kind}.{name}{message}" in str(error.value)


def test_every_entry_of_the_catalog_is_pinned_and_comes_out_of_its_file_as_it_went_in(
    tmp_path: Path,
) -> None:
    catalog, path = read_yaml(ROOT / "catalog.yaml"), tmp_path / "entry.json"
    assert len(catalog["datasets"]) == 10 and len(catalog["models"]) == 3
    for kind, read in (("datasets", read_dataset), ("models", read_model)):
        for entry in (read(name, ROOT / "catalog.yaml") for name in catalog[kind]):
            path.write_text(entry.model_dump_json(exclude_none=True))
            assert read_entry(path, type(entry)) == entry


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"sources": []}', b"\xff"])
def test_a_file_that_holds_no_entry_is_refused(tmp_path: Path, content: bytes | None) -> None:
    place = tmp_path / "entry.json"
    if content is not None:
        place.write_bytes(content)
    problem = "is missing. Run `dvc repro" if content is None else "is not what the stage check"
    with pytest.raises(UserError, match=f"^{place} {problem}"):
        read_entry(place, Dataset)
