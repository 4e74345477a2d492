"""DVC's experiments: the demo, a table of all, and what killed ones left.

Run as: python -m tools.experiments demo -S dataset=pocket ...      (make demo)
        python -m tools.experiments table [--keep COLUMNS]          (make table)
        python -m tools.experiments clean [--yes]                   (make clean-experiments)
"""

import contextlib
import csv
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from reproduce.command import command_line, run_command
from reproduce.files import UserError, read_json
from reproduce.params import PARAMS, read_yaml
from tools.clean_checkpoints import agreed, size_of
from tools.dvc_utf8 import run_dvc

DEMO = Path("demo")
METRICS = Path("metrics/accuracy.json")
OWN = ("Experiment", "rev", "State")  # the columns that say which experiment
LEFT = Path(".dvc/tmp/exps")


def git(*arguments: str) -> str:
    """What a git command prints; `UserError` with its own message when it fails."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise UserError("git is missing. DVC keeps experiments in it: install git.") from error
    if done.returncode:
        raise UserError(f"git {arguments[0]}: {done.stderr.strip().removeprefix('fatal: ')}")
    return done.stdout.strip()


def check_git() -> None:
    """`UserError` where DVC would run an experiment to its end and then fail to keep it."""
    why = ""
    if Path(git("rev-parse", "--show-toplevel")).resolve() != Path.cwd():
        why = "in a part of a larger git repository. Clone the project on its own."
    elif git("rev-parse", "--is-shallow-repository") == "true":
        why = "in a shallow clone. Run `git fetch --unshallow` first."
    elif not git("rev-parse", "--revs-only", "HEAD"):
        why = "in a repository without a commit. Run `git add -A && git commit -m start` first."
    if why:
        raise UserError(f"DVC cannot keep experiments {why}")


def demo(settings: list[str]) -> None:
    """Run the experiment `demo` and show its results; the one before is replaced at the end."""
    check_git()
    if DEMO.exists() and not DEMO.is_dir():
        raise UserError(f"{DEMO} is in the way: the demo's pages go into a folder of that name.")
    params = [f"--set-param={setting}" for setting in settings]
    head = git("rev-parse", "HEAD")  # before: a commit may be made meanwhile
    folder = f"refs/exps/{head[:2]}/{head[2:]}"
    git("update-ref", "-d", f"{folder}/demo-new")  # of a demo that was killed below
    run_dvc("exp", "run", "--temp", "--name", "demo-new", *params)
    git("update-ref", f"{folder}/demo", f"{folder}/demo-new")
    git("update-ref", "-d", f"{folder}/demo-new")
    commit = git("rev-parse", f"{folder}/demo")  # in full: a branch may have the same name
    shutil.rmtree(DEMO / "report", ignore_errors=True)
    paths = ("report", "metrics/results.md", "metrics/claims.json")
    archive = subprocess.check_output(["git", "archive", "--format=zip", commit, *paths])
    zipfile.ZipFile(io.BytesIO(archive)).extractall(DEMO)
    chance = read_json(DEMO / paths[2], "Run `make demo` again.")["majority_class"]["accuracy"]
    pages = ", ".join(sorted(str(path) for path in DEMO.glob("report/*.html")))
    print(
        f"\n{(DEMO / paths[1]).read_text(encoding='utf-8')}\n"
        f"By chance:         {chance:.1f} % correct, with the more frequent label for all\n"
        f"Open the report:   {pages}\n"
        f"Try the model:     .venv/bin/dvc get . models/finetuned/minilm-1 --rev {commit[:10]} "
        "--force -o demo/minilm && .venv/bin/python -m tools.predict --model demo/minilm "
        "'I loved every minute of it.'\n"
        "The real run:      make repro   (on a machine with a GPU)"
    )


def table(keep: str) -> None:
    """Print the experiments: by default the scores and parameters that differ among them.

    As `dvc exp show --only-changed`, but without its column for each file that a stage reads.
    """
    git("rev-parse", "HEAD")  # what stops git stops DVC, which says it worse
    try:
        re.compile(keep)
    except re.error as error:
        raise UserError(f"KEEP={keep} is no regular expression: {error}.") from error
    wanted = keep
    if not keep:
        metrics = read_json(METRICS, "Run `dvc repro compare`.") if METRICS.is_file() else {}
        names = [name for name, value in metrics.items() if not isinstance(value, list)]
        wanted = "|".join(rf"{re.escape(name)}(\.|$)" for name in (*names, *read_yaml(PARAMS)))
    show = [sys.executable, "-m", "dvc", "exp", "show", "--csv", "--hide-workspace"]
    columns = ["--drop", ".*", "--keep", f"(Experiment|rev|State)$|{wanted}"]
    done = subprocess.run([*show, *columns], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError("`dvc exp show` failed, see above. While experiments start it may: then "
                        "run it again in a moment.")  # fmt: skip
    print(format_table(done.stdout, only_changed=not keep))


def format_table(text: str, only_changed: bool) -> str:
    """DVC's table of experiments (CSV) for the terminal.

    Of one that is Running, Queued or Failed DVC shows the workspace's numbers.
    """
    rows = list(csv.DictReader(io.StringIO(text)))
    values = {name: {row[name] for row in rows} for name in (rows[0] if rows else ())}
    names = [n for n in values if n in OWN[:2] or not only_changed or len(values[n]) > 1]
    lines = [[name.split(":")[-1] for name in names]] if rows else [["no experiments"]]
    for row in rows:
        shown = names if row.get("State", "") in ("", "Success") else OWN
        lines.append([row[name] if name in shown and row[name] else "-" for name in names])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([cell.rjust(width) for cell, width in zip(x, widths, strict=True)] for x in lines)
    return "\n".join("  ".join(cells) for cells in padded)


def clean(yes: bool) -> None:
    """Say what killed experiments left in .dvc/tmp/exps, ask, and delete it."""
    import psutil

    here = []
    for process in psutil.process_iter(["cwd", "cmdline"]):
        here.append(Path(process.info["cwd"] or "/"))
        words = set(process.info["cmdline"] or ())
        stage = any(word.startswith("stages.") for word in words)
        if process.info["cwd"] is None and stage:
            raise UserError(f"process {process.pid} of another user runs a stage, perhaps in what "
                            "would be deleted. Wait until it is done.")  # fmt: skip
        starts = words >= {"exp", "run"} or words >= {"tools.experiments", "demo"}
        if (starts or "queue-worker" in words) and here[-1] == Path.cwd():
            raise UserError(f"process {process.pid} starts experiments. Wait until it is done.")
    found = (*LEFT.glob("tmp*"), *LEFT.glob("standalone/tmp*"))
    copies = [path for path in found if (path / ".dvc").is_dir() and not path.is_symlink()]
    left = [copy for copy in copies if not any(cwd.is_relative_to(copy.resolve()) for cwd in here)]
    for copy in copies:
        state = "" if copy in left else ", in use, left alone"
        print(f"{copy}: {size_of(copy) / 1e6:,.1f} MB{state}")
    if not left:
        print("no killed experiment has left anything")
        return
    if not agreed(yes):
        return
    roots = {str(copy.resolve()) for copy in left}
    for record in (*LEFT.glob("run/*/*.run"), *LEFT.glob("standalone/run/*/*.run")):
        # Without it, DVC would go on to show the experiment as running.
        # Cut off while it was written; deleted by another of this command.
        with contextlib.suppress(ValueError, FileNotFoundError):
            if json.loads(record.read_text(encoding="utf-8")).get("root_dir") in roots:
                shutil.rmtree(record.parent)
    for copy in left:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(copy)
    print(f"deleted: {len(left)}")


def main() -> None:
    """Do one of the three."""
    parser = command_line(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo").add_argument("-S", action="append", default=[], metavar="SETTING")
    commands.add_parser("table").add_argument("--keep", default="", metavar="REGEX")
    commands.add_parser("clean").add_argument("--yes", action="store_true", help="do not ask")
    given = parser.parse_args()
    match given.command:
        case "demo":
            demo(given.S)
        case "table":
            table(given.keep)
        case _:
            clean(given.yes)


if __name__ == "__main__":
    run_command(main)
