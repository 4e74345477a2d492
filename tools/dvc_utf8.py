"""Let DVC write its configuration in UTF-8. It writes ASCII, and fails, in a folder like `Área/`.

DVC reads UTF-8, but gives configobj, which writes, no encoding: `dvc exp run --temp` stops where
the path or git's user.name has a letter beyond ASCII, and `dvc remote modify` leaves an empty file.
tools/install.py puts this file into .venv, where every Python imports it; only dvc is changed.

And `dvc exp run --temp` warns of each output that was never made that it cannot be checked out.
"""

import functools
import sys
from pathlib import Path


def write_utf8() -> None:
    """Make UTF-8 the encoding that configobj takes where it is given none; silence that warning."""
    import logging

    from configobj import ConfigObj

    logging.getLogger("dvc_data.index.checkout").setLevel(logging.ERROR)
    if not isinstance(ConfigObj.__dict__["__init__"], functools.partialmethod):
        ConfigObj.__init__ = functools.partialmethod(ConfigObj.__init__, default_encoding="utf-8")


def run_dvc(*arguments: str) -> None:
    """Run a dvc command in this process; `UserError` when it fails (it has said why)."""
    from dvc.cli import main

    from reproduce.files import UserError

    write_utf8()
    if code := main(list(arguments)):
        raise UserError(f"`dvc {' '.join(arguments[:2])}` ended with exit code {code}, see above.")


if any(Path(argument).name == "dvc" for argument in sys.orig_argv[:3]):
    write_utf8()
