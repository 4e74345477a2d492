"""What every command does the same way: it fails with one message, and stays offline."""

import os
import sys
from collections.abc import Callable

from reproduce.files import UserError, out_of_space


def run_command(main: Callable[[], None]) -> None:
    """Run a stage's `main`; a `UserError` becomes one message on stderr and exit code 1."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(
            "interrupted: no output was changed; run the same command again to go on",
            file=sys.stderr,
        )
        sys.exit(130)
    except Exception as error:
        if not (reason := out_of_space(error)):
            raise
        print(
            f"error: the disk is full ({reason}): no half-written output was left. Make room (`dvc gc -w` drops cached results "
            "that this workspace does not use, `make clean-checkpoints` what killed trainings left) and run the same command "
            "again: training goes on from its last checkpoint.",
            file=sys.stderr,
        )
        sys.exit(1)


def go_offline() -> None:
    """Switch the Hub off for this process. Call it before the first import of a Hugging Face library.

    Only the download stages may touch the network; everything after them reads what they verified.
    """
    for name in (
        "HF_HUB_OFFLINE",
        "HF_DATASETS_OFFLINE",
        "HF_EVALUATE_OFFLINE",
        "HF_HUB_DISABLE_TELEMETRY",
    ):
        os.environ[name] = "1"
