"""`python -m tools.verify`: identical, or which file differs and by how much."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from conftest import Repository
from tools.verify import difference


def verify(repository: Repository, stage: str, code: int = 0) -> str:
    """What was printed, both streams."""
    done: subprocess.CompletedProcess[str] = repository.run(
        sys.executable, "-m", "tools.verify", "--", stage, ok=False
    )
    text = done.stdout + done.stderr
    assert done.returncode == code and "Traceback" not in text, text
    return text


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(
    "stage", ["tokenize@tiny", "finetune@tiny-1", "evaluate@tiny-1", "compare"]
)
def test_a_stage_that_repeats_is_identical(finished: Repository, stage: str) -> None:
    """And nothing in the workspace is touched."""
    before = finished.run("git", "status", "--porcelain").stdout, sorted(finished.path.rglob("*"))
    assert f"file(s) of {stage}, byte for byte" in verify(finished, stage)
    after = finished.run("git", "status", "--porcelain").stdout, sorted(finished.path.rglob("*"))
    assert after == before


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_code_that_does_not_repeat_is_found(copy: Repository) -> None:
    """Damage: what the stage writes depends on a variable, so that dvc.lock cannot be kept."""
    code = copy.path / "stages/compare.py"
    text = code.read_text(encoding="utf-8").replace("\ndef main()", "\ndef work()", 1)
    text = text.replace(
        'if __name__ == "__main__":',
        "def main() -> None:\n    work()\n    import os\n"
        "    with open('metrics/results.md', 'a') as file:\n"
        "        file.write(os.environ.get('AGAIN', 'first'))\n\n\n"
        'if __name__ == "__main__":',
    )
    code.write_text(text, encoding="utf-8")
    assert "compare" in copy.repro()
    copy.env["AGAIN"] = "second"
    assert "error: differs: metrics/results.md, md5 " in verify(copy, "compare", code=1)


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_what_cannot_be_verified_says_why(copy: Repository) -> None:
    assert "writes measurements only" in verify(copy, "benchmark", code=1)
    for stage in ("finetune@nobody-1", "it's a $STAGE", "../dvc.yaml:x"):
        assert verify(copy, stage, code=1).startswith("error: ")
    assert "Name one of `dvc stage list`" in verify(copy, "", code=1)
    copy.edit("params.yaml", lambda p: p["finetune"].update(epochs=1))
    assert "would not run as dvc.lock says: params.yaml" in verify(copy, "finetune@tiny-1", code=1)


def test_weights_differ_by_their_greatest_difference(tmp_path: Path) -> None:
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    save_file({"a": torch.zeros(3), "b": torch.zeros(2)}, old)
    save_file({"a": torch.zeros(3), "b": torch.tensor([0.0, -0.25])}, new)
    assert difference(old, new) == "1 of 2 tensors, by at most 0.25 (b)"


def test_text_differs_by_its_first_line(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps({"n": 1}, indent=2))
    new.write_text(json.dumps({"n": 2}, indent=2))
    assert difference(old, new) == "line 2 was b'\"n\": 1', is b'\"n\": 2'"
