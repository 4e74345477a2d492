"""How long `make demo` takes and what it ends with, in a fresh clone of an installed checkout.

Run as: python -m benchmarks.demo        (on committed code: it clones HEAD)

There is no peer to take turns with: the target is a time that a newcomer waits (at most 150 s on
two quiet cores). The processor's time stands beside the clock's, which other programs lengthen.
DVC's cache and the Hub's are empty, so downloads are part of it.
"""

import csv
import json
import os
import subprocess
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.common import report, spread_seconds, take_turns, time_command

LIMIT = 150  # seconds
JUDGED = 2  # claims, at least: parameters and speed


def main() -> None:
    """Clone, run, read the experiment's verdicts and predictions."""
    with TemporaryDirectory() as scratch:
        os.environ["DVC_SITE_CACHE_DIR"] = f"{scratch}/site"  # leave nothing behind in /var/tmp
        os.environ["HF_HOME"] = f"{scratch}/hf"
        clone = Path(scratch) / "clone"
        subprocess.run(["git", "clone", "-q", str(Path.cwd()), str(clone)], check=True)
        (clone / ".venv").symlink_to(Path(".venv").resolve())  # else `make` would install it anew
        demo = partial(time_command, ["make", "demo"], clone, "Open the report:")
        seconds = take_turns({"demo": demo}, 1)["demo"]
        git = partial(subprocess.check_output, cwd=clone, text=True)
        reference = ["git", "for-each-ref", "refs/exps/*/*/demo", "--format=%(objectname)"]
        commit = git(reference).strip()
        claims = json.loads(git(["git", "show", f"{commit}:metrics/claims.json"]))["claims"]
        accuracy = {}
        for seed in (1, 2):
            table = git(["git", "show", f"{commit}:predictions/minilm-{seed}.csv"])
            rows = list(csv.DictReader(table.splitlines()))
            correct = sum(row["label"] == row["predicted"] for row in rows)
            accuracy[str(seed)] = round(100 * correct / len(rows), 2)
        if changed := git(["git", "status", "--porcelain"]):
            raise RuntimeError(f"make demo changed the workspace:\n{changed}")
    verdicts = {name: claim["verdict"] for name, claim in claims.items()}
    judged = [name for name, verdict in verdicts.items() if verdict != "not run"]
    took = spread_seconds(seconds)
    line = (
        f"{took['wall']['median']:.0f} s ({took['cpu']['median']:.0f} s of processor time), "
        f"{len(judged)} claims judged ({', '.join(judged)}), accuracy "
        f"{', '.join(f'{value:.2f}' for value in accuracy.values())} % on {len(rows)} validation "
        "sentences, chance 50 %"
    )
    target = f"<= {LIMIT} s on two quiet cores, at least {JUDGED} claims judged"
    met = took["wall"]["median"] <= LIMIT and len(judged) >= JUDGED
    facts = {"unit": "seconds", "verdicts": verdicts, "accuracy_by_seed": accuracy, **took}
    report("demo", target, met, line, facts)


if __name__ == "__main__":
    main()
