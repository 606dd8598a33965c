"""Whose turn is it? For work of which only one piece shall run at a time. Knows no protocol.

As long as nobody asks for turns, everything runs at once. From then on the next one starts when none
runs any more: first what was begun before, then what is new, each in the order in which it came. What
was begun before waits for a while only: it may be what the running one waits for.
"""

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Turns"]

Work = TypeVar("Work", bound=Hashable)


class Turns(Generic[Work]):
    """What runs, and what waits for its turn. Whoever enters must leave.

    Args:
        start: Called with what has waited, when it is its turn.
        taken: Whether turns are taken from the beginning.
        patience: Seconds that something begun before waits.

    Attributes:
        taken: Whether turns are taken. Set, it does not stop what runs already.
    """

    def __init__(self, start: Callable[[Work], None], *, taken: bool, patience: float) -> None:
        self.taken = taken
        self._start = start
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._running: set[Work] = set()
        self._begun: dict[Work, asyncio.TimerHandle] = {}  # in the order in which they came back
        self._new: dict[Work, None] = {}

    def __len__(self) -> int:
        """Return how much runs or waits."""
        return len(self._running) + len(self._begun) + len(self._new)

    def enter(self, work: Work) -> bool:
        """Return whether something new may run now; else it is started later."""
        if self._must_wait:
            self._new[work] = None
            return False
        self._running.add(work)
        return True

    def enter_again(self, work: Work, *, at_once: bool) -> bool:
        """Return whether something begun before may run now; else it is started later.

        Args:
            work: What.
            at_once: Whether it runs whatever we do.
        """
        if self._must_wait and not at_once:
            self._begun[work] = self._loop.call_later(self._patience, self._go, work)
            return False
        self._running.add(work)
        return True

    def leave(self, work: Work) -> None:
        """Note that something does not run or wait (any more), and let the next one have its turn."""
        self._running.discard(work)
        if not self._begun and not self._new:
            return  # nobody waits
        self._stop_waiting(work)
        if not self._running:
            following = next(iter(self._begun or self._new), None)
            if following is not None:
                self._go(following)

    def clear(self) -> None:
        """Forget what runs and what waits, and start nothing."""
        self._running.clear()
        for work in [*self._begun, *self._new]:
            self._stop_waiting(work)

    @property
    def _must_wait(self) -> bool:
        return self.taken and bool(self._running)

    def _go(self, work: Work) -> None:
        self._stop_waiting(work)
        self._running.add(work)
        self._start(work)

    def _stop_waiting(self, work: Work) -> None:
        self._new.pop(work, None)
        timer = self._begun.pop(work, None)
        if timer is not None:
            timer.cancel()
