"""What a training or a prediction computes on: its GPU, its precision, the same bits every time.

One process, one GPU:  with claim_gpu(), deterministic() as not_deterministic: ...
"""

import contextlib
import fcntl
import os
import re
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from reproduce.command import OURS, clean_environment
from reproduce.files import UserError
from reproduce.machine import TO_CPU, Gpu, visible_gpus

Precision = Literal["fp32", "bf16", "fp16"]
# The machine's: not below a checkout, a home or TMPDIR, which other clones and users do not share.
LOCKS = Path("/tmp/reproduce-gpu-locks")  # noqa: S108
POLL = 1.0  # seconds between two looks for a free GPU

OUT_OF_MEMORY = re.compile(
    r"out of memory|not enough memory|alloc(ation)?[ _]failed|fail(ed|ure) to allocate|bad_alloc"
    r"|(can't|cannot|could not|unable to) allocate|os error 12\b"
    r"|CUBLAS_STATUS_NOT_INITIALIZED when calling .cublasCreate",  # it found no room for itself
    re.IGNORECASE,
)

_claimed: list[Gpu | None] = []  # by this process; None: the CPU


@contextlib.contextmanager
def claim_gpu(locks: Path = LOCKS) -> Iterator[Gpu | None]:
    """Hold one GPU for this process and let CUDA see no other; None where there is no GPU.

    Waits while other runs hold all, of whichever user and clone. A claim inside a claim is the same
    one. The kernel frees the lock when the process ends, however it ends. Make it before anything
    asks PyTorch for a GPU: CUDA reads only once which ones it may see.

    Raises:
        UserError: the driver lists a GPU that CUDA cannot use, or it cannot be locked.
    """
    if _claimed:
        yield _claimed[-1]
        return
    clean_environment()
    gpu, lock = _lock_one(visible_gpus(), locks)
    try:
        if gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu.uuid
        _check(gpu)
        _claimed.append(gpu)
        yield gpu
    finally:
        _claimed.clear()
        if lock is not None:
            os.close(lock)


def _lock_one(gpus: list[Gpu], locks: Path) -> tuple[Gpu | None, int | None]:
    """The first free GPU and its lock, an open file; waits for one. Nothing if there are none."""
    waiting = False
    while gpus:
        for gpu in gpus:
            if (lock := _try_lock(locks / f"{gpu.uuid}.lock")) is not None:
                return gpu, lock
        if not waiting:
            names = ", ".join(f"{gpu.number} ({gpu.name})" for gpu in gpus)
            print(f"waiting for a free GPU: other runs hold {names}", flush=True)
        waiting = True
        time.sleep(POLL)
    return None, None


def _try_lock(path: Path) -> int | None:
    """`path` opened and locked, or None if another process holds it."""
    lock = None
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(exist_ok=True)
            path.parent.chmod(0o1777)  # everybody's, as /tmp is
        with contextlib.suppress(FileExistsError):
            path.touch(exist_ok=False)
            path.chmod(0o644)
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)  # enough for flock; may be another user's
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_nlink:  # else the folder was cleaned: others lock a new file
            return lock
    except BlockingIOError:
        pass
    except OSError as error:
        raise UserError(f"{path} cannot be locked ({error.strerror}): two runs could take one GPU. "
                        f"{path.parent} must be a folder that all users can write to, on a local "
                        f"file system with flock. {TO_CPU}") from error  # fmt: skip
    if lock is not None:
        os.close(lock)
    return None


def _check(gpu: Gpu | None) -> None:
    """Compute something on `gpu`; with None, make sure that PyTorch sees no GPU either."""
    import torch

    if gpu is None:
        if not torch.cuda.is_available():
            return
        raise UserError("PyTorch sees a GPU that nvidia-smi, which a run needs to claim it, does "
                        "not. Install it (NVIDIA_DRIVER_CAPABILITIES=compute,utility in a container"
                        f"); GPUs of other makers are not supported. {TO_CPU}")  # fmt: skip
    try:
        torch.ones(1, device="cuda").add(1).item()
    except (RuntimeError, AssertionError) as error:  # the latter: built without CUDA
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        todo = f"PyTorch {torch.__version__} is built {built}: install the build that fits both."
        if is_out_of_memory(error):
            todo = "Other programs hold its memory (nvidia-smi): end them, or name another GPU."
        why = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"the driver ({gpu.driver}) lists {gpu.name}, and CUDA cannot use it: {why}"
                        f". {todo} {TO_CPU}") from error  # fmt: skip


def choose_precision(wanted: str) -> tuple[str, Precision, str]:
    """Device, precision and the reason in words. `auto` takes what the hardware computes natively.

    A processor without native bf16 converts to fp32 and back around every operation; a GPU before
    compute capability 7.0 (Pascal) has no tensor cores, and computes in fp32.
    """
    import torch

    if torch.cuda.is_available():
        capability = torch.cuda.get_device_capability()
        native = "bf16" if capability >= (8, 0) else "fp16" if capability >= (7, 0) else "fp32"
        why = (f"{torch.cuda.get_device_name()} has compute capability "
               f"{capability[0]}.{capability[1]} (bf16 from 8.0, fp16 from 7.0)")  # fmt: skip
        device = "cuda"
    else:
        can = torch.cpu.get_capabilities()
        has_bf16 = any(can.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
        native, device = "bf16" if has_bf16 else "fp32", "cpu"
        owns = "native bf16" if has_bf16 else "no native bf16"
        why = f"there is no CUDA GPU, and this processor has {owns} (AVX512-BF16, AMX or Arm BF16)"
    if wanted == "fp16" and device == "cpu":
        raise UserError("params.yaml: finetune.precision fp16 needs a CUDA GPU, and there is none. "
                        "Use auto, fp32 or bf16.")  # fmt: skip
    chosen: Any = native if wanted == "auto" else wanted
    return device, chosen, why if wanted == "auto" else "params.yaml asks for it"


@contextlib.contextmanager
def deterministic() -> Iterator[list[str]]:
    """Switch PyTorch to deterministic algorithms for the block, and TF32 off.

    Yields a list that fills with PyTorch's own words on each operation that has no deterministic
    form on this device: the run then goes on, and says so at its end. Other warnings pass.
    """
    os.environ |= OURS  # the cuBLAS one is read at the first matrix product
    import torch

    broken: list[str] = []
    show = warnings.showwarning

    def watch(message: Warning | str, *rest: Any, **more: Any) -> None:
        text = str(message)
        if "deterministic" not in text:
            show(message, *rest, **more)
        elif (first := text.split(". ")[0].split("\n")[0]) not in broken:
            broken.append(first)

    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.backends.cudnn.allow_tf32 = False  # of convolutions; elsewhere that is PyTorch's default
    warnings.showwarning = watch
    try:
        yield broken
    finally:
        warnings.showwarning = show
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether `error`, or what caused it, says that memory ran out: the CPU's, a GPU's, cuBLAS'."""
    while error is not None:
        memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        if memory or OUT_OF_MEMORY.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False
