"""The stand-in for child.c where there is no compiler: the same MCP server, slower.

Source: MCP 2025-11-25, lifecycle and tools; MCP 2026-07-28, basic and server/discover. A request is modern
that names its version in `_meta`. The first argument is the era that it speaks: `legacy` or `modern`; else
both. `child.c` says what the tools do and which other arguments there are.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TypeAlias

# It is started by its path, from anywhere; and the files beside it must not hide modules of Python's.
sys.path[0] = str(Path(__file__).resolve().parent.parent)
from benchmarks.content import digest, piece  # noqa: E402 - see above

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

_PREFIX = "io.modelcontextprotocol/"
_LEGACY_VERSION = "2025-11-25"
_MODERN_VERSION = "2026-07-28"
_SERVER: Json = {"name": "bench", "version": "1"}
_CACHE: dict[str, Json] = {"ttlMs": 0, "cacheScope": "public"}
_BLOB_MAX_BYTES = 64 * 1024 * 1024
_SLEEP_MAX_MS = 60_000
_PROGRESS_MAX = 1000
_STAY_SECONDS = 1800
_CRASH_STATUS = 70
_ECHOES = ("echo", "progress", "sleep")


def _tool(name: str, about: str, **members: str) -> Json:
    properties: Json = {member: {"type": kind} for member, kind in members.items()}
    schema: Json = {"type": "object", "properties": properties}
    return {"name": name, "description": about, "inputSchema": schema}


_TOOLS: Json = [
    _tool("echo", "Answer the text.", text="string"),
    _tool("blob", "Answer many bytes.", bytes="integer", seed="integer"),
    _tool("digest", "Answer the length and the sums of the text.", text="string"),
    _tool("progress", "Report progress, then answer the text.", text="string", count="integer"),
    _tool("sleep", "Answer the text after some time.", text="string", ms="integer"),
    _tool("crash", "Exit at once."),
]


def _member(value: Json, name: str) -> Json:
    return value.get(name) if isinstance(value, dict) else None


def _number(arguments: Json, name: str, otherwise: int) -> int:
    value = _member(arguments, name)
    return value if isinstance(value, int) and value >= 0 else otherwise


def _call(params: Json) -> dict[str, Json]:
    name, arguments = _member(params, "name"), _member(params, "arguments")
    text = _member(arguments, "text")
    if name == "blob" and _member(arguments, "bytes") is not None:
        text = piece(_number(arguments, "seed", 0), min(_number(arguments, "bytes", 0), _BLOB_MAX_BYTES))
    elif name == "digest" and isinstance(text, str):
        text = digest(text)
    elif name not in _ECHOES or not isinstance(text, str):
        return {"content": [{"type": "text", "text": "no such tool"}], "isError": True}
    return {"content": [{"type": "text", "text": text}]}


def _act(params: Json) -> None:
    """Do what some tools do before they answer."""
    name, arguments = _member(params, "name"), _member(params, "arguments")
    if name == "progress":
        for number in range(1, min(_number(arguments, "count", 1), _PROGRESS_MAX) + 1):
            _write(_notification(_member(_member(params, "_meta"), "progressToken"), number))
    elif name == "sleep":
        time.sleep(min(_number(arguments, "ms", 0), _SLEEP_MAX_MS) / 1000)
    elif name == "crash":
        os._exit(_CRASH_STATUS)


def _notification(token: Json, number: int) -> Json:
    if token is None:
        line: Json = {"level": "info", "data": number}
        return {"jsonrpc": "2.0", "method": "notifications/message", "params": line}
    progress: Json = {"progressToken": token, "progress": number}
    return {"jsonrpc": "2.0", "method": "notifications/progress", "params": progress}


def _write(message: Json) -> None:
    sys.stdout.buffer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
    sys.stdout.buffer.flush()


def _result(method: Json, params: Json) -> dict[str, Json] | None:
    if method == "tools/call":
        return _call(params)
    if method == "initialize":
        version = _member(params, "protocolVersion") or _LEGACY_VERSION
        return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": _SERVER}
    if method == "tools/list":
        return {"tools": _TOOLS}
    return {} if method == "ping" else None


def _modern_result(method: Json, params: Json) -> dict[str, Json] | None:
    complete: dict[str, Json] = {"resultType": "complete"}
    if method == "tools/call":
        return complete | _call(params)
    if method == "server/discover":
        server: dict[str, Json] = {f"{_PREFIX}serverInfo": _SERVER}
        known: dict[str, Json] = {"supportedVersions": [_MODERN_VERSION], "capabilities": {"tools": {}}}
        return complete | known | {"_meta": server} | _CACHE
    return complete | {"tools": _TOOLS} | _CACHE if method == "tools/list" else None


def _answer(era: str, method: Json, params: Json) -> dict[str, Json]:
    modern = era != "legacy" and _member(_member(params, "_meta"), f"{_PREFIX}protocolVersion") is not None
    if era == "modern" and not modern:
        requested = _member(params, "protocolVersion") or _LEGACY_VERSION
        data: Json = {"supported": [_MODERN_VERSION], "requested": requested}
        return {"error": {"code": -32022, "message": "Unsupported protocol version", "data": data}}
    result = _modern_result(method, params) if modern else _result(method, params)
    if result is None:
        return {"error": {"code": -32601, "message": "Method not found"}}
    return {"result": result}


def _start_another() -> None:
    if not os.fork():
        signal.alarm(_STAY_SECONDS)
        while True:
            signal.pause()


def main() -> None:
    """Answer each line of stdin, until it ends."""
    era, options = sys.argv[1] if len(sys.argv) > 1 else "", sys.argv[1:]
    if "--ignore-sigterm" in options:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "--grandchild" in options:
        _start_another()
    for line in sys.stdin.buffer:
        message: Json = json.loads(line)
        method, identity = _member(message, "method"), _member(message, "id")
        params = _member(message, "params")
        if method is None or identity is None:
            continue
        if method == "tools/call":
            _act(params)
        _write({"jsonrpc": "2.0", "id": identity, **_answer(era, method, params)})
    if "--stay-on-eof" in options:
        signal.alarm(_STAY_SECONDS)
        while True:
            signal.pause()


if __name__ == "__main__":
    main()
