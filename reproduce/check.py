"""Check all that people write by hand (params.yaml, catalog.yaml, published.yaml) before any work starts.

Run as: python -m reproduce.check        (every stage does it by itself when it starts)
"""

import sys

from reproduce.catalog import CATALOG, Catalog, read_model, read_pinned_dataset
from reproduce.claims import Compare
from reproduce.params import PARAMS, Experiment, Section, read_experiment, read_yaml, validate
from reproduce.published import PUBLISHED, Published
from reproduce.stage import UserError
from stages.benchmark import Benchmark
from stages.download_dataset import Selection
from stages.evaluate import Evaluate
from stages.export import Export
from stages.finetune import Finetune, Machine, read_finetune
from stages.tokenize import Tokenize

SECTIONS: dict[str, type[Section]] = {
    "selection": Selection,
    "tokenize": Tokenize,
    "finetune": Finetune,
    "machine": Machine,
    "evaluate": Evaluate,
    "export": Export,
    "benchmark": Benchmark,
    "compare": Compare,
}


def check_inputs() -> None:
    """Raise `UserError` for the first input that cannot be worked with; return silently when all is well."""
    params = read_yaml(PARAMS)
    known = [*Experiment.model_fields, *SECTIONS, "tasks", "overrides"]
    if unknown := [key for key in params if key not in known]:
        raise UserError(f"{PARAMS}: {unknown[0]}: unknown section. Known: {', '.join(known)}. Correct the spelling or remove it.")
    if missing := [key for key in known if key not in params]:
        raise UserError(f"{PARAMS}: {missing[0]} is missing. Add it; the default file is in git (`git show HEAD:{PARAMS}`).")
    experiment = read_experiment()
    for name, schema in SECTIONS.items():
        validate(schema, params[name], f"{PARAMS}: {name}")
    read_pinned_dataset(experiment.dataset)
    for model in experiment.models:
        read_model(model)
        read_finetune(model)
    catalog = validate(Catalog, read_yaml(CATALOG), f"{CATALOG}:")
    for section, names in (("tasks", catalog.datasets), ("overrides", catalog.models)):
        for name, changes in params[section].items():  # those of other experiments too
            if name not in names:
                raise UserError(f"{PARAMS}: {section}.{name}: {CATALOG} knows {', '.join(sorted(names))}. Correct or remove it.")
            if not isinstance(changes, dict):
                raise UserError(f"{PARAMS}: {section}.{name}: expected a mapping, found {changes!r}. Write {{}} for no change.")
            validate(Finetune, {**params["finetune"], **changes}, f"{PARAMS}: finetune with {section}.{name}")
    validate(Published, read_yaml(PUBLISHED), f"{PUBLISHED}:")


if __name__ == "__main__":
    try:
        check_inputs()
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"{PARAMS}, {CATALOG} and {PUBLISHED} are fine")
