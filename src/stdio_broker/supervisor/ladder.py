"""The graces of one child: how long each state of `lifecycle.py` may last. Pure."""

from collections.abc import Mapping

from .lifecycle import TRANSITIONS, Grace, State

__all__ = ["Ladder", "check_graces"]


def check_graces(**graces: float | None) -> None:
    """Refuse a grace that is no length of time; None is none.

    Raises:
        ValueError: A grace is negative, or not a number.
    """
    for name, grace in graces.items():
        if grace is not None and not grace >= 0:
            raise ValueError(f"{name}: expected seconds, 0 or more, found {grace!r}")


class Ladder:
    """The graces of one child, which callers of `stop` may only ever shorten.

    Args:
        graces: Seconds for every grace that the table names.
    """

    __slots__ = ("_graces",)

    def __init__(self, graces: Mapping[Grace, float]) -> None:
        self._graces = dict(graces)

    def grace(self, state: State) -> float:
        """Seconds that a state may last, as things stand now.

        Raises:
            ValueError: It is a state without a grace.
        """
        if (name := TRANSITIONS[state].grace) is None:
            raise ValueError(f"{state.name} has no grace")
        return self._graces[name]

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
        limits: Mapping[Grace, float | None] = {
            "flush_grace": eof_grace,
            "eof_grace": eof_grace,
            "stop_grace": stop_grace,
        }
        for name, limit in limits.items():
            if limit is not None:
                self._graces[name] = min(self._graces[name], limit)
