"""Check all that people write by hand (params.yaml, catalog.yaml, published.yaml) before any work starts.

Run as: python -m stages.check

It leaves the catalog's entries of this experiment in data/checked/, for the stages below: a
dependency on the whole of catalog.yaml would run a download again for a change of any entry. The
pins stand apart, for the trainings: a new source of the same bytes is no reason to train again.
"""

import argparse

from reproduce.command import run_command
from reproduce.files import UserError, output_directory, write_json
from reproduce.inputs.catalog import (
    CATALOG,
    CHECKED,
    DATASET_ENTRY,
    MODEL_ENTRIES,
    PINS,
    Catalog,
    digests,
    read_model,
    read_pinned_dataset,
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


def check_inputs() -> None:
    """Raise `UserError` for the first input that cannot be worked with; return silently when all is well."""
    params = read_yaml(PARAMS)
    known = [*Experiment.model_fields, *SECTIONS, "tasks", "overrides"]
    if unknown := [key for key in params if key not in known]:
        raise UserError(
            f"{PARAMS}: {unknown[0]}: unknown section. Known: {', '.join(known)}. Correct the spelling or remove it."
        )
    if missing := [key for key in known if key not in params]:
        raise UserError(
            f"{PARAMS}: {missing[0]} is missing. Add it; the default file is in git (`git show HEAD:{PARAMS}`)."
        )
    experiment = read_experiment()
    for name, schema in SECTIONS.items():
        validate(schema, params[name], f"{PARAMS}: {name}")
    read_pinned_dataset(experiment.dataset)
    for model in experiment.models:
        read_model(model)
        read_recipe(model, params)
    catalog = validate(Catalog, read_yaml(CATALOG), f"{CATALOG}:")
    for section, names in (("tasks", catalog.datasets), ("overrides", catalog.models)):
        for name, changes in params[section].items():  # those of other experiments too
            if name not in names:
                raise UserError(
                    f"{PARAMS}: {section}.{name}: {CATALOG} knows {', '.join(sorted(names))}. Correct or remove it."
                )
            if not isinstance(changes, dict):
                raise UserError(
                    f"{PARAMS}: {section}.{name}: expected a mapping, found {changes!r}. Write {{}} for no change."
                )
            validate(
                Finetune,
                {**params["finetune"], **changes},
                f"{PARAMS}: finetune with {section}.{name}",
            )
    validate(Published, read_yaml(PUBLISHED), f"{PUBLISHED}:")


def main() -> None:
    """Write data/checked/dataset.json and data/checked/models/MODEL.json, and their pins in data/checked/pins/."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    check_inputs()
    experiment = read_experiment()
    with output_directory(CHECKED) as out:
        dataset = read_pinned_dataset(experiment.dataset)
        write_entry(out / DATASET_ENTRY.name, dataset)
        write_json(out / PINS.name / "dataset.json", digests(dataset.pins()))
        for name in experiment.models:
            model = read_model(name)
            write_entry(out / MODEL_ENTRIES.name / f"{name}.json", model)
            write_json(out / PINS.name / f"{name}.json", digests(model.tokenizer | model.weights))
    print(f"{PARAMS}, {CATALOG} and {PUBLISHED} are fine")


if __name__ == "__main__":
    run_command(main)
