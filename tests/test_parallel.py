"""Runs side by side: `make parallel`, and a launcher in front of the stages."""

import os
import shutil

import pytest

from conftest import Done, Repository, load_yaml

# Each trainer waits, at its first checkpoint, until the other has come as far: only trainers side
# by side get past it. The run of seed 4 fails there the first time.
RENDEZVOUS = """
import os, pathlib, sys, time
import reproduce.training.checkpoints as c
_mark = c.mark_complete
def mark(folder):
    _mark(folder)
    place, seed = pathlib.Path(os.environ["MEETING"]), folder.parent.name.split("-")[1]
    (place / seed).touch()
    deadline = time.monotonic() + 300
    while len(os.listdir(place)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    if seed == os.environ.get("FAILING"):
        sys.exit(1)
c.mark_complete = mark
"""


def make(repository: Repository, *arguments: str, ok: bool = True, **env: str) -> Done:
    """`make` with the environment that runs the tests in the place of .venv."""
    return repository.run("make", "-o", "environment", *arguments, ok=ok, **env)


@pytest.fixture
def meeting(copy: Repository) -> dict[str, str]:
    """The environment in which trainers wait for each other."""
    folder = copy.path.parent
    for name in ("site", "meeting"):
        (folder / name).mkdir()
    (folder / "site/sitecustomize.py").write_text(RENDEZVOUS)
    copy.edit("params.yaml", lambda p: p["machine"].update(checkpoint_every=0))
    return {"PYTHONPATH": f"{folder}/site{os.pathsep}{copy.path}", "MEETING": f"{folder}/meeting",
            "OMP_NUM_THREADS": "", "LAUNCHER": ""}  # fmt: skip


@pytest.mark.slow
def test_make_parallel_trains_side_by_side_with_the_cores_divided_also_past_a_failure(
    copy: Repository, meeting: dict[str, str]
) -> None:
    before = (copy.path / "models/finetuned/tiny-1/model.safetensors").read_bytes()
    copy.edit("params.yaml", lambda p: p.update(seeds=[4, 2, 3]))
    failed = make(copy, "parallel", "JOBS=2", ok=False, **meeting, FAILING="4")
    assert failed.returncode != 0 and "the same command goes on with them" in failed.stderr
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert {copy.json(f"environment/tiny-{seed}.json")["threads"] for seed in (2, 3)} == {share}
    # Beside another or alone: a run is the same run.
    copy.edit("params.yaml", lambda p: p.update(seeds=[1, 4]))
    copy.edit("dvc.lock", lambda lock: lock["stages"].pop("finetune@tiny-1"))
    shutil.rmtree(copy.path / ".dvc/cache/runs")
    done = make(copy, "parallel", "JOBS=2", ok=True, **meeting | {"OMP_NUM_THREADS": "1"})
    assert "Running stage 'finetune@tiny-1'" in done.stdout
    assert (copy.path / "models/finetuned/tiny-1/model.safetensors").read_bytes() == before
    assert done.stdout.count("going on from checkpoint-") == 1, done.stdout
    assert (
        copy.run("dvc", "status", "dvc.yaml").stdout.strip() == "Data and pipelines are up to date."
    )


@pytest.mark.parametrize("jobs", ["0", "two"])
def test_a_number_of_jobs_that_is_none_is_refused_before_anything_runs(
    repository: Repository, jobs: str
) -> None:
    done = make(repository, "-o", "check", "parallel", f"JOBS={jobs}", ok=False)
    assert done.returncode != 0 and f"error: JOBS={jobs} is not a number of runs" in done.stderr
    assert not (repository.path / "dvc.lock").exists()


def test_a_launcher_runs_the_stages_and_leaves_no_trace_in_the_lock(copy: Repository) -> None:
    launcher = copy.path.parent / "launch"
    launcher.write_text('#!/bin/sh\necho "$@" >> "$0.log"\nexec "$@"\n')
    launcher.chmod(0o755)
    copy.edit("params.yaml", lambda p: p["evaluate"].update(batch_size=3))
    before = load_yaml(copy.path / "dvc.lock")["stages"]["evaluate@tiny-1"]["cmd"]
    copy.run("dvc", "repro", "evaluate", LAUNCHER=str(launcher))
    called = launcher.with_name("launch.log").read_text()
    assert called == "python -m stages.evaluate --model tiny --seed 1\n"
    assert load_yaml(copy.path / "dvc.lock")["stages"]["evaluate@tiny-1"]["cmd"] == before
    assert copy.repro("evaluate") == []  # without a launcher it is the same run
