"""A verdict for each claim of the article: what was measured beside what was published.

The claims and their rules are in published.yaml, what they measure in evidence.py, the formulas in
statistics.py; stages/compare.py writes metrics/claims.json. A claim on scores where nothing was
published (the pocket corpus, sentences held out of train) does not apply and is left out; all
others are always there.
"""

from typing import Any

from reproduce.verdict.evidence import MEASURES, Evidence, Measured
from reproduce.verdict.published import Claim, Published
from reproduce.verdict.runs import Run
from reproduce.verdict.statistics import (
    INCONCLUSIVE,
    NOT_REPRODUCED,
    NOT_RUN,
    REPRODUCED,
    RULES,
    Interval,
    mcnemar,
)

MOST_SEEDS = 1000  # more than that counts as "no number of seeds"


def judge(evidence: Evidence, published: Published) -> dict[str, Any]:
    """All of metrics/claims.json."""
    claims = {}
    for name, claim in published.claims.items():
        if (measured := MEASURES[claim.measures](claim, evidence, published)) is not None:
            claims[name] = _entry(claim, measured, evidence, published)
    labels = evidence.labels
    return {
        "dataset": evidence.dataset,
        "split": evidence.split,
        "metric": evidence.metric,
        "sentences": NOT_RUN if labels is None else len(labels),
        "confidence": evidence.settings.confidence,
        "claims": claims,
        "paired": paired(evidence),
        "majority_class": majority_class(evidence),
        "not_run": [
            {"run": run.name, "why": run.why, "detail": run.detail}
            for by_seed in evidence.runs.values()
            for run in by_seed.values()
            if not isinstance(run, Run)
        ],
        "context": [
            row.model_dump(exclude_none=True, exclude={"dataset", "model", "parameters"})
            for row in published.results
            if row.dataset == evidence.dataset
        ],
    }


# --- the verdict ---------------------------------------------------------------------------------


def _entry(
    claim: Claim, measured: Measured, evidence: Evidence, published: Published
) -> dict[str, Any]:
    """One entry of `claims`. Every key is always there, null where there is no such thing."""
    digits = 3 if claim.unit == "ratio" else 2
    margin, value = claim.margin_on(evidence.dataset) or 0.0, measured.value
    verdict, remarks = decide(claim, measured, margin, evidence, published)
    title = published.titles.get(evidence.dataset, evidence.dataset)
    notes = [claim.note.fill()] if claim.note else []
    return {
        "statement": claim.statement.fill(published=measured.published, task=title),
        "models": list(claim.models),
        "unit": claim.unit,
        "source": claim.source,
        "published": measured.published,
        "measured": NOT_RUN if value is None else round(value, digits),
        "difference": NOT_RUN if value is None else round(value - measured.published, digits),
        "verdict": verdict,
        "rule": claim.rule if claim.measures != "nothing" else "nothing",
        "rule_text": rule_text(claim, measured, margin, evidence, published),
        "margin": margin,
        "interval": _interval_used(claim, measured, margin, evidence.settings.confidence),
        "interval_sentences": _rounded(measured.over_sentences),
        "repetitions": measured.repetitions,
        "by_repetition": measured.by_repetition,
        "done": measured.repeated,
        "requested": len(measured.by_repetition),
        "remarks": [*remarks, *measured.remarks, *notes],
        "files": ["published.yaml", *measured.files],
    }


def decide(
    claim: Claim, measured: Measured, margin: float, evidence: Evidence, published: Published
) -> tuple[str, list[dict[str, str]]]:
    """The verdict on a claim; if it is inconclusive, what would decide, in sentences."""
    if measured.value is None:
        return NOT_RUN, []
    if claim.rule == "exact":
        near = abs(measured.value - measured.published) <= margin
        return REPRODUCED if near else NOT_REPRODUCED, []
    if not measured.comparable:
        return INCONCLUSIVE, []
    words, remarks, confidence = published.words, [], evidence.settings.confidence
    repetitions = words[measured.repetitions or "seeds"].fill()
    if missing := max(0, measured.required - measured.repeated):
        remarks.append(words["too_few"].fill(
            done=measured.repeated, seeds=measured.required, repetitions=repetitions
        ))  # fmt: skip
        if measured.repeated < 2:
            return INCONCLUSIVE, remarks
    else:
        verdict = str(RULES[claim.rule](measured.difference(), margin, confidence))
        if verdict != INCONCLUSIVE:
            return verdict, []
    found = what_decides(claim.rule, measured, margin, confidence, max(1, missing))
    if found:
        verdict_then = words[found[1]].fill()
        text = words["more"].fill(more=found[0], repetitions=repetitions, verdict=verdict_then)
        remarks.append(text)
    elif measured.published_seeds:
        remarks.append(words["never"].fill(seeds=measured.published_seeds))
    return INCONCLUSIVE, remarks


def what_decides(
    rule: str, measured: Measured, margin: float, confidence: float, least: int = 1
) -> tuple[int, str] | None:
    """How many more repetitions would decide, and how, if mean and spread stayed what they are.

    None: not even `MOST_SEEDS` would. With more of ours, the error of the article's median stays.
    """
    import numpy as np

    more = np.arange(least, MOST_SEEDS)
    verdicts = RULES[rule](measured.difference(more[:, None]), margin, confidence)
    decided = np.flatnonzero(verdicts != INCONCLUSIVE)
    return (int(more[decided[0]]), str(verdicts[decided[0]])) if len(decided) else None


def rule_text(
    claim: Claim, measured: Measured, margin: float, evidence: Evidence, published: Published
) -> dict[str, str]:
    """The rule in words, with its numbers."""
    if claim.measures == "nothing":
        return published.words["rule_nothing"].fill()
    confidence = evidence.settings.confidence
    return published.words[f"rule_{claim.rule.replace(' ', '_')}"].fill(
        margin=margin,
        seeds=measured.required,
        repetitions=published.words[measured.repetitions or "seeds"].fill(),
        wide=100 * confidence,
        narrow=100 * (2 * confidence - 1),
    )


def _interval_used(
    claim: Claim, measured: Measured, margin: float, confidence: float
) -> dict[str, float] | None:
    """The interval of the difference that the verdict rests on, `percent` its level.

    That is the narrow one; where it fails the claim, the wide one decides.
    """
    if measured.repeated < 2 or measured.value is None:
        return None
    difference, level = measured.difference(), 2 * confidence - 1
    low, high = difference.interval(level)
    if high < -margin or (claim.rule == "difference" and low > margin):
        level = confidence
        low, high = difference.interval(level)
    ends = {"low": round(float(low), 3), "high": round(float(high), 3)}
    return ends | {"percent": round(100 * level, 6)}


# --- the two models on the same sentences --------------------------------------------------------


def paired(evidence: Evidence) -> dict[str, Any]:
    """The student against the teacher on the same sentences.

    McNemar's test of each seed that both have, where the metric is accuracy; and the ratio of their
    median scores in percent, with its interval over sentences and seeds.
    """
    models = (evidence.settings.student, evidence.settings.teacher)
    first, second = (evidence.of_model(model) for model in models)
    tests: dict[str, Any] = {}
    labels = evidence.labels
    for seed in evidence.runs.get(models[0], {}) if evidence.metric == "accuracy" else ():
        tests[str(seed)] = NOT_RUN
        if labels is not None and seed in first and seed in second:
            right = [run[seed].validation.predicted == labels for run in (first, second)]
            test = mcnemar(*right)
            tests[str(seed)] = test | {"p": float(f"{test['p']:.4g}")}
    ratio = evidence.ratio_of_medians(*models)
    return {
        "student": models[0],
        "teacher": models[1],
        "mcnemar": tests,
        "retention": NOT_RUN if ratio is None else round(ratio, 2),
        "interval": _rounded(None if ratio is None else evidence.bootstrap(*models)),
    }


def majority_class(evidence: Evidence) -> dict[str, Any] | str | None:
    """What always answering the most frequent label would score; None where labels are numbers."""
    import numpy as np

    run = next((run for model in evidence.runs for run in evidence.of_model(model).values()), None)
    if run is None:
        return NOT_RUN
    if not run.labels:
        return None
    labels, counts = np.unique(run.validation.labels, return_counts=True)
    label, count = int(labels[counts.argmax()]), int(counts.max())
    accuracy = round(100 * count / len(run.validation.labels), 2)
    return {"label": run.labels[label], "count": count, "accuracy": accuracy}


def _rounded(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [round(interval[0], 2), round(interval[1], 2)]
