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
import transformers

from conftest import Here, Repository
from reproduce.files import UserError
from reproduce.inputs.tokenized import Tokenized
from reproduce.models.load import load_finetuned
from reproduce.models.onnx import CARRIED, NotExported, export, exporting
from reproduce.models.runtime import FILES, Session, warn_of_saturation
from reproduce.params import Export
from stages import export as stage
from stages.export import compare, make_probes, readme

PARAMS = Export(opset=20, per_channel=True, reduce_range=False)
TYPES = ["input_ids", "attention_mask", "token_type_ids"]
IDS = [[2, 40, 41, 3], [2, *range(50, 55), 3], [2, 60, 3], [2, *range(30, 90), 3], [2, 44, 45, 3]]
NAMES = ["NEGATIVE", "POSITIVE"]
SPLIT = Tokenized(IDS, None, [0, 1, 0, 1, 1], NAMES)
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT |= {"intermediate_size": 64, "max_position_embeddings": 128}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
DISTILBERT |= {"max_position_embeddings": 128}


def make_source(folder: Path, tiny: Path, architecture: str, **settings: Any) -> Path:
    """A tiny classifier with random weights, biases included, as `finetune` leaves it."""
    folder.mkdir(parents=True)
    names = {"id2label": dict(enumerate(NAMES))} if settings.get("num_labels", 2) == 2 else {}
    vocabulary = json.loads((tiny / "config.json").read_text())["vocab_size"]
    make = getattr(transformers, f"{architecture}Config")
    config = make(vocab_size=vocabulary, pad_token_id=0, **names, **settings)
    torch.manual_seed(11)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny / name, folder / name)
    return folder


def made(source: Path, out: Path) -> Path:
    out.mkdir()
    export(source, out, PARAMS)
    return out


@pytest.fixture(scope="module")
def sources(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("sources")
    return {
        "bert": make_source(place / "bert-1", tiny_model, "Bert", **BERT),
        "distilbert": make_source(place / "distilbert-1", tiny_model, "DistilBert", **DISTILBERT),
    }


@pytest.fixture(scope="module")
def exported(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("exported")
    return {kind: made(source, place / kind) for kind, source in sources.items()}


KINDS = pytest.mark.parametrize("kind", ["bert", "distilbert"])


# -------------------------------------------------------------------------------- what is written


@KINDS
@pytest.mark.parametrize("form", ["onnx", "optimized"])
@pytest.mark.parametrize("left", [False, True])
def test_fp32_computes_what_pytorch_does_whichever_side_is_padded(
    sources: dict[str, Path], exported: dict[str, Path], kind: str, form: str, left: bool
) -> None:
    length = max(map(len, IDS))
    rows = [[*ids, *[0] * (length - len(ids))] for ids in IDS]
    rows = [row[::-1] for row in rows] if left else rows
    batch = {"input_ids": torch.tensor(rows)}
    batch["attention_mask"] = (batch["input_ids"] > 0).long()
    if kind == "bert":
        batch["token_type_ids"] = (batch["input_ids"] > 45).long()
    model = load_finetuned(sources[kind])
    with torch.inference_mode():
        expected = model(**batch).logits.numpy()
    assert np.ptp(expected) > 0.05  # or equal sentences would prove nothing
    logits = Session(exported[kind] / FILES[form], model.config)(**batch).logits.numpy()
    np.testing.assert_allclose(logits, expected, atol=2e-5)


@KINDS
def test_graphs_are_fused_and_take_any_size(exported: dict[str, Path], kind: str) -> None:
    plain, fused, int8 = (onnx.load(exported[kind] / file).graph for file in FILES.values())
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
    sources: dict[str, Path], exported: dict[str, Path], tmp_path: Path
) -> None:
    elsewhere = shutil.copytree(sources["distilbert"], tmp_path / "some/other/place")
    files = made(elsewhere, tmp_path / "again").iterdir()
    again = {path.name: path.read_bytes() for path in files}
    assert again == {path.name: path.read_bytes() for path in exported["distilbert"].iterdir()}
    assert set(again) == {*FILES.values(), *CARRIED, "ort_config.json"}
    assert not any(b"site-packages" in data for data in again.values())


# ------------------------------------------------------------------------------------ the judgment


def test_forms_are_compared_with_pytorch_sentence_by_sentence(
    sources: dict[str, Path], exported: dict[str, Path]
) -> None:
    forms = compare(sources["bert"], exported["bert"], SPLIT, ["accuracy", "f1"])
    assert list(forms) == ["pytorch", *FILES]
    assert forms["onnx"]["other_labels"] == forms["optimized"]["other_labels"] == 0
    assert forms["onnx"]["bytes"] == (exported["bert"] / "model.onnx").stat().st_size
    difference = [forms[form]["largest_logit_difference"] for form in ("onnx", "int8")]
    assert difference[0] < 2e-5 < difference[1]


@pytest.mark.slow
def test_int8_keeps_positions_that_do_not_count_from_0(tiny_model: Path, tmp_path: Path) -> None:
    more = {**BERT, "max_position_embeddings": 140}
    source = make_source(tmp_path / "mpnet-1", tiny_model, "MPNet", **more)
    forms = compare(source, made(source, tmp_path / "out"), SPLIT, ["accuracy"])
    spread = forms["pytorch"]["logit_standard_deviation"]
    assert forms["int8"]["largest_logit_difference"] < spread


@pytest.mark.slow
def test_pairs_and_numbers(tiny_model: Path, tmp_path: Path) -> None:
    """A model of one number, whose pairs are told apart by token types."""
    source = make_source(tmp_path / "regression-1", tiny_model, "Bert", num_labels=1, **BERT)
    made(source, tmp_path / "out")
    types = [[0] * (len(ids) // 2) + [1] * (len(ids) - len(ids) // 2) for ids in IDS]
    split = Tokenized(IDS, types, [0.0, 1.0, 2.5, 4.0, 5.0], [])
    forms = compare(source, tmp_path / "out", split, ["pearson"])
    assert forms["optimized"]["largest_logit_difference"] < 2e-5
    assert "other_labels" not in forms["onnx"] and "correct" not in forms["onnx"]
    untyped = Tokenized(IDS, None, split.labels, [])
    other = compare(source, tmp_path / "out", untyped, ["pearson"])
    assert other["onnx"]["pearson"] != forms["onnx"]["pearson"]  # types reach the graph


@pytest.mark.parametrize(
    ("shape", "row", "where"),
    [([2], 0, "5 of 5"), ([128, 32], 100, "1 of 7")],  # the last bias; a position none reaches
    ids=["all labels agree", "validation agrees"],
)
def test_logits_that_are_off_are_refused(
    sources: dict[str, Path], exported: dict[str, Path], tmp_path: Path, shape: list[int],
    row: int, where: str,
) -> None:  # fmt: skip
    folder = shutil.copytree(exported["distilbert"], tmp_path / "off")
    model = onnx.load(folder / FILES["onnx"])
    tensor = next(t for t in model.graph.initializer if list(t.dims) == shape)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.reshape(shape[0], -1)[row, ::2] += 0.01 if shape == [2] else 10
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, folder / FILES["onnx"])
    message = f"^model.onnx gives other logits than PyTorch on {where}"
    with pytest.raises(NotExported, match=message):
        compare(sources["distilbert"], folder, SPLIT, ["accuracy"])


def test_a_graph_that_cannot_be_loaded_is_no_error_of_the_person(
    sources: dict[str, Path], exported: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(exported["bert"], tmp_path / "cut")
    os.truncate(folder / FILES["onnx"], 5000)
    with pytest.raises(NotExported, match=r"cannot load it: .* parsing failed\.$"):
        compare(sources["bert"], folder, SPLIT, ["accuracy"])


def test_probes_have_all_lengths_and_begin_and_end_as_sentences_do() -> None:
    probes = make_probes(SPLIT, 100)
    assert [len(ids) for ids in probes] == [3, 5, 8, 16, 32, 64, 100]
    assert {(ids[0], ids[-1]) for ids in probes} == {(2, 3)}


# --------------------------------------------------------------------------------- not exported

QWEN = {**BERT, "num_key_value_heads": 2}
WINDOWED = {**BERT, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
XLNET = {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}
CAUSAL = "its attention is causal or windowed: not every token sees all others"


@pytest.mark.parametrize(
    ("architecture", "settings", "reason"),
    [
        ("Qwen2", QWEN, CAUSAL),
        pytest.param("ModernBert", WINDOWED, CAUSAL, marks=pytest.mark.slow),
        pytest.param("XLNet", XLNET, "RuntimeError: ", marks=pytest.mark.slow),
    ],
)
def test_architectures_that_cannot_be_exported_have_one_reason(
    tiny_model: Path, tmp_path: Path, architecture: str, settings: dict[str, Any], reason: str
) -> None:
    source = make_source(tmp_path / "model-1", tiny_model, architecture, **settings)
    with pytest.raises(NotExported, match=f"^{reason}"), exporting():
        made(source, tmp_path / "out")


@pytest.mark.parametrize(
    "error", [OSError(28, "No space"), MemoryError(), RuntimeError("out of memory"), UserError("x")]
)
def test_what_the_machine_did_is_no_reason(error: Exception) -> None:
    with pytest.raises(type(error)), exporting():
        raise error


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("flags", "reduced", "warned"),
    [("sse4_1 avx2", False, True), ("sse4_1 avx2", True, False), ("avx_vnni", False, False)],
)
def test_a_processor_whose_sums_saturate_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: str, reduced: bool, warned: bool
) -> None:
    made = {"quantization": {"reduce_range": reduced}}
    (tmp_path / "ort_config.json").write_text(json.dumps(made))
    (tmp_path / "cpuinfo").write_text(f"model name\t: A\nflags\t: {flags}\n")
    warn_of_saturation(tmp_path, tmp_path / "cpuinfo")
    assert ("no VNNI or AMX" in capsys.readouterr().err) == warned


# ------------------------------------------------------------------------------------- the stage

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
    folder, metrics = here.path / "models/exported/tiny-1", here.path / "metrics/export/tiny-1.json"
    before = (folder / "model.onnx").read_bytes(), metrics.read_bytes()
    here.edit("params.yaml", lambda p: p["export"].update(opset="20"))
    assert "params.yaml: export.opset: input should be a valid integer" in here.refused(*RUN)
    here.edit("params.yaml", lambda p: p["export"].update(opset=20))
    assert "Run `dvc repro finetune@tiny-7`" in here.refused(*RUN, "--seed", "7")
    (here.path / "models/finetuned/tiny-1/tokenizer.json").rename(here.path / "aside")
    assert "tokenizer.json is missing. Run `dvc repro finetune@tiny-1`" in here.refused(*RUN)
    (here.path / "aside").rename(here.path / "models/finetuned/tiny-1/tokenizer.json")
    (here.path / "data/tokenized/tiny/validation.parquet").unlink()
    assert "Run `dvc repro tokenize@tiny`" in here.refused(*RUN)
    assert ((folder / "model.onnx").read_bytes(), metrics.read_bytes()) == before
