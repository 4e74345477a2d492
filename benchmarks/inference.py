"""Exported forms against eager BERT-base (1.0): latency, throughput, bytes, accuracy.

Run as: python -m benchmarks.inference        (best undisturbed: chrt -r 1 python -m ...)

BERT-base, DistilBERT and MiniLM, full size, each in eager PyTorch and in the three forms that
`stages.export` makes. All twelve take turns sentence by sentence, then batch by batch, on SST-2's
validation sentences. What is not in models/finetuned/ (seed 1) has random weights: speed and bytes
do not depend on their values, and accuracy is "not measured".
"""

import shutil
import statistics
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.common import fetch_tokenizer, report, spread, sst2
from reproduce.command import go_offline
from reproduce.files import read_json
from reproduce.inputs.tokenized import Tokenized
from reproduce.inputs.tokenizer import load_tokenizer, tokenize_split
from reproduce.models.load import load_finetuned
from reproduce.models.onnx import export
from reproduce.models.runtime import FILES, Session
from reproduce.params import Export, read_section
from stages.benchmark import build, choose, take_turns
from stages.export import compare

MODELS = ("bert", "distilbert", "minilm")
PEER = "bert eager"
SEED = 1
TIMED, PASSES = 218, 3  # validation sentences, evenly chosen, and how often
BATCH_SIZE = 32
WARM_UP = 10  # inputs that are computed first and not timed
PAUSE = 0.01  # seconds between turns: threads spin for a while after theirs
FASTER, MEGABYTES, POINTS = 4.0, 70, 0.5  # the targets, on 2 cores
NOT_MEASURED = "not measured"


def main() -> None:
    """Export, compare and measure."""
    sentences, labels, names = sst2("validation")
    forms: dict[str, dict[str, Any]] = {}  # by "model form"
    runners: dict[str, Callable[..., object]] = {}
    single: dict[str, Any] = {}
    batched: dict[str, Any] = {}
    with TemporaryDirectory() as scratch:
        tokenizers = {model: fetch_tokenizer(model, Path(scratch, model)) for model in MODELS}
        go_offline()
        for model in MODELS:
            source, exported = (Path(scratch, model, name) for name in ("source", "exported"))
            fine_tuned = prepare(model, tokenizers[model], source)
            tokenizer, network = load_tokenizer(source), load_finetuned(source)
            ids = list(tokenize_split(tokenizer, sentences, labels, names, 128)["input_ids"])
            exported.mkdir()
            export(source, exported, read_section("export", Export))
            split = Tokenized(ids, None, list(labels), list(names))
            timed = choose(ids, TIMED)
            inputs = [pad(tokenizer, timed, 1), pad(tokenizer, sorted(timed, key=len), BATCH_SIZE)]
            for form, facts in compare(source, exported, split, ["accuracy"]).items():
                name = f"{model} {'eager' if form == 'pytorch' else form}"
                accuracy = round(100 * facts["accuracy"], 2) if fine_tuned else NOT_MEASURED
                forms[name] = {"bytes": facts["bytes"], "accuracy": accuracy}
                file = exported / FILES.get(form, "")
                runners[name] = Session(file, network.config) if form in FILES else network
                single[name], batched[name] = inputs
        seconds = [take_turns(runners, each, PASSES, WARM_UP, PAUSE) for each in (single, batched)]
    summarize(forms, *seconds)
    conclude(forms, len(sentences))


def prepare(model: str, tokenizer: Path, folder: Path) -> bool:
    """Put what `stages.export` reads into `folder`: the fine-tuned model (True), or random ones."""
    run = f"{model}-{SEED}"
    fine_tuned, record = Path("models/finetuned", run), Path(f"environment/{run}.json")
    is_there = (fine_tuned / "model.safetensors").is_file() and record.is_file()
    if is_there := is_there and read_json(record, "Delete it.")["run"]["dataset"] == "sst2":
        shutil.copytree(fine_tuned, folder)
    else:
        build(tokenizer).save_pretrained(str(folder))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(tokenizer / name, folder / name)
    return is_there


def pad(tokenizer: Any, ids: list[Any], size: int) -> list[dict[str, Any]]:
    """Batches of `size` sentences, as a model takes them."""
    groups = (ids[i : i + size] for i in range(0, len(ids), size))
    return [dict(tokenizer.pad({"input_ids": group}, return_tensors="pt")) for group in groups]


def summarize(
    forms: dict[str, dict[str, Any]],
    single: dict[str, list[list[float]]],
    batched: dict[str, list[list[float]]],
) -> None:
    """Of each form, with the spread over passes: ms at batch 1, sentences/s at 32, against PEER."""

    def ratios(above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
        return spread([round(a / b, 3) for a, b in zip(above, below, strict=True)])

    milliseconds = {
        name: [round(1000 * statistics.median(seconds), 3) for seconds in passes]
        for name, passes in single.items()
    }
    rates = {
        name: [round(TIMED / sum(seconds), 2) for seconds in passes]
        for name, passes in batched.items()
    }
    for name, facts in forms.items():
        facts["p50_ms"] = spread(milliseconds[name])
        facts["speedup_batch_1"] = ratios(milliseconds[PEER], milliseconds[name])
        facts["sentences_per_second_batch_32"] = spread(rates[name])
        facts["speedup_batch_32"] = ratios(rates[name], rates[PEER])


def conclude(forms: dict[str, dict[str, Any]], sentences: int) -> None:
    """Write benchmarks/results/inference.json, and print the summary."""
    small = forms["distilbert int8"]
    faster, megabytes = small["speedup_batch_1"]["median"], small["bytes"] / 1e6
    before, after = forms["minilm eager"]["accuracy"], forms["minilm int8"]["accuracy"]
    measured = after != NOT_MEASURED
    lost = round(before - after, 2) if measured else NOT_MEASURED
    met = faster >= FASTER and megabytes < MEGABYTES and measured and before - after <= POINTS
    line = (
        f"DistilBERT int8 at batch 1 {faster:.1f} x as fast as eager BERT-base, "
        f"{megabytes:.1f} MB; MiniLM: int8 {after} %, PyTorch {before} %"
    )
    target = f">= {FASTER:g} x, < {MEGABYTES} MB, at most {POINTS} points lost"
    packages = {name: version(name) for name in ("onnxruntime", "onnx", "onnxscript")}
    counts = {"sentences": sentences, "sentences_timed": TIMED, "passes": PASSES, "seed": SEED}
    facts = {"peer": PEER, "forms": forms, "minilm_int8_points_lost": lost, **packages, **counts}
    report("inference", target, met, line, {"unit": "ms; sentences/s; bytes; %", **facts})


if __name__ == "__main__":
    main()
