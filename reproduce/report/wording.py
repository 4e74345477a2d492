"""Text and numbers in one language: templates/texts.yaml holds every sentence in all of them.

A text may have `{named}` places and `<code>`. What fills a place is escaped, and a number is
written as the language writes it. A text of two forms, "one|many", is chosen by the place `n`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.verdict.evidence import NOT_DEFINED

if TYPE_CHECKING:
    from markupsafe import Markup

TEXTS = Path(__file__).parent / "templates/texts.yaml"
LANGUAGES = {"en": "en", "pt": "pt-BR"}  # key in texts.yaml: tag of the HTML page


class Wording:
    """Call it with a text's name and what fills its places: `say("of", part=1, all=5)`."""

    def __init__(self, texts: Mapping[str, Mapping[str, str]], language: str) -> None:
        self.texts = texts
        self.language = language
        self.tag = LANGUAGES[language]

    def __call__(self, key: str, /, **values: Any) -> "Markup":
        """The text, for HTML; KeyError for an unknown name or a place that nothing fills."""
        from markupsafe import Markup

        text = self.texts[key][self.language].strip()
        if "|" in text:
            text = text.split("|")[values["n"] != 1]
        written = {
            place: self.number(value, 0) if type(value) is int else value
            for place, value in values.items()
        }
        return Markup(text).format(**written)  # noqa: S704 (texts are ours; values are escaped)

    def plain(self, key: str, /, **values: Any) -> str:
        """The text, for a chart: no markup."""
        return self(key, **values).unescape()

    def number(self, value: float | str | None, digits: int = 2, sign: bool = False) -> str:
        """A number with so many decimals, in the language's separators; words for what is none."""
        if value is None or isinstance(value, str):
            return self.plain("not_defined" if value == NOT_DEFINED else "not_run")
        text = f"{value:{'+' if sign else ''},.{digits}f}".replace("-", "\N{MINUS SIGN}")
        return text.translate(str.maketrans(",.", ".,")) if self.language == "pt" else text

    def interval(self, pair: Sequence[float] | None, digits: int = 2) -> str:
        """Two numbers as an interval, one number where they are written alike; a dash for None."""
        if pair is None:
            return "\N{EN DASH}"
        low, high = (self.number(value, digits) for value in pair)
        return low if low == high else self.plain("interval", low=low, high=high)

    def seeds(self, seeds: Sequence[int]) -> str:
        """Seeds in words."""
        return self.plain("seeds", n=len(seeds), seeds=", ".join(map(str, seeds)))

    def short(self, value: Any) -> str:
        """A parameter as people write it: 0.0001 as 1e-4, 0.5 in Portuguese as 0,5."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return str(value)
        text = f"{value:g}"
        if 0 < abs(value) < 1e-3:
            text = re.sub(r"\.?0*e-0?", "e-", f"{value:e}")
        return text.replace(".", ",") if self.language == "pt" else text

    def statement(self, texts: Mapping[str, str]) -> "Markup":
        """A sentence of another file, for HTML: "40%", a true minus, and `code` as code."""
        from markupsafe import Markup, escape

        text = re.sub(r"(?<=\d) %", "%", texts[self.language])
        text = re.sub(r"(?<=\s)-(?=\d)", "\N{MINUS SIGN}", text)
        return Markup(re.sub(r"`(.+?)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704
