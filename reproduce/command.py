"""What every command does the same way: it shows its help, fails with one message, stays offline,
and gives the same result whatever environment variables are set.
"""

import argparse
import errno
import io
import os
import re
import sys
from collections.abc import Callable

from reproduce import INTERRUPTED
from reproduce.files import UserError, out_of_space

RIGHTS = "Give yourself the right to read and write it (`ls -ld` shows who has it)."
# What the system refuses because of the machine or its owner, never because of our code.
WORLD = {
    errno.EACCES: RIGHTS,
    errno.EPERM: RIGHTS,
    errno.EROFS: "Work in a checkout on a disk that can be written.",
    errno.EMFILE: "Allow more open files: `ulimit -n 4096`.",
    errno.ENFILE: "The machine has too many open files: close other programs.",
    errno.ENAMETOOLONG: "Use a shorter name, or a checkout at a shorter path.",
    errno.EIO: "The disk or its network gave an error: check them.",
    errno.ESTALE: "The network file system lost it: mount it again.",
    errno.ENOTDIR: "Move away the file that is in a folder's place.",
    errno.EISDIR: "Move away the folder that is in a file's place.",
    errno.ELOOP: "Remove the links that point at each other.",
    errno.ENOMEM: "The machine has too little memory: close other programs.",
    errno.EAGAIN: "The machine has too many processes: close other programs.",
    errno.ENOTEMPTY: "A program still uses a file in it: close that and run it again.",
    errno.ENOENT: "It was never made, or is deleted: `dvc checkout`, or `dvc repro`, makes it.",
    errno.EEXIST: "Move away the file or the broken link of that name.",
    errno.EBUSY: "A program still uses it: close that and run it again.",
}

# Environment variables that would change a result: which kernels are taken, in which precision
# they compute, what a library believes of other processes. Those with the endings in (?<! ) are
# harmless: versions, logs, threads, memory, what extensions are compiled for.
CHANGES_RESULTS = re.compile(
    r"(ACCELERATE|ATEN|CUBLAS|CUBLASLT|CUDNN|DEEPSPEED|DNNL|DVCLIVE|FLASH_ATTENTION|FSDP|MKL"
    r"|ONEDNN|OPENBLAS|PYTORCH|TORCH|XFORMERS)_\w+"
    r"(?<!_VERSION)(?<!_LOGS)(?<!_NUM_THREADS)(?<!_ALLOC_CONF)(?<!_ARCH_LIST)"
    r"|NVIDIA_TF32_OVERRIDE|CUDA_(FORCE|DISABLE)_(PTX_)?JIT|DISABLE_ADDMM_CUDA_LT|USE_HUB_KERNELS"
    r"|KMP_DETERMINISTIC_REDUCTION|RANK|(LOCAL_)?WORLD_SIZE|LOCAL_RANK"
)
# How launchers of several processes of one command say how many there are.
SEVERAL = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
OURS = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # with it, matrix products on a GPU are deterministic


def command_line(description: str | None) -> argparse.ArgumentParser:
    """A parser whose --help shows a module's docstring as it stands."""
    formatter = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=description, formatter_class=formatter)


def run_command(main: Callable[[], None]) -> None:
    """Run a command's `main`; what a person or the machine did wrong becomes one message.

    Exit code 1 for an error, 130 for Ctrl-C. Only a fault of the code itself ends in a traceback.
    """
    open_closed_streams()
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not (message := explain(error)):
            raise
        print(f"error: {message}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:  # nobody reads it any more: else Python complains once more at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)


def explain(error: Exception) -> str:
    """One message for what a person or the machine did; "" for a fault of the code."""
    if isinstance(error, UserError):
        return str(error)
    if reason := out_of_space(error):
        return (
            f"the disk is full ({reason}): no half-written output was left. Make room (`make "
            "clean-checkpoints`, `make clean-experiments`; more: docs/troubleshooting.md) and run "
            "the same command again: training goes on from its last checkpoint."
        )
    if isinstance(error, BrokenPipeError):
        return "nobody reads the output any more (a closed pipe). Run it again without the pipe."
    if isinstance(error, OSError) and error.errno in WORLD:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}. {WORLD[error.errno]}"
    if isinstance(error, MemoryError):
        return "the machine has too little memory. Close other programs and run it again."
    return ""


def open_closed_streams() -> None:
    """Give a closed standard stream (`>&-`) to the null device; print what one cannot encode.

    Else the next file that is opened gets the stream's number, and what is printed goes there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)  # mostly it is that number already
            os.set_inheritable(number, True)  # the commands that it starts need one too
            setattr(sys, name, open(number, "r" if number == 0 else "w"))  # noqa: PTH123, SIM115
        elif number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def go_offline() -> None:
    """Switch the Hub off for this process, and clean its environment. Call it before any import.

    Only the download stages may touch the network; all others read what those verified.
    """
    clean_environment()
    offline = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE")
    # Of the libraries' progress and messages nothing is shown: a stage has its own.
    quiet = ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS")
    os.environ |= dict.fromkeys((*offline, *quiet), "1") | {"TRANSFORMERS_VERBOSITY": "error"}


def clean_environment() -> None:
    """Take the variables that would change a result out of the environment, and name them.

    Call it before PyTorch and Hugging Face's libraries are imported: they read some only then.

    Raises:
        UserError: a launcher started this command several times at once.
    """
    for name in SEVERAL:
        if (count := os.environ.get(name, "1")) != "1":
            raise UserError(f"{name} is {count}: this command was started that often, and a run "
                            "is one process: srun -n1. For more runs: make parallel.")  # fmt: skip
    changing = [name for name in os.environ if CHANGES_RESULTS.fullmatch(name)]
    removed = [(name, os.environ.pop(name)) for name in changing]
    known = OURS.items() | {("WORLD_SIZE", "1")}
    if named := [f"{name}={value}" for name, value in removed if (name, value) not in known]:
        says = f"ignored (no environment variable changes a result): {', '.join(named)}"
        print(says, file=sys.stderr)  # standard output may be data
