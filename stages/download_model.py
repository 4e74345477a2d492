"""Download a model's tokenizer with its config (under 1 MB), or its weights (safetensors only).

Run as: python -m stages.download_model --model distilbert --files tokenizer
"""

from pathlib import Path

from reproduce.command import command_line, run_command
from reproduce.files import output_directory
from reproduce.inputs.catalog import read_model
from reproduce.inputs.fetch import fetch

FOLDERS = {"tokenizer": Path("models/tokenizers"), "weights": Path("models/weights")}


def main() -> None:
    """Write models/tokenizers/MODEL/ or models/weights/MODEL/."""
    parser = command_line(__doc__)
    parser.add_argument("--model", required=True, help="a name from catalog.yaml")
    parser.add_argument("--files", required=True, choices=FOLDERS, help="which of the two")
    arguments = parser.parse_args()
    model = read_model(arguments.model)
    pins = model.tokenizer if arguments.files == "tokenizer" else model.weights
    folder = FOLDERS[arguments.files] / arguments.model
    with output_directory(folder) as out:
        fetch("model", model.sources, pins, out)
    size = sum(pin.bytes for pin in pins.values())
    print(f"{folder}: {', '.join(sorted(pins))} ({size / 1e6:,.1f} MB)")


if __name__ == "__main__":
    run_command(main)
