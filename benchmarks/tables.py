"""Lays figures out as tables, which are written as plain text or as Markdown. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.figures import failed, median, ratio
from benchmarks.results import About, Results, Round
from benchmarks.scenarios import FAILS, Column, Figures, Scenario

__all__ = ["Table", "number", "of_failures", "of_kinds", "of_ratios", "of_scenario", "of_subjects"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under a header; the first column is text, the others are figures unless `text` says otherwise."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: bool = False

    def plain(self) -> str:
        """Write it for a terminal."""
        rows = [self.header, *self.rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.header))]
        align = str.ljust if self.text else str.rjust
        lines = ["  ".join([row[0].ljust(widths[0]), *map(align, row[1:], widths[1:])]) for row in rows]
        return "\n".join([self.title, *(line.rstrip() for line in lines)])

    def markdown(self) -> str:
        """Write it for a document."""
        rule = ["---", *("---" if self.text else "---:" for _ in self.header[1:])]
        rows = [self.header, rule, *self.rows]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        return "\n".join([f"**{self.title}**", "", *lines])


def number(value: float | None, places: int = 0, none: str = "–") -> str:
    """Write a figure, or that there is none."""
    return none if value is None else f"{value:,.{places}f}"


def of_subjects(results: Results) -> Table:
    """Say what each subject is."""
    rows = [
        [s.name, _KINDS.get(s.kind, s.kind), s.era, s.child, "; ".join(s.notes)] for s in results.subjects
    ]
    header = ["subject", "what", "client's era", "child", "what to know"]
    return Table(title="Subjects", header=header, rows=rows, text=True)


_KINDS = {"broker": "ours", "peer": "peer", "limit": "limit"}


def of_scenario(results: Results, scenario: Scenario) -> list[Table]:
    """Lay out the medians of a scenario, each group of columns in a table; none: nobody was asked."""
    tables = []
    for group in dict.fromkeys(column.group for column in scenario.columns):
        columns = [column for column in scenario.columns if column.group == group]
        rows = [row for about in results.subjects if (row := _row(results, about, scenario, columns))]
        title = f"{scenario.title}: {group}" if group else scenario.title
        if rows:
            tables.append(Table(title=title, header=["", *(column.title for column in columns)], rows=rows))
    return tables


def _row(results: Results, about: About, scenario: Scenario, columns: Sequence[Column]) -> list[str] | None:
    rounds = results.measured.get(about.name, ())
    if not any(scenario.name in entry.asked for entry in rounds):
        return None
    strictly = about.kind == "broker"
    return [
        about.name,
        *(
            FAILS
            if failed(rounds, scenario.name, column.key, strictly=strictly)
            else number(median(rounds, column.key), column.places, column.none)
            for column in columns
        ),
    ]


def of_kinds(rounds: Mapping[str, Sequence[Figures]], scenario: Scenario) -> Table:
    """Lay out the medians of what is no subject: it has no scenarios that it could fail."""
    measured = {name: [Round(figures=figures) for figures in found] for name, found in rounds.items()}
    rows = [
        [name, *(number(median(found, c.key), c.places) for c in scenario.columns)]
        for name, found in measured.items()
    ]
    return Table(title=scenario.title, header=["", *(c.title for c in scenario.columns)], rows=rows)


def of_failures(results: Results) -> list[str]:
    """Say, one line each, who failed what, how often and how first, and what was left behind."""
    lines = []
    for name, rounds in results.measured.items():
        for part in dict.fromkeys(part for entry in rounds for part in entry.failures):
            said = [entry.failures[part] for entry in rounds if part in entry.failures]
            tried = sum(any(part.startswith(scenario) for scenario in entry.asked) for entry in rounds)
            lines.append(
                f"{name}, {part}: failed in {len(said)} of {tried} rounds, first with: {_code(said[0])}"
            )
        if left := max((entry.figures.get("left") or 0 for entry in rounds), default=0):
            lines.append(f"{name}: {left:.0f} processes alive after it had ended")
    return lines


def _code(text: str) -> str:
    """Quote what a subject has said: it may be HTML."""
    return "`" + text.replace("`", "'") + "`"


def of_ratios(results: Results, wanted: Sequence[tuple[str, str, str, str]]) -> Table:
    """Lay out ratios: for each what, numerator, denominator, and the key of the figure."""
    rows = [
        [what, f"{one} / {other}", str(found)]
        for what, one, other, key in wanted
        if (found := ratio(results.measured, one, other, key))
    ]
    header = ["what", "between", "median (lowest to highest round)"]
    return Table(title="Ratios", header=header, rows=rows, text=True)
