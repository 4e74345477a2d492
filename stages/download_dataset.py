"""Download the dataset of params.yaml, verify it, write it to data/raw as GLUE's own TSV files.

Run as: python -m stages.download_dataset
"""

import tempfile
from pathlib import Path

from reproduce.command import command_line, run_command
from reproduce.files import output_directory, write_json
from reproduce.inputs.canonical import hold_out, read_split
from reproduce.inputs.catalog import Task, read_dataset
from reproduce.inputs.fetch import fetch
from reproduce.inputs.sentences import DESCRIPTION, to_tsv
from reproduce.params import Selection, read_experiment, read_section

RAW = Path("data/raw")


def main() -> None:
    """Write data/raw/SPLIT.tsv for each split, and data/dataset.json, which describes them."""
    command_line(__doc__).parse_args()
    name = read_experiment().dataset
    dataset = read_dataset(name)
    selection = read_section("selection", Selection)
    held_out = selection.holdout > 0
    with tempfile.TemporaryDirectory() as scratch, output_directory(RAW) as out:
        fetch("dataset", dataset.sources, dataset.pins(), Path(scratch))
        splits = {
            split: read_split(Path(scratch) / entry.file, entry, dataset, split.startswith("test"))
            for split, entry in dataset.splits().items()
        }
        if held_out:
            splits["train"], splits["validation"] = hold_out(*splits["train"], selection)
            splits.pop("validation_mismatched", None)  # no part of train
        for split, (texts, labels) in splits.items():
            shown = None if split.startswith("test") else labels
            (out / f"{split}.tsv").write_bytes(to_tsv(texts, shown, dataset.columns))
    task = dataset.model_dump(include=set(Task.model_fields))
    validation = "held out of train" if held_out else "validation"
    described = {"dataset": name, "splits": list(splits), "validation": validation, **task}
    write_json(DESCRIPTION, described)
    rows = ", ".join(f"{split} {len(texts):,}" for split, (texts, _) in splits.items())
    note = ", validation held out of train (selection.holdout)" if held_out else ""
    print(f"{RAW}: {name}, {rows} sentences{note}")


if __name__ == "__main__":
    run_command(main)
