"""The stage finetune, what it keeps, and the loading of models. Its loop: test_loop.py."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from conftest import Here, Repository, run_here
from reproduce.files import UserError
from reproduce.models.load import load_finetuned, load_pretrained
from reproduce.training import checkpoints, loop, recipe
from stages import finetune
from test_crash import MODEL, RUN, edit_weights, outputs, rename
from test_loop import make_recipe

# Mean loss of steps 1-2, 3-4, ... of the tiny model, with seed 1 and conftest.py's recipe.
GOLDEN = [0.6905, 0.6921, 0.6691, 0.7017, 0.7019, 0.7022, 0.6877, 0.6814, 0.6870, 0.6651, 0.6789,
          0.6651]  # fmt: skip


# --- what the stage writes ---


def test_golden_losses_of_a_tiny_run(finished: Repository) -> None:
    """Two epochs of 12 steps. Tolerance: the order of sums differs between processors."""
    header, *rows = (finished.path / MODEL / "loss.tsv").read_text().splitlines()
    steps, losses = zip(*(row.split("\t") for row in rows), strict=True)
    assert header == "step\tloss" and [int(step) for step in steps] == list(range(2, 25, 2))
    assert [float(loss) for loss in losses] == pytest.approx(GOLDEN, abs=2e-3)


def test_what_it_ran_on_is_recorded_with_the_recipe(finished: Repository) -> None:
    facts = finished.json("environment/tiny-1.json")
    assert facts["recipe"] == recipe.recipe_digest(facts["run"])
    expected = {"device": "cpu", "precision": "fp32", "steps": 24, "replayed_steps": 0}
    expected |= {"resumed_at_step": 0, "not_deterministic": {}, "threads": 1, "git_dirty": False}
    assert {name: facts[name] for name in expected} == expected
    assert facts["last_loss"] == pytest.approx(GOLDEN[-1], abs=2e-3)
    assert facts["precision_reason"] == "params.yaml asks for it" and facts["device_name"]
    assert facts["ms_per_step"] > 0 and facts["peak_memory_mb"] > 100 and 0 < facts["padding"] < 0.2
    assert str(Path.home()) not in json.dumps(facts)


def test_a_short_one_without_a_commit_and_beside_a_file_of_others(here: Here) -> None:
    """Shorter than a logging window."""
    shutil.rmtree(here.path / ".git")
    here.run("git", "init", "-q")
    (here.path / MODEL / "notes.txt").write_text("mine")
    here.edit("params.yaml", lambda p: p["finetune"].update(log_every=500, epochs=1))
    said = here.stage("finetune", *RUN).stdout
    assert "models/finetuned/tiny-1: 12 steps in" in said
    assert (here.path / MODEL / "loss.tsv").read_text().startswith("step\tloss\n12\t")
    assert here.json("environment/tiny-1.json")["git_commit"] is None
    assert (here.path / MODEL / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_in_bf16_too(copy: Repository, here: Here) -> None:
    """For fp32, several tests of test_crash.py show it."""
    results = [outputs(copy)]
    copy.edit("params.yaml", lambda p: p["finetune"].update(precision="bf16"))
    for runner in (copy, here):
        shutil.rmtree(copy.path / "checkpoints", ignore_errors=True)
        said = runner.stage("finetune", *RUN).stdout
        assert "bf16 on cpu" in said and "taken over" not in said
        results.append(outputs(copy))
    assert results[1] == results[2]
    assert results[0]["model.safetensors"] != results[1]["model.safetensors"], "bf16 is another"


# --- what it keeps ---


def test_the_result_is_kept_until_the_next_stage_has_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finished = Path("checkpoints/tiny-1-0123456789ab/finished")
    (finished / "model").mkdir(parents=True)
    (finished / "model/model.safetensors").write_bytes(b"these")
    checkpoints.mark_complete(finished)
    for run, read in (("tiny-2", b"these"), ("tiny-1", b"others"), ("tiny-1", b"these")):
        assert checkpoints.is_complete(finished)
        Path("weights").write_bytes(read)
        checkpoints.forget_finished(run, Path("weights"))
    assert not finished.parent.exists()


def test_clean_checkpoints_says_what_it_will_free_before_it_does(tmp_path: Path) -> None:
    ours, theirs = (tmp_path / f"checkpoints/{name}" for name in ("tiny-1-0123456789ab", "notes"))
    for folder in (ours, theirs):  # notes: no name that a training gives
        (folder / "checkpoint-16").mkdir(parents=True)
    (ours / "checkpoint-16/state.pt").write_bytes(bytes(2_300_000))
    says = (
        "checkpoints/tiny-1-0123456789ab: 2.3 MB, at step 16\n"
        "deleting 1 run(s) frees 2.3 MB; they would train from their start\n"
    )

    def clean(*arguments: str) -> str:
        return run_here(tmp_path, {}, "tools.clean_checkpoints", *arguments).stdout

    no = f"{says}nothing was deleted (answer y, or give --yes)\n"
    assert clean() == no and ours.exists()  # nobody is there to answer
    person = mock.patch("sys.stdin", mock.Mock(isatty=lambda: True))
    with person, mock.patch("builtins.input", side_effect=["", "n", "y"]):
        assert clean() == clean() == no and ours.exists()
        assert clean() == says and not ours.exists()
    assert clean("--yes") == "no checkpoints to delete\n" and theirs.is_dir()


# --- what it refuses ---


def test_a_missing_input_is_named_with_its_stage(here: Here) -> None:
    inputs = {
        "models/weights/tiny/model.safetensors": "download_weights@tiny",
        "models/tokenizers/tiny/config.json": "download_tokenizer@tiny",
        "models/tokenizers/tiny/tokenizer_config.json": "download_tokenizer@tiny",
        "data/tokenized/tiny/train.parquet": "tokenize@tiny",
        "data/checked/pins/dataset.json": "check",
    }
    for name, stage in inputs.items():
        (here.path / name).rename(here.path / "aside")
        says = f"{name} is missing. Run `dvc repro {stage}`, which makes it."
        assert here.refused("finetune", *RUN) == says
        (here.path / "aside").rename(here.path / name)


def test_not_enough_disk_is_found_before_training(tmp_path: Path) -> None:
    """Three checkpoints of 12 MB and the model of 4; what lies there needs no more room."""
    model: Any = torch.nn.Linear(1000, 1000)  # 1,001,000 parameters, 4.004 MB
    with mock.patch.object(shutil, "disk_usage") as usage:
        usage.return_value.free = 40_041_000
        checkpoints.check_disk(model, tmp_path)
        usage.return_value.free = 40_039_000
        with pytest.raises(UserError, match=r"not enough disk: .* needs 40 MB more, 40 MB are"):
            checkpoints.check_disk(model, tmp_path)
        for step in (10, 20):
            (tmp_path / f"checkpoint-{step}").mkdir()
            (tmp_path / f"checkpoint-{step}" / checkpoints.STATE).write_bytes(bytes(12_012_000))
        usage.return_value.free = 16_017_000
        checkpoints.check_disk(model, tmp_path)
        usage.return_value.free = 16_015_000
        with pytest.raises(UserError, match="needs 16 MB more"):
            checkpoints.check_disk(model, tmp_path)


def test_memory_that_runs_out_names_what_to_change_and_keeps_the_batch(here: Here) -> None:
    with mock.patch.object(loop, "train", side_effect=torch.OutOfMemoryError("out of memory")):
        assert here.refused("finetune", *RUN).startswith(
            "out of memory with 8 sentence(s) at a time. Set finetune.accumulation to 2: "
            "4 at a time, and still 8 a step"
        )
    one_by_one = make_recipe(batch_size=32, accumulation=32)
    assert "Lower tokenize.max_length" in finetune.less_memory(one_by_one)


# --- the recipe ---


def test_the_digest_follows_all_that_decides_a_run_and_nothing_else() -> None:
    settings = make_recipe().model_dump()
    base: dict[str, Any] = {"dataset": "toy", "selection": {"holdout": 0, "train": 0}}
    base |= {"tokenize": {"max_length": 128}, "finetune": settings, "tasks": {"toy": {"epochs": 2}}}
    base |= {"overrides": {"tiny": {"epochs": 3}, "other": {}}}
    pins = {"dataset": {"train.tsv": "1"}, "model": {"model.safetensors": "2"}}

    def digest(model: str = "tiny", seed: int = 1, data: str = "1", **params: Any) -> str:
        used = {**pins, "dataset": {"train.tsv": data}}
        return recipe.recipe_digest(recipe.run_recipe(base | params, model, seed, used))

    equal = {digest(), digest(machine={"checkpoint_every": 1}), digest(models=["tiny"])}
    equal |= {digest(tasks={"toy": {}, "sst2": {}}), digest(finetune=settings | {"epochs": 2})}
    assert len(equal) == 1 and all(re.fullmatch(r"[0-9a-f]{16}", one) for one in equal)
    others = {digest("other"), digest(seed=2), digest(data="3"), digest(tokenize={"max_length": 9})}
    others |= {digest(selection={"holdout": 9, "train": 0}), digest(overrides={"tiny": {}})}
    others |= {digest(finetune=settings | {"log_every": 2})}
    assert len(others - equal) == 7


@pytest.mark.parametrize(
    ("gpu", "decisive", "indifferent"),
    [(None, ["cpu", "threads"], ["driver", "cuda"]), ("T4", ["driver", "cuda"], ["threads"])],
)
def test_a_checkpoint_belongs_to_what_changes_the_bits(
    finished: Repository, gpu: str | None, decisive: list[str], indifferent: list[str]
) -> None:
    facts = finished.json("environment/tiny-1.json") | {"gpu": gpu}
    key = recipe.checkpoint_key(facts, [])
    for name in ("recipe", "precision", *decisive):
        assert recipe.checkpoint_key(facts | {name: "other"}, []) != key
    for name in ("git_commit", *indifferent):
        assert recipe.checkpoint_key(facts | {name: "other"}, []) == key


# --- loading: every tensor is accounted for ---


Change = Callable[[Any], Any]  # of the tensors of a file, by name


@pytest.fixture
def pretrained(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny masked language model: an encoder `bert.` without pooler, a head `cls.`"""
    return Path(shutil.copytree(tiny_model, tmp_path / "pretrained"))


def load(folder: Path, labels: tuple[str, ...] = ("NEGATIVE", "POSITIVE")) -> Any:
    torch.manual_seed(1)
    return load_pretrained(folder, folder, labels)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without(part: str) -> Change:
    return lambda old: {name: tensor for name, tensor in old.items() if part not in name}


def adding(name: str, *shape: int) -> Change:
    return lambda old: old | {name: torch.full(shape, 9.0)}


def test_weights_are_fp32_whatever_the_file_holds(pretrained: Path) -> None:
    edit_weights(pretrained, lambda old: {name: x.bfloat16() for name, x in old.items()})
    edit_config(pretrained, dtype="bfloat16")
    model = load(pretrained)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.dtype == torch.float32


@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_of_a_fine_tuned_checkpoint_is_dropped(
    pretrained: Path, capsys: pytest.CaptureFixture[str], classes: int
) -> None:
    """Even where it would fit; and so are the labels and the kind of problem in its config."""
    load(pretrained).save_pretrained(pretrained)
    expected = load(pretrained).classifier.weight
    edit_weights(pretrained, adding("classifier.weight", classes, 32))
    labels = {str(i): f"old {i}" for i in range(classes)}
    edit_config(pretrained, id2label=labels, problem_type="multi_label")
    model = load(pretrained)
    new, dropped = "new head of 2 output(s): ", "; dropped from the checkpoint: "
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{new}bert.pooler, classifier{dropped}cls"
    assert said[-1] == f"{new}classifier{dropped}classifier"
    assert torch.equal(model.classifier.weight, expected)
    assert model.config.label2id == {"NEGATIVE": 0, "POSITIVE": 1}
    assert model.config.problem_type == "single_label_classification"
    model = load(pretrained, labels=())
    assert model.classifier.weight.shape == (1, 32) and model.config.problem_type == "regression"


@pytest.mark.parametrize(
    "change", [rename(r"^bert\.", ""), adding("bert.embeddings.position_ids", 1, 128)]
)
def test_other_spellings_of_the_same_encoder_load_alike(pretrained: Path, change: Change) -> None:
    expected = load(pretrained).state_dict()
    edit_weights(pretrained, change)
    model = load(pretrained).state_dict()
    assert all(torch.equal(model[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (rename("^bert", "_orig_mod.bert"), "lacks {0} (of 37), instead has _orig_mod.{0}."),
        (without("layer.1."), "lacks bert.encoder.layer.1.attention.output.LayerNorm.bias (of 16)"),
        (adding("bert.encoder.layer.2.bias", 1), "has a useless bert.encoder.layer.2.bias."),
        (adding("bert.embeddings.word_embeddings.weight", 5, 32), "has a misshapen bert.embed"),
    ],
    ids=["another prefix", "a layer less", "a layer more", "another vocabulary"],
)
def test_an_encoder_that_does_not_fit_is_named(pretrained: Path, change: Change, says: str) -> None:
    edit_weights(pretrained, change)
    says = f"config.json: it {says.format('bert.embeddings.LayerNorm.bias')}"
    with pytest.raises(UserError, match=re.escape(says)):
        load(pretrained)


@pytest.mark.parametrize("data", [None, b"x" * 100, b"\x10" + b"\0" * 7 + b"{"])
def test_a_damaged_file_is_one_message(pretrained: Path, data: bytes | None) -> None:
    file = pretrained / "model.safetensors"
    file.unlink()
    if data:
        file.write_bytes(data)
    says = f"^{pretrained} holds no model that can be read: .* Delete"
    with pytest.raises(UserError, match=says):
        load(pretrained)


def test_a_fine_tuned_model_must_be_whole(finished: Repository, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.path / MODEL, tmp_path / "model"))
    model = load_finetuned(folder)
    assert not model.training and {p.dtype for p in model.parameters()} == {torch.float32}
    edit_weights(folder, without("classifier.bias"))
    with pytest.raises(UserError, match=r"only one of .* and config.json has classifier\.bias"):
        load_finetuned(folder)
