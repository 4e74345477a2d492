"""Download a model's pretrained weights (safetensors only: a pickle could run code).

Run as: python -m stages.download_weights --model distilbert
"""

import argparse
from pathlib import Path

from reproduce.command import run_command
from reproduce.files import output_directory
from reproduce.inputs.catalog import read_model
from reproduce.inputs.fetch import fetch


def main() -> None:
    """Write models/weights/MODEL/."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a name from catalog.yaml")
    name = parser.parse_args().model
    model = read_model(name)
    with output_directory(Path("models/weights") / name) as out:
        fetch("model", model.sources, model.weights, out)
    size = sum(pin.bytes for pin in model.weights.values())
    print(f"models/weights/{name}: {size / 1e6:,.1f} MB")


if __name__ == "__main__":
    run_command(main)
