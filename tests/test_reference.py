"""The stage reference: others' checkpoint, downloaded, evaluated, their count beside ours."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, dump_yaml, load_yaml, pin
from hub import COMMIT, face, serving
from reproduce.files import UserError

SOURCE = "test-org/finetuned"


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_model: Path) -> Path:
    """A fine-tuned model in the layout of the authors': vocab.txt and no tokenizer.json."""
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(
        str(tiny_model), id2label={0: "NEGATIVE", 1: "POSITIVE"}
    )
    folder = tmp_path / "finetuned"
    model.save_pretrained(str(folder))
    for name in ("vocab.txt", "tokenizer_config.json"):
        shutil.copyfile(tiny_model / name, folder / name)
    return folder


@pytest.fixture
def project(tmp_path: Path, checkpoint: Path, tiny_model: Path) -> Path:
    """published.yaml and catalog.yaml of a toy dataset, whose tokenizer is the tiny model's."""
    folder = tmp_path / "project"
    folder.mkdir()
    published, catalog = (load_yaml(ROOT / name) for name in ("published.yaml", "catalog.yaml"))
    names = ("model.safetensors", "config.json", "tokenizer_config.json", "vocab.txt")
    published["reference"].update(
        dataset="pocket", tokenizer="tiny", correct=count(checkpoint, tiny_model),
        sources=[{"hub": SOURCE, "revision": COMMIT}],
        files={name: pin(checkpoint / name) for name in names},
    )  # fmt: skip
    files = ("config.json", "tokenizer.json", "tokenizer_config.json")
    catalog["models"]["tiny"] = {
        "sources": [{"folder": str(tiny_model)}],
        "tokenizer": {name: pin(tiny_model / name) for name in files},
        "weights": {"model.safetensors": pin(tiny_model / "model.safetensors")},
    }
    dump_yaml(folder / "published.yaml", published)
    dump_yaml(folder / "catalog.yaml", catalog)
    shutil.copytree(ROOT / "data/pocket", folder / "data/pocket")
    return folder


def sentences() -> list[list[str]]:
    lines = (ROOT / "data/pocket/validation.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return [line.split("\t") for line in lines]


def count(checkpoint: Path, tiny_model: Path) -> int:
    """What it has right, each sentence alone, by transformers and nothing of ours."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(tiny_model))
    model = AutoModelForSequenceClassification.from_pretrained(str(checkpoint)).eval()
    right = 0
    with torch.inference_mode():
        for text, label in sentences():
            inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=128)
            right += int(model(input_ids=inputs["input_ids"]).logits.argmax()) == int(label)
    return right


def run(project: Path, hub: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    from stages.reference import RESULT, main

    monkeypatch.chdir(project)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    face(monkeypatch, hub, project.parent)
    monkeypatch.setattr(sys, "argv", ["reference"])
    main()
    return dict(json.loads(RESULT.read_text()))


@pytest.mark.parametrize("apart", [0, 3])
def test_a_checkpoint_of_that_layout_is_evaluated_from_the_hub(
    project: Path, checkpoint: Path, apart: int, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    published = load_yaml(project / "published.yaml")
    published["reference"]["correct"] += apart
    dump_yaml(project / "published.yaml", published)
    with serving() as hub:
        hub.add(SOURCE, checkpoint)
        result = run(project, hub.url, monkeypatch)
    assert (result["apart"], result["sentences"]) == (apart, len(sentences()))
    assert ("equal" if not apart else "3 sentence(s) apart") in capsys.readouterr().out


def test_without_a_hub_nothing_is_kept(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as hub, pytest.raises(UserError, match="no source has the files"):
        run(project, hub.url, monkeypatch)
    assert not (project / "reference").exists()


def test_another_vocabulary_is_refused(
    project: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (checkpoint / "vocab.txt").read_text(encoding="utf-8").splitlines()
    (checkpoint / "vocab.txt").write_text("\n".join([*words[:-2], words[-1], words[-2], ""]))
    published = load_yaml(project / "published.yaml")
    published["reference"]["files"]["vocab.txt"] = pin(checkpoint / "vocab.txt")
    dump_yaml(project / "published.yaml", published)
    with serving() as hub, pytest.raises(UserError, match="the vocabulary of tiny is not"):
        hub.add(SOURCE, checkpoint)
        run(project, hub.url, monkeypatch)


def test_it_is_no_stage_of_the_pipeline_and_nothing_depends_on_its_result() -> None:
    own = load_yaml(ROOT / "reference/dvc.yaml")["stages"]
    stages = load_yaml(ROOT / "dvc.yaml")["stages"]
    assert list(own) == ["reference"] and "reference" not in stages
    dependencies = {dependency for stage in stages.values() for dependency in stage.get("deps", [])}
    assert not {d for d in dependencies if "reference/result.json".startswith(d)}
