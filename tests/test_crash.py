"""Crash and resume: real processes are killed at exact points, and the next run ends with the bytes of an undisturbed one.

A victim stands still at its point (HALT below) until the test kills it or lets it go; nothing of the project is replaced.
"""

import contextlib
import hashlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from faults import record_fault

from conftest import NO_NETWORK, Here, Repository
from reproduce.files import UserError
from reproduce.training.checkpoints import exclusive, is_complete, mark_complete

PATIENCE = 900.0  # seconds until a condition that is waited for counts as never coming true: only failing tests wait so long
FINETUNE = (sys.executable, "-m", "stages.finetune", "--model", "tiny", "--seed", "1")
REPRO = ("dvc", "--wait-for-lock", "repro")
MODEL, CURVE = Path("models/finetuned/tiny-1"), Path("plots/curves/tiny-1")
# All outputs that are a function of the inputs: not the times in environment/ and metrics/speed.json, nor the report on them.
CARD = "models/finetuned/tiny-1/README.md"
RESULTS = ("data/raw", "data/dataset.json", "data/entry.json", "data/tokenized", "models", "plots", "predictions", "metrics/runs",
           "metrics/accuracy.json", CARD)  # fmt: skip

# Imported first by every Python that a victim starts. HALT_AT is a pattern over Python's audit events (library reference,
# "Audit events table"), e.g. "os.rename */finished.partial *": the first process that comes to the event, which is raised before
# the system call is made, writes its pid to HALT_HERE and waits until HALT_HERE.go exists.
HALT = (
    NO_NETWORK
    + """
import fnmatch, time
at, here = os.environ["HALT_AT"], os.environ["HALT_HERE"]
def _halt(event, arguments):
    if not fnmatch.fnmatch(" ".join([event, *map(str, arguments)]), at) or os.path.exists(here):
        return
    with open(here + ".tmp", "w") as file:
        file.write(str(os.getpid()))
    os.rename(here + ".tmp", here)
    deadline = time.monotonic() + 1800  # a test that died lets its victims end
    while not os.path.exists(here + ".go"):
        if time.monotonic() > deadline:
            os._exit(96)
        time.sleep(0.02)
sys.addaudithook(_halt)
"""
)


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition; fail naming it if it does not come true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


def ended(pid: int) -> bool:
    """Whether the process is no more, or only its exit status is left, for a parent to fetch."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@dataclass
class Victim:
    """A command that a test started, and the one process of it that stands still."""

    process: "subprocess.Popen[bytes]"
    output: Path
    here: Path
    pid: int = 0

    def text(self) -> str:
        """What it has said so far, progress bars taken apart."""
        return self.output.read_text(errors="replace").replace("\r", "\n")

    def kill(self) -> None:
        """`kill -9` of the process that stands still; of a command that was started directly, this asserts the cause of death."""
        os.kill(self.pid, signal.SIGKILL)
        until(
            lambda: ended(self.pid) or self.process.poll() is not None, f"end of process {self.pid}"
        )
        if self.pid == self.process.pid:
            assert self.process.wait(PATIENCE) == -signal.SIGKILL

    def let_go(self) -> None:
        Path(f"{self.here}.go").touch()


@contextlib.contextmanager
def halted(repository: Repository, at: str, *command: str, **env: str) -> Iterator[Victim]:
    """Start `command` in a session of its own, wait until one of its processes stands still `at` the point, clean up after."""
    scratch = Path(
        tempfile.mkdtemp(prefix="halt-")
    )  # not beside the repository, whose disk may be full
    (scratch / "sitecustomize.py").write_text(HALT)
    here, output = scratch / "here", scratch / "output"
    environment = {
        **repository.env,
        "PYTHONPATH": str(scratch),
        "HALT_AT": at,
        "HALT_HERE": str(here),
        **env,
    }
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=repository.path, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run in the background
        )  # fmt: skip
    victim = Victim(process, output, here)
    try:
        until(lambda: here.exists() or process.poll() is not None, f"{at} in {command}")
        assert here.exists(), (
            f"it ended with {process.poll()} before it came to {at}\n{victim.text()}"
        )
        victim.pid = int(here.read_text())
        yield victim
        assert "NETWORK" not in victim.text()
    finally:
        victim.let_go()
        for pid in {process.pid, victim.pid} - {0}:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(scratch)


def flip_a_bit(file: Path) -> None:
    """Of the byte in the middle; in place, as a failing disk does."""
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 1]))


def contents(folder: Path, *names: str) -> dict[str, bytes]:
    """Bytes of all files below `folder`, or of those of its files and folders that are named.

    A model's card lies in the training's folder and is another stage's: it counts only if it is named itself.
    """
    files = [
        path
        for name in names or (".",)
        for path in [folder / name, *(folder / name).rglob("*")]
        if path.is_file()
    ]
    named = [str(path.relative_to(folder)) for path in files]
    return {
        name: (folder / name).read_bytes()
        for name in named
        if name != CARD or name in names or not names
    }


def forget(repository: Repository, *stages: str) -> None:
    """Let DVC believe that these stages never ran: no entry in dvc.lock, no run cache."""
    repository.edit("dvc.lock", lambda lock: [lock["stages"].pop(stage) for stage in stages])
    shutil.rmtree(repository.path / ".dvc/cache/runs")


def recovery(said: str) -> str:
    """What the next run did, from its own words."""
    warnings = said.count("is half-written or damaged; passed over for the one before")
    warned = f"{warnings} warning{'s' * (warnings > 1)}, " if warnings else ""
    if "an earlier process finished this run" in said:
        return f"{warned}kept result taken over, nothing trained"
    if found := re.search(r"going on from checkpoint-(\d+)", said):
        return f"{warned}gone on from step {found[1]} of 24"
    return f"{warned}trained from the start"


def run_folder(repository: Repository) -> Path:
    """The one folder of checkpoints that there is."""
    [folder] = [path for path in (repository.path / "checkpoints").iterdir() if path.is_dir()]
    return folder


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


@pytest.fixture(scope="module")
def cut_off(finished: Repository, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository whose trainer was killed between step 16 and the checkpoint of step 20. Tests copy it.

    Its two loader workers saw it die: "orphans" says how many lived on, "lock" whether its lock was free at once all the same.
    """
    repository = Repository(tmp_path_factory.mktemp("cut-off") / "repository", finished.env)
    shutil.copytree(finished.path, repository.path, symlinks=True)
    for output in (MODEL, CURVE):
        shutil.rmtree(repository.path / output)
    repository.edit("params.yaml", lambda p: p["machine"].update(loader_workers=2))
    with halted(repository, "os.mkdir */checkpoint-20 *", *FINETUNE) as victim:
        workers = psutil.Process(victim.pid).children()
        victim.kill()
        try:
            with exclusive(run_folder(repository)):
                lock = "free"
        except UserError as error:
            lock = str(error)
        orphans = sum(worker.is_running() for worker in workers)
        (repository.path.parent / "workers.json").write_text(
            json.dumps({"orphans": orphans, "lock": lock})
        )
    repository.edit("params.yaml", lambda p: p["machine"].update(loader_workers=0))
    return repository


@pytest.fixture
def cut_off_copy(cut_off: Repository, tmp_path: Path) -> Here:
    shutil.copytree(cut_off.path, tmp_path / "copy", symlinks=True)
    return Here(tmp_path / "copy", cut_off.env)


# Last stage first, so that its inputs are still there: arguments, its outputs, where it stands still, what is half-written then.
STAGES = {
    "report": (
        (), ("report/report.html", "report/slides.html", "report/report.pt-BR.html", "report/slides.pt-BR.html"),
        "os.rename report/slides.pt-BR.html.partial *", "report/slides.pt-BR.html.partial",
    ),
    "compare": (
        (), ("report/comparison.md", "plots/accuracy_by_seed.csv", "metrics/claims.json", "metrics/accuracy.json"),
        "os.rename metrics/accuracy.json.partial *", "metrics/accuracy.json.partial",
    ),
    "benchmark": ((), ("metrics/speed.json",), "os.rename metrics/speed.json.partial *", "metrics/speed.json.partial"),
    "export": (
        ("--model", "tiny", "--seed", "1"), ("models/exported/tiny-1", "metrics/export/tiny-1.json"),
        "os.rename metrics/export/tiny-1.json.partial *", "metrics/export/tiny-1.json.partial",
    ),
    "card": (
        ("--model", "tiny", "--seed", "1"), ("models/finetuned/tiny-1/README.md",),
        "os.rename models/finetuned/tiny-1/README.md.partial *", "models/finetuned/tiny-1/README.md.partial",
    ),
    "evaluate": (
        ("--model", "tiny", "--seed", "1"), ("predictions/tiny-1.csv", "metrics/runs/tiny-1.json"),
        "os.rename metrics/runs/tiny-1.json.partial *", "metrics/runs/tiny-1.json.partial",
    ),
    "tokenize": (
        ("--model", "tiny"), ("data/tokenized/tiny",), "open */data/tokenized/tiny.partial/validation.parquet *",
        "data/tokenized/tiny.partial/train.parquet",
    ),
    "download_weights": (
        ("--model", "tiny"), ("models/weights/tiny",), "os.rename models/weights/tiny.partial *",
        "models/weights/tiny.partial/model.safetensors",
    ),
    "download_tokenizer": (
        ("--model", "tiny"), ("models/tokenizers/tiny", "models/entries/tiny.json"), "open models/tokenizers/tiny.partial/vocab.txt w *",
        "models/tokenizers/tiny.partial/config.json",
    ),
    "download_dataset": ((), ("data/raw", "data/dataset.json", "data/entry.json"), "open data/raw.partial/validation.tsv w *", "data/raw.partial/train.tsv"),
}  # fmt: skip


def test_dvc_goes_on_after_each_of_the_other_stages_was_killed(
    copy: Repository, finished: Repository
) -> None:
    """Half-written outputs of dead stages lie about; one `dvc repro` runs them again and ends with the same bytes.

    The training is not run again: its inputs come out as they were.
    """
    expected = contents(copy.path, *RESULTS)
    names = [name for name in finished.ran if name.split("@")[0] in STAGES]
    assert len(names) == len(STAGES) - 1  # the card is made by the stage evaluate
    for name, (arguments, outputs, at, half) in STAGES.items():
        for output in outputs:  # as dvc does before it runs a stage
            path = copy.path / output
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        with halted(copy, at, sys.executable, "-m", f"stages.{name}", *arguments) as victim:
            victim.kill()
        assert (copy.path / half).is_file(), "killed, but nothing was half-written"
        assert not (copy.path / outputs[-1]).exists()
    forget(copy, *names)
    ran = re.findall(r"Running stage '([^']+)'", copy.run(*REPRO).stdout)
    assert sorted(ran) == sorted(names)
    assert contents(copy.path, *RESULTS) == expected
    assert (copy.path / "metrics/speed.json").is_file() and (
        copy.path / "report/comparison.md"
    ).is_file()
    left = [str(path.relative_to(copy.path)) for path in copy.path.rglob("*.partial")]
    assert left == []
    for name in STAGES:
        same = "measured again" if name == "benchmark" else "same bytes"
        record_fault(
            name,
            "kill -9 with its output half-written",
            1,
            f"no output in place; run again by dvc: {same}",
        )


def test_a_trainer_that_is_killed_at_every_point_ends_with_the_same_bytes(copy: Repository) -> None:
    """One training under dvc, five deaths, not always of the same process: trainer, both, trainer, trainer, dvc."""
    expected = contents(copy.path, *RESULTS)
    forget(copy, "finetune@tiny-1", "evaluate@tiny-1", "compare")
    md5 = hashlib.md5(expected[f"{MODEL}/model.safetensors"], usedforsecurity=False).hexdigest()
    cached = copy.path / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    cached.unlink()
    repro = (*REPRO, "finetune@tiny-1")

    def trainer_killed(at: str) -> str:
        with halted(copy, at, *repro) as victim:
            assert victim.pid != victim.process.pid
            victim.kill()
            assert victim.process.wait(PATIENCE) != 0
            said = victim.text()
        assert re.search(r"failed to run: .* exited with (137|-9)", said), (
            said
        )  # 128 + 9 where the shell stayed between them
        assert contents(copy.path, str(MODEL)) == {}
        return said

    trainer_killed("os.mkdir */checkpoint-4 *")
    deaths = ["the trainer before its first checkpoint"]
    folder = run_folder(copy)
    assert steps(folder) == []

    with halted(copy, "open */checkpoint-8/trainer_state.json w *", *repro) as victim:
        recoveries = [recovery(victim.text())]
        os.killpg(victim.process.pid, signal.SIGKILL)  # dvc, its shell and the trainer
        assert victim.process.wait(PATIENCE) == -signal.SIGKILL
        until(lambda: ended(victim.pid), "end of the trainer")
    deaths.append("dvc and the trainer in a checkpoint write")
    half = folder / "checkpoint-8"
    assert (half / "model.safetensors").is_file() and (half / "optimizer.pt").is_file(), (
        "killed, but not in the write"
    )
    assert not (half / "trainer_state.json").exists() and not is_complete(half)
    assert is_complete(folder / "checkpoint-4")

    recoveries.append(recovery(trainer_killed("os.rename */finished.partial *")))
    deaths.append("the trainer after its last step")
    assert (folder / "finished.partial/model/model.safetensors").is_file() and not (
        folder / "finished"
    ).exists()
    assert steps(folder) == [20, 24], "the last two are kept"

    recoveries.append(recovery(trainer_killed("os.rename models/finetuned/tiny-1.partial *")))
    deaths.append("the trainer between its two outputs")
    assert (
        is_complete(folder / "finished")
        and (copy.path / "models/finetuned/tiny-1.partial/model.safetensors").is_file()
    )
    assert (copy.path / CURVE).is_dir()

    with halted(copy, f"os.rename *.tmp {cached} *", *repro) as victim:
        assert victim.pid == victim.process.pid, "this time it is dvc that stands still"
        recoveries.append(recovery(victim.text()))
        victim.kill()
    deaths.append("dvc when it takes the model into its cache")
    assert list(cached.parent.glob(".*.tmp")) and not cached.exists()

    again = copy.run(*REPRO).stdout
    recoveries.append(recovery(again))
    assert sorted(re.findall(r"Running stage '([^']+)'", again)) == [
        "compare",
        "evaluate@tiny-1",
        "finetune@tiny-1",
        "report",
    ]
    assert recoveries == [
        "trained from the start",
        "1 warning, gone on from step 4 of 24",
        "gone on from step 24 of 24",
        "kept result taken over, nothing trained",
        "kept result taken over, nothing trained",
    ]
    assert contents(copy.path, *RESULTS) == expected
    assert not folder.exists(), "evaluate has read the result: nothing is kept twice"
    assert not list(copy.path.rglob("*.partial"))
    for death, what in zip(deaths, recoveries, strict=True):
        record_fault("finetune", f"kill -9 of {death}", 1, f"{what}: same bytes")


def test_ctrl_c_and_then_an_orphan(copy: Repository) -> None:
    """Interrupted as a terminal does it, gone on, and then dvc alone is killed: its trainer lives on, and no second one beside it."""
    expected = contents(copy.path, *RESULTS)
    forget(copy, "finetune@tiny-1", "evaluate@tiny-1", "compare")
    repro = (*REPRO, "finetune@tiny-1")
    with halted(copy, "os.mkdir */checkpoint-12 *", *repro) as victim:
        started = time.monotonic()
        os.killpg(
            victim.process.pid, signal.SIGINT
        )  # the foreground group: dvc, its shell, the trainer
        code = victim.process.wait(PATIENCE)
        until(lambda: ended(victim.pid), "end of the trainer")
        seconds = time.monotonic() - started
        said = victim.text()
    assert code != 0 and seconds < 20, (code, seconds)
    assert (
        "interrupted:" in said
        and "run the same command again to go on" in said
        and "Traceback" not in said
    ), said
    assert contents(copy.path, str(MODEL)) == {} and not list(copy.path.rglob("*.partial"))

    with halted(copy, "os.mkdir */checkpoint-16 *", *repro) as victim:
        gone_on = recovery(victim.text())
        dvc, trainer, folder = victim.process, victim.pid, run_folder(copy)
        assert folder.with_name(folder.name + ".lock").read_text() == str(trainer)
        dvc.kill()
        assert dvc.wait(PATIENCE) == -signal.SIGKILL
        assert not ended(trainer), "the trainer outlives its dvc"
        second = copy.run(*repro, ok=False)
        assert second.returncode != 0 and "Traceback" not in second.stderr
        assert (
            f"{folder.relative_to(copy.path)} is in use by process {trainer}"
            in second.stderr.replace(f"{copy.path}/", "")
        )
        kept = copy.run(sys.executable, "-m", "reproduce.training.checkpoints", "--yes").stdout
        assert "left alone, it is being trained" in kept
        assert not ended(trainer) and steps(folder) == [8, 12]
        victim.let_go()
        until(lambda: ended(trainer), "end of the orphan")
    assert is_complete(folder / "finished")
    done = copy.run(*REPRO).stdout
    assert sorted(re.findall(r"Running stage '([^']+)'", done)) == [
        "compare",
        "evaluate@tiny-1",
        "finetune@tiny-1",
        "report",
    ]
    assert (gone_on, recovery(done)) == (
        "gone on from step 8 of 24",
        "kept result taken over, nothing trained",
    )
    assert contents(copy.path, *RESULTS) == expected
    assert not folder.exists()
    record_fault("finetune", "Ctrl-C (SIGINT to dvc, its shell and the trainer)", 1,
                 f"ended within {10 if seconds < 10 else 20} s with a hint; {gone_on}: same bytes")  # fmt: skip
    record_fault("finetune", "kill -9 of dvc, a second `dvc repro` beside the living trainer", 1,
                 f"the second stopped and named the process; later {recovery(done)}: same bytes")  # fmt: skip


def test_processes_of_a_training_over_several(copy: Repository) -> None:
    """finetune.processes: 2. One dies and the other ends too; gone on, the launcher dies, and with it (it holds the GPUs) both."""
    run, loopback = ("finetune", "--model", "tiny", "--seed", "1"), {"ALLOW_LOOPBACK": "1"}
    copy.edit("params.yaml", lambda p: p["finetune"].update(processes=2))
    copy.stage(*run, ok=True, **loopback)
    expected = contents(copy.path, str(MODEL), str(CURVE))
    shutil.rmtree(copy.path / "checkpoints")
    with halted(
        copy, "open */checkpoint-12/trainer_state.json w *", *FINETUNE, **loopback
    ) as victim:
        trainers = [child.pid for child in psutil.Process(victim.process.pid).children()]
        assert len(trainers) == 2 and victim.pid in trainers
        [other] = {*trainers} - {victim.pid}
        os.kill(other, signal.SIGKILL)
        assert victim.process.wait(PATIENCE) == 1
        until(lambda: all(map(ended, trainers)), "end of both trainers")
        said = victim.text()

    with halted(copy, "os.mkdir */checkpoint-20 *", *FINETUNE, **loopback) as victim:
        gone_on = recovery(victim.text())
        trainers = [child.pid for child in psutil.Process(victim.process.pid).children()]
        until(
            lambda: (run_folder(copy) / "checkpoint-20").exists(),
            "checkpoint of the trainer that was not halted",
        )
        os.kill(victim.process.pid, signal.SIGKILL)
        assert victim.process.wait(PATIENCE) == -signal.SIGKILL
        assert len(trainers) == 2
        until(lambda: all(map(ended, trainers)), "end of both trainers")
    done = copy.stage(*run, ok=True, **loopback).stdout
    assert (gone_on, recovery(done)) == (
        "1 warning, gone on from step 8 of 24",
        "1 warning, gone on from step 16 of 24",
    )
    assert contents(copy.path, str(MODEL), str(CURVE)) == expected
    assert "killed by signal 9" in said and "Run the same command again" in said, said
    record_fault(
        "finetune",
        "kill -9 of one of two trainers",
        1,
        f"message, the other one ended too; {gone_on}: same bytes",
    )
    record_fault("finetune", "kill -9 of the launcher of two trainers", 1,
                 f"both trainers ended too; {recovery(done)}: same bytes")  # fmt: skip


def test_the_lock_of_a_dead_trainer_is_free_though_its_loader_workers_live(
    cut_off: Repository,
) -> None:
    seen = json.loads((cut_off.path.parent / "workers.json").read_text())
    assert seen == {"orphans": 2, "lock": "free"}
    record_fault(
        "finetune",
        "kill -9 of a trainer with 2 loader workers",
        1,
        "the workers lived on, its lock was free at once",
    )


def test_a_loader_worker_that_is_killed(copy: Repository) -> None:
    """As the kernel kills one when memory runs out: a message instead of a hang, and no checkpoint is lost."""
    before = contents(copy.path, str(MODEL), str(CURVE))
    copy.edit("params.yaml", lambda p: p["machine"].update(loader_workers=1))
    with halted(copy, "os.mkdir */checkpoint-12 *", *FINETUNE) as victim:
        [worker] = psutil.Process(victim.pid).children()
        worker.kill()
        until(lambda: ended(worker.pid), "end of the loader worker")
        victim.let_go()
        assert victim.process.wait(PATIENCE) == 1
        said = victim.text()
    assert "machine.loader_workers" in said and "Traceback" not in said, said
    assert steps(run_folder(copy))[0] >= 4 and contents(copy.path, str(MODEL), str(CURVE)) == before
    record_fault(
        "finetune",
        "kill -9 of a loader worker",
        1,
        "message naming machine.loader_workers, checkpoints kept",
    )


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("one bit", "1 warning, gone on from step 12 of 24"),
        ("both", "2 warnings, trained from the start"),
    ],
    ids=["one bit", "both"],
)
def test_a_damaged_checkpoint_is_passed_over(
    cut_off_copy: Here, finished: Repository, damage: str, expected: str
) -> None:
    """A flipped bit in the newest of the two that are kept; one cut to half its length and one without its marker."""
    copy, folder = cut_off_copy, run_folder(cut_off_copy)
    newest, before = folder / "checkpoint-16", folder / "checkpoint-12"
    assert steps(folder) == [12, 16], "the last two are kept"
    assert is_complete(newest) and is_complete(before)
    if damage == "one bit":
        flip_a_bit(newest / "optimizer.pt")
        fault = "one bit flipped in the newest checkpoint"
    else:
        os.truncate(
            newest / "model.safetensors", (newest / "model.safetensors").stat().st_size // 2
        )
        (before / "complete.json").unlink()
        fault = "newest checkpoint cut in half, the one before without its marker"
    damaged = [path for path in (newest, before) if not is_complete(path)]
    assert len(damaged) == (1 if damage == "one bit" else 2)
    done = copy.stage("finetune", "--model", "tiny", "--seed", "1").stdout
    assert recovery(done) == expected
    assert contents(copy.path, str(MODEL), str(CURVE)) == contents(
        finished.path, str(MODEL), str(CURVE)
    )
    record_fault("finetune", fault, len(damaged), f"{recovery(done)}: same bytes")


def test_a_damaged_result_is_not_taken_over(here: Here) -> None:
    """The result of a finished training is kept, and a bit of it flips on the disk before the next run."""
    expected = contents(here.path, str(MODEL), str(CURVE))
    [lock] = (here.path / "checkpoints").glob("*.lock")
    kept = lock.with_suffix("") / "finished"
    for part, place in (("model", MODEL), ("curve", CURVE)):
        shutil.copytree(here.path / place, kept / part)
    shutil.copy(here.path / "environment/tiny-1.json", kept / "environment.json")
    mark_complete(kept)
    flip_a_bit(kept / "model/model.safetensors")
    assert not is_complete(kept)
    done = here.stage("finetune", "--model", "tiny", "--seed", "1").stdout
    assert recovery(done) == "trained from the start"
    assert is_complete(kept) and contents(here.path, str(MODEL), str(CURVE)) == expected
    record_fault("finetune", "one bit flipped in a kept result", 1, f"{recovery(done)}: same bytes")


@pytest.mark.parametrize("other", ["params", "data"])
def test_a_checkpoint_of_other_params_or_other_data_is_never_resumed(
    cut_off_copy: Here, other: str
) -> None:
    import pyarrow.parquet

    copy, folder = cut_off_copy, run_folder(cut_off_copy)
    if other == "params":
        copy.edit("params.yaml", lambda p: p["finetune"].update(learning_rate=5e-3))
    else:
        data = copy.path / "data/tokenized/tiny/train.parquet"
        table = pyarrow.parquet.read_table(data)
        data.unlink()  # DVC links it to its cache
        pyarrow.parquet.write_table(table.take(list(reversed(range(len(table))))), data)
    before = contents(folder)
    assert steps(folder) == [12, 16] and is_complete(folder / "checkpoint-16"), (
        "there is one to resume"
    )
    done = copy.stage("finetune", "--model", "tiny", "--seed", "1").stdout
    assert (
        recovery(done) == "trained from the start"
        and copy.json("environment/tiny-1.json")["resumed_at_step"] == 0
    )
    assert contents(folder) == before, "and it stays for the run that it belongs to"
    record_fault(
        "finetune",
        f"complete checkpoint of other {other} in place",
        1,
        f"left alone, {recovery(done)}",
    )


def test_clean_checkpoints_says_what_it_will_free_before_it_does(cut_off_copy: Here) -> None:
    copy, folder = cut_off_copy, run_folder(cut_off_copy)
    size = sum(len(data) for data in contents(folder).values())
    clean = (sys.executable, "-m", "reproduce.training.checkpoints")
    says = f"{folder.relative_to(copy.path)}: {size / 1e6:,.1f} MB, at step 16\ndeleting 1 run(s) frees {size / 1e6:,.1f} MB"
    unasked = copy.run(*clean).stdout
    assert (
        unasked.startswith(says) and "nothing was deleted" in unasked and steps(folder) == [12, 16]
    )
    for answer in ("n", "y"):
        ours, its = pty.openpty()
        with subprocess.Popen(
            clean, cwd=copy.path, env=copy.env, stdin=its, stdout=subprocess.PIPE, text=True
        ) as process:
            os.close(its)
            assert process.stdout
            asked = ""
            while not asked.endswith("delete? [y/N] "):
                asked += process.stdout.read(1)
            assert asked.startswith(says) and steps(folder) == [12, 16], "it waits for the answer"
            os.write(ours, f"{answer}\n".encode())
            assert process.wait(PATIENCE) == 0
        os.close(ours)
        assert folder.exists() == (answer == "n")
    assert copy.run(*clean).stdout.strip() == "no checkpoints to delete"


def test_clean_checkpoints_need_not_ask(cut_off_copy: Here) -> None:
    folder = run_folder(cut_off_copy)
    assert (
        "deleting 1 run(s) frees"
        in cut_off_copy.run(sys.executable, "-m", "reproduce.training.checkpoints", "--yes").stdout
    )
    assert not folder.exists()
