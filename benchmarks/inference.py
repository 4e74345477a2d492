"""Exported forms against eager BERT-base (1.0): latency, throughput, bytes, accuracy.

Run as: python -m benchmarks.inference        (best undisturbed: chrt -r 1 python -m ...)

BERT-base, DistilBERT and MiniLM, full size, each in eager PyTorch and in the three forms that
`stages.export` makes. All twelve take turns sentence by sentence, then batch by batch, on SST-2's
validation sentences. What is in models/finetuned/ (seed 1) is exported from there and its accuracy
measured on all 872 sentences. Of the others the architecture has random weights: speed and bytes do
not depend on their values, and accuracy is "not measured".

ONNX Runtime takes as many threads as PyTorch. The threads of either spin for a while after their
turn, in which they would take a processor from the next: so there is a pause between turns.

Targets, on 2 cores: DistilBERT int8 at batch 1 at least 4 x as fast as eager BERT-base, its file
under 70 MB; int8 costs MiniLM at most 0.5 points of accuracy.
"""

import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.common import report, spread, sst2, tokenizer_directory
from reproduce.command import go_offline
from reproduce.inputs.tokenized import Tokenized
from reproduce.inputs.tokenizer import load_tokenizer, read_config, tokenize_split
from reproduce.models.load import load_finetuned
from reproduce.models.onnx import export
from reproduce.models.runtime import FILES, Session
from reproduce.params import Export, read_section
from stages.benchmark import build, choose
from stages.export import compare

if TYPE_CHECKING:
    import torch

    Batch = dict[str, torch.Tensor]
    Forward = Callable[..., object]

MODELS = ("bert", "distilbert", "minilm")
PEER = "bert eager"
SEED = 1
TIMED, PASSES = 218, 3  # validation sentences, evenly chosen, and how often
BATCH_SIZE = 32
WARM_UP = 10  # sentences that are computed first and not timed
PAUSE = 0.01  # seconds between two turns
FASTER, MEGABYTES, POINTS = 4.0, 70, 0.5  # the targets
NOT_MEASURED = "not measured"


def main() -> None:
    """Export, compare and measure."""
    sentences, labels, names = sst2("validation")
    params = read_section("export", Export)
    forms: dict[str, dict[str, Any]] = {}  # by "model form"
    runners: dict[str, Forward] = {}
    inputs: dict[int, dict[str, list[Batch]]] = {1: {}, BATCH_SIZE: {}}
    with TemporaryDirectory() as scratch:
        tokenizers = {model: tokenizer_directory(model, Path(scratch)) for model in MODELS}
        go_offline()
        for model in MODELS:
            source, exported = (Path(scratch, model, name) for name in ("source", "exported"))
            fine_tuned = prepare(model, tokenizers[model], source)
            tokenizer = load_tokenizer(source)
            ids = list(tokenize_split(tokenizer, sentences, labels, names, 128)["input_ids"])
            exported.mkdir()
            export(source, exported, params)
            split = Tokenized(ids, None, list(labels), list(names))
            for form, facts in compare(source, exported, split, ["accuracy"]).items():
                name = f"{model} {'eager' if form == 'pytorch' else form}"
                accuracy = round(100 * facts["accuracy"], 2) if fine_tuned else NOT_MEASURED
                forms[name] = {"bytes": facts["bytes"], "accuracy": accuracy}
                runners[name] = load(source, exported / FILES.get(form, ""))
            timed = choose(ids, TIMED)
            for size, batches in inputs.items():
                groups = (timed[i : i + size] for i in range(0, len(timed), size))
                batches[model] = [
                    dict(tokenizer.pad({"input_ids": group}, return_tensors="pt"))
                    for group in groups
                ]
                timed.sort(key=len)  # for the batches of 32
        seconds = {size: turns(runners, batches, size) for size, batches in inputs.items()}
    for name in forms:
        forms[name] |= summarize(name, seconds[1], seconds[BATCH_SIZE])
    conclude(forms, len(sentences))


def prepare(model: str, tokenizer: Path, folder: Path) -> bool:
    """Put what `stages.export` reads into `folder`: the fine-tuned model (True), or random ones."""
    fine_tuned = Path("models/finetuned") / f"{model}-{SEED}"
    if is_there := (fine_tuned / "model.safetensors").is_file():
        shutil.copytree(fine_tuned, folder)
    else:
        build(tokenizer).save_pretrained(str(folder))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(tokenizer / name, folder / name)
    print(f"{model}: {fine_tuned if is_there else 'random weights'}", flush=True)
    return is_there


def load(source: Path, file: Path) -> "Forward":
    """A form of a model as a function of a batch: the graph in `file`, or PyTorch if a folder."""
    if file.is_file():
        return Session(file, read_config(source))
    import torch

    model = load_finetuned(source)
    return torch.inference_mode()(lambda **batch: model(**batch))  # type: ignore[no-any-return]


def turns(
    runners: Mapping[str, "Forward"], inputs: Mapping[str, list["Batch"]], size: int
) -> dict[str, list[list[float]]]:
    """Seconds by "model form", pass and input.

    All compute the first input, then all the second; another one goes first each time.
    """
    from tqdm import tqdm

    names = list(runners)
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in range(PASSES)] for name in names}
    count = len(inputs[MODELS[0]])
    for name in names:
        for batch in inputs[name.split()[0]][:WARM_UP]:
            runners[name](**batch)
    for step in tqdm(range(PASSES * count), desc=f"batch size {size}"):
        for j in range(len(names)):
            name = names[(step + j) % len(names)]
            batch = inputs[name.split()[0]][step % count]
            time.sleep(PAUSE)
            start = time.perf_counter()
            runners[name](**batch)
            seconds[name][step // count].append(time.perf_counter() - start)
    return seconds


def summarize(
    name: str, single: Mapping[str, list[list[float]]], batched: Mapping[str, list[list[float]]]
) -> dict[str, Any]:
    """Of one form, with the spread over passes: ms at batch 1, sentences/s at 32, against PEER."""

    def milliseconds(form: str) -> list[float]:
        return [round(1000 * statistics.median(seconds), 3) for seconds in single[form]]

    def rate(form: str) -> list[float]:
        return [round(TIMED / sum(seconds), 2) for seconds in batched[form]]

    def ratios(above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
        return spread([round(a / b, 3) for a, b in zip(above, below, strict=True)])

    return {
        "p50_ms": spread(milliseconds(name)),
        "speedup_batch_1": ratios(milliseconds(PEER), milliseconds(name)),
        "sentences_per_second_batch_32": spread(rate(name)),
        "speedup_batch_32": ratios(rate(name), rate(PEER)),
    }


def conclude(forms: dict[str, dict[str, Any]], sentences: int) -> None:
    """Write benchmarks/results/inference.json, and print the summary."""
    small = forms["distilbert int8"]
    faster, megabytes = small["speedup_batch_1"]["median"], small["bytes"] / 1e6
    before, after = forms["minilm eager"]["accuracy"], forms["minilm int8"]["accuracy"]
    measured = after != NOT_MEASURED
    lost = round(before - after, 2) if measured else NOT_MEASURED
    met = faster >= FASTER and megabytes < MEGABYTES and measured and before - after <= POINTS
    line = (
        f"DistilBERT int8 at batch 1 {faster:.1f} x as fast as eager BERT-base "
        f"({small['p50_ms']['median']:.1f} against {forms[PEER]['p50_ms']['median']:.1f} ms), "
        f"{megabytes:.1f} MB; MiniLM: int8 {after} %, PyTorch {before} %"
    )
    target = f">= {FASTER:g} x, < {MEGABYTES} MB, at most {POINTS} points lost"
    packages = {name: version(name) for name in ("onnxruntime", "onnx", "onnxscript")}
    counts = {"sentences": sentences, "sentences_timed": TIMED, "passes": PASSES, "seed": SEED}
    facts = {"peer": PEER, "forms": forms, "minilm_int8_points_lost": lost, **packages, **counts}
    report("inference", target, met, line, {"unit": "ms; sentences/s; bytes; %", **facts})


if __name__ == "__main__":
    main()
