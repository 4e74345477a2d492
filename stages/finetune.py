"""Fine-tune one pretrained model with one seed on the tokenised train split.

Run as: python -m stages.finetune --model distilbert --seed 1

The last epoch is the result. Killed? Run it again: it goes on from its last complete checkpoint
and ends with the same bytes. On a GPU steps are recorded and replayed (training/record.py); where
that fails the stage starts itself again with --eager.
"""

import argparse
import math
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.command import go_offline, run_command
from reproduce.files import UserError, output_directory, read_json, write_json, write_text
from reproduce.inputs.catalog import PINS
from reproduce.machine import describe, peak_memory
from reproduce.params import PARAMS, Finetune, Machine, read_section, read_yaml
from reproduce.training.checkpoints import (
    check_disk,
    exclusive,
    is_complete,
    mark_complete,
    place_files,
    root,
)
from reproduce.training.devices import choose_precision, claim_gpus, deterministic, visible_gpus
from reproduce.training.recipe import checkpoint_key, read_recipe, recipe_digest, run_recipe

if TYPE_CHECKING:
    from reproduce.training.loop import Training

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")  # the fine-tuned model's config is its own


def main() -> None:
    """Write the model, its curve (curves/) and what it was trained on (environment/)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a name from catalog.yaml")
    parser.add_argument(
        "--seed", required=True, type=int, help="of the head's weights, the batches, dropout"
    )
    parser.add_argument(
        "--eager", action="store_true", help="do not record steps on a GPU: same bits, slower"
    )
    arguments = parser.parse_args()
    model, seed = arguments.model, arguments.seed
    params = read_yaml(PARAMS)
    recipe, machine = read_recipe(model, params), read_section("machine", Machine)
    inputs = find_inputs(model)
    pins = {
        "dataset": read_json(PINS / "dataset.json", "Run `dvc repro check`."),
        "model": read_json(PINS / f"{model}.json", "Run `dvc repro check`."),
    }
    run = run_recipe(params, model, seed, pins)
    go_offline()
    with claim_gpus(visible_gpus(), 1, root()) as gpus:
        if gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        device, precision, reason = choose_precision(recipe.precision)
        place = describe()
        key = checkpoint_key(run, precision, place, [inputs["tokenize"], inputs["tokenizer"]])
        print(
            f"finetune {model}, seed {seed}: {precision} on {device}, because {reason}", flush=True
        )
        facts = {
            "recipe": recipe_digest(run),
            "run": run,
            "device": device,
            "device_name": place["gpu"] or place["cpu"],
            "precision": precision,
            "precision_reason": reason,
            **place,
        }
        checkpoints = root() / f"{model}-{seed}-{key}"
        with exclusive(checkpoints):
            result = checkpoints / "finished"
            if is_complete(result):
                print(
                    "an earlier process finished this run: its result is taken over "
                    f"({result}; `make clean-checkpoints` deletes it)"
                )
            else:
                shutil.rmtree(result, ignore_errors=True)
                finish(recipe, machine, facts, inputs, checkpoints, arguments.eager)
            put_in_place(result, f"{model}-{seed}")


def find_inputs(model: str) -> dict[str, Path]:
    """The files that the training reads, by the stage that makes them; `UserError` without one."""
    inputs = {
        "tokenize": Path("data/tokenized") / model / "train.parquet",
        "weights": Path("models/weights") / model / "model.safetensors",
        "tokenizer": Path("models/tokenizers") / model / "config.json",
    }
    for name, path in inputs.items():
        if not path.is_file():
            stage = name if name == "tokenize" else f"download_{name}"
            raise UserError(f"{path} is missing. Run `dvc repro {stage}@{model}`, which makes it.")
    for name in (f"{model}.json", "dataset.json"):
        if not (PINS / name).is_file():
            raise UserError(f"{PINS / name} is missing. Run `dvc repro check`, which makes it.")
    return inputs


def finish(
    recipe: Finetune,
    machine: Machine,
    facts: dict[str, Any],
    inputs: dict[str, Path],
    checkpoints: Path,
    eager: bool,
) -> None:
    """Train, and keep the result in `checkpoints`/finished until the evaluate stage reads it.

    Whatever happens between the last step and DVC's taking it into its cache (dvc killed, its lock
    held by another), no training is lost.
    """
    from reproduce.training import loop, record

    record_steps = facts["device"] == "cuda" and not eager
    with output_directory(checkpoints / "finished") as out, deterministic() as broken:
        try:
            training = prepare(recipe, facts, inputs)
            check_disk(training.model, checkpoints, out)
            resumed = loop.resume(training, checkpoints)
            loop.train(training, checkpoints, machine.checkpoint_every, record_steps)
        except record.RecordingFailedError as error:
            start_again_eagerly(error)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(less_memory(recipe)) from error
        training.model.save_pretrained(str(out / "model"))
        for file in TOKENIZER:
            shutil.copyfile(inputs["tokenizer"].parent / file, out / "model" / file)
        write_curve(training.points, out)
        write_json(out / "environment.json", facts | outcome(training, resumed, broken))
        mark_complete(out)
    for folder in checkpoints.glob("checkpoint-*"):
        shutil.rmtree(folder)


def prepare(recipe: Finetune, facts: dict[str, Any], inputs: dict[str, Path]) -> "Training":
    """The model with its new head, and the data, on the device."""
    import torch

    from reproduce.inputs.tokenized import read_tokenized
    from reproduce.models.load import load_pretrained
    from reproduce.training.batches import GPU_MULTIPLE, Batches
    from reproduce.training.loop import Training

    # Deterministic mode would fill every new tensor first, one launch each.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    device, seed = torch.device(facts["device"]), facts["run"]["seed"]
    split = read_tokenized(facts["run"]["model"], "train")
    torch.manual_seed(seed)
    # Plain attention: on CUDA the fused kernels have no deterministic backward pass; on a CPU there
    # is no fused one with dropout, and what PyTorch does instead is slower (docs/speed.md).
    model = load_pretrained(
        inputs["weights"].parent,
        inputs["tokenizer"].parent,
        split.label_names,
        attn_implementation="eager",
    )
    multiple = GPU_MULTIPLE if device.type == "cuda" else 1
    pad_id = model.config.pad_token_id or 0
    batches = Batches(split, recipe.batch_size, seed, pad_id, device, multiple)
    model.to(device)  # type: ignore[arg-type]
    return Training(model, batches, recipe, facts["precision"])


def outcome(training: "Training", resumed: int, broken: list[str]) -> dict[str, Any]:
    """What the training says of itself, for environment/MODEL-SEED.json."""
    import torch

    cuda = training.device.type == "cuda"
    memory = torch.cuda.max_memory_allocated() if cuda else peak_memory()
    return {
        "steps": training.done,
        "seconds": round(training.seconds, 1),
        "ms_per_step": round(training.seconds / training.done * 1e3, 2),
        "replayed_steps": training.replayed,
        "peak_memory_mb": round(memory / 2**20),
        "last_loss": round(training.points[-1][1], 4),
        "padding": round(training.batches.padding_share(), 4),
        "resumed_at_step": resumed,
        "not_deterministic": dict.fromkeys(broken, True),  # DVC's plots warn of an empty list
    }


def write_curve(points: list[tuple[int, float]], folder: Path) -> None:
    """`folder`/metrics/loss.tsv as DVCLive writes it: the step, the mean loss since the last."""
    from dvclive.plots.metric import Metric  # not Live: that wants a repository with a commit

    metric = Metric("loss", str(folder))
    for step, loss in points:
        metric.step = step
        metric.dump(loss)


def put_in_place(result: Path, run: str) -> None:
    """Put the outputs in their places and say in one line what came out."""
    place_files(result / "model", Path("models/finetuned") / run)
    curve, environment = result / "metrics/loss.tsv", result / "environment.json"
    write_text(Path("models/finetuned") / run / "loss.tsv", curve.read_text(encoding="utf-8"))
    facts = read_json(environment, "Run `make clean-checkpoints`.")
    write_json(Path("environment") / f"{run}.json", facts)
    resumed = f" (resumed at step {facts['resumed_at_step']:,})" if facts["resumed_at_step"] else ""
    replayed = f" ({facts['replayed_steps']:,} replayed)" if facts["device"] == "cuda" else ""
    print(
        f"models/finetuned/{run}: {facts['steps']:,} steps{replayed} in "
        f"{facts['seconds'] / 60:.1f} min{resumed}, {facts['ms_per_step']:,.1f} ms a step, "
        f"last loss {facts['last_loss']:.4f}, {facts['padding'] * 100:.1f} % of the tokens padding"
    )
    for operation in facts["not_deterministic"]:
        print(f"warning: this device cannot repeat the run bit by bit: {operation}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: the GPU's or the machine's."""
    return "out of memory" in str(error).lower() or "can't allocate memory" in str(error)


def less_memory(recipe: Finetune) -> str:
    """What to change when memory ran out, so that the sentences of a step stay the same."""
    now = math.ceil(recipe.batch_size / recipe.accumulation)
    if now == 1:
        return (
            "out of memory with 1 sentence at a time. Lower tokenize.max_length, or use a device "
            "with more memory; no checkpoint is lost."
        )
    then = math.ceil(recipe.batch_size / (2 * recipe.accumulation))
    return (
        f"out of memory with {now} sentences at a time. Set finetune.accumulation to "
        f"{2 * recipe.accumulation}: {then} at a time, and still {recipe.batch_size} a step. (A "
        "smaller finetune.batch_size would be another recipe.) No checkpoint is lost."
    )


def start_again_eagerly(error: Exception) -> None:
    """Become a fresh process that records nothing: this one may be unusable for the GPU."""
    print(
        f"recording a step failed ({error}). Starting again without recording: same result, "
        "slower. Nothing is lost but the steps since the last checkpoint.",
        flush=True,
    )
    os.execv(sys.executable, [sys.executable, "-m", "stages.finetune", *sys.argv[1:], "--eager"])  # noqa: S606


if __name__ == "__main__":
    run_command(main)
