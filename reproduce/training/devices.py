"""What a training computes on: its GPUs, its precision, and whether the device keeps the promise of equal bits."""

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from reproduce.files import UserError

Precision = Literal["fp32", "bf16", "fp16"]
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
POLL = 1.0  # seconds between two looks for a free GPU


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; [] where there is none."""
    import torch

    count = torch.cuda.device_count()  # does not start CUDA, so that the choice below still counts
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] or [str(i) for i in range(count)]


@contextlib.contextmanager
def claim_gpus(gpus: Sequence[str], count: int, locks: Path) -> Iterator[list[str]]:
    """Hold `count` of `gpus` for this process; wait while others hold them. With no GPUs, hold nothing.

    A GPU is taken by one run at a time, so that runs started side by side (`make parallel`) spread over the GPUs. The
    kernel frees the locks (files in the folder `locks`) when the process ends, however it ends.

    Raises:
        UserError: more are asked for than there are.
    """
    if not gpus:
        yield []
        return
    if count > len(gpus):
        raise UserError(
            f"params.yaml: finetune.processes {count} needs as many GPUs, and there are {len(gpus)}. Use fewer processes."
        )
    locks.mkdir(parents=True, exist_ok=True)
    waiting = False
    with contextlib.ExitStack() as held:
        while True:
            with (
                contextlib.ExitStack() as attempt
            ):  # all or nothing: two runs that each hold half would wait for ever
                taken = []
                for gpu in gpus:
                    file = attempt.enter_context((locks / f"gpu-{gpu}.lock").open("a"))
                    with contextlib.suppress(BlockingIOError):
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        taken.append(gpu)
                    if len(taken) == count:
                        held.push(attempt.pop_all())
                        break
            if len(taken) == count:
                break
            if not waiting:
                print(
                    f"waiting for {count} free GPU(s) of {', '.join(gpus)}: other runs hold the rest",
                    flush=True,
                )
            waiting = True
            time.sleep(POLL)
        os.register_at_fork(
            after_in_child=held.close
        )  # or the loader workers of a killed trainer would hold them on
        yield taken


def end_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends, however it ends (Linux; elsewhere nothing happens).

    For a process that shares a training: the launcher holds the locks of its GPUs, and without it they would be free while
    this one computes on them.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def choose_precision(wanted: str) -> tuple[str, Precision, str]:
    """Device, precision and the reason in words. `auto` takes bf16 or fp16 where the hardware computes in it.

    A processor without native bf16 converts to fp32 and back around every operation, so `auto` asks for native support.
    """
    import torch

    if torch.cuda.is_available():
        capability = torch.cuda.get_device_capability()
        native: Precision = "bf16" if capability >= (8, 0) else "fp16"
        why = f"{torch.cuda.get_device_name()} has compute capability {capability[0]}.{capability[1]} (bf16 from 8.0)"
        device = "cuda"
    else:
        can = torch.cpu.get_capabilities()
        has_bf16 = any(can.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
        native, device = "bf16" if has_bf16 else "fp32", "cpu"
        owns = "native bf16" if has_bf16 else "no native bf16"
        why = f"there is no CUDA GPU, and this processor has {owns} (AVX512-BF16, AMX or Arm BF16)"
    if wanted == "auto":
        return device, native, why
    if wanted == "fp16" and device == "cpu":
        raise UserError(
            "params.yaml: finetune.precision fp16 needs a CUDA GPU, and there is none. Use auto, fp32 or bf16."
        )
    return device, wanted, "params.yaml asks for it"  # type: ignore[return-value]


@contextlib.contextmanager
def deterministic() -> Iterator[list[str]]:
    """Switch PyTorch to deterministic algorithms for the block.

    Yields a list that fills with PyTorch's own words on each operation that has no deterministic implementation on this device:
    the run then goes on, and says so at its end. Other warnings pass.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = (
        ":4096:8"  # deterministic matrix products; read when CUDA starts
    )
    import torch

    broken: list[str] = []
    show = warnings.showwarning

    def watch(message: Warning | str, *rest: Any, **more: Any) -> None:
        text = str(message)
        if "deterministic" not in text:
            show(message, *rest, **more)
        elif (first := text.split(". ")[0].split("\n")[0]) not in broken:
            broken.append(first)

    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    warnings.showwarning = watch
    try:
        yield broken
    finally:
        warnings.showwarning = show
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
