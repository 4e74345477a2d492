"""A launcher for the tests (LAUNCHER in dvc.yaml): the stages that compute run in forks of one process that has imported
PyTorch and transformers already, which costs a stage more seconds than its work on tiny inputs.

A stage is still run as __main__ from the repository's own files, by the repository's dvc.yaml, in a process of its own. Tests for
which the process matters (a kill, a limit, a lock, equal bytes of two processes) do without: their environment has no LAUNCHER.

Serve: python tests/warm.py SOCKET       Launch: LAUNCHER="python tests/warm.py SOCKET" dvc repro
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "torch.onnx", "datasets", "evaluate", "onnxscript", "scipy.stats", "sklearn.metrics", "transformers.trainer",
             "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
             "transformers.models.bert.modeling_bert", "dvclive.live")  # fmt: skip
LENGTH = struct.Struct("!I")  # of the request that follows


def serve(place: Path) -> None:
    """Answer requests at the socket `place`, each in a process of its own, until killed.

    Its environment must switch the Hub off, as the stages do: the libraries read that when they are imported.
    """
    import_libraries()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the handlers
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(place.with_suffix(".new")))
    server.listen()
    place.with_suffix(".new").rename(place)  # who sees it can connect
    while True:
        connection, _ = server.accept()
        if os.fork() == 0:
            server.close()
            handle(connection)
        connection.close()


def import_libraries() -> None:
    """What the stages import from elsewhere, but for ONNX Runtime: it starts threads, which a fork does not have."""
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # the forks then share these objects' memory


def handle(connection: socket.socket) -> None:
    """Run one request in a fork and send its exit status, as the shell would see it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    header, files, *_ = socket.recv_fds(connection, LENGTH.size, 3)
    with connection.makefile("rb") as reader:
        request = json.loads(reader.read(LENGTH.unpack(header)[0]))
    child = os.fork()
    if child == 0:
        connection.close()
        for standard, file in enumerate(files):
            os.dup2(file, standard)
            os.close(file)
        run(request)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.sendall(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


def run(request: dict[str, Any]) -> None:
    """Become `python -m MODULE ...` in the caller's folder and environment; does not return."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    module, *arguments = request["command"]
    sys.argv[1:] = arguments
    sys.path[0] = request["folder"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()


def launch(place: Path, command: list[str]) -> int:
    """Have `command` (python -m MODULE ...) run by the server at `place`; returns its exit code."""
    assert command[:2] == ["python", "-m"], command
    request = {"command": command[2:], "folder": str(Path.cwd()), "environment": dict(os.environ)}
    body = json.dumps(request).encode()
    patience = time.monotonic() + 120
    while not place.exists() and time.monotonic() < patience:  # its imports take a while
        time.sleep(0.05)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(place))
        socket.send_fds(connection, [LENGTH.pack(len(body))], [0, 1, 2])
        connection.sendall(body)
        answer = connection.recv(1)
    return answer[0] if answer else 1  # none: the handler itself died


if __name__ == "__main__":
    socket_file, *stage = sys.argv[1:]
    if stage:
        sys.exit(launch(Path(socket_file), stage))
    serve(Path(socket_file))
