"""Compare the runs that params.yaml names with each other and with what others published.

Run as: python -m stages.compare

It reads what is in git: predictions/ and metrics/speed.json. A run without a result of today's
recipe is "not run", with its name and the reason.
"""

import csv
import io
from collections import Counter
from pathlib import Path
from typing import Any

from reproduce.command import command_line, go_offline, run_command
from reproduce.files import write_json, write_text
from reproduce.verdict.claims import judge
from reproduce.verdict.evidence import Evidence, read_evidence
from reproduce.verdict.published import in_language
from reproduce.verdict.runs import NotRun, by_device, done
from reproduce.verdict.statistics import NOT_RUN, REPRODUCED
from reproduce.verdict.tables import results

METRICS, PLOTS = Path("metrics"), Path("plots")
RESULTS = {"en": METRICS / "results.md", "pt": METRICS / "results.pt-BR.md"}


def main() -> None:
    """Write metrics/{accuracy,claims}.json, metrics/results.md, its translation, and plots/."""
    command_line(__doc__).parse_args()
    go_offline()
    evidence = read_evidence()
    claims = judge(evidence)
    accuracy = summarize(evidence, claims)
    write_json(METRICS / "claims.json", claims)
    write_json(METRICS / "accuracy.json", accuracy)
    for language, path in RESULTS.items():
        medians = medians_text(evidence, language)
        write_text(path, results(claims, medians, evidence.published, language))
    for name, rows in (("score_by_seed", scores), ("loss", losses), ("confusion", confusion)):
        write_text(PLOTS / f"{name}.csv", as_csv(rows(evidence)))
    for missing in claims["not_run"]:
        if missing["detail"]:
            print(f"{missing['run']}: not run ({missing['why']}): {missing['detail']}")
    ran, asked = len(list(done(evidence.runs))), sum(map(len, evidence.runs.values()))
    medians = medians_text(evidence, "en") or "no run"
    print(f"metrics/accuracy.json: {ran} of {asked} runs, {medians}. "
          f"metrics/claims.json: {', '.join(accuracy['verdicts'])}")  # fmt: skip


def summarize(evidence: Evidence, claims: dict[str, Any]) -> dict[str, Any]:
    """All of metrics/accuracy.json. DVC makes a column of each number and text, of lists none.

    A column's key has a space in it where it is no model's name.
    """
    columns: dict[str, Any] = {}
    seeds = []
    for model, by_seed in evidence.runs.items():
        median, found = evidence.median(model), evidence.scores(model)
        columns[model] = NOT_RUN if median is None else round(median, 2)
        for seed, run in by_seed.items():
            value = str(run) if isinstance(run, NotRun) else "not defined"
            seeds.append(f"{model}-{seed}: {f'{found[seed]:.2f}' if seed in found else value}")
    verdicts = {name: claim["verdict"] for name, claim in claims["claims"].items()}
    reproduced = sum(verdict == REPRODUCED for verdict in verdicts.values())
    student, teacher = evidence.settings.student, evidence.settings.teacher
    ratio = evidence.median(student, teacher)
    speed = (evidence.speed or {"models": {}})["models"].get(student, {})
    return columns | {
        "claims reproduced": f"{reproduced} of {len(verdicts)}",
        "retention %": NOT_RUN if ratio is None else round(ratio, 2),
        "scored by": f"{evidence.metric} x 100, {evidence.split}",
        "seeds": seeds,
        "speed-up of student": speed.get("speedup", NOT_RUN),
        "verdicts": [f"{name}: {verdict}" for name, verdict in verdicts.items()],
    }


def medians_text(evidence: Evidence, language: str) -> str:
    """The models' medians in a line, n the number of seeds: bert 92.55 (n = 5)."""
    parts = []
    for model in evidence.runs:
        if found := evidence.scores(model):
            median = in_language(evidence.median(model), language)
            kinds = [kind for kind, _ in by_device(evidence.of_model(model).values())]
            devices = f", {' + '.join(kinds)}" if kinds[1:] else ""
            parts.append(f"{model} {median} (n = {len(found)}{devices})")
    return ", ".join(parts)


# --- what `dvc plots show` draws, one chart a file: rows, the first its head ----------------------

Rows = list[list[Any]]


def scores(evidence: Evidence) -> Rows:
    """A line a run: its score times 100, its interval over sentences, what was published."""
    rows: Rows = [["model", "seed", "score", "low", "high", "published"]]
    for model in evidence.runs:
        row = evidence.published.row(model, evidence.dataset, evidence.split)
        for seed, score in evidence.scores(model).items():
            interval = evidence.over_sentences([evidence.of_model(model)[seed]]) or ("", "")
            numbers = (score, *interval, row.score if row else "")
            rows.append([model, seed, *(n if n == "" else f"{n:.2f}" for n in numbers)])
    return rows


def losses(evidence: Evidence) -> Rows:
    """The training curves of all runs."""
    rows: Rows = [["model", "seed", "step", "loss"]]
    for run in done(evidence.runs):
        path = Path("curves") / f"{run.name}.tsv"
        points = path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else []
        rows += ([run.model, run.seed, *point.split("\t")] for point in points)
    return rows


def confusion(evidence: Evidence) -> Rows:
    """Counts by label and answer, the seeds added up; nothing where labels are numbers."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for run in done(evidence.runs):
        for label, answers in run.measured.get("confusion", {}).items():
            counts.update({(run.model, label, answer): n for answer, n in answers.items()})
    return [["model", "label", "answer", "count"], *([*key, n] for key, n in counts.items())]


def as_csv(rows: Rows) -> str:
    """The rows as CSV; an empty one if there is but a head, for of that DVC warns."""
    text = io.StringIO()
    empty = [[""] * len(rows[0])] if len(rows) == 1 else []
    csv.writer(text, lineterminator="\n").writerows([*rows, *empty])
    return text.getvalue()


if __name__ == "__main__":
    run_command(main)
