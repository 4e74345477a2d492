"""The repository itself: pins, lazy imports, the README's file tree and numbers, the network guard of the tests."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest

from conftest import ROOT, Repository, load_yaml

STAGES = sorted(load_yaml(ROOT / "dvc.yaml")["stages"])
MODULES = sorted(
    path
    for folder in ("reproduce", "stages", "tests", "benchmarks")
    for path in (ROOT / folder).glob("*.py")
)


def pins() -> dict[str, str]:
    lines = [
        line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()
    ]
    return dict(line.split("==") for line in lines if line)


def test_requirements_are_pinned_exactly_and_installed() -> None:
    assert pins()["torch"] == "2.13.0"
    for name, pinned in pins().items():
        assert version(name).split("+")[0] == pinned, name


def test_what_is_imported_is_required() -> None:
    """Packages that only come along with another one would vanish with it."""
    imported: set[str] = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    own = {"reproduce", "stages", "benchmarks", "conftest"} | {
        path.stem for path in (ROOT / "tests").glob("*.py")
    }
    distributions = packages_distributions()
    required = {name.lower().replace("_", "-") for name in pins()}
    for name in sorted(imported - own - sys.stdlib_module_names):
        assert {
            d.lower().replace("_", "-") for d in distributions[name]
        } & required or name == "ruamel", name


@pytest.mark.parametrize("stage", STAGES)
def test_help_is_quick_because_nothing_heavy_is_imported(stage: str) -> None:
    heavy = "torch, transformers, datasets, evaluate, pandas, pyarrow, numpy, huggingface_hub, dvclive, scipy, matplotlib, jinja2, onnx, onnxruntime"
    code = (
        f"import runpy, sys\nsys.argv = ['x', '--help']\n"
        f"try: runpy.run_module('stages.{stage}', run_name='__main__')\n"
        f"except SystemExit as e: assert not e.code, e.code\n"
        f"found = [m for m in '{heavy}'.split(', ') if m in sys.modules]\nassert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"python -m stages.{stage}" in done.stdout


def test_every_module_says_what_it_is() -> None:
    for path in MODULES:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path
    for stage in STAGES:
        assert f"Run as: python -m stages.{stage}" in (ROOT / "stages" / f"{stage}.py").read_text(
            encoding="utf-8"
        )


def test_the_readme_names_every_module_of_the_pipeline() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in MODULES:
        if path.parent.name in ("reproduce", "stages") and path.name != "__init__.py":
            assert re.search(rf"^  {path.name} ", text, re.MULTILINE), path


def test_committed_metrics_belong_to_the_committed_parameters() -> None:
    import json

    params = load_yaml(ROOT / "params.yaml")
    accuracy = json.loads((ROOT / "metrics/accuracy.json").read_text())
    assert (accuracy["dataset"], accuracy["split"]) == (params["dataset"], "validation")
    assert {
        name: list(map(int, model["by_seed"])) for name, model in accuracy["models"].items()
    } == {name: list(params["seeds"]) for name in params["models"]}
    locked = load_yaml(ROOT / "dvc.lock")["stages"]
    for path in (ROOT / "metrics/runs").glob("*.json"):
        assert f"evaluate@{path.stem}" in locked and f"finetune@{path.stem}" in locked
        run = json.loads(path.read_text())
        assert (
            accuracy["models"][run["model"]]["correct_by_seed"][str(run["seed"])] == run["correct"]
        )


def test_no_path_of_a_machine_in_results() -> None:
    for path in [
        *ROOT.glob("metrics/**/*.json"),
        *ROOT.glob("environment/*.json"),
        *ROOT.glob("benchmarks/results/*.json"),
    ]:
        text = path.read_text(encoding="utf-8")
        assert (
            str(Path.home()) + "/" not in text and "/tmp/" not in text and str(ROOT) not in text
        ), path


def test_the_guard_against_the_network_works(repository: Repository) -> None:
    """Every stage that the tests run has this guard; it must be able to fail."""
    code = "import socket; socket.create_connection(('127.0.0.1', 9))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=repository.env, capture_output=True, text=True
    )
    assert done.returncode == 97 and "NETWORK" in done.stderr
