"""Fixtures: a tiny random BERT with a real WordPiece tokenizer, and a temporary repository around the real dvc.yaml."""

import contextlib
import fcntl
import hashlib
import importlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from faults import fault_tests
from ruamel.yaml import YAML

from reproduce.command import run_command

os.environ["OMP_NUM_THREADS"] = (
    "1"  # before PyTorch is imported: tiny models gain nothing from more
)

ROOT = Path(__file__).resolve().parent.parent
MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")

# Imported by every Python that the tests start in a repository: whoever asks for a network address is stopped at once.
# With ALLOW_LOOPBACK only addresses outside this machine are refused (processes that train together talk to each other).
# Python looks for garbage less often: of 7 s of importing transformers that saves one.
NO_NETWORK = """
import gc, os, socket, sys
gc.set_threshold(100_000)
def _inside(event, arguments):
    if event != "socket.getaddrinfo" and arguments[0].family == socket.AF_UNIX:
        return True
    host = arguments[0] if event == "socket.getaddrinfo" else arguments[1][0]
    host = host.decode() if isinstance(host, bytes) else host
    return "ALLOW_LOOPBACK" in os.environ and host in (None, "localhost", "127.0.0.1", "::1", "0.0.0.0", "::", socket.gethostname())
def _audit(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto") and not _inside(event, arguments):
        sys.stderr.write(f"NETWORK: {event} {arguments!r} by {sys.argv}\\n")
        sys.stderr.flush()
        os._exit(97)
sys.addaudithook(_audit)
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults", action="store_true", help="only the tests that break something (make faults)"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # The longest file first, so that no worker is left alone with it at the end; then one that needs no finished pipeline, which
    # the first one's worker makes meanwhile.
    order = ["test_sweep.py", "test_download.py"]
    items.sort(
        key=lambda item: order.index(item.path.name) if item.path.name in order else len(order)
    )
    if config.getoption("--faults"):
        breaking = {
            path: fault_tests(path.read_text(encoding="utf-8"))
            for path in {item.path for item in items}
        }
        items[:] = [
            item
            for item in items
            if getattr(item, "originalname", item.name) in breaking[item.path]
        ]


def pin(path: Path) -> dict[str, Any]:
    """Bytes and sha256 of a file, as the catalog writes them."""
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def load_yaml(path: Path) -> Any:
    return YAML(typ="rt").load(path.read_text(encoding="utf-8"))


def dump_yaml(path: Path, data: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        YAML(typ="rt").dump(data, file)


def pocket_lines(split: str, count: int) -> list[str]:
    return (
        (ROOT / "data/pocket" / f"{split}.tsv")
        .read_text(encoding="utf-8")
        .splitlines()[1 : count + 1]
    )


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this test run that all workers of pytest-xdist see."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@contextlib.contextmanager
def made_once(place: Path) -> Iterator[bool]:
    """Give whether the folder `place` is still to be made: one worker makes it while the others wait.

    pytest-xdist's documentation, "Making session-scoped fixtures execute only once". After a failure the next worker tries.
    """
    done = place.with_name(f"{place.name}.done")
    with place.with_name(f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
        yield not done.exists()
        done.touch()


@pytest.fixture(scope="session")
def tiny_model(shared: Path) -> Path:
    """A folder with a random 2-layer BERT of width 32 and a fast tokenizer whose words are those of the toy data."""
    folder = shared / "tiny"
    with made_once(folder) as to_make:
        if to_make:
            make_tiny_model(folder)
    return folder


def make_tiny_model(folder: Path) -> None:
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertForMaskedLM

    text = " ".join(pocket_lines("train", 96)).lower()
    words = sorted(set(re.findall(r"[a-z]+", text)))
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *(f"##{letter}" for letter in letters),
        *".,;:'!?-",
    ]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*pieces, *words]))}
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertWordPieceTokenizer(vocabulary, lowercase=True).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": True, "model_max_length": 128})
    )
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=128,
    )  # fmt: skip
    torch.manual_seed(7)
    BertForMaskedLM(config).save_pretrained(folder)


@dataclass
class Repository:
    """A temporary repository with the real pipeline, code and settings, but tiny inputs."""

    path: Path
    env: dict[str, str] = field(repr=False)
    ran: list[str] = field(default_factory=list)  # stages of the first repro, in order

    def run(self, *command: str, ok: bool = True, **env: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            command,
            cwd=self.path,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert "NETWORK" not in done.stderr, done.stderr
        if ok:
            assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def stage(
        self, name: str, *arguments: str, ok: bool = True, **env: str
    ) -> "subprocess.CompletedProcess[str]":
        return self.run(sys.executable, "-m", f"stages.{name}", *arguments, ok=ok, **env)

    def repro(self, *arguments: str) -> list[str]:
        """Run `dvc repro` and return the names of the stages that really ran, in order."""
        return re.findall(r"Running stage '([^']+)'", self.run("dvc", "repro", *arguments).stdout)

    def refused(self, stage: str, *arguments: str, **env: str) -> str:
        """Run a stage that must refuse its input: exit code 1, one message, nothing left. Returns the message."""
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
    """Runs stages in this process, which has imported PyTorch and transformers already (7 seconds of a processor).

    For what a stage says and writes; where the process matters (a kill, a limit, equal bytes), take `Repository`.
    """

    def stage(
        self, name: str, *arguments: str, ok: bool = True, **env: str
    ) -> "subprocess.CompletedProcess[str]":
        main = importlib.import_module(f"stages.{name}").main
        out, err, code = io.StringIO(), io.StringIO(), 0
        with (
            contextlib.chdir(self.path), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
            mock.patch.dict(os.environ, {**self.env, **env}, clear=True), mock.patch.object(sys, "argv", [name, *arguments]),
        ):  # fmt: skip
            try:
                run_command(main)
            except SystemExit as end:
                code = int(end.code or 0)
        assert not ok or code == 0, (
            f"{name} {arguments}\n{out.getvalue()[-3000:]}\n{err.getvalue()[-3000:]}"
        )
        return subprocess.CompletedProcess([name, *arguments], code, out.getvalue(), err.getvalue())


def environment(home: Path) -> dict[str, str]:
    """The variables for what the tests start: no settings of the user's, no network, caches and settings below `home`."""
    (home / "site").mkdir(parents=True, exist_ok=True)
    (home / "site/sitecustomize.py").write_text(NO_NETWORK)
    env = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("HF_", "DVC_", "HUB_MIRROR", "GIT_", "MAKE", "MFLAGS"))
    }
    env |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}",
        "PYTHONPATH": str(home / "site"),
        "HF_HOME": str(home / "hf"),
        "DVC_NO_ANALYTICS": "1",
        "DVC_GLOBAL_CONFIG_DIR": str(home / "dvc-global"),
        "DVC_SYSTEM_CONFIG_DIR": str(home / "dvc-system"),
        "DVC_SITE_CACHE_DIR": str(home / "dvc-site-cache"),
        "GIT_CONFIG_GLOBAL": str(home / "gitconfig"),
    }
    (home / "gitconfig").write_text(
        "[user]\n\tname = Test\n\temail = test@example.org\n[init]\n\tdefaultBranch = main\n"
    )
    return env


@pytest.fixture(scope="session")
def warm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a process that has imported PyTorch and transformers (tests/warm.py), one a worker."""
    place = tmp_path_factory.mktemp("warm") / "socket"
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_EVALUATE_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, f"{ROOT}/tests/warm.py", f"{place}"]
    with subprocess.Popen(
        command, env=environment(place.parent / "home") | offline, start_new_session=True
    ) as server:
        yield place
        os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def warm(warm_server: Path) -> Iterator[None]:
    """Stages that this module's repositories run through DVC run in forks of the warm server: seconds less each."""
    with mock.patch.dict(os.environ, LAUNCHER=launcher(warm_server)):
        yield


def launcher(server: Path) -> str:
    """The value of LAUNCHER with which stages run in forks of the server."""
    return f"{sys.executable} {ROOT}/tests/warm.py {server}"


def in_place_of_venv(folder: Path) -> dict[str, str]:
    """Environment in which `make` takes the environment that runs the tests for its .venv, and installs nothing."""
    venv = folder / "venv"
    venv.mkdir()
    (venv / "bin").symlink_to(Path(sys.executable).parent)
    (venv / ".installed").touch()
    os.utime(venv / ".installed", (2**33, 2**33))  # newer than any requirements.txt
    return {
        "MAKEFLAGS": "e",
        "VENV": str(venv),
    }  # make -e: the environment goes before what the Makefile says


def make_repository(path: Path, tiny_model: Path, commit: bool = True) -> Repository:
    """Copy the project's files (not its results) to `path`, point catalog and params to the tiny inputs, commit."""
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in files:
        if (
            name.split("/")[0] in ("metrics", "environment", "dvc.lock", "tests", "benchmarks")
            or not (ROOT / name).is_file()
        ):
            continue
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, path / name)

    toy = path / "data/toy"
    toy.mkdir()
    splits = {}
    for split, count in (("train", 96), ("validation", 24)):
        (toy / f"{split}.tsv").write_text(
            "\n".join(["sentence\tlabel", *pocket_lines(split, count)]) + "\n", encoding="utf-8"
        )
        splits[split] = {"file": f"{split}.tsv", "rows": count, **pin(toy / f"{split}.tsv")}
    model = {
        "sources": [{"folder": str(tiny_model)}],
        "license": "apache-2.0",
        "tokenizer": {name: pin(tiny_model / name) for name in MODEL_FILES},
        "weights": {"model.safetensors": pin(tiny_model / "model.safetensors")},
    }

    def catalog(data: Any) -> None:
        data["datasets"]["toy"] = {"sources": [{"folder": "data/toy"}], "columns": ["sentence"], "labels": ["NEGATIVE", "POSITIVE"],
                                   "metrics": ["accuracy", "f1"], **splits}  # fmt: skip
        data["models"]["tiny"] = model
        data["models"]["other"] = model

    def params(data: Any) -> None:
        data.update(dataset="toy", models=["tiny"], seeds=[1])
        data["overrides"].update(tiny={}, other={})
        data["tasks"]["toy"] = {}
        data["finetune"].update(
            learning_rate=1e-2,
            batch_size=8,
            epochs=2,
            warmup_steps=2,
            log_every=2,
            precision="fp32",
        )
        data["machine"]["checkpoint_every"] = 4
        data["benchmark"].update(passes=1, warmup=1)
        data["compare"].update(teacher="other", student="tiny")

    repository = Repository(path, environment(path.parent / "home"))
    repository.edit("catalog.yaml", catalog)
    repository.edit("params.yaml", params)
    repository.run("git", "init", "-q")
    if commit:
        repository.run("git", "add", "-A")
        repository.run("git", "commit", "-qm", "start")
    return repository


@pytest.fixture
def repository(tmp_path: Path, tiny_model: Path) -> Repository:
    """A fresh temporary repository in which nothing has run."""
    return make_repository(tmp_path / "repository", tiny_model)


@pytest.fixture(scope="session")
def finished(
    shared: Path, tiny_model: Path, warm_server: Path, tmp_path_factory: pytest.TempPathFactory
) -> Repository:
    """A repository whose whole pipeline has run once, by one worker; each has its own copy. Tests copy it, or leave it as it is."""
    place, own = shared / "finished", tmp_path_factory.mktemp("finished")
    with made_once(place) as to_make:
        if to_make:
            made = make_repository(place / "repository", tiny_model)
            made.env["LAUNCHER"] = launcher(warm_server)
            (place / "ran.json").write_text(json.dumps(made.repro()))
            made.run("git", "add", "-A")
            made.run("git", "commit", "-qm", "results")
    shutil.copytree(place / "repository", own / "repository", symlinks=True)
    return Repository(
        own / "repository", environment(own / "home"), json.loads((place / "ran.json").read_text())
    )


@pytest.fixture
def copy(finished: Repository, tmp_path: Path) -> Repository:
    """A copy of the finished repository that a test may change."""
    shutil.copytree(finished.path, tmp_path / "copy", symlinks=True)
    warm = {"LAUNCHER": os.environ["LAUNCHER"]} if "LAUNCHER" in os.environ else {}
    return Repository(tmp_path / "copy", finished.env | warm)


@pytest.fixture
def here(copy: Repository) -> Here:
    """The same, for stages that run in this process."""
    return Here(copy.path, copy.env)


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder with the real SST-2 files; the test is skipped where there is none."""
    for place in (os.environ.get("HUB_MIRROR"), ROOT.parent / "shared/hub-mirror"):
        if (
            place
            and (Path(place) / "datasets/nyu-mll/glue/sst2/train-00000-of-00001.parquet").is_file()
        ):
            return Path(place)
    pytest.skip("no folder with the real SST-2 files: set HUB_MIRROR to one laid out like the Hub")
