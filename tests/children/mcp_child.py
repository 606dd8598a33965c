"""An MCP server for tests, of the revisions up to 2025-11-25, that can behave well and badly on demand.

Only the standard library, and of that little: `python -I -S` runs it in 30 ms. One thread and one loop: what
a tool starts (a question, a wait) is finished by a later line or timer, so the child reads on meanwhile.

    mcp_child.py [MODE…]

The modes are the functions in the section "Modes", the tools those in "Tools"; their docstrings say what they
do. A word `NAME=VALUE` gives a mode its value. Methods that begin with `echo/` are answered with their line.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, Any]
Arguments: TypeAlias = dict[str, Any]
RequestId: TypeAlias = int | str

VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
# Larger than a pipe, so that a big line takes few reads.
READ_BYTES = 1024 * 1024


class Child:
    """The state of the server: what it was sent, what it waits for, and how it shall behave."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.capabilities: Message = {"tools": {"listChanged": True}, "logging": {}}
        self.answers_initialize = True
        self.initialize_error: Message | None = None
        self.version: str | None = None
        self.ends_at_eof = True
        # Calls that are not answered yet, with what to do when they are cancelled.
        self.parked: dict[RequestId, bool] = {}
        self.deadlines: dict[RequestId, float] = {}
        # Question → the round that it belongs to.
        self.rounds: dict[RequestId, Round] = {}

    def run(self) -> None:
        """Serve until the end of stdin."""
        rest: list[bytes] = []
        while True:
            self._wait_readable()
            chunk = os.read(0, READ_BYTES)
            if not chunk:
                break
            *lines, last = chunk.split(b"\n")
            for line in lines:
                self.line(b"".join([*rest, line]))
                rest.clear()
            rest.append(last)
        while not self.ends_at_eof:
            signal.pause()

    def _wait_readable(self) -> None:
        while True:
            now = time.monotonic()
            for call in [call for call, deadline in self.deadlines.items() if deadline <= now]:
                self.unpark(call)
                text(call, "waited")
            nearest = min(self.deadlines.values(), default=None)
            if select.select([0], [], [], None if nearest is None else max(0.0, nearest - now))[0]:
                return

    def line(self, line: bytes) -> None:
        """Act on one message."""
        self.seen.append(line.decode())
        message: Message = json.loads(line)
        if "method" not in message:
            self.answer(message, self.seen[-1])
        elif "id" in message:
            self.request(message)
        else:
            self.notification(message)

    def request(self, message: Message) -> None:
        """Answer a request, or start what answers it later."""
        call, method, params = message["id"], message["method"], message.get("params", {})
        if method == "initialize":
            self.initialize(call, params)
        elif method == "ping":
            result(call, {})
        elif method == "tools/call":
            TOOLS[params["name"]](self, call, params)
        elif method.startswith("echo/"):
            result(call, {"line": self.seen[-1]})
        else:
            error(call, -32601, f"no method {method}")

    def initialize(self, call: RequestId, params: Message) -> None:
        """Answer `initialize` as the modes want it."""
        if self.initialize_error is not None:
            send({"jsonrpc": "2.0", "id": call, "error": self.initialize_error})
        elif self.answers_initialize:
            asked = params["protocolVersion"]
            result(
                call,
                {
                    "protocolVersion": self.version or (asked if asked in VERSIONS else VERSIONS[-1]),
                    "capabilities": self.capabilities,
                    "serverInfo": {"name": "mcp-child", "version": "1.0", "x-field": [1, 2.50]},
                    "x-member": "kept",
                },
            )

    def notification(self, message: Message) -> None:
        """Act on a notification."""
        if message["method"] == "notifications/test/release":
            for call in list(self.parked):
                self.unpark(call)
                text(call, "released")
        elif message["method"] == "notifications/cancelled":
            call = message["params"]["requestId"]
            if call in self.parked and self.unpark(call):
                error(call, -32800, "cancelled")

    def answer(self, message: Message, line: str) -> None:
        """Take the client's answer to a question; the call that asked is answered with all of them."""
        waiting = self.rounds.pop(message["id"], None)
        if waiting is not None:
            waiting.answers.append(line)
            if len(waiting.answers) == waiting.size:
                text(waiting.call, json.dumps(waiting.answers))

    def unpark(self, call: RequestId) -> bool:
        """Forget a call that waits; tell whether its cancellation is answered."""
        self.deadlines.pop(call, None)
        return self.parked.pop(call)


class Round:
    """Questions of one call: their number, and the answers so far."""

    def __init__(self, call: RequestId, size: int) -> None:
        self.call = call
        self.size = size
        self.answers: list[str] = []


# Output. Written with one system call if the pipe takes it: a message that is out is out.


def write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def send(message: Message) -> None:
    write(json.dumps(message, separators=(",", ":")).encode() + b"\n")


def result(call: RequestId, value: Message) -> None:
    send({"jsonrpc": "2.0", "id": call, "result": value})


def error(call: RequestId, code: int, words: str) -> None:
    send({"jsonrpc": "2.0", "id": call, "error": {"code": code, "message": words}})


def text(call: RequestId, words: str) -> None:
    result(call, {"content": [{"type": "text", "text": words}]})


def notify(method: str, params: Message) -> None:
    send({"jsonrpc": "2.0", "method": method, "params": params})


# Tools.

Tool: TypeAlias = Callable[[Child, RequestId, Message], None]
TOOLS: dict[str, Tool] = {}


def tool(function: Callable[[Child, RequestId, Arguments], None]) -> Tool:
    """Offer a function as the tool of its name."""

    def with_arguments(child: Child, call: RequestId, params: Message) -> None:
        function(child, call, params.get("arguments", {}))

    TOOLS[function.__name__] = with_arguments
    return with_arguments


@tool
def pid(_child: Child, call: RequestId, _arguments: Arguments) -> None:
    """Tell the process id."""
    text(call, str(os.getpid()))


@tool
def echo(_child: Child, call: RequestId, arguments: Arguments) -> None:
    """Send `text` back."""
    text(call, arguments["text"])


@tool
def seen(child: Child, call: RequestId, _arguments: Arguments) -> None:
    """Tell every line that has come so far, as it came."""
    text(call, json.dumps(child.seen))


@tool
def environment(_child: Child, call: RequestId, _arguments: Arguments) -> None:
    """Tell the whole environment."""
    text(call, json.dumps(dict(os.environ)))


@tool
def directory(_child: Child, call: RequestId, _arguments: Arguments) -> None:
    """Tell the working directory."""
    text(call, os.getcwd())  # noqa: PTH109 - pathlib costs 10 ms


@tool
def blob(_child: Child, call: RequestId, arguments: Arguments) -> None:
    """Send a text of `bytes` bytes in which no two parts are alike."""
    counters = range(arguments["bytes"] // 8 + 1)
    text(call, "".join(f"{counter:08x}" for counter in counters)[: arguments["bytes"]])


@tool
def measure(_child: Child, call: RequestId, arguments: Arguments) -> None:
    """Tell the size and the hash of `text`."""
    import hashlib  # noqa: PLC0415 - costs 10 ms, and most children never need it

    data = arguments["text"].encode()
    text(call, f"{len(data)} {hashlib.sha256(data).hexdigest()}")


@tool
def raw(_child: Child, call: RequestId, arguments: Arguments) -> None:
    r"""Write `lines` as they are, with the id of this call for `$ID`. Nothing else answers it.

    `encoding` is UTF-8 by default; with "latin-1" every character is one byte.
    """
    lines = "".join(line.replace("$ID", json.dumps(call)) + "\n" for line in arguments["lines"])
    write(lines.encode(arguments.get("encoding", "utf-8")))


@tool
def wait(child: Child, call: RequestId, arguments: Arguments) -> None:
    """Answer after `seconds`, or at `notifications/test/release`; a cancellation only if `confesses`."""
    child.parked[call] = arguments.get("confesses", False)
    if "seconds" in arguments:
        child.deadlines[call] = time.monotonic() + arguments["seconds"]


@tool
def say(_child: Child, call: RequestId, arguments: Arguments) -> None:
    """Send `count` notifications of a `method`, of `bytes` bytes; answer last, or first if `after`."""
    if arguments.get("after"):
        text(call, "said")
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
        text(call, "said")


@tool
def ask(child: Child, call: RequestId, arguments: Arguments) -> None:
    """Ask the client the `questions` (`id`, `method`, `params`) and answer with the lines of its answers."""
    questions = arguments["questions"]
    waiting = Round(call, len(questions))
    for question in questions:
        child.rounds[question["id"]] = waiting
        send({"jsonrpc": "2.0", **question})


@tool
def die(_child: Child, _call: RequestId, arguments: Arguments) -> None:
    """End without an answer: with a `code`, or by a `signal`; first write `text` without a newline."""
    write(arguments.get("text", "").encode())
    os.write(2, b"stderr of the dying child\n")
    if "signal" in arguments:
        os.kill(os.getpid(), arguments["signal"])
    os._exit(arguments.get("code", 0))


@tool
def close_stdout(_child: Child, _call: RequestId, _arguments: Arguments) -> None:
    """Close stdout without an answer, and live on."""
    os.close(1)


@tool
def close_stdin(_child: Child, call: RequestId, _arguments: Arguments) -> None:
    """Close stdin, and live on."""
    os.close(0)
    text(call, "closed")
    signal.pause()


@tool
def complain(_child: Child, call: RequestId, arguments: Arguments) -> None:
    """Write `text` to stderr."""
    os.write(2, arguments["text"].encode() + b"\n")
    text(call, "complained")


@tool
def stop_reading(_child: Child, call: RequestId, arguments: Arguments) -> None:
    """Answer, and read nothing for `seconds`."""
    text(call, "not reading")
    time.sleep(arguments["seconds"])


@tool
def turn_stubborn(child: Child, call: RequestId, _arguments: Arguments) -> None:
    """From now on, live on when stdin ends, and after SIGTERM."""
    child.ends_at_eof = False
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    text(call, "as you like")


def progress(_child: Child, call: RequestId, params: Message) -> None:
    """Send `steps` of progress under the token of the call, then answer, then one step too late."""
    token = params.get("_meta", {}).get("progressToken")
    for step in range(params["arguments"]["steps"]):
        notify("notifications/progress", {"progressToken": token, "progress": step, "x-field": None})
    text(call, json.dumps(params))
    notify("notifications/progress", {"progressToken": token, "progress": 99})


TOOLS["progress"] = progress


# Modes.

MODES: dict[str, Callable[[Child, str], None]] = {}


def mode(function: Callable[[Child, str], None]) -> Callable[[Child, str], None]:
    """Offer a function as the mode of its name, with dashes."""
    MODES[function.__name__.replace("_", "-")] = function
    return function


@mode
def ignore_eof(child: Child, _value: str) -> None:
    """Live on when stdin ends."""
    child.ends_at_eof = False


@mode
def ignore_sigterm(_child: Child, _value: str) -> None:
    """Live on after SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@mode
def silent(child: Child, _value: str) -> None:
    """Never answer `initialize`."""
    child.answers_initialize = False


@mode
def refuse(child: Child, value: str) -> None:
    """Answer `initialize` with an error."""
    child.initialize_error = {"code": -32602, "message": value or "refused", "data": {"why": ["x", 1.50]}}


@mode
def version(child: Child, value: str) -> None:
    """Choose this version, whatever is asked for."""
    child.version = value


@mode
def exit_at_start(_child: Child, value: str) -> None:
    """Complain and end with this code."""
    os.write(2, b"first complaint\nlast complaint\n")
    os._exit(int(value))


@mode
def start_stderr(_child: Child, value: str) -> None:
    """Write this to stderr first."""
    os.write(2, value.encode() + b"\n")


@mode
def banner(_child: Child, _value: str) -> None:
    """Write to stdout what does not belong there: text, no UTF-8, an empty line, JSON that is no JSON-RPC."""
    write(b"Welcome to mcp-child!\n\xff\xfe\x80 caf\xe9\n\n")
    write(b'{"hello": "world"}\n[]\n"text"\n\x1b[31mred\x1b[0m\r\n')


@mode
def early_log(_child: Child, _value: str) -> None:
    """Log before `initialize` is answered."""
    notify("notifications/message", {"level": "info", "data": "early"})


@mode
def slow_start(child: Child, value: str) -> None:
    """Take so many seconds before reading anything."""
    time.sleep(float(value))


@mode
def start_when(_child: Child, value: str) -> None:
    """Read nothing until this file exists."""
    while not os.path.exists(value):  # noqa: PTH110 - pathlib costs 10 ms
        time.sleep(0.01)


def main() -> None:
    child = Child()
    for word in sys.argv[1:]:
        name, _, value = word.partition("=")
        MODES[name](child, value)
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        child.run()


if __name__ == "__main__":
    main()
