"""One connection without sockets: what a client sends, who serves it, and what the client gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from stdio_broker.http import Settings
from stdio_broker.http.incoming import Incoming
from stdio_broker.http.wire import HttpRequest
from tests.support.http_answers import Answer, read_answers
from tests.support.memory_http import MemoryOwner

__all__ = ["GET", "Wire", "get", "ok", "post", "turns"]

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


def get(path: str, *fields: str) -> bytes:
    """Return a GET."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "host: a", *fields, "", ""]).encode()


def post(body: bytes, *fields: str, path: str = "/") -> bytes:
    """Return a POST."""
    lines = [f"POST {path} HTTP/1.1", "host: a", *fields, f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def ok(request: HttpRequest) -> None:
    """Answer with the path of the request."""
    request.answer(200, ((b"content-type", b"text/plain"),), request.path.encode())


async def turns(count: int = 5) -> None:
    """Let the event loop do all that it has to do now."""
    for _ in range(count):
        await asyncio.sleep(0)


class Wire:
    """A client and its connection.

    Args:
        serve: What is done with each request; None: the test does it later.
        peer: Its address.
        keep_alive_timeout: As the server's.
        settings: Bounds of `Settings`.

    Attributes:
        requests: Those that were served, or begun to be.
    """

    def __init__(
        self,
        serve: Callable[[HttpRequest], None] | None = None,
        *,
        peer: str = "127.0.0.1",
        keep_alive_timeout: float = 75.0,
        **settings: Any,  # noqa: ANN401 - passed on
    ) -> None:
        self._serve = serve
        self.requests: list[Incoming] = []
        self.owner = MemoryOwner(self._note, Settings(**settings))
        self.owner.keep_alive_timeout = keep_alive_timeout
        self.connection, self.transport = self.owner.connect(peer)

    @property
    def paths(self) -> list[str]:
        """Of what was served."""
        return [request.path for request in self.requests]

    @property
    def closing(self) -> bool:
        """Whether the connection is closed, or about to be."""
        return self.transport.is_closing()

    def reads(self) -> bool:
        """Return whether the connection would be given more."""
        return self.transport.reading

    def feed(self, *pieces: bytes) -> None:
        """Send pieces, as long as the connection takes them."""
        for piece in pieces:
            if not self.closing:
                self.connection.data_received(piece)

    def answers(self, *methods: str) -> list[Answer]:
        """Return all answers so far."""
        return read_answers(bytes(self.transport.written), methods)

    def statuses(self, *methods: str) -> list[int]:
        """Return their numbers."""
        return [answer.status for answer in self.answers(*methods)]

    def _note(self, request: HttpRequest) -> None:
        self.requests.append(cast("Incoming", request))
        if self._serve is not None:
            self._serve(request)
