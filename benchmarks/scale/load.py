"""Calls sessions in an open loop: each call is due at a fixed time, whatever became of those before.

Latency counts from the due time, so a stall of the broker is seen by every call that it delays. There are two
threads. One sleeps until a call is due and sends it, to some 60 µs where an event loop rounds up to 1 ms; the
other reads the answers. How late the first one was is told beside the latency, of which it is a part.
"""

import gc
import selectors
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from benchmarks.scale.http import AnswerReader, CallFailed, Endpoint, check_text, echo_body
from benchmarks.scale.numbers import due_times

__all__ = ["Calls", "OpenLoop"]

# What the last calls get to be answered.
_LAST_ANSWERS = 10.0
_READ_BYTES = 64 * 1024
_LOOK = 0.05
_SWITCH_INTERVAL = 0.0002


@dataclass(slots=True, kw_only=True)
class Calls:
    """What a run has seen.

    Args:
        began: Its start, by `time.monotonic`.
        due: When each right answer was due, in seconds after the start; `latency` and `late` belong to it.
        latency: Seconds from then to its answer.
        late: Seconds from then until the client had sent it, or had found its connection busy.
        errors: Wrong answers, and none.
        client_cpu: Share of one core that the client took.
    """

    began: float = 0.0
    due: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    errors: int = 0
    first_error: str = ""
    seconds: float = 0.0
    client_cpu: float = 0.0

    def fail(self, problem: str) -> None:
        """Count an error."""
        self.errors += 1
        self.first_error = self.first_error or problem


@dataclass(slots=True, kw_only=True)
class _Call:
    number: int
    due: float
    text: str
    late: float = 0.0


class _Line:
    """One session over one connection: one call at a time, the others wait their turn."""

    __slots__ = ("calls", "head", "reader", "session", "socket")

    def __init__(self, endpoint: Endpoint, session: str) -> None:
        self.session = session
        self.head = endpoint.head(session)
        self.socket: socket.socket = endpoint.connect()
        self.socket.settimeout(0)
        self.reader = AnswerReader()
        self.calls: deque[_Call] = deque()

    def send(self) -> None:
        call = self.calls[0]
        body = echo_body(call.number, call.text)
        data = b"%s%d\r\n\r\n%s" % (self.head, len(body), body)
        if self.socket.send(data) != len(data):
            raise CallFailed("expected room for a small request in an empty socket")


class OpenLoop:
    """The connections of some sessions, and the calls over them. Use it as a context manager.

    Args:
        sessions: Their ids; one that stands there twice gets two connections.
    """

    def __init__(self, endpoint: Endpoint, sessions: Sequence[str]) -> None:
        self._lines: list[_Line] = []
        try:
            for session in sessions:
                self._lines.append(_Line(endpoint, session))
        except OSError:
            self.close()
            raise
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._stop = threading.Event()

    def close(self) -> None:
        """Close the connections."""
        for line in self._lines:
            line.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stop(self) -> None:
        """Let a run end before its time; for other threads."""
        self._stop.set()

    def run(self, *, rate: float, seconds: float) -> Calls:
        """Make `rate` calls a second, over the connections in turn."""
        calls = Calls()
        self._done.clear()
        self._stop.clear()
        with _undisturbed():
            cpu, began = time.process_time(), time.monotonic()
            calls.began = began
            sender = threading.Thread(target=self._send_all, args=(calls, began, due_times(rate, seconds)))
            sender.start()
            self._receive_all(calls, began)
            sender.join()
            calls.seconds = time.monotonic() - began
            calls.client_cpu = (time.process_time() - cpu) / calls.seconds
        for line in self._lines:
            for _ in line.calls:
                calls.fail("expected an answer in time, found none")
            line.calls.clear()
        return calls

    def _send_all(self, calls: Calls, began: float, due: Sequence[float]) -> None:
        for number, seconds in enumerate(due):
            pause = began + seconds - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            if self._stop.is_set():
                break
            line = self._lines[number % len(self._lines)]
            call = _Call(number=number, due=began + seconds, text=f"{line.session} {number}")
            with self._lock:
                line.calls.append(call)
                call.late = time.monotonic() - call.due
                if len(line.calls) == 1:
                    self._send(calls, line)
        self._done.set()

    def _send(self, calls: Calls, line: _Line) -> None:
        try:
            line.send()
        except (CallFailed, OSError) as exc:
            line.calls.popleft()
            calls.fail(f"{type(exc).__name__}: {exc}")

    def _receive_all(self, calls: Calls, began: float) -> None:
        deadline: float | None = None
        with selectors.DefaultSelector() as selector:
            for line in self._lines:
                selector.register(line.socket, selectors.EVENT_READ, line)
            while True:
                for key, _ in selector.select(_LOOK):
                    if not self._receive(calls, key.data, began):
                        selector.unregister(key.fileobj)
                if self._done.is_set():
                    deadline = deadline or time.monotonic() + _LAST_ANSWERS
                    if time.monotonic() > deadline or not any(line.calls for line in self._lines):
                        return

    def _receive(self, calls: Calls, line: _Line, began: float) -> bool:
        """Take what has come over one connection; False: it is of no use any more."""
        try:
            data = line.socket.recv(_READ_BYTES)
            now = time.monotonic()
            answers = line.reader.feed(data)
        except (CallFailed, OSError) as exc:
            calls.fail(f"{type(exc).__name__}: {exc}")
            return False
        for answer in answers:
            with self._lock:
                if not line.calls:
                    calls.fail("expected nothing, found an answer that nobody has asked for")
                    return False
                call = line.calls.popleft()
                if line.calls:
                    self._send(calls, line)
            try:
                check_text(answer, call.number, call.text)
            except CallFailed as exc:
                calls.fail(str(exc))
            else:
                calls.due.append(call.due - began)
                calls.latency.append(now - call.due)
                calls.late.append(call.late)
        return data != b""


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the client's own pauses out of what it measures."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        sys.setswitchinterval(interval)
