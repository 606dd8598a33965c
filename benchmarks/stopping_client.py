"""One client of the legacy era that asks one thing at a time and tells what it got, whatever that is.

Unlike the generator it takes an error, a broken stream or silence for a finding.
Source: MCP 2025-11-25, basic/transports.
"""

import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

__all__ = ["Client", "Found"]

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

_VERSION = "2025-11-25"
_BODY_MAX_BYTES = 1024 * 1024
_SHOWN_CHARACTERS = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What came back.

    Args:
        seconds: After how long.
        status: Of HTTP; None: no answer at all, or none within the time that the client waits.
        code: Of a JSON-RPC error; None: it is no such error.
        text: Of the result or of the error, shortened; else what happened to the connection.
        right: Whether it is a result that is no error, and has the id of the request.
    """

    seconds: float
    status: int | None
    code: int | None
    text: str
    right: bool


class Client:
    """A session, over connections that are opened for each request.

    Args:
        url: The endpoint, on this machine.
        timeout: How long it waits for anything, in seconds.
    """

    def __init__(self, url: str, *, timeout: float) -> None:
        parts = urlsplit(url)
        self._host, self._path = parts.netloc, parts.path
        self._timeout = timeout
        self._session: str | None = None
        self._id = 0

    def open(self) -> Found:
        """Open the session."""
        client: Json = {"name": "stopping", "version": "1"}
        params: Json = {"protocolVersion": _VERSION, "capabilities": {}, "clientInfo": client}
        found = self._ask("initialize", params)
        initialized: Json = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        with self._posted(initialized) as response:
            response.read(_BODY_MAX_BYTES)
        return found

    def call(self, tool: str, text: str) -> Found:
        """Call a tool and tell what came of it."""
        return self._ask("tools/call", {"name": tool, "arguments": {"text": text}})

    def _ask(self, method: str, params: Json) -> Found:
        self._id += 1
        request: Json = {"jsonrpc": "2.0", "id": self._id, "method": method, "params": params}
        began = time.perf_counter()
        status: int | None = None
        try:
            with self._posted(request) as response:
                status = response.status
                self._session = response.getheader("mcp-session-id") or self._session
                answer = _read_answer(response, self._id)
        except (OSError, http.client.HTTPException) as exc:
            return _found(began, status, None, f"{type(exc).__name__}: {exc}")
        return _found(began, status, answer, "no answer in the body")

    @contextlib.contextmanager
    def _posted(self, message: Json) -> Iterator[http.client.HTTPResponse]:
        headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        if self._session:
            headers |= {"mcp-session-id": self._session, "mcp-protocol-version": _VERSION}
        connection = http.client.HTTPConnection(self._host, timeout=self._timeout)
        with contextlib.closing(connection):
            connection.request("POST", self._path, json.dumps(message), headers)
            yield connection.getresponse()


def _read_answer(response: http.client.HTTPResponse, identity: int) -> Json:
    """Read a JSON body, or a stream up to the message with this id."""
    if "text/event-stream" not in response.getheader("content-type", ""):
        return _parse(response.read(_BODY_MAX_BYTES))
    while line := response.readline(_BODY_MAX_BYTES):
        if line.startswith(b"data:"):
            message = _parse(line[5:])
            if isinstance(message, dict) and message.get("id") == identity:
                return message
    return None


def _parse(body: bytes) -> Json:
    try:
        found: Json = json.loads(body)
    except ValueError:
        return None
    return found


def _found(began: float, status: int | None, answer: Json, otherwise: str) -> Found:
    seconds = time.perf_counter() - began
    error, result = _member(answer, "error"), _member(answer, "result")
    code, failed = _member(error, "code"), _member(result, "isError") is True
    text = _member(error, "message") or (json.dumps(result) if result is not None else otherwise)
    return Found(
        seconds=seconds,
        status=status,
        code=code if isinstance(code, int) else None,
        text=str(text)[:_SHOWN_CHARACTERS],
        right=result is not None and not failed,
    )


def _member(value: Json, name: str) -> Json:
    return value.get(name) if isinstance(value, dict) else None
