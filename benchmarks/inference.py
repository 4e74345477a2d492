"""Exported forms against eager BERT-base (1.0): latency, throughput, memory, bytes, accuracy.

Run as: python -m benchmarks.inference        (best undisturbed: chrt -r 1 python -m ...)

BERT-base, DistilBERT and MiniLM, full size, each in eager PyTorch and in the three forms that
`stages.export` makes. All twelve are in one process and take turns sentence by sentence, then batch
by batch, on SST-2's validation sentences; memory is of a process of its own for each. What is in
models/finetuned/ (seed 1) is exported from there and its accuracy measured on all 872 sentences.
Of the others the architecture has random weights: speed, memory and bytes do not depend on their
values, and accuracy is "not measured".

ONNX Runtime takes as many threads as PyTorch. The threads of either spin for a while after their
turn, in which they would take a processor from the next: so there is a pause between turns.

Targets, on 2 cores: DistilBERT int8 at batch 1 at least 4 x as fast as eager BERT-base, its file
under 70 MB; int8 costs MiniLM at most 0.5 points of accuracy.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.common import report, spread, sst2, take_turns, tokenizer_directory
from reproduce.command import go_offline
from reproduce.inputs.tokenized import Tokenized
from reproduce.inputs.tokenizer import load_tokenizer, read_config, tokenize_split
from reproduce.machine import peak_memory
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
FORMS = ("eager", *FILES)
PEER = "bert eager"
SEED = 1
TIMED, PASSES = 218, 3  # validation sentences, evenly chosen, and how often
BATCH_SIZE = 32
WARM_UP = 10  # sentences that are computed first and not timed
PAUSE = 0.01  # seconds between two turns
FASTER, MEGABYTES, POINTS = 4.0, 70, 0.5  # the targets
NOT_MEASURED = "not measured"


def main() -> None:
    """Export, compare and measure; as `memory FOLDER FORM`, be the process that is measured."""
    if sys.argv[1:2] == ["memory"]:
        print(json.dumps(memory(Path(sys.argv[2]), sys.argv[3])))
        return
    sentences, labels, names = sst2("validation")
    forms: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory() as scratch:
        folders = {model: Path(scratch, model) for model in MODELS}
        tokenizers = {model: tokenizer_directory(model, Path(scratch)) for model in MODELS}
        go_offline()
        inputs: dict[int, dict[str, list[Batch]]] = {1: {}, BATCH_SIZE: {}}
        for model, folder in folders.items():
            fine_tuned = prepare(model, tokenizers[model], folder / "source")
            tokenizer = load_tokenizer(folder / "source")
            ids = list(tokenize_split(tokenizer, sentences, labels, names, 128)["input_ids"])
            (folder / "exported").mkdir()
            export(folder / "source", folder / "exported", read_section("export", Export))
            split = Tokenized(ids, None, list(labels), list(names))
            compared = compare(folder / "source", folder / "exported", split, ["accuracy"])
            forms |= agreement(model, compared, fine_tuned)
            timed = choose(ids, TIMED)
            inputs[1][model] = [pad([one]) for one in timed]
            timed.sort(key=len)
            starts = range(0, len(timed), BATCH_SIZE)
            inputs[BATCH_SIZE][model] = [pad(timed[i : i + BATCH_SIZE]) for i in starts]
        measure_memory(folders, forms)
        runners = {name: load(folders[name.split()[0]], name.split()[1]) for name in forms}
        seconds = {size: turns(runners, batches, size) for size, batches in inputs.items()}
    for name in forms:
        forms[name] |= summarize(name, seconds[1], seconds[BATCH_SIZE])
    conclude(forms, len(sentences))


def prepare(model: str, tokenizer: Path, folder: Path) -> bool:
    """Put what `stages.export` reads into `folder`: the fine-tuned model (True), or random ones."""
    folder.mkdir(parents=True)
    fine_tuned = Path("models/finetuned") / f"{model}-{SEED}"
    if is_there := (fine_tuned / "model.safetensors").is_file():
        shutil.copytree(fine_tuned, folder, dirs_exist_ok=True)
    else:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(tokenizer / name, folder / name)
        build(tokenizer).save_pretrained(str(folder))
    print(f"{model}: {fine_tuned if is_there else 'random weights'}", flush=True)
    return is_there


def agreement(
    model: str, compared: Mapping[str, Mapping[str, Any]], fine_tuned: bool
) -> dict[str, dict[str, Any]]:
    """By "model form": bytes, how far it is from PyTorch, accuracy in % if the weights are real."""
    result = {}
    for form, facts in compared.items():
        values = {k: v for k, v in facts.items() if k not in ("score", "correct", "accuracy")}
        values["accuracy"] = round(100 * facts["accuracy"], 2) if fine_tuned else NOT_MEASURED
        result[f"{model} {'eager' if form == 'pytorch' else form}"] = values
    return result


def load(folder: Path, form: str) -> "Forward":
    """One form of the model in `folder` as a function of a batch."""
    if form != "eager":
        return Session(folder / "exported" / FILES[form], read_config(folder / "source"))
    import torch

    model = load_finetuned(folder / "source")
    return torch.inference_mode()(lambda **batch: model(**batch))  # type: ignore[no-any-return]


def pad(token_ids: Sequence[Sequence[int]]) -> "Batch":
    """A batch of sentences: int64 tensors of shape (sentences, longest), padded at the right."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    rows = [torch.tensor(ids) for ids in token_ids]
    masks = [torch.ones_like(row) for row in rows]
    return {
        "input_ids": pad_sequence(rows, batch_first=True),
        "attention_mask": pad_sequence(masks, batch_first=True),
    }


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
    import numpy as np

    def quantile(form: str, q: float) -> list[float]:
        return [round(1000 * float(np.quantile(seconds, q)), 3) for seconds in single[form]]

    def rate(form: str) -> list[float]:
        return [round(TIMED / sum(seconds), 2) for seconds in batched[form]]

    def ratios(above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
        return spread([round(a / b, 3) for a, b in zip(above, below, strict=True)])

    return {
        "p50_ms": spread(quantile(name, 0.5)),
        "p95_ms": spread(quantile(name, 0.95)),
        "speedup_batch_1": ratios(quantile(PEER, 0.5), quantile(name, 0.5)),
        "sentences_per_second_batch_32": spread(rate(name)),
        "speedup_batch_32": ratios(rate(name), rate(PEER)),
    }


def measure_memory(folders: Mapping[str, Path], forms: dict[str, dict[str, Any]]) -> None:
    """Add to each form the MB that it takes in a process of its own."""

    def measure(name: str) -> dict[str, float]:
        model, form = name.split()
        command = ["-m", "benchmarks.inference", "memory", str(folders[model]), form]
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name}: exit code {done.returncode}\n{done.stderr}")
        used: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return used

    for name, used in take_turns({name: partial(measure, name) for name in forms}, 1).items():
        forms[name]["memory_mb"] = used[0]


def memory(folder: Path, form: str) -> dict[str, float]:
    """MB (10^6 bytes) that this process held at most: before loading, and after computing."""
    import onnxruntime  # noqa: F401
    import torch  # noqa: F401
    import transformers.models.auto.modeling_auto  # noqa: F401

    before = peak_memory()
    run = load(folder, form)
    for size in (1, BATCH_SIZE):
        run(**pad([[101, *[2000] * 50, 102]] * size))
    return {"imports": round(before / 1e6, 1), "peak": round(peak_memory() / 1e6, 1)}


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
    report("inference", target, met, line, {"unit": "ms; sentences/s; MB resident; %", **facts})


if __name__ == "__main__":
    main()
