"""Run one stage again in a scratch place and compare what it writes with dvc.lock, file by file.

Run as: python -m tools.verify finetune@minilm-1        (make verify STAGE=finetune@minilm-1)

Prints "identical" (exit code 0), or which file differs first and by how much (exit code 1). The
workspace, the cache and checkpoints stay as they are: a training starts from its beginning. Times
and the machine (environment/, metrics/speed.json) are measurements and are not compared.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from dvc_data.hashfile.build import build
from dvc_data.hashfile.hash import file_md5

from reproduce.command import command_line, run_command
from reproduce.files import UserError, read_json
from tools.experiments import git
from tools.fsck import open_repo

MEASURED = ("environment/", "metrics/speed.json")


def main() -> None:
    """Verify the stage that is named."""
    parser = command_line(__doc__)
    parser.add_argument("stage", help="as `dvc stage list` prints it")
    name = parser.parse_args().stage
    with open_repo() as repo, tempfile.TemporaryDirectory(prefix="verify-") as folder:
        scratch, stage = Path(folder), locked_stage(repo, name)
        locked = dict(file for out in stage.outs for file in locked_files(out))
        if all(path.startswith(MEASURED) for path in locked):
            raise UserError(f"{name} writes measurements only, and no second run equals the first.")
        prepare(scratch, stage, {out.def_path for out in repo.index.outs})
        run_again(scratch, name, stage.cmd)
        roots = [scratch / out.def_path for out in stage.outs]
        written = [file for root in roots for file in (root, *root.rglob("*")) if file.is_file()]
        names = {*locked, *(file.relative_to(scratch).as_posix() for file in written)}
        names = {path for path in names if not path.startswith(MEASURED)}
        for path in sorted(names):
            compare(repo, path, locked.get(path), scratch / path)
    print(f"identical: {len(names)} file(s) of {name}, byte for byte as in dvc.lock")


def locked_stage(repo: Any, name: str) -> Any:
    """DVC's stage; `UserError` if there is none, or dvc.lock is not about what would run now."""
    stages = repo.stage.collect(name) if name else []
    if len(stages) != 1:
        raise UserError(f"STAGE={name} is {len(stages)} stages. Name one of `dvc stage list`: "
                        "make verify STAGE=tokenize@minilm")  # fmt: skip
    stage = stages[0]
    changed = [str(dep) for dep in stage.deps if dep.status()]
    if changed or stage.changed_stage() or not all(out.hash_info for out in stage.outs):
        raise UserError(
            f"{name} would not run as dvc.lock says: {', '.join(changed) or 'its command'} changed "
            f"or missing since. Run `dvc checkout`, `dvc pull`, or `dvc repro {name}` first."
        )
    return stage


def locked_files(out: Any) -> Iterator[tuple[str, str]]:
    """Path and md5 of each file of an output, by dvc.lock."""
    if not out.hash_info.isdir:
        yield out.def_path, out.hash_info.value
        return
    tree = out.get_obj()
    if not tree and not out.changed_checksum():  # in git and not in the cache
        _, _, tree = build(out.repo.cache.local, out.fs_path, out.fs, "md5", dry_run=True)
    if not tree:
        raise UserError(f"no list of {out.def_path}'s files. Run `dvc pull` or `git checkout`.")
    for key, (_, info) in tree.iteritems():
        yield "/".join((out.def_path, *key)), info.value


def prepare(scratch: Path, stage: Any, outputs: set[str]) -> None:
    """Lay out what the stage reads: code and settings from git, and links to its dependencies.

    And the sentences: the report quotes them where they are there.
    """
    for path in map(Path, git("ls-files", "-z").split("\0")):
        if path.is_file() and not outputs & set(map(str, (path, *path.parents))):
            (scratch / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, scratch / path)
    reads = {Path(dep.def_path) for dep in stage.deps} | {Path("data/raw")}
    for path in sorted(reads - {Path(out.def_path) for out in stage.outs}):
        for file in (path, *path.rglob("*")):  # a folder may hold files of git too
            if file.is_file() and not (scratch / file).exists():
                (scratch / file).parent.mkdir(parents=True, exist_ok=True)
                (scratch / file).symlink_to(file.resolve())


def run_again(scratch: Path, name: str, command: str) -> None:
    """Run the stage's command as DVC does, a training with as many threads as it had.

    Another number of threads sums in another order, and ends in other bits.
    """
    # Without DVC_ROOT, which leads to the workspace's checkpoints.
    environment = {key: value for key, value in os.environ.items() if key != "DVC_ROOT"}
    record = Path("environment") / f"{name.partition('@')[2]}.json"
    if name.startswith("finetune@") and record.is_file():
        threads = read_json(record, f"Run `git checkout {record}`.")["threads"]
        environment["OMP_NUM_THREADS"] = str(threads)
        print(f"verify {name}: with {threads} thread(s), as {record} says")
    print(f"verify {name}: running `{command}` in {scratch}", flush=True)
    done = subprocess.run(command, shell=True, cwd=scratch, env=environment)  # noqa: S602
    if done.returncode:
        raise UserError(f"{name} ended with exit code {done.returncode} there, see above.")


def compare(repo: Any, path: str, md5: str | None, now: Path) -> None:
    """`UserError` unless the file that was written has the digest `md5`."""
    if not md5 or not now.is_file():
        raise UserError(f"differs: {path} was written {'only before' if md5 else 'only now'}.")
    if (digest := file_md5(str(now))) != md5:
        places = (Path(repo.cache.local.oid_to_path(md5)), Path(path))
        old = [place for place in places if place.is_file() and file_md5(str(place)) == md5]
        why = difference(old[0], now) if old else "its old bytes are gone (`dvc pull`?)"
        raise UserError(f"differs: {path}, md5 {md5} in dvc.lock, {digest} now: {why}.")


def difference(before: Path, now: Path) -> str:
    """By how much two files differ, in words: tensors by value, anything else by line."""
    if now.suffix == ".safetensors":
        from safetensors.torch import load_file

        old, new = load_file(before), load_file(now)
        if {k: v.shape for k, v in old.items()} != {k: v.shape for k, v in new.items()}:
            return "other tensors or shapes"
        gaps = {name: float((old[name].double() - new[name].double()).abs().max()) for name in old}
        changed = [name for name, gap in gaps.items() if gap]
        worst = max(gaps, key=lambda name: gaps[name])
        return f"{len(changed)} of {len(gaps)} tensors, by at most {gaps[worst]:.3g} ({worst})"
    lines = zip_longest(before.read_bytes().splitlines(), now.read_bytes().splitlines())
    for number, (a, b) in enumerate(lines, 1):
        if a != b:
            pair = [(line or b"").strip() for line in (a, b)]
            start = max(0, len(os.path.commonprefix(pair)) - 20)  # noqa: RUF071 (of bytes)
            was, now_is = (line[start : start + 80] for line in pair)
            return f"line {number} was {was!r}, is {now_is!r}"
    return "by line ends alone"


if __name__ == "__main__":
    run_command(main)
