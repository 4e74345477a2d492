"""The stage finetune, what it keeps and what it refuses. Its loop: test_loop.py."""

import json
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from ruamel.yaml import YAML

from conftest import ROOT, Here, Repository, run_here
from reproduce.files import UserError
from reproduce.training import checkpoints, loop, recipe
from stages import finetune
from test_crash import MODEL, RUN, outputs
from test_loop import make_recipe

# Mean loss of steps 1-2, 3-4, ... of the tiny model, with seed 1 and conftest.py's recipe.
GOLDEN = [0.6905, 0.6921, 0.6691, 0.7017, 0.7019, 0.7022, 0.6877, 0.6814, 0.6870, 0.6651, 0.6789,
          0.6651]  # fmt: skip


# --- what the stage writes ---


def test_golden_losses_of_a_tiny_run(finished: Repository) -> None:
    """Two epochs of 12 steps. Tolerance: the order of sums differs between processors."""
    header, *rows = (finished.path / MODEL / "loss.tsv").read_text().splitlines()
    steps, losses = zip(*(row.split("\t") for row in rows), strict=True)
    assert header == "step\tloss" and [int(step) for step in steps] == list(range(2, 25, 2))
    assert [float(loss) for loss in losses] == pytest.approx(GOLDEN, abs=2e-3)


def test_what_it_ran_on_is_recorded_with_the_recipe(finished: Repository) -> None:
    facts = finished.json("environment/tiny-1.json")
    assert facts["recipe"] == recipe.recipe_digest(facts["run"])
    expected = {"device": "cpu", "precision": "fp32", "steps": 24, "replayed_steps": 0}
    expected |= {"resumed_at_step": 0, "not_deterministic": {}, "threads": 1, "git_dirty": False}
    assert {name: facts[name] for name in expected} == expected
    assert facts["last_loss"] == pytest.approx(GOLDEN[-1], abs=2e-3)
    assert facts["precision_reason"] == "params.yaml asks for it" and facts["device_name"]
    assert facts["ms_per_step"] > 0 and facts["peak_memory_mb"] > 100 and 0 < facts["padding"] < 0.2
    assert str(Path.home()) not in json.dumps(facts)


def test_a_short_one_without_a_commit_and_beside_a_file_of_others(here: Here) -> None:
    """Shorter than a logging window."""
    shutil.rmtree(here.path / ".git")
    here.run("git", "init", "-q")
    (here.path / MODEL / "notes.txt").write_text("mine")
    here.edit("params.yaml", lambda p: p["finetune"].update(log_every=500, epochs=1))
    said = here.stage("finetune", *RUN).stdout
    assert "models/finetuned/tiny-1: 12 steps in" in said
    assert (here.path / MODEL / "loss.tsv").read_text().startswith("step\tloss\n12\t")
    assert here.json("environment/tiny-1.json")["git_commit"] is None
    assert (here.path / MODEL / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_in_bf16_too(copy: Repository, here: Here) -> None:
    """For fp32, several tests of test_crash.py show it."""
    results = [outputs(copy)]
    copy.edit("params.yaml", lambda p: p["finetune"].update(precision="bf16"))
    for runner in (copy, here):
        shutil.rmtree(copy.path / "checkpoints", ignore_errors=True)
        said = runner.stage("finetune", *RUN).stdout
        assert "bf16 on cpu" in said and "taken over" not in said
        results.append(outputs(copy))
    assert results[1] == results[2]
    assert results[0]["model.safetensors"] != results[1]["model.safetensors"], "bf16 is another"


# --- what it keeps ---


def test_the_result_is_kept_until_the_next_stage_has_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finished = Path("checkpoints/tiny-1-0123456789ab/finished")
    (finished / "model").mkdir(parents=True)
    (finished / "model/model.safetensors").write_bytes(b"these")
    checkpoints.mark_complete(finished)
    for run, read in (("tiny-2", b"these"), ("tiny-1", b"others"), ("tiny-1", b"these")):
        assert checkpoints.is_complete(finished)
        Path("weights").write_bytes(read)
        with checkpoints.exclusive(finished.parent, wait=False):  # as one that takes it over
            checkpoints.forget_finished(run, Path("weights"))
        assert checkpoints.is_complete(finished)
        checkpoints.forget_finished(run, Path("weights"))
    assert not finished.parent.exists()


def test_clean_checkpoints_says_what_it_will_free_before_it_does(tmp_path: Path) -> None:
    ours, theirs = (tmp_path / f"checkpoints/{name}" for name in ("tiny-1-0123456789ab", "notes"))
    for folder in (ours, theirs):  # notes: no name that a training gives
        (folder / "checkpoint-16").mkdir(parents=True)
    (ours / "checkpoint-16/state.pt").write_bytes(bytes(2_300_000))
    says = (
        "checkpoints/tiny-1-0123456789ab: 2.3 MB, at step 16\n"
        "deleting 1 run(s) frees 2.3 MB; they would train from their start\n"
    )

    def clean(*arguments: str) -> str:
        return run_here(tmp_path, {}, "tools.clean_checkpoints", *arguments).stdout

    no = f"{says}nothing was deleted (answer y, or give --yes)\n"
    assert clean() == no and ours.exists()  # nobody is there to answer
    person = mock.patch("sys.stdin", mock.Mock(isatty=lambda: True))
    with person, mock.patch("builtins.input", side_effect=["", "n", "y"]):
        assert clean() == clean() == no and ours.exists()
        assert clean() == says and not ours.exists()
    assert clean("--yes") == "no checkpoints to delete\n" and theirs.is_dir()


# --- what it refuses ---


def test_a_missing_input_is_named_with_its_stage(here: Here) -> None:
    inputs = {
        "models/weights/tiny/model.safetensors": "download_weights@tiny",
        "models/tokenizers/tiny/config.json": "download_tokenizer@tiny",
        "models/tokenizers/tiny/tokenizer_config.json": "download_tokenizer@tiny",
        "data/tokenized/tiny/train.parquet": "tokenize@tiny",
        "data/checked/pins/dataset.json": "check",
    }
    for name, stage in inputs.items():
        (here.path / name).rename(here.path / "aside")
        says = f"{name} is missing. Run `dvc repro {stage}`, which makes it."
        assert here.refused("finetune", *RUN) == says
        (here.path / "aside").rename(here.path / name)


def test_not_enough_disk_is_found_before_training(tmp_path: Path) -> None:
    """Three checkpoints of 12 MB and the model of 4; what lies there needs no more room."""
    model: Any = torch.nn.Linear(1000, 1000)  # 1,001,000 parameters, 4.004 MB
    with mock.patch.object(shutil, "disk_usage") as usage:
        usage.return_value.free = 40_041_000
        checkpoints.check_disk(model, tmp_path)
        usage.return_value.free = 40_039_000
        with pytest.raises(UserError, match=r"not enough disk: .* needs 40 MB more, 40 MB are"):
            checkpoints.check_disk(model, tmp_path)
        for step in (10, 20):
            (tmp_path / f"checkpoint-{step}").mkdir()
            (tmp_path / f"checkpoint-{step}" / checkpoints.STATE).write_bytes(bytes(12_012_000))
        usage.return_value.free = 16_017_000
        checkpoints.check_disk(model, tmp_path)
        usage.return_value.free = 16_015_000
        with pytest.raises(UserError, match="needs 16 MB more"):
            checkpoints.check_disk(model, tmp_path)


def test_memory_that_runs_out_names_what_to_change_and_keeps_the_batch(here: Here) -> None:
    with mock.patch.object(loop, "train", side_effect=torch.OutOfMemoryError("out of memory")):
        assert here.refused("finetune", *RUN).startswith(
            "out of memory with 8 sentence(s) at a time. Set finetune.accumulation to 2: "
            "4 at a time, and still 8 a step"
        )
    one_by_one = make_recipe(batch_size=32, accumulation=32)
    assert "Lower tokenize.max_length" in finetune.less_memory(one_by_one)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc has settings")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    """256 MB taken and freed: what a process has then, with the settings of stages/ and without."""

    def resident(package: str) -> int:
        code = f"import {package}, re; taken = b'x' * 256_000_000; del taken; print(re.search("
        code += "r'VmRSS:\\s+(\\d+)', open('/proc/self/status').read())[1])"
        command = [sys.executable, "-c", code]
        # Without the caller's environment: MALLOC_* and LD_PRELOAD may change malloc.
        done = subprocess.run(command, cwd=ROOT, env={}, capture_output=True, text=True)
        return int(done.stdout)

    assert resident("json") < 128_000 and resident("stages") >= 250_000  # in kB


# --- the recipe ---


def test_the_digest_follows_all_that_decides_a_run_and_nothing_else() -> None:
    settings = make_recipe().model_dump()
    base: dict[str, Any] = {"dataset": "toy", "selection": {"holdout": 0, "train": 0}}
    base |= {"tokenize": {"max_length": 128}, "finetune": settings, "tasks": {"toy": {"epochs": 2}}}
    base |= {"overrides": {"tiny": {"epochs": 3}, "other": {}}}
    pins = {"dataset": {"train.tsv": "1"}, "model": {"model.safetensors": "2"}}

    def digest(model: str = "tiny", seed: int = 1, data: str = "1", **params: Any) -> str:
        used = {**pins, "dataset": {"train.tsv": data}}
        return recipe.recipe_digest(recipe.run_recipe(base | params, model, seed, used))

    equal = {digest(), digest(machine={"checkpoint_every": 1}), digest(models=["tiny"])}
    equal |= {digest(tasks={"toy": {}, "sst2": {}}), digest(finetune=settings | {"epochs": 2})}
    assert len(equal) == 1 and all(re.fullmatch(r"[0-9a-f]{16}", one) for one in equal)
    others = {digest("other"), digest(seed=2), digest(data="3"), digest(tokenize={"max_length": 9})}
    others |= {digest(selection={"holdout": 9, "train": 0}), digest(overrides={"tiny": {}})}
    others |= {digest(finetune=settings | {"log_every": 2})}
    assert len(others - equal) == 7


@pytest.mark.parametrize(
    ("gpu", "decisive", "indifferent"),
    [(None, ["cpu", "threads"], ["driver", "cuda"]), ("T4", ["driver", "cuda"], ["threads"])],
)
def test_a_checkpoint_belongs_to_what_changes_the_bits(
    finished: Repository, gpu: str | None, decisive: list[str], indifferent: list[str]
) -> None:
    facts = finished.json("environment/tiny-1.json") | {"gpu": gpu}
    key = recipe.checkpoint_key(facts, [])
    for name in ("recipe", "precision", *decisive):
        assert recipe.checkpoint_key(facts | {name: "other"}, []) != key
    for package in ("torch", "transformers"):
        packages = facts["packages"] | {package: "other"}
        assert recipe.checkpoint_key(facts | {"packages": packages}, []) != key
    for name in ("git_commit", *indifferent):
        assert recipe.checkpoint_key(facts | {name: "other"}, []) == key


def test_a_checkpoint_belongs_to_the_code_of_its_training(finished: Repository) -> None:
    """To what DVC trains again for, too; and to each of its files, here one after another."""
    stage = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]["finetune"]
    code = [path for path in stage["deps"] if path.startswith(("stages", "reproduce"))]
    named = {file for path in code for file in [ROOT / path, *(ROOT / path).glob("*.py")]}
    assert set(recipe.CODE) == {file for file in named if file.is_file()}
    facts = finished.json("environment/tiny-1.json")
    keys = set()
    for changed in (None, *recipe.CODE):
        digest = lambda path: "other" if path == changed else "same"  # noqa: B023, E731
        with mock.patch.object(recipe, "sha256", digest):
            keys.add(recipe.checkpoint_key(facts, []))
    assert len(keys) == 1 + len(recipe.CODE)
