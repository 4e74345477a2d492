"""The training loop on toy tensors: against transformers' Trainer, recorded, resumed, broken."""

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForSequenceClassification

from reproduce.files import UserError
from reproduce.inputs.tokenized import Tokenized
from reproduce.params import Finetune
from reproduce.training import checkpoints, loop
from reproduce.training.batches import Batches, length_grouped_order
from reproduce.training.loop import Training, summed_loss, train
from reproduce.training.record import Recorder, RecordingFailedError

CPU = torch.device("cpu")


def make_recipe(**changes: Any) -> Finetune:
    settings: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 8, "epochs": 2}
    settings |= {"warmup_steps": 3, "weight_decay": 0.01, "max_grad_norm": 0.2}
    settings |= {"precision": "fp32", "log_every": 5, "accumulation": 1}
    return Finetune(**settings | changes)


def make_split(
    sentences: int, longest: int = 20, vocabulary: int = 50, names: Sequence[str] = ("A", "B", "C")
) -> Tokenized:
    """Random sentences of 3 to `longest` tokens."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, longest + 1, (sentences,), generator=generator).tolist()
    ids = [torch.randint(5, vocabulary, (n,), generator=generator).tolist() for n in lengths]
    return Tokenized(ids, None, [sum(row) % len(names) for row in ids], list(names))


def make_model(dropout: float = 0.1) -> BertForSequenceClassification:
    torch.manual_seed(0)
    options: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2}
    options |= {"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 32}
    options |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    options |= {"num_labels": 3, "attn_implementation": "eager"}
    return BertForSequenceClassification(BertConfig(**options))


def make_training(
    recipe: Finetune, precision: str = "fp32", sentences: int = 61, dropout: float = 0.1
) -> Training:
    batches = Batches(make_split(sentences), recipe.batch_size, 1, 0, CPU, multiple=4)
    training = Training(make_model(dropout), batches, recipe, precision)
    torch.manual_seed(1)
    return training


def finish(training: Training, folder: Path = Path(), **options: Any) -> Training:
    torch.manual_seed(1)
    train(training, folder, math.inf, **{"record": False, **options})
    return training


def losses(training: Training) -> list[float]:
    return [loss for _, loss in training.points]


def same(one: Training, other: Training) -> bool:
    """Whether weights and curves are equal, bit for bit."""
    first, second = one.model.state_dict(), other.model.state_dict()
    return one.points == other.points and all(torch.equal(first[n], second[n]) for n in first)


class FakeGraph:
    """What a recording is on a GPU: it calls the step again, on the same tensor of rows."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.replay = call


# --- the same training as transformers' Trainer ---


def trainer_run(training: Training, folder: Path) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and weights of the Trainer; each of its batches is one of our pieces."""
    from transformers import Trainer, TrainingArguments

    recipe, batches, model = training.recipe, training.batches, make_model(dropout=0.0)
    n = recipe.accumulation
    steps = [step for epoch in range(recipe.epochs) for step in batches.epoch(epoch)]
    pieces = [(rows[piece::n], length) for rows, length in steps for piece in range(n)]

    class Peer(Trainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            gathered = [batches.gather(*piece) for piece in pieces]
            return [{"inputs": inputs, "labels": labels} for inputs, labels in gathered]

        def compute_loss(self, model: Any, inputs: Any, *_: Any, **more: Any) -> Tensor:
            logits = model(**inputs["inputs"]).logits
            total = cross_entropy(logits, inputs["labels"], reduction="sum")
            return total / more["num_items_in_batch"]  # type: ignore[no-any-return]

    names = ("learning_rate", "warmup_steps", "weight_decay", "max_grad_norm")
    options: dict[str, Any] = {name: getattr(recipe, name) for name in names}
    options |= {"output_dir": str(folder), "report_to": [], "use_cpu": True, "disable_tqdm": True}
    options |= {"logging_steps": 1, "save_strategy": "no", "max_steps": training.steps}
    options |= {"gradient_accumulation_steps": n}
    peer = Peer(model=model, args=TrainingArguments(**options))
    peer.train()
    points = [entry["loss"] for entry in peer.state.log_history if "loss" in entry]
    return points, model.state_dict()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_thirty_steps_are_those_of_the_trainer(tmp_path: Path, accumulation: int) -> None:
    recipe = make_recipe(epochs=5, log_every=1, accumulation=accumulation, batch_size=10)
    training = make_training(recipe, sentences=60, dropout=0.0)
    expected_losses, expected = trainer_run(training, tmp_path)
    assert len(expected_losses) == 30
    assert losses(finish(training)) == pytest.approx(expected_losses, abs=1e-6)
    ours = training.model.state_dict()
    assert max(float((ours[name] - expected[name]).abs().max()) for name in expected) < 1e-6


def test_a_batch_is_cut_into_no_more_pieces_than_it_has_sentences() -> None:
    """Losses stay the same; the incomplete batch of 5 is cut into 5 pieces, not 8."""
    whole, cut = (make_training(make_recipe(accumulation=n), dropout=0.0) for n in (1, 8))
    assert losses(finish(cut)) == pytest.approx(losses(finish(whole)), rel=1e-4)


def test_numbers_are_learned_by_squared_error() -> None:
    assert float(summed_loss(torch.tensor([[1.0], [4.0]]), torch.tensor([2.0, 2.0]))) == 5.0


def test_every_epoch_is_a_new_permutation_with_an_incomplete_batch_last() -> None:
    lengths = torch.randint(3, 60, (1001,), generator=torch.Generator().manual_seed(0))
    first = length_grouped_order(lengths, 8, seed=1, epoch=0)
    assert torch.equal(first, length_grouped_order(lengths, 8, seed=1, epoch=0))
    for seed, epoch in ((1, 1), (2, 0)):
        other = length_grouped_order(lengths, 8, seed=seed, epoch=epoch)
        assert sorted(other.tolist()) == list(range(1001)) and not torch.equal(other, first)
    # 1001 = 125 batches of 8, near in length, and one sentence at the end.
    spread = [int(batch.max() - batch.min()) for batch in lengths[first].split(8)]
    assert len(spread) == 126 and sorted(spread)[63] <= 3


def test_a_batch_is_padded_to_its_longest_sentence_rounded_up() -> None:
    types = [[0, 0, 1], [0], [1] * 6]
    split = Tokenized([[5, 6, 7], [8], [9] * 6], types, [1, 0, 2], ["A", "B", "C"])
    batches = Batches(split, batch_size=2, seed=1, pad_id=49, device=CPU, multiple=4)
    inputs, labels = batches.gather(torch.tensor([1, 0]), 4)
    assert inputs["input_ids"].tolist() == [[8, 49, 49, 49], [5, 6, 7, 49]]
    assert inputs["attention_mask"].tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]
    assert inputs["token_type_ids"].tolist() == [[0, 0, 0, 0], [0, 0, 1, 0]]
    assert labels.tolist() == [0, 1] and {x.dtype for x in inputs.values()} == {torch.int64}
    # 6 is not rounded up to 8: the model may have no more positions than the longest sentence.
    assert {length for _, length in batches.epoch(0)} <= {4, 6}
    # Of the computed tokens 2 of 8 are padding.
    split = Tokenized([[5, 5], [5] * 4], None, [0, 1], ["A", "B"])
    assert Batches(split, 2, 1, 0, CPU).padding_share() == pytest.approx(2 / 8)


# --- recorded steps; the recording itself is a GPU's: test_gpu.py ---


@pytest.mark.parametrize("accumulation", [1, 2])
def test_replayed_steps_are_eager_steps(monkeypatch: pytest.MonkeyPatch, accumulation: int) -> None:
    monkeypatch.setattr("reproduce.training.record.cuda_capture", lambda: FakeGraph)
    eager, recorded = (make_training(make_recipe(accumulation=accumulation)) for _ in range(2))
    assert same(finish(eager), finish(recorded, record=True))
    shapes = {(len(rows), n) for epoch in range(2) for rows, n in eager.batches.epoch(epoch)}
    assert recorded.replayed == 16 - len(shapes) > 3


def test_a_failed_recording_names_the_shape_and_the_first_reason() -> None:
    def capture(call: Callable[[], None]) -> None:
        error = RuntimeError("capture was invalidated")
        error.__context__ = RuntimeError("not permitted when stream is capturing\nmore")
        raise error

    recorder = Recorder(lambda rows, length: None, capture)
    recorder(torch.tensor([1, 2]), 8)
    says = "^2 x 8 tokens: not permitted when stream is capturing$"
    with pytest.raises(RecordingFailedError, match=says):
        recorder(torch.tensor([3, 4]), 8)


def test_a_model_that_draws_on_the_host_is_not_recorded() -> None:
    """Layer dropout decides by torch.rand on the CPU: a replay would always skip the same."""

    def capture(call: Callable[[], None]) -> FakeGraph:
        call()
        return FakeGraph(call)

    recorder = Recorder(lambda rows, length: print(torch.rand(1)), capture)
    recorder(torch.tensor([1]), 8)
    with pytest.raises(RecordingFailedError, match="draws random numbers on the host"):
        recorder(torch.tensor([1]), 8)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_resumed_training_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Through a file, from each step; dropout is on."""
    monkeypatch.setattr(checkpoints, "steps", lambda folder: [])  # keep all
    whole = make_training(make_recipe(), precision)
    train(whole, tmp_path, 0, record=False)
    monkeypatch.undo()
    for step in range(16, 0, -1):
        resumed = make_training(make_recipe(), precision)
        assert loop.resume(resumed, tmp_path) == step
        train(resumed, tmp_path, math.inf, record=False)
        assert same(whole, resumed), f"from step {step}"
        assert whole.scaler.state_dict() == resumed.scaler.state_dict()
        shutil.rmtree(tmp_path / f"checkpoint-{step}")


def test_the_last_window_is_logged_though_not_full() -> None:
    windows = finish(make_training(make_recipe(log_every=5)))
    each = losses(finish(make_training(make_recipe(log_every=1))))
    means = [sum(each[a:b]) / (b - a) for a, b in ((0, 5), (5, 10), (10, 15), (15, 16))]
    assert [step for step, _ in windows.points] == [5, 10, 15, 16]
    assert losses(windows) == pytest.approx(means)


# --- what is not finite ---


def spoil(training: Training, at: int, what: str) -> Training:
    """Make the loss, a gradient or the weights infinite in step `at` (from 1), and there only."""

    def spoiled(module: Any, inputs: Any, logits: Tensor) -> Tensor:
        if training.done + 1 == at and what == "gradient":
            logits.register_hook(lambda gradient: gradient * math.nan)
        elif training.done + 1 == at and what == "weight":
            training.rate.fill_(3e38)
        return logits * (math.inf if training.done + 1 == at and what == "loss" else 1)

    training.model.classifier.register_forward_hook(spoiled)
    return training


SPOILED = [*((what, at) for what in ("loss", "gradient") for at in (1, 7, 16)), ("weight", 16)]


@pytest.mark.parametrize(("what", "at"), SPOILED)
def test_what_is_not_finite_is_named(what: str, at: int) -> None:
    says = rf"{what} is not a finite number at step {at} \(learning rate 0\.001, fp32\)"
    with pytest.raises(UserError, match=says.replace("loss", "the loss or a gradient")):
        finish(spoil(make_training(make_recipe()), at, what))


def test_a_broken_training_is_never_saved(tmp_path: Path) -> None:
    training = spoil(make_training(make_recipe(log_every=100)), 7, "gradient")
    with pytest.raises(UserError):
        train(training, tmp_path, 0, record=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-5", "checkpoint-6"]


def test_fp16_may_skip_a_step_but_not_all() -> None:
    """The scaler begins at 2^16: sixteen halvings later nothing is left to halve."""
    training = finish(spoil(make_training(make_recipe(), "fp16"), 4, "gradient"))
    assert training.scaler.get_scale() == 2.0**15
    assert all(tensor.isfinite().all() for tensor in training.model.state_dict().values())
    training = make_training(make_recipe(epochs=3), "fp16")
    norm = training.model.bert.embeddings.LayerNorm
    norm.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(UserError, match="gradient is not a finite number at step 17 "):
        finish(training)


def test_a_warmup_as_long_as_the_training_is_refused() -> None:
    with pytest.raises(UserError, match=r"warmup_steps 16 .* is not less than the 16 steps"):
        make_training(make_recipe(warmup_steps=16))
