"""Logits of a fine-tuned model for tokenised sentences, with PyTorch: the one place for it."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.files import UserError
from reproduce.models.load import load_finetuned
from reproduce.training.devices import claim_gpu, deterministic, is_out_of_memory

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Rows = Sequence[Sequence[int]]


def predict(
    model_dir: Path, token_ids: Rows, batch_size: int, token_types: Rows | None = None,
    setting: str = "evaluate.batch_size in params.yaml",
) -> tuple["torch.Tensor", list[str]]:  # fmt: skip
    """Logits for tokenised sentences, in fp32 whatever the model was trained in.

    On a GPU it claims one, as a training does.

    Args:
        token_ids: special tokens included, unpadded.
        token_types: of pairs, for a model that tells their sentences apart by them.
        setting: what sets batch_size, for the message when memory runs out; "" if nothing does.

    Returns:
        float32 tensor of shape (sentences, classes) on the CPU (one column if labels are numbers),
        and the names of the classes ([] if labels are numbers).

    Raises:
        UserError: no model in `model_dir`, out of memory, or a logit that is not finite.
    """
    name = model_dir.name
    if not (model_dir / "model.safetensors").is_file():
        todo = f"Run `dvc repro finetune@{name}`, or `dvc pull finetune@{name}`."
        raise UserError(f"{model_dir} has no model.safetensors. {todo}")
    memory = explain_memory(batch_size, setting)
    with claim_gpu() as gpu, deterministic() as not_deterministic, memory:
        model = load_finetuned(model_dir)
        model.to("cuda" if gpu else "cpu")  # type: ignore[arg-type]
        logits = predict_padded(model, token_ids, batch_size, token_types)
    for operation in not_deterministic:
        print(f"warning: this device cannot repeat the prediction bit by bit: {operation}")
    if broken := int((~logits.isfinite()).any(dim=1).sum()):
        raise UserError(f"{model_dir} gives {broken} of {len(logits)} sentences a logit that is "
                        f"not finite. Run `dvc repro -fs finetune@{name}`.")  # fmt: skip
    names: Any = model.config.id2label
    return logits, [] if logits.shape[1] == 1 else [names[i] for i in range(logits.shape[1])]


@contextlib.contextmanager
def explain_memory(batch_size: int, setting: str) -> Iterator[None]:
    """Memory that runs out becomes a `UserError` that says what to change (see `predict`)."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not is_out_of_memory(error):
            raise
        todo = "Use a device with more memory: CUDA_VISIBLE_DEVICES= (empty) takes the CPU's."
        if setting and batch_size > 1:
            todo = f"Set {setting} to {batch_size // 2}."
        said = f"out of memory with {batch_size} sentence(s) at a time."
        raise UserError(f"{said} {todo}") from error


def predict_padded(
    model: "PreTrainedModel", token_ids: Rows, batch_size: int, token_types: Rows | None = None
) -> "torch.Tensor":
    """Logits of a loaded model, on the device where it lies; in the order given."""
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from tqdm import tqdm

    def pad(rows: Rows, value: int = 0) -> torch.Tensor:
        tensors = [torch.tensor(row) for row in rows]
        return pad_sequence(tensors, batch_first=True, padding_value=value).to(model.device)

    logits = torch.empty(len(token_ids), int(model.config.num_labels or 0))
    # Near lengths together; the longest first: what does not fit into memory does not at once.
    by_length = sorted(range(len(token_ids)), key=lambda i: -len(token_ids[i]))
    with torch.inference_mode():
        for start in tqdm(range(0, len(by_length), batch_size), desc="predict", unit="batch"):
            chosen = by_length[start : start + batch_size]
            ids = [token_ids[i] for i in chosen]
            inputs = {"input_ids": pad(ids, model.config.pad_token_id or 0)}
            inputs["attention_mask"] = pad([[1] * len(row) for row in ids])
            if token_types:
                inputs["token_type_ids"] = pad([token_types[i] for i in chosen])
            logits[chosen] = model(**inputs).logits.float().cpu()
    return logits
