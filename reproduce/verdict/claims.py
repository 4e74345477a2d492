"""A verdict for each claim of the article: what was measured beside what was published.

The claims and their rules are in published.yaml, what they measure in evidence.py, the formulas in
statistics.py; stages/compare.py writes metrics/claims.json. A claim on scores where nothing was
published (the pocket corpus, sentences held out of train) does not apply and is left out; all
others are always there.
"""

from typing import Any

from reproduce.verdict.evidence import MEASURES, Evidence, Measured
from reproduce.verdict.published import Claim
from reproduce.verdict.runs import NotRun, done
from reproduce.verdict.statistics import (
    INCONCLUSIVE,
    NOT_REPRODUCED,
    NOT_RUN,
    REPRODUCED,
    RULES,
    mcnemar,
)

MOST_SEEDS = 1000  # more than that counts as "no number of seeds"


def judge(evidence: Evidence) -> dict[str, Any]:
    """All of metrics/claims.json."""
    claims = {}
    for name, claim in evidence.published.claims.items():
        if (measured := MEASURES[claim.measures](claim, evidence)) is not None:
            claims[name] = _entry(claim, measured, evidence)
    missing = [r for by_seed in evidence.runs.values() for r in by_seed.values()]
    return {
        "dataset": evidence.dataset,
        "split": evidence.split,
        "metric": evidence.metric,
        "sentences": NOT_RUN if evidence.labels is None else len(evidence.labels),
        "confidence": evidence.settings.confidence,
        "claims": claims,
        "paired": paired(evidence),
        "majority_class": majority_class(evidence),
        "not_run": [
            {"run": run.name, "why": run.why, "detail": run.detail}
            for run in missing
            if isinstance(run, NotRun)
        ],
    }


def _entry(claim: Claim, measured: Measured, evidence: Evidence) -> dict[str, Any]:
    """One entry of `claims`. Every key is always there, null where there is no such thing."""
    digits = 3 if claim.unit == "ratio" else 2
    margin, value = claim.margin_on(evidence.dataset) or 0.0, measured.value
    verdict, remarks = decide(claim, measured, margin, evidence)
    title = evidence.published.titles.get(evidence.dataset, evidence.dataset)
    remarks += measured.remarks
    if (other := measured.over_sentences) is not None:
        key = "sentences_and_seeds" if len(measured.samples) == 2 else "sentences"
        level = 100 * evidence.settings.confidence
        remarks.append(evidence.published.say(key, low=other[0], high=other[1], percent=level))
    return {
        "statement": claim.statement.fill(published=measured.published, task=title),
        "models": list(claim.models),
        "unit": claim.unit,
        "source": claim.source,
        "published": measured.published,
        "measured": NOT_RUN if value is None else round(value, digits),
        "difference": NOT_RUN if value is None else round(value - measured.published, digits),
        "verdict": verdict,
        "rule": "nothing" if claim.measures == "nothing" else claim.rule,
        "rule_text": _rule_text(claim, measured, margin, evidence),
        "margin": margin,
        "interval": _interval_used(claim, measured, margin, evidence.settings.confidence),
        "interval_sentences": measured.over_sentences,
        "repetitions": measured.repetitions,
        "by_repetition": measured.by_repetition,
        "done": measured.repeated,
        "requested": len(measured.by_repetition),
        "remarks": [*remarks, *([claim.note.fill()] if claim.note else [])],
        "files": ["published.yaml", *measured.files],
    }


def decide(
    claim: Claim, measured: Measured, margin: float, evidence: Evidence
) -> tuple[str, list[dict[str, str]]]:
    """The verdict on a claim; if it is inconclusive, what would decide, in sentences."""
    say, confidence = evidence.published.say, evidence.settings.confidence
    if measured.value is None:
        return NOT_RUN, []
    if claim.rule == "exact":
        near = abs(measured.value - measured.published) <= margin
        return REPRODUCED if near else NOT_REPRODUCED, []
    if not measured.comparable:
        return INCONCLUSIVE, []
    remarks, repetitions = [], say(measured.repetitions or "")
    missing, seeds = max(0, measured.required - measured.repeated), measured.required
    if missing:
        text = say("too_few", done=measured.repeated, seeds=seeds, repetitions=repetitions)
        remarks.append(text)
        if measured.repeated < 2:
            return INCONCLUSIVE, remarks
    else:
        verdict = str(RULES[claim.rule](measured.difference(), margin, confidence))
        if verdict != INCONCLUSIVE:
            return verdict, []
    found = what_decides(claim.rule, measured, margin, confidence, max(1, missing))
    if found:
        more, then = found[0], say(found[1])
        remarks.append(say("more", more=more, repetitions=repetitions, verdict=then))
    elif measured.published_seeds:
        remarks.append(say("never", seeds=measured.published_seeds))
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


def _rule_text(
    claim: Claim, measured: Measured, margin: float, evidence: Evidence
) -> dict[str, str]:
    """The rule in words, with its numbers."""
    say, confidence = evidence.published.say, evidence.settings.confidence
    if claim.measures == "nothing":
        return say("rule_nothing")
    numbers = {"narrow": 100 * (2 * confidence - 1), "wide": 100 * confidence, "margin": margin}
    repetitions = say(measured.repetitions or "seeds")
    key = f"rule_{claim.rule.replace(' ', '_')}"
    return say(key, seeds=measured.required, repetitions=repetitions, **numbers)


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


def paired(evidence: Evidence) -> dict[str, Any]:
    """The student against the teacher on the same sentences.

    McNemar's test of each seed that both have, where the metric is accuracy; and the ratio of their
    median scores in percent, with its interval over sentences and seeds.
    """
    models, labels = (evidence.settings.student, evidence.settings.teacher), evidence.labels
    first, second = (evidence.of_model(model) for model in models)
    tests: dict[str, Any] = {}
    for seed in evidence.runs.get(models[0], {}) if evidence.metric == "accuracy" else ():
        tests[str(seed)] = NOT_RUN
        if seed in first and seed in second:
            right = [run[seed].validation.predicted == labels for run in (first, second)]
            test = mcnemar(*right)
            tests[str(seed)] = test | {"p": float(f"{test['p']:.4g}")}
    ratio = evidence.ratio_of_medians(*models)
    return {
        "student": models[0],
        "teacher": models[1],
        "mcnemar": tests,
        "retention": NOT_RUN if ratio is None else round(ratio, 2),
        "interval": None if ratio is None else evidence.bootstrap(*models),
    }


def majority_class(evidence: Evidence) -> dict[str, Any] | str | None:
    """What always answering the most frequent label would score; None where labels are numbers."""
    import numpy as np

    run = next(done(evidence.runs), None)
    if run is None:
        return NOT_RUN
    if not run.labels:
        return None
    labels, counts = np.unique(run.validation.labels, return_counts=True)
    label, count = int(labels[counts.argmax()]), int(counts.max())
    accuracy = round(100 * count / len(run.validation.labels), 2)
    return {"label": run.labels[label], "count": count, "accuracy": accuracy}
