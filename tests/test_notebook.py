"""notebooks/colab.ipynb runs from top to bottom: a folder for Drive, a tiny model, this Python."""

import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell

from conftest import ROOT, Repository, environment


def read() -> Any:
    notebook = nbformat.read(ROOT / "notebooks/colab.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


def execute(env: dict[str, str], folder: Path, **values: object) -> Any:
    """Run all cells; `values` are assigned after the cell of the parameters."""
    notebook = read()
    (place,) = [i for i, cell in enumerate(notebook.cells) if cell.metadata.get("tags")]
    lines = [f"{name} = {value!r}" for name, value in values.items()]
    notebook.cells.insert(place + 1, new_code_cell("\n".join(lines)))
    client = NotebookClient(notebook, kernel_name="python3", timeout=900,
                            resources={"metadata": {"path": str(folder)}})  # fmt: skip
    home = {"IPYTHONDIR": str(folder / "ipython"), "JUPYTER_RUNTIME_DIR": str(folder / "jupyter")}
    # The Makefile's PYTHON makes .venv; `true` makes none, and this Python is on PATH.
    return client.execute(env={**env, **home, "PYTHON": "true"})


@pytest.mark.slow
def test_every_cell_runs_and_takes_what_an_earlier_session_left(
    copy: Repository, tmp_path: Path
) -> None:
    copy.edit("params.yaml", lambda p: p.update(seeds=[1, 2]))
    copy.run("git", "commit", "-qam", "two seeds")
    drive, clone = tmp_path / "drive/repro", tmp_path / "clone"
    copy.run(sys.executable, "-m", "tools.remotes", "set", str(drive))
    copy.run(sys.executable, "-m", "tools.remotes", "push")

    values = {"REPOSITORY": str(copy.path), "FOLDER": str(clone), "DRIVE": str(drive)}
    done = execute(copy.env, tmp_path, **values, MODEL="tiny", SEED=2)

    code = [cell for cell in done.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    text = "".join(output.get("text", "") for output in outputs)
    ran = [line.split("'")[1] for line in text.splitlines() if line.startswith("Running stage ")]
    assert "finetune@tiny-2" in ran and "finetune@tiny-1" not in ran
    assert "predictions/tiny-2.csv" in (drive / "results.patch").read_text()
    assert any("text/markdown" in output.get("data", {}) for output in outputs)


def test_without_an_address_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CellExecutionError, match="write your repository's address above"):
        execute(environment(tmp_path), tmp_path, DRIVE=str(tmp_path / "drive"))
    assert not (tmp_path / "drive").exists()


def test_git_keeps_no_outputs() -> None:
    code = [cell for cell in read().cells if cell.cell_type == "code"]
    assert code and all(cell.outputs == [] and cell.execution_count is None for cell in code)
