"""The two pages in one language: charts, and what is put together from texts and facts."""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduce.params import read_yaml
from reproduce.report import charts
from reproduce.report.analysis import BINS, Group, by_kind, by_length
from reproduce.report.charts import Dot, Dots
from reproduce.report.facts import Facts, Model
from reproduce.report.wording import LANGUAGES, TEXTS, Wording

TEMPLATES = Path(__file__).parent / "templates"
PAGES = ("report", "slides")
# The stages of dvc.yaml: those side by side that do not wait for each other.
STAGES = (
    ("check",),
    ("download_dataset", "download_tokenizer", "download_weights"),
    ("tokenize",),
    ("finetune",),
    ("evaluate",),
    ("export", "benchmark"),
    ("compare",),
    ("report",),
)
COMMANDS = {
    "make repro": "reproduce_all",
    "make demo": "reproduce_demo",
    "dvc repro -s report": "reproduce_report",
    "make verify STAGE=finetune@{run}": "reproduce_verify",
}


@dataclass(frozen=True)
class Figure:
    """A chart and what stands below it."""

    svg: Any
    caption: str


def render(facts: Facts) -> dict[str, str]:
    """Every page in every language: HTML by file name."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    texts, pages = read_yaml(TEXTS), {}
    for say in (Wording(texts, language) for language in LANGUAGES):
        (other,) = set(LANGUAGES) - {say.language}
        figures, words = draw(facts, say), compose(facts, say)
        for page in PAGES:
            links = {name: file_name(name, say.language) for name in PAGES}
            links |= {"other": file_name(page, other), "tag": LANGUAGES[other]}
            html = templates.get_template(f"{page}.html.jinja").render(
                facts=facts, figures=figures, words=words, links=links, say=say, n=say.number
            )
            pages[links[page]] = numbered(html, say)
    return pages


def file_name(page: str, language: str) -> str:
    """The page's file in report/: English has no tag in its name."""
    return f"{page}.html" if language == "en" else f"{page}.{LANGUAGES[language]}.html"


def numbered(html: str, say: Wording) -> str:
    """The page with its figures numbered, in their order."""
    number = itertools.count(1)
    opening = f"<figcaption><b>{say.plain('figure')} "
    return re.sub("<figcaption>", lambda _: f"{opening}{next(number)}.</b> ", html)


def draw(facts: Facts, say: Wording) -> dict[str, Figure]:
    """The charts by name; one that would have nothing to show is left out."""
    from markupsafe import Markup

    drawn: dict[str, tuple[str, str]] = {}
    runs, level = sum(len(model.runs) for model in facts.ran), percent(facts, say)
    with charts.style():
        if count := sum(len(model.curves) for model in facts.ran):
            every = facts.models[0].recipe.log_every
            caption = say("caption_curves", every=every, runs=count)
            drawn["curves"] = charts.curves([model.band for model in facts.models], say), caption
        if facts.ran:
            rows = [seed_rows(model, say) for model in facts.models]
            name = score_name(facts, say)
            key = "caption_scores" if facts.ran[0].runs[0].interval else "caption_scores_bare"
            caption = say(key, metric=name, sentences=facts.n, confidence=level, runs=runs)
            drawn["scores"] = charts.dots("scores", rows, name, say), caption
        for index, model in enumerate(facts.models):
            if model.runs and facts.dataset.labels:
                n = model.correct.size
                caption = say("caption_reliability", name=model.name, bins=BINS, n=n)
                svg = charts.reliability(model.name, index, model.calibration, say)
                drawn[f"reliability-{model.name}"] = svg, caption
        if facts.ran and facts.dataset.labels and facts.texts is not None:
            for name, split in (("lengths", by_length), ("kinds", by_kind)):
                rows = group_rows(facts, split, say)
                svg = charts.dots(name, rows, say.plain("accuracy_percent"), say)
                drawn[name] = svg, say(f"caption_{name}", confidence=level)
        if facts.points:
            caption = say("caption_pareto", n=len(facts.points))
            drawn["pareto"] = charts.pareto(facts.points, say), caption
    return {name: Figure(Markup(svg), caption) for name, (svg, caption) in drawn.items()}


def percent(facts: Facts, say: Wording) -> str:
    """The confidence of intervals, in percent."""
    return say.short(100 * facts.params["compare"]["confidence"])


def score_name(facts: Facts, say: Wording) -> str:
    """The headline metric on an axis."""
    metric = facts.dataset.metrics[0]
    return say.plain("accuracy_percent") if metric == "accuracy" else f"{metric} × 100"


def seed_rows(model: Model, say: Wording) -> Dots:
    """A model's rows in the chart of results by seed; a seed has one colour in all models."""
    rows = []
    seeds = sorted([*model.seeds, *(run.seed for run in model.missing)])
    scores = {run.seed: (run.score, run.interval) for run in model.runs}
    for index, seed in enumerate(seeds):
        rows.append(Dot(say.seeds([seed]), index, *scores.get(seed, (None, None))))
    return Dots(model.name, rows, model.median if len(model.runs) > 1 else None, model.published)


def group_rows(facts: Facts, split: Callable[..., list[Group]], say: Wording) -> list[Dots]:
    """The models side by side in each group of sentences."""
    confidence = facts.params["compare"]["confidence"]
    groups: dict[str, list[Dot]] = {}
    for index, model in enumerate(facts.models):
        if model.runs:
            for group in split(model.correct, facts.texts, confidence):
                label = say.plain("group_size", name=group_name(group, say), n=group.share.n)
                interval = (group.share.low, group.share.high)
                dot = Dot(model.name, index, group.share.value, interval)
                groups.setdefault(label, []).append(dot)
    return [Dots(label, dots) for label, dots in groups.items()]


def group_name(group: Group, say: Wording) -> str:
    """What sentences of a length or of a kind are called."""
    if group.kind != "length":
        return say.plain(f"kind_{group.kind}")
    if group.at_most is None:
        return say.plain("words_or_more", low=group.at_least)
    return say.plain("words_between", low=group.at_least, high=group.at_most)


def compose(facts: Facts, say: Wording) -> dict[str, Any]:
    """What the templates show that is put together from texts and facts."""
    verdicts = [claim["verdict"].replace(" ", "_") for claim in facts.claims["claims"].values()]
    kinds = ("reproduced", "not_reproduced", "inconclusive", "not_run")
    counts = {kind: verdicts.count(kind) for kind in kinds}
    seeds = facts.params["seeds"]
    each = [
        say("runs_of_model", name=model.name, part=len(model.runs), all=len(seeds))
        for model in facts.models
    ]
    lacking = lacking_parts(facts, say)
    compare = facts.params["compare"]
    pair = {"student": compare["student"], "teacher": compare["teacher"]}
    return {
        "verdicts": say("verdict_summary", total=len(verdicts), **counts),
        "runs": say("runs_summary", models=", ".join(each)),
        "score": score_name(facts, say),
        "confidence": percent(facts, say),
        "contents": [*lacking, "exported", "reference", "environment", "reproduce", "limits"],
        "lacking": lacking,
        "pair": pair,
        "setting": setting(facts, say),
        "scores": [text for model in facts.ran for text in score_texts(facts, model, say)],
        "curves": curve_texts(facts, say),
        "calibration": calibration_texts(facts, say),
        "environment": environment_texts(facts, say),
        "limits": limits(facts, say),
        "stages": STAGES,
        "commands": {
            command.format(run=f"{facts.models[0].name}-{seeds[0]}"): say(text)
            for command, text in COMMANDS.items()
        },
    }


def lacking_parts(facts: Facts, say: Wording) -> dict[str, str]:
    """By part of the report, why it has nothing to show; "" where it has."""
    ran = "" if facts.ran else say("nothing_ran")
    classes = ran or ("" if facts.dataset.labels else say("no_classes"))
    texts = classes or ("" if facts.texts is not None else say("no_sentences"))
    errors = texts or ("" if facts.errors else say("no_errors", name=facts.shown.name))
    pairs = classes or ("" if facts.agreement else say("agreement_none"))
    speed = "" if facts.points else say("no_speed")
    curves = ran or ("" if any(model.curves for model in facts.ran) else say("no_curves"))
    return {"claims": "", "setting": "", "scores": ran, "curves": curves, "confusion": classes,
            "calibration": classes, "groups": texts, "errors": errors, "agreement": pairs,
            "size": speed}  # fmt: skip


def setting(facts: Facts, say: Wording) -> list[str]:
    """What is asked, and how it is measured."""
    source, selection = on_the_hub(facts.dataset.sources), facts.params["selection"]
    name = source.hub if source and source.hub else facts.params["dataset"]
    train = selection["train"] or (facts.dataset.train.rows or 0) - selection["holdout"]
    key = "data" if facts.split == "validation" else "data_held_out"
    n = facts.n or selection["holdout"] or facts.dataset.validation.rows or 0
    texts = [say("question", task=facts.task), say(key, dataset=name, train=train, n=n)]
    if isinstance(most := facts.claims["majority_class"], dict):
        label = facts.dataset.labels[most["label"]]
        texts.append(say("majority", label=label, share=say.number(most["accuracy"], 1)))
    tokens = facts.params["tokenize"]["max_length"]
    return [*texts, say("selection"), say("seed_meaning", tokens=tokens)]


def score_texts(facts: Facts, model: Model, say: Wording) -> list[str]:
    """A model's median beside what was published, and what must be known of it."""
    texts, undefined = [], [run.seed for run in model.runs if run.score is None]
    if model.median is not None:
        key = "score_alone" if model.published is None else "score_published"
        away = model.median - (model.published or 0)
        texts.append(
            say(
                key,
                name=model.name,
                median=say.number(model.median),
                difference=say.number(away, sign=True),
                published=say.number(model.published, 1),
            )
        )
    if undefined:
        seeds, metric = say.seeds(undefined), facts.dataset.metrics[0]
        texts.append(say("score_undefined", name=model.name, metric=metric, seeds=seeds))
    if len(model.devices) > 1:
        kinds = "; ".join(f"{kind}: {say.seeds(of)}" for kind, of in model.devices.items())
        texts.append(say("mixed_devices", name=model.name, devices=kinds))
    return texts


def curve_texts(facts: Facts, say: Wording) -> list[str]:
    """Where each model's curves end, and which runs have none."""
    texts, absent = [], []
    for model in facts.ran:
        absent += [run.name for run in model.runs if run.seed not in model.curves]
        if model.curves:
            last = [float(curve[-1, 1]) for curve in model.curves.values()]
            loss, seeds = say.interval((min(last), max(last)), 3), say.seeds(list(model.curves))
            texts.append(say("curve_end", name=model.name, loss=loss, seeds=seeds))
    return [*texts, say("no_curve", runs=", ".join(absent))] if absent else texts


def calibration_texts(facts: Facts, say: Wording) -> list[str]:
    """Who is over-confident, said only where the interval of the accuracy excludes the opposite."""
    if not facts.dataset.labels or not facts.ran:
        return []
    texts, errors = [], []
    for model in facts.ran:
        found = model.calibration
        texts.append(
            say(
                f"calibration_{found.tendency}",
                name=model.name,
                sure=say.number(found.confidence, 1),
                accuracy=say.number(found.accuracy.value, 1),
                interval=say.interval((found.accuracy.low, found.accuracy.high), 1),
            )
        )
        errors.append(f"{model.name} {say.number(found.ece)}")
    return [*texts, say("ece", values=", ".join(errors))]


def environment_texts(facts: Facts, say: Wording) -> list[str]:
    """What the table of environments needs to be understood."""
    all_runs = [about for model in facts.ran for about in model.environments.values()]
    texts = [say("commit_plus")] if any(about["git_dirty"] for about in all_runs) else []
    if names := sorted({name for about in all_runs for name in about["not_deterministic"]}):
        texts.append(say("not_deterministic", names=", ".join(names)))
    return texts


def limits(facts: Facts, say: Wording) -> list[str]:
    """What these pages cannot say."""
    asked = sum(len(model.runs) + len(model.missing) for model in facts.models)
    missing = sum(len(model.missing) for model in facts.models)
    texts = [say("limit_missing", part=missing, all=asked)] if missing else []
    keys = ("limit_seeds", "limit_determinism", "limit_pins")
    return [*texts, say("limit_task", task=facts.task), *map(say, keys)]
