"""The stage `check`: what it hands out, what it stops before any shell or download; run by path."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import MODEL_FILES, ROOT, Here, Repository, load_yaml
from hub import contents

EVIL = ["1; touch x", "$(touch x)", "`touch x`", "' ; touch x; '", '" && touch x "']


@pytest.fixture
def here(repository: Repository) -> Here:
    return Here(repository.path, repository.env)


def test_it_hands_out_this_experiment_s_entries_and_pins(here: Here) -> None:
    """Whatever the catalog says of others."""
    here.stage("check")
    entry = here.json("data/checked/dataset.json")
    pins = {f"{split}.tsv": entry[split]["sha256"] for split in ("train", "validation")}
    assert here.json("data/checked/pins/dataset.json") == pins
    assert set(here.json("data/checked/pins/tiny.json")) == {*MODEL_FILES, "model.safetensors"}
    assert here.json("data/checked/models/tiny.json")["license"] == "apache-2.0"
    before = contents(here.path / "data/checked")
    here.edit("catalog.yaml", lambda data: data["models"]["bert"].update(license="mit"))
    here.stage("check")
    assert contents(here.path / "data/checked") == before


def test_models_must_be_among_those_that_are_benchmarked(here: Here) -> None:
    here.edit("params.yaml", lambda data: data["benchmark"].update(models=["other"]))
    assert here.refused("check").startswith("params.yaml: benchmark.models")


def test_a_command_in_params_is_refused_before_any_shell_sees_it(repository: Repository) -> None:
    repository.edit("params.yaml", lambda data: data.update(seeds=EVIL))
    done = repository.run("dvc", "repro", ok=False)
    assert done.returncode != 0 and "seeds.0: input should be a valid integer" in done.stderr
    assert not list(repository.path.rglob("x"))


@pytest.mark.parametrize(("key", "stage"), [("models", "download_weights"), ("seeds", "finetune")])
def test_a_command_in_params_is_one_word_to_the_shell(
    repository: Repository, key: str, stage: str
) -> None:
    """`-s` runs a stage without the check above it, if all that it reads is there."""
    change: dict[str, Any] = {"models": ["tiny"], "seeds": [1], key: EVIL}
    repository.edit("params.yaml", lambda data: data.update(change))
    overrides: dict[str, Any] = {value: {} for value in EVIL}
    repository.edit("params.yaml", lambda data: data["overrides"].update(overrides))
    for dep in load_yaml(repository.path / "dvc.yaml")["stages"][stage]["deps"]:
        for model in change["models"]:
            path = repository.path / dep.replace("${item.model}", model)
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    done = repository.run("dvc", "repro", "--single-item", "--keep-going", stage, ok=False)
    ran = done.stdout.replace("$LAUNCHER ", "").count("> python -m stages.")
    assert ran == len(EVIL) and done.returncode != 0
    assert not list(repository.path.rglob("x"))


@pytest.mark.parametrize("path", [Path("stages/compare.py"), Path("tools/pin.py")], ids=str)
def test_a_module_that_is_run_by_its_path_says_how_to_run_it(path: Path) -> None:
    done = subprocess.run([sys.executable, path], cwd=ROOT, capture_output=True, text=True)
    expected = f"python -m {path.parent}.{path.stem}\n"
    assert done.returncode == 1 and done.stderr.endswith(expected)
    assert len(done.stderr.splitlines()) == 1
