"""The training loop on toy tensors: against transformers' Trainer, recorded, resumed, broken."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from reproduce.files import UserError
from reproduce.inputs.tokenized import Tokenized
from reproduce.params import Finetune
from reproduce.training import loop
from reproduce.training.batches import Batches, length_grouped_order
from reproduce.training.loop import Training, learning_rate, summed_loss, train
from reproduce.training.record import Recorder, RecordingFailedError

CPU = torch.device("cpu")


def make_recipe(**changes: Any) -> Finetune:
    settings: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 8, "epochs": 2, "warmup_steps": 3, "weight_decay": 0.01}
    settings |= {"max_grad_norm": 1.0, "precision": "fp32", "log_every": 5, "accumulation": 1}
    return Finetune(**{**settings, **changes})


def make_split(sentences: int = 61, classes: int = 3) -> Tokenized:
    """Random sentences of 3 to 20 tokens; numbers as labels where there are no classes."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 21, (sentences,), generator=generator).tolist()
    ids = [torch.randint(5, 50, (n,), generator=generator).tolist() for n in lengths]
    labels = [float(sum(row) % (classes or 5)) for row in ids]
    return Tokenized(ids, None, labels, [f"class {i}" for i in range(classes)])


def make_model(classes: int = 3, dropout: float = 0.1) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                        max_position_embeddings=32, num_labels=classes or 1, hidden_dropout_prob=dropout,
                        attention_probs_dropout_prob=dropout, attn_implementation="eager")  # fmt: skip
    return BertForSequenceClassification(config)


def make_training(recipe: Finetune, precision: str = "fp32", classes: int = 3, **model: Any) -> Training:
    batches = Batches(make_split(classes=classes), recipe.batch_size, 1, 0, CPU, multiple=4)
    training = Training(make_model(classes, **model), batches, recipe, precision)
    torch.manual_seed(1)
    return training


def weights(training: Training) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in training.model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class FakeGraph:
    """What a recording is on a GPU: it calls the step again, on the same rows' tensor."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.replay = call


class FakeRecorder(Recorder):
    def __init__(self, step: Callable[[Tensor, int], None]) -> None:
        super().__init__(step, FakeGraph)


# --- the same training as transformers' Trainer ---


def trainer_run(recipe: Finetune, training: Training, folder: Path) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and weights of the Trainer on the same batches; each of its batches is one of our pieces."""
    from transformers import Trainer, TrainingArguments

    split, model = make_split(), make_model(dropout=0.0)
    pieces = [rows[piece :: recipe.accumulation].tolist() for epoch in range(recipe.epochs)
              for rows, _ in training.batches.epoch(epoch) for piece in range(recipe.accumulation)]  # fmt: skip

    def collate(rows: list[int]) -> dict[str, Tensor]:
        longest = max(len(split.input_ids[i]) for i in rows)
        padded = [split.input_ids[i] + [0] * (longest - len(split.input_ids[i])) for i in rows]
        mask = [[1] * len(split.input_ids[i]) + [0] * (longest - len(split.input_ids[i])) for i in rows]
        return {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask),
                "labels": torch.tensor([int(split.labels[i]) for i in rows])}  # fmt: skip

    class Peer(Trainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(range(len(split.labels)), batch_sampler=pieces, collate_fn=collate)  # type: ignore[arg-type]

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any) -> Tensor:
        return torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch

    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=training.steps, learning_rate=recipe.learning_rate, warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay, max_grad_norm=recipe.max_grad_norm, gradient_accumulation_steps=recipe.accumulation,
        lr_scheduler_type="linear", optim="adamw_torch", logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    peer = Peer(model=model, args=arguments, compute_loss_func=loss)
    peer.train()
    losses = [entry["loss"] for entry in peer.state.log_history if "loss" in entry]
    return losses, model.state_dict()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_thirty_steps_are_those_of_the_trainer(
    tmp_path: Path, accumulation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(epochs=5, log_every=1, accumulation=accumulation, batch_size=10)
    split = make_split(sentences=60)
    monkeypatch.setitem(globals(), "make_split", lambda **_: split)
    training = make_training(recipe, dropout=0.0)
    assert training.steps == 30
    losses, expected = trainer_run(recipe, training, tmp_path)
    train(training, tmp_path, math.inf, record=False)
    assert [loss for _, loss in training.points] == pytest.approx(losses, abs=1e-6)
    assert max(float((weights(training)[name] - expected[name]).abs().max()) for name in expected) < 1e-6


def test_the_rate_is_that_of_transformers() -> None:
    from transformers import get_linear_schedule_with_warmup

    recipe = make_recipe(warmup_steps=4)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=recipe.learning_rate)
    schedule = get_linear_schedule_with_warmup(optimizer, 4, 20)
    for step in range(20):
        assert learning_rate(recipe, step, 20) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def test_numbers_as_labels_are_learned_by_squared_error() -> None:
    logits = torch.tensor([[1.0], [4.0]])
    assert float(summed_loss(logits, torch.tensor([2.0, 2.0]))) == 5.0
    training = make_training(make_recipe(epochs=20, learning_rate=1e-2), classes=0)
    train(training, Path(), math.inf, record=False)
    assert training.points[-1][1] < 0.6 * training.points[0][1]


def test_biases_and_norms_do_not_decay() -> None:
    groups = make_training(make_recipe(weight_decay=0.1)).optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert {p.ndim for p in groups[0]["params"]} == {2} and {p.ndim for p in groups[1]["params"]} == {1}


# --- batches ---


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


def test_batches_come_in_no_order_of_length() -> None:
    lengths = torch.randint(3, 60, (4000,), generator=torch.Generator().manual_seed(0))
    order = length_grouped_order(lengths, 8, 1, 0)
    means = torch.stack([batch.float().mean() for batch in lengths[order].split(8)])
    for other in (torch.arange(len(means)).float(), means.roll(1)):
        assert abs(torch.corrcoef(torch.stack([means, other]))[0, 1]) < 0.1


def test_a_batch_is_padded_to_its_longest_sentence_rounded_up() -> None:
    split = Tokenized([[5, 6, 7], [8], [9] * 6], [[0, 0, 1], [0], [1] * 6], [1, 0, 2], ["a", "b", "c"])
    batches = Batches(split, batch_size=2, seed=1, pad_id=49, device=CPU, multiple=4)
    inputs, labels = batches.gather(torch.tensor([1, 0]), 4)
    assert inputs["input_ids"].tolist() == [[8, 49, 49, 49], [5, 6, 7, 49]]
    assert inputs["attention_mask"].tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]
    assert inputs["token_type_ids"].tolist() == [[0, 0, 0, 0], [0, 0, 1, 0]]
    assert labels.tolist() == [0, 1] and {x.dtype for x in inputs.values()} == {torch.int64}
    # 6 tokens are not rounded up to 8: the model may have no more positions than the longest sentence.
    assert {length for _, length in batches.epoch(0)} <= {4, 6}


def test_a_resumed_epoch_skips_the_batches_that_were_done() -> None:
    batches = make_training(make_recipe()).batches
    whole = [(rows.tolist(), length) for rows, length in batches.epoch(1)]
    assert [(rows.tolist(), length) for rows, length in batches.epoch(1, skip=3)] == whole[3:]


def test_the_padding_share_counts_computed_tokens() -> None:
    split = Tokenized([[5, 5], [5] * 4], None, [0, 1], ["a", "b"])
    assert Batches(split, 2, 1, 0, CPU).padding_share() == pytest.approx(2 / 8)


# --- recorded steps; the recording itself is a GPU's: test_gpu.py ---


@pytest.mark.parametrize("accumulation", [1, 2])
def test_replayed_steps_are_eager_steps(monkeypatch: pytest.MonkeyPatch, accumulation: int) -> None:
    recipe = make_recipe(epochs=4, accumulation=accumulation)
    eager, recorded = make_training(recipe), make_training(recipe)
    train(eager, Path(), math.inf, record=False)
    torch.manual_seed(1)
    monkeypatch.setattr(loop, "Recorder", FakeRecorder)
    train(recorded, Path(), math.inf, record=True)
    # 61 sentences: 8 steps an epoch, the last of 5 sentences; lengths are 4, 8, ..., 20.
    shapes = {(len(rows), n) for epoch in range(4) for rows, n in eager.batches.epoch(epoch)}
    assert recorded.replayed == 32 - len(shapes) and len(shapes) > 3
    assert same(weights(eager), weights(recorded)) and eager.points == recorded.points


def test_the_first_step_of_a_shape_is_eager_the_second_is_recorded() -> None:
    seen: list[tuple[list[int], int]] = []
    captured: list[Callable[[], None]] = []

    def capture(call: Callable[[], None]) -> FakeGraph:
        captured.append(call)
        return FakeGraph(call)

    recorder = Recorder(lambda rows, length: seen.append((rows.tolist(), length)), capture)
    for rows, length in (([1, 2], 8), ([3, 4], 8), ([5, 6], 16), ([7], 8), ([8, 9], 8)):
        recorder(torch.tensor(rows), length)
    assert seen == [([1, 2], 8), ([3, 4], 8), ([5, 6], 16), ([7], 8), ([8, 9], 8)]
    assert len(captured) == 1 and recorder.replayed == 2


def test_a_failed_recording_names_the_shape_and_the_first_reason() -> None:
    def capture(call: Callable[[], None]) -> None:
        try:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")
        finally:
            raise RuntimeError("CUDA error: capture was invalidated")  # noqa: B012

    recorder = Recorder(lambda rows, length: None, capture)
    recorder(torch.tensor([1, 2]), 8)
    with pytest.raises(RecordingFailedError, match=r"^2 x 8 tokens: CUDA error: operation not permitted when stream is capturing$"):
        recorder(torch.tensor([3, 4]), 8)


def test_a_model_that_draws_on_the_host_is_not_recorded() -> None:
    """Layer dropout decides by torch.rand on the CPU: a replay would always take the same layers."""

    def capture(call: Callable[[], None]) -> FakeGraph:
        call()
        return FakeGraph(call)

    recorder = Recorder(lambda rows, length: torch.rand(1) and None, capture)
    recorder(torch.tensor([1]), 8)
    with pytest.raises(RecordingFailedError, match="draws random numbers on the host"):
        recorder(torch.tensor([1]), 8)


# --- resume ---


@pytest.mark.parametrize("stop", [1, 5, 8, 13])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path, precision: str, stop: int) -> None:
    """Through torch.save and weights_only; between points and epochs, and at them; dropout is on."""
    recipe = make_recipe()
    whole, first = make_training(recipe, precision), make_training(recipe, precision)
    torch.manual_seed(1)
    train(whole, tmp_path, math.inf, record=False)
    torch.manual_seed(1)
    rows = [(rows, n) for epoch in range(2) for rows, n in first.batches.epoch(epoch)]
    for row, length in rows[:stop]:
        first.rate.fill_(learning_rate(recipe, first.done, first.steps))
        first.step(row, length)
        first.done += 1
        if first.done % recipe.log_every == 0:
            first.log_point()
    loop.save_checkpoint(tmp_path, first.done, first.state())
    torch.manual_seed(99)
    second = make_training(recipe, precision)
    assert loop.resume(second, tmp_path) == stop
    train(second, tmp_path, math.inf, record=False)
    assert same(weights(whole), weights(second)) and whole.points == second.points


def test_a_checkpoint_with_other_names_is_refused(tmp_path: Path) -> None:
    training = make_training(make_recipe())
    state = copy.deepcopy(training.state())
    state["model"]["bert.embeddings.LayerNorm.gamma"] = state["model"].pop("bert.embeddings.LayerNorm.weight")
    with pytest.raises(RuntimeError, match=r"LayerNorm\.weight"):
        training.load(state)


# --- the curve ---


@pytest.mark.parametrize(("every", "steps"), [(5, [5, 10, 15, 16]), (8, [8, 16]), (100, [16])])
def test_the_last_window_is_logged_though_not_full(every: int, steps: list[int]) -> None:
    training, single = make_training(make_recipe(log_every=every)), make_training(make_recipe(log_every=1))
    train(training, Path(), math.inf, record=False)
    torch.manual_seed(1)
    train(single, Path(), math.inf, record=False)
    assert [step for step, _ in training.points] == steps
    losses = [loss for _, loss in single.points]
    begins = [0, *steps[:-1]]
    expected = [sum(losses[a:b]) / (b - a) for a, b in zip(begins, steps, strict=True)]
    assert [loss for _, loss in training.points] == pytest.approx(expected)


# --- what is not finite ---


def spoil(training: Training, at: int, what: str) -> None:
    """Make the loss, a gradient or a weight infinite in step `at` (from 1), and there only."""
    step = training.step

    def spoiled(rows: Tensor, length: int) -> None:
        if training.done + 1 != at:
            return step(rows, length)
        classifier = training.model.classifier
        if what == "loss":
            hook: Any = classifier.register_forward_hook(lambda module, inputs, output: output * float("inf"))
        elif what == "gradient":
            hook = classifier.weight.register_hook(lambda gradient: gradient * float("nan"))
        else:
            training.rate.fill_(3e38)
            hook = classifier.register_forward_hook(lambda *_: None)
        step(rows, length)
        return hook.remove()

    training.step = spoiled  # type: ignore[method-assign]


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("at", [1, 7, 16])
def test_a_loss_or_gradient_that_is_not_finite_is_named_with_its_step(what: str, at: int) -> None:
    training = make_training(make_recipe())
    spoil(training, at, what)
    with pytest.raises(UserError, match=rf"the loss or a gradient is not a finite number at step {at} \(learning rate 0\.001, fp32\)"):
        train(training, Path(), math.inf, record=False)


def test_a_weight_that_overflows_in_the_last_step_is_named() -> None:
    training = make_training(make_recipe())
    spoil(training, 16, "weight")
    with pytest.raises(UserError, match="a weight is not a finite number at step 16"):
        train(training, Path(), math.inf, record=False)


def test_a_broken_training_is_never_saved(tmp_path: Path) -> None:
    training = make_training(make_recipe(log_every=100))
    spoil(training, 7, "gradient")
    with pytest.raises(UserError):
        train(training, tmp_path, 0, record=False)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["checkpoint-5", "checkpoint-6"]


def test_fp16_may_skip_steps_but_not_for_ever() -> None:
    """The scaler begins at 65,536 = 2^16: sixteen halvings later nothing is left to halve."""
    training = make_training(make_recipe(epochs=3, log_every=100), "fp16")
    spoil(training, 4, "gradient")
    train(training, Path(), math.inf, record=False)
    assert training.scaler.get_scale() == 2.0**15
    for tensor in training.model.state_dict().values():
        assert tensor.isfinite().all()
    training = make_training(make_recipe(epochs=3, log_every=100), "fp16")
    training.model.classifier.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(UserError, match="gradient is not a finite number at step 17 "):
        train(training, Path(), math.inf, record=False)


def test_a_warmup_as_long_as_the_training_is_refused() -> None:
    with pytest.raises(UserError, match=r"finetune\.warmup_steps 16 is not less than the 16 steps"):
        make_training(make_recipe(warmup_steps=16))


def test_more_pieces_than_sentences_are_one_sentence_each() -> None:
    """The incomplete batch of 5 sentences is cut into 5 pieces, not 8."""
    one, many = make_training(make_recipe(), dropout=0.0), make_training(make_recipe(accumulation=8), dropout=0.0)
    train(one, Path(), math.inf, record=False)
    train(many, Path(), math.inf, record=False)
    assert [loss for _, loss in many.points] == pytest.approx([loss for _, loss in one.points], rel=1e-4)
