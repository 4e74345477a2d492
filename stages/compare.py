"""Compare the runs that params.yaml names with each other and with what others published.

Run as: python -m stages.compare
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from reproduce.params import Experiment, Name, Section, read_experiment, read_section, read_yaml, validate
from reproduce.stage import UserError, output_directory, read_json, run_stage, write_json

PUBLISHED = Path("published.yaml")
RUNS = Path("metrics/runs")
NOT_RUN = "not run"


class Compare(Section):
    """Section `compare` of params.yaml."""

    teacher: Name
    student: Name


class Row(Section):
    """A published accuracy."""

    name: str
    dataset: Name
    split: Literal["validation", "test"]
    accuracy: Annotated[float, Field(gt=0, le=100)]  # percent
    protocol: str
    source: str
    model: Name | None = None  # our name for it, where we fine-tune the same checkpoint
    parameters: float | None = None  # millions
    note: str | None = None


class Table3(Section):
    """The article's Table 3."""

    source: str
    parameters: dict[Name, Annotated[float, Field(gt=0)]]  # millions
    seconds: dict[Name, Annotated[float, Field(gt=0)]]  # one pass over the STS-B dev set, CPU, batch size 1


class Published(Section):
    """The whole of published.yaml."""

    accuracy: tuple[Row, ...]
    table3: Table3


def main() -> None:
    """Write metrics/accuracy.json and report/comparison.md."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    experiment = read_experiment()
    params = read_section("compare", Compare)
    held_out = read_yaml(Path("params.yaml"))["selection"]["holdout"] > 0
    published = validate(Published, read_yaml(PUBLISHED), f"{PUBLISHED}:")
    split = "held out of train" if held_out else "validation"
    runs = {
        model: {seed: read_run(model, seed, experiment.dataset, split) for seed in experiment.seeds}
        for model in experiment.models
    }
    speed = (
        read_json(Path("metrics/speed.json"), "Run `dvc repro -f -s benchmark`.") if Path("metrics/speed.json").exists() else None
    )
    accuracy = compare(experiment, params, split, runs, published)
    with output_directory(Path("report")) as out:
        (out / "comparison.md").write_text(markdown(accuracy, speed, published, params), encoding="utf-8")
    write_json(Path("metrics/accuracy.json"), accuracy)
    parts = [f"{m} {r['median']} % ({r['seeds_run']} of {len(experiment.seeds)} seeds)" if r["seeds_run"] else f"{m} {NOT_RUN}"
             for m, r in accuracy["models"].items()]  # fmt: skip
    print("metrics/accuracy.json: " + "; ".join(parts))


def read_run(model: str, seed: int, dataset: str, split: str) -> dict[str, Any] | None:
    """The metrics of one run; None if it was not run. `UserError` if the file is no metrics of this experiment."""
    path = RUNS / f"{model}-{seed}.json"
    remedy = f"Delete it and run `dvc repro evaluate@{model}-{seed}`."
    if not path.exists():
        return None
    run = read_json(path, remedy)
    expected = {"dataset": dataset, "split": split, "model": model, "seed": seed}
    if not isinstance(run, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(run).__name__}. {remedy}")
    for key, value in expected.items():
        if run.get(key) != value:
            raise UserError(f"{path}: {key} is {run.get(key)!r}, expected {value!r}. {remedy}")
    if not (isinstance(run.get("n"), int) and isinstance(run.get("correct"), int) and 0 <= run["correct"] <= run["n"] > 0):
        raise UserError(f"{path}: correct {run.get('correct')!r} of n {run.get('n')!r} is no count. {remedy}")
    return run


def compare(
    experiment: Experiment, params: Compare, split: str,
    runs: dict[str, dict[int, dict[str, Any] | None]], published: Published,
) -> dict[str, Any]:  # fmt: skip
    """All of metrics/accuracy.json: accuracies in percent, rounded to 2 decimals, every requested run accounted for.

    Raises:
        UserError: the runs are over different numbers of sentences.
    """
    sizes: dict[int, str] = {}
    for model, by_seed in runs.items():
        for seed, run in by_seed.items():
            if run:
                sizes.setdefault(run["n"], f"{model}-{seed}")
    if len(sizes) > 1:
        found = ", ".join(f"{name} over {n}" for n, name in sorted(sizes.items()))
        raise UserError(f"{RUNS}: over different numbers of sentences ({found}). Run `dvc repro`, which evaluates all alike.")
    models = {}
    for model in experiment.models:
        theirs = next(
            (row for row in published.accuracy if (row.model, row.dataset, row.split) == (model, experiment.dataset, split)),
            None,
        )
        models[model] = summarize(runs[model], theirs)
    return {
        "dataset": experiment.dataset,
        "split": split,
        "sentences": next(iter(sizes), NOT_RUN),
        "models": models,
        "retention": retention(models, params),
    }


def summarize(by_seed: dict[int, dict[str, Any] | None], published: Row | None) -> dict[str, Any]:
    """One model's accuracies in percent over its seeds, beside the published value.

    `std` is the sample standard deviation (n - 1), null below two runs. `difference` is in points: median minus published.
    """
    done = [100 * run["correct"] / run["n"] for run in by_seed.values() if run]
    summary: dict[str, Any] = {
        "seeds_run": len(done),
        "by_seed": {str(seed): round(100 * run["correct"] / run["n"], 2) if run else NOT_RUN for seed, run in by_seed.items()},
        "correct_by_seed": {str(seed): run["correct"] if run else NOT_RUN for seed, run in by_seed.items()},
        "median": round(statistics.median(done), 2) if done else NOT_RUN,
        "mean": round(statistics.mean(done), 2) if done else NOT_RUN,
        "std": round(statistics.stdev(done), 2) if len(done) > 1 else None,
        "min": round(min(done), 2) if done else NOT_RUN,
        "max": round(max(done), 2) if done else NOT_RUN,
    }
    if published:
        difference: float | str = round(statistics.median(done) - published.accuracy, 2) if done else NOT_RUN
        summary["published"] = {"accuracy": published.accuracy, "split": published.split, "protocol": published.protocol,
                                "source": published.source}  # fmt: skip
        summary["difference"] = difference
    return summary


def retention(models: dict[str, dict[str, Any]], params: Compare) -> dict[str, Any]:
    """The student's median in percent of the teacher's (the article's "97 %", which is over all of GLUE)."""

    def ratio(values: Sequence[Any]) -> float | str:
        return round(100 * values[0] / values[1], 2) if all(isinstance(value, float) and value for value in values) else NOT_RUN

    pair = [models.get(name, {}) for name in (params.student, params.teacher)]
    return {
        "student": params.student,
        "teacher": params.teacher,
        "measured": ratio([model.get("median") for model in pair]),
        "published": ratio([model.get("published", {}).get("accuracy") for model in pair]),
    }


def markdown(accuracy: dict[str, Any], speed: dict[str, Any] | None, published: Published, params: Compare) -> str:
    """The report: what was measured beside what was published, validation and test set never in one table."""
    dataset, split, kept = accuracy["dataset"], accuracy["split"], accuracy["retention"]
    comparable = [row for row in published.accuracy if row.dataset == dataset] if split == "validation" else []
    validation, test = ([row for row in comparable if row.split == name] for name in ("validation", "test"))
    head = ["model", "accuracy, %", "how", "source"]
    lines = [f"# {dataset}: measured and published", "", f"## Accuracy, {split} ({accuracy['sentences']} sentences)", ""]
    measured = [_measured_row(name, model) for name, model in accuracy["models"].items()]
    lines += [*_table([head, *measured, *map(_published_row, validation)]), ""]
    if not validation:
        why = f"nobody published on {dataset}" if split == "validation" else "nobody published on this part of train"
        lines += [f"No published numbers beside these: {why}.", ""]
    lines.append(f"Accuracy of {kept['student']} in percent of {kept['teacher']}'s: {kept['measured']}")
    lines[-1] += f" (published: {kept['published']})." if kept["published"] != NOT_RUN else "."
    if test:
        lines += ["", "## Accuracy, test (published only)", ""]
        lines += [
            "GLUE keeps these labels, so nothing here is measured by us, and nothing is comparable with the table above.",
            "",
        ]
        lines += _table([head, *map(_published_row, test)])
    lines += ["", "## Size and speed", "", *(_speed_table(speed, published.table3, params.teacher) if speed else [NOT_RUN]), ""]
    return "\n".join(lines)


def _measured_row(name: str, model: dict[str, Any]) -> list[str]:
    if not model["seeds_run"]:
        return [f"**{name}**", NOT_RUN, f"seeds {', '.join(model['by_seed'])}", "this run"]
    seeds = ", ".join(f"{seed}: {value}" for seed, value in model["by_seed"].items())
    how = f"median of {model['seeds_run']} seed(s) ({seeds})"
    if "difference" in model:
        how += f"; {model['difference']:+.2f} points against the published {model['published']['accuracy']}"
    spread = f" ± {model['std']}" if model["std"] is not None else ""
    return [f"**{name}**", f"**{model['median']}**{spread}", how, "this run"]


def _speed_table(speed: dict[str, Any], table3: Table3, teacher: str) -> list[str]:
    """Parameters, bytes and latency at batch size 1, measured, beside the article's Table 3 where it has the model."""
    rows = [["model", "parameters, M", "article", "MB on disk", "s a pass", "sentences/s", f"speed-up over {teacher}", "article"]]
    for name, model in speed["models"].items():
        both = {name, teacher} <= table3.seconds.keys()
        rows.append([
            name,
            f"{model['parameters_encoder'] / 1e6:.1f}",
            f"{table3.parameters[name]:.0f}" if name in table3.parameters else "-",
            f"{model['bytes'] / 1e6:.1f}",
            f"{model['seconds']:.1f}",
            f"{model['sentences_per_second']:.1f}",
            str(model["speedup"]),
            f"{table3.seconds[teacher] / table3.seconds[name]:.2f}" if both else "-",
        ])  # fmt: skip
    machine = speed["environment"]
    note = (
        f"One pass over {speed['sentences']} validation sentences at batch size 1, fp32, {machine['cpu']}, {machine['threads']} "
        "thread(s), the models taking turns sentence by sentence. Parameters without the classification head, as the article "
        f"counts them. Article: {table3.source}, another processor and data set, so compare ratios only."
    )
    return [*_table(rows), "", note]


def _published_row(row: Row) -> list[str]:
    size = f" ({row.parameters:g} M)" if row.parameters else ""
    return [row.name + size, f"{row.accuracy}", row.protocol + (f"; {row.note}" if row.note else ""), row.source]


def _table(rows: list[list[str]]) -> list[str]:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return [head, "|" + " --- |" * len(rows[0]), *body]


if __name__ == "__main__":
    run_stage(main)
