"""A session whose children come and go, in memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from stdio_broker.bridge import Bridge, Exchange, Link, Settings
from stdio_broker.errors import BridgeBroken, BrokerError
from stdio_broker.protocol.jsonrpc import Notification, Request, Response, parse_line
from stdio_broker.supervisor import ExitStatus
from stdio_broker.testing import FakeChild

__all__ = ["AGREED", "LinkRig", "Server", "linked", "parsed"]

Message = dict[str, Any]

AGREED: Message = {
    "protocolVersion": "2025-11-25",
    "capabilities": {
        "tools": {"listChanged": True},
        "resources": {"listChanged": True, "subscribe": True},
        "logging": {},
    },
    "serverInfo": {"name": "s", "version": "1"},
}


class Server:
    """A child that answers each request with `{}`, but for what a test wants otherwise.

    Attributes:
        silent: Methods that it does not answer.
        refused: Methods that it answers with an error.
        initialize: Its answer to `initialize`.
        fake: The child.
    """

    def __init__(self, *, initialize: Message | None = None) -> None:
        self.silent: set[str] = set()
        self.refused: set[str] = set()
        self.initialize = AGREED if initialize is None else initialize
        self.fake = FakeChild(answer=self._answer)

    @property
    def heard(self) -> list[Message]:
        """What it was sent."""
        return [json.loads(line) for line in self.fake.stdin.lines]

    @property
    def methods(self) -> list[str]:
        """The methods that it was sent, with what they are about."""
        return [" ".join([message["method"], *_about(message)]) for message in self.heard]

    def last(self, method: str) -> Message:
        """Return the last request of a method that it was sent."""
        return [message for message in self.heard if message.get("method") == method][-1]

    async def says(self, **message: object) -> None:
        """Let it say something."""
        await self.fake.says(json.dumps({"jsonrpc": "2.0", **message}).encode())

    async def answers(self, request: Message, **result: object) -> None:
        """Let it answer a request that it was silent about."""
        await self.says(id=request["id"], result=result)

    def ends(self, code: int = 3) -> None:
        """End it."""
        self.fake.exit(ExitStatus(code=code, signal=None))

    def _answer(self, line: bytes) -> list[bytes]:
        message = json.loads(line)
        method, request_id = message.get("method"), message.get("id")
        if method is None or request_id is None or method in self.silent:
            return []
        if method in self.refused:
            error = {"code": -32000, "message": f"no {method}"}
            return [json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode()]
        result = self.initialize if method == "initialize" else {}
        return [json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}).encode()]


def _about(message: Message) -> list[str]:
    params = message.get("params", {})
    return [str(params[name]) for name in ("level", "uri", "name") if name in params]


class LinkRig:
    """A bridge, the servers of its links, and what wakes another one.

    Attributes:
        successors: What is woken next, in this order; a plain one if there is none.
        woken: How many were.
        wake_error: What waking fails with, or None.
        on_woken: Called with one that is about to be used.
    """

    def __init__(self, **bounds: int) -> None:
        self.successors: list[Server] = []
        self.woken = 0
        self.wake_error: BrokerError | None = None
        self.on_woken: Callable[[Server], None] = lambda _server: None
        self.bridge = Bridge(Settings(**bounds), wake=self._wake)
        self._tasks: list[asyncio.Task[BridgeBroken]] = []
        self._servers: list[Server] = []

    @property
    def youngest(self) -> Server:
        """The one that joined last."""
        return self._servers[-1]

    def join(self, server: Server | None = None) -> tuple[Link, Server]:
        """Join another child, which is not used yet."""
        server = server or Server()
        link = self.bridge.join(server.fake)
        self._servers.append(server)
        self._tasks.append(asyncio.create_task(self.bridge.run(link)))
        return link, server

    async def begin(self, server: Server | None = None) -> tuple[Link, Server]:
        """Let the client agree with a first child."""
        link, server = self.join(server)
        self.bridge.use(link)
        await self.ask("initialize", capabilities={}, _meta={"progressToken": "t", "x": 1.0})
        await self.tell("notifications/initialized")
        return link, server

    async def aclose(self) -> None:
        """End everything; fail if something stays open."""
        self.bridge.fail(BridgeBroken("over", reason="over"))
        for server in self._servers:
            server.ends()
        async with asyncio.timeout(1000):
            await asyncio.gather(*self._tasks)
        assert self.bridge.links == ()
        assert (self.bridge.statistics().calls, self.bridge.statistics().questions) == (0, 0)

    # The client's side.

    async def call(self, method: str = "tools/call", request_id: object = 1, **params: object) -> Exchange:
        """Send a request."""
        return await self.bridge.call(_request(method, request_id, **params))

    async def ask(self, method: str, request_id: object = 1, **params: object) -> Message:
        """Send a request and return the answer."""
        exchange = await self.call(method, request_id, **params)
        answer: Message = json.loads(await exchange.wait_answered())
        self.bridge.release(exchange)
        return answer

    async def tell(self, method: str, **params: object) -> None:
        """Send a notification."""
        message = parsed(method=method, params=params) if params else parsed(method=method)
        assert isinstance(message, Notification)
        await self.bridge.notify(message)

    async def reply(self, question: Message) -> None:
        """Answer a question."""
        message = parsed(id=question["id"], result={"n": 1})
        assert isinstance(message, Response)
        await self.bridge.reply(message)

    async def _wake(self) -> Link:
        if self.wake_error is not None:
            raise self.wake_error
        self.woken += 1
        link, server = self.join(self.successors.pop(0) if self.successors else None)
        await link.replay()
        self.on_woken(server)
        self.bridge.use(link)
        return link


def _request(method: str, request_id: object, **params: object) -> Request:
    message = parsed(id=request_id, method=method, params=params)
    assert isinstance(message, Request)
    return message


def parsed(**members: object) -> Request | Notification | Response:
    """Return a message as the endpoint has it."""
    (message,) = parse_line(json.dumps({"jsonrpc": "2.0", **members}).encode())
    return message


@contextlib.asynccontextmanager
async def linked(**bounds: int) -> AsyncIterator[LinkRig]:
    """Have a bridge until the block is left."""
    rig = LinkRig(**bounds)
    try:
        yield rig
    finally:
        await rig.aclose()
