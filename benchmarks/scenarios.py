"""What is done to a subject, and which figures come of it."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from benchmarks.load import Load, Outcome
from benchmarks.programs import fds, on_cpu, pss_kb, rss_kb

__all__ = ["SCENARIOS", "Column", "Figures", "Scenario"]

Figures: TypeAlias = Mapping[str, float | None]

_IDLE_SESSIONS = 100
# Open before the count begins: first use costs what no later session pays (imports, arenas, shared pages).
_SETTLED_SESSIONS = 10
_CYCLE_CONNECTIONS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One figure of a scenario.

    Args:
        places: Digits after the point.
    """

    key: str
    title: str
    places: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One kind of work.

    Args:
        run: Does it and returns the figures, by the keys of the columns and `errors` and `wrong`.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    run: Callable[[Load], Figures]


def _idle(load: Load) -> Figures:
    pid = load.program.pid
    rest = pss_kb(pid)
    with load.held(_SETTLED_SESSIONS):
        memory, files = rss_kb(pid), fds(pid)
        with load.held(_IDLE_SESSIONS):
            more_memory, more_files = rss_kb(pid), fds(pid)
    return {
        "rest_mb": None if rest is None else rest / 1024,
        "session_kb": _each(memory, more_memory),
        "session_fds": _each(files, more_files),
    }


def _each(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else (after - before) / _IDLE_SESSIONS


def _one(load: Load) -> Figures:
    # Waking another CPU of a virtual machine costs tens of microseconds and would hide the software.
    cpu = 0 if sys.platform == "linux" else None
    with on_cpu(load.program.pid, cpu):
        return _figures("one", load.calls(connections=1, cpu=cpu))


def _many(load: Load) -> Figures:
    return _figures("many", load.calls(connections=32))


def _cycles(load: Load) -> Figures:
    return _figures("cycles", load.cycles(connections=_CYCLE_CONNECTIONS))


def _figures(prefix: str, outcome: Outcome) -> Figures:
    if outcome.errors or outcome.wrong:
        print(f"  {outcome.errors} errors, {outcome.wrong} wrong: {outcome.first_error}", file=sys.stderr)
    return {
        f"{prefix}_rps": outcome.rps,
        f"{prefix}_p50_us": outcome.p50_us,
        f"{prefix}_p99_us": outcome.p99_us,
        f"{prefix}_cpu_us": outcome.cpu_us,
        "errors": float(outcome.errors),
        "wrong": float(outcome.wrong),
    }


def _calls(prefix: str) -> tuple[Column, ...]:
    return (
        Column(key=f"{prefix}_rps", title="calls/s"),
        Column(key=f"{prefix}_p50_us", title="p50 µs"),
        Column(key=f"{prefix}_p99_us", title="p99 µs"),
        Column(key=f"{prefix}_cpu_us", title="CPU µs", places=1),
    )


# In the order they run: memory is measured in a fresh process.
SCENARIOS = (
    Scenario(
        name="idle",
        title=f"{_IDLE_SESSIONS} idle sessions",
        columns=(
            Column(key="rest_mb", title="at rest MB", places=1),
            Column(key="session_kb", title="KB/session", places=1),
            Column(key="session_fds", title="fds/session", places=1),
        ),
        run=_idle,
    ),
    Scenario(name="one", title="1 connection, all on one CPU", columns=_calls("one"), run=_one),
    Scenario(name="many", title="32 connections, 1 session", columns=_calls("many"), run=_many),
    Scenario(
        name="cycles",
        title=f"open, call, DELETE on {_CYCLE_CONNECTIONS} connections",
        columns=(
            Column(key="cycles_rps", title="cycles/s"),
            Column(key="cycles_p50_us", title="p50 µs"),
            Column(key="cycles_cpu_us", title="CPU µs"),
        ),
        run=_cycles,
    ),
)
