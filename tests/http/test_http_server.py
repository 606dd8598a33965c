"""The HTTP server sees its requests through, our own mistakes too, and closes in bounded time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest

from stdio_broker.http import HttpServer, Settings, bind
from stdio_broker.http import server as server_module
from stdio_broker.http.connection import Connection
from stdio_broker.http.wire import Application, HttpRequest
from tests.http.wire_rig import GET, get, ok, turns
from tests.support.http_answers import read_answers
from tests.support.memory_http import FakeTransport

STREAM = ((b"content-type", b"text/event-stream"),)

pytestmark = pytest.mark.both_loops


class Client:
    """One client of a server, with a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)

    async def read(self, end: bytes) -> bytes:
        """Return what comes until something does."""
        async with asyncio.timeout(20):
            return await self._reader.readuntil(end)

    async def rest(self) -> bytes:
        """Return what comes until the connection is closed, however it is."""
        data = b""
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                while piece := await self._reader.read(65536):
                    data += piece
        return data


class Served:
    """A server, and who asks it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._clients: list[Client] = []

    async def client(self) -> Client:
        """Connect one more client."""
        self._clients.append(Client(*await asyncio.open_connection("127.0.0.1", self._port)))
        return self._clients[-1]

    def close(self) -> None:
        """Disconnect all."""
        for client in self._clients:
            client.writer.close()


@contextlib.asynccontextmanager
async def serving(app: Application) -> AsyncIterator[Served]:
    """Serve an application."""
    listener = bind("127.0.0.1", 0)
    served = Served(listener.getsockname()[1])
    try:
        async with HttpServer(app, listener, Settings()).serving():
            yield served
    finally:
        served.close()


# Mistakes of ours.


def raises(request: HttpRequest) -> None:
    """Fail at once, in a task, or in a stream; or not."""

    async def later() -> None:
        await asyncio.sleep(0)
        if request.path == "/stream":
            request.start_stream(STREAM)
            await request.write(b"x")
        raise RuntimeError("a mistake in a task")

    if request.path == "/ok":
        ok(request)
    elif request.path == "/now":
        raise RuntimeError("a mistake")
    else:
        request.go_on(later())


@pytest.mark.parametrize("path", ["/now", "/later"])
async def test_a_mistake_of_ours_is_an_error_500_of_its_request_only(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours: it is logged with its traceback, and the connection goes on."""
    async with serving(raises) as served:
        client = await served.client()
        client.send(get(path) + get("/ok", "connection: close"))
        answers = read_answers(await client.rest())
        assert [answer.status for answer in answers] == [500, 200]
    (record,) = [record for record in caplog.records if record.name == server_module.__name__]
    assert (record.message, record.levelno) == ("http.failed", logging.ERROR)
    assert record.path == path  # type: ignore[attr-defined] # an extra
    assert record.exc_info is not None


async def test_a_mistake_of_ours_in_a_stream_cuts_it_off(caplog: pytest.LogCaptureFixture) -> None:
    """Ours: the client sees that it is not whole; others go on."""
    async with serving(raises) as served:
        broken, other = await served.client(), await served.client()
        broken.send(get("/stream"))
        with pytest.raises(AssertionError, match="without an end"):
            read_answers(await broken.rest() or b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        other.send(get("/ok", "connection: close"))
        assert [answer.status for answer in read_answers(await other.rest())] == [200]
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == ["http.failed"]


async def test_the_path_in_the_log_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Ours: a client chooses it."""

    def fail(request: HttpRequest) -> None:
        raise RuntimeError("a mistake")

    async with serving(fail) as served:
        client = await served.client()
        client.send(get("/" + "x" * 10_000, "connection: close"))
        await client.rest()
    (record,) = [record for record in caplog.records if record.name == server_module.__name__]
    assert len(record.path) == server_module.MAX_PATH_CHARS  # type: ignore[attr-defined] # as above


# The end.


async def test_answers_in_flight_are_finished_when_the_server_closes() -> None:
    """Ours: and idle connections are closed at once."""
    begun, release = asyncio.Event(), asyncio.Event()

    async def later(request: HttpRequest) -> None:
        begun.set()
        await release.wait()
        ok(request)

    async with serving(lambda request: request.go_on(later(request))) as served:
        idle, busy = await served.client(), await served.client()
        busy.send(get("/busy"))
        ending = asyncio.create_task(idle.rest())
        await begun.wait()
        ending.add_done_callback(lambda _: release.set())
    assert await ending == b""
    (answer,) = read_answers(await busy.rest())
    assert (answer.status, answer.body, answer.fields[b"connection"]) == (200, b"/busy", b"close")


@pytest.mark.parametrize("cancels", [False, True], ids=["in time", "cancelled"])
async def test_what_does_not_end_is_cancelled_and_its_connections_are_closed(
    monkeypatch: pytest.MonkeyPatch,
    *,
    cancels: bool,
) -> None:
    """Ours: `CLOSE_TIMEOUT`; whoever cannot wait so long cancels it, and nothing is left then either."""
    monkeypatch.setattr(server_module, "CLOSE_TIMEOUT", 600 if cancels else 0.05)
    ended: list[str] = []
    begun, closing = asyncio.Event(), asyncio.Event()

    async def forever(request: HttpRequest) -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            ended.append(request.path)

    listener = bind("127.0.0.1", 0)
    server = HttpServer(lambda request: request.go_on(forever(request)), listener, Settings())

    async def serve() -> None:
        async with server.serving():
            await closing.wait()

    running = asyncio.create_task(serve())
    served = Served(listener.getsockname()[1])
    try:
        async with asyncio.timeout(20):
            silent, client = await served.client(), await served.client()
            silent.send(GET[:10])
            client.send(get("/long"))
            await begun.wait()
            closing.set()
            await silent.rest()  # it is closed first
            if cancels:
                running.cancel()
            await asyncio.wait({running})
            assert running.cancelled() == cancels
            assert ended == ["/long"]
            assert await client.rest() == b""
    finally:
        served.close()
        running.cancel()
        await asyncio.wait({running})


async def test_a_connection_that_is_accepted_as_the_server_closes_is_closed_too() -> None:
    """Ours: the loop may have accepted it in the very turn in which we stop."""
    server = HttpServer(ok, bind("127.0.0.1", 0), Settings())
    async with server.serving():
        pass
    connection = Connection(server)
    assert FakeTransport(connection).is_closing()
    await turns()
    assert connection.lost
