"""Says what is plotted: which figures, in which order, under which name. Pure; `draw` makes the pictures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from benchmarks.figures import value
from benchmarks.large import SIZES_MIB
from benchmarks.results import Results

__all__ = ["Bar", "Bars", "Curve", "Panel", "Panels", "Plot", "Sheet", "of_results", "of_sheet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One subject.

    Args:
        values: One a series; None: it has no such figure, or fails.
    """

    label: str
    kind: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Subjects one below the other.

    Args:
        file: Name without its ending.
        series: What the values of a bar are; a single one needs no name.
    """

    file: str
    title: str
    unit: str
    bars: Sequence[Bar]
    series: Sequence[str] = ("",)
    places: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points that belong together, in the order of x; None: there is no reading."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    x_label: str
    y_label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """What the scale benchmark and the soak write beside their tables."""

    series: Sequence[Curve]
    figures: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Curves over the same axes."""

    x_label: str
    y_label: str
    curves: Sequence[Curve]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panels:
    """Two beside each other, in as many rows as it takes."""

    file: str
    title: str
    panels: Sequence[Panel]


Plot: TypeAlias = Bars | Panels


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """Bars of one scenario; `keys` are the figures, by the name of their series."""

    file: str
    title: str
    unit: str
    scenario: str
    keys: Mapping[str, str]
    places: int = 0
    lowest: bool = False


_WANTED: Sequence[_Wanted] = (
    _Wanted(
        file="many",
        title="Calls per second: 1 session × 32 connections",
        unit="calls/s",
        scenario="many",
        keys={"": "many_rps"},
    ),
    _Wanted(
        file="sessions",
        title="Calls per second: 100 sessions × 1 connection",
        unit="calls/s",
        scenario="sessions",
        keys={"": "sessions_rps"},
    ),
    _Wanted(
        file="latency",
        title="Latency: 1 connection, everything on one CPU",
        unit="µs",
        scenario="one",
        keys={"p50": "one_p50_us", "p99": "one_p99_us"},
        lowest=True,
    ),
    _Wanted(
        file="memory",
        title="Memory of the subject itself, per idle session",
        unit="KB",
        scenario="idle",
        keys={"": "session_kb"},
        places=1,
        lowest=True,
    ),
    _Wanted(
        file="large",
        title="Large results, one by one",
        unit="MiB/s",
        scenario="large",
        keys={f"{size} MiB": f"large_{size}_result_mibs" for size in SIZES_MIB},
    ),
)


def of_results(results: Results) -> list[Bars]:
    """Return the bars of every scenario that was measured, the best on top."""
    return [bars for wanted in _WANTED if (bars := _bars(results, wanted)).bars]


def _bars(results: Results, wanted: _Wanted) -> Bars:
    bars = [
        Bar(
            label=s.name,
            kind=s.kind,
            values=[value(results, s.name, wanted.scenario, key) for key in wanted.keys.values()],
        )
        for s in results.subjects
        if any(wanted.scenario in entry.asked for entry in results.measured.get(s.name, ()))
    ]
    return Bars(
        file=wanted.file,
        title=wanted.title,
        unit=wanted.unit,
        bars=_ordered(bars, lowest=wanted.lowest),
        series=tuple(wanted.keys),
        places=wanted.places,
    )


def _ordered(bars: Iterable[Bar], *, lowest: bool) -> list[Bar]:
    """Return those that fail last."""

    def rank(bar: Bar) -> tuple[bool, float]:
        first = bar.values[0]
        return first is None, (first or 0) * (1 if lowest else -1)

    return sorted(bars, key=rank)


def of_sheet(file: str, title: str, sheet: Sheet) -> Panels:
    """Put the curves with the same axes into one panel; one that has no unit gets a panel of its own."""
    axes = dict.fromkeys(_axes(curve) for curve in sheet.series)
    panels = [_panel(x, y, [curve for curve in sheet.series if _axes(curve) == (x, y)]) for x, y in axes]
    return Panels(file=file, title=title, panels=panels)


def _panel(x_label: str, y_label: str, curves: Sequence[Curve]) -> Panel:
    # A single curve needs no legend if its axis has its name.
    if len(curves) == 1 and curves[0].name != y_label:
        y_label = f"{curves[0].name}, {y_label}"
    return Panel(x_label=x_label, y_label=y_label, curves=curves)


def _axes(curve: Curve) -> tuple[str, str]:
    return curve.x_label, curve.y_label or curve.name
