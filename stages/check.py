"""Check all that people write by hand (params, catalog, published numbers) before any work starts.

Run as: python -m stages.check

It leaves the catalog's entries of this experiment in data/checked/, for the stages below: a
dependency on the whole of catalog.yaml would run a download again for a change of any entry. The
pins stand apart, for the trainings: a new source of the same bytes is no reason to train again.
"""

from collections.abc import Mapping
from pathlib import Path

from reproduce.command import command_line, run_command
from reproduce.files import UserError, output_directory, write_json
from reproduce.inputs import catalog
from reproduce.params import PARAMS, Finetune, Params, read_yaml, validate
from reproduce.training.recipe import count_steps, read_recipe
from reproduce.verdict.published import PUBLISHED, Published

TAKEN = {"dataset", "seeds", "verdicts"}  # in data/checked/pins and metrics/accuracy.json


def check_inputs() -> tuple[catalog.Dataset, dict[str, catalog.Model]]:
    """Raise `UserError` for the first input that cannot be worked with.

    Returns:
        the catalog's entries of this experiment: its dataset; by name, its models and those that
        are only benchmarked.
    """
    data = read_yaml(PARAMS)
    params = validate(Params, data, f"{PARAMS}:")
    dataset = catalog.read_dataset(params.dataset)
    holdout, rows = params.selection.holdout, dataset.train.rows
    if rows and holdout >= rows:
        raise UserError(f"{PARAMS}: selection.holdout {holdout}: train has {rows} rows in all.")
    benchmarked = params.benchmark.models
    models = {name: catalog.read_model(name) for name in [*params.models, *benchmarked]}
    if taken := TAKEN & set(models):
        raise UserError(
            f"{PARAMS}: no model can be called {min(taken)}, as something of ours is. Give it "
            f"another name, here and in {catalog.CATALOG}."
        )
    for name in params.models:
        recipe = read_recipe(name, data)
        if rows:
            trained = min(rows - holdout, params.selection.train or rows)
            count_steps(trained, recipe)
        if name not in benchmarked:
            raise UserError(
                f"{PARAMS}: benchmark.models lacks {name}, which `models` names. Add it there: its "
                "tokenizer and config are downloaded for both."
            )
    known = validate(catalog.Catalog, read_yaml(catalog.CATALOG), f"{catalog.CATALOG}:")
    for role in ("teacher", "student"):
        _refuse_unknown(f"{PARAMS}: compare.{role}", getattr(params.compare, role), known.models)
    for section, entries in (("tasks", known.datasets), ("overrides", known.models)):
        for name, changes in data[section].items():  # those of other experiments too
            _refuse_unknown(f"{PARAMS}: {section}.{name}", name, entries)
            merged = data["finetune"] | changes
            validate(Finetune, merged, f"{PARAMS}: finetune with {section}.{name}")
    published = validate(Published, read_yaml(PUBLISHED), f"{PUBLISHED}:")
    for row in published.results:
        if row.model:
            _refuse_unknown(f"{PUBLISHED}: results, model", row.model, known.models)
    return dataset, models


def _refuse_unknown(place: str, name: str, known: Mapping[str, object]) -> None:
    if name not in known:
        raise UserError(
            f"{place}: {catalog.CATALOG} has no {name}, it has "
            f"{', '.join(sorted(known))}. Correct it or remove it."
        )


def main() -> None:
    """Write data/checked/: dataset.json, models/MODEL.json, and the sha256 of both in pins/."""
    command_line(__doc__).parse_args()
    dataset, models = check_inputs()
    entries: dict[Path, catalog.Dataset | catalog.Model] = {catalog.DATASET_ENTRY: dataset}
    entries |= {catalog.MODEL_ENTRIES / f"{name}.json": model for name, model in models.items()}
    with output_directory(catalog.CHECKED) as out:
        for path, entry in entries.items():
            place = out / path.relative_to(catalog.CHECKED)
            write_json(place, entry.model_dump(mode="json", exclude_none=True))
            write_json(out / catalog.PINS.name / path.name, catalog.digests(entry.pins()))
    print(f"{PARAMS}, {catalog.CATALOG} and {PUBLISHED} are fine")


if __name__ == "__main__":
    run_command(main)
