"""The DVC remote: set it up, and push to it what a restore needs.

Run as: python -m tools.remotes set URL     (make remote URL=...)
        python -m tools.remotes push        (make push)

`dvc push --run-cache` alone leaves the files behind that are kept in git, without which no run can
be restored from the run cache, and pushes nothing again that has vanished from the remote.
"""

import os
import re
from pathlib import Path

from dvc.fs import get_cloud_fs

from reproduce.command import command_line, run_command
from reproduce.files import UserError
from reproduce.inputs.hub import redact
from tools.dvc_utf8 import run_dvc, write_utf8
from tools.fsck import fsck, open_repo, run_cache_outputs, tracked_objects


def set_remote(text: str) -> None:
    """Make `text` the default remote `store` of this clone, in .dvc/config.local (not in git).

    Options of an earlier `store` (keyfile, endpointurl, ...) must be given again.
    """
    url = absolute_url(text)
    write_utf8()
    with open_repo() as repo:
        kind, options, _ = get_cloud_fs(None, url=url)
        kind(**options)  # its plug-in must be there, else nothing is written
        file = Path(repo.config.files["local"])
        before = file.read_bytes() if file.is_file() else None
        try:
            with repo.config.edit("local") as config:
                config["core"]["remote"] = "store"
                config["remote"]["store"] = {"url": url, "verify": True}
        except Exception:  # what cannot be written leaves the file empty
            file.unlink() if before is None else file.write_bytes(before)
            raise
    print(f"remote store: {redact(url)}   (verify = true; written to .dvc/config.local)")
    if not kind.CAN_TRAVERSE:
        print("HTTP is for pulling. Push from a clone whose remote is the folder behind it.")
    elif "://" not in url and not Path(url).exists():
        print("There is nothing yet: `make push` makes the folder.")


def absolute_url(text: str) -> str:
    """A URL as it is, a path absolute: several DVC commands resolve a relative one wrongly."""
    if not text.strip():
        raise UserError("say where: make remote URL=/a/folder, or URL=s3://bucket/folder, ...")
    if re.match(r"[\w.-]+@[\w.-]+:", text) or re.match(r"[\w.-]+:(?!//)", text):
        raise UserError(f"{text}: DVC takes scp's notation for a path. Write ssh://user@host/path.")
    if "%(" in text or not text.isprintable():
        raise UserError(f"{text!r}: DVC's configuration cannot hold it. Choose another.")
    scheme, separator, place = text.rpartition("://")
    if separator and scheme.lower() != "file":
        return text
    # DVC makes a folder "file:" of file://. Symbolic links stay: a mount point may move.
    path = Path(os.path.normpath(Path(os.path.expanduser(place)).absolute()))  # noqa: PTH111 (~x)
    if path.resolve() == Path.cwd() or path.resolve().is_relative_to(Path(".dvc").resolve()):
        raise UserError(f"{path} belongs to this clone, and would vanish with it. Name another.")
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file. A remote is a folder; name another one.")
    return str(path)


def push() -> None:
    """Check the cache, push it with the run cache, then what DVC leaves out or takes for pushed."""
    with open_repo() as repo:
        remote = repo.cloud.get_remote_odb(command="push")
        if not remote.fs.CAN_TRAVERSE:
            raise UserError(
                f"{redact(remote.path)}: HTTP is for pulling. Push to the folder behind it."
            )
        if fsck(repo, remote=False, delete=False):
            raise UserError("nothing was pushed: repair the cache first, as said above.")
    run_dvc("push", "--run-cache")
    with open_repo() as repo:
        remote, cache = repo.cloud.get_remote_odb(), repo.cache.local
        # DVC takes a folder's files for pushed when its listing is there. Ask for each.
        names = {*tracked_objects(repo, cache), *run_cache_outputs(repo)}
        names = set(filter(cache.exists, names))
        missing = names - set(remote.oids_exist(sorted(names)))
        for name in sorted(missing, key=lambda name: name.endswith(".dir")):
            remote.add(cache.oid_to_path(name), cache.fs, name, verify=False)
    print(f"{len(missing)} more object(s) pushed: of the run cache, and what the remote had lost")


def main() -> None:
    """Parse the command line and do it."""
    parser = command_line(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("set", help="make it this clone's remote").add_argument("url")
    commands.add_parser("push", help="dvc push --run-cache, and what it leaves out")
    given = parser.parse_args()
    if given.command == "set":
        set_remote(given.url)
    else:
        push()


if __name__ == "__main__":
    run_command(main)
