"""Fine-tune one pretrained model with one seed on the tokenised train split; the last epoch is the result.

Run as: python -m stages.finetune --model distilbert --seed 1

Killed? Run it again: it goes on from its last complete checkpoint and ends with the same bytes.
With finetune.processes > 1 it starts that many of itself, as torchrun does; each computes its part of every batch.
"""

import argparse
import logging
import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.command import go_offline, run_command
from reproduce.files import UserError, output_directory, read_json, write_json
from reproduce.machine import describe, peak_memory
from reproduce.models.load import load_pretrained
from reproduce.params import Finetune, Machine, read_section
from reproduce.training.batches import Batches, collate, length_grouped_order, padding_share
from reproduce.training.checkpoints import (
    check_disk,
    exclusive,
    is_complete,
    link_files,
    mark_complete,
    newest_checkpoint,
    root,
)
from reproduce.training.devices import (
    Precision,
    choose_precision,
    claim_gpus,
    deterministic,
    end_with_parent,
    visible_gpus,
)
from reproduce.training.recipe import identity, read_finetune
from reproduce.training.vocabulary import cut_embedding, restore_embedding, used_rows

if TYPE_CHECKING:
    pass


def main() -> None:
    """Write models/finetuned/MODEL-SEED/, plots/curves/MODEL-SEED/ and environment/MODEL-SEED.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a name from catalog.yaml")
    parser.add_argument(
        "--seed",
        required=True,
        type=int,
        help="seed of the head's weights, the order of batches, dropout",
    )
    arguments = parser.parse_args()
    model, seed = arguments.model, arguments.seed
    params, machine = read_finetune(model), read_section("machine", Machine)
    inputs = {
        "tokenize": Path("data/tokenized") / model / "train.parquet",
        "download_weights": Path("models/weights") / model / "model.safetensors",
        "download_tokenizer": Path("models/tokenizers") / model / "config.json",
    }
    for producer, path in inputs.items():
        if not path.is_file():
            raise UserError(
                f"{path} is missing. Run `dvc repro {producer}@{model}`, which makes it."
            )
    go_offline()
    worker = os.environ.get("LOCAL_RANK")  # set by the launcher
    if worker:
        end_with_parent()
    if worker and os.environ["WORLD_SIZE"] != str(params.processes):
        raise UserError(
            f"params.yaml: finetune.processes is {params.processes}, the launcher started {os.environ['WORLD_SIZE']}."
        )
    with claim_gpus([] if worker else visible_gpus(), params.processes, root()) as gpus:
        if gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        if params.processes > 1 and not worker:
            launch(
                params.processes, ["-m", "stages.finetune", "--model", model, "--seed", str(seed)]
            )
            return
        device, precision, reason = choose_precision(params.precision)
        key = identity(params, seed, precision, list(inputs.values()))
        checkpoints = root() / f"{model}-{seed}-{key[:12]}"
        checkpoints.mkdir(parents=True, exist_ok=True)
        if worker and worker != "0":  # computes its part; the first process writes
            if not is_complete(
                checkpoints / "finished"
            ):  # else the first one takes that over and trains nothing
                train(params, machine, seed, precision, inputs, checkpoints, None)
            return
        print(
            f"finetune {model}, seed {seed}: {precision} on {device}, because {reason}", flush=True
        )
        with exclusive(checkpoints):
            finish(
                params,
                machine,
                seed,
                (device, precision, reason),
                inputs,
                checkpoints,
                f"{model}-{seed}",
            )


def finish(
    params: Finetune, machine: Machine, seed: int, choice: tuple[str, Precision, str], inputs: dict[str, Path],
    checkpoints: Path, run: str,
) -> None:  # fmt: skip
    """Train unless an earlier process did, and put the outputs in their places, each whole or not at all.

    The result is kept in `checkpoints` until the evaluate stage reads it: whatever happens between the last step and DVC's
    taking it into its cache (dvc killed, its lock held by another), no training is lost.
    """
    device, precision, reason = choice
    result = checkpoints / "finished"
    if is_complete(result):
        print(
            f"an earlier process finished this run: its result is taken over ({result}; `make clean-checkpoints` deletes it)"
        )
        outcome = read_json(result / "environment.json", "Run `make clean-checkpoints`.")
    else:
        shutil.rmtree(result, ignore_errors=True)
        with output_directory(result) as out:
            outcome = train(params, machine, seed, precision, inputs, checkpoints, out)
            outcome |= {
                "precision": precision,
                "precision_reason": reason,
                "device": device,
                **describe(),
            }
            for file in (
                "tokenizer.json",
                "tokenizer_config.json",
            ):  # the fine-tuned model has a config of its own
                shutil.copyfile(inputs["download_tokenizer"].parent / file, out / "model" / file)
            write_json(out / "environment.json", outcome)
            mark_complete(out)
        for folder in checkpoints.glob("checkpoint-*"):
            shutil.rmtree(folder)
    for part, place in (
        ("curve", Path("plots/curves") / run),
        ("model", Path("models/finetuned") / run),
    ):
        with output_directory(place) as out:
            link_files(result / part, out)
    write_json(Path("environment") / f"{run}.json", outcome)
    resumed = (
        f" (resumed at step {outcome['resumed_at_step']})" if outcome["resumed_at_step"] else ""
    )
    print(f"models/finetuned/{run}: {outcome['steps']:,} steps in {outcome['seconds'] / 60:.1f} min{resumed}, "
          f"last loss {outcome['last_loss']:.4f}, {outcome['padding'] * 100:.1f} % of the tokens were padding")  # fmt: skip
    for operation in outcome["not_deterministic"]:
        print(f"warning: this device cannot repeat the run bit by bit: {operation}")


def launch(processes: int, arguments: list[str]) -> None:
    """Start `processes` Pythons that find each other as under `torchrun --nproc-per-node`; return when all have ended well."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The message of the process that failed is on the screen already; the launcher's own would only bury it.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id="finetune", rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        max_restarts=0,
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:  # it had no time to say so itself
            killed = f"process {rank} of {processes} was killed by signal {-failure.exitcode} ({failure.signal_name()})"
            print(
                f"error: {killed}. Run the same command again: training goes on from its last checkpoint.",
                file=sys.stderr,
            )
        sys.exit(1)
    except SignalException as error:
        raise KeyboardInterrupt from error


def train(
    params: Finetune, machine: Machine, seed: int, precision: Precision, inputs: dict[str, Path], checkpoints: Path,
    out: Path | None,
) -> dict[str, Any]:  # fmt: skip
    """Train, save the model to `out`/model and its curve to `out`/curve; go on from `checkpoints` if there is one.

    Args:
        machine: `checkpoint_every` is rounded up to a multiple of `params.log_every`, so that no half-filled logging window
            is lost on resume.
        inputs: by producer: a Parquet file with `input_ids` and perhaps `token_type_ids` (lists of int32) and `label` (a
            ClassLabel feature, or float32); the weights; the config, beside the tokenizer.
        out: None in all processes but the first, which write nothing.

    Returns:
        What is worth recording but must not be hashed: steps, seconds, losses, padding, peak memory.
    """
    import pyarrow.parquet
    import torch
    from datasets import Features
    from transformers import ProgressCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
    from transformers.utils.logging import set_verbosity_error

    set_verbosity_error()  # "newly initialized: classifier" is what fine-tuning is
    table = pyarrow.parquet.read_table(inputs["tokenize"])
    label_names = getattr(
        Features.from_arrow_schema(table.schema)["label"], "names", []
    )  # none: the label is a number
    id_columns = [name for name in ("input_ids", "token_type_ids") if name in table.column_names]
    labels = table["label"].to_pylist()
    columns = [[torch.tensor(ids) for ids in table[name].to_numpy()] for name in id_columns]
    examples = [
        {**dict(zip(id_columns, ids, strict=True)), "labels": label}
        for *ids, label in zip(*columns, labels, strict=True)
    ]
    lengths = torch.tensor([len(example["input_ids"]) for example in examples])
    cuda = torch.cuda.is_available()
    steps = math.ceil(len(examples) / params.batch_size) * params.epochs
    if params.warmup_steps >= steps:
        raise UserError(
            f"params.yaml: finetune.warmup_steps {params.warmup_steps} is not less than the {steps} steps of the whole training "
            f"({len(examples)} sentences, batch size {params.batch_size}, {params.epochs} epochs). Use fewer."
        )
    process = int(os.environ.get("RANK", 0))
    try:
        sampler = Batches(
            lengths, params.batch_size, seed, params.accumulation, process, params.processes
        )
    except ValueError as error:
        raise UserError(
            f"params.yaml: finetune: {error}. Lower one of them, or change batch_size ({len(examples)} sentences)."
        ) from error

    class Loader(torch.utils.data.DataLoader[Any]):
        """The Trainer's own loader would pad the last batch of several processes with sentences from the first."""

        def set_epoch(self, epoch: int) -> None:
            sampler.set_epoch(epoch)

    class LengthGroupedTrainer(Trainer):
        # The first step whose loss is not finite, 0 while there is none. It stays on the device: asking for it at every
        # step would make a GPU wait.
        bad_step = torch.zeros((), dtype=torch.int64)

        def get_train_dataloader(self) -> Loader:
            return Loader(
                examples,  # type: ignore[arg-type]  # a list is a map-style dataset
                batch_sampler=sampler, collate_fn=self.data_collator, pin_memory=cuda, num_workers=machine.loader_workers,
            )  # fmt: skip

        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss: torch.Tensor = super().training_step(*args, **kwargs)
            bad = self.bad_step.to(loss.device)
            self.bad_step = torch.where(
                (bad == 0) & ~loss.isfinite(), self.state.global_step + 1, bad
            )
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
            for entry in (
                state.log_history
            ):  # after a resume: what the killed process had logged up to the checkpoint
                self.point(entry)

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            trainer.stop_if_broken()
            self.point(state.log_history[-1])

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            trainer.accelerator.wait_for_everyone()  # each process writes the state of its random numbers
            if out:
                mark_complete(checkpoints / f"checkpoint-{state.global_step}")

        def point(self, entry: dict[str, Any]) -> None:
            if live and "loss" in entry:  # the Trainer's closing summary has none
                live.step = entry["step"]
                for name in ("loss", "learning_rate"):
                    live.log_metric(name, float(entry[name]))

    class Progress(ProgressCallback):  # type: ignore[misc]
        """tqdm with the loss in the bar instead of a line a log."""

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any
        ) -> None:
            if self.training_bar is not None and "loss" in (logs or {}):
                self.training_bar.set_postfix_str(f"loss {float(logs['loss']):.4f}", refresh=False)

    def mean_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any) -> torch.Tensor:
        """Cross-entropy (of numbers: squared error), summed over these sentences, by the number of the whole batch.

        The whole batch is that of all processes and pieces.
        """
        logits = outputs.logits.float()
        if label_names:
            total = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        else:
            total = torch.nn.functional.mse_loss(logits.squeeze(-1), labels, reduction="sum")
        return total / num_items_in_batch  # type: ignore[no-any-return]

    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        seed=seed,
        num_train_epochs=params.epochs,
        gradient_accumulation_steps=params.accumulation,
        learning_rate=params.learning_rate,
        warmup_steps=params.warmup_steps,
        lr_scheduler_type="linear",
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=not cuda,
        ddp_backend="gloo" if params.processes > 1 and not cuda else None,
        ddp_find_unused_parameters=False,
        logging_strategy="steps",
        logging_steps=params.log_every,
        logging_nan_inf_filter=False,  # show a NaN, do not average it away
        save_strategy="steps",
        save_steps=math.ceil(machine.checkpoint_every / params.log_every) * params.log_every,
        save_total_limit=2,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=False,
    )
    started = time.monotonic()
    with deterministic() as broken:
        set_seed(seed)
        tokenizer_dir, weights_dir = (
            inputs["download_tokenizer"].parent,
            inputs["download_weights"].parent,
        )
        # Plain attention: on CUDA the fused kernels have no deterministic backward pass; on a CPU PyTorch has no fused kernel
        # with dropout, and what it does instead is slower (docs/speed.md).
        model = load_pretrained(
            weights_dir, tokenizer_dir, label_names, attn_implementation="eager"
        )
        if process:  # the same weights, but dropout of its own
            set_seed(seed * 1_000_003 + process)
        pad_id = model.config.pad_token_id or 0
        live = None
        if out:
            check_disk(model, checkpoints, out)
            live = _live(out / "curve")
        if params.weight_decay == 0:  # else the rows that no sentence uses would shrink
            rows = used_rows((example["input_ids"] for example in examples), pad_id)
            pad_id = int(torch.searchsorted(rows, pad_id))
            for example in examples:
                example["input_ids"] = torch.searchsorted(rows, example["input_ids"])
            whole = cut_embedding(model, rows)
        trainer = LengthGroupedTrainer(
            model=model,
            args=arguments,
            train_dataset=examples,
            data_collator=lambda batch: collate(batch, pad_id),
            compute_loss_func=mean_loss,
            callbacks=[Watch()],
        )
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(Progress())
        resume = _agree(newest_checkpoint(checkpoints) if out else None)
        if resume and out:
            print(f"going on from {resume.name}", flush=True)
        try:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        except (MemoryError, RuntimeError) as error:
            if "DataLoader worker (pid" in str(
                error
            ):  # PyTorch's words for one that ended on its own
                raise UserError(
                    f"{str(error).splitlines()[0].strip().rstrip('.')}, most likely because memory ran out. "
                    "Set machine.loader_workers to 0 (the training process then prepares the batches itself: same result) "
                    "and run the same command again: training goes on from its last checkpoint."
                ) from error
            if not isinstance(
                error, MemoryError | torch.OutOfMemoryError
            ) and "can't allocate memory" not in str(error):
                raise
            raise out_of_memory(params, len(examples)) from error
    trainer.stop_if_broken()  # the steps after the last log
    if not out:
        return {}
    if params.weight_decay == 0:
        restore_embedding(model, whole, rows)
    model.save_pretrained(str(out / "model"))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "steps": trainer.state.global_step,
        "resumed_at_step": int(resume.name.split("-")[1]) if resume else 0,
        "seconds": round(time.monotonic() - started, 1),
        "last_loss": round(float(losses[-1]), 4) if losses else math.nan,
        "padding": round(
            padding_share(
                lengths,
                length_grouped_order(lengths, params.batch_size, seed, 0),
                params.batch_size,
            ),
            4,
        ),
        "peak_memory_mb": round(
            (torch.cuda.max_memory_allocated() if cuda else peak_memory()) / 2**20
        ),
        "processes": params.processes,
        "deterministic_algorithms": True,
        "cudnn_deterministic": True,
        "cublas_workspace": os.environ["CUBLAS_WORKSPACE_CONFIG"],
        "not_deterministic": broken,
    }


def _agree(resume: Path | None) -> Path | None:
    """The checkpoint that the first process chose, in all of them."""
    from accelerate.utils import broadcast_object_list

    chosen: Path | None = broadcast_object_list([resume])[0]
    return chosen


def out_of_memory(params: Finetune, sentences: int) -> UserError:
    """What to change when memory ran out, keeping the result's definition: the sentences of a step stay the same."""
    parts = params.processes * params.accumulation
    now, then = math.ceil(params.batch_size / parts), math.ceil(params.batch_size / (2 * parts))
    smallest = min(params.batch_size, sentences % params.batch_size or params.batch_size)
    if 2 * parts > smallest:
        return UserError(
            f"out of memory with {now} sentence(s) at a time; a batch of {smallest} cannot be cut into more parts. "
            "Lower tokenize.max_length, or use a device with more memory; no checkpoint is lost."
        )
    return UserError(
        f"out of memory with {now} sentences at a time. Set finetune.accumulation to {2 * params.accumulation}: "
        f"{then} at a time, and still {params.batch_size} a step, so that the result keeps its definition. "
        "(A smaller finetune.batch_size would change it.) No checkpoint is lost."
    )


def _live(directory: Path) -> Any:
    """DVCLive as a writer of TSV files and nothing else: no experiment, no dvc.yaml, no report."""
    from dvclive.live import Live

    return Live(dir=str(directory), resume=False, report=None, save_dvc_exp=False, dvcyaml=None)


if __name__ == "__main__":
    run_command(main)
