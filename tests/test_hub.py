"""Downloads from a Hub that misbehaves (tests/hub.py): what is printed, what is left; secrets."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import pin
from hub import COMMIT, Changed, Cut, Fault, Hub, Portal, Reset, Status, contents, face, serving
from reproduce.files import UserError
from reproduce.inputs.catalog import Pin, Source
from reproduce.inputs.fetch import fetch

ONE = Source(hub="test-org/one", revision=COMMIT)
DATA = bytes(range(250)) * 20  # 5,000 bytes, in chunks of 1,000
TOKEN = "hf_aSecretThatNobodyMaySee"
VERIFIED = "source Hub test-org/one@01234567: 1 file(s), sha256 verified"


@dataclass
class Client:
    """`fetch` in this process, of the file one.bin, with an empty cache and a clock that jumps."""

    hub: Hub
    folder: Path
    capsys: pytest.CaptureFixture[str]
    files: dict[str, Pin]
    local: Source  # the folder with the file that the Hub serves
    blob: Path  # the file's content in the client's cache
    into: Path

    def fetch(self, *more: Source) -> list[str]:
        """The lines that were printed."""
        self.capsys.readouterr()
        fetch("model", [ONE, *more], self.files, self.into)
        assert contents(self.into) == {"one.bin": DATA}
        return self.capsys.readouterr().out.splitlines()

    def refused(self, *more: Source) -> str:
        with pytest.raises(UserError) as error:
            self.fetch(*more)
        assert contents(self.into) == {}
        return str(error.value)


@pytest.fixture
def client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Client]:
    folder, into = tmp_path / "one", tmp_path / "into"
    folder.mkdir()
    (folder / "one.bin").write_bytes(DATA)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    clock = SimpleNamespace(sleep=lambda seconds: None)
    for module in ("file_download", "utils._http"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time", clock)
    with serving() as hub:
        hub.add("test-org/one", folder)
        face(monkeypatch, hub.url, tmp_path)
        files = {"one.bin": Pin(**pin(folder / "one.bin"))}
        blob = tmp_path / "cache/models--test-org--one/blobs" / files["one.bin"].sha256
        yield Client(hub, tmp_path, capsys, files, Source(folder=str(folder)), blob, into)


TRIED_AGAIN: dict[str, tuple[str, list[Fault]]] = {
    "busy": ("HEAD", [Status(503)] * 2),
    "too many requests": ("GET", [Status(429, {"Retry-After": "2"})]),
    "cut": ("GET", [Cut(3500)]),
}


@pytest.mark.parametrize(("method", "faults"), TRIED_AGAIN.values(), ids=TRIED_AGAIN)
def test_what_the_client_tries_again_by_itself_succeeds(
    client: Client, method: str, faults: list[Fault]
) -> None:
    client.hub.inject(method, "one.bin", faults)
    assert client.fetch()[-1] == VERIFIED


REFUSED: dict[str, tuple[str, Fault, str]] = {
    "500": ("HEAD", Status(500), "500 Internal Server Error ["),
    "502 for the body": ("GET", Status(502), "502 Bad Gateway ["),
    "gated": ("HEAD", Status(401, {"X-Error-Code": "GatedRepo"}), "401 Unauthorized: gated, private"
              " or not there. Accept its licence at {url}/test-org/one and set HF_TOKEN (none is"),
    "no such file": ("HEAD", Status(404, {"X-Error-Code": "EntryNotFound"}),
                     f"404 Not Found: one.bin in model test-org/one at revision {COMMIT} ("),
    "a log-in page": ("HEAD", Portal(), "FileMetadataError: "),
    "reset": ("HEAD", Reset(), "ReadError: "),
}  # fmt: skip


@pytest.mark.parametrize(("method", "fault", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_stays_wrong_ends_with_one_reason_and_leaves_nothing(
    client: Client, method: str, fault: Fault, reason: str
) -> None:
    """Where there is another source, that one is asked."""
    client.hub.inject(method, "one.bin", repeat(fault))
    first, tried, last = client.refused().splitlines()
    assert first == "no source has the files. Tried:"
    assert tried.startswith(f"  {ONE}: {reason.format(url=client.hub.url)}"), tried
    assert last.endswith("or run `make demo`, which needs no Hub.")
    assert client.fetch(client.local)[-1].startswith(f"source {client.local}: ")
    client.hub.inject(method, "one.bin", [])  # well again
    assert client.fetch()[-1] == VERIFIED


def test_a_silent_hub_is_asked_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client by itself would ask for minutes before the next source had its turn."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.5)
    client.hub.inject("HEAD", "one.bin", repeat(Fault("stall")))
    lines = client.fetch(client.local)
    assert lines[0] == f"asking {client.hub.url}, for at most 0.5 s if it is silent"
    assert client.hub.asked == ["HEAD"] and "ReadTimeout" in lines[1]


def test_a_changed_byte_is_an_error_whatever_source_is_next(client: Client) -> None:
    client.hub.inject("GET", "one.bin", [Changed(2500)])
    message = client.refused(client.local)
    assert message.startswith("Hub test-org/one@01234567: one.bin: sha256 expected ")


# --- the client's cache ---------------------------------------------------------------------------


def test_a_damaged_file_in_the_cache_is_downloaded_beside_it(client: Client) -> None:
    client.hub.inject("GET", "one.bin", [Changed(7)])
    client.refused()
    lines = client.fetch()
    assert lines[-2].endswith("Downloading it again, beside the cache") and lines[-1] == VERIFIED


def test_a_wrong_pin_costs_no_file_when_the_hub_is_away(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.fetch()
    right = client.files["one.bin"]
    (client.into / "one.bin").unlink()
    client.files = {"one.bin": right.model_copy(update={"sha256": "a" * 64})}
    face(monkeypatch, "http://127.0.0.1:9")  # the port `discard`, where nobody listens
    message = client.refused()
    assert f"sha256 expected {'a' * 64}, found {right.sha256}" in message
    assert "or correct the pin in catalog.yaml" in message
    client.files = {"one.bin": right}
    assert client.blob.read_bytes() == DATA and client.fetch() == [VERIFIED]


@pytest.mark.parametrize("part", ["blob", "pointer"])
def test_a_link_out_of_the_cache_costs_no_file_of_a_person(client: Client, part: str) -> None:
    client.fetch()
    mine = client.folder / "mine.bin"
    mine.write_bytes(b"my own work")
    pointer = client.blob.parent.parent / "snapshots" / COMMIT / "one.bin"
    place = client.blob if part == "blob" else pointer
    place.unlink()
    place.symlink_to(mine)
    client.fetch()
    assert mine.read_bytes() == b"my own work"


# --- secrets --------------------------------------------------------------------------------------


def test_the_token_goes_in_clear_text_to_this_machine_alone(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    client.fetch()
    assert client.hub.tokens == {f"Bearer {TOKEN}"}
    (client.into / "one.bin").unlink()
    client.hub.tokens.clear()
    face(monkeypatch, "http://hub.example", client.folder / "elsewhere")
    # A name that is another machine's to us; the proxy of this test leads it here.
    monkeypatch.setenv("http_proxy", client.hub.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(UserError):
        client.fetch()
    assert client.hub.tokens == {None}
    line = "HF_TOKEN is not sent to http://hub.example, which is not encrypted"
    assert line in client.capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("fault", [Status(401), Status(503), Reset(), Portal()], ids=str)
def test_no_secret_is_printed(
    client: Client, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    face(monkeypatch, client.hub.url.replace("://", "://me:sesame@"))
    client.hub.inject("HEAD", "one.bin", repeat(fault))
    message = client.refused()
    printed = client.capsys.readouterr()
    for text in (message, printed.out, printed.err):
        assert "sesame" not in text and TOKEN not in text
    assert client.hub.url in message
