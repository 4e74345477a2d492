"""Compare the runs that params.yaml names with each other and with what others published.

Run as: python -m stages.compare

It reads what is in git: predictions/ and metrics/speed.json. A run without a result of today's
recipe is "not run", with its name and the reason.
"""

import argparse
import csv
import io
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from reproduce.command import go_offline, run_command
from reproduce.files import read_json, write_json, write_text
from reproduce.inputs.catalog import read_dataset
from reproduce.params import PARAMS, Compare, read_section, read_yaml
from reproduce.verdict.claims import judge
from reproduce.verdict.evidence import Evidence
from reproduce.verdict.published import LANGUAGES, in_language, read_published
from reproduce.verdict.runs import NotRun, done, read_runs, split_of
from reproduce.verdict.statistics import NOT_RUN, REPRODUCED
from reproduce.verdict.tables import results

METRICS, PLOTS = Path("metrics"), Path("plots")
RESULTS = {"en": METRICS / "results.md", "pt": METRICS / "results.pt-BR.md"}
SPEED = METRICS / "speed.json"


def main() -> None:
    """Write metrics/{accuracy,claims}.json, metrics/results.md, its translation, and plots/."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    go_offline()
    evidence = gather(read_yaml(PARAMS), read_section("compare", Compare))
    claims, published = judge(evidence), evidence.published
    accuracy = summarize(evidence, claims)
    write_json(METRICS / "claims.json", claims)
    write_json(METRICS / "accuracy.json", accuracy)
    for language in LANGUAGES:
        medians = medians_text(evidence, language)
        write_text(RESULTS[language], results(claims, medians, published, language))
    write_text(PLOTS / "score_by_seed.csv", scores_csv(evidence))
    write_text(PLOTS / "loss.csv", loss_csv(evidence))
    write_text(PLOTS / "confusion.csv", confusion_csv(evidence))
    for missing in claims["not_run"]:
        if missing["detail"]:
            print(f"{missing['run']}: not run ({missing['why']}): {missing['detail']}")
    ran, asked = len(list(done(evidence.runs))), sum(map(len, evidence.runs.values()))
    medians = medians_text(evidence, "en") or "no run"
    print(f"metrics/accuracy.json: {ran} of {asked} runs, {medians}. "
          f"metrics/claims.json: {', '.join(accuracy['verdicts'])}")  # fmt: skip


def gather(params: dict[str, Any], settings: Compare) -> Evidence:
    """All that the verdicts rest on."""
    speed = read_json(SPEED, "Run `dvc repro -f -s benchmark`.") if SPEED.exists() else None
    dataset, published = params["dataset"], read_published()
    metric = read_dataset(dataset).metrics[0]
    runs, split = read_runs(params), split_of(params)
    return Evidence(dataset, split, metric, runs, speed, settings, published)


def summarize(evidence: Evidence, claims: dict[str, Any]) -> dict[str, Any]:
    """All of metrics/accuracy.json. DVC makes a column of each number and text, of lists none.

    A key has a space in it where it is no model's name.
    """
    columns: dict[str, Any] = {}
    scores = []
    for model, by_seed in evidence.runs.items():
        found = evidence.scores(model)
        columns[model] = round(statistics.median(found.values()), 2) if found else NOT_RUN
        for seed, run in by_seed.items():
            value = str(run) if isinstance(run, NotRun) else "not defined"
            value = f"{found[seed]:.2f}" if seed in found else value
            scores.append(f"{model}-{seed}: {value}")
    verdicts = {name: claim["verdict"] for name, claim in claims["claims"].items()}
    reproduced = sum(verdict == REPRODUCED for verdict in verdicts.values())
    student = (evidence.speed or {"models": {}})["models"].get(evidence.settings.student, {})
    return columns | {
        "claims reproduced": f"{reproduced} of {len(verdicts)}",
        "retention %": claims["paired"]["retention"],
        "scored by": f"{evidence.metric} x 100, {evidence.split}",
        "seeds": scores,
        "speed-up of student": student.get("speedup", NOT_RUN),
        "verdicts": [f"{name}: {verdict}" for name, verdict in verdicts.items()],
    }


def medians_text(evidence: Evidence, language: str) -> str:
    """The models' medians in a line, n the number of seeds: bert 92.55 (n = 5)."""
    parts = []
    for model in evidence.runs:
        if scores := evidence.scores(model):
            median = in_language(statistics.median(scores.values()), language)
            kinds = sorted({run.device for run in evidence.of_model(model).values()})
            devices = f", {' + '.join(kinds)}" if kinds[1:] else ""
            parts.append(f"{model} {median} (n = {len(scores)}{devices})")
    return ", ".join(parts)


# --- what `dvc plots show` draws, one chart a file ------------------------------------------------


def scores_csv(evidence: Evidence) -> str:
    """A line a run: its score times 100, its interval over sentences, what was published."""
    rows: list[list[Any]] = [["model", "seed", "score", "low", "high", "published"]]
    for model, by_seed in evidence.runs.items():
        row = evidence.published.row(model, evidence.dataset, evidence.split)
        for seed, score in evidence.scores(model).items():
            alone = replace(evidence, runs={model: {seed: by_seed[seed]}})
            interval = alone.sentence_interval(model) or ("", "")
            numbers = (score, *interval, row.score if row else "")
            rows.append([model, seed, *(n if n == "" else f"{n:.2f}" for n in numbers)])
    return _csv(rows)


def loss_csv(evidence: Evidence) -> str:
    """The training curves of all runs: model, seed, step, loss."""
    rows: list[list[Any]] = [["model", "seed", "step", "loss"]]
    for run in done(evidence.runs):
        path = Path("curves") / f"{run.name}.tsv"
        if path.exists():
            points = path.read_text(encoding="utf-8").splitlines()[1:]
            rows += ([run.model, run.seed, *point.split("\t")] for point in points)
    return _csv(rows)


def confusion_csv(evidence: Evidence) -> str:
    """Counts by model, label and answer, the seeds added up; nothing where labels are numbers."""
    counts: dict[tuple[str, str, str], int] = {}
    for run in done(evidence.runs):
        for label, answers in run.measured.get("confusion", {}).items():
            for answer, count in answers.items():
                key = (run.model, label, answer)
                counts[key] = counts.get(key, 0) + count
    return _csv([["model", "label", "answer", "count"], *([*k, n] for k, n in counts.items())])


def _csv(rows: list[list[Any]]) -> str:
    text = io.StringIO()
    empty = [[""] * len(rows[0])] if len(rows) == 1 else []  # of a table with no row DVC warns
    csv.writer(text, lineterminator="\n").writerows([*rows, *empty])
    return text.getvalue()


if __name__ == "__main__":
    run_command(main)
