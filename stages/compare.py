"""Compare the runs that params.yaml names with each other and with what others published.

Run as: python -m stages.compare
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.command import run_command
from reproduce.files import UserError, read_json, write_json, write_text
from reproduce.params import Compare, Experiment, read_experiment, read_section, read_yaml, validate
from reproduce.verdict.claims import NOT_RUN, claims_table, judge, paired_table
from reproduce.verdict.published import PUBLISHED, Published, Row, Table3
from reproduce.verdict.runs import (
    RUNS,
    Runs,
    gather,
    percent,
    read_run,
    scores_csv,
)

if TYPE_CHECKING:
    pass


def main() -> None:
    """Write metrics/accuracy.json, metrics/claims.json, report/comparison.md and plots/accuracy_by_seed.csv."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
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
        read_json(Path("metrics/speed.json"), "Run `dvc repro -f -s benchmark`.")
        if Path("metrics/speed.json").exists()
        else None
    )
    accuracy = compare(experiment, params, split, runs, published)
    evidence = gather(experiment, split, accuracy["metric"], runs, speed)
    claims = judge(evidence, published, params)
    write_text(Path("report/comparison.md"), markdown(accuracy, speed, published, params, claims))
    write_text(Path("plots/accuracy_by_seed.csv"), scores_csv(evidence, published, params))
    write_json(Path("metrics/claims.json"), claims)
    write_json(Path("metrics/accuracy.json"), accuracy)
    parts = [f"{m} {r['median']} % ({r['seeds_run']} of {len(experiment.seeds)} seeds)" if r["seeds_run"] else f"{m} {NOT_RUN}"
             for m, r in accuracy["models"].items()]  # fmt: skip
    verdicts = [f"{name} {claim['verdict']}" for name, claim in claims["claims"].items()]
    print(f"metrics/accuracy.json: {'; '.join(parts)}. metrics/claims.json: {', '.join(verdicts)}")


def compare(
    experiment: Experiment, params: Compare, split: str, runs: Runs, published: Published
) -> dict[str, Any]:
    """All of metrics/accuracy.json: scores times 100, rounded to 2 decimals, every requested run accounted for.

    Raises:
        UserError: the runs are over different numbers of sentences, or their scores are different metrics.
    """
    sizes: dict[int, str] = {}
    for model, by_seed in runs.items():
        for seed, run in by_seed.items():
            if run:
                sizes.setdefault(run["n"], f"{model}-{seed}")
    if len(sizes) > 1:
        found = ", ".join(f"{name} over {n}" for n, name in sorted(sizes.items()))
        raise UserError(
            f"{RUNS}: over different numbers of sentences ({found}). Run `dvc repro`, which evaluates all alike."
        )
    metrics = {
        run["metric"]: f"{model}-{seed}"
        for model, by_seed in runs.items()
        for seed, run in by_seed.items()
        if run
    }
    if len(metrics) > 1:
        found = ", ".join(f"{name} {metric}" for metric, name in sorted(metrics.items()))
        raise UserError(
            f"{RUNS}: scores of different metrics ({found}). Run `dvc repro`, which evaluates all alike."
        )
    theirs = {model: published.row(model, experiment.dataset, split) for model in experiment.models}
    models = {model: summarize(runs[model], theirs[model]) for model in experiment.models}
    return {
        "dataset": experiment.dataset,
        "split": split,
        "metric": next(iter(metrics), NOT_RUN),
        "sentences": next(iter(sizes), NOT_RUN),
        "models": models,
        "retention": retention(models, params),
    }


def summarize(by_seed: dict[int, dict[str, Any] | None], published: Row | None) -> dict[str, Any]:
    """One model's scores (times 100) over its seeds, beside the published value.

    `std` is the sample standard deviation (n - 1), null below two runs. `difference` is in points: median minus published.
    """
    done = [percent(run) for run in by_seed.values() if run]
    summary: dict[str, Any] = {
        "seeds_run": len(done),
        "by_seed": {
            str(seed): round(percent(run), 2) if run else NOT_RUN for seed, run in by_seed.items()
        },
        "correct_by_seed": {
            str(seed): run.get("correct") if run else NOT_RUN for seed, run in by_seed.items()
        },
        "median": round(statistics.median(done), 2) if done else NOT_RUN,
        "mean": round(statistics.mean(done), 2) if done else NOT_RUN,
        "std": round(statistics.stdev(done), 2) if len(done) > 1 else None,
        "min": round(min(done), 2) if done else NOT_RUN,
        "max": round(max(done), 2) if done else NOT_RUN,
    }
    if published:
        difference: float | str = (
            round(statistics.median(done) - published.score, 2) if done else NOT_RUN
        )
        summary["published"] = published.model_dump(
            include={"score", "metric", "split", "protocol", "source"}
        )
        summary["difference"] = difference
    return summary


def retention(models: dict[str, dict[str, Any]], params: Compare) -> dict[str, Any]:
    """The student's median in percent of the teacher's (the article's "97 %", which is over all of GLUE)."""

    def ratio(values: Sequence[Any]) -> float | str:
        return (
            round(100 * values[0] / values[1], 2)
            if all(isinstance(value, float) and value for value in values)
            else NOT_RUN
        )

    pair = [models.get(name, {}) for name in (params.student, params.teacher)]
    return {
        "student": params.student,
        "teacher": params.teacher,
        "measured": ratio([model.get("median") for model in pair]),
        "published": ratio([model.get("published", {}).get("score") for model in pair]),
    }


def markdown(
    accuracy: dict[str, Any],
    speed: dict[str, Any] | None,
    published: Published,
    params: Compare,
    claims: dict[str, Any],
) -> str:
    """The report: a verdict for each claim, then measured beside published, validation and test set never in one table."""
    dataset, split, kept = accuracy["dataset"], accuracy["split"], accuracy["retention"]
    comparable = (
        [row for row in published.results if row.dataset == dataset]
        if split == "validation"
        else []
    )
    validation, test = (
        [row for row in comparable if row.split == name] for name in ("validation", "test")
    )
    name = (
        "Accuracy"
        if accuracy["metric"] in ("accuracy", NOT_RUN)
        else accuracy["metric"].capitalize()
    )
    head = ["model", "accuracy, %" if name == "Accuracy" else f"{name} x 100", "how", "source"]
    lines = [
        f"# {dataset}: measured and published",
        "",
        "## The article's claims",
        "",
        *_table(claims_table(claims)),
        "",
    ]
    lines += [
        f"- {key}: {claim['rule']}. {claim.get('note', '')}".rstrip()
        for key, claim in claims["claims"].items()
    ]
    lines += ["", f"## {name}, {split} ({accuracy['sentences']} sentences)", ""]
    measured = [_measured_row(name, model) for name, model in accuracy["models"].items()]
    lines += [*_table([head, *measured, *map(_published_row, validation)]), ""]
    if not validation:
        why = (
            f"nobody published on {dataset}"
            if split == "validation"
            else "nobody published on this part of train"
        )
        lines += [f"No published numbers beside these: {why}.", ""]
    lines.append(
        f"{name} of {kept['student']} in percent of {kept['teacher']}'s: {kept['measured']}"
    )
    lines[-1] += f" (published: {kept['published']})." if kept["published"] != NOT_RUN else "."
    if isinstance(pair := claims["paired"]["retention"], dict) and pair["interval"]:
        lines[-1] += (
            f" {100 * claims['confidence']:g} % interval over {pair['over']}: {pair['interval'][0]} to {pair['interval'][1]}."
        )
    if tests := paired_table(claims):
        lines += ["", "On the same sentences, seed by seed:", "", *_table(tests)]
    if isinstance(most := claims["majority_class"], dict):
        lines += [
            "",
            f"Always answering label {most['label']}: accuracy {most['accuracy']} % ({most['count']} of {most['n']}).",
        ]
    if test:
        lines += ["", f"## {name}, test (published only)", ""]
        lines += [
            "GLUE keeps these labels, so nothing here is measured by us, and nothing is comparable with the table above.",
            "",
        ]
        lines += _table([head, *map(_published_row, test)])
    lines += [
        "",
        "## Size and speed",
        "",
        *(_speed_table(speed, published.table3, params.teacher) if speed else [NOT_RUN]),
        "",
    ]
    return "\n".join(lines)


def _measured_row(name: str, model: dict[str, Any]) -> list[str]:
    if not model["seeds_run"]:
        return [f"**{name}**", NOT_RUN, f"seeds {', '.join(model['by_seed'])}", "this run"]
    seeds = ", ".join(f"{seed}: {value}" for seed, value in model["by_seed"].items())
    how = f"median of {model['seeds_run']} seed(s) ({seeds})"
    if "difference" in model:
        how += f"; {model['difference']:+.2f} points against the published {model['published']['score']}"
    spread = f" ± {model['std']}" if model["std"] is not None else ""
    return [f"**{name}**", f"**{model['median']}**{spread}", how, "this run"]


def _speed_table(speed: dict[str, Any], table3: Table3, teacher: str) -> list[str]:
    """Parameters, bytes and latency at batch size 1, measured, beside the article's Table 3 where it has the model."""
    rows = [
        [
            "model",
            "parameters, M",
            "article",
            "MB on disk",
            "s a pass",
            "sentences/s",
            f"speed-up over {teacher}",
            "article",
        ]
    ]
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
    return [
        row.name + size,
        f"{row.score}",
        row.protocol + (f"; {row.note}" if row.note else ""),
        row.source,
    ]


def _table(rows: list[list[str]]) -> list[str]:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return [head, "|" + " --- |" * len(rows[0]), *body]


if __name__ == "__main__":
    run_command(main)
