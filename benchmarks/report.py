"""Turns the figures of all rounds into plain text: medians, ratios, the machine and the versions."""

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import TypeAlias

from benchmarks.scenarios import Figures, Scenario
from benchmarks.subjects import BROKER, CEILING, CELLS, CONSTANT

__all__ = ["Rounds", "machine", "ratios", "tables"]

Rounds: TypeAlias = Mapping[str, Sequence[Figures]]
"""The figures of each subject, one entry a round."""

_VERSIONS = ("stdio-broker", "uvicorn", "httptools", "uvloop", "msgspec")
# (what, numerator, denominator, key, what the design asks for)
_RATIOS = (
    ("calls/s, 32 connections", BROKER, CONSTANT, "many_rps", "at least 0.7"),
    ("CPU per call, 32 connections", BROKER, CONSTANT, "many_cpu_us", ""),
    ("calls/s, 1 connection", BROKER, CONSTANT, "one_rps", ""),
    ("p50, 1 connection", BROKER, CONSTANT, "one_p50_us", ""),
    ("headroom of the generator, 32 connections", CEILING, CONSTANT, "many_rps", "at least 2"),
    # What the modern era costs, and what translating costs, beside legacy to legacy.
    *(
        (what, cell, BROKER, key, "")
        for cell in reversed(CELLS)
        for what, key in (
            ("CPU per call, 32 connections", "many_cpu_us"),
            ("CPU per call, 1 connection", "one_cpu_us"),
            ("calls/s, 32 connections", "many_rps"),
            ("p50, 1 connection", "one_p50_us"),
        )
    ),
)


def machine() -> str:
    """Describe the machine and the versions, without names or paths."""
    versions = ", ".join(f"{name} {_version(name)}" for name in _VERSIONS)
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return (
        f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}, {python}\n"
        f"{versions}\nload average at the start: {load}"
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(none)"


def tables(rounds: Rounds, scenarios: Sequence[Scenario]) -> str:
    """Lay out the medians, one table a scenario, and what went wrong."""
    found = [table for scenario in scenarios if (table := _table(rounds, scenario))]
    return "\n\n".join([*found, _failures(rounds)])


def _table(rounds: Rounds, scenario: Scenario) -> str:
    rows = [["", *(column.title for column in scenario.columns)]]
    for name, figures in rounds.items():
        medians = [_median(figures, column.key) for column in scenario.columns]
        if any(value is not None for value in medians):
            pairs = zip(medians, scenario.columns, strict=True)
            rows.append([name, *("-" if v is None else f"{v:,.{c.places}f}" for v, c in pairs)])
    if len(rows) == 1:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([scenario.title, *lines])


def _median(figures: Sequence[Figures], key: str) -> float | None:
    values = [value for entry in figures if (value := entry.get(key)) is not None]
    return statistics.median(values) if values else None


def _failures(rounds: Rounds) -> str:
    lines = []
    for name, figures in rounds.items():
        sums = {key: sum(entry.get(key) or 0 for entry in figures) for key in ("errors", "wrong", "left")}
        lines.append(f"{name}: " + ", ".join(f"{value:.0f} {key}" for key, value in sums.items()))
    return "Over all rounds (left: processes alive after the subject ended)\n" + "\n".join(lines)


def ratios(rounds: Rounds) -> str:
    """Lay out the ratios that the design names: the median over the rounds of the ratio in each round."""
    lines = ["Ratios (median of the rounds, lowest and highest)"]
    for what, one, other, key, target in _RATIOS:
        values = [
            a / b
            for x, y in zip(rounds.get(one, ()), rounds.get(other, ()), strict=False)
            if (a := x.get(key)) is not None and (b := y.get(key))
        ]
        if values:
            spread = f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
            lines.append(f"{what}: {one} / {other} = {spread}{target and ', wanted: ' + target}")
    return "\n".join(lines)
