"""Logits of a fine-tuned model for tokenised sentences, with PyTorch."""

from pathlib import Path
from typing import TYPE_CHECKING

from reproduce.files import UserError

if TYPE_CHECKING:
    import torch


def predict_split(
    model_dir: Path, model: str, split: str, batch_size: int
) -> tuple["torch.Tensor", list[float], list[str]]:
    """Logits for a tokenised split, its labels, and the names of the classes (none if labels are numbers)."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(Path("data/tokenized") / model / f"{split}.parquet")
    types = table["token_type_ids"].to_pylist() if "token_type_ids" in table.column_names else None
    logits, label_names = predict(model_dir, table["input_ids"].to_pylist(), batch_size, types)
    return logits, table["label"].to_pylist(), label_names


def predict(
    model_dir: Path,
    token_ids: list[list[int]],
    batch_size: int,
    token_types: list[list[int]] | None = None,
) -> tuple["torch.Tensor", list[str]]:
    """Logits for tokenised sentences, in fp32 whatever the model was trained in.

    Args:
        token_ids: special tokens included, unpadded. Batches hold near lengths; the order of the result is that given.
        token_types: of pairs, for a model that tells their sentences apart by them; shaped like token_ids.

    Returns:
        logits, float32 tensor of shape (sentences, classes) on the CPU (one column if labels are numbers), and the names of
        the classes.
    """
    import torch
    from safetensors import SafetensorError
    from torch.nn.utils.rnn import pad_sequence
    from tqdm import tqdm
    from transformers import AutoModelForSequenceClassification

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            str(model_dir),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
        )
    except (OSError, ValueError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        name = f"finetune@{model_dir.name}"
        raise UserError(
            f"{model_dir} is no model: {reason} Delete it and run `dvc checkout {name}`."
        ) from error
    model.to(device).eval()
    pad_id = model.config.pad_token_id or 0
    logits = torch.empty(len(token_ids), model.config.num_labels)
    by_length = sorted(range(len(token_ids)), key=lambda i: len(token_ids[i]))
    with torch.inference_mode():
        for start in tqdm(range(0, len(by_length), batch_size), desc="evaluate", unit="batch"):
            chosen = by_length[start : start + batch_size]
            ids = [torch.tensor(token_ids[i]) for i in chosen]
            batch = pad_sequence(ids, batch_first=True, padding_value=pad_id).to(device)
            mask = pad_sequence([torch.ones_like(i) for i in ids], batch_first=True).to(device)
            types = {}
            if token_types:
                rows = [torch.tensor(token_types[i]) for i in chosen]
                types["token_type_ids"] = pad_sequence(rows, batch_first=True).to(device)
            logits[chosen] = (
                model(input_ids=batch, attention_mask=mask, **types).logits.float().cpu()
            )
    n_labels = model.config.num_labels
    return logits, [] if n_labels == 1 else [model.config.id2label[i] for i in range(n_labels)]
