"""What a part of the scale benchmark gives back, and how it is shown."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Figure", "Result", "Series", "listed", "number", "shown", "store"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure, with its words.

    Args:
        value: None: it could not be measured here.
        places: Digits after the point.
        wanted: What the design, or the issue, asks for.
    """

    key: str
    title: str
    value: float | None
    places: int = 0
    wanted: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line of a plot."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    x_label: str
    y_label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one part has found.

    Args:
        rows: Its table; the first row has the titles.
        figures: The same for programs, and more.
        problems: What went wrong, one sentence each; then its figures mean little.
    """

    title: str
    rows: Sequence[Sequence[str]]
    figures: Mapping[str, float | None]
    series: Sequence[Series] = ()
    problems: Sequence[str] = ()


def listed(
    title: str, figures: Sequence[Figure], *, series: Sequence[Series] = (), problems: Sequence[str] = ()
) -> Result:
    """Return a result whose table has a row for each figure."""
    rows = [("", "measured", "wanted")]
    rows += [(figure.title, number(figure.value, figure.places), figure.wanted) for figure in figures]
    return Result(
        title=title,
        rows=rows,
        figures={figure.key: figure.value for figure in figures},
        series=series,
        problems=problems,
    )


def number(value: float | None, places: int = 0) -> str:
    """Write a figure; a dash where there is none."""
    return "-" if value is None else f"{value:,.{places}f}"


def shown(result: Result) -> str:
    """Lay a result out as plain text."""
    widths = [max(map(len, column)) for column in zip(*result.rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in result.rows
    ]
    return "\n".join([result.title, *(line.rstrip() for line in lines), *result.problems])


def store(path: Path, results: Iterable[Result]) -> None:
    """Write the figures and the lines of all parts as JSON."""
    results = list(results)
    figures = {key: value for result in results for key, value in result.figures.items()}
    series = [
        {"name": s.name, "x": list(s.x), "y": list(s.y), "x_label": s.x_label, "y_label": s.y_label}
        for result in results
        for s in result.series
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"figures": figures, "series": series}, indent=1) + "\n")
