"""Export: real graphs of tiny models in the real ONNX Runtime, against PyTorch; what is refused, and with which words."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import Here, Repository
from reproduce.files import UserError
from reproduce.models.onnx import CARRIED, FILES, check_runtime, check_source, export
from reproduce.models.onnx import export as stage
from reproduce.params import Export, validate
from stages.export import compare

PARAMS = Export(opset=20, per_channel=True, reduce_range=False)
TYPES = ["input_ids", "attention_mask", "token_type_ids"]
IDS = [
    [2, 40, 41, 3],
    [2, 50, 51, 52, 53, 54, 3],
    [2, 60, 3],
    [2, *range(30, 90), 3],
    [2, 44, 45, 46, 47, 3],
]


def make_source(folder: Path, tiny_model: Path, kind: str, labels: int = 2) -> Path:
    """A tiny classifier with random weights, biases included, as `finetune` leaves it."""
    from transformers import AutoModelForSequenceClassification, BertConfig, DistilBertConfig

    folder.mkdir(parents=True)
    size: dict[str, Any] = {"vocab_size": json.loads((tiny_model / "config.json").read_text())["vocab_size"],
                            "max_position_embeddings": 128, "num_labels": labels}  # fmt: skip
    if labels > 1:
        size["id2label"] = dict(enumerate(["NEGATIVE", "POSITIVE", "NEUTRAL"][:labels]))
    config = (
        DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64, **size)
        if kind == "distilbert"
        else BertConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, **size
        )
    )
    torch.manual_seed(11)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny_model / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def sources(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("sources")
    return {
        kind: make_source(place / f"{kind}-1", tiny_model, kind) for kind in ("bert", "distilbert")
    }


@pytest.fixture(scope="module")
def exported(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("exported")
    for kind, source in sources.items():
        (place / kind).mkdir()
        assert export(source, place / kind, PARAMS) == (TYPES if kind == "bert" else TYPES[:2])
    return {kind: place / kind for kind in sources}


def padded(left: bool = False) -> dict[str, np.ndarray]:
    longest = max(map(len, IDS))
    gaps = [[0] * (longest - len(ids)) for ids in IDS]
    ids = [gap + list(i) if left else list(i) + gap for i, gap in zip(IDS, gaps, strict=True)]
    mask = [
        gap + [1] * len(i) if left else [1] * len(i) + gap for i, gap in zip(IDS, gaps, strict=True)
    ]
    types = [[0] * (longest // 2) + [1] * (longest - longest // 2)] * len(IDS)
    return {
        name: np.array(rows, np.int64) for name, rows in zip(TYPES, (ids, mask, types), strict=True)
    }


def torch_logits(source: Path, batch: dict[str, np.ndarray]) -> np.ndarray:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        str(source), dtype=torch.float32
    ).eval()
    with torch.inference_mode():
        found: np.ndarray = model(
            **{name: torch.from_numpy(rows) for name, rows in batch.items()}
        ).logits.numpy()
    return found


def graph(path: Path) -> Any:
    import onnx

    return onnx.load(path)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_inputs_are_those_of_the_model_and_batch_and_sequence_are_free(
    exported: dict[str, Path], kind: str
) -> None:
    for file in FILES.values():
        model = graph(exported[kind] / file)
        found = {
            node.name: [d.dim_param for d in node.type.tensor_type.shape.dim]
            for node in model.graph.input
        }
        assert found == {
            name: ["batch", "sequence"] for name in (TYPES if kind == "bert" else TYPES[:2])
        }
        assert [node.name for node in model.graph.output] == ["logits"]
        assert {entry.domain: entry.version for entry in model.opset_import}[""] == 20
    assert set(CARRIED) < {path.name for path in exported[kind].iterdir()}


@pytest.mark.parametrize("form", ["onnx", "optimized"])
@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_fp32_computes_what_pytorch_does_whichever_side_is_padded(
    sources: dict[str, Path], exported: dict[str, Path], kind: str, form: str
) -> None:
    from onnxruntime import InferenceSession

    session = InferenceSession(
        str(exported[kind] / FILES[form]), providers=["CPUExecutionProvider"]
    )
    names = {node.name for node in session.get_inputs()}
    for left in (False, True):
        batch = {name: rows for name, rows in padded(left).items() if name in names}
        expected = torch_logits(sources[kind], batch)
        np.testing.assert_allclose(session.run(["logits"], batch)[0], expected, atol=2e-5)
        assert np.ptp(expected) > 0.05, "the sentences must differ for this to prove anything"
    one = {name: rows[:1, :1] for name, rows in padded().items() if name in names}
    np.testing.assert_allclose(
        session.run(["logits"], one)[0], torch_logits(sources[kind], one), atol=2e-5
    )


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_the_graph_is_fused_and_int8_holds_every_large_matrix_as_bytes(
    exported: dict[str, Path], kind: str
) -> None:
    from onnx import TensorProto

    plain, fused, int8 = (graph(exported[kind] / file).graph for file in FILES.values())
    assert {node.domain for node in plain.node} == {""}
    operators = [node.op_type for node in fused.node]
    assert operators.count("Attention") == 2 and operators.count("SkipLayerNormalization") == 4
    assert operators.count("BiasGelu") == 2 and "Softmax" not in operators
    assert [node.op_type for node in int8.node].count("QAttention") == 2
    large = [tensor for tensor in int8.initializer if np.prod(tensor.dims) >= 32 * 32]
    assert len(large) >= 8
    assert {tensor.data_type for tensor in large if tensor.dims[0] != 128} <= {
        TensorProto.INT8,
        TensorProto.UINT8,
    }
    size = {file: (exported[kind] / file).stat().st_size for file in FILES.values()}
    assert (
        size["model_quantized.onnx"] < 0.6 * size["model_optimized.onnx"]
    )  # tiny matrices, so the graph itself weighs


def test_two_exports_from_different_folders_are_the_same_bytes(
    sources: dict[str, Path], exported: dict[str, Path], tmp_path: Path
) -> None:
    elsewhere = shutil.copytree(sources["distilbert"], tmp_path / "some/other/place")
    (tmp_path / "again").mkdir()
    export(elsewhere, tmp_path / "again", PARAMS)
    names = sorted(path.name for path in exported["distilbert"].iterdir())
    assert names == sorted([*FILES.values(), *CARRIED, "ort_config.json"])
    for name in names:
        data = (tmp_path / "again" / name).read_bytes()
        assert data == (exported["distilbert"] / name).read_bytes(), name
        assert b"site-packages" not in data and str(tmp_path).encode() not in data, name


def test_forms_are_compared_with_pytorch_sentence_by_sentence(
    sources: dict[str, Path], exported: dict[str, Path]
) -> None:
    labels = [0.0, 1.0, 0.0, 1.0, 1.0]
    found = compare(sources["bert"], exported["bert"], IDS, None, labels, ["accuracy", "f1"])
    assert list(found) == ["pytorch", *FILES]
    expected = [torch_logits(sources["bert"], {"input_ids": np.array([ids])})[0] for ids in IDS]
    right = sum(
        int(np.argmax(logits) == label) for logits, label in zip(expected, labels, strict=True)
    )
    for form in ("pytorch", "onnx", "optimized"):
        assert (
            found[form]["correct"] == right
            and found[form]["accuracy"] == found[form]["score"] == right / 5
        )
    for form, file in FILES.items():
        assert found[form]["bytes"] == (exported["bert"] / file).stat().st_size
    assert found["onnx"]["other_labels"] == found["optimized"]["other_labels"] == 0
    assert (
        0
        < found["onnx"]["largest_logit_difference"]
        < 2e-5
        < found["int8"]["largest_logit_difference"]
        < 1
    )


def test_pairs_and_numbers(tiny_model: Path, tmp_path: Path) -> None:
    """A model of one number, whose pairs are told apart by token types."""
    source = make_source(tmp_path / "regression-1", tiny_model, "bert", labels=1)
    check_source(source, [], "stsb")
    (tmp_path / "out").mkdir()
    export(source, tmp_path / "out", PARAMS)
    types = [[0] * (len(ids) // 2) + [1] * (len(ids) - len(ids) // 2) for ids in IDS]
    found = compare(source, tmp_path / "out", IDS, types, [0.0, 1.0, 2.5, 4.0, 5.0], ["pearson"])
    assert found["onnx"]["pearson"] == pytest.approx(found["pytorch"]["pearson"], abs=1e-4)
    assert found["optimized"]["largest_logit_difference"] < 2e-5
    assert "other_labels" not in found["onnx"] and "correct" not in found["onnx"]
    untold = compare(source, tmp_path / "out", IDS, None, [0.0, 1.0, 2.5, 4.0, 5.0], ["pearson"])
    assert untold["onnx"]["pearson"] != found["onnx"]["pearson"], "token types must reach both"


def test_fp32_that_gives_another_label_is_refused(
    sources: dict[str, Path], exported: dict[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    """The graph of one model, the weights of another: as if the exporter had made a mistake."""
    from safetensors.torch import load_file, save_file

    wrong = shutil.copytree(sources["bert"], tmp_path / "wrong-1")
    weights = load_file(wrong / "model.safetensors")
    weights["classifier.weight"], weights["classifier.bias"] = (
        -weights["classifier.weight"],
        -weights["classifier.bias"],
    )
    save_file(weights, wrong / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        UserError,
        match=r"model.onnx gives another label than PyTorch on 5 of 5 sentences.*fp32 must agree",
    ):
        compare(wrong, exported["bert"], IDS, None, [0.0] * 5, ["accuracy"])


# ------------------------------------------------------------------------------------------------------------- bad input


def test_a_source_that_lacks_something_is_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    remedy = "Run `dvc repro finetune@bert-1`, or `dvc pull finetune@bert-1`."
    for name, message in (
        ("model.safetensors", f"has no model.safetensors. {remedy}"),
        ("config.json", f"has no config.json. {remedy}"),
        (
            "tokenizer.json",
            "has no tokenizer.json: an exported model without its tokenizer cannot read a sentence.",
        ),
        (
            "tokenizer_config.json",
            "has no tokenizer_config.json: an exported model without its tokenizer",
        ),
    ):
        source = shutil.copytree(sources["bert"], tmp_path / name / "bert-1")
        (source / name).unlink()
        with pytest.raises(UserError) as error:
            check_source(source, ["NEGATIVE", "POSITIVE"], "sst2")
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (["entailment", "not_entailment"], "entailment, not_entailment"),
        (["POSITIVE", "NEGATIVE"], "POSITIVE, NEGATIVE"),  # the order counts
        (["NEGATIVE", "POSITIVE", "NEUTRAL"], "NEGATIVE, POSITIVE, NEUTRAL"),
        ([], "one output, a number"),
    ],
)
def test_a_model_with_other_labels_is_refused(
    sources: dict[str, Path], labels: list[str], wanted: str
) -> None:
    check_source(sources["bert"], ["NEGATIVE", "POSITIVE"], "sst2")
    with pytest.raises(UserError) as error:
        check_source(sources["bert"], labels, "rte")
    assert (
        f"has the labels NEGATIVE, POSITIVE, but dataset rte has {wanted}: the model was fine-tuned"
        in str(error.value)
    )


def test_an_opset_that_onnx_runtime_does_not_know_is_refused(tmp_path: Path) -> None:
    check_runtime(PARAMS, tmp_path)
    with pytest.raises(
        UserError,
        match=r"params.yaml: export.opset 99: ONNX Runtime [\d.]+ knows 18 to \d\d\. Choose one of these",
    ):
        check_runtime(PARAMS.model_copy(update={"opset": 99}), tmp_path)
    with pytest.raises(
        UserError,
        match=r"params.yaml: export.opset: input should be greater than or equal to 18 \(found 17\)",
    ):
        validate(
            Export, {"opset": 17, "per_channel": True, "reduce_range": False}, "params.yaml: export"
        )


def test_an_opset_that_the_exporter_does_not_reach_is_refused(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    """The exporter itself leaves such a graph at an older opset and only logs a warning."""
    from onnx.defs import onnx_opset_version

    newest = PARAMS.model_copy(update={"opset": onnx_opset_version()})
    with pytest.raises(
        UserError,
        match=rf"export.opset {newest.opset}: PyTorch's exporter .* left the graph at \d\d\. Choose a",
    ):
        export(sources["distilbert"], tmp_path, newest)


def test_a_processor_that_cannot_multiply_bytes_is_refused_or_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(stage, "processor_flags", lambda: frozenset({"sse4_2"}))
    with pytest.raises(UserError, match="this processor has no instructions for it"):
        check_runtime(PARAMS, tmp_path)
    monkeypatch.setattr(stage, "processor_flags", lambda: frozenset({"avx2"}))
    check_runtime(PARAMS, tmp_path)
    assert "no VNNI" in capsys.readouterr().out
    check_runtime(
        PARAMS.model_copy(update={"reduce_range": True}), tmp_path
    )  # seven bits: no sum can saturate
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(stage, "processor_flags", lambda: frozenset({"avx2", "avx512_vnni"}))
    check_runtime(PARAMS, tmp_path)
    assert capsys.readouterr().out == ""


# -------------------------------------------------------------------------------------------------------------- pipeline


def test_what_the_pipeline_leaves(finished: Repository) -> None:
    folder = finished.path / "models/exported/tiny-1"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*FILES.values(), *CARRIED, "ort_config.json", "README.md"]
    )
    found = finished.json("metrics/export/tiny-1.json")
    run = finished.json("metrics/runs/tiny-1.json")
    assert {key: found[key] for key in ("dataset", "model", "seed", "n", "metric", "opset", "inputs")} == {
        "dataset": "toy", "model": "tiny", "seed": 1, "n": 24, "metric": "accuracy", "opset": 20, "inputs": TYPES,
    }  # fmt: skip
    for form in ("pytorch", "onnx", "optimized"):
        assert (found["forms"][form]["correct"], found["forms"][form]["f1"]) == (
            run["correct"],
            run["f1"],
        )
    assert abs(found["forms"]["int8"]["correct"] - run["correct"]) <= 24
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert (
        text.startswith("---\nlicense: apache-2.0\n")
        and "NEGATIVE, POSITIVE" in text
        and ", ".join(TYPES) in text
    )
    assert (
        f"| model.onnx | {found['forms']['onnx']['bytes'] / 1e6:.1f} | {run['accuracy']:.4f} | 0 |"
        in text
    )


@pytest.mark.usefixtures("warm")  # what DVC runs; the second run is a process of its own
def test_a_setting_of_the_export_re_runs_it_and_a_second_run_writes_the_same_bytes(
    copy: Repository,
) -> None:
    files = {
        path.name: path.read_bytes() for path in (copy.path / "models/exported/tiny-1").iterdir()
    }
    copy.edit("params.yaml", lambda p: p["export"].update(per_channel=False))
    assert copy.repro() == ["export@tiny", "report"]
    changed = {
        path.name
        for path in (copy.path / "models/exported/tiny-1").iterdir()
        if path.read_bytes() != files[path.name]
    }
    assert changed == {"model_quantized.onnx", "ort_config.json", "README.md"}
    copy.run("git", "checkout", "--", "params.yaml")
    shutil.rmtree(copy.path / "models/exported")
    copy.stage("export", "--model", "tiny", "--seed", "1")
    assert {
        path.name: path.read_bytes() for path in (copy.path / "models/exported/tiny-1").iterdir()
    } == files
    assert copy.run("git", "status", "--porcelain", "metrics").stdout == ""


def test_the_stage_refuses_before_any_work(here: Here) -> None:
    """One message each; neither the exported model nor its metrics are touched."""
    exported, metrics = (
        here.path / "models/exported/tiny-1/model.onnx",
        here.path / "metrics/export/tiny-1.json",
    )
    before = exported.read_bytes(), metrics.read_bytes()
    run = ("export", "--model", "tiny", "--seed", "1")
    here.edit("params.yaml", lambda p: p["export"].update(opset=99))
    assert "params.yaml: export.opset 99: ONNX Runtime" in here.refused(*run)
    here.edit("params.yaml", lambda p: p["export"].update(opset="20"))
    assert "params.yaml: export.opset: input should be a valid integer" in here.refused(*run)
    here.edit("params.yaml", lambda p: p["export"].update(opset=20))
    assert (
        "models/finetuned/tiny-7 has no model.safetensors. Run `dvc repro finetune@tiny-7`"
        in here.refused(*run[:-1], "7")
    )
    tokenized = here.path / "data/tokenized/tiny/validation.parquet"
    tokenized.rename(tokenized.with_suffix(".away"))
    assert "validation.parquet is missing. Run `dvc repro tokenize@tiny`" in here.refused(*run)
    config = here.path / "models/finetuned/tiny-1/config.json"
    text = config.read_text().replace("POSITIVE", "GOOD")
    config.unlink()  # a link into the cache
    config.write_text(text)
    assert "has the labels NEGATIVE, GOOD, but dataset toy has NEGATIVE, POSITIVE" in here.refused(
        *run
    )
    (here.path / "models/finetuned/tiny-1/tokenizer.json").unlink()
    assert "has no tokenizer.json" in here.refused(*run)
    assert (exported.read_bytes(), metrics.read_bytes()) == before
