"""params.yaml and its like: YAML 1.2 in, typed and frozen objects out; the rest is an error.

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
    """A mapping in a YAML file. Unknown keys, "1" or 1.0 for an integer, and NaN are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Experiment(Section):
    """What is compared: the top of params.yaml."""

    dataset: Name
    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1)]

    @field_validator("models", "seeds")
    @classmethod
    def _no_repetition(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if repeated := sorted({value for value in values if values.count(value) > 1}):
            listed = ", ".join(map(str, repeated))
            raise ValueError(f"{listed} listed more than once; list each once")
        return values


SectionType = TypeVar("SectionType", bound=Section)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML 1.2 mapping, as plain JSON values. `UserError` names the file and the place.

    YAML 1.2, as DVC reads it: `3e-05` and `1e-4` are numbers (in YAML 1.1, which PyYAML reads,
    they are strings) and `no` is a string.
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
    except (YAMLError, ValueError, RecursionError) as error:
        words = " ".join(str(error).split())
        raise UserError(f"{path} is not valid YAML: {words}. Correct it there.") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a mapping, found {type(data).__name__}.")
    try:
        plain: dict[str, Any] = json.loads(json.dumps(data, default=str))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} holds what no parameter can be ({error}): an alias (*name) inside what it "
            "stands for, or a list for a key. Write the values out."
        ) from error
    return plain


def validate(schema: type[SectionType], data: Any, where: str) -> SectionType:
    """Turn plain `data` into a `schema` object, or raise one `UserError` that lists what is wrong.

    Args:
        where: how messages call the place, e.g. "params.yaml: finetune".
    """
    try:
        # Through JSON: in pydantic's strict mode that is how a list may become a tuple.
        return schema.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        problems = error.errors()

        # A list whose only item is wrong is also reported as empty, which it is not.
        def has_a_cause(problem: Any) -> bool:
            place = problem["loc"]
            return any(p is not problem and p["loc"][: len(place)] == place for p in problems)

        lines = [_explain(schema, p, where) for p in problems if not has_a_cause(p)]
        text = lines[0] if len(lines) == 1 else "\n  ".join(["bad input", *lines])
        raise UserError(text) from error


def _explain(schema: type[Section], problem: Any, where: str) -> str:
    place = ".".join([where, *map(str, problem["loc"])]) if problem["loc"] else where
    place = re.sub(r": \.", ": ", place.replace(":.", ": "))
    if problem["type"] == "extra_forbidden":
        known = f" Known here: {', '.join(sorted(schema.model_fields))}."
        known = known if len(problem["loc"]) == 1 else ""
        return f"{place}: unknown key.{known} Correct the spelling or remove it."
    if problem["type"] == "missing":
        default = f"`git show HEAD:{where.split(':')[0]}`"
        return (
            f"{place}: missing. Add it; the default file and its comments are in git ({default})."
        )
    if problem["type"] == "too_short":
        return f"{place}: empty. Name at least one."
    message = problem["msg"].removeprefix("Value error, ")
    found = json.dumps(problem["input"], default=str)
    return f"{place}: {message[0].lower() + message[1:]} (found {found})."


def read_entry(path: Path, schema: type[SectionType], stage: str = "check") -> SectionType:
    """What `stage` left as JSON at `path`; `UserError` if it is missing or something else."""
    try:
        return schema.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing. Run `dvc repro {stage}`, which writes it.") from error
    except ValidationError as error:
        raise UserError(
            f"{path} is not what the stage {stage} writes. Delete it and run `dvc checkout {path}`."
        ) from error


def read_section(name: str, schema: type[SectionType], path: Path = PARAMS) -> SectionType:
    """Read and validate one top-level section of params.yaml."""
    data = read_yaml(path)
    if name not in data:
        raise UserError(f"{path}: section {name} is missing. Add it; the default file is in git.")
    return validate(schema, data[name], f"{path}: {name}")


def read_experiment(path: Path = PARAMS) -> Experiment:
    """Read dataset, models and seeds from the top of params.yaml."""
    data = read_yaml(path)
    top = {key: data[key] for key in Experiment.model_fields if key in data}
    return validate(Experiment, top, f"{path}:")


FEWEST_HELD_OUT = 10  # fewer decide nothing, may lack a class, and have no correlation


class Selection(Section):
    """Choosing hyperparameters without a look at the validation set (both 0: the real run)."""

    holdout: Annotated[int, Field(ge=0)]  # so many train sentences stand for the validation set
    train: Annotated[int, Field(ge=0)]  # train on so many of the others; 0: on all

    @model_validator(mode="after")
    def _only_for_choosing(self) -> "Selection":
        if 0 < self.holdout < FEWEST_HELD_OUT:
            raise ValueError(f"hold out 0 sentences, or {FEWEST_HELD_OUT} or more")
        if self.train and not self.holdout:
            raise ValueError(
                "train is for choosing hyperparameters on held-out sentences: set holdout too, "
                "or train to 0"
            )
        return self


class Tokenize(Section):
    """Section `tokenize` of params.yaml."""

    max_length: Annotated[int, Field(ge=3, le=512)]  # [CLS] and [SEP] included; BERT has 512


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


class Export(Section):
    """Section `export` of params.yaml."""

    opset: Annotated[int, Field(ge=18, le=25)]  # that PyTorch's exporter can write
    per_channel: bool
    reduce_range: bool


class Benchmark(Section):
    """Section `benchmark` of params.yaml."""

    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    sentences: Annotated[int, Field(ge=0)]  # 0: all
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
