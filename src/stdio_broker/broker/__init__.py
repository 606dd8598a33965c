"""The composition root: builds every object, joins them, orders start and shutdown.

Start: take the port (so that a taken one is known at once), open what tells who asks, serve. The only
server of `run` is tried before that; those of `serve` beside it, so that a broken one stops no other.
Shutdown: open nothing new, let open calls finish, take every child down the ladder, close.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import TypeVar

from .. import __version__
from ..auth import open_authenticator
from ..config import Configuration
from ..http import LOOPBACK_HOSTS, App, HttpServer, bind
from ..protocol.handshake import Agreement
from ..sessions import ServerFacts, probe
from ..supervisor import Supervisor
from .node import Node
from .reloading import Reloading
from .shutdown import Shutdown

__all__ = ["Ready", "Shutdown", "serve"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Addresses that mean every address of this machine, but are no name for it.
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound


@dataclass(frozen=True, slots=True)
class Ready:
    """What there is to say when the broker serves.

    Attributes:
        url: Where it listens, without a path.
        agreement: What its only server answered when it was tried; None where that was not done.
    """

    url: str
    agreement: Agreement | None = None


async def serve(
    configuration: Configuration,
    *,
    shutdown: Shutdown,
    announce: Callable[[Ready], None],
    load: Callable[[], Configuration] | None = None,
) -> None:
    """Serve until the shutdown is wished for; return when nothing is left.

    Args:
        configuration: What to serve.
        shutdown: Whether to go on, and whether to reload.
        announce: Called once, when requests are answered.
        load: Reads the configuration anew; None where there is one server, which is tried first.

    Raises:
        BrokerError: The port cannot be had, the database cannot be used, or the only server does not start.
    """
    _warn_of_remote(configuration)
    with contextlib.closing(bind(configuration.host, configuration.port)) as listener:
        async with Supervisor() as supervisor, _hurrying(shutdown, supervisor) as before_killing:
            facts, agreement = None, None
            if load is None:
                facts = ServerFacts()
                trying = _try_server(configuration, supervisor, facts)
                agreement = await _unless(shutdown.requested, trying)
            if load is not None or agreement is not None:
                ready = Ready(_url(listener), agreement)
                await _serve(
                    configuration,
                    supervisor,
                    facts,
                    listener=listener,
                    shutdown=shutdown,
                    announce=lambda: announce(ready),
                    load=load,
                    before_killing=before_killing,
                )
            await supervisor.stop_all()


async def _try_server(configuration: Configuration, supervisor: Supervisor, facts: ServerFacts) -> Agreement:
    (server,) = configuration.servers
    timeout = server.sessions.start_timeout
    logger.info("server.trying", extra={"server": server.recipe.name, "timeout": timeout})
    return await probe(
        server.recipe,
        supervisor,
        facts,
        client_name="stdio-broker",
        client_version=__version__,
        timeout=timeout,
    )


async def _serve(
    configuration: Configuration,
    supervisor: Supervisor,
    facts: ServerFacts | None,
    *,
    listener: socket.socket,
    shutdown: Shutdown,
    announce: Callable[[], None],
    load: Callable[[], Configuration] | None,
    before_killing: list[Callable[[], None]],
) -> None:
    async with open_authenticator(configuration.auth, configuration.storage_url) as authenticator:
        app = App(authenticator, configuration.http)
        server = HttpServer(app, listener, configuration.http)
        # The server is outermost: while children go down the ladder, clients still get answers.
        async with server.serving(), Node(configuration, supervisor, app, authenticator) as node:
            # Calls shall hear that we shut down, not that somebody killed their server.
            before_killing.append(node.end_all)
            await node.start(facts)
            logger.info("broker.ready", extra={"url": _url(listener)})
            announce()
            async with _reloading(node, load, shutdown, configuration):
                await shutdown.requested.wait()
            await _unless(shutdown.hurried, node.drain())


@contextlib.asynccontextmanager
async def _reloading(
    node: Node,
    load: Callable[[], Configuration] | None,
    shutdown: Shutdown,
    configuration: Configuration,
) -> AsyncIterator[None]:
    """Keep a node as its files say, within the block."""
    if load is None:
        yield
        return
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(
            Reloading(node, load, shutdown.reload, configuration.sources).run(), name="reload"
        )
        yield
        task.cancel()


@contextlib.asynccontextmanager
async def _hurrying(shutdown: Shutdown, supervisor: Supervisor) -> AsyncIterator[list[Callable[[], None]]]:
    """Kill all children on the second wish to end, whenever within the block it comes.

    Yields:
        What is done before.
    """
    before: list[Callable[[], None]] = []

    async def hurry() -> None:
        await shutdown.hurried.wait()
        for prepare in before:
            prepare()
        await supervisor.stop_all(eof_grace=0, stop_grace=0)

    task = asyncio.create_task(hurry())
    try:
        yield before
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


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{port}"


def _warn_of_remote(configuration: Configuration) -> None:
    """Say before the first 421 why remote clients would get one."""
    if configuration.host in WILDCARDS and configuration.http.allowed_hosts <= LOOPBACK_HOSTS | {
        configuration.host,
        f"[{configuration.host}]",
    }:
        logger.warning(
            "broker.no_remote_host_allowed",
            extra={
                "host": configuration.host,
                "hint": "clients elsewhere need --allow-host NAME, or http.allowed_hosts",
            },
        )
