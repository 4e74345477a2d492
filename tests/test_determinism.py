"""Equal bytes from equal runs, whatever prepares the batches; and a device that cannot repeat itself says so."""

import shutil
import warnings

import pytest
import torch

from conftest import Repository
from faults import record_fault
from reproduce.devices import deterministic

RUN = ("finetune", "--model", "tiny", "--seed", "1")
OUTPUTS = ("models/finetuned/tiny-1", "plots/curves/tiny-1")


def train(repository: Repository, precision: str, workers: int) -> dict[str, bytes]:
    """The bytes of model and curve of a training from its start."""
    shutil.rmtree(repository.path / "checkpoints", ignore_errors=True)  # the result of the training before is kept there
    for output in OUTPUTS:
        shutil.rmtree(repository.path / output)
    repository.edit(
        "params.yaml", lambda p: (p["finetune"].update(precision=precision), p["machine"].update(loader_workers=workers))
    )
    done = repository.stage(*RUN)
    assert "taken over" not in done.stdout and f"{precision} on cpu" in done.stdout
    facts = repository.json("environment/tiny-1.json")
    assert facts["deterministic_algorithms"] and facts["not_deterministic"] == [] and facts["resumed_at_step"] == 0
    files = [path for output in OUTPUTS for path in (repository.path / output).rglob("*") if path.is_file()]
    return {str(path.relative_to(repository.path)): path.read_bytes() for path in files}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_runs_are_identical_and_so_is_one_with_other_loader_workers(copy: Repository, precision: str) -> None:
    first = train(copy, precision, workers=1)
    assert "models/finetuned/tiny-1/model.safetensors" in first and len(first) > 5
    assert train(copy, precision, workers=2) == first
    assert train(copy, precision, workers=0) == first


def test_another_precision_is_another_result(copy: Repository) -> None:
    """The comparison above can fail."""
    weights = "models/finetuned/tiny-1/model.safetensors"
    assert train(copy, "fp32", 0)[weights] != train(copy, "bf16", 0)[weights]


def test_an_operation_that_cannot_repeat_is_named_and_the_run_goes_on() -> None:
    with warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("always")
        with deterministic() as broken:
            assert torch.are_deterministic_algorithms_enabled()
            for _ in range(2):
                torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]), accumulate=False)
            warnings.warn("something else", stacklevel=1)
    assert not torch.are_deterministic_algorithms_enabled()
    assert len(broken) == 1 and "put_" in broken[0] and "deterministic" in broken[0]
    assert [str(w.message) for w in others] == ["something else"]
    record_fault("finetune", "an operation without a deterministic implementation", 2, f"the run goes on and says: {broken[0]}")
