"""The HTTP client of the scale benchmark: as little as a call needs, so that it costs next to nothing.

Source: MCP 2025-11-25, basic/transports, "Streamable HTTP"; RFC 9112. Only answers with a Content-Length are
understood, which the broker gives to every call that answers before its stream falls due.
"""

import json
import socket
from dataclasses import dataclass
from typing import Self, TypeAlias
from urllib.parse import urlsplit

__all__ = [
    "Answer",
    "AnswerReader",
    "CallFailed",
    "Connection",
    "Endpoint",
    "Json",
    "blob_body",
    "check_text",
    "echo_body",
]

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

REQUEST_TIMEOUT = 60.0

_VERSION = "2025-11-25"
_HEAD_MAX_BYTES = 16 * 1024
_READ_BYTES = 256 * 1024
_SHOWN_BYTES = 200
_INITIALIZE = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 0,
        "method": "initialize",
        "params": {
            "protocolVersion": _VERSION,
            "capabilities": {},
            "clientInfo": {"name": "scale", "version": "1"},
        },
    }
).encode()
_CALL = b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"%s","arguments":{%s}}}'
_INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'


class CallFailed(Exception):
    """The answer is an error, no answer, or somebody else's; the message says what was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One HTTP answer."""

    status: int
    session: str | None
    body: bytes


class AnswerReader:
    """Splits what comes over one connection into answers."""

    __slots__ = ("_buffer", "_head", "_length")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: bytes | None = None
        self._length = 0

    def feed(self, data: bytes) -> list[Answer]:
        """Take the next bytes; return the answers that they complete.

        Raises:
            CallFailed: It is no answer that can be understood.
        """
        self._buffer += data
        answers = []
        while (answer := self._next()) is not None:
            answers.append(answer)
        return answers

    def _next(self) -> Answer | None:
        if self._head is None:
            head, end, _ = self._buffer.partition(b"\r\n\r\n")
            if not end:
                if len(self._buffer) > _HEAD_MAX_BYTES:
                    raise CallFailed(f"expected the head of an answer, found {bytes(head[:_SHOWN_BYTES])!r}")
                return None
            self._head = bytes(head)
            self._length = int(_header(self._head, b"content-length") or "-1")
            if self._length < 0:
                raise CallFailed(f"expected a Content-Length, found {self._head[:_SHOWN_BYTES]!r}")
            del self._buffer[: len(head) + len(end)]
        if len(self._buffer) < self._length:
            return None
        answer = Answer(
            status=int(self._head[9:12]),
            session=_header(self._head, b"mcp-session-id"),
            body=bytes(self._buffer[: self._length]),
        )
        del self._buffer[: self._length]
        self._head = None
        return answer


def _header(head: bytes, name: bytes) -> str | None:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip().decode("latin-1")
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the broker listens."""

    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str) -> Self:
        """Take a URL apart."""
        parts = urlsplit(url)
        return cls(host=parts.hostname or "127.0.0.1", port=parts.port or 80, path=parts.path)

    def head(self, session: str | None, method: str = "POST") -> bytes:
        """Return the head of a request, up to the value of its Content-Length."""
        lines = [
            f"{method} {self.path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            "Content-Type: application/json",
            "Accept: application/json, text/event-stream",
        ]
        if session is not None:
            lines += [f"Mcp-Session-Id: {session}", f"MCP-Protocol-Version: {_VERSION}"]
        return "\r\n".join([*lines, "Content-Length: "]).encode()

    def connect(self) -> socket.socket:
        """Connect, with the time-out of a request."""
        connected = socket.create_connection((self.host, self.port), timeout=REQUEST_TIMEOUT)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected


class Connection:
    """One keep-alive connection whose requests are asked one after the other, each until it is answered."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._socket = endpoint.connect()
        self._reader = AnswerReader()

    def open_session(self) -> str:
        """Open a session, call its child once, and return its id.

        Raises:
            CallFailed: One of the requests was not answered as it should be.
            OSError: The connection broke, or no answer came in time.
        """
        answer = self._ask(self._endpoint.head(None), _INITIALIZE)
        if answer.status != 200 or answer.session is None:
            raise CallFailed(f"initialize: expected 200 and a session, found {_shown(answer)}")
        head = self._endpoint.head(answer.session)
        if (told := self._ask(head, _INITIALIZED)).status != 202:
            raise CallFailed(f"notifications/initialized: expected 202, found {_shown(told)}")
        check_text(self._ask(head, echo_body(1, answer.session)), 1, answer.session)
        return answer.session

    def close_session(self, session: str) -> None:
        """End a session.

        Raises:
            CallFailed: It was refused.
            OSError: The connection broke, or no answer came in time.
        """
        answer = self._ask(self._endpoint.head(session, "DELETE"), b"")
        if answer.status not in {200, 202, 204}:
            raise CallFailed(f"DELETE: expected 200 or 204, found {_shown(answer)}")

    def call(self, session: str, body: bytes) -> Answer:
        """Send one message of a session and return its answer."""
        return self._ask(self._endpoint.head(session), body)

    def _ask(self, head: bytes, body: bytes) -> Answer:
        self._socket.sendall(b"%s%d\r\n\r\n%s" % (head, len(body), body))
        while True:
            data = self._socket.recv(_READ_BYTES)
            if not data:
                raise CallFailed("expected an answer, found the end of the connection")
            for answer in self._reader.feed(data):
                return answer

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def echo_body(identity: int, text: str) -> bytes:
    """Return a call of `echo`, which answers the text; it needs no escapes."""
    return _CALL % (identity, b"echo", b'"text":"%s"' % text.encode())


def blob_body(identity: int, size: int) -> bytes:
    """Return a call of `blob`, which answers a text of that size."""
    return _CALL % (identity, b"blob", b'"bytes":%d,"seed":0' % size)


def digest_body(identity: int, text: str) -> bytes:
    """Return a call of `digest`, which answers the sums of the text."""
    return _CALL % (identity, b"digest", b'"text":"%s"' % text.encode())


def check_text(answer: Answer, identity: int, text: str) -> None:
    """Accept the answer to a call: its own id, and this text.

    Raises:
        CallFailed: It is another one.
    """
    # As the benchmark's child in C writes it. What is written in another way is looked into.
    expected = b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"%s"}]}}'
    if answer.status == 200 and answer.body == expected % (identity, text.encode()):
        return
    content: Json = [{"type": "text", "text": text}]
    if answer.status != 200 or _parsed(answer) != (identity, {"content": content}):
        raise CallFailed(f"expected {text[:60]!r} for id {identity}, found {_shown(answer)}")


def _parsed(answer: Answer) -> tuple[Json, Json]:
    try:
        message: Json = json.loads(answer.body)
    except ValueError:
        return None, None
    return (message.get("id"), message.get("result")) if isinstance(message, dict) else (None, None)


def _shown(answer: Answer) -> str:
    return f"{answer.status} {answer.body[:_SHOWN_BYTES].decode(errors='replace')}"
