"""Sharing through a remote of each kind, behind real servers, and what happens to damaged bytes.

The pipeline is a small one, of shell commands, whose outputs are of the same kinds as the
project's: a cached file and folder, a curve, a metric and a report kept in git.
"""

import contextlib
import getpass
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from conftest import Repository, environment, run_here

PIPELINE = """\
stages:
  train:
    cmd: mkdir -p data models && cp input.txt data/train.tsv && seq 7 > data/test.tsv &&
      seq 20000 > models/weights && wc input.txt > curve.tsv
    deps: [input.txt]
    outs: [data, models/weights]
    plots: [{curve.tsv: {cache: false}}]
  score:
    cmd: mkdir -p report && wc -c models/weights > accuracy.json && seq 9 > report/report.html
    deps: [data, models/weights]
    metrics: [{accuracy.json: {cache: false}}]
    plots: [{report: {cache: false}}]
"""
WEIGHTS, CACHED = "models/weights", ("data/train.tsv", "data/test.tsv", "models/weights")
IN_GIT = ("curve.tsv", "accuracy.json", "report/report.html")


def bytes_of(repository: Repository, names: Sequence[str]) -> dict[str, bytes]:
    return {name: (repository.path / name).read_bytes() for name in names}


def tool(repository: Repository, module: str, *arguments: str, code: int = 0) -> str:
    """Run one of tools/ in this process; everything that it prints."""
    done = run_here(repository.path, repository.env, f"tools.{module}", *arguments)
    text = done.stderr + done.stdout
    assert done.returncode == code and text.count("error: ") == text.startswith("error: "), text
    return text


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository in which the pipeline has run."""
    folder = tmp_path_factory.mktemp("origin")
    env = environment(folder / "home") | {"HOME": str(folder / "home")}
    env |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    origin = Repository(folder / "repository", env | {"AWS_DEFAULT_REGION": "us-east-1"})
    origin.path.mkdir()
    (origin.path / "dvc.yaml").write_text(PIPELINE)
    (origin.path / "input.txt").write_text("one\ntwo\n")
    (origin.path / ".gitignore").write_text("/data\n/models\n")
    origin.run("git", "init", "-q")
    origin.run("dvc", "init", "-q")
    assert origin.repro() == ["train", "score"]
    origin.run("git", "add", "-A")
    origin.run("git", "commit", "-qm", "results")
    return origin


@pytest.fixture
def copy(origin: Repository, tmp_path: Path) -> Repository:
    """The same machine's, for a test that changes it."""
    shutil.copytree(origin.path, tmp_path / "copy", symlinks=True)
    return Repository(tmp_path / "copy", origin.env | {"DVC_SITE_CACHE_DIR": f"{tmp_path}/site"})


def set_and_push(repository: Repository, url: str | Path, **options: str) -> str:
    tool(repository, "remotes", "set", str(url))
    for option, value in options.items():
        repository.run("dvc", "remote", "modify", "--local", "store", option, value)
    return tool(repository, "remotes", "push")


def clone_of(repository: Repository, path: Path) -> Repository:
    """Another machine, which knows the remote."""
    repository.run("git", "clone", "-q", ".", str(path))
    shutil.copy(repository.path / ".dvc/config.local", path / ".dvc")
    return Repository(path, {**repository.env, "DVC_SITE_CACHE_DIR": f"{path}-site-cache"})


@contextlib.contextmanager
def server(command: Sequence[str | Path], port: int, log: Path) -> Iterator[None]:
    """Run `command`, wait until it answers on `port`, and kill it at the end."""
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            with socket.socket() as probe:
                while probe.connect_ex(("127.0.0.1", port)):
                    assert process.poll() is None, log.read_text()
                    time.sleep(0.05)
            yield
        finally:
            process.kill()


def sshd(folder: Path, port: int, known_hosts: Path) -> list[str | Path]:
    """The command of an OpenSSH server with keys of its own, known to whom reads `known_hosts`."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if not program:
        pytest.skip("no OpenSSH server on this machine: apt-get install openssh-server")
    if os.getuid() == 0:  # root's sshd wants it, and Debian makes it when the machine starts
        Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("key", "host"):
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(keygen, check=True)
    known_hosts.parent.mkdir(mode=0o700, exist_ok=True)
    known_hosts.write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\n"
        f"AuthorizedKeysFile {folder}/key.pub\nPidFile none\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
    )
    return [program, "-D", "-e", "-f", folder / "sshd_config"]


@contextlib.contextmanager
def serving(kind: str, repository: Repository, folder: Path) -> Iterator[None]:
    """Push all to a remote of this kind, behind a real server where it needs one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store, address, log = folder / "store", f"http://127.0.0.1:{port}", folder / "server.log"
    if kind == "directory":
        set_and_push(repository, store)
        yield
    elif kind == "http":
        set_and_push(repository, store)
        tool(repository, "remotes", "set", address)
        serve = [sys.executable, "-m", "http.server", "-b", "127.0.0.1", "-d", str(store)]
        with server([*serve, str(port)], port, log):
            yield
    elif kind == "s3":
        for module in ("dvc_s3", "moto", "flask_cors"):
            pytest.importorskip(module, reason="pip install -r requirements-remotes.txt")
        moto = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with server(moto, port, log):
            urllib.request.urlopen(urllib.request.Request(f"{address}/bucket", method="PUT"))
            set_and_push(repository, "s3://bucket/x", endpointurl=address)
            yield
    else:
        pytest.importorskip("dvc_ssh", reason="pip install -r requirements-remotes.txt")
        known_hosts = Path(repository.env["HOME"]) / ".ssh/known_hosts"
        with server(sshd(folder, port, known_hosts), port, log):
            url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{store}"
            set_and_push(repository, url, keyfile=str(folder / "key"))
            yield


@pytest.mark.parametrize(
    "kind", ["directory", "http", *(pytest.param(k, marks=pytest.mark.slow) for k in ("s3", "ssh"))]
)
def test_a_clone_pulls_everything_and_another_restores_the_runs(
    kind: str, copy: Repository, tmp_path: Path
) -> None:
    """The other one has no dvc.lock: the run cache has all."""
    with serving(kind, copy, tmp_path):
        clone = clone_of(copy, tmp_path / "clone")
        clone.run("dvc", "pull")
        assert bytes_of(clone, CACHED) == bytes_of(copy, CACHED)
        assert clone.repro() == []
        if kind == "http":  # over which DVC has no run cache
            assert "HTTP lists no files" in tool(clone, "fsck", "--remote", code=1)
            return
        assert "8 objects checked, 0 damaged" in tool(clone, "fsck", "--remote")
        other = clone_of(copy, tmp_path / "other")
        for name in ("dvc.lock", *IN_GIT):
            (other.path / name).unlink()
        assert other.repro("--pull") == []
        assert other.run("git", "status", "--porcelain").stdout == ""
        assert bytes_of(other, (*CACHED, *IN_GIT)) == bytes_of(copy, (*CACHED, *IN_GIT))


def test_what_gc_takes_from_the_run_cache_is_put_back(copy: Repository, tmp_path: Path) -> None:
    """Of the present run; of an earlier one it is told that it is gone."""
    (copy.path / "input.txt").write_text("three\n")
    copy.repro()
    copy.run("dvc", "gc", "--workspace", "--force")
    said = set_and_push(copy, tmp_path / "store")
    assert said.count("put back") == 3
    assert "warning: the run cache names 1 object(s) that are not here" in said
    (copy.path / "dvc.lock").unlink()
    assert copy.repro() == []


def stored(store: Path, file: Path) -> Path:
    """Where a cache or a remote has the bytes of `file`."""
    md5 = hashlib.md5(file.read_bytes()).hexdigest()
    return store / "files/md5" / md5[:2] / md5[2:]


def damage(path: Path) -> None:
    """Flip a bit. The mode stays, as it does on a disk that rots: DVC trusts what is read-only."""
    mode, data = path.stat().st_mode, bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    path.chmod(mode)


def test_damage_in_the_cache(copy: Repository, origin: Repository, tmp_path: Path) -> None:
    """DVC notices nothing, and checks it out; fsck names it, and what it deletes can be pulled."""
    set_and_push(copy, tmp_path / "store")
    cache, weights = copy.path / ".dvc/cache", copy.path / WEIGHTS
    listings = (cache / "files").rglob("*.dir")
    folder = next(path for path in listings if "train.tsv" in path.read_text())
    for path in (folder, stored(cache, copy.path / "data/train.tsv"), stored(cache, weights)):
        damage(path)
    said = tool(copy, "fsck", code=1)
    assert "3 damaged, 0 unreadable" in said and f"damaged: {folder}\n    data\n" in said
    assert f"{WEIGHTS}: the copy in the workspace is intact" in said
    weights.unlink()
    copy.run("dvc", "checkout", WEIGHTS)
    assert "nothing was pushed" in tool(copy, "remotes", "push", code=1)
    assert f"{WEIGHTS}: the copy in the workspace is damaged too" in tool(copy, "fsck", code=1)
    tool(copy, "fsck", "--delete", code=1)
    assert not weights.exists()
    copy.run("dvc", "pull")
    assert bytes_of(copy, CACHED) == bytes_of(origin, CACHED)
    assert "0 damaged" in tool(copy, "fsck")
    for path in (weights, train := copy.path / "data/train.tsv"):
        damage(stored(cache, path))
    train.unlink()
    train.write_text("mine")
    tool(copy, "fsck", "--delete", code=1)
    assert weights.exists() and train.read_text() == "mine", "what is not damaged was deleted"


def test_damage_in_the_remote(copy: Repository, tmp_path: Path) -> None:
    """Push brings again what the remote has lost, which `dvc push` takes for pushed."""
    set_and_push(copy, tmp_path / "store")
    train = stored(tmp_path / "store", copy.path / "data/train.tsv")
    damage(train)
    said = tool(copy, "fsck", "--remote", code=1)
    assert "1 damaged" in said and "    data/train.tsv\n" in said
    assert train.exists(), "fsck without --delete has deleted"
    tool(copy, "fsck", "--remote", "--delete", code=1)
    assert not train.exists()
    assert "1 more object(s) pushed" in tool(copy, "remotes", "push")
    assert "0 damaged" in tool(copy, "fsck", "--remote")


def test_a_path_becomes_absolute_and_is_verified(copy: Repository, tmp_path: Path) -> None:
    """Whatever letters it has; the remotes that were there stay."""
    copy.run("dvc", "remote", "add", "--local", "other", "s3://bucket/folder")
    for url in ("../Área, 'x'/#1", f"File://{tmp_path}/Área, 'x'/#1"):
        tool(copy, "remotes", "set", url)
        settings = copy.run("dvc", "config", "--local", "--list").stdout.splitlines()
        assert f"remote.store.url={tmp_path}/Área, 'x'/#1" in settings
    assert {"remote.store.verify=True", "remote.other.url=s3://bucket/folder"} <= set(settings)
    assert copy.run("git", "status", "--porcelain").stdout == ""


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "say where: make remote URL="),
        ("dvc.yaml", "is a file. A remote is a folder"),
        (".dvc/cache", "belongs to this clone"),
        ("FILE://", "belongs to this clone"),
        ("~nobody-of-this-name/'''\"\"\"", "cannot be safely quoted"),
        ("someone@host:store", "Write ssh://user@host/path."),
        ("%(store)s", "DVC's configuration cannot hold it"),
        ("sftp://host/store", "Unsupported URL type sftp://"),
        ("webdavs://host/store", "-m pip install -c constraints.txt dvc-webdav"),
    ],
)
def test_what_cannot_be_a_remote_changes_nothing(origin: Repository, url: str, says: str) -> None:
    folder = origin.path / ".dvc"
    before = {path: path.is_file() and path.read_bytes() for path in folder.iterdir()}
    assert says in tool(origin, "remotes", "set", url, code=1)
    assert {path: path.is_file() and path.read_bytes() for path in folder.iterdir()} == before


def test_errors_are_one_message(copy: Repository, tmp_path: Path) -> None:
    for command in (["remotes", "push"], ["fsck", "--remote"]):
        assert tool(copy, *command, code=1).startswith("error: this clone has no remote")
    tool(copy, "remotes", "set", str(tmp_path / "empty"))
    assert "nothing there" in tool(copy, "fsck", "--remote", code=1)
    said = tool(copy, "remotes", "set", "http://me:secret@127.0.0.1:9/x?sig=secret")
    for command in (["remotes", "push"], ["fsck", "--remote", "--delete"]):
        said += tool(copy, *command, code=1)  # nobody answers there
    assert said.count("HTTP") == 3 and "secret" not in said
    tool(copy, "remotes", "set", str(tmp_path / "empty"))
    (copy.path / "dvc.lock").write_text("<<<<<<< HEAD\nschema: '2.0'\n=======\n")
    for command in (["remotes", "push"], ["fsck"]):
        assert "dvc.lock" in tool(copy, *command, code=1)
    outside = Repository(tmp_path, copy.env)
    assert "not inside of a DVC repository" in tool(outside, "fsck", code=1)
