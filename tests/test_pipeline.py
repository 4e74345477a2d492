"""The real dvc.yaml in a temporary repository with tiny inputs: which stages run after which change."""

import ast
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from conftest import ROOT, Repository, load_yaml

pytestmark = pytest.mark.usefixtures("warm")

ALL = [
    "download_dataset", "download_tokenizer@tiny", "download_weights@tiny", "tokenize@tiny", "finetune@tiny-1", "evaluate@tiny-1",
    "export@tiny", "benchmark", "compare", "report",
]  # fmt: skip


def test_the_first_repro_runs_every_stage_and_git_sees_only_results(finished: Repository) -> None:
    assert sorted(finished.ran) == sorted(ALL)
    place = {stage: i for i, stage in enumerate(finished.ran)}
    for earlier, later in (("download_dataset", "tokenize@tiny"), ("tokenize@tiny", "finetune@tiny-1"),
                           ("finetune@tiny-1", "evaluate@tiny-1"), ("evaluate@tiny-1", "compare"), ("benchmark", "compare"), ("compare", "report")):  # fmt: skip
        assert place[earlier] < place[later]
    tracked = finished.run("git", "show", "--name-only", "--format=", "HEAD").stdout.split()
    assert sorted(tracked) == [
        "dvc.lock",
        "environment/tiny-1.json",
        "metrics/accuracy.json",
        "metrics/claims.json",
        "metrics/export/tiny-1.json",
        "metrics/runs/tiny-1.json",
        "metrics/speed.json",
    ]
    assert finished.run("git", "status", "--porcelain").stdout == ""
    assert not [
        path
        for path in finished.path.rglob(".gitignore")
        if path.parent not in (finished.path, finished.path / ".dvc")
    ]


def test_nothing_changed_nothing_runs(copy: Repository) -> None:
    assert copy.repro() == []


def test_a_comment_in_params_re_runs_nothing(copy: Repository) -> None:
    text = (copy.path / "params.yaml").read_text()
    (copy.path / "params.yaml").write_text(
        "# a remark\n" + text.replace("seeds:", "seeds:   ") + "\n# another\n"
    )
    assert copy.repro() == []


def test_how_often_to_save_is_no_hyperparameter(copy: Repository) -> None:
    copy.edit("params.yaml", lambda p: p["machine"].update(checkpoint_every=1000, loader_workers=1))
    assert copy.repro() == []


def test_a_new_seed_runs_one_finetune_and_one_evaluate(copy: Repository) -> None:
    before = (copy.path / "models/finetuned/tiny-1/model.safetensors").read_bytes()
    copy.edit("params.yaml", lambda p: p.update(seeds=[1, 2]))
    assert sorted(copy.repro()) == ["compare", "evaluate@tiny-2", "finetune@tiny-2", "report"]
    accuracy = copy.json("metrics/accuracy.json")["models"]["tiny"]
    assert accuracy["seeds_run"] == 2 and set(accuracy["by_seed"]) == {"1", "2"}
    after = (copy.path / "models/finetuned/tiny-2/model.safetensors").read_bytes()
    assert before == (copy.path / "models/finetuned/tiny-1/model.safetensors").read_bytes() != after


def test_a_change_of_the_comparison_trains_nothing(copy: Repository) -> None:
    copy.edit("published.yaml", lambda p: p["results"].pop())
    assert copy.repro() == ["compare", "report"]
    copy.edit("params.yaml", lambda p: p["compare"].update(student="minilm"))
    assert copy.repro() == ["compare", "report"]


def test_another_headline_evaluates_again_and_trains_nothing(copy: Repository) -> None:
    """What the sentences are reaches `evaluate` through data/dataset.json; the sentences, data/raw, are the same."""
    raw, before = copy.path / "data/raw/train.tsv", copy.json("data/dataset.json")
    copy.edit("catalog.yaml", lambda c: c["datasets"]["toy"].update(metrics=["f1", "accuracy"]))
    old = raw.read_bytes()
    ran = copy.repro("evaluate@tiny-1")
    assert (ran, raw.read_bytes()) == (
        ["download_dataset", "tokenize@tiny", "evaluate@tiny-1"],
        old,
    )
    assert copy.json("data/dataset.json") == {**before, "metrics": ["f1", "accuracy"]}
    assert copy.json("metrics/runs/tiny-1.json")["metric"] == "f1"


def test_another_source_of_the_same_bytes_re_trains_nothing(copy: Repository) -> None:
    copy.edit(
        "catalog.yaml", lambda c: c["models"]["tiny"]["sources"].insert(0, {"folder": "nowhere"})
    )
    assert sorted(copy.repro()) == [
        "download_tokenizer@tiny",
        "download_weights@tiny",
        "evaluate@tiny-1",
        "export@tiny",
        "report",
    ]


def test_without_a_lock_file_everything_comes_from_the_run_cache(copy: Repository) -> None:
    before = (copy.path / "dvc.lock").read_bytes()
    (copy.path / "dvc.lock").unlink()
    for folder in ("models", "data/raw", "data/tokenized", "metrics", "predictions", "environment"):
        shutil.rmtree(copy.path / folder)
    assert copy.repro() == []
    assert load_yaml(copy.path / "dvc.lock") == YAML(typ="rt").load(before)
    assert copy.run("git", "status", "--porcelain", "metrics", "environment").stdout == ""


def test_a_deleted_output_comes_back_from_the_cache(copy: Repository) -> None:
    shutil.rmtree(copy.path / "models/finetuned/tiny-1")
    assert copy.repro() == []
    assert (copy.path / "models/finetuned/tiny-1/model.safetensors").is_file()


def test_a_run_that_is_absent_is_reported_as_not_run(copy: Repository) -> None:
    copy.edit("params.yaml", lambda p: p.update(models=["tiny", "other"], seeds=[1, 5]))
    assert copy.repro("-s", "compare") == ["compare"]
    models = copy.json("metrics/accuracy.json")["models"]
    assert (
        models["tiny"]["by_seed"]["5"]
        == models["other"]["by_seed"]["1"]
        == models["other"]["median"]
        == "not run"
    )
    assert models["tiny"]["seeds_run"] == 1 and models["other"]["seeds_run"] == 0
    report = (copy.path / "report/comparison.md").read_text()
    assert "| **other** | not run |" in report


def test_an_override_touches_its_model_alone(copy: Repository) -> None:
    """And a number that dvc rewrites is still one: `-S x=0.00003` leaves 3e-05 in params.yaml, which YAML 1.1 reads as a string."""
    import yaml

    copy.edit("params.yaml", lambda p: p["overrides"]["bert"].update(epochs=1))
    assert copy.repro() == ["report"]  # it shows the settings
    copy.run("git", "checkout", "--", "params.yaml", "dvc.lock")
    settings = ("-S", "+overrides.tiny.epochs=1", "-S", "+overrides.tiny.learning_rate=0.00003")
    done = copy.run("dvc", "exp", "run", "--temp", "-n", "low", *settings)
    ran = re.findall(r"Running stage '([^']+)'", done.stdout)
    assert sorted(ran) == ["compare", "evaluate@tiny-1", "export@tiny", "finetune@tiny-1", "report"]
    ref = copy.run("git", "for-each-ref", "refs/exps/*/*/low", "--format=%(refname)").stdout.strip()
    assert (
        json.loads(copy.run("git", "show", f"{ref}:environment/tiny-1.json").stdout)["steps"] == 12
    )
    text = copy.run("git", "show", f"{ref}:params.yaml").stdout
    assert "learning_rate: 3e-05" in text
    assert (
        yaml.safe_load(text)["overrides"]["tiny"]["learning_rate"] == "3e-05"
    )  # why PyYAML does not read our parameters
    assert copy.run("git", "status", "--porcelain").stdout == ""


@pytest.mark.parametrize(
    ("change", "dvc_says", "check_says"),
    [
        ({"models": ["tiny", "foo"]}, "Parameters 'models.foo' are missing from 'catalog.yaml'",
         "unknown model 'foo': catalog.yaml knows bert, distilbert, minilm, other, tiny."),
        ({"models": []}, "params.yaml: models: empty. Name at least one.", "params.yaml: models: empty. Name at least one."),
        ({"seeds": [1, 1]}, "params.yaml: seeds: 1 listed more than once", "params.yaml: seeds: 1 listed more than once"),
        ({"dataset": "imdb"}, "Parameters 'datasets.imdb' are missing from 'catalog.yaml'",
         "unknown dataset 'imdb': catalog.yaml knows cola, mnli, mrpc, pocket, qnli, qqp, rte, sst2, stsb, toy, wnli."),
    ],
)  # fmt: skip
def test_a_bad_experiment_is_refused_and_nothing_is_lost(
    copy: Repository, change: dict[str, Any], dvc_says: str, check_says: str
) -> None:
    """`make repro` checks first and touches nothing. Plain `dvc repro` deletes the outputs of the stage it is about to run;
    those are in git and in DVC's cache, and the fine-tuned models stay where they are."""
    start = (copy.path / "params.yaml").read_bytes()
    copy.edit("params.yaml", lambda p: p.update(change))
    checked = copy.run(sys.executable, "-m", "stages.check", ok=False)
    assert (
        checked.returncode == 1
        and check_says in checked.stderr
        and "Traceback" not in checked.stderr
    )
    done = copy.run("dvc", "repro", ok=False)
    assert done.returncode != 0 and dvc_says in done.stderr and "Traceback" not in done.stderr, (
        done.stderr
    )
    assert (copy.path / "models/finetuned/tiny-1/model.safetensors").is_file()
    (copy.path / "params.yaml").write_bytes(start)
    copy.run("git", "checkout", "--", "metrics")
    assert copy.repro() == []


def imports(module: Path) -> set[Path]:
    """The modules of this repository that `module` imports by an import statement, wherever it stands."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            path = Path(*name.split(".")).with_suffix(".py")
            if (ROOT / path).is_file():
                found.add(path)
    return found


def closure(module: Path) -> set[Path]:
    todo, done = {module}, set()
    while todo:
        current = todo.pop()
        done.add(current)
        todo |= imports(ROOT / current) - done
    return done


@pytest.mark.parametrize("stage", sorted(load_yaml(ROOT / "dvc.yaml")["stages"]))
def test_stage_deps_are_the_import_closure(stage: str) -> None:
    """A code change that can alter an output re-runs the stage; nothing else of the code does."""
    entry = load_yaml(ROOT / "dvc.yaml")["stages"][stage]
    commands = [entry["cmd"]] if isinstance(entry["cmd"], str) else entry["cmd"]
    words = [command.removeprefix("${launcher} ").split() for command in commands]
    modules = [
        module.removeprefix("stages.")
        for python, flag, module, *_ in words
        if (python, flag) == ("python", "-m")
    ]
    assert modules == (["evaluate", "card"] if stage == "evaluate" else [stage])
    declared = [Path(dep) for dep in entry["deps"] if dep.endswith(".py")]
    assert len(declared) == len(set(declared))
    assert set(declared) == {
        path for module in modules for path in closure(Path("stages") / f"{module}.py")
    }


def test_every_model_has_an_override_entry_and_every_output_is_ignored_by_git() -> None:
    params, pipeline = load_yaml(ROOT / "params.yaml"), load_yaml(ROOT / "dvc.yaml")
    assert (
        set(params["overrides"])
        == set(load_yaml(ROOT / "catalog.yaml")["models"])
        == set(params["models"])
    )
    ignored = (ROOT / ".gitignore").read_text().split()
    for name, stage in pipeline["stages"].items():
        for out in stage.get("outs", []):
            if isinstance(out, str):
                assert any(
                    f"/{out}".startswith(entry) for entry in ignored if entry.startswith("/")
                ), (name, out)
            else:
                assert [options["cache"] for options in out.values()] == [False]
        assert all(
            not options["cache"]
            for metric in stage.get("metrics", [])
            for options in metric.values()
        )
