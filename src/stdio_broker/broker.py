"""The composition root: builds every object, joins them, orders start and shutdown.

Start: take the port (so that a taken one is known at once), try the server once, serve.
Shutdown: open nothing new, let open calls finish, take every child down the ladder, close.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import TypeVar

from . import __version__
from .config import Configuration
from .http import LOOPBACK_HOSTS, App, HttpServer, McpEndpoint, bind
from .protocol.handshake import Agreement
from .sessions import ServerFacts, SessionIds, SessionManager, probe
from .supervisor import Supervisor

__all__ = ["Ready", "Shutdown", "serve"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Addresses that mean every address of this machine, but are no name for it.
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound

#: SIGHUP too: a closed terminal must not leave children behind.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Ready:
    """What there is to say when the broker serves.

    Attributes:
        url: The MCP endpoint.
        agreement: What the server answered when it was tried.
    """

    url: str
    agreement: Agreement


class Shutdown:
    """Wishes to end: the first is polite, the second is not.

    Attributes:
        requested: Set by the first wish.
        hurried: Set by the second.
    """

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.hurried = asyncio.Event()

    def request(self) -> None:
        """Wish to end, or to end faster."""
        if self.requested.is_set():
            logger.warning("broker.hurrying")
            self.hurried.set()
        else:
            logger.info("broker.stopping")
            self.requested.set()

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take the process's signals as wishes, within the block."""
        loop = asyncio.get_running_loop()
        # Under nohup SIGHUP is ignored, which is what its user asked for.
        ours = [number for number in STOP_SIGNALS if number != signal.SIGHUP or _is_default(number)]
        for number in ours:
            loop.add_signal_handler(number, self.request)
        try:
            yield
        finally:
            for number in ours:
                loop.remove_signal_handler(number)


async def serve(
    configuration: Configuration, *, shutdown: Shutdown, announce: Callable[[Ready], None]
) -> None:
    """Serve until the shutdown is wished for; return when nothing is left.

    Args:
        configuration: What to serve.
        shutdown: Whether to go on.
        announce: Called once, when requests are answered.

    Raises:
        BrokerError: The port cannot be had, or the server does not start.
    """
    _warn_of_remote(configuration)
    with contextlib.closing(bind(configuration.host, configuration.port)) as listener:
        async with Supervisor() as supervisor, _hurrying(shutdown, supervisor):
            facts = ServerFacts()
            agreement = await _unless(shutdown.requested, _try_server(configuration, supervisor, facts))
            if agreement is not None:
                ready = Ready(_url(listener, configuration), agreement)
                logger.info("broker.ready", extra={"url": ready.url})
                await _serve(
                    configuration,
                    supervisor,
                    facts,
                    listener=listener,
                    shutdown=shutdown,
                    announce=lambda: announce(ready),
                )
            await supervisor.stop_all()


async def _try_server(configuration: Configuration, supervisor: Supervisor, facts: ServerFacts) -> Agreement:
    logger.info(
        "server.trying",
        extra={"server": configuration.server.name, "timeout": configuration.sessions.start_timeout},
    )
    return await probe(
        configuration.server,
        supervisor,
        facts,
        client_name="stdio-broker",
        client_version=__version__,
        timeout=configuration.sessions.start_timeout,
    )


async def _serve(
    configuration: Configuration,
    supervisor: Supervisor,
    facts: ServerFacts,
    *,
    listener: socket.socket,
    shutdown: Shutdown,
    announce: Callable[[], None],
) -> None:
    sessions = SessionManager(
        configuration.server,
        supervisor,
        settings=configuration.sessions,
        bridge_settings=configuration.bridge,
        ids=SessionIds(),
        facts=facts,
    )
    app = App(McpEndpoint(sessions, configuration.http), sessions, configuration.http)
    server = HttpServer(app, listener, configuration.http)
    # The server is outermost: while children go down the ladder, clients still get answers.
    async with server.serving(), sessions:
        announce()
        await shutdown.requested.wait()
        await _unless(shutdown.hurried, sessions.drain(configuration.drain_grace))


def _is_default(number: signal.Signals) -> bool:
    return signal.getsignal(number) is signal.SIG_DFL


@contextlib.asynccontextmanager
async def _hurrying(shutdown: Shutdown, supervisor: Supervisor) -> AsyncIterator[None]:
    """Kill all children on the second wish to end, whenever within the block it comes."""

    async def hurry() -> None:
        await shutdown.hurried.wait()
        await supervisor.stop_all(eof_grace=0, stop_grace=0)

    task = asyncio.create_task(hurry())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _unless(event: asyncio.Event, work: Coroutine[None, None, Result]) -> Result | None:
    """Do some work; cancel it when the event is set, and return None."""
    task = asyncio.create_task(work)
    waiter = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
        waiter.cancel()
        await asyncio.wait({task, waiter})
    return None if task.cancelled() else task.result()


def _url(listener: socket.socket, configuration: Configuration) -> str:
    host, port = listener.getsockname()[:2]
    if ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{port}{configuration.http.path}"


def _warn_of_remote(configuration: Configuration) -> None:
    """Say before the first 421 why remote clients would get one."""
    if configuration.host in WILDCARDS and configuration.http.allowed_hosts <= LOOPBACK_HOSTS | {
        configuration.host,
        f"[{configuration.host}]",
    }:
        logger.warning(
            "broker.no_remote_host_allowed",
            extra={"host": configuration.host, "hint": "clients elsewhere need --allow-host NAME"},
        )
