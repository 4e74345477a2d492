"""What several stages share. Each module says in its first line what it is for."""

import sys
from types import TracebackType

INTERRUPTED = "interrupted; run the same command again to go on"


def _end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while a command still imports its modules: one line, as in reproduce/command.py."""
    if issubclass(kind, KeyboardInterrupt):
        print(INTERRUPTED, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _end
