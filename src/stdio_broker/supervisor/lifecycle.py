"""The life of a child as a table: what happens in each state, for how long, and what may come next. Pure.

`child.py` lives by it and cannot leave it: every change of state goes through `follow`. The
diagram in `docs/supervisor.md` is drawn from it.

Source of the way down: MCP 2025-11-25, basic/lifecycle, "Shutdown": close stdin, wait, SIGTERM,
wait, SIGKILL. EOF is the only portable request to exit, so it has a state and a grace of its own.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, get_args

from .status import Phase

__all__ = ["GRACES", "LADDER", "TRANSITIONS", "Grace", "State", "Step", "follow"]

#: The field of `Config` that bounds a state, in seconds.
Grace = Literal["flush_grace", "eof_grace", "stop_grace", "kill_grace", "drain_grace"]
GRACES: tuple[Grace, ...] = get_args(Grace)


class State(enum.Enum):
    """Where in its life a child is, in the order of a life that takes every step."""

    # There is one of each. That of `Enum` is a function in Python, and they are looked up all the time.
    __hash__ = object.__hash__

    RUNNING = "running"
    FLUSH = "flush"
    EOF = "eof"
    TERM = "term"
    KILL = "kill"
    EXITED = "exited"
    SWEEP = "sweep"
    DRAIN = "drain"
    REAP = "reap"
    DONE = "done"
    UNKILLABLE = "unkillable"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class Step:
    """One state.

    Attributes:
        what: What happens in it, as the documentation says it.
        grace: How long it may last; None takes no time, or has no end (RUNNING, UNKILLABLE).
        next: What may come next, and why it does.
    """

    what: str
    grace: Grace | None = None
    next: Mapping[State, str] = field(default_factory=dict)


_EXITS = {State.EXITED: "it exits"}
_LOST = {State.ABANDONED: "the event loop is closed, or its task is lost"}

TRANSITIONS: Mapping[State, Step] = MappingProxyType(
    {
        State.RUNNING: Step("lines cross, both ways", next={State.FLUSH: "stop()", **_EXITS, **_LOST}),
        State.FLUSH: Step(
            "lines that were accepted reach the child",
            "flush_grace",
            {State.EOF: "written, or flush_grace is over", **_EXITS, **_LOST},
        ),
        State.EOF: Step(
            "its stdin is closed",
            "eof_grace",
            {State.TERM: "eof_grace is over", State.KILL: "the same, if stop_grace is 0", **_EXITS, **_LOST},
        ),
        State.TERM: Step(
            "SIGTERM and SIGCONT to its process group (a stopped process cannot act on SIGTERM)",
            "stop_grace",
            {State.KILL: "stop_grace is over", **_EXITS, **_LOST},
        ),
        State.KILL: Step(
            "SIGKILL to the group",
            "kill_grace",
            {State.DRAIN: "kill_grace is over", **_EXITS, **_LOST},
        ),
        # Only peeked at: the zombie pins the numbers of process and group until REAP.
        State.EXITED: Step(
            "the exit is noticed, not collected yet: until then its number is no stranger's",
            next={State.SWEEP: "orphans are killed", State.DRAIN: "orphans are left", **_LOST},
        ),
        State.SWEEP: Step(
            'SIGKILL to what the child left in its group; `orphans="leave"` skips this',
            next={State.DRAIN: "signalled", **_LOST},
        ),
        State.DRAIN: Step(
            "the rest of stdout and stderr is read, and both are closed",
            "drain_grace",
            {State.REAP: "it has exited", State.UNKILLABLE: "it has not", **_LOST},
        ),
        State.REAP: Step(
            "the exit status is collected, from here on no signal is sent to that number; "
            "then the swept group is waited for",
            "kill_grace",
            {State.DONE: "the group is gone, or reported", **_LOST},
        ),
        State.DONE: Step("nothing of it is left, or `survivors` says so"),
        # It counts as done; what is left of it is one descriptor, which tells of its end.
        State.UNKILLABLE: Step(
            "it has outlived SIGKILL and is reported", next={State.REAP: "it exits after all"}
        ),
        State.ABANDONED: Step(
            "from any state before DONE, if the event loop is closed or its task is lost: "
            "the thread that starts children kills and reaps it"
        ),
    }
)

#: The steps of the way down, in order, and the phase of an exit during each: while we still
#: flush, the child has not been asked for anything yet.
LADDER: Mapping[State, Phase] = MappingProxyType(
    {State.FLUSH: Phase.SELF, State.EOF: Phase.EOF, State.TERM: Phase.TERM, State.KILL: Phase.KILL}
)


def follow(before: State, after: State) -> State:
    """Return the state that comes after `before`, if it may.

    Raises:
        RuntimeError: The table does not have it: a mistake of ours.
    """
    if after not in TRANSITIONS[before].next:
        raise RuntimeError(f"a child that is {before.name} cannot become {after.name}")
    return after
