"""The stand-in for child.c where there is no compiler: the same MCP server, slower.

Source: MCP 2025-11-25, lifecycle and tools.
"""

import json
import sys
from typing import TypeAlias

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

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


def _call(params: Json) -> Json:
    name, arguments = _member(params, "name"), _member(params, "arguments")
    text, size = _member(arguments, "text"), _member(arguments, "bytes")
    if name == "blob" and isinstance(size, int):
        fill = _member(arguments, "fill")
        text = (fill if isinstance(fill, str) else "x") * min(size, _BLOB_MAX_BYTES)
    elif name != "echo" or not isinstance(text, str):
        return {"content": [{"type": "text", "text": "no such tool"}], "isError": True}
    return {"content": [{"type": "text", "text": text}]}


def _result(method: Json, params: Json) -> Json:
    if method == "tools/call":
        return _call(params)
    if method == "initialize":
        return {
            "protocolVersion": _member(params, "protocolVersion") or "2025-11-25",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "bench", "version": "1"},
        }
    if method == "tools/list":
        return {"tools": _TOOLS}
    return {} if method == "ping" else None


def main() -> None:
    """Answer each line of stdin, until it ends."""
    for line in sys.stdin.buffer:
        message: Json = json.loads(line)
        method, identity = _member(message, "method"), _member(message, "id")
        if method is None or identity is None:
            continue
        result = _result(method, _member(message, "params"))
        answer: dict[str, Json] = {"jsonrpc": "2.0", "id": identity}
        if result is None:
            answer["error"] = {"code": -32601, "message": "Method not found"}
        else:
            answer["result"] = result
        sys.stdout.buffer.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
