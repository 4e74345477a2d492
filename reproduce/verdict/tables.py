"""Markdown tables, and the one results table of the README: metrics/results.md and its translation.

Numbers are written as the language writes them (`in_language` of published.py).
"""

import textwrap
from collections.abc import Sequence
from typing import Any

from reproduce.verdict.published import Published, in_language
from reproduce.verdict.statistics import NOT_RUN


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head. A bar in a cell is escaped."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def results(claims: dict[str, Any], medians: str, published: Published, language: str) -> str:
    """The claims that have a verdict as a table, then in a paragraph each what was not run.

    Args:
        claims: metrics/claims.json.
        medians: the models' scores in words, "" if nothing was run.
    """

    def say(key: str, **values: Any) -> str:
        return published.say(key, **values)[language]

    heads = ("claim", "published", "measured", "difference", "repetitions", "verdict")
    rows = [[say(f"head_{head}") for head in heads]]
    not_run: dict[str, list[str]] = {"line_not_run": [], "line_nothing": []}
    for claim in claims["claims"].values():
        statement = claim["statement"][language]
        if claim["verdict"] == NOT_RUN:
            not_run[f"line_{'nothing' if claim['rule'] == 'nothing' else 'not_run'}"].append(
                statement
            )
            continue
        numbers = [in_language(float(claim[key]), language) for key in ("published", "measured")]
        used = interval_text(claim["interval"], language)
        verdict = f"**{say(claim['verdict'])}**"
        repeated = f"{claim['done']} {say(claim['repetitions'])}" if claim["repetitions"] else ""
        difference = signed(claim["difference"], language) + (f" ({used})" if used else "")
        rows.append([statement, *numbers, difference, repeated, verdict])
    parts = [markdown_table(rows)] if rows[1:] else []
    if medians:
        task = published.titles.get(claims["dataset"], claims["dataset"])
        about = {"metric": claims["metric"], "task": task, "split": say(claims["split"])}
        parts.append(say("medians", models=medians, sentences=claims["sentences"], **about))
    parts += [say(line, claims="; ".join(said)) for line, said in not_run.items() if said]
    if unclear := [c for c in claims["claims"].values() if c["verdict"] == "inconclusive"]:
        remarks = [c["remarks"][0][language] for c in unclear if c["remarks"]]
        parts.append(" ".join(dict.fromkeys(remarks)))
    parts = [*parts, say("line_rates")]
    wrapped = (p if p[0] == "|" else textwrap.fill(p, 108, break_on_hyphens=False) for p in parts)
    return "\n\n".join(wrapped) + "\n"


def interval_text(interval: dict[str, Any] | None, language: str) -> str:
    """An interval with its level: 90 %: -0.52 to 0.31; "" if there is none."""
    if interval is None:
        return ""
    low, high = (signed(interval[end], language) for end in ("low", "high"))
    form = {"en": "{} %: {} to {}", "pt": "{}%: {} a {}"}[language]
    return form.format(in_language(float(interval["percent"]), language), low, high)


def signed(value: float, language: str) -> str:
    """A difference with its sign."""
    return ("+" if value > 0 else "") + in_language(float(value), language)
