"""Who listens to one legacy child, and what the child watches for them.

Source: MCP 2026-07-28, basic/patterns/subscriptions; MCP 2025-11-25, server/resources, "Subscriptions".
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable

import msgspec

from ..errors import ChildGone, LimitReached
from ..protocol.listen import ListenFilter
from ..protocol.modern import ModernRequest
from .changes import Changes, LegacyListener
from .shared_child import SharedExchange

__all__ = ["Listeners"]

SUBSCRIBE = "resources/subscribe"
UNSUBSCRIBE = "resources/unsubscribe"

#: Sends the child a request with this method for this URI.
SayOf = Callable[[str, str], Awaitable[None]]


class Listeners:
    """The streams of changes that one child feeds (`Watcher`).

    Args:
        changes: Everybody of the owner who listens to the server.
        limit: Streams of this child.
        say: Tells the child what to watch.
        spawn: Does something beside the reading of the child, as long as it runs.
        on_left: Called when one has left.

    Attributes:
        server_info: What the child says of itself.
    """

    def __init__(
        self,
        changes: Changes,
        *,
        limit: int,
        say: SayOf,
        spawn: Callable[[Coroutine[None, None, None]], object],
        on_left: Callable[[], None],
    ) -> None:
        self.server_info: msgspec.Raw | None = None
        self._changes = changes
        self._limit = limit
        self._watched = _Watched(say)
        self._spawn = spawn
        self._on_left = on_left
        self._listeners: set[LegacyListener] = set()

    def __len__(self) -> int:
        return len(self._listeners)

    async def listen(self, request: ModernRequest, exchange: SharedExchange, wanted: ListenFilter) -> None:
        """Open a stream of changes.

        Raises:
            ChildGone: The child is being stopped, or has ended.
            LimitReached: Too many are open.
        """
        if len(self._listeners) >= self._limit:
            raise LimitReached(f"{self._limit} streams of changes are open already", retry_after=5.0)
        try:
            await self._add(LegacyListener(self, request, exchange, wanted))
        except BaseException:
            exchange.release()  # or another child would go on with it
            raise

    async def adopt(self, listener: LegacyListener) -> None:
        """Go on with a stream that another child has left open, unless its client has gone meanwhile.

        Raises:
            ChildGone: The child is being stopped, or has ended.
        """
        if listener.exchange.open:
            listener.watcher = self
            await self._add(listener)
            listener.tell_all()

    def stop_watching(self, listener: LegacyListener) -> None:
        """Forget a listener, and what only it wanted to be told (`Watcher`)."""
        if self._remove(listener):
            self._spawn(self._settle())
            self._on_left()

    def end_all(self) -> None:
        """End every stream with the result that says so."""
        for listener in list(self._listeners):
            listener.end()

    def abandon_all(self) -> list[LegacyListener]:
        """Return every stream, still open, for another child: this one has ended."""
        listeners = list(self._listeners)
        for listener in listeners:
            self._remove(listener)
        return listeners

    async def _add(self, listener: LegacyListener) -> None:
        self._listeners.add(listener)
        self._changes.add(listener)
        self._watched.add(listener.filter.uris)
        # Before the client reads that it listens, and asks for something that makes a change.
        await self._watched.settle()

    def _remove(self, listener: LegacyListener) -> bool:
        if listener not in self._listeners:
            return False
        self._listeners.discard(listener)
        self._changes.discard(listener)
        self._watched.discard(listener.filter.uris)
        return True

    async def _settle(self) -> None:
        with contextlib.suppress(ChildGone):
            await self._watched.settle()


class _Watched:
    """What a child watches: each resource once, as long as one listener wants it."""

    def __init__(self, say: SayOf) -> None:
        self._say = say
        self._wanted: dict[str, int] = {}
        self._said: set[str] = set()
        self._unsettled: dict[str, None] = {}
        self._settling = asyncio.Lock()

    def add(self, uris: Iterable[str]) -> None:
        """Count one more who wants these."""
        for uri in uris:
            self._wanted[uri] = self._wanted.get(uri, 0) + 1
            self._unsettled[uri] = None

    def discard(self, uris: Iterable[str]) -> None:
        """Count one less."""
        for uri in uris:
            self._wanted[uri] -= 1
            if not self._wanted[uri]:
                del self._wanted[uri]
            self._unsettled[uri] = None

    async def settle(self) -> None:
        """Tell the child what has changed, in order, and wait where it does not read."""
        async with self._settling:
            while self._unsettled:
                uri = next(iter(self._unsettled))
                wanted = uri in self._wanted
                if wanted == (uri in self._said):
                    del self._unsettled[uri]
                    continue
                # Meanwhile it may be wanted again, or no more: that is looked at next.
                await self._say(SUBSCRIBE if wanted else UNSUBSCRIBE, uri)
                self._said ^= {uri}
