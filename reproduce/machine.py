"""The machine and the software a number was measured on, to be written beside it."""

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "dvclive", "numpy")


def describe() -> dict[str, Any]:
    """Python, packages, processor, GPU and driver, threads, git commit. JSON-ready; no path, no host name."""
    import torch

    commit, dirty = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: version(name) for name in PACKAGES},
        "cpu": _cpu(),
        "gpu": gpu,
        "cuda": torch.version.cuda if gpu else None,
        "driver": _driver() if gpu else None,
        "threads": torch.get_num_threads(),
        "git_commit": commit,
        "git_dirty": bool(dirty) if dirty is not None else None,
    }


def peak_memory() -> int:
    """The greatest resident memory that this process had, in bytes."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss: macOS counts bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return (
            subprocess.run(command, capture_output=True, text=True, timeout=20)
            .stdout.splitlines()[0]
            .strip()
        )
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return None
