"""On a CUDA GPU: recorded steps give the bits of eager ones, also when a run is killed and resumed.

Run as: make test-gpu        (no network, no data)
"""

import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification

from conftest import Here
from reproduce.training import checkpoints, loop
from reproduce.training.batches import GPU_MULTIPLE, Batches
from reproduce.training.devices import deterministic
from reproduce.training.loop import Training, train
from reproduce.training.record import Recorder, side_stream
from test_casts import check
from test_loop import make_recipe, make_split

pytestmark = pytest.mark.gpu

SIZES: dict[str, dict[str, int]] = {
    "bert": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
    "distilbert": {"dim": 128, "n_layers": 2, "n_heads": 2, "hidden_dim": 256},
}


@pytest.fixture(autouse=True)
def same_bits() -> Iterator[None]:
    """As the stage trains; and no operation may be without a deterministic form."""
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    with deterministic() as broken:
        yield
    assert broken == []


def make_training(precision: str, accumulation: int = 1, kind: str = "bert") -> Training:
    """3 epochs of 7 batches of 32 sentences and one of 9; lengths of 8, 16, 24 and 32 tokens."""
    recipe = make_recipe(batch_size=32, epochs=3, warmup_steps=4, accumulation=accumulation)
    torch.manual_seed(0)
    options = SIZES[kind] | {"vocab_size": 500, "max_position_embeddings": 64}
    config = AutoConfig.for_model(kind, **options, attn_implementation="eager")
    model = AutoModelForSequenceClassification.from_config(config).to("cuda")
    split = make_split(7 * 32 + 9, longest=32, vocabulary=500, names=("NEGATIVE", "POSITIVE"))
    batches = Batches(split, 32, 1, 0, torch.device("cuda"), GPU_MULTIPLE)
    training = Training(model, batches, recipe, precision)
    torch.manual_seed(1)
    return training


def finish(training: Training, record: bool) -> Training:
    train(training, Path(), math.inf, record)
    return training


def bits(training: Training) -> dict[str, Tensor]:
    """Weights, moments, the curve and the states of the random numbers."""
    state = training.state()
    moments = {f"{i} {n}": t for i, all_of in state["optimizer"].items() for n, t in all_of.items()}
    losses = torch.tensor([loss for _, loss in training.points], dtype=torch.float64)
    random = {"random": state["random"], "random on the GPU": state["random_cuda"]}
    return {name: t.cpu() for name, t in (state["model"] | moments | random).items()} | {"": losses}


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["bert", "albert", "gpt2", "odd"])
def test_weights_cast_at_once_give_the_bits_of_autocast(kind: str, dtype: torch.dtype) -> None:
    check(kind, dtype, "cuda")


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_recorded_is_eager(precision: str, accumulation: int, kind: str) -> None:
    """Also the incomplete batch of 9, once an epoch: eager, then recorded, then replayed."""
    eager = bits(finish(make_training(precision, accumulation, kind), record=False))
    recorded = finish(make_training(precision, accumulation, kind), record=True)
    shapes = {(len(rows), n) for epoch in range(3) for rows, n in recorded.batches.epoch(epoch)}
    assert recorded.replayed == 24 - len(shapes) and min(shapes)[0] == 9
    assert differing(eager, bits(recorded)) == []


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_resumed_is_undisturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, accumulation: int
) -> None:
    """Killed after each of the 24 steps: before and after a shape was recorded."""
    monkeypatch.setattr(checkpoints, "steps", lambda folder: [])  # keep all
    whole = make_training(precision, accumulation)
    train(whole, tmp_path, 0, record=True)
    monkeypatch.undo()
    expected = bits(whole)
    for step in range(24, 0, -1):
        resumed = make_training(precision, accumulation)
        assert loop.resume(resumed, tmp_path) == step
        assert differing(bits(finish(resumed, record=True)), expected) == [], f"after step {step}"
        shutil.rmtree(tmp_path / f"checkpoint-{step}")


def test_fp16_skips_an_overflowing_step_in_a_replay_too() -> None:
    """A scale of 2^40 overflows; the scaler halves it until gradients are finite."""
    eager, recorded = make_training("fp16"), make_training("fp16")
    for training in (eager, recorded):
        training.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40)
        torch.manual_seed(1)
        finish(training, record=training is recorded)
    assert recorded.scaler.get_scale() == eager.scaler.get_scale() < 2.0**39
    assert differing(bits(eager), bits(recorded)) == []


def test_a_replay_waits_for_nothing_and_notices_what_is_not_finite() -> None:
    training = make_training("bf16")
    run = Recorder(training.step)
    rows, length = next(training.batches.epoch(0))
    with side_stream(training.device):
        run(rows, length)
        run(rows, length)
        torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.no_grad():
                training.model.classifier.bias.fill_(math.nan)
            training.rate.fill_(1e-4)
            run(rows, length)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert run.replayed == 2 and int(training.bad_step) == 3


def test_ten_shapes_take_little_more_memory_than_one() -> None:
    """All recordings share one pool: a shape more costs its graph, not its activations."""
    training = make_training("bf16")
    run, rows, reserved = Recorder(training.step), torch.arange(32, device="cuda"), []
    with side_stream(training.device):
        for length in (32, *range(22, 32)):
            run(rows, length)
            run(rows, length)
            torch.cuda.empty_cache()
            reserved.append(torch.cuda.memory_reserved())
    assert reserved[-1] - reserved[0] < 64 * 2**20


@pytest.mark.slow
def test_the_stage_goes_on_eagerly_where_recording_fails(here: Here, tmp_path: Path) -> None:
    """A loss that is looked at on the host cannot be recorded: a fresh process, the same bytes."""
    (tmp_path / "sitecustomize.py").write_text(
        "import torch.nn.functional as f\n"
        "real = f.cross_entropy\n"
        "f.cross_entropy = lambda *a, **k: (loss := real(*a, **k), loss.item())[0]\n"
    )
    here.edit("params.yaml", lambda p: p["finetune"].update(precision="auto"))
    command = (sys.executable, "-m", "stages.finetune", "--model", "tiny", "--seed", "1")
    results = []
    fails: dict[str, Any] = {"PYTHONPATH": str(tmp_path)}
    for env in ({}, fails):
        shutil.rmtree(here.path / "checkpoints", ignore_errors=True)
        said = here.run(*command, **env).stdout
        facts = here.json("environment/tiny-1.json")
        assert f"24 steps ({facts['replayed_steps']} replayed)" in said
        assert facts["device"] == "cuda"
        assert ("captur" in said and "Starting again without recording" in said) is bool(env)
        assert (facts["replayed_steps"] == 0) is bool(env)
        results.append((here.path / "models/finetuned/tiny-1/model.safetensors").read_bytes())
    assert results[0] == results[1]
