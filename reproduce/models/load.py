"""Load a pretrained encoder with a new classification head."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.files import UserError, out_of_space

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_pretrained(
    weights_dir: Path, tokenizer_dir: Path, label_names: Sequence[str], **extra: Any
) -> "PreTrainedModel":
    """The pretrained encoder with a new head (drawn from torch's generator): one logit a class, or one number without classes.

    Raises:
        UserError: the files are damaged, or no model that transformers knows. Nothing but safetensors is read.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForSequenceClassification

    local = {"local_files_only": True, "trust_remote_code": False}
    names = dict(enumerate(label_names))
    head: dict[str, Any] = (
        {"id2label": names, "label2id": {name: i for i, name in names.items()}}
        if names
        else {"num_labels": 1, "problem_type": "regression"}
    )
    place = tokenizer_dir
    try:
        config = AutoConfig.from_pretrained(str(tokenizer_dir), **local, **head)
        place = weights_dir
        return AutoModelForSequenceClassification.from_pretrained(  # type: ignore[no-any-return]
            str(weights_dir), config=config, use_safetensors=True, **local, **extra
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if "can't allocate memory" in str(error) or out_of_space(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{place} holds no model that can be read: {reason} Delete it and run `dvc checkout {place}`."
        ) from error
