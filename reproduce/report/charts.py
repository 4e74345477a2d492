"""The report's charts: matplotlib draws them, as SVG to stand inside an HTML page.

    with style():
        svg = dots("kinds", [Dots("with negation", [Dot("minilm", 0, 91.2)])], "accuracy, %", say)

Colours are CSS variables of the page (--ink, --series-0 ...), so a chart follows light and dark.
Text stays text, in the page's font and in one size: at least 12 px where a chart is as wide as a
telephone.
"""

import functools
import io
import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.models.metrics import Array
from reproduce.report.wording import Wording
from reproduce.verdict.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that no chart means, replaced by the page's variables of these names.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES = tuple(f"#05050{i}" for i in range(10))
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid"}
VARIABLES |= {colour: f"--series-{i}" for i, colour in enumerate(SERIES)}
MARKERS = ("o", "s", "^", "D", "v", "P")
WIDTH = 3.9  # inches; the page scales a chart to the width it has
DASHED = (0, (3, 2))


def style() -> AbstractContextManager[None]:
    """While it lasts, matplotlib draws by our style over its own defaults.

    A person's matplotlibrc and back end count for nothing here, nor do complaints about them.
    """
    os.environ.pop("MPLBACKEND", None)
    logging.getLogger("matplotlib").setLevel(logging.CRITICAL)
    import matplotlib as mpl

    return mpl.rc_context(fname=Path(__file__).parent / "templates/charts.mplstyle")


@dataclass(frozen=True)
class Dot:
    """One row of `dots`: a value with its interval."""

    label: str
    index: int  # decides colour and marker
    value: float | None
    interval: Interval | None
    absent: str = "not_run"  # the text that takes the place of a value of None


@dataclass(frozen=True)
class Dots:
    """Rows of `dots` under a heading, with two values of all of them: solid and dashed lines."""

    heading: str
    rows: Sequence[Dot]
    median: float | None = None
    published: float | None = None


def curves(models: Mapping[str, Array | None], say: Wording) -> str:
    """Training loss by step: a model's median over seeds, and a band from lowest to highest.

    Args:
        models: by name an array of shape (points, 1 + seeds): step, loss of each seed. None keeps
            the colour of a model without a curve.
    """
    import numpy as np

    figure, axes = _canvas(WIDTH, 2.6)
    for index, (name, table) in enumerate(models.items()):
        if table is not None:
            look, steps, losses = _look(index), table[:, 0], table[:, 1:]
            band = (losses.min(axis=1), losses.max(axis=1))
            axes.fill_between(steps, *band, color=look["color"], alpha=0.2, linewidth=0)
            look |= {"linewidth": 1.2, "markersize": 4, "markevery": max(1, len(steps) // 10)}
            axes.plot(steps, np.median(losses, axis=1), label=name, **look)
    axes.set(xlabel=say.plain("step"), ylabel=say.plain("training_loss"))
    axes.set(xlim=(0, None), ylim=(0, None))
    _ticks(axes, say, y=1)
    axes.legend(loc="upper right", handlelength=2)
    return _svg(figure, "curves")


def dots(name: str, groups: Sequence[Dots], xlabel: str, say: Wording, most: float = 100.5) -> str:
    """Values with their intervals, one row each, under the headings of their groups.

    The axis ends at `most` at the latest: by default little above 100 %.
    """
    figure, axes = _canvas(WIDTH, 0.6 + 0.215 * sum(len(group.rows) + 1 for group in groups))
    across = axes.get_yaxis_transform()
    y = 0.0
    labels: dict[float, str] = {}
    for group in groups:
        axes.text(0, y, group.heading, transform=across, weight="bold", va="center")
        top = y
        for dot in group.rows:
            y += 1
            labels[y] = dot.label
            if dot.value is None:
                words = {"s": say.plain(dot.absent), "color": MUTED, "style": "italic"}
                axes.text(0.012, y, transform=across, va="center", **words)
                continue
            look = _look(dot.index)
            if dot.interval:
                axes.plot(dot.interval, [y, y], color=look["color"], linewidth=1.4)
            axes.plot(dot.value, y, linestyle="none", **look)
        for value, line in ((group.median, "-"), (group.published, DASHED)):
            if value is not None:
                span = [top + 0.5, y + 0.45]
                axes.plot([value, value], span, color=INK, linewidth=1, linestyle=line)
        if group.published is not None:
            text = say.plain("published_value", value=say.number(group.published, 1))
            axes.text(group.published, top, text, ha="center", va="center")
        y += 1.15
    axes.set_yticks([*labels], [*labels.values()])
    axes.set(xlabel=xlabel, ylim=(y - 0.5, -0.7))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    low, high = axes.get_xlim()
    axes.set_xlim(low - 0.08 * (high - low), min(high, most))
    _ticks(axes, say, x=0 if high - low > 4 else 1)
    return _svg(figure, name)


def reliability(name: str, index: int, bins: Sequence[tuple[int, float, float]],
                say: Wording) -> str:  # fmt: skip
    """Accuracy by confidence in each bin; below it, the share of the answers in each bin."""
    figure, (axes, counts) = _canvas(2.9, 3.0, rows=(2.6, 1))
    look = _look(index)
    sizes, at, accuracy = zip(*bins, strict=True)
    axes.plot([0, 100], [0, 100], color=MUTED, linewidth=0.9, linestyle=DASHED)
    axes.plot(at, accuracy, linewidth=1.3, **look)
    counts.bar(at, [100 * n / sum(sizes) for n in sizes], width=2.2, color=look["color"])
    axes.set(ylabel=say.plain("accuracy_percent"), ylim=(-5, 105))
    counts.set(xlabel=say.plain("confidence_percent"), ylabel=say.plain("share_percent"))
    counts.set(ylim=(0, 100), xlim=(min(50.0, *at) - 2, 102))
    for part in (axes, counts):
        _ticks(part, say)
    counts.set_yticks([0, 50, 100])
    return _svg(figure, f"reliability-{name}")


def _look(index: int) -> dict[str, Any]:
    return {"color": SERIES[index % len(SERIES)], "marker": MARKERS[index % len(MARKERS)]}


def _canvas(width: float, height: float, rows: tuple[float, ...] = (1,)) -> tuple["Figure", Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(len(rows), 1, sharex=True, height_ratios=rows)


def _ticks(axes: "Axes", say: Wording, x: int = 0, y: int = 0) -> None:
    """Write numbers on the axes as the language does, with so many decimals; 0: whole numbers."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for axis, digits in ((axes.xaxis, x), (axes.yaxis, y)):
        if axis.get_label_text() or axis is axes.xaxis:  # else its ticks are words
            write = functools.partial(lambda digits, value, _: say.number(value, digits), digits)
            axis.set_major_formatter(FuncFormatter(write))
            if not digits:
                axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))


def _svg(figure: "Figure", name: str) -> str:
    """The figure as an <svg> element for HTML; byte for byte the same for the same data."""
    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        metadata = {"Date": None, "Creator": None}
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    # figure_1, text_7: not unique in a page with several charts, and nothing uses them.
    text = re.sub(r' id="[\w.]+_\d+"', "", text)
    text = re.sub(r" font-family: [^;\"]*;?", "", text)
    text = re.sub(r"#0[1-5]0[1-5]0\d", lambda colour: f"var({VARIABLES[colour[0]]})", text)
    return re.sub(r"\s*\n\s*", " ", text)
