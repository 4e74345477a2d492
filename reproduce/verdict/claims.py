"""A verdict for each claim of the article: measured beside published, with two kinds of uncertainty that are never mixed up.

Seeds: what another training run of the same recipe would change. Sentences: what another sample of sentences would change.
The rules are in params.yaml, section compare; the claims in published.yaml; stages/compare.py writes metrics/claims.json.
A claim on scores where nothing was published (the pocket corpus, sentences held out of train) does not apply and is left out;
all others are always there.
"""

import math
import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from reproduce.params import Compare
from reproduce.verdict.published import Claim, NumberClaim, Published, Row
from reproduce.verdict.statistics import (
    Interval,
    bootstrap_ratio,
    bootstrap_score,
    difference_from_published,
    difference_interval,
    mcnemar,
    ratio_interval,
    seed_interval,
    wilson,
)

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE, NOT_RUN = (
    "reproduced",
    "not reproduced",
    "inconclusive",
    "not run",
)
SPEED_FILES = ("metrics/speed.json",)


@dataclass(frozen=True)
class Evidence:
    """What was measured, as far as it was run.

    Scores are times 100. `predicted` holds one float64 array of shape (sentences,) a run; `labels` is the array that they all
    share, None if nothing was run. `speed` is metrics/speed.json, None if it is not there.
    """

    dataset: str
    split: str
    metric: str
    models: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: dict[str, dict[int, float]]
    predicted: dict[str, dict[int, "Array"]]
    labels: "Array | None"
    speed: dict[str, Any] | None

    @property
    def sentences(self) -> int | str:
        """How many sentences were evaluated."""
        return NOT_RUN if self.labels is None else len(self.labels)

    @property
    def truth(self) -> "Array":
        """The labels; ask for them only where something was run."""
        if self.labels is None:
            raise ValueError("nothing was run")
        return self.labels

    def stacked(self, model: str) -> "Array":
        """Predictions of all runs of a model, shape (seeds, sentences)."""
        import numpy as np

        return np.stack(list(self.predicted[model].values()))

    def by_seed(self, model: str) -> dict[int, float]:
        """The scores of a model's runs."""
        return self.scores.get(model, {})


def judge(evidence: Evidence, published: Published, params: Compare) -> dict[str, Any]:
    """All of metrics/claims.json."""
    claims, found = published.claims, {}
    rows = {
        model: published.row(model, evidence.dataset, evidence.split)
        for model in claims.retention.models
    }
    for name, claim in (
        ("distilbert_accuracy", claims.distilbert_accuracy),
        ("bert_accuracy", claims.bert_accuracy),
    ):
        if row := rows[claim.models[0]]:
            found[name] = score_claim(claim, row, evidence, params)
    student, teacher = (rows[model] for model in claims.retention.models)
    if student and teacher:
        found["retention"] = retention_claim(claims.retention, student, teacher, evidence, params)
    found["retention_glue"] = _entry(
        claims.retention_glue, claims.retention_glue.published, rule="none: one task is not nine"
    )
    found["parameters"] = parameters_claim(claims.parameters, evidence.speed, params)
    found["speed"] = speed_claim(claims.speed, published.table3.seconds, evidence.speed, params)
    found["size"] = size_claim(claims.size, evidence.speed, params)
    title = published.titles.get(evidence.dataset, evidence.dataset)
    for entry in found.values():
        number = f"{entry['published']:g}"
        words = {"en": number, "pt": number.replace(".", ",")}
        entry["statement"] = {
            language: text.format(published=words[language], task=title)
            for language, text in entry["statement"].items()
        }
    return {
        "dataset": evidence.dataset,
        "split": evidence.split,
        "metric": evidence.metric,
        "sentences": evidence.sentences,
        "confidence": params.confidence,
        "claims": found,
        "paired": paired(evidence, params),
        "majority_class": majority_class(evidence),
        "context": [
            row.model_dump(exclude_none=True, exclude={"dataset", "model", "parameters"})
            for row in published.results
            if row.dataset == evidence.dataset
        ],
    }


# --- the verdicts -----------------------------------------------------------------------------------------------------


def verdict_by_intervals(
    over_seeds: Interval | None, over_sentences: Interval | None, margin: float
) -> str:
    """The verdict on a difference by its two intervals; None is an interval that could not be had."""
    if over_seeds is None or over_sentences is None:
        return INCONCLUSIVE
    low, high = over_seeds
    agrees = over_sentences[0] <= 0 <= over_sentences[1]
    if -margin <= low and high <= margin and agrees:
        return REPRODUCED
    if (low > margin or high < -margin) and not agrees:
        return NOT_REPRODUCED
    return INCONCLUSIVE


def verdict_at_least(values: list[float], published: float, margin: float) -> str:
    """The verdict on a claimed advantage by repeated measurements: all reach it within the margin, none does, or some do."""
    if not values:
        return NOT_RUN
    reached = [value >= published - margin for value in values]
    if len(values) < 2 or any(reached) != all(reached):
        return INCONCLUSIVE
    return REPRODUCED if all(reached) else NOT_REPRODUCED


# --- the claims -------------------------------------------------------------------------------------------------------


def score_claim(claim: Claim, row: Row, evidence: Evidence, params: Compare) -> dict[str, Any]:
    """The median score of the seeds: its difference from the published number, with intervals over seeds and over sentences."""
    model, margin, required = claim.models[0], params.margins.score, row.seeds or 1
    values = evidence.by_seed(model)
    about = {
        "margin": margin,
        "rule": _rule_by_intervals(required, margin, params),
        **_runs(claim.models, values, evidence),
    }
    if not values:
        return _entry(claim, row.score, notes=(_no_run(claim.models, evidence), row.note), **about)
    done, n = list(values.values()), evidence.stacked(model).shape[1]
    median = statistics.median(done)
    over_seeds = seed_interval(done, params.confidence)
    over_sentences = sentence_interval(evidence, model, params)
    difference_seeds = over_seeds and difference_from_published(
        statistics.fmean(done), over_seeds, row.score, math.sqrt(len(done) / required)
    )
    if over_sentences and evidence.metric == "accuracy":
        theirs = _percent(wilson(round(row.score / 100 * n), n, params.confidence))
        difference_sentences: Interval | None = difference_interval(
            median, over_sentences, row.score, theirs
        )
    else:
        difference_sentences = over_sentences and difference_from_published(
            median, over_sentences, row.score
        )
    obstacle = _obstacle(len(done), required, row.metric, evidence.metric)
    verdict = (
        INCONCLUSIVE
        if obstacle
        else verdict_by_intervals(difference_seeds, difference_sentences, margin)
    )
    about |= _intervals(over_seeds, over_sentences, difference_seeds, difference_sentences)
    return _entry(claim, row.score, verdict, median, notes=(obstacle, row.note), **about)


def retention_claim(
    claim: Claim, student: Row, teacher: Row, evidence: Evidence, params: Compare
) -> dict[str, Any]:
    """The ratio of the two models' median scores in percent, paired on the sentences."""
    margin, required = params.margins.retention, max(student.seeds or 1, teacher.seeds or 1)
    published = round(100 * student.score / teacher.score, 2)
    first, second = (evidence.by_seed(model) for model in claim.models)
    ratios = {seed: 100 * first[seed] / second[seed] for seed in first if second.get(seed, 0) > 0}
    about = {
        "margin": margin,
        "rule": _rule_by_intervals(required, margin, params),
        **_runs(claim.models, ratios, evidence),
    }
    about["seeds_run"] = min(len(first), len(second))
    if not (first and second):
        absent = tuple(model for model in claim.models if not evidence.by_seed(model))
        return _entry(claim, published, notes=(_no_run(absent, evidence),), **about)
    measured = _ratio_of_medians(claim.models, evidence)
    if measured is None:
        return _entry(
            claim,
            published,
            INCONCLUSIVE,
            notes=("The teacher's median is not positive: no ratio",),
            **about,
        )
    over_seeds = ratio_interval(list(first.values()), list(second.values()), params.confidence)
    over_seeds = over_seeds and _percent(over_seeds)
    over_sentences = _bootstrap(claim.models, evidence, params, seeds_too=False)
    difference_seeds = None
    if over_seeds:
        center = math.sqrt(
            over_seeds[0] * over_seeds[1]
        )  # the interval is symmetrical in the logarithm
        difference_seeds = difference_from_published(
            center, over_seeds, published, math.sqrt(about["seeds_run"] / required)
        )
    difference_sentences = over_sentences and difference_from_published(
        measured, over_sentences, published
    )
    obstacle = _obstacle(about["seeds_run"], required, student.metric, evidence.metric)
    verdict = (
        INCONCLUSIVE
        if obstacle
        else verdict_by_intervals(difference_seeds, difference_sentences, margin)
    )
    about |= _intervals(over_seeds, over_sentences, difference_seeds, difference_sentences)
    return _entry(claim, published, verdict, measured, notes=(obstacle,), **about)


def parameters_claim(
    claim: NumberClaim, speed: dict[str, Any] | None, params: Compare
) -> dict[str, Any]:
    """How many percent fewer parameters: an exact count, so the margin alone decides."""
    margin, published = params.margins.parameters, claim.published
    rule = f"reproduced: within {margin:g} point(s) of the published value; not reproduced: otherwise (a count has no error)"
    found = _measured(claim, speed)
    if len(found) < len(claim.models):
        return _entry(
            claim, published, notes=(_not_measured(claim, found),), rule=rule, margin=margin
        )
    student, teacher = (model["parameters_encoder"] for model in found.values())
    measured = 100 * (1 - student / teacher)
    verdict = REPRODUCED if abs(measured - published) <= margin else NOT_REPRODUCED
    return _entry(claim, published, verdict, measured, files=SPEED_FILES, rule=rule, margin=margin)


def speed_claim(
    claim: Claim, seconds: dict[str, float], speed: dict[str, Any] | None, params: Compare
) -> dict[str, Any]:
    """The ratio of seconds, teacher to student, of each pass; the spread over passes is its uncertainty.

    Args:
        seconds: the article's, by model.
    """
    margin, (student, teacher) = params.margins.speed, claim.models
    published = round(seconds[teacher] / seconds[student], 2)
    rule = (
        f"with at least 2 passes; reproduced: each reaches {published:g} - {margin:g}; not reproduced: none does; "
        "inconclusive: otherwise (faster than claimed is no failure)"
    )
    found = _measured(claim, speed)
    if len(found) < len(claim.models):
        return _entry(
            claim, published, notes=(_not_measured(claim, found),), rule=rule, margin=margin
        )
    passes = zip(*(found[model]["seconds_by_pass"] for model in (teacher, student)), strict=True)
    ratios = [slow / fast for slow, fast in passes]
    by_pass = [round(ratio, 3) for ratio in ratios]
    return _entry(
        claim, published, verdict_at_least(ratios, published, margin), statistics.median(ratios), files=SPEED_FILES, rule=rule,
        margin=margin, by_pass=by_pass, interval_passes=[min(by_pass), max(by_pass)],
    )  # fmt: skip


def size_claim(claim: NumberClaim, speed: dict[str, Any] | None, params: Compare) -> dict[str, Any]:
    """MB (10^6 bytes) of the saved fp32 weights: exact, so the margin alone decides."""
    margin, published = params.margins.size, claim.published
    rule = f"reproduced: within {margin:g} MB of the published value; not reproduced: otherwise (a file's size has no error)"
    found = _measured(claim, speed)
    if not found:
        return _entry(
            claim, published, notes=(_not_measured(claim, found),), rule=rule, margin=margin
        )
    measured = found[claim.models[0]]["bytes"] / 1e6
    verdict = REPRODUCED if abs(measured - published) <= margin else NOT_REPRODUCED
    return _entry(claim, published, verdict, measured, files=SPEED_FILES, rule=rule, margin=margin)


# --- intervals over sentences, and models paired on them ----------------------------------------------------------------


def sentence_interval(evidence: Evidence, model: str, params: Compare) -> Interval | None:
    """Interval over sentences of a model's median score, times 100.

    Accuracy: Wilson's, of the median run (an even number of runs: of their middle, to a whole sentence). Others: bootstrap.
    """
    runs = evidence.stacked(model)
    if evidence.metric == "accuracy":
        correct = statistics.median((runs == evidence.truth).sum(axis=-1).tolist())
        return _percent(wilson(round(correct), runs.shape[1], params.confidence))
    options = (params.confidence, params.bootstrap.resamples, params.bootstrap.seed)
    interval = bootstrap_score(evidence.metric, evidence.truth, runs, *options)
    return interval and _percent(interval)


def run_interval(evidence: Evidence, model: str, seed: int, params: Compare) -> Interval | None:
    """Interval over sentences of one run's score, times 100."""
    return sentence_interval(
        replace(evidence, predicted={model: {seed: evidence.predicted[model][seed]}}), model, params
    )


def paired(evidence: Evidence, params: Compare) -> dict[str, Any]:
    """The student against the teacher on the same sentences: McNemar's test of each seed, and the retention ratio in percent.

    McNemar's counts are of right and wrong sentences, so there are none where the metric is not accuracy.
    """
    student, teacher = params.student, params.teacher
    tests: dict[str, Any] = {}
    for seed in evidence.seeds if evidence.metric == "accuracy" else ():
        runs = [evidence.predicted.get(model, {}).get(seed) for model in (student, teacher)]
        if runs[0] is None or runs[1] is None:
            tests[str(seed)] = NOT_RUN
            continue
        found = mcnemar(runs[0] == evidence.truth, runs[1] == evidence.truth)
        tests[str(seed)] = {
            "both": found["both"], "only_student": found["only_first"], "only_teacher": found["only_second"],
            "neither": found["neither"], "p": float(f"{found['p']:.4g}"),
        }  # fmt: skip
    return {
        "student": student,
        "teacher": teacher,
        "mcnemar": tests,
        "retention": _bootstrapped(evidence, params),
    }


def _bootstrapped(evidence: Evidence, params: Compare) -> dict[str, Any] | str:
    models = (params.student, params.teacher)
    if not all(evidence.by_seed(model) for model in models):
        return NOT_RUN
    estimate = _ratio_of_medians(models, evidence)
    return {
        "estimate": None if estimate is None else round(estimate, 2),
        "interval": _rounded(_bootstrap(models, evidence, params, seeds_too=True)),
        "over": "sentences and seeds",
        "resamples": params.bootstrap.resamples,
        "seed": params.bootstrap.seed,
    }


def _bootstrap(
    models: tuple[str, ...], evidence: Evidence, params: Compare, seeds_too: bool
) -> Interval | None:
    """Interval of the retention in percent, over sentences, or over sentences and seeds."""
    first, second = (evidence.stacked(model) for model in models)
    options = (params.confidence, params.bootstrap.resamples, params.bootstrap.seed)
    interval = bootstrap_ratio(
        evidence.metric, evidence.truth, first, second, *options, seeds_too=seeds_too
    )
    return interval and _percent(interval)


def _ratio_of_medians(models: tuple[str, ...], evidence: Evidence) -> float | None:
    first, second = (statistics.median(evidence.by_seed(model).values()) for model in models)
    return 100 * first / second if second > 0 else None


def majority_class(evidence: Evidence) -> dict[str, Any] | str | None:
    """What answering the most frequent label always would score (accuracy in percent); None where labels are no classes."""
    import numpy as np

    if evidence.metric == "pearson":
        return None
    if evidence.labels is None:
        return NOT_RUN
    labels, counts = np.unique(evidence.labels, return_counts=True)
    most, n = int(counts.argmax()), len(evidence.labels)
    return {"split": evidence.split, "label": int(labels[most]), "count": int(counts[most]), "n": n,
            "accuracy": round(100 * int(counts[most]) / n, 2)}  # fmt: skip


# --- what the claims share ----------------------------------------------------------------------------------------------


def _entry(
    claim: Claim, published: float, verdict: str = NOT_RUN, measured: float | None = None, *,
    notes: tuple[str | None, ...] = (), files: tuple[str, ...] = (), **found: Any,
) -> dict[str, Any]:  # fmt: skip
    """One entry of `claims`. Every key is always there, null where the claim has no such thing (a count has no seeds)."""
    digits = 3 if claim.unit == "ratio" else 2
    nothing = _intervals(None, None, None, None) | dict.fromkeys(
        ("seeds_run", "seeds_requested", "sentences", "margin")
    )
    texts = [f"{text[0].upper()}{text[1:].rstrip('.')}." for text in (*notes, claim.note) if text]
    return {
        "statement": claim.statement.model_dump(),
        "models": list(claim.models),
        "published": published,
        "unit": claim.unit,
        "source": claim.source,
        "measured": NOT_RUN if measured is None else round(measured, digits),
        "difference": NOT_RUN if measured is None else round(measured - published, digits),
        "by_seed": {},
        "verdict": verdict,
        "files": ["published.yaml", *files],
        **nothing,
        **found,
        **({"note": " ".join(texts)} if texts else {}),
    }


def _runs(models: tuple[str, ...], values: dict[int, float], evidence: Evidence) -> dict[str, Any]:
    """What a claim on fine-tuned models says of its runs: every seed that was asked for, none chosen."""
    names = [f"{model}-{seed}" for model in models for seed in evidence.by_seed(model)]
    return {
        "by_seed": {
            str(seed): round(values[seed], 2) if seed in values else NOT_RUN
            for seed in evidence.seeds
        },
        "seeds_run": len(values),
        "seeds_requested": len(evidence.seeds),
        "sentences": evidence.sentences,
        "files": tuple(
            path
            for name in names
            for path in (f"metrics/runs/{name}.json", f"predictions/{name}.csv")
        ),
    }


def _intervals(*intervals: Interval | None) -> dict[str, Any]:
    names = (
        "interval_seeds",
        "interval_sentences",
        "difference_interval_seeds",
        "difference_interval_sentences",
    )
    return {name: _rounded(interval) for name, interval in zip(names, intervals, strict=True)}


def _obstacle(seeds_run: int, required: int, published_metric: str, metric: str) -> str | None:
    """Why the rule cannot be applied to what was run; None if it can."""
    if published_metric != metric:
        return f"Measured is {metric}; the published metric is {published_metric}"
    if seeds_run < required:
        return f"{seeds_run} seed(s) ran; what was published is a median of {required}"
    return None


def _rule_by_intervals(required: int, margin: float, params: Compare) -> str:
    interval = f"{100 * params.confidence:g} % interval"
    return (
        f"with at least {required} seeds; reproduced: the {interval} of the difference over seeds lies within ±{margin:g} "
        f"point(s), and the one over sentences contains 0; not reproduced: the first lies outside ±{margin:g}, and the second "
        "excludes 0; "
        "inconclusive: otherwise"
    )


def _no_run(models: tuple[str, ...], evidence: Evidence) -> str:
    if left_out := [model for model in models if model not in evidence.models]:
        return f"The models of this experiment leave out {' and '.join(left_out)}"
    return f"No run of {' and none of '.join(models)} (seeds {', '.join(map(str, evidence.seeds))})"


def _measured(claim: Claim, speed: dict[str, Any] | None) -> dict[str, Any]:
    return {
        model: speed["models"][model]
        for model in claim.models
        if speed and model in speed["models"]
    }


def _not_measured(claim: Claim, found: dict[str, Any]) -> str:
    return f"No {' and no '.join(model for model in claim.models if model not in found)} in metrics/speed.json"


def _percent(interval: Interval) -> Interval:
    return 100 * interval[0], 100 * interval[1]


def _rounded(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [round(interval[0], 2), round(interval[1], 2)]


# --- in words -----------------------------------------------------------------------------------------------------------


def claims_table(judged: dict[str, Any]) -> list[list[str]]:
    """Rows for the report: claim, published, measured, difference, the intervals of what was measured, seeds, verdict."""
    rows = [
        [
            "claim",
            "published",
            "measured",
            "difference",
            "over seeds",
            "over sentences",
            "seeds",
            "verdict",
        ]
    ]
    for claim in judged["claims"].values():
        difference = claim["difference"]
        rows.append([
            claim["statement"]["en"],
            f"{claim['published']:g}",
            str(claim["measured"]),
            difference if isinstance(difference, str) else f"{difference:+g}",
            _shown(claim["interval_seeds"]),
            _shown(claim["interval_sentences"]),
            f"{claim['seeds_run']} of {claim['seeds_requested']}" if claim["seeds_requested"] is not None else "-",
            f"**{claim['verdict']}**",
        ])  # fmt: skip
    return rows


def paired_table(judged: dict[str, Any]) -> list[list[str]]:
    """Rows for the report: McNemar's counts and p of each seed; none where no seed has both models."""
    student, teacher = judged["paired"]["student"], judged["paired"]["teacher"]
    found = {seed: test for seed, test in judged["paired"]["mcnemar"].items() if test != NOT_RUN}
    if not found:
        return []
    names = ("both", "only_student", "only_teacher", "neither", "p")
    head = [
        "seed",
        "both right",
        f"only {student}",
        f"only {teacher}",
        "neither",
        "p (McNemar, exact)",
    ]
    return [head, *([seed, *(str(test[name]) for name in names)] for seed, test in found.items())]


def _shown(interval: list[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:g} to {interval[1]:g}"
