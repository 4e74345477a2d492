"""The stage finetune and the loading of models. The loop: test_loop.py; crashes: test_crash.py."""

import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from conftest import Here, Repository
from reproduce.files import UserError
from reproduce.models.load import load_finetuned, load_pretrained
from reproduce.params import Finetune
from reproduce.training import checkpoints, recipe
from stages import finetune

RUN = ("--model", "tiny", "--seed", "1")
MODEL, CURVE, ENVIRONMENT = Path("models/finetuned/tiny-1"), Path("curves/tiny-1.tsv"), "environment/tiny-1.json"

# Mean loss of steps 1-2, 3-4, ... of the tiny model: seed 1, batch 8, learning rate 1e-2, fp32 (conftest.py).
GOLDEN = {2: 0.6905, 4: 0.6921, 6: 0.6691, 8: 0.7017, 10: 0.7019, 12: 0.7022, 14: 0.6877, 16: 0.6814, 18: 0.6870, 20: 0.6651,
          22: 0.6789, 24: 0.6651}  # fmt: skip


@pytest.fixture
def untrained(here: Here) -> Here:
    """The finished repository without a kept result that a run could take over."""
    shutil.rmtree(here.path / "checkpoints", ignore_errors=True)
    return here


def curve(repository: Repository) -> dict[int, float]:
    header, *rows = (repository.path / CURVE).read_text().splitlines()
    assert header == "step\tloss"
    return {int(step): float(loss) for step, loss in (row.split("\t") for row in rows)}


def edit_json(path: Path, **changes: Any) -> None:
    text = json.loads(path.read_text())
    path.unlink()  # DVC links it to its cache
    path.write_text(json.dumps(text | changes))


def edit_weights(path: Path, change: Any) -> None:
    """Give `path` the tensors that `change` makes of its own (a dict)."""
    tensors = change(load_file(path))
    path.unlink()  # DVC links it to its cache
    save_file(tensors, path, metadata={"format": "pt"})


# --- what the stage writes ---


def test_golden_losses_of_a_tiny_run(finished: Repository) -> None:
    """Two epochs of 12 steps. Tolerance: the order of sums differs between processors."""
    assert curve(finished) == pytest.approx(GOLDEN, abs=2e-3)


def test_the_model_loads_as_a_pipeline(finished: Repository) -> None:
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(finished.path / MODEL), device="cpu")
    answer = classify("A gripping film.")[0]
    assert answer["label"] in ("NEGATIVE", "POSITIVE") and 0.5 <= answer["score"] <= 1
    assert classify.model.config.id2label == {0: "NEGATIVE", 1: "POSITIVE"}


def test_what_it_ran_on_is_recorded_with_the_recipe(finished: Repository) -> None:
    facts = finished.json(ENVIRONMENT)
    assert facts["recipe"] == recipe.recipe_digest(facts["run"]) and re.fullmatch(r"[0-9a-f]{16}", facts["recipe"])
    assert {name: facts[name] for name in ("device", "precision", "precision_reason", "steps", "replayed_steps", "resumed_at_step")} == {
        "device": "cpu", "precision": "fp32", "precision_reason": "params.yaml asks for it", "steps": 24, "replayed_steps": 0,
        "resumed_at_step": 0}  # fmt: skip
    assert facts["ms_per_step"] > 0 and facts["peak_memory_mb"] > 100 and facts["not_deterministic"] == []
    assert facts["packages"]["torch"] == torch.__version__ and facts["threads"] == 1 and facts["device_name"] == facts["cpu"]
    assert str(Path.home()) not in json.dumps(facts)


def test_a_training_of_fewer_steps_than_a_logging_window(untrained: Here) -> None:
    untrained.edit("params.yaml", lambda p: p["finetune"].update(log_every=500, epochs=1))
    said = untrained.stage("finetune", *RUN).stdout
    assert "models/finetuned/tiny-1: 12 steps in" in said
    assert list(curve(untrained)) == [12]


def test_files_of_others_in_the_models_folder_stay(untrained: Here) -> None:
    (untrained.path / MODEL / "README.md").write_text("mine")
    untrained.stage("finetune", *RUN)
    assert (untrained.path / MODEL / "README.md").read_text() == "mine"
    assert not list(untrained.path.rglob("*.partial"))


def test_without_a_commit_it_trains_too(untrained: Here) -> None:
    shutil.rmtree(untrained.path / ".git")
    untrained.run("git", "init", "-q")
    (untrained.path / CURVE).unlink()
    untrained.stage("finetune", *RUN)
    assert untrained.json(ENVIRONMENT)["git_commit"] is None and len(curve(untrained)) == 12


# --- what it refuses, before it trains ---


@pytest.mark.parametrize(
    ("file", "stage"),
    [("models/weights/tiny/model.safetensors", "download_weights@tiny"), ("models/tokenizers/tiny/config.json", "download_tokenizer@tiny"),
     ("data/tokenized/tiny/train.parquet", "tokenize@tiny"), ("data/checked/pins/tiny.json", "check")],
)  # fmt: skip
def test_a_missing_input_is_named_with_the_stage_that_makes_it(here: Here, file: str, stage: str) -> None:
    (here.path / file).unlink()
    message = here.refused("finetune", *RUN)
    assert message == f"{file} is missing. Run `dvc repro {stage}`, which makes it."


def test_a_warmup_longer_than_the_training(untrained: Here) -> None:
    untrained.edit("params.yaml", lambda p: p["finetune"].update(warmup_steps=24))
    assert "finetune.warmup_steps 24 is not less than the 24 steps" in untrained.refused("finetune", *RUN)


def test_not_enough_disk_is_found_before_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = torch.nn.Linear(1000, 1000)  # 1,001,000 parameters: 12.0 MB a checkpoint, 36.0 MB for three
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=30_000_000))
    with pytest.raises(UserError, match=r"not enough disk: .* needs 0\.0 GB"):
        checkpoints.check_disk(model, tmp_path, tmp_path)  # type: ignore[arg-type]
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=37_000_000))
    checkpoints.check_disk(model, tmp_path, tmp_path)  # type: ignore[arg-type]


def test_weights_that_overflow_change_no_output(untrained: Here) -> None:
    before = (untrained.path / MODEL / "model.safetensors").read_bytes()
    edit_weights(untrained.path / "models/weights/tiny/model.safetensors",
                 lambda old: {name: t * math.inf if "word_embeddings" in name else t for name, t in old.items()})  # fmt: skip
    message = untrained.refused("finetune", *RUN)
    assert message.startswith("the loss or a gradient is not a finite number at step 1 ")
    assert (untrained.path / MODEL / "model.safetensors").read_bytes() == before


def make_settings(**changes: Any) -> Finetune:
    settings: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 32, "epochs": 1, "warmup_steps": 0, "weight_decay": 0.0}
    settings |= {"max_grad_norm": 1.0, "precision": "auto", "log_every": 1, "accumulation": 2}
    return Finetune(**{**settings, **changes})


def test_memory_that_runs_out_names_what_to_change_and_keeps_the_batch() -> None:
    message = finetune.less_memory(make_settings())
    assert message.startswith("out of memory with 16 sentence(s) at a time. Set finetune.accumulation to 4: 8 at a time, and still 32 a step")
    assert "Lower tokenize.max_length" in finetune.less_memory(make_settings(accumulation=32))


# --- the recipe ---


PARAMS: dict[str, Any] = {
    "dataset": "toy", "selection": {"holdout": 0, "train": 0}, "tokenize": {"max_length": 128}, "tasks": {"toy": {"epochs": 2}},
    "overrides": {"tiny": {"epochs": 3}, "other": {}}, "finetune": make_settings().model_dump(),
}  # fmt: skip
PINS = {"dataset": {"train.tsv": "1"}, "model": {"model.safetensors": "2"}}


def test_an_override_goes_over_the_task_and_that_over_finetune() -> None:
    assert recipe.read_recipe("tiny", PARAMS).epochs == 3
    assert recipe.read_recipe("other", PARAMS).epochs == 2
    assert recipe.read_recipe("tiny", {**PARAMS, "overrides": {"tiny": {}}, "tasks": {"toy": {}}}).epochs == 1


def test_the_digest_follows_all_that_decides_a_run_and_nothing_else() -> None:
    def digest(model: str = "tiny", seed: int = 1, pins: dict[str, dict[str, str]] = PINS, **params: Any) -> str:
        return recipe.recipe_digest(recipe.run_recipe({**PARAMS, **params}, model, seed, pins))

    equal = {digest(), digest(overrides={"tiny": {"epochs": 3}}), digest(machine={"checkpoint_every": 1}),
             digest(tasks={"toy": {}, "sst2": {}}, finetune={**PARAMS["finetune"], "epochs": 2}, models=["tiny"])}  # fmt: skip
    assert len(equal) == 1 and re.fullmatch(r"[0-9a-f]{16}", *equal)
    others = {digest("other"), digest(seed=2), digest(pins={**PINS, "dataset": {"train.tsv": "3"}}), digest(tokenize={"max_length": 64}),
              digest(selection={"holdout": 9, "train": 0}), digest(finetune={**PARAMS["finetune"], "log_every": 2})}  # fmt: skip
    assert len(others - equal) == 6


CPU_FACTS = {"recipe": "a", "precision": "fp32", "gpu": None, "cpu": "Xeon", "threads": 2, "driver": None, "cuda": None,
             "packages": {"torch": "2", "transformers": "5", "dvclive": "3"}, "git_commit": "x"}  # fmt: skip
GPU_FACTS = {**CPU_FACTS, "gpu": "T4", "driver": "580", "cuda": "13.0"}


@pytest.mark.parametrize(
    ("facts", "change", "same"),
    [(CPU_FACTS, {"threads": 4}, False), (CPU_FACTS, {"cpu": "EPYC"}, False), (CPU_FACTS, {"git_commit": "y"}, True),
     (CPU_FACTS, {"precision": "bf16"}, False), (CPU_FACTS, {"recipe": "b"}, False), (GPU_FACTS, {"threads": 4}, True),
     (GPU_FACTS, {"driver": "590"}, False), (GPU_FACTS, {"cuda": "12.9"}, False), (GPU_FACTS, {"gpu": "H200"}, False)],
)  # fmt: skip
def test_a_checkpoint_belongs_to_what_changes_the_bits(facts: dict[str, Any], change: dict[str, Any], same: bool) -> None:
    key = recipe.checkpoint_key(facts, [])
    assert (recipe.checkpoint_key({**facts, **change}, []) == key) is same


# --- loading: every tensor is accounted for ---


@pytest.fixture
def pretrained(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny masked language model: an encoder `bert.` without pooler, a head `cls.`."""
    return Path(shutil.copytree(tiny_model, tmp_path / "pretrained"))


def load(folder: Path, labels: list[str] | None = None, seed: int = 1) -> Any:
    torch.manual_seed(seed)
    return load_pretrained(folder, folder, ["NEGATIVE", "POSITIVE"] if labels is None else labels)


def rename(old: str, new: str) -> Any:
    return lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()}


def test_new_and_dropped_heads_are_printed(pretrained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load(pretrained)
    assert capsys.readouterr().out == "new head of 2 output(s): bert.pooler, classifier; dropped from the checkpoint: cls\n"


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_weights_are_fp32_whatever_the_file_holds(pretrained: Path, kind: torch.dtype) -> None:
    edit_weights(pretrained / "model.safetensors", lambda old: {name: t.to(kind) for name, t in old.items()})
    edit_json(pretrained / "config.json", dtype=str(kind).removeprefix("torch."))
    model = load(pretrained)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.dtype == torch.float32


@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_of_a_fine_tuned_checkpoint_is_dropped(
    pretrained: Path, capsys: pytest.CaptureFixture[str], classes: int
) -> None:
    """Even where it would fit; and so are the labels and the kind of problem in its config."""
    clean = load(pretrained)
    clean.save_pretrained(pretrained)
    expected = load(pretrained)
    edit_weights(pretrained / "model.safetensors", lambda old: old | {
        "classifier.weight": torch.full((classes, 32), 9.0), "classifier.bias": torch.full((classes,), 9.0)})  # fmt: skip
    edit_json(pretrained / "config.json", id2label={str(i): f"old {i}" for i in range(classes)}, problem_type="multi_label_classification",
              label2id={f"old {i}": i for i in range(classes)})  # fmt: skip
    capsys.readouterr()
    model = load(pretrained)
    assert capsys.readouterr().out == "new head of 2 output(s): classifier; dropped from the checkpoint: classifier\n"
    assert torch.equal(model.classifier.weight, expected.classifier.weight)
    assert model.config.id2label == {0: "NEGATIVE", 1: "POSITIVE"} and model.config.label2id == {"NEGATIVE": 0, "POSITIVE": 1}
    assert model.config.problem_type == "single_label_classification"


def test_a_checkpoint_of_classes_becomes_one_of_numbers(pretrained: Path) -> None:
    edit_json(pretrained / "config.json", id2label={"0": "a", "1": "b", "2": "c"}, label2id={"a": 0, "b": 1, "c": 2})
    model = load(pretrained, labels=[])
    assert model.classifier.weight.shape == (1, 32) and model.config.num_labels == 1 and model.config.problem_type == "regression"


@pytest.mark.parametrize(
    "change",
    [rename("bert.", ""), lambda old: rename(".weight", ".gamma")(rename(".bias", ".beta")({k: v for k, v in old.items() if "LayerNorm" in k}))
     | {k: v for k, v in old.items() if "LayerNorm" not in k}, lambda old: old | {"bert.embeddings.position_ids": torch.arange(128)[None]}],
    ids=["without prefix", "gamma and beta", "position ids"],
)  # fmt: skip
def test_other_spellings_of_the_same_encoder_load_alike(pretrained: Path, change: Any) -> None:
    expected = load(pretrained).state_dict()
    edit_weights(pretrained / "model.safetensors", change)
    model = load(pretrained).state_dict()
    assert all(torch.equal(model[name], expected[name]) for name in expected)


def without(part: str) -> Any:
    return lambda old: {name: tensor for name, tensor in old.items() if part not in name}


@pytest.mark.parametrize(
    ("change", "says"),
    [(rename("bert.", "_orig_mod.bert."), r"lacks bert\.embeddings\.LayerNorm\.bias \(of 37\), instead has _orig_mod\.bert\.embeddings\.Layer"),
     (rename("bert.", "roberta."), r"lacks bert\.embeddings\.LayerNorm\.bias \(of 37\), instead has roberta\.embeddings\.LayerNorm\.bias\."),
     (without("layer.1."), r"lacks bert\.encoder\.layer\.1\..* \(of 16\)"),
     (lambda old: old | {"bert.encoder.layer.2.output.dense.bias": torch.zeros(32)}, r"has a useless bert\.encoder\.layer\.2\.output"),
     (lambda old: old | {"bert.embeddings.word_embeddings.weight": torch.zeros(5, 32)}, r"has a misshapen bert\.embeddings\.word_embeddings")],
    ids=["torch.compile", "RoBERTa", "a layer less", "a layer more", "another vocabulary"],
)  # fmt: skip
def test_an_encoder_that_does_not_fit_is_named(pretrained: Path, change: Any, says: str) -> None:
    edit_weights(pretrained / "model.safetensors", change)
    with pytest.raises(UserError, match=rf"does not fit the bert of .*config\.json: it {says}"):
        load(pretrained)


@pytest.mark.parametrize("damage", ["cut", "garbage", "missing"])
def test_a_damaged_file_is_one_message(pretrained: Path, damage: str) -> None:
    file = pretrained / "model.safetensors"
    data = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(data[:5000] if damage == "cut" else b"x" * 100)
    with pytest.raises(UserError, match=rf"^{pretrained} holds no model that can be read: .* Delete it and run `dvc checkout"):
        load(pretrained)


def test_a_fine_tuned_model_must_be_whole(finished: Repository, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.path / MODEL, tmp_path / "model"))
    model = load_finetuned(folder)
    assert not model.training and {p.dtype for p in model.parameters()} == {torch.float32}
    edit_weights(folder / "model.safetensors", without("classifier.bias"))
    with pytest.raises(UserError, match=r"only one of model.safetensors and config.json has classifier\.bias"):
        load_finetuned(folder)


# --- checkpoints ---


def state() -> dict[str, Tensor]:
    return {"model": torch.zeros(3)}


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (4, 8, 12, 100):
        checkpoints.save_checkpoint(tmp_path, step, state())
    assert checkpoints.steps(tmp_path) == [12, 100]
    assert checkpoints.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-100"


def test_cut_and_unmarked_checkpoints_are_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (4, 8):
        checkpoints.save_checkpoint(tmp_path, step, state())
    (tmp_path / "checkpoint-12").mkdir()
    torch.save(state(), tmp_path / "checkpoint-12" / checkpoints.STATE)  # killed before the marker
    (tmp_path / "checkpoint-8" / checkpoints.STATE).write_bytes(b"x")
    assert checkpoints.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert capsys.readouterr().out.count("passed over") == 2
    assert checkpoints.newest_checkpoint(tmp_path / "nothing") is None


def test_a_run_is_held_by_one_process_and_named(tmp_path: Path) -> None:
    with checkpoints.exclusive(tmp_path / "run"), pytest.raises(UserError, match=r"run is in use by process \d+"):
        with checkpoints.exclusive(tmp_path / "run"):
            pass


def test_a_file_system_without_locks_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(checkpoints.fcntl, "flock", flock)
    with pytest.raises(UserError, match=r"cannot be locked \(No locks available\)"), checkpoints.exclusive(tmp_path / "run"):
        pass
