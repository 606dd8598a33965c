"""A small MCP client over HTTP that hides nothing: a test sees status, header fields, events and bytes.

The official SDKs are clients for the end-to-end tests; here a test must be able to do what they never would.
This one opens sessions, with `initialize`; the client of 2026-07-28 is in `modern_client`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeAlias

import httpx

__all__ = [
    "ANSWER_TIMEOUT",
    "COMMENT",
    "JSON_HEADERS",
    "REVISION",
    "EventStream",
    "HttpClient",
    "McpClient",
    "Message",
    "message_in",
    "raw_http",
    "text_of",
]

Message: TypeAlias = dict[str, Any]

REVISION = "2025-11-25"
# The longest that one answer or one event may take, in seconds.
ANSWER_TIMEOUT = 20.0
# What `EventStream.next` returns for a comment.
COMMENT = b":"

JSON_HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


class HttpClient:
    """What the clients of both eras have in common: connections, and ids for requests.

    Args:
        url: The endpoint.
        http: A client that speaks another way than over a socket; it is closed with this one.
    """

    def __init__(self, url: str, http: httpx.AsyncClient | None = None) -> None:
        self.url = url
        # No limit on connections: a client with many open streams waits for nothing.
        self._http = http or httpx.AsyncClient(
            timeout=ANSWER_TIMEOUT, limits=httpx.Limits(max_connections=None), trust_env=False
        )
        # Only what a test says is sent: no Accept of httpx's own.
        self._http.headers.clear()
        self._ids = itertools.count(1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    def next_id(self) -> int:
        """Return an id that is new."""
        return next(self._ids)

    async def post_with(
        self, fields: httpx.Headers, message: Message | list[Message] | bytes, timeout: float = ANSWER_TIMEOUT
    ) -> httpx.Response:
        """POST a message with these header fields and read the whole answer."""
        async with asyncio.timeout(timeout):
            return await self._http.post(self.url, content=_encode(message), headers=fields)

    async def send_with(self, verb: str, fields: httpx.Headers) -> httpx.Response:
        """Send a request without a body and read the whole answer."""
        return await self._http.request(verb, self.url, headers=fields)

    @asynccontextmanager
    async def stream_with(
        self, fields: httpx.Headers, message: Message | bytes | None, verb: str = "POST"
    ) -> AsyncIterator[EventStream]:
        """Send a request and read its answer piece by piece; leaving the block early hangs up."""
        content = None if message is None else _encode(message)
        async with self._http.stream(verb, self.url, content=content, headers=fields) as response:
            yield EventStream(response)


class McpClient(HttpClient):
    """One client, with at most one session.

    Args:
        url: The endpoint.
        http: A client that speaks another way than over a socket; it is closed with this one.

    Attributes:
        session_id: Sent with every request, if there is one. A test may change it.
        version: Sent with every request, if there is one. A test may change it.
    """

    def __init__(self, url: str, http: httpx.AsyncClient | None = None) -> None:
        super().__init__(url, http)
        self.session_id: str | None = None
        self.version: str | None = None

    def request(self, method: str, **members: object) -> Message:
        """Return a request with an id that is new."""
        return {"jsonrpc": "2.0", "id": self.next_id(), "method": method, **members}

    def tool(self, name: str, **arguments: object) -> Message:
        """Return a call of a tool of `mcp_child.py`."""
        return self.request("tools/call", params={"name": name, "arguments": arguments})

    def initialize_request(self, version: str = REVISION, **params: object) -> Message:
        """Return an `initialize`."""
        client = {"name": "test", "version": "1"}
        return self.request(
            "initialize",
            params={"protocolVersion": version, "capabilities": {}, "clientInfo": client, **params},
        )

    def headers(self, changes: Mapping[str, str | None] | None = None) -> httpx.Headers:
        """Return the header fields of a POST; a None in `changes` takes one away."""
        fields: dict[str, str | None] = {
            **JSON_HEADERS,
            "mcp-session-id": self.session_id,
            "mcp-protocol-version": self.version,
            **(changes or {}),
        }
        given = {name: value for name, value in fields.items() if value is not None}
        return httpx.Headers(given, encoding="latin-1")

    async def post(
        self,
        message: Message | list[Message] | bytes,
        headers: Mapping[str, str | None] | None = None,
        timeout: float = ANSWER_TIMEOUT,
    ) -> httpx.Response:
        """POST a message and read the whole answer."""
        return await self.post_with(self.headers(headers), message, timeout)

    async def send(self, verb: str, headers: Mapping[str, str | None] | None = None) -> httpx.Response:
        """Send a request without a body and read the whole answer."""
        return await self.send_with(verb, self.headers(headers))

    async def delete(self) -> httpx.Response:
        """End the session."""
        return await self.send("DELETE")

    async def initialize(self, version: str = REVISION) -> httpx.Response:
        """Send `initialize` and keep the id of the session, if one was opened."""
        answer = await self.post(self.initialize_request(version))
        if "mcp-session-id" in answer.headers:
            self.session_id = answer.headers["mcp-session-id"]
            self.version = message_in(answer)["result"]["protocolVersion"]
        return answer

    async def open(self, version: str = REVISION) -> Self:
        """Open a session, as a well-behaved client does; fail if there is none."""
        answer = await self.initialize(version)
        assert self.session_id is not None, f"{answer.status_code}: {answer.text}"
        assert (await self.notify("notifications/initialized")).status_code == 202
        return self

    async def notify(self, method: str, **params: object) -> httpx.Response:
        """POST a notification."""
        return await self.post({"jsonrpc": "2.0", "method": method, "params": params})

    async def call(self, name: str, **arguments: object) -> Message:
        """Call a tool; return the answer, wherever it came, and drop what came before."""
        return await self.exchange(self.tool(name, **arguments))

    async def exchange(self, message: Message) -> Message:
        """POST a request; return the answer, wherever it came, and drop what came before."""
        answer = await self.post(message)
        assert answer.status_code == 200, f"{answer.status_code}: {answer.text}"
        return message_in(answer)

    async def ask(self, name: str, **arguments: object) -> str:
        """Call a tool and return the text of its result."""
        return text_of(await self.call(name, **arguments))

    @asynccontextmanager
    async def stream(
        self, message: Message | bytes, headers: Mapping[str, str | None] | None = None
    ) -> AsyncIterator[EventStream]:
        """POST a request and read its answer piece by piece; leaving the block early hangs up."""
        async with self.stream_with(self.headers(headers), message) as stream:
            yield stream

    @asynccontextmanager
    async def listen(self, headers: Mapping[str, str | None] | None = None) -> AsyncIterator[EventStream]:
        """Open a GET stream; leaving the block hangs up."""
        fields = self.headers({"accept": "text/event-stream", "content-type": None, **(headers or {})})
        async with self.stream_with(fields, None, "GET") as stream:
            yield stream


class EventStream:
    """The events of one answer, in order."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self._response = response
        self._lines = response.aiter_lines()

    async def next(self) -> bytes | None:
        """Return the data of the next event, `COMMENT` for a comment, None at the end."""
        data: list[str] = []
        async with asyncio.timeout(ANSWER_TIMEOUT):
            async for line in self._lines:
                if line.startswith(":"):
                    return COMMENT
                if line.startswith("data:"):
                    data.append(line.removeprefix("data:").removeprefix(" "))
                elif not line and data:
                    return "\n".join(data).encode() or COMMENT
        return None

    async def message(self) -> Message:
        """Return the next message; comments are skipped."""
        while (data := await self.next()) == COMMENT:
            pass
        assert data is not None, "the stream has ended"
        message: Message = json.loads(data)
        return message

    async def rest(self) -> list[Message]:
        """Return the messages until the end, also of an answer that is JSON."""
        messages: list[Message] = []
        if self.headers["content-type"] == "application/json":
            return [json.loads(await self._response.aread())]
        while (data := await self.next()) is not None:
            if data != COMMENT:
                messages.append(json.loads(data))
        return messages


def message_in(answer: httpx.Response) -> Message:
    """Return the last message of an answer that is JSON or a stream."""
    body = answer.text
    if answer.headers["content-type"] == "text/event-stream":
        body = [line for line in body.splitlines() if line.startswith("data:")][-1].removeprefix("data:")
    message: Message = json.loads(body)
    return message


def text_of(answer: Message) -> str:
    """Return the text in the result of a tool."""
    assert "result" in answer, answer
    text: str = answer["result"]["content"][0]["text"]
    return text


async def raw_http(url: str, *pieces: bytes, timeout: float = ANSWER_TIMEOUT) -> bytes:
    """Send bytes to the server of a URL and return what it sends until it closes the connection.

    Args:
        url: Where the server is; `$HOST` in the first piece becomes its `host:port`.
        pieces: Sent one after the other.
        timeout: Seconds within which the server must have closed the connection.
    """
    address = httpx.URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        async with asyncio.timeout(timeout):
            for number, piece in enumerate(pieces):
                host = address.netloc
                writer.write(piece.replace(b"$HOST", host) if number == 0 else piece)
                await writer.drain()
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def _encode(message: Message | list[Message] | bytes) -> bytes:
    return message if isinstance(message, bytes) else json.dumps(message).encode()
