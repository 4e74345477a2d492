"""A full disk in every stage and under dvc, files that may not grow, memory that runs out: a message, nothing half-written, then success.

The small disk is a tmpfs with a ballast file; where nothing may be mounted, a limit on the size of files (RLIMIT_FSIZE) takes
its place. Limits are set from outside on real processes.
"""

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults import record_fault

from conftest import Here, Repository
from reproduce.training.checkpoints import is_complete
from test_crash import (
    CURVE,
    FINETUNE,
    MODEL,
    PATIENCE,
    REPRO,
    RESULTS,
    contents,
    forget,
    halted,
    recovery,
    run_folder,
    steps,
)

RUN = ("--model", "tiny", "--seed", "1")
MEMORY = (
    290 * 2**20
)  # bytes: the training of the wide model takes 365 MB with 48 sentences at a time, 250 with 24, 90 with 12
STAGES: dict[
    str, tuple[tuple[str, ...], tuple[str, ...]]
] = {  # arguments, outputs in the order in which they are written
    "download_dataset": ((), ("data/raw", "data/dataset.json", "data/entry.json")),
    "download_tokenizer": (
        ("--model", "tiny"),
        ("models/tokenizers/tiny", "models/entries/tiny.json"),
    ),
    "download_weights": (("--model", "tiny"), ("models/weights/tiny",)),
    "tokenize": (("--model", "tiny"), ("data/tokenized/tiny",)),
    "evaluate": (RUN, ("predictions/tiny-1.csv", "metrics/runs/tiny-1.json")),
    "export": (RUN, ("models/exported/tiny-1", "metrics/export/tiny-1.json")),
    "card": (RUN, ("models/finetuned/tiny-1/README.md",)),
    "benchmark": ((), ("metrics/speed.json",)),
    "compare": (
        (),
        (
            "report/comparison.md",
            "plots/accuracy_by_seed.csv",
            "metrics/claims.json",
            "metrics/accuracy.json",
        ),
    ),
    "report": (
        (),
        (
            "report/report.html",
            "report/slides.html",
            "report/report.pt-BR.html",
            "report/slides.pt-BR.html",
        ),
    ),
}


@dataclass
class SmallDisk:
    """A copy of the finished repository on a file system of 32 MB; or anywhere, with files that may not grow."""

    repository: Repository
    mounted: bool
    limit: int | None = None  # bytes a file may have, in place of a full disk

    @property
    def ballast(self) -> Path:
        return self.repository.path.parent / "ballast"

    def free(self) -> int:
        return shutil.disk_usage(self.repository.path).free

    def fill(self, leave: int = 0, limit: int = 16) -> None:
        """Leave `leave` bytes free (rounded down to pages); or, where nothing could be mounted, let no file exceed `limit` bytes."""
        self.make_room()
        if self.mounted:
            with self.ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self.free() - leave)
            assert leave - 4096 < self.free() <= leave
        else:
            self.limit = limit

    def make_room(self) -> None:
        self.ballast.unlink(missing_ok=True)
        self.limit = None

    def stage(self, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        limit = self.limit

        def hold_to_it() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        return subprocess.run(
            [sys.executable, "-m", f"stages.{name}", *arguments], cwd=self.repository.path, env=self.repository.env,
            capture_output=True, text=True, timeout=900, preexec_fn=hold_to_it,
        )  # fmt: skip

    def succeeds(self, name: str, *arguments: str) -> str:
        """Run a stage with room made; what it printed."""
        self.make_room()
        return Here(self.repository.path, self.repository.env).stage(name, *arguments).stdout

    def refused(self, name: str, *arguments: str) -> str:
        """Run a stage that must end with one message and leave nothing half-written."""
        done = self.stage(name, *arguments)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert done.stderr.count("error: ") == 1, done.stderr
        assert not list(self.repository.path.rglob("*.partial"))
        return done.stderr.split("error: ", 1)[1]


@pytest.fixture
def disk(finished: Repository, tmp_path: Path) -> Iterator[SmallDisk]:
    place = tmp_path / "disk"
    place.mkdir()
    # FAULT_NO_MOUNT=1: what those see who may not mount
    mounted = "FAULT_NO_MOUNT" not in os.environ and shutil.which("mount") is not None and sys.platform == "linux" and not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", place], capture_output=True
    ).returncode  # fmt: skip
    try:
        shutil.copytree(finished.path, place / "repository", symlinks=True)
        yield SmallDisk(Repository(place / "repository", finished.env), mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", place], check=True)


def how(disk: SmallDisk) -> str:
    return "disk full (tmpfs)" if disk.mounted else "files may not grow (RLIMIT_FSIZE)"


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk(disk: SmallDisk, stage: str) -> None:
    """Not one byte is free when the stage writes: what was there stays, and with room the same command makes the same bytes."""
    arguments, outputs = STAGES[stage]
    home = disk.repository.path
    before = contents(home, *outputs)
    disk.fill()
    message = disk.refused(stage, *arguments)
    reason = errno.ENOSPC if disk.mounted else errno.EFBIG
    assert (
        f"the disk is full ({os.strerror(reason)}" in message
        and "run the same command again" in message
    )
    assert contents(home, *outputs) == before
    for output in outputs:
        path = home / output
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    disk.succeeds(stage, *arguments)
    after = contents(home, *outputs)
    assert before and set(after) == set(before)
    assert stage == "benchmark" or after == before  # no two measurements of speed are equal
    result = "measured again" if stage == "benchmark" else "same bytes"
    record_fault(stage, how(disk), 1, f"message, no output touched; with room made: {result}")


def test_a_disk_that_fills_while_the_trainer_writes(disk: SmallDisk) -> None:
    """First too little for what it will need; then enough by that sum, but not for the third checkpoint, of which two are kept."""
    home = disk.repository.path
    before = contents(home, str(MODEL), str(CURVE))
    weights = 4 * parameters(home / MODEL / "model.safetensors")
    if disk.mounted:
        disk.fill(leave=4 * weights)
        message = disk.refused("finetune", *RUN)
        assert (
            message.startswith("not enough disk: ")
            and "are free" in message
            and "Make room" in message
        )
        assert steps(run_folder(disk.repository)) == []
        record_fault(
            "finetune",
            "less disk free than three checkpoints need",
            1,
            "message before training, no output touched",
        )
    disk.fill(leave=9 * weights + 8192, limit=weights * 3 // 2)
    message = disk.refused("finetune", *RUN)
    assert (
        message.startswith("the disk is full (")
        and "training goes on from its last checkpoint" in message
    )
    folder = run_folder(disk.repository)
    cut = max(steps(folder))
    assert (folder / f"checkpoint-{cut}/model.safetensors").is_file() and not is_complete(
        folder / f"checkpoint-{cut}"
    )
    assert contents(home, str(MODEL), str(CURVE)) == before
    if disk.mounted:
        assert cut == 12 and is_complete(folder / "checkpoint-8")
        disk.fill()
        cleaned = disk.repository.run(sys.executable, "-m", "reproduce.training.checkpoints")
        assert "at step 12" in cleaned.stdout and "nothing was deleted" in cleaned.stdout, (
            "the way out works on a full disk"
        )
    said = disk.succeeds("finetune", *RUN)
    assert recovery(said) == (
        "1 warning, gone on from step 8 of 24"
        if disk.mounted
        else "1 warning, trained from the start"
    )
    assert contents(home, str(MODEL), str(CURVE)) == before
    record_fault("finetune", f"{how(disk)} in a checkpoint write", 1,
                 f"message, no output touched; with room made: {recovery(said)}: same bytes")  # fmt: skip


def parameters(weights: Path) -> int:
    from safetensors.torch import load_file

    return sum(tensor.numel() for tensor in load_file(weights).values())


def test_a_disk_that_is_full_when_dvc_takes_the_model_into_its_cache(disk: SmallDisk) -> None:
    """The training is over, its outputs are in place, and DVC cannot copy them: nothing is trained again."""
    if not disk.mounted:
        pytest.skip(
            "nothing may be mounted here, and a limit on the size of files would stop the trainer first"
        )
    home = disk.repository.path
    before = contents(home, *RESULTS)
    forget(disk.repository, "finetune@tiny-1", "evaluate@tiny-1", "compare")
    for cached in (home / ".dvc/cache/files/md5").rglob("*"):
        if cached.is_file() and cached.read_bytes() == before[f"{MODEL}/model.safetensors"]:
            cached.unlink()
    with halted(
        disk.repository, f"shutil.copyfile {home}/{MODEL}/model.safetensors *", *REPRO
    ) as victim:
        assert victim.pid == victim.process.pid, "dvc stands still"
        disk.fill()
        victim.let_go()
        assert victim.process.wait(PATIENCE) != 0
        assert os.strerror(errno.ENOSPC) in victim.text(), victim.text()
    assert is_complete(run_folder(disk.repository) / "finished")
    disk.make_room()
    done = disk.repository.run(*REPRO).stdout
    assert sorted(re.findall(r"Running stage '([^']+)'", done)) == [
        "compare",
        "evaluate@tiny-1",
        "finetune@tiny-1",
        "report",
    ]
    assert recovery(done) == "kept result taken over, nothing trained"
    assert contents(home, *RESULTS) == before
    record_fault("finetune", f"{how(disk)} when dvc takes the model into its cache", 1,
                 f"dvc's message; with room made: {recovery(done)}: same bytes")  # fmt: skip


@pytest.mark.parametrize("stage", ["download_dataset", "tokenize", "finetune"])
def test_a_machine_on_which_no_file_can_be_written(copy: Repository, stage: str) -> None:
    """The system's disk is full: there is no room for temporary files either, which libraries ask for while they are imported."""
    before = contents(copy.path, "data/raw", "data/tokenized", str(MODEL))
    message = SmallDisk(copy, mounted=False, limit=0).refused(stage, *STAGES.get(stage, (RUN,))[0])
    assert message.startswith("the disk is full (") and "Make room" in message
    assert contents(copy.path, "data/raw", "data/tokenized", str(MODEL)) == before
    record_fault(
        stage,
        "no file can be written, not even a temporary one (RLIMIT_FSIZE 0)",
        1,
        "message, no output touched",
    )


@pytest.mark.skipif(
    not hasattr(resource, "prlimit"),
    reason="the memory of another process can be limited on Linux only",
)
def test_memory_that_runs_out_names_what_to_change_and_doing_so_helps(copy: Repository) -> None:
    """A model whose activations are far larger than its weights; the memory is limited when the training is about to begin.

    The advice is followed, and the training fits into the same memory.
    """
    widen(copy, intermediate=8192)
    copy.edit(
        "params.yaml", lambda p: p["finetune"].update(batch_size=48, warmup_steps=1, log_every=1)
    )
    before = contents(copy.path, str(MODEL), str(CURVE))
    accumulation, refusals = 1, 0
    while True:
        # Here the model is loaded, and of the training's memory nothing is taken yet.
        with halted(copy, "os.scandir *checkpoints/tiny-1-????????????", *FINETUNE) as victim:
            pages = int(Path(f"/proc/{victim.pid}/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + MEMORY
            resource.prlimit(victim.pid, resource.RLIMIT_AS, (limit, limit))
            victim.let_go()
            code, said = victim.process.wait(PATIENCE), victim.text()
        if code == 0:
            break
        refusals += 1
        assert "Traceback" not in said, said
        found = re.findall(
            r"error: out of memory with (\d+) sentences at a time\. Set finetune\.accumulation to (\d+)",
            said,
        )
        assert [(int(now), int(advice)) for now, advice in found] == [
            (-(-48 // accumulation), 2 * accumulation)
        ], said
        assert contents(copy.path, str(MODEL), str(CURVE)) == before and not list(
            copy.path.rglob("*.partial")
        )
        accumulation *= 2
        copy.edit(
            "params.yaml", lambda p, pieces=accumulation: p["finetune"].update(accumulation=pieces)
        )  # type: ignore[misc]
        assert accumulation <= 8, "the advice does not help"
    assert refusals, "the memory sufficed: nothing was tested"
    facts = copy.json("environment/tiny-1.json")
    assert facts["steps"] == 4 and facts["resumed_at_step"] == 0
    record_fault("finetune", "out of memory (RLIMIT_AS)", refusals,
                 f"message names finetune.accumulation; with {accumulation} it trained in the same memory")  # fmt: skip


def widen(repository: Repository, intermediate: int) -> None:
    """Give the tiny model feed-forward layers of this width."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    config = repository.path / "models/tokenizers/tiny/config.json"
    wide = BertConfig.from_json_file(config)
    wide.intermediate_size = intermediate
    config.unlink()  # DVC links it to its cache
    torch.manual_seed(7)
    weights = repository.path / "models/weights/tiny"
    shutil.rmtree(weights)
    BertForMaskedLM(wide).save_pretrained(weights)
    (weights / "config.json").replace(config)
