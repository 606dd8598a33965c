"""Turns results into text: for the terminal, and for the generated part of docs/performance.md."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from benchmarks.catalogue import SCENARIOS
from benchmarks.goals import of_goals
from benchmarks.results import Results
from benchmarks.scenarios import Figures
from benchmarks.subjects import BRIDGE, BROKER, CEILING, CELLS, CONSTANT
from benchmarks.tables import Table, of_failures, of_ratios, of_scenario, of_subjects

__all__ = ["RATIOS", "Rounds", "about", "markdown", "plain"]

Rounds: TypeAlias = Mapping[str, Sequence[Figures]]
"""The figures of each subject, one entry a round."""

# What, numerator, denominator, and the key of the figure.
_Wanted: TypeAlias = tuple[str, str, str, str]

RATIOS: Sequence[_Wanted] = (
    ("calls/s, 32 connections", BROKER, CONSTANT, "many_rps"),
    ("CPU per call, 32 connections", BROKER, CONSTANT, "many_cpu_us"),
    ("calls/s, 1 connection", BROKER, CONSTANT, "one_rps"),
    ("CPU per call, 1 connection", BROKER, CONSTANT, "one_cpu_us"),
    ("p50, 1 connection", BROKER, CONSTANT, "one_p50_us"),
    ("calls/s, 32 connections", BROKER, BRIDGE, "many_rps"),
    ("CPU per call, 32 connections", BROKER, BRIDGE, "many_cpu_us"),
    ("p50, 1 connection", BROKER, BRIDGE, "one_p50_us"),
    ("calls/s, 100 sessions", BROKER, BRIDGE, "sessions_rps"),
    ("cycles/s", BROKER, BRIDGE, "cycles_rps"),
    # At least 2, or the generator is what is measured.
    ("headroom of the generator, 32 connections", CEILING, CONSTANT, "many_rps"),
    ("headroom of the generator, 32 connections", CEILING, BROKER, "many_rps"),
    # What the modern era costs, and what translating costs, beside legacy to legacy.
    *(
        (what, cell, BROKER, key)
        for cell in reversed(CELLS)
        for what, key in (
            ("CPU per call, 32 connections", "many_cpu_us"),
            ("CPU per call, 1 connection", "one_cpu_us"),
            ("calls/s, 32 connections", "many_rps"),
            ("p50, 1 connection", "one_p50_us"),
        )
    ),
)


def plain(results: Results, soak: Figures, more: Sequence[str] = ()) -> str:
    """Write everything for a terminal; `more` are parts that stand behind the tables."""
    tables = [table.plain() for table in _tables(results, soak)]
    return "\n\n".join(
        [*about(results), *tables, *more, *(title + "\n" + "\n".join(of) for title, of in _said(results))]
    )


def markdown(
    results: Results, soak: Figures, plots: Iterable[tuple[str, str]], more: Sequence[str] = ()
) -> str:
    """Write everything for the document; the plots are titles and addresses."""
    goals, *others = [table.markdown() for table in _tables(results, soak)]
    pictures = [f"![{title}]({address})" for title, address in plots]
    said = [f"**{title}**\n\n" + "\n".join(f"- {line}" for line in lines) for title, lines in _said(results)]
    return "\n\n".join(["  \n".join(about(results)), goals, *pictures, *others, *more, *said])


def about(results: Results) -> list[str]:
    """Say what was measured, where and when."""
    machine, run = results.machine, f"{results.rounds} rounds of {results.seconds:g} s"
    cpu = machine.cpu or "of an unknown kind"
    where = f"{machine.cores} cores ({cpu}), {machine.architecture}, {machine.kernel}, {machine.python}"
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    return [
        f"Measured on {results.date} with `{results.command}`: {run}.",
        f"Machine: {where}; load average at the start: {machine.load:.2f}.",
        f"Versions: {versions}.",
    ]


def _tables(results: Results, soak: Figures) -> list[Table]:
    return [
        of_goals(results, soak),
        of_subjects(results),
        *(table for scenario in SCENARIOS for table in of_scenario(results, scenario)),
        of_ratios(results, RATIOS),
    ]


def _said(results: Results) -> list[tuple[str, Sequence[str]]]:
    parts = [("What went wrong", of_failures(results)), ("What to know about these figures", results.notes)]
    return [(title, lines) for title, lines in parts if lines]
