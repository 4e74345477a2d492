"""GPUs, precision, environment and memory. The locks are real, the GPUs are names of a script."""

import errno
import fcntl
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from conftest import ROOT
from reproduce import command, machine
from reproduce.files import UserError
from reproduce.training import devices

T4 = ("GPU-1111-aaaa", "GPU-2222-bbbb")
HOLD = """
import os, sys, time
from pathlib import Path
from reproduce.training import devices
devices._check = lambda gpu: None
with devices.claim_gpu(Path(sys.argv[1])) as gpu:
    print(gpu.uuid, os.environ["CUDA_VISIBLE_DEVICES"] == gpu.uuid, flush=True)
    time.sleep(600)
"""


def fake_driver(folder: Path, *uuids: str, answer: str = "", code: int = 0) -> Path:
    """A folder for PATH with an nvidia-smi that lists these GPUs, or says `answer`."""
    folder.mkdir(exist_ok=True)
    lines = [f"{i}, {uuid}, Tesla T4, 580.65" for i, uuid in enumerate(uuids)]
    says = "\n".join([*lines, answer]).strip()
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    (folder / "nvidia-smi").chmod(0o755)
    return folder


Patch = pytest.MonkeyPatch
Driver = Callable[..., None]


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    """Start a process that claims one of two GPUs and keeps it; its first line says which."""
    started: list[subprocess.Popen[str]] = []
    path = fake_driver(tmp_path / "driver", *T4)
    env = {name: value for name, value in os.environ.items() if "VISIBLE" not in name}
    env |= {"PATH": f"{path}:{os.environ['PATH']}"}
    command = [sys.executable, "-u", "-c", HOLD, str(tmp_path / "locks")]

    def start() -> "subprocess.Popen[str]":
        started.append(
            subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: Patch) -> Iterator[Driver]:
    """Set what nvidia-smi answers in this process, and CUDA_VISIBLE_DEVICES."""

    def answer(*uuids: str, visible: str | None = None, **said: Any) -> None:
        folder = fake_driver(tmp_path / "driver", *uuids, **said)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        machine.list_gpus.cache_clear()

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # to be put back: a claim changes it
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    yield answer
    machine.list_gpus.cache_clear()


def test_the_third_run_waits_says_so_and_takes_the_gpu_of_one_that_is_killed(
    hold: Callable[[], "subprocess.Popen[str]"],
) -> None:
    """Each run takes a GPU of its own and shows CUDA no other."""

    def line(process: "subprocess.Popen[str]") -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    assert line(hold()) == f"{T4[0]} True"
    second = hold()
    assert line(second) == f"{T4[1]} True"
    third = hold()
    assert line(third) == "waiting for a free GPU: other runs hold 0 (Tesla T4), 1 (Tesla T4)"
    second.kill()
    assert line(third) == f"{T4[1]} True"


@pytest.mark.parametrize("name", ["0", T4[0], "GPU-1111"])
def test_a_gpu_is_the_same_by_index_uuid_and_its_beginning(driver: Driver, name: str) -> None:
    driver(*T4, visible=name)
    assert [gpu.uuid for gpu in machine.visible_gpus()] == [T4[0]]


def test_the_locks_are_for_all_users_and_a_claim_inside_a_claim_is_the_same(
    driver: Driver, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Another user's file need not be written to; the folder lets everybody add one."""
    driver(*T4, visible="1,0")
    monkeypatch.setattr(devices, "_check", lambda gpu: None)
    locks, before = tmp_path / "locks", os.umask(0o077)
    with devices.claim_gpu(locks) as outer, devices.claim_gpu(locks) as inner:
        os.umask(before)
        assert outer is inner and outer is not None and outer.uuid == T4[1]
    assert locks.stat().st_mode & 0o7777 == 0o1777
    # By uuid: hosts that share the folder all count from 0.
    assert (locks / f"{T4[1]}.lock").stat().st_mode & 0o444 == 0o444


def test_a_file_system_without_flock_is_one_message(
    driver: Driver, tmp_path: Path, monkeypatch: Patch
) -> None:
    driver(*T4)
    error = OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(fcntl, "flock", mock.Mock(side_effect=error))
    with pytest.raises(UserError, match=r"cannot be locked \(No locks available\)"):
        devices.claim_gpu(tmp_path).__enter__()


NAMES = [("7", 0), ("MIG-1234", 0), ("GPU-", 2), ("0,MIG-GPU-1111/1/0", 0), ("0,0x1", 0)]


@pytest.mark.parametrize(("named", "count"), NAMES)
def test_what_names_no_whole_gpu_is_one_message(driver: Driver, named: str, count: int) -> None:
    driver(*T4, visible=named)
    with pytest.raises(UserError, match=f"{named.split(',')[-1]} names {count} GPUs"):
        machine.visible_gpus()


FAILED = "Failed to initialize NVML: Driver/library version mismatch"
UNKNOWN = "Unable to determine the device handle for GPU 0000:41:00.0: Unknown Error"


@pytest.mark.parametrize(("said", "code"), [(FAILED, 18), (UNKNOWN, 0)])
def test_a_driver_that_fails_is_an_error_in_its_own_words(
    driver: Driver, said: str, code: int
) -> None:
    driver(answer=said, code=code)
    with pytest.raises(UserError, match=said):
        machine.visible_gpus()


@pytest.mark.parametrize("hidden", ["", "-1", " "])
def test_hidden_gpus_are_none_whatever_the_driver_says(driver: Driver, hidden: str) -> None:
    driver(answer=FAILED, code=18, visible=hidden)
    assert machine.visible_gpus() == []


@pytest.mark.parametrize(("said", "code"), [("No devices were found", 6), ("no driver", 9)])
def test_no_gpu_is_said_and_an_error_only_where_pytorch_sees_one(
    driver: Driver, tmp_path: Path, capsys: pytest.CaptureFixture[str], said: str, code: int
) -> None:
    driver(answer=said, code=code)
    assert machine.visible_gpus() == [] and said in capsys.readouterr().out
    with (
        mock.patch.object(torch.cuda, "is_available", return_value=True),
        pytest.raises(UserError, match="PyTorch sees a GPU that nvidia-smi"),
    ):
        devices.claim_gpu(tmp_path).__enter__()


@pytest.mark.parametrize(
    ("reason", "todo"),
    [("no kernel image is available for execution", "install the build"),
     ("CUDA error: out of memory", "Other programs hold its memory")],
)  # fmt: skip
def test_a_gpu_that_the_driver_lists_and_cuda_cannot_use_is_an_error(
    driver: Driver, tmp_path: Path, monkeypatch: Patch, reason: str, todo: str
) -> None:
    driver(T4[0])
    monkeypatch.setattr(torch, "ones", mock.Mock(side_effect=RuntimeError(reason)))
    with pytest.raises(UserError, match=f"Tesla T4, and CUDA cannot use it: {reason}.*{todo}"):
        devices.claim_gpu(tmp_path).__enter__()


CHANGING = """ACCELERATE_MIXED_PRECISION RANK LOCAL_RANK NVIDIA_TF32_OVERRIDE MKL_CBWR
TORCH_ALLOW_TF32_CUBLAS_OVERRIDE PYTORCH_TUNABLEOP_ENABLED CUBLAS_WORKSPACE_CONFIG DVCLIVE_RESUME
CUBLASLT_WORKSPACE_SIZE ONEDNN_DEFAULT_FPMATH_MODE DNNL_MAX_CPU_ISA ATEN_CPU_CAPABILITY
TORCH_BLAS_PREFER_CUBLASLT TORCH_MKLDNN_MATMUL_MIN_DIM CUDA_FORCE_PTX_JIT DISABLE_ADDMM_CUDA_LT
FSDP_CPU_RAM_EFFICIENT_LOADING TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD XFORMERS_FORCE_DISABLE_TRITON"""
HARMLESS = """OMP_NUM_THREADS MKL_NUM_THREADS CUDA_VISIBLE_DEVICES TORCH_LOGS DVC_ROOT CUDNN_VERSION
PYTORCH_CUDA_ALLOC_CONF TORCH_CUDA_ARCH_LIST"""


def test_variables_that_change_results_go_and_are_named_and_the_others_stay(
    monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [*CHANGING.split(), *HARMLESS.split(), "WORLD_SIZE"]:
        monkeypatch.setenv(name, "1")
    command.clean_environment()
    said = capsys.readouterr().err
    assert not [name for name in CHANGING.split() if name in os.environ or f"{name}=1" not in said]
    assert set(HARMLESS.split()) <= os.environ.keys()


@pytest.mark.parametrize("name", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_a_command_that_a_launcher_starts_several_times_is_refused(
    monkeypatch: Patch, name: str
) -> None:
    monkeypatch.setenv(name, "2")
    with pytest.raises(UserError, match=f"{name} is 2"):
        command.clean_environment()


PRECISIONS: list[tuple[Any, str]] = [
    ((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16"), ((7, 0), "fp16"), ((6, 1), "fp32"),
    ("avx512_bf16", "bf16"), ("amx_bf16", "bf16"), ("avx512_f", "fp32"),
]  # fmt: skip


@pytest.mark.parametrize(("has", "expected"), PRECISIONS)
def test_auto_precision_follows_the_hardware(monkeypatch: Patch, has: Any, expected: str) -> None:
    """By a GPU's compute capability (H100, A100, T4, V100, Pascal), or what a processor can do."""
    device = "cuda" if isinstance(has, tuple) else "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: has)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "some GPU")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {has: True})
    *chosen, reason = devices.choose_precision("auto")
    assert chosen == [device, expected]
    assert ("some GPU" if device == "cuda" else "native bf16") in reason


def test_fp16_on_a_processor_is_refused(monkeypatch: Patch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="fp16 needs a CUDA GPU"):
        devices.choose_precision("fp16")


FORMS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("Failed to allocate memory for requested buffer of size 1024"),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    MemoryError(),
]  # fmt: skip


def test_out_of_memory_is_known_in_each_of_its_forms_also_as_a_cause() -> None:
    for error in FORMS:
        other = RuntimeError("no model that can be read")
        other.__cause__ = error
        assert devices.is_out_of_memory(error) and devices.is_out_of_memory(other), error
    for text in ("CUDA error: an illegal memory access was encountered", "it is not allocated",
                 "CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"):  # fmt: skip
        assert not devices.is_out_of_memory(RuntimeError(text)), text


def test_a_deterministic_block_ends_as_it_began() -> None:
    """TF32 is off in it; what PyTorch says of an operation with no deterministic form is kept."""
    cudnn, enabled = torch.backends.cudnn, torch.are_deterministic_algorithms_enabled
    with pytest.warns(UserWarning, match="^another$"), devices.deterministic() as broken:
        assert enabled() and cudnn.deterministic and not (cudnn.benchmark or cudnn.allow_tf32)
        for text in ["sum is not deterministic. More", "another", "sum is not deterministic. Less"]:
            warnings.warn(text, stacklevel=1)
    assert broken == ["sum is not deterministic"] and not enabled()


@pytest.mark.gpu
def test_a_claimed_gpu_computes_and_is_the_only_one() -> None:
    code = """
from reproduce.training.devices import claim_gpu
with claim_gpu() as gpu:
    import torch
    print(gpu.name, torch.cuda.device_count(), torch.cuda.get_device_name())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    name, count, same = done.stdout.strip().partition(" 1 ")
    assert name == same and count == " 1 ", done.stdout + done.stderr
