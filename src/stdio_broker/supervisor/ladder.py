"""The way down, as data: what to do to a child that shall end, and how long to wait. Pure.

Source: MCP 2025-11-25, basic/lifecycle, "Shutdown": close stdin, wait, SIGTERM, wait, SIGKILL.
EOF is the only portable request to exit, so it comes first and has a grace of its own.
"""

import enum

from .status import Phase

__all__ = ["Ladder", "Rung", "check_graces"]


def check_graces(**graces: float | None) -> None:
    """Refuse a grace that is no length of time; None is none.

    Raises:
        ValueError: A grace is negative, or not a number.
    """
    for name, grace in graces.items():
        if grace is not None and not grace >= 0:
            raise ValueError(f"{name}: expected seconds, 0 or more, found {grace!r}")


class Rung(enum.Enum):
    """One step of the ladder, in order.

    The value is the phase of an exit during this step: while we still flush, the child has not
    been asked for anything yet.
    """

    FLUSH = Phase.SELF  #: let accepted lines reach the child
    EOF = Phase.EOF  #: close its stdin
    TERM = Phase.TERM  #: SIGTERM to the group, and SIGCONT: a stopped process cannot act on it
    KILL = Phase.KILL  #: SIGKILL to the group


class Ladder:
    """The graces of one child, in seconds, which callers of `stop` may only ever shorten."""

    __slots__ = ("_graces",)

    def __init__(self, *, flush_grace: float, eof_grace: float, stop_grace: float, kill_grace: float) -> None:
        self._graces = {
            Rung.FLUSH: flush_grace,
            Rung.EOF: eof_grace,
            Rung.TERM: stop_grace,
            Rung.KILL: kill_grace,
        }

    def grace(self, rung: Rung) -> float:
        """Seconds that a step has now."""
        return self._graces[rung]

    def shorten(self, *, eof_grace: float | None = None, stop_grace: float | None = None) -> None:
        """Lower the graces; a longer one than the one in force changes nothing.

        Args:
            eof_grace: Seconds between EOF and SIGTERM; None leaves it. Flushing is part of being
                polite, so it may not take longer than this either.
            stop_grace: Seconds between SIGTERM and SIGKILL; None leaves it.

        Raises:
            ValueError: A grace is negative.
        """
        check_graces(eof_grace=eof_grace, stop_grace=stop_grace)
        if eof_grace is not None:
            for rung in (Rung.FLUSH, Rung.EOF):
                self._graces[rung] = min(self._graces[rung], eof_grace)
        if stop_grace is not None:
            self._graces[Rung.TERM] = min(self._graces[Rung.TERM], stop_grace)
