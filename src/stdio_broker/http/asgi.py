"""The ASGI adapter: one request of an ASGI server, as the endpoint wants it.

Source: ASGI 3, "HTTP & WebSocket ASGI Message Format" 2.5.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any

from .wire import Headers, PayloadTooLarge, PeerGone, PeerTooSlow

__all__ = ["ABORT", "AsgiRequest", "Receive", "Scope", "Send"]

# ASGI's own types are mappings of anything.
Scope = Mapping[str, Any]
AsgiEvent = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiEvent]]
Send = Callable[[AsgiEvent], Awaitable[None]]


#: Name of the extension of an ASGI scope: a function that closes the connection at once.
ABORT = "stdio_broker.abort"


class AsgiRequest:
    """An `HttpRequest` on top of ASGI.

    Args:
        write_timeout: Seconds that the client may leave written data unread.
    """

    __slots__ = (
        "_abort",
        "_extra",
        "_headers",
        "_receive",
        "_send",
        "_write_timeout",
        "fields",
        "method",
        "path",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, write_timeout: float) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.fields: Headers = headers
        # Looked up about eight times per request.
        self._headers = dict(headers)
        if len(self._headers) != len(headers):
            self._headers = _join_repeated(headers)
        self._extra: list[tuple[bytes, bytes]] = []
        # ASGI has no way to say this, so the server offers it as an extension.
        self._abort: Callable[[], None] = scope.get("extensions", {}).get(ABORT, _cannot_abort)
        self._receive = receive
        self._send = send
        self._write_timeout = write_timeout

    def header(self, name: bytes) -> bytes | None:
        """Return a header field's value; None if it is missing."""
        return self._headers.get(name)

    async def body(self, max_bytes: int) -> bytes:
        """Return the whole body."""
        if int(self.header(b"content-length") or 0) > max_bytes:
            raise PayloadTooLarge
        event = await self._next_piece()
        if not event.get("more_body", False) and len(event.get("body", b"")) <= max_bytes:
            whole: bytes = event.get("body", b"")
            return whole  # the usual case: one piece, nothing to join
        pieces: list[bytes] = [event.get("body", b"")]
        size = len(pieces[0])
        while size <= max_bytes and event.get("more_body", False):
            event = await self._next_piece()
            pieces.append(event.get("body", b""))
            size += len(pieces[-1])
        if size > max_bytes:
            raise PayloadTooLarge
        return b"".join(pieces)

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
