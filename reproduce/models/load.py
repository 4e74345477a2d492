"""Load a pretrained encoder with a new head, or a fine-tuned model; every tensor is accounted for.

transformers fills what a file lacks with random numbers, and passes over what the model lacks. Here
only heads may differ; of the encoder it is an error that names the tensors.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.files import UserError, out_of_space
from reproduce.training.devices import is_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOCAL = {"local_files_only": True, "trust_remote_code": False}


def load_pretrained(
    weights_dir: Path, tokenizer_dir: Path, label_names: Sequence[str], **extra: Any
) -> "PreTrainedModel":
    """The pretrained encoder in fp32 with a new head, drawn from torch's generator.

    The head gives one logit a class, or one number where there are no classes. A head that the
    file brings is dropped, even if it would fit. A line is printed that names what is new and what
    was dropped. A pooler belongs to the encoder if the file has one, and else to the head.

    Raises:
        UserError: the files are damaged or no model that transformers knows, or a tensor of the
            encoder is missing or left over. Nothing but safetensors is read.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForSequenceClassification

    names = dict(enumerate(label_names))
    task: dict[str, Any] = {"num_labels": 1, "problem_type": "regression"}
    if names:
        task = {"id2label": names, "label2id": {name: i for i, name in names.items()}}
        task["problem_type"] = "single_label_classification"
    config = _read(tokenizer_dir, AutoConfig.from_pretrained, str(tokenizer_dir), **LOCAL, **task)
    with torch.device("meta"):  # names and shapes only
        outline = _read(tokenizer_dir, AutoModelForSequenceClassification.from_config, config)
    base = outline.base_model_prefix
    heads = {name for name, _ in outline.named_children()} - {base}
    tensors = _read(weights_dir, load_file, weights_dir / "model.safetensors")
    own = [name for name in tensors if name.split(".")[0] in heads]
    tensors = {name: tensor for name, tensor in tensors.items() if name not in own}
    model, info = _read(
        weights_dir, type(outline).from_pretrained, None, config=config,
        state_dict=tensors, dtype=torch.float32, output_loading_info=True,
        ignore_mismatched_sizes=True, **LOCAL, **extra,
    )  # fmt: skip
    inner = [base, *(name for name, _ in getattr(outline, base).named_children())]
    if faults := _faults(info, base, inner):
        raise UserError(
            f"{weights_dir}/model.safetensors does not fit the {config.model_type} of "
            f"{tokenizer_dir}/config.json: it {', '.join(faults)}. What is trained would not be "
            "the pretrained encoder. Correct the model's entry in catalog.yaml."
        )
    new, old = _parts(info["missing_keys"], base), _parts([*own, *info["unexpected_keys"]], base)
    outputs = len(names) or 1
    print(
        f"new head of {outputs} output(s): {new}; dropped from the checkpoint: {old or 'nothing'}"
    )
    return model  # type: ignore[no-any-return]


def load_finetuned(folder: Path) -> "PreTrainedModel":
    """A model that the finetune stage wrote, in fp32 and in evaluation mode.

    Raises:
        UserError: it is missing or damaged, or a tensor is missing or left over.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    model, info = _read(
        folder, AutoModelForSequenceClassification.from_pretrained, str(folder),
        use_safetensors=True, dtype=torch.float32, output_loading_info=True, **LOCAL,
    )  # fmt: skip
    if wrong := [*info["missing_keys"], *info["unexpected_keys"]]:
        raise UserError(
            f"{folder}: only one of model.safetensors and config.json has {min(wrong)}. "
            f"Delete it and run `dvc checkout finetune@{folder.name}`."
        )
    return model.eval()  # type: ignore[no-any-return]


def _read(place: Path, load: Any, *arguments: Any, **options: Any) -> Any:
    """Call a loader of transformers; what it says about a damaged file becomes one message."""
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    set_verbosity_error()  # its report of new and dropped tensors: ours is shorter
    disable_progress_bar()
    try:
        return load(*arguments, **options)
    except Exception as error:  # these are files from somewhere: anything may be wrong
        if is_out_of_memory(error) or out_of_space(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        output = f"finetune@{place.name}" if place.parent.name == "finetuned" else place
        raise UserError(
            f"{place} holds no model that can be read: {reason} "
            f"Delete it and run `dvc checkout {output}`."
        ) from error


def _faults(info: dict[str, Any], base: str, inner: list[str]) -> list[str]:
    """What is wrong with the tensors of the encoder, the first of each kind by name."""
    lost = [n for n in info["missing_keys"] if n.startswith(f"{base}.") and ".pooler." not in n]
    same = [n for n in info["unexpected_keys"] if lost and n.endswith(min(lost)[len(base) :])]
    left = [n for n in info["unexpected_keys"] if n.split(".")[0] in inner and "pooler." not in n]
    misfit = [name for name, *_ in info["mismatched_keys"]]
    kinds = {"lacks": lost, "instead has": same, "has a useless": left, "has a misshapen": misfit}
    count = {verb: f" (of {len(names)})" * (len(names) > 1) for verb, names in kinds.items()}
    return [f"{verb} {min(names)}{count[verb]}" for verb, names in kinds.items() if names]


def _parts(names: Iterable[str], base: str) -> str:
    """The modules of these tensors: classifier for classifier.out_proj.weight, bert.pooler."""
    split = [name.split(".") for name in names]
    return ", ".join(sorted({".".join(parts[: 1 + (parts[0] == base)]) for parts in split}))
