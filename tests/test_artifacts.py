"""Versions of a model: registered with Git tags, downloaded by name from a clone, through a bare repository and a directory remote."""

import sys
from pathlib import Path

import pytest

from conftest import ROOT, Repository, load_yaml

pytestmark = pytest.mark.usefixtures("warm")

FILES = ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def test_each_model_can_be_registered_under_its_name() -> None:
    entries = load_yaml(ROOT / "dvc.yaml")["artifacts"]
    assert set(entries) == set(load_yaml(ROOT / "params.yaml")["models"])
    for name, entry in entries.items():
        assert (
            entry["path"] == f"models/finetuned/{name}-${{seeds[0]}}" and entry["type"] == "model"
        )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_register_push_and_download_by_version(copy: Repository, tmp_path: Path) -> None:
    model = copy.path / "models/finetuned/tiny-1"

    def entry(data: dict[str, dict[str, dict[str, str]]]) -> None:
        data["artifacts"]["tiny"] = {"path": "models/finetuned/tiny-${seeds[0]}", "type": "model"}

    bare, push = tmp_path / "bare.git", (sys.executable, "-m", "tools.remotes", "push")
    copy.run("git", "init", "-q", "--bare", str(bare))
    copy.run("git", "remote", "add", "origin", str(bare))
    copy.run(sys.executable, "-m", "tools.remotes", "set", str(tmp_path / "remote"))
    copy.edit("dvc.yaml", entry)
    copy.run("git", "commit", "-qam", "an artifact")
    copy.run("gto", "register", "tiny", "--version", "v1.0.0")
    copy.run("gto", "assign", "tiny", "--version", "v1.0.0", "--stage", "prod")
    copy.run(*push)
    first = contents(model)
    copy.edit("catalog.yaml", lambda c: c["models"]["tiny"].update(license="mit"))
    assert sorted(copy.repro()) == [
        "download_tokenizer@tiny",
        "download_weights@tiny",
        "evaluate@tiny-1",
        "export@tiny",
        "report",
    ]
    copy.run("git", "commit", "-qam", "another card")
    copy.run("gto", "register", "tiny", "--version", "v1.1.0")
    copy.run(*push)
    second = contents(model)
    assert sorted(first) == FILES and {name for name in first if first[name] != second[name]} == {
        "README.md"
    }
    copy.run("git", "push", "-q", "--tags", "origin", "main")

    copy.run("git", "clone", "-q", str(bare), str(tmp_path / "clone"))
    clone = Repository(tmp_path / "clone", copy.env)
    clone.run(sys.executable, "-m", "tools.remotes", "set", str(tmp_path / "remote"))
    assert "v1.1.0" in clone.run("gto", "show").stdout
    for name, options, expected in (
        ("a", ["--rev", "v1.0.0"], first),
        ("b", ["--stage", "prod"], first),
        ("c", [], second),
    ):
        clone.run("dvc", "artifacts", "get", ".", "tiny", *options, "-o", name)
        assert contents(clone.path / name) == expected, options

    # Without a clone: the remote is named, because it is in no file of the repository.
    elsewhere = Repository(tmp_path, copy.env)
    remote = ["--remote", "store", "--remote-config", f"url={tmp_path / 'remote'}"]
    elsewhere.run(
        "dvc", "artifacts", "get", str(bare), "tiny", "--rev", "v1.0.0", "-o", "far", *remote
    )
    assert contents(tmp_path / "far") == first

    code = (
        (ROOT / "README.md")
        .read_text()
        .split("## Versions of a model")[1]
        .split("```python\n")[1]
        .split("```")[0]
    )
    done = clone.run(sys.executable, "-c", code.replace("minilm", "tiny"))
    assert contents(clone.path / "tiny") == first and "models/finetuned/tiny-1" in done.stdout
    clone.run("dvc", "pull", "-q", "finetune@tiny-1", "evaluate@tiny-1")
    assert contents(clone.path / "models/finetuned/tiny-1") == second
