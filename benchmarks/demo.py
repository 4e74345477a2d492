"""How long `make demo` takes, and what accuracy it reaches, in a fresh clone with an installed environment and an empty cache.

There is no peer to take turns with: the target is a time that a newcomer waits (at most 3 minutes on two quiet cores), so the
processor's time stands beside the clock's, which other programs lengthen. Downloads are part of it. What the README shows of
comparing experiments is printed in that clone, and kept beside the times.

Run as: python -m benchmarks.demo        (on committed code: it clones HEAD)
"""

import json
import os
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.common import report, spread_seconds, take_turns, time_command

ROUNDS = 1
LIMIT = 180  # seconds
COMPARING = {
    "table": "make table",
    "metrics": "dvc metrics diff main demo --targets metrics/accuracy.json --md"
    " | grep -E 'Path|--|minilm.(median|std|seeds_run|by_seed.1)'",
    "params": "dvc params diff main demo --targets params.yaml --md",
}


def main() -> None:
    """Clone, run, read the accuracy from the experiment."""
    venv = Path(sys.prefix)
    with TemporaryDirectory() as scratch:
        os.environ["DVC_SITE_CACHE_DIR"] = f"{scratch}/site"  # leave nothing behind in /var/tmp
        os.environ["HF_HOME"] = f"{scratch}/hf"
        clone = Path(scratch) / "clone"
        subprocess.run(["git", "clone", "-q", str(Path.cwd()), str(clone)], check=True)
        # -o: the environment that runs this benchmark counts as installed, however old its stamp is
        make = ["make", "-o", f"{venv}/.installed", f"VENV={venv}", "demo"]
        seconds = take_turns(
            {"demo": partial(time_command, make, clone, "report: demo/comparison.md")}, ROUNDS
        )
        os.environ["PATH"] = f"{venv}/bin{os.pathsep}{os.environ['PATH']}"
        printed = {
            name: subprocess.check_output(
                ["bash", "-c", command.replace("make", shlex.join(make[:-1]))], cwd=clone, text=True
            ).rstrip()
            for name, command in COMPARING.items()
        }
        git = partial(subprocess.check_output, cwd=clone, text=True)
        experiment = git(
            ["git", "for-each-ref", "refs/exps/*/*/demo", "--format=%(refname)"]
        ).strip()
        accuracy = json.loads(git(["git", "show", f"{experiment}:metrics/accuracy.json"]))
        changed = git(["git", "status", "--porcelain"])
    if changed:
        raise RuntimeError(f"make demo changed the workspace:\n{changed}")
    took = spread_seconds(seconds["demo"])
    by_seed = accuracy["models"]["minilm"]["by_seed"]
    values = ", ".join(f"{value:.2f}" for value in by_seed.values())
    line = (f"{took['wall']['median']:.0f} s ({took['cpu']['median']:.0f} s of processor time), accuracy {values} % on "
            f"{accuracy['sentences']} validation sentences, chance 50 %")  # fmt: skip
    report("demo", f"<= {LIMIT} s on two quiet cores", took["wall"]["median"] <= LIMIT, line,
           {"unit": "seconds", "accuracy_by_seed": by_seed, "commands": COMPARING, "printed": printed, **took})  # fmt: skip


if __name__ == "__main__":
    main()
