"""A no-op `dvc repro` of the default experiment, against a no-op `dvc repro` of an empty two-stage pipeline.

What a no-op costs depends on the numbers of stages, dependencies and outputs, not on what the stages computed. So nothing is
trained: in a temporary copy of the project (its real dvc.yaml, params.yaml and catalog) every stage module is replaced by
a script that creates the outputs that DVC says are that stage's, and `dvc repro` runs once before the no-ops are timed.
Two copies: outputs of a few bytes, and folders with 3 files of 1 MiB each, to show that sizes do not matter (DVC keeps hashes
by modification time). Target: ours <= 2 x theirs + 1.5 s in the median round: each round is judged by itself, because the
machine's drift from round to round is as large as what is measured.

Run as: python -m benchmarks.noop_repro
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.common import report, spread_seconds, take_turns, time_command

ROUNDS = 15
DVC = [sys.executable, "-m", "dvc"]
UP_TO_DATE = "Data and pipelines are up to date."

STUB = '''"""Stands in for a stage: creates its outputs."""
import json, os, pathlib
stage = os.environ["DVC_STAGE"]
for out in json.loads(pathlib.Path("outputs.json").read_text())[stage]:
    names = [out] if "." in out else [f"{out}/{name}" for name in ("train.tsv", "validation.tsv", "validation.parquet")]
    for name in names:
        pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(name).write_text(f"{stage} {name}".ljust(SIZE if out is not name else 0))
'''

EMPTY = """stages:
  one: {cmd: echo 1 > one, outs: [one]}
  two: {cmd: echo 2 > two, deps: [one], outs: [two]}
"""


def main() -> None:
    """Make three repositories, run each once, time no-ops in turn."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["DVC_NO_ANALYTICS"] = "1"
    with TemporaryDirectory() as scratch:
        os.environ["DVC_SITE_CACHE_DIR"] = f"{scratch}/site"  # leave nothing behind in /var/tmp
        empty, small, large = (Path(scratch) / name for name in ("empty", "small", "large"))
        make_empty(empty)
        stages = make_copy(small, size=0)
        make_copy(large, size=2**20)
        for repository in (empty, small, large):
            print(
                f"first repro of {repository.name}: {time_command([*DVC, 'repro', '-q'], repository)}",
                flush=True,
            )
        tasks = {
            name: partial(time_command, [*DVC, "repro"], path, UP_TO_DATE)
            for name, path in (("ours", small), ("ours, large files", large), ("peer", empty))
        }
        seconds = take_turns(tasks, ROUNDS)
    results = {name: spread_seconds(values) for name, values in seconds.items()}
    wall = {name: results[name]["wall"]["values"] for name in tasks}
    ratio, room = {}, {}
    for name in ("ours", "ours, large files"):
        rounds = list(zip(wall[name], wall["peer"], strict=True))
        ratio[name] = round(statistics.median(ours / theirs for ours, theirs in rounds), 3)
        room[name] = round(statistics.median(2 * theirs + 1.5 - ours for ours, theirs in rounds), 2)
    ours, theirs = (results[name]["wall"]["median"] for name in ("ours", "peer"))
    line = (f"{stages} stages in {ours:.2f} s, {ratio['ours']} x an empty pipeline ({theirs:.2f} s), with large files "
            f"{ratio['ours, large files']} x; below the limit by {room['ours']:.2f} and {room['ours, large files']:.2f} s; "
            f"medians of {ROUNDS} rounds")  # fmt: skip
    report("noop_repro", "ours <= 2 x theirs + 1.5 s", min(room.values()) >= 0, line,
           {"unit": "seconds", "stages": stages, "ratio": ratio, "seconds_below_the_limit": room, **results})  # fmt: skip


def make_empty(path: Path) -> None:
    """A repository with the two-stage pipeline."""
    path.mkdir()
    git(path, "init", "-b", "main")
    subprocess.run([*DVC, "init", "-q"], cwd=path, check=True)
    (path / "dvc.yaml").write_text(EMPTY)
    (path / ".gitignore").write_text("/one\n/two\n")
    finish(path)


def make_copy(path: Path, size: int) -> int:
    """A repository with this project's tracked files and stub stages; returns the number of stages."""
    from dvc.repo import Repo

    for name in subprocess.check_output(["git", "ls-files"], text=True).splitlines():
        if name != "dvc.lock" and Path(name).is_file():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, path / name)
    git(path, "init", "-b", "main")
    for module in (path / "stages").glob("*.py"):
        if module.stem != "__init__":
            module.write_text(STUB.replace("SIZE", str(size)))
    with Repo(str(path)) as repo:
        outputs = {stage.name: [out.def_path for out in stage.outs] for stage in repo.index.stages}
    (path / "outputs.json").write_text(json.dumps(outputs))
    finish(path)
    return len(outputs)


def finish(path: Path) -> None:
    """Commit everything; no look for newer versions of DVC."""
    subprocess.run([*DVC, "config", "--local", "core.check_update", "false"], cwd=path, check=True)
    git(path, "add", "-A")
    git(
        path,
        "-c",
        "user.name=benchmark",
        "-c",
        "user.email=benchmark@localhost",
        "commit",
        "-m",
        "start",
    )


def git(path: Path, *arguments: str) -> None:
    """Run git in `path`, quietly; its own messages are shown if it fails."""
    subprocess.run(["git", "-C", str(path), *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
