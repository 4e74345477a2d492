"""Equal bytes from equal runs, in other processes and whatever the environment; other bytes else."""

import shutil
import sys
from pathlib import Path

import pytest

from conftest import Repository

# python -c TRAIN FOLDER PRECISION...: trains from the start in each precision and moves the outputs
# to FOLDER/PRECISION. One process for all: importing the libraries takes longer than training.
TRAIN = """
import shutil, sys
from pathlib import Path
from ruamel.yaml import YAML
from stages import finetune
folder, *precisions = sys.argv[1:]
sys.argv[1:] = ["--model", "tiny", "--seed", "1"]
for precision in precisions:
    params = YAML().load(Path("params.yaml"))
    params["finetune"]["precision"] = precision
    YAML().dump(params, Path("params.yaml"))
    shutil.rmtree("checkpoints", ignore_errors=True)  # the result of the training before is kept
    finetune.main()
    for output in ("models/finetuned/tiny-1", "curves/tiny-1.tsv"):
        place = Path(folder, precision, output)
        place.parent.mkdir(parents=True)
        shutil.move(output, place)
"""


def files(folder: Path) -> dict[str, bytes]:
    """The bytes of model and curve."""
    found = [*(folder / "models/finetuned/tiny-1").iterdir(), folder / "curves/tiny-1.tsv"]
    return {path.name: path.read_bytes() for path in found if path.name != "README.md"}


@pytest.fixture(scope="module")
def trained(finished: Repository, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository with folders first/ and second/, of two processes, and in each fp32/ and bf16/."""
    repository = Repository(tmp_path_factory.mktemp("trained") / "repository", finished.env)
    shutil.copytree(finished.path, repository.path, symlinks=True)
    for folder, order in (("first", ["fp32", "bf16"]), ("second", ["bf16", "fp32"])):
        said = repository.run(sys.executable, "-c", TRAIN, folder, *order).stdout
        assert said.count("fp32 on cpu") == said.count("bf16 on cpu") == 1 and "taken over" not in said
    return repository


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_processes_write_the_same_bytes(trained: Repository, precision: str) -> None:
    first = files(trained.path / "first" / precision)
    assert len(first) == 5 and files(trained.path / "second" / precision) == first


@pytest.mark.slow
def test_a_run_under_dvc_is_that_run_too(trained: Repository, finished: Repository) -> None:
    assert files(finished.path) == files(trained.path / "first/fp32")


@pytest.mark.slow
def test_another_precision_is_another_result(trained: Repository) -> None:
    """The comparison above can fail."""
    fp32, bf16 = (files(trained.path / "first" / name)["model.safetensors"] for name in ("fp32", "bf16"))
    assert fp32 != bf16
