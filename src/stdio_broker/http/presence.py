"""Whether the client is still there: a block that ends when it goes."""

import asyncio
from types import TracebackType
from typing import Self

from .wire import HttpRequest, PeerGone

__all__ = ["WhileThere"]

#: Seconds before a client is watched. Most calls are answered sooner, and a timer costs a tenth of a
#: task that only waits.
WATCH_AFTER = 0.01


class WhileThere:
    """Cancel the work of a block when the client closes its connection.

    As `asyncio.timeout` does when time is over, and as cheap. Only after the request's body was read.

    Raises:
        PeerGone: The client went first.
    """

    __slots__ = ("_cancelling", "_gone", "_left", "_request", "_task", "_timer")

    def __init__(self, request: HttpRequest) -> None:
        self._request = request
        self._gone: asyncio.Task[None] | None = None
        self._left = False

    async def __aenter__(self) -> Self:
        """Watch the client from here on."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("expected to run in a task")
        self._task: asyncio.Task[object] | None = task
        self._cancelling = task.cancelling()
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self._watch)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Watch it no more."""
        task, self._task = self._task, None
        self._timer.cancel()
        if self._gone is not None:
            self._gone.cancel()
        # Less or equal, and not just one less: somebody else may want the task to end, too.
        if self._left and task is not None and task.uncancel() <= self._cancelling:
            raise PeerGone from exc

    def _watch(self) -> None:
        self._gone = asyncio.create_task(self._request.wait_disconnected())
        self._gone.add_done_callback(self._leave)

    def _leave(self, gone: asyncio.Task[None]) -> None:
        if self._task is not None and not gone.cancelled():
            self._left = True
            self._task.cancel()
