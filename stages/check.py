"""Check all that people write by hand (params, catalog, published numbers) before any work starts.

Run as: python -m stages.check

It leaves the catalog's entries of this experiment in data/checked/, for the stages below: a
dependency on the whole of catalog.yaml would run a download again for a change of any entry. The
pins stand apart, for the trainings: a new source of the same bytes is no reason to train again.
"""

import argparse
from collections.abc import Mapping

from reproduce.command import run_command
from reproduce.files import UserError, output_directory, write_json
from reproduce.inputs.catalog import (
    CATALOG,
    CHECKED,
    DATASET_ENTRY,
    MODEL_ENTRIES,
    PINS,
    Catalog,
    Dataset,
    Model,
    digests,
    read_dataset,
    read_model,
    write_entry,
)
from reproduce.params import PARAMS, Finetune, Params, read_yaml, validate
from reproduce.training.recipe import read_recipe
from reproduce.verdict.published import PUBLISHED, Published


def check_inputs() -> tuple[Dataset, dict[str, Model]]:
    """Raise `UserError` for the first input that cannot be worked with.

    Returns:
        the catalog's entries of this experiment: its dataset; by name, its models and those that
        are only benchmarked.
    """
    data = read_yaml(PARAMS)
    params = validate(Params, data, f"{PARAMS}:")
    dataset = read_dataset(params.dataset)
    benchmarked = params.benchmark.models
    models = {name: read_model(name) for name in [*params.models, *benchmarked]}
    for name in params.models:
        read_recipe(name, data)
        if name not in benchmarked:
            raise UserError(
                f"{PARAMS}: benchmark.models lacks {name}, which `models` names. Add it there: its "
                "tokenizer and config are downloaded for both."
            )
    catalog = validate(Catalog, read_yaml(CATALOG), f"{CATALOG}:")
    for role in ("teacher", "student"):
        _refuse_unknown(f"compare.{role}", getattr(params.compare, role), catalog.models)
    for section, entries, known in (
        ("tasks", params.tasks, catalog.datasets),
        ("overrides", params.overrides, catalog.models),
    ):
        for name, changes in entries.items():  # those of other experiments too
            _refuse_unknown(f"{section}.{name}", name, known)
            merged = data["finetune"] | changes
            validate(Finetune, merged, f"{PARAMS}: finetune with {section}.{name}")
    validate(Published, read_yaml(PUBLISHED), f"{PUBLISHED}:")
    return dataset, models


def _refuse_unknown(place: str, name: str, known: Mapping[str, object]) -> None:
    if name not in known:
        listed = ", ".join(sorted(known))
        raise UserError(
            f"{PARAMS}: {place}: {CATALOG} has no {name}, it has {listed}. Correct it or remove it."
        )


def main() -> None:
    """Write data/checked/: dataset.json, models/MODEL.json, and the sha256 of both in pins/."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    dataset, models = check_inputs()
    with output_directory(CHECKED) as out:
        write_entry(out / DATASET_ENTRY.name, dataset)
        write_json(out / PINS.name / "dataset.json", digests(dataset.pins()))
        for name, model in models.items():
            write_entry(out / MODEL_ENTRIES.name / f"{name}.json", model)
            write_json(out / PINS.name / f"{name}.json", digests(model.tokenizer | model.weights))
    print(f"{PARAMS}, {CATALOG} and {PUBLISHED} are fine")


if __name__ == "__main__":
    run_command(main)
