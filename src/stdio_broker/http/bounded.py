"""uvicorn's HTTP parser, with bounds on what it leaves unbounded.

It keeps any number of header fields, and waits for ever for the rest of a request, or for the first
byte of a connection. A client that sends one byte a minute would hold its place for good.
"""

import asyncio
from typing import ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

__all__ = ["bounded_protocol"]

_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class _BoundedProtocol(HttpToolsProtocol):
    max_header_bytes: ClassVar[int]
    receive_timeout: ClassVar[float]

    _receiving = True  # from the first byte of a request to the last; and before the first one
    _in_head = True
    _head_too_long = False
    _head_bytes = 0
    _last_data = 0.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        self._expect_data()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # A request that came whole, the usual case, pays for nothing but these two questions.
        if not self._receiving or self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self.max_header_bytes:
                self._head_too_long = True
                self.send_400_response("")
                return
        self._expect_data()

    def send_400_response(self, msg: str) -> None:
        super().send_400_response("The head of the request is too long." if self._head_too_long else msg)

    def on_message_begin(self) -> None:
        self._receiving = self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if (
            len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            > self.max_header_bytes
        ):
            self._head_too_long = True
            # Through the parser, which makes uvicorn answer 400 and close the connection.
            raise ValueError("the head of the request is too long")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._receiving = False
        super().on_message_complete()

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
        max_header_bytes: Longest request head; a longer one gets 400.
        receive_timeout: Seconds that a client may pause within a request, or before its first one;
            then it gets 408 and the connection is closed.
    """

    class BoundedProtocol(_BoundedProtocol):
        pass

    BoundedProtocol.max_header_bytes = max_header_bytes
    BoundedProtocol.receive_timeout = receive_timeout
    return BoundedProtocol
