"""Tokenise data/raw with a model's fast tokenizer; no padding is stored.

Run as: python -m stages.tokenize --model distilbert
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from reproduce.params import Section, read_section
from reproduce.sentences import read_about, read_tsv
from reproduce.stage import UserError, go_offline, output_directory, read_json, run_stage, write_json

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

RAW = Path("data/raw")


class Tokenize(Section):
    """Section `tokenize` of params.yaml."""

    max_length: Annotated[int, Field(ge=3, le=512)]  # [CLS], one token, [SEP] at least; 512 positions in BERT


def main() -> None:
    """Write data/tokenized/MODEL/SPLIT.parquet and summary.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a name from catalog.yaml")
    model = parser.parse_args().model
    params = read_section("tokenize", Tokenize)
    about = read_about()
    go_offline()
    directory = Path("models/tokenizers") / model
    tokenizer = load_tokenizer(directory)
    # Not asked of the tokenizer: DistilBERT's gives token types, which the model does not have.
    token_types = read_json(directory / "config.json", "Run `dvc repro download_tokenizer`.").get("type_vocab_size", 0) > 1
    summary = {}
    with output_directory(Path("data/tokenized") / model) as out:
        for split in about.splits:
            hidden = split.startswith("test")
            texts, labels = read_tsv(RAW / f"{split}.tsv", None if hidden else about.label_values, about.columns)
            dataset = tokenize_split(tokenizer, texts, labels, about.labels, params.max_length, token_types)
            dataset.to_parquet(str(out / f"{split}.parquet"))
            summary[split] = length_summary(dataset, params.max_length)
        write_json(out / "summary.json", summary)
    text = "; ".join(f"{s} mean {v['mean']}, p99 {v['p99']}, max {v['max']}" for s, v in summary.items())
    print(f"data/tokenized/{model}: tokens a sentence: {text}")


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

    lengths = np.concatenate([pyarrow.compute.list_value_length(c) for c in dataset.data.column("input_ids").chunks])
    return {
        "sentences": len(lengths),
        "tokens": int(lengths.sum()),
        "mean": round(float(lengths.mean()), 1),
        "median": float(np.median(lengths)),
        "p99": round(float(np.percentile(lengths, 99)), 1),
        "max": int(lengths.max()),
        "at_max_length": int((lengths == max_length).sum()),
    }


if __name__ == "__main__":
    run_stage(main)
