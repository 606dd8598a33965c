"""What the endpoint needs of an HTTP server, and nothing more.

The endpoint is written against this, so that the edge can be replaced without touching what lies behind
it (design decision 13). What can be done at once is done at once: an application is a plain function, and
what has to wait it gives back, with `go_on`. Nearly every call needs nothing of the kind, and a task for
each would cost as much as all the rest.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Protocol

from ..bridge import Budget
from ..protocol.encoding import Pieces

__all__ = ["Application", "Headers", "HttpRequest", "PayloadTooLarge", "PeerGone", "PeerTooSlow"]

#: Header fields; names in lower case.
Headers = Sequence[tuple[bytes, bytes]]


class PeerGone(Exception):
    """The client closed the connection."""


class PeerTooSlow(Exception):
    """The client took longer than allowed to read what we wrote."""


class PayloadTooLarge(Exception):
    """The request's body is over the limit."""


class Head(Protocol):
    """What stands before a body. Clients send the same again and again, so it may be shared by requests."""

    @property
    def method(self) -> str:
        """The method, in capitals."""

    @property
    def path(self) -> str:
        """The path, decoded."""

    @property
    def query(self) -> bytes:
        """What stands behind the path's question mark."""

    @property
    def fields(self) -> Headers:
        """All header fields in their order, names in lower case; a repeated one stands here twice."""

    @property
    def values(self) -> "dict[bytes, bytes]":
        """The same by name; repeated fields are joined by ", "."""

    #: What whoever serves it has found out about it. What a head alone decides need be looked at once.
    known: object


class HttpRequest(Protocol):
    """One request, and the answer to it."""

    @property
    def head(self) -> Head:
        """What stands before the body."""

    @property
    def method(self) -> str:
        """The method, in capitals."""

    @property
    def path(self) -> str:
        """The path, decoded."""

    @property
    def fields(self) -> Headers:
        """As in the head."""

    @property
    def peer(self) -> str:
        """Address of the client; empty if it has none."""

    @property
    def whole_body(self) -> bytes | None:
        """The body if all of it is here, and short; else `body` has it."""

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

    def go_on(self, work: Coroutine[None, None, None]) -> None:
        """Have the rest done by a task. It is cancelled when the server closes and cannot wait any longer."""

    def answer(self, status: int, headers: Headers, body: bytes | Pieces = b"") -> None:
        """Send a whole answer."""

    def fail(self) -> None:
        """Answer that we have failed, if nothing else was said; else cut the answer off."""

    def start_stream(self, headers: Headers) -> None:
        """Begin an answer of unknown length, with status 200."""

    async def write(self, data: bytes) -> None:
        """Send a piece of a stream; wait while the client does not read.

        Raises:
            PeerTooSlow: The client has not read for too long.
        """

    def end_stream(self) -> None:
        """End the stream."""

    def when_gone(self, callback: Callable[[], None] | None) -> None:
        """Have a callback called once, when the client closes the connection; None: not any more.

        One at a time. Soon, if the client has gone already; never, if the answer was complete before.
        """


class Application(Protocol):
    """What answers requests."""

    def __call__(self, request: HttpRequest) -> None:
        """Answer a request, now or in a task. Whatever is wrong with it is told to its client."""
