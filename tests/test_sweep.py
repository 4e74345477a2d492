"""docs/sweep.md: every command block of it is run, in order, on a tiny model, with two workers and no network."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from conftest import ROOT, Repository, load_yaml

pytestmark = pytest.mark.usefixtures("warm")

BLOCKS = re.findall(
    r"```bash\n(.*?)```", (ROOT / "docs/sweep.md").read_text(encoding="utf-8"), re.DOTALL
)
# SST-2 and MiniLM in the document; 96 sentences and a tiny model here.
TINY = {
    "minilm": "tiny",
    "5e-5,1e-4,2e-4": "1e-3,1e-2",
    "selection.holdout=4000": "selection.holdout=24",
    "selection.train=16000": "selection.train=48",
    "finetune.warmup_steps=50": "finetune.warmup_steps=1",
    "rate-1 rate-2 rate-3": "rate-1 rate-2",
}


def run(repository: Repository, start: str) -> str:
    """Run the one block of the document that begins so; return what it prints."""
    (block,) = [block for block in BLOCKS if block.startswith(start)]
    for written, here in TINY.items():
        block = block.replace(written, here)
    printed = repository.path.parent / "printed"
    # Into a file: the workers keep the streams that they were started with.
    repository.run("bash", "-e", "-c", f"exec > '{printed}' 2>&1\n{block}")
    return printed.read_text(encoding="utf-8")


def workers(repository: Repository) -> list[psutil.Process]:
    """The workers of this repository's queue that live."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "queue-worker" in process.cmdline() and Path(process.cwd()).is_relative_to(
                repository.path
            ):
                found.append(process)
    return found


def wait_for_the_queue(repository: Repository) -> None:
    """Return when the workers have ended, which they do by themselves when nothing is left to do."""
    started = workers(repository)
    assert len(started) == 2
    _, alive = psutil.wait_procs(started, timeout=1500)  # a minute where nothing else runs
    assert not alive, repository.run("dvc", "queue", "status").stdout


@pytest.fixture
def study(copy: Repository) -> Iterator[Repository]:
    """A finished study of one model and one seed, with a learning rate of its own as MiniLM has one."""
    copy.edit(
        "params.yaml",
        lambda p: (
            p["overrides"].update(tiny={"learning_rate": 1e-2}),
            p["finetune"].update(learning_rate=5e-3),
        ),
    )
    copy.run("git", "commit", "-qam", "a learning rate of its own")
    yield copy
    for process in (left := workers(copy)):
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in process.children(recursive=True):
                child.kill()
            process.kill()
    psutil.wait_procs(left)


def ran(repository: Repository, name: str) -> list[str]:
    return re.findall(
        r"Running stage '([^']+)'", repository.run("dvc", "queue", "logs", name).stdout
    )


def shown(repository: Repository, name: str, file: str) -> str:
    """A file of an experiment."""
    ref = repository.run(
        "git", "for-each-ref", f"refs/exps/*/*/{name}", "--format=%(refname)"
    ).stdout.strip()
    return repository.run("git", "show", f"{ref}:{file}").stdout


def test_the_document_from_top_to_bottom(study: Repository) -> None:
    before = (study.path / "models/finetuned/tiny-1/model.safetensors").read_bytes()

    # Two rates, and two seeds at the present rate: four experiments, two workers.
    assert run(study, "dvc exp run --queue --name rate").count("Queued experiment") == 2
    run(study, "dvc exp run --queue --name seed")
    assert study.run("dvc", "queue", "status").stdout.count("Queued") == 4
    run(study, "OMP_NUM_THREADS=1 dvc queue start -j 2")
    wait_for_the_queue(study)
    status = study.run("dvc", "queue", "status").stdout
    assert status.count("Success") == 4 and "0 active" in status, status
    assert study.run("git", "status", "--porcelain").stdout == ""
    assert (study.path / "models/finetuned/tiny-1/model.safetensors").read_bytes() == before, (
        "the workspace has changed"
    )
    log = run(study, "dvc queue status\ndvc queue logs")
    assert "Running stage 'download_dataset'" in log and "Running stage 'finetune@tiny-1'" in log
    assert sorted(ran(study, "seed-1")) == [
        "compare",
        "evaluate@tiny-2",
        "export@tiny",
        "finetune@tiny-2",
        "report",
    ]

    # The sweep was judged on sentences of train, and the table says so.
    for name, rate in (("rate-1", "0.001"), ("rate-2", "0.01")):
        assert '"split": "held out of train"' in shown(study, name, "metrics/accuracy.json")
        assert f"learning_rate: {rate}" in shown(study, name, "params.yaml")
    table = run(study, "dvc exp show")
    for name, rate in (("rate-1", "0.001"), ("rate-2", "0.01")):
        assert re.search(rf"\[{name}\] +\| +[\d.]+ +\| 24 +\| {rate} +\|", table), table

    # Seeds: nothing is trained again; one (new rate) that no experiment has is.
    study.edit("params.yaml", lambda p: p.update(seeds=[2, 3]))
    again = re.findall(r"Running stage '([^']+)'", run(study, "dvc repro"))
    assert sorted(again) == ["compare", "report"]
    assert study.json("metrics/accuracy.json")["models"]["tiny"]["seeds_run"] == 2
    study.run("git", "add", "-A")
    study.run("git", "commit", "-qm", "two seeds")

    # A narrowed experiment that is applied takes the other seed away; the way back brings it.
    assert "tiny-3" in (study.path / "dvc.lock").read_text()
    run(study, "dvc exp apply seed-1")
    there = {
        seed: (study.path / f"models/finetuned/tiny-{seed}/model.safetensors").exists()
        for seed in (2, 3)
    }
    assert there == {2: True, 3: False}
    assert load_yaml(study.path / "params.yaml")["seeds"] == [2]
    run(study, "git checkout -- .\ndvc checkout")
    assert (study.path / "models/finetuned/tiny-3/model.safetensors").is_file()
    assert study.run("git", "status", "--porcelain").stdout == ""
    assert study.repro() == []

    # A branch keeps it, and the workspace stays.
    run(study, "dvc exp branch")
    assert "- 2\n" in study.run("git", "show", "only-seed-2:params.yaml").stdout
    assert study.run("git", "status", "--porcelain").stdout == "" and study.repro() == []

    run(study, "dvc queue remove --all")
    assert study.run("dvc", "exp", "list", "--name-only").stdout.split() == []
    assert workers(study) == []


def test_no_block_of_the_document_is_left_out() -> None:
    """The test above names each block by its first words, once."""
    source = Path(__file__).read_text(encoding="utf-8")
    for block in BLOCKS:
        starts = [
            start
            for start in re.findall(r'run\(study, "(.*?)"\)', source)
            if block.startswith(start.replace("\\n", "\n"))
        ]
        assert len(starts) == 1, block
