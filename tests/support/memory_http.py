"""The HTTP edge without sockets: bytes go into a connection and come out of it, in one process and no time.

`MemoryTransport` lets httpx talk to an application in this way; it sees whole answers only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import httptools
import httpx

from stdio_broker.http.connection import Connection
from stdio_broker.http.settings import Settings
from stdio_broker.http.wire import Application, HttpRequest

__all__ = ["FakeTransport", "MemoryOwner", "MemoryTransport"]


class FakeTransport(asyncio.Transport):
    """What a connection writes to.

    Args:
        connection: Which.
        peer: Address of the client; empty: it has none, as one on a Unix socket.

    Attributes:
        written: Everything so far.
        reading: Whether it would be given more.
        unread: Bytes that the client seems to have left unread.
        aborted: Whether it was closed at once.
    """

    def __init__(self, connection: Connection, peer: str = "127.0.0.1") -> None:
        super().__init__({"peername": (peer, 1) if peer else ""})
        self._connection = connection
        self._closing = self._lost = False
        self.written = bytearray()
        self.reading = True
        self.unread = 0
        self.aborted = False
        connection.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes."""
        assert not self._closing, "written to after it was closed"
        self.written += data

    def get_write_buffer_size(self) -> int:
        """Return what the test has said."""
        return self.unread

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._closing

    def pause_reading(self) -> None:
        """Read no more."""
        self.reading = False

    def resume_reading(self) -> None:
        """Read again."""
        self.reading = True

    def close(self) -> None:
        """Close once all is read, and say so a moment later, as a loop does."""
        self._closing = True
        if not self.unread:
            self._lose()

    def abort(self) -> None:
        """Close, whatever is unread."""
        self.aborted = self._closing = True
        self._lose()

    def block(self, unread: int = 1) -> None:
        """Be a client that leaves so many bytes unread, which is too many."""
        self.unread = unread
        self._connection.pause_writing()

    def unblock(self) -> None:
        """Be a client that has read everything."""
        self.unread = 0
        self._connection.resume_writing()
        if self._closing:
            self._lose()

    def leave(self) -> None:
        """Be a client that goes."""
        self._closing = True
        self._lose()

    def take(self) -> bytes:
        """Return what was written since the last time."""
        taken = bytes(self.written)
        self.written.clear()
        return taken

    def _lose(self) -> None:
        if not self._lost:
            self._lost = True
            asyncio.get_running_loop().call_soon(self._connection.connection_lost, None)


class MemoryOwner:
    """The server that connections without sockets belong to (`connection.Owner`)."""

    def __init__(self, app: Application, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        self._app = app
        self.tasks: set[asyncio.Task[None]] = set()
        self.max_header_bytes = settings.max_header_bytes
        self.receive_timeout = settings.receive_timeout
        self.keep_alive_timeout = 75.0
        self.write_timeout = settings.write_timeout

    def opened(self, connection: Connection) -> None:
        """Nothing is counted here."""

    def closed(self, connection: Connection) -> None:
        """Nothing is counted here."""

    def serve(self, request: HttpRequest) -> None:
        """Have a request answered; what it raises is the test's."""
        self._app(request)

    def go_on(self, request: HttpRequest, work: Coroutine[None, None, None]) -> None:  # noqa: ARG002 - as there
        """Do the rest of a request in a task."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def connect(self, peer: str = "127.0.0.1") -> tuple[Connection, FakeTransport]:
        """Return a new connection."""
        connection = Connection(self)
        return connection, FakeTransport(connection, peer)


class _Answer:
    """What a client makes of an answer (httptools)."""

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = bytearray()
        self.done = asyncio.Event()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.done.set()


class MemoryTransport(httpx.AsyncBaseTransport):
    """Each request on a connection of its own."""

    def __init__(self, app: Application, settings: Settings | None = None) -> None:
        self._owner = MemoryOwner(app, settings)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return the whole answer."""
        body = await request.aread()
        connection, transport = self._owner.connect()
        answer = _Answer()
        parser = httptools.HttpResponseParser(answer)
        write = transport.write

        def receive(data: bytes | bytearray | memoryview) -> None:
            write(data)
            parser.feed_data(bytes(data))

        transport.write = receive  # type: ignore[method-assign] # the client is on this very end
        connection.data_received(_encode(request) + body)
        try:
            await answer.done.wait()
        finally:
            transport.close()
        return httpx.Response(parser.get_status_code(), headers=answer.fields, content=bytes(answer.body))


def _encode(request: httpx.Request) -> bytes:
    head = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    head += [b"%b: %b" % field for field in request.headers.raw]
    return b"\r\n".join([*head, b"", b""])
