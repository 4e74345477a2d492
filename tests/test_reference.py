"""The stage reference: others' checkpoint, downloaded, evaluated, their count beside ours."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import Here, pin
from hub import COMMIT, Hub, face, serving
from test_load import edit_weights

SOURCE = "test-org/finetuned"
FILES = ("model.safetensors", "config.json", "tokenizer_config.json", "vocab.txt")


@pytest.fixture
def checkpoint(here: Here, tiny_model: Path) -> Path:
    """Our model in the layout of the authors': vocab.txt and no tokenizer.json."""
    folder = here.path.parent / "finetuned"
    folder.mkdir()
    for name in FILES[:3]:
        shutil.copyfile(here.path / "models/finetuned/tiny-1" / name, folder / name)
    shutil.copyfile(tiny_model / "vocab.txt", folder / "vocab.txt")
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as server:
        face(monkeypatch, server.url, tmp_path)
        yield server


def publish(here: Here, checkpoint: Path, correct: int = 0) -> None:
    """Write into published.yaml that the checkpoint has so many right."""
    files = {name: pin(checkpoint / name) for name in FILES}
    changes = {"sources": [{"hub": SOURCE, "revision": COMMIT}], "files": files, "correct": correct}
    changes |= {"dataset": "toy", "tokenizer": "tiny"}
    here.edit("published.yaml", lambda data: data["reference"].update(changes))


def test_a_checkpoint_of_that_layout_is_evaluated_from_the_hub(
    here: Here, hub: Hub, checkpoint: Path
) -> None:
    """It gives the logits of the stage evaluate, but for a bias with which half are positive."""
    lines = (here.path / "predictions/tiny-1.csv").read_text().splitlines()[1:]
    _, labels, _, negative, positive = np.array([line.split(",") for line in lines], float).T
    bias = np.median(positive - negative)
    shift = torch.tensor([bias, 0.0], dtype=torch.float32)
    edit_weights(checkpoint, lambda old: old | {"classifier.bias": old["classifier.bias"] + shift})
    hub.add(SOURCE, checkpoint)
    correct = int(((positive - negative > bias) == labels).sum())
    for apart, says in ((0, "equal"), (3, "3 sentence(s) apart")):
        publish(here, checkpoint, correct + apart)
        assert says in here.stage("reference").stdout
        result = here.json("reference/result.json")
        assert (result["correct"], result["apart"]) == (correct, apart)
        assert result["sentences"] == len(lines) == 24


def test_without_a_hub_nothing_is_kept(here: Here, hub: Hub, checkpoint: Path) -> None:
    publish(here, checkpoint)
    assert "no source has the files" in here.refused("reference")
    assert not (here.path / "reference/result.json").exists()


def test_another_vocabulary_is_refused(here: Here, hub: Hub, checkpoint: Path) -> None:
    file = checkpoint / "vocab.txt"
    *words, last_but_one, last = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([*words, last, last_but_one, ""]))
    publish(here, checkpoint)
    hub.add(SOURCE, checkpoint)
    assert "the vocabulary of tiny is not" in here.refused("reference")
