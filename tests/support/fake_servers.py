"""A server without processes: a supervisor that starts fake children, which answer what a test says.

For virtual time: what depends on how long something takes needs no clock of its own here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

from stdio_broker.protocol.jsonrpc import Request, parse_body
from stdio_broker.protocol.modern import ModernRequest, read_request
from stdio_broker.supervisor import Child, Config, Supervisor
from stdio_broker.testing import FakeChild

__all__ = [
    "ENDS",
    "PREFIX",
    "SILENCE",
    "FakeServers",
    "answer_line",
    "error_line",
    "modern_request",
    "notice",
]

Message = dict[str, Any]

PREFIX = "io.modelcontextprotocol/"
#: Instead of a result: no answer at all, or the end of the process.
SILENCE, ENDS = "silence", "ends"

LISTS: Message = {
    "tools": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
    "logging": {},
}


def discover_result(
    versions: Iterable[str] = ("2026-07-28",), capabilities: Message | None = None
) -> Message:
    """Return a DiscoverResult."""
    return {
        "resultType": "complete",
        "supportedVersions": list(versions),
        "capabilities": LISTS if capabilities is None else capabilities,
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {f"{PREFIX}serverInfo": {"name": "fake", "version": "1"}},
    }


INITIALIZE_RESULT: Message = {
    "protocolVersion": "2025-11-25",
    "capabilities": LISTS,
    "serverInfo": {"name": "fake", "version": "1"},
}


class FakeServers(Supervisor):
    """Children of one server; every one is in `children`, in the order of their starts.

    Attributes:
        discover: Result of `server/discover`; an error if it has a "code"; or `SILENCE`, or `ENDS`.
        initialize: The same of `initialize`.
        listen: The same of `subscriptions/listen`; None agrees to all.
        results: The same of any other request, by method; one that is not there gets no answer.
        start_seconds: How long a start takes.
        start_error: What a start raises instead, or None.
        configs: How each was to be started.
    """

    def __init__(
        self, *, discover: Message | str | None = None, initialize: Message | str | None = None
    ) -> None:
        super().__init__()
        self.discover = discover_result() if discover is None else discover
        self.initialize = INITIALIZE_RESULT if initialize is None else initialize
        self.listen: Message | str | None = None
        self.results: dict[str, Message | str] = {}
        self.start_seconds = 0.0
        self.start_error: Exception | None = None
        self.children: list[FakeChild] = []
        self.configs: list[Config] = []

    @classmethod
    def legacy(cls) -> FakeServers:
        """Return a server up to 2025-11-25."""
        return cls(discover={"code": -32601, "message": "no such method"})

    @classmethod
    def modern(cls) -> FakeServers:
        """Return a server of 2026-07-28."""
        refusal = {"code": -32022, "message": "too old", "data": {"supported": ["2026-07-28"]}}
        return cls(initialize=refusal)

    def become(self, other: FakeServers) -> None:
        """Answer like another server from now on: somebody has installed it in the place of this one."""
        self.discover, self.initialize = other.discover, other.initialize

    @property
    def child(self) -> FakeChild:
        """The youngest."""
        return self.children[-1]

    @property
    def alive(self) -> int:
        """How many have not ended."""
        return sum(not child.exited.is_set() for child in self.children)

    def heard(self, child: FakeChild | None = None) -> list[str]:
        """Return the methods that a child was sent."""
        return [json.loads(line)["method"] for line in (child or self.child).stdin.lines]

    async def start(self, config: Config) -> Child:
        """Start one."""
        await asyncio.sleep(self.start_seconds)
        if self.start_error is not None:
            raise self.start_error
        child = FakeChild(config, answer=lambda line: self._answer(child, line))
        self.configs.append(config)
        self.children.append(child)
        return child

    def _answer(self, child: FakeChild, line: bytes) -> list[bytes]:
        message = json.loads(line)
        replies = {**self.results, "server/discover": self.discover, "initialize": self.initialize}
        reply = replies.get(message.get("method"))
        if message.get("method") == "subscriptions/listen":
            reply = self.listen
            if reply is None:
                agreed = {"notifications": message["params"]["notifications"]}
                return [notice("notifications/subscriptions/acknowledged", message["id"], **agreed)]
        if reply == ENDS:
            child.exit()
        if reply is None or isinstance(reply, str) or "id" not in message:
            return []
        return [error_line(message["id"], reply) if "code" in reply else answer_line(message["id"], reply)]


def answer_line(request_id: object, result: Message) -> bytes:
    """Return a result as a child writes it."""
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}).encode()


def error_line(request_id: object, error: Message) -> bytes:
    """Return an error as a child writes it."""
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode()


def notice(method: str, subscription: object = None, **params: object) -> bytes:
    """Return a notification as a child writes it; on a stream of changes if one is named."""
    if subscription is not None:
        params["_meta"] = {f"{PREFIX}subscriptionId": subscription}
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": params}).encode()


def modern_request(
    method: str = "tools/call",
    *,
    capabilities: Message | None = None,
    request_id: object = 1,
    **params: object,
) -> ModernRequest:
    """Return a request as the endpoint reads it."""
    meta = {
        f"{PREFIX}protocolVersion": "2026-07-28",
        f"{PREFIX}clientCapabilities": capabilities or {},
        f"{PREFIX}clientInfo": {"name": "test", "version": "1"},
    }
    body = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {**params, "_meta": meta}}
    message = parse_body(json.dumps(body).encode())
    assert isinstance(message, Request)
    return read_request(message)
