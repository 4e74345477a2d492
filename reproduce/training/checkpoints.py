"""Checkpoints of a training run: one process at a time, whole and undamaged ones only, and room on the disk for them.

    checkpoints/MODEL-SEED-KEY/checkpoint-N/   while it trains; the last two are kept
    checkpoints/MODEL-SEED-KEY/finished/       its result, until the evaluate stage has read it from its place

List and delete them: python -m reproduce.training.checkpoints [--yes]        (make clean-checkpoints)
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce.files import UserError, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MARKER = "complete.json"  # path -> sha256 of every file of a checkpoint; written last


def root() -> Path:
    """The folder of all checkpoints. DVC_ROOT is the main checkout even in an experiment's temporary copy."""
    return Path(os.environ.get("DVC_ROOT", ".")) / "checkpoints"


@contextlib.contextmanager
def exclusive(checkpoints: Path) -> Iterator[None]:
    """Hold this run for one process. The kernel frees the lock when the process ends, however it ends.

    Killing dvc leaves its trainer alive; without the lock a second `dvc repro` would train beside it.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    with checkpoints.with_name(checkpoints.name + ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise UserError(
                f"{checkpoints} is in use by process {lock.read().strip() or 'unknown'}, which trains the same run. "
                "Wait until it ends (its result is then taken over), or kill it (training goes on from its last checkpoint), "
                "and run again."
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        os.register_at_fork(
            after_in_child=lock.close
        )  # or the loader workers of a killed trainer would hold it on
        yield  # the file stays: removing it would let a third process lock a new one beside a second that waits


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below `folder` except the marker, by relative path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MARKER:
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
    return found


def mark_complete(folder: Path) -> None:
    """Write the marker of a folder whose files are all written."""
    write_json(folder / MARKER, digests(folder))


def is_complete(folder: Path) -> bool:
    """Whether the marker is there and every file that it names has the digest that it names."""
    try:
        return bool(json.loads((folder / MARKER).read_text()) == digests(folder))
    except (OSError, ValueError):
        return False


def newest_checkpoint(checkpoints: Path) -> Path | None:
    """The newest complete checkpoint; half-written and damaged ones are named, deleted and passed over for the one before."""
    found = sorted(
        checkpoints.glob("checkpoint-*"),
        key=lambda path: int(path.name.split("-")[1]),
        reverse=True,
    )
    for path in found:
        if is_complete(path):
            return path
        print(
            f"warning: {path} is half-written or damaged; passed over for the one before",
            flush=True,
        )
        shutil.rmtree(path)
    return None


def link_files(source: Path, target: Path) -> None:
    """Give `target` the files of the folder `source` without a second copy of them where the file system can."""
    for path in source.rglob("*"):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                place.hardlink_to(path)
            except OSError:
                shutil.copyfile(path, place)


def forget_finished(run: str, weights: Path) -> None:
    """Delete the kept result of `run` (MODEL-SEED) whose weights are those of the file `weights`.

    Called by the stage after the training: that it reads `weights` means that DVC has them in its cache.
    """
    for finished in root().glob(f"{run}-*/finished"):
        with weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with contextlib.suppress(
            OSError, ValueError
        ):  # a damaged marker protects nothing and harms nothing
            if json.loads((finished / MARKER).read_text())["model/model.safetensors"] == digest:
                shutil.rmtree(finished.parent)


def check_disk(model: "PreTrainedModel", checkpoints: Path, model_out: Path) -> None:
    """`UserError` before training if the disk cannot hold what will be written.

    At the worst moment there are three checkpoints (weights and two AdamW moments, 4 bytes each) or two and the model.
    """
    weights = sum(parameter.numel() for parameter in model.parameters()) * 4
    for place, needed in ((checkpoints, 3 * 3 * weights), (model_out, weights)):
        free = shutil.disk_usage(place).free
        if free < needed:
            raise UserError(
                f"not enough disk: {place} needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free. Make room "
                "(`dvc gc -w` drops cached results that this workspace does not use; `make clean-checkpoints`) and run again."
            )


def main() -> None:
    """Say what would be freed, ask, delete; runs that are being trained are left alone."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    arguments = parser.parse_args()
    free = []
    for folder in sorted(path for path in root().glob("*") if path.is_dir()):
        size = sum(
            file.stat().st_size
            for file in folder.rglob("*")
            if file.is_file() and file.stat().st_nlink == 1
        )
        steps = sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))
        what = (
            "finished"
            if (folder / "finished").is_dir()
            else f"at step {steps[-1]:,}"
            if steps
            else "no checkpoint yet"
        )
        try:
            with exclusive(folder):
                free.append((folder, size))
                print(f"{folder}: {size / 1e6:,.1f} MB, {what}")
        except UserError:
            print(f"{folder}: {size / 1e6:,.1f} MB, {what}; left alone, it is being trained")
    if not free:
        print("no checkpoints to delete")
        return
    print(
        f"deleting {len(free)} run(s) frees {sum(size for _, size in free) / 1e6:,.1f} MB; they would train from their start"
    )
    if not arguments.yes and (
        not sys.stdin.isatty() or input("delete? [y/N] ").strip().lower() not in ("y", "yes")
    ):
        print("nothing was deleted (answer y, or give --yes)")
        return
    for folder, _ in free:
        try:
            with exclusive(folder):
                shutil.rmtree(folder)
        except UserError as error:
            print(f"{folder}: left alone: {error}")


if __name__ == "__main__":
    main()
