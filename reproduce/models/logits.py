"""Logits of a fine-tuned model for tokenised sentences, with PyTorch: the one place for it."""

from collections.abc import Sequence
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
    setting: str = "evaluate.batch_size",
) -> tuple["torch.Tensor", list[str]]:  # fmt: skip
    """Logits for tokenised sentences, in fp32 whatever the model was trained in.

    On a GPU it claims one, as a training does.

    Args:
        token_ids: special tokens included, unpadded. Batches hold near lengths; the order of the
            result is that given.
        token_types: of pairs, for a model that tells their sentences apart by them.
        setting: what sets batch_size, for the message when memory runs out; "" if nothing does.

    Returns:
        float32 tensor of shape (sentences, classes) on the CPU (one column if labels are numbers),
        and the names of the classes ([] if labels are numbers).

    Raises:
        UserError: no model in `model_dir`, out of memory, or a logit that is not finite.
    """
    with claim_gpu() as gpu, deterministic() as not_deterministic:
        try:
            model = load_finetuned(model_dir)
            model.to("cuda" if gpu else "cpu")  # type: ignore[arg-type]
            logits = predict_padded(model, token_ids, batch_size, token_types)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            todo = "Use a device with more memory: CUDA_VISIBLE_DEVICES= (empty) takes the CPU's."
            if setting and batch_size > 1:
                todo = (
                    f"Set {setting} to {batch_size // 2} (params.yaml): the answers stay the same."
                )
            raise UserError(
                f"out of memory with {batch_size} sentence(s) at a time. {todo}"
            ) from error
    for operation in not_deterministic:
        print(f"warning: this device cannot repeat the prediction bit by bit: {operation}")
    if broken := int((~logits.isfinite()).any(dim=1).sum()):
        raise UserError(f"{model_dir} gives {broken} of {len(logits)} sentences a logit that is "
                        f"not finite. Run `dvc repro -fs finetune@{model_dir.name}`.")  # fmt: skip
    names: Any = model.config.id2label
    return logits, [] if logits.shape[1] == 1 else [names[i] for i in range(logits.shape[1])]


def predict_padded(
    model: "PreTrainedModel", token_ids: Rows, batch_size: int, token_types: Rows | None = None
) -> "torch.Tensor":
    """The same with a loaded model, on the device where it lies."""
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from tqdm import tqdm

    padding = {"input_ids": model.config.pad_token_id or 0}
    logits = torch.empty(len(token_ids), int(model.config.num_labels or 0))
    # The longest first: what does not fit into memory does not at once.
    by_length = sorted(range(len(token_ids)), key=lambda i: -len(token_ids[i]))
    with torch.inference_mode():
        for start in tqdm(range(0, len(by_length), batch_size), desc="predict", unit="batch"):
            chosen = by_length[start : start + batch_size]
            rows = {"input_ids": [torch.tensor(token_ids[i]) for i in chosen]}
            rows["attention_mask"] = [torch.ones_like(row) for row in rows["input_ids"]]
            if token_types:
                rows["token_type_ids"] = [torch.tensor(token_types[i]) for i in chosen]
            inputs = {
                name: pad_sequence(row, batch_first=True, padding_value=padding.get(name, 0))
                for name, row in rows.items()
            }
            on_device = {name: tensor.to(model.device) for name, tensor in inputs.items()}
            logits[chosen] = model(**on_device).logits.float().cpu()
    return logits
