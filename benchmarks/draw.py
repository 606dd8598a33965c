"""Draws plots as SVG, with matplotlib: the same picture for the same figures, byte for byte.

The background is transparent and everything else is of a middle brightness, so that a picture can be read on
a light page and on a dark one.
"""

import io
import math
import re
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.plots import Bar, Bars, Panel, Panels, Plot
from benchmarks.scenarios import FAILS

__all__ = ["draw"]

# A contrast of at least 4 to white and to the dark pages that are in use.
_INK = "#6e7781"
_GRID = "#6e778140"
_COLOURS = {"broker": "#2f81f7", "peer": "#d29922", "limit": "#8b949e"}
_KINDS = {"broker": "ours", "peer": "peers", "limit": "limits"}
_CURVES = ("#2f81f7", "#d29922", "#3fb950", "#db61a2", "#8b949e", "#a371f7", "#f0883e", "#39c5cf")
_STYLE = {
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    # The first one comes with matplotlib; the others are no wider, should a reader not have it.
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 10.0,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "svg.fonttype": "none",  # text stays text: small, and it can be read aloud
    "svg.hashsalt": "stdio-broker",  # else ids are random
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_WIDTH = 8.0
_BAR_HEIGHT = 0.27
_SECOND = 0.6  # how much of that each further series adds
_PANEL_HEIGHT = 2.3
_COLUMNS = 2
_FEW = 20
_DECADES = 1000  # from the least to the greatest x, where it takes a logarithmic axis
_MARGINS = 1.3


def draw(plot: Plot, folder: Path) -> Path:
    """Draw a plot into a folder; return the file."""
    file = folder / f"{plot.file}.svg"
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type] # a literal for each of 300 keys
        figure = _bars(plot) if isinstance(plot, Bars) else _panels(plot)
        figure.suptitle(plot.title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    file.write_text(_shorter(svg.getvalue()))
    return file


def _shorter(svg: str) -> str:
    """Leave out what nobody sees: indentation, and what is finer than a hundredth of a pixel."""
    return re.sub(r"^ +| +$", "", re.sub(r"(\.\d\d)\d+", r"\1", svg), flags=re.MULTILINE)


def _bars(plot: Bars) -> Figure:
    rows = len(plot.bars) * (1 + _SECOND * (len(plot.series) - 1))
    figure = Figure(figsize=(_WIDTH, _MARGINS + _BAR_HEIGHT * rows), layout="constrained")
    axes = figure.subplots()
    low, high = _range(plot.bars)
    for row, bar in enumerate(plot.bars):
        _bar(axes, bar, row, low=low, places=plot.places)
    axes.set_xscale("log")
    # Room for the number behind the longest bar.
    axes.set_xlim(low, high * (high / low) ** 0.12)
    axes.set_ylim(len(plot.bars) - 0.5, -0.5)
    axes.set_yticks(range(len(plot.bars)), [bar.label for bar in plot.bars])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(plot.unit)
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", color=_GRID)
    axes.set_axisbelow(True)
    handles = _legend(plot)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9)
    return figure


def _legend(plot: Bars) -> list[Patch]:
    kinds = dict.fromkeys(bar.kind for bar in plot.bars)
    handles = [Patch(color=colour, label=_KINDS[kind]) for kind, colour in _COLOURS.items() if kind in kinds]
    if len(plot.series) > 1:
        handles += [Patch(color=_INK, alpha=_alpha(i), label=series) for i, series in enumerate(plot.series)]
    return handles


def _alpha(index: int) -> float:
    return (1.0, 0.55, 0.3)[index % 3]


def _range(bars: Sequence[Bar]) -> tuple[float, float]:
    """Return where the axis begins and the longest bar ends; the shortest bar must be seen too."""
    values = [value for bar in bars for value in bar.values if value and value > 0]
    return (min(values) / 2, max(values)) if values else (1.0, 10.0)


def _bar(axes: Axes, bar: Bar, row: int, *, low: float, places: int) -> None:
    height = 0.8 / len(bar.values)
    for index, value in enumerate(bar.values):
        y = row - 0.4 + height * (index + 0.5)
        if value is not None:
            axes.barh([y], [value], height=height * 0.9, color=_COLOURS[bar.kind], alpha=_alpha(index))
        text = FAILS if value is None else f"{value:,.{places}f}"
        at = low if value is None else max(value, low)
        axes.annotate(text, (at, y), (4, 0), textcoords="offset points", va="center", fontsize=9)


def _panels(plot: Panels) -> Figure:
    rows = math.ceil(len(plot.panels) / _COLUMNS)
    figure = Figure(figsize=(_WIDTH, _MARGINS / 2 + _PANEL_HEIGHT * rows), layout="constrained")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axes, panel in zip_longest(grid.flat, plot.panels):
        if panel is None:
            axes.set_axis_off()
        else:
            _panel(axes, panel)
    return figure


def _panel(axes: Axes, panel: Panel) -> None:
    for number, curve in enumerate(panel.curves):
        points = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if y is not None]
        # Few points are measured one by one, and what lies between them is not.
        marker = "o" if len(points) <= _FEW else ""
        colour = _CURVES[number % len(_CURVES)]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        axes.plot(xs, ys, color=colour, marker=marker, markersize=3, linewidth=1.2, label=curve.name)
    axes.set_xlabel(panel.x_label, fontsize=9)
    # Above instead of beside: it may be longer than the axis.
    axes.set_title(panel.y_label, loc="left", fontsize=9)
    axes.tick_params(labelsize=9)
    _scale(axes, panel)
    axes.grid(color=_GRID)
    if len(panel.curves) > 1:
        axes.legend(fontsize=8, loc="best")


def _scale(axes: Axes, panel: Panel) -> None:
    xs = [x for curve in panel.curves for x in curve.x]
    ys = [y for curve in panel.curves for y in curve.y if y is not None]
    if xs and ys and min(*xs, *ys) > 0 and max(xs) >= _DECADES * min(xs):
        # Else all but the largest stand at 0.
        axes.set_xscale("log")
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, max(ys, default=0) * 1.1 or 1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(_plain))
        axis.set_minor_formatter(NullFormatter())


def _plain(number: float, _position: int) -> str:
    return f"{number:,.0f}" if abs(number) >= 10 else f"{number:.3g}"
