"""The machine and the software a number was measured on, to be written beside it."""

import functools
import os
import platform
import re
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from reproduce.files import UserError

PACKAGES = ("torch", "transformers", "datasets", "tokenizers", "dvclive", "numpy")
# What decides a result, besides pinned inputs. `git_dirty`: whether it differs from the commit.
DECISIVE = ("reproduce", "stages", "params.yaml", "catalog.yaml", "dvc.yaml", "constraints.txt")
TO_CPU = "To compute on the CPU, hide the GPUs: CUDA_VISIBLE_DEVICES= (empty)."


class Gpu(NamedTuple):
    """A GPU that the driver lists, whether CUDA can use it or not."""

    number: str  # as nvidia-smi counts
    uuid: str  # "GPU-...": the same for all users, containers and clones
    name: str
    driver: str


def describe() -> dict[str, Any]:
    """Python, packages, processor, GPU and driver, threads, git commit. No path, no host name."""
    import torch

    # Not of all files: DVC deletes a stage's outputs, which git has, before it runs the stage.
    dirty = _git("status", "--porcelain", "--untracked-files=no", "--", *DECISIVE)
    gpu = next(iter(visible_gpus()), None)
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: version(name) for name in PACKAGES},
        "cpu": cpu_name(),
        "gpu": gpu.name if gpu else None,
        "cuda": torch.version.cuda if gpu else None,
        "driver": gpu.driver if gpu else None,
        "threads": torch.get_num_threads(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(dirty) if dirty is not None else None,
    }


def visible_gpus() -> list[Gpu]:
    """The GPUs that this process may use: all, or those that CUDA_VISIBLE_DEVICES names.

    Raises:
        UserError: a name that is no GPU here, or a part of one (MIG); a driver that fails.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in (named or "").split(",")]
    if named is not None and names[0] in ("", "-1", "none", "void", "NoDevFiles"):
        return []
    gpus, chosen = list_gpus(), {}
    if not gpus or named is None:
        return list(gpus)
    for name in names:
        is_uuid = name.startswith("GPU-")
        found = [g for g in gpus if g.number == name or (is_uuid and g.uuid.startswith(name))]
        if len(found) != 1:
            known = "; ".join(f"{g.number} or {g.uuid} ({g.name})" for g in gpus)
            raise UserError(f"CUDA_VISIBLE_DEVICES={named}: {name} names {len(found)} GPUs, and a "
                            f"run takes a whole one. Here are {known}. {TO_CPU}")  # fmt: skip
        chosen[found[0].uuid] = found[0]
    return list(chosen.values())


@functools.cache
def list_gpus() -> tuple[Gpu, ...]:
    """The GPUs that the driver lists (NVML); none without a driver, an error where it fails.

    Asked of nvidia-smi: starting CUDA would fix which GPUs it sees.
    """
    command = ["nvidia-smi", "--query-gpu=index,uuid,name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:  # not installed
        return ()
    said = " ".join((done.stdout + done.stderr).split())
    if done.returncode == 9 or "No devices were found" in said:  # 9: no driver is loaded
        print(f"no GPU is used: {said}", flush=True)
        return ()
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    if done.returncode or any(len(row) != 4 or not row[1].startswith("GPU-") for row in rows):
        raise UserError(f"the NVIDIA driver does not work. nvidia-smi says: {said} (After an "
                        f"update of the driver, restart the machine.) {TO_CPU}")  # fmt: skip
    return tuple(Gpu(*row) for row in rows)


def peak_memory() -> int:
    """The greatest resident memory that this process had, in bytes."""
    status = Path("/proc/self/status")  # getrusage's includes the process that started this one
    if status.exists() and (peak := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(peak[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss: macOS counts bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return name[1] if name else platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    except OSError:  # not installed
        return None
    return done.stdout.strip() if done.returncode == 0 else None
