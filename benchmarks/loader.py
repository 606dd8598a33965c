"""The stand-in for load.c where there is no compiler or no epoll: the same program, slower.

Same arguments, same output, same rule: a call counts when the id and the content of its answer are right.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

_LEGACY_VERSION = "2025-11-25"
_MODERN_VERSION = "2026-07-28"
_META: Json = {
    "io.modelcontextprotocol/protocolVersion": _MODERN_VERSION,
    "io.modelcontextprotocol/clientCapabilities": {},
}
_LIMIT_BYTES = 128 * 1024 * 1024
_REQUEST_TIMEOUT = 30.0
_SECONDS_MAX = 120.0
_FIRST_ERROR_CHARACTERS = 250


class _Failed(Exception):
    """The answer is an error, or did not come."""


class _Wrong(Exception):
    """The answer is somebody else's."""


@dataclass(slots=True)
class _Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def message(self) -> Json:
        """Return the message that holds the result, alone or among events."""
        if "text/event-stream" not in self.headers.get("content-type", ""):
            return _parse(self.body)
        lines = (line[5:] for line in self.body.splitlines() if line.startswith(b"data:"))
        found = (_parse(line) for line in lines)
        return next((m for m in found if isinstance(m, dict) and ("result" in m or "error" in m)), None)


def _parse(body: bytes) -> Json:
    try:
        value: Json = json.loads(body)
    except ValueError:
        raise _Failed(f"no JSON: {body[:200]!r}") from None
    return value


def _member(value: Json, name: str) -> Json:
    return value.get(name) if isinstance(value, dict) else None


def _tool(options: argparse.Namespace) -> str:
    return "blob" if options.blob_bytes else "echo"


class _Connection:
    """One keep-alive connection; opened when needed."""

    def __init__(self, options: argparse.Namespace) -> None:
        url = urlsplit(options.url)
        if url.scheme != "http" or url.hostname != "127.0.0.1" or url.port is None:
            sys.exit("load: the URL is not http://127.0.0.1:PORT/PATH")
        self._port, self._path = url.port, url.path
        self._modern = ""
        if options.era == "modern":
            self._modern = f"mcp-protocol-version: {_MODERN_VERSION}\r\nmcp-method: tools/call\r\n"
            self._modern += f"mcp-name: {_tool(options)}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
        self._streams = None

    async def ask(self, verb: str, body: bytes, session: str) -> _Answer:
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT):
                return await self._ask(verb, body, session)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as exc:
            self.close()
            raise _Failed(f"the connection broke: {exc!r}") from exc

    async def _ask(self, verb: str, body: bytes, session: str) -> _Answer:
        if not self._streams:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=_LIMIT_BYTES)
        reader, writer = self._streams
        head = f"{verb} {self._path} HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\n"
        head += "accept: application/json, text/event-stream\r\n" + self._modern
        if session:
            head += f"mcp-session-id: {session}\r\nmcp-protocol-version: {_LEGACY_VERSION}\r\n"
        if body:
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        writer.write(head.encode() + b"\r\n" + body)
        await writer.drain()
        first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        if "chunked" in headers.get("transfer-encoding", ""):
            data = await _chunks(reader)
        else:
            data = await reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return _Answer(int(first.split()[1]), headers, data)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int(await reader.readuntil(b"\n"), 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
    await reader.readuntil(b"\n")
    return b"".join(parts)


@dataclass(slots=True)
class _Client:
    """One session's steps over one connection."""

    options: argparse.Namespace
    connection: _Connection
    index: int
    session: str = ""
    # Shared by all the connections of a session.
    ids: Iterator[int] = field(default_factory=lambda: iter(range(1, sys.maxsize)))

    async def open(self) -> None:
        self.session = ""
        client: Json = {"name": "load", "version": "1"}
        params: Json = {"protocolVersion": _LEGACY_VERSION, "capabilities": {}, "clientInfo": client}
        answer, result = await self._request("initialize", params)
        self.session = answer.headers.get("mcp-session-id", "")
        if not self.session or _member(result, "protocolVersion") is None:
            raise _Failed("no session")
        initialized = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
        accepted = await self.connection.ask("POST", initialized, self.session)
        if accepted.status != 202:
            raise _Failed(f"HTTP {accepted.status} to a notification")

    async def call(self) -> None:
        identity = next(self.ids)
        if self.options.blob_bytes:
            fill = chr(ord("a") + (self.index + identity) % 26)
            expected = fill * self.options.blob_bytes
            arguments: Json = {"bytes": self.options.blob_bytes, "fill": fill}
        else:
            expected = f"{self.index}-{identity}-".ljust(self.options.text_bytes, ".")
            arguments = {"text": expected}
        params: dict[str, Json] = {"_meta": _META} if self.options.era == "modern" else {}
        params |= {"name": _tool(self.options), "arguments": arguments}
        _, result = await self._request("tools/call", params, identity)
        if self.options.constant is not None:
            return
        content = _member(result, "content")
        if not isinstance(content, list) or not content or _member(content[0], "text") != expected:
            raise _Wrong(f"wrong content: {str(result)[:200]}")

    async def close(self) -> None:
        if self.session:
            answer = await self.connection.ask("DELETE", b"", self.session)
            if answer.status // 100 != 2:
                raise _Failed(f"HTTP {answer.status} to DELETE")

    async def _request(self, method: str, params: Json, identity: int | None = None) -> tuple[_Answer, Json]:
        identity = next(self.ids) if identity is None else identity
        message = {"jsonrpc": "2.0", "id": identity, "method": method, "params": params}
        body = json.dumps(message, separators=(",", ":")).encode()
        answer = await self.connection.ask("POST", body, self.session)
        if answer.status != 200:
            raise _Failed(f"HTTP {answer.status}: {answer.body[:200]!r}")
        if self.options.constant is not None:
            if answer.body.decode() != self.options.constant:
                raise _Wrong(f"not the constant: {answer.body[:200]!r}")
            return answer, None
        found = answer.message()
        result = _member(found, "result")
        if result is None or _member(result, "isError"):
            raise _Failed(f"error: {answer.body[:200]!r}")
        if (_member(result, "resultType") == "complete") != (self.options.era == "modern"):
            raise _Failed(f"the other era's answer: {answer.body[:200]!r}")
        if _member(found, "id") != identity:
            raise _Wrong(f"wrong id: {answer.body[:200]!r}")
        return answer, result


class _Meter:
    """Counts what ends between the warm-up and the end."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._pids: list[int] = options.pid
        self._begins = time.perf_counter() + options.warmup
        self._cpu_began: float | None = None
        self._began = 0.0
        self.errors = self.wrong = 0
        self.first_error = ""
        self._latencies: list[float] = []

    def running(self) -> bool:
        now = time.perf_counter()
        if not self._began and now >= self._begins:
            self._began, self._cpu_began = now, _cpu_seconds(self._pids)
        full = len(self._latencies) >= self._options.count
        return not full and now < self._begins + self._options.seconds

    def right(self, since: float) -> None:
        if self._began:
            self._latencies.append((time.perf_counter() - since) * 1e6)

    def failed(self, exc: _Failed | _Wrong) -> None:
        self.errors += isinstance(exc, _Failed)
        self.wrong += isinstance(exc, _Wrong)
        self.first_error = self.first_error or str(exc)[:_FIRST_ERROR_CHARACTERS]

    def report(self) -> str:
        spent, cpu = time.perf_counter() - self._began, _cpu_seconds(self._pids)
        latencies = sorted(self._latencies)
        calls = len(latencies)
        return json.dumps(
            {
                "calls": calls,
                "seconds": spent,
                "rps": calls / spent,
                "p50_us": latencies[calls // 2] if calls else 0.0,
                "p99_us": latencies[calls * 99 // 100] if calls else 0.0,
                "errors": self.errors,
                "wrong": self.wrong,
                "cpu_seconds": None if cpu is None or self._cpu_began is None else cpu - self._cpu_began,
                "first_error": self.first_error,
            }
        )


def _cpu_seconds(pids: list[int]) -> float | None:
    try:
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    except OSError:
        return None
    return sum(int(s[11]) + int(s[12]) for s in stats) / os.sysconf("SC_CLK_TCK") if stats else None


async def _calls(options: argparse.Namespace) -> str:
    clients = [_Client(options, _Connection(options), index) for index in range(options.connections)]
    owners = clients[: options.sessions]
    if options.constant is None:
        for owner in owners:
            # Without sessions a first call does what opening one does: it starts the child.
            await (owner.call() if options.era == "modern" else owner.open())
    for index, client in enumerate(clients):
        owner = owners[index % len(owners)]
        client.session, client.ids = owner.session, owner.ids
    meter = _Meter(options)

    async def work(client: _Client) -> None:
        while meter.running():
            since = time.perf_counter()
            try:
                await client.call()
                meter.right(since)
            except (_Failed, _Wrong) as exc:
                meter.failed(exc)

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(work(client))
    found = meter.report()
    for owner in owners:
        await owner.close()
    return found


async def _cycles(options: argparse.Namespace) -> str:
    meter = _Meter(options)

    async def work(index: int) -> None:
        client = _Client(options, _Connection(options), index)
        while meter.running():
            since = time.perf_counter()
            try:
                await client.open()
                await client.call()
                await client.close()
                meter.right(since)
            except (_Failed, _Wrong) as exc:
                meter.failed(exc)

    async with asyncio.TaskGroup() as group:
        for index in range(options.connections):
            group.create_task(work(index))
    return meter.report()


async def _hold(options: argparse.Namespace) -> str:
    connection = _Connection(options)
    clients = [_Client(options, connection, index) for index in range(options.sessions)]
    for client in clients:
        await client.open()
        await client.call()
    connection.close()
    print(json.dumps({"held": len(clients)}), flush=True)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(options.seconds):
            await _end_of_input()
    for client in clients:
        await client.close()
    return _Meter(options).report()


async def _end_of_input() -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(0, lambda: None if os.read(0, 4096) else ended.set())
    try:
        await ended.wait()
    finally:
        loop.remove_reader(0)


def main() -> None:
    """Run one mode and print what was measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=("calls", "cycles", "hold"), default="calls")
    parser.add_argument("--era", choices=("legacy", "modern"), default="legacy")
    parser.add_argument("--url", required=True)
    parser.add_argument("--connections", type=int, choices=range(1, 1025), default=1)
    parser.add_argument("--sessions", type=int, choices=range(1, 10001), default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--warmup", type=float, default=0.0)
    parser.add_argument("--count", type=int, default=4_000_000)
    parser.add_argument("--text-bytes", type=int, default=32)
    parser.add_argument("--blob-bytes", type=int, default=0)
    parser.add_argument("--constant")
    parser.add_argument("--pid", type=int, action="append", default=[])
    parser.add_argument("--cpu", type=int)
    options = parser.parse_args()
    if options.mode != "calls" and options.era == "modern":
        sys.exit("load: there are no sessions in the modern era")
    options.seconds = min(options.seconds, _SECONDS_MAX)
    options.warmup = min(options.warmup, _SECONDS_MAX)
    if options.cpu is not None and sys.platform == "linux":
        os.sched_setaffinity(0, {options.cpu})
    run = {"calls": _calls, "cycles": _cycles, "hold": _hold}[options.mode]
    try:
        print(asyncio.run(run(options)))
    except (_Failed, _Wrong) as exc:
        sys.exit(f"load: {exc}")


if __name__ == "__main__":
    main()
