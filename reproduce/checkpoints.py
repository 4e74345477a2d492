"""Checkpoints of a training run: one process at a time, complete ones only, and room on the disk for them."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce.stage import UserError, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MARKER = "complete.json"  # name -> size of every file of a checkpoint; written last


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
                "Wait until it ends, or kill it, and run again: training goes on from its last checkpoint."
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield  # the file stays: removing it would let a third process lock a new one beside a second that waits


def mark_complete(checkpoint: Path) -> None:
    """Write the marker of a checkpoint whose files are all written."""
    write_json(checkpoint / MARKER, {file.name: file.stat().st_size for file in checkpoint.iterdir()})


def newest_checkpoint(checkpoints: Path) -> Path | None:
    """The newest complete checkpoint; half-written ones (no marker, or a file of another size) are named and passed over."""
    found = sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True)
    for path in found:
        try:
            sizes = json.loads((path / MARKER).read_text())
            if all((path / name).stat().st_size == size for name, size in sizes.items()):
                return path
        except (OSError, ValueError):
            pass
        print(f"warning: {path} is not complete; passed over for the one before", flush=True)
        shutil.rmtree(path)
    return None


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
                "(`dvc gc -w` drops cached results that this workspace does not use) and run again."
            )
