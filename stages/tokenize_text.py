"""Tokenise data/raw with a model's fast tokenizer; no padding is stored.

Run as: python -m stages.tokenize_text --model distilbert
"""

from pathlib import Path

from reproduce.command import command_line, go_offline, run_command
from reproduce.files import output_directory, write_json
from reproduce.inputs.sentences import read_raw_data, read_tsv
from reproduce.inputs.tokenized import TOKENIZED
from reproduce.inputs.tokenizer import (
    length_summary,
    load_tokenizer,
    read_config,
    refuse_unfit,
    tokenize_split,
)
from reproduce.params import Tokenize, read_section

RAW = Path("data/raw")


def main() -> None:
    """Write data/tokenized/MODEL/SPLIT.parquet and summary.json."""
    parser = command_line(__doc__)
    parser.add_argument("--model", required=True, help="a name from catalog.yaml")
    model = parser.parse_args().model
    max_length = read_section("tokenize", Tokenize).max_length
    dataset = read_raw_data()
    go_offline()
    directory = Path("models/tokenizers") / model
    tokenizer = load_tokenizer(directory)
    refuse_unfit(tokenizer, directory, max_length)
    # Not asked of the tokenizer: DistilBERT's gives token types, which the model does not have.
    token_types = getattr(read_config(directory), "type_vocab_size", 0) > 1
    summary = {}
    with output_directory(TOKENIZED / model) as out:
        for split in dataset.splits:
            values = None if split.startswith("test") else dataset.label_values
            texts, labels = read_tsv(RAW / f"{split}.tsv", values, dataset.columns)
            tokenized = tokenize_split(
                tokenizer, texts, labels, dataset.labels, max_length, token_types
            )
            tokenized.to_parquet(str(out / f"{split}.parquet"))
            summary[split] = length_summary(tokenized, max_length)
        write_json(out / "summary.json", summary)
    lengths = (f"{s} mean {v['mean']}, p99 {v['p99']}, max {v['max']}" for s, v in summary.items())
    print(f"{TOKENIZED / model}: tokens a sentence: {'; '.join(lengths)}")


if __name__ == "__main__":
    run_command(main)
