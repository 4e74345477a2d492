"""params.yaml and its like: YAML 1.2 in, typed and frozen objects out; the rest is an error.

No stage of dvc.yaml depends on this file: it can refuse a value, it cannot change one.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from reproduce.files import UserError

PARAMS = Path("params.yaml")

# Names become stage names, file names and DVC parameter paths: no dot, no "@", no slash.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Section(BaseModel):
    """A mapping in a YAML file. Unknown keys, "1" or 1.0 for an integer, and NaN are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


SectionType = TypeVar("SectionType", bound=Section)
T = TypeVar("T")


def _refuse_repetition(values: tuple[T, ...]) -> tuple[T, ...]:
    if repeated := [str(value) for value in dict.fromkeys(values) if values.count(value) > 1]:
        raise ValueError(f"listed more than once: {', '.join(repeated)}; list each once")
    return values


# A list in which nothing is there twice; at least one of them.
Distinct = Annotated[tuple[T, ...], AfterValidator(_refuse_repetition)]
OneOrMore = Annotated[Distinct[T], Field(min_length=1)]


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML 1.2 mapping, as plain JSON values; `UserError` names the file and the place.

    1.2 is what DVC reads: `3e-05` is a number and `no` a string (not so for PyYAML).
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        data = YAML(typ="safe").load(path.read_text(encoding="utf-8"))  # as DVC does
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing. Run in the folder of dvc.yaml.") from error
    except (YAMLError, ValueError, RecursionError) as error:  # a ValueError: it is not UTF-8
        words = " ".join(str(error).split())
        raise UserError(f"{path} is not valid YAML: {words}. Correct it there.") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a mapping, found {type(data).__name__}.")
    try:
        return json.loads(json.dumps(data, default=str))  # type: ignore[no-any-return]
    except (TypeError, ValueError, RecursionError) as error:
        says = f"{path} holds what no parameter can be, as an alias (*name) or a list for a key"
        raise UserError(f"{says} ({error}). Write the values out.") from error


def validate(schema: type[SectionType], data: Any, where: str) -> SectionType:
    """Turn plain `data` into a `schema` object, or raise one `UserError` that lists what is wrong.

    `where` is how messages call the place, e.g. "params.yaml: finetune".
    """
    try:
        # Through JSON: in pydantic's strict mode that is how a list may become a tuple.
        return schema.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        problems = {problem["loc"]: problem for problem in error.errors()}
        # A list whose only item is wrong is also reported as empty, which it is not.
        causes = [a for a in problems if not any(a == b[: len(a)] for b in problems if b != a)]
        lines = [_explain(schema, problems[place], where) for place in causes]
        text = lines[0] if len(lines) == 1 else "\n  ".join(["bad input", *lines])
        raise UserError(text) from error


PINNED = {"bytes", "sha256", "tokenizer", "weights"}  # the keys that `make pin` writes
MAPPING = "a mapping ({} for an empty one)"
SHAPES = {"dict_type": MAPPING, "model_type": MAPPING, "tuple_type": "a list, in brackets"}


def _explain(schema: type[Section], problem: Any, where: str) -> str:
    keys, kind = problem["loc"], problem["type"]
    place = re.sub(r": ?\.", ": ", ".".join([where, *map(str, keys)]))
    if kind == "extra_forbidden":
        known = _known_keys(schema, keys)
        return f"{place}: unknown key.{known} Correct the spelling or remove it."
    if kind == "missing" and keys[-1] in PINNED:
        return f"{place}: missing: never pinned. Run `make pin`, which writes what the files are."
    if kind == "missing":
        return f"{place}: missing. Add it: `git show HEAD:{where.split(':')[0]}` has all keys."
    if kind == "too_short":
        return f"{place}: empty. Name at least one."
    found = json.dumps(problem["input"], default=str)
    if expected := SHAPES.get(kind):
        return f"{place}: expected {expected}, found {found}."
    message = problem["msg"].removeprefix("Value error, ")
    more = "" if isinstance(problem["input"], dict) else f" (found {found})"  # not a whole entry
    return f"{place}: {message[0].lower() + message[1:]}{more}."


def _known_keys(schema: Any, keys: tuple[str | int, ...]) -> str:
    """The right keys in the place of a wrong one, where these are a section's."""
    for key in keys[:-1]:
        field = getattr(schema, "model_fields", {}).get(key)
        schema = field and field.annotation
    known = sorted(getattr(schema, "model_fields", {}))
    return f" Known here: {', '.join(known)}." if known else ""


def read_entry(path: Path, schema: type[SectionType], stage: str = "check") -> SectionType:
    """What `stage` left as JSON at `path`; `UserError` if it is missing or something else."""
    try:
        return schema.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing. Run `dvc repro {stage}`, which writes it.") from error
    except ValidationError as error:
        todo = f"Delete it and run `dvc checkout {path}`."
        raise UserError(f"{path} is not what the stage {stage} writes. {todo}") from error


def read_section(name: str, schema: type[SectionType], path: Path = PARAMS) -> SectionType:
    """Read and validate one top-level section of params.yaml."""
    data = read_yaml(path)
    if name not in data:
        raise UserError(f"{path}: section {name} is missing. Add it; the default file is in git.")
    return validate(schema, data[name], f"{path}: {name}")


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
            raise ValueError("train goes with held-out sentences: set holdout too, or train to 0")
        return self


class Tokenize(Section):
    """How to cut sentences into tokens."""

    max_length: Annotated[int, Field(ge=3, le=512)]  # [CLS] and [SEP] included; BERT has 512


class Finetune(Section):
    """Section `finetune` of params.yaml; a model may override any key in `overrides`."""

    learning_rate: Annotated[float, Field(gt=0, lt=1)]  # peak, after warm-up
    batch_size: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]
    warmup_steps: Annotated[int, Field(ge=0)]  # from 0; then linear decay to 0 at the last step
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    log_every: Annotated[int, Field(ge=1)]  # steps between two points of the training curve
    accumulation: Annotated[int, Field(ge=1)]  # pieces of a batch, one computed after the other


class Machine(Section):
    """Section `machine` of params.yaml: what never changes a result."""

    checkpoint_every: Annotated[int, Field(ge=0)]  # seconds: how much a crash can cost


class Evaluate(Section):
    """How to predict."""

    batch_size: Annotated[int, Field(ge=1)]


class Export(Section):
    """How to write ONNX."""

    opset: Annotated[int, Field(ge=18, le=25)]  # that PyTorch's exporter can write
    per_channel: bool
    reduce_range: bool


class Benchmark(Section):
    """Section `benchmark` of params.yaml."""

    models: OneOrMore[Name]
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


class Experiment(Section):
    """What is compared: the top of params.yaml."""

    dataset: Name
    models: OneOrMore[Name]
    seeds: OneOrMore[Annotated[int, Field(ge=0, lt=2**32)]]


class Params(Experiment):
    """The whole of params.yaml."""

    selection: Selection
    tokenize: Tokenize
    finetune: Finetune
    machine: Machine
    evaluate: Evaluate
    export: Export
    benchmark: Benchmark
    compare: Compare
    tasks: dict[str, dict[str, Any]]  # by dataset, changes of `finetune`
    overrides: dict[str, dict[str, Any]]  # by model, changes over these


def read_experiment(path: Path = PARAMS) -> Experiment:
    """Read dataset, models and seeds from the top of params.yaml."""
    data = read_yaml(path)
    top = {key: data[key] for key in Experiment.model_fields if key in data}
    return validate(Experiment, top, f"{path}:")
