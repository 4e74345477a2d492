"""A Hub on the loopback address: as much as its client asks for (shared/FACTS.md, section 6), and whatever can go wrong.

    with serving() as hub:
        hub.add("test-org/tiny", folder)
        hub.inject("GET", "model.safetensors", [Status(500)] * 2)    # the first two requests; the third is answered
        hub.inject("HEAD", "vocab.txt", forever(Stall()))
        ...                                                          # with HF_ENDPOINT=hub.url
        assert hub.struck == 2 and hub.ranges == [None, None, None]

Run as: python tests/hub.py FOLDER [BYTES_A_SECOND]    serves FOLDER/{models,datasets}/OWNER/NAME/FILE, prints its address
"""

import contextlib
import hashlib
import itertools
import mmap
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ADDRESS = re.compile(
    r"/(?P<repo>(?:datasets/)?[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)"
)

# In place of conftest's NO_NETWORK: the loopback address is the only one that may be asked.
ONLY_LOOPBACK = """
import os, sys
def _audit(event, arguments):
    hosts = {"socket.getaddrinfo": lambda a: a[0], "socket.connect": lambda a: a[1][0], "socket.sendto": lambda a: a[1][0]}
    if event not in hosts or event != "socket.getaddrinfo" and not isinstance(arguments[1], tuple):  # a Unix socket
        return
    if hosts[event](arguments) not in ("127.0.0.1", "localhost", "::1"):
        sys.stderr.write(f"NETWORK: {event} {arguments!r}\\n")
        sys.stderr.flush()
        os._exit(97)
sys.addaudithook(_audit)
"""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# --- what can go wrong ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Status:
    """An error status. What the server says repeats what it was sent, as careless servers do."""

    code: int
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join(
            [f"status {self.code}", *(f"{name}: {value}" for name, value in self.headers.items())]
        )


@dataclass(frozen=True)
class Redirect:
    """The file lies on another host, as the Hub's large files do."""

    to: str  # http://HOST:PORT

    def __str__(self) -> str:
        return "redirect to another host"


@dataclass(frozen=True)
class Reset:
    """The connection is reset after that many bytes of the body; None: before the answer."""

    at: int | None = None

    def __str__(self) -> str:
        return "connection reset" + (f" at byte {self.at}" if self.at is not None else "")


@dataclass(frozen=True)
class Cut:
    """The connection ends after that many bytes of the body, fewer than announced."""

    at: int

    def __str__(self) -> str:
        return f"body ends at byte {self.at}"


@dataclass(frozen=True)
class Short:
    """A body of that many bytes, and its Content-Length agrees: only the first request told the truth."""

    bytes: int

    def __str__(self) -> str:
        return f"body and Content-Length of {self.bytes} bytes"


@dataclass(frozen=True)
class Changed:
    """A body of the right length in which the byte at that place is another."""

    at: int

    def __str__(self) -> str:
        return f"byte {self.at} changed"


@dataclass(frozen=True)
class Stall:
    """Silence after that many bytes of the body; None: no answer at all."""

    at: int | None = None

    def __str__(self) -> str:
        return "silence" + (f" after byte {self.at}" if self.at is not None else "")


@dataclass(frozen=True)
class NoRange:
    """The whole file, whatever Range was asked for."""

    def __str__(self) -> str:
        return "Range ignored"


@dataclass(frozen=True)
class Portal:
    """Something that answers 200 to everything and is no Hub: a hotel's log-in page."""

    def __str__(self) -> str:
        return "a log-in page in place of the Hub"


Fault = Status | Redirect | Reset | Cut | Short | Changed | Stall | NoRange | Portal


def forever(fault: Fault) -> Iterator[Fault]:
    """The same fault at every request."""
    return itertools.repeat(fault)


# --- the server -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """One request, and the fault that was its answer."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    fault: Fault | None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Hub(ThreadingHTTPServer):
    """Serves repositories at COMMIT (or at any commit, from the command line); keeps what it was asked."""

    daemon_threads = True
    block_on_close = False  # a stalled answer holds its thread

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubRequest)
        self.port = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.other_host = f"http://localhost:{self.port}"  # the same server by a name that is another host to a client
        self.files: dict[tuple[str, str], Path] = {}  # (repository, name) -> file
        self.etags: dict[Path, str] = {}
        self.any_commit = False
        self.rate = 0.0  # bytes a second; 0: as fast as it goes
        self.requests: list[Asked] = []
        self.stalled = threading.Event()  # an answer has fallen silent
        self.closing = threading.Event()
        self._faults: dict[tuple[str, str], Iterator[Fault]] = {}

    def add(self, repo: str, folder: Path) -> None:
        """Serve every file below `folder`; `repo` is OWNER/NAME or datasets/OWNER/NAME."""
        self.files |= {
            (repo, str(path.relative_to(folder))): path
            for path in folder.rglob("*")
            if path.is_file()
        }

    def inject(self, method: str, name: str, faults: Iterable[Fault]) -> None:
        """Answer the next requests for the file `name` with these faults, one each, and those after them properly."""
        self._faults[method, name] = iter(faults)

    def next_fault(self, method: str, name: str) -> Fault | None:
        return next(self._faults.get((method, name), iter(())), None)

    @property
    def log(self) -> list[str]:
        """METHOD PATH of every request."""
        return [str(request) for request in self.requests]

    @property
    def struck(self) -> int:
        """How many requests were answered with a fault."""
        return sum(request.fault is not None for request in self.requests)

    @property
    def ranges(self) -> list[str | None]:
        """The Range of every GET."""
        return [
            request.headers.get("range") for request in self.requests if request.method == "GET"
        ]

    def etag(self, path: Path) -> str:
        """As for the Hub's large files: the sha256 of the right bytes, whatever is sent."""
        if path not in self.etags:
            with path.open("rb") as file:
                self.etags[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return self.etags[path]

    def handle_error(self, *args: Any) -> None:
        """A client that was killed is no news."""


class HubRequest(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        address = ADDRESS.fullmatch(self.path)
        name = address["name"] if address else ""
        fault = self.server.next_fault(self.command, name)
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.server.requests.append(Asked(self.command, self.path, headers, fault))
        if isinstance(fault, Status):
            return self.head(
                fault.code, {"X-Error-Message": f"you sent {headers}", **fault.headers}
            )
        if isinstance(fault, Portal):
            return self.head(200, {"Content-Type": "text/html"})
        if isinstance(fault, Reset) and fault.at is None:
            return self.reset()
        if isinstance(fault, Stall) and fault.at is None:
            return self.stall()
        missing = self.what_is_missing(address)
        if missing:
            return self.head(404, {"X-Error-Code": missing, "X-Error-Message": "not found"})
        assert address
        path = self.server.files[address["repo"], name]
        size = path.stat().st_size
        about = {"ETag": f'"{self.server.etag(path)}"', "X-Repo-Commit": address["revision"]}
        if isinstance(fault, Redirect):
            linked = {
                "X-Linked-ETag": about["ETag"],
                "X-Linked-Size": str(size),
                "Location": fault.to + self.path,
            }
            return self.head(302, {**about, **linked})
        start = (
            int(headers["range"].removeprefix("bytes=").rstrip("-")) if "range" in headers else 0
        )
        if start and not isinstance(fault, NoRange):
            about["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        else:
            start = 0
        end = min(fault.bytes, size) if isinstance(fault, Short) else size
        self.head(206 if start else 200, about, end - start)
        if self.command == "GET" and end > start:
            with (
                path.open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            ):
                self.body(data, start, end, fault)
        return None

    def what_is_missing(self, address: "re.Match[str] | None") -> str:
        """The Hub's code for the part of an address that does not exist."""
        if not address or address["repo"] not in {repo for repo, _ in self.server.files}:
            return "RepoNotFound"
        if address["revision"] != COMMIT and not self.server.any_commit:
            return "RevisionNotFound"
        return "" if (address["repo"], address["name"]) in self.server.files else "EntryNotFound"

    def head(self, status: int, headers: dict[str, str], length: int = 0) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def body(self, data: mmap.mmap, start: int, end: int, fault: Fault | None) -> None:
        if isinstance(fault, Changed):
            self.send(data, start, fault.at)
            self.wfile.write(bytes([data[fault.at] ^ 1]))
            self.send(data, fault.at + 1, end)
        elif isinstance(fault, Reset | Cut | Stall) and fault.at is not None:
            self.send(data, start, min(start + fault.at, end))
            if isinstance(fault, Reset):
                self.reset()
            elif isinstance(fault, Stall):
                self.stall()
            self.close_connection = True
        else:
            self.send(data, start, end)

    def send(self, data: mmap.mmap, start: int, end: int) -> None:
        began, piece = time.monotonic(), 1 << 19
        for at in range(start, end, piece):
            self.wfile.write(data[at : min(at + piece, end)])
            if self.server.rate:
                time.sleep(
                    max(0.0, (at + piece - start) / self.server.rate - (time.monotonic() - began))
                )

    def stall(self) -> None:
        self.close_connection = True
        self.server.stalled.set()
        self.server.closing.wait()

    def reset(self) -> None:
        """Close in such a way that the other side gets a reset (RST) and no orderly end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.connection.close()

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


def main() -> None:
    """Serve a folder laid out like the Hub until standard input ends."""
    folder = Path(sys.argv[1])
    with serving() as hub:
        hub.any_commit = True
        hub.rate = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
        for repo in [*folder.glob("models/*/*"), *folder.glob("datasets/*/*")]:
            hub.add(str(repo.relative_to(folder)).removeprefix("models/"), repo)
        print(hub.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
