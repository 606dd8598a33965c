"""A `LegacyChild` at work on a child without a process: what its tests have in common."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ParamSpec, TypeAlias

from stdio_broker.bridge import Changes, LegacyChild, Owner, Seal, Settings, SharedExchange, StreamEnded
from stdio_broker.protocol.capabilities import ClientCapabilities
from stdio_broker.protocol.jsonrpc import Request, parse_line
from stdio_broker.protocol.modern import ModernRequest, read_request
from stdio_broker.testing import FakeChild
from tests.support.clock import run_in_virtual_time

__all__ = [
    "EVERYTHING",
    "PREFIX",
    "SERVER",
    "Json",
    "Rig",
    "answer_to",
    "in_virtual_time",
    "initialized",
    "initialized_by_test",
    "legacy",
    "message_bytes",
    "messages_on",
    "modern_request",
    "only_on",
    "question_of",
    "repetition",
]

Json: TypeAlias = dict[str, Any]

_P = ParamSpec("_P")

PREFIX = "io.modelcontextprotocol/"
EVERYTHING: Json = {"elicitation": {"form": {}, "url": {}}, "sampling": {"tools": {}}, "roots": {}}
#: What `initialize` is answered with, if a test says nothing else.
SERVER: Json = {
    "protocolVersion": "2025-11-25",
    "capabilities": {
        "tools": {"listChanged": True},
        "prompts": {"listChanged": True},
        "resources": {"listChanged": True, "subscribe": True},
        "logging": {},
    },
    "serverInfo": {"name": "fake", "version": "1"},
}

_ids = itertools.count(1)


def in_virtual_time(test: Callable[_P, Coroutine[object, object, None]]) -> Callable[_P, None]:
    """Run an async test on a clock of its own, where no waiting takes time."""

    @wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        run_in_virtual_time(test(*args, **kwargs))

    return run


def message_bytes(**members: object) -> bytes:
    """Return a JSON-RPC message, encoded."""
    return json.dumps({"jsonrpc": "2.0", **members}).encode()


def modern_request(
    method: str = "tools/call",
    params: Json | None = None,
    *,
    id: int | str | None = None,  # noqa: A002 - it is called so
    capabilities: Json | None = None,
    level: str | None = None,
    token: object = None,
) -> ModernRequest:
    """Return a request of a modern client that can be asked everything, with an id that is new."""
    meta: Json = {
        f"{PREFIX}protocolVersion": "2026-07-28",
        f"{PREFIX}clientCapabilities": EVERYTHING if capabilities is None else capabilities,
    }
    if level is not None:
        meta[f"{PREFIX}logLevel"] = level
    if token is not None:
        meta["progressToken"] = token
    params = {"name": "tool"} if params is None else params
    members = {"id": next(_ids) if id is None else id, "method": method, "params": {**params, "_meta": meta}}
    (request,) = parse_line(message_bytes(**members))
    assert isinstance(request, Request)
    return read_request(request)


def question_of(text: str, method: str = "elicitation/create") -> Json:
    """Return a question as it stands on the wire, without its id. Its params tell the text."""
    params: Json = {"message": text, "requestedSchema": {"type": "object", "properties": {}}}
    if method == "sampling/createMessage":
        params = {"messages": [], "maxTokens": 1, "systemPrompt": text}
    return {"method": method, "params": params}


def repetition(
    request: ModernRequest,
    result: Json,
    answers: Json | None = None,
    **options: Any,  # noqa: ANN401 - passed on
) -> ModernRequest:
    """Return the repetition of a request that was answered with `input_required`.

    Args:
        request: The request.
        result: What it was answered with; its state is brought back.
        answers: By key; None answers everything.
        options: Those of `modern_request`; the rest is not that of the first request.
    """
    if answers is None:
        answers = {key: answer_to(question) for key, question in result.get("inputRequests", {}).items()}
    params = {
        name: json.loads(bytes(value))
        for name, value in request.params.items()
        if name not in {"_meta", "inputResponses", "requestState"}
    }
    params |= {"requestState": result["requestState"], "inputResponses": answers}
    return modern_request(request.method, params, **options)


def answer_to(question: Json) -> Json:
    """Return an answer that tells which question it is to."""
    params = question.get("params", {})
    if question["method"] == "elicitation/create":
        return {"action": "accept", "content": {"echo": params["message"]}}
    if question["method"] == "sampling/createMessage":
        return {
            "role": "assistant",
            "model": "m",
            "content": {"type": "text", "text": params["systemPrompt"]},
        }
    return {"roots": []}


async def only_on(exchange: SharedExchange) -> Json:
    """Take the only message that waits on an exchange."""
    (message,) = await messages_on(exchange)
    return message


async def messages_on(exchange: SharedExchange) -> list[Json]:
    """Take what waits on an exchange."""
    messages = []
    with contextlib.suppress(StreamEnded):
        while (message := await exchange.receive(0)) is not None:
            messages.append(json.loads(message))
    return messages


@dataclass
class Rig:
    """A legacy child and its owner.

    Attributes:
        child: The process that is none.
        shared: What is tested.
        owner: Whose it is.
        changes: Who listens.
        running: The reading of the child.
        idle: A True for each call of `on_idle`.
        asked: A True for each call of `on_asked`.
    """

    child: FakeChild
    shared: LegacyChild
    owner: Owner
    changes: Changes
    running: asyncio.Task[None]
    idle: list[bool] = field(default_factory=list)
    asked: list[bool] = field(default_factory=list)

    @property
    def said(self) -> list[Json]:
        """What the child was told."""
        return [json.loads(line) for line in self.child.stdin.lines]

    def last(self) -> Json:
        """Return what the child was told last."""
        return self.said[-1]

    async def call(self, request: ModernRequest | None = None) -> tuple[SharedExchange, Any]:
        """Send a request; return its exchange, and the id that the child knows."""
        before = len(self.child.stdin.lines)
        exchange = await self.shared.call(request or modern_request())
        ours = {"logging/setLevel", "notifications/cancelled", "ping"}
        new = [line for line in self.said[before:] if line.get("method", "ping") not in ours]
        return exchange, new[-1]["id"] if new else None

    async def says(self, **members: object) -> None:
        """Let the child say a message, and the bridge take it."""
        await self.child.says(message_bytes(**members))

    async def asks(self, question_id: object, method: str = "elicitation/create", text: str = "?") -> None:
        """Let the child ask a question."""
        await self.says(id=question_id, **question_of(text, method))

    async def answers(self, child_id: object, result: object = None) -> None:
        """Let the child answer a call."""
        await self.says(id=child_id, result={"content": []} if result is None else result)

    async def asked_of(self, exchange: SharedExchange) -> Json:
        """Wait until the client is asked, and return the result that does."""
        await asyncio.sleep(self.shared.settings.question_window * 2)
        answer = (await messages_on(exchange))[-1]
        assert answer["result"]["resultType"] == "input_required", answer
        result: Json = answer["result"]
        return result

    def replies(self, question_id: object) -> list[Json]:
        """Return the answers that the child has got to a question."""
        return [line for line in self.said if "method" not in line and line["id"] == question_id]

    def cancelled(self) -> list[object]:
        """Return which requests the child was told to give up."""
        return [
            line["params"]["requestId"]
            for line in self.said
            if line.get("method") == "notifications/cancelled"
        ]

    def is_empty(self) -> bool:
        """Return whether nothing is left in any table."""
        return not (self.shared.busy or self.owner.parked or self.shared.calls or len(self.changes))


@contextlib.asynccontextmanager
async def legacy(
    *,
    capabilities: ClientCapabilities | None = None,
    owner: Owner | None = None,
    changes: Changes | None = None,
    takes_turns: bool = False,
    child: FakeChild | None = None,
    server: Json | None = None,
    **bounds: Any,  # noqa: ANN401 - passed on
) -> AsyncIterator[Rig]:
    """Run a child that has shaken hands, until the block is left."""
    async with initialized_by_test(
        capabilities=capabilities,
        owner=owner,
        changes=changes,
        takes_turns=takes_turns,
        child=child,
        **bounds,
    ) as rig:
        await initialized(rig, server or SERVER)
        yield rig


async def initialized(rig: Rig, result: Json) -> Json | None:
    """Shake hands."""
    shaking = asyncio.create_task(rig.shared.initialize("broker", "9"))
    asking = json.loads(await rig.child.hears())
    await rig.says(id=asking["id"], result=result)
    return await shaking


@contextlib.asynccontextmanager
async def initialized_by_test(
    *,
    capabilities: ClientCapabilities | None = None,
    owner: Owner | None = None,
    changes: Changes | None = None,
    takes_turns: bool = False,
    child: FakeChild | None = None,
    **bounds: Any,  # noqa: ANN401 - passed on
) -> AsyncIterator[Rig]:
    """Run a child that has heard nothing yet, until the block is left."""
    child = child or FakeChild()
    owner = owner or Owner(b"owner", Seal())
    changes = Changes() if changes is None else changes
    idle: list[bool] = []
    asked: list[bool] = []
    shared = LegacyChild(
        child,
        Settings(**bounds),
        owner,
        capabilities or ClientCapabilities(form=True, url=True, sampling=True, roots=True),
        changes,
        takes_turns=takes_turns,
        on_idle=lambda: idle.append(True),
        on_asked=lambda: asked.append(True),
    )
    running = asyncio.create_task(shared.run())
    await child.stdout.wait_wanted()
    try:
        yield Rig(child, shared, owner, changes, running, idle, asked)
    finally:
        child.exit()
        await running
