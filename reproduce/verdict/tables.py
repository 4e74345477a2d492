"""The one results table of the README: metrics/results.md and its translation.

Numbers are written as the language writes them (`in_language` of published.py).
"""

import textwrap
from typing import Any

from reproduce.files import markdown_table
from reproduce.verdict.evidence import NOT_DEFINED
from reproduce.verdict.published import Published, in_language
from reproduce.verdict.statistics import INCONCLUSIVE, NOT_RUN

UNITS = {"%": {"en": " %", "pt": "%"}, "ratio": {"en": " ×", "pt": " ×"}}


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
    unclear = []
    for claim in claims["claims"].values():
        statement, verdict = claim["statement"][language], claim["verdict"]
        if verdict == NOT_RUN:
            line = "line_nothing" if claim["rule"] == "nothing" else "line_not_run"
            not_run[line].append(statement)
            continue
        if verdict == INCONCLUSIVE:
            unclear += [f"{statement}: {remark[language]}" for remark in claim["remarks"][:1]]
        if claim["measured"] == NOT_DEFINED:
            continue
        unit = UNITS.get(claim["unit"], {}).get(language, "")
        numbers = [
            in_language(float(claim[key]), language) + unit for key in ("published", "measured")
        ]
        difference = difference_text(claim, language)
        repeated = f"{claim['done']} {say(claim['repetitions'])}" if claim["repetitions"] else ""
        rows.append([statement, *numbers, difference, repeated, f"**{say(verdict)}**"])
    parts = [markdown_table(rows)] if rows[1:] else []
    if medians:
        task = published.titles.get(claims["dataset"], claims["dataset"])
        about = {"metric": published.word(claims["metric"]), "split": say(claims["split"])}
        about |= {"task": task, "models": medians, "sentences": claims["sentences"]}
        parts.append(say("medians", **about))
    parts += [say(line, claims=". ".join(said)) for line, said in not_run.items() if said]
    if unclear:
        parts.append(" ".join(unclear))
    parts.append(say("line_rates"))
    wrapped = (p if p[0] == "|" else textwrap.fill(p, 108, break_on_hyphens=False) for p in parts)
    return "\n\n".join(wrapped) + "\n"


def difference_text(claim: dict[str, Any], language: str) -> str:
    """A difference with its sign, and its interval: -0.1 (90 %: -0.52 to 0.31)."""

    def signed(value: float) -> str:
        return ("+" if value > 0 else "") + in_language(float(value), language)

    text = signed(claim["difference"])
    if used := claim["interval"]:
        form = {"en": "{} ({} %: {} to {})", "pt": "{} ({}%: {} a {})"}[language]
        percent = in_language(float(used["percent"]), language)
        text = form.format(text, percent, signed(used["low"]), signed(used["high"]))
    return text
