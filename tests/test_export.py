"""Export: real graphs of tiny models in ONNX Runtime, against PyTorch; what is not exported."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from conftest import Here, Repository
from reproduce.files import UserError
from reproduce.inputs.tokenized import Tokenized
from reproduce.models.load import load_finetuned
from reproduce.models.onnx import CARRIED, NotExported, export, exporting
from reproduce.models.runtime import FILES, Session, warn_of_saturation
from reproduce.params import Export
from stages import export as stage
from stages.export import compare, make_probes, readme

TYPES = ["input_ids", "attention_mask", "token_type_ids"]
IDS = [[2, 40, 41, 3], [2, *range(50, 55), 3], [2, 60, 3], [2, *range(30, 90), 3], [2, 44, 45, 3]]
NAMES = ["NEGATIVE", "POSITIVE"]
SPLIT = Tokenized(IDS, None, [0, 1, 0, 1, 1], NAMES)
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT |= {"intermediate_size": 64, "max_position_embeddings": 128}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
DISTILBERT |= {"max_position_embeddings": 128}


def make_source(folder: Path, tiny: Path, kind: str, **settings: Any) -> Path:
    """A tiny classifier with random weights, biases included, as `finetune` leaves it."""
    vocabulary = json.loads((tiny / "config.json").read_text())["vocab_size"]
    config = AutoConfig.for_model(kind, vocab_size=vocabulary, pad_token_id=0, **settings)
    torch.manual_seed(11)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny / name, folder / name)
    return folder


def made(source: Path, out: Path) -> Path:
    out.mkdir()
    export(source, out, Export(opset=20, per_channel=True, reduce_range=False))
    return out


Models = dict[str, tuple[Path, Path]]


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A fine-tuned model of each kind, and what was made of it."""
    place, models = tmp_path_factory.mktemp("models"), {}
    for kind, sizes in (("bert", BERT), ("distilbert", DISTILBERT)):
        source = make_source(place / f"{kind}-1", tiny_model, kind, **sizes)
        models[kind] = source, made(source, place / f"{kind}-exported")
    return models


KINDS = pytest.mark.parametrize("kind", ["bert", "distilbert"])


# --- what is written ---


@KINDS
@pytest.mark.parametrize("left", [False, True])
def test_fp32_computes_what_pytorch_does_whichever_side_is_padded(
    models: Models, kind: str, left: bool
) -> None:
    length = max(map(len, IDS))
    rows = [[*ids, *[0] * (length - len(ids))] for ids in IDS]
    rows = [row[::-1] for row in rows] if left else rows
    batch = {"input_ids": torch.tensor(rows)}
    batch["attention_mask"] = (batch["input_ids"] > 0).long()
    if kind == "bert":
        batch["token_type_ids"] = (batch["input_ids"] > 45).long()
    source, exported = models[kind]
    model = load_finetuned(source)
    with torch.inference_mode():
        expected = model(**batch).logits.numpy()
    assert np.ptp(expected) > 0.05  # or equal sentences would prove nothing
    for form in ("onnx", "optimized"):
        logits = Session(exported / FILES[form], model.config)(**batch).logits.numpy()
        np.testing.assert_allclose(logits, expected, atol=2e-5, err_msg=form)


@KINDS
def test_graphs_are_fused_and_take_any_size(models: Models, kind: str) -> None:
    plain, fused, int8 = (onnx.load(models[kind][1] / file).graph for file in FILES.values())
    sizes = {
        node.name: [size.dim_param for size in node.type.tensor_type.shape.dim]
        for node in int8.input
    }
    names = TYPES if kind == "bert" else TYPES[:2]
    assert sizes == {name: ["batch", "sequence"] for name in names}
    operators = [node.op_type for node in fused.node]
    assert {node.domain for node in plain.node} == {""}
    assert (operators.count("Attention"), operators.count("SkipLayerNormalization")) == (2, 4)
    assert operators.count("BiasGelu") == 2 and "Softmax" not in operators
    assert [node.op_type for node in int8.node].count("QAttention") == 2


@pytest.mark.slow
def test_two_exports_from_different_folders_are_the_same_bytes(
    models: Models, tmp_path: Path
) -> None:
    source, exported = models["distilbert"]
    elsewhere = shutil.copytree(source, tmp_path / "some/other/place")
    files = made(elsewhere, tmp_path / "again").iterdir()
    again = {path.name: path.read_bytes() for path in files}
    assert again == {path.name: path.read_bytes() for path in exported.iterdir()}
    assert set(again) == {*FILES.values(), *CARRIED, "ort_config.json"}
    assert not any(b"site-packages" in data for data in again.values())


# --- the judgment ---


def test_forms_are_compared_with_pytorch_sentence_by_sentence(models: Models) -> None:
    forms = compare(*models["bert"], SPLIT, ["accuracy", "f1"])
    assert list(forms) == ["pytorch", *FILES]
    assert forms["onnx"]["other_labels"] == forms["optimized"]["other_labels"] == 0
    assert forms["onnx"]["bytes"] == (models["bert"][1] / "model.onnx").stat().st_size
    difference = [forms[form]["largest_logit_difference"] for form in ("onnx", "int8")]
    assert difference[0] < 2e-5 < difference[1]


@pytest.mark.slow
def test_int8_keeps_positions_that_do_not_count_from_0(tiny_model: Path, tmp_path: Path) -> None:
    more = {**BERT, "max_position_embeddings": 140}
    source = make_source(tmp_path / "mpnet-1", tiny_model, "mpnet", **more)
    forms = compare(source, made(source, tmp_path / "out"), SPLIT, ["accuracy"])
    spread = forms["pytorch"]["logit_standard_deviation"]
    assert forms["int8"]["largest_logit_difference"] < spread


@pytest.mark.slow
def test_pairs_and_numbers(tiny_model: Path, tmp_path: Path) -> None:
    """A model of one number, whose pairs are told apart by token types."""
    source = make_source(tmp_path / "regression-1", tiny_model, "bert", num_labels=1, **BERT)
    out = made(source, tmp_path / "out")
    types = [[0] * (len(ids) // 2) + [1] * (len(ids) - len(ids) // 2) for ids in IDS]
    typed, untyped = (
        compare(source, out, Tokenized(IDS, each, [0.0, 1.0, 2.5, 4.0, 5.0], []), ["pearson"])
        for each in (types, None)
    )
    assert typed["optimized"]["largest_logit_difference"] < 2e-5
    assert "other_labels" not in typed["onnx"] and "correct" not in typed["onnx"]
    assert typed["onnx"]["pearson"] != untyped["onnx"]["pearson"]  # types reach the graph


@pytest.mark.parametrize(
    ("shape", "row", "where"),
    [([2], 0, "5 of 5"), ([128, 32], 100, "1 of 7")],  # the last bias; a position none reaches
    ids=["all labels agree", "validation agrees"],
)
def test_logits_that_are_off_are_refused(
    models: Models, tmp_path: Path, shape: list[int], row: int, where: str
) -> None:
    source, exported = models["distilbert"]
    folder = shutil.copytree(exported, tmp_path / "off")
    model = onnx.load(folder / FILES["onnx"])
    tensor = next(t for t in model.graph.initializer if list(t.dims) == shape)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.reshape(shape[0], -1)[row, ::2] += 0.01 if shape == [2] else 10
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, folder / FILES["onnx"])
    message = f"^model.onnx gives other logits than PyTorch on {where}"
    with pytest.raises(NotExported, match=message):
        compare(source, folder, SPLIT, ["accuracy"])


def test_a_graph_that_cannot_be_loaded_is_no_error_of_the_person(
    models: Models, tmp_path: Path
) -> None:
    source, exported = models["bert"]
    folder = shutil.copytree(exported, tmp_path / "cut")
    os.truncate(folder / FILES["onnx"], 5000)
    with pytest.raises(NotExported, match=r"cannot load it: .* parsing failed\.$"):
        compare(source, folder, SPLIT, ["accuracy"])


def test_probes_have_all_lengths_and_begin_and_end_as_sentences_do() -> None:
    probes = make_probes(SPLIT, 100)
    assert [len(ids) for ids in probes] == [3, 5, 8, 16, 32, 64, 100]
    assert {(ids[0], ids[-1]) for ids in probes} == {(2, 3)}


# --- what is not exported ---

QWEN = {**BERT, "num_key_value_heads": 2}
WINDOWED = {**BERT, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}


@pytest.mark.parametrize(("kind", "settings"), [("qwen2", QWEN), ("modernbert", WINDOWED)])
def test_causal_and_windowed_attention_is_not_exported(
    tiny_model: Path, tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    source = make_source(tmp_path / "model-1", tiny_model, kind, **settings)
    reason = "^its attention is causal or windowed: not every token sees all others"
    with pytest.raises(NotExported, match=reason), exporting():
        made(source, tmp_path / "out")


def test_the_first_cause_is_the_reason() -> None:
    with pytest.raises(NotExported, match=r"^KeyError: 'LSTM'$"), exporting():
        raise RuntimeError("failed to export") from KeyError("LSTM")


@pytest.mark.parametrize(
    "error", [OSError(28, "No space"), MemoryError(), RuntimeError("out of memory"), UserError("x")]
)
def test_what_the_machine_did_is_no_reason(error: Exception) -> None:
    with pytest.raises(type(error)), exporting():
        raise error


@pytest.mark.parametrize(
    ("flags", "reduced", "warned"),
    [("sse4_1 avx2", False, True), ("sse4_1 avx2", True, False), ("avx_vnni", False, False)],
)
def test_a_processor_whose_sums_saturate_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: str, reduced: bool, warned: bool
) -> None:
    facts = {"quantization": {"reduce_range": reduced}}
    (tmp_path / "ort_config.json").write_text(json.dumps(facts))
    (tmp_path / "cpuinfo").write_text(f"model name\t: A\nflags\t: {flags}\n")
    warn_of_saturation(tmp_path, tmp_path / "cpuinfo")
    assert ("no VNNI or AMX" in capsys.readouterr().err) == warned


# --- the stage ---

RUN = ("export", "--model", "tiny")


def test_what_the_pipeline_leaves(finished: Repository) -> None:
    facts = finished.json("metrics/export/tiny-1.json")
    assert facts["status"] == "exported" and (facts["n"], facts["inputs"]) == (24, TYPES)
    assert facts["recipe"] == finished.json("environment/tiny-1.json")["recipe"]
    folder = finished.path / "models/exported/tiny-1"
    names = {*FILES.values(), *CARRIED, "ort_config.json", "README.md"}
    assert {path.name for path in folder.iterdir()} == names
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text == readme(facts, NAMES, "apache-2.0") and "license: apache-2.0\n" in text


def test_a_model_that_is_not_exported_ends_in_a_loud_message_and_exit_code_0(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails, PyTorch itself on a probe too: the kind of error is named."""
    monkeypatch.setattr(stage, "predict_padded", lambda *_: [][1])
    done = here.stage(*RUN)
    facts = here.json("metrics/export/tiny-1.json")
    assert facts["status"] == "not exported: IndexError: list index out of range"
    assert facts["forms"] == {} and facts["recipe"]
    assert f"WARNING: tiny-1 is {facts['status']}. Use it with PyTorch" in done.stderr
    (card,) = (here.path / "models/exported/tiny-1").iterdir()
    assert card.name == "README.md" and facts["status"] in card.read_text(encoding="utf-8")


def test_the_stage_refuses_before_any_work(here: Here) -> None:
    """One message each; neither the exported model nor its metrics are touched."""
    outputs = [here.path / "models/exported/tiny-1/model.onnx"]
    outputs.append(here.path / "metrics/export/tiny-1.json")
    before = [path.read_bytes() for path in outputs]
    assert "Run `dvc repro finetune@tiny-7`" in here.refused(*RUN, "--seed", "7")
    (here.path / "data/tokenized/tiny/validation.parquet").unlink()
    assert "Run `dvc repro tokenize@tiny`" in here.refused(*RUN)
    (here.path / "models/finetuned/tiny-1/tokenizer.json").unlink()
    assert "tokenizer.json is missing. Run `dvc repro finetune@tiny-1`" in here.refused(*RUN)
    assert [path.read_bytes() for path in outputs] == before
