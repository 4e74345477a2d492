"""What the benchmarks share: turns, timing, the real SST-2 sentences, the summary and its file."""

import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from reproduce.files import write_json
from reproduce.inputs.canonical import download_split
from reproduce.inputs.catalog import read_dataset, read_model
from reproduce.inputs.fetch import fetch
from reproduce.machine import describe

RESULTS = Path("benchmarks/results")
T = TypeVar("T")


class Seconds(NamedTuple):
    """One measurement. Processor time suffers less than the clock from what else runs."""

    wall: float
    cpu: float


def take_turns(tasks: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Run the tasks A B A B ..., so that the machine's drift falls on all; what each returned."""
    values: dict[str, list[T]] = {name: [] for name in tasks}
    for number in range(rounds):
        for name, task in tasks.items():
            values[name].append(task())
            print(f"  round {number + 1} of {rounds}: {name}: {values[name][-1]}", flush=True)
    return values


def time_command(command: Sequence[str], cwd: Path | None = None, expect: str = "") -> Seconds:
    """Run `command` once; an error if it fails or does not print `expect`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if done.returncode or expect not in done.stdout:
        said = f"exit code {done.returncode}, expected {expect!r} in:\n{done.stdout}"
        raise RuntimeError(f"{' '.join(command)}: {said}")
    return Seconds(round(wall, 4), round(cpu, 4))


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, least, greatest, and all the values in the order in which they came."""
    median = round(statistics.median(values), 4)
    return {"median": median, "min": min(values), "max": max(values), "values": list(values)}


def spread_seconds(seconds: Sequence[Seconds]) -> dict[str, Any]:
    """`spread` of the clock's and of the processor's time."""
    return {"wall": spread([s.wall for s in seconds]), "cpu": spread([s.cpu for s in seconds])}


def report(name: str, target: str, met: bool, line: str, result: dict[str, Any]) -> None:
    """Print the summary line and write benchmarks/results/NAME.json."""
    # Above the number of processors, absolute times say little.
    load = round(os.getloadavg()[0], 2)
    facts = {"target": target, "met": met, "summary": line, "load_average": load}
    write_json(RESULTS / f"{name}.json", {**result, **facts, "environment": describe()})
    print(f"{name}: {line}. Target {target}: {'met' if met else 'MISSED'}")


def sst2(name: str) -> tuple[list[str], list[float], list[str]]:
    """Sentences, labels and class names of SST-2's train or validation; its pins are checked."""
    return *download_split("sst2", name), list(read_dataset("sst2").labels)


def fetch_tokenizer(model: str, folder: Path) -> Path:
    """Put config and tokenizer of a model into `folder`; their pins are checked."""
    entry = read_model(model)
    fetch("model", entry.sources, entry.tokenizer, folder)
    return folder
