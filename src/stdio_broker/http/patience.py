"""Many waits of the same length, and one timer for all of them."""

import asyncio
from typing import Protocol

__all__ = ["Patience", "Wait"]


class Wait(Protocol):
    """Something that waits."""

    def run_out(self) -> None:
        """Note that it has waited for too long."""


class Patience:
    """Tell each of many waits when it is over, unless it has ended before.

    A timer for each would cost a call as much as the parsing of its answer, and nearly none is ever due.

    Args:
        seconds: How long each may wait.
    """

    __slots__ = ("_loop", "_seconds", "_timer", "_waits")

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        # When each is over. All wait equally long, so they stand here in that order.
        self._waits: dict[Wait, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, wait: Wait) -> None:
        """Begin a wait."""
        self._waits[wait] = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._look)

    def end(self, wait: Wait) -> None:
        """End one that is not over."""
        del self._waits[wait]

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        over = []
        for wait, due in self._waits.items():
            if due > now:
                self._timer = self._loop.call_at(due, self._look)
                break
            over.append(wait)
        for wait in over:
            # One may have ended another.
            if self._waits.pop(wait, None) is not None:
                wait.run_out()
