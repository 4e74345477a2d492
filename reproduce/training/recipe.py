"""The recipe of a training: finetune, over it the data set's changes (tasks), over that the model's (overrides)."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce.files import UserError
from reproduce.params import PARAMS, Finetune, read_yaml, validate
from reproduce.training import batches, vocabulary

if TYPE_CHECKING:
    pass


def read_finetune(model: str, path: Path = PARAMS) -> Finetune:
    """Section `finetune`, over it what the dataset changes (`tasks`), over that what `model` changes (`overrides`)."""
    params = read_yaml(path)
    merged = params.get("finetune")
    if not isinstance(merged, dict):
        raise UserError(f"{path}: section finetune is missing. Add it; the default file is in git.")
    validate(Finetune, merged, f"{path}: finetune")
    for section, name in (("tasks", params.get("dataset")), ("overrides", model)):
        entries = params.get(section)
        if not isinstance(entries, dict) or not isinstance(entries.get(name), dict):
            raise UserError(
                f"{path}: {section}.{name} is missing. Add `{name}: {{}}` under {section} if there is nothing to override."
            )
        if unknown := sorted(set(entries[name]) - set(Finetune.model_fields)):
            known = ", ".join(sorted(Finetune.model_fields))
            raise UserError(
                f"{path}: {section}.{name}.{unknown[0]}: unknown key. Known here: {known}."
            )
        merged = {**merged, **entries[name]}
    return validate(
        Finetune, merged, f"{path}: finetune with tasks.{params['dataset']} and overrides.{model}"
    )


def identity(params: Finetune, seed: int, precision: str, inputs: Sequence[Path]) -> str:
    """A digest of all that decides the bytes of the result: a checkpoint is only ever resumed by an equal run."""
    import torch
    import transformers

    digests = {}
    for path in [*inputs, Path(__file__), Path(batches.__file__), Path(vocabulary.__file__)]:
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    software = [torch.__version__, transformers.__version__, torch.get_num_threads()]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    facts = [params.model_dump(), seed, precision, device, digests, software]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
