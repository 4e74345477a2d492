"""On a CUDA GPU: recorded steps give the bits of eager ones, and a resumed run those of an undisturbed one.

Run as: pytest tests/test_gpu.py -m gpu        (a minute; no network, no data)
"""

import gc
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, DistilBertConfig, DistilBertForSequenceClassification

from conftest import Here
from reproduce.inputs.tokenized import Tokenized
from reproduce.params import Finetune
from reproduce.training import loop
from reproduce.training.batches import GPU_MULTIPLE, Batches
from reproduce.training.devices import deterministic
from reproduce.training.loop import Training, learning_rate, train
from reproduce.training.record import Recorder, RecordingFailedError, side_stream

pytestmark = pytest.mark.gpu

# 3 epochs of 8 batches: 7 of 32 sentences and one of 9; lengths 8, 16, 24, 32 come again and again.
SENTENCES = 7 * 32 + 9
RUN = ("--model", "tiny", "--seed", "1")


@pytest.fixture(autouse=True)
def same_bits() -> Iterator[None]:
    """As the stage trains: deterministic algorithms, without filling new memory."""
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    with deterministic() as broken:
        yield
    assert broken == []
    gc.collect()
    torch.cuda.empty_cache()


def make_split() -> Tokenized:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 33, (SENTENCES,), generator=generator).tolist()
    ids = [torch.randint(5, 500, (n,), generator=generator).tolist() for n in lengths]
    return Tokenized(ids, None, [sum(row) % 2 for row in ids], ["NEGATIVE", "POSITIVE"])


def make_training(precision: str, accumulation: int = 1, kind: str = "bert") -> Training:
    recipe = Finetune(learning_rate=1e-3, batch_size=32, epochs=3, warmup_steps=4, weight_decay=0.01, max_grad_norm=1.0,
                      precision="auto", log_every=5, accumulation=accumulation)  # fmt: skip
    torch.manual_seed(0)
    if kind == "bert":
        config: Any = BertConfig(vocab_size=500, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256,
                                 max_position_embeddings=64, attn_implementation="eager")  # fmt: skip
        model: Any = BertForSequenceClassification(config)
    else:
        config = DistilBertConfig(vocab_size=500, dim=128, n_layers=2, n_heads=2, hidden_dim=256, max_position_embeddings=64,
                                  attn_implementation="eager")  # fmt: skip
        model = DistilBertForSequenceClassification(config)
    device = torch.device("cuda")
    batches = Batches(make_split(), 32, 1, 0, device, GPU_MULTIPLE)
    training = Training(model.to(device), batches, recipe, precision)
    torch.manual_seed(1)
    return training


def bits(training: Training) -> dict[str, Tensor]:
    """Weights, moments, the curve and the state of the random numbers, all on the host."""
    state = training.state()
    flat = {name: tensor.cpu() for name, tensor in state["model"].items()}
    flat |= {f"{i} {name}": tensor.cpu() for i, moments in state["optimizer"].items() for name, tensor in moments.items()}
    points = torch.tensor([loss for _, loss in training.points], dtype=torch.float64)
    return flat | {"points": points, "random": state["random"], "random on the GPU": state["random_cuda"]}


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_recorded_steps_give_the_bits_of_eager_ones(precision: str, accumulation: int, kind: str) -> None:
    """Also of the incomplete batch of 9, which comes once an epoch: eager, recorded, replayed."""
    eager = make_training(precision, accumulation, kind)
    train(eager, Path(), math.inf, record=False)
    recorded = make_training(precision, accumulation, kind)
    train(recorded, Path(), math.inf, record=True)
    shapes = {(len(rows), n) for epoch in range(3) for rows, n in recorded.batches.epoch(epoch)}
    assert recorded.replayed == 24 - len(shapes) and any(n == 9 for n, _ in shapes)
    assert differing(bits(eager), bits(recorded)) == []
    assert eager.replayed == 0


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_resumed_run_gives_the_bits_of_an_undisturbed_one(tmp_path: Path, precision: str, accumulation: int) -> None:
    """Killed after every one of the 24 steps: before and after a shape was recorded."""
    whole = make_training(precision, accumulation)
    kept: dict[int, dict[str, Any]] = {}

    def keep(folder: Path, step: int, state: dict[str, Any]) -> None:
        torch.save(state, folder / f"{step}.pt")
        kept[step] = torch.load(folder / f"{step}.pt", weights_only=True, map_location="cpu")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", keep)
        train(whole, tmp_path, 0, record=True)
    assert list(kept) == list(range(1, 25))
    expected = bits(whole)
    for step in kept:
        resumed = make_training(precision, accumulation)
        torch.manual_seed(99)
        resumed.load(kept[step])
        train(resumed, tmp_path, math.inf, record=True)
        assert differing(bits(resumed), expected) == [], f"killed after step {step}"


def test_checkpoints_are_invisible(tmp_path: Path) -> None:
    """To save after every step changes nothing: no random number, no address that a recording knows."""
    without, with_them = make_training("bf16"), make_training("bf16")
    train(with_them, tmp_path, 0, record=True)
    torch.manual_seed(1)
    train(without, tmp_path, math.inf, record=True)
    assert differing(bits(without), bits(with_them)) == []


def test_fp16_skips_an_overflowing_step_in_a_replay_too() -> None:
    """A scale of 2^40 overflows; the scaler halves it, step by step, until gradients are finite."""
    eager, recorded = make_training("fp16"), make_training("fp16")
    for training, record in ((eager, False), (recorded, True)):
        training.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40)
        torch.manual_seed(1)
        train(training, Path(), math.inf, record=record)
    assert recorded.scaler.get_scale() == eager.scaler.get_scale() < 2.0**39
    assert differing(bits(eager), bits(recorded)) == []


def test_a_replay_notices_what_is_not_finite() -> None:
    training = make_training("bf16")
    run = Recorder(training.step)
    [(rows, length)] = list(training.batches.epoch(0))[:1]
    with side_stream(training.device):
        for step in range(4):
            training.rate.fill_(learning_rate(training.recipe, step, 24))
            if step == 3:
                with torch.no_grad():
                    training.model.classifier.bias.fill_(math.nan)
            run(rows, length)
    assert run.replayed == 3 and int(training.bad_step) == 4


def test_a_step_waits_for_nothing_once_recorded() -> None:
    training = make_training("bf16")
    run = Recorder(training.step)
    [(rows, length)] = list(training.batches.epoch(0))[:1]
    with side_stream(training.device):
        run(rows, length)
        run(rows, length)
        torch.cuda.set_sync_debug_mode("error")
        try:
            training.rate.fill_(1e-4)
            run(rows, length)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert run.replayed == 2


def test_a_model_that_looks_at_values_is_not_recorded() -> None:
    """In a process of its own: a broken recording may make a process unusable."""
    code = """
import sys, math
sys.path[:0] = ["tests", "."]
from pathlib import Path
from test_gpu import RecordingFailedError, make_training, train
training = make_training("fp32")
training.model.classifier.register_forward_hook(lambda module, inputs, output: output * (1 if output.sum().item() > 0 else 2))
try:
    train(training, Path(), math.inf, record=True)
except RecordingFailedError as error:
    print("FAILED", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "FAILED 32 x " in done.stdout and "captur" in done.stdout, done.stdout + done.stderr


def test_the_stage_goes_on_eagerly_where_recording_fails(here: Here) -> None:
    """The fresh process prints which step and why, and ends with the bytes of an undisturbed run."""
    place, command = here.path / "models/finetuned/tiny-1/model.safetensors", [sys.executable, "-m", "stages.finetune", *RUN]
    here.edit("params.yaml", lambda p: (p["finetune"].update(precision="auto", epochs=4), p["machine"].update(checkpoint_every=0)))
    expected = []
    for broken in (False, True):
        subprocess.run(["rm", "-rf", str(here.path / "checkpoints")], check=True)
        if broken:  # capture_begin fails in the first process; --eager does not come to it
            (here.path / "home-site").mkdir()
            (here.path / "home-site/sitecustomize.py").write_text(
                "import torch\ndef begin(self, *a, **k): raise RuntimeError('no capture here')\ntorch.cuda.CUDAGraph.capture_begin = begin\n"
            )
        env = {"PYTHONPATH": str(here.path / "home-site")} if broken else {}
        done = subprocess.run(command, cwd=here.path, env={**here.env, **env}, capture_output=True, text=True, check=True)
        expected.append(place.read_bytes())
        assert ("no capture here" in done.stdout) is broken
        assert (json.loads((here.path / "environment/tiny-1.json").read_text())["replayed_steps"] > 0) is not broken
    assert expected[0] == expected[1]


def test_the_memory_of_ten_shapes_is_little_more_than_that_of_one() -> None:
    """All recordings share one pool: what a shape more costs is its graph, not its activations."""
    training = make_training("bf16")
    run = Recorder(training.step)
    rows = torch.arange(32, device="cuda")

    def record(lengths: list[int]) -> int:
        with side_stream(training.device):
            for length in lengths:
                run(rows, length)
                run(rows, length)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    one = record([32])
    assert record(list(range(22, 32))) - one < 64 * 2**20


def test_the_name_of_the_gpu_is_recorded(here: Here) -> None:
    subprocess.run(["rm", "-rf", str(here.path / "checkpoints")], check=True)
    here.edit("params.yaml", lambda p: p["finetune"].update(precision="auto"))
    said = here.run(sys.executable, "-m", "stages.finetune", *RUN).stdout
    facts = here.json("environment/tiny-1.json")
    assert facts["device"] == "cuda" and facts["device_name"] == torch.cuda.get_device_name()
    assert f"24 steps ({facts['replayed_steps']} replayed)" in said and os.fspath(Path.home()) not in json.dumps(facts)
    assert issubclass(RecordingFailedError, Exception)
