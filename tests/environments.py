"""For tests that run `make`: the environment that runs the tests, in place of a .venv."""

import contextlib
import sys
from pathlib import Path

from tools import install


def give_environment(repository: Path) -> None:
    """Have `make` in `repository` take the tests' environment: nothing is installed."""
    venv = repository / ".venvs/tests"
    venv.mkdir(parents=True)
    for name in ("bin", "lib", "pyvenv.cfg"):
        (venv / name).symlink_to(Path(sys.prefix, name))
    (repository / ".venv").symlink_to(".venvs/tests")
    with contextlib.chdir(repository):
        digest = install.digest("cpu")
    path = str(venv.resolve())
    install.write_record(venv, complete=True, digest=digest, path=path, cuda="cpu", asked="cpu")
