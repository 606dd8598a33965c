"""A small MCP client of 2026-07-28 over HTTP that hides nothing, the sibling of `McpClient`.

It has no session: every request carries its version, capabilities and level in `_meta`, and the header fields
that mirror it (basic/transports/streamable-http, "Request Metadata"). A test may change or take away each.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.support.mcp_client import (
    ANSWER_TIMEOUT,
    JSON_HEADERS,
    EventStream,
    HttpClient,
    Message,
    message_in,
    text_of,
)

__all__ = ["EVERYTHING", "MODERN", "PREFIX", "SUBSCRIPTION", "ModernClient", "header_value"]

MODERN = "2026-07-28"
#: Of the names in `_meta` that the specification reserves.
PREFIX = "io.modelcontextprotocol/"
#: The name under which the messages of a listen stream carry its id.
SUBSCRIPTION = f"{PREFIX}subscriptionId"
#: The capabilities of a client that can be asked everything.
EVERYTHING: Message = {"elicitation": {"form": {}, "url": {}}, "sampling": {"tools": {}}, "roots": {}}

# Method → the member of params that `Mcp-Name` mirrors; that of tasks comes from SEP-2663.
_NAMES = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
# The members of params that a retry has of its own.
_OF_A_RETRY = ("_meta", "inputResponses", "requestState")
_SENTINEL = re.compile(r"=\?base64\?.*\?=", re.DOTALL)

Changes = Mapping[str, str | None]


class ModernClient(HttpClient):
    """One client, without a session.

    Args:
        url: The endpoint.
        http: A client that speaks another way than over a socket; it is closed with this one.
        capabilities: What every request declares.

    Attributes:
        version: In every request, if there is one. A test may change it, and each of the following.
        client_info: In every request, if there is one.
        capabilities: In every request, if there are some; {} is some.
        log_level: In every request, if there is one.
    """

    def __init__(
        self, url: str, http: httpx.AsyncClient | None = None, *, capabilities: Message | None = None
    ) -> None:
        super().__init__(url, http)
        self.version: str | None = MODERN
        self.client_info: Message | None = {"name": "test", "version": "1"}
        self.capabilities: Message | None = {} if capabilities is None else capabilities
        self.log_level: str | None = None

    # Messages.

    def meta(self, changes: Mapping[str, Any] | None = None) -> Message:
        """Return the `_meta` of a request.

        Args:
            changes: By whole names or those after the prefix ("logLevel"); a None takes one away. Others,
                such as "progressToken", are added.
        """
        fields = {
            "protocolVersion": self.version,
            "clientInfo": self.client_info,
            "clientCapabilities": self.capabilities,
            "logLevel": self.log_level,
        }
        members = {f"{PREFIX}{name}": value for name, value in fields.items()}
        for name, value in (changes or {}).items():
            members[f"{PREFIX}{name}" if name in fields else name] = value
        return {name: value for name, value in members.items() if value is not None}

    def request(
        self, method: str, params: Message | None = None, *, meta: Mapping[str, Any] | None = None
    ) -> Message:
        """Return a request with an id that is new."""
        members = {**(params or {}), "_meta": self.meta(meta)}
        return {"jsonrpc": "2.0", "id": self.next_id(), "method": method, "params": members}

    def tool(self, tool: str, /, **arguments: object) -> Message:
        """Return a call of a tool of `mcp_child.py`."""
        return self.request("tools/call", {"name": tool, "arguments": arguments})

    def listen_request(self, *, meta: Mapping[str, Any] | None = None, **notifications: object) -> Message:
        """Return a `subscriptions/listen` for `toolsListChanged=True`, `resourceSubscriptions=[…]`, …."""
        return self.request("subscriptions/listen", {"notifications": notifications}, meta=meta)

    def retry(
        self,
        previous: Message,
        answer: Message,
        responses: Message | None = None,
        *,
        meta: Mapping[str, Any] | None = None,
    ) -> Message:
        """Return the retry of a request that was answered with `input_required`.

        Args:
            previous: The request.
            answer: Its answer, or the result in it; its requestState is sent back, if it has one.
            responses: Key → result; None sends none at all.
            meta: As in `request`; the rest is this client's, not that of the first request.
        """
        result: Message = answer.get("result", answer)
        again = {name: value for name, value in previous["params"].items() if name not in _OF_A_RETRY}
        if responses is not None:
            again["inputResponses"] = responses
        if "requestState" in result:
            again["requestState"] = result["requestState"]
        return self.request(previous["method"], again, meta=meta)

    # Exchanges.

    def headers(
        self,
        message: Message | list[Message] | bytes | None = None,
        changes: Changes | None = None,
        extra: Sequence[tuple[str, str]] = (),
    ) -> httpx.Headers:
        """Return the header fields of a POST.

        Args:
            message: What they mirror.
            changes: Fields to set, or to take away with a None; names are in lower case.
            extra: Fields to add to those that are there, of the same name perhaps.
        """
        fields: dict[str, str | None] = {**JSON_HEADERS, **self._mirrored(message), **(changes or {})}
        given = [(name, value) for name, value in fields.items() if value is not None]
        return httpx.Headers([*given, *extra], encoding="latin-1")

    def _mirrored(self, message: Message | list[Message] | bytes | None) -> dict[str, str | None]:
        if not isinstance(message, dict):
            return {"mcp-protocol-version": self.version}
        params = message.get("params", {})
        name = params.get(_NAMES.get(message.get("method", "")))
        version = params.get("_meta", {}).get(f"{PREFIX}protocolVersion", self.version)
        return {
            "mcp-protocol-version": version,
            "mcp-method": message.get("method"),
            "mcp-name": None if name is None else header_value(name),
        }

    async def post(
        self,
        message: Message | list[Message] | bytes,
        headers: Changes | None = None,
        *,
        extra: Sequence[tuple[str, str]] = (),
        timeout: float = ANSWER_TIMEOUT,
    ) -> httpx.Response:
        """POST a message and read the whole answer."""
        return await self.post_with(self.headers(message, headers, extra), message, timeout)

    async def send(self, verb: str, headers: Changes | None = None) -> httpx.Response:
        """Send a request without a body and read the whole answer."""
        return await self.send_with(verb, self.headers(None, headers))

    async def notify(self, method: str, **params: object) -> httpx.Response:
        """POST a notification."""
        return await self.post({"jsonrpc": "2.0", "method": method, "params": params})

    async def exchange(self, message: Message, headers: Changes | None = None) -> Message:
        """POST a request; return the answer, whatever its status, and drop what came before it.

        An error is an answer too, and has a status of its own (basic/transports/streamable-http).
        """
        return message_in(await self.post(message, headers))

    async def call(self, tool: str, /, **arguments: object) -> Message:
        """Call a tool and return the answer."""
        return await self.exchange(self.tool(tool, **arguments))

    async def ask(self, tool: str, /, **arguments: object) -> str:
        """Call a tool and return the text of its result."""
        return text_of(await self.call(tool, **arguments))

    async def discover(self, *, meta: Mapping[str, Any] | None = None) -> Message:
        """Send `server/discover` and return the answer."""
        return await self.exchange(self.request("server/discover", meta=meta))

    async def complete(
        self, message: Message, respond: Callable[[str, Message], Message], *, rounds: int = 10
    ) -> Message:
        """POST a request and retry it until it is answered with something else than `input_required`.

        Args:
            message: The request.
            respond: Returns the result for a key and its request.
            rounds: The highest number of retries; after them the last answer is returned, whatever it is.
        """
        answer = await self.exchange(message)
        for _ in range(rounds):
            result = answer.get("result", {})
            if result.get("resultType") != "input_required":
                break
            requests: Message | None = result.get("inputRequests")
            responses = None if requests is None else {key: respond(key, requests[key]) for key in requests}
            message = self.retry(message, result, responses)
            answer = await self.exchange(message)
        return answer

    @asynccontextmanager
    async def stream(
        self, message: Message | bytes, headers: Changes | None = None
    ) -> AsyncIterator[EventStream]:
        """POST a request and read its answer piece by piece; leaving the block early hangs up."""
        async with self.stream_with(self.headers(message, headers), message) as stream:
            yield stream

    @asynccontextmanager
    async def listen(
        self, *, meta: Mapping[str, Any] | None = None, **notifications: object
    ) -> AsyncIterator[EventStream]:
        """Open a listen stream, whose first message is the acknowledgement; leaving the block hangs up.

        A test that needs the id sends `listen_request` with `stream`.
        """
        async with self.stream(self.listen_request(meta=meta, **notifications)) as stream:
            yield stream


def header_value(value: str | int | bool) -> str:  # noqa: FBT001 - it is a value, not a switch
    """Return a value as `Mcp-Name` and `Mcp-Param-…` carry it.

    Source: basic/transports/streamable-http, "Value Encoding".
    """
    text = str(value).lower() if isinstance(value, bool) else str(value)
    plain = re.fullmatch(r"[\x20-\x7e\t]*", text) and text == text.strip() and not _SENTINEL.fullmatch(text)
    return text if plain else f"=?base64?{base64.b64encode(text.encode()).decode()}?="
