"""How often the rules of the verdicts are right, wrong, or cannot tell: simulated, the truth known.

Run as: python -m benchmarks.verdicts    (a minute; the same numbers every time)

A study is an article and our reproduction of it on the same 872 sentences. The article's numbers
are medians of 5 seeds, with one decimal; ours are truly lower by a known difference, in points, and
spread alike. The peer of the rule for retention is an interval over seeds and paired sentences.
It writes benchmarks/results/verdicts.json and docs/error_rates.md.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from reproduce.files import write_json, write_text
from reproduce.verdict import statistics as rules
from reproduce.verdict.tables import markdown_table

DIFFERENCES, SPREADS, SEEDS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0), (0.2, 0.3, 0.5, 1.0), (5, 10)
STUDENT, TEACHER, SENTENCES, MARGIN, CONFIDENCE = 91.3, 92.7, 872, 1.0, 0.95
STUDIES, PAIRED_STUDIES, RESAMPLES = 10_000, 300, 300
RESULT, PAGE = Path("benchmarks/results/verdicts.json"), Path("docs/error_rates.md")
VERDICTS = (rules.REPRODUCED, rules.NOT_REPRODUCED, rules.INCONCLUSIVE)


def main() -> None:
    """Simulate all rules, write the numbers and the page."""
    found: dict[str, Any] = {name: table(rule, STUDIES) for name, rule in SIMULATED.items()}
    cells = [(s, 0.0) for s in SPREADS] + [(0.3, d) for d in DIFFERENCES[1:]]
    found["paired"] = [paired(spread, difference) for spread, difference in cells]
    facts = {"margin": MARGIN, "studies": STUDIES, "paired_studies": PAIRED_STUDIES}
    write_json(RESULT, {**facts, "rules": found})
    write_text(PAGE, page(found))
    print(f"{RESULT}, {PAGE}: {len(SEEDS) * len(SPREADS)} rows a rule, {STUDIES:,} studies a cell")


def score(rng: Any, difference: float, spread: float, seeds: int, studies: int) -> Any:
    """Verdicts of the rule `difference` on a score, shape (studies,)."""
    ours, article = draw(rng, STUDENT - difference, STUDENT, spread, seeds, studies)
    parts = ours.mean(-1)[:, None], ours.std(-1, ddof=1)[:, None], [seeds]
    return rules.equivalence(rules.difference_over_seeds(*parts, article, 5), MARGIN, CONFIDENCE)


def retention(rng: Any, difference: float, spread: float, seeds: int, studies: int) -> Any:
    """Verdicts of the rule `at least` on a retention that is lower by `difference`."""
    truth = STUDENT - difference * TEACHER / 100
    pairs = [draw(rng, *scores, spread, seeds, studies)
             for scores in ((truth, STUDENT), (TEACHER, TEACHER))]  # fmt: skip
    ours = np.stack([scores for scores, _ in pairs], axis=-2)
    parts = ours.mean(-1), ours.std(-1, ddof=1), [seeds, seeds], 100 * pairs[0][1] / pairs[1][1]
    return rules.at_least(rules.difference_over_seeds(*parts, 5), MARGIN, CONFIDENCE)


SIMULATED: dict[str, Callable[..., Any]] = {"score": score, "retention": retention}


def draw(rng: Any, ours: float, article: float, spread: float, seeds: int, studies: int) -> Any:
    """Our scores, of whole sentences, (studies, seeds); and the article's medians, (studies,)."""
    right = np.round(rng.normal(ours, spread, (studies, seeds)) * SENTENCES / 100)
    medians = np.median(rng.normal(article, spread, (studies, 5)), axis=-1)
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


def page(found: dict[str, Any]) -> str:
    """docs/error_rates.md."""
    parts = [HEAD]
    for name, title in TITLES.items():
        rows: dict[tuple[int, float], list[str]] = {}
        for r in found[name]:
            row = rows.setdefault((r["seeds"], r["spread"]), [f"{r['seeds']}", f"{r['spread']}"])
            row.append(f"{r[VERDICTS[0]]:.0f} / {r[VERDICTS[1]]:.0f}")
        head = ["seeds", "spread", *(f"{difference:g}" for difference in DIFFERENCES)]
        filled = [row + [""] * (len(head) - len(row)) for row in rows.values()]
        parts += [f"## {title}", markdown_table([head, *filled])]
    return "\n\n".join([*parts, FOOT.format(min(r["covered"] for r in found["paired"]))]) + "\n"


TITLES = {
    "score": "Scores: as published, within 1 point",
    "retention": "Retention: at least as published, less 1 point",
    "paired": "Not used: retention by an interval over seeds and paired sentences",
}
HEAD = f"""# How often the verdicts are wrong

Written by `python -m benchmarks.verdicts`. {STUDIES:,} simulated studies a cell: how many in a
hundred are *reproduced / not reproduced*; the rest is inconclusive. A column is the true
difference, in points by which we are lower than the article; a row the number of our seeds and
their standard deviation in points. At a difference of 1, the margin, neither verdict is right and
they have their 5 and 2.5 in a hundred. A spread of 1 point decides little, with any number of our
seeds: the article's own five spread too much."""
FOOT = f"""{PAIRED_STUDIES} studies a cell. This interval answers another question, what other
sentences would change; at 95 % it covered the true ratio in at least {{}} % of the studies. Ours
and the article's numbers are on the same sentences, so as a rule it decides too rarely. The report
prints it as information, beside the verdict."""


if __name__ == "__main__":
    main()
