"""Fine-tune one pretrained model with one seed on the tokenised train split.

Run as: python -m stages.finetune --model distilbert --seed 1

The last epoch is the result. Killed? Run it again: it goes on from its last complete checkpoint
and ends with the same bytes. On a GPU steps are recorded and replayed (training/record.py); where
that fails the stage starts itself again with --eager.
"""

import math
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.command import command_line, go_offline, run_command
from reproduce.files import UserError, output_directory, read_json, write_json, write_text
from reproduce.inputs.catalog import PINS
from reproduce.machine import describe, peak_memory
from reproduce.params import PARAMS, Finetune, Machine, read_section, read_yaml
from reproduce.training import checkpoints, recipe
from reproduce.training.devices import (
    choose_precision,
    claim_gpu,
    deterministic,
    is_out_of_memory,
)

if TYPE_CHECKING:
    from reproduce.training.loop import Training

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")  # the fine-tuned model's config is its own


def main() -> None:
    """Write the model, its curve (curves/) and what it was trained on (environment/)."""
    parser = command_line(__doc__)
    parser.add_argument("--model", required=True, help="a name from catalog.yaml")
    parser.add_argument("--seed", required=True, type=int, help="of the head, batches and dropout")
    parser.add_argument("--eager", action="store_true", help="record no steps: same bits, slower")
    arguments = parser.parse_args()
    model, seed = arguments.model, arguments.seed
    params = read_yaml(PARAMS)
    settings, machine = recipe.read_recipe(model, params), read_section("machine", Machine)
    inputs = find_inputs(model)
    pin_files = {"dataset": PINS / "dataset.json", "model": PINS / f"{model}.json"}
    pins = {kind: read_json(path, "Run `dvc repro check`.") for kind, path in pin_files.items()}
    run = recipe.run_recipe(params, model, seed, pins)
    go_offline()
    with claim_gpu():
        device, precision, reason = choose_precision(settings.precision)
        print(f"finetune {model}, seed {seed}: {precision} on {device}: {reason}", flush=True)
        facts = {"recipe": recipe.recipe_digest(run), "run": run, **describe()}
        facts |= {"device": device, "device_name": facts["gpu"] or facts["cpu"]}
        facts |= {"precision": precision, "precision_reason": reason}
        key = recipe.checkpoint_key(facts, list(inputs.values()))
        folder = checkpoints.root() / f"{model}-{seed}-{key}"
        with checkpoints.exclusive(folder, wait=True):
            result = folder / "finished"
            if checkpoints.is_complete(result):
                print(f"an earlier process finished this run: {result} is taken over")
            else:
                if result.exists():
                    print(f"warning: {result} is damaged: the run is trained again", flush=True)
                    shutil.rmtree(result)
                finish(settings, machine, facts, inputs, folder, arguments.eager)
            put_in_place(result, f"{model}-{seed}")


def find_inputs(model: str) -> dict[str, Path]:
    """The files that a training reads; `UserError` names one that is missing and who makes it."""
    inputs = {
        "tokenize": Path("data/tokenized") / model / "train.parquet",
        "download_weights": Path("models/weights") / model / "model.safetensors",
        "download_tokenizer": Path("models/tokenizers") / model / "config.json",
    }
    needed = [(f"{stage}@{model}", path) for stage, path in inputs.items()]
    folder = inputs["download_tokenizer"].parent
    needed += [(f"download_tokenizer@{model}", folder / name) for name in TOKENIZER]
    needed += [("check", PINS / f"{name}.json") for name in (model, "dataset")]
    for stage, path in needed:
        if not path.is_file():
            raise UserError(f"{path} is missing. Run `dvc repro {stage}`, which makes it.")
    return inputs


def finish(
    settings: Finetune, machine: Machine, facts: dict[str, Any], inputs: dict[str, Path],
    folder: Path, eager: bool,
) -> None:  # fmt: skip
    """Train, and keep the result in `folder`/finished until the evaluate stage reads it.

    Whatever happens between the last step and DVC's taking it into its cache (dvc killed, its lock
    held by another), no training is lost.
    """
    from reproduce.training import loop, record

    with output_directory(folder / "finished") as out, deterministic() as broken:
        try:
            training = prepare(settings, facts, inputs)
            resumed = loop.resume(training, folder)
            checkpoints.check_disk(training.model, folder)
            recorded = facts["device"] == "cuda" and not eager
            loop.train(training, folder, machine.checkpoint_every, recorded)
        except record.RecordingFailedError as error:
            start_again_eagerly(error)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(less_memory(settings)) from error
        # In the model's own names, whatever those of the pretrained file were.
        training.model.save_pretrained(str(out / "model"), save_original_format=False)
        for file in TOKENIZER:
            shutil.copyfile(inputs["download_tokenizer"].parent / file, out / "model" / file)
        write_curve(training.points, out)
        write_json(out / "environment.json", facts | outcome(training, resumed, broken))
        checkpoints.mark_complete(out)
    for step in checkpoints.steps(folder):
        shutil.rmtree(folder / f"checkpoint-{step}")


def prepare(settings: Finetune, facts: dict[str, Any], inputs: dict[str, Path]) -> "Training":
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
    weights, tokenizer = inputs["download_weights"].parent, inputs["download_tokenizer"].parent
    model = load_pretrained(weights, tokenizer, split.label_names, attn_implementation="eager")
    model.to(device)  # type: ignore[arg-type]
    multiple = GPU_MULTIPLE if device.type == "cuda" else 1
    pad_id = model.config.pad_token_id or 0
    batches = Batches(split, settings.batch_size, seed, pad_id, device, multiple)
    return Training(model, batches, settings, facts["precision"])


def outcome(training: "Training", resumed: int, broken: list[str]) -> dict[str, Any]:
    """What the training says of itself, for environment/MODEL-SEED.json."""
    import torch

    cuda = training.device.type == "cuda"
    memory = torch.cuda.max_memory_reserved() if cuda else peak_memory()
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
    facts = read_json(result / "environment.json", "Run `make clean-checkpoints`.")
    checkpoints.place_files(result / "model", Path("models/finetuned") / run)
    curve = (result / "metrics/loss.tsv").read_text(encoding="utf-8")
    write_text(Path(f"models/finetuned/{run}/loss.tsv"), curve)
    write_json(Path(f"environment/{run}.json"), facts)
    resumed = f" (resumed at step {facts['resumed_at_step']:,})" if facts["resumed_at_step"] else ""
    replayed = f" ({facts['replayed_steps']:,} replayed)" if facts["device"] == "cuda" else ""
    print(f"models/finetuned/{run}: {facts['steps']:,} steps{replayed} in {facts['seconds']:,.0f} s"
          f"{resumed}, {facts['ms_per_step']:,.1f} ms a step, last loss {facts['last_loss']:.4f}, "
          f"{facts['padding'] * 100:.1f} % of the tokens were padding")  # fmt: skip
    for operation in facts["not_deterministic"]:
        print(f"warning: this device cannot repeat the run bit by bit: {operation}")


def less_memory(settings: Finetune) -> str:
    """What to change when memory ran out, so that the sentences of a step stay the same."""
    pieces, batch = settings.accumulation, settings.batch_size
    now, then = math.ceil(batch / pieces), math.ceil(batch / (2 * pieces))
    advice = "Lower tokenize.max_length, or use a device with more memory"
    if then < now:
        advice = (
            f"Set finetune.accumulation to {2 * pieces}: {then} at a time, and still {batch} a "
        )
        advice += "step (a smaller finetune.batch_size is another recipe)"
    return f"out of memory with {now} sentence(s) at a time. {advice}. No checkpoint is lost."


def start_again_eagerly(error: Exception) -> None:
    """Become a fresh process that records nothing: this one may be unusable for the GPU."""
    print(f"recording a step failed ({error}). Starting again without recording: same result, "
          "slower; only the steps since the last checkpoint are lost.", flush=True)  # fmt: skip
    command = [sys.executable, "-m", "stages.finetune", *sys.argv[1:], "--eager"]
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    run_command(main)
