"""The ASGI adapter: one request of an ASGI server, as the endpoint wants it.

Source: ASGI 3, "HTTP & WebSocket ASGI Message Format" 2.5.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any

from ..bridge import Budget
from .wire import Headers, PayloadTooLarge, PeerGone, PeerTooSlow

__all__ = ["ABORT", "CHARGE_TO", "AsgiRequest", "Receive", "Scope", "Send"]

# ASGI's own types are mappings of anything.
Scope = Mapping[str, Any]
AsgiEvent = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiEvent]]
Send = Callable[[AsgiEvent], Awaitable[None]]


#: Name of the extension of an ASGI scope: a function that closes the connection at once.
ABORT = "stdio_broker.abort"

#: The same: a function that takes the budget to which what the client has not read is charged.
CHARGE_TO = "stdio_broker.charge_to"

#: A body up to this size is read though the budget is full: it may be what makes room again, an answer
#: to a question or a cancellation. New calls are refused further on.
SMALL_BODY_BYTES = 64 * 1024


class AsgiRequest:
    """An `HttpRequest` on top of ASGI.

    Args:
        write_timeout: Seconds that the client may leave written data unread.
    """

    __slots__ = (
        "_abort",
        "_budget",
        "_charge_connection",
        "_extra",
        "_headers",
        "_held_bytes",
        "_receive",
        "_send",
        "_write_timeout",
        "fields",
        "method",
        "path",
        "peer",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, write_timeout: float) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        client: tuple[str, int] | None = scope.get("client")
        self.peer = "" if client is None else client[0]
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.fields: Headers = headers
        # Looked up about eight times per request.
        self._headers = dict(headers)
        if len(self._headers) != len(headers):
            self._headers = _join_repeated(headers)
        self._extra: list[tuple[bytes, bytes]] = []
        # ASGI has no way to say this, so the server offers it as an extension.
        extensions = scope.get("extensions", {})
        self._abort: Callable[[], None] = extensions.get(ABORT, _cannot_abort)
        self._charge_connection: Callable[[Budget], None] | None = extensions.get(CHARGE_TO)
        self._budget: Budget | None = None
        self._held_bytes = 0  # of the body, charged to the budget
        self._receive = receive
        self._send = send
        self._write_timeout = write_timeout

    def header(self, name: bytes) -> bytes | None:
        """Return a header field's value; None if it is missing."""
        return self._headers.get(name)

    def charge_to(self, budget: Budget) -> None:
        """Say who pays for the bytes of the body, and of what the client has not read."""
        self._budget = budget
        if self._charge_connection is not None:
            self._charge_connection(budget)

    async def body(self, max_bytes: int) -> bytes:
        """Return the whole body."""
        declared = int(self.header(b"content-length") or 0)
        if declared > max_bytes:
            raise PayloadTooLarge
        self._hold(declared)
        event = await self._next_piece()
        pieces: list[bytes] = [event.get("body", b"")]
        size = len(pieces[0])
        while size <= max_bytes and event.get("more_body", False):
            self._hold(size)  # if its length was not declared
            event = await self._next_piece()
            pieces.append(event.get("body", b""))
            size += len(pieces[-1])
        if size > max_bytes:
            raise PayloadTooLarge
        self._hold(size)
        # The usual case: one piece, nothing to join.
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def release_body(self) -> None:
        """Say that nobody holds the body any more."""
        if self._budget is not None:
            self._budget.remove(self._held_bytes)
            self._held_bytes = 0

    def add_header(self, name: bytes, value: bytes) -> None:
        """Add a header field to the answer, whichever it will be."""
        self._extra.append((name, value))

    async def answer(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Send a whole answer."""
        if status != HTTPStatus.NO_CONTENT:  # RFC 9110, 8.6: no content, no length
            headers = [*headers, (b"content-length", b"%d" % len(body))]
        await self._start(status, headers)
        await self._send({"type": "http.response.body", "body": body})

    async def start_stream(self, headers: Headers) -> None:
        """Begin an answer of unknown length, with status 200."""
        await self._start(200, headers)

    async def write(self, data: bytes) -> None:
        """Send a piece of a stream; wait while the client does not read."""
        try:
            async with asyncio.timeout(self._write_timeout):
                await self._send({"type": "http.response.body", "body": data, "more_body": True})
        except TimeoutError:
            # Closing politely would wait for what the client does not read.
            self._abort()
            raise PeerTooSlow from None

    async def end_stream(self) -> None:
        """End the stream."""
        await self._send({"type": "http.response.body", "body": b""})

    async def wait_disconnected(self) -> None:
        """Return when the client has closed the connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _start(self, status: int, headers: Headers) -> None:
        await self._send(
            {"type": "http.response.start", "status": status, "headers": [*headers, *self._extra]}
        )

    def _hold(self, size: int) -> None:
        """Charge a body of so many bytes, of which some may be charged already."""
        more = size - self._held_bytes
        if self._budget is None or more <= 0:
            return
        if size > SMALL_BODY_BYTES:
            self._budget.check(more)
        self._held_bytes = size
        self._budget.add(more)

    async def _next_piece(self) -> AsgiEvent:
        event = await self._receive()
        if event["type"] == "http.disconnect":
            raise PeerGone
        return event


def _join_repeated(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    joined: dict[bytes, bytes] = {}
    for name, value in headers:
        joined[name] = joined[name] + b", " + value if name in joined else value
    return joined


def _cannot_abort() -> None:
    """Leave the connection to the server's own time-outs."""
