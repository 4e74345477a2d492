"""Equal bytes from equal runs, whatever process computes them."""

import shutil
import sys

import pytest

from conftest import Here, Repository

RUN = ("--model", "tiny", "--seed", "1")


def weights_and_curve(repository: Repository) -> tuple[bytes, bytes]:
    folder = repository.path / "models/finetuned/tiny-1"
    return (folder / "model.safetensors").read_bytes(), (folder / "loss.tsv").read_bytes()


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(copy: Repository, finished: Repository) -> None:
    """fp32 under dvc and in a process of its own; bf16 in two; and the two precisions differ."""
    results = [weights_and_curve(finished)]
    for precision, runner in (("fp32", copy), ("bf16", copy), ("bf16", Here(copy.path, copy.env))):
        shutil.rmtree(copy.path / "checkpoints", ignore_errors=True)
        copy.edit("params.yaml", lambda p: p["finetune"].update(precision=precision))  # noqa: B023
        command = (sys.executable, "-m", "stages.finetune", *RUN)
        done = runner.stage("finetune", *RUN) if isinstance(runner, Here) else copy.run(*command)
        assert f"{precision} on cpu" in done.stdout and "taken over" not in done.stdout
        results.append(weights_and_curve(copy))
    assert results[0] == results[1] and results[2] == results[3]
    assert results[0][0] != results[2][0], "the comparisons can fail"
