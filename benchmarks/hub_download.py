"""What verifying every byte adds to `reproduce.fetch.fetch`, and that against plain `hf_hub_download`: DistilBERT's five files.

All from the same Hub on the loopback address (tests/hub.py), in a process of its own, into an empty cache at every round;
the bytes are random, their numbers real (269 MB). Ours leaves the files in the output folder besides, the peer only in the
cache: so `peer and copy` is the peer, and then a plain copy to the same place. `unverified` is ours with a hash that looks at no
byte: what verifying adds is ours over that, to be <= 1.1 at both speeds: 1 Gbit/s, and as fast as the loopback goes, where no
network hides it.

Run as: python -m benchmarks.hub_download
"""

import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from benchmarks.common import Seconds, report, spread_seconds, take_turns, time_call
from reproduce.catalog import Pin, Source, read_model
from reproduce.fetch import fetch

MODEL = "distilbert"
SPEEDS = {"1 Gbit/s": 125e6, "unlimited": 0.0}  # bytes a second
ROUNDS = 21  # one alone may be off by a quarter
LIMIT = 1.1


def main() -> None:
    """Time all in turn at both speeds, after one run of each that is not counted."""
    entry = read_model(MODEL)
    source = next(source for source in entry.sources if source.hub)
    with TemporaryDirectory() as scratch:
        folder, work = Path(scratch) / "hub", Path(scratch) / "work"
        pins = write_files(folder / "models" / (source.hub or ""), entry.tokenizer | entry.weights)
        os.environ |= {"HF_HOME": str(work / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        seconds = {name: measure(folder, work, source, pins, rate) for name, rate in SPEEDS.items()}
    results = {name: {who: spread_seconds(values) for who, values in all_.items()} for name, all_ in seconds.items()}
    ratio = {
        name: {other: over(results[name]["ours"], results[name][other]) for other in ("unverified", "peer", "peer and copy")}
        for name in SPEEDS
    }
    size, speed = sum(pin.bytes for pin in pins.values()), sha256_speed()
    parts = [
        f"{name}: {ratio[name]['unverified']['wall']} x the same unverified, {ratio[name]['peer and copy']['wall']} x "
        f"hf_hub_download and a copy ({results[name]['peer and copy']['wall']['median']:.2f} s), "
        f"{ratio[name]['peer']['wall']} x hf_hub_download alone"
        for name in SPEEDS
    ]
    line = (
        f"{'; '.join(parts)}; sha256 alone {size / speed / 1e6:.2f} s ({speed:.0f} MB/s); median of {ROUNDS}, {size / 1e6:.0f} MB"
    )
    met = max(ratio[name]["unverified"]["wall"] for name in SPEEDS) <= LIMIT
    report("hub_download", f"verified <= {LIMIT} x unverified, at both speeds", met, line,
           {"unit": "seconds", "bytes": size, "sha256_mb_per_second": round(speed), "ratio": ratio, **results})  # fmt: skip


class NoHash:
    """In the place of sha256: looks at no byte, and equals any digest."""

    def update(self, data: bytes) -> None:
        """Nothing."""

    def hexdigest(self) -> str:
        """What equals every digest."""
        return AnyDigest()


class AnyDigest(str):
    """Equals every string."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True


def over(ours: dict[str, Any], peer: dict[str, Any]) -> dict[str, float]:
    """Ratios: of the medians by the processor's time; by the clock the median of the rounds', which drift together."""
    rounds = [a / b for a, b in zip(ours["wall"]["values"], peer["wall"]["values"], strict=True)]
    return {"wall": round(statistics.median(rounds), 3), "cpu": round(ours["cpu"]["median"] / peer["cpu"]["median"], 3)}


def write_files(folder: Path, files: dict[str, Pin]) -> dict[str, Pin]:
    """Random files of the sizes of the real ones; returns their pins."""
    folder.mkdir(parents=True)
    pins = {}
    for name, real in files.items():
        data = os.urandom(real.bytes)
        (folder / name).write_bytes(data)
        pins[name] = Pin(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    return pins


def measure(folder: Path, work: Path, source: Source, pins: dict[str, Pin], rate: float) -> dict[str, list[Seconds]]:
    """Seconds of each, from a Hub that sends `rate` bytes a second."""
    with hub(folder, rate) as url:
        constants = use_hub(url)

        def peer(copy: bool = False) -> None:
            from huggingface_hub import hf_hub_download

            for name in pins:
                cached = hf_hub_download(source.hub or "", name, revision=source.revision)
                if copy:
                    (work / "out" / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(cached, work / "out" / name)

        def ours() -> None:
            with redirect_stdout(StringIO()):
                fetch("model", [source], pins, work / "out")

        def unverified() -> None:
            with mock.patch("reproduce.fetch.hashlib.sha256", NoHash):
                ours()

        def fresh(download: Callable[[], None]) -> Seconds:
            shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
            shutil.rmtree(work / "out", ignore_errors=True)
            return time_call(download)

        tasks = {
            "ours": partial(fresh, ours),
            "unverified": partial(fresh, unverified),
            "peer": partial(fresh, peer),
            "peer and copy": partial(fresh, partial(peer, copy=True)),
        }
        take_turns(tasks, 1)  # imports, the Hub's own digests
        return take_turns(tasks, ROUNDS)


@contextmanager
def hub(folder: Path, rate: float) -> Iterator[str]:
    """The address of a Hub in another process, which must not share this one's interpreter lock."""
    command = [sys.executable, "tests/hub.py", str(folder), str(rate)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        yield process.stdout.readline().strip()
        process.stdin.close()


def use_hub(url: str) -> Any:
    """Point the Hub's client, which reads its settings when it is imported, to `url`; returns its settings."""
    from huggingface_hub import constants

    constants.ENDPOINT = url
    constants.HUGGINGFACE_CO_URL_TEMPLATE = url + "/{repo_id}/resolve/{revision}/{filename}"
    return constants


def sha256_speed() -> float:
    """MB that one core hashes in a second, best of three."""
    block, seconds = bytes(1 << 26), []
    for _ in range(3):
        start = time.perf_counter()
        hashlib.sha256(block)
        seconds.append(time.perf_counter() - start)
    return len(block) / min(seconds) / 1e6


if __name__ == "__main__":
    main()
