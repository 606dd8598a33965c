"""A legacy client's session at work over fake children, and what its tests say and look for."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from stdio_broker.bridge import (
    Exchange,
    LegacyClient,
    LegacySession,
    MessageStream,
    ModernChild,
    Owner,
    Seal,
    Settings,
    StreamEnded,
)
from stdio_broker.errors import (
    BridgeBroken,
    BrokerError,
)
from stdio_broker.protocol.jsonrpc import Notification, Request, Response, parse_line
from stdio_broker.protocol.revisions import REVISIONS
from stdio_broker.supervisor import Config, ExitStatus
from stdio_broker.testing import FakeChild
from tests.support.clock import run_in_virtual_time
from tests.support.fake_servers import (
    FakeServers,
    Message,
    answer_line,
    notice,
)

__all__ = [
    "ALL",
    "FORM",
    "LISTEN",
    "ROOTS",
    "SAMPLE",
    "TOOLS_CHANGED",
    "UPDATED",
    "URL",
    "Rig",
    "answer_on",
    "cancelled",
    "child_is",
    "client",
    "methods",
    "notification",
    "request",
    "session",
    "settle",
    "virtual",
    "waiting",
]

#: Whether a session finds a child that runs already, so that its calls need no waiting.
RUNS: ContextVar[bool] = ContextVar("RUNS", default=False)

ALL: Message = {
    "elicitation": {"form": {}, "url": {}},
    "sampling": {"tools": {}},
    "roots": {"listChanged": True},
    "experimental": {"acme": {"x": 1.50}},
    "extensions": {"acme/y": {}},
}
FORM: Message = {
    "method": "elicitation/create",
    "params": {"mode": "form", "message": "?", "requestedSchema": {"type": "object", "properties": {}}},
}
URL: Message = {
    "method": "elicitation/create",
    "params": {"mode": "url", "message": "?", "url": "https://a.example"},
}
ROOTS: Message = {"method": "roots/list"}
SAMPLE: Message = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}}
LISTEN, UPDATED = "subscriptions/listen", "notifications/resources/updated"
TOOLS_CHANGED = "notifications/tools/list_changed"


def client(
    version: str = "2025-11-25",
    capabilities: object = ALL,
    info: object = {"name": "c", "version": "2"},
) -> LegacyClient:
    """Return what a client said in `initialize`."""
    params = {"protocolVersion": version, "capabilities": capabilities, "clientInfo": info}
    return LegacyClient.read(request("initialize", params), REVISIONS[version])


def _parsed(message: Message) -> Any:  # noqa: ANN401 -- what it is the message says
    (parsed,) = parse_line(json.dumps({"jsonrpc": "2.0", **message}).encode())
    return parsed


def request(method: str, params: object = None, request_id: object = 1) -> Request:
    message: Message = {"id": request_id, "method": method}
    parsed = _parsed(message if params is None else {**message, "params": params})
    assert isinstance(parsed, Request)
    return parsed


def notification(method: str, **params: object) -> Notification:
    parsed = _parsed({"method": method, "params": params})
    assert isinstance(parsed, Notification)
    return parsed


def cancelled(request_id: object) -> Notification:
    return notification("notifications/cancelled", requestId=request_id)


class Rig:
    """A session at work, over children that start at once and answer nothing by themselves but `listen`.

    Attributes:
        ran: How many children there were before it needed one.
    """

    def __init__(self, who: LegacyClient, bounds: Settings, servers: FakeServers) -> None:
        self.servers = servers
        self.error: BrokerError | None = None
        self.replaces = False  # a child that does not read, as leases do
        self.idle = 0
        self.ran = 0
        self._bounds = bounds
        self._tasks: list[asyncio.Task[None]] = []
        self._modern: list[tuple[FakeChild, ModernChild]] = []
        self.session = LegacySession(
            who,
            self._acquire,
            bounds,
            spawn=self._spawn,
            acquire_nowait=self._acquire_nowait,
            on_idle=self._went_idle,
        )

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        self._tasks.append(asyncio.create_task(work))
        return self._tasks[-1]

    def _went_idle(self) -> None:
        self.idle += 1

    async def start(self) -> None:
        """Start a child before it is needed."""
        await self._acquire()
        self.ran = 1

    def _acquire_nowait(self) -> ModernChild | None:
        if not self.ran or self.error is not None or self.modern.ending is not None:
            return None
        return None if self.child.stdin.closed else self.modern

    async def _acquire(self) -> ModernChild:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        if not self._modern or self.modern.ending is not None or (self.replaces and self.child.stdin.closed):
            fake = await self.servers.start(Config(cmd=["fake"]))
            assert isinstance(fake, FakeChild)
            modern = ModernChild(fake, self._bounds, Owner(b"", Seal()))
            self._tasks.append(asyncio.create_task(modern.run()))
            await modern.discover("broker", "1")
            self._modern.append((fake, modern))
        return self._modern[-1][1]

    @property
    def child(self) -> FakeChild:
        return self._modern[-1][0]

    @property
    def modern(self) -> ModernChild:
        return self._modern[-1][1]

    async def aclose(self) -> None:
        """End everything; fail if a task is left, or has failed."""
        self.session.fail(BridgeBroken("over", reason="over"))
        for fake, _ in self._modern:
            fake.exit()
        async with asyncio.timeout(1000):
            done = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert [one for one in done if not isinstance(one, asyncio.CancelledError | None)] == []
        assert self.session.statistics().calls == self.session.statistics().questions == 0

    # The client's side.

    async def call(self, method: str = "tools/call", request_id: object = 1, **params: object) -> Exchange:
        """Send a request, and let the child hear it."""
        exchange = await self.session.call(request(method, params or None, request_id))
        await settle(0)
        return exchange

    async def ask(self, method: str, request_id: object = 1, **params: object) -> Message:
        """Send a request and return the answer."""
        return await answer_on(await self.call(method, request_id, **params))

    async def tell(self, method: str) -> None:
        await self.session.notify(notification(method))
        await settle(0)

    async def reply(self, question: Message, result: Message | None = None, **error: object) -> None:
        members: Message = {"result": {} if result is None else result} if not error else {"error": error}
        response = _parsed({"id": question["id"], **members})
        assert isinstance(response, Response)
        await self.session.reply(response)
        await settle(0)

    # The child's side.

    def heard(self, method: str = "tools/call") -> list[Message]:
        """Return what the youngest child was sent with a method."""
        messages = [json.loads(line) for line in self.child.stdin.lines]
        return [message for message in messages if message["method"] == method]

    async def answers(self, result: Message, method: str = "tools/call") -> None:
        """Let the child answer what it heard last."""
        await self.child.says(answer_line(self.heard(method)[-1]["id"], result))
        await settle(0)

    async def asks(self, state: str | None = "s", **requests: Message) -> None:
        """Let the child ask for input in its answer."""
        result: Message = {"resultType": "input_required"}
        result |= {"inputRequests": requests} if requests else {}
        result |= {} if state is None else {"requestState": state}
        await self.answers(result)

    async def changes(self, method: str = TOOLS_CHANGED, **params: object) -> None:
        """Let the child tell a change on every stream that it was asked for and that was not cancelled."""
        cancelled = {message["params"]["requestId"] for message in self.heard("notifications/cancelled")}
        for listen in self.heard(LISTEN):
            if listen["id"] not in cancelled:
                await self.child.says(notice(method, listen["id"], **params))

    async def crash(self, status: ExitStatus | None = None) -> None:
        self.child.exit(status or ExitStatus(code=3, signal=None))
        await settle()


async def settle(seconds: float = 0.01) -> None:
    """Let everything happen that is due within a while; in virtual time. 0 takes no time."""
    for _ in range(20):
        await asyncio.sleep(0)
    if seconds:
        await asyncio.sleep(seconds)


@pytest.fixture(params=["started for the call", "there already"])
def child_is(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test twice: with a task for each call, and without."""
    token = RUNS.set(request.param == "there already")
    yield
    RUNS.reset(token)


@contextlib.asynccontextmanager
async def session(
    who: LegacyClient | None = None,
    *,
    servers: FakeServers | None = None,
    runs: bool | None = None,
    **bounds: float,
) -> AsyncIterator[Rig]:
    """Open a session.

    Args:
        who: Its client.
        servers: Starts its children.
        runs: As `RUNS`, which it is if this is None.
        bounds: Settings.
    """
    rig = Rig(who or client(), Settings(**bounds), servers or FakeServers.modern())  # type: ignore[arg-type]
    if RUNS.get() if runs is None else runs:
        await rig.start()
    try:
        yield rig
    finally:
        await rig.aclose()


def virtual(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    """Run a test in virtual time."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        run_in_virtual_time(test(*args, **kwargs))

    return run


async def waiting(stream: MessageStream) -> list[Message]:
    """Take what waits on a stream."""
    messages: list[Message] = []
    with contextlib.suppress(StreamEnded):
        while (message := await stream.receive(0)) is not None:
            messages.append(json.loads(message))
    return messages


async def answer_on(exchange: Exchange) -> Message:
    """Return the answer on an exchange."""
    async with asyncio.timeout(10_000):
        answer: Message = json.loads(await exchange.wait_answered())
    return answer


def methods(messages: list[Message]) -> list[str]:
    return [message.get("method", "") for message in messages]
