"""params.yaml: YAML 1.2, strict types, and one clear message for each mistake."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, dump_yaml, load_yaml
from reproduce.files import UserError
from reproduce.params import read_experiment, read_yaml
from reproduce.training.recipe import read_finetune
from stages.check import check_inputs


@pytest.fixture
def project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Callable[[Any], None]], None]:
    """A folder with the three input files; call it to edit one."""
    for name in ("params.yaml", "catalog.yaml", "published.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.chdir(tmp_path)

    def edit(name: str, change: Callable[[Any], None]) -> None:
        data = load_yaml(tmp_path / name)
        change(data)
        dump_yaml(tmp_path / name, data)

    return edit


Edit = Callable[[str, Callable[[Any], None]], None]


def test_the_defaults_are_the_articles_experiment(project: Edit) -> None:
    check_inputs()
    experiment = read_experiment()
    assert (experiment.dataset, experiment.models, experiment.seeds) == (
        "sst2",
        ("distilbert", "bert", "minilm"),
        (1, 2, 3, 4, 5),
    )
    recipe = read_finetune("distilbert")
    assert (recipe.learning_rate, recipe.batch_size, recipe.warmup_steps, recipe.epochs) == (
        1e-5,
        32,
        600,
        3,
    )
    assert read_yaml(Path("params.yaml"))["selection"] == {"holdout": 0, "train": 0}


@pytest.mark.parametrize("written", ["3e-05", "3e-5", "0.00003", "3.0e-5", "+3E-5"])
def test_numbers_are_read_as_yaml_1_2(project: Edit, written: str) -> None:
    text = Path("params.yaml").read_text()
    assert text.count("learning_rate: 1e-5") == 1
    Path("params.yaml").write_text(text.replace("learning_rate: 1e-5", f"learning_rate: {written}"))
    assert read_finetune("distilbert").learning_rate == 3e-5


def test_yaml_1_1_words_are_strings(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: no\nb: 1e-4\nc: 0o17\n")
    assert read_yaml(tmp_path / "x.yaml") == {"a": "no", "b": 1e-4, "c": 15}


def test_overrides_lie_over_the_common_recipe(project: Edit) -> None:
    assert read_finetune("bert").learning_rate == 2e-5 and read_finetune("bert").batch_size == 32
    project("params.yaml", lambda p: p["overrides"]["bert"].update(batch_size=16))
    assert read_finetune("bert").batch_size == 16 and read_finetune("distilbert").batch_size == 32


BAD: list[tuple[str, Callable[[Any], Any], str]] = [
    ("unknown section", lambda p: p.update(comprae={}), "params.yaml: comprae: unknown section. Known: dataset, models, seeds,"),
    ("missing section", lambda p: p.pop("evaluate"), "params.yaml: evaluate is missing."),
    ("unknown key", lambda p: p["finetune"].update(lr=1e-5), "params.yaml: finetune.lr: unknown key. Known here: accumulation,"),
    ("missing key", lambda p: p["finetune"].pop("epochs"), "params.yaml: finetune.epochs: missing."),
    ("string for a number", lambda p: p["finetune"].update(batch_size="32"), 'params.yaml: finetune.batch_size: input should be a valid integer (found "32").'),
    ("float for an integer", lambda p: p["finetune"].update(epochs=3.0), "params.yaml: finetune.epochs: input should be a valid integer (found 3.0)."),
    ("bool for an integer", lambda p: p["finetune"].update(epochs=True), "params.yaml: finetune.epochs: input should be a valid integer (found true)."),
    ("negative rate", lambda p: p["finetune"].update(learning_rate=-1e-5), "params.yaml: finetune.learning_rate: input should be greater than 0 (found -1e-05)."),
    ("rate of 1", lambda p: p["finetune"].update(learning_rate=1), "params.yaml: finetune.learning_rate: input should be less than 1 (found 1)."),
    ("rate that is no number", lambda p: p["finetune"].update(learning_rate=float("nan")), "params.yaml: finetune.learning_rate: input should be a finite number"),
    ("zero epochs", lambda p: p["finetune"].update(epochs=0), "params.yaml: finetune.epochs: input should be greater than or equal to 1 (found 0)."),
    ("unknown precision", lambda p: p["finetune"].update(precision="int8"), "params.yaml: finetune.precision: input should be 'auto', 'fp32', 'bf16' or 'fp16'"),
    ("negative seed", lambda p: p.update(seeds=[1, -1]), "params.yaml: seeds.1: input should be greater than or equal to 0 (found -1)."),
    ("empty models", lambda p: p.update(models=[]), "params.yaml: models: empty. Name at least one."),
    ("empty seeds", lambda p: p.update(seeds=[]), "params.yaml: seeds: empty. Name at least one."),
    ("repeated seed", lambda p: p.update(seeds=[1, 2, 1]), "params.yaml: seeds: 1 listed more than once; list each once"),
    ("repeated model", lambda p: p.update(models=["bert", "bert"]), "params.yaml: models: bert listed more than once"),
    ("a scalar for a list", lambda p: p.update(seeds=1), "params.yaml: seeds: input should be a valid array (found 1)."),
    ("a name with a dot", lambda p: p.update(models=["a.b"]), "params.yaml: models.0: string should match pattern"),
    ("unknown model", lambda p: p.update(models=["foo"]), "unknown model 'foo': catalog.yaml knows bert, distilbert, minilm."),
    ("unknown dataset", lambda p: p.update(dataset="foo"), "unknown dataset 'foo': catalog.yaml knows cola, mnli, mrpc, pocket, qnli, qqp, rte, sst2, stsb, wnli."),
    ("no override entry", lambda p: p["overrides"].pop("bert"), "params.yaml: overrides.bert is missing. Add `bert: {}` under overrides"),
    ("unknown override", lambda p: p["overrides"]["bert"].update(lr=1), "params.yaml: overrides.bert.lr: unknown key."),
    ("bad override", lambda p: p["overrides"]["bert"].update(epochs=0), "params.yaml: finetune with tasks.sst2 and overrides.bert.epochs: input should be"),
    ("max_length beyond BERT", lambda p: p["tokenize"].update(max_length=513), "params.yaml: tokenize.max_length: input should be less than or equal to 512"),
    ("no section but a list", lambda p: p.update(finetune=[]), "params.yaml: finetune: input should be"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_a_mistake_in_params_is_one_clear_message(
    project: Edit, change: Callable[[Any], Any], message: str
) -> None:
    project("params.yaml", change)
    with pytest.raises(UserError) as error:
        check_inputs()
    assert str(error.value).startswith(message)


def test_every_mistake_is_listed_at_once(project: Edit) -> None:
    project("params.yaml", lambda p: p["finetune"].update(epochs=0, lr=1, learning_rate="x"))
    with pytest.raises(UserError) as error:
        check_inputs()
    assert [line.split(":")[1].strip() for line in str(error.value).splitlines()[1:]] == [
        "finetune.learning_rate", "finetune.epochs", "finetune.lr",
    ]  # fmt: skip


def test_broken_yaml_and_encoding_name_the_place(project: Edit) -> None:
    Path("params.yaml").write_text("dataset: sst2\nseeds: [1, [2\n")
    with pytest.raises(UserError, match=r"params\.yaml is not valid YAML: .*\(line: 2\)"):
        check_inputs()
    Path("params.yaml").write_bytes(b"dataset: \xff\n")
    with pytest.raises(UserError, match=r"params\.yaml: not UTF-8"):
        check_inputs()
    Path("params.yaml").write_text("- a\n")
    with pytest.raises(UserError, match=r"params\.yaml: expected a mapping, found list"):
        check_inputs()
    Path("params.yaml").unlink()
    with pytest.raises(UserError, match=r"params\.yaml is missing"):
        check_inputs()


def test_the_published_numbers_are_checked_too(project: Edit) -> None:
    project("published.yaml", lambda p: p["results"][0].update(split="dev"))
    with pytest.raises(
        UserError,
        match=r"published\.yaml: results\.0\.split: input should be 'validation' or 'test' \(found \"dev\"\)",
    ):
        check_inputs()


def test_a_dataset_s_recipe_lies_between_the_common_one_and_the_model_s(project: Edit) -> None:
    project("params.yaml", lambda p: p.update(dataset="mrpc"))
    recipe = read_finetune("distilbert")
    assert (recipe.learning_rate, recipe.warmup_steps, recipe.epochs, recipe.batch_size) == (
        2e-5,
        0,
        5,
        32,
    )
    recipe = read_finetune("minilm")
    assert (recipe.learning_rate, recipe.warmup_steps, recipe.epochs) == (1e-4, 0, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: p["tasks"]["rte"].update(lr=1),
            "params.yaml: finetune with tasks.rte.lr: unknown key.",
        ),
        (
            lambda p: p["tasks"]["rte"].update(epochs=0),
            "params.yaml: finetune with tasks.rte.epochs: input should be greater than or equal to 1",
        ),
        (
            lambda p: p["tasks"].update(rte=None),
            "params.yaml: tasks.rte: expected a mapping, found None. Write {} for no change.",
        ),
        (
            lambda p: p["tasks"].update(rtee={}),
            "params.yaml: tasks.rtee: catalog.yaml knows cola, ",
        ),
        (
            lambda p: p["overrides"].update(brt={}),
            "params.yaml: overrides.brt: catalog.yaml knows bert, distilbert, minilm. ",
        ),
        (
            lambda p: p["tasks"].pop("sst2"),
            "params.yaml: tasks.sst2 is missing. Add `sst2: {}` under tasks",
        ),
    ],
)
def test_recipes_of_other_experiments_are_checked_too(
    project: Edit, change: Callable[[Any], Any], message: str
) -> None:
    project("params.yaml", change)
    with pytest.raises(UserError) as error:
        check_inputs()
    assert str(error.value).startswith(message)


def test_a_task_without_pins_is_refused_before_any_work(project: Edit) -> None:
    project("params.yaml", lambda p: p.update(dataset="rte"))
    with pytest.raises(
        UserError,
        match=r"^catalog\.yaml: datasets\.rte\.train has no bytes and sha256: .* Run `make pin DATASET=rte`",
    ):
        check_inputs()
