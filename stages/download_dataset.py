"""Download the dataset of params.yaml, verify it, and write it to data/raw as GLUE's own TSV files; say what it is beside them.

Run as: python -m stages.download_dataset
"""

import argparse
import tempfile
from pathlib import Path

from reproduce.command import run_command
from reproduce.files import output_directory, write_json
from reproduce.inputs.canonical import canonical_tsv, hold_out
from reproduce.inputs.catalog import read_pinned_dataset
from reproduce.inputs.fetch import fetch
from reproduce.inputs.sentences import ABOUT, read_tsv, to_tsv
from reproduce.params import Selection, read_experiment, read_section

RAW = Path("data/raw")


def main() -> None:
    """Write data/raw/SPLIT.tsv, for the splits that the dataset has and data/dataset.json."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    name = read_experiment().dataset
    dataset = read_pinned_dataset(name)
    selection = read_section("selection", Selection)
    with tempfile.TemporaryDirectory() as scratch, output_directory(RAW) as out:
        fetch("dataset", dataset.sources, dataset.pins(), Path(scratch))
        sizes = {}
        for split_name, split in dataset.splits().items():
            downloaded = Path(scratch) / split.file
            data, sizes[split_name] = canonical_tsv(
                downloaded, split, dataset, split_name.startswith("test")
            )
            (out / f"{split_name}.tsv").write_bytes(data)
        if selection.holdout:
            kept, held_out = hold_out(
                *read_tsv(out / "train.tsv", dataset.label_values, dataset.columns), selection
            )
            (out / "train.tsv").write_bytes(to_tsv(*kept, dataset.columns))
            (out / "validation.tsv").write_bytes(to_tsv(*held_out, dataset.columns))
            (out / "validation_mismatched.tsv").unlink(missing_ok=True)  # no part of train
            sizes.pop("validation_mismatched", None)
            sizes |= {"train": len(kept[0]), "validation": len(held_out[0])}
    about = dataset.model_dump(include={"columns", "labels", "scale", "metrics"})
    validation = "held out of train" if selection.holdout else "validation"
    write_json(ABOUT, {"dataset": name, "splits": list(sizes), "validation": validation, **about})
    held = ", validation held out of train (selection.holdout)" if selection.holdout else ""
    print(
        f"{RAW}: {name}, "
        + ", ".join(f"{split} {n:,}" for split, n in sizes.items())
        + " sentences"
        + held
    )


if __name__ == "__main__":
    run_command(main)
