"""Virtual time for asyncio: timers fire at once and in order, and a test that would hang fails instead."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import TypeVar

from tests.support.leaks import fail_on_pending_tasks

__all__ = ["VirtualClockLoop", "run_in_virtual_time"]

_T = TypeVar("_T")


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """Run timers without waiting for them: where a real loop would sleep, the clock jumps to the next timer.

    For tests without real I/O, threads or processes: what they do takes no virtual time, so a timer would
    always win against them. Code under test must take the time from `loop.time()`, as asyncio itself does.

    Raises:
        RuntimeError: Every task waits, and nothing is left that could wake one of them.
    """

    def __init__(self) -> None:
        self._selector_with_clock = _JumpingSelector()
        super().__init__(self._selector_with_clock)

    def time(self) -> float:
        """Return the virtual time in seconds; it starts at 0."""
        return self._selector_with_clock.now


def run_in_virtual_time(main: Coroutine[object, object, _T]) -> _T:
    """Run a coroutine on a `VirtualClockLoop`; fail if it leaves a task behind."""
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        return runner.run(fail_on_pending_tasks(main))


class _JumpingSelector(selectors.DefaultSelector):
    """Poll without waiting; where the loop would have waited, advance `now` by as much."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events:
            if timeout is None:
                raise RuntimeError("deadlock: every task waits, no timer is set and no I/O is ready")
            self.now += max(timeout, 0.0)
        return events
