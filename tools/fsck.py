"""Hash everything in DVC's cache, or in its remote, and name what is damaged.

Run as: python -m tools.fsck [--remote] [--delete]      (make fsck)

DVC reads no object of its cache a second time: a damaged one is checked out and pushed as whole.
And `dvc gc` takes from the run cache what runs are restored from: here it is put back.
"""

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc_data.hashfile.build import build
from dvc_data.hashfile.hash import file_md5
from dvc_data.hashfile.transfer import transfer
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from tqdm import tqdm

from reproduce.command import command_line, explain, run_command
from reproduce.files import UserError
from reproduce.inputs.hub import redact

OBJECT = re.compile(r"[0-9a-f]{32}(\.dir)?")  # else it is what a transfer is still writing


@contextlib.contextmanager
def open_repo() -> Iterator[Repo]:
    """DVC's repository, as the current folder. What it and its plug-ins raise is a `UserError`.

    botocore, asyncssh, aiohttp and others have errors of their own for a wrong URL or no answer.
    """
    try:
        os.chdir(Repo.find_root())  # dvc.lock and outputs are named from there
        with Repo() as repo:
            yield repo
    except Exception as error:
        ours = (TypeError, AttributeError, LookupError, AssertionError)  # a fault of this code
        fault = isinstance(error, ours) and not isinstance(error, DvcException)
        if fault or explain(error):
            raise
        says = str(error).removeprefix("config file error: ")
        if says.startswith("no remote specified"):
            says = "this clone has no remote. Name one: make remote URL=/a/folder"
        elif "dvc.lock" in says:
            says += ". What to do: docs/troubleshooting.md"
        if isinstance(error, ImportError):
            if package := "".join(re.findall(r"'(dvc-\w+)'", says)):
                pip = f"{sys.executable} -m pip install -c constraints.txt"
                says += f". Install it: {pip} {package}"
        elif not isinstance(error, DvcException):
            says = f"{type(error).__name__}: {says}. Is the remote's URL right?"
        raise UserError(says) from error


def fsck(repo: Repo, remote: bool, delete: bool) -> int:
    """Print what is damaged in the cache (or the remote); returns how many objects are."""
    odb = repo.cloud.get_remote_odb(command="fsck") if remote else repo.cache.local
    place = redact(odb.path)
    if not odb.fs.CAN_TRAVERSE:
        raise UserError(f"{place}: HTTP lists no files. Name the folder behind it: make remote.")
    if not remote:
        restore_run_cache(repo)
    tracked = tracked_objects(repo, repo.cache.local, odb)
    paths = sorted(odb.fs.find(odb.path)) if odb.fs.exists(odb.path) else []
    named = {path: "".join(odb.fs.parts(path)[-2:]) for path in paths}
    objects = {path: name for path, name in named.items() if OBJECT.fullmatch(name)}
    if remote and not objects:
        raise UserError(f"{place}: nothing there. A wrong URL, no answer, or never pushed to?")
    damaged = unreadable = 0
    for path, name in (bar := tqdm(objects.items(), unit="object", desc="fsck", disable=None)):
        file = redact(odb.fs.unstrip_protocol(path))
        try:  # read again before it is called damaged
            if name == digest(odb.fs, path, name) or name == (now := digest(odb.fs, path, name)):
                continue
        except OSError as error:
            unreadable += 1
            bar.write(f"cannot be read: {file}: {error}")
            continue
        damaged += 1
        bar.write(f"damaged: {file}{' (deleted)' if delete else ''}")
        for output in sorted(tracked.get(name, ["not in the present dvc.lock"])):
            bar.write(f"    {output}{'' if remote else workspace_copy(output, name, now, delete)}")
        if delete:
            odb.fs.remove(path)
    print(f"{place}: {len(objects)} objects checked, {damaged} damaged, {unreadable} unreadable")
    if damaged and not delete:
        print(f"`make fsck {'REMOTE=1 ' * remote}DELETE=1` deletes what is damaged, nothing else.")
    if damaged and remote:
        print("`make push` from a clone whose cache is intact brings it back.")
    elif damaged:
        print("`dvc pull` brings it back from a remote; without one `dvc commit` does where your "
              "copy is intact, `dvc repro` where not.")  # fmt: skip
    return damaged + unreadable


def tracked_objects(repo: Repo, *stores: Any) -> dict[str, set[str]]:
    """The paths that dvc.lock gives each object; a folder's files where a store has its listing."""
    paths: dict[str, set[str]] = {}
    for name, path in ((o.hash_info.value, str(o)) for o in repo.index.outs if o.hash_info):
        paths.setdefault(name, set()).add(path)
        for entry in next(filter(None, (listing(store, name) for store in stores)), []):
            paths.setdefault(entry["md5"], set()).add(f"{path}/{entry['relpath']}")
    return paths


def listing(store: Any, name: str) -> list[dict[str, str]]:
    """The files of a folder; none of a file, and none where the listing is absent or damaged."""
    with contextlib.suppress(OSError):
        path = store.oid_to_path(name)
        if name.endswith(".dir") and digest(store.fs, path, name) == name:
            return list(json.loads(store.fs.cat_file(path)))
    return []


def digest(fs: Any, path: str, name: str) -> str:
    """What the file would have to be called, by its content."""
    return file_md5(path, fs) + (".dir" if name.endswith(".dir") else "")


def workspace_copy(output: str, name: str, damaged: str, delete: bool) -> str:
    """Say how the file in the workspace is; if it shares the damage and `delete`, delete it too.

    DVC holds such a file for up to date. One with another content still is the user's own.
    """
    path = Path(output)
    if not path.is_file():
        return ""
    md5 = file_md5(output)
    state = {name: "intact", damaged: "damaged too"}.get(md5, "another")
    if delete and md5 == damaged:
        path.unlink()
        state += " (deleted)"
    return f": the copy in the workspace is {state}"


def run_cache_outputs(repo: Repo) -> dict[str, str]:
    """The object of each output kept in git that the run cache names, with its path.

    An entry that is damaged is passed over: DVC deletes it when it meets it.
    """
    in_git, outputs = {out.def_path for out in repo.index.outs if not out.use_cache}, {}
    for path in Path(repo.stage_cache.cache_dir).glob("*/*/*"):
        with contextlib.suppress(YAMLError, LookupError, TypeError, AttributeError, ValueError):
            for out in YAML(typ="safe").load(path).get("outs", []):
                if out["path"] in in_git:
                    outputs[out["md5"]] = out["path"]
    return outputs


def restore_run_cache(repo: Repo) -> None:
    """Put back, from the workspace, what `dvc gc` took from the run cache; say what is gone.

    gc does not know that runs are restored from the cache's copies of files kept in git.
    """
    cache = repo.cache.local
    lost = {name: p for name, p in run_cache_outputs(repo).items() if not cache.exists(name)}
    for out in repo.index.outs:
        if out.hash_info and out.hash_info.value in lost and not out.changed_checksum():
            staging, _, obj = build(cache, out.fs_path, out.fs, "md5")
            transfer(staging, cache, {obj.hash_info}, shallow=False, hardlink=False)
            print(f"{lost.pop(out.hash_info.value)}: put back into the cache, for the run cache")
    if lost:
        print(f"warning: the run cache names {len(lost)} object(s) that are not here (of "
              f"{min(lost.values())}, ...), as after `dvc gc` or in a new clone: what the remote "
              "lacks of them too (`dvc repro --pull` asks it) would run again")  # fmt: skip


def main() -> None:
    """Check; exit code 1 when something is damaged."""
    parser = command_line(__doc__)
    parser.add_argument("--remote", action="store_true", help="the remote (reads all of it)")
    parser.add_argument("--delete", action="store_true", help="delete what is damaged")
    arguments = parser.parse_args()
    with open_repo() as repo:
        damaged = fsck(repo, arguments.remote, arguments.delete)
    sys.exit(1 if damaged else 0)


if __name__ == "__main__":
    run_command(main)
