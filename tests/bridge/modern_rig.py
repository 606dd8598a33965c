"""A modern child in memory, and what a test asks of it and hears from it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stdio_broker.bridge import ModernChild, Owner, Seal, Settings, SharedExchange, StreamEnded
from stdio_broker.protocol.jsonrpc import Request, parse_body
from stdio_broker.protocol.modern import (
    META_CLIENT_CAPABILITIES,
    META_SUBSCRIPTION_ID,
    META_VERSION,
    ModernRequest,
    read_request,
)
from stdio_broker.supervisor import ExitStatus
from stdio_broker.testing import FakeChild

__all__ = [
    "ModernRig",
    "acknowledgement",
    "answer",
    "cancelled",
    "listen_request",
    "notification",
    "progress",
    "request",
    "rigged",
    "tagged",
    "text",
    "waiting",
    "waiting_raw",
]

Json = dict[str, Any]


def text(message: object) -> bytes:
    """Return JSON as a child writes it."""
    return json.dumps(message, separators=(",", ":")).encode()


def request(
    identifier: bytes = b"1", method: str = "tools/call", params: bytes | None = None, **meta: object
) -> ModernRequest:
    """Return a modern request.

    Args:
        identifier: Its id, as JSON.
        method: Its method.
        params: The text within the braces of its params, without `_meta`.
        meta: Members of `_meta` besides the two that must be there; one underscore stands for the prefix.
    """
    prefix = META_VERSION.partition("/")[0] + "/"
    members: Json = {META_VERSION: "2026-07-28", META_CLIENT_CAPABILITIES: {}}
    members |= {name.replace("_", prefix, 1) if name[0] == "_" else name: meta[name] for name in meta}
    inside = b"" if params is None else params + b","
    written = b'{"jsonrpc":"2.0","id":%b,"method":%b,"params":{%b"_meta":%b}}' % (
        identifier,
        text(method),
        inside,
        text(members),
    )
    message = parse_body(written)
    assert isinstance(message, Request)
    return read_request(message)


def listen_request(identifier: bytes = b"1", **notifications: object) -> ModernRequest:
    """Return a `subscriptions/listen`."""
    return request(identifier, "subscriptions/listen", b'"notifications":%b' % text(notifications))


def answer(child_id: bytes, result: Mapping[str, object] | bytes) -> bytes:
    """Return the answer to a request."""
    written = result if isinstance(result, bytes) else text(result)
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (child_id, written)


def notification(method: str, **params: object) -> bytes:
    """Return a notification."""
    return text({"jsonrpc": "2.0", "method": method, "params": params})


def progress(token: bytes, number: int = 0) -> bytes:
    """Return progress under a token."""
    params = b'{"progressToken":%b,"progress":%d,"x":1.50}' % (token, number)
    return b'{"jsonrpc":"2.0","method":"notifications/progress","params":%b}' % params


def cancelled(child_id: bytes) -> bytes:
    """Return the child's word that it ends a stream of changes."""
    return notification("notifications/cancelled", requestId=json.loads(child_id))


def acknowledgement(child_id: bytes, **agreed: object) -> bytes:
    """Return the first message of a stream of changes."""
    return tagged("notifications/subscriptions/acknowledged", child_id, notifications=agreed)


def tagged(method: str, child_id: bytes, **params: object) -> bytes:
    """Return a notification on a stream of changes."""
    return notification(method, _meta={META_SUBSCRIPTION_ID: json.loads(child_id)}, **params)


async def waiting(exchange: SharedExchange) -> list[Json]:
    """Take the messages that wait on a stream."""
    return [json.loads(message) for message in await waiting_raw(exchange)]


async def waiting_raw(exchange: SharedExchange) -> list[bytes]:
    """Take the same, as they are."""
    messages = []
    with contextlib.suppress(StreamEnded):
        while (message := await exchange.receive(0)) is not None:
            messages.append(message)
    return messages


@dataclass
class ModernRig:
    """A modern child at work.

    Attributes:
        child: Under test.
        fake: The test's side of it.
        running: Its reader.
        idle: Grows by one whenever it went idle.
    """

    child: ModernChild
    fake: FakeChild
    running: asyncio.Task[None]
    idle: list[bool] = field(default_factory=list)

    async def call(self, asked: ModernRequest | None = None) -> tuple[SharedExchange, bytes]:
        """Send a request; return its exchange, and the id that the child has seen."""
        exchange = await self.child.call(asked or request())
        return exchange, self.seen_id()

    def seen_id(self) -> bytes:
        """Return the id of the last line that the child has seen."""
        return text(json.loads(self.fake.stdin.lines[-1])["id"])

    async def listens(
        self, identifier: bytes = b"1", **notifications: object
    ) -> tuple[SharedExchange, bytes]:
        """Open a stream of changes, whose acknowledgement has come and was taken."""
        exchange, child_id = await self.call(listen_request(identifier, **notifications))
        await self.fake.says(acknowledgement(child_id, **notifications))
        await waiting(exchange)
        return exchange, child_id

    async def ends(self, status: ExitStatus | None = None) -> None:
        """End the child."""
        self.fake.exit(status)
        await self.running


@contextlib.asynccontextmanager
async def rigged(
    owner: Owner | None = None,
    fake: FakeChild | None = None,
    **bounds: Any,  # noqa: ANN401 - of any type
) -> AsyncIterator[ModernRig]:
    """Run a modern child until the block is left."""
    fake = fake or FakeChild()
    idle: list[bool] = []
    child = ModernChild(
        fake, Settings(**bounds), owner or Owner(b"owner", Seal()), on_idle=lambda: idle.append(True)
    )
    running = asyncio.create_task(child.run())
    await fake.stdout.wait_wanted()
    try:
        yield ModernRig(child, fake, running, idle)
    finally:
        fake.exit()
        await running
