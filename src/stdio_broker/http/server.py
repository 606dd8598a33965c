"""The HTTP server: uvicorn, embedded. It listens, parses and closes; the app decides.

uvicorn's own handling of signals is left out: the broker has one place for that.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn

from ..errors import BrokerError, ConfigError
from .app import App
from .bounded import bounded_protocol
from .settings import Settings

__all__ = ["HttpServer", "bind"]

#: Seconds that answers in flight get when the server closes; the sessions are gone by then.
CLOSE_TIMEOUT = 5

#: Seconds that an idle connection stays open; above the 60 s that many proxies reuse one for.
KEEP_ALIVE_TIMEOUT = 75


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
        # Clients of 100 sessions may connect in one moment.
        listener.listen(1024)
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


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serve an app on a listening socket. Takes over the socket.

    Use as an async context manager around the time of serving.
    """

    def __init__(self, app: App, listener: socket.socket, settings: Settings) -> None:
        config = uvicorn.Config(
            app,
            http=bounded_protocol(
                max_header_bytes=settings.max_header_bytes,
                receive_timeout=settings.receive_timeout,
            ),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_TIMEOUT,
            timeout_graceful_shutdown=CLOSE_TIMEOUT,
        )
        self._listener = listener
        self._server = _Server(config)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Accept requests within the block; then answer what is in flight, and close."""
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self._server.serve(sockets=[self._listener]), name="http server")
            try:
                yield
            finally:
                self._server.should_exit = True
                await asyncio.wait({task})
