"""Export a fine-tuned model to ONNX: fp32, fp32 with ONNX Runtime's fused operators, int8."""

import contextlib
import logging
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from reproduce.files import UserError, out_of_space, write_json
from reproduce.models.load import load_finetuned
from reproduce.models.runtime import FILES
from reproduce.params import Export
from reproduce.training.devices import is_out_of_memory

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

CARRIED = ("config.json", "tokenizer.json", "tokenizer_config.json")  # taken over as they are


class NotExported(Exception):
    """This model cannot be exported, or not rightly. The message is the reason."""


def export(source: Path, out: Path, params: Export) -> list[str]:
    """Write the three graphs and what belongs to them into the folder `out`.

    The same weights and versions give the same bytes, wherever the folders are. Returns the names
    of the graphs' inputs. Call it in `exporting`: libraries raise anything.
    """
    import onnx
    from transformers import AttentionInterface, AttentionMaskInterface

    for name in CARRIED:
        shutil.copyfile(source / name, out / name)
    AttentionInterface.register("fusible", attention)
    AttentionMaskInterface.register("fusible", attention_mask_to_add)
    model = load_finetuned(source)
    model.set_attn_implementation("fusible")
    inputs = ["input_ids", "attention_mask"]
    if getattr(model.config, "type_vocab_size", 0) > 1:  # DistilBERT has none
        inputs.append("token_type_ids")
    print(f"{source}: tracing, opset {params.opset}, inputs {', '.join(inputs)}", flush=True)
    logging.disable(logging.WARNING)  # the libraries' remarks, e.g. on axes of equal names
    with warnings.catch_warnings(action="ignore"), TemporaryDirectory() as scratch:
        file = Path(scratch) / "scratch.onnx"
        traced, plain = trace(model, inputs, params.opset)
        save(plain, out / FILES["onnx"])
        onnx.save(traced, file)
        del plain, traced
        fused, counts = fuse(file, model.config)
        save(fused, out / FILES["optimized"])
        quantize(out / FILES["optimized"], file, params)
        save(onnx.load(file), out / FILES["int8"])
    # As `optimum` keeps beside its exports how they were made.
    quantization = {"format": "dynamic", "weights": "int8", **params.model_dump(exclude={"opset"})}
    facts = {"opset": params.opset, "inputs": inputs, "optimization": counts}
    facts |= {"quantization": quantization, "one_external_file": True}
    write_json(out / "ort_config.json", facts)
    return inputs


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """Whatever a library raises becomes `NotExported`, with its first cause.

    What a person or the machine did (a file, a full disk, no memory) stays what it is.
    """
    try:
        yield
    except Exception as error:
        other = isinstance(error, (UserError, OSError))
        if other or out_of_space(error) or is_out_of_memory(error):
            raise
        cause: BaseException = error
        while not isinstance(cause, NotExported) and cause.__cause__:
            cause = cause.__cause__
        if isinstance(cause, NotExported):
            raise cause from None
        words = str(cause).strip().partition("\n")[0]
        raise NotExported(f"{type(cause).__name__}: {words}") from error


def attention(
    module: Any, query: "Tensor", key: "Tensor", value: "Tensor", attention_mask: "Tensor",
    scaling: float | None = None, **_: Any,
) -> tuple["Tensor", None]:  # fmt: skip
    """Attention as BERT's authors wrote it: softmax(q k^T / sqrt(width of a head) + mask) v.

    ONNX Runtime's optimiser knows attention by the shape of its graph, and this is the shape: with
    transformers' own functions (scores times a factor, a mask from comparisons) nothing is fused.
    `query`, `key` and `value` are floats of shape (batch, heads, sequence, width of a head), the
    result is of shape (batch, sequence, heads, width); there are no weights to return.
    """
    divisor = query.size(-1) ** 0.5 if scaling is None else 1 / scaling
    scores = query @ key.transpose(2, 3) / divisor + attention_mask
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


def attention_mask_to_add(
    *, attention_mask: "Tensor", dtype: "torch.dtype", mask_function: Any, **_: Any
) -> "Tensor":
    """What is added to the scores, (batch, 1, 1, sequence): 0, or the least float for padding.

    `attention_mask`, (batch, sequence), is 1 for tokens. `NotExported` unless by `mask_function`
    all tokens see all.
    """
    import torch
    from transformers.masking_utils import bidirectional_mask_function

    if mask_function is not bidirectional_mask_function:
        raise NotExported("its attention is causal or windowed: not every token sees all others")
    return (1.0 - attention_mask.unsqueeze(1).unsqueeze(2).to(dtype)) * torch.finfo(dtype).min


def trace(
    model: "PreTrainedModel", names: list[str], opset: int
) -> "tuple[onnx.ModelProto, onnx.ModelProto]":
    """The graph as traced, of any batch and sequence; and after PyTorch's own simplification.

    The second's merged nodes hide attention from `fuse`.
    """
    import torch

    # Two sentences of different lengths: sizes of 1 would become constants.
    example = {name: torch.zeros(2, 8, dtype=torch.int64) for name in names}
    example["input_ids"] += torch.arange(1, 9)
    example["attention_mask"] += torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    program = torch.onnx.export(
        model, (), kwargs=example, dynamo=True, optimize=False, opset_version=opset, verbose=False,
        external_data=False, input_names=names, output_names=["logits"],
        dynamic_shapes=dict.fromkeys(names, sizes),
    )  # fmt: skip
    assert program is not None
    traced = program.model_proto
    reached = next(entry.version for entry in traced.opset_import if not entry.domain)
    if reached != opset:  # the exporter itself only logs it
        raise NotExported(f"PyTorch's exporter left the graph at opset {reached}, not {opset}")
    program.optimize()
    return traced, program.model_proto


def fuse(path: Path, config: Any) -> "tuple[onnx.ModelProto, dict[str, int]]":
    """Attention, layer norms, activations as single operators of ONNX Runtime; how many of each.

    The mask stays one of 0 and 1: ONNX Runtime's default for BERT, the number of tokens of each
    sentence, is no faster here and wrong where the padding comes first.
    """
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    options = FusionOptions("bert")
    options.use_raw_attention_mask(True)
    # The int8 form of EmbedLayerNormalization seems to take no position ids: wrong where they do
    # not count from 0 (RoBERTa, MPNet, whose int8 lost 2.2 points of accuracy with it).
    options.enable_embed_layer_norm = False
    sizes = config.num_attention_heads, config.hidden_size
    fused = optimizer.optimize_model(str(path), "bert", *sizes, optimization_options=options)
    counts = {name: count for name, count in fused.get_fused_operator_statistics().items() if count}
    return fused.model, counts


def quantize(source: Path, target: Path, params: Export) -> None:
    """Weights become int8, embeddings too; activations uint8 as they come. The last layer stays."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes = onnx.load(source, load_external_data=False).graph.node
    last = next(node.name for node in nodes if "logits" in node.output)
    quantize_dynamic(
        source, target, weight_type=QuantType.QInt8, per_channel=params.per_channel,
        reduce_range=params.reduce_range, nodes_to_exclude=[last],
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )  # fmt: skip


def save(model: "onnx.ModelProto", path: Path) -> None:
    """Write the graph without what the exporter notes at each node: stack traces, with paths."""
    import onnx

    used = {node.domain for node in model.graph.node}
    for entry in [e for e in model.opset_import if e.domain and e.domain not in used]:
        model.opset_import.remove(entry)
    graph = model.graph
    values = (*graph.value_info, *graph.input, *graph.output, *graph.initializer)
    for part in (model, graph, *graph.node, *values):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.value_info[:]  # shapes of all intermediate results, which follow from the rest
    path.write_bytes(model.SerializeToString(deterministic=True))
    if used == {""}:  # the checker knows the standard's operators alone
        onnx.checker.check_model(str(path))
