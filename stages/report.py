"""The report and the slides: HTML pages that open from disk, in English and Brazilian Portuguese.

Run as: python -m stages.report

Every number comes from a file that another stage wrote; a run that params.yaml asks for and that is absent is "not run".
"""

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.command import run_command
from reproduce.files import write_text
from reproduce.params import read_yaml
from reproduce.report import charts
from reproduce.report.analysis import (
    KINDS,
)
from reproduce.report.facts import (
    gather,
)
from reproduce.report.wording import LANGUAGES, TEXTS, Wording

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path("reproduce/report/templates")
OUT = Path("report")
PAGES = ("report", "slides")
RULES = {  # claim of published.yaml: text that says how `compare` judges it
    "distilbert_accuracy": "rule_difference", "bert_accuracy": "rule_difference", "retention": "rule_difference",
    "retention_glue": "rule_nine", "parameters": "rule_count", "speed": "rule_passes", "size": "rule_size",
}  # fmt: skip


def main() -> None:
    """Write report/report.html, report/slides.html and the same in Portuguese (.pt-BR.html)."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    facts = gather()
    texts = read_yaml(TEXTS)
    pages: dict[Path, str] = {}
    for say in (Wording(texts, language) for language in LANGUAGES):
        drawn = draw(facts, say)
        pages |= {
            OUT / file_name(page, say.language): render(page, facts, drawn, say) for page in PAGES
        }
    for path, html in pages.items():
        write_text(path, html)
    models = ", ".join(
        f"{m['name']} {len(m['runs'])} of {len(m['seeds'])} seeds" for m in facts["models"]
    )
    print(f"{', '.join(map(str, pages))}: {models}")


def file_name(page: str, language: str) -> str:
    """The page's file in report/: English has no tag in its name."""
    return f"{page}.html" if language == "en" else f"{page}.{LANGUAGES[language]}.html"


def render(page: str, facts: dict[str, Any], drawn: dict[str, str], say: Wording) -> str:
    """One HTML page in one language, charts (see `draw`) and styles inside it."""
    from markupsafe import Markup

    other = next(language for language in LANGUAGES if language != say.language)
    links = {
        "other": file_name(page, other),
        **{name: file_name(name, say.language) for name in PAGES},
    }
    svg = {name: Markup(chart) for name, chart in drawn.items()}  # noqa: S704 (`charts` escapes what is written in them)
    template = templates().get_template(f"{page}.html.jinja")
    return template.render(
        **facts,
        **phrases(facts, say),
        say=say,
        n=say.number,
        charts=svg,
        links=links,
        other_tag=LANGUAGES[other],
    )


@functools.cache
def templates() -> "Environment":
    """The templates, each compiled once."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                       lstrip_blocks=True, keep_trailing_newline=True)  # fmt: skip


def phrases(facts: dict[str, Any], say: Wording) -> dict[str, Any]:
    """What the templates show that is put together from texts and facts."""
    done, asked = (
        sum(len(m["runs"]) for m in facts["models"]),
        len(facts["models"]) * len(facts["seeds"]),
    )
    verdicts = [claim["verdict"].replace(" ", "_") for claim in facts["claims"].values()]
    counts = {
        name: verdicts.count(name)
        for name in ("reproduced", "not_reproduced", "inconclusive", "not_run")
    }
    each = [
        say("runs_of_model", name=m["name"], done=len(m["runs"]), asked=len(m["seeds"]))
        for m in facts["models"]
    ]
    ends = []
    for model in facts["ran"]:
        last = [run["curve"]["loss"][-1] for run in model["runs"]]
        low, high = say.number(min(last), 3), say.number(max(last), 3)
        ends.append(say("curves_end", name=model["name"], loss=low) if len(last) == 1
                    else say("curves_ends", name=model["name"], low=low, high=high))  # fmt: skip
    first = next((model for model in facts["ran"] if model["lengths"]), None)
    return {
        "verdict_summary": say("verdict_summary", total=len(verdicts), **counts),
        "runs_summary": say("runs_summary", done=done, asked=asked, models=", ".join(each)),
        "rules": rules(facts, say),
        "missing": {model["name"]: missing_seeds(model, say) for model in facts["models"]},
        "done": done,
        "asked": asked,
        "curve_ends": " ".join(ends),
        "score": score_name(facts["metric"], say),
        "scores_title": say("seeds_title")
        if facts["metric"] == "accuracy"
        else say("scores_title", metric=facts["metric"]),
        "part_names": {
            part: [part_name(bucket, say) for bucket in first[part]] if first else []
            for part in ("lengths", "kinds")
        },
        "error_kinds": {
            kind: sum(kind in error["kinds"] for error in facts["errors"]) for kind in KINDS
        },
        "class_names": dict(enumerate(facts["labels"])),
    }


def rules(facts: dict[str, Any], say: Wording) -> list[tuple[str, str]]:
    """How the claims are judged: numbers of claims, and the rule they share; `compare`'s where texts.yaml has none."""
    found: dict[str, list[str]] = {}
    for number, (name, claim) in enumerate(facts["claims"].items(), start=1):
        values = {
            "confidence": say.short(facts["confidence"]),
            "margin": say.short(claim["margin"]),
            "published": say.short(claim["published"]),
        }
        if "interval_passes" in claim:
            values["passes"] = say.interval(*claim["interval_passes"])
        key = RULES.get(name)
        if key == "rule_passes" and "passes" not in values:
            key = "rule_passes_not_run"
        found.setdefault(say(key, **values) if key else claim["rule"], []).append(str(number))
    return [(", ".join(numbers), text) for text, numbers in found.items()]


def draw(facts: dict[str, Any], say: Wording) -> dict[str, str]:
    """The charts by name; one that would have nothing to show is left out."""
    ran = facts["ran"]
    if not ran:
        return {"pareto": charts.pareto(facts["points"], say)} if facts["points"] else {}
    drawn = {
        "curves": charts.curves(
            [
                {"model": m["name"], "style": m["style"], **run["curve"]}
                for m in ran
                for run in m["runs"]
            ],
            say,
        ),
        "seeds": charts.dots(
            "seeds",
            [seed_group(m, say) for m in facts["models"]],
            score_name(facts["metric"], say),
            say.plain("chart_seeds"),
            say,
        ),
    }
    classifiers = [model for model in ran if model["calibration"]]
    for model in classifiers:
        name = f"reliability-{model['name']}"
        title = say.plain("chart_reliability", model=model["name"])
        drawn[name] = charts.reliability(name, model["style"], model["calibration"], title, say)
    for part in ("lengths", "kinds") if classifiers else ():
        drawn[part] = charts.dots(
            part,
            part_groups(classifiers, part, say),
            say.plain("accuracy_percent"),
            say.plain(f"chart_{part}"),
            say,
        )
    if facts["points"]:
        drawn["pareto"] = charts.pareto(facts["points"], say)
    return drawn


def seed_group(model: dict[str, Any], say: Wording) -> charts.Group:
    """A model's rows in the chart of accuracy by seed; the seeds that were not run share one row."""
    dots = [
        charts.Dot(
            say.plain("seed", seed=str(run["seed"])),
            model["style"],
            run["value"],
            run["low"],
            run["high"],
        )
        for run in model["runs"]
    ]
    if missing := missing_seeds(model, say):
        dots.append(charts.Dot(missing))
    return charts.Group(
        model["name"], dots, model["median"] if len(model["runs"]) > 1 else None, model["published"]
    )


def missing_seeds(model: dict[str, Any], say: Wording) -> str:
    """The seeds that were not run, in words; "" if all were."""
    seeds = [seed for seed, run in model["seeds"].items() if not run]
    return say.seeds(seeds) if seeds else ""


def part_groups(models: list[dict[str, Any]], part: str, say: Wording) -> list[charts.Group]:
    """The rows of a chart by length or kind: the models side by side in each bucket; of a single model, its buckets."""
    names = {
        i: say.plain("group_size", name=part_name(bucket, say), count=bucket["n"])
        for i, bucket in enumerate(models[0][part])
        if bucket["n"]
    }

    def dot(model: dict[str, Any], i: int, label: str) -> charts.Dot:
        return charts.Dot(
            label, model["style"], *(100 * model[part][i][key] for key in ("share", "low", "high"))
        )

    if len(models) == 1:
        return [
            charts.Group(models[0]["name"], [dot(models[0], i, name) for i, name in names.items()])
        ]
    return [
        charts.Group(name, [dot(model, i, model["name"]) for model in models])
        for i, name in names.items()
    ]


def part_name(bucket: dict[str, Any], say: Wording) -> str:
    """What a bucket of lengths or a kind is called."""
    if "kind" in bucket:
        return say.plain(f"kind_{bucket['kind']}")
    if bucket["at_most"] is None:
        return say.plain("words_or_more", low=bucket["at_least"])
    return say.plain("words_between", low=bucket["at_least"], high=bucket["at_most"])


def score_name(metric: str, say: Wording) -> str:
    """The name of the headline metric on an axis."""
    return say.plain("accuracy_percent") if metric == "accuracy" else f"{metric} × 100"


if __name__ == "__main__":
    run_command(main)
