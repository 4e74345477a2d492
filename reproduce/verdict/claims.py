"""A verdict for each claim of the article: what was measured beside what was published.

The claims and their rules are in published.yaml, what they measure in evidence.py, the formulas in
statistics.py; stages/compare.py writes metrics/claims.json. A claim on scores where nothing was
published (the pocket corpus, sentences held out of train) does not apply and is left out; all
others are always there.
"""

from typing import Any

from reproduce.verdict.evidence import MEASURES, NOT_DEFINED, Evidence, Measured, of_runs
from reproduce.verdict.published import Claim
from reproduce.verdict.runs import NotRun, done
from reproduce.verdict.statistics import (
    INCONCLUSIVE,
    NOT_REPRODUCED,
    NOT_RUN,
    REPRODUCED,
    decide,
)

MOST_SEEDS = 1000  # more than that counts as "no number of seeds"


def judge(evidence: Evidence) -> dict[str, Any]:
    """All of metrics/claims.json."""
    claims = {}
    for name, claim in evidence.published.claims.items():
        if (measured := MEASURES[claim.measures](claim, evidence)) is not None:
            claims[name] = _entry(claim, measured, evidence)
    first = next(done(evidence.runs), None)
    runs = [run for by_seed in evidence.runs.values() for run in by_seed.values()]
    return {
        "dataset": evidence.dataset,
        "split": evidence.split,
        "metric": evidence.metric,
        "sentences": len(first.validation.labels) if first else NOT_RUN,
        "confidence": evidence.settings.confidence,
        "claims": claims,
        "majority_class": majority_class(evidence),
        "not_run": [
            {"run": run.name, "why": run.why, "detail": run.detail}
            for run in runs
            if isinstance(run, NotRun)
        ],
    }


def _entry(claim: Claim, measured: Measured, evidence: Evidence) -> dict[str, Any]:
    """One entry of `claims`. Every key is always there, null where there is no such thing."""
    say, confidence = evidence.published.say, evidence.settings.confidence
    digits = 3 if claim.unit == "ratio" else 2
    margin, value = claim.margin_on(evidence.dataset) or 0.0, measured.value
    absent = NOT_RUN if measured.defined else NOT_DEFINED
    verdict, remarks = verdict_on(claim, measured, margin, evidence)
    remarks += measured.remarks
    if measured.over_sentences:
        key = "sentences_and_seeds" if len(measured.samples) == 2 else "sentences"
        low, high = measured.over_sentences
        remarks.append(say(key, low=low, high=high, percent=100 * confidence))
    if claim.note:
        remarks.append(claim.note.fill())
    title = evidence.published.titles.get(evidence.dataset, evidence.dataset)
    rule = "nothing" if claim.measures == "nothing" else claim.rule
    rule_text = say(
        f"rule_{rule.replace(' ', '_')}",
        seeds=measured.required,
        repetitions=say(measured.repetitions or "seeds"),
        narrow=100 * (2 * confidence - 1),
        wide=100 * confidence,
        margin=margin,
    )
    return {
        "statement": claim.statement.fill(published=measured.published, task=title),
        "models": list(claim.models),
        # A score has a unit if it is an accuracy.
        "unit": "" if claim.measures == "score" and evidence.metric != "accuracy" else claim.unit,
        "source": claim.source,
        "published": measured.published,
        "measured": absent if value is None else round(value, digits),
        "difference": absent if value is None else round(value - measured.published, digits),
        "verdict": verdict,
        "rule": rule,
        "rule_text": rule_text,
        "margin": margin,
        "interval": interval_used(claim.rule, measured, margin, confidence),
        "interval_sentences": measured.over_sentences,
        "repetitions": measured.repetitions,
        "by_repetition": measured.by_repetition,
        "done": measured.repeated,
        "requested": len(measured.by_repetition),
        "remarks": remarks,
        "files": ["published.yaml", *measured.files],
    }


def verdict_on(
    claim: Claim, measured: Measured, margin: float, evidence: Evidence
) -> tuple[str, list[dict[str, str]]]:
    """The verdict on a claim; if it is inconclusive, what would decide, in sentences."""
    say, confidence = evidence.published.say, evidence.settings.confidence
    if measured.value is None:
        return NOT_RUN if measured.defined else INCONCLUSIVE, []
    if claim.rule == "exact":
        near = abs(measured.value - measured.published) <= margin
        return REPRODUCED if near else NOT_REPRODUCED, []
    if not measured.comparable:
        return INCONCLUSIVE, []
    if claim.measures == "retention" and (weak := weak_teacher(claim, margin, evidence)):
        return INCONCLUSIVE, [weak]
    remarks, repetitions = [], say(measured.repetitions or "")
    missing, seeds = max(0, measured.required - measured.repeated), measured.required
    if missing:
        text = say("too_few", done=measured.repeated, seeds=seeds, repetitions=repetitions)
        remarks.append(text)
        if measured.repeated < 2:
            return INCONCLUSIVE, remarks
    else:
        verdict = str(decide(claim.rule, measured.difference(), margin, confidence))
        if verdict != INCONCLUSIVE:
            return verdict, []
    found = what_decides(claim.rule, measured, margin, confidence, max(1, missing))
    if found:
        more, then = found[0], say(found[1])
        remarks.append(say("more", more=more, repetitions=repetitions, verdict=then))
    else:
        remarks.append(say("never", most=MOST_SEEDS, repetitions=repetitions))
        if measured.published_seeds:
            remarks.append(say("stays", seeds=measured.published_seeds))
    return INCONCLUSIVE, remarks


def weak_teacher(claim: Claim, margin: float, evidence: Evidence) -> dict[str, str] | None:
    """A remark if the teacher fails its own published score: a weak one is easily kept up with."""
    teacher = claim.models[1]
    alone = claim.model_copy(update={"measures": "score", "models": (teacher,)})
    measured = of_runs(alone, evidence)
    if measured is None or measured.value is None or measured.repeated < 2:
        return None
    verdict = decide("at least", measured.difference(), margin, evidence.settings.confidence)
    if verdict != NOT_REPRODUCED:
        return None
    values = {"measured": measured.value, "published": measured.published}
    return evidence.published.say("weak_teacher", model=teacher, **values)


def what_decides(
    rule: str, measured: Measured, margin: float, confidence: float, least: int
) -> tuple[int, str] | None:
    """How many more repetitions would decide, and how, if mean and spread stayed what they are.

    None: not even `MOST_SEEDS` would. With more of ours, the error of the article's median stays.
    """
    import numpy as np

    more = np.arange(least, MOST_SEEDS)
    verdicts = decide(rule, measured.difference(more[:, None]), margin, confidence)
    decided = np.flatnonzero(verdicts != INCONCLUSIVE)
    return (int(more[decided[0]]), str(verdicts[decided[0]])) if len(decided) else None


def interval_used(
    rule: str, measured: Measured, margin: float, confidence: float
) -> dict[str, float] | None:
    """The interval of the difference, `percent` its level; the verdict rests on it if there is one.

    That is the narrow one; where it fails the claim, the wide one decides.
    """
    if measured.repeated < 2 or measured.value is None:
        return None
    difference, level = measured.difference(), 2 * confidence - 1
    low, high = difference.interval(level)
    if high < -margin or (rule == "difference" and low > margin):
        level = confidence
        low, high = difference.interval(level)
    ends = {"low": round(float(low), 3), "high": round(float(high), 3)}
    return ends | {"percent": round(100 * level, 6)}


def majority_class(evidence: Evidence) -> dict[str, Any] | str | None:
    """What always answering the most frequent label would score; None where labels are numbers."""
    import numpy as np

    run = next(done(evidence.runs), None)
    if run is None or not run.labels:
        return None if run else NOT_RUN
    counts = np.bincount(run.validation.labels)
    accuracy = round(100 * int(counts.max()) / int(counts.sum()), 2)
    label = run.labels[int(counts.argmax())]
    return {"label": label, "count": int(counts.max()), "accuracy": accuracy}
