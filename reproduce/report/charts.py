"""The report's charts: matplotlib draws them, and they come out as SVG to stand inside an HTML page.

Colours are CSS variables of the page (--ink, --muted, --grid, --series-0 ...), so a chart follows light and dark; text stays text
and takes the page's font. A model is told by its marker as well as by its colour.
"""

import functools
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec

from reproduce.report.analysis import Point, pareto_front
from reproduce.report.wording import Wording

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that no chart means, replaced by the page's variables of these names.
INK, MUTED, GRID, PAPER = "#010101", "#020202", "#030303", "#040404"
SERIES = tuple(f"#05050{i}" for i in range(6))
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
    **{c: f"--series-{i}" for i, c in enumerate(SERIES)},
}
MARKERS = ("o", "s", "^", "D", "v", "P")
WIDTH = 4.3  # inches; the page scales a chart to the width it has
STYLE: Any = {
    "svg.fonttype": "none", "font.size": 8.5, "axes.edgecolor": MUTED, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK, "grid.color": GRID,
    "grid.linewidth": 0.7, "axes.linewidth": 0.7, "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "lines.markersize": 5,
}  # fmt: skip


Arguments = ParamSpec("Arguments")


def in_style(draw: Callable[Arguments, str]) -> Callable[Arguments, str]:
    """Let matplotlib use STYLE while `draw` runs, and no longer."""

    @functools.wraps(draw)
    def styled(*arguments: Arguments.args, **named: Arguments.kwargs) -> str:
        import matplotlib as mpl

        with mpl.rc_context(STYLE):
            return draw(*arguments, **named)

    return styled


@dataclass(frozen=True)
class Dot:
    """One row of `dots`: a value with its interval. `value` None: not run."""

    label: str
    style: int = 0
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Group:
    """Rows of `dots` under one heading, with two values of the whole group: a solid and a dashed line."""

    heading: str
    dots: Sequence[Dot]
    median: float | None = None
    published: float | None = None


@in_style
def curves(runs: Sequence[dict[str, Any]], say: Wording) -> str:
    """Training loss by step: one line a run, {"model", "style", "step": [...], "loss": [...]}."""
    figure, axes = _canvas("curves", WIDTH, 2.7)
    named = set()
    for run in runs:
        label = None if run["model"] in named else run["model"]
        named.add(run["model"])
        index = run["style"] % len(SERIES)
        axes.plot(run["step"], run["loss"], color=SERIES[index], linewidth=1, alpha=0.85, label=label, marker=MARKERS[index],
                  markersize=4, markevery=max(1, len(run["step"]) // 12))  # fmt: skip
    axes.set(
        xlabel=say.plain("step"), ylabel=say.plain("training_loss"), ylim=(0, None), xlim=(0, None)
    )
    _ticks(axes, say, x=0, y=1)
    axes.legend(loc="upper right", handlelength=2.5)
    return _svg(figure, "curves", say.plain("chart_curves"))


@in_style
def dots(name: str, groups: Sequence[Group], xlabel: str, title: str, say: Wording) -> str:
    """Values in percent with their intervals, one row each, under the headings of their groups."""
    rows = sum(len(group.dots) + 1 for group in groups)
    figure, axes = _canvas(name, WIDTH, 0.55 + 0.205 * rows)
    y, labels = 0.0, []
    for group in groups:
        axes.text(
            0,
            y,
            group.heading,
            transform=axes.get_yaxis_transform(),
            fontweight="bold",
            va="center",
            ha="left",
        )
        top = y + 0.45
        for dot in group.dots:
            y += 1
            labels.append((y, dot.label))
            index = dot.style % len(SERIES)
            if dot.value is None:
                axes.text(
                    0.012,
                    y,
                    say.plain("not_run"),
                    transform=axes.get_yaxis_transform(),
                    color=MUTED,
                    va="center",
                    style="italic",
                )
                continue
            if dot.low is not None and dot.high is not None:
                axes.plot(
                    [dot.low, dot.high],
                    [y, y],
                    color=SERIES[index],
                    linewidth=1.4,
                    solid_capstyle="butt",
                )
            axes.plot(dot.value, y, color=SERIES[index], marker=MARKERS[index], linestyle="none")
        for value, line in ((group.median, "-"), (group.published, (0, (3, 2)))):
            if value is not None:
                axes.plot([value, value], [top, y + 0.45], color=INK, linewidth=1, linestyle=line)
        if group.published is not None:
            text = say.plain("published_value", value=say.number(group.published, 1))
            axes.text(
                group.published, y - len(group.dots), text, ha="center", va="center", fontsize=7.5
            )
        y += 1.15
    axes.set_yticks([place for place, _ in labels], [label for _, label in labels])
    axes.set(xlabel=xlabel, ylim=(y - 0.5, -0.7))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    low, high = axes.get_xlim()
    axes.set_xlim(low - 0.08 * (high - low), min(high, 100.5))
    _ticks(axes, say, x=0 if high - low > 4 else 1)
    return _svg(figure, name, title)


@in_style
def reliability(name: str, style: int, found: dict[str, Any], title: str, say: Wording) -> str:
    """Reliability diagram of one model (see `analysis.calibration`): accuracy by confidence; below, the sentences of each bin."""
    figure, (axes, counts) = _canvas(name, 2.9, 3.1, rows=(2.9, 1))
    index = style % len(SERIES)
    at = [100 * b["confidence"] for b in found["bins"]]
    lowest = min(50.0, *at)
    axes.plot([0, 100], [0, 100], color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)))
    axes.plot(
        at,
        [100 * b["accuracy"] for b in found["bins"]],
        color=SERIES[index],
        marker=MARKERS[index],
        linewidth=1.3,
    )
    total = sum(b["n"] for b in found["bins"])
    counts.bar(at, [100 * b["n"] / total for b in found["bins"]], width=2.2, color=SERIES[index])
    axes.set(ylabel=say.plain("accuracy_percent"), ylim=(-5, 105))
    counts.set(
        xlabel=say.plain("confidence_percent"),
        ylabel=say.plain("share_percent"),
        ylim=(0, 100),
        xlim=(lowest - 2, 102),
    )
    for part in (axes, counts):
        _ticks(part, say)
    counts.set_yticks([0, 50, 100])
    return _svg(figure, name, title)


@in_style
def pareto(points: Sequence[Point], say: Wording) -> str:
    """Accuracy against time for one sentence; area is the model's size. An unmeasured accuracy is hollow, on the axis."""
    figure, axes = _canvas("pareto", WIDTH, 3.1)
    measured = [point.accuracy for point in points if point.accuracy is not None]
    lowest, highest = (min(measured), max(measured)) if measured else (0.0, 1.0)
    room = max(highest - lowest, 1.0)
    hollow = len(measured) < len(points)
    bottom, top = lowest - (0.7 if hollow else 0.3) * room, highest + 0.35 * room
    if hollow:
        axes.axhspan(bottom, bottom + 0.3 * room, color=GRID, alpha=0.5, linewidth=0, zorder=0)
        axes.text(0.99, bottom + 0.27 * room, say.plain("accuracy_not_run"), transform=axes.get_yaxis_transform(), ha="right",
                  va="top", color=MUTED, style="italic", fontsize=7.5)  # fmt: skip
    front = pareto_front(points)
    axes.plot([p.milliseconds for p in front], [p.accuracy for p in front], color=MUTED, linewidth=1, drawstyle="steps-post",
              linestyle=(0, (3, 2)), zorder=1)  # fmt: skip
    largest = max(point.megabytes for point in points)
    for i, point in enumerate(points):
        colour = SERIES[i % len(SERIES)]
        y = bottom if point.accuracy is None else point.accuracy
        inside = PAPER if point.accuracy is None else colour
        axes.scatter(point.milliseconds, y, s=260 * point.megabytes / largest, marker=MARKERS[i % len(MARKERS)], zorder=2,
                     facecolors=inside, edgecolors=colour, linewidths=1.4, clip_on=False)  # fmt: skip
        note = say.plain("point", name=point.name, megabytes=say.number(point.megabytes, 0))
        axes.annotate(
            note,
            (point.milliseconds, y),
            xytext=(0, 11),
            textcoords="offset points",
            ha="center",
            fontsize=7.5,
        )
    times = [point.milliseconds for point in points]
    axes.set(
        xlabel=say.plain("milliseconds"),
        ylabel=say.plain("accuracy_percent"),
        ylim=(bottom, top),
        xlim=(0, max(times) * 1.2),
    )
    axes.tick_params(axis="x", pad=9)
    _ticks(axes, say, x=0, y=0 if room > 4 else 1)
    axes.set_yticks(
        [
            tick
            for tick in axes.get_yticks()
            if measured and bottom + 0.3 * room * hollow <= tick <= top
        ]
    )
    return _svg(figure, "pareto", say.plain("chart_pareto"))


def _canvas(
    name: str, width: float, height: float, rows: tuple[float, ...] = ()
) -> tuple["Figure", Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(
        len(rows), 1, sharex=True, height_ratios=rows
    ) if rows else figure.subplots()


def _ticks(axes: "Axes", say: Wording, x: int = 0, y: int = 0) -> None:
    """Write the numbers on the axes as the language does, with so many decimals; with none, ticks are whole numbers."""
    from matplotlib.ticker import MaxNLocator

    for axis, digits in (
        (axes.xaxis, x),
        (axes.yaxis, y) if axes.get_ylabel() else (axes.xaxis, x),
    ):
        axis.set_major_formatter(functools.partial(_tick, say, digits))
        if not digits:
            axis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=True))


def _tick(say: Wording, digits: int, value: float, position: int | None = None) -> str:
    """A number on an axis; matplotlib also gives its position."""
    return say.number(value, digits)


def _svg(figure: "Figure", name: str, title: str) -> str:
    """The figure as an <svg> element for HTML; byte for byte the same for the same data."""
    import matplotlib as mpl
    from markupsafe import escape

    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(
            file, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(
        r' id="[\w.]+_\d+"', "", text
    )  # figure_1, text_7: not unique in a page with several charts, and nothing uses them
    text = re.sub(r" font-family: [^;\"]*;?", "", text)
    text = re.sub(r"#0[1-5]0[1-5]0\d", lambda colour: f"var({VARIABLES[colour[0]]})", text)
    text = re.sub(r"\s*\n\s*", " ", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" class="chart" ', 1)
