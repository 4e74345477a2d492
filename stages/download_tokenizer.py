"""Download a model's config and tokenizer files (under 1 MB): all that tokenising and benchmarking need.

Run as: python -m stages.download_tokenizer --model distilbert
"""

import argparse
from pathlib import Path

from reproduce.catalog import MODEL_ENTRIES, read_model, write_entry
from reproduce.fetch import fetch
from reproduce.stage import output_directory, run_stage


def main() -> None:
    """Write models/tokenizers/MODEL/, and the model's entry of catalog.yaml to models/entries/MODEL.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a name from catalog.yaml")
    name = parser.parse_args().model
    model = read_model(name)
    with output_directory(Path("models/tokenizers") / name) as out:
        fetch("model", model.sources, model.tokenizer, out)
    write_entry(MODEL_ENTRIES / f"{name}.json", model)
    print(f"models/tokenizers/{name}: {', '.join(sorted(model.tokenizer))}")


if __name__ == "__main__":
    run_stage(main)
