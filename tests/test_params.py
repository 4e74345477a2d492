"""params.yaml: YAML 1.2, strict types, one clear message for each mistake; commands that fail."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, Repository
from reproduce.command import run_command
from reproduce.files import UserError
from reproduce.params import read_experiment, read_yaml
from stages.check import check_inputs

Edit = Callable[[str, Callable[[Any], object]], None]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edit:
    """A folder with the three input files; call it to edit one."""
    for name in ("params.yaml", "catalog.yaml", "published.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    return Repository(tmp_path, {}).edit


def refused() -> str:
    with pytest.raises(UserError) as error:
        check_inputs()
    return str(error.value)


def test_the_defaults_are_the_articles_experiment(project: Edit) -> None:
    check_inputs()
    experiment = read_experiment()
    assert (experiment.dataset, experiment.seeds) == ("sst2", (1, 2, 3, 4, 5))
    assert experiment.models == ("distilbert", "bert", "minilm")


def test_yaml_is_read_as_yaml_1_2(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: no\nb: 1e-4\nc: 0o17\nd: 3e-05\n")
    assert read_yaml(tmp_path / "x.yaml") == {"a": "no", "b": 1e-4, "c": 15, "d": 3e-5}


BAD: list[tuple[str, Any, str]] = [
    ("modles", ["bert"], "modles: unknown key. Known here: benchmark, compare, dataset,"),
    ("evaluate", ..., "evaluate: missing."),
    ("finetune", [], "finetune: expected a mapping ({} for an empty one), found []."),
    ("finetune.lr", 1e-5, "finetune.lr: unknown key. Known here: accumulation,"),
    ("finetune.epochs", "3", 'finetune.epochs: input should be a valid integer (found "3").'),
    ("finetune.learning_rate", float("nan"), "finetune.learning_rate: input should be a finite"),
    ("seeds", [], "seeds: empty. Name at least one."),
    ("seeds", [1, 2, 1], "seeds: listed more than once: 1; list each once"),
    ("seeds", 1, "seeds: expected a list, in brackets, found 1."),
    ("models", ["a.b"], "models.0: string should match pattern"),
    ("overrides.bert", ..., "overrides.bert is missing. Add `bert: {}` under overrides"),
    ("overrides.bert.lr", 1, "overrides.bert.lr: unknown key."),
    ("overrides.brt", {}, "overrides.brt: catalog.yaml has no brt, it has bert,"),
    ("tasks.rte.epochs", 0, "finetune with tasks.rte.epochs: input should be greater than or"),
    ("selection.holdout", 1, "selection: hold out 0 sentences, or 10 or more"),
    ("selection.holdout", 67349, "selection.holdout 67349: train has 67349 rows in all."),
    ("selection.train", 30, "selection: train goes with held-out sentences: set holdout too"),
    ("compare.student", "bert", "compare: student and teacher are the same model: name two"),
    ("finetune.warmup_steps", 6315, "warmup_steps 6315 (finetune, tasks, overrides) is not less"),
    ("compare.teacher", "brt", "compare.teacher: catalog.yaml has no brt, it has bert,"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value", "message"), BAD)
def test_a_mistake_in_params_is_one_clear_message(
    project: Edit, place: str, value: Any, message: str
) -> None:
    def change(data: Any) -> None:
        *parents, key = place.split(".")
        for parent in parents:
            data = data[parent]
        if value is ...:
            del data[key]
        else:
            data[key] = value

    project("params.yaml", change)
    assert refused().startswith(f"params.yaml: {message}")


def test_a_published_score_of_a_model_that_is_not_there_is_refused(project: Edit) -> None:
    project("published.yaml", lambda data: data["results"][0].update(model="distilbrt"))
    assert refused().startswith("published.yaml: results, model: catalog.yaml has no distilbrt")


def test_every_mistake_is_listed_at_once(project: Edit) -> None:
    wrong = {"epochs": 0, "lr": 1, "learning_rate": "x"}
    project("params.yaml", lambda data: data["finetune"].update(wrong))
    places = [line.split(":")[1].strip() for line in refused().splitlines()[1:]]
    assert places == ["finetune.learning_rate", "finetune.epochs", "finetune.lr"]


BROKEN: list[tuple[bytes, str]] = [
    (b"dataset: sst2\nseeds: [1, [2\n", "is not valid YAML: .*line 2, column 12"),
    (b"a: 1\na: 2\n", "is not valid YAML: .*duplicate key"),
    (b"a: !!python/object:os.system x\n", "is not valid YAML"),
    (b"dataset: \xff\n", "is not valid YAML: .utf-8. codec"),
    (b"- a\n", ": expected a mapping, found list"),
    (b"", ": expected a mapping, found NoneType"),
    (b"a: &a [*a]\n", "holds what no parameter can be"),
    (b"? [a, b]\n: 1\n", "holds what no parameter can be"),
    (b"a: " + b"[" * 900, "is not valid YAML"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN)
def test_a_broken_file_is_one_message(project: Edit, content: bytes, message: str) -> None:
    Path("params.yaml").write_bytes(content)
    with pytest.raises(UserError, match=rf"^params\.yaml ?{message}"):
        check_inputs()


# --- commands that fail ---------------------------------------------------------------------------

WORLD = [
    (PermissionError(errno.EACCES, "Permission denied", "data"), "data: Permission denied. Give "),
    (FileExistsError(errno.EEXIST, "File exists", "checkpoints"), "checkpoints: File exists. Move"),
    (
        FileNotFoundError(errno.ENOENT, "No such file", "x"),
        "x: No such file. It was never made",
    ),
    (OSError(errno.EROFS, "Read-only file system", "data"), "data: Read-only file system. Work in"),
    (OSError(errno.EMFILE, "Too many open files"), "Too many open files. Allow more open files"),
    (OSError(errno.ENOSPC, "No space left on device", "x"), "the disk is full (No space left on"),
    (RuntimeError("write failed: No space left on device"), "the disk is full (No space left on"),
    (BrokenPipeError(errno.EPIPE, "Broken pipe"), "nobody reads the output any more"),
    (UserError("params.yaml: seeds"), "params.yaml: seeds"),
]


@pytest.mark.parametrize(("fault", "message"), WORLD, ids=[repr(case[0]) for case in WORLD])
def test_what_a_person_or_the_machine_did_is_one_message(
    fault: Exception, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise fault

    with pytest.raises(SystemExit) as end:
        run_command(main)
    printed = capsys.readouterr().err
    assert end.value.code == 1 and printed.startswith(f"error: {message}")
    assert printed.count("error:") == 1 and "gc -w" not in printed


def test_ctrl_c_while_modules_are_imported_is_one_line() -> None:
    code = "import reproduce; raise KeyboardInterrupt"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == "interrupted; run the same command again to go on\n"
    assert done.returncode != 0


COMMAND = """
from pathlib import Path
from reproduce.command import run_command
def main():
    file = open("first", "w")  # takes the lowest free number
    print("said é")
    import os; os.write(2, b"noise")
    file.close()
run_command(main)
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_standard_streams_do_not_reach_a_file(tmp_path: Path, closed: str) -> None:
    command = f'"$0" -c "$1" {closed}'
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    shell = ["sh", "-c", command, sys.executable, COMMAND]
    done = subprocess.run(shell, cwd=tmp_path, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "first").read_bytes() == b""
