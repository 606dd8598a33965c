"""The methods of the scripted child: a table for each era, and what is in both.

Which capabilities are declared makes no difference to what is answered: a method that was asked for in spite
of them is seen by the test, not refused.
"""

from __future__ import annotations

import json
import math

from .questions import ask
from .tools import ANNOTATED, TOOLS
from .wire import PREFIX, SERVER_INFO, notify, send

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing at run time would cost 7 ms
    from collections.abc import Callable
    from typing import TypeAlias

    from .child import Child
    from .wire import Call, Message

    Method: TypeAlias = Callable[[Child, Call], None]

__all__ = ["LEGACY_METHODS", "LEGACY_VERSIONS", "MODERN_METHODS"]

LEGACY_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")

# What a listen stream can carry → the capability that says that the server sends it.
_KINDS = {
    "toolsListChanged": ("tools", "listChanged"),
    "promptsListChanged": ("prompts", "listChanged"),
    "resourcesListChanged": ("resources", "listChanged"),
    "resourceSubscriptions": ("resources", "subscribe"),
}
_PROMPTS: list[Message] = [
    {"name": "greet", "arguments": [{"name": "who"}], "x-member": "kept"},
    {
        "name": "ask",
        "arguments": [{"name": "ask", "description": "those of the tool `ask`, as JSON"}],
    },
]
_RESOURCES: list[Message] = [
    {"uri": "test:one", "name": "one", "x-member": "kept"},
    {"uri": "test:two", "name": "two"},
    {"uri": "ask:", "name": "ask"},
]
_TEMPLATES: list[Message] = [
    {"uriTemplate": "test:{name}", "name": "any", "x-member": "kept"},
    {"uriTemplate": "ask:{arguments}", "name": "ask"},
]


# Opening.


def _initialize(child: Child, call: Call) -> None:
    if child.initialize_error is not None:
        call.error(*child.initialize_error)
    elif call.modern:
        child.refuse_version(call, call.params.get("protocolVersion"))
    elif child.answers_initialize:
        asked = call.params["protocolVersion"]
        version = child.version or (asked if asked in LEGACY_VERSIONS else LEGACY_VERSIONS[-1])
        call.result(
            {
                "protocolVersion": version,
                "capabilities": child.capabilities,
                "serverInfo": SERVER_INFO,
                **_instructions(child),
                "x-member": "kept",
            }
        )


def _discover(child: Child, call: Call) -> None:
    if not child.answers_discover:
        return
    if child.discover_error == -32022:
        child.refuse_version(call, (call.meta or {}).get(f"{PREFIX}protocolVersion"))
    elif child.discover_error is not None:
        call.error(child.discover_error, "no discovery")
    elif child.discover_result is not None:
        send({"jsonrpc": "2.0", "id": call.id, "result": child.discover_result})
    elif call.modern:
        call.result(
            {
                "supportedVersions": child.versions,
                "capabilities": child.capabilities,
                **_instructions(child),
                "x-member": "kept",
            }
        )
    else:
        call.error(-32601, f"no method {call.method}")


def _instructions(child: Child) -> Message:
    return {} if child.instructions is None else {"instructions": child.instructions}


# Tools, prompts, resources.


def _tools_list(child: Child, call: Call) -> None:
    tools = [_description(name, call) for name in TOOLS if name not in ANNOTATED]
    if child.annotates:
        tools += [{"name": name, "inputSchema": schema} for name, schema in ANNOTATED.items()]
    _page(child, call, "tools", tools)


def _description(name: str, call: Call) -> Message:
    tool: Message = {"name": name, "inputSchema": {"type": "object", "$anchor": name}, "x-member": "kept"}
    if name == "wait" and not call.modern:
        tool["execution"] = {"taskSupport": "optional"}
    if name == "structured":
        tool["outputSchema"] = {"type": "array" if call.modern else "object"}
    return tool


def _page(child: Child, call: Call, name: str, items: list[Message]) -> None:
    pages = [str(number) for number in range(child.pages)]
    cursor = call.params.get("cursor", "0")
    if cursor not in pages:
        call.error(-32602, f"no page {cursor}")
        return
    number, size = int(cursor), math.ceil(len(items) / child.pages)
    more = {"nextCursor": str(number + 1)} if number + 1 < child.pages else {}
    call.result({name: items[number * size : (number + 1) * size], **more, "x-member": "kept"})


def _tools_call(child: Child, call: Call) -> None:
    name = call.params["name"]
    if name in TOOLS:
        TOOLS[name](child, call, call.params.get("arguments", {}))
    else:
        call.error(-32602, f"no tool {name}")


def _prompts_get(child: Child, call: Call) -> None:
    name, arguments = call.params["name"], call.params.get("arguments", {})
    if name == "ask":
        ask(child, call, json.loads(arguments.get("ask", "{}")))
    elif name == "greet":
        call.text(f"Greet {arguments.get('who', 'everybody')}.")
    else:
        call.error(-32602, f"no prompt {name}")


def _resources_read(child: Child, call: Call) -> None:
    scheme, _, path = call.params["uri"].partition(":")
    if scheme == "ask":
        from urllib.parse import unquote  # noqa: PLC0415 - costs 5 ms, and most children never need it

        ask(child, call, json.loads(unquote(path) or "{}"))
    elif scheme == "test":
        call.text(path)
    else:
        # The code of the revisions up to 2025-11-25, and that of 2026-07-28.
        call.error(-32602 if call.modern else -32002, "Resource not found", {"uri": call.params["uri"]})


def _complete(_child: Child, call: Call) -> None:
    value = call.params["argument"]["value"]
    call.result({"completion": {"values": [f"{value}1", f"{value}2"], "total": 2, "hasMore": False}})


# What only one era has.


def _ping(_child: Child, call: Call) -> None:
    call.result({})


def _subscribe(child: Child, call: Call) -> None:
    child.watched.add(call.params["uri"])
    child.history.append(["subscribe", call.params["uri"]])
    call.result({})


def _unsubscribe(child: Child, call: Call) -> None:
    child.watched.discard(call.params["uri"])
    child.history.append(["unsubscribe", call.params["uri"]])
    call.result({})


def _set_level(child: Child, call: Call) -> None:
    child.levels.append(call.params["level"])
    call.result({})


def _listen(child: Child, call: Call) -> None:
    """Acknowledge what is supported (basic/patterns/subscriptions, "Acknowledgment"); answered at the end."""
    agreed = {
        kind: wanted
        for kind, wanted in call.params["notifications"].items()
        if wanted and kind in _KINDS and child.capabilities.get(_KINDS[kind][0], {}).get(_KINDS[kind][1])
    }
    child.listens[call.id] = (call, agreed)
    child.history.append(["listen", call.id, agreed])
    tag = {f"{PREFIX}subscriptionId": call.id}
    notify("notifications/subscriptions/acknowledged", {"_meta": tag, "notifications": agreed})


_METHODS: dict[str, Method] = {
    "initialize": _initialize,
    "server/discover": _discover,
    "tools/list": _tools_list,
    "tools/call": _tools_call,
    "prompts/list": lambda child, call: _page(child, call, "prompts", _PROMPTS),
    "prompts/get": _prompts_get,
    "resources/list": lambda child, call: _page(child, call, "resources", _RESOURCES),
    "resources/templates/list": lambda child, call: _page(child, call, "resourceTemplates", _TEMPLATES),
    "resources/read": _resources_read,
    "completion/complete": _complete,
}
LEGACY_METHODS: dict[str, Method] = {
    **_METHODS,
    "ping": _ping,
    "resources/subscribe": _subscribe,
    "resources/unsubscribe": _unsubscribe,
    "logging/setLevel": _set_level,
}
MODERN_METHODS: dict[str, Method] = {**_METHODS, "subscriptions/listen": _listen}
