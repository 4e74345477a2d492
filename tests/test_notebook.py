"""notebooks/colab.ipynb: every cell is run, with a folder in place of Drive, a local repository in place of the URL, a tiny model."""

import json
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell

from conftest import ROOT, Repository, in_place_of_venv

pytestmark = pytest.mark.usefixtures("warm")

NOTEBOOK = ROOT / "notebooks/colab.ipynb"


def read() -> Any:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    return notebook


def parameters(notebook: Any) -> int:
    """Where the one cell is that people edit."""
    (place,) = [
        i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])
    ]
    return place


def execute(repository: Repository, folder: Path, **values: object) -> Any:
    """Run all cells; `values` are assigned after the cell of the parameters. The environment that runs the tests is the .venv."""
    notebook = read()
    given = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    notebook.cells.insert(parameters(notebook) + 1, new_code_cell(given))
    home = folder / "jupyter"
    env = repository.env | in_place_of_venv(folder)
    env |= {"ALLOW_LOOPBACK": "1", "IPYTHONDIR": str(home), "JUPYTER_RUNTIME_DIR": str(home)}
    client = NotebookClient(
        notebook, kernel_name="python3", timeout=1500, resources={"metadata": {"path": str(folder)}}
    )
    return client.execute(env=env)


def printed(cell: Any) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def test_every_cell_runs(copy: Repository, tmp_path: Path) -> None:
    """The repository has one seed's results; the other is trained here. What an earlier session left on Drive is not computed again."""
    copy.edit("params.yaml", lambda p: p.update(seeds=[1, 2]))
    copy.run("git", "commit", "-qam", "two seeds")
    drive, clone = tmp_path / "drive" / "repro", tmp_path / "clone"
    copy.run(sys.executable, "-m", "tools.remotes", "set", str(drive))
    copy.run(sys.executable, "-m", "tools.remotes", "push")
    pushed = sum(1 for _ in drive.rglob("*"))

    done = execute(
        copy,
        tmp_path,
        REPOSITORY=str(copy.path),
        FOLDER=str(clone),
        DRIVE=str(drive),
        MODEL="tiny",
        SEED=2,
    )

    code = [cell for cell in done.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), (
        "a cell was skipped"
    )
    text = "\n".join(map(printed, code))
    ran = [line.split("'")[1] for line in text.splitlines() if line.startswith("Running stage ")]
    assert ran == ["finetune@tiny-2", "evaluate@tiny-2", "compare", "report"], text
    assert "no GPU (PyTorch " in text or "GPU: " in text
    assert f"remote store: {drive}" in text
    result = json.loads((clone / "metrics/accuracy.json").read_text())["models"]["tiny"]
    assert result["seeds_run"] == 2
    shown = "".join(
        output["data"].get("text/markdown", "")
        for cell in code
        for output in cell.outputs
        if "data" in output
    )
    assert f"{result['median']}" in shown
    assert sum(1 for _ in drive.rglob("*")) > pushed, "the new run was not pushed"
    assert " M metrics/accuracy.json" in text and "?? metrics/runs/tiny-2.json" in text


def test_without_an_address_it_says_what_to_do(copy: Repository, tmp_path: Path) -> None:
    with pytest.raises(
        CellExecutionError, match="REPOSITORY is not set: write the address of the repository"
    ):
        execute(copy, tmp_path, FOLDER=str(tmp_path / "clone"), DRIVE=str(tmp_path / "drive"))
    assert not (tmp_path / "drive").exists()


def test_a_failing_command_stops_the_notebook(copy: Repository, tmp_path: Path) -> None:
    with pytest.raises(CellExecutionError, match=r"exit code 128: .* git clone '/nowhere'"):
        execute(
            copy,
            tmp_path,
            REPOSITORY="/nowhere",
            FOLDER=str(tmp_path / "clone"),
            DRIVE=str(tmp_path / "drive"),
        )


def test_git_keeps_no_outputs() -> None:
    notebook = read()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert parameters(notebook) < notebook.cells.index(code[1])


def test_only_mounting_the_drive_depends_on_where_it_runs() -> None:
    """One `if` for Colab, one for what the reader must fill in; nothing else is conditional, so no cell is skipped."""
    import ast

    conditions = []
    for cell in read().cells:
        if cell.cell_type == "code":
            tree = ast.parse(cell.source)
            conditions += [ast.unparse(node.test) for node in tree.body if isinstance(node, ast.If)]
            assert not [node for node in tree.body if isinstance(node, ast.Try)]
    assert conditions == ["'google.colab' in sys.modules", "REPOSITORY.startswith('<')"]
