"""`python -m tools.verify`: identical, or which file differs and by how much."""

import json
import sys
from pathlib import Path

import pytest
import torch
from faults import record_fault
from safetensors.torch import save_file

from conftest import Repository
from tools.verify import difference


def verify(repository: Repository, stage: str) -> tuple[int, str]:
    """Exit code and what was printed, both streams."""
    done = repository.run(sys.executable, "-m", "tools.verify", stage, ok=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "stage", ["tokenize@tiny", "finetune@tiny-1", "evaluate@tiny-1", "compare"]
)
def test_a_stage_that_repeats_is_identical(finished: Repository, stage: str) -> None:
    before = finished.run("git", "status", "--porcelain").stdout, sorted(finished.path.rglob("*"))
    code, text = verify(finished, stage)
    assert code == 0 and "identical: " in text and f"of {stage}" in text
    assert (
        finished.run("git", "status", "--porcelain").stdout,
        sorted(finished.path.rglob("*")),
    ) == before


def test_other_weights_are_named_with_the_greatest_difference(copy: Repository) -> None:
    """Damage: the code draws another seed than it says, so that dvc.lock (updated by hand) promises what it cannot keep."""
    import re

    code = copy.path / "stages/finetune.py"
    code.write_text(
        code.read_text().replace(
            "        set_seed(seed)\n",
            "        set_seed(seed + int('RUN_AGAIN' in os.environ))\n",
            1,
        )
    )
    assert copy.repro("finetune@tiny-1") == ["finetune@tiny-1"]
    copy.env["RUN_AGAIN"] = "1"
    exit_code, text = verify(copy, "finetune@tiny-1")
    assert exit_code == 1 and "error: differs: models/finetuned/tiny-1/model.safetensors" in text
    worst = re.search(r"\d+ of \d+ tensors, first \S+, by at most ([0-9.e-]+) ", text)
    assert worst and float(worst[1]) > 1e-4
    record_fault("make verify", "code that draws other random numbers than dvc.lock promises", 1,
                 "exit code 1, names the file and the greatest difference of its tensors")  # fmt: skip


def test_a_changed_input_is_not_compared(copy: Repository) -> None:
    copy.edit("params.yaml", lambda p: p["finetune"].update(epochs=1))
    exit_code, text = verify(copy, "finetune@tiny-1")
    assert exit_code == 1 and "finetune@tiny-1 would not run as dvc.lock says: params.yaml" in text


def test_what_cannot_be_verified_says_why(finished: Repository) -> None:
    assert "writes measurements only" in verify(finished, "benchmark")[1]
    assert (
        "names 10 stages" in verify(finished, "dvc.yaml")[1]
        or "no stage" in verify(finished, "dvc.yaml")[1]
    )
    assert "error: no stage 'finetune@nobody-1'" in verify(finished, "finetune@nobody-1")[1]


def test_differences_in_words(tmp_path: Path) -> None:
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    save_file({"a": torch.zeros(3), "b": torch.zeros(2)}, old)
    save_file({"a": torch.zeros(3), "b": torch.tensor([0.0, -0.25])}, new)
    assert difference(old, new) == "1 of 2 tensors, first b, by at most 0.25 (b)"
    left, right = tmp_path / "left.json", tmp_path / "right.json"
    left.write_text(json.dumps({"n": 1}, indent=2))
    right.write_text(json.dumps({"n": 2}, indent=2))
    assert difference(left, right) == "line 2 was '\"n\": 1', is '\"n\": 2'"
    left, right = tmp_path / "left.parquet", tmp_path / "right.parquet"
    left.write_bytes(b"PAR1abc")
    right.write_bytes(b"PAR1axcd")
    assert difference(left, right) == "7 bytes before, 8 now, first difference at byte 5"
