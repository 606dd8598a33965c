"""All scenarios of the comparison: in the order they run, with what is shown of each."""

from collections.abc import Sequence

from benchmarks import large, scenarios, stopping
from benchmarks.scenarios import CYCLE_CONNECTIONS, FAILS, IDLE_SESSIONS, SESSIONS, Column, Scenario
from benchmarks.stopping import KINDS

__all__ = ["SCENARIOS"]


def _calls(prefix: str) -> tuple[Column, ...]:
    return (
        Column(key=f"{prefix}_rps", title="calls/s"),
        Column(key=f"{prefix}_p50_us", title="p50 µs"),
        Column(key=f"{prefix}_p99_us", title="p99 µs"),
        Column(key=f"{prefix}_cpu_us", title="CPU µs", places=1),
    )


def _large() -> tuple[Column, ...]:
    # Nobody who fails a size is asked for a larger one.
    kinds = (("mibs", "MiB/s", 0, FAILS), ("peak", "peak memory, in messages", 1, "–"))
    return tuple(
        Column(key=f"{message}_{unit}", title=_named(message), places=places, group=group, none=none)
        for unit, group, places, none in kinds
        for message in large.MESSAGES
    )


def _beside() -> tuple[Column, ...]:
    kinds = (("p99_ms", "p99 of the small calls, ms"), ("mibs", "MiB/s of the large ones meanwhile"))
    return tuple(
        Column(key=f"beside_{stream}_{unit}", title=_named(stream), places=1, group=group)
        for unit, group in kinds
        for stream in large.STREAMS
        if (stream, unit) != ("nothing", "mibs")
    )


def _named(message: str) -> str:
    """Write `large_16_result`, or `16_result`, in words."""
    *_, size, direction = f"_{message}".rsplit("_", 2)
    return f"{size} MiB {direction}" if size else direction


def _stop() -> tuple[Column, ...]:
    groups = (
        ("term_{}_s", "s from SIGTERM to its exit", 2, "no exit"),
        ("term_{}_left", "processes left after SIGTERM", 0, "–"),
        ("kill_{}_left", "processes left after SIGKILL of the subject", 0, "–"),
    )
    ends = [
        Column(key=key.format(kind), title=_CHILDREN[kind], places=places, group=group, none=none)
        for key, group, places, none in groups
        for kind in KINDS
    ]
    crash = "a child that dies within a call"
    return (
        *ends,
        Column(key="told_ms", title="the client is told after ms", places=1, group=crash, none="never"),
        Column(key="told_status", title="with HTTP", group=crash),
        Column(key="told_ok", title="as if all were well", group=crash),
        Column(key="next_right", title="next call right", group=crash),
    )


# The kinds of children, in words that need no explanation.
_CHILDREN = {
    "polite": "end at EOF",
    "staying": "end at SIGTERM",
    "stubborn": "ignore both",
    "parents": "have a process of their own",
}

# Memory first: it is measured in a fresh process.
SCENARIOS: Sequence[Scenario] = (
    Scenario(
        name="idle",
        title=f"{IDLE_SESSIONS} idle sessions",
        columns=(
            Column(key="rest_mb", title="at rest MB", places=1),
            Column(key="session_kb", title="KB/session", places=1),
            Column(key="session_fds", title="fds/session", places=1),
        ),
        run=scenarios.idle,
        rounds=3,
        other_rounds=1,
    ),
    Scenario(name="one", title="1 connection, all on one CPU", columns=_calls("one"), run=scenarios.one),
    Scenario(name="many", title="1 session × 32 connections", columns=_calls("many"), run=scenarios.many),
    Scenario(
        name="sessions",
        title=f"{SESSIONS} sessions × 1 connection",
        columns=_calls("sessions"),
        run=scenarios.sessions,
    ),
    Scenario(
        name="cycles",
        title=f"open, call, DELETE on {CYCLE_CONNECTIONS} connections",
        columns=(
            Column(key="cycles_rps", title="cycles/s"),
            Column(key="cycles_p50_us", title="p50 µs"),
            Column(key="cycles_p99_us", title="p99 µs"),
            Column(key="cycles_cpu_us", title="CPU µs"),
            Column(key="cycles_left", title="left behind"),
        ),
        run=scenarios.cycles,
    ),
    Scenario(
        name="large",
        title="large messages, one by one",
        columns=_large(),
        run=large.large,
        apart=True,
        rounds=3,
        other_rounds=1,
    ),
    Scenario(
        name="beside",
        title="small calls beside large messages of another session",
        columns=_beside(),
        run=large.beside,
        apart=True,
        rounds=3,
        other_rounds=1,
    ),
    Scenario(
        name="stop",
        title=f"the end of a subject with {SESSIONS} sessions",
        columns=_stop(),
        run_alone=stopping.stop,
        apart=True,
        implied_by="idle",
        rounds=2,
        other_rounds=1,
    ),
)
