"""Sharing through a remote, end to end with real servers on this machine, and what happens when bytes or servers go bad."""

import contextlib
import getpass
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from faults import record_fault

import remotes
from conftest import Repository, load_yaml

pytestmark = pytest.mark.usefixtures("warm")

STUDENT = "refs/test/student"  # where `origin` keeps the experiment for git's own commands
MODEL = "models/finetuned/tiny-1"
WEIGHTS = f"{MODEL}/model.safetensors"
ALL_OUTPUTS = ("data/raw", "data/dataset.json", "data/entry.json", "data/tokenized/tiny", MODEL, "models/entries/tiny.json",
               "models/exported/tiny-1", "models/tokenizers/tiny",
               "models/weights/tiny", "plots/curves/tiny-1",
               "plots/accuracy_by_seed.csv", "predictions/tiny-1.csv", "report")  # fmt: skip


@dataclass
class Remote:
    """A remote that holds everything, with the configuration a clone needs to use it."""

    kind: str
    origin: Repository  # whence it was pushed
    config: str = field(repr=False)  # .dvc/config.local
    port: int | None = None

    def clone(self, path: Path) -> Repository:
        """Another machine: a clone from the bare git repository, with this remote."""
        clone = clone_from_git(self.origin, path)
        (clone.path / ".dvc/config.local").write_text(self.config)
        return clone


def clone_from_git(origin: Repository, path: Path) -> Repository:
    url = origin.run("git", "remote", "get-url", "origin").stdout.strip()
    origin.run("git", "clone", "-q", url, str(path))
    return Repository(path, {**origin.env, "DVC_SITE_CACHE_DIR": f"{path}-site-cache"})


def remote_module(
    repository: Repository, *arguments: str, ok: bool = True
) -> "subprocess.CompletedProcess[str]":
    done = repository.run(sys.executable, "-m", "tools.remotes", *arguments, ok=ok)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="session")
def origin(finished: Repository, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A copy of the finished repository with a bare git repository to share through, and the experiment `student`."""
    folder = tmp_path_factory.mktemp("origin")
    home = folder / "home"
    (home / "site").mkdir(parents=True)
    (home / "site/sitecustomize.py").write_text(remotes.LOOPBACK_ONLY)
    env = {
        key: value
        for key, value in finished.env.items()
        if not key.startswith(("AWS_", "SSH_")) and "proxy" not in key.lower()
    }
    env |= {
        "HOME": str(home),  # also of known_hosts
        "PYTHONPATH": str(home / "site"),
        "DVC_SITE_CACHE_DIR": str(home / "dvc-site-cache"),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",  # a server that was killed is asked no more
    }
    shutil.copytree(finished.path, folder / "repository", symlinks=True)
    origin = Repository(folder / "repository", env)
    origin.run("git", "clone", "-q", "--bare", ".", str(folder / "git"))
    origin.run("git", "remote", "add", "origin", str(folder / "git"))
    origin.run("dvc", "exp", "run", "--temp", "--name", "student", "-S", "compare.student=other")
    ref = origin.run(
        "git", "for-each-ref", "refs/exps/*/*/student", "--format=%(refname)"
    ).stdout.strip()
    origin.run("git", "update-ref", STUDENT, ref)
    return origin


def push_to(
    origin: Repository, url: str, folder: Path, options: dict[str, str] | None = None
) -> str:
    """Push everything to `url`, the experiment included, from a copy of `origin`; return the local DVC configuration."""
    shutil.copytree(origin.path, folder / "pushing", symlinks=True)
    pushing = Repository(
        folder / "pushing", {**origin.env, "DVC_SITE_CACHE_DIR": str(folder / "pushing-site-cache")}
    )
    remote_module(pushing, "set", url)
    for option, value in (options or {}).items():
        pushing.run("dvc", "remote", "modify", "--local", "store", option, value)
    remote_module(pushing, "push")
    pushing.run("dvc", "exp", "push", "origin", "student")
    return (pushing.path / ".dvc/config.local").read_text()


@pytest.fixture(scope="session")
def store(origin: Repository, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A directory that everything was pushed to, and the configuration."""
    folder = tmp_path_factory.mktemp("directory")
    return folder / "store", push_to(origin, str(folder / "store"), folder)


@contextlib.contextmanager
def serving(
    kind: str, origin: Repository, folder: Path, store: Callable[[], tuple[Path, str]]
) -> Iterator[Remote]:
    """A remote of this kind behind a real server, filled."""
    port = remotes.free_port()
    log = folder / "server.log"
    if kind == "directory":
        yield Remote(kind, origin, store()[1])
    elif kind == "http":
        path, config = store()
        command = [
            sys.executable,
            "-m",
            "http.server",
            "--bind",
            "127.0.0.1",
            "--directory",
            str(path),
            str(port),
        ]
        with remotes.server(command, port, log):
            yield Remote(kind, origin, config.replace(str(path), f"http://127.0.0.1:{port}"), port)
    elif kind == "s3":
        pytest.importorskip(
            "dvc_s3", reason="dvc-s3 is not installed: pip install -r requirements-remotes.txt"
        )
        for module in ("moto", "flask_cors"):
            pytest.importorskip(
                module,
                reason="moto[server] is not installed: pip install -r requirements-remotes.txt",
            )
        with remotes.server(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port, log
        ):
            address = f"http://127.0.0.1:{port}"
            urllib.request.urlopen(
                urllib.request.Request(f"{address}/bucket", method="PUT")
            ).close()
            yield Remote(
                kind,
                origin,
                push_to(origin, "s3://bucket/folder", folder, {"endpointurl": address}),
                port,
            )
    elif kind == "ssh":
        pytest.importorskip(
            "dvc_ssh", reason="dvc-ssh is not installed: pip install -r requirements-remotes.txt"
        )
        with remotes.server(
            sshd(folder, port, Path(origin.env["HOME"]) / ".ssh/known_hosts"), port, log
        ):
            url = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{folder}/store"
            yield Remote(
                kind, origin, push_to(origin, url, folder, {"keyfile": str(folder / "key")}), port
            )


def sshd(folder: Path, port: int, known_hosts: Path) -> list[str | Path]:
    """The command of an OpenSSH server with keys of its own, known to those who read `known_hosts`."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if not program:
        pytest.skip("no OpenSSH server on this machine: apt-get install openssh-server")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(
            exist_ok=True
        )  # what root's sshd insists on, and Debian makes when the machine starts
    for name in ("key", "host"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
        )
    known_hosts.parent.mkdir(mode=0o700, exist_ok=True)
    known_hosts.write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/key.pub\nPidFile none\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "PermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
    )
    return [program, "-D", "-e", "-f", folder / "sshd_config"]


@pytest.fixture(scope="session", params=["directory", "http", "s3", "ssh"])
def remote(
    request: pytest.FixtureRequest, origin: Repository, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Remote]:
    folder = tmp_path_factory.mktemp(request.param)
    with serving(request.param, origin, folder, lambda: request.getfixturevalue("store")) as remote:
        yield remote


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def objects(folder: Path) -> dict[str, Path]:
    """The data objects in a cache or a directory remote, by name; what a transfer left behind has another name."""
    return {
        "".join(path.parts[-2:]): path
        for path in sorted((folder / "files/md5").rglob("*"))
        if path.is_file()
    }


def wrong_objects(folder: Path) -> list[str]:
    """The objects whose name is not the md5 of their content: an independent check, not the one under test."""
    return [
        name for name, path in objects(folder).items() if name.removesuffix(".dir") != md5_of(path)
    ]


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def output_files(repository: Repository) -> list[Path]:
    places = [
        place
        for output in ALL_OUTPUTS
        for place in (repository.path / output, *(repository.path / output).rglob("*"))
    ]
    return [place for place in places if place.is_file()]


def outputs(repository: Repository) -> dict[str, bytes]:
    return {
        str(path.relative_to(repository.path)): path.read_bytes()
        for path in output_files(repository)
    }


# ------------------------------------------------------------------------------------- a remote of each kind


def test_one_model_then_what_is_needed_then_everything(remote: Remote, tmp_path: Path) -> None:
    clone = remote.clone(tmp_path / "clone")
    clone.run("dvc", "pull", "finetune@tiny-1")
    model = {
        name for name in outputs(remote.origin) if name.startswith((MODEL, "plots/curves/tiny-1"))
    } - {f"{MODEL}/README.md"}
    assert WEIGHTS in model and set(outputs(clone)) == model
    assert clone.repro("--pull", "--allow-missing") == []
    clone.run("dvc", "pull")
    assert outputs(clone) == outputs(remote.origin)
    assert clone.run("dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    assert clone.repro() == []
    assert clone.run("git", "status", "--porcelain").stdout == ""


def test_everything_without_a_lock_file(remote: Remote, tmp_path: Path) -> None:
    clone = remote.clone(tmp_path / "clone")
    (clone.path / "dvc.lock").unlink()
    for folder in ("metrics", "environment"):
        shutil.rmtree(clone.path / folder)
    if remote.kind == "http":
        done = clone.run("dvc", "repro", "--pull", "--dry", "download_dataset")
        assert "run-cache is not supported for http filesystem" in done.stderr
        return
    assert clone.repro("--pull") == []
    assert clone.run("git", "status", "--porcelain").stdout == "", (
        "not the same lock file, or not the same metrics"
    )
    assert outputs(clone) == outputs(remote.origin)


def test_an_experiment_through_git_and_the_remote(remote: Remote, tmp_path: Path) -> None:
    clone = remote.clone(tmp_path / "clone")
    clone.run("dvc", "exp", "pull", "origin", "student")
    clone.run("dvc", "exp", "apply", "student")
    accuracy = remote.origin.run("git", "show", f"{STUDENT}:metrics/accuracy.json").stdout
    assert clone.json("metrics/accuracy.json") == json.loads(accuracy)
    assert clone.run("git", "status", "--porcelain", "dvc.lock").stdout.strip() == "M dvc.lock"
    report = Path("report/comparison.md")
    assert (clone.path / report).read_bytes() != (remote.origin.path / report).read_bytes()


# --------------------------------------------------------------------------------------- servers that die


@pytest.mark.parametrize("remote", ["http", "s3", "ssh"], indirect=True)
def test_a_server_that_dies_in_the_middle_of_a_pull(remote: Remote, tmp_path: Path) -> None:
    """The weights have 189 kB: after 80 kB the server is in the middle of them."""
    limit, port, marker = 80_000, remotes.free_port(), tmp_path / "stalled"
    clone = remote.clone(tmp_path / "clone")
    (clone.path / ".dvc/config.local").write_text(
        remote.config.replace(str(remote.port), str(port))
    )
    known_hosts = Path(clone.env["HOME"]) / ".ssh/known_hosts"
    if remote.kind == "ssh":
        known_hosts.write_text(
            known_hosts.read_text() + known_hosts.read_text().replace(str(remote.port), str(port))
        )
    proxy = [sys.executable, remotes.__file__, str(port), str(remote.port)]
    with remotes.server([*proxy, str(limit), str(marker)], port, tmp_path / "proxy.log") as process:
        pull = subprocess.Popen(
            ["dvc", "pull", WEIGHTS],
            cwd=clone.path,
            env=clone.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        remotes.wait_until(
            lambda: marker.exists() or pull.poll() is not None, "the server to stall"
        )
        assert pull.poll() is None, "the pull ended before the server died"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        said = pull.communicate(timeout=300)[0].decode()
    assert int(marker.read_text()) == limit
    assert "NETWORK" not in said and pull.returncode not in (0, -signal.SIGKILL), said
    assert not (clone.path / WEIGHTS).exists(), "a half-written output"
    assert wrong_objects(clone.path / ".dvc/cache") == []
    stored = set(objects(clone.path / ".dvc/cache"))
    assert md5_of(remote.origin.path / WEIGHTS) not in stored, (
        "the weights had arrived: nothing was interrupted"
    )
    with remotes.server(proxy, port, tmp_path / "proxy.log"):
        clone.run("dvc", "pull", WEIGHTS)
    assert set(outputs(clone)) == {WEIGHTS}
    assert (clone.path / WEIGHTS).read_bytes() == (remote.origin.path / WEIGHTS).read_bytes()
    outcome = f"exit code {pull.returncode}, no damaged object, no output; the next pull completed"
    record_fault("dvc pull", f"{remote.kind} server killed after {limit} bytes", 1, outcome)


# ---------------------------------------------------------------------------------------- damaged objects


def flip(path: Path) -> None:
    """Flip one bit: in a listing of a file's name, in an entry of the run cache of an md5, in a file anywhere.

    The mode stays: a disk that rots does not change it, and DVC trusts what is read-only.
    """
    mode, data = path.stat().st_mode, bytearray(path.read_bytes())
    place = len(data) // 2
    if data.startswith(b"[{"):
        place = data.index(b'"relpath": "') + len(b'"relpath": "')
    elif data.startswith(b"cmd: "):
        place = data.index(b" md5: ") + len(b" md5: ")
    data[place] ^= 1
    rewrite(path, bytes(data), mode)


def truncate(path: Path) -> None:
    rewrite(path, path.read_bytes()[: path.stat().st_size // 2], path.stat().st_mode)


def rewrite(path: Path, data: bytes, mode: int) -> None:
    path.chmod(0o600)
    path.write_bytes(data)
    path.chmod(mode)


def output_objects(repository: Repository) -> dict[str, str]:
    """The object of each output that dvc.lock names."""
    stages = load_yaml(repository.path / "dvc.lock")["stages"].values()
    return {out["path"]: out["md5"] for stage in stages for out in stage["outs"]}


def damage(repository: Repository, folder: Path) -> dict[str, str]:
    """Damage four objects in a cache or directory remote: two files, two listings. Returns them by output, and is sure of it."""
    listings = output_objects(repository)
    hurt = {
        WEIGHTS: (flip, md5_of(repository.path / WEIGHTS)),
        "data/raw": (truncate, md5_of(repository.path / "data/raw/train.tsv")),
        "models/tokenizers/tiny": (flip, listings["models/tokenizers/tiny"]),
        "data/tokenized/tiny": (truncate, listings["data/tokenized/tiny"]),
    }
    stored = objects(folder)
    for how, name in hurt.values():
        how(stored[name])
    assert sorted(wrong_objects(folder)) == sorted(name for _, name in hurt.values()), (
        "the damage did not happen"
    )
    return {output: name for output, (_, name) in hurt.items()}


def test_damage_in_the_remote(store: tuple[Path, str], origin: Repository, tmp_path: Path) -> None:
    shutil.copytree(store[0], tmp_path / "store")
    hurt = damage(origin, tmp_path / "store")
    config = store[1].replace(str(store[0]), str(tmp_path / "store"))
    clone = Remote("directory", origin, config).clone(tmp_path / "clone")

    for output, what in (
        (WEIGHTS, "flipped file"),
        ("data/raw", "truncated file"),
        ("data/tokenized/tiny", "truncated listing"),
    ):
        done = clone.run("dvc", "pull", output, ok=False)
        assert done.returncode != 0 and (output in done.stderr or hurt[output] in done.stderr), (
            done.stderr
        )
        assert not (clone.path / output).exists()
        record_fault(
            "dvc pull",
            f"remote: {what}",
            1,
            f"exit code {done.returncode}, named, nothing checked out",
        )
    # A flip inside a listing that leaves it JSON: DVC drops the listing from the cache, but not what it has read in it.
    done = clone.run("dvc", "pull", "models/tokenizers/tiny")
    assert set(files(clone.path / "models/tokenizers/tiny")) != set(
        files(origin.path / "models/tokenizers/tiny")
    )
    status = clone.run("dvc", "status", "download_tokenizer@tiny").stdout
    assert "models/tokenizers/tiny" in status, status
    outcome = "exit code 0, a file with a wrong name; dvc status names the output"
    record_fault("dvc pull", "remote: flipped bit in a listing", 1, outcome)
    assert wrong_objects(clone.path / ".dvc/cache") == []

    copy = copy_of(origin, tmp_path / "copy")
    (copy.path / ".dvc/config.local").write_text(config)
    found = remote_module(copy, "fsck", "--remote", ok=False)
    assert found.returncode == 1 and "4 damaged, 0 unreadable" in found.stdout, found.stdout
    for output, name in hurt.items():
        assert re.search(rf"damaged: \S*{name[:2]}/{name[2:]} .*\n    {output}", found.stdout), (
            output,
            found.stdout,
        )
    assert len(wrong_objects(tmp_path / "store")) == 4, "fsck without --delete has deleted"

    remote_module(copy, "fsck", "--remote", "--delete", ok=False)
    assert wrong_objects(tmp_path / "store") == []
    assert not set(hurt.values()) & set(objects(tmp_path / "store"))
    remote_module(copy, "push")
    clone.run("dvc", "pull", "--force")
    assert outputs(clone) == outputs(origin)
    record_fault(
        "fsck --remote",
        "2 damaged files, 2 damaged listings",
        4,
        "all named; deleted, pushed again, pulled",
    )


@pytest.mark.parametrize("remote", ["http", "ssh"], indirect=True)
def test_fsck_reads_every_object_through_the_network(
    remote: Remote, store: tuple[Path, str], tmp_path: Path
) -> None:
    """An HTTP server cannot list: there it is all that dvc.lock names, elsewhere also the run cache and the experiment."""
    clone = remote.clone(tmp_path / "clone")
    stored = len([path for path in store[0].rglob("*") if path.is_file()])
    named = len(
        set(objects(store[0]))
        & {*output_objects(clone).values(), *map(md5_of, output_files(remote.origin))}
    )
    assert 0 < named < stored
    count = named if remote.kind == "http" else stored
    assert (
        f"remote store: {count} objects checked, 0 damaged, 0 unreadable"
        in remote_module(clone, "fsck", "--remote").stdout
    )


@pytest.mark.parametrize("remote", ["s3"], indirect=True)
def test_a_flipped_bit_behind_s3(remote: Remote, tmp_path: Path) -> None:
    """The same where the remote is no file system: DVC checks what it has pulled, fsck what is there."""
    name = md5_of(remote.origin.path / WEIGHTS)
    place = {"Bucket": "bucket", "Key": f"folder/files/md5/{name[:2]}/{name[2:]}"}
    client = pytest.importorskip("boto3").client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{remote.port}",
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )
    intact = client.get_object(**place)["Body"].read()
    try:
        client.put_object(**place, Body=bytes([intact[0] ^ 1]) + intact[1:])
        assert hashlib.md5(client.get_object(**place)["Body"].read()).hexdigest() != name
        clone = remote.clone(tmp_path / "clone")
        pulled = clone.run("dvc", "pull", WEIGHTS, ok=False)
        assert (
            pulled.returncode == 1
            and WEIGHTS in pulled.stderr
            and not (clone.path / WEIGHTS).exists()
        )
        assert wrong_objects(clone.path / ".dvc/cache") == []
        found = remote_module(clone, "fsck", "--remote", ok=False)
        assert found.returncode == 1 and "1 damaged, 0 unreadable" in found.stdout
        assert re.search(rf"damaged: s3://bucket/{place['Key']} .*\n    {WEIGHTS}", found.stdout), (
            found.stdout
        )
        outcome = (
            f"exit code {pulled.returncode}, named, nothing checked out; fsck names the object"
        )
        record_fault("dvc pull", "s3: flipped bit", 1, outcome)
    finally:
        client.put_object(**place, Body=intact)


def copy_of(origin: Repository, path: Path) -> Repository:
    shutil.copytree(origin.path, path, symlinks=True)
    return Repository(path, {**origin.env, "DVC_SITE_CACHE_DIR": f"{path}-site-cache"})


def test_damage_in_the_cache(store: tuple[Path, str], origin: Repository, tmp_path: Path) -> None:
    """DVC notices nothing, not even when it checks the damage out. fsck names everything, and what it deletes can be pulled."""
    copy = copy_of(origin, tmp_path / "copy")
    (copy.path / ".dvc/config.local").write_text(store[1])
    hurt = damage(copy, copy.path / ".dvc/cache")
    entries = sorted(path for path in (copy.path / ".dvc/cache/runs").rglob("*") if path.is_file())
    truncate(entries[0])
    flip(entries[1])
    (copy.path / WEIGHTS).unlink()
    copy.run("dvc", "checkout", WEIGHTS)
    assert md5_of(copy.path / WEIGHTS) != hurt[WEIGHTS], "the damage was not checked out"
    assert (
        copy.run("dvc", "status", "finetune@tiny-1").stdout.strip()
        == "Data and pipelines are up to date."
    )

    found = remote_module(copy, "fsck", ok=False)
    assert found.returncode == 1 and "6 damaged, 0 unreadable" in found.stdout, found.stdout
    for output, name in hurt.items():
        assert re.search(rf"damaged: \S*{name[:2]}/{name[2:]} .*\n    {output}", found.stdout), (
            output,
            found.stdout,
        )
    for entry in entries[:2]:
        assert f"damaged: {entry}" in found.stdout
    assert f"{WEIGHTS}: the copy in the workspace is damaged too" in found.stdout
    assert "data/raw/train.tsv: the copy in the workspace is intact" in found.stdout

    remote_module(copy, "fsck", "--delete", ok=False)
    assert wrong_objects(copy.path / ".dvc/cache") == []
    assert not (copy.path / WEIGHTS).exists() and (copy.path / "data/raw/train.tsv").exists()
    copy.run("dvc", "pull")
    assert outputs(copy) == outputs(origin)
    assert "0 damaged" in remote_module(copy, "fsck").stdout
    outcome = "dvc checkout and dvc status notice nothing; fsck names all, deletes them, and dvc pull brings the data back"
    record_fault(
        "cache",
        "2 damaged files, 2 damaged listings, 2 damaged entries of the run cache",
        6,
        outcome,
    )


def test_without_a_remote_an_intact_workspace_mends_the_cache(
    origin: Repository, tmp_path: Path
) -> None:
    copy = copy_of(origin, tmp_path / "copy")
    damage(copy, copy.path / ".dvc/cache")
    remote_module(copy, "fsck", "--delete", ok=False)
    copy.run("dvc", "commit")
    assert "0 damaged" in remote_module(copy, "fsck").stdout
    assert copy.repro() == []
    assert copy.run("git", "status", "--porcelain").stdout == ""
    outcome = "fsck --delete, dvc commit: nothing had to run again"
    record_fault("cache", "2 damaged files, 2 damaged listings, intact workspace", 4, outcome)


def test_a_damaged_cache_is_not_pushed(origin: Repository, tmp_path: Path) -> None:
    copy = copy_of(origin, tmp_path / "copy")
    weights = md5_of(copy.path / WEIGHTS)
    flip(objects(copy.path / ".dvc/cache")[weights])
    assert wrong_objects(copy.path / ".dvc/cache") == [weights]
    remote_module(copy, "set", str(tmp_path / "store"))
    refused = remote_module(copy, "push", ok=False)
    assert (
        refused.returncode == 1
        and "nothing was pushed" in refused.stderr
        and not (tmp_path / "store").exists()
    )
    copy.run("dvc", "push")  # why: DVC pushes the damage, `verify = true` or not
    assert wrong_objects(tmp_path / "store") == [weights]
    record_fault(
        "make push",
        "flipped bit in the cache",
        1,
        "refused, nothing pushed (dvc push alone pushes it)",
    )


def test_what_a_remote_has_lost_is_pushed_again(
    store: tuple[Path, str], origin: Repository, tmp_path: Path
) -> None:
    shutil.copytree(store[0], tmp_path / "store")
    copy = copy_of(origin, tmp_path / "copy")
    (copy.path / ".dvc/config.local").write_text(
        store[1].replace(str(store[0]), str(tmp_path / "store"))
    )
    lost = objects(tmp_path / "store")[
        md5_of(copy.path / "data/raw/train.tsv")
    ]  # of an output that is a folder
    lost.unlink()
    assert (
        "Everything is up to date" in copy.run("dvc", "push").stdout and not lost.exists()
    )  # DVC trusts the listing
    remote_module(copy, "push")
    assert files(tmp_path / "store") == files(store[0])
    record_fault(
        "make push",
        "an object deleted from the remote",
        1,
        "pushed again (dvc push alone says: up to date)",
    )


def test_dvc_push_alone_leaves_out_what_the_run_cache_needs(
    store: tuple[Path, str], origin: Repository, tmp_path: Path
) -> None:
    """If this fails DVC has learnt it, and `push` of tools/remotes.py can be simpler."""
    copy = copy_of(origin, tmp_path / "copy")
    remote_module(copy, "set", str(tmp_path / "store"))
    copy.run("dvc", "push", "--run-cache")
    missing = set(output_objects(copy).values()) - set(objects(tmp_path / "store"))
    metrics = [path for path, name in output_objects(copy).items() if name in missing]
    assert sorted(metrics) == [
        "environment/tiny-1.json",
        "metrics/accuracy.json",
        "metrics/claims.json",
        "metrics/export/tiny-1.json",
        "metrics/runs/tiny-1.json",
        "metrics/speed.json",
    ]
    assert not set(output_objects(copy).values()) - set(objects(store[0]))


# ------------------------------------------------------------------------------------------ set, and errors


def test_set_makes_a_path_absolute_and_verifies(origin: Repository, tmp_path: Path) -> None:
    copy = copy_of(origin, tmp_path / "copy")
    for url in ("../some where/store", f"file://{tmp_path}/some where/store"):
        remote_module(copy, "set", url)
        local = [
            line.strip() for line in (copy.path / ".dvc/config.local").read_text().splitlines()
        ]
        assert local == [
            "[core]",
            "remote = store",
            "['remote \"store\"']",
            f"url = {tmp_path}/some where/store",
            "verify = true",
        ]
    assert copy.run("git", "status", "--porcelain").stdout == "", (
        "git must not see one machine's remote"
    )


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "the remote is empty. Give a directory or a URL"),
        ("README.md", "README.md is a file. A remote is a directory"),
        (
            "someone@host:store",
            "scp's notation, which DVC takes for a path. Write ssh://user@host/absolute/path.",
        ),
        ("%(store)s", "DVC's configuration cannot hold a name with %( in it."),
        ("sftp://host/store", "DVC knows no sftp:// remote. Known: azure://, gdrive://, gs://, "),
        ("s3://bucket/folder", "-m pip install -c requirements.txt dvc-s3=="),
        ("webdavs://host/store", "-m pip install -c requirements.txt dvc-webdav\n"),
    ],
)
def test_a_remote_that_cannot_work_is_refused_and_not_written(
    origin: Repository, tmp_path: Path, url: str, says: str
) -> None:
    for module in ("dvc_s3", "dvc_webdav"):  # here at least they are missing
        (tmp_path / f"{module}.py").write_text(
            f"raise ModuleNotFoundError(\"No module named '{module}'\")\n"
        )
    path = f"{tmp_path}{os.pathsep}{origin.env['PYTHONPATH']}"
    before = files(origin.path / ".dvc")
    done = origin.run(sys.executable, "-m", "tools.remotes", "set", url, ok=False, PYTHONPATH=path)
    assert (
        done.returncode == 1
        and done.stderr.count("error: ") == 1
        and "Traceback" not in done.stderr
    ), done.stderr
    assert says in done.stderr and done.stdout == ""
    assert files(origin.path / ".dvc") == before


def test_errors_are_one_message(origin: Repository, tmp_path: Path) -> None:
    clone = clone_from_git(origin, tmp_path / "clone")
    assert "0 objects checked, 0 damaged" in remote_module(clone, "fsck").stdout
    for command in (["push"], ["fsck", "--remote"]):
        done = remote_module(clone, *command, ok=False)
        assert (
            done.returncode == 1
            and done.stderr.startswith("error: no remote specified")
            and done.stderr.count("error: ") == 1
        )
    remote_module(clone, "set", f"http://127.0.0.1:{remotes.free_port()}/")  # nobody answers there
    for command, says in (
        (
            ["fsck", "--remote"],
            "/files/md5: nothing there. Wrong URL, no answer, or not pushed to yet.",
        ),
        (["fsck", "--remote", "--delete"], "nothing can be deleted over HTTP"),
        (["push"], "HTTP is for pulling"),
    ):
        done = remote_module(clone, *command, ok=False)
        assert done.returncode == 1 and says in done.stderr and done.stderr.count("error: ") == 1, (
            done.stderr
        )
    outside = Repository(
        tmp_path, {**clone.env, "PYTHONPATH": f"{clone.path}{os.pathsep}{clone.env['PYTHONPATH']}"}
    )
    done = remote_module(outside, "fsck", ok=False)
    assert done.returncode == 1 and done.stderr.startswith(
        "error: you are not inside of a DVC repository"
    ), done.stderr
