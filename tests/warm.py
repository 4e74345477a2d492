"""A launcher for the tests (LAUNCHER in dvc.yaml): stages run in forks of one process.

That process has imported PyTorch and transformers, which costs a stage more seconds than its work
on tiny inputs. A stage is still run as __main__, from the repository's own files, by dvc.yaml.
Without a command this is the server, which prints "ready"; with one, the client:

    python tests/warm.py SOCKET [python -m MODULE ...]
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
from pathlib import Path

# Not ONNX Runtime: it starts threads, which a fork does not have.
LIBRARIES = ("torch.onnx", "datasets", "evaluate", "onnxscript", "scipy.stats", "sklearn.metrics",
             "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
             "transformers.models.bert.modeling_bert", "dvclive.live")  # fmt: skip


def serve(place: str) -> None:
    """Answer requests, each in a fork, until killed, or until the tests end, however they do."""
    parent = os.getppid()
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
        os.environ[name] = "1"  # as the stages do; read when the libraries are imported
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # the forks then share these objects' memory
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(place)
    server.listen()
    server.settimeout(5)
    print("ready", flush=True)
    while os.getppid() == parent:
        try:
            connection, _ = server.accept()
        except TimeoutError:
            continue
        connection.setblocking(True)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            answer(connection)
        connection.close()


def answer(connection: socket.socket) -> None:
    """Become the command that was asked for; this fork waits for it and sends its exit status."""
    request, files, *_ = socket.recv_fds(connection, 1 << 20, 3)
    child = os.fork()
    if child:
        connection.sendall(bytes([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 255]))
        os._exit(0)
    for standard, file in enumerate(files):
        os.dup2(file, standard)
    folder, environment, sys.argv[1:] = json.loads(request)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
    sys.exit()


def ask(place: str, command: list[str]) -> int:
    """Have `python -m MODULE ...` run by the server; its exit status."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(place)
        request = json.dumps([str(Path.cwd()), dict(os.environ), command[2:]])
        socket.send_fds(connection, [request.encode()], [0, 1, 2])
        return (connection.recv(1) or b"\1")[0]


if __name__ == "__main__":
    if sys.argv[2:]:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
    serve(sys.argv[1])
