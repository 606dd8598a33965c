"""uvicorn's HTTP parser, with bounds on what it leaves unbounded.

It keeps any number of header fields, and waits for ever for the rest of a request, or for the first
byte of a connection. A client that sends one byte a minute would hold its place for good.

What a client does not read stays with the connection, up to a whole message. While it does, it is charged
to whoever asked for it.
"""

import asyncio
import re
from typing import ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ..bridge import Budget
from .asgi import ABORT, CHARGE_TO

__all__ = ["bounded_protocol"]

# An offer to change to HTTP/2 or WebSocket, which we leave unanswered (RFC 9110, 7.8). The parser would
# stop at it and never give us the body; Java's client makes one with its first POST.
_UPGRADE = re.compile(rb"\r\nupgrade[ \t]*:", re.IGNORECASE)

_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def _without_upgrade(data: bytes) -> bytes:
    head, end, body = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-unanswered-upgrade:", head) + end + body


class _BoundedProtocol(HttpToolsProtocol):
    max_header_bytes: ClassVar[int]
    receive_timeout: ClassVar[float]

    _receiving = True  # from the first byte of a request to the last; and before the first one
    _in_head = True
    _head_too_long = False
    _overhead_bytes = 0  # received since the last piece of a body, in earlier reads
    _got_body = False
    _read_bytes = 0
    _last_data = 0.0
    _timer: asyncio.TimerHandle | None = None
    _budget: Budget | None = None
    _unread: tuple[Budget, int] | None = None  # what was charged where for what the client has not read

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self._expect_data()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._uncharge()
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        if b"pgrade" in data and (self._in_head or not self._receiving):
            data = _without_upgrade(data)
        self._read_bytes = len(data)
        self._got_body = False
        super().data_received(data)
        # A request that came whole, the usual case, pays for nothing but these two questions.
        if not self._receiving or self.transport.is_closing():
            return
        if self._got_body:
            self._overhead_bytes = 0
        else:
            self._overhead_bytes += len(data)
        if self._overhead_bytes <= self.max_header_bytes:
            self._expect_data()
        elif self._in_head:
            self._head_too_long = True
            self.send_400_response("")
        else:  # trailers without end
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        super().send_400_response("The head of the request is too long." if self._head_too_long else msg)

    def on_message_begin(self) -> None:
        self._receiving = self._in_head = True
        self._overhead_bytes = 0
        super().on_message_begin()
        extensions = {ABORT: self.transport.abort, CHARGE_TO: self._charge_to}
        self.scope["extensions"] = extensions  # type: ignore[typeddict-item] # our own

    def on_header(self, name: bytes, value: bytes) -> None:
        # uvicorn adds trailers to the fields of the head if it has not yet passed them on. What decides who
        # asks must not come behind the body, where proxies do not look (RFC 9110, 6.5.1).
        if self._in_head:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._got_body = True
        super().on_body(body)

    def on_headers_complete(self) -> None:
        self._in_head = False
        # A head is no longer than what was read for it: only a long read is worth adding up.
        if self._overhead_bytes + self._read_bytes > self.max_header_bytes:
            head_bytes = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if head_bytes > self.max_header_bytes:
                self._head_too_long = True
                # Through the parser, which makes uvicorn answer 400 and close the connection.
                raise ValueError("the head of the request is too long")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._receiving = False
        super().on_message_complete()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            # Closing politely would wait for a client that has not read for all that time.
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._budget is not None and self._unread is None:
            # Nothing is added before it is resumed, but the end of the same answer.
            self._unread = self._budget, self.transport.get_write_buffer_size()
            self._budget.add(self._unread[1])

    def resume_writing(self) -> None:
        super().resume_writing()
        self._uncharge()

    def _charge_to(self, budget: Budget) -> None:
        self._budget = budget

    def _uncharge(self) -> None:
        if self._unread is not None:
            budget, size = self._unread
            budget.remove(size)
            self._unread = None

    def _expect_data(self) -> None:
        self._last_data = self.loop.time()
        if self._timer is None:
            self._timer = self.loop.call_later(self.receive_timeout, self._check_pause)

    def _check_pause(self) -> None:
        self._timer = None
        if not self._receiving:
            return
        due = self._last_data + self.receive_timeout
        if due > self.loop.time():
            self._timer = self.loop.call_at(due, self._check_pause)
            return
        # There is none before the first request, whatever its annotation says.
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(_TIMED_OUT)
        self.transport.close()


def bounded_protocol(*, max_header_bytes: int, receive_timeout: float) -> type[HttpToolsProtocol]:
    """Return the protocol class; uvicorn makes its instances, so the bounds live in the class.

    Args:
        max_header_bytes: Longest request head, which gets 400, and longest trailers, which close the
            connection.
        receive_timeout: Seconds that a client may pause within a request, or before its first one;
            then it gets 408 and the connection is closed.
    """

    class BoundedProtocol(_BoundedProtocol):
        pass

    BoundedProtocol.max_header_bytes = max_header_bytes
    BoundedProtocol.receive_timeout = receive_timeout
    return BoundedProtocol
