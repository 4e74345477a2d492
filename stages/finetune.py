"""Fine-tune one pretrained model with one seed on the tokenised train split; the last epoch is the result.

Run as: python -m stages.finetune --model distilbert --seed 1

Killed? Run it again: it goes on from its last complete checkpoint and ends with the same bytes.
"""

import argparse
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from reproduce import batches
from reproduce.batches import collate, length_grouped_order, padding_share
from reproduce.checkpoints import check_disk, exclusive, mark_complete, newest_checkpoint
from reproduce.environment import describe
from reproduce.params import PARAMS, Section, read_section, read_yaml, validate
from reproduce.stage import UserError, go_offline, output_directory, run_stage, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Precision = Literal["fp32", "bf16", "fp16"]


class Finetune(Section):
    """Section `finetune` of params.yaml; a model may override any key in `overrides`."""

    learning_rate: Annotated[float, Field(gt=0, lt=1)]  # peak, after warm-up
    batch_size: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]
    warmup_steps: Annotated[int, Field(ge=0)]  # linear from 0; then linear decay to 0 at the last step
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    log_every: Annotated[int, Field(ge=1)]  # steps between two points of the training curve


class Checkpoints(Section):
    """Section `checkpoints` of params.yaml: how much a crash can cost. Never changes a result."""

    every: Annotated[int, Field(ge=1)]  # steps


def main() -> None:
    """Write models/finetuned/MODEL-SEED/, plots/curves/MODEL-SEED/ and environment/MODEL-SEED.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a name from catalog.yaml")
    parser.add_argument("--seed", required=True, type=int, help="seed of the head's weights, the order of batches, dropout")
    arguments = parser.parse_args()
    model, seed = arguments.model, arguments.seed
    params = read_finetune(model)
    every = read_section("checkpoints", Checkpoints).every
    tokenizer_dir, weights_dir = Path("models/tokenizers") / model, Path("models/weights") / model
    data = Path("data/tokenized") / model / "train.parquet"
    inputs = {
        "tokenize": data,
        "download_weights": weights_dir / "model.safetensors",
        "download_tokenizer": tokenizer_dir / "config.json",
    }
    for producer, path in inputs.items():
        if not path.is_file():
            raise UserError(f"{path} is missing. Run `dvc repro {producer}@{model}`, which makes it.")
    go_offline()
    # One GPU a run: given several, the Trainer would split over all of them and multiply the batch size.
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    device, precision, reason = choose_precision(params.precision)
    print(f"finetune {model}, seed {seed}: {precision} on {device}, because {reason}", flush=True)

    run = f"{model}-{seed}"
    key = identity(params, seed, precision, list(inputs.values()))
    checkpoints = Path(os.environ.get("DVC_ROOT", ".")) / "checkpoints" / f"{run}-{key[:12]}"
    model_dir, curve_dir = Path("models/finetuned") / run, Path("plots/curves") / run
    with exclusive(checkpoints):
        with output_directory(curve_dir) as curve_out, output_directory(model_dir) as model_out:
            outcome = train(params, seed, precision, data, tokenizer_dir, weights_dir, model_out, curve_out, checkpoints, every)
            for file in tokenizer_dir.iterdir():
                if file.name != "config.json":  # the fine-tuned model has its own
                    shutil.copyfile(file, model_out / file.name)
        shutil.rmtree(checkpoints)
    facts = {"precision": precision, "precision_reason": reason, "device": device, **outcome, **describe()}
    write_json(Path("environment") / f"{run}.json", facts)
    resumed = f" (resumed at step {outcome['resumed_at_step']})" if outcome["resumed_at_step"] else ""
    print(f"{model_dir}: {outcome['steps']:,} steps in {outcome['seconds'] / 60:.1f} min{resumed}, "
          f"last loss {outcome['last_loss']:.4f}, {outcome['padding'] * 100:.1f} % of the tokens were padding")  # fmt: skip


def read_finetune(model: str, path: Path = PARAMS) -> Finetune:
    """Section `finetune` with the overrides of `model` laid over it."""
    overrides = read_yaml(path).get("overrides")
    if not isinstance(overrides, dict) or not isinstance(overrides.get(model), dict):
        raise UserError(
            f"{path}: overrides.{model} is missing. Add `{model}: {{}}` under overrides if there is nothing to override."
        )
    base = read_yaml(path).get("finetune")
    if not isinstance(base, dict):
        raise UserError(f"{path}: section finetune is missing. Add it; the default file is in git.")
    validate(Finetune, base, f"{path}: finetune")
    if unknown := sorted(set(overrides[model]) - set(Finetune.model_fields)):
        known = ", ".join(sorted(Finetune.model_fields))
        raise UserError(f"{path}: overrides.{model}.{unknown[0]}: unknown key. Known here: {known}.")
    return validate(Finetune, {**base, **overrides[model]}, f"{path}: finetune with overrides.{model}")


def choose_precision(wanted: str) -> tuple[str, Precision, str]:
    """Device, precision and the reason in words. `auto` takes bf16 or fp16 where the hardware computes in it.

    A processor that only emulates bf16 is slower with it than with fp32 (measured: about half the speed on AVX-512
    without its BF16 extension), so `auto` asks for native support.
    """
    import torch

    if torch.cuda.is_available():
        capability = torch.cuda.get_device_capability()
        native: Precision = "bf16" if capability >= (8, 0) else "fp16"
        why = f"{torch.cuda.get_device_name()} has compute capability {capability[0]}.{capability[1]} (bf16 from 8.0)"
        device = "cuda"
    else:
        can = torch.cpu.get_capabilities()
        has_bf16 = any(can.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
        native, device = "bf16" if has_bf16 else "fp32", "cpu"
        owns = "native bf16" if has_bf16 else "no native bf16"
        why = f"there is no CUDA GPU, and this processor has {owns} (AVX512-BF16, AMX or Arm BF16)"
    if wanted == "auto":
        return device, native, why
    if wanted == "fp16" and device == "cpu":
        raise UserError("params.yaml: finetune.precision fp16 needs a CUDA GPU, and there is none. Use auto, fp32 or bf16.")
    return device, wanted, "params.yaml asks for it"  # type: ignore[return-value]


def identity(params: Finetune, seed: int, precision: str, inputs: Sequence[Path]) -> str:
    """A digest of all that decides the bytes of the result: a checkpoint is only ever resumed by an equal run."""
    import torch
    import transformers

    digests = {}
    for path in [*inputs, Path(__file__), Path(batches.__file__)]:
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    software = [torch.__version__, transformers.__version__, torch.get_num_threads()]
    facts = [params.model_dump(), seed, precision, digests, software]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def load_pretrained(weights_dir: Path, tokenizer_dir: Path, label_names: Sequence[str], **extra: Any) -> "PreTrainedModel":
    """The pretrained encoder with a new classification head (drawn from torch's generator), safetensors only."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    names = dict(enumerate(label_names))
    config = AutoConfig.from_pretrained(
        str(tokenizer_dir), local_files_only=True, id2label=names, label2id={name: i for i, name in names.items()}
    )
    return AutoModelForSequenceClassification.from_pretrained(  # type: ignore[no-any-return]
        str(weights_dir), config=config, local_files_only=True, use_safetensors=True, **extra
    )


def train(
    params: Finetune, seed: int, precision: Precision, data: Path, tokenizer_dir: Path, weights_dir: Path,
    model_out: Path, curve_out: Path, checkpoints: Path, checkpoint_every: int,
) -> dict[str, Any]:  # fmt: skip
    """Train, save the model to `model_out` and the curve to `curve_out`; go on from `checkpoints` if there is one.

    Args:
        data: Parquet file with `input_ids` (lists of int32) and `label` (a ClassLabel feature).
        checkpoint_every: steps; rounded up to a multiple of `params.log_every`, so that no half-filled logging
            window is lost on resume.

    Returns:
        What is worth recording but must not be hashed: steps, seconds, losses, padding, peak memory.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # deterministic matrix products; read when CUDA starts
    import resource

    import pyarrow.parquet
    import torch
    from datasets import Features
    from transformers import ProgressCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
    from transformers.utils import logging

    logging.set_verbosity_error()  # "newly initialized: classifier" is what fine-tuning is
    table = pyarrow.parquet.read_table(data)
    label_names = Features.from_arrow_schema(table.schema)["label"].names
    examples = [
        {"input_ids": torch.tensor(ids), "labels": label}
        for ids, label in zip(table["input_ids"].to_numpy(), table["label"].to_pylist(), strict=True)
    ]
    lengths = torch.tensor([len(example["input_ids"]) for example in examples])
    cuda = torch.cuda.is_available()
    steps = math.ceil(len(examples) / params.batch_size) * params.epochs
    if params.warmup_steps >= steps:
        raise UserError(
            f"params.yaml: finetune.warmup_steps {params.warmup_steps} is not less than the {steps} steps of the whole training "
            f"({len(examples)} sentences, batch size {params.batch_size}, {params.epochs} epochs). Use fewer."
        )

    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    set_seed(seed)
    # On CUDA the fused attention kernels have no deterministic backward pass; for 13 tokens the plain one is as fast.
    attention = {"attn_implementation": "eager"} if cuda else {}
    model = load_pretrained(weights_dir, tokenizer_dir, label_names, **attention)
    check_disk(model, checkpoints, model_out)
    pad_id = model.config.pad_token_id or 0

    class Sampler(torch.utils.data.Sampler[int]):
        """`length_grouped_order` of the epoch that the Trainer announces."""

        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __len__(self) -> int:
            return len(lengths)

        def __iter__(self) -> Iterator[int]:
            return iter(length_grouped_order(lengths, params.batch_size, seed, self.epoch))

    class LengthGroupedTrainer(Trainer):
        # The first step whose loss is not finite, 0 while there is none. It stays on the device: asking for it at every
        # step would make a GPU wait.
        bad_step = torch.zeros((), dtype=torch.int64)

        def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
            return Sampler()

        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss: torch.Tensor = super().training_step(*args, **kwargs)
            bad = self.bad_step.to(loss.device)
            self.bad_step = torch.where((bad == 0) & ~loss.isfinite(), self.state.global_step + 1, bad)
            return loss

        def stop_if_broken(self) -> None:
            if step := int(self.bad_step):
                raise UserError(
                    f"the loss is not a finite number at step {step} (learning rate {params.learning_rate}, {precision}). "
                    "Use a smaller finetune.learning_rate, or precision fp32; nothing was written."
                )

    class Watch(TrainerCallback):  # type: ignore[misc]
        """The training curve, the alarm for a broken loss, and the marker that makes a checkpoint complete."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for entry in state.log_history:  # after a resume: what the killed process had logged up to the checkpoint
                self.point(entry)

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            trainer.stop_if_broken()
            self.point(state.log_history[-1])

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            mark_complete(checkpoints / f"checkpoint-{state.global_step}")

        def point(self, entry: dict[str, Any]) -> None:
            if "loss" in entry:  # the Trainer's closing summary has none
                live.step = entry["step"]
                for name in ("loss", "learning_rate"):
                    live.log_metric(name, float(entry[name]))

    class Progress(ProgressCallback):  # type: ignore[misc]
        """tqdm with the loss in the bar instead of a line a log."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if self.training_bar is not None and "loss" in (logs or {}):
                self.training_bar.set_postfix_str(f"loss {float(logs['loss']):.4f}", refresh=False)

    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        seed=seed,
        num_train_epochs=params.epochs,
        per_device_train_batch_size=params.batch_size,
        learning_rate=params.learning_rate,
        warmup_steps=params.warmup_steps,
        lr_scheduler_type="linear",
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=not cuda,
        logging_strategy="steps",
        logging_steps=params.log_every,
        logging_nan_inf_filter=False,  # show a NaN, do not average it away
        save_strategy="steps",
        save_steps=math.ceil(checkpoint_every / params.log_every) * params.log_every,
        save_total_limit=2,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=False,
    )
    resume = newest_checkpoint(checkpoints)
    if resume:
        print(f"going on from {resume.name}", flush=True)
    started = time.monotonic()
    live = _live(curve_out)
    trainer = LengthGroupedTrainer(
        model=model,
        args=arguments,
        train_dataset=examples,
        data_collator=lambda batch: collate(batch, pad_id),
        callbacks=[Watch()],
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Progress())
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except OSError as error:
        raise UserError(
            f"writing under {checkpoints} failed: {error}. Make room and run again: training goes on from the last checkpoint."
        ) from error
    trainer.stop_if_broken()  # the steps after the last log
    model.save_pretrained(str(model_out))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    order = length_grouped_order(lengths, params.batch_size, seed, 0)
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # bytes
    return {
        "steps": trainer.state.global_step,
        "resumed_at_step": int(resume.name.split("-")[1]) if resume else 0,
        "seconds": round(time.monotonic() - started, 1),
        "last_loss": round(float(losses[-1]), 4) if losses else math.nan,
        "padding": round(padding_share(lengths, order, params.batch_size), 4),
        "peak_memory_mb": round(peak / 2**20),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
    }


def _live(directory: Path) -> Any:
    """DVCLive as a writer of TSV files and nothing else: no experiment, no dvc.yaml, no report."""
    from dvclive.live import Live

    return Live(dir=str(directory), resume=False, report=None, save_dvc_exp=False, dvcyaml=None)


if __name__ == "__main__":
    run_stage(main)
