"""The loading of models: every tensor is accounted for."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import Repository
from reproduce.files import UserError
from reproduce.models.load import load_finetuned, load_pretrained

Change = Callable[[Any], Any]  # of the tensors of a file, by name


@pytest.fixture
def pretrained(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny masked language model: an encoder `bert.` without pooler, a head `cls.`"""
    return Path(shutil.copytree(tiny_model, tmp_path / "pretrained"))


def edit_weights(folder: Path, change: Change) -> None:
    """Give the model in `folder` the tensors that `change` makes of its own, by name."""
    path = folder / "model.safetensors"
    tensors = change(load_file(path))
    path.unlink()  # DVC links it to its cache
    save_file(tensors, path, metadata={"format": "pt"})


def rename(old: str, new: str) -> Change:
    return lambda tensors: {re.sub(old, new, name): tensor for name, tensor in tensors.items()}


def load(folder: Path, labels: tuple[str, ...] = ("NEGATIVE", "POSITIVE")) -> Any:
    torch.manual_seed(1)
    return load_pretrained(folder, folder, labels)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without(part: str) -> Change:
    return lambda old: {name: tensor for name, tensor in old.items() if part not in name}


def adding(name: str, *shape: int) -> Change:
    return lambda old: old | {name: torch.full(shape, 9.0)}


def test_weights_are_fp32_whatever_the_file_holds(pretrained: Path) -> None:
    edit_weights(pretrained, lambda old: {name: x.bfloat16() for name, x in old.items()})
    edit_config(pretrained, dtype="bfloat16")
    model = load(pretrained)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.dtype == torch.float32


@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_of_a_fine_tuned_checkpoint_is_dropped(
    pretrained: Path, capsys: pytest.CaptureFixture[str], classes: int
) -> None:
    """Even where it would fit; and so are the labels and the kind of problem in its config."""
    load(pretrained).save_pretrained(pretrained)
    expected = load(pretrained).classifier.weight
    edit_weights(pretrained, adding("classifier.weight", classes, 32))
    labels = {str(i): f"old {i}" for i in range(classes)}
    edit_config(pretrained, id2label=labels, problem_type="multi_label")
    model = load(pretrained)
    new, dropped = "new head of 2 output(s): ", "; dropped from the checkpoint: "
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{new}bert.pooler, classifier{dropped}cls"
    assert said[-1] == f"{new}classifier{dropped}classifier"
    assert torch.equal(model.classifier.weight, expected)
    assert model.config.label2id == {"NEGATIVE": 0, "POSITIVE": 1}
    assert model.config.problem_type == "single_label_classification"
    model = load(pretrained, labels=())
    assert model.classifier.weight.shape == (1, 32) and model.config.problem_type == "regression"


@pytest.mark.parametrize(
    "change", [rename(r"^bert\.", ""), adding("bert.embeddings.position_ids", 1, 128)]
)
def test_other_spellings_of_the_same_encoder_load_alike(pretrained: Path, change: Change) -> None:
    expected = load(pretrained).state_dict()
    edit_weights(pretrained, change)
    model = load(pretrained).state_dict()
    assert all(torch.equal(model[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (rename("^bert", "_orig_mod.bert"), "lacks {0} (of 37), instead has _orig_mod.{0}."),
        (without("layer.1."), "lacks bert.encoder.layer.1.attention.output.LayerNorm.bias (of 16)"),
        (adding("bert.encoder.layer.2.bias", 1), "has a useless bert.encoder.layer.2.bias."),
        (adding("bert.embeddings.word_embeddings.weight", 5, 32), "has a misshapen bert.embed"),
    ],
    ids=["another prefix", "a layer less", "a layer more", "another vocabulary"],
)
def test_an_encoder_that_does_not_fit_is_named(pretrained: Path, change: Change, says: str) -> None:
    edit_weights(pretrained, change)
    says = f"config.json: it {says.format('bert.embeddings.LayerNorm.bias')}"
    with pytest.raises(UserError, match=re.escape(says)):
        load(pretrained)


def test_a_config_that_no_model_can_have_is_one_message(pretrained: Path) -> None:
    edit_config(pretrained, num_attention_heads=0)
    with pytest.raises(UserError, match=f"^{pretrained} holds no model that can be read: .* zero"):
        load(pretrained)


@pytest.mark.parametrize("data", [None, b"x" * 100, b"\x10" + b"\0" * 7 + b"{"])
def test_a_damaged_file_is_one_message(pretrained: Path, data: bytes | None) -> None:
    file = pretrained / "model.safetensors"
    file.unlink()
    if data:
        file.write_bytes(data)
    says = f"^{pretrained} holds no model that can be read: .* Delete"
    with pytest.raises(UserError, match=says):
        load(pretrained)


def test_a_fine_tuned_model_must_be_whole(finished: Repository, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.path / "models/finetuned/tiny-1", tmp_path / "model"))
    model = load_finetuned(folder)
    assert not model.training and {p.dtype for p in model.parameters()} == {torch.float32}
    edit_weights(folder, without("classifier.bias"))
    with pytest.raises(UserError, match=r"only one of .* and config.json has classifier\.bias"):
        load_finetuned(folder)
