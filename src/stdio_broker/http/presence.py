"""Whether the client is still there: a block that ends when it goes."""

import asyncio
from types import TracebackType
from typing import Self

from .wire import HttpRequest, PeerGone

__all__ = ["WhileThere"]


class WhileThere:
    """Cancel the work of a block when the client closes its connection.

    As `asyncio.timeout` does when time is over: in the task that it is in, without another one.

    Raises:
        PeerGone: The client went first.
    """

    __slots__ = ("_cancelling", "_left", "_request", "_task")

    def __init__(self, request: HttpRequest) -> None:
        self._request = request
        self._left = False

    async def __aenter__(self) -> Self:
        """Watch the client from here on."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("expected to run in a task")
        self._task = task
        self._cancelling = task.cancelling()
        self._request.when_gone(self._leave)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Watch it no more."""
        self._request.when_gone(None)
        # Less or equal, and not just one less: somebody else may want the task to end, too.
        if self._left and self._task.uncancel() <= self._cancelling:
            raise PeerGone from exc

    def _leave(self) -> None:
        self._left = True
        self._task.cancel()
