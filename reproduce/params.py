"""params.yaml and friends: YAML 1.2 in, typed and frozen objects out; whatever does not fit is an error.

Every section of params.yaml is here. No stage of dvc.yaml depends on this file: it can refuse a
value, it cannot change one.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from reproduce.files import UserError

PARAMS = Path("params.yaml")

# Names become stage names, file names and DVC parameter paths: no dot, no "@", no slash.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Section(BaseModel):
    """A mapping in a YAML file. Strict: an unknown key, a number in quotes, a NaN, 1.0 for an integer are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Experiment(Section):
    """What is compared: the top of params.yaml."""

    dataset: Name
    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1)]

    @field_validator("models", "seeds")
    @classmethod
    def _no_repetition(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        repeated = sorted({value for value in values if values.count(value) > 1})
        if repeated:
            raise ValueError(
                f"{', '.join(map(str, repeated))} listed more than once; list each once"
            )
        return values


SectionType = TypeVar("SectionType", bound=Section)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML 1.2 mapping. `UserError` names the file and the place of a syntax error.

    YAML 1.2, as DVC reads it: `3e-05` and `1e-4` are numbers (in YAML 1.1, which PyYAML reads, they are strings)
    and `no` is a string.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        data = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing. Run from the project's root, where dvc.yaml is."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error}). Save it as UTF-8.") from error
    except YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a mapping, found {type(data).__name__}.")
    return data


def validate(schema: type[SectionType], data: Any, where: str) -> SectionType:
    """Turn plain `data` into a `schema` object, or raise one `UserError` that lists everything wrong with it.

    Args:
        where: how messages call the place, e.g. "params.yaml: finetune".
    """
    try:
        # Through JSON: in pydantic's strict mode that is how a list may become a tuple.
        return schema.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        problems = error.errors()
        # A list whose only item is wrong is also reported as empty, which it is not.
        real = [
            p
            for p in problems
            if not any(o is not p and o["loc"][: len(p["loc"])] == p["loc"] for o in problems)
        ]
        lines = [_explain(schema, problem, where) for problem in real]
        raise UserError(
            lines[0] if len(lines) == 1 else "\n  ".join(["bad input", *lines])
        ) from error


def _explain(schema: type[Section], problem: Any, where: str) -> str:
    place = ".".join([where, *map(str, problem["loc"])]) if problem["loc"] else where
    place = re.sub(r": \.", ": ", place.replace(":.", ": "))
    if problem["type"] == "extra_forbidden":
        known = (
            f" Known here: {', '.join(sorted(schema.model_fields))}."
            if len(problem["loc"]) == 1
            else ""
        )
        return f"{place}: unknown key.{known} Correct the spelling or remove it."
    if problem["type"] == "missing":
        file = where.split(":")[0]
        return f"{place}: missing. Add it; the default file and its comments are in git (`git show HEAD:{file}`)."
    if problem["type"] == "too_short":
        return f"{place}: empty. Name at least one."
    message = problem["msg"].removeprefix("Value error, ")
    found = problem["input"]
    return f"{place}: {message[0].lower() + message[1:]} (found {json.dumps(found, default=str)})."


def read_section(name: str, schema: type[SectionType], path: Path = PARAMS) -> SectionType:
    """Read and validate one top-level section of params.yaml."""
    data = read_yaml(path)
    if name not in data:
        raise UserError(f"{path}: section {name} is missing. Add it; the default file is in git.")
    return validate(schema, data[name], f"{path}: {name}")


def read_experiment(path: Path = PARAMS) -> Experiment:
    """Read dataset, models and seeds from the top of params.yaml."""
    data = read_yaml(path)
    return validate(
        Experiment, {key: data[key] for key in Experiment.model_fields if key in data}, f"{path}:"
    )


class Selection(Section):
    """Choosing hyperparameters without looking at the validation set (all zero: the real experiment)."""

    holdout: Annotated[
        int, Field(ge=0)
    ]  # this many train sentences take the place of the validation set
    train: Annotated[int, Field(ge=0)]  # train on this many of the others; 0: on all

    @model_validator(mode="after")
    def _only_for_choosing(self) -> "Selection":
        if self.train and not self.holdout:
            raise ValueError(
                "train is for choosing hyperparameters on held-out sentences: set holdout too, or train to 0"
            )
        return self


class Tokenize(Section):
    """Section `tokenize` of params.yaml."""

    max_length: Annotated[
        int, Field(ge=3, le=512)
    ]  # [CLS], one token, [SEP] at least; 512 positions in BERT


class Finetune(Section):
    """Section `finetune` of params.yaml; a model may override any key in `overrides`."""

    learning_rate: Annotated[float, Field(gt=0, lt=1)]  # peak, after warm-up
    batch_size: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]
    warmup_steps: Annotated[
        int, Field(ge=0)
    ]  # linear from 0; then linear decay to 0 at the last step
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    log_every: Annotated[int, Field(ge=1)]  # steps between two points of the training curve
    accumulation: Annotated[int, Field(ge=1)]  # pieces of a batch, one computed after the other


class Machine(Section):
    """Section `machine` of params.yaml: what never changes a result."""

    checkpoint_every: Annotated[int, Field(ge=0)]  # seconds: how much a crash can cost


class Evaluate(Section):
    """Section `evaluate` of params.yaml."""

    batch_size: Annotated[int, Field(ge=1)]


OLDEST_OPSET = 18  # that PyTorch's exporter writes


class Export(Section):
    """Section `export` of params.yaml."""

    opset: Annotated[int, Field(ge=OLDEST_OPSET)]
    per_channel: bool
    reduce_range: bool


class Benchmark(Section):
    """Section `benchmark` of params.yaml."""

    passes: Annotated[int, Field(ge=1)]
    warmup: Annotated[int, Field(ge=0)]
    threads: Annotated[int, Field(ge=0)]


class Bootstrap(Section):
    """How often to resample, and from which seed."""

    resamples: Annotated[int, Field(ge=100)]
    seed: Annotated[int, Field(ge=0)]


class Compare(Section):
    """Section `compare` of params.yaml."""

    teacher: Name
    student: Name
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    bootstrap: Bootstrap

    @model_validator(mode="after")
    def _two_models(self) -> "Compare":
        if self.student == self.teacher:
            raise ValueError("student and teacher are the same model: name two")
        return self


SECTIONS: dict[str, type[Section]] = {
    "selection": Selection,
    "tokenize": Tokenize,
    "finetune": Finetune,
    "machine": Machine,
    "evaluate": Evaluate,
    "export": Export,
    "benchmark": Benchmark,
    "compare": Compare,
}
