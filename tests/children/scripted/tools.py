"""The tools of the scripted child. Their docstrings say what they do; all of them work in both eras."""

from __future__ import annotations

import json
import os
import signal
import time

from .questions import ask
from .wire import PREFIX, notify, write

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing at run time would cost 7 ms
    from collections.abc import Callable
    from typing import TypeAlias

    from .child import Child
    from .wire import Arguments, Call, Message

    Tool: TypeAlias = Callable[[Child, Call, Arguments], None]

__all__ = ["ANNOTATED", "TOOLS"]

TOOLS: dict[str, Tool] = {"ask": ask}

#: The schemas of the tools that say which arguments are to be in header fields, the second one wrongly
#: (basic/transports/streamable-http, "Schema Extension").
ANNOTATED: dict[str, Message] = {
    "annotated": {
        "type": "object",
        "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "dry": {"type": "boolean", "x-mcp-header": "Dry-Run"},
            "limits": {
                "type": "object",
                "properties": {"depth": {"type": "integer", "x-mcp-header": "Depth"}},
            },
            "note": {"type": "string"},
        },
    },
    "misannotated": {
        "type": "object",
        "properties": {"ratio": {"type": "number", "x-mcp-header": "Ratio"}},
    },
}

_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
# What tells of a change of a list → what a listen stream calls it.
_LIST_KINDS = {
    "notifications/tools/list_changed": "toolsListChanged",
    "notifications/prompts/list_changed": "promptsListChanged",
    "notifications/resources/list_changed": "resourcesListChanged",
}


def tool(function: Tool) -> Tool:
    """Offer a function as the tool of its name."""
    TOOLS[function.__name__] = function
    return function


# What it is and has seen.


@tool
def pid(_child: Child, call: Call, _arguments: Arguments) -> None:
    """Tell the process id."""
    call.text(str(os.getpid()))


@tool
def seen(child: Child, call: Call, _arguments: Arguments) -> None:
    """Tell every line that has come so far, as it came."""
    call.text(json.dumps(child.seen))


@tool
def meta(_child: Child, call: Call, _arguments: Arguments) -> None:
    """Tell the `_meta` of this call, null if there is none."""
    call.text(json.dumps(call.meta))


@tool
def environment(_child: Child, call: Call, _arguments: Arguments) -> None:
    """Tell the whole environment."""
    call.text(json.dumps(dict(os.environ)))


@tool
def reveal(child: Child, call: Call, arguments: Arguments) -> None:
    """Tell a `variable` in every way there is: stderr, progress, a log message, a change; last as the answer.

    If it `fails`, as an error; if it `dies`, the child ends without an answer.
    """
    value = os.environ[arguments["variable"]]
    os.write(2, f"the variable is {value}\n".encode())
    token = (call.meta or {}).get("progressToken")
    if token is not None:
        notify("notifications/progress", {"progressToken": token, "progress": 1, "message": value})
    notify("notifications/message", {"level": "info", "data": value})
    _announce(child, call, "notifications/tools/list_changed", {"_meta": {"value": value}})
    if arguments.get("dies"):
        os._exit(3)
    if arguments.get("fails"):
        call.error(-32000, f"failed with {value}", {"value": value})
    else:
        call.text(value)


@tool
def directory(_child: Child, call: Call, _arguments: Arguments) -> None:
    """Tell the working directory."""
    call.text(os.getcwd())  # noqa: PTH109 - pathlib costs 10 ms


@tool
def level(child: Child, call: Call, _arguments: Arguments) -> None:
    """Tell the levels that `logging/setLevel` has set, in order."""
    call.text(json.dumps(child.levels))


@tool
def subscriptions(child: Child, call: Call, _arguments: Arguments) -> None:
    """Tell what is watched: {"watched": [uri], "listens": [{"id", "notifications"}], "history": […]}.

    The history has ["subscribe", uri], ["unsubscribe", uri], ["listen", id, agreed], ["cancelled", id] by
    the client, and ["ended", id] by `end_listens`, in order.
    """
    listens = [{"id": key, "notifications": agreed} for key, (_, agreed) in child.listens.items()]
    told = {"watched": sorted(child.watched), "listens": listens, "history": child.history}
    call.text(json.dumps(told))


# What it answers.


@tool
def echo(_child: Child, call: Call, arguments: Arguments) -> None:
    """Send `text` back."""
    call.text(arguments["text"])


@tool
def blob(_child: Child, call: Call, arguments: Arguments) -> None:
    """Send a text of `bytes` bytes in which no two parts are alike."""
    counters = range(arguments["bytes"] // 8 + 1)
    call.text("".join(f"{counter:08x}" for counter in counters)[: arguments["bytes"]])


@tool
def measure(_child: Child, call: Call, arguments: Arguments) -> None:
    """Tell the size and the hash of `text`."""
    import hashlib  # noqa: PLC0415 - costs 10 ms, and most children never need it

    data = arguments["text"].encode()
    call.text(f"{len(data)} {hashlib.sha256(data).hexdigest()}")


@tool
def structured(_child: Child, call: Call, arguments: Arguments) -> None:
    """Answer with `value` as structuredContent, and as a text."""
    value = arguments["value"]
    call.result({"content": [{"type": "text", "text": json.dumps(value)}], "structuredContent": value})


@tool
def fail(_child: Child, call: Call, arguments: Arguments) -> None:
    """Answer with an error: `code`, `message`, `data`."""
    call.error(arguments["code"], arguments.get("message", "failed"), arguments.get("data"))


@tool
def raw(_child: Child, call: Call, arguments: Arguments) -> None:
    r"""Write `lines` as they are, with the id of this call for `$ID`. Nothing else answers it.

    `encoding` is UTF-8 by default; with "latin-1" every character is one byte.
    """
    lines = "".join(line.replace("$ID", json.dumps(call.id)) + "\n" for line in arguments["lines"])
    write(lines.encode(arguments.get("encoding", "utf-8")))


@tool
def annotate(child: Child, call: Call, arguments: Arguments) -> None:
    """List the annotated tools from now on, or no more if `on` is false; nobody is told."""
    child.annotates = arguments.get("on", True)
    call.text("annotated" if child.annotates else "plain")


@tool
def annotated(_child: Child, call: Call, arguments: Arguments) -> None:
    """Tell the arguments: `region` is in Mcp-Param-Region, `dry` in …-Dry-Run, `limits.depth` in …-Depth."""
    call.text(json.dumps(arguments))


@tool
def misannotated(_child: Child, call: Call, arguments: Arguments) -> None:
    """Tell the arguments; the annotation of `ratio` is not valid."""
    call.text(json.dumps(arguments))


# What it does while it is called.


@tool
def wait(child: Child, call: Call, arguments: Arguments) -> None:
    """Answer after `seconds`, or at `release`; a cancellation only if `confesses`."""
    child.parked[call.id] = call
    if arguments.get("confesses"):
        child.confessing.add(call.id)
    if "seconds" in arguments:
        child.deadlines[call.id] = time.monotonic() + arguments["seconds"]


@tool
def release(child: Child, call: Call, _arguments: Arguments) -> None:
    """Answer every `wait`, as `notifications/test/release` does, then tell how many there were."""
    call.text(str(child.release()))


@tool
def say(_child: Child, call: Call, arguments: Arguments) -> None:
    """Send `count` notifications of a `method`, of `bytes` bytes; answer last, or first if `after`."""
    if arguments.get("after"):
        call.text("said")
    padding = "x" * arguments.get("bytes", 0)
    method = arguments.get("method", "notifications/message")
    # In one write: the broker may have all of them before it looks at the first.
    lines = [
        json.dumps(
            {
                "jsonrpc": "2.0",
                "method": method,
                "params": {"level": "info", "data": number, "padding": padding},
            }
        )
        for number in range(arguments["count"])
    ]
    write("".join(line + "\n" for line in lines).encode())
    if not arguments.get("after"):
        call.text("said")


@tool
def log(child: Child, call: Call, arguments: Arguments) -> None:
    """Send `notifications/message` of a `level` ("info") with `data` ("logged"), then answer.

    If `polite`, only as the client has asked for it: in modern by the logLevel of this call, in legacy not
    below the level that is set. Tell "sent" or "kept".
    """
    name = arguments.get("level", "info")
    if not arguments.get("polite") or _is_wanted(child, call, name):
        notify("notifications/message", {"level": name, "data": arguments.get("data", "logged")})
        call.text("sent")
    else:
        call.text("kept")


def _is_wanted(child: Child, call: Call, name: str) -> bool:
    if call.modern:
        least = (call.meta or {}).get(f"{PREFIX}logLevel")
    else:
        least = child.levels[-1] if child.levels else "debug"
    return least is not None and _LEVELS.index(name) >= _LEVELS.index(least)


@tool
def progress(_child: Child, call: Call, arguments: Arguments) -> None:
    """Send `steps` of progress under the token of the call, then answer, then one step too late."""
    token = (call.meta or {}).get("progressToken")
    for step in range(arguments["steps"]):
        notify("notifications/progress", {"progressToken": token, "progress": step, "x-field": None})
    call.text(json.dumps(call.params))
    notify("notifications/progress", {"progressToken": token, "progress": 99})


@tool
def withdraw(child: Child, call: Call, _arguments: Arguments) -> None:
    """Cancel every open question, whose calls are then never answered; tell how many there were."""
    questions = list(child.questions)
    child.questions.clear()
    for question in questions:
        notify("notifications/cancelled", {"requestId": question})
    call.text(str(len(questions)))


@tool
def change(child: Child, call: Call, arguments: Arguments) -> None:
    """Send the notification `method` with `params`, then tell how often.

    In legacy once, whatever is watched. In modern to every listen stream that it matches, with its
    subscriptionId; to all of them if `force`.
    """
    method, params = arguments["method"], arguments.get("params", {})
    call.text(str(_announce(child, call, method, params, force=arguments.get("force", False))))


def _announce(child: Child, call: Call, method: str, params: Message, *, force: bool = False) -> int:
    if not call.modern:
        notify(method, params)
        return 1
    listens = [key for key, (_, agreed) in child.listens.items() if force or _matches(agreed, method, params)]
    for listen in listens:
        tag = {**params.get("_meta", {}), f"{PREFIX}subscriptionId": listen}
        notify(method, {**params, "_meta": tag})
    return len(listens)


def _matches(agreed: Message, method: str, params: Message) -> bool:
    if method == "notifications/resources/updated":
        return params["uri"] in agreed.get("resourceSubscriptions", ())
    return _LIST_KINDS.get(method) in agreed


@tool
def end_listens(child: Child, call: Call, arguments: Arguments) -> None:
    """End every listen stream, then tell how many there were.

    Args: `how`: "result", the graceful end (default); "cancelled", a notification; "error".
    """
    ended = list(child.listens.items())
    child.listens.clear()
    for key, (listen, _) in ended:
        child.history.append(["ended", key])
        _END[arguments.get("how", "result")](listen)
    call.text(str(len(ended)))


# The two pages disagree: basic/patterns/subscriptions, "Graceful Closure", and basic/patterns/cancellation.
_END: dict[str, Callable[[Call], None]] = {
    "result": lambda listen: listen.result({"_meta": {f"{PREFIX}subscriptionId": listen.id}}),
    "cancelled": lambda listen: notify("notifications/cancelled", {"requestId": listen.id}),
    "error": lambda listen: listen.error(-32603, "no more listening"),
}


# How it misbehaves as a process.


@tool
def die(_child: Child, _call: Call, arguments: Arguments) -> None:
    """End without an answer: with a `code`, or by a `signal`; first write `text` without a newline."""
    write(arguments.get("text", "").encode())
    os.write(2, b"stderr of the dying child\n")
    if "signal" in arguments:
        os.kill(os.getpid(), arguments["signal"])
    os._exit(arguments.get("code", 0))


@tool
def close_stdout(_child: Child, _call: Call, _arguments: Arguments) -> None:
    """Close stdout without an answer, and live on."""
    os.close(1)


@tool
def close_stdin(_child: Child, call: Call, _arguments: Arguments) -> None:
    """Close stdin, and live on."""
    os.close(0)
    call.text("closed")
    signal.pause()


@tool
def complain(_child: Child, call: Call, arguments: Arguments) -> None:
    """Write `text` to stderr."""
    os.write(2, arguments["text"].encode() + b"\n")
    call.text("complained")


@tool
def stop_reading(_child: Child, call: Call, arguments: Arguments) -> None:
    """Answer, and read nothing for `seconds`."""
    call.text("not reading")
    time.sleep(arguments["seconds"])


@tool
def turn_stubborn(child: Child, call: Call, _arguments: Arguments) -> None:
    """From now on, live on when stdin ends, and after SIGTERM."""
    child.ends_at_eof = False
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    call.text("as you like")
