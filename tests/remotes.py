"""Servers for tests/test_remotes.py, each a process of its own on 127.0.0.1, and a proxy that can be made to fail.

Run as: python tests/remotes.py PORT TARGET_PORT [BYTES MARKER]    the proxy; after BYTES to the client it stalls and writes MARKER
"""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# Like NO_NETWORK of conftest.py, but this machine may talk to itself.
LOOPBACK_ONLY = """
import os, socket, sys
def _audit(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and arguments[0].family != socket.AF_UNIX:
        host = arguments[1][0]
    else:
        return
    if host not in ("127.0.0.1", "::1", "localhost", b"127.0.0.1", b"localhost"):
        sys.stderr.write(f"NETWORK: {event} {arguments!r} by {sys.argv}\\n")
        sys.stderr.flush()
        os._exit(97)
sys.addaudithook(_audit)
"""


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 240) -> None:
    """Return as soon as `condition` holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def server(
    command: Sequence[str | Path], port: int, log: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `command`, wait until it answers on `port`, and kill it at the end."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
    try:
        wait_until(lambda: process.poll() is not None or answers(port), f"{command}")
        assert process.poll() is None, (
            f"{command} ended with {process.returncode}: {log.read_text()[-2000:]}"
        )
        yield process
    finally:
        process.kill()
        process.wait()


def proxy(port: int, target: int, limit: int | None = None, marker: Path | None = None) -> None:
    """Hand bytes on between `port` and `target`; after `limit` bytes to the client go silent, as a dying server does."""
    sent = 0
    lock = threading.Lock()

    def hand_on(source: socket.socket, sink: socket.socket, to_client: bool) -> None:
        nonlocal sent
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                if to_client and limit is not None:
                    with lock:
                        data = data[: max(0, limit - sent)]
                        sent += len(data)
                if data:
                    sink.sendall(data)
                if to_client and limit is not None and sent >= limit:
                    assert marker
                    marker.write_text(str(sent))
                    threading.Event().wait()  # until this process is killed
            sink.shutdown(socket.SHUT_WR)

    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            client, _ = listener.accept()
            upstream = socket.create_connection(("127.0.0.1", target))
            threading.Thread(target=hand_on, args=(client, upstream, False), daemon=True).start()
            threading.Thread(target=hand_on, args=(upstream, client, True), daemon=True).start()


if __name__ == "__main__":
    port, target = int(sys.argv[1]), int(sys.argv[2])
    if sys.argv[3:]:
        proxy(port, target, int(sys.argv[3]), Path(sys.argv[4]))
    else:
        proxy(port, target)
