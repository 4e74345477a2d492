"""published.yaml: what others reported, what the article claims, and the rules; typed.

`read_published()` reads it; whatever does not fit is an error.
"""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from reproduce.inputs.catalog import FileName, Pin, Source
from reproduce.params import Name, Section, read_yaml, validate

PUBLISHED = Path("published.yaml")
LANGUAGES = ("en", "pt")

# Times 100: accuracy in percent, a correlation of 0.5 is 50.
Score = Annotated[float, Field(gt=0, le=100)]
Positive = Annotated[float, Field(gt=0)]


class Text(Section):
    """A sentence in two languages; {names} in it are filled in."""

    en: str
    pt: str

    def fill(self, **values: Any) -> dict[str, str]:
        """The sentence by language, its numbers as `in_language` writes them."""
        texts = {}
        for language in LANGUAGES:
            written = {name: in_language(value, language) for name, value in values.items()}
            texts[language] = getattr(self, language).format(**written)
        return texts


def in_language(value: Any, language: str) -> str:
    """A value as text: a number, at most 2 decimals, as the language writes it: 98.5, 98,5.

    Of a text by language, as `Text.fill` gives it, the language's.
    """
    if isinstance(value, dict):
        return str(value[language])
    if not isinstance(value, int | float):
        return str(value)
    if isinstance(value, float):
        value = round(value, 2) + 0.0  # no -0
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return text.replace(".", ",") if language == "pt" else text


class Row(Section):
    """A published score."""

    name: str
    dataset: Name
    split: Literal["validation", "test"]
    score: Score
    protocol: str
    source: str
    metric: Literal["accuracy", "f1", "matthews", "pearson", "not named"] = "accuracy"
    model: Name | None = None  # our name for it, where we fine-tune the same checkpoint
    seeds: Annotated[int, Field(ge=1)] | None = None  # it is the median of so many runs
    parameters: float | None = None  # millions
    printed: Score | None = None  # what the source prints, where that is a known misprint
    note: Text | None = None


class Claim(Section):
    """A claim of the article and its rule; what the keys mean is said in published.yaml."""

    measures: Literal["score", "retention", "parameters", "speed", "nothing"]
    rule: Literal["difference", "at least", "exact"]
    margin: Positive | dict[Name, Positive]
    models: Annotated[tuple[Name, ...], Field(min_length=1, max_length=2)]
    statement: Text
    unit: Literal["%", "ratio", "MB"]
    source: str
    published: Positive | None = None
    note: Text | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Claim":
        own = self.measures in ("parameters", "nothing")
        if (self.published is not None) != own:
            needs = "needs" if own else "takes no"
            raise ValueError(f"a claim that measures {self.measures} {needs} `published`")
        two = self.measures in ("retention", "parameters", "speed")
        if self.measures != "nothing" and len(self.models) != 1 + two:
            raise ValueError(f"a claim that measures {self.measures} names {1 + two} model(s)")
        if self.measures != "nothing" and (self.rule == "exact") != (self.measures == "parameters"):
            raise ValueError(
                "the rule `exact` is for counts: use it for parameters, and only there"
            )
        try:
            self.statement.fill(published=0.0, task="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"statement: {error!r}; its places are {{published}} and {{task}}"
            ) from None
        return self

    def margin_on(self, dataset: str) -> float | None:
        """The margin on a task; None if it has none."""
        return self.margin.get(dataset) if isinstance(self.margin, dict) else self.margin


class Table3(Section):
    """The article's Table 3."""

    source: str
    parameters: dict[Name, Positive]  # millions
    seconds: dict[Name, Positive]  # one pass over the STS-B dev set, CPU, batch size 1


class Reference(Section):
    """A fine-tuned checkpoint of others, and how many sentences they say it has right."""

    dataset: Name
    tokenizer: Name  # the catalog's model that has its tokenizer.json
    max_length: Annotated[int, Field(ge=3)]
    correct: Annotated[int, Field(ge=0)]
    source: str
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    files: Annotated[dict[FileName, Pin], Field(min_length=1)]


class Published(Section):
    """The whole of published.yaml."""

    results: tuple[Row, ...]
    table3: Table3
    reference: Reference
    titles: dict[Name, str]  # how the tasks are called in sentences
    claims: Annotated[dict[Name, Claim], Field(min_length=1)]
    words: dict[str, Text]

    def say(self, key: str, **values: Any) -> dict[str, str]:
        """A sentence of `words` by language, `values` filled in."""
        return self.words[key].fill(**values)

    def word(self, name: str) -> dict[str, str] | str:
        """A name by language, where `words` has it."""
        return self.say(name) if name in self.words else name

    def row(self, model: str, dataset: str, split: str) -> Row | None:
        """What was published on our `model`, on this dataset and split; None if nothing was."""
        place = (model, dataset, split)
        rows = (row for row in self.results if (row.model, row.dataset, row.split) == place)
        return next(rows, None)

    @model_validator(mode="after")
    def _fits(self) -> "Published":
        rows = Counter((r.model, r.dataset, r.split) for r in self.results if r.model)
        if twice := [place for place, count in rows.items() if count > 1]:
            raise ValueError(f"results: two rows of {', '.join(map(str, twice[0]))}; keep one")
        for name, claim in self.claims.items():
            scored = claim.measures in ("score", "retention")
            known = {row.model for row in self.results} if scored else set(self.table3.seconds)
            lacking = [model for model in claim.models if model not in known]
            if lacking and (scored or claim.measures == "speed"):
                place = "results" if scored else "table3.seconds"
                raise ValueError(f"claims.{name}.models: {place} has no {lacking[0]}")
            if not scored:
                continue
            datasets = [row.dataset for row in self.results if row.model in claim.models]
            if missing := [d for d in datasets if claim.margin_on(d) is None]:
                raise ValueError(
                    f"claims.{name}.margin has no {missing[0]}: `results` has its score"
                )
        return self


def read_published(path: Path = PUBLISHED) -> Published:
    """Read and check published.yaml; `UserError` if something in it does not fit."""
    return validate(Published, read_yaml(path), f"{path}:")
