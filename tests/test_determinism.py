"""Equal bytes from equal runs, whatever prepares the batches; and a device that cannot repeat itself says so."""

import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch
from faults import record_fault

from conftest import Repository
from reproduce.training.devices import deterministic

OUTPUTS = ("models/finetuned/tiny-1", "plots/curves/tiny-1")
WEIGHTS = f"{OUTPUTS[0]}/model.safetensors"
# Trains once for each PRECISION-WORKERS that it is given, from the start, and moves the outputs to a folder of that name.
# One process for several trainings: importing the libraries takes longer than these trainings do.
TRAIN = """
import json, shutil, sys
from pathlib import Path
from ruamel.yaml import YAML
from stages import finetune
yaml, trainings, outputs = YAML(), sys.argv[1].split(), sys.argv[2].split()
for training in trainings:
    precision, workers = training.split("-")
    params = yaml.load(Path("params.yaml"))
    params["finetune"]["precision"], params["machine"]["loader_workers"] = precision, int(workers)
    yaml.dump(params, Path("params.yaml"))
    shutil.rmtree("checkpoints", ignore_errors=True)  # the result of the training before is kept there
    sys.argv[1:] = ["--model", "tiny", "--seed", "1"]
    finetune.main()
    for place in (*outputs, "environment/tiny-1.json"):
        Path(training, place).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(place, Path(training, place))
"""


def files(folder: Path) -> dict[str, bytes]:
    """The bytes of model and curve."""
    found = [
        path
        for output in OUTPUTS
        for path in (folder / output).rglob("*")
        if path.is_file() and path.name != "README.md"
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def trained(finished: Repository, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository with a folder for each of six trainings, in two processes, with both precisions in each."""
    repository = Repository(tmp_path_factory.mktemp("trained") / "repository", finished.env)
    shutil.copytree(finished.path, repository.path, symlinks=True)
    for trainings in (["fp32-1", "bf16-1", "fp32-0"], ["bf16-2", "fp32-2", "bf16-0"]):
        said = repository.run(
            sys.executable, "-c", TRAIN, " ".join(trainings), " ".join(OUTPUTS)
        ).stdout
        assert (
            "taken over" not in said and said.count("fp32 on cpu") + said.count("bf16 on cpu") == 3
        )
        for training in trainings:
            facts = repository.json(f"{training}/environment/tiny-1.json")
            assert facts["precision"] == training.split("-")[0] and facts["resumed_at_step"] == 0
            assert facts["deterministic_algorithms"] and facts["not_deterministic"] == []
    return repository


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_runs_are_identical_and_so_is_one_with_other_loader_workers(
    trained: Repository, precision: str
) -> None:
    first = files(trained.path / f"{precision}-1")
    assert WEIGHTS in first and len(first) > 5
    assert files(trained.path / f"{precision}-2") == first
    assert files(trained.path / f"{precision}-0") == first


def test_a_run_under_dvc_is_that_run_too(trained: Repository, finished: Repository) -> None:
    assert files(finished.path) == files(trained.path / "fp32-0")


def test_another_precision_is_another_result(trained: Repository) -> None:
    """The comparison above can fail."""
    assert files(trained.path / "fp32-0")[WEIGHTS] != files(trained.path / "bf16-0")[WEIGHTS]


def test_an_operation_that_cannot_repeat_is_named_and_the_run_goes_on() -> None:
    with warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("always")
        with deterministic() as broken:
            assert torch.are_deterministic_algorithms_enabled()
            for _ in range(2):
                torch.zeros(3).put_(
                    torch.tensor([0, 0]), torch.tensor([1.0, 2.0]), accumulate=False
                )
            warnings.warn("something else", stacklevel=1)
    assert not torch.are_deterministic_algorithms_enabled()
    assert len(broken) == 1 and "put_" in broken[0] and "deterministic" in broken[0]
    assert [str(w.message) for w in others] == ["something else"]
    record_fault(
        "finetune",
        "an operation without a deterministic implementation",
        2,
        f"the run goes on and says: {broken[0]}",
    )
