"""Seconds until `python -m stages.NAME --help` has answered, for every stage, against `python -c pass`.

Target: each under 1 s, best of several runs. A stage that imports torch before it reads its arguments takes longer.

Run as: python -m benchmarks.help_time
"""

import sys
from functools import partial
from pathlib import Path

from benchmarks.common import Seconds, report, spread_seconds, take_turns, time_command

ROUNDS = 5
LIMIT = 1.0  # seconds
PEER = "python -c pass"


def main() -> None:
    """Time all of them in turn."""
    stages = sorted(path.stem for path in Path("stages").glob("*.py") if path.stem != "__init__")
    commands = {PEER: ["-c", "pass"], **{f"stages.{stage}": ["-m", f"stages.{stage}", "--help"] for stage in stages}}
    tasks = {name: partial(time_command, [sys.executable, *command]) for name, command in commands.items()}
    seconds = take_turns(tasks, ROUNDS)
    peer = seconds.pop(PEER)
    theirs = best(peer)
    ours = {name: best(values) for name, values in seconds.items()}
    slowest = max(ours, key=lambda name: ours[name])
    line = (
        f"slowest is {slowest}: {ours[slowest]:.2f} s, {ours[slowest] / theirs:.1f} x `{PEER}` ({theirs:.3f} s), best of {ROUNDS}"
    )
    report("help_time", f"each < {LIMIT} s", ours[slowest] < LIMIT, line, {
        "unit": "seconds",
        "ratio": {name: round(value / theirs, 2) for name, value in ours.items()},
        "ours": {name: spread_seconds(values) for name, values in seconds.items()},
        "peer": {"what": PEER, **spread_seconds(peer)},
    })  # fmt: skip


def best(values: list[Seconds]) -> float:
    """The least wall time."""
    return min(value.wall for value in values)


if __name__ == "__main__":
    main()
