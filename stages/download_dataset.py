"""Download the dataset of params.yaml, verify it, write it to data/raw as GLUE's own TSV files.

Run as: python -m stages.download_dataset
"""

import argparse
import tempfile
from pathlib import Path

from reproduce.command import run_command
from reproduce.files import output_directory, write_json
from reproduce.inputs.canonical import canonical_tsv, hold_out
from reproduce.inputs.catalog import Dataset, Task, read_dataset
from reproduce.inputs.fetch import fetch
from reproduce.inputs.sentences import DESCRIPTION, read_tsv, to_tsv
from reproduce.params import Selection, read_experiment, read_section

RAW = Path("data/raw")


def main() -> None:
    """Write data/raw/SPLIT.tsv for each split, and data/dataset.json, which describes them."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    name = read_experiment().dataset
    dataset = read_dataset(name)
    selection = read_section("selection", Selection)
    held_out = selection.holdout > 0
    sizes = {}
    with tempfile.TemporaryDirectory() as scratch, output_directory(RAW) as out:
        fetch("dataset", dataset.sources, dataset.pins(), Path(scratch))
        for split, entry in dataset.splits().items():
            hidden = split.startswith("test")
            file = Path(scratch) / entry.file
            data, sizes[split] = canonical_tsv(file, entry, dataset, hidden)
            (out / f"{split}.tsv").write_bytes(data)
        if held_out:
            sizes |= hold_out_of_train(out, dataset, selection)
            if sizes.pop("validation_mismatched", None):  # no part of train
                (out / "validation_mismatched.tsv").unlink()
    task = dataset.model_dump(include=set(Task.model_fields))
    validation = "held out of train" if held_out else "validation"
    described = {"dataset": name, "splits": list(sizes), "validation": validation, **task}
    write_json(DESCRIPTION, described)
    rows = ", ".join(f"{split} {n:,}" for split, n in sizes.items())
    note = ", validation held out of train (selection.holdout)" if held_out else ""
    print(f"{RAW}: {name}, {rows} sentences{note}")


def hold_out_of_train(folder: Path, dataset: Dataset, selection: Selection) -> dict[str, int]:
    """Put held-out sentences in the place of the validation set; the two splits' new sizes."""
    train = read_tsv(folder / "train.tsv", dataset.label_values, dataset.columns)
    sizes = {}
    for split, part in zip(("train", "validation"), hold_out(*train, selection), strict=True):
        (folder / f"{split}.tsv").write_bytes(to_tsv(*part, dataset.columns))
        sizes[split] = len(part[0])
    return sizes


if __name__ == "__main__":
    run_command(main)
