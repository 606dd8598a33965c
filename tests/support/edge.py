"""Everything between a client's socket and a child's pipes, in the process of the test.

As `stdio_broker.broker` joins it, but with settings of the test's choice and without the start probe.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from stdio_broker.auth import Authenticator, NoAuthentication
from stdio_broker.bridge import Settings as BridgeSettings
from stdio_broker.http import App, HttpServer, bind
from stdio_broker.http import Settings as HttpSettings
from stdio_broker.sessions import Quotas, QuotaSettings, ServerRecipe, SessionIds, SessionManager
from stdio_broker.sessions import Settings as SessionSettings
from stdio_broker.sessions.settings import Recovery
from stdio_broker.supervisor import Config, Supervisor
from tests.support.mcp_client import McpClient, Message
from tests.support.memory_http import MemoryTransport
from tests.support.modern_client import ModernClient

__all__ = [
    "CHILD",
    "UNBOUNDED",
    "Edge",
    "child_config",
    "managing",
    "no_errors_logged",
    "serving",
    "serving_without_sockets",
]

#: What one user of a test may have, unless it is about that: a test often has one for everything.
UNBOUNDED = QuotaSettings(
    max_sessions_per_principal=4096,
    max_children_per_principal=512,
    max_starting_per_principal=8,
    max_waiting_per_principal=512,
    max_calls_per_principal=100_000,
    starts_per_minute=1e9,
    start_burst=100_000,
)

#: The command of `mcp_child.py`; its modes are further words.
CHILD = (sys.executable, "-I", "-S", str(Path(__file__).parents[1] / "children" / "mcp_child.py"))


def child_config(*modes: str, **options: Any) -> Config:  # noqa: ANN401 - passed on
    """Return how to run `mcp_child.py`."""
    return Config(cmd=(*CHILD, *modes), **options)


@dataclass(frozen=True, slots=True)
class Edge:
    """A running edge.

    Attributes:
        url: The endpoint.
        sessions: Its sessions.
        supervisor: Its children.
        app: What the HTTP server calls.
        has_socket: Whether there is an HTTP server.
    """

    url: str
    sessions: SessionManager
    supervisor: Supervisor
    app: App
    has_socket: bool = True

    @property
    def children(self) -> int:
        """How many children are not done."""
        return self.supervisor.statistics().running

    def client(self) -> McpClient:
        """Return a client that is not connected yet."""
        return McpClient(self.url)

    def modern(self, *, capabilities: Message | None = None) -> ModernClient:
        """Return a modern client; without a socket it sees whole answers only."""
        http = None if self.has_socket else httpx.AsyncClient(transport=MemoryTransport(self.app))
        return ModernClient(self.url, http, capabilities=capabilities)


@contextlib.asynccontextmanager
async def managing(
    config: Config | None = None,
    *,
    settings: SessionSettings | None = None,
    bridge: BridgeSettings | None = None,
    quotas: QuotaSettings | None = None,
    recovery: Recovery = "end",
    recipe: ServerRecipe | None = None,
) -> AsyncIterator[tuple[SessionManager, Supervisor]]:
    """Manage sessions of a child, without HTTP, until the block is left.

    A session ends with its child, unless `recovery` says otherwise, whatever the settings say.
    """
    async with Supervisor() as supervisor:
        manager = SessionManager(
            recipe or ServerRecipe("child", config or child_config()),
            supervisor,
            settings=dataclasses.replace(settings or SessionSettings(), recovery=recovery),
            bridge_settings=bridge or BridgeSettings(),
            ids=SessionIds(),
            quotas=Quotas(quotas or UNBOUNDED, now=asyncio.get_running_loop().time),
        )
        async with manager:
            try:
                yield manager, supervisor
            finally:
                # As the broker does, so that a test that fails in the block ends like one that does not.
                manager.end_all("the test is over")
                await supervisor.stop_all()


@contextlib.asynccontextmanager
async def serving(
    config: Config | None = None,
    *,
    http: HttpSettings | None = None,
    settings: SessionSettings | None = None,
    bridge: BridgeSettings | None = None,
    quotas: QuotaSettings | None = None,
    recovery: Recovery = "end",
    recipe: ServerRecipe | None = None,
    authenticator: Authenticator | None = None,
) -> AsyncIterator[Edge]:
    """Serve a child on a loopback socket until the block is left.

    Leaving it fails if an error was logged meanwhile: nothing that a client or a child does is one.
    """
    http_settings = http or HttpSettings()
    listener = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}{http_settings.path}"
    with no_errors_logged():
        async with managing(
            config, settings=settings, bridge=bridge, quotas=quotas, recovery=recovery, recipe=recipe
        ) as (manager, supervisor):
            app = App(authenticator or NoAuthentication(), http_settings)
            app.mount(manager, http_settings.path)
            async with HttpServer(app, listener, http_settings).serving():
                try:
                    yield Edge(url, manager, supervisor, app)
                finally:
                    # Before the server closes, so that clients get their answers.
                    manager.end_all("the test is over")
                    await supervisor.stop_all()


@contextlib.asynccontextmanager
async def serving_without_sockets(
    config: Config | None = None,
    *,
    http: HttpSettings | None = None,
    settings: SessionSettings | None = None,
    authenticator: Authenticator | None = None,
) -> AsyncIterator[tuple[Edge, McpClient]]:
    """Serve a child to one client that calls the application: fast, but it sees whole answers only."""
    http_settings = http or HttpSettings()
    url = f"http://127.0.0.1:8080{http_settings.path}"
    with no_errors_logged():
        async with managing(config, settings=settings) as (manager, supervisor):
            app = App(authenticator or NoAuthentication(), http_settings)
            app.mount(manager, http_settings.path)
            transport = MemoryTransport(app, http_settings)
            async with McpClient(url, httpx.AsyncClient(transport=transport)) as client:
                yield Edge(url, manager, supervisor, app, has_socket=False), client


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(logging.Formatter().format(record))


@contextlib.contextmanager
def no_errors_logged() -> Iterator[None]:
    """Fail if an error is logged in the block: nothing that a client or a child does is one."""
    errors = _Errors()
    logging.getLogger().addHandler(errors)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(errors)
    assert not errors.messages, "\n".join(errors.messages)
