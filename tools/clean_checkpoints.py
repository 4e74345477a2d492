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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    arguments = parser.parse_args()
    free: dict[Path, int] = {}
    for folder in sorted(path for path in root().glob("*") if path.is_dir()):
        files = [path for path in folder.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files if path.stat().st_nlink == 1)
        step = f"at step {max(steps(folder)):,}" if steps(folder) else "no checkpoint yet"
        line = f"{folder}: {size / 1e6:,.1f} MB, "
        line += "finished" if (folder / "finished").is_dir() else step
        try:
            with exclusive(folder):
                free[folder] = size
        except UserError:
            line += "; left alone, it is being trained"
        print(line)
    if not free:
        print("no checkpoints to delete")
        return
    total = f"{sum(free.values()) / 1e6:,.1f} MB"
    print(f"deleting {len(free)} run(s) frees {total}; they would train from their start")
    if not arguments.yes and (
        not sys.stdin.isatty() or input("delete? [y/N] ").strip().lower() not in ("y", "yes")
    ):
        print("nothing was deleted (answer y, or give --yes)")
        return
    for folder in free:
        try:
            with exclusive(folder):
                shutil.rmtree(folder)
        except UserError as error:
            print(f"{folder}: left alone: {error}")


if __name__ == "__main__":
    run_command(main)
