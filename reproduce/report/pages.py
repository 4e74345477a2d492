"""The pages of one language: its charts, and what is put together from texts and facts."""

import math
import statistics
from typing import Any

from reproduce.inputs.catalog import on_the_hub
from reproduce.params import read_yaml
from reproduce.report import charts
from reproduce.report.analysis import BINS, KINDS, by_length, calibration, kinds, share
from reproduce.report.charts import Dot, Dots
from reproduce.report.facts import Facts, Model
from reproduce.report.wording import LANGUAGES, TEXTS, Wording
from reproduce.verdict.runs import by_device, done

PAGES = ("report", "slides")
VERDICTS = ("reproduced", "not reproduced", "inconclusive", "not run")
# The stages of dvc.yaml; those that do not wait for each other stand together.
STAGES = (
    "check, download_dataset download_tokenizer download_weights, tokenize benchmark, finetune, "
    "evaluate export, compare, report"
)
Figures = dict[str, tuple[str, str]]  # chart and caption by name


def render(facts: Facts) -> dict[str, str]:
    """Every page in every language: HTML by file name."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(TEXTS.parent)
    templates = Environment(loader=loader, undefined=StrictUndefined, autoescape=True,
                            trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    template, texts, pages = templates.get_template("page.html.jinja"), read_yaml(TEXTS), {}
    for say in (Wording(texts, language) for language in LANGUAGES):
        (other,) = set(LANGUAGES) - {say.language}
        drawn = {"facts": facts, "figures": draw(facts, say), "words": compose(facts, say)}
        for page in PAGES:
            beside = {name: file_name(name, say.language) for name in PAGES if name != page}
            links = {"other": file_name(page, other), "tag": LANGUAGES[other], "pages": beside}
            html = template.render(drawn, page=page, links=links, say=say, n=say.number)
            pages[file_name(page, say.language)] = html
    return pages


def file_name(page: str, language: str) -> str:
    """The page's file in report/: English has no tag in its name."""
    return f"{page}.html" if language == "en" else f"{page}.{LANGUAGES[language]}.html"


def draw(facts: Facts, say: Wording) -> Figures:
    """The charts by name; one that would have nothing to show is left out."""
    from markupsafe import Markup

    figures: Figures = {}

    def add(name: str, svg: str, key: str = "", /, **values: Any) -> None:
        text = say(f"caption_{key or name}", **values)
        labelled = svg.replace("<svg ", f'<svg class="chart" role="img" aria-label="{text}" ', 1)
        figures[name] = Markup(labelled), text  # noqa: S704 (matplotlib escapes its texts)

    with charts.style():
        if count := sum(len(model.curves) for model in facts.ran):
            svg = charts.curves({model.name: model.curve for model in facts.models}, say)
            add("curves", svg, every=facts.models[0].recipe.log_every, n=count)
        if facts.ran:
            rows = [seed_rows(facts, index, say) for index in range(len(facts.models))]
            metric = score_name(facts, say)
            runs, n = sum(len(model.runs) for model in facts.ran), facts.ran[0].correct.shape[1]
            svg, level = charts.dots("scores", rows, metric, say), confidence(facts, say)
            add("scores", svg, metric=metric, confidence=level, sentences=n, runs=runs)
        for index, model in enumerate(facts.models):
            if model.runs and facts.dataset.labels:
                bins, _ = calibration(model.probability, model.correct)
                place, n = f"reliability-{model.name}", model.correct.size
                svg = charts.reliability(model.name, index, bins, say)
                add(place, svg, "reliability", name=model.name, bins=BINS, n=n)
        if facts.ran and facts.dataset.labels and facts.texts is not None:
            for name, rows in group_rows(facts, facts.texts, say).items():
                add(name, charts.dots(name, rows, say.plain("accuracy_percent"), say))
        if facts.speed:
            rows = [speed_rows(facts, facts.speed)]
            svg = charts.dots("speed", rows, say.plain("ms"), say, most=math.inf)
            add("speed", svg, n=len(facts.speed["models"]))
    return figures


def confidence(facts: Facts, say: Wording) -> str:
    """That of intervals, in percent."""
    return say.short(100 * facts.evidence.settings.confidence)


def score_name(facts: Facts, say: Wording) -> str:
    """The headline metric on an axis."""
    metric = facts.evidence.metric
    return say.plain("accuracy_percent") if metric == "accuracy" else f"{metric} × 100"


def seed_rows(facts: Facts, index: int, say: Wording) -> Dots:
    """A model's rows in the chart of results by seed."""
    model, rows = facts.models[index], []
    ran = {run.seed: run for run in model.runs}
    for seed in sorted(facts.evidence.runs[model.name]):
        run = ran.get(seed)
        known = (run.score, model.intervals[seed], "not_defined") if run else (None, None)
        rows.append(Dot(say.seeds([seed]), index, *known))
    return Dots(model.name, rows, model.median if len(ran) > 1 else None, model.published)


def group_rows(facts: Facts, texts: list[str], say: Wording) -> dict[str, list[Dots]]:
    """By chart, the models side by side in each group of sentences that is not empty."""
    import numpy as np

    of = [kinds(text) for text in texts]
    groups: list[tuple[str, str, Any]] = []
    for low, high, inside in by_length(texts):
        key = "words_between" if high else "words_or_more"
        groups.append(("lengths", say.plain(key, low=low, high=high), inside))
    for kind in (*KINDS, "neither"):
        groups.append(("kinds", say.plain(kind), np.array([kind in names for names in of])))
    rows: dict[str, list[Dots]] = {"lengths": [], "kinds": []}
    for chart, name, inside in groups:
        if n := int(inside.sum()):
            level = facts.evidence.settings.confidence
            dots = [Dot(model.name, index, *share(model.correct[:, inside], level))
                    for index, model in enumerate(facts.models) if model.runs]  # fmt: skip
            rows[chart].append(Dots(say.plain("group_size", name=name, n=n), dots))
    return rows


def speed_rows(facts: Facts, speed: dict[str, Any]) -> Dots:
    """Milliseconds a sentence of each model, from its fastest to its slowest pass."""
    rows = []
    for index, model in enumerate(facts.models):
        if found := speed["models"].get(model.name):
            passes = [1000 * seconds / speed["sentences"] for seconds in found["seconds_by_pass"]]
            span = (min(passes), max(passes))
            rows.append(Dot(model.name, index, statistics.median(passes), span))
    return Dots("", rows)


def compose(facts: Facts, say: Wording) -> dict[str, Any]:
    """What the template shows that is put together from texts and facts."""
    from markupsafe import Markup

    evidence, found = facts.evidence, facts.claims["claims"]
    claims = [found[name] for name in evidence.published.claims if name in found]
    verdicts = [claim["verdict"] for claim in claims]
    counts = {name.replace(" ", "_"): verdicts.count(name) for name in VERDICTS}
    asked = len(facts.params["seeds"])
    seeds = (f"{m.name} {say('of', part=len(m.runs), all=asked)}" for m in facts.models)
    task = evidence.published.titles.get(evidence.dataset, evidence.dataset)
    remarks: list[str] = []
    rules: dict[str, list[str]] = {}
    for number, claim in enumerate(claims, start=1):
        if texts := Markup(" ").join(map(say.statement, claim["remarks"])):
            remarks.append(Markup(f"{number}. ") + texts)  # noqa: S704 (a number)
        rules.setdefault(say.statement(claim["rule_text"]), []).append(str(number))
    lacking = lacking_parts(facts, say)
    return {
        "task": task,
        "claims": claims,
        "verdict_names": {name: evidence.published.say(name) for name in VERDICTS},
        "verdicts": say("verdict_summary", total=len(verdicts), **counts),
        "runs": say("runs_summary", models=", ".join(seeds)),
        "remarks": remarks,
        "rules": [Markup(", ").join(numbers) + ". " + rule for rule, numbers in rules.items()],
        "rates": [error_rates(facts, rule, say) for rule in ("score", "retention")],
        "score": score_name(facts, say),
        "confidence": confidence(facts, say),
        "parts": [part for part, reason in lacking.items() if not reason],
        "setting": setting(facts, task, say),
        "scores": [text for model in facts.ran for text in score_texts(facts, model, say)],
        "calibration": calibration_texts(facts, say),
        "limits": limits(facts, task, lacking, say),
        "stages": [group.split() for group in STAGES.split(", ")],
        "run": run.name if (run := next(done(evidence.runs), None)) else "minilm-1",
    }


def lacking_parts(facts: Facts, say: Wording) -> dict[str, str]:
    """By part of the report, in order, why it is left out; "" where it is not."""
    ran = "" if facts.ran else say("nothing_ran")
    classes = ran or ("" if facts.dataset.labels else say("no_classes"))
    texts = classes or ("" if facts.texts is not None else say("no_sentences"))
    errors = texts or ("" if facts.errors else say("no_errors", name=facts.shown.name))
    speed = "" if facts.speed else say("no_speed")
    reference = "" if facts.reference else say("reference_none")
    return {
        "claims": "", "rules": "", "setting": "", "scores": ran, "confusion": classes,
        "groups": texts, "errors": errors, "size": speed, "reference": reference,
        "environment": ran, "limits": "",
    }  # fmt: skip


def error_rates(facts: Facts, rule: str, say: Wording) -> list[list[str]]:
    """How often a rule is right: a head of true differences, and a row a study's kind."""
    cells = facts.error_rates["rules"][rule] if facts.error_rates else []
    differences = sorted({cell["difference"] for cell in cells})
    rows: dict[str, list[str]] = {}
    for cell in cells:
        name = say("spread", n=cell["seeds"], spread=say.short(cell["spread"]))
        shares = (say.number(cell[verdict], 0) for verdict in VERDICTS[:2])
        rows.setdefault(name, [name]).append("/".join(shares))
    return [[say(f"rates_{rule}"), *map(say.short, differences)], *rows.values()]


def setting(facts: Facts, task: str, say: Wording) -> list[str]:
    """What is asked, and how it is measured."""
    source, selection = on_the_hub(facts.dataset.sources), facts.params["selection"]
    name = source.hub if source else facts.evidence.dataset
    held_out, rows = selection["holdout"], facts.dataset.train.rows or 0
    n = facts.claims["sentences"]  # copies of a sentence are held out together
    n = n if isinstance(n, int) else held_out or facts.dataset.validation.rows or 0
    rest = rows - (n if held_out else 0)
    sizes = {"n": n, "train": min(rest, selection["train"] or rest)}
    key = "held_out" if held_out else "validation"
    texts: list[str] = [say("question", task=task), say(key, dataset=name, **sizes)]
    if isinstance(most := facts.claims["majority_class"], dict):
        texts.append(say("majority", label=most["label"], share=say.number(most["accuracy"], 1)))
    tokens = facts.params["tokenize"]["max_length"]
    return [*texts, say("selection"), say("seed_meaning", tokens=tokens)]


def score_texts(facts: Facts, model: Model, say: Wording) -> list[str]:
    """A model's median beside what was published, and what must be known of it."""
    texts: list[str] = []
    name, median, published = model.name, model.median, model.published
    if median is not None:
        away = say.number(median - (published or 0), sign=True)
        key = "score_alone" if published is None else "score_published"
        values = {"median": say.number(median), "published": say.short(published)}
        texts.append(say(key, name=name, difference=away, **values))
    if undefined := [run.seed for run in model.runs if run.score is None]:
        seeds = say.seeds(undefined)
        texts.append(say("score_undefined", name=name, metric=facts.evidence.metric, seeds=seeds))
    kinds = [f"{kind}: {say.seeds([r.seed for r in runs])}" for kind, runs in by_device(model.runs)]
    if len(kinds) > 1:
        texts.append(say("mixed_devices", name=name, devices="; ".join(kinds)))
    return texts


def calibration_texts(facts: Facts, say: Wording) -> list[str]:
    """How sure each model is and how often right; the distance between the two."""
    texts, errors = [], []
    for model in facts.ran if facts.dataset.labels else []:
        accuracy, interval = share(model.correct, facts.evidence.settings.confidence)
        values = {"sure": say.number(100 * float(model.probability.mean()), 1)}
        values |= {"accuracy": say.number(accuracy, 1), "interval": say.interval(interval, 1)}
        texts.append(say("sure", name=model.name, **values))
        _, ece = calibration(model.probability, model.correct)
        errors.append(f"{model.name} {say.number(ece)}")
    return [*texts, say("ece", values=", ".join(errors))]


def limits(facts: Facts, task: str, lacking: dict[str, str], say: Wording) -> list[str]:
    """What these pages cannot say."""
    missing = [run for model in facts.models for run in model.missing]
    asked = sum(map(len, facts.evidence.runs.values()))
    texts: list[str] = [say("limit_task", task=task), say("limit_seeds"), say("limit_same")]
    if missing:
        texts.append(say("limit_missing", n=len(missing), all=asked))
    other = (run for run in missing if run.why != "absent")
    texts += (f"{run.name}: {say('not_run')} ({say(run.why)})" for run in other)
    for reason in dict.fromkeys(filter(None, lacking.values())):
        parts = ", ".join(f"“{say(part)}”" for part in lacking if lacking[part] == reason)
        texts.append(say("left_out", parts=parts, reason=reason))
    return texts
