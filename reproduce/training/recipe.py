"""The recipe of a run: all that decides its result, but for the machine that computes it.

A recipe is `finetune` of params.yaml, over it the dataset's changes (`tasks`), over that the
model's (`overrides`), with the seed and the pins of the data and of the checkpoint.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from reproduce.files import UserError, sha256
from reproduce.params import PARAMS, Finetune, validate

ROOT = Path(__file__).parents[2]
CODE = (  # what decides which numbers a run computes
    *sorted(Path(__file__).parent.glob("*.py")),
    *(ROOT / path for path in (
        "reproduce/inputs/tokenized.py", "reproduce/models/load.py", "stages/finetune.py"
    )),
)  # fmt: skip


def read_recipe(model: str, params: dict[str, Any]) -> Finetune:
    """The hyperparameters with which `model` is fine-tuned.

    Args:
        params: the whole of params.yaml, as `read_yaml` gives it.

    Raises:
        UserError: a section is missing or has a wrong key or value.
    """
    merged = params.get("finetune")
    if not isinstance(merged, dict):
        raise UserError(f"{PARAMS}: section finetune is missing. Add it; the default is in git.")
    validate(Finetune, merged, f"{PARAMS}: finetune")
    for section, name in (("tasks", params.get("dataset")), ("overrides", model)):
        entries = params.get(section)
        if not isinstance(entries, dict) or not isinstance(entries.get(name), dict):
            raise UserError(
                f"{PARAMS}: {section}.{name} is missing. "
                f"Add `{name}: {{}}` under {section} if there is nothing to override."
            )
        known = sorted(Finetune.model_fields)
        if unknown := sorted(set(entries[name]) - set(known)):
            place = f"{PARAMS}: {section}.{name}.{unknown[0]}"
            raise UserError(f"{place}: unknown key. Known here: {', '.join(known)}.")
        merged = {**merged, **entries[name]}
    place = f"{PARAMS}: finetune with tasks.{params['dataset']} and overrides.{model}"
    return validate(Finetune, merged, place)


def count_steps(sentences: int, recipe: Finetune) -> int:
    """The steps of a whole training; `UserError` if it would not outlast its warm-up."""
    steps = math.ceil(sentences / recipe.batch_size) * recipe.epochs
    if recipe.warmup_steps >= steps:
        raise UserError(
            f"{PARAMS}: warmup_steps {recipe.warmup_steps} (finetune, tasks, overrides) is not "
            f"less than the {steps:,} steps of the whole training ({sentences:,} sentences, "
            f"batch size {recipe.batch_size}, {recipe.epochs} epochs). Use fewer."
        )
    return steps


def run_recipe(
    params: dict[str, Any], model: str, seed: int, pins: dict[str, dict[str, str]]
) -> dict[str, Any]:
    """The recipe of one run, JSON-ready. Nothing in it depends on the device.

    Args:
        params: the whole of params.yaml.
        pins: by "dataset" and "model", the sha256 of each file, as in data/checked/pins.
    """
    return {
        "model": model,
        "seed": seed,
        "dataset": params["dataset"],
        "selection": dict(params["selection"]),
        "max_length": params["tokenize"]["max_length"],
        "finetune": read_recipe(model, params).model_dump(),
        "pins": {kind: dict(pins[kind]) for kind in ("dataset", "model")},
    }


def recipe_digest(recipe: dict[str, Any]) -> str:
    """The first 16 hex digits of the sha256 of the recipe as canonical JSON."""
    canonical = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def checkpoint_key(facts: dict[str, Any], inputs: list[Path]) -> str:
    """A digest of all that decides the bits of a run: only an equal run goes on from a checkpoint.

    That is on a CPU also its name and the number of threads (the order in which numbers are
    summed), on a GPU its name, the driver and the CUDA runtime.

    Args:
        facts: `recipe`, `precision` and what `describe` of reproduce/machine.py gives.
        inputs: the tokenised split, the weights, the config.
    """
    names = ["gpu", "driver", "cuda"] if facts["gpu"] else ["cpu", "threads"]
    decisive = [facts[name] for name in ("recipe", "precision", *names)]
    decisive += [facts["packages"][name] for name in ("torch", "transformers")]
    decisive += [sha256(path) for path in (*inputs, *CODE)]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:12]
