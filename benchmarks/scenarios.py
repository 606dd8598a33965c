"""What is done to a subject, and which figures come of it."""

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from benchmarks.load import Load, Outcome
from benchmarks.programs import fds, on_cpu, pss_kb, rss_kb
from benchmarks.subjects import Subject
from benchmarks.tools import Tools

__all__ = [
    "CYCLE_CONNECTIONS",
    "FAILS",
    "IDLE_SESSIONS",
    "SESSIONS",
    "Column",
    "Figures",
    "Scenario",
    "ScenarioFailedError",
    "cycles",
    "idle",
    "many",
    "one",
    "sessions",
]

Figures: TypeAlias = Mapping[str, float | None]

FAILS = "fails"
"""What stands in the cell of a subject that fails."""

IDLE_SESSIONS = 100
# Open before the count begins: first use costs what no later session pays (imports, arenas, shared pages).
_SETTLED_SESSIONS = 10
SESSIONS = 100
CYCLE_CONNECTIONS = 4
# How long children may take to end after the DELETE of their session.
_LEAVE_TIMEOUT = 3.0
_LEAVE_POLL_INTERVAL = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One figure of a scenario.

    Args:
        places: Digits after the point.
        group: Columns with the same one stand in a table of their own.
        none: What stands there if the scenario was run and found none.
    """

    key: str
    title: str
    places: int = 0
    group: str = ""
    none: str = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One kind of work.

    Args:
        columns: What is shown of the figures, which have the same keys.
        run: Does it to a subject that serves; raises what `rounds.FAILURES` names where the subject fails.
        run_alone: Instead: starts the subject itself, as often as it wants, and ends it.
        implied_by: Means something for every subject for which that scenario does; None: for who names it.
        rounds: In how many rounds at most, as some work takes long or hardly varies; None: in all.
        other_rounds: The same for all but the broker, which is what is watched; None: as `rounds` says.
        apart: Has rounds of its own, after those of the others: these would else lie minutes apart, and the
            machine wanders meanwhile.
        share: How much of the measured time its runs get.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    run: Callable[[Load], Figures] | None = None
    run_alone: Callable[[Tools, Subject, str], Figures] | None = None
    implied_by: str | None = None
    rounds: int | None = None
    other_rounds: int | None = None
    apart: bool = False
    share: float = 1.0

    def means_something_for(self, subject: Subject) -> bool:
        """Say whether to ask a subject for it."""
        return self.name in subject.scenarios or self.implied_by in subject.scenarios


class ScenarioFailedError(Exception):
    """A subject did not do what was asked; the message says what it did."""


def idle(load: Load) -> Figures:
    """Hold sessions without a connection; what each costs the subject's own process."""
    pid = load.program.pid
    rest = pss_kb(pid)
    with load.held(_SETTLED_SESSIONS):
        memory, files = rss_kb(pid), fds(pid)
        with load.held(IDLE_SESSIONS):
            more_memory, more_files = rss_kb(pid), fds(pid)
    return {
        "rest_mb": None if rest is None else rest / 1024,
        "session_kb": _each(memory, more_memory),
        "session_fds": _each(files, more_files),
    }


def _each(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else (after - before) / IDLE_SESSIONS


def one(load: Load) -> Figures:
    """Call on one connection, everything on one CPU."""
    # Waking another CPU of a virtual machine costs tens of microseconds and would hide the software.
    cpu = 0 if sys.platform == "linux" else None
    with on_cpu(load.program.pid, cpu):
        return _figures("one", load.calls(connections=1, cpu=cpu))


def many(load: Load) -> Figures:
    """Call on many connections of one session."""
    return _figures("many", load.calls(connections=32))


def sessions(load: Load) -> Figures:
    """Call on one connection of each of many sessions."""
    return _figures("sessions", load.calls(connections=SESSIONS, sessions=SESSIONS))


def cycles(load: Load) -> Figures:
    """Open, call and delete sessions, then count what is left of them."""
    before = _descendants(load.program.pid)
    found = _figures("cycles", load.cycles(connections=CYCLE_CONNECTIONS))
    return {**found, "cycles_left": _left(load.program.pid, before)}


def _left(pid: int, before: int | None) -> float | None:
    """Return how many processes more a subject has than before, once it has had time to end them."""
    if before is None:
        return None
    deadline = time.monotonic() + _LEAVE_TIMEOUT
    while (now := _descendants(pid) or 0) > before and time.monotonic() < deadline:
        time.sleep(_LEAVE_POLL_INTERVAL)
    return float(max(0, now - before))


def _descendants(pid: int) -> int | None:
    """Count the processes below one, the dead that nobody has reaped among them; None: there is no /proc."""
    if not Path("/proc/self/stat").exists():
        return None
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.parent.name))
    below = [pid]
    for one in below:
        below.extend(children.get(one, ()))  # and so they are looked at too
    return len(below) - 1


def _figures(prefix: str, outcome: Outcome) -> Figures:
    if outcome.errors or outcome.wrong or not outcome.calls:
        raise ScenarioFailedError(
            f"{outcome.calls} right, {outcome.errors} errors, {outcome.wrong} wrong: {outcome.first_error}"
        )
    return {
        f"{prefix}_rps": outcome.rps,
        f"{prefix}_p50_us": outcome.p50_us,
        f"{prefix}_p99_us": outcome.p99_us,
        f"{prefix}_cpu_us": outcome.cpu_us,
    }
