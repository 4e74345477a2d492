"""`python -m tools.verify`: identical, or which file differs and by how much."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from conftest import Repository, run_here
from tools.verify import difference

pytestmark = pytest.mark.usefixtures("warm")


def verify(repository: Repository, stage: str, code: int = 0, **env: str) -> str:
    """What was printed, both streams."""
    env = {**repository.env, "LAUNCHER": os.environ["LAUNCHER"], **env}
    done = run_here(repository.path, env, "tools.verify", "--", stage)
    text = done.stderr + done.stdout
    assert done.returncode == code, text
    return text


@pytest.mark.slow
def test_a_stage_that_repeats_is_identical(finished: Repository) -> None:
    """And nothing in the workspace is touched."""
    before = finished.run("git", "status", "--porcelain").stdout, sorted(finished.path.rglob("*"))
    for stage in ("tokenize@tiny", "finetune@tiny-1", "evaluate@tiny-1", "report"):
        assert f"file(s) of {stage}, byte for byte" in verify(finished, stage)
    after = finished.run("git", "status", "--porcelain").stdout, sorted(finished.path.rglob("*"))
    assert after == before


def test_code_that_does_not_repeat_is_found(copy: Repository) -> None:
    """Damage: what the stage writes depends on a variable, so that dvc.lock cannot be kept."""
    with (copy.path / "stages/evaluate.py").open("a") as code:
        code.write("    import os\n    with open('predictions/tiny-1.csv', 'a') as file:\n")
        code.write("        file.write(os.environ.get('AGAIN', 'first'))\n")
    copy.repro("evaluate")
    said = verify(copy, "evaluate@tiny-1", code=1, AGAIN="second")
    assert "error: differs: predictions/tiny-1.csv, md5 " in said and "is b'second'" in said


def test_what_cannot_be_verified_says_why(copy: Repository) -> None:
    assert "writes measurements only" in verify(copy, "benchmark", code=1)
    for stage in ("finetune@nobody-1", "it's a $STAGE", "../dvc.yaml:x"):
        assert verify(copy, stage, code=1).startswith("error: ")
    assert "Name one of `dvc stage list`" in verify(copy, "", code=1)
    copy.edit("params.yaml", lambda p: p["finetune"].update(epochs=1))
    assert "would not run as dvc.lock says: params.yaml" in verify(copy, "finetune@tiny-1", code=1)


def test_files_differ_by_their_greatest_difference_or_their_first_line(tmp_path: Path) -> None:
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    save_file({"a": torch.zeros(3), "b": torch.zeros(2)}, old)
    save_file({"a": torch.zeros(3), "b": torch.tensor([0.0, -0.25])}, new)
    assert difference(old, new) == "1 of 2 tensors, by at most 0.25 (b)"
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text('{\n  "n": 1\n}')
    new.write_text('{\n  "n": 2\n}')
    assert difference(old, new) == "line 2 was b'\"n\": 1', is b'\"n\": 2'"
