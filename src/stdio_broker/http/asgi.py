"""The ASGI adapter: one request of an ASGI server, as the endpoint wants it.

Source: ASGI 3, "HTTP & WebSocket ASGI Message Format" 2.5.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any

from .wire import Headers, PayloadTooLarge, PeerGone, PeerTooSlow

__all__ = ["AsgiRequest", "Receive", "Scope", "Send"]

# ASGI's own types are mappings of anything.
Scope = Mapping[str, Any]
AsgiEvent = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiEvent]]
Send = Callable[[AsgiEvent], Awaitable[None]]


class AsgiRequest:
    """An `HttpRequest` on top of ASGI.

    Args:
        write_timeout: Seconds that the client may leave written data unread.
    """

    __slots__ = (
        "_extra",
        "_headers",
        "_receive",
        "_send",
        "_write_timeout",
        "method",
        "path",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, write_timeout: float) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        # Looked up about eight times per request.
        self._headers = dict(headers)
        if len(self._headers) != len(headers):
            self._headers = _join_repeated(headers)
        self._extra: list[tuple[bytes, bytes]] = []
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
        piece: bytes = event.get("body", b"")
        if not event.get("more_body", False):
            if len(piece) > max_bytes:
                raise PayloadTooLarge
            return piece  # the usual case: one piece, nothing to join
        pieces, size = [piece], len(piece)
        while event.get("more_body", False):
            event = await self._next_piece()
            piece = event.get("body", b"")
            size += len(piece)
            if size > max_bytes:
                raise PayloadTooLarge
            pieces.append(piece)
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
