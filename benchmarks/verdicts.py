"""How often the rules of the verdicts are right, wrong, or cannot tell: simulated, the truth known.

Run as: python -m benchmarks.verdicts    (a minute; the same numbers every time)

A study is an article and our reproduction of it on the same 872 sentences. The article's numbers
are medians of 5 seeds, with one decimal; ours are truly lower by a known difference, in points, and
spread alike. The peer of the rule for retention is an interval over seeds and paired sentences.
It writes benchmarks/results/verdicts.json; `make format` puts its tables into docs/error_rates.md.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from reproduce.files import markdown_table, write_json
from reproduce.verdict import statistics as rules

DIFFERENCES, SPREADS, SEEDS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0), (0.2, 0.3, 0.5, 1.0), (5, 10)
STUDENT, TEACHER, SENTENCES, MARGIN, CONFIDENCE = 91.3, 92.7, 872, 1.0, 0.95
STUDIES, PAIRED_STUDIES, RESAMPLES = 10_000, 300, 300
RESULT = Path("benchmarks/results/verdicts.json")
VERDICTS = (rules.REPRODUCED, rules.NOT_REPRODUCED, rules.INCONCLUSIVE)


def main() -> None:
    """Simulate all rules and write the numbers."""
    found: dict[str, Any] = {name: table(rule, STUDIES) for name, rule in SIMULATED.items()}
    cells = [(s, 0.0) for s in SPREADS] + [(0.3, d) for d in DIFFERENCES[1:]]
    found["unequal"] = table(partial(score, article_spreads=2), STUDIES)
    found["paired"] = [paired(spread, difference) for spread, difference in cells]
    facts = {"margin": MARGIN, "sentences": SENTENCES, "studies": STUDIES}
    facts |= {"paired_studies": PAIRED_STUDIES}
    write_json(RESULT, {**facts, "rules": found})
    print(f"{RESULT}: {len(SEEDS) * len(SPREADS)} rows a rule, {STUDIES:,} studies a cell")


def score(
    rng: Any, difference: float, spread: float, seeds: int, studies: int, article_spreads: float = 1
) -> Any:
    """Verdicts of the rule `difference` on a score, shape (studies,).

    Args:
        article_spreads: so many times as far as ours.
    """
    truth, factor = STUDENT - difference, article_spreads
    ours, article = draw(rng, truth, STUDENT, spread, seeds, studies, factor)
    parts = ours.mean(-1)[:, None], ours.std(-1, ddof=1)[:, None], [seeds]
    found = rules.difference_over_seeds(*parts, article, 5)
    return rules.decide("difference", found, MARGIN, CONFIDENCE)


def retention(rng: Any, difference: float, spread: float, seeds: int, studies: int) -> Any:
    """Verdicts of the rule `at least` on a retention that is lower by `difference`."""
    truth = STUDENT - difference * TEACHER / 100
    pairs = [draw(rng, *scores, spread, seeds, studies)
             for scores in ((truth, STUDENT), (TEACHER, TEACHER))]  # fmt: skip
    ours = np.stack([scores for scores, _ in pairs], axis=-2)
    parts = ours.mean(-1), ours.std(-1, ddof=1), [seeds, seeds], 100 * pairs[0][1] / pairs[1][1]
    found = rules.difference_over_seeds(*parts, 5)
    return rules.decide("at least", found, MARGIN, CONFIDENCE)


SIMULATED: dict[str, Callable[..., Any]] = {"score": score, "retention": retention}


def draw(
    rng: Any, ours: float, article: float, spread: float, seeds: int, studies: int,
    article_spreads: float = 1,
) -> Any:  # fmt: skip
    """Our scores, of whole sentences, (studies, seeds); and the article's medians, (studies,)."""
    right = np.round(rng.normal(ours, spread, (studies, seeds)) * SENTENCES / 100)
    medians = np.median(rng.normal(article, spread * article_spreads, (studies, 5)), axis=-1)
    return 100 * right / SENTENCES, np.round(medians, 1)


def table(rule: Callable[..., Any], studies: int) -> list[dict[str, Any]]:
    """For each number of seeds, spread and difference the share of each verdict, in %."""
    rows = []
    for index, (seeds, spread) in enumerate((n, s) for n in SEEDS for s in SPREADS):
        rng = np.random.default_rng(index)
        for difference in DIFFERENCES:
            verdicts = rule(rng, difference, spread, seeds, studies)
            row = {"seeds": seeds, "spread": spread, "difference": difference}
            rows.append(row | {v: round(100 * float((verdicts == v).mean()), 1) for v in VERDICTS})
    return rows


def paired(spread: float, difference: float) -> dict[str, Any]:
    """The same of the bootstrap over 5 seeds and the sentences; and how often it covers the truth.

    A sentence has a difficulty, of which the models share most; a seed shifts all sentences.
    """
    rng, verdicts, covered = np.random.default_rng(0), [], 0
    shares = np.array([STUDENT - difference * TEACHER / 100, STUDENT, TEACHER, TEACHER]) / 100
    for _ in range(PAIRED_STUDIES):
        difficulty = rng.normal(0, 1, SENTENCES) + rng.normal(0, 0.4, (2, SENTENCES))
        right = [
            level * 1.16**0.5 + difficulty[model] + rng.normal(0, spread / 14, (5, 1)) > 0
            for level, model in zip(stats.norm.ppf(shares), (0, 0, 1, 1), strict=True)
        ]  # ours and the article's student, ours and the article's teacher
        medians = [np.median(answers.mean(-1)) for answers in right]
        published = medians[1] / medians[3]
        models, truth = [right[0], right[2]], np.ones(SENTENCES, bool)
        narrow, wide = (rules.bootstrap("accuracy", truth, models, level, RESAMPLES, 0) or (0, 9)
                        for level in (2 * CONFIDENCE - 1, CONFIDENCE))  # fmt: skip
        covered += bool(wide[0] <= shares[0] / shares[2] <= wide[1])
        least = published - MARGIN / 100
        verdicts.append(VERDICTS[0 if narrow[0] >= least else 1 if wide[1] < least else 2])
    row = {"seeds": 5, "spread": spread, "difference": difference}
    row |= {v: round(100 * verdicts.count(v) / PAIRED_STUDIES, 1) for v in VERDICTS}
    return row | {"covered": round(100 * covered / PAIRED_STUDIES, 1)}


def rates(rule: str) -> str:
    """A rule's table in docs/error_rates.md, where cog puts it: a row a kind of study."""
    rows: dict[tuple[int, float], list[str]] = {}
    for r in json.loads(RESULT.read_text(encoding="utf-8"))["rules"][rule]:
        row = rows.setdefault((r["seeds"], r["spread"]), [str(r["seeds"]), str(r["spread"])])
        row.append(f"{r[VERDICTS[0]]:.0f} / {r[VERDICTS[1]]:.0f}")
    head = ["seeds", "spread", *(f"{difference:g}" for difference in DIFFERENCES)]
    return markdown_table([head, *(row + [""] * (len(head) - len(row)) for row in rows.values())])


if __name__ == "__main__":
    main()
