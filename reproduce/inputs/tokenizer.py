"""Tokenise a split with a model's fast tokenizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.files import (
    UserError,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast


def load_tokenizer(directory: Path) -> "PreTrainedTokenizerFast":
    """The fast tokenizer in `directory`, from local files only; `UserError` if it has none."""
    from transformers import AutoTokenizer

    if not (directory / "tokenizer.json").is_file():
        raise UserError(f"{directory} has no tokenizer.json. Run `dvc repro download_tokenizer`.")
    return AutoTokenizer.from_pretrained(str(directory), local_files_only=True)  # type: ignore[no-any-return,return-value]


def tokenize_split(
    tokenizer: "PreTrainedTokenizerFast",
    texts: Sequence[str],
    labels: Sequence[float],
    label_names: Sequence[str],
    max_length: int,
    token_types: bool = False,
) -> "Dataset":
    """Tokenise one split in order.

    Args:
        texts: sentences, or pairs of them joined by a tab; of a pair too long, the longer sentence is cut first.
        token_types: the model tells the sentences of a pair apart by them.

    Returns:
        A dataset with `input_ids` (lists of int32, [CLS] ... [SEP], for a pair [CLS] ... [SEP] ... [SEP], cut at `max_length`,
        unpadded) and `label` (a ClassLabel that carries the names, -1 where hidden; float32 if there are no names). With
        `token_types` pairs also have `token_type_ids` (lists of int32, 0 for the first sentence, 1 for the second).
        No attention mask: without padding it is all ones.
    """
    from datasets import ClassLabel, Dataset, Features, List, Value
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()  # all of SST-2 takes seconds
    pairs = "\t" in texts[0]
    typed = pairs and token_types

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        sentences = [[text.split("\t")[i] for text in batch["text"]] for i in range(1 + pairs)]
        coded = tokenizer(*sentences, truncation=True, max_length=max_length, return_attention_mask=False,
                          return_token_type_ids=typed)  # fmt: skip
        return dict(coded)

    features = Features({"input_ids": List(Value("int32"))})
    if typed:
        features["token_type_ids"] = List(Value("int32"))
    features["label"] = ClassLabel(names=list(label_names)) if label_names else Value("float32")
    raw = Dataset.from_dict({"text": texts, "label": labels})
    # The fingerprint would otherwise be a hash of the tokenizer, which costs as much as tokenising; nothing is cached here.
    return raw.map(encode, batched=True, batch_size=10_000, remove_columns="text", features=features,
                   keep_in_memory=True, new_fingerprint="tokenized")  # fmt: skip


def length_summary(dataset: "Dataset", max_length: int) -> dict[str, float]:
    """Numbers of tokens a sentence, special tokens included: mean, median, 99th percentile, maximum; how many were cut.

    `at_max_length` counts sentences of exactly `max_length` tokens: those that were cut, and the rare one that just fits.
    """
    import numpy as np
    import pyarrow.compute

    lengths = np.concatenate(
        [pyarrow.compute.list_value_length(c) for c in dataset.data.column("input_ids").chunks]
    )
    return {
        "sentences": len(lengths),
        "tokens": int(lengths.sum()),
        "mean": round(float(lengths.mean()), 1),
        "median": float(np.median(lengths)),
        "p99": round(float(np.percentile(lengths, 99)), 1),
        "max": int(lengths.max()),
        "at_max_length": int((lengths == max_length).sum()),
    }
