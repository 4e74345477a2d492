"""The training loop: AdamW, linear warm-up and decay, clipping, mixed precision, checkpoints.

`train` is the loop and `Training.step` what happens to a batch. A step changes nothing on the host
and never waits for the device, so that it can be recorded (record.py).
"""

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from reproduce.files import UserError
from reproduce.params import Finetune
from reproduce.training.batches import Batches
from reproduce.training.casts import Casts
from reproduce.training.checkpoints import STATE, newest_checkpoint, save_checkpoint
from reproduce.training.recipe import count_steps
from reproduce.training.record import Recorder, side_stream

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def learning_rate(recipe: Finetune, step: int, steps: int) -> float:
    """The rate of step `step` (from 0) of `steps`: in a line up from 0, then down to 0."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * step / recipe.warmup_steps
    return recipe.learning_rate * (steps - step) / (steps - recipe.warmup_steps)


def summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of classes (labels int64), squared error of numbers (float32), summed.

    Args:
        logits: float32, shape (n, classes); (n, 1) where labels are numbers.
    """
    if labels.dtype == torch.int64:
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    return torch.nn.functional.mse_loss(logits.squeeze(-1), labels, reduction="sum")


class Training:
    """A model in training, and all that a step changes. What a step changes stays on the device.

    Args:
        model: on the device, in fp32.
        precision: fp32, bf16 or fp16: that of the matrix products; weights and moments are fp32.

    Raises:
        UserError: the warm-up is longer than the training.
    """

    def __init__(
        self, model: "PreTrainedModel", batches: Batches, recipe: Finetune, precision: str
    ) -> None:
        self.model, self.batches, self.recipe = model.train(), batches, recipe
        self.precision, self.device = precision, batches.device
        self.steps = count_steps(len(batches.lengths), recipe)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.compute = Casts(self.model, AUTOCAST[precision])
        self.rate = torch.zeros((), device=self.device)
        decay = {True: recipe.weight_decay, False: 0.0}  # not of vectors: biases and norms
        groups = [
            {"params": [p for p in self.parameters if (p.ndim > 1) is matrix], "weight_decay": rate}
            for matrix, rate in decay.items()
        ]
        cuda = self.device.type == "cuda"
        # It warns of every step that is not recorded; a shape's first step never is.
        warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
        self.optimizer = torch.optim.AdamW(groups, lr=self.rate, fused=True, capturable=cuda)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.done = 0  # steps
        self.seconds, self.replayed = 0.0, 0  # spent so far; steps that were replayed
        self.points: list[tuple[int, float]] = []  # (step, mean loss since the point before)
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)  # since then
        self.number = torch.zeros((), dtype=torch.int64, device=self.device)  # `done`, over there
        self.bad_step = torch.zeros_like(self.number)  # the first that was not finite; 0: none

    def step(self, rows: Tensor, length: int) -> None:
        """Forward, backward, clipping and update for one batch, in `accumulation` pieces."""
        pieces = min(self.recipe.accumulation, len(rows))
        self.compute.refresh()
        total = torch.zeros((), device=self.device)
        for piece in range(pieces):
            inputs, labels = self.batches.gather(rows[piece::pieces], length)
            logits = self.compute(**inputs).logits
            loss = summed_loss(logits.float(), labels) / len(rows)
            self.scaler.scale(loss).backward()
            self.compute.add_gradients()
            total += loss.detach()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self.parameters if p.grad is not None]
        )
        # In fp16 gradients may overflow: the scaler skips the step and halves its scale. With
        # nothing left to halve (and without a scaler, scale 1) it is an error.
        scale = self.scaler.scale(torch.ones((), device=self.device))
        broken = ~total.isfinite() | (~norm.isfinite() & (scale <= 1))
        self.number += 1
        self.bad_step += self.number * (broken & (self.bad_step == 0))
        self.loss_sum += total
        # Clips by the formula of clip_grad_norm_, without a pass of its own: the fused AdamW
        # divides each gradient by this as it reads it.
        divisor = ((norm + 1e-6) / self.recipe.max_grad_norm).clamp(min=1)
        self.optimizer.grad_scale = divisor  # type: ignore[attr-defined]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()  # now, so that gradients only live within a step

    def log_point(self) -> float:
        """Add the mean loss since the last point to the curve, and return it."""
        self.check()
        last = self.points[-1][0] if self.points else 0
        mean = float(self.loss_sum) / (self.done - last)
        self.points.append((self.done, mean))
        self.loss_sum.zero_()
        return mean

    def check(self, weights: bool = False) -> None:
        """`UserError` if a loss, a gradient or (if asked for) a weight was not finite so far."""
        step, what = int(self.bad_step), "the loss or a gradient"
        if not step and weights:
            finite = torch.stack([p.detach().isfinite().all() for p in self.parameters]).all()
            step, what = (0 if finite else self.done), "a weight"
        if step:
            peak = self.recipe.learning_rate
            raise UserError(
                f"{what} is not a finite number at step {step} (learning rate {peak}, "
                f"{self.precision}): no output was changed. Use a smaller finetune.learning_rate, "
                "or precision fp32."
            )

    def state(self) -> dict[str, Any]:
        """All that `load` needs to go on with the same bits: tensors, numbers, strings, lists."""
        cuda = self.device.type == "cuda"
        return {
            "model": self.model.state_dict(),  # in the model's own names
            "optimizer": self.optimizer.state_dict()["state"],
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if cuda else None,
            "loss_sum": float(self.loss_sum),
            **{name: getattr(self, name) for name in ("done", "seconds", "replayed", "points")},
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.model.load_state_dict(state["model"], strict=True)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        for group in self.optimizer.param_groups:  # it copied the tensor
            group["lr"] = self.rate
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"])
        self.loss_sum.fill_(state["loss_sum"])
        self.number.fill_(state["done"])
        self.done, self.seconds, self.replayed = state["done"], state["seconds"], state["replayed"]
        self.points = list(state["points"])


def resume(training: Training, checkpoints: Path) -> int:
    """Load the newest checkpoint, if there is one; returns its step, or 0."""
    newest = newest_checkpoint(checkpoints)
    if newest is None:
        return 0
    print(f"going on from {newest.name}", flush=True)
    state = torch.load(newest / STATE, map_location="cpu", weights_only=True)
    training.load(state)
    return training.done


def train(training: Training, checkpoints: Path, checkpoint_every: float, record: bool) -> None:
    """Train to the last step, with a checkpoint at most every `checkpoint_every` seconds.

    Args:
        record: record steps and replay them (on a GPU only).

    Raises:
        UserError: a loss, a gradient or a weight is not finite.
        RecordingFailedError: go on in a fresh process, without recording.
    """
    batches, every = training.batches, training.recipe.log_every
    begin = saved = time.monotonic()
    spent, replayed = training.seconds, training.replayed
    run = Recorder(training.step) if record else training.step
    first_epoch, skip = divmod(training.done, len(batches))
    with (
        side_stream(training.device),
        tqdm(None, "finetune", training.steps, initial=training.done, unit="step") as bar,
    ):
        for epoch in range(first_epoch, training.recipe.epochs):
            for rows, length in batches.epoch(epoch, skip if epoch == first_epoch else 0):
                training.rate.fill_(learning_rate(training.recipe, training.done, training.steps))
                run(rows, length)
                training.done += 1
                if training.done % every == 0 or training.done == training.steps:
                    bar.set_postfix_str(f"loss {training.log_point():.4f}", refresh=False)
                bar.update()
                now = time.monotonic()
                training.seconds = spent + now - begin
                if isinstance(run, Recorder):
                    training.replayed = replayed + run.replayed
                if now - saved >= checkpoint_every:
                    training.check(weights=True)
                    save_checkpoint(checkpoints, training.done, training.state())
                    saved = time.monotonic()
        training.check(weights=True)  # waits for the last step
        training.seconds = spent + time.monotonic() - begin
