"""Checkpoints of a run: one process at a time, whole and undamaged ones only, room on the disk.

    checkpoints/MODEL-SEED-KEY/checkpoint-N/   while it trains; the last two are kept
    checkpoints/MODEL-SEED-KEY/finished/       its result, until the evaluate stage has read it

KEY is `checkpoint_key` of recipe.py. List and delete them: make clean-checkpoints.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.files import UserError, sha256, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MARKER = "complete.json"  # path -> sha256 of every file of a checkpoint; written last
STATE = "state.pt"  # Training.state() of loop.py, as torch.save writes it


def root() -> Path:
    """The folder of all checkpoints, in the main checkout even under `dvc exp run --temp`."""
    return Path(os.environ.get("DVC_ROOT", ".")) / "checkpoints"


@contextlib.contextmanager
def exclusive(checkpoints: Path, wait: bool) -> Iterator[None]:
    """Hold this run for one process; if another holds it, wait, or raise `UserError`.

    Killing dvc leaves its trainer alive, and experiments can share a run; without the lock two
    would train it side by side. The kernel frees the lock when the process ends, however it ends.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    with checkpoints.with_name(checkpoints.name + ".lock").open("a+") as lock:
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                holder = f"{checkpoints} is in use by process {lock.read().strip() or 'unknown'}"
                if not wait:
                    raise UserError(f"{holder}. Wait until it ends, or kill it.") from error
                print(f"waiting: {holder}, which trains the same run. When it ends its result is "
                      "taken over; if it is killed, its last checkpoint.", flush=True)  # fmt: skip
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(
                f"{lock.name} cannot be locked ({error.strerror}): this file system has no locks. "
                "Put the folder checkpoints on one that has (a link to a local disk will do)."
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield  # the file stays: a third process would lock a new one beside a second that waits


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below `folder` except the marker, by relative path."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MARKER]
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def mark_complete(folder: Path) -> None:
    """Write the marker of a folder whose files are all written."""
    write_json(folder / MARKER, digests(folder))


def is_complete(folder: Path) -> bool:
    """Whether the marker is there and every file has the digest that it names."""
    try:
        return bool(json.loads((folder / MARKER).read_text()) == digests(folder))
    except (OSError, ValueError):
        return False


def steps(checkpoints: Path) -> list[int]:
    """The steps of which there is a checkpoint, whole or not, ascending."""
    names = (path.name.removeprefix("checkpoint-") for path in checkpoints.glob("checkpoint-*"))
    return sorted(int(name) for name in names if name.isdecimal())


def save_checkpoint(checkpoints: Path, step: int, state: dict[str, Any]) -> None:
    """Write a checkpoint, its marker last, and delete all but the last two."""
    import torch

    folder = checkpoints / f"checkpoint-{step}"
    folder.mkdir()
    torch.save(state, folder / STATE)
    mark_complete(folder)
    for old in steps(checkpoints)[:-2]:
        shutil.rmtree(checkpoints / f"checkpoint-{old}")


def newest_checkpoint(checkpoints: Path) -> Path | None:
    """The newest whole checkpoint; damaged ones are named, deleted and passed over."""
    for step in reversed(steps(checkpoints)):
        path = checkpoints / f"checkpoint-{step}"
        if is_complete(path):
            return path
        print(f"warning: {path} is half-written or damaged; passed over for the one before")
        shutil.rmtree(path)
    return None


def place_files(source: Path, target: Path) -> None:
    """Put the files of `source` into `target`, each whole; linked, not copied, where that goes."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        partial = target / f"{path.name}.partial"
        partial.unlink(missing_ok=True)
        try:
            partial.hardlink_to(path)
        except OSError:
            shutil.copyfile(path, partial)
        partial.replace(target / path.name)
        partial.unlink(missing_ok=True)  # rename does nothing where both are links to one file


def forget_finished(run: str, weights: Path) -> None:
    """Delete the kept result of `run` (MODEL-SEED) whose weights are those of the file `weights`.

    Called by the stage after the training: that it has them means that DVC has them in its cache.
    A result that another process is about to take over is left to it.
    """
    for finished in root().glob(f"{run}-*/finished"):
        damaged = (OSError, ValueError, KeyError)  # a marker that protects nothing
        with contextlib.suppress(*damaged, UserError), exclusive(finished.parent, wait=False):
            kept = json.loads((finished / MARKER).read_text())["model/model.safetensors"]
            if kept == sha256(weights):
                shutil.rmtree(finished.parent)


def check_disk(model: "PreTrainedModel", checkpoints: Path) -> None:
    """`UserError` if the disk cannot hold three checkpoints (3 x the weights) and the model.

    One is written before the oldest of two is deleted. Those that are there need no more room.
    """
    weights = sum(parameter.numel() for parameter in model.parameters()) * 4
    kept = sum(path.stat().st_size for path in checkpoints.glob(f"checkpoint-*/{STATE}"))
    needed = (3 * 3 + 1) * weights - kept
    free = shutil.disk_usage(checkpoints).free
    if free < needed:
        raise UserError(
            f"not enough disk: {checkpoints} needs {needed / 1e6:,.0f} MB more, "
            f"{free / 1e6:,.0f} MB are free. Make room (`dvc gc --all-branches --all-tags "
            "--all-experiments` deletes cached results that none of these names; `make "
            "clean-checkpoints` lists what trainings have kept, this one too) and run again."
        )
