"""Export a fine-tuned model to ONNX: fp32, graph-optimised, int8."""

import contextlib
import logging
import platform
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from reproduce.files import UserError, read_json, write_json
from reproduce.models.inference import check_int8, processor_flags
from reproduce.params import OLDEST_OPSET, Export

if TYPE_CHECKING:
    import onnx
    import torch
    from transformers import PreTrainedModel

    Logits = torch.Tensor

# By form; the names are those of `optimum`.
FILES = {"onnx": "model.onnx", "optimized": "model_optimized.onnx", "int8": "model_quantized.onnx"}


# Taken over as they are.
CARRIED = ("config.json", "tokenizer.json", "tokenizer_config.json")


BATCH_SIZE = 64  # in PyTorch, whose answers do not depend on it


def check_source(source: Path, labels: Sequence[str], dataset: str) -> None:
    """`UserError` unless `source` is a fine-tuned model with a fast tokenizer and these classes (none: it gives a number)."""
    remedy = f"Run `dvc repro finetune@{source.name}`, or `dvc pull finetune@{source.name}`."
    if not (source / "model.safetensors").is_file() or not (source / "config.json").is_file():
        missing = next(
            name for name in ("model.safetensors", "config.json") if not (source / name).is_file()
        )
        raise UserError(f"{source} has no {missing}. {remedy}")
    if absent := [name for name in CARRIED if not (source / name).is_file()]:
        raise UserError(
            f"{source} has no {absent[0]}: an exported model without its tokenizer cannot read a sentence. {remedy}"
        )
    names = read_json(source / "config.json", remedy).get("id2label")
    found = [names[i] for i in sorted(names, key=int)] if isinstance(names, dict) else []
    if (found != list(labels)) if labels else len(found) != 1:
        wanted = ", ".join(labels) or "one output, a number"
        raise UserError(
            f"{source}/config.json has the labels {', '.join(map(str, found)) or 'none'}, but dataset {dataset} has {wanted}: "
            f"the model was fine-tuned on something else. {remedy}"
        )


def check_runtime(params: Export, target: Path) -> None:
    """`UserError` if ONNX Runtime here does not know the opset, or this processor cannot multiply bytes."""
    import onnxruntime
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "probe", [value], [result]
    )
    probe = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", params.opset)], ir_version=10
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(
            probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its exceptions have no common class of their own
        most = re.search(r"till opset (\d+)", str(error))
        known = f"knows {OLDEST_OPSET} to {most[1]}" if most else f"does not know it ({error})"
        raise UserError(
            f"params.yaml: export.opset {params.opset}: ONNX Runtime {onnxruntime.__version__} {known}. Choose one of these; 20 "
            "is what this project is tested with."
        ) from error
    if warning := check_int8(
        target / FILES["int8"], platform.machine(), processor_flags(), params.reduce_range
    ):
        print(f"warning: {warning} export.reduce_range in params.yaml avoids that.")


def read_tokenized(path: Path) -> tuple[list[list[int]], list[list[int]] | None, list[float]]:
    """Token ids, token types (of pairs, for a model that knows them) and labels of a tokenised split."""
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing. Run `dvc repro tokenize@{path.parent.name}`."
        ) from error
    types = table["token_type_ids"].to_pylist() if "token_type_ids" in table.column_names else None
    return table["input_ids"].to_pylist(), types, table["label"].to_pylist()


def export(source: Path, out: Path, params: Export) -> list[str]:
    """Write the three graphs and what belongs to them into the folder `out`; return the names of their inputs.

    The same weights and versions give the same bytes, wherever the folders are.
    """
    import onnx

    for name in CARRIED:
        shutil.copyfile(source / name, out / name)
    model = load_model(source)
    inputs = input_names(model)
    with quiet(), TemporaryDirectory() as scratch:
        print(f"{source}: tracing, opset {params.opset}, inputs {', '.join(inputs)}", flush=True)
        traced, plain = trace(model, params.opset)
        heads, width = model.config.num_attention_heads, model.config.hidden_size
        del model
        save(plain, out / FILES["onnx"])
        del plain
        onnx.save(traced, Path(scratch) / "traced.onnx")
        del traced
        fused, counts = fuse(Path(scratch) / "traced.onnx", heads, width)
        save(fused, out / FILES["optimized"])
        del fused
        print(
            f"graph optimised: fused {', '.join(f'{count} {name}' for name, count in counts.items()) or 'nothing'}",
            flush=True,
        )
        quantize(out / FILES["optimized"], Path(scratch) / "int8.onnx", params)
        save(onnx.load(Path(scratch) / "int8.onnx"), out / FILES["int8"])
    # What `optimum` keeps beside its own exports; and how these were made.
    quantization = {
        "format": "dynamic",
        "weights": "int8",
        "per_channel": params.per_channel,
        "reduce_range": params.reduce_range,
    }
    write_json(out / "ort_config.json", {"opset": params.opset, "inputs": inputs, "optimization": counts,
                                         "quantization": quantization, "one_external_file": True})  # fmt: skip
    return inputs


def load_model(source: Path) -> "PreTrainedModel":
    """The model in fp32, with attention written as `attention` writes it."""
    import torch
    from transformers import (
        AttentionInterface,
        AttentionMaskInterface,
        AutoModelForSequenceClassification,
    )

    AttentionInterface.register("fusible", attention)
    AttentionMaskInterface.register("fusible", attention_mask_to_add)
    model = AutoModelForSequenceClassification.from_pretrained(
        str(source), local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32,
        attn_implementation="fusible",
    )  # fmt: skip
    return model.eval()  # type: ignore[no-any-return]


def attention(
    module: Any,
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: "torch.Tensor",
    **other: Any,
) -> tuple["torch.Tensor", None]:
    """Attention as BERT's authors wrote it: softmax(q k^T / sqrt(width of a head) + mask) v.

    ONNX Runtime's optimiser knows attention by the shape of its graph, and this is the shape: with transformers' own functions
    (scores times a factor, a mask from comparisons) no attention is fused.

    Args:
        query, key, value: float tensors of shape (batch, heads, sequence, width of a head).
        attention_mask: see `attention_mask_to_add`.

    Returns:
        float tensor of shape (batch, sequence, heads, width of a head), and no weights.
    """
    scores = query @ key.transpose(2, 3) / query.size(-1) ** 0.5 + attention_mask
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


def attention_mask_to_add(
    *, attention_mask: "torch.Tensor", dtype: "torch.dtype", **other: Any
) -> "torch.Tensor":
    """The mask of shape (batch, sequence), 1 for tokens, as numbers to add: 0, or the least float; (batch, 1, 1, sequence)."""
    import torch

    return (1.0 - attention_mask.unsqueeze(1).unsqueeze(2).to(dtype)) * torch.finfo(dtype).min


def input_names(model: "PreTrainedModel") -> list[str]:
    """What the model computes with: DistilBERT has no token types, though its tokenizer gives them."""
    types = ["token_type_ids"] if getattr(model.config, "type_vocab_size", 0) > 1 else []
    return ["input_ids", "attention_mask", *types]


def trace(model: "PreTrainedModel", opset: int) -> "tuple[onnx.ModelProto, onnx.ModelProto]":
    """PyTorch's exporter on the model: the graph as traced, and after the exporter's own simplification.

    Batch and sequence have any size. The first is for `fuse`: the second's merged nodes hide attention from it.
    """
    import torch

    names = input_names(model)
    # Two sentences of different lengths: sizes of 1 would become constants.
    example = {name: torch.zeros(2, 8, dtype=torch.int64) for name in names}
    example["input_ids"] += torch.arange(1, 9)
    example["attention_mask"] += torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    program = torch.onnx.export(
        model, (), kwargs=example, dynamo=True, optimize=False, opset_version=opset, verbose=False, external_data=False,
        input_names=names, output_names=["logits"], dynamic_shapes=dict.fromkeys(names, sizes),
    )  # fmt: skip
    assert program is not None
    traced = program.model_proto
    if (found := next(entry.version for entry in traced.opset_import if not entry.domain)) != opset:
        raise UserError(
            f"params.yaml: export.opset {opset}: PyTorch's exporter {torch.__version__} left the graph at {found}. Choose a "
            "lower one; 20 is what this project is tested with."
        )
    program.optimize()
    return traced, program.model_proto


def fuse(path: Path, heads: int, width: int) -> "tuple[onnx.ModelProto, dict[str, int]]":
    """Attention, layer norms and activations as single operators of ONNX Runtime; and how many there are of each.

    The mask stays one of 0 and 1 at any place: ONNX Runtime's default for BERT, the number of tokens of each sentence, is no
    faster here and wrong where the padding comes first.
    """
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    options = FusionOptions("bert")
    options.use_raw_attention_mask(True)
    fused = optimizer.optimize_model(str(path), "bert", heads, width, optimization_options=options)
    counts = {name: count for name, count in fused.get_fused_operator_statistics().items() if count}
    return fused.model, counts


def quantize(source: Path, target: Path, params: Export) -> None:
    """Weights, embeddings included, become int8 once and for all; activations uint8 as they come (dynamic).

    The classifier stays fp32: it is the last to err, and has a few thousand numbers.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    last = next(
        n.name
        for n in onnx.load(source, load_external_data=False).graph.node
        if "logits" in n.output
    )
    quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=params.per_channel,
                     reduce_range=params.reduce_range, nodes_to_exclude=[last],
                     extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT})  # fmt: skip


def save(model: "onnx.ModelProto", path: Path) -> None:
    """Write the graph without what the exporter notes at each node: stack traces, with paths of this machine."""
    import onnx

    used = {node.domain for node in model.graph.node}
    for unused in [
        entry for entry in model.opset_import if entry.domain and entry.domain not in used
    ]:
        model.opset_import.remove(unused)

    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output,
                 *model.graph.initializer):  # fmt: skip
        del part.metadata_props[:]
        part.doc_string = ""
    del model.graph.value_info[:]  # shapes of all intermediate results, which follow from the rest
    path.write_bytes(model.SerializeToString(deterministic=True))
    if used == {""}:  # the checker knows the standard's operators alone
        onnx.checker.check_model(str(path))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back the libraries' remarks: on names of axes that are equal, on a preparation that `fuse` has done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
