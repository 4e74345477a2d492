"""A study spread over a real Slurm: one node of two CPUs, started and stopped by this test."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from conftest import Repository, load_yaml
from test_parallel import make

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "scancel", "sinfo", "squeue")
SBIN = f"/usr/sbin{os.pathsep}/sbin"
CONFIG = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
AuthInfo=socket={folder}/munge.sock
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/d.pid
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ReturnToService=2
KillWait=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# The first training of seed 2 says at its first checkpoint which job it is, and waits to be killed.
HALT = """
import os, pathlib, time
import reproduce.training.checkpoints as c
_save = c.save_checkpoint
def save(folder, *arguments):
    _save(folder, *arguments)
    mark = pathlib.Path(os.environ["JOB_FILE"])
    if folder.name.startswith("tiny-2-") and not mark.exists():
        mark.with_suffix(".new").write_text(os.environ["SLURM_JOB_ID"])
        mark.with_suffix(".new").rename(mark)
        time.sleep(600)
c.save_checkpoint = save
"""


def free_ports() -> tuple[int, int]:
    with socket.create_server(("", 0)) as one, socket.create_server(("", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def wait_for(what: Any, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (done := what()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return bool(done)


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """The environment in which srun finds the cluster."""
    missing = [name for name in PROGRAMS if not shutil.which(name, path=f"{os.defpath}:{SBIN}")]
    if missing or os.geteuid() != 0:
        lacks = f"{', '.join(missing)} (Debian: slurm-wlm, munge)" if missing else "root"
        pytest.skip(f"no Slurm can be started here: needs {lacks}")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: a socket's path has 108 characters
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().split(".")[0]
    config = CONFIG.format(folder=folder, host=host, ports=free_ports())
    (folder / "slurm.conf").write_text(config)
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o400)
    env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    env["PATH"] += f":{SBIN}"
    munge = {"key-file": "key", "socket": "munge.sock", "pid-file": "munge.pid"}
    munge |= {"log-file": "munge.log", "seed-file": "munge.seed"}
    commands = [
        ["munged", "--foreground", "--force", *(f"--{k}={folder}/{v}" for k, v in munge.items())],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", host],
    ]
    running = []

    def state() -> str:
        sinfo = ["sinfo", "-h", "-o", "%T"]
        return subprocess.run(sinfo, env=env, capture_output=True, text=True).stdout.strip()

    try:
        for command in commands:
            log = (folder / f"{command[0]}.out").open("w")
            running.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
            wait_for((folder / "munge.sock").exists, 20)
        if not wait_for(lambda: state() == "idle", 60):
            said = "; ".join(path.read_text()[-300:].strip() for path in folder.glob("*.out"))
            pytest.skip(f"no Slurm can be started here: its node is {state()!r}; {said}")
        yield {name: env[name] for name in ("SLURM_CONF", "PATH")}
        subprocess.run(["scancel", "-u", "root"], env=env)
        wait_for(lambda: state() == "idle", 20)
    finally:
        for process in reversed(running):
            process.terminate()
        for process in reversed(running):
            process.wait(30)
        for step in psutil.process_iter(["name"]):  # a step's keeper may outlive its slurmd
            with contextlib.suppress(psutil.Error):
                if step.info["name"] == "slurmstepd" and str(folder) in str(step.environ()):
                    step.kill()
        shutil.rmtree(folder)


def lock(repository: Repository) -> dict[str, Any]:
    """dvc.lock without the files that hold seconds, and what follows from those."""
    stages: dict[str, Any] = load_yaml(repository.path / "dvc.lock")["stages"]
    timed = ("environment/", "metrics/", "report/", "README.md")

    def same(path: str) -> bool:
        return not any(part in f"{path}/" for part in timed)

    for stage in stages.values():
        for kind in ("deps", "outs"):
            stage[kind] = [file for file in stage.get(kind, []) if same(file["path"])]
    return stages


@pytest.mark.slow
def test_a_study_goes_through_slurm_and_on_after_scancel(
    slurm: dict[str, str], repository: Repository, warm_server: str, tmp_path: Path
) -> None:
    repository.edit("params.yaml", lambda p: p.update(seeds=[1, 2, 3, 4]))
    repository.edit("params.yaml", lambda p: p["machine"].update(checkpoint_every=0))
    shutil.copytree(repository.path, tmp_path / "alone")
    job_file, site = tmp_path / "job", tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(HALT)
    env = {
        **slurm,
        "PATH": f"{repository.env['PATH']}:{slurm['PATH']}",
        "LAUNCHER": "srun -n1 -c1",
        "JOB_FILE": str(job_file),
        "PYTHONPATH": f"{site}:{repository.path}",
    }
    killer = subprocess.Popen(  # as a person would: with the number of the job
        ["sh", "-c", f"until [ -e {job_file} ]; do sleep 0.2; done; scancel $(cat {job_file})"],
        env={**os.environ, **slurm},
    )
    try:
        first = make(repository, "parallel", "JOBS=2", ok=False, **env)
    finally:
        killer.kill()
        killer.wait()
    trained = sorted(path.name for path in (repository.path / "models/finetuned").glob("tiny-*"))
    assert first.returncode != 0 and trained == ["tiny-1", "tiny-3", "tiny-4"], first.stdout
    assert "the same command goes on with them" in first.stderr
    second = make(repository, "parallel", "JOBS=2", ok=True, **env)
    assert second.stdout.count("going on from checkpoint-") == 1, second.stdout
    alone = Repository(tmp_path / "alone", repository.env)
    alone.run("dvc", "repro", LAUNCHER=warm_server)
    assert lock(repository) == lock(alone)
