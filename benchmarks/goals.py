"""What the design asks for (its section "Numbers to reach"), and whether it is reached. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from benchmarks.figures import Ratio, best, ratio, value
from benchmarks.results import Results
from benchmarks.stopping import KINDS
from benchmarks.subjects import BRIDGE, BROKER, CONSTANT
from benchmarks.tables import Table

__all__ = ["GOALS", "Found", "Goal", "of_goals", "verdict"]

NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was measured.

    Args:
        value: What is compared with the goal.
        text: What a reader is shown.
    """

    value: float
    text: str


Figures: TypeAlias = Mapping[str, float | None]
# From what the run has measured, and from the figures of the last 10,000 cycles, if there are any.
Measure: TypeAlias = Callable[[Results, Figures], Found | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One row of the design.

    Args:
        unit: Stands behind each number.
        least: What is asked for at least; None: only the aim says something.
        aim: None: there is nothing beyond.
        most: The numbers are upper bounds.
    """

    what: str
    unit: str
    measure: Measure
    least: float | None
    aim: float | None = None
    most: bool = False

    def bound(self, number: float | None) -> str:
        """Write one of the two numbers."""
        return "" if number is None else f"{'≤' if self.most else '≥'} {number:g}{self.unit}"


def verdict(goal: Goal, found: Found | None) -> str:
    """Compare what was found with what is asked for."""

    def reaches(bound: float | None) -> bool:
        return (
            found is not None
            and bound is not None
            and (found.value <= bound if goal.most else found.value >= bound)
        )

    if found is None:
        return NOT_MEASURED
    if reaches(goal.aim):
        return "aim reached"
    if goal.least is None:
        return "aim not reached"
    return "reached" if reaches(goal.least) else "**not reached**"


def _times(scenario: str, key: str, other: str) -> Measure:
    """Compare with one subject."""

    def measure(results: Results, _soak: Figures) -> Found | None:
        if value(results, BROKER, scenario, key) is None or value(results, other, scenario, key) is None:
            return None
        return _found(ratio(results.measured, BROKER, other, key), other)

    return measure


def _beside(
    scenario: str,
    key: str,
    *,
    lowest: bool = False,
    child: str | None = None,
    without: str | None = None,
) -> Measure:
    """Compare with the best peer, of those with such children, and whose figure `without` is 0."""

    def measure(results: Results, _soak: Figures) -> Found | None:
        of = {s.name: s.child for s in results.subjects}

        def counts(name: str) -> bool:
            clean = without is None or value(results, name, scenario, without) == 0
            return clean and child in {None, of[name]}

        peer = best(results, scenario, key, among=counts, lowest=lowest)
        if peer is None or value(results, BROKER, scenario, key) is None:
            return None
        return _found(ratio(results.measured, BROKER, peer, key), peer)

    return measure


def _found(measured: Ratio | None, other: str) -> Found | None:
    return Found(value=measured.median, text=f"{measured} × {other}") if measured else None


def _figure(scenario: str, key: str, unit: str, places: int = 1) -> Measure:
    """Take a figure as it is."""

    def measure(results: Results, _soak: Figures) -> Found | None:
        number = value(results, BROKER, scenario, key)
        return None if number is None else Found(value=number, text=f"{number:,.{places}f}{unit}")

    return measure


def _most_left(how: str) -> Measure:
    """Take the worst kind of child."""

    def measure(results: Results, _soak: Figures) -> Found | None:
        counts = [value(results, BROKER, "stop", f"{how}_{kind}_left") for kind in KINDS]
        known = [count for count in counts if count is not None]
        return Found(value=max(known), text=f"{max(known):.0f}") if len(known) == len(KINDS) else None

    return measure


def _grown(_results: Results, soak: Figures) -> Found | None:
    growth = soak.get("rss_growth")
    return None if growth is None else Found(value=100 * growth, text=f"{growth:+.1%}")


def _more_held(_results: Results, soak: Figures) -> Found | None:
    pairs = [(soak.get(key), soak.get(f"{key}_before")) for key in ("fds", "threads", "children")]
    more = [after - before for after, before in pairs if after is not None and before is not None]
    return Found(value=max(more), text=f"{sum(more):+.0f}") if len(more) == len(pairs) else None


GOALS: Sequence[Goal] = (
    Goal(
        what="calls/s, 1 session × 32 connections, beside the fastest peer",
        unit=" ×",
        least=8,
        aim=20,
        measure=_beside("many", "many_rps"),
    ),
    Goal(
        what="the same, beside an HTTP server that answers a constant",
        unit=" ×",
        least=0.7,
        measure=_times("many", "many_rps", CONSTANT),
    ),
    Goal(
        what="the same, beside a minimal bridge in C",
        unit=" ×",
        least=None,
        aim=0.6,
        measure=_times("many", "many_rps", BRIDGE),
    ),
    Goal(
        what="calls/s, 100 sessions × 1 connection, beside the fastest peer with a child per session",
        unit=" ×",
        least=8,
        aim=17,
        measure=_beside("sessions", "sessions_rps", child="per session"),
    ),
    Goal(
        what="p50 of 1 connection, all on one CPU, beside the fastest peer's",
        unit=" ×",
        least=0.3,
        aim=0.12,
        most=True,
        measure=_beside("one", "one_p50_us", lowest=True),
    ),
    Goal(
        what="open, call, close, per second, beside the fastest peer that starts a child and leaves none",
        unit=" ×",
        least=3,
        aim=7,
        measure=_beside("cycles", "cycles_rps", child="per session", without="cycles_left"),
    ),
    Goal(
        what="memory of the broker per idle session",
        unit=" KB",
        least=40,
        aim=10,
        most=True,
        measure=_figure("idle", "session_kb", " KB"),
    ),
    Goal(
        what="descriptors of the broker per idle session",
        unit="",
        least=5,
        aim=4,
        most=True,
        measure=_figure("idle", "session_fds", ""),
    ),
    Goal(
        what="MiB/s of 16 MiB results, beside the fastest peer",
        unit=" ×",
        least=10,
        aim=25,
        measure=_beside("large", "large_16_result_mibs"),
    ),
    Goal(
        what="peak memory of 16 MiB results, in messages",
        unit=" ×",
        least=4,
        most=True,
        measure=_figure("large", "large_16_result_peak", " ×"),
    ),
    *(
        Goal(
            what=f"p99 of a small call beside {size} MiB {direction}s",
            unit=" ms",
            least=100,
            aim=20 if size == 16 else None,
            most=True,
            measure=_figure("beside", f"beside_{size}_{direction}_p99_ms", " ms"),
        )
        for size, direction in ((16, "result"), (64, "result"), (64, "argument"))
    ),
    Goal(
        what="SIGTERM to exit with 100 sessions and polite children",
        unit=" s",
        least=1.5,
        aim=0.3,
        most=True,
        measure=_figure("stop", "term_polite_s", " s", places=2),
    ),
    Goal(
        what="processes left of 100 sessions after SIGTERM, any kind of child",
        unit="",
        least=0,
        most=True,
        measure=_most_left("term"),
    ),
    Goal(
        what="processes left of 100 sessions after SIGKILL of the broker, any kind of child",
        unit="",
        least=0,
        most=True,
        measure=_most_left("kill"),
    ),
    Goal(
        what="memory after 10,000 sessions beside that after 1,000",
        unit=" %",
        least=5,
        most=True,
        measure=_grown,
    ),
    Goal(
        what="descriptors, threads and processes more after 10,000 sessions than after 1,000",
        unit="",
        least=0,
        most=True,
        measure=_more_held,
    ),
)


def of_goals(results: Results, soak: Figures, goals: Sequence[Goal] = GOALS) -> Table:
    """Lay out every goal, with what was measured."""
    rows = []
    for goal in goals:
        found = goal.measure(results, soak)
        bounds = [goal.bound(goal.least), goal.bound(goal.aim)]
        rows.append([goal.what, *bounds, found.text if found else "", verdict(goal, found)])
    header = ["what", "at least", "aim", "measured", "verdict"]
    return Table(title="What the design asks for", header=header, rows=rows, text=True)
