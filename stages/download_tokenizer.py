"""Download a model's config and tokenizer (under 1 MB): tokenising and benchmarking need no more.

Run as: python -m stages.download_tokenizer --model distilbert
"""

import argparse
from pathlib import Path

from reproduce.command import run_command
from reproduce.files import output_directory
from reproduce.inputs.catalog import read_model
from reproduce.inputs.fetch import fetch


def main() -> None:
    """Write models/tokenizers/MODEL/."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a name from catalog.yaml")
    name = parser.parse_args().model
    model = read_model(name)
    with output_directory(Path("models/tokenizers") / name) as out:
        fetch("model", model.sources, model.tokenizer, out)
    print(f"models/tokenizers/{name}: {', '.join(sorted(model.tokenizer))}")


if __name__ == "__main__":
    run_command(main)
