"""Run one stage again in a scratch place and compare what it writes with dvc.lock, file by file.

Run as: python -m tools.verify finetune@minilm-1        (make verify STAGE=finetune@minilm-1)

Prints "identical" (exit code 0), or which file differs first and by how much (exit code 1). The workspace, the cache and
checkpoints are not touched: the stage trains from its start. Times and the machine (environment/, metrics/speed.json) are
measurements and are not compared.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reproduce.files import UserError, read_json

MEASURED = ("environment/", "metrics/speed.json")


def main() -> None:
    """Verify the stage that is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", help="as `dvc stage list` prints it")
    name = parser.parse_args().stage
    stage = locked_stage(name)
    expected = {
        path: reference
        for out in stage.outs
        for path, reference in files_of(out)
        if not path.startswith(MEASURED)
    }
    if not expected:
        raise UserError(
            f"{name} writes measurements only: no second run equals the first. Verify another stage."
        )
    with tempfile.TemporaryDirectory(prefix="verify-") as scratch:
        prepare(Path(scratch), stage)
        environment = {
            key: value for key, value in os.environ.items() if key != "DVC_ROOT"
        }  # the checkpoints' place
        environment |= threads_of(name)
        for command in stage.cmd if isinstance(stage.cmd, list) else [stage.cmd]:
            print(f"verify {name}: running `{command}` in {scratch}", flush=True)
            done = subprocess.run(command, shell=True, cwd=scratch, env=environment)  # noqa: S602  # as DVC runs it
            if done.returncode:
                raise UserError(
                    f"{name} ended with exit code {done.returncode} in the scratch place; its own message is above."
                )
        found = {
            path
            for out in stage.outs
            for path in written(Path(scratch), out.def_path)
            if not path.startswith(MEASURED)
        }
        for path in sorted({*found, *expected}):
            if path not in found or path not in expected:
                raise UserError(
                    f"differs: {path} was written {'only before' if path in expected else 'only now'}."
                )
            md5, before = expected[path]
            now = Path(scratch) / path
            digest = md5_of(now)
            if digest != md5:
                why = (
                    difference(before, now)
                    if before
                    else "its old bytes are not in the cache (`dvc pull` brings them)"
                )
                raise UserError(f"differs: {path}, md5 {md5} in dvc.lock, {digest} now: {why}.")
    print(f"identical: {len(expected)} file(s) of {name}, byte for byte as in dvc.lock")


def locked_stage(name: str) -> Any:
    """DVC's stage `name`; `UserError` if there is none, or dvc.lock does not describe what would run now."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        repo = Repo()
        stages = repo.stage.collect(name)
    except DvcException as error:
        raise UserError(f"no stage {name!r}: {error} `dvc stage list` shows them all.") from error
    if len(stages) != 1:
        raise UserError(
            f"{name} names {len(stages)} stages ({', '.join(s.name for s in stages[:3])}, ...). Name one of them."
        )
    stage = stages[0]
    if not all(out.hash_info for out in stage.outs):
        raise UserError(
            f"dvc.lock does not know {name}: it has not run. Run `dvc repro {name}` first."
        )
    changed = [str(dep) for dep in stage.deps if dep.status()] + (
        ["its command"] if stage.changed_stage() else []
    )
    if changed:
        raise UserError(
            f"{name} would not run as dvc.lock says: {', '.join(changed)} changed or missing since. "
            f"Run `dvc checkout`, `dvc pull`, or `dvc repro {name}` first."
        )
    return stage


def threads_of(name: str) -> dict[str, str]:
    """OMP_NUM_THREADS as it was for a training: another number of threads sums in another order, and ends in other bits."""
    record = Path("environment") / f"{name.partition('@')[2]}.json"
    if not name.startswith("finetune@") or not record.is_file():
        return {}
    threads = read_json(record, f"Run `git checkout {record}`.")["threads"]
    print(f"verify {name}: with {threads} thread(s) a process, as {record} says")
    return {"OMP_NUM_THREADS": str(threads)}


def md5_of(path: Path) -> str:
    """The digest that DVC knows a file by."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def files_of(out: Any) -> Iterator[tuple[str, tuple[str, Path | None]]]:
    """Each file of an output: its path, its md5 in dvc.lock, and where its old bytes are (cache or workspace), if anywhere."""

    def old_bytes(md5: str, path: str) -> Path | None:
        cached = Path(out.cache.oid_to_path(md5))
        if cached.is_file():
            return cached
        here = Path(path)
        return here if here.is_file() and md5_of(here) == md5 else None

    if not out.hash_info.isdir:
        yield out.def_path, (out.hash_info.value, old_bytes(out.hash_info.value, out.def_path))
        return
    tree = out.get_obj()
    if tree is None:
        raise UserError(
            f"the cache has no list of the files of {out.def_path}. Run `dvc pull {out.def_path}` first."
        )
    for key, (_, info) in tree.iteritems():
        path = "/".join((out.def_path, *key))
        yield path, (info.value, old_bytes(info.value, path))


def prepare(scratch: Path, stage: Any) -> None:
    """Lay out what the stage reads: the code and settings that git tracks, and links to its dependencies."""
    listed = subprocess.check_output(["git", "ls-files", "-z"], text=True).split("\0")
    for name in listed:
        if Path(name).is_file() and not name.startswith(("metrics/", "environment/")):
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, scratch / name)
    for dep in stage.deps:
        if (
            isinstance(dep.def_path, str)
            and Path(dep.def_path).exists()
            and not (scratch / dep.def_path).exists()
        ):
            (scratch / dep.def_path).parent.mkdir(parents=True, exist_ok=True)
            (scratch / dep.def_path).symlink_to(Path(dep.def_path).resolve())


def written(scratch: Path, output: str) -> Iterator[str]:
    """The files of one output in the scratch place, relative to it."""
    top = scratch / output
    for path in [top] if top.is_file() else top.rglob("*"):
        if path.is_file():
            yield path.relative_to(scratch).as_posix()


def difference(before: Path, now: Path) -> str:
    """By how much two files differ, in words: tensors by value, text by line, anything else by byte."""
    if now.suffix == ".safetensors":
        from safetensors.torch import load_file

        old, new = load_file(before), load_file(now)
        if {k: v.shape for k, v in old.items()} != {k: v.shape for k, v in new.items()}:
            return "other tensors or shapes"
        gaps = {name: float((old[name].double() - new[name].double()).abs().max()) for name in old}
        differing = [name for name, gap in gaps.items() if gap]
        worst = max(gaps, key=lambda name: gaps[name])
        return f"{len(differing)} of {len(gaps)} tensors, first {min(differing)}, by at most {gaps[worst]:.3g} ({worst})"
    left, right = before.read_bytes(), now.read_bytes()
    if now.suffix in (".json", ".tsv", ".csv", ".txt", ".md"):
        old_lines, new_lines = left.decode().splitlines(), right.decode().splitlines()
        for number, (a, b) in enumerate(zip(old_lines, new_lines, strict=False), 1):
            if a != b:
                return f"line {number} was {a.strip()!r}, is {b.strip()!r}"
        return f"{len(old_lines)} lines before, {len(new_lines)} now"
    at = next(
        (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b),
        min(len(left), len(right)),
    )
    return f"{len(left):,} bytes before, {len(right):,} now, first difference at byte {at:,}"


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
