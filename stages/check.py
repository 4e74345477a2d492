"""Check all that people write by hand (params, catalog, published numbers) before any work starts.

Run as: python -m stages.check

It leaves the catalog's entries of this experiment in data/checked/, for the stages below: a
dependency on the whole of catalog.yaml would run a download again for a change of any entry. The
pins stand apart, for the trainings: a new source of the same bytes is no reason to train again.
"""

import argparse
from collections.abc import Collection
from typing import Any

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
from reproduce.params import (
    PARAMS,
    SECTIONS,
    Experiment,
    Finetune,
    read_experiment,
    read_yaml,
    validate,
)
from reproduce.training.recipe import read_recipe
from reproduce.verdict.published import PUBLISHED, Published


def check_inputs() -> tuple[Dataset, dict[str, Model]]:
    """Raise `UserError` for the first input that cannot be worked with.

    Returns:
        the catalog's entries of this experiment: its dataset; by name, its models and those that
        are only benchmarked.
    """
    params = read_yaml(PARAMS)
    _refuse_sections(params)
    experiment = read_experiment()
    for name, schema in SECTIONS.items():
        validate(schema, params[name], f"{PARAMS}: {name}")
    dataset = read_dataset(experiment.dataset)
    benchmarked = params["benchmark"].get("models", experiment.models)
    models = {name: read_model(name) for name in [*experiment.models, *benchmarked]}
    for name in experiment.models:
        read_recipe(name, params)
        if name not in benchmarked:
            raise UserError(
                f"{PARAMS}: benchmark.models lacks {name}, which `models` names. Add it there: its "
                "tokenizer and config are downloaded for both."
            )
    catalog = validate(Catalog, read_yaml(CATALOG), f"{CATALOG}:")
    _check_changes(params, "tasks", catalog.datasets)
    _check_changes(params, "overrides", catalog.models)
    for role in ("teacher", "student"):
        if (name := params["compare"][role]) not in catalog.models:
            known = ", ".join(sorted(catalog.models))
            raise UserError(f"{PARAMS}: compare.{role}: {CATALOG} has no {name}, it has {known}.")
    validate(Published, read_yaml(PUBLISHED), f"{PUBLISHED}:")
    return dataset, models


def _refuse_sections(params: dict[str, Any]) -> None:
    known = [*Experiment.model_fields, *SECTIONS, "tasks", "overrides"]
    if unknown := [key for key in params if key not in known]:
        raise UserError(
            f"{PARAMS}: {unknown[0]}: unknown section. Known: {', '.join(known)}. Correct the "
            "spelling or remove it."
        )
    if missing := [key for key in known if key not in params]:
        raise UserError(
            f"{PARAMS}: {missing[0]} is missing. Add it; the default file is in git (`git show "
            f"HEAD:{PARAMS}`)."
        )


def _check_changes(params: dict[str, Any], section: str, names: Collection[str]) -> None:
    """Check `tasks` or `overrides`, those of other experiments too."""
    if not isinstance(params[section], dict):
        raise UserError(f"{PARAMS}: {section}: expected a mapping, found {params[section]!r}.")
    for name, changes in params[section].items():
        if name not in names:
            raise UserError(
                f"{PARAMS}: {section}.{name}: {CATALOG} knows {', '.join(sorted(names))}. Correct "
                "or remove it."
            )
        if not isinstance(changes, dict):
            raise UserError(
                f"{PARAMS}: {section}.{name}: expected a mapping, found {changes!r}. Write {{}} "
                "for no change."
            )
        merged = {**params["finetune"], **changes}
        validate(Finetune, merged, f"{PARAMS}: finetune with {section}.{name}")


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
