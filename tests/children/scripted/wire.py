"""What the scripted child writes: messages, and the answers to requests of either era.

`Call` is a request that waits for its answer. It knows whether the answer must look like 2026-07-28, so that
no tool has to.
"""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing at run time would cost 7 ms
    from typing import Any, TypeAlias

    Message: TypeAlias = dict[str, Any]
    Arguments: TypeAlias = dict[str, Any]
    RequestId: TypeAlias = int | str

__all__ = ["MODERN", "PREFIX", "SERVER_INFO", "Call", "meta_of", "notify", "send", "write"]

#: The first revision without `initialize`.
MODERN = "2026-07-28"
#: Of the names in `_meta` that the specification reserves (basic/index, "_meta").
PREFIX = "io.modelcontextprotocol/"
SERVER_INFO = {"name": "mcp-child", "version": "1.0", "x-field": [1, 2.50]}

# The results that carry caching hints (server/utilities/caching, "Cacheable Results"), with the scope that is
# claimed. Not the values that anybody else would fill in, so that a test sees whose they are.
_CACHE_SCOPES = {
    "server/discover": "public",
    "tools/list": "public",
    "prompts/list": "public",
    "resources/list": "public",
    "resources/templates/list": "public",
    "resources/read": "private",
}
_TTL_MS = 1234


def write(data: bytes) -> None:
    """Write with one system call, if the pipe takes it: a message that is out is out."""
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def send(message: Message) -> None:
    """Write a message."""
    write(json.dumps(message, separators=(",", ":")).encode() + b"\n")


def notify(method: str, params: Message) -> None:
    """Write a notification."""
    send({"jsonrpc": "2.0", "method": method, "params": params})


def meta_of(message: Message) -> Message | None:
    """Return the `_meta` of a request, None if there is none, or none that is an object."""
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    return meta if isinstance(meta, dict) else None


class Call:
    """A request, until it is answered.

    Args:
        message: The request.
        modern: Whether it is of 2026-07-28.
        sloppy: Whether its answer leaves out what that revision wants in every result.
    """

    def __init__(self, message: Message, *, modern: bool, sloppy: bool) -> None:
        self.id: RequestId = message["id"]
        self.method: str = message["method"]
        self.params: Message = message.get("params", {})
        self.meta = meta_of(message)
        self.modern = modern
        self._sloppy = sloppy

    def result(self, value: Message) -> None:
        """Answer with a result; a modern one gets what is in every modern result."""
        if self.modern and not self._sloppy:
            value = self._completed(value)
        send({"jsonrpc": "2.0", "id": self.id, "result": value})

    def text(self, words: str) -> None:
        """Answer with a text, in the form that the method wants it."""
        content = {"type": "text", "text": words}
        if self.method == "prompts/get":
            self.result({"messages": [{"role": "user", "content": content}]})
        elif self.method == "resources/read":
            self.result({"contents": [{"uri": self.params["uri"], "text": words}]})
        else:
            self.result({"content": [content]})

    def error(self, code: int, words: str, data: Message | None = None) -> None:
        """Answer with an error."""
        more = {} if data is None else {"data": data}
        send({"jsonrpc": "2.0", "id": self.id, "error": {"code": code, "message": words, **more}})

    def _completed(self, value: Message) -> Message:
        value = {"resultType": "complete", **value}
        value["_meta"] = {**value.get("_meta", {}), f"{PREFIX}serverInfo": SERVER_INFO}
        if value["resultType"] == "complete" and self.method in _CACHE_SCOPES:
            value |= {"ttlMs": _TTL_MS, "cacheScope": _CACHE_SCOPES[self.method]}
        return value
