"""The clients of the soak: a plain HTTP/1.1 connection, and MCP of both eras over it, checking each answer.

Written for this alone, as a client must also be able to misbehave: to leave in the middle of a body, of an
answer or of a stream. Source: MCP 2025-11-25 and 2026-07-28, basic/transports.
"""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = [
    "Broken",
    "Client",
    "Connection",
    "Json",
    "Refused",
    "Response",
    "Wrong",
    "in_time",
    "member",
    "refusal",
]

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

LEGACY_VERSION = "2025-11-25"
MODERN_VERSION = "2026-07-28"

_META: dict[str, Json] = {
    "io.modelcontextprotocol/protocolVersion": MODERN_VERSION,
    "io.modelcontextprotocol/clientCapabilities": {},
}
_HEAD_MAX_BYTES = 64 * 1024
_BUFFER_BYTES = 256 * 1024
_ANSWER_TIMEOUT = 60.0
# The broker closes an idle connection after 75 s; a request must not meet that.
_IDLE_MAX = 40.0
_SHOWN_CHARACTERS = 200
# What ends an answer in the middle.
_CONNECTION_ERRORS = (OSError, EOFError, asyncio.LimitOverrunError)


class Wrong(Exception):
    """An answer that is not the one to this request: another id, another content."""


class Broken(Exception):
    """The connection or the stream ended before the answer, or there was none in time."""


class Refused(Exception):
    """An error that the broker answered.

    Args:
        status: Of HTTP; 200 with an error inside.
        code: Of JSON-RPC; None: the body has none.
        data: The facts beside it.
    """

    def __init__(self, status: int, code: Json, message: str, data: Json) -> None:
        super().__init__(f"HTTP {status}, {code}: {message} {json.dumps(data)}")
        self.status = status
        self.code = code
        self.data = data

    @property
    def reason(self) -> Json:
        """What it says for programs."""
        return member(self.data, "reason")


def member(value: Json, name: str) -> Json:
    """Return a member of an object; None where there is none, or no object."""
    return value.get(name) if isinstance(value, dict) else None


@contextlib.asynccontextmanager
async def in_time(what: str, seconds: float = _ANSWER_TIMEOUT) -> AsyncIterator[None]:
    """Give up waiting in the block after some time.

    Raises:
        Broken: It took longer; the message says for what.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Broken(f"expected {what} within {seconds:.0f} s, found nothing") from None


@dataclass(slots=True)
class Response:
    """A head that has come, and a body that may still be on its way."""

    status: int
    headers: Mapping[str, str]
    connection: "Connection"

    @property
    def is_stream(self) -> bool:
        """Whether its body is a stream of events."""
        return "text/event-stream" in self.headers.get("content-type", "")

    async def body(self) -> bytes:
        """Read all of it."""
        return b"".join([piece async for piece in self.connection.pieces(self.headers)])

    async def messages(self) -> AsyncIterator[Json]:
        """Yield each message of a JSON body or of a stream, as it comes."""
        if not self.is_stream:
            if body := await self.body():
                yield _parse(body)
            return
        rest = b""
        async for piece in self.connection.pieces(self.headers):
            *events, rest = (rest + piece).split(b"\n\n")
            for event in events:
                lines = [line[5:] for line in event.split(b"\n") if line.startswith(b"data:")]
                if data := b"\n".join(lines).strip():
                    yield _parse(data)


def _parse(data: bytes) -> Json:
    try:
        value: Json = json.loads(data)
    except ValueError:
        raise Wrong(f"expected JSON, found {data[:_SHOWN_CHARACTERS]!r}") from None
    return value


class Connection:
    """One keep-alive connection, opened when it is needed; one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._used = 0.0

    def close(self) -> None:
        """Drop it at once, whatever is on its way."""
        if self._streams:
            self._streams[1].transport.abort()
        self._streams = None

    async def send(self, verb: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Write a request, which may be cut off on purpose: its length is what the headers say."""
        now = asyncio.get_running_loop().time()
        if now - self._used > _IDLE_MAX:
            self.close()
        self._used = now
        try:
            if not self._streams:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=_BUFFER_BYTES)
            lines = [f"{verb} {path} HTTP/1.1", f"host: 127.0.0.1:{self._port}"]
            if body and "content-length" not in headers:
                lines.append(f"content-length: {len(body)}")
            lines += [f"{name}: {value}" for name, value in headers.items()]
            self._streams[1].write("\r\n".join([*lines, "", ""]).encode() + body)
            await self._streams[1].drain()
        except OSError as exc:
            self.close()
            raise Broken(f"{verb} {path} could not be sent: {exc!r}") from exc

    async def receive(self) -> Response:
        """Read a head.

        Raises:
            Broken: There is none.
        """
        assert self._streams
        try:
            head = await self._streams[0].readuntil(b"\r\n\r\n")
        except _CONNECTION_ERRORS as exc:
            self.close()
            raise Broken(f"no answer: {exc!r}") from exc
        first, *rest = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in rest if line)
        return Response(
            int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}, self
        )

    async def pieces(self, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
        """Yield the body as it comes."""
        assert self._streams
        reader = self._streams[0]
        try:
            if "chunked" in headers.get("transfer-encoding", ""):
                while size := int(await reader.readuntil(b"\n"), 16):
                    yield (await reader.readexactly(size + 2))[:-2]
                await reader.readuntil(b"\n")
            elif size := int(headers.get("content-length", "0")):
                yield await reader.readexactly(size)
        except _CONNECTION_ERRORS as exc:
            self.close()
            raise Broken(f"the answer broke off: {exc!r}") from exc
        if headers.get("connection", "").lower() == "close":
            self.close()


@dataclass(slots=True, kw_only=True)
class Client:
    """What one user does at one server: in a session of the legacy era, or without one in the modern.

    Args:
        name: Stands in every text that it has echoed, so that an answer that went astray is seen.
    """

    port: int
    server: str
    key: str
    name: str
    modern: bool
    session: str = ""
    _connections: list[Connection] = field(default_factory=list)
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def path(self) -> str:
        """Where its server is."""
        return f"/{self.server}/mcp"

    def headers(self, method: str = "", name: str = "") -> dict[str, str]:
        """Return what a POST carries, for one method of the modern era."""
        found = {
            "authorization": f"Bearer {self.key}",
            "accept": "application/json, text/event-stream",
            "content-type": "application/json",
        }
        if self.modern:
            found |= {"mcp-protocol-version": MODERN_VERSION, "mcp-method": method}
            return found | {"mcp-name": name} if name else found
        return found | self.session_headers()

    def session_headers(self) -> dict[str, str]:
        """Return what names the session, if there is one."""
        if not self.session:
            return {}
        return {"mcp-session-id": self.session, "mcp-protocol-version": LEGACY_VERSION}

    def request(self, method: str, params: dict[str, Json]) -> tuple[int, bytes]:
        """Make a request: its id, and its text."""
        identity = next(self._ids)
        if self.modern:
            own = params.get("_meta")
            params = params | {"_meta": _META | (own if isinstance(own, dict) else {})}
        message: Json = {"jsonrpc": "2.0", "id": identity, "method": method, "params": params}
        return identity, json.dumps(message, separators=(",", ":")).encode()

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection; it is kept for the next one unless the block fails."""
        connection = self._connections.pop() if self._connections else Connection(self.port)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self._connections.append(connection)

    async def open(self) -> None:
        """Open a session; in the modern era there is nothing to open."""
        if self.modern:
            return
        self.session = ""
        client: Json = {"name": "soak", "version": "1"}
        params: dict[str, Json] = {
            "protocolVersion": LEGACY_VERSION,
            "capabilities": {},
            "clientInfo": client,
        }
        response, result, _ = await self._ask("initialize", params)
        if member(result, "protocolVersion") != LEGACY_VERSION:
            raise Wrong(f"expected {LEGACY_VERSION}, found {json.dumps(result)[:_SHOWN_CHARACTERS]}")
        self.session = response.headers.get("mcp-session-id", "")
        status = await self.post(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        if not self.session or status != 202:
            raise Wrong(f"expected a session and 202, found {self.session!r} and {status}")

    async def call(
        self, tool: str, arguments: dict[str, Json], *, expected: str, progress: str | None = None
    ) -> None:
        """Call a tool and check its text.

        Args:
            tool: Its name.
            arguments: What it gets.
            expected: The text.
            progress: A token; then a message of progress with it must come before the answer.

        Raises:
            Refused: The answer is an error.
            Wrong: It is another text, another id, or the progress is missing.
        """
        params: dict[str, Json] = {"name": tool, "arguments": arguments}
        if progress is not None:
            params["_meta"] = {"progressToken": progress}
        _, result, before = await self._ask("tools/call", params, tool)
        content = member(result, "content")
        text = member(content[0], "text") if isinstance(content, list) and content else None
        if text != expected:
            found = json.dumps(result)[:_SHOWN_CHARACTERS]
            raise Wrong(f"expected {expected[:60]!r} ({len(expected)} characters), found {found}")
        tokens = [member(member(one, "params"), "progressToken") for one in before]
        if progress is not None and tokens != [progress]:
            raise Wrong(f"expected one progress of {progress!r} before the answer, found {tokens!r}")

    async def ask(self, method: str) -> Json:
        """Send a request without params and return its result."""
        return (await self._ask(method, {}))[1]

    async def _ask(
        self, method: str, params: dict[str, Json], name: str = ""
    ) -> tuple[Response, Json, list[Json]]:
        identity, body = self.request(method, params)
        async with in_time(f"an answer to {method} {name}"), self.connection() as connection:
            await connection.send("POST", self.path, self.headers(method, name), body)
            response = await connection.receive()
            messages = [message async for message in response.messages()]
        if error := refusal(response.status, messages):
            raise error
        if not messages:
            raise Broken(f"HTTP {response.status} without an answer")
        if member(messages[-1], "id") != identity:
            found = json.dumps(messages[-1])[:_SHOWN_CHARACTERS]
            raise Wrong(f"expected the answer to {identity}, found {found}")
        return response, member(messages[-1], "result"), messages[:-1]

    async def post(self, body: bytes) -> int:
        """Send what needs no answer; the status."""
        async with in_time("the status of a notification"), self.connection() as connection:
            await connection.send("POST", self.path, self.headers(), body)
            response = await connection.receive()
            await response.body()
        return response.status

    async def close(self) -> None:
        """End the session, and the connections.

        Raises:
            Refused: The broker does not know the session.
        """
        if self.session:
            headers = {"authorization": f"Bearer {self.key}", **self.session_headers()}
            self.session = ""
            async with in_time("an answer to DELETE"), self.connection() as connection:
                await connection.send("DELETE", self.path, headers)
                response = await connection.receive()
                body = await response.body()
            if response.status // 100 != 2:
                raise refusal(response.status, [_parse(body)]) or Broken(f"HTTP {response.status} to DELETE")
        self.leave()

    def leave(self) -> None:
        """Close the connections and keep the session."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()


def refusal(status: int, messages: list[Json]) -> Refused | None:
    """Return the error in an answer, if there is one."""
    error = member(messages[-1], "error") if messages else None
    if error is None:
        return None if status // 100 == 2 else Refused(status, None, "no JSON-RPC error in the body", None)
    message = str(member(error, "message"))
    return Refused(status, member(error, "code"), message, member(error, "data"))
