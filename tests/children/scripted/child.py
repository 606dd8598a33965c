"""The state of the scripted child, its loop, and what it does with a message that comes in.

One thread and one loop: what a call starts (a question, a wait) is finished by a later line or timer, so the
child reads on meanwhile.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time

from .methods import LEGACY_METHODS, MODERN_METHODS
from .wire import MODERN, PREFIX, Call, meta_of

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing at run time would cost 7 ms
    from .questions import Asking
    from .wire import Message, RequestId

__all__ = ["Child"]

# Larger than a pipe, so that a big line takes few reads.
READ_BYTES = 1024 * 1024


class Child:
    """The state of the server: what it was sent, what it waits for, and how it shall behave."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.ends_at_eof = True
        # What it speaks: "legacy", "modern", or "both" until the first request has decided.
        self.era = "legacy"
        self.dual = False
        self.versions = [MODERN]
        self.sloppy = False
        # What it says of itself.
        self.capabilities: Message = {"tools": {"listChanged": True}, "logging": {}}
        self.instructions: str | None = None
        self.answers_initialize = True
        self.initialize_error: tuple[int, str, Message] | None = None
        self.version: str | None = None
        self.answers_discover = True
        self.discover_error: int | None = None
        self.discover_result: object = None
        # What it offers.
        self.pages = 1
        self.annotates = False
        self.absent: set[str] = set()
        self.deadly: set[str] = set()
        # Calls that are not answered yet; those whose cancellation is answered; when they are answered.
        self.parked: dict[RequestId, Call] = {}
        self.confessing: set[RequestId] = set()
        self.deadlines: dict[RequestId, float] = {}
        # Open questions to a legacy client.
        self.questions: dict[RequestId, Asking] = {}
        # Open listen streams, with what was agreed; watched URIs; what changed either; levels that were set.
        self.listens: dict[RequestId, tuple[Call, Message]] = {}
        self.watched: set[str] = set()
        self.history: list[list[object]] = []
        self.levels: list[str] = []

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
                self.unpark(call).text("waited")
            nearest = min(self.deadlines.values(), default=None)
            if select.select([0], [], [], None if nearest is None else max(0.0, nearest - now))[0]:
                return

    def line(self, line: bytes) -> None:
        """Act on one message."""
        self.seen.append(line.decode())
        message: Message = json.loads(line)
        if "method" not in message:
            self.answer(message)
        elif "id" in message:
            self.request(message)
        else:
            self.notification(message)

    def request(self, message: Message) -> None:
        """Answer a request, or start what answers it later."""
        if message["method"] in self.deadly:
            os._exit(3)
        enveloped = f"{PREFIX}protocolVersion" in (meta_of(message) or {})
        if self.era == "both":
            self.era = "modern" if enveloped and message["method"] != "initialize" else "legacy"
        call = Call(message, modern=self.era == "modern", sloppy=self.sloppy)
        if call.modern:
            self._modern_request(call)
        elif self.dual and enveloped and call.method != "initialize":
            call.error(-32600, "this process serves the client that has sent `initialize`")
        else:
            self._serve(call)

    def _modern_request(self, call: Call) -> None:
        meta = call.meta or {}
        version = meta.get(f"{PREFIX}protocolVersion")
        complete = isinstance(version, str) and isinstance(meta.get(f"{PREFIX}clientCapabilities"), dict)
        if call.method != "initialize" and not complete:
            call.error(-32602, "_meta must have protocolVersion and clientCapabilities")
        elif call.method not in ("initialize", "server/discover") and version not in self.versions:
            self.refuse_version(call, version)
        else:
            self._serve(call)

    def _serve(self, call: Call) -> None:
        methods = MODERN_METHODS if call.modern else LEGACY_METHODS
        if call.method in methods and call.method not in self.absent:
            methods[call.method](self, call)
        elif call.method.startswith(("echo/", "tasks/") if call.modern else "echo/"):
            call.result({"line": self.seen[-1]})
        else:
            call.error(-32601, f"no method {call.method}")

    def refuse_version(self, call: Call, requested: object) -> None:
        """Answer that a version is not spoken (basic/versioning, "Protocol Version Negotiation")."""
        facts = {"supported": self.versions, "requested": requested}
        call.error(-32022, "Unsupported protocol version", facts)

    def notification(self, message: Message) -> None:
        """Act on a notification."""
        if message["method"] == "notifications/test/release":
            self.release()
        elif message["method"] == "notifications/cancelled":
            call: RequestId = message["params"]["requestId"]
            if self.listens.pop(call, None):
                self.history.append(["cancelled", call])
            elif call in self.parked:
                confesses = call in self.confessing
                parked = self.unpark(call)
                if confesses:
                    parked.error(-32800, "cancelled")

    def answer(self, message: Message) -> None:
        """Take the client's answer to a question."""
        asking = self.questions.pop(message["id"], None)
        if asking is not None:
            asking.take(message, self.seen[-1])

    def release(self) -> int:
        """Answer every call that waits; return how many there were."""
        released = [self.unpark(call) for call in list(self.parked)]
        for call in released:
            call.text("released")
        return len(released)

    def unpark(self, call: RequestId) -> Call:
        """Forget a call that waits, and return it."""
        self.deadlines.pop(call, None)
        self.confessing.discard(call)
        return self.parked.pop(call)
