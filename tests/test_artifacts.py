"""Versions of a model: registered with Git tags, fetched by name from a clone and from outside."""

import sys
from pathlib import Path

import pytest

from conftest import ROOT, Repository, load_yaml


def test_each_model_can_be_registered_under_its_name() -> None:
    entries = load_yaml(ROOT / "dvc.yaml")["artifacts"]
    assert set(entries) == set(load_yaml(ROOT / "params.yaml")["models"])
    for name, entry in entries.items():
        assert entry["path"] == f"models/finetuned/{name}-${{seeds[0]}}"
        assert entry["type"] == "model"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_a_version_is_pushed_and_fetched_by_name(copy: Repository, tmp_path: Path) -> None:
    """Two versions, which differ in the model card; each is fetched as it was registered."""
    artifact = {"path": "models/finetuned/tiny-${seeds[0]}", "type": "model"}
    bare, store = str(tmp_path / "bare.git"), str(tmp_path / "store")
    copy.run("git", "init", "-q", "--bare", bare)
    copy.run("git", "remote", "add", "origin", bare)
    copy.run(sys.executable, "-m", "tools.remotes", "set", store)
    copy.edit("dvc.yaml", lambda d: d["artifacts"].update(tiny=artifact))
    versions = {}
    for version, terms in (("v1.0.0", "apache-2.0"), ("v1.1.0", "mit")):
        copy.edit("catalog.yaml", lambda c, t=terms: c["models"]["tiny"].update(license=t))  # type: ignore[misc]
        copy.repro()
        copy.run("git", "add", "-A")
        copy.run("git", "commit", "-qm", version)
        copy.run("gto", "register", "tiny", "--version", version)
        copy.run(sys.executable, "-m", "tools.remotes", "push")
        versions[version] = contents(copy.path / "models/finetuned/tiny-1")
    first, second = versions.values()
    assert {name for name in first if first[name] != second[name]} == {"README.md"}
    copy.run("git", "push", "-q", "--tags", "origin", "main")

    outside = Repository(tmp_path, copy.env)
    remote = ["--remote", "store", "--remote-config", f"url={store}"]
    for version, expected in versions.items():
        get = ["dvc", "artifacts", "get", bare, "tiny", "--rev", version, "-o", version]
        outside.run(*get, *remote)
        assert contents(tmp_path / version) == expected
