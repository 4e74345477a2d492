"""Say what killed trainings left on the disk, ask, and delete it; what is being trained is left.

Run as: python -m tools.clean_checkpoints [--yes]        (make clean-checkpoints)
"""

import contextlib
import os
import shutil
import sys
from pathlib import Path

from reproduce.command import command_line, run_command
from reproduce.files import UserError
from reproduce.training.checkpoints import exclusive, root, steps


def main() -> None:
    """List the runs; delete those that are free, if the answer is yes."""
    parser = command_line(__doc__)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    arguments = parser.parse_args()
    free: dict[Path, int] = {}
    ours = root().glob("*-" + "[0-9a-f]" * 12)  # as stages/finetune.py names them
    for folder in sorted(path for path in ours if path.is_dir() and not path.is_symlink()):
        size, done = size_of(folder), steps(folder)
        state = f"at step {max(done):,}" if done else "no checkpoint yet"
        if (folder / "finished").is_dir():
            state = "finished"
        try:
            with exclusive(folder, wait=False):
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
            try:
                with exclusive(folder, wait=False):
                    shutil.rmtree(folder)
            except UserError:
                print(f"{folder}: left alone, a training has begun in it")


def size_of(folder: Path) -> int:
    """Bytes that deleting `folder` frees; what vanishes meanwhile (it is in use) counts nothing."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found = Path(place, name).lstat()
                size += found.st_size if found.st_nlink == 1 else 0
    return size


def agreed(yes: bool) -> bool:
    """Whether to delete, by `--yes` or by a person's answer."""
    with contextlib.suppress(EOFError):
        if yes or (sys.stdin.isatty() and input("delete? [y/N] ").strip().lower() in ("y", "yes")):
            return True
    print("nothing was deleted (answer y, or give --yes)")
    return False


if __name__ == "__main__":
    run_command(main)
