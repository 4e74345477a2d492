"""A no-op `dvc repro` of the default experiment, against one of an empty two-stage pipeline.

Run as: python -m benchmarks.noop_repro

What a no-op costs depends on the numbers of stages, dependencies and outputs, not on what the
stages computed. So nothing is trained: in a copy of the project every stage module is replaced by
a script that creates that stage's outputs, and `dvc repro` runs once before the no-ops are timed.
Two copies: outputs of a few bytes, and folders of files of 1 MiB, to show that sizes do not matter
(DVC keeps hashes by modification time). Target: ours <= 2 x theirs + 1.5 s in the median round:
each round is judged by itself, because the machine drifts as much as what is measured.
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
for name in json.loads(pathlib.Path("outputs.json").read_text())[stage]:
    pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(name).write_text(f"{stage} {name}".ljust(SIZE))
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
            first = time_command([*DVC, "repro", "-q"], repository)
            print(f"first repro of {repository.name}: {first}", flush=True)
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
        ratio[name] = round(statistics.median(ours / empty for ours, empty in rounds), 3)
        room[name] = round(statistics.median(2 * empty + 1.5 - ours for ours, empty in rounds), 2)
    ours, peer = (results[name]["wall"]["median"] for name in ("ours", "peer"))
    line = (
        f"{stages} stages in {ours:.2f} s, {ratio['ours']} x an empty pipeline ({peer:.2f} s), "
        f"with large files {ratio['ours, large files']} x; below the limit by {room['ours']:.2f} "
        f"and {room['ours, large files']:.2f} s; medians of {ROUNDS} rounds"
    )
    facts = {"unit": "seconds", "stages": stages, "ratio": ratio, "seconds_below_the_limit": room}
    target = "ours <= 2 x theirs + 1.5 s"
    report("noop_repro", target, min(room.values()) >= 0, line, {**facts, **results})


def make_empty(path: Path) -> None:
    """A repository with the two-stage pipeline."""
    path.mkdir()
    git(path, "init", "-b", "main")
    subprocess.run([*DVC, "init", "-q"], cwd=path, check=True)
    (path / "dvc.yaml").write_text(EMPTY)
    (path / ".gitignore").write_text("/one\n/two\n")
    finish(path)


def make_copy(path: Path, size: int) -> int:
    """A repository with this project's tracked files and stub stages; how many stages it has."""
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
    subprocess.run([*DVC, "config", "--local", "core.check_update", "false"], cwd=path, check=True)
    git(path, "add", "-A")
    author = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost")
    git(path, *author, "commit", "-m", "start")


def git(path: Path, *arguments: str) -> None:
    """Run git in `path`, quietly; its own messages are shown if it fails."""
    subprocess.run(["git", "-C", str(path), *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
