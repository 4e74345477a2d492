"""Exported forms against eager BERT-base (1.0): latency at batch 1, throughput at batch 32, memory, bytes, accuracy; a picture.

BERT-base, DistilBERT and MiniLM, full size, each as eager PyTorch (what `stages.benchmark` times) and in the three forms that
`stages.export` makes. All twelve are in one process and take turns sentence by sentence, then batch by batch, on SST-2's
validation sentences; memory is of a process of its own for each. What is in models/finetuned/ (seed 1) is exported from there
and its accuracy measured on all 872 sentences. Of the others the architecture has random weights: speed, memory and bytes do not
depend on their values, and accuracy is "not measured"; only their agreement with their own fp32 logits is given, on the
sentences that are timed.

Threads: as many as PyTorch takes, for ONNX Runtime alike. The threads of either spin for a while after its turn, in which they
would take a processor from the next: so there is a pause between turns, and ONNX Runtime's stop with the run. Neither is
kept from spinning during its own work, which would slow it down.

Targets, on 2 cores: DistilBERT int8 at batch 1 >= 4 x as fast as eager BERT-base, its file < 70 MB; int8 costs MiniLM at most 0.5
points of accuracy.

Run as: python -m benchmarks.inference        (best undisturbed: chrt -r 1 python -m benchmarks.inference)
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.common import RESULTS, report, spread, sst2, take_turns, tokenizer_directory
from reproduce.command import go_offline
from reproduce.files import write_text
from reproduce.inputs.tokenizer import load_tokenizer, tokenize_split
from reproduce.machine import peak_memory
from reproduce.models.onnx import FILES, export
from reproduce.params import Export, read_section
from reproduce.report.analysis import Point, pareto_front
from stages.benchmark import build
from stages.export import compare

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

    Batch = dict[str, np.ndarray]
    Forward = Callable[[Batch], np.ndarray]

MODELS = {"bert": "BERT-base", "distilbert": "DistilBERT", "minilm": "MiniLM"}
FORMS = ("eager", *FILES)
PEER = "bert eager"
SEED = 1
EVERY, PASSES = 4, 3  # every fourth validation sentence, three times over
BATCH_SIZE = 32
MEMORY_ROUNDS = 1
WARM_UP = 10  # sentences that are computed first and not timed
PAUSE = 0.01  # seconds between two turns
FASTER, MEGABYTES, POINTS = 4.0, 70, 0.5  # the targets
NOT_MEASURED = "not measured"


def main() -> None:
    """Export, compare and measure; with arguments (memory, folder, form, inputs), be the process whose memory is measured."""
    if sys.argv[1:2] == ["memory"]:
        print(json.dumps(memory(Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))))
        return
    sentences, labels, names = sst2("validation")
    with TemporaryDirectory() as scratch:
        folders = {model: Path(scratch) / model for model in MODELS}
        directories = {model: tokenizer_directory(model, folders[model]) for model in MODELS}
        go_offline()
        found: dict[str, dict[str, Any]] = {}
        singles: dict[str, list[Batch]] = {}
        batches: dict[str, list[Batch]] = {}
        for model, folder in folders.items():
            source, exported = folder / "source", folder / "exported"
            fine_tuned = prepare(model, directories[model], source)
            coded = (
                tokenize_split(load_tokenizer(source), sentences, labels, names, 128)
                .data.column("input_ids")
                .to_pylist()
            )
            exported.mkdir()
            types = "token_type_ids" in export(source, exported, read_section("export", Export))
            sample, every = coded[::EVERY], 1 if fine_tuned else EVERY
            compared = compare(
                source, exported, coded[::every], None, labels[::every], ["accuracy"]
            )
            found |= agreement(model, compared, fine_tuned)
            singles[model] = [collate([ids], types) for ids in sample]
            by_length = sorted(sample, key=len)
            batches[model] = [
                collate(by_length[i : i + BATCH_SIZE], types)
                for i in range(0, len(sample), BATCH_SIZE)
            ]
        for name, used in measure_memory(folders, singles, batches).items():
            found[name]["memory_mb"] = used
        runners = {
            f"{model} {form}": load(folder, form)
            for model, folder in folders.items()
            for form in FORMS
        }
        latency, throughput = (
            turns(runners, inputs, title)
            for inputs, title in ((singles, "batch 1"), (batches, "batch 32"))
        )
    for name in runners:
        found[name] |= summarize(name, latency, throughput, len(sample))
    conclude(found, len(sentences), len(sample))


def prepare(model: str, tokenizer: Path, folder: Path) -> bool:
    """Put what `stages.export` reads into `folder`: the fine-tuned model if there is one (True), else random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    fine_tuned = Path("models/finetuned") / f"{model}-{SEED}"
    if is_there := (fine_tuned / "model.safetensors").is_file():
        for path in fine_tuned.iterdir():
            shutil.copyfile(path, folder / path.name)
    else:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(tokenizer / name, folder / name)
        build(tokenizer).save_pretrained(str(folder))
    print(
        f"{model}: {fine_tuned if is_there else 'random weights, for there is no ' + str(fine_tuned)}",
        flush=True,
    )
    return is_there


def collate(ids: Sequence[Sequence[int]], types: bool) -> "Batch":
    """What a tokenizer gives for these sentences: int64 arrays of shape (sentences, longest), padded on the right."""
    import numpy as np

    batch = {"input_ids": np.zeros((len(ids), max(map(len, ids))), np.int64)}
    batch["attention_mask"] = np.zeros_like(batch["input_ids"])
    if types:
        batch["token_type_ids"] = np.zeros_like(batch["input_ids"])
    for row, tokens in enumerate(ids):
        batch["input_ids"][row, : len(tokens)] = tokens
        batch["attention_mask"][row, : len(tokens)] = 1
    return batch


def agreement(
    model: str, forms: Mapping[str, Mapping[str, Any]], fine_tuned: bool
) -> dict[str, dict[str, Any]]:
    """By "model form": bytes, accuracy in percent if the weights are real, and how far the answers are from PyTorch's."""
    result = {}
    for form, found in forms.items():
        kept = ("bytes", "other_labels", "largest_logit_difference", "logit_standard_deviation")
        values: dict[str, Any] = {key: found[key] for key in kept if key in found}
        values["accuracy"] = round(100 * found["accuracy"], 2) if fine_tuned else NOT_MEASURED
        result[f"{model} {'eager' if form == 'pytorch' else form}"] = values
    return result


def load(folder: Path, form: str) -> "Forward":
    """One form of the model in `folder` (source/, exported/) as a function from a batch to logits."""
    if form == "eager":
        import torch
        from transformers import AutoModelForSequenceClassification
        from transformers.utils import logging

        logging.disable_progress_bar()
        model = AutoModelForSequenceClassification.from_pretrained(
            str(folder / "source"), dtype=torch.float32
        ).eval()

        def eager(batch: "Batch") -> "np.ndarray":
            with torch.inference_mode():
                logits: np.ndarray = model(
                    **{name: torch.from_numpy(rows) for name, rows in batch.items()}
                ).logits.numpy()
                return logits

        return eager
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(
        str(folder / "exported" / FILES[form]), options, providers=["CPUExecutionProvider"]
    )
    return lambda batch: session.run(["logits"], batch)[0]  # type: ignore[no-any-return]


def threads() -> int:
    """As many as PyTorch takes, without importing it: one a processor that this process may use, or OMP_NUM_THREADS."""
    import os

    return int(os.environ.get("OMP_NUM_THREADS", "0")) or len(os.sched_getaffinity(0))


def turns(
    runners: Mapping[str, "Forward"], inputs: Mapping[str, list["Batch"]], title: str
) -> dict[str, list[list[float]]]:
    """Seconds by "model form", pass and input: all compute the first input, then all the second, another one first each time."""
    from tqdm import tqdm

    names = list(runners)
    seconds: dict[str, list[list[float]]] = {name: [] for name in names}
    count = len(next(iter(inputs.values())))
    for name in names:
        for batch in inputs[name.split()[0]][:WARM_UP]:
            runners[name](batch)
    with tqdm(total=PASSES * count, desc=title) as bar:
        for _ in range(PASSES):
            for name in names:
                seconds[name].append([])
            for i in range(count):
                for j in range(len(names)):
                    name = names[(i + j) % len(names)]
                    batch = inputs[name.split()[0]][i]
                    time.sleep(PAUSE)
                    start = time.perf_counter()
                    runners[name](batch)
                    seconds[name][-1].append(time.perf_counter() - start)
                bar.update()
    return seconds


def summarize(
    name: str,
    latency: Mapping[str, list[list[float]]],
    throughput: Mapping[str, list[list[float]]],
    sentences: int,
) -> dict[str, Any]:
    """Of one form, each with its spread over the passes: ms at batch 1 (p50, p95), sentences/s at batch 32, ratios to PEER."""
    import numpy as np

    def quantile(form: str, q: float) -> list[float]:
        return [round(1000 * float(np.quantile(seconds, q)), 3) for seconds in latency[form]]

    def rate(form: str) -> list[float]:
        return [round(sentences / sum(seconds), 2) for seconds in throughput[form]]

    faster = [
        round(theirs / ours, 3)
        for theirs, ours in zip(quantile(PEER, 0.5), quantile(name, 0.5), strict=True)
    ]
    more = [round(ours / theirs, 3) for theirs, ours in zip(rate(PEER), rate(name), strict=True)]
    return {
        "p50_ms": spread(quantile(name, 0.5)), "p95_ms": spread(quantile(name, 0.95)), "speedup_batch_1": spread(faster),
        "sentences_per_second_batch_32": spread(rate(name)), "speedup_batch_32": spread(more),
    }  # fmt: skip


def measure_memory(
    folders: Mapping[str, Path],
    singles: Mapping[str, list["Batch"]],
    batches: Mapping[str, list["Batch"]],
) -> dict[str, dict[str, Any]]:
    """By "model form": MB resident in a process of its own after its imports, after loading, and at most."""
    import numpy as np

    tasks: dict[str, Callable[[], dict[str, float]]] = {}
    for model, folder in folders.items():
        inputs = folder / "inputs.npz"
        longest = {f"{key} 32": rows for key, rows in batches[model][-1].items()}
        arrays: dict[str, Any] = {
            f"{key} 1": rows for key, rows in singles[model][0].items()
        } | longest
        np.savez(inputs, **arrays)
        tasks |= {
            f"{model} {form}": partial(memory_of_process, folder, form, inputs) for form in FORMS
        }
    used = take_turns(tasks, MEMORY_ROUNDS)
    return {
        name: {key: spread([u[key] for u in values]) for key in values[0]}
        for name, values in used.items()
    }


def memory_of_process(folder: Path, form: str, inputs: Path) -> dict[str, float]:
    """Run `memory` in a new process."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.inference",
        "memory",
        str(folder),
        form,
        str(inputs),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{folder.name} {form}: exit code {done.returncode}\n{done.stderr}")
    used: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return used


def memory(folder: Path, form: str, inputs: Path) -> dict[str, float]:
    """Load one form and compute one sentence and one batch; MB (10^6 bytes) resident in this process."""
    import numpy as np
    import psutil

    own = psutil.Process()
    arrays = dict(np.load(inputs))
    if form == "eager":
        import torch  # noqa: F401
        from transformers import BertForSequenceClassification, DistilBertForSequenceClassification  # noqa: F401
    else:
        import onnxruntime  # noqa: F401
    imported = own.memory_info().rss
    run = load(folder, form)
    loaded = own.memory_info().rss
    for size in ("1", "32"):
        batch = {key.split()[0]: rows for key, rows in arrays.items() if key.endswith(f" {size}")}
        for _ in range(3):
            run(batch)
    values = {
        "imports": imported,
        "loaded": loaded,
        "running": own.memory_info().rss,
        "peak": own_peak(),
    }
    return {key: round(value / 1e6, 1) for key, value in values.items()}


def own_peak() -> int:
    """The greatest resident memory of this process, in bytes. On Linux not ru_maxrss, which begins with that of the parent."""
    status = Path("/proc/self/status")
    if status.is_file():
        return next(
            int(line.split()[1]) * 1024
            for line in status.read_text().splitlines()
            if line.startswith("VmHWM")
        )
    return peak_memory()


def conclude(found: dict[str, dict[str, Any]], sentences: int, timed: int) -> None:
    """Write benchmarks/results/inference.json and .svg, and print the summary."""
    from importlib.metadata import version

    small = found["distilbert int8"]
    faster, megabytes = small["speedup_batch_1"]["median"], small["bytes"] / 1e6
    before, after = found["minilm eager"]["accuracy"], found["minilm int8"]["accuracy"]
    lost = round(before - after, 2) if after != NOT_MEASURED else NOT_MEASURED
    met = (
        faster >= FASTER
        and megabytes < MEGABYTES
        and lost != NOT_MEASURED
        and float(lost) <= POINTS
    )
    accuracy = "accuracy of MiniLM in int8 not measured" if lost == NOT_MEASURED else (
        f"MiniLM in int8 is right on {after} %, in PyTorch {before} %")  # fmt: skip
    line = (f"DistilBERT int8 at batch 1 {faster:.1f} x as fast as eager BERT-base ({small['p50_ms']['median']:.1f} against "
            f"{found[PEER]['p50_ms']['median']:.1f} ms), {megabytes:.1f} MB; {accuracy}")  # fmt: skip
    target = f">= {FASTER:g} x, < {MEGABYTES} MB, at most {POINTS} points lost"
    report("inference", target, met, line, {
        "unit": "ms a sentence at batch 1; sentences/s at batch 32; memory in MB (10^6 bytes), resident; accuracy in percent",
        "sentences": sentences, "sentences_timed": timed, "passes": PASSES, "seed": SEED, "peer": PEER, "forms": found,
        "minilm_int8_points_lost": lost,
        "onnxruntime": version("onnxruntime"), "onnx": version("onnx"), "onnxscript": version("onnxscript"),
    })  # fmt: skip
    write_text(RESULTS / "inference.svg", picture(points(found)))
    print(f"{RESULTS}/inference.svg")


# ----------------------------------------------------------------------------------------------------------------- picture

COLOURS = {"bert": "#0b6e99", "distilbert": "#b5461f", "minilm": "#3d7a35"}
MARKERS = {"bert": "s", "distilbert": "^", "minilm": "o"}
INK, MUTED, GRID, PAPER = "#1f2328", "#59636e", "#d1d9e0", "#ffffff"
STYLE: Any = {
    "svg.hashsalt": "inference", "svg.fonttype": "path", "font.size": 9, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "grid.color": GRID, "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
    "figure.facecolor": PAPER, "axes.facecolor": PAPER, "legend.frameon": False,
}  # fmt: skip


def points(found: Mapping[str, Mapping[str, Any]]) -> list[Point]:
    """One for each "model form"."""
    return [
        Point(
            name,
            None if f["accuracy"] == NOT_MEASURED else f["accuracy"],
            f["p50_ms"]["median"],
            f["bytes"] / 1e6,
        )
        for name, f in found.items()
    ]


def picture(points: Sequence[Point]) -> str:
    """Accuracy against latency as SVG, size as area; hollow on the axis: accuracy not measured. Same data, same bytes."""
    import io

    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator

    measured = [point.accuracy for point in points if point.accuracy is not None]
    low, high = (min(measured), max(measured)) if measured else (0.0, 1.0)
    room = max(high - low, 1.0)
    floor, top = low - 1.9 * room, high + 1.1 * room
    largest = max(point.megabytes for point in points)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 5.2), layout="constrained")
        axes = figure.subplots()
        axes.set_xscale("log")
        times = [point.milliseconds for point in points]
        axes.set(xlim=(min(times) / 1.6, max(times) * 1.6), ylim=(floor, top),
                 xlabel="milliseconds a sentence, batch size 1 (median, logarithmic)",
                 ylabel="accuracy on SST-2's 872 validation sentences, %")  # fmt: skip
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:g}"))
        axes.xaxis.set_minor_locator(LogLocator(subs=()))
        if len(measured) < len(points):
            axes.axhspan(floor, floor + 1.35 * room, color=GRID, alpha=0.35, linewidth=0, zorder=0)
            axes.text(0.995, floor + 1.3 * room, "hollow, on the axis: accuracy not measured (no fine-tuned weights here)",
                      transform=axes.get_yaxis_transform(), ha="right", va="top", color=MUTED, fontsize=8)  # fmt: skip
        front = pareto_front(points)
        axes.plot([p.milliseconds for p in front], [p.accuracy or 0 for p in front], color=MUTED, lw=1, drawstyle="steps-post",
                  linestyle=(0, (3, 2)), zorder=1)  # fmt: skip
        for point in points:
            model = point.name.split()[0]
            axes.scatter(point.milliseconds, floor if point.accuracy is None else point.accuracy,
                         s=330 * point.megabytes / largest, marker=MARKERS[model], zorder=3, linewidths=1.4, clip_on=False,
                         facecolors="none" if point.accuracy is None else COLOURS[model], edgecolors=COLOURS[model],
                         alpha=0.9)  # fmt: skip
        axes.set_yticks(
            [tick for tick in axes.get_yticks() if measured and floor + 1.35 * room <= tick <= top]
        )
        handles = [
            Line2D([], [], linestyle="none", marker=MARKERS[m], color=COLOURS[m], label=name)
            for m, name in MODELS.items()
        ]
        axes.legend(
            handles=handles,
            loc="upper right",
            ncols=3,
            handletextpad=0.2,
            title="area: size of the file",
        )
        axes.tick_params(axis="x", pad=12)
        figure.draw_without_rendering()  # so that sizes in pixels are known
        label(axes, points, floor)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def label(axes: "Axes", points: Sequence[Point], floor: float) -> None:
    """Write form and size over each point, with a thin line to it, as high as it takes to be clear of the labels to its left."""
    taken: list[Any] = []
    for point in sorted(points, key=lambda p: (p.accuracy is not None, p.milliseconds)):
        colour = COLOURS[point.name.split()[0]]
        place = (point.milliseconds, floor if point.accuracy is None else point.accuracy)
        for height in range(15, 400, 11):
            note = axes.annotate(f"{point.name.split()[1]} {point.megabytes:.0f} MB", place, xytext=(0, height), ha="center",
                                 textcoords="offset points", fontsize=7.5, color=colour, zorder=4 - height / 1000,
                                 bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
                                 arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkB": 3})  # fmt: skip
            box = note.get_window_extent().padded(1)
            text = axes.transData.transform(place)
            around = box.from_extents(
                text[0] - 34, text[1] + height - 4, text[0] + 34, text[1] + height + 12
            )
            if not any(around.overlaps(other) for other in taken):
                taken.append(around)
                break
            note.remove()


if __name__ == "__main__":
    main()
