"""A no-op `dvc repro` of the default experiment, against one of an empty two-stage pipeline.

Run as: python -m benchmarks.noop_repro        (on committed code: it clones HEAD)

What a no-op costs depends on the numbers of stages, dependencies and outputs, not on what the
stages computed or how large it is (DVC keeps hashes by modification time). So nothing is trained:
in a clone of the project every stage module is replaced by a script that creates that stage's
outputs, and `dvc repro` runs once before the no-ops are timed. Target: ours <= 2 x theirs + 1.5 s
in the median round: each is judged by itself, for the machine drifts as much as what is measured.
"""

import json
import os
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.common import report, spread_seconds, take_turns, time_command

ROUNDS = 15
DVC = [sys.executable, "-m", "dvc"]

STUB = '''"""Stands in for a stage: creates its outputs."""
import json, os, pathlib
stage = os.environ["DVC_STAGE"]
for name in json.loads(pathlib.Path("outputs.json").read_text())[stage]:
    pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(name).write_text(f"{stage} {name}")
'''

EMPTY = """stages:
  one: {cmd: echo 1 > one, outs: [one]}
  two: {cmd: echo 2 > two, deps: [one], outs: [two]}
"""


def main() -> None:
    """Make two repositories, run each once, time no-ops in turn."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["DVC_NO_ANALYTICS"] = "1"
    with TemporaryDirectory() as scratch:
        os.environ["DVC_SITE_CACHE_DIR"] = f"{scratch}/site"  # leave nothing behind in /var/tmp
        peer, ours = Path(scratch) / "peer", Path(scratch) / "ours"
        make_empty(peer)
        stages = make_copy(ours)
        for path in (peer, ours):
            print(f"first repro: {time_command([*DVC, 'repro', '-q'], path)}", flush=True)
        noop = partial(time_command, [*DVC, "repro"], expect="Data and pipelines are up to date.")
        seconds = take_turns({path.name: partial(noop, path) for path in (ours, peer)}, ROUNDS)
    rounds = [(own.wall, empty.wall) for own, empty in zip(*seconds.values(), strict=True)]
    ratio = round(statistics.median(own / empty for own, empty in rounds), 3)
    room = round(statistics.median(2 * empty + 1.5 - own for own, empty in rounds), 2)
    results = {name: spread_seconds(values) for name, values in seconds.items()}
    own, empty = (results[name]["wall"]["median"] for name in ("ours", "peer"))
    line = (
        f"{stages} stages in {own:.2f} s, {ratio} x an empty pipeline ({empty:.2f} s), below the "
        f"limit by {room:.2f} s; medians of {ROUNDS} rounds"
    )
    facts = {"unit": "seconds", "stages": stages, "ratio": ratio, "seconds_below_the_limit": room}
    report("noop_repro", "ours <= 2 x theirs + 1.5 s", room >= 0, line, {**facts, **results})


def make_empty(path: Path) -> None:
    """A repository with the two-stage pipeline."""
    path.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=path, check=True)
    subprocess.run([*DVC, "init", "-q"], cwd=path, check=True)
    (path / "dvc.yaml").write_text(EMPTY)
    (path / ".gitignore").write_text("/one\n/two\n")
    finish(path)


def make_copy(path: Path) -> int:
    """A clone of this repository with stub stages; how many stages it has."""
    from dvc.repo import Repo

    subprocess.run(["git", "clone", "-q", ".", str(path)], check=True)
    (path / "dvc.lock").unlink(missing_ok=True)
    for module in (path / "stages").glob("*.py"):
        if module.stem != "__init__":
            module.write_text(STUB)
    with Repo(str(path)) as repo:
        stages = list(repo.index.stages)
    needed = {dependency.def_path for stage in stages for dependency in stage.deps}
    outputs: dict[str, list[str]] = {}
    for stage in stages:
        outputs[stage.name] = files = []
        for out in (out.def_path for out in stage.outs):
            inside = [name for name in needed if name.startswith(f"{out}/")]  # of later stages
            files += [out] if Path(out).suffix else inside or [f"{out}/{i}" for i in range(3)]
    (path / "outputs.json").write_text(json.dumps(outputs))
    finish(path)
    return len(outputs)


def finish(path: Path) -> None:
    """Commit everything; no look for newer versions of DVC."""
    author = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost")
    for command in (
        [*DVC, "config", "--local", "core.check_update", "false"],
        ["git", "add", "-A"],
        ["git", *author, "commit", "-qm", "start"],
    ):
        subprocess.run(command, cwd=path, check=True)


if __name__ == "__main__":
    main()
