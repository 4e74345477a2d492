"""Export a fine-tuned model to ONNX: fp32, fp32 graph-optimised, and int8; each is compared with PyTorch sentence by sentence.

Run as: python -m stages.export --model distilbert --seed 1

models/exported/MODEL-SEED/ then holds what ONNX Runtime needs, under the names that users of `optimum` know: model.onnx,
model_optimized.onnx and model_quantized.onnx, with config, tokenizer and a README.md. Runtimes other than ONNX Runtime
take model.onnx alone: the two others use its own operators.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.command import go_offline, run_command
from reproduce.files import UserError, output_directory, write_json, write_text
from reproduce.inputs.catalog import MODEL_ENTRIES, Model, read_entry
from reproduce.inputs.sentences import read_about
from reproduce.models.inference import load_onnx, usable_processors
from reproduce.models.logits import predict
from reproduce.models.metrics import measure
from reproduce.models.onnx import (
    BATCH_SIZE,
    FILES,
    check_runtime,
    check_source,
    export,
    read_tokenized,
)
from reproduce.params import Export, read_section

if TYPE_CHECKING:
    import torch

    Logits = torch.Tensor


def main() -> None:
    """Write models/exported/MODEL-SEED/ and metrics/export/MODEL-SEED.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a name from catalog.yaml")
    parser.add_argument("--seed", required=True, type=int, help="the seed it was fine-tuned with")
    arguments = parser.parse_args()
    run = f"{arguments.model}-{arguments.seed}"
    params = read_section("export", Export)
    dataset = read_about()
    licence = read_entry(MODEL_ENTRIES / f"{arguments.model}.json", Model).license
    source, target = Path("models/finetuned") / run, Path("models/exported") / run
    check_source(source, dataset.labels, dataset.dataset)
    check_runtime(params, target)
    go_offline()
    token_ids, token_types, labels = read_tokenized(
        Path("data/tokenized") / arguments.model / "validation.parquet"
    )
    with output_directory(target) as out:
        inputs = export(source, out, params)
        forms = compare(source, out, token_ids, token_types, labels, dataset.metrics)
        about = {"dataset": dataset.dataset, "model": arguments.model, "seed": arguments.seed, "n": len(labels),
                 "metric": dataset.metrics[0], "opset": params.opset, "inputs": inputs}  # fmt: skip
        write_text(out / "README.md", readme(about, forms, dataset.labels, licence, params))
    write_json(Path("metrics/export") / f"{run}.json", {**about, "forms": forms})
    parts = [
        f"{name} {forms[name]['bytes'] / 1e6:.1f} MB, {dataset.metrics[0]} {forms[name]['score']:.4f}"
        for name in forms
    ]
    print(f"{target}: inputs {', '.join(inputs)}; " + "; ".join(parts))


def compare(
    source: Path, exported: Path, token_ids: list[list[int]], token_types: list[list[int]] | None, labels: Sequence[float],
    metrics: Sequence[str],
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Metrics of PyTorch and of each exported form, and how far each form is from PyTorch.

    ONNX Runtime computes one sentence at a time: int8 scales its activations by the batch, so that an answer would depend on
    the sentences beside it.

    Raises:
        UserError: a form in fp32 gives another label than PyTorch, or no graph can be loaded.
    """
    import torch

    expected, names = predict(source, token_ids, BATCH_SIZE, token_types)
    forms = {
        "pytorch": {
            **scores(expected, labels, names, metrics),
            "bytes": (source / "model.safetensors").stat().st_size,
            "logit_standard_deviation": two_digits(
                expected.std(0).mean().item()
            ),  # what differences are to be seen against
        }
    }
    for form, file in FILES.items():
        logits = torch.cat(list(logits_one_by_one(exported / file, token_ids, token_types, form)))
        difference = (logits - expected).abs()
        forms[form] = {
            **scores(logits, labels, names, metrics),
            "bytes": (exported / file).stat().st_size,
            "largest_logit_difference": two_digits(difference.max().item()),
        }
        if names:
            other = (logits.argmax(1) != expected.argmax(1)).nonzero().flatten().tolist()
            forms[form]["other_labels"] = len(other)
            if other and form != "int8":
                raise UserError(
                    f"{file} gives another label than PyTorch on {len(other)} of {len(labels)} sentences, the first is number "
                    f"{other[0]} (logits differ by up to {difference.max().item():.2g}): fp32 must agree. Install the versions "
                    "of requirements.txt and export again; if it stays, report it with this message."
                )
    return forms


def scores(
    logits: "Logits", labels: Sequence[float], names: Sequence[str], metrics: Sequence[str]
) -> dict[str, Any]:
    """`measure`, of which a table needs the metrics, the headline and, of classes, the number of right answers."""
    measured = measure(logits, labels, names, metrics)
    return {key: measured[key] for key in (*metrics, "score", "correct") if key in measured}


def logits_one_by_one(
    file: Path, token_ids: list[list[int]], token_types: list[list[int]] | None, name: str
) -> "Iterator[Logits]":
    """Logits of each sentence alone by ONNX Runtime: float32 tensors of shape (1, labels)."""
    import numpy as np
    import torch
    from tqdm import tqdm

    run, inputs, _ = load_onnx(file, usable_processors())
    for i, ids in enumerate(tqdm(token_ids, desc=f"evaluate {name}", unit="sentence")):
        batch = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, len(ids)), np.int64),
        }
        if "token_type_ids" in inputs:
            batch["token_type_ids"] = np.array(
                [token_types[i] if token_types else [0] * len(ids)], np.int64
            )
        yield torch.from_numpy(run(iter([batch])))


def two_digits(value: float) -> float:
    """Two digits of it: the rest of a rounding error changes from processor to processor."""
    return float(f"{value:.1e}")


def readme(
    about: Mapping[str, Any],
    forms: Mapping[str, Mapping[str, Any]],
    labels: Sequence[str],
    licence: str,
    params: Export,
) -> str:
    """What the folder holds, how to use it, and what was measured."""
    metric = about["metric"]
    rows = [
        f"| file | MB | {metric} | answers other than PyTorch's | largest difference of a logit |",
        "| --- | --- | --- | --- | --- |",
    ]
    for form, file in {"pytorch": "PyTorch", **FILES}.items():
        found = forms[form]
        rows.append(f"| {file} | {found['bytes'] / 1e6:.1f} | {found['score']:.4f} | {found.get('other_labels', '-')} | "
                    f"{found.get('largest_logit_difference', '-')} |")  # fmt: skip
    classes = (
        f"Classes, in the order of the logits: {', '.join(labels)}."
        if labels
        else "The one output is a number."
    )
    per = "a scale per channel" if params.per_channel else "a scale per matrix"
    return f"""---
license: {licence}
pipeline_tag: text-classification
tags: [onnx]
---

# {about["model"]}, fine-tuned on {about["dataset"]} (seed {about["seed"]}), in ONNX

Opset {about["opset"]}. Inputs, int64 of shape (batch, sequence): {", ".join(about["inputs"])}. Output: logits, float32.
{classes}

- `model.onnx`: fp32, operators of the ONNX standard only.
- `model_optimized.onnx`: the same with ONNX Runtime's fused operators.
- `model_quantized.onnx`: that in int8, dynamic, {per}. It needs AVX2 at least; made for VNNI or AMX.

On the {about["n"]:,} validation examples, one at a time (int8 scales its activations by the batch, so that in larger batches
answers may differ a little):

{chr(10).join(rows)}

```python
from optimum.onnxruntime import ORTModelForSequenceClassification

ORTModelForSequenceClassification.from_pretrained(".", file_name="model_quantized.onnx")
```
"""


if __name__ == "__main__":
    run_command(main)
