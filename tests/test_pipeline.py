"""The real dvc.yaml in a temporary repository with tiny inputs: which stages run when."""

import json
import re
import shutil
from typing import Any

import pytest

from conftest import RESULTS, ROOT, Repository, dump_yaml, load_yaml

pytestmark = pytest.mark.usefixtures("warm")

TOKENIZERS = ["download_tokenizer@tiny", "download_tokenizer@other"]  # benchmark.models
AFTER_CHECK = ["download_dataset", *TOKENIZERS, "download_weights@tiny"]
TRAINED = ["finetune@tiny-1", "evaluate@tiny-1", "export@tiny"]
JUDGED = ["compare", "report"]


def test_the_first_repro_runs_every_stage_in_order(finished: Repository) -> None:
    assert sorted(finished.ran) == sorted(
        ["check", *AFTER_CHECK, "tokenize@tiny", *TRAINED, "benchmark", *JUDGED]
    )
    chain = ["check", "download_dataset", "tokenize@tiny", *TRAINED[:2], *JUDGED]
    assert [stage for stage in finished.ran if stage in chain] == chain
    kept = [path for path in (finished.path / "checkpoints").iterdir() if path.is_dir()]
    assert not kept, "evaluate has read it, and DVC has it"


def test_git_sees_the_results_and_nothing_else(finished: Repository) -> None:
    new = finished.run("git", "show", "--name-only", "--format=", "HEAD").stdout.split()
    assert {name.split("/")[0] for name in new} == RESULTS
    results = {"predictions/tiny-1.csv", "predictions/tiny-1.json", "curves/tiny-1.tsv"}
    assert set(new) > results | {"environment/tiny-1.json", "report/report.html"}
    assert finished.run("git", "status", "--porcelain").stdout == ""
    own = {finished.path / ".gitignore", finished.path / ".dvc/.gitignore"}
    assert set(finished.path.rglob(".gitignore")) <= own  # none by DVC inside a folder


def test_nothing_runs_where_nothing_that_matters_changed(copy: Repository) -> None:
    assert copy.repro() == []
    params = copy.path / "params.yaml"
    params.write_text("# a remark\n" + params.read_text().replace("seeds:", "seeds:   "))
    copy.edit("params.yaml", lambda p: p["machine"].update(checkpoint_every=1000))
    assert copy.repro() == ["check"]  # its outputs are the same


CHANGES: dict[str, tuple[str, Any, list[str]]] = {
    "margin": ("published.yaml", lambda p: p["claims"]["speed"].update(margin=0.5), JUDGED),
    "override": ("params.yaml", lambda p: p["overrides"]["bert"].update(epochs=1), JUDGED),
    "passes": ("params.yaml", lambda p: p["benchmark"].update(passes=2), ["benchmark", *JUDGED]),
    "batch": ("params.yaml", lambda p: p["evaluate"].update(batch_size=5), TRAINED[1:2] + JUDGED),
    "export": (
        "params.yaml", lambda p: p["export"].update(per_channel=False), ["export@tiny", "report"]
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CHANGES)
def test_a_change_runs_what_it_can_change(copy: Repository, case: str) -> None:
    file, change, ran = CHANGES[case]
    copy.edit(file, change)
    # Equal outputs end the chain.
    assert [stage for stage in copy.repro() if stage != "check"] in (ran, ran[:1])


@pytest.mark.slow
def test_a_new_seed_trains_that_seed_alone(copy: Repository) -> None:
    models = [copy.path / f"models/finetuned/tiny-{seed}/model.safetensors" for seed in (1, 2)]
    before = models[0].read_bytes()
    copy.edit("params.yaml", lambda p: p.update(seeds=[1, 2]))
    assert copy.repro() == ["check", "finetune@tiny-2", "evaluate@tiny-2", *JUDGED]
    assert before == models[0].read_bytes() != models[1].read_bytes()


def test_another_source_of_the_same_bytes_trains_nothing(copy: Repository) -> None:
    source = {"folder": "nowhere"}
    copy.edit("catalog.yaml", lambda c: c["models"]["tiny"]["sources"].insert(0, source))
    ran = copy.repro("finetune", "compare")
    assert set(ran) >= {"download_tokenizer@tiny", "download_weights@tiny"}
    assert not {"download_dataset", "tokenize@tiny", "finetune@tiny-1"} & set(ran)


@pytest.mark.slow
def test_without_a_lock_file_nothing_is_trained_again(copy: Repository) -> None:
    """The run cache has all stages but those with outputs that git keeps alone."""
    lock = load_yaml(copy.path / "dvc.lock")
    for name in [*RESULTS, "models", "data/raw", "data/tokenized", "data/checked"]:
        path = copy.path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    copy.run("git", "checkout", "predictions/README.md")  # no output of a stage
    assert copy.repro() == ["evaluate@tiny-1", *JUDGED]
    assert load_yaml(copy.path / "dvc.lock") == lock
    assert copy.run("git", "status", "--porcelain", "--", *RESULTS - {"dvc.lock"}).stdout == ""


@pytest.fixture
def clone(copy: Repository) -> Repository:
    """A fresh clone: what git has, and an empty cache."""
    path = copy.path.with_name("clone")
    copy.run("git", "clone", "-q", str(copy.path), str(path))
    return Repository(path, copy.env)


def test_a_fresh_clone_judges_and_reports_from_git_alone(clone: Repository) -> None:
    verdicts = [clone.path / f"metrics/{name}" for name in ("claims.json", "results.md")]
    for path in [*verdicts, clone.path / "report/report.html"]:
        path.unlink()
    assert clone.repro("-s", *JUDGED) == JUDGED
    assert clone.run("git", "status", "--porcelain", "metrics", "plots").stdout == ""
    assert (clone.path / "report/report.html").is_file() and not (clone.path / "models").exists()


@pytest.mark.slow
def test_a_fresh_clone_pulls_only_what_it_must_run(clone: Repository, copy: Repository) -> None:
    remote = copy.path.with_name("remote")
    for repository in (copy, clone):
        repository.run("dvc", "remote", "add", "--local", "-d", "store", str(remote))
    copy.run("dvc", "push", "-q", "--run-cache")
    clone.edit("params.yaml", lambda p: p["compare"].update(confidence=0.9))
    assert clone.repro("--pull", "--allow-missing") == ["check", *JUDGED]
    assert not list((clone.path / "models").rglob("*.safetensors"))


@pytest.mark.slow
def test_an_experiment_leaves_the_workspace_as_it_is(copy: Repository) -> None:
    """And a number stays one: DVC writes 0.00003 as 3e-05, which YAML 1.1 reads as a string."""
    settings = ("-S", "+overrides.tiny.epochs=1", "-S", "+overrides.tiny.learning_rate=0.00003")
    done = copy.run("dvc", "exp", "run", "--temp", "-n", "low", *settings)
    ran = re.findall(r"Running stage '([^']+)'", done.stdout)
    assert sorted(ran) == sorted(["check", *TRAINED, *JUDGED])
    ref = copy.run("git", "for-each-ref", "refs/exps/*/*/low", "--format=%(refname)").stdout.strip()
    assert "learning_rate: 3e-05" in copy.run("git", "show", f"{ref}:params.yaml").stdout
    run = json.loads(copy.run("git", "show", f"{ref}:environment/tiny-1.json").stdout)
    assert run["run"]["finetune"]["learning_rate"] == 3e-05 and run["steps"] == 12
    assert copy.run("git", "status", "--porcelain").stdout == ""


def test_a_bad_experiment_is_refused_before_anything_is_deleted(copy: Repository) -> None:
    folders = [copy.path / name for name in (*RESULTS, "models", "data/raw")]
    before = {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}
    params = load_yaml(copy.path / "params.yaml")
    bad: dict[str, Any] = {"foo": {"models": ["tiny", "foo"]}, "empty": {"models": []}}
    for message, change in (bad | {"imdb": {"dataset": "imdb"}}).items():
        dump_yaml(copy.path / "params.yaml", {**params, **change})
        done = copy.run("dvc", "repro", ok=False)
        assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr
        assert {path: path.stat().st_mtime_ns for path in before} == before


def test_each_model_can_be_registered_under_its_name() -> None:
    entries = load_yaml(ROOT / "dvc.yaml")["artifacts"]
    assert set(entries) == set(load_yaml(ROOT / "params.yaml")["models"])
    for name, entry in entries.items():
        place = f"models/finetuned/{name}-${{seeds[0]}}"
        assert (entry["path"], entry["type"]) == (place, "model")
