"""Text and numbers of the report in one language: reproduce/report/templates/texts.yaml holds every sentence in all of them.

A text may have `{named}` places and `<code>`; what fills a place is escaped, and a number is written as the language writes it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markupsafe import Markup

TEXTS = Path("reproduce/report/templates/texts.yaml")
LANGUAGES = {"en": "en", "pt": "pt-BR"}  # key in texts.yaml: tag of the HTML page


class Wording:
    """Call it with a text's name and what fills its places: `say("of", done=1, asked=5)`."""

    def __init__(self, texts: Mapping[str, Mapping[str, str]], language: str) -> None:
        self.texts = texts
        self.language = language
        self.tag = LANGUAGES[language]

    def __call__(self, key: str, /, **values: Any) -> "Markup":
        """The text, for HTML. KeyError for an unknown key or a place that nothing fills."""
        from markupsafe import Markup

        filled = {
            place: self.number(value, 0) if isinstance(value, int) else value
            for place, value in values.items()
        }
        text = self.texts[key][self.language].strip().replace(" %", "\N{NO-BREAK SPACE}%")
        return Markup(text).format(**filled)  # noqa: S704 (texts are ours; values are escaped)

    def plain(self, key: str, /, **values: Any) -> str:
        """The text, for a chart: no markup."""
        return self(key, **values).unescape()

    def number(self, value: Any, digits: int = 2, sign: bool = False) -> str:
        """A number with so many decimals, in the language's separators; "not run" for None and "not run"."""
        if value is None or isinstance(value, str):
            return self.plain("not_run")
        text = f"{value:{'+' if sign else ''},.{digits}f}".replace("-", "\N{MINUS SIGN}")
        return text.translate(str.maketrans(",.", ".,")) if self.language == "pt" else text

    def interval(self, low: float | None, high: float | None, digits: int = 2) -> str:
        """Two numbers as an interval; a dash where there is none."""
        if low is None or high is None:
            return "\N{EN DASH}"
        return self.plain("interval", low=self.number(low, digits), high=self.number(high, digits))

    def span(self, values: Sequence[float], digits: int = 0) -> str:
        """The least and the greatest of some values; one number where they are written alike."""
        low, high = self.number(min(values), digits), self.number(max(values), digits)
        return low if low == high else self.plain("interval", low=low, high=high)

    def seeds(self, seeds: Sequence[int]) -> str:
        """Seeds in words."""
        return self.plain(
            "seed" if len(seeds) == 1 else "seed_list", seed=", ".join(map(str, seeds))
        )

    def p_value(self, value: float) -> str:
        """A p value with three decimals, or that it is smaller."""
        return f"< {self.number(0.001, 3)}" if value < 0.001 else self.number(value, 3)

    def short(self, value: Any) -> str:
        """A parameter as people write it: 1e-05 as 1e-5, 0.5 as 0,5 in Portuguese; anything but a number as it is."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return str(value)
        text = f"{value:g}".replace("e-0", "e-")
        return text.replace(".", ",") if self.language == "pt" else text
