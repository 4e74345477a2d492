"""What every stage does the same way: fail with one message, stay offline, put outputs in place atomically."""

import contextlib
import errno
import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class UserError(Exception):
    """Something the user can put right. The message names what was found, what was expected and what to do."""


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's `main`; a `UserError` becomes one message on stderr and exit code 1.

    All the inputs that people write (params.yaml, catalog.yaml, published.yaml) are checked first, the sections of
    later stages included: a typing error must not show up after ten hours of training. The check is imported by name,
    at run time, because it is deliberately no dependency in dvc.yaml: it can refuse to run a stage, it cannot
    change what the stage writes.
    """
    try:
        if not {"-h", "--help"} & set(sys.argv[1:]):
            importlib.import_module("reproduce.check").check_inputs()
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted: no output was changed; run the same command again to go on", file=sys.stderr)
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


def out_of_space(error: BaseException | None) -> str:
    """The words of a full disk, quota or file-size limit in `error` or one of its causes; "" if it is something else.

    Native writers (safetensors, Arrow, PyTorch) wrap the system's error in one of their own, which carries only its text.
    """
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    while error is not None:
        text = str(error)
        if isinstance(error, OSError) and error.errno in codes:
            return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
        for code in codes:
            if os.strerror(code) in text or f"os error {code})" in text or f"[Errno {code}]" in text:
                return os.strerror(code)
        # PyTorch and Python's tempfile drop the reason.
        if "PytorchStreamWriter" in text or "inline_container" in text or "No usable temporary directory" in text:
            return text.splitlines()[0]
        error = error.__cause__ or error.__context__
    return ""


def go_offline() -> None:
    """Switch the Hub off for this process. Call it before the first import of a Hugging Face library.

    Only the download stages may touch the network; everything after them reads what they verified.
    """
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ[name] = "1"


@contextlib.contextmanager
def output_directory(path: Path) -> Iterator[Path]:
    """Give a scratch directory beside `path` and rename it to `path` when the block ends without an error.

    A reader therefore sees the whole output or none. After an error or a kill nothing is at `path`; what is left of
    `path`.partial is thrown away by the next run.
    """
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(path, ignore_errors=True)
    partial.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in UTF-8 with Unix newlines, atomically: written aside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Write `data` atomically as JSON that diffs well: sorted keys, two spaces, no NaN (raises ValueError)."""
    write_text(path, json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, what_to_do: str) -> Any:
    """Read a JSON file; `UserError` with `what_to_do` if it is no JSON. A missing file raises FileNotFoundError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both ValueErrors
        raise UserError(f"{path} is not JSON ({error}). {what_to_do}") from error
