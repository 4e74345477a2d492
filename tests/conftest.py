"""Fixtures: a tiny random BERT, and temporary repositories around the real dvc.yaml.

    repository  nothing has run in it           finished  the whole pipeline has run once; read only
    copy        a copy of `finished` to change  here      that copy, its stages in this process

Tests of a module with `pytestmark = pytest.mark.usefixtures("warm")` run DVC's stages in forks of
a process that has imported PyTorch already (warm.py); without it each stage is a new process.
"""

import contextlib
import importlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_lowercase
from typing import Any
from unittest import mock

import pytest
from ruamel.yaml import YAML

from reproduce.command import run_command
from reproduce.files import sha256

# Before PyTorch is imported: tiny models gain nothing from more threads.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("LAUNCHER", None)  # a person's own; the fixture `warm` sets the tests' one
# Under nohup or behind `&` SIGINT comes ignored, and what the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
# What a repository of the tests starts without: results, and what no stage needs.
RESULTS = {"metrics", "environment", "predictions", "curves", "plots", "report", "dvc.lock"}
LEFT_OUT = {*RESULTS, "tests", "docs"}


def pytest_configure(config: pytest.Config) -> None:
    """Let only `pytest -m gpu` see GPUs: the other tests' numbers and messages are a CPU's."""
    if not config.option.markexpr.startswith("gpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before PyTorch is imported


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not importlib.import_module("torch").cuda.is_available():
        pytest.skip("needs a CUDA GPU, and `make test-gpu`")


def pin(path: Path) -> dict[str, Any]:
    """Bytes and sha256 of a file, as the catalog writes them."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def load_yaml(path: Path) -> Any:
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True  # libyaml, which DVC reads with, wants more of them than ruamel
    return yaml.load(path)


def dump_yaml(path: Path, data: Any) -> None:
    YAML(typ="rt").dump(data, path)


def pocket_lines(split: str, count: int) -> list[str]:
    text = (ROOT / "data/pocket" / f"{split}.tsv").read_text(encoding="utf-8")
    return text.splitlines()[1 : count + 1]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random 2-layer BERT of width 32 and a tokenizer that knows the toy data."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertForMaskedLM

    folder = tmp_path_factory.mktemp("tiny")
    words = set(re.findall(r"[a-z]+", " ".join(pocket_lines("train", 96)).lower()))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *ascii_lowercase]
    pieces += [*(f"##{letter}" for letter in ascii_lowercase), *".,;:'!?-", *sorted(words)]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertWordPieceTokenizer(vocabulary, lowercase=True).save(str(folder / "tokenizer.json"))
    settings = {"do_lower_case": True, "model_max_length": 128}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(7)
    size: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    size |= {"intermediate_size": 64, "max_position_embeddings": 128}
    BertForMaskedLM(BertConfig(vocab_size=len(vocabulary), **size)).save_pretrained(folder)
    return folder


Done = subprocess.CompletedProcess[str]


@dataclass
class Repository:
    """A temporary repository with the real pipeline, code and settings, but tiny inputs."""

    path: Path
    env: dict[str, str] = field(repr=False)
    ran: list[str] = field(default_factory=list)  # stages of the first repro, in order

    def run(self, *command: str, ok: bool = True, **env: str) -> Done:
        env = {**self.env, "LAUNCHER": os.environ.get("LAUNCHER", ""), **env}
        done = subprocess.run(
            command, cwd=self.path, env=env, capture_output=True, text=True, timeout=900
        )
        if ok:
            assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def stage(self, name: str, *arguments: str, ok: bool = True, **env: str) -> Done:
        return self.run(sys.executable, "-m", f"stages.{name}", *arguments, ok=ok, **env)

    def repro(self, *arguments: str) -> list[str]:
        """Run `dvc repro`; the names of the stages that really ran, in order."""
        return re.findall(r"Running stage '([^']+)'", self.run("dvc", "repro", *arguments).stdout)

    def refused(self, stage: str, *arguments: str, **env: str) -> str:
        """Run a stage that must refuse its input, leaving nothing half-written; its one message."""
        before = set(self.path.rglob("*.partial"))
        done = self.stage(stage, *arguments, ok=False, **env)
        assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.stderr.count("error: ") == 1, done.stderr
        assert set(self.path.rglob("*.partial")) == before, "a half-written output was left"
        return done.stderr.split("error: ", 1)[1].strip()

    def edit(self, file: str, change: Callable[[Any], object]) -> None:
        data = load_yaml(self.path / file)
        change(data)
        dump_yaml(self.path / file, data)

    def json(self, file: str) -> Any:
        return json.loads((self.path / file).read_text(encoding="utf-8"))


class Here(Repository):
    """Runs stages in this process. Where the process matters (a kill, a lock): `Repository`."""

    def stage(self, name: str, *arguments: str, ok: bool = True, **env: str) -> Done:
        done = run_here(self.path, {**self.env, **env}, f"stages.{name}", *arguments)
        assert not ok or done.returncode == 0, f"{name}\n{done.stdout}\n{done.stderr}"
        return done


def run_here(folder: Path, env: dict[str, str], module: str, *arguments: str) -> Done:
    """Run `python -m MODULE ...` in this process, which has imported PyTorch or DVC already."""
    main = importlib.import_module(module).main
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.dict(os.environ, env, clear=True),
        mock.patch.object(sys, "argv", [module, *arguments]),
    ):
        try:
            run_command(main)
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess([module, *arguments], code, out.getvalue(), err.getvalue())


def environment(home: Path) -> dict[str, str]:
    """The variables of what the tests start: no settings of the user's, all caches below `home`."""
    home.mkdir(parents=True, exist_ok=True)
    foreign = ("HF_", "DVC_", "HUB_MIRROR", "LAUNCHER", "GIT_", "MAKE", "MFLAGS", "PYTHONPATH")
    settings = "[user]\n\tname = Test\n\temail = test@example.org\n[init]\n\tdefaultBranch = main\n"
    (home / "gitconfig").write_text(settings)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(foreign)},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HOME": str(home / "hf"),
        "DVC_NO_ANALYTICS": "1",
        "DVC_GLOBAL_CONFIG_DIR": str(home / "dvc-global"),
        "DVC_SYSTEM_CONFIG_DIR": str(home / "dvc-system"),
        "DVC_SITE_CACHE_DIR": str(home / "dvc-site-cache"),
        "GIT_CONFIG_GLOBAL": str(home / "gitconfig"),
    }


@pytest.fixture(scope="session")
def warm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The value of LAUNCHER with which stages run in forks of warm.py's server, one a worker."""
    place = tmp_path_factory.mktemp("warm")
    command = [sys.executable, f"{ROOT}/tests/warm.py", f"{place}/socket"]
    # The shell splits LAUNCHER at blanks, and the project's folder may have some.
    launcher = place / "launcher"
    launcher.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
    launcher.chmod(0o755)
    env = environment(place / "home")
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, start_new_session=True) as proc:
        assert proc.stdout and proc.stdout.readline() == b"ready\n"
        yield str(launcher)
        os.killpg(proc.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def warm(warm_server: str) -> Iterator[None]:
    """DVC's stages of this module's repositories run in forks of the server: seconds less each."""
    with mock.patch.dict(os.environ, LAUNCHER=warm_server):
        yield


def make_repository(path: Path, tiny_model: Path) -> Repository:
    """Copy the project's files (not its results) to `path`, with the tiny inputs, and commit."""
    listing = ["git", "ls-files", "-co", "--exclude-standard"]
    for name in subprocess.check_output(listing, cwd=ROOT, text=True).splitlines():
        if name.split("/")[0] not in LEFT_OUT and (ROOT / name).is_file():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, path / name)
    toy = path / "data/toy"
    toy.mkdir()
    dataset: dict[str, Any] = {"sources": [{"folder": "data/toy"}], "columns": ["sentence"]}
    dataset |= {"labels": ["NEGATIVE", "POSITIVE"], "metrics": ["accuracy", "f1"]}
    for split, count in (("train", 96), ("validation", 24)):
        lines = ["sentence\tlabel", *pocket_lines(split, count)]
        (toy / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        dataset[split] = {"file": f"{split}.tsv", "rows": count, **pin(toy / f"{split}.tsv")}
    (path / "predictions").mkdir()
    (path / "predictions/README.md").touch()  # as here: files of git among those of DVC
    model = {
        "sources": [{"folder": str(tiny_model)}],
        "license": "apache-2.0",
        "tokenizer": {name: pin(tiny_model / name) for name in MODEL_FILES},
        "weights": {"model.safetensors": pin(tiny_model / "model.safetensors")},
    }

    def params(data: Any) -> None:
        data.update(dataset="toy", models=["tiny"], seeds=[1])
        data["tasks"]["toy"] = {}
        data["overrides"].update(tiny={}, other={})
        data["finetune"].update(learning_rate=1e-2, batch_size=8, epochs=2, warmup_steps=2)
        data["finetune"].update(log_every=2, precision="fp32")
        data["machine"]["checkpoint_every"] = 4
        data["benchmark"].update(models=["tiny", "other"], passes=1, sentences=8, warmup=1)
        data["compare"].update(teacher="other", student="tiny")

    def catalog(data: Any) -> None:
        data["datasets"]["toy"] = dataset
        data["models"].update(tiny=model, other=model)

    repository = Repository(path, environment(path.parent / "home"))
    repository.edit("catalog.yaml", catalog)
    repository.edit("params.yaml", params)
    repository.run("git", "init", "-q")
    repository.run("git", "add", "-A")
    repository.run("git", "commit", "-qm", "start")
    return repository


@pytest.fixture
def repository(tmp_path: Path, tiny_model: Path) -> Repository:
    """A fresh temporary repository in which nothing has run."""
    return make_repository(tmp_path / "repository", tiny_model)


@pytest.fixture(scope="session")
def finished(
    tiny_model: Path, warm_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Repository:
    """A repository whose whole pipeline has run once and was committed; read only."""
    done = make_repository(tmp_path_factory.mktemp("finished") / "repository", tiny_model)
    with mock.patch.dict(os.environ, LAUNCHER=warm_server):
        done.ran = done.repro()
    done.run("git", "add", "-A")
    done.run("git", "commit", "-qm", "results")
    return done


@pytest.fixture
def copy(finished: Repository, tmp_path: Path) -> Repository:
    """A copy of the finished repository that a test may change."""
    shutil.copytree(finished.path, tmp_path / "copy", symlinks=True)
    return Repository(tmp_path / "copy", finished.env)


@pytest.fixture
def here(copy: Repository) -> Here:
    """The same, for stages that run in this process."""
    return Here(copy.path, copy.env)


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder with the real SST-2 files; the test is skipped where there is none."""
    for place in (os.environ.get("HUB_MIRROR"), ROOT.parent / "shared/hub-mirror"):
        if place and Path(place, "datasets/nyu-mll/glue/sst2").is_dir():
            return Path(place)
    pytest.skip("no real SST-2 files: set HUB_MIRROR to a folder laid out like the Hub")
