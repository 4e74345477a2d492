"""The Makefile and tools/install.py: what is installed when, and that nothing else is touched."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from conftest import ROOT
from tools import install


@pytest.fixture
def project(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with requirements, in which `install` runs; no pip and no venv are started."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools/dvc_utf8.py", "tools")
    Path("requirements.txt").write_text("torch==2.13.0\n")
    Path("constraints.txt").write_text("torch==2.13.0\n")
    stand_in(monkeypatch, tmp_path_factory.mktemp("gpu"), "exit 9")  # a machine without a GPU
    return tmp_path


@pytest.fixture
def commands(project: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would have been run; the first makes what venv makes."""
    ran: list[list[str]] = []

    def run(command: list[str]) -> None:
        ran.append(command)
        if "venv" in command:
            folder = Path(command[-1])
            (folder / "bin").mkdir(parents=True)
            (folder / "bin/python").symlink_to(sys.executable)
            (folder / "lib/python3.11/site-packages").mkdir(parents=True)

    monkeypatch.setattr(install, "run", run)
    return ran


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """An nvidia-smi on PATH."""
    (folder / "bin").mkdir()
    (folder / "bin/nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin/nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")


def make(commands: list[list[str]], **options: Any) -> bool:
    """Whether `make TARGET` installs anything."""
    before = len(commands)
    install.install(**{"asked": None, "keep": True, "fresh": False} | options)
    return len(commands) > before


@pytest.mark.parametrize(
    ("gpus", "build"),
    [
        ("580.65.06, 7.5", "13.0"),  # a T4 with the oldest driver for PyPI's build
        ("575.57.08, 8.0", "12.6"),
        ("570.124.06, 12.0", "12.9"),  # Blackwell is in no build for CUDA 12.6
        ("525.60.13, 8.6", "12.6"),
        ("595.12, 7.0", "12.6"),  # V100: not in CUDA 13
        ("595.12, 7.0\n595.12, 9.0", "12.6"),  # all GPUs must be in the build
    ],
)
def test_the_driver_decides(
    gpus: str, build: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, tmp_path, f"echo '{gpus}'")
    name, reason = install.choose_build(install.read_gpus())
    driver, capability = gpus.splitlines()[0].split(", ")
    assert name == build
    assert f"NVIDIA driver {driver}, compute capability {float(capability):g}" in reason


@pytest.mark.parametrize(
    "script",
    [
        "echo '470.82.01, 8.0'",  # a driver too old for any CUDA 12
        "echo '580.65.06, 3.7'",  # a GPU in no build
        'case "$1" in *compute_cap*) exit 2;; esac; echo 440.33',  # too old for the question
    ],
)
def test_where_no_build_fits_nothing_is_downloaded(
    script: str, project: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, project, script)
    with pytest.raises(SystemExit, match=r"no build of PyTorch fits NVIDIA driver .* CUDA=cpu"):
        make(commands, keep=False)
    assert commands == []


@pytest.mark.parametrize("script", ["exit 9", "exec false", "echo 'No devices were found'"])
def test_a_driver_that_does_not_answer_is_none(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, tmp_path, script)
    assert install.read_gpus() == []


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch has one build for macOS")
@pytest.mark.parametrize(("asked", "label"), [("12.6", "cu126"), ("cpu", "cpu")])
def test_another_build_is_the_same_version_from_pytorchs_index(
    asked: str, label: str, commands: list[list[str]]
) -> None:
    make(commands, asked=asked)
    index = f"https://download.pytorch.org/whl/{label}"
    assert commands[1][-3:] == ["--extra-index-url", index, f"torch==2.13.0+{label}"]


def test_a_build_asked_for_stays_until_another_is(commands: list[list[str]]) -> None:
    assert make(commands, asked="cpu", keep=False)
    assert not make(commands)
    assert not make(commands, keep=False)
    assert make(commands, asked="12.9")
    assert install.read_record(Path(".venv"))["cuda"] == "12.9"


def test_content_and_place_decide_not_clocks(
    commands: list[list[str]], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make(commands)
    for time in (0, 2**33):
        os.utime("requirements.txt", (time, time))
        assert not make(commands)
    Path("constraints.txt").write_text("torch==2.13.0\nnumpy==2.4.6\n")
    assert make(commands)
    monkeypatch.chdir(project.rename(project.with_name("moved")))
    assert make(commands)


def test_the_old_environment_is_kept_when_the_new_one_fails(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(commands)
    made = Path(".venv").readlink()
    Path("requirements.txt").write_text("no-such-package==1\n")
    monkeypatch.setattr(install, "run", lambda command: sys.exit("error: no network"))
    with pytest.raises(SystemExit, match="no network"):
        make(commands)
    assert Path(".venv").readlink() == made
    assert {path.name for path in Path(".venvs").iterdir()} == {"lock", made.name}


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are not seen here")
@pytest.mark.parametrize(
    "words", ["-m stages.finetune --seed 1", "/opt/bin/dvc repro", "-m dvc gc"]
)
def test_an_environment_that_is_in_use_is_not_replaced(
    words: str, project: Path, commands: list[list[str]]
) -> None:
    make(commands)
    made = Path(".venv").readlink()
    Path("constraints.txt").write_text("torch==2.13.1\n")
    temporary = project / ".dvc/tmp/exps/tmp1"
    temporary.mkdir(parents=True)
    command = [sys.executable, "-c", "input()", *words.split()]
    with subprocess.Popen(command, cwd=temporary, stdin=subprocess.PIPE) as process:
        with pytest.raises(SystemExit, match=f"process {process.pid} .*{words}. runs in this"):
            make(commands)
        process.kill()
    assert Path(".venv").readlink() == made
    assert make(commands)


def test_only_environments_of_ours_are_deleted(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the new one is there: Ctrl-C then leaves it whole."""
    make(commands)
    first = Path(".venv").resolve()
    killed, foreign = Path(".venvs/killed"), Path(".venvs/foreign")
    for folder in (killed, foreign):
        folder.mkdir()
    install.write_record(killed, complete=False)
    (foreign / "thesis.txt").touch()
    Path(".venvs/link").symlink_to("foreign")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", mock.Mock(side_effect=KeyboardInterrupt))
        make(commands, fresh=True)
    assert install.read_record(Path(".venv")) and Path(".venv").resolve() != first
    make(commands, fresh=True)
    assert not first.exists() and not killed.exists()
    assert (foreign / "thesis.txt").exists()


@pytest.mark.parametrize(
    "made", ["mkdir .venv", "touch .venv", "mkdir mine && ln -s mine .venv", "ln -s nowhere .venv"]
)
def test_a_venv_of_somebody_elses_is_refused(
    made: str, project: Path, commands: list[list[str]]
) -> None:
    subprocess.run(made, shell=True, check=True)
    before = sorted(project.rglob("*"))
    with pytest.raises(SystemExit, match="was not made by `make install`"):
        make(commands, fresh=True)
    assert sorted(project.rglob("*")) == before and commands == []


@pytest.mark.slow
def test_a_clone_whose_path_has_blanks_and_accents(tmp_path: Path) -> None:
    """`make install` and `make check`, for real, with the packages of the tests' Python."""
    repository, beside = tmp_path / "a b/ç/repo", tmp_path / "a/thesis.txt"
    for folder in (repository, beside.parent):
        folder.mkdir(parents=True)
    beside.touch()
    for name in ("tools", "stages", "reproduce"):
        shutil.copytree(ROOT / name, repository / name)
    for name in ("Makefile", "params.yaml", "catalog.yaml", "published.yaml"):
        shutil.copy(ROOT / name, repository)
    for name in ("requirements.txt", "constraints.txt"):
        (repository / name).touch()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    env |= {"PIP_NO_INDEX": "1", "CUDA": "/usr/local/cuda"}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=repository, env=env, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    python = f"PYTHON={Path(sys.prefix, 'bin/python').resolve()}"
    assert "installed: .venv is" in run("make", python, "install", "CUDA=13.0")
    made = (repository / ".venv").readlink()
    (packages,) = (repository / ".venv").glob("lib/python3*/site-packages")
    (packages / "outer.pth").write_text("\n".join(p for p in sys.path if "site-packages" in p))
    assert "are fine" in run("make", python, "check")
    assert (repository / ".venv").readlink() == made
    # DVC's own writer of configurations takes the path too.
    run("git", "init", "-q")
    run(".venv/bin/python", "-m", "dvc", "init", "-q")
    run(".venv/bin/python", "-m", "dvc", "cache", "dir", "--local", str(repository / "cache"))
    assert "ç" in (repository / ".dvc/config.local").read_text(encoding="utf-8")
    assert beside.exists()


def pins(name: str) -> dict[str, str]:
    """The packages of a requirements file, by normal name."""
    lines = re.findall(r"^([\w.-]+)(?:\[\w+\])?==(\S+)", (ROOT / name).read_text(), re.M)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in lines}


def test_constraints_repeat_the_requirements() -> None:
    constraints = pins("constraints.txt")
    assert constraints.items() >= pins("requirements.txt").items()
    assert constraints.items() >= pins("requirements-remotes.txt").items()


def test_all_that_is_installed_is_pinned() -> None:
    names = {re.sub(r"[-_.]+", "-", dist.metadata["Name"]).lower() for dist in distributions()}
    free = {name for name in names if install.DEMANDED_BY_TORCH.match(name)}
    assert names - free - {"pip", "wheel"} <= set(pins("constraints.txt"))


@pytest.mark.parametrize(
    "value",
    ["a b", "it's", 'say "x"', "$HOME $$ `touch x`", "$(shell touch x)", "a;touch x", "--help", ""],
)
@pytest.mark.parametrize("target", ["verify STAGE", "remote URL", "pin DATASET", "table KEEP"])
def test_a_value_is_handed_over_as_it_is(target: str, value: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    said = tmp_path / "said"
    python.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{said}"\n')
    python.chmod(0o755)
    name, variable = target.split()
    subprocess.run(["make", "PYTHON=true", name, f"{variable}={value}"], cwd=tmp_path, check=True)
    lines = re.sub(r"^--(keep|dataset)=", "", said.read_text(), flags=re.M).splitlines()
    assert value in lines or (name, value) == ("table", "")
    assert not (tmp_path / "x").exists()
