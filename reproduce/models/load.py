"""Load a pretrained encoder with a new head, or a fine-tuned model; every tensor is accounted for.

transformers fills what a file lacks with random numbers and passes over what the model lacks. Here
that is allowed of heads only; of the encoder it is an error that names the tensors.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.files import UserError, out_of_space

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
    own_head = [name for name in tensors if name.split(".")[0] in heads]
    for name in own_head:
        del tensors[name]
    model, info = _read(
        weights_dir, type(outline).from_pretrained, None, config=config,
        state_dict=tensors, dtype=torch.float32, output_loading_info=True, **LOCAL, **extra,
    )  # fmt: skip
    inner = {base, *(name for name, _ in getattr(outline, base).named_children())}
    missing = [name for name in info["missing_keys"] if name.startswith(f"{base}.")]
    missing = [name for name in missing if ".pooler." not in name]
    excess = [name for name in info["unexpected_keys"] if name.split(".")[0] in inner]
    excess = [name for name in excess if "pooler." not in name]
    if missing or excess:
        raise UserError(
            f"{weights_dir}/model.safetensors does not fit the encoder of {tokenizer_dir}/config.json"
            f" ({config.model_type}): {_some('lacks', missing, info['unexpected_keys'])}"
            f"{'; ' if missing and excess else ''}{_some('has besides', excess)}. Trained so, parts "
            "of it would be random numbers. Correct the model's entry in catalog.yaml, or the file."
        )
    dropped = sorted({_part(name) for name in [*own_head, *info["unexpected_keys"]]})
    print(
        f"new head for {len(names) or 1} output(s): "
        f"{', '.join(sorted({_part(name, base) for name in info['missing_keys']}))}; "
        + (
            f"dropped the checkpoint's own: {', '.join(dropped)}"
            if dropped
            else "the file has none"
        ),
        flush=True,
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
            f"{folder}/model.safetensors does not fit its config.json: {_some('not in both', wrong)}. "
            f"Delete {folder} and run `dvc checkout {folder}`."
        )
    return model.eval()  # type: ignore[no-any-return]


def _read(place: Path, load: Any, *arguments: Any, **options: Any) -> Any:
    """Call a loader of transformers; what it says about a damaged file becomes one message."""
    from safetensors import SafetensorError
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    set_verbosity_error()  # its report of new and dropped tensors: ours is shorter
    disable_progress_bar()
    try:
        return load(*arguments, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if "can't allocate memory" in str(error) or out_of_space(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{place} holds no model that can be read: {reason} "
            f"Delete it and run `dvc checkout {place}`."
        ) from error


def _some(verb: str, names: Sequence[str], instead: Iterable[str] = ()) -> str:
    """The number of tensors and the first of them, in words; "" if there are none."""
    if not names:
        return ""
    first = min(instead, default="")
    return f"it {verb} {len(names)} tensor(s), first {min(names)}" + (
        f" (the file has {first})" if first else ""
    )


def _part(name: str, base: str = "") -> str:
    """The module to which a head's tensor belongs: classifier of classifier.out_proj.weight."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == base else parts[0]
