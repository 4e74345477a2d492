"""Crash and resume: whatever ends a training, the next run ends with an undisturbed one's bytes.

Real processes are killed at exact points: a victim stands still (HALT below) until the test kills
it or lets it go; nothing of the project is replaced. What needs no dying process is in this one.
"""

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest

from conftest import Here, Repository
from reproduce.training import checkpoints, loop
from test_load import edit_weights, rename

PATIENCE = 900.0  # seconds; only a failing test waits so long
RUN = ("--model", "tiny", "--seed", "1")
FINETUNE = (sys.executable, "-m", "stages.finetune", *RUN)
REPRO = ("dvc", "--wait-for-lock", "repro", "finetune@tiny-1")
MODEL = "models/finetuned/tiny-1"
WEIGHTS = "models/weights/tiny"

# Imported first by every Python that a victim starts. HALT_AT is a pattern over Python's audit
# events ("Audit events table" of its library reference), e.g. "os.rename */finished.partial *": the
# first process that comes to it, before the system call, writes its pid and waits for HALT_HERE.go.
HALT = """
import fnmatch, os, sys, time
at, here = os.environ["HALT_AT"], os.environ["HALT_HERE"]
def halt(event, arguments):
    if not fnmatch.fnmatch(" ".join([event, *map(str, arguments)]), at) or os.path.exists(here):
        return
    with open(here + ".tmp", "w") as file:
        file.write(str(os.getpid()))
    os.rename(here + ".tmp", here)
    deadline = time.monotonic() + 1800  # a test that died lets its victims end
    while not os.path.exists(here + ".go") and time.monotonic() < deadline:
        time.sleep(0.02)
sys.addaudithook(halt)
"""


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


def ended(pid: int) -> bool:
    """Whether the process is no more, or only its exit status is left."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@dataclass
class Victim:
    """A command that a test started, and the one process of it that stands still."""

    process: "subprocess.Popen[bytes]"
    output: Path
    pid: int = 0

    def text(self) -> str:
        return self.output.read_text(errors="replace").replace("\r", "\n")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        until(lambda: ended(self.pid), f"end of process {self.pid}")

    def let_go(self) -> None:
        self.output.with_name("here.go").touch()


def begin(repository: Repository, output: Path, *command: str, **env: str) -> Victim:
    """Start `command`; what it says is in the file `output`."""
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=repository.path, env=repository.env | {"LAUNCHER": ""} | env,
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    return Victim(process, output)


@contextlib.contextmanager
def halted(repository: Repository, at: str, *command: str) -> Iterator[Victim]:
    """Start `command`; wait until one of its processes stands still `at` the point."""
    scratch = repository.path.parent / f"halt-{time.monotonic_ns()}"
    scratch.mkdir()
    (scratch / "sitecustomize.py").write_text(HALT)
    here = scratch / "here"
    env = {"PYTHONPATH": str(scratch), "HALT_AT": at, "HALT_HERE": str(here)}
    victim = begin(repository, scratch / "output", *command, **env)
    process = victim.process
    try:
        until(lambda: here.exists() or process.poll() is not None, f"{at} in {command}")
        assert here.exists(), f"it ended before it came to {at}\n{victim.text()}"
        victim.pid = int(here.read_text())
        yield victim
    finally:
        victim.let_go()
        for pid in {process.pid, victim.pid} - {0}:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        process.wait()


def outputs(repository: Repository) -> dict[str, bytes]:
    """The bytes of the model and its curve (without the card, which is another stage's)."""
    files = (repository.path / MODEL).glob("*[!d]")
    return {path.name: path.read_bytes() for path in files if path.is_file()}


def clear(repository: Repository) -> None:
    """Take outputs and checkpoints away, and have a checkpoint after every step."""
    for place in ("checkpoints", MODEL):
        shutil.rmtree(repository.path / place, ignore_errors=True)
    repository.edit("params.yaml", lambda p: p["machine"].update(checkpoint_every=0))


def run_folder(repository: Repository) -> Path:
    [folder] = [path for path in (repository.path / "checkpoints").iterdir() if path.is_dir()]
    return folder


def recovery(said: str) -> str:
    """What a run did, from its own words."""
    damaged = said.count("is half-written or damaged; passed over for the one before")
    if "an earlier process finished this run" in said:
        return "taken over"
    found = re.search(r"going on from checkpoint-(\d+)", said)
    return f"{damaged} damaged, from step {found[1] if found else 0}"


def flip_a_bit(file: Path) -> None:
    """Of the byte in the middle; in place, as a failing disk does."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


# --- killed ---


@pytest.mark.slow
def test_a_trainer_that_is_killed_at_every_point_ends_with_the_same_bytes(copy: Repository) -> None:
    expected = outputs(copy)
    clear(copy)
    next_run_after = {
        "os.mkdir */checkpoint-1 *": "0 damaged, from step 0",  # before its first checkpoint
        "os.rename */checkpoint-5/complete.json.partial *": "1 damaged, from step 4",  # within one
        "os.mkdir */checkpoint-11 *": "0 damaged, from step 10",  # between two
        "os.rename */finished.partial *": "0 damaged, from step 24",  # after its last step
        f"os.rename {MODEL}/model.safetensors.partial *": "taken over",  # between two outputs
    }
    recoveries = []
    for at in next_run_after:
        with halted(copy, at, *FINETUNE) as victim:
            recoveries.append(recovery(victim.text()))
            victim.kill()
        assert "model.safetensors" not in outputs(copy)
    recoveries.append(recovery(copy.run(*FINETUNE).stdout))
    assert recoveries == ["0 damaged, from step 0", *next_run_after.values()]
    assert outputs(copy) == expected
    assert not list(copy.path.rglob("*.partial"))


@pytest.mark.slow
def test_ctrl_c_under_dvc_and_then_an_orphan(copy: Repository) -> None:
    """Interrupted as a terminal does it; gone on; then dvc is killed, and its trainer lives on."""
    expected = outputs(copy)
    clear(copy)
    copy.edit("dvc.lock", lambda lock: lock["stages"].pop("finetune@tiny-1"))
    shutil.rmtree(copy.path / ".dvc/cache/runs")
    with halted(copy, "os.mkdir */checkpoint-12 *", *REPRO) as victim:
        os.killpg(victim.process.pid, signal.SIGINT)  # dvc, its shell and the trainer
        until(lambda: ended(victim.pid), "end of the trainer")
        assert victim.process.wait(PATIENCE) != 0
        said = victim.text()
    assert said.count("interrupted; run the same command again") == 1, said
    assert "Traceback" not in said and not outputs(copy), said

    with halted(copy, "os.mkdir */checkpoint-16 *", *REPRO) as victim:
        gone_on, trainer = recovery(victim.text()), victim.pid
        os.kill(victim.process.pid, signal.SIGKILL)
        victim.process.wait(PATIENCE)
        second = begin(copy, copy.path.parent / "second", *REPRO)
        waits = f"is in use by process {trainer}, which trains the same run"
        until(lambda: waits in second.text(), "the second to wait")
        cleaned = copy.run(sys.executable, "-m", "tools.clean_checkpoints", "--yes").stdout
        assert "left alone, it is being trained" in cleaned and not ended(trainer)
        victim.let_go()
        until(lambda: ended(trainer), "end of the orphan")
    assert second.process.wait(PATIENCE) == 0, second.text()
    assert (gone_on, recovery(second.text())) == ("0 damaged, from step 11", "taken over")
    assert outputs(copy) == expected


# --- interrupted, in this process ---


def interrupt(here: Here) -> None:
    """Begin a training and interrupt it (Ctrl-C) with checkpoints of steps 15 and 16."""

    def save(folder: Path, step: int, state: dict[str, Any]) -> None:
        checkpoints.save_checkpoint(folder, step, state)
        if step == 16:
            raise KeyboardInterrupt

    clear(here)
    with mock.patch.object(loop, "save_checkpoint", save):
        done = here.stage("finetune", *RUN, ok=False)
    assert done.returncode == 130 and done.stderr.count("interrupted; ") == 1, done.stderr
    assert checkpoints.steps(run_folder(here)) == [15, 16] and not outputs(here)


@pytest.mark.parametrize(("damaged", "goes_on_from"), [(1, 15), (2, 0)])
def test_damaged_checkpoints_are_passed_over(
    here: Here, finished: Repository, damaged: int, goes_on_from: int
) -> None:
    """One bit of the newest; or the newest is cut, and the one before has no marker."""
    interrupt(here)
    newest, before = (run_folder(here) / f"checkpoint-{step}" for step in (16, 15))
    if damaged == 1:
        flip_a_bit(newest / "state.pt")
    else:
        os.truncate(newest / "state.pt", 5000)
        (before / "complete.json").unlink()
    said = here.stage("finetune", *RUN).stdout
    assert recovery(said) == f"{damaged} damaged, from step {goes_on_from}"
    assert outputs(here) == outputs(finished)
    assert [path.name for path in run_folder(here).iterdir()] == ["finished"]


def test_a_damaged_result_is_not_taken_over(here: Here, finished: Repository) -> None:
    interrupt(here)
    here.stage("finetune", *RUN)
    flip_a_bit(run_folder(here) / "finished/model/model.safetensors")
    said = here.stage("finetune", *RUN).stdout
    assert "is damaged: the run is trained again" in said
    assert recovery(said) == "0 damaged, from step 0"
    assert outputs(here) == outputs(finished)


def test_a_checkpoint_of_another_run_is_never_resumed(here: Here) -> None:
    """Of other parameters; and then of other weights, too."""
    interrupt(here)
    folder = run_folder(here)
    here.edit("params.yaml", lambda p: p["finetune"].update(learning_rate=5e-3))
    said = [here.stage("finetune", *RUN).stdout]
    edit_weights(here.path / WEIGHTS, lambda old: {name: x / 2 for name, x in old.items()})
    said.append(here.stage("finetune", *RUN).stdout)
    assert [recovery(text) for text in said] == ["0 damaged, from step 0"] * 2
    assert checkpoints.steps(folder) == [15, 16], "they stay for the run that they belong to"


def test_a_bert_whose_norms_are_called_gamma_and_beta(here: Here, finished: Repository) -> None:
    """As in google-bert/bert-base-uncased; resumed, and the same bytes as under their new names."""
    for new, old in (("weight", "gamma"), ("bias", "beta")):
        edit_weights(here.path / WEIGHTS, rename(rf"LayerNorm\.{new}", f"LayerNorm.{old}"))
    interrupt(here)
    assert recovery(here.stage("finetune", *RUN).stdout) == "0 damaged, from step 16"
    assert outputs(here) == outputs(finished)


def test_a_full_disk_is_one_message_and_loses_nothing(here: Here, finished: Repository) -> None:
    """No file may be larger than 400 kB: a full disk, to the writer of a checkpoint (580 kB)."""
    clear(here)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    try:
        message = here.refused("finetune", *RUN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert message.startswith("the disk is full (") and not outputs(here)
    assert recovery(here.stage("finetune", *RUN).stdout) == "1 damaged, from step 0"
    assert outputs(here) == outputs(finished)
