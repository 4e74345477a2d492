"""Export a fine-tuned model to ONNX (fp32, graph-optimised, int8); compare each with PyTorch.

Run as: python -m stages.export --model distilbert

A model that cannot be exported rightly is no error, so that other stages go on:
models/exported/MODEL-SEED/README.md and metrics/export/MODEL-SEED.json then say why.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.command import command_line, go_offline, run_command
from reproduce.files import UserError, output_directory, read_json, write_json, write_text
from reproduce.inputs.catalog import MODEL_ENTRIES, Model, read_entry
from reproduce.inputs.sentences import read_raw_data
from reproduce.inputs.tokenized import Tokenized, read_tokenized
from reproduce.inputs.tokenizer import count_positions
from reproduce.models.load import load_finetuned
from reproduce.models.logits import predict_padded
from reproduce.models.metrics import measure
from reproduce.models.onnx import CARRIED, NotExported, export, exporting
from reproduce.models.runtime import FILES, RELOAD, Session, warn_of_saturation
from reproduce.params import Export, read_experiment, read_section

if TYPE_CHECKING:
    import numpy as np

LENGTHS = (3, 5, 8, 16, 32, 64, 128, 256, 512)  # tokens, of the probes


def main() -> None:
    """Write models/exported/MODEL-SEED/ and metrics/export/MODEL-SEED.json."""
    parser = command_line(__doc__)
    parser.add_argument("--model", required=True, help="a name from catalog.yaml")
    parser.add_argument("--seed", type=int, help="of its fine-tuning (default: the first of seeds)")
    arguments = parser.parse_args()
    params, dataset = read_section("export", Export), read_raw_data()
    seed = read_experiment().seeds[0] if arguments.seed is None else arguments.seed
    run = f"{arguments.model}-{seed}"
    source, target = Path("models/finetuned") / run, Path("models/exported") / run
    licence = read_entry(MODEL_ENTRIES / f"{arguments.model}.json", Model).license
    recipe = read_recipe_digest(source)
    split = read_tokenized(arguments.model, "validation")
    facts: dict[str, Any] = {
        "model": arguments.model, "seed": seed, "dataset": dataset.dataset, "recipe": recipe,
        "metric": dataset.metrics[0], "n": len(split.labels), "opset": params.opset, "forms": {},
    }  # fmt: skip
    go_offline()
    with output_directory(target) as out:
        try:
            with exporting():
                facts["inputs"] = export(source, out, params)
                warn_of_saturation(out)
                facts["forms"] = compare(source, out, split, dataset.metrics)
            facts["status"] = "exported"
            write_text(out / "README.md", readme(facts, dataset.labels, licence))
        except NotExported as reason:
            facts["status"] = f"not exported: {reason}"
            for file in out.iterdir():
                file.unlink()
            advice = f"Use it with PyTorch: python -m tools.predict --model {source} ..."
            write_text(out / "README.md", f"# {run}\n\n{facts['status']}. {advice}\n")
            print(f"WARNING: {run} is {facts['status']}. {advice}", file=sys.stderr)
    write_json(Path("metrics/export") / f"{run}.json", facts)
    forms = (f"{name} {form['bytes'] / 1e6:.1f} MB {facts['metric']} {form['score']}"
             for name, form in facts["forms"].items())  # fmt: skip
    print(f"{target}: {', '.join(forms) or facts['status']}")


def read_recipe_digest(source: Path) -> str:
    """That of the recipe `source` was fine-tuned with; `UserError` if `source` is not whole."""
    remedy = f"Run `dvc repro finetune@{source.name}`, or `dvc pull finetune@{source.name}`."
    environment = Path("environment") / f"{source.name}.json"
    for path in (environment, *(source / name for name in ("model.safetensors", *CARRIED))):
        if not path.is_file():
            raise UserError(f"{path} is missing. {remedy}")
    return str(read_json(environment, remedy).get("recipe"))


def compare(
    source: Path, exported: Path, split: Tokenized, metrics: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Metrics of PyTorch and of each exported form on `split`, and how far each is from PyTorch.

    ONNX Runtime computes one sentence at a time: int8 scales its activations by the batch.

    Raises:
        NotExported: ONNX Runtime cannot load a form, or one in fp32 differs by more than rounding,
            on `split` or on probes of all lengths padded in one batch.
    """
    import numpy as np

    model = load_finetuned(source)  # on the CPU, as ONNX Runtime
    settings = read_json(source / "tokenizer_config.json", "Pull it again.")
    limits = LENGTHS[-1], settings.get("model_max_length"), count_positions(model.config)
    probes = make_probes(split, min(limit for limit in limits if limit))
    expected = predict_padded(model, split.input_ids, 64, split.token_type_ids).numpy()
    expected_probes = predict_padded(model, probes, 1).numpy()
    # A thousandth of what tells sentences apart; where nothing does, a hundred roundings of fp32.
    spread = float(expected.std(axis=0).mean())
    tolerance = max(1e-3 * spread, 1e-5 * float(abs(expected).max()))

    def scores(logits: "np.ndarray", file: Path) -> dict[str, Any]:
        measured = measure(logits, np.array(split.labels), split.label_names, metrics)
        kept = {key: measured[key] for key in (*metrics, "score", "correct") if key in measured}
        return {"bytes": file.stat().st_size, **kept}

    forms = {"pytorch": scores(expected, source / "model.safetensors")}
    forms["pytorch"]["logit_standard_deviation"] = two_digits(spread)
    for form, file in FILES.items():
        print(f"comparing {file} with PyTorch, one sentence at a time", flush=True)
        try:
            session: Any = Session(exported / file, model.config)
        except UserError as error:  # of a graph just written, so not the person's fault
            raise NotExported(str(error).removesuffix(RELOAD)) from error
        logits = predict_padded(session, split.input_ids, 1, split.token_type_ids).numpy()
        if form != "int8":
            require_near(logits, expected, tolerance, file)
            padded = predict_padded(session, probes, len(probes)).numpy()
            require_near(padded, expected_probes, tolerance, file)
        facts = forms[form] = scores(logits, exported / file)
        if split.label_names:
            facts["other_labels"] = int((logits.argmax(1) != expected.argmax(1)).sum())
        facts["largest_logit_difference"] = two_digits(float(abs(logits - expected).max()))
    return forms


def make_probes(split: Tokenized, longest: int) -> list[list[int]]:
    """Sentences of LENGTHS up to `longest`, of the split's tokens, begun and ended as its own."""
    first, *_, last = split.input_ids[0]
    inner = [i for ids in split.input_ids for i in ids if i not in (first, last)] or [last]
    repeated = inner * (longest // len(inner) + 1)
    lengths = sorted({min(length, longest) for length in LENGTHS})
    return [[first, *repeated[: n - 2], last] for n in lengths]


def require_near(logits: "np.ndarray", expected: "np.ndarray", tolerance: float, file: str) -> None:
    """`NotExported` unless all logits are within `tolerance` of PyTorch's."""
    difference = abs(logits - expected).max(axis=1)
    if far := (~(difference <= tolerance)).sum():  # a NaN is not near either
        raise NotExported(
            f"{file} gives other logits than PyTorch on {far} of {len(logits)} sentences: they "
            f"differ by up to {difference.max():.2g}, and rounding explains {tolerance:.2g}; its "
            "architecture is not exported rightly"
        )


def two_digits(value: float) -> float:
    """The rest of a rounding error changes from processor to processor."""
    return float(f"{value:.1e}")


def readme(facts: Mapping[str, Any], labels: Sequence[str], licence: str) -> str:
    """What the folder holds, how to use it, and what was measured."""
    differences = {"other_labels": "labels other than PyTorch's",
                   "largest_logit_difference": "largest difference of a logit"}  # fmt: skip
    lines = []
    for name, file in {"pytorch": "PyTorch", **FILES}.items():
        form = facts["forms"][name]
        line = f"- {file}: {form['bytes'] / 1e6:.1f} MB; {facts['metric']}: {form['score']}"
        more = (f"; {words}: {form[key]}" for key, words in differences.items() if key in form)
        lines.append(line + "".join(more))
    return f"""---
license: {licence}
pipeline_tag: text-classification
tags: [onnx]
---

# {facts["model"]}, fine-tuned on {facts["dataset"]} (seed {facts["seed"]}), in ONNX

Inputs: {", ".join(facts["inputs"])}, int64 of shape (batch, sequence). Output: logits, float32.
Classes, in the order of the logits: {", ".join(labels) or "none; the output is a number"}.
`model.onnx` is fp32 of the standard's operators (opset {facts["opset"]}). ONNX Runtime alone takes
`model_optimized.onnx`, fp32 with fused operators, and `model_quantized.onnx`, that in int8.

On the {facts["n"]:,} validation examples, one at a time (int8 answers otherwise in batches):

{chr(10).join(lines)}

    from optimum.onnxruntime import ORTModelForSequenceClassification
    ORTModelForSequenceClassification.from_pretrained(".", file_name="model_optimized.onnx")
"""


if __name__ == "__main__":
    run_command(main)
