"""The stand-in for load.c where there is no compiler or no epoll: the same program, slower.

Same arguments, same output, same rule: a call counts when the id and the content of its answer are right. One
thing is coarser: a latency ends when the answer has been checked.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

# It is started by its path, from anywhere; and the files beside it must not hide modules of Python's.
sys.path[0] = str(Path(__file__).resolve().parent.parent)
from benchmarks.content import PATTERN_WORDS, digest, piece  # noqa: E402 - see above

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

_LEGACY_VERSION = "2025-11-25"
_MODERN_VERSION = "2026-07-28"
_META: dict[str, Json] = {
    "io.modelcontextprotocol/protocolVersion": _MODERN_VERSION,
    "io.modelcontextprotocol/clientCapabilities": {},
}
_LIMIT_BYTES = 128 * 1024 * 1024
_OPENING_MAX = 8
_PREFIX_CHARACTERS = 32
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


def _tool(options: argparse.Namespace, *, small: bool) -> str:
    if options.result_bytes and not small:
        return "blob"
    if options.argument_bytes and not small:
        return "digest"
    return "progress" if options.progress else "echo"


class _Connection:
    """One keep-alive connection; opened when needed."""

    def __init__(self, options: argparse.Namespace) -> None:
        url = urlsplit(options.url)
        if url.scheme != "http" or url.hostname != "127.0.0.1" or url.port is None:
            sys.exit("load: the URL is not http://127.0.0.1:PORT/PATH")
        self._port, self._path = url.port, url.path
        self._timeout: float = options.timeout
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
        self._streams = None

    async def ask(self, verb: str, body: bytes, headers: str) -> _Answer:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._ask(verb, body, headers)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as exc:
            self.close()
            raise _Failed(f"the connection broke: {exc!r}") from exc

    async def _ask(self, verb: str, body: bytes, more: str) -> _Answer:
        if not self._streams:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=_LIMIT_BYTES)
        reader, writer = self._streams
        head = f"{verb} {self._path} HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\n"
        head += "accept: application/json, text/event-stream\r\n" + more
        if body:
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        writer.write(head.encode() + b"\r\n" + body)
        await writer.drain()
        first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        status, last = int(first.split()[1]), headers.get("connection", "").lower() == "close"
        if "chunked" in headers.get("transfer-encoding", ""):
            data = await _chunks(reader)
        elif "content-length" in headers or status in (202, 204) or not last:
            data = await reader.readexactly(int(headers.get("content-length", "0")))
        else:
            data = await reader.read(_LIMIT_BYTES)
        if last:
            self.close()
        return _Answer(status, headers, data)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int(await reader.readuntil(b"\n"), 16):
        parts.append((await reader.readexactly(size + 2))[:-2])
    await reader.readuntil(b"\n")
    return b"".join(parts)


@dataclass(slots=True)
class _Session:
    """What the connections of a session share."""

    name: str = ""  # empty: the server gives none
    version: str = ""
    ids: Iterator[int] = field(default_factory=lambda: iter(range(1, sys.maxsize)))

    def headers(self) -> str:
        head = f"mcp-session-id: {self.name}\r\n" if self.name else ""
        return head + (f"mcp-protocol-version: {self.version}\r\n" if self.version else "")


@dataclass(slots=True)
class _Client:
    """One session's steps over one connection."""

    options: argparse.Namespace
    connection: _Connection
    index: int
    session: _Session = field(default_factory=_Session)

    async def open(self) -> None:
        """Open a session. Without sessions a first call does what opening one does: it starts the child."""
        if self.options.era == "modern":
            return await self.call(small=True)
        self.session = _Session()
        client: Json = {"name": "load", "version": "1"}
        params: Json = {"protocolVersion": _LEGACY_VERSION, "capabilities": {}, "clientInfo": client}
        answer, result = await self._request("initialize", params, next(self.session.ids))
        version = _member(result, "protocolVersion")
        if not isinstance(version, str):
            raise _Failed("no session")
        self.session.name, self.session.version = answer.headers.get("mcp-session-id", ""), version
        initialized = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
        accepted = await self.connection.ask("POST", initialized, self.session.headers())
        if accepted.status // 100 != 2:
            raise _Failed(f"HTTP {accepted.status} to a notification")
        return None

    async def call(self, *, small: bool = False) -> None:
        """Call once; sessions are opened with small calls, whatever is measured afterwards."""
        identity, tool = next(self.session.ids), _tool(self.options, small=small)
        arguments, expected = self._content(tool, identity)
        meta: dict[str, Json] = dict(_META) if self.options.era == "modern" else {}
        meta |= {"progressToken": identity} if self.options.progress else {}
        params: dict[str, Json] = {"_meta": meta} if meta else {}
        params |= {"name": tool, "arguments": arguments}
        answer, result = await self._request("tools/call", params, identity, tool=tool)
        if self.options.constant is not None:
            return
        if self.options.progress and "text/event-stream" not in answer.headers.get("content-type", ""):
            raise _Failed(f"no progress: {answer.body[:200]!r}")
        content = _member(result, "content")
        if not isinstance(content, list) or not content or _member(content[0], "text") != expected:
            raise _Wrong(f"wrong content: {str(result)[:200]}")

    def _content(self, tool: str, identity: int) -> tuple[Json, str]:
        seed = (self.index * 4099 + identity) % PATTERN_WORDS
        if tool == "blob":
            size: int = self.options.result_bytes
            return {"bytes": size, "seed": seed}, piece(seed, size)
        text = f"{self.index}-{identity}-"
        if tool == "digest":
            text = text.ljust(_PREFIX_CHARACTERS, ".")
            text += piece(seed, self.options.argument_bytes - _PREFIX_CHARACTERS)
            return {"text": text}, digest(text)
        text = text.ljust(self.options.text_bytes, ".")
        return {"text": text}, text

    async def close(self) -> None:
        if self.session.name:
            answer = await self.connection.ask("DELETE", b"", self.session.headers())
            # 405: the server lets nobody end a session, as the specification allows.
            if answer.status // 100 != 2 and answer.status != 405:
                raise _Failed(f"HTTP {answer.status} to DELETE")

    async def _request(
        self, method: str, params: Json, identity: int, *, tool: str = ""
    ) -> tuple[_Answer, Json]:
        message = {"jsonrpc": "2.0", "id": identity, "method": method, "params": params}
        headers = self.session.headers()
        if self.options.era == "modern":
            headers = f"mcp-protocol-version: {_MODERN_VERSION}\r\n"
            headers += f"mcp-method: {method}\r\nmcp-name: {tool}\r\n"
        answer = await self.connection.ask(
            "POST", json.dumps(message, separators=(",", ":")).encode(), headers
        )
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
        self._ended = False
        self._begins = time.perf_counter() + options.warmup
        self._ends = self._begins + options.seconds
        self._cpu_began: float | None = None
        self._began = 0.0
        self.errors = self.wrong = 0
        self.first_error = ""
        self._latencies: list[float] = []

    def running(self) -> bool:
        now = time.perf_counter()
        if not self._began and now >= self._begins:
            self._began, self._cpu_began = now, _cpu_seconds(self._pids)
        if self._ended or len(self._latencies) >= self._options.count:
            return False
        # A subject that takes longer than the measured time for one call has the time for it.
        return now < self._ends or not (self._latencies or self.errors or self.wrong)

    def missed(self, due: float) -> bool:
        """Say whether a call was due within the measured time and is still to be made."""
        return not self._ended and due < min(self._ends, time.perf_counter())

    def end(self) -> None:
        """Let no more calls be made."""
        self._ended = True

    async def attempt(self, work: Awaitable[None], since: float) -> None:
        """Count what one call, or one cycle, comes to."""
        measured = since >= self._begins
        try:
            await work
        except (_Failed, _Wrong) as exc:
            self.errors += isinstance(exc, _Failed)
            self.wrong += isinstance(exc, _Wrong)
            self.first_error = self.first_error or str(exc)[:_FIRST_ERROR_CHARACTERS]
            self._ended = self._ended or self.errors + self.wrong >= self._options.give_up
        else:
            if measured and len(self._latencies) < self._options.count:
                self._latencies.append((time.perf_counter() - since) * 1e6)

    def report(self) -> str:
        spent, cpu = time.perf_counter() - (self._began or self._begins), _cpu_seconds(self._pids)
        latencies = sorted(self._latencies)
        calls = len(latencies)
        return json.dumps(
            {
                "calls": calls,
                "seconds": spent,
                "rps": calls / spent,
                "bytes_per_second": calls / spent * self._bytes_per_call(),
                "p50_us": latencies[calls // 2] if calls else 0.0,
                "p99_us": latencies[calls * 99 // 100] if calls else 0.0,
                "max_us": latencies[-1] if calls else 0.0,
                "errors": self.errors,
                "wrong": self.wrong,
                "cpu_seconds": None if cpu is None or self._cpu_began is None else cpu - self._cpu_began,
                "first_error": self.first_error,
            }
        )

    def _bytes_per_call(self) -> int:
        large: int = self._options.result_bytes or self._options.argument_bytes
        small: int = 2 * self._options.text_bytes
        return large or small


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
        await _open(owners)
    for index, client in enumerate(clients):
        client.session = owners[index % len(owners)].session
    meter = _Meter(options)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(_end_with_input(meter)) if options.until_eof else None
        work = _paced(clients, meter, options.every_us / 1e6) if options.every_us else _busy(clients, meter)
        await work
        if watching:
            watching.cancel()
    found = meter.report()
    for owner in owners:
        await owner.close()
    return found


async def _open(owners: list[_Client]) -> None:
    """Open the sessions, a few at the same time: a storm of starts is not what is measured."""
    left = iter(owners)

    async def work() -> None:
        for owner in left:
            await owner.open()

    await asyncio.gather(*(work() for _ in range(_OPENING_MAX)))


async def _busy(clients: list[_Client], meter: _Meter) -> None:
    async def work(client: _Client) -> None:
        while meter.running():
            await meter.attempt(client.call(), time.perf_counter())

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(work(client))


async def _paced(clients: list[_Client], meter: _Meter, every: float) -> None:
    """Make a call whenever one is due; one that has to wait for a free connection counts from then."""
    free: asyncio.Queue[_Client] = asyncio.Queue()
    for client in clients:
        free.put_nowait(client)

    async def work(client: _Client, since: float) -> None:
        await meter.attempt(client.call(), since)
        free.put_nowait(client)

    due = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        while meter.running() or meter.missed(due):
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            starved = free.empty()
            client = await free.get()
            group.create_task(work(client, due if starved else time.perf_counter()))
            due += every


async def _end_with_input(meter: _Meter) -> None:
    print(json.dumps({"running": True}), flush=True)
    await _end_of_input()
    meter.end()


async def _cycles(options: argparse.Namespace) -> str:
    meter = _Meter(options)

    async def cycle(client: _Client) -> None:
        await client.open()
        await client.call()
        await client.close()

    async def work(index: int) -> None:
        client = _Client(options, _Connection(options), index)
        while meter.running():
            await meter.attempt(cycle(client), time.perf_counter())

    async with asyncio.TaskGroup() as group:
        for index in range(options.connections):
            group.create_task(work(index))
    return meter.report()


async def _hold(options: argparse.Namespace) -> str:
    connection = _Connection(options)
    clients = [_Client(options, connection, index) for index in range(options.sessions)]
    for client in clients:
        await client.open()
        await client.call(small=True)
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
    parser.add_argument("--timeout", type=float, default=30.0)
    parser.add_argument("--give-up", type=int, default=sys.maxsize)
    parser.add_argument("--every-us", type=int)
    parser.add_argument("--until-eof", action="store_true")
    parser.add_argument("--text-bytes", type=int, default=32)
    parser.add_argument("--result-bytes", type=int, default=0)
    parser.add_argument("--argument-bytes", type=int, default=0)
    parser.add_argument("--progress", action="store_true")
    parser.add_argument("--constant")
    parser.add_argument("--pid", type=int, action="append", default=[])
    parser.add_argument("--cpu", type=int)
    options = parser.parse_args()
    if options.mode != "calls" and (options.era == "modern" or options.every_us or options.until_eof):
        sys.exit("load: --era modern, --every-us and --until-eof are for --mode calls")
    if options.result_bytes and options.argument_bytes:
        sys.exit("load: --result-bytes and --argument-bytes exclude each other")
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
