"""What the endpoint needs of an HTTP server, and nothing more.

The endpoint is written against this, so that a faster edge can replace the ASGI adapter without
touching what lies behind it (design decision 13).
"""

from collections.abc import Sequence
from typing import Protocol

from ..bridge import Budget

__all__ = ["Headers", "HttpRequest", "PayloadTooLarge", "PeerGone", "PeerTooSlow"]

#: Header fields of an answer; names in lower case.
Headers = Sequence[tuple[bytes, bytes]]


class PeerGone(Exception):
    """The client closed the connection."""


class PeerTooSlow(Exception):
    """The client took longer than allowed to read what we wrote."""


class PayloadTooLarge(Exception):
    """The request's body is over the limit."""


class HttpRequest(Protocol):
    """One request, and the answer to it."""

    @property
    def method(self) -> str:
        """The method, in capitals."""

    @property
    def path(self) -> str:
        """The path, decoded."""

    @property
    def peer(self) -> str:
        """Address of the client; empty if it has none."""

    @property
    def fields(self) -> Headers:
        """All header fields in their order, names in lower case; a repeated one stands here twice."""

    def header(self, name: bytes) -> bytes | None:
        """Return a header field's value; None if it is missing. Repeated fields are joined by ", "."""

    def charge_to(self, budget: Budget) -> None:
        """Say who pays for the bytes of the body, and of what the client has not read; nobody does before."""

    async def body(self, max_bytes: int) -> bytes:
        """Return the whole body. It is charged until `release_body`.

        Raises:
            PayloadTooLarge: It is longer than `max_bytes`; nothing near that much was read.
            LimitReached: The budget has no room for it; the same.
            PeerGone: The client left in the middle of it, or was thrown out for being too slow.
        """

    def release_body(self) -> None:
        """Say that nobody holds the body any more. Whoever has asked for it must say so in the end."""

    def add_header(self, name: bytes, value: bytes) -> None:
        """Add a header field to the answer, whichever it will be."""

    async def answer(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Send a whole answer."""

    async def start_stream(self, headers: Headers) -> None:
        """Begin an answer of unknown length, with status 200."""

    async def write(self, data: bytes) -> None:
        """Send a piece of a stream; wait while the client does not read.

        Raises:
            PeerTooSlow: The client has not read for too long.
        """

    async def end_stream(self) -> None:
        """End the stream."""

    async def wait_disconnected(self) -> None:
        """Return when the client has closed the connection. Only after the body was read."""
