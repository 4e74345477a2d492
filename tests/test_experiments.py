"""tools/experiments.py: the demo, the table, and what killed experiments leave.

The pipeline is a shell command: what is tested is what becomes of its results.
"""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from conftest import ROOT, Done, Repository, environment
from reproduce.files import UserError
from tools import experiments

PIPELINE = """\
stages:
  report:
    cmd: test ! -e ${wait} || sleep 300; mkdir -p report metrics models/finetuned/minilm-1 &&
      echo ${word} > report/report.html && echo '| ${word} |' > metrics/results.md &&
      echo '{"majority_class":{"accuracy":66.67}}' > metrics/claims.json &&
      echo ${word} > models/finetuned/minilm-1/model
    params: [word]
    outs: [models/finetuned/minilm-1/model]
    plots: [{report: {cache: false}}, {metrics/results.md: {cache: false}},
            {metrics/claims.json: {cache: false}}]
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


def tool(repository: Repository, *arguments: str, ok: bool = True) -> Done:
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
        children = psutil.Process(process.pid).children
        while not any(cwd_of(child).is_relative_to(copies) for child in children(recursive=True)):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    (repository.path.parent / "wait").unlink()


def cwd_of(process: psutil.Process) -> Path:
    try:
        return Path(process.cwd())
    except psutil.Error:
        return Path("/")


# ------------------------------------------------------------------------------------- demo


@pytest.mark.slow
def test_the_demo_shows_its_own_results(pipeline: Repository) -> None:
    """Though a branch has its name; and what it prints works as printed."""
    pipeline.run("git", "branch", "demo")
    head = pipeline.run("git", "rev-parse", "HEAD").stdout.strip()
    left = f"refs/exps/{head[:2]}/{head[2:]}/demo-new"  # by a demo that was killed
    pipeline.run("git", "update-ref", left, head)
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


NOT_KEPT = {
    "shallow": "git fetch --unshallow",
    "repository/project": "a part of a larger git repository",
    "new": "without a commit",
    ".": "not a git repository",
}


@pytest.mark.parametrize("place", NOT_KEPT)
def test_where_an_experiment_cannot_be_kept_is_refused(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "git -c user.name=T -c user.email=t@example.org commit -q --allow-empty -m"
    made = f"""git init -q new && git init -q repository && cd repository && mkdir project &&
        {commit} one && {commit} two && git clone -q --depth 1 file://$PWD ../shallow"""
    subprocess.run(made, shell=True, cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path / place)
    with pytest.raises(UserError, match=NOT_KEPT[place]):
        experiments.check_git()


def test_a_missing_git_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="git is missing"):
        experiments.check_git()


# ------------------------------------------------------------------------------------ table


def test_only_finished_experiments_have_scores() -> None:
    text = (
        "Experiment,rev,State,metrics/accuracy.json:minilm,dataset,finetune.epochs\n"
        ",main,,90.14,sst2,3\nlate,1234567,Running,90.14,sst2,3\nover,89abcde,,88.0,sst2,1\n"
        "queued-1,cdef012,Success,87.5,sst2,2\n"
    )
    assert experiments.format_table(text, only_changed=True).splitlines() == [
        "Experiment      rev    State  minilm  finetune.epochs",
        "         -     main        -   90.14                3",
        "      late  1234567  Running       -                -",
        "      over  89abcde        -    88.0                1",
        "  queued-1  cdef012  Success    87.5                2",
    ]
    with pytest.raises(UserError, match=r"^KEEP=\( is no regular expression: missing \)"):
        experiments.table("(")


# ------------------------------------------------------------------------------------ clean


def test_while_another_user_runs_a_stage_nothing_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it runs cannot be seen."""
    (tmp_path / ".dvc/tmp/exps/tmp1/.dvc").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    info = {"cwd": None, "cmdline": ["python", "-m", "stages.finetune"]}
    monkeypatch.setattr(psutil, "process_iter", lambda _: [SimpleNamespace(pid=7, info=info)])
    with pytest.raises(UserError, match="process 7 of another user runs a stage"):
        experiments.clean(yes=True)
    assert (tmp_path / ".dvc/tmp/exps/tmp1/.dvc").is_dir()


@pytest.mark.slow
def test_what_a_killed_experiment_leaves(pipeline: Repository) -> None:
    """The demo before it; and a copy, which is cleared away, but not while its stage lives on."""
    tool(pipeline, "demo", "-S", "word=first")
    start_and_kill(pipeline)
    assert kept(pipeline) == ["demo"]
    assert (pipeline.path / "demo/report/report.html").read_text() == "first\n"
    (copy,) = (pipeline.path / ".dvc/tmp/exps/standalone").glob("tmp*")
    assert "Running" in tool(pipeline, "table").stdout
    assert "in use, left alone" in tool(pipeline, "clean", "--yes").stdout
    left = [process for process in psutil.process_iter() if cwd_of(process) == copy]
    assert left and copy.exists()
    for process in left:
        process.kill()
    psutil.wait_procs(left)
    assert "nothing was deleted" in tool(pipeline, "clean").stdout and copy.exists()
    cut_off = pipeline.path / ".dvc/tmp/exps/run/x/x.run"
    cut_off.parent.mkdir(parents=True)
    cut_off.touch()
    assert "deleted: 1" in tool(pipeline, "clean", "--yes").stdout
    assert not copy.exists()
    assert "Running" not in tool(pipeline, "table").stdout
