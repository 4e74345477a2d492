"""published.yaml: what others reported and what the article claims, typed; whatever does not fit is an error."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from reproduce.params import Name, Section

PUBLISHED = Path("published.yaml")

Score = Annotated[
    float, Field(gt=0, le=100)
]  # times 100: accuracy in percent, a correlation of 0.5 is 50


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
    note: str | None = None


class Statement(Section):
    """A claim in words, in two languages; `{published}` and `{task}` are filled in."""

    en: str
    pt: str


class Claim(Section):
    """A claim of the article."""

    models: Annotated[
        tuple[Name, ...], Field(min_length=1)
    ]  # whom it is about; the first compared with the second
    statement: Statement
    unit: Literal["%", "ratio", "MB"]
    source: str
    note: str | None = None


class NumberClaim(Claim):
    """A claim whose number is its own, and does not follow from `results` or `table3`."""

    published: Annotated[float, Field(gt=0)]


class Claims(Section):
    """The claims that have a rule."""

    distilbert_accuracy: Claim
    bert_accuracy: Claim
    retention: Claim
    retention_glue: NumberClaim
    parameters: NumberClaim
    speed: Claim
    size: NumberClaim


class Table3(Section):
    """The article's Table 3."""

    source: str
    parameters: dict[Name, Annotated[float, Field(gt=0)]]  # millions
    seconds: dict[
        Name, Annotated[float, Field(gt=0)]
    ]  # one pass over the STS-B dev set, CPU, batch size 1


class Published(Section):
    """The whole of published.yaml."""

    results: tuple[Row, ...]
    table3: Table3
    titles: dict[Name, str]  # how the tasks are called in sentences
    claims: Claims

    def row(self, model: str, dataset: str, split: str) -> Row | None:
        """What was published on our `model`, on this dataset and split; None if nothing was."""
        return next(
            (
                row
                for row in self.results
                if (row.model, row.dataset, row.split) == (model, dataset, split)
            ),
            None,
        )
