"""The stand-in for child.c where there is no compiler: the same MCP server, slower.

Source: MCP 2025-11-25, lifecycle and tools; MCP 2026-07-28, basic and server/discover. A request is modern
that names its version in `_meta`. The first argument is the era that it speaks: `legacy` or `modern`; else
both.
"""

import json
import sys
from typing import TypeAlias

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

_PREFIX = "io.modelcontextprotocol/"
_LEGACY_VERSION = "2025-11-25"
_MODERN_VERSION = "2026-07-28"
_SERVER: Json = {"name": "bench", "version": "1"}
_CACHE: dict[str, Json] = {"ttlMs": 0, "cacheScope": "public"}
_BLOB_MAX_BYTES = 64 * 1024 * 1024
_TOOLS: Json = [
    {
        "name": "echo",
        "description": "Answer the text.",
        "inputSchema": {
            "type": "object",
            "properties": {"text": {"type": "string"}},
            "required": ["text"],
        },
    },
    {
        "name": "blob",
        "description": "Answer many bytes.",
        "inputSchema": {
            "type": "object",
            "properties": {"bytes": {"type": "integer"}, "fill": {"type": "string"}},
            "required": ["bytes"],
        },
    },
]


def _member(value: Json, name: str) -> Json:
    return value.get(name) if isinstance(value, dict) else None


def _call(params: Json) -> dict[str, Json]:
    name, arguments = _member(params, "name"), _member(params, "arguments")
    text, size = _member(arguments, "text"), _member(arguments, "bytes")
    if name == "blob" and isinstance(size, int):
        fill = _member(arguments, "fill")
        text = (fill if isinstance(fill, str) else "x") * min(size, _BLOB_MAX_BYTES)
    elif name != "echo" or not isinstance(text, str):
        return {"content": [{"type": "text", "text": "no such tool"}], "isError": True}
    return {"content": [{"type": "text", "text": text}]}


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


def main() -> None:
    """Answer each line of stdin, until it ends."""
    era = sys.argv[1] if len(sys.argv) > 1 else ""
    for line in sys.stdin.buffer:
        message: Json = json.loads(line)
        method, identity = _member(message, "method"), _member(message, "id")
        if method is None or identity is None:
            continue
        answer = {"jsonrpc": "2.0", "id": identity, **_answer(era, method, _member(message, "params"))}
        sys.stdout.buffer.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
