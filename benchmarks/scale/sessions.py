"""Many sessions in one broker: what each costs as they grow, and calls over all of them at once."""

from collections.abc import Sequence

from benchmarks.scale.broker import Ended, Reading, broker
from benchmarks.scale.crowd import RATE, Crowd, Load, cpu_us, latencies, milliseconds
from benchmarks.scale.numbers import per_step, spread
from benchmarks.scale.result import Figure, Result, Series, listed, number
from benchmarks.tools import Tools

__all__ = ["calls_as_sessions_grow", "sessions"]

# First use costs what no later session pays: imports, arenas.
_SETTLED = 10


def sessions(tools: Tools, tag: str, *, steps: Sequence[int], seconds: float) -> tuple[Result, Result]:
    """Open sessions in steps; then call all of them for a while, and stop the broker."""
    amounts = (_SETTLED, *steps)
    with broker(tools, tag, max_sessions=steps[-1]) as running:
        crowd = Crowd(running)
        rates, idle = [], []
        for amount in amounts:
            rates.append(crowd.grow(amount))
            idle.append(running.read())
        load = crowd.call(seconds)
        ended = crowd.end()
    return _growth(amounts, idle, rates), _together(crowd, idle[-1], load, ended)


def _growth(amounts: Sequence[int], idle: Sequence[Reading], rates: Sequence[float]) -> Result:
    steps = amounts[1:]
    kb = per_step(amounts, [reading.rss_kb for reading in idle])
    files = per_step(amounts, [reading.fds for reading in idle])
    rows = [("sessions", "KB each", "fds each", "threads", "opened/s")]
    for row in zip(steps, kb, files, idle[1:], rates[1:], strict=True):
        amount, memory, more_files, reading, rate = row
        cells = (number(memory, 1), number(more_files, 2), number(reading.threads), number(rate))
        rows.append((number(amount), *cells))
    whole = per_step((amounts[0], amounts[-1]), (idle[0].rss_kb, idle[-1].rss_kb))[0]
    x_label = "sessions"
    return Result(
        title="Idle sessions, each after one call and without a connection: what each one more costs (RSS)",
        rows=rows,
        figures={
            "idle_session_kb": whole,
            "idle_session_fds": files[-1],
            "idle_session_kb_greatest_by_least": spread(kb),
            **{f"idle_session_kb_at_{n}": value for n, value in zip(steps, kb, strict=True)},
        },
        series=[
            Series(name="memory of one more idle session", x=steps, y=kb, x_label=x_label, y_label="KB"),
            Series(name="descriptors of one more session", x=steps, y=files, x_label=x_label, y_label="fds"),
        ],
    )


def _together(crowd: Crowd, idle: Reading, load: Load, ended: Ended) -> Result:
    calls, after = load.calls, load.after
    figures = [
        Figure(key="crowd_sessions", title="sessions", value=len(crowd.sessions)),
        Figure(key="crowd_opening_s", title="time to open them, s", value=crowd.opening_seconds, places=1),
        Figure(key="crowd_calls", title="calls, each answered right", value=len(calls.latency)),
        Figure(key="crowd_errors", title="calls that failed", value=calls.errors, wanted="0"),
        Figure(
            key="crowd_calls_per_s",
            title="calls/s",
            value=len(calls.latency) / calls.seconds,
            wanted=f"{RATE:,.0f}",
        ),
        *(
            Figure(
                key=f"crowd_{name}_ms",
                title=f"latency from the due time, {name}, ms",
                value=milliseconds(calls.latency, percent),
                places=2,
            )
            for name, percent in (("p50", 50), ("p99", 99), ("p99.9", 99.9), ("worst", 100))
        ),
        *(
            Figure(
                key=f"crowd_client_late_{name}_ms",
                title=f"of it the client's lateness, {name}, ms",
                value=milliseconds(calls.late, percent),
                places=2,
            )
            for name, percent in (("p50", 50), ("p99", 99), ("worst", 100))
        ),
        Figure(
            key="crowd_call_cpu_us",
            title="CPU of a call, µs",
            value=cpu_us(load.before, after, len(calls.latency)),
            places=1,
        ),
        Figure(key="crowd_cpu_share", title="share of a core", value=load.cpu_share, places=2),
        Figure(
            key="crowd_waited_share",
            title="share of time it waited for a core",
            value=load.waited_share,
            places=2,
        ),
        Figure(
            key="crowd_client_cpu_share",
            title="the client's share of a core",
            value=calls.client_cpu,
            places=2,
        ),
        Figure(key="crowd_idle_rss_mb", title="memory idle, RSS MB", value=_mb(idle.rss_kb), places=1),
        Figure(key="crowd_idle_pss_mb", title="memory idle, PSS MB", value=_mb(idle.pss_kb), places=1),
        Figure(key="crowd_load_rss_mb", title="memory under load, RSS MB", value=_mb(after.rss_kb), places=1),
        Figure(key="crowd_load_pss_mb", title="memory under load, PSS MB", value=_mb(after.pss_kb), places=1),
        Figure(key="crowd_fds", title="fds, a connection each included", value=after.fds),
        Figure(key="crowd_threads", title="threads", value=after.threads),
        Figure(key="crowd_stop_s", title="SIGTERM until it has ended, s", value=ended.seconds, places=2),
        Figure(key="crowd_left", title="processes left", value=ended.left, wanted="0"),
    ]
    return listed(
        f"{len(crowd.sessions):,} sessions with children of their own, {RATE:,.0f} calls/s over all",
        figures,
        series=[latencies(f"calls over {len(crowd.sessions):,} sessions", calls)],
        problems=crowd.problems,
    )


def _mb(kb: float | None) -> float | None:
    return None if kb is None else kb / 1024


def calls_as_sessions_grow(tools: Tools, tag: str, *, steps: Sequence[int], seconds: float) -> Result:
    """Open sessions in steps in a broker of its own, and call all of them after each, always at one rate.

    Not in the broker of `sessions`: what a load leaves in the allocator would be the next session's.
    """
    costs: list[float | None] = []
    tails: list[float | None] = []
    rows = [("sessions", "CPU µs", "p50 ms", "p99 ms", "worst ms")]
    with broker(tools, tag, max_sessions=steps[-1]) as running:
        crowd = Crowd(running)
        for amount in steps:
            crowd.grow(amount)
            load = crowd.call(seconds)
            taken = load.calls.latency
            costs.append(cpu_us(load.before, load.after, len(taken)))
            p50, p99, worst = (milliseconds(taken, percent) for percent in (50, 99, 100))
            tails.append(p99)
            cells = (number(costs[-1], 1), number(p50, 2), number(p99, 2), number(worst, 2))
            rows.append((number(amount), *cells))
        crowd.end()
    return Result(
        title=f"{RATE:,.0f} calls/s over more and more sessions: what a call costs",
        rows=rows,
        figures={
            "call_cpu_greatest_by_least": spread(costs),
            **{f"call_cpu_us_at_{n}": value for n, value in zip(steps, costs, strict=True)},
        },
        series=[
            Series(name="CPU of a call", x=steps, y=costs, x_label="sessions", y_label="µs"),
            Series(name="p99 of the calls", x=steps, y=tails, x_label="sessions", y_label="ms"),
        ],
        problems=crowd.problems,
    )
