"""What a legacy client is told of changes by a modern child: one stream of changes for each session.

The client subscribes to one resource at a time, and to the lists not at all; a modern child is told
all of it at once, in `subscriptions/listen`. So each change of mind opens a new stream, and the old
one ends the moment the child has agreed to the new: no change falls in between, and none comes twice.

A child that ends is replaced, and the client is told that everything may have changed. Not without
limit: a child that ends by what its clients do next, now that they know, would be started for ever.

Source: MCP 2026-07-28, basic/patterns/subscriptions; protocol matrix, section 5.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable

import msgspec

from ..errors import BridgeBroken, BrokerError, RemoteProtocolError
from ..protocol.jsonrpc import (
    INTERNAL_ERROR,
    METHOD_NOT_FOUND,
    Members,
    Notification,
    Response,
    encode,
    object_members,
    string_member,
)
from ..protocol.listen import ListenFilter, supported_by
from ..protocol.modern import LISTEN, MAX_ELEMENTS, string_elements
from ..protocol.to_legacy import notification_for_legacy
from .legacy_client import ChildEnded, LegacyClient, Refused
from .messages import changes, request_members
from .modern_child import ModernChild
from .settings import Settings

__all__ = ["Watching"]

#: How often a session watches anew within so many seconds without having been asked to.
MAX_RETURNS = 3
RETURNS_WINDOW = 60.0


class Watching:
    """The changes of one session; of at most `MAX_ELEMENTS` resources.

    Args:
        client: Whose session it is.
        acquire: Returns the child, and starts it if need be.
        settings: Bounds.
        spawn: Starts a task.
        tell: Takes what the client is told.
    """

    def __init__(
        self,
        client: LegacyClient,
        acquire: Callable[[], Awaitable[ModernChild]],
        settings: Settings,
        *,
        spawn: Callable[[Coroutine[None, None, None]], asyncio.Task[None]],
        tell: Callable[[bytes], None],
    ) -> None:
        self._client = client
        self._acquire = acquire
        self._settings = settings
        self._spawn = spawn
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._uris: dict[str, None] = {}
        self._stream: _Stream | None = None
        self._asked: ModernChild | None = None  # where the stream is, or was refused
        self._turn = asyncio.Lock()  # of those who change what is watched
        self._work: asyncio.Task[None] | None = None
        self._returns: deque[float] = deque(maxlen=MAX_RETURNS)
        self._begun = False
        self._ended = False

    def begin(self) -> None:
        """Watch what the child announces changes of, from now on."""
        if not (self._begun or self._ended):
            self._begun = True
            self._work = self._spawn(self._open_first())

    def look_at(self, child: ModernChild) -> None:
        """Watch at this child, too, if it is another one than before: the session uses it now."""
        if self._begun and child is not self._asked:
            self._return()

    async def subscribe(self, uri: str) -> None:
        """Tell changes of a resource.

        Raises:
            Refused: The server does not tell them, or there are too many.
            ChildEnded: The child ended before it agreed.
            BrokerError: The child failed, or could not be started.
        """
        async with self._turn:
            if uri in self._uris and self._stream is not None:
                return
            if uri not in self._uris and len(self._uris) >= MAX_ELEMENTS:
                text = f"{MAX_ELEMENTS} resources are subscribed to already"
                raise Refused(text, "too many subscriptions")
            accepted = await self._open((*self._uris, uri))
            if uri not in accepted:
                text = "the server does not tell when this resource changes"
                raise Refused(text, "not supported", code=METHOD_NOT_FOUND)
            self._begun = True
            self._uris[uri] = None

    async def unsubscribe(self, uri: str) -> None:
        """Tell changes of a resource no more. Raises as `subscribe` does; then it is still told."""
        async with self._turn:
            if uri in self._uris:
                await self._open(known for known in self._uris if known != uri)
                self._uris.pop(uri, None)

    @property
    def subscriptions(self) -> int:
        """How many resources the client is subscribed to."""
        return len(self._uris)

    def pause(self) -> None:
        """Watch nothing until the session uses a child again; then everything counts as changed."""
        if self._work is not None:
            self._work.cancel()
        self._close()
        self._asked = None

    def go_on(self) -> None:
        """Watch resources again after a pause: whoever listens waits to be told, and asks nothing."""
        if self._uris and self._asked is None:
            self._return()

    def end(self) -> None:
        """Tell nothing more."""
        self._ended = True
        if self._work is not None:
            self._work.cancel()
        self._close()

    async def _open_first(self) -> None:
        try:
            async with self._turn:
                if self._stream is None:
                    await self._open(self._uris)
        except (BrokerError, ChildEnded, Refused):
            return  # the client has not asked for it; the next child may be better

    def _return(self) -> None:
        """Watch again, unless that came to nothing too often lately."""
        now = self._loop.time()
        if self._ended or (self._work is not None and not self._work.done()):
            return
        if len(self._returns) == MAX_RETURNS and now - self._returns[0] < RETURNS_WINDOW:
            return
        self._returns.append(now)
        self._work = self._spawn(self._open_again())

    async def _open_again(self) -> None:
        await self._open_first()
        if self._stream is not None:
            for change in changes(self._stream.wanted):
                self._tell(encode(change))

    async def _open(self, uris: Iterable[str]) -> frozenset[str]:
        """Watch this and no more; return the resources that the child tells of."""
        child = await self._acquire()
        self._asked = child
        declared = {} if child.discovery is None else object_members(child.discovery.capabilities) or {}
        everything = ListenFilter(tools=True, prompts=True, resources=True, uris=tuple(dict.fromkeys(uris)))
        wanted = supported_by(everything, declared)
        if not wanted.as_json():
            self._close()
            return frozenset()
        return await _Stream(self, child, wanted).open(self._client.meta(), self._settings.query_timeout)

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None

    def opened(self, stream: "_Stream") -> None:
        """Take over from the stream before."""
        self._close()
        if self._ended:
            stream.cancel()
        else:
            self._stream = stream

    def told(self, notification: Notification) -> None:
        """Pass on a change."""
        self._tell(notification_for_legacy(notification))

    def over(self, *, child_ended: bool) -> None:
        """Note that the stream is at its end. If its child is, too, another one can go on."""
        self._stream = self._asked = None
        if child_ended:
            self._return()


class _Stream:
    """One stream of changes at a child (`Caller`).

    Attributes:
        wanted: What it was opened for.
    """

    wants_logs = False
    outlives = True

    def __init__(self, watching: Watching, child: ModernChild, wanted: ListenFilter) -> None:
        self.wanted = wanted
        self._watching = watching
        self._child = child
        self._child_id = b""
        # What the child has agreed to, or why it has not.
        self._accepted: asyncio.Future[frozenset[str] | Exception] = (
            asyncio.get_running_loop().create_future()
        )

    async def open(self, meta: Members, timeout: float) -> frozenset[str]:  # noqa: ASYNC109 -- words the error
        """Open it; return the resources that the child has agreed to tell of."""
        params: Members = {
            "_meta": msgspec.Raw(encode(meta)),
            "notifications": msgspec.Raw(msgspec.json.encode(self.wanted.as_json())),
        }
        self._child.check_usable()
        self._child_id = self._child.open(self)
        try:
            async with asyncio.timeout(timeout):
                await self._child.send(self._child_id, request_members(LISTEN, params))
                accepted = await self._accepted
        except TimeoutError:
            text = f"the server did not agree within {timeout:g} s to tell of changes"
            raise Refused(text, "no answer") from None
        finally:
            if not self._accepted.done() or self._accepted.cancelled():
                self.cancel()
        if isinstance(accepted, Exception):
            raise accepted
        return accepted

    def cancel(self) -> None:
        """Listen no more."""
        self._child.cancel(self._child_id, "the client listens no more")

    def told(self, notification: Notification) -> None:
        if notification.method == "notifications/cancelled":
            self._child.close(self._child_id)
            self._over(RemoteProtocolError("the server ends its stream of changes", code=INTERNAL_ERROR))
        elif notification.method != "notifications/subscriptions/acknowledged":
            self._watching.told(notification)
        elif not self._accepted.done():
            params = object_members(notification.members.get("params")) or {}
            agreed = object_members(params.get("notifications")) or {}
            self._accepted.set_result(frozenset(string_elements(agreed.get("resourceSubscriptions")) or ()))
            # At once: what comes on the old one from now on comes on this one, too.
            self._watching.opened(self)

    def answered(self, response: Response) -> None:
        error = object_members(response.members.get("error"))
        text = string_member(error, "message") or "the server ends its stream of changes"
        self._over(RemoteProtocolError(text, code=INTERNAL_ERROR))

    def failed(self, ending: BridgeBroken) -> None:
        self._over(ChildEnded(ending), child_ended=True)

    def _over(self, error: Exception, *, child_ended: bool = False) -> None:
        if not self._accepted.done():
            self._accepted.set_result(error)
        else:
            self._watching.over(child_ended=child_ended)
