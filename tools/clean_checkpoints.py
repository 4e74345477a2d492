"""Say what killed trainings left on the disk, ask, and delete it; what is being trained is left.

Run as: python -m tools.clean_checkpoints [--yes]        (make clean-checkpoints)
"""

import argparse
import shutil
import sys
from pathlib import Path

from reproduce.command import run_command
from reproduce.files import UserError
from reproduce.training.checkpoints import exclusive, root, steps


def main() -> None:
    """List the runs; delete those that are free, if the answer is yes."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    arguments = parser.parse_args()
    free: dict[Path, int] = {}
    for folder in sorted(path for path in root().glob("*") if path.is_dir()):
        files = [path for path in folder.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files if path.stat().st_nlink == 1)
        state = f"at step {max(steps(folder)):,}" if steps(folder) else "no checkpoint yet"
        if (folder / "finished").is_dir():
            state = "finished"
        try:
            with exclusive(folder):
                free[folder] = size
        except UserError:
            state += "; left alone, it is being trained"
        print(f"{folder}: {size / 1e6:,.1f} MB, {state}")
    if not free:
        print("no checkpoints to delete")
        return
    total = f"{sum(free.values()) / 1e6:,.1f} MB"
    print(f"deleting {len(free)} run(s) frees {total}; they would train from their start")
    if agreed(arguments.yes):
        for folder in free:
            with exclusive(folder):
                shutil.rmtree(folder)


def agreed(yes: bool) -> bool:
    """Whether to delete, by `--yes` or by a person's answer."""
    if yes or (sys.stdin.isatty() and input("delete? [y/N] ").strip().lower() in ("y", "yes")):
        return True
    print("nothing was deleted (answer y, or give --yes)")
    return False


if __name__ == "__main__":
    run_command(main)
