"""Tokenise data/raw with a model's fast tokenizer; no padding is stored.

Run as: python -m stages.tokenize_text --model distilbert
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce.command import go_offline, run_command
from reproduce.files import output_directory, read_json, write_json
from reproduce.inputs.sentences import read_about, read_tsv
from reproduce.inputs.tokenizer import length_summary, load_tokenizer, tokenize_split
from reproduce.params import Tokenize, read_section

if TYPE_CHECKING:
    pass

RAW = Path("data/raw")


def main() -> None:
    """Write data/tokenized/MODEL/SPLIT.parquet and summary.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a name from catalog.yaml")
    model = parser.parse_args().model
    params = read_section("tokenize", Tokenize)
    about = read_about()
    go_offline()
    directory = Path("models/tokenizers") / model
    tokenizer = load_tokenizer(directory)
    # Not asked of the tokenizer: DistilBERT's gives token types, which the model does not have.
    token_types = (
        read_json(directory / "config.json", "Run `dvc repro download_tokenizer`.").get(
            "type_vocab_size", 0
        )
        > 1
    )
    summary = {}
    with output_directory(Path("data/tokenized") / model) as out:
        for split in about.splits:
            hidden = split.startswith("test")
            texts, labels = read_tsv(
                RAW / f"{split}.tsv", None if hidden else about.label_values, about.columns
            )
            dataset = tokenize_split(
                tokenizer, texts, labels, about.labels, params.max_length, token_types
            )
            dataset.to_parquet(str(out / f"{split}.parquet"))
            summary[split] = length_summary(dataset, params.max_length)
        write_json(out / "summary.json", summary)
    text = "; ".join(
        f"{s} mean {v['mean']}, p99 {v['p99']}, max {v['max']}" for s, v in summary.items()
    )
    print(f"data/tokenized/{model}: tokens a sentence: {text}")


if __name__ == "__main__":
    run_command(main)
