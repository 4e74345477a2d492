"""`reproduce.predict` from file to CSV, against the bare runtime over batches that are ready; and its memory by lines.

Ours reads (twice: the first time for invalid UTF-8), tokenises, sorts, pads, computes, puts in order and writes; the model is
loaded before the clock starts. The peer calls the same network over the very batches, tokenised and padded beforehand, and
throws the logits away: PyTorch's forward pass, or `session.run` of an ONNX Runtime session with its own defaults and as many
threads. The sentences are the first of SST-2 train; the network is MiniLM with random weights: speed does not depend on their
values. Memory is the peak of the command itself on 100,000 and on 1,000,000 lines, with one small layer, so that it ends today.
Targets: >= 0.9 of the peer's throughput in every form; 1,000,000 lines take <= 1.05 x the memory of 100,000.

Run as: python -m benchmarks.predict_speed
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.common import Seconds, report, spread_seconds, sst2_train, take_turns, time_call, tokenizer_directory
from reproduce.inference import Model, load, usable_processors
from reproduce.predict import WINDOW_LINES, answer_all, check_source, parse
from reproduce.params import read_section
from reproduce.stage import go_offline
from stages.export import Export, export

if TYPE_CHECKING:
    import numpy as np

MODEL = "minilm"
FORMS = {"PyTorch fp32": "model.safetensors", "ONNX optimised": "model_optimized.onnx", "ONNX int8": "model_quantized.onnx"}
SENTENCES = 2 * WINDOW_LINES + 1000
BATCH_SIZE = 32
ROUNDS = 5
LINES = (100_000, 1_000_000)
LEAST_THROUGHPUT, MOST_MEMORY = 0.9, 1.05


def main() -> None:
    """Time every form and its peer in turn, then weigh the command."""
    sentences, _, names = sst2_train()
    go_offline()
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_model(folder / MODEL, names)
        make_model(folder / "small", names, num_hidden_layers=1, hidden_size=32, num_attention_heads=2, intermediate_size=64)
        (folder / "sentences.txt").write_text("".join(f"{text}\n" for text in sentences[:SENTENCES]), encoding="utf-8")
        tasks: dict[str, Callable[[], Seconds]] = {}
        for form, file in FORMS.items():
            model = load(folder / MODEL / file)
            arguments = parse(["--file", str(folder / "sentences.txt"), "--output", str(folder / "out.csv")])
            batches = ready_batches(model, sentences[:SENTENCES])
            bare = bare_runtime(folder / MODEL / file, model)
            tasks[f"ours {form}"] = partial(time_call, partial(ours, model, arguments))
            tasks[f"peer {form}"] = partial(time_call, partial(theirs, bare, batches))
            theirs(bare, batches[:20])
        seconds = take_turns(tasks, ROUNDS)
        memory = {f"{form}, {count:,} lines": peak(folder, FORMS[form], sentences, count)
                  for form in ("PyTorch fp32", "ONNX optimised") for count in LINES}  # fmt: skip
    results = {name: spread_seconds(values) for name, values in seconds.items()}
    # Of each round the peer's time by ours, and the median of these: what the machine did in a round was done to both.
    share = {
        form: {clock: round(statistics.median(getattr(peer, clock) / getattr(own, clock) for own, peer in
                                              zip(seconds[f"ours {form}"], seconds[f"peer {form}"], strict=True)), 3)
               for clock in ("wall", "cpu")}
        for form in FORMS
    }  # fmt: skip
    growth = {form: round(memory[f"{form}, {LINES[1]:,} lines"] / memory[f"{form}, {LINES[0]:,} lines"], 3)
              for form in ("PyTorch fp32", "ONNX optimised")}  # fmt: skip
    line = "; ".join(
        f"{form} {share[form]['wall']:.2f} x the bare runtime ({SENTENCES / results[f'ours {form}']['wall']['median']:,.0f} "
        "sentences/s)" for form in FORMS
    ) + f"; memory of {LINES[1]:,} lines {max(growth.values()):.2f} x that of {LINES[0]:,}"  # fmt: skip
    met = all(value["wall"] >= LEAST_THROUGHPUT for value in share.values()) and max(growth.values()) <= MOST_MEMORY
    report("predict_speed", f"throughput >= {LEAST_THROUGHPUT}, memory <= {MOST_MEMORY}", met, line, {
        "unit": "seconds; peak resident memory in MB (10^6 bytes)", "sentences": SENTENCES, "batch_size": BATCH_SIZE,
        "threads": usable_processors(), "throughput_share": share, "memory": memory, "memory_ratio": growth, **results,
    })  # fmt: skip


def make_model(folder: Path, names: Sequence[str], **changes: int) -> None:
    """A fine-tuned directory with random weights, and in the same folder what `stages.export` makes of it."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    with TemporaryDirectory() as scratch:
        source = tokenizer_directory(MODEL, Path(scratch))
        config = AutoConfig.from_pretrained(str(source), id2label=dict(enumerate(names)), **changes)
        torch.manual_seed(1)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(str(folder))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(source / name, folder / name)
    exported = folder.with_name(folder.name + "-exported")
    exported.mkdir()
    export(folder, exported, read_section("export", Export))
    for path in exported.glob("*.onnx"):
        path.rename(folder / path.name)


def ready_batches(model: Model, sentences: Sequence[str]) -> "list[dict[str, np.ndarray]]":
    """The batches that ours computes."""
    batches = []
    for start in range(0, len(sentences), WINDOW_LINES):
        coded, _ = model.encode([(text,) for text in sentences[start : start + WINDOW_LINES]])
        coded.sort(key=lambda ids: len(ids[0]))
        batches += [model.collate(coded[i : i + BATCH_SIZE]) for i in range(0, len(coded), BATCH_SIZE)]
    return batches


def bare_runtime(file: Path, model: Model) -> "Callable[[dict[str, np.ndarray]], Any]":
    """One call of the runtime for one batch, nothing of ours in it."""
    if file.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_processors()
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        return lambda batch: session.run(None, batch)
    import torch
    from transformers import AutoModelForSequenceClassification

    network = AutoModelForSequenceClassification.from_pretrained(str(file.parent)).eval()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network.to(device)

    def forward(batch: "dict[str, np.ndarray]") -> Any:
        with torch.inference_mode():
            return network(**{name: torch.from_numpy(array).to(device) for name, array in batch.items()}).logits

    return forward


def ours(model: Model, arguments: argparse.Namespace) -> None:
    """What the command does once the model is loaded."""
    answer_all(model, arguments, check_source(arguments.file, False))


def theirs(bare: "Callable[[dict[str, np.ndarray]], Any]", batches: "list[dict[str, np.ndarray]]") -> None:
    """The runtime, batch after batch."""
    last = [bare(batch) for batch in batches][-1]
    if hasattr(last, "cpu"):
        last.cpu()  # wait for a GPU


def peak(folder: Path, file: str, sentences: Sequence[str], count: int) -> float:
    """Peak resident memory, in MB, of the command on `count` lines."""
    with (folder / "lines.txt").open("w", encoding="utf-8") as lines:
        for start in range(0, count, len(sentences)):
            lines.writelines(f"{text}\n" for text in sentences[: count - start])
    command = [sys.executable, "-m", "reproduce.predict", "--model", str(folder / "small" / file), "--file", lines.name,
               "--output", str(folder / "out.csv")]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    with (folder / "out.csv").open("rb") as out:
        written = sum(chunk.count(b"\n") for chunk in iter(partial(out.read, 2**20), b""))
    if process.returncode or written != count + 1:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}, {written - 1:,} of {count:,} lines\n{said}")
    megabytes = round(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)
    print(f"  {file}, {count:,} lines: {megabytes} MB; {said.splitlines()[-1].split(';')[0]}", flush=True)
    return megabytes


if __name__ == "__main__":
    main()
