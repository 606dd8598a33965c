"""A storm: many sessions opened, then ended, as fast as it goes, while another session makes small calls.

The calls are due at fixed times, so one that had to wait shows it, and so do those behind it. Who opens the
sessions is a process of its own: its work does not delay the calls, as far as there are cores for both.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.scale.broker import Broker, Reading, broker
from benchmarks.scale.crowd import cpu_us, latencies, milliseconds
from benchmarks.scale.http import CallFailed, Connection
from benchmarks.scale.load import Calls, OpenLoop
from benchmarks.scale.opening import Opened, Opening, closing, opening
from benchmarks.scale.result import Figure, Result, Series, listed
from benchmarks.tools import Tools

__all__ = ["CONNECTIONS", "storm"]

CONNECTIONS = 64

_RATE = 200.0
_LIMIT_MS = 50.0
# Connections of the one session that calls: as many calls can wait without waiting for each other.
_CALLERS = 16
_QUIET_SECONDS = 2.0
_STORM_MAX_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Storm:
    """One storm, and the calls beside it that were due while it lasted."""

    done: Opened
    calls: Calls
    series: Series
    before: Reading
    after: Reading


def storm(tools: Tools, tag: str, *, count: int) -> Result:
    """Call in peace; then while so many sessions are opened; then while they are ended."""
    with broker(tools, tag, max_sessions=count + 1) as running:
        first = Connection(running.endpoint)
        try:
            session = first.open_session()
        except CallFailed as exc:
            return listed(_title(count), (), problems=[str(exc)])
        finally:
            first.close()
        with OpenLoop(running.endpoint, [session] * _CALLERS) as loop:
            loop.run(rate=_RATE, seconds=_QUIET_SECONDS / 4)
            quiet = loop.run(rate=_RATE, seconds=_QUIET_SECONDS)
            url = running.url
            opened = _beside(running, loop, "opened", opening(url, count=count, connections=CONNECTIONS))
            ending = closing(url, opened.done.sessions, connections=CONNECTIONS)
            ended = _beside(running, loop, "ended", ending)
    figures = [
        Figure(
            key="storm_quiet_p99_ms",
            title="p99 in peace, ms",
            value=milliseconds(quiet.latency, 99),
            places=2,
        ),
        Figure(
            key="storm_quiet_worst_ms",
            title="worst in peace, ms",
            value=milliseconds(quiet.latency, 100),
            places=2,
        ),
        *_figures("storm_open", "opened", opened),
        *_figures("storm_end", "ended", ended),
    ]
    problems = [
        p for what, part in (("opened", opened), ("ended", ended)) for p in _problems(what, part, count)
    ]
    return listed(_title(count), figures, series=[opened.series, ended.series], problems=problems)


def _title(count: int) -> str:
    return (
        f"{count} sessions opened, then ended, over {CONNECTIONS} connections; beside them a call of another "
        f"session every {1000 / _RATE:g} ms"
    )


def _beside(running: Broker, loop: OpenLoop, what: str, work: Opening) -> _Storm:
    """Make the calls until the work is done."""
    found: list[Opened] = []

    def wait() -> None:
        try:
            found.append(work.result())
        finally:
            loop.stop()

    with work:
        before = running.read()
        waiter = threading.Thread(target=wait)
        waiter.start()
        whole = loop.run(rate=_RATE, seconds=_STORM_MAX_SECONDS)
        waiter.join()
        after = running.read()
    if not found:
        raise RuntimeError(f"sessions could not be {what}: the process that does it has failed")
    done = found[0]
    return _Storm(
        done=done,
        calls=_within(whole, done),
        series=latencies(f"calls while sessions are {what}", whole, began=done.began - whole.began),
        before=before,
        after=after,
    )


def _within(whole: Calls, done: Opened) -> Calls:
    """Return the calls that were due while the work lasted; all errors."""
    calls = Calls(errors=whole.errors, first_error=whole.first_error)
    for due, latency, late in zip(whole.due, whole.latency, whole.late, strict=True):
        if done.began <= whole.began + due <= done.ended:
            calls.due.append(due)
            calls.latency.append(latency)
            calls.late.append(late)
    return calls


def _figures(prefix: str, what: str, part: _Storm) -> list[Figure]:
    latency, late, done = part.calls.latency, part.calls.late, part.done
    asked = what == "opened"  # of ends nothing is asked; they are shown beside
    over = float(sum(seconds * 1000 > _LIMIT_MS for seconds in latency))
    cpu = cpu_us(part.before, part.after, len(done.sessions))
    waited = _waited(part.before, part.after)
    return [
        Figure(key=f"{prefix}ed_per_s", title=f"sessions {what} a second", value=done.per_second),
        Figure(key=f"{prefix}_took_p50_ms", title=f"one {what}, p50, ms", value=milliseconds(done.took, 50)),
        Figure(
            key=f"{prefix}_took_worst_ms", title=f"one {what}, worst, ms", value=milliseconds(done.took, 100)
        ),
        Figure(key=f"{prefix}_cpu_ms", title=f"CPU of one {what}, ms", value=cpu and cpu / 1000, places=2),
        Figure(key=f"{prefix}_waited_s", title="the broker waited for a core, s", value=waited, places=2),
        Figure(key=f"{prefix}_calls", title="calls beside it", value=float(len(latency))),
        *(
            Figure(
                key=f"{prefix}_call_{name}_ms",
                title=f"their latency from the due time, {name}, ms",
                value=milliseconds(latency, percent),
                places=2,
                wanted=f"at most {_LIMIT_MS:g}" if percent == 100 and asked else "",
            )
            for name, percent in (("p50", 50), ("p99", 99), ("worst", 100))
        ),
        Figure(
            key=f"{prefix}_calls_over_limit",
            title=f"of them over {_LIMIT_MS:g} ms",
            value=over,
            wanted="0" if asked else "",
        ),
        Figure(
            key=f"{prefix}_client_late_worst_ms",
            title="the client's own lateness, worst, ms",
            value=milliseconds(late, 100),
            places=2,
        ),
    ]


def _waited(before: Reading, after: Reading) -> float | None:
    if before.waited_seconds is None or after.waited_seconds is None:
        return None
    return after.waited_seconds - before.waited_seconds


def _problems(what: str, part: _Storm, count: int) -> Sequence[str]:
    problems = []
    done, calls = part.done, part.calls
    if done.errors or len(done.sessions) != count:
        problems.append(f"expected {count} sessions {what}, found {len(done.sessions)}: {done.first_error}")
    if calls.errors:
        problems.append(f"{calls.errors} calls failed while sessions were {what}: {calls.first_error}")
    return problems
