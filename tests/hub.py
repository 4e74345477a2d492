"""A Hub on the loopback address: as much as its client asks for, and what can go wrong.

with serving() as hub:
    hub.add("test-org/tiny", folder)
    hub.inject("GET", "model.safetensors", [Status(500)] * 2)  # the first two; then answered
"""

import contextlib
import functools
import hashlib
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request, by its kind; "stall": no answer at all."""

    kind: str
    number: int = 0
    headers: dict[str, str] = field(default_factory=dict)


Status = functools.partial(Fault, "status")  # that status, and its headers
Portal = functools.partial(Status, 200, {"Content-Type": "text/html"})  # a hotel's log-in page
Reset = functools.partial(Fault, "reset")  # the connection is reset before the answer
Cut = functools.partial(Fault, "cut")  # it ends after so many bytes of the body
Changed = functools.partial(Fault, "changed")  # the byte at that place is another


class Hub(ThreadingHTTPServer):
    """Serves repositories at COMMIT; keeps what it was asked."""

    daemon_threads = True
    block_on_close = False  # a stalled answer holds its thread

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubRequest)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.files: dict[tuple[str, str], Path] = {}  # (repository, name) -> file
        self.etags: dict[Path, str] = {}
        self.asked: list[str] = []  # HEAD or GET
        self.tokens: set[str | None] = set()  # that came with what was asked
        self.closing = threading.Event()
        self.faults: dict[tuple[str, str], Iterator[Fault]] = {}

    def add(self, repo: str, folder: Path) -> None:
        """Serve every file below `folder`; `repo` is OWNER/NAME or datasets/OWNER/NAME."""
        for name, data in contents(folder).items():
            self.files[repo, name] = folder / name
            # As for the Hub's large files: the sha256 of the right bytes, whatever is sent.
            self.etags[folder / name] = hashlib.sha256(data).hexdigest()

    def inject(self, method: str, name: str, faults: Iterable[Fault]) -> None:
        """Answer the next requests for the file `name` with these faults, then properly."""
        self.faults[method, name] = iter(faults)

    def handle_error(self, *args: Any) -> None:
        """A client that was killed is no news."""


class HubRequest(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        repo, _, name = self.path.removeprefix("/").partition(f"/resolve/{COMMIT}/")
        fault = next(self.server.faults.get((self.command, name), iter(())), Fault("none"))
        self.server.asked.append(self.command)
        self.server.tokens.add(self.headers.get("Authorization"))
        if fault.kind == "status":
            words = f"sent {dict(self.headers)}"
            self.head(fault.number, {"X-Error-Message": words, **fault.headers})
        elif fault.kind == "stall":
            self.close_connection = True
            self.server.closing.wait()
        elif fault.kind == "reset":
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()
        elif path := self.server.files.get((repo, name)):
            self.send(path, fault)
        else:
            self.head(404, {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET  # noqa: N815

    def send(self, path: Path, fault: Fault) -> None:
        data, at = path.read_bytes(), fault.number
        headers = {"ETag": f'"{self.server.etags[path]}"', "X-Repo-Commit": COMMIT}
        self.head(200, headers, len(data))
        if fault.kind == "changed":
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        if fault.kind == "cut":
            data, self.close_connection = data[:at], True
        if self.command == "GET":
            self.wfile.write(data)

    def head(self, status: int, headers: dict[str, str], length: int = 0) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A Hub in a thread."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.closing.set()
            hub.shutdown()
            thread.join()


def face(patch: pytest.MonkeyPatch, endpoint: str, home: Path | None = None) -> None:
    """Turn the Hub's client of this process to `endpoint`, with a cache below `home`."""
    from huggingface_hub import close_session, constants

    close_session()  # connections to a server that is gone
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    settings: dict[str, Any] = {"ENDPOINT": endpoint, "HUGGINGFACE_CO_URL_TEMPLATE": template}
    if home:
        for name in ("HUB_MIRROR", "HF_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy"):
            patch.delenv(name, raising=False)
        settings |= {"HF_HUB_CACHE": str(home / "cache"), "HF_TOKEN_PATH": str(home / "token")}
        settings |= {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_TELEMETRY": True}
    for name, value in settings.items():
        patch.setattr(constants, name, value)
