"""The machine's limits, set from outside on real processes: disk and memory that run out.

Where nothing may be mounted, a limit on the size of files (RLIMIT_FSIZE) stands for a full disk. A
disk that fills within a training: test_crash.py.
"""

import re
import resource
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from conftest import Repository
from reproduce.training.checkpoints import is_complete
from test_crash import (
    FINETUNE,
    MODEL,
    PATIENCE,
    REPRO,
    clear,
    halted,
    outputs,
    recovery,
    run_folder,
)

pytestmark = pytest.mark.slow
# The training of the wide model takes more than this with 48 sentences at a time, less with 12.
MEMORY = 290 * 2**20  # bytes


def test_a_disk_that_is_full_when_dvc_takes_the_model_into_its_cache(copy: Repository) -> None:
    """The training is over, DVC cannot copy its model: nothing is trained again."""
    expected = outputs(copy)
    clear(copy)
    copy.edit("dvc.lock", lambda lock: lock["stages"].pop("finetune@tiny-1"))
    shutil.rmtree(copy.path / ".dvc/cache/runs")
    for cached in (copy.path / ".dvc/cache/files/md5").rglob("*"):
        if cached.is_file() and cached.read_bytes() == expected["model.safetensors"]:
            cached.unlink()
    with halted(copy, f"shutil.copyfile *{MODEL}/model.safetensors *", *REPRO) as victim:
        assert victim.pid == victim.process.pid, "dvc stands still, its trainer has ended"
        resource.prlimit(victim.pid, resource.RLIMIT_FSIZE, (50_000, 50_000))
        victim.let_go()
        assert victim.process.wait(PATIENCE) != 0
        assert "File too large" in victim.text(), victim.text()
    assert is_complete(run_folder(copy) / "finished")
    assert recovery(copy.run(*REPRO).stdout) == "taken over"
    assert outputs(copy) == expected


def test_a_machine_on_which_no_file_can_be_written(copy: Repository) -> None:
    """Not even a temporary one, which libraries ask for while they are imported."""
    before = outputs(copy)
    shell = ("sh", "-c", f"ulimit -f 0; exec {shlex.join(FINETUNE)}")
    done = copy.run(*shell, ok=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count("error: the disk is full (") == 1 and "Make room" in done.stderr
    assert outputs(copy) == before and not list(copy.path.rglob("*.partial"))


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of another process")
def test_memory_that_runs_out_names_what_to_change_and_doing_so_helps(copy: Repository) -> None:
    """The advice is followed until the training fits into the same memory, with the same batch."""
    widen(copy, intermediate=8192)
    copy.edit("params.yaml", lambda p: p["finetune"].update(batch_size=48, warmup_steps=1))
    before, pieces = outputs(copy), 1
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
        now, then = -(-48 // pieces), 2 * pieces
        says = rf"error: out of memory with {now} .* Set finetune\.accumulation to {then}: "
        assert re.search(says, said) and "Traceback" not in said, said
        assert outputs(copy) == before and not list(copy.path.rglob("*.partial"))
        pieces = then
        copy.edit("params.yaml", lambda p: p["finetune"].update(accumulation=pieces))  # noqa: B023
        assert pieces <= 8, "the advice does not help"
    assert pieces > 1, "the memory sufficed: nothing was tested"
    assert copy.json("environment/tiny-1.json")["steps"] == 4


def widen(repository: Repository, intermediate: int) -> None:
    """Give the tiny model feed-forward layers of this width: activations far above its weights."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    config = repository.path / "models/tokenizers/tiny/config.json"
    wide = BertConfig.from_json_file(config)
    wide.intermediate_size = intermediate
    torch.manual_seed(7)
    weights = repository.path / "models/weights/tiny"
    shutil.rmtree(weights)  # DVC links both to its cache
    BertForMaskedLM(wide).save_pretrained(weights)
    config.unlink()
    (weights / "config.json").replace(config)
