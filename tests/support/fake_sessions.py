"""Sessions of a legacy server without processes, for virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from stdio_broker.bridge import Bridge, Exchange, MessageStream, StreamEnded
from stdio_broker.bridge import Settings as BridgeSettings
from stdio_broker.errors import BrokerError
from stdio_broker.protocol.jsonrpc import Notification, Request, parse_body
from stdio_broker.sessions import (
    Principal,
    Quotas,
    ServerRecipe,
    Session,
    SessionIds,
    SessionManager,
    Settings,
)
from stdio_broker.supervisor import Config, ExitStatus
from stdio_broker.testing import FakeChild
from tests.support.clock import run_in_virtual_time
from tests.support.edge import UNBOUNDED, no_errors_logged
from tests.support.fake_servers import FakeServers
from tests.support.tokens import Tokens, recipe_with_token

__all__ = [
    "ANNA",
    "BERND",
    "CONFIG",
    "FakeSessions",
    "answer_on",
    "bridge_of",
    "now",
    "on_stream",
    "request",
    "sessions_of",
    "settle",
    "virtual",
]

Message = dict[str, Any]

ANNA = Principal(issuer="https://id.example.com", subject="anna")
BERND = Principal(issuer="https://id.example.com", subject="bernd")
CONFIG = Config(cmd=["fake"], eof_grace=0.1, stop_grace=0.1)


def virtual(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    """Run a test in virtual time."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        run_in_virtual_time(test(*args, **kwargs))

    return run


class FakeSessions:
    """A manager, its children, and a client or two.

    Attributes:
        servers: The children.
        manager: Of the sessions.
        tokens: What the children are started with, if it is that kind of server.
    """

    def __init__(self, servers: FakeServers, manager: SessionManager, tokens: Tokens | None) -> None:
        self.servers = servers
        self.manager = manager
        self.tokens = tokens

    async def open(self, principal: Principal = ANNA) -> Session:
        """Open a session, as a well-behaved client does."""
        opened = await self.manager.open(principal, initialize())
        assert opened.session is not None
        await answer_on(opened.exchange)
        opened.bridge.release(opened.exchange)
        await opened.bridge.notify(_notification("notifications/initialized"))
        return opened.session

    async def call(self, session: Session, method: str = "tools/call", **params: object) -> Exchange:
        """Send a request in a session, as the endpoint does."""
        found = self.manager.find(session.principal, session.id)
        return await found.bridge.call(request(method, **params))

    async def ask(self, session: Session, method: str = "tools/call", **params: object) -> Message:
        """Send a request in a session; return the answer."""
        exchange = await self.call(session, method, **params)
        try:
            return await answer_on(exchange)
        finally:
            session.bridge.release(exchange)

    async def problem_of(self, session: Session, method: str = "tools/call") -> BrokerError:
        """Return what a request fails with."""
        with pytest.raises(BrokerError) as caught:
            await self.call(session, method)
        return caught.value

    async def crash(self, child: FakeChild | None = None) -> None:
        """End the youngest child, or another one."""
        (child or self.servers.child).exit(ExitStatus(code=3, signal=None))
        await settle()

    def heard(self, child: FakeChild | None = None) -> list[str]:
        """Return the methods that a child was sent; the youngest, if no other is named."""
        return self.servers.heard(child)


@contextlib.asynccontextmanager
async def sessions_of(
    servers: FakeServers | None = None,
    *,
    tokens: Tokens | None = None,
    **settings: Any,  # noqa: ANN401 - passed on
) -> AsyncIterator[FakeSessions]:
    """Manage sessions of a server that answers every call; fail if anything of them is left.

    Args:
        servers: The server.
        tokens: What its children are started with; None is nothing.
        settings: Of the sessions.
    """
    servers = servers or FakeServers.legacy()
    for method in ("tools/call", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"):
        servers.results.setdefault(method, {"content": []})
    quotas = Quotas(UNBOUNDED, now=asyncio.get_running_loop().time)
    manager = SessionManager(
        ServerRecipe("fake", CONFIG) if tokens is None else recipe_with_token(CONFIG, tokens),
        servers,
        settings=Settings(**settings),
        bridge_settings=BridgeSettings(),
        ids=SessionIds(),
        quotas=quotas,
        uniform=lambda _low, high: high,
    )
    with no_errors_logged():
        async with manager:
            yield FakeSessions(servers, manager, tokens)
    assert (servers.alive, manager.statistics().places, manager.statistics().sessions) == (0, 0, 0)
    left = quotas.statistics()
    assert (left.sessions, left.children, left.calls, left.starting, left.waiting) == (0, 0, 0, 0, 0)


def request(method: str, **params: object) -> Request:
    """Return a request as the endpoint parses it."""
    message = parse_body(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode())
    assert isinstance(message, Request)
    return message


def initialize() -> Request:
    """Return an `initialize`."""
    return request("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={"name": "c"})


def _notification(method: str) -> Notification:
    message = parse_body(json.dumps({"jsonrpc": "2.0", "method": method}).encode())
    assert isinstance(message, Notification)
    return message


async def answer_on(exchange: Exchange) -> Message:
    """Return the answer on an exchange."""
    async with asyncio.timeout(100_000):
        answer: Message = json.loads(await exchange.wait_answered())
    return answer


async def on_stream(stream: MessageStream) -> list[str]:
    """Return the methods of what waits on a stream."""
    methods: list[str] = []
    with contextlib.suppress(StreamEnded):
        while (message := await stream.receive(0)) is not None:
            methods.append(json.loads(message)["method"])
    return methods


async def settle(seconds: float = 1.0) -> None:
    """Let everything happen that is due within a while; in virtual time."""
    await asyncio.sleep(seconds)


def now() -> float:
    """Return the virtual time."""
    return asyncio.get_running_loop().time()


def bridge_of(session: Session) -> Bridge:
    """Return the bridge of a session with children of its own."""
    assert isinstance(session.bridge, Bridge)
    return session.bridge
