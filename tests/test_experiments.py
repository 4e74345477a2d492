"""tools/experiments.py: the demo, the table, and what killed experiments leave.

The pipeline is a shell command: what is tested is what becomes of its results.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT, Repository, environment
from reproduce.files import UserError
from tools import experiments

PIPELINE = """\
stages:
  report:
    cmd: test ! -e ${wait} || sleep 300; mkdir -p report metrics models/finetuned/minilm-1 &&
      echo ${word} > report/report.html && echo '| ${word} |' > metrics/results.md &&
      mkdir -p predictions && seq 4 | sed '1s/.*/label/; s/[34]/0/' > predictions/minilm-1.csv &&
      echo ${word} > models/finetuned/minilm-1/model
    params: [word]
    outs: [models/finetuned/minilm-1/model]
    plots: [{report: {cache: false}}, {metrics/results.md: {cache: false}},
            {predictions/minilm-1.csv: {cache: false}}]
"""


@pytest.fixture
def pipeline(tmp_path: Path) -> Repository:
    """A repository with a commit, in which nothing has run; a file `wait` outside makes it wait."""
    env = environment(tmp_path / "home") | {"PYTHONPATH": str(ROOT)}
    repository = Repository(tmp_path / "repository", env)
    repository.path.mkdir()
    (repository.path / "dvc.yaml").write_text(PIPELINE)
    (repository.path / "params.yaml").write_text(f"word: none\nwait: {tmp_path}/wait\n")
    (repository.path / ".gitignore").write_text("/models\n/demo\n")
    repository.run("git", "init", "-q")
    repository.run("dvc", "init", "-q")
    repository.run("git", "add", "-A")
    repository.run("git", "commit", "-qm", "start")
    return repository


def tool(
    repository: Repository, *arguments: str, ok: bool = True
) -> subprocess.CompletedProcess[str]:
    return repository.run(sys.executable, "-m", "tools.experiments", *arguments, ok=ok)


def kept(repository: Repository) -> list[str]:
    """The names of the experiments."""
    refs = repository.run("git", "for-each-ref", "refs/exps", "--format=%(refname)").stdout.split()
    return [ref.split("/")[-1] for ref in refs if ref.count("/") == 4]


def start_and_kill(repository: Repository) -> None:
    """Start a demo, and kill it with -9 while its stage runs, which goes on."""
    copies = repository.path / ".dvc/tmp/exps/standalone"
    (repository.path.parent / "wait").touch()
    command = [sys.executable, "-m", "tools.experiments", "demo", "-S", "word=late"]
    with subprocess.Popen(
        command, cwd=repository.path, env=repository.env, stdout=subprocess.DEVNULL
    ) as process:
        while not any(cwd_of(pid).is_relative_to(copies) for pid in children(process.pid)):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    (repository.path.parent / "wait").unlink()


def children(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def cwd_of(pid: int) -> Path:
    import psutil

    try:
        return Path(psutil.Process(pid).cwd())
    except psutil.Error:
        return Path("/")


# ------------------------------------------------------------------------------------- demo


@pytest.mark.slow
def test_the_demo_shows_its_own_results(pipeline: Repository) -> None:
    """Though a branch has its name; and what it prints works as printed."""
    pipeline.run("git", "branch", "demo")
    for word in ("first", "second"):
        done = tool(pipeline, "demo", "-S", f"word={word}")
        assert f"| {word} |" in done.stdout and "By chance:         66.7 %" in done.stdout
        assert (pipeline.path / "demo/report/report.html").read_text() == f"{word}\n"
    assert "WARNING" not in done.stdout + done.stderr
    assert kept(pipeline) == ["demo"]
    assert pipeline.run("git", "status", "--porcelain").stdout == ""
    line = next(line for line in done.stdout.splitlines() if "dvc get" in line)
    get = line.split(":", 1)[1].split("&&")[0].replace(".venv/bin/", "")
    pipeline.run("sh", "-c", get)
    assert (pipeline.path / "demo/minilm/model").read_text() == "second\n"


@pytest.mark.slow
def test_a_demo_that_fails_leaves_the_one_before(pipeline: Repository) -> None:
    tool(pipeline, "demo", "-S", "word=first")
    done = tool(pipeline, "demo", "-S", "word='; false'", ok=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert kept(pipeline) == ["demo"]
    assert (pipeline.path / "demo/report/report.html").read_text() == "first\n"


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=T", "-c", "user.email=t@example.org")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with one commit, and the current folder."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "file").touch()
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "start")
    monkeypatch.chdir(folder)
    return folder


def test_a_shallow_clone_is_refused(commit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(commit, "commit", "-q", "--allow-empty", "-m", "second")
    git(commit, "clone", "-q", "--depth", "1", f"file://{commit}", "shallow")
    monkeypatch.chdir(commit / "shallow")
    with pytest.raises(UserError, match="git fetch --unshallow"):
        experiments.check_git()


def test_a_folder_of_a_larger_repository_is_refused(
    commit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (commit / "project").mkdir()
    monkeypatch.chdir(commit / "project")
    with pytest.raises(UserError, match="part of a larger git repository"):
        experiments.check_git()


def test_a_repository_without_a_commit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "-q")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no commit yet"):
        experiments.check_git()


def test_a_missing_git_is_named(commit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="git is missing"):
        experiments.check_git()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to somebody else")
def test_a_clone_that_git_distrusts_says_what_to_do(
    commit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (commit, commit / ".git"):
        shutil.chown(path, 12345)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    with pytest.raises(UserError, match=r"git config --global --add safe\.directory"):
        experiments.check_git()


# ------------------------------------------------------------------------------------ table


def test_only_finished_experiments_have_scores() -> None:
    text = (
        "Experiment,rev,State,metrics/accuracy.json:minilm,finetune.epochs\n"
        ",main,,90.14,3\nlate,1234567,Running,90.14,3\nover,89abcde,,88.0,1\n"
    )
    assert experiments.format_table(text).splitlines() == [
        "Experiment      rev    State  minilm  finetune.epochs",
        "         -     main        -   90.14                3",
        "      late  1234567  Running       -                -",
        "      over  89abcde        -    88.0                1",
    ]


# ------------------------------------------------------------------------------------ clean


@pytest.mark.slow
def test_what_a_killed_experiment_leaves(pipeline: Repository) -> None:
    """The demo before it; and a copy, which is cleared away, but not while its stage lives on."""
    import psutil

    tool(pipeline, "demo", "-S", "word=first")
    start_and_kill(pipeline)
    assert kept(pipeline) == ["demo"]
    assert (pipeline.path / "demo/report/report.html").read_text() == "first\n"
    (copy,) = (pipeline.path / ".dvc/tmp/exps/standalone").glob("tmp*")
    assert "Running" in tool(pipeline, "table").stdout
    assert "in use, left alone" in tool(pipeline, "clean", "--yes").stdout
    left = [process for process in psutil.process_iter() if cwd_of(process.pid) == copy]
    assert left and copy.exists()
    for process in left:
        process.kill()
    psutil.wait_procs(left)
    assert "nothing was deleted" in tool(pipeline, "clean").stdout and copy.exists()
    assert "deleted: 1" in tool(pipeline, "clean", "--yes").stdout
    assert not copy.exists()
    assert "Running" not in tool(pipeline, "table").stdout
