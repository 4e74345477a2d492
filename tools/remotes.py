"""The DVC remote and the DVC cache: set the one up, push all that a restore needs, check every byte of both.

Run as: python -m tools.remotes set URL                     (make remote URL=...)
        python -m tools.remotes push                        (make push)
        python -m tools.remotes fsck [--remote] [--delete]  (make fsck)

Why not DVC alone: it reads no object of its cache a second time, so that a damaged one is checked out and pushed as if it were
whole; `dvc push --run-cache` leaves the metrics behind that are kept in git, without which no run can be restored from the run
cache; and what has vanished from a remote is not pushed again. tests/test_remotes.py shows each.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from dvc.cli import main as dvc_main
from dvc.exceptions import DvcException
from dvc.fs import known_implementations as plugins
from dvc.fs import registry
from dvc.repo import Repo
from dvc.utils import dict_sha256
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from tqdm import tqdm

from reproduce.files import UserError

LOCK = Path("dvc.lock")
PINS = Path("requirements-remotes.txt")
READ_ONLY = ("http", "https")
UNKNOWN = "not in the present dvc.lock: of an earlier commit, an experiment or another project"
NOT_REMOTES = ("dvc", "git", "local", "memory")


@dataclass(frozen=True)
class Object:
    """Something in a cache or a remote whose name is the hash of its content."""

    name: str
    path: str  # in its file system
    size: int
    digest: Callable[[IO[bytes], Callable[[int], object]], str]
    tracked: tuple[str, ...]  # the paths that dvc.lock gives it


# ------------------------------------------------------------------------------------------------ set


def set_remote(text: str) -> None:
    """Make `text` the default DVC remote `store` of this clone, verified, in .dvc/config.local (which git ignores).

    The entry is written anew: options of an earlier one (`dvc remote modify --local store keyfile ...`) must be given again.
    """
    url = absolute_url(text)
    check_plugin(url)
    dvc("remote", "add", "--quiet", "--default", "--local", "--force", "store", url)
    dvc("remote", "modify", "--local", "store", "verify", "true")
    print(f"remote store: {url}   (verify = true; written to .dvc/config.local)")
    if url.startswith(READ_ONLY):
        print(
            "HTTP is for pulling. Push to the directory behind it, from a clone whose remote is that directory."
        )
    elif "://" not in url and not Path(url).exists():
        print("There is nothing yet: `make push` makes the directory.")


def absolute_url(text: str) -> str:
    """A URL as it is, a path made absolute: several DVC commands resolve a relative remote against the wrong folder."""
    if not text.strip():
        raise UserError(
            "the remote is empty. Give a directory or a URL: make remote URL=s3://bucket/folder"
        )
    if re.match(r"[\w.-]+@[\w.-]+:", text) or re.match(r"[\w.-]+:(?!//)", text):
        raise UserError(
            f"{text}: scp's notation, which DVC takes for a path. Write ssh://user@host/absolute/path."
        )
    if "%(" in text:
        raise UserError(
            f"{text}: DVC's configuration cannot hold a name with %( in it. Choose another."
        )
    if "://" not in text or text.startswith("file://"):
        # DVC makes a folder named "file:" of file://. Symbolic links stay: a mount point may move.
        path = Path(os.path.normpath(Path(text.removeprefix("file://")).expanduser().absolute()))
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file. A remote is a directory; name another one.")
        return str(path)
    return text


def check_plugin(url: str) -> None:
    """Raise `UserError` unless DVC can use `url` now; the message says which package is missing and how to install it."""
    if "://" not in url:
        return
    scheme = url.split("://")[0].lower()
    if scheme not in plugins or scheme in NOT_REMOTES:
        known = ", ".join(f"{name}://" for name in sorted(plugins) if name not in NOT_REMOTES)
        raise UserError(f"{url}: DVC knows no {scheme}:// remote. Known: {known}, or a directory.")
    try:
        registry[scheme]
    except ImportError as error:
        package = plugins[scheme]["class"].split(".")[0].replace("_", "-")
        pinned = (
            re.search(rf"^{package}==\S+", PINS.read_text(encoding="utf-8"), re.M)
            if PINS.is_file()
            else None
        )
        raise UserError(
            f"{url}: {scheme}:// needs DVC's plug-in {package}, which cannot be imported ({error.__cause__}). Install it with:\n"
            f"    {sys.executable} -m pip install -c requirements.txt {pinned[0] if pinned else package}"
        ) from error


# ----------------------------------------------------------------------------------------------- push


def push() -> None:
    """Check the cache, push it with the run cache, and then what DVC leaves out or wrongly takes for pushed."""
    with Repo() as repo:
        remote = repo.cloud.get_remote_odb(command="push")
        if remote.fs.protocol in READ_ONLY:
            raise UserError(f"{remote.path}: HTTP is for pulling. Push to the directory behind it.")
    if fsck(remote=False, delete=False):
        raise UserError(
            "nothing was pushed: a damaged object must not reach the remote. Repair the cache first, as said above."
        )
    dvc("push", "--run-cache")
    with one_message(remote=True), Repo() as repo:
        remote, cache = repo.cloud.get_remote_odb(), repo.cache.local
        # DVC takes the files of a directory for pushed when its listing is there. Asked for one by one, they are looked for.
        files = {
            name
            for name in [*tracked_objects(cache), *run_cache_metrics(repo)]
            if not name.endswith(".dir")
        }
        missing = sorted(
            name for name in files - set(remote.oids_exist(sorted(files))) if cache.exists(name)
        )
        remote.add([cache.oid_to_path(name) for name in missing], cache.fs, missing, verify=False)
    print(
        f"{len(missing)} more object(s) pushed: metrics of the run cache, and what the remote had lost"
    )


def run_cache_metrics(repo: Repo) -> Iterator[str]:
    """The objects of uncached outputs that the run cache names. DVC restores no run without them, and never pushes them."""
    uncached = {out.def_path for out in repo.index.outs if not out.use_cache}
    for path in Path(repo.stage_cache.cache_dir).rglob("*"):
        if path.is_file():
            yield from (
                out["md5"]
                for out in YAML(typ="safe").load(path).get("outs", [])
                if out["path"] in uncached
            )


# ----------------------------------------------------------------------------------------------- fsck


def fsck(remote: bool, delete: bool) -> int:
    """Hash everything in the local cache (or the remote), print what is wrong, and return how many objects are."""
    with one_message(remote), Repo() as repo:
        odb = repo.cloud.get_remote_odb(command="fsck") if remote else repo.cache.local
        if delete and odb.fs.protocol in READ_ONLY:
            raise UserError(
                f"{odb.path}: nothing can be deleted over HTTP. Use a clone whose remote is the directory behind it."
            )
        runs = (
            odb.fs.join(repo.cloud.get_remote().path, "runs")
            if remote
            else repo.stage_cache.cache_dir
        )
        objects = [
            *stored_objects(odb, tracked_objects(repo.cache.local, odb)),
            *stored_runs(odb.fs, runs),
        ]
        if remote and not objects:
            raise UserError(
                f"{odb.fs.unstrip_protocol(odb.path)}: nothing there. Wrong URL, no answer, or not pushed to yet."
            )
        damaged = unreadable = 0
        with tqdm(
            total=sum(o.size for o in objects), unit="B", unit_scale=True, desc="fsck", disable=None
        ) as progress:
            for stored in objects:
                place = odb.fs.unstrip_protocol(stored.path)
                try:
                    found = read_digest(odb.fs, stored, progress.update)
                except OSError as error:
                    unreadable += 1
                    progress.write(f"cannot be read: {place}: {error}")
                    continue
                if found == stored.name:
                    continue
                damaged += 1
                progress.write(f"damaged: {place} ({stored.size:,} bytes, whose hash is {found})")
                for path in stored.tracked:
                    progress.write(
                        f"    {path}{'' if remote else workspace_copy(path, stored.name, found, delete)}"
                    )
                if delete:
                    odb.fs.remove(stored.path)
                    progress.write("    deleted")
    where = (
        f"remote {repo.config['core']['remote']}"
        if remote
        else f"cache {repo.cache.local_cache_dir}"
    )
    print(f"{where}: {len(objects)} objects checked, {damaged} damaged, {unreadable} unreadable")
    if damaged:
        print(what_to_do(remote, delete))
    return damaged + unreadable


@contextlib.contextmanager
def one_message(remote: bool) -> Iterator[None]:
    """Turn whatever a remote's plug-in raises (botocore, asyncssh and aiohttp have errors of their own) into a `UserError`."""
    try:
        yield
    except (UserError, DvcException):
        raise
    except Exception as error:
        if not remote:
            raise
        raise UserError(
            f"the remote cannot be used: {type(error).__name__}: {error}. Check its URL and its options."
        ) from error


def tracked_objects(*stores: Any) -> dict[str, tuple[str, ...]]:
    """Which paths dvc.lock gives to each object; of the files in a directory, where one of `stores` has its listing."""
    paths: dict[str, set[str]] = {}
    lock = YAML(typ="safe").load(LOCK) if LOCK.is_file() else {}
    for stage in lock.get("stages", {}).values():
        for out in stage.get("outs", []):
            paths.setdefault(out["md5"], set()).add(out["path"])
            if out["md5"].endswith(".dir"):
                for entry in next(
                    filter(None, (listing(store, out["md5"]) for store in stores)), []
                ):
                    paths.setdefault(entry["md5"], set()).add(f"{out['path']}/{entry['relpath']}")
    return {name: tuple(sorted(found)) for name, found in paths.items()}


def listing(store: Any, name: str) -> list[dict[str, str]]:
    """The files of a directory. A listing that is absent or damaged is empty: that it is damaged, fsck says by itself."""
    try:
        with store.fs.open(store.oid_to_path(name), "rb") as stream:
            text: bytes = stream.read()
    except OSError:
        return []
    if f"{hashlib.md5(text, usedforsecurity=False).hexdigest()}.dir" != name:
        return []
    entries: list[dict[str, str]] = json.loads(text)
    return entries


def stored_objects(odb: Any, tracked: dict[str, tuple[str, ...]]) -> Iterator[Object]:
    """The data objects of a cache or remote; of an HTTP server, which cannot list, those that dvc.lock names."""
    names = list(tracked)
    if odb.fs.CAN_TRAVERSE:
        found = odb.fs.find(odb.path) if odb.fs.exists(odb.path) else []
        names = ["".join(odb.fs.parts(path)[-2:]) for path in found]
    for name in sorted(names):
        path = odb.oid_to_path(name)
        if re.fullmatch(r"[0-9a-f]{32}(\.dir)?", name) and odb.fs.exists(
            path
        ):  # not what a transfer is still writing
            yield Object(name, path, odb.fs.size(path), md5, tracked.get(name, (UNKNOWN,)))


def stored_runs(fs: Any, folder: str) -> Iterator[Object]:
    """The entries of the run cache, named KEY/VALUE: hashes of what went into a stage, and of that with what came out."""
    if fs.CAN_TRAVERSE and fs.exists(folder):
        for path in sorted(fs.find(folder)):
            name = "/".join(fs.parts(path)[-2:])
            if re.fullmatch(r"[0-9a-f]{64}/[0-9a-f]{64}", name):
                yield Object(name, path, fs.size(path), run_digest, ("an entry of the run cache",))


def read_digest(fs: Any, stored: Object, update: Callable[[int], object]) -> str:
    """What `stored` would have to be called, by its content. OSError when it cannot be read, or not twice alike."""
    found: set[str] = set()
    for _ in range(
        2
    ):  # read again before it is called damaged: a bad line must not condemn a good object
        with fs.open(stored.path, "rb") as stream:
            found.add(
                stored.digest(stream, update) + (".dir" if stored.name.endswith(".dir") else "")
            )
        if found == {stored.name}:
            break
    if len(found) > 1:
        raise OSError("read twice, with two results")
    return found.pop()


def md5(stream: IO[bytes], update: Callable[[int], object]) -> str:
    """The md5 of a stream, read in pieces; `update` is told the size of each."""
    result = hashlib.md5(usedforsecurity=False)
    while piece := stream.read(1 << 20):
        result.update(piece)
        update(len(piece))
    return result.hexdigest()


def run_digest(stream: IO[bytes], update: Callable[[int], object]) -> str:
    """KEY/VALUE of an entry of the run cache, as DVC computes them when it writes one (dvc.stage.cache)."""
    text = stream.read()
    update(len(text))
    try:
        entry = YAML(typ="safe").load(text)
        value = dict_sha256(entry, exclude=["size", "nfiles"])
        entry["outs"] = [out["path"] for out in entry.get("outs", [])]
        return f"{dict_sha256(entry, exclude=['size', 'nfiles'])}/{value}"
    except (YAMLError, UnicodeDecodeError, LookupError, TypeError, AttributeError):
        return "no entry of a run cache"


def workspace_copy(path: str, expected: str, found: str, delete: bool) -> str:
    """Say whether the file at `path` shares the damage of its object in the cache; if so and `delete`, delete it as well.

    It does when it was checked out from that object, and DVC holds it for up to date. A file with another content still is the
    user's own change and is left alone.
    """
    if not Path(path).is_file():
        return ""
    with Path(path).open("rb") as stream:
        content = md5(stream, lambda _: None)
    if content == found and delete:
        Path(path).unlink()
        return ": the copy in the workspace was damaged too, and is deleted"
    return f": the copy in the workspace is {'intact' if content == expected else 'damaged too' if content == found else 'another'}"


def what_to_do(remote: bool, delete: bool) -> str:
    """How to go on after damage was found."""
    first = (
        ""
        if delete
        else f"First `make fsck {'REMOTE=1 ' if remote else ''}DELETE=1`: it deletes what is damaged, nothing else. "
    )
    if remote:
        return f"{first}Next `make push` in a clone whose cache is intact."
    return (
        f"{first}Next `dvc pull`, to bring it back from a remote. Without one: `dvc commit` where the workspace has an intact "
        "copy, `dvc repro` where not."
    )


# ----------------------------------------------------------------------------------------------- main


def dvc(*arguments: str) -> None:
    """Run a dvc command in this process; `UserError` when it fails (what went wrong is then already on stderr)."""
    if code := dvc_main(list(arguments)):
        raise UserError(f"`dvc {' '.join(arguments)}` failed (exit code {code}), see above.")


def main() -> None:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.remotes", description=(__doc__ or "").split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "set", help="make URL (or a directory) the default remote of this clone"
    )
    command.add_argument("url", metavar="URL")
    commands.add_parser("push", help="dvc push --run-cache, and what it leaves out")
    command = commands.add_parser(
        "fsck", help="hash everything in the local cache; exit code 1 when something is damaged"
    )
    command.add_argument(
        "--remote", action="store_true", help="check the remote instead (reads all of it)"
    )
    command.add_argument("--delete", action="store_true", help="delete what is damaged")
    arguments = parser.parse_args()
    try:
        if arguments.command == "set":
            set_remote(arguments.url)
            return
        os.chdir(Repo.find_root())  # dvc.lock and the outputs are named from there
        if arguments.command == "push":
            push()
        elif fsck(arguments.remote, arguments.delete):
            sys.exit(1)
    except (UserError, DvcException) as error:
        sys.exit(f"error: {str(error).removeprefix('config file error: ')}")


if __name__ == "__main__":
    main()
