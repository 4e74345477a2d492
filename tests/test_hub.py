"""Downloads from a Hub that misbehaves (tests/hub.py): what is tried again, what is not, what is left; tokens; pickles."""

import filecmp
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from faults import record_fault

import reproduce.inputs.fetch
from conftest import MODEL_FILES, Repository, pin
from hub import (
    COMMIT,
    ONLY_LOOPBACK,
    Changed,
    Cut,
    Fault,
    Hub,
    NoRange,
    Portal,
    Redirect,
    Reset,
    Short,
    Stall,
    Status,
    contents,
    forever,
    serving,
)
from reproduce.files import UserError
from reproduce.inputs.catalog import Pin, Source
from reproduce.inputs.fetch import fetch

WAYS_OUT = "or run `make demo`, which needs no Hub."
ONE = Source(hub="test-org/one", revision=COMMIT)
DATA = bytes(range(250)) * 20  # 5,000 bytes, in chunks of 1,000
TOKEN = "hf_aSecretThatNobodyMaySee"


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HUB_MIRROR", raising=False)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as server:
        yield server


# --- faults, in this process ------------------------------------------------------------------------------------------


@dataclass
class Client:
    """`fetch` in this process, of the file one.bin, with an empty cache and a clock that does not wait."""

    hub: Hub
    folder: Path
    capsys: pytest.CaptureFixture[str]
    waited: list[float] = field(default_factory=list)  # by us
    client_waited: list[float] = field(
        default_factory=list
    )  # by the Hub's client, on its own account
    files: dict[str, Pin] = field(default_factory=dict)

    def fetch(self, *more: Source) -> str:
        """What was printed."""
        self.capsys.readouterr()
        self.into.mkdir(exist_ok=True)
        fetch("model", [ONE, *more], self.files, self.into)
        return self.capsys.readouterr().out

    def refused(self) -> str:
        with pytest.raises(UserError) as error:
            self.fetch()
        return str(error.value)

    @property
    def into(self) -> Path:
        return self.folder / "into"

    @property
    def asked(self) -> list[str]:
        """HEAD, GET or GET RANGE for every request."""
        return [
            f"{request.method} {request.headers.get('range', '')}".strip()
            for request in self.hub.requests
        ]

    @property
    def cached(self) -> list[bytes]:
        """Every file of content in the client's cache, half-written ones included."""
        return [path.read_bytes() for path in (self.folder / "cache").glob("models--*/blobs/*")]


@pytest.fixture
def client(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Client]:
    from huggingface_hub import close_session, constants, file_download
    from huggingface_hub.utils import _http

    made = Client(hub, tmp_path, capsys)
    (tmp_path / "one").mkdir()
    (tmp_path / "one/one.bin").write_bytes(DATA)
    made.files = {"one.bin": Pin(**pin(tmp_path / "one/one.bin"))}
    hub.add("test-org/one", tmp_path / "one")
    for name in [*os.environ]:
        if name.lower().endswith("_proxy") or name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name)
    settings = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_TELEMETRY": True,  # else the client asks for one more address
        "DOWNLOAD_CHUNK_SIZE": 1000,
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(reproduce.inputs.fetch, "time", SimpleNamespace(sleep=made.waited.append))
    for module in (file_download, _http):
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=made.client_waited.append))
    close_session()
    yield made
    close_session()  # connections to a server that is gone


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second of silence is a time-out."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    monkeypatch.setattr(reproduce.inputs.fetch, "HUB_TIMEOUT", 0.5)


def record(hub: Hub, method: str, outcome: str, stage: str = "download") -> None:
    struck = [request.fault for request in hub.requests if request.fault]
    name = ", ".join(dict.fromkeys(map(str, struck)))
    record_fault(stage, f"Hub, {method}: {name}", len(struck), outcome)


AGAIN = ["HEAD", "GET", "HEAD", "GET"]  # the whole file once more
RESUMED = ["HEAD", "GET", "GET bytes=3000-"]  # the client keeps whole chunks
BUSY = Status(429, {"Retry-After": "7"})
RECOVERS: dict[str, tuple[str, list[Fault], list[float], list[str]]] = {
    "500 twice": ("HEAD", [Status(500)] * 2, [1, 3], ["HEAD", "HEAD", "HEAD", "GET"]),
    "503 twice for the body": ("GET", [Status(503)] * 2, [1, 3], ["HEAD", "GET"] * 3),
    "408": ("HEAD", [Status(408)], [1], ["HEAD", "HEAD", "GET"]),
    "429": ("HEAD", [BUSY], [7], ["HEAD", "HEAD", "GET"]),
    "429 for the body": ("GET", [BUSY], [7], AGAIN),
    "429 in the Hub's own words": ("HEAD", [Status(429, {"RateLimit": '"resolvers";r=0;t=9'})], [9], ["HEAD", "HEAD", "GET"]),
    "429 until a date": ("HEAD", [Status(429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})], [1], ["HEAD", "HEAD", "GET"]),
    "503 that names a time": ("HEAD", [Status(503, {"Retry-After": "4"})], [4], ["HEAD", "HEAD", "GET"]),
    "reset before an answer": ("HEAD", [Reset()], [1], ["HEAD", "HEAD", "GET"]),
    "reset in the body": ("GET", [Reset(3500)], [1], AGAIN),
    "cut": ("GET", [Cut(3500)], [], RESUMED),
    "cut at once": ("GET", [Cut(0)], [], ["HEAD", "GET", "GET"]),
    "cut twice": ("GET", [Cut(3500), Cut(1500)], [], [*RESUMED, "GET bytes=4000-"]),
    "cut, and no Range": ("GET", [Cut(3500), NoRange()], [], RESUMED),
    "silent at first": ("HEAD", [Stall()], [1], ["HEAD", "HEAD", "GET"]),
    "silent in the body": ("GET", [Stall(3500)], [], RESUMED),
    "shorter than announced": ("GET", [Short(3000)], [1], AGAIN),
    "a byte changed": ("GET", [Changed(2500)], [], AGAIN),
    "cut, then a byte changed": ("GET", [Cut(3500), Changed(4500)], [], [*RESUMED, "HEAD", "GET"]),
}  # fmt: skip


@pytest.mark.parametrize(("method", "faults", "waits", "asked"), RECOVERS.values(), ids=RECOVERS)
def test_what_is_worth_another_try_is_tried_again(
    client: Client,
    impatient: None,
    method: str,
    faults: list[Fault],
    waits: list[float],
    asked: list[str],
) -> None:
    hub = client.hub
    hub.inject(method, "one.bin", faults)
    lines = client.fetch().splitlines()
    assert [request.fault for request in hub.requests if request.fault] == faults, (
        "a fault was not injected"
    )
    assert client.asked == asked
    assert client.waited == waits
    assert set(client.client_waited) <= {1}, (
        "the client waited on its own account"
    )  # a second before it resumes
    assert contents(client.into) == {"one.bin": DATA}
    assert client.cached == [DATA]
    tries = [line for line in lines if "trying again in" in line or "downloading once more" in line]
    assert len(tries) == asked.count("HEAD") - 1 and lines == [
        *tries,
        "source Hub test-org/one@01234567: 1 file(s), sha256 verified",
    ]
    assert all(line.startswith("source Hub test-org/one@01234567: one.bin: ") for line in tries)
    record(hub, method, f"right file after {len(asked)} requests")


def test_a_time_that_the_server_names_is_in_the_log(client: Client) -> None:
    client.hub.inject("HEAD", "one.bin", [BUSY])
    assert client.fetch().splitlines()[0] == (
        "source Hub test-org/one@01234567: one.bin: 429 Too Many Requests, asks to wait 7 s; trying again in 7 s"
    )


def test_a_silent_hub_costs_seconds_and_not_minutes() -> None:
    waits, timeout = reproduce.inputs.fetch.WAITS, reproduce.inputs.fetch.HUB_TIMEOUT
    assert (len(waits) + 1) * timeout + sum(waits) < 20


LICENCE = "gated, private or not there. Accept its licence at {url}/test-org/one and set HF_TOKEN (none is set) [{url}]"
NOT_THERE = f"404 Not Found: one.bin in model test-org/one at revision {COMMIT} "
REFUSED: dict[str, tuple[str, Fault, str, list[float], int]] = {
    "500": ("HEAD", Status(500), "500 Internal Server Error [", [1, 3], 3),
    "502 for the body": ("GET", Status(502), "502 Bad Gateway [", [1, 3], 6),
    "429": ("HEAD", Status(429, {"Retry-After": "2"}), "429 Too Many Requests, asks to wait 2 s [", [2, 2], 3),
    "429, an hour": ("HEAD", Status(429, {"Retry-After": "3600"}), "429 Too Many Requests, asks to wait 3600 s [", [], 1),
    "429, an hour, for the body": ("GET", Status(429, {"Retry-After": "3600"}), "429 Too Many Requests, asks to wait 3600 s [", [], 2),
    "401": ("HEAD", Status(401), "401 Unauthorized: " + LICENCE, [], 1),
    "401, gated": ("HEAD", Status(401, {"X-Error-Code": "GatedRepo"}), "401 Unauthorized: " + LICENCE, [], 1),
    "403, gated": ("HEAD", Status(403, {"X-Error-Code": "GatedRepo"}), "403 Forbidden: " + LICENCE, [], 1),
    "403 for the body": ("GET", Status(403), "403 Forbidden: " + LICENCE, [], 2),
    "no such file": ("HEAD", Status(404, {"X-Error-Code": "EntryNotFound"}), NOT_THERE + "(RemoteEntryNotFoundError) [", [], 1),
    "no such revision": ("HEAD", Status(404, {"X-Error-Code": "RevisionNotFound"}), NOT_THERE + "(RevisionNotFoundError) [", [], 1),
    "no such repository": ("HEAD", Status(404, {"X-Error-Code": "RepoNotFound"}), NOT_THERE + "(RepositoryNotFoundError) [", [], 1),
    "410": ("HEAD", Status(410), "410 Gone [", [], 1),
    "a log-in page": ("HEAD", Portal(), "FileMetadataError: Response from {url}/test-org/one/resolve/", [], 1),
    "reset": ("GET", Reset(3500), "ReadError: ", [1, 3], 6),
    "cut at once": ("GET", Cut(0), "RemoteProtocolError: ", [1, 3], 3 * (1 + 6)),
    "silent at first": ("HEAD", Stall(), "ReadTimeout: timed out [", [1, 3], 3),
    "silent in the body": ("GET", Stall(500), "ReadTimeout: timed out: silent for 0.5 s in the middle of one.bin, resumed, silent again [",
                           [], 1 + 6),
    "shorter than announced": ("GET", Short(3000), "OSError: Consistency check failed: file should be of size 5000 but has size 3000", [1, 3], 6),
}  # fmt: skip


@pytest.mark.parametrize(
    ("method", "fault", "reason", "waits", "requests"), REFUSED.values(), ids=REFUSED
)
def test_what_stays_wrong_ends_with_one_reason_and_leaves_nothing(
    client: Client,
    impatient: None,
    method: str,
    fault: Fault,
    reason: str,
    waits: list[float],
    requests: int,
) -> None:
    hub = client.hub
    hub.inject(method, "one.bin", forever(fault))
    message = client.refused()
    start = "no source has the files. Tried:\n  Hub test-org/one@01234567: " + reason.format(
        url=hub.url
    )
    assert message.startswith(start) and message.endswith(WAYS_OUT), message
    assert f" [{hub.url}]\nWays out: " in message and len(message.splitlines()) == 3
    assert hub.struck == sum(request.method == method for request in hub.requests) > 0
    assert len(hub.requests) == requests
    assert client.waited == waits
    assert contents(client.into) == {} and client.cached == [], (
        "something was left that could be taken for the file"
    )
    found = re.split(r": | \[|, asks", message.splitlines()[1].split("@01234567: ")[1])[0]
    asked_for = "the first request" if len(hub.requests) == 1 else f"{len(hub.requests)} requests"
    record(
        hub,
        method,
        f"refused after {asked_for}: {found}; {len(client.cached) or 'nothing'} left in the cache",
    )

    hub.inject(method, "one.bin", [])  # well again
    client.fetch()
    assert contents(client.into) == {"one.bin": DATA}


def test_the_next_source_is_asked_when_the_hub_stays_broken(client: Client) -> None:
    client.hub.inject("HEAD", "one.bin", forever(Status(500)))
    folder = client.folder / "one"
    assert client.fetch(Source(folder=str(folder))).splitlines() == [
        "source Hub test-org/one@01234567: one.bin: 500 Internal Server Error; trying again in 1 s",
        "source Hub test-org/one@01234567: one.bin: 500 Internal Server Error; trying again in 3 s",
        f"source Hub test-org/one@01234567: 500 Internal Server Error [{client.hub.url}]",
        f"source folder {folder}: 1 file(s), sha256 verified",
    ]
    assert client.hub.struck == 3 and contents(client.into) == {"one.bin": DATA}


def wrong(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("at", [0, 2500, 4999])
def test_a_byte_that_stays_changed_is_an_error_and_poisons_nothing(client: Client, at: int) -> None:
    hub = client.hub
    hub.inject("GET", "one.bin", forever(Changed(at)))
    message = client.refused()
    expected, found = (
        pin_of(client.folder / f"{name}.bin", data)
        for name, data in (("a", DATA), ("b", wrong(DATA, at)))
    )
    assert message.startswith(
        f"Hub test-org/one@01234567: one.bin: sha256 expected {expected}, found {found} (in "
    )
    assert message.endswith(
        "Downloading it once more did not help; nothing of it is left in the Hub client's cache. If a mirror or a proxy on the way "
        "changes it, try another HF_ENDPOINT or HUB_MIRROR; or correct the pin in catalog.yaml if you meant to change it."
    )
    assert client.asked == AGAIN and hub.struck == 2 and client.waited == []
    assert contents(client.into) == {} and client.cached == []
    record(
        hub,
        "GET",
        f"refused: wrong {message.split(': ')[2].split()[0]}; {len(client.cached) or 'nothing'} left in the cache",
    )
    hub.inject("GET", "one.bin", [])
    client.fetch()
    assert contents(client.into) == {"one.bin": DATA}


def pin_of(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(pin(path)["sha256"])


def test_wrong_bytes_are_no_reason_to_ask_the_next_source(client: Client) -> None:
    client.hub.inject("GET", "one.bin", forever(Changed(7)))
    with pytest.raises(UserError, match="sha256 expected"):
        client.fetch(Source(folder=str(client.folder / "one")))
    assert client.hub.struck == 2 and contents(client.into) == {}


def test_another_file_on_the_hub_is_refused_by_its_size(client: Client) -> None:
    (client.folder / "one/one.bin").write_bytes(DATA + b"x")
    assert client.refused().startswith(
        "Hub test-org/one@01234567: one.bin: bytes expected 5000, found 5001 (in "
    )
    assert client.asked == AGAIN and contents(client.into) == {} and client.cached == []


def damage_cache(client: Client) -> Path:
    client.fetch()
    (blob,) = (client.folder / "cache").glob("models--*/blobs/*")
    blob.write_bytes(wrong(DATA, 2500))
    shutil.rmtree(client.into)
    client.hub.requests.clear()
    return blob


def test_a_damaged_file_in_the_client_s_cache_is_replaced(client: Client) -> None:
    blob = damage_cache(client)
    lines = client.fetch().splitlines()
    assert lines[0].startswith("source Hub test-org/one@01234567: one.bin: sha256 expected ")
    assert (
        lines[0].endswith(f"(in {blob}). Deleted from the cache, downloading once more")
        and len(lines) == 2
    )
    assert (
        client.asked == ["HEAD", "GET"]
        and client.cached == [DATA]
        and contents(client.into) == {"one.bin": DATA}
    )
    record_fault(
        "download",
        "byte changed in the Hub client's cache",
        1,
        f"right file after {len(client.asked)} requests",
    )


def test_a_damaged_cache_that_may_not_be_changed_is_reported(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = damage_cache(client)
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == blob:
            raise PermissionError(13, "Permission denied")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    message = client.refused()
    assert message.endswith(
        f"(in {blob}). It cannot be deleted (Permission denied): have it done, or set HF_HOME to a folder of yours."
    )
    assert client.asked == [] and contents(client.into) == {}


def test_a_download_is_hashed_on_the_way_and_read_again_only_in_doubt(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What keeps the cost of verifying small (benchmarks/hub_download.py). A client that no longer allows it is noticed here."""
    read_again = []
    judge = reproduce.inputs.fetch.copy_verified

    def copy_verified(*arguments: Any) -> None:
        read_again.append(arguments)
        judge(*arguments)

    monkeypatch.setattr(reproduce.inputs.fetch, "copy_verified", copy_verified)
    client.fetch()
    client.hub.inject("GET", "one.bin", [Cut(3500)])
    shutil.rmtree(client.folder / "cache")
    client.fetch()
    assert client.hub.struck == 1 and read_again == []
    client.fetch()  # from the cache
    assert len(read_again) == 1
    assert contents(client.into) == {"one.bin": DATA}


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "methods", [("HEAD", "GET"), ("GET",)], ids=["from the first request on", "for the body only"]
)
def test_a_redirect_to_another_host_works_and_does_not_carry_the_token(
    client: Client, methods: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving() as other:
        other.add("test-org/one", client.folder / "one")
        for method in methods:
            client.hub.inject(method, "one.bin", [Redirect(other.other_host)])
        client.fetch()
        assert contents(client.into) == {"one.bin": DATA}
        assert client.hub.struck == 1
        assert [request.headers.get("authorization") for request in client.hub.requests] == [
            f"Bearer {TOKEN}"
        ] * (3 - len(methods))
        assert other.log == [f"GET /test-org/one/resolve/{COMMIT}/one.bin"]
        assert [
            name for name in other.requests[0].headers if name in ("authorization", "cookie")
        ] == []
        sent = "and" if TOKEN in str(other.requests) else "not"
        record(
            client.hub,
            "+".join(methods),
            f"right file; the token went to the Hub, {sent} to the other host",
        )


@pytest.mark.parametrize("code", [400, 401, 403, 404, 429, 500])
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_server_that_repeats_the_token_does_not_bring_it_into_the_log(
    client: Client,
    method: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_DEBUG", True)
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    caplog.set_level(logging.DEBUG, "huggingface_hub")
    client.hub.inject(method, "one.bin", forever(Status(code)))
    message = client.refused()
    assert (
        client.hub.requests[-1].headers["authorization"] == f"Bearer {TOKEN}"
        and client.hub.struck > 0
    )
    assert "Send: curl" in caplog.text, "the client was to say all it has to say"
    printed = client.capsys.readouterr()
    assert TOKEN not in f"{message}{printed.out}{printed.err}{caplog.text}"
    if code in (401, 403):
        assert "set HF_TOKEN (the one that is set has no access)" in message


# --- stages -----------------------------------------------------------------------------------------------------------


def loopback(repository: Repository, url: str) -> Repository:
    """The same repository with its Hub at an address of this machine, an empty cache, and nothing else within reach."""
    site = repository.path.parent / "loopback"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(ONLY_LOOPBACK)
    env = {
        key: value for key, value in repository.env.items() if not key.lower().endswith("_proxy")
    }
    env |= {"PYTHONPATH": str(site), "HF_HOME": str(repository.path.parent / "hf"), "HF_ENDPOINT": url,
            "HF_UPDATE_DOWNLOAD_COUNTS": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1,localhost"}  # fmt: skip
    return Repository(repository.path, env)


CLOUD = {
    "train": pd.DataFrame(
        {
            "sentence": ["a trailing space ", "déjà vu – 電影", 'a "quote"'],
            "label": [0, 1, 1],
            "idx": [0, 1, 2],
        }
    ),
    "validation": pd.DataFrame({"sentence": ["one", "two"], "label": [1, 0], "idx": [0, 1]}),
    "test": pd.DataFrame({"sentence": ["hidden "], "label": [-1], "idx": [0]}),
}
CLOUD_RAW = {
    "train.tsv": 'sentence\tlabel\na trailing space \t0\ndéjà vu – 電影\t1\na "quote"\t1\n'.encode(),
    "validation.tsv": b"sentence\tlabel\none\t1\ntwo\t0\n",
    "test.tsv": b"index\tsentence\n0\thidden \n",
}


def write_cloud(folder: Path) -> dict[str, Any]:
    """Three small Parquet files where GLUE's lie; returns what the catalog says of them."""
    (folder / "sst2").mkdir(parents=True)
    splits = {}
    for split, frame in CLOUD.items():
        file = f"sst2/{split}-00000-of-00001.parquet"
        frame.to_parquet(folder / file, index=False)
        splits[split] = {"file": file, "rows": len(frame), **pin(folder / file)}
    return splits


def add_cloud(repository: Repository, hub: Hub, *more: dict[str, str]) -> Path:
    """Put the dataset `cloud` on the hub and choose it; returns the folder with its Parquet files."""
    folder = repository.path.parent / "cloud"
    sources = [{"hub": "test-org/reviews", "revision": COMMIT}, *more]
    entry = {"sources": sources, "columns": ["sentence"], "labels": ["NEGATIVE", "POSITIVE"], "metrics": ["accuracy"],
             **write_cloud(folder)}  # fmt: skip
    hub.add("datasets/test-org/reviews", folder)
    repository.edit("catalog.yaml", lambda data: data["datasets"].update(cloud=entry))
    repository.edit(
        "params.yaml", lambda data: (data.update(dataset="cloud"), data["tasks"].update(cloud={}))
    )
    return folder


def use_hub(repository: Repository, *more: dict[str, str]) -> None:
    """The model `tiny` comes from the Hub, then from `more`."""
    sources = [{"hub": "test-org/tiny", "revision": COMMIT}, *more]
    repository.edit("catalog.yaml", lambda data: data["models"]["tiny"].update(sources=sources))


def resolve(kind: str, *names: str) -> list[str]:
    return [
        f"{method} {kind}/resolve/{COMMIT}/{name}" for name in names for method in ("HEAD", "GET")
    ]


def test_a_dataset_comes_from_the_hub_once_and_then_from_the_client_s_cache(
    repository: Repository,
) -> None:
    with serving() as hub:
        repository = loopback(repository, hub.url)
        add_cloud(repository, hub)
        done = repository.stage("download_dataset")
        assert "source Hub test-org/reviews@01234567: 3 file(s), sha256 verified\n" in done.stdout
        assert "data/raw: cloud, train 3, validation 2, test 1 sentences\n" in done.stdout
        assert contents(repository.path / "data/raw") == CLOUD_RAW
        assert hub.log == resolve(
            "/datasets/test-org/reviews",
            *(f"sst2/{split}-00000-of-00001.parquet" for split in CLOUD),
        )
    shutil.rmtree(repository.path / "data/raw")
    done = repository.stage("download_dataset")  # the server is gone
    assert "source Hub test-org/reviews@01234567: 3 file(s), sha256 verified\n" in done.stdout
    assert contents(repository.path / "data/raw") == CLOUD_RAW


def test_a_model_comes_from_the_hub(repository: Repository, hub: Hub, tiny_model: Path) -> None:
    repository = loopback(repository, hub.url)
    hub.add("test-org/tiny", tiny_model)
    use_hub(repository)
    repository.stage("download_tokenizer", "--model", "tiny")
    assert hub.log == resolve("/test-org/tiny", *MODEL_FILES)
    hub.requests.clear()
    hub.inject("HEAD", "model.safetensors", [Status(503)])
    done = repository.stage("download_weights", "--model", "tiny")  # really waits a second
    name = "source Hub test-org/tiny@01234567"
    assert done.stdout.splitlines()[:2] == [
        f"{name}: model.safetensors: 503 Service Unavailable; trying again in 1 s",
        f"{name}: 1 file(s), sha256 verified",
    ]
    head, get = resolve("/test-org/tiny", "model.safetensors")
    assert hub.log == [head, head, get] and hub.struck == 1
    expected = contents(tiny_model)
    assert contents(repository.path / "models/tokenizers/tiny") == {
        name: expected[name] for name in MODEL_FILES
    }
    assert contents(repository.path / "models/weights/tiny") == {
        "model.safetensors": expected["model.safetensors"]
    }
    assert {path.is_symlink() for path in (repository.path / "models").rglob("*")} == {False}
    record(hub, "HEAD", f"right file after {len(hub.log)} requests", "download_weights")


def test_a_file_that_the_hub_lacks_is_reported_and_the_next_source_tried(
    repository: Repository, hub: Hub
) -> None:
    repository = loopback(repository, hub.url)
    folder = add_cloud(repository, hub, {"folder": str(repository.path.parent / "cloud")})
    lacking = "sst2/test-00000-of-00001.parquet"
    del hub.files["datasets/test-org/reviews", lacking]
    lines = repository.stage("download_dataset").stdout.splitlines()
    assert lines[0] == (
        f"source Hub test-org/reviews@01234567: 404 Not Found: {lacking} in dataset test-org/reviews at revision {COMMIT} "
        f"(RemoteEntryNotFoundError) [{hub.url}]"
    )
    assert lines[1] == f"source folder {folder}: 3 file(s), sha256 verified"
    assert contents(repository.path / "data/raw") == CLOUD_RAW
    record_fault(
        "download_dataset",
        "Hub: 404",
        hub.log.count(f"HEAD /datasets/test-org/reviews/resolve/{COMMIT}/{lacking}"),
        lines[1].replace(str(folder), "that comes next"),
    )


def test_a_changed_byte_leaves_the_earlier_output_as_it_was(
    repository: Repository, hub: Hub, tiny_model: Path
) -> None:
    repository = loopback(repository, hub.url)
    repository.stage("download_weights", "--model", "tiny")  # from a folder
    earlier = contents(repository.path / "models")
    hub.add("test-org/tiny", tiny_model)
    use_hub(repository)
    hub.inject("GET", "model.safetensors", forever(Changed(1000)))
    message = repository.refused("download_weights", "--model", "tiny")
    assert (
        message.startswith("Hub test-org/tiny@01234567: model.safetensors: sha256 expected ")
        and hub.struck == 2
    )
    assert contents(repository.path / "models") == earlier
    record(
        hub,
        "GET",
        f"refused: {message.split(': ')[2].split()[0]}; earlier output kept",
        "download_weights",
    )


def closed_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_an_unreachable_hub_is_noticed_at_once(repository: Repository) -> None:
    url = closed_port()
    repository = loopback(repository, url)
    start = time.monotonic()
    repository.stage(
        "download_weights", "--model", "tiny"
    )  # from a folder: what starting Python costs on this machine now
    ordinary = time.monotonic() - start
    absent = str(repository.path.parent / "absent")
    use_hub(repository, {"folder": absent})
    start = time.monotonic()
    message = repository.refused("download_weights", "--model", "tiny", HUB_MIRROR="/nowhere")
    assert time.monotonic() - start - ordinary < 10
    first, *tried, ways_out = message.splitlines()
    assert first == "no source has the files. Tried:"
    assert tried[0] == "  HUB_MIRROR /nowhere/models/test-org/tiny: has no model.safetensors"
    assert tried[1].startswith("  Hub test-org/tiny@01234567: ConnectError: ") and tried[
        1
    ].endswith(f" [{url}]")
    assert tried[2:] == [f"  folder {absent}: has no model.safetensors"]
    assert ways_out.endswith(WAYS_OUT)
    record_fault("download_weights", "Hub: nobody there", 1, f"refused: {tried[1].split(': ')[1]}")


def test_a_hub_that_is_switched_off_is_reported_like_an_unreachable_one(
    repository: Repository,
) -> None:
    repository = loopback(repository, closed_port())
    use_hub(repository)
    message = repository.refused("download_weights", "--model", "tiny", HF_HUB_OFFLINE="1")
    assert "\n  Hub test-org/tiny@01234567: OfflineModeIsEnabled: " in message and message.endswith(
        WAYS_OUT
    )


def files_with(text: str, folder: Path) -> list[Path]:
    return [
        path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()
    ]


def test_the_token_is_in_no_log_and_in_no_file(
    repository: Repository, hub: Hub, tiny_model: Path
) -> None:
    """One run that works, by way of another host, and one that fails, both as talkative as the client can be."""
    repository = loopback(repository, hub.url)
    hub.add("test-org/tiny", tiny_model)
    use_hub(repository)
    secret: dict[str, Any] = {"HF_TOKEN": TOKEN, "HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug"}
    with serving() as other:
        other.add("test-org/tiny", tiny_model)
        for method in ("HEAD", "GET"):
            hub.inject(method, "model.safetensors", [Redirect(other.other_host)])
        hub.inject("HEAD", "vocab.txt", forever(Status(401, {"X-Error-Code": "GatedRepo"})))
        done = repository.stage("download_weights", "--model", "tiny", **secret)
        assert (
            "authorization" not in other.requests[-1].headers
            and other.log == resolve("/test-org/tiny", "model.safetensors")[1:]
        )
    failed = repository.stage("download_tokenizer", "--model", "tiny", ok=False, **secret)
    assert (
        failed.returncode == 1
        and "set HF_TOKEN (the one that is set has no access)" in failed.stderr
    )
    assert {request.headers["authorization"] for request in hub.requests} == {
        f"Bearer {TOKEN}"
    } and hub.struck == 2
    assert "Send: curl" in done.stderr, "the client was to say all it has to say"
    for text in (done.stdout, done.stderr, failed.stdout, failed.stderr):
        assert TOKEN not in text
    assert (repository.path / "models/weights/tiny/model.safetensors").is_file()
    assert not (repository.path / "models/tokenizers/tiny").exists()
    assert (
        files_with(TOKEN, repository.path.parent) == []
    )  # outputs, repository, DVC's folders, the client's cache
    (repository.path / "control").write_text(TOKEN)
    assert files_with(TOKEN, repository.path.parent) == [repository.path / "control"]
    record(
        hub,
        "HEAD",
        f"download_tokenizer refused, download_weights right; token in {'a' if TOKEN in done.stderr + failed.stderr else 'no'} log",
        "download",
    )


# --- the real layout: a checkpoint of DistilBERT's size, SST-2 --------------------------------------------------------


@dataclass
class Layout:
    """A folder laid out like the Hub."""

    folder: Path
    real: bool  # data, config and tokenizer are the real ones; the weights are random
    weights: dict[str, Any] = field(default_factory=dict)  # their pin

    @property
    def model(self) -> Path:
        return self.folder / "models/distilbert/distilbert-base-uncased"

    @property
    def data(self) -> Path:
        return self.folder / "datasets/nyu-mll/glue"


@pytest.fixture(scope="session")
def layout(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, request: pytest.FixtureRequest
) -> Layout:
    import torch
    from transformers import AutoConfig, DistilBertConfig, DistilBertForMaskedLM

    folder = tmp_path_factory.mktemp("layout")
    try:
        mirror = request.getfixturevalue("mirror")
    except pytest.skip.Exception:
        made = Layout(folder, real=False)
        shutil.copytree(tiny_model, made.model)
        (made.model / "config.json").write_text(json.dumps(DistilBertConfig().to_dict()))
        write_cloud(made.data)
    else:
        made = Layout(folder, real=True)
        for part in (made.model, made.data):
            shutil.copytree(mirror / part.relative_to(folder), part)
    torch.manual_seed(11)
    DistilBertForMaskedLM(AutoConfig.from_pretrained(str(made.model))).save_pretrained(
        folder / "weights"
    )
    (folder / "weights/model.safetensors").replace(made.model / "model.safetensors")
    made.weights = pin(made.model / "model.safetensors")
    return made


def use_layout(repository: Repository, hub: Hub, layout: Layout) -> None:
    """Serve the layout, and write its pins into the catalog where they are not the real ones."""
    hub.any_commit = True
    hub.add("distilbert/distilbert-base-uncased", layout.model)
    hub.add("datasets/nyu-mll/glue", layout.data)
    hub.etags[layout.model / "model.safetensors"] = layout.weights["sha256"]

    def change(catalog: Any) -> None:
        entry = catalog["models"]["distilbert"]
        entry["weights"] = {"model.safetensors": layout.weights}
        pins = {name: pin(layout.model / name) for name in MODEL_FILES}
        assert not layout.real or json.loads(json.dumps(entry["tokenizer"])) == pins
        entry["tokenizer"] = pins
        for split in () if layout.real else ("train", "validation", "test"):
            place = catalog["datasets"]["sst2"][split]
            place.update(rows=len(CLOUD[split]), **pin(layout.data / place["file"]))
            del place["tsv_md5"]

    repository.edit("catalog.yaml", change)


def test_the_real_layout_is_downloaded(repository: Repository, hub: Hub, layout: Layout) -> None:
    repository = loopback(repository, hub.url)
    use_layout(repository, hub, layout)
    repository.edit("params.yaml", lambda data: data.update(dataset="sst2"))
    hub.inject("GET", "sst2/train-00000-of-00001.parquet", [Cut(500)])
    hub.inject("GET", "tokenizer.json", [Reset(500)])
    done = repository.stage("download_dataset")
    assert "source Hub nyu-mll/glue@bcdcba79: 3 file(s), sha256 verified\n" in done.stdout
    rows = (
        "train 67,349, validation 872, test 1,821"
        if layout.real
        else "train 3, validation 2, test 1"
    )
    assert f"data/raw: sst2, {rows} sentences\n" in done.stdout
    done = repository.stage("download_tokenizer", "--model", "distilbert")
    assert (
        "source Hub distilbert/distilbert-base-uncased@12040acc: 4 file(s), sha256 verified\n"
        in done.stdout
    )
    assert (
        hub.struck == 2 and len(hub.requests) == 2 * (3 + 4) + 1 + 2
    )  # one resumed, one begun again
    record(
        hub,
        "GET",
        f"right files after {len(hub.requests)} requests",
        "download_dataset, download_tokenizer",
    )


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


def test_a_download_that_is_killed_leaves_no_output_and_the_next_one_is_whole(
    repository: Repository, hub: Hub, layout: Layout
) -> None:
    """268 MB, killed at 60 MB; then, in the second run, the connection cut at 100 MB.

    The client resumes within a process only: a killed download starts again, a cut one goes on from the last whole chunk.
    """
    repository = loopback(repository, hub.url)
    use_layout(repository, hub, layout)
    hub.inject("GET", "model.safetensors", [Stall(60_000_000), Cut(100_000_000)])
    cache, out = repository.path.parent / "hf/hub", repository.path / "models/weights"
    command = [sys.executable, "-m", "stages.download_weights", "--model", "distilbert"]
    with subprocess.Popen(
        command, cwd=repository.path, env=repository.env, stderr=subprocess.DEVNULL
    ) as process:
        assert hub.stalled.wait(60)
        wait_until(
            lambda: [
                path for path in cache.rglob("*.incomplete") if path.stat().st_size >= 50_000_000
            ]
        )
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert [path.name for path in out.iterdir()] == [
        "distilbert.partial"
    ]  # by that name no stage looks for it
    done = repository.stage("download_weights", "--model", "distilbert")
    assert (
        "source Hub distilbert/distilbert-base-uncased@12040acc: 1 file(s), sha256 verified\n"
        in done.stdout
    )
    assert hub.struck == 2 and hub.ranges == [
        None,
        None,
        "bytes=94371840-",
    ]  # nine chunks of 10 MiB
    assert [path.name for path in out.iterdir()] == ["distilbert"]
    assert filecmp.cmp(
        out / "distilbert/model.safetensors", layout.model / "model.safetensors", shallow=False
    )
    record(
        hub,
        "GET, and kill -9",
        f"whole in the second run, Range {hub.ranges[-1]}",
        "download_weights",
    )

    from transformers import AutoModelForSequenceClassification

    shutil.copyfile(layout.model / "config.json", out / "distilbert/config.json")
    loaded = AutoModelForSequenceClassification.from_pretrained(
        out / "distilbert", local_files_only=True, use_safetensors=True
    )
    assert loaded.num_parameters() == 66_955_010 or not layout.real


# --- pickles ----------------------------------------------------------------------------------------------------------


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "code was run"


@pytest.fixture
def trap(tmp_path: Path, mark: Path) -> Callable[[Path], None]:
    """Puts a checkpoint that runs code when it is unpickled into a folder, by every name that transformers knows."""
    import torch

    checkpoint = tmp_path / "pytorch_model.bin"
    torch.save({"classifier.weight": Payload(mark)}, checkpoint)
    torch.load(checkpoint, weights_only=False)
    assert mark.exists(), "the trap does not work"
    mark.unlink()

    def put(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("pytorch_model.bin", "adapter_model.bin", "model.pt"):
            shutil.copyfile(checkpoint, folder / name)
        index = {"metadata": {}, "weight_map": {"classifier.weight": "pytorch_model.bin"}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))

    return put


def test_a_stage_that_finds_a_pickle_for_the_weights_refuses(
    repository: Repository, trap: Callable[[Path], None], mark: Path, tiny_model: Path
) -> None:
    for other in ("data/tokenized/tiny/train.parquet", "models/tokenizers/tiny/config.json"):
        (repository.path / other).parent.mkdir(parents=True)
        shutil.copyfile(tiny_model / "config.json", repository.path / other)
    for stage, folder in (
        ("finetune", "models/weights/tiny"),
        ("evaluate", "models/finetuned/tiny-1"),
    ):
        trap(repository.path / folder)
        shutil.copyfile(tiny_model / "config.json", repository.path / folder / "config.json")
        message = repository.refused(stage, "--model", "tiny", "--seed", "1")
        assert folder in message and "model.safetensors" in message and "`dvc repro" in message
        assert not mark.exists()
        record_fault(
            stage,
            "pickle in the place of model.safetensors",
            1,
            f"refused; its code {'ran' if mark.exists() else 'did not run'}",
        )


def load_for_training(folder: Path, tokenizer: Path) -> Any:
    from reproduce.models.load import load_pretrained

    return load_pretrained(folder, tokenizer, ["NEGATIVE", "POSITIVE"])


def load_for_evaluation(folder: Path, tokenizer: Path) -> Any:
    from reproduce.models.logits import predict

    shutil.copyfile(tokenizer / "config.json", folder / "config.json")
    return predict(folder, [[2, 5, 3], [2, 3]], 2)


LOADERS = {"finetune": load_for_training, "evaluate": load_for_evaluation}


@pytest.mark.parametrize("stage", LOADERS)
def test_a_pickle_is_never_read(
    stage: str, trap: Callable[[Path], None], mark: Path, tmp_path: Path, tiny_model: Path
) -> None:
    """Alone: an error. Beside the safetensors file: not touched. In its name: bytes that make no sense."""
    folder = tmp_path / "model"
    trap(folder)
    with pytest.raises((OSError, UserError), match=r"no file named model\.safetensors"):
        LOADERS[stage](folder, tiny_model)
    shutil.copyfile(tiny_model / "model.safetensors", folder / "model.safetensors")
    assert LOADERS[stage](folder, tiny_model) is not None
    (folder / "pytorch_model.bin").replace(folder / "model.safetensors")
    with pytest.raises(Exception, match="deserializing header"):
        LOADERS[stage](folder, tiny_model)
    assert not mark.exists()
    record_fault(
        stage,
        "pickle beside model.safetensors, or by its name",
        2,
        f"not read; its code {'ran' if mark.exists() else 'did not run'}",
    )


@pytest.mark.parametrize("model_type", ["bert", "evil"])
def test_code_that_comes_with_a_model_is_never_run(
    model_type: str, mark: Path, tmp_path: Path, tiny_model: Path
) -> None:
    """config.json may name classes in a Python file beside it (`auto_map`); no stage sets trust_remote_code."""
    from reproduce.inputs.tokenizer import load_tokenizer
    from stages.benchmark import build

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    classes = dict.fromkeys(
        ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification"), "evil.Evil"
    )
    config = json.loads((folder / "config.json").read_text()) | {
        "model_type": model_type,
        "auto_map": classes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**tokenizer, "tokenizer_class": "Evil"})
    )
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Evil: pass\n")
    evaluated = shutil.copytree(folder, tmp_path / "evaluated")
    loaders: dict[str, Callable[[], Any]] = {
        "finetune": lambda: load_for_training(folder, folder),
        "evaluate": lambda: load_for_evaluation(evaluated, folder),
        "benchmark": lambda: build(folder),
        "tokenize": lambda: load_tokenizer(folder),
    }
    outcomes = {}
    for stage, load in loaders.items():
        try:
            load()
        except Exception as error:
            outcomes[stage] = f"refused ({type(error).__name__}), the code did not run"
        else:
            outcomes[stage] = "transformers' own class was taken, the code did not run"
        assert not mark.exists(), stage
        record_fault(
            stage, f"config.json of type {model_type} that names code beside it", 1, outcomes[stage]
        )
    refused = [stage for stage, outcome in outcomes.items() if outcome.startswith("refused")]
    assert (refused == []) == (model_type == "bert"), outcomes
