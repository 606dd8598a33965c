"""The HTTP server: it listens, and sees its connections and their tasks through."""

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import AsyncIterator, Coroutine

from ..errors import BrokerError, ConfigError
from .connection import Connection
from .reports import MAX_PATH_CHARS
from .settings import Settings
from .wire import Application, HttpRequest

__all__ = ["HttpServer", "bind"]

logger = logging.getLogger(__name__)

#: Connections that may wait to be accepted: the clients of 100 sessions may connect in one moment.
BACKLOG = 1024

#: Seconds that answers in flight get when the server closes; the sessions are gone by then.
CLOSE_TIMEOUT = 5

#: Seconds that an idle connection stays open; above the 60 s that many proxies reuse one for.
KEEP_ALIVE_TIMEOUT = 75.0


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Args:
        host: Address or name to listen on.
        port: Port; 0 takes any free one.

    Raises:
        ConfigError: The host is unknown, or not an address of this machine.
        BrokerError: The port is in use, or may not be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as exc:
        raise ConfigError(f"--host: {host!r} is no address of this machine ({exc.strerror})") from exc
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        raise _explain(exc, host, port) from exc
    listener.setblocking(False)  # noqa: FBT003 - the socket's own signature
    return listener


def _explain(exc: OSError, host: str, port: int) -> BrokerError:
    if exc.errno == errno.EADDRINUSE:
        return BrokerError(
            f"port {port} on {host} is in use; choose another with --port, or 0 for any free one"
        )
    if exc.errno == errno.EACCES:
        return BrokerError(f"port {port} may not be used by this user; choose one above 1023 with --port")
    if exc.errno == errno.EADDRNOTAVAIL:
        return ConfigError(f"--host: {host!r} is no address of this machine")
    return BrokerError(f"cannot listen on {host} port {port}: {exc.strerror}")


class HttpServer:
    """Serve an application on a listening socket. Takes over the socket.

    Use `serving` around the time of serving.

    Attributes:
        max_header_bytes: Longest head of a request.
        receive_timeout: Seconds that a client may pause within a request, or before its first one.
        keep_alive_timeout: Seconds that it may be silent between two.
        write_timeout: Seconds that it may take to read what was written.
    """

    def __init__(self, app: Application, listener: socket.socket, settings: Settings) -> None:
        self._app = app
        self._listener = listener
        self._connections: set[Connection] = set()
        self._all_closed = asyncio.Event()
        self._closing = False
        self._tasks = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()
        self.max_header_bytes = settings.max_header_bytes
        self.receive_timeout = settings.receive_timeout
        self.keep_alive_timeout = KEEP_ALIVE_TIMEOUT
        self.write_timeout = settings.write_timeout

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Accept requests within the block; then answer what is in flight, and close."""
        loop = asyncio.get_running_loop()
        async with self._tasks:
            server = await loop.create_server(lambda: Connection(self), sock=self._listener, backlog=BACKLOG)
            try:
                yield
            finally:
                server.close()
                await self._close()

    async def _close(self) -> None:
        self._closing = True
        for connection in list(self._connections):
            connection.finish()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self._wait_closed()
        finally:
            for task in self._running:
                task.cancel()
            for connection in list(self._connections):
                connection.abort()
        await self._wait_closed()

    async def _wait_closed(self) -> None:
        while self._connections:
            self._all_closed.clear()
            await self._all_closed.wait()

    # What a connection needs (`Owner`).

    def opened(self, connection: Connection) -> None:
        """Note that there is a connection more."""
        self._connections.add(connection)
        if self._closing:  # it was accepted in the very turn in which we stopped
            connection.finish()

    def closed(self, connection: Connection) -> None:
        """Note that there is one less."""
        self._connections.discard(connection)
        if not self._connections:
            self._all_closed.set()

    def serve(self, request: HttpRequest) -> None:
        """Have a request answered."""
        try:
            self._app(request)
        except Exception:  # a request's entry point: a mistake of ours must not end the others
            logger.exception("http.failed", extra={"path": request.path[:MAX_PATH_CHARS]})
            request.fail()

    def go_on(self, request: HttpRequest, work: Coroutine[None, None, None]) -> None:
        """Do the rest of a request in a task."""
        task = self._tasks.create_task(_see_through(request, work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)


async def _see_through(request: HttpRequest, work: Coroutine[None, None, None]) -> None:
    try:
        await work
    except Exception:  # as in `HttpServer.serve`
        logger.exception("http.failed", extra={"path": request.path[:MAX_PATH_CHARS]})
        request.fail()
