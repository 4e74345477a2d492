"""Runs side by side: `make parallel`, one run a GPU, a launcher in front of the stages."""

import os
import subprocess
import sys
from pathlib import Path

from faults import record_fault

from conftest import ROOT, Repository, load_yaml

# Each trainer waits, at its first checkpoint, until the other has come as far: only trainers side by side get past it.
RENDEZVOUS = """
import os, pathlib, time
import reproduce.training.checkpoints as c
_mark = c.mark_complete
def mark(folder):
    _mark(folder)
    pathlib.Path(os.environ["MEETING"], folder.parent.name.split("-")[1]).touch()
    deadline = time.monotonic() + 200
    while len(os.listdir(os.environ["MEETING"])) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
c.mark_complete = mark
"""
HOLD = """
import sys, time
from pathlib import Path
from reproduce.training.devices import claim_gpus
with claim_gpus(sys.argv[2].split(","), int(sys.argv[3]), Path(sys.argv[1])) as gpus:
    print(*gpus, flush=True)
    time.sleep(600)
"""


def make(repository: Repository, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """`make` with the environment that runs the tests in the place of .venv."""
    venv = Path(sys.prefix)
    return repository.run(
        "make", "-o", f"{venv}/.installed", f"VENV={venv}", *arguments, ok=True, **env
    )


def test_make_parallel_trains_side_by_side_with_the_cores_divided(copy: Repository) -> None:
    before = (copy.path / "models/finetuned/tiny-1/model.safetensors").read_bytes()
    site, meeting = copy.path.parent / "site", copy.path.parent / "meeting"
    site.mkdir()
    meeting.mkdir()
    (site / "sitecustomize.py").write_text(RENDEZVOUS)
    copy.edit("params.yaml", lambda p: p.update(seeds=[2, 3]))
    env = {
        "PYTHONPATH": f"{site}{os.pathsep}{copy.path}",
        "MEETING": str(meeting),
        "OMP_NUM_THREADS": "",
    }
    done = make(copy, "parallel", "JOBS=2", **env)
    assert sorted(path.name for path in meeting.iterdir()) == ["2", "3"], done.stdout
    share = max(1, (os.cpu_count() or 1) // 2)
    assert {copy.json(f"environment/tiny-{seed}.json")["threads"] for seed in (2, 3)} == {share}
    assert copy.json("metrics/accuracy.json")["models"]["tiny"]["seeds_run"] == 2
    assert copy.run("dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    # Beside another or alone: a run is the same run.
    copy.edit("params.yaml", lambda p: p.update(seeds=[1]))
    assert copy.repro() == ["compare", "report"]
    assert (copy.path / "models/finetuned/tiny-1/model.safetensors").read_bytes() == before


def hold(locks: Path, gpus: str, count: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-u", "-c", HOLD, str(locks), gpus, str(count)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_gpu_is_taken_by_one_run_at_a_time_and_freed_by_its_death(tmp_path: Path) -> None:
    """The locks are real, the GPUs are names: nothing here starts CUDA."""
    first, second = hold(tmp_path, "0,1", 1), None
    processes = [first]
    try:
        assert line(first) == "0"
        processes.append(second := hold(tmp_path, "0,1", 1))
        assert line(second) == "1"
        processes.append(third := hold(tmp_path, "0,1", 1))
        assert line(third) == "waiting for 1 free GPU(s) of 0,1: other runs hold the rest".replace(
            "0,1", "0, 1"
        )
        assert third.poll() is None
        second.kill()
        second.wait()
        assert line(third) == "1"
        record_fault(
            "finetune",
            "kill -9 of a run that holds a GPU",
            1,
            "the GPU is free at once, the run that waited takes it",
        )
        processes.append(both := hold(tmp_path, "0,1", 2))
        assert line(both).startswith("waiting for 2 free GPU(s)")
        first.kill()
        third.kill()
        assert line(both) == "0 1"
        processes.append(many := hold(tmp_path, "0,1", 3))
        assert many.wait(60) == 1
        assert (
            many.stderr
            and "finetune.processes 3 needs as many GPUs, and there are 2" in many.stderr.read()
        )
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_launcher_runs_the_stages_and_leaves_no_trace_in_the_lock(copy: Repository) -> None:
    launcher = copy.path.parent / "launch"
    launcher.write_text('#!/bin/sh\necho "$@" >> "$0.log"\nexec "$@"\n')
    launcher.chmod(0o755)
    copy.edit("params.yaml", lambda p: p["evaluate"].update(batch_size=3))
    before = load_yaml(copy.path / "dvc.lock")["stages"]["evaluate@tiny-1"]["cmd"]
    done = copy.run("dvc", "repro", LAUNCHER=str(launcher))
    assert "Running stage 'evaluate@tiny-1'" in done.stdout
    assert (
        launcher.with_name("launch.log").read_text()
        == "python -m stages.evaluate --model tiny --seed 1\n"
    )
    assert load_yaml(copy.path / "dvc.lock")["stages"]["evaluate@tiny-1"]["cmd"] == before
    assert copy.repro() == []  # without a launcher it is the same run
    failing = copy.run("dvc", "repro", "-f", "-s", "evaluate@tiny-1", ok=False, LAUNCHER="false")
    assert failing.returncode != 0


def test_the_stages_that_compute_have_the_launcher_and_the_others_do_not() -> None:
    stages = load_yaml(ROOT / "dvc.yaml")["stages"]
    first = {
        name: stage["cmd"] if isinstance(stage["cmd"], str) else stage["cmd"][0]
        for name, stage in stages.items()
    }
    with_launcher = {name for name, command in first.items() if command.startswith("${launcher} ")}
    assert with_launcher == {"tokenize", "finetune", "evaluate", "export", "benchmark"}
