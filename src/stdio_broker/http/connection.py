"""One client's connection: bytes to requests, in their order, and answers back, within bounds.

The parser is httptools'. What it leaves to us is bounded here: the length of a head and of trailers, the
pauses within a request, how many requests wait, and what a client leaves unread.

    data ─▶ the same head again? ─ yes ──────────────▶ Incoming ─▶ queue ─▶ application, one at a time
                    └─ no ─▶ parser ─▶ head, body ─────────┘

Nothing here waits, and the application need not either: a short call that comes whole is passed on within
`data_received`, and its answer is one write.

Source: RFC 9112.
"""

import asyncio
import re
from collections import deque
from collections.abc import Coroutine
from typing import Protocol, cast
from urllib.parse import unquote

import httptools

from ..bridge import Budget
from .head import Head, RepeatedHead
from .incoming import Incoming
from .wire import HttpRequest

__all__ = ["Connection", "Owner"]

#: Requests that may wait for the answer to an earlier one. Nobody who pipelines sends more in a row.
MAX_WAITING = 64

#: Bytes of a long request that are read before everybody else has a turn: one or two milliseconds.
MAX_READ_BYTES = 1024 * 1024

# An offer to change to HTTP/2 or WebSocket, which we leave unanswered (RFC 9110, 7.8). The parser would
# stop at it and never give us the body; Java's client makes one with its first POST.
_UPGRADE = re.compile(rb"\r\nupgrade[ \t]*:", re.IGNORECASE)


def _refusal(status: bytes, text: bytes) -> bytes:
    head = b"HTTP/1.1 %b\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
    return head % (status, len(text), text)


_NO_HTTP = _refusal(b"400 Bad Request", b"expected an HTTP request\n")
_TOO_LONG = _refusal(b"400 Bad Request", b"the head of the request is longer than this broker accepts\n")
_TIMED_OUT = _refusal(b"408 Request Timeout", b"the rest of the request did not come in time\n")


class Owner(Protocol):
    """What a connection needs of the server that it belongs to."""

    max_header_bytes: int
    receive_timeout: float
    keep_alive_timeout: float
    write_timeout: float

    def opened(self, connection: "Connection") -> None:
        """Note that there is a connection more."""

    def closed(self, connection: "Connection") -> None:
        """Note that there is one less."""

    def serve(self, request: HttpRequest) -> None:
        """Have a request answered. It must not raise."""

    def go_on(self, request: HttpRequest, work: Coroutine[None, None, None]) -> None:
        """Do the rest of a request in a task."""


class Connection(asyncio.Protocol):
    """See the module.

    Args:
        owner: Whose it is.

    Attributes:
        peer: Address of the client; empty if it has none.
        budget: Who pays for what the client has not read.
        lost: Whether it is closed.
        blocked: Whether the client leaves more unread than is written ahead.
        closing: Whether it is closed after the next answer.
    """

    __slots__ = (
        "_current",
        "_failure",
        "_fields",
        "_in_head",
        "_last",
        "_loop",
        "_overhead_bytes",
        "_owner",
        "_parser",
        "_queue",
        "_read_bytes",
        "_reading",
        "_receiving",
        "_repeated",
        "_resting",
        "_seen_body",
        "_served",
        "_starting",
        "_timer",
        "_too_long",
        "_transport",
        "_unread",
        "_url",
        "_writable",
        "blocked",
        "budget",
        "closing",
        "lost",
        "peer",
    )

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        # One more request behind one that closes the connection is no reason not to answer that.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.peer = ""
        self.budget: Budget | None = None
        self.lost = self.blocked = self.closing = False
        # What comes in.
        self._reading = True
        self._resting = False
        self._read_bytes = 0  # since it has rested
        self._in_head = False
        self._receiving: Incoming | None = None  # its head has come, its body has not yet
        self._repeated: RepeatedHead | None = None
        self._url = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._overhead_bytes = 0  # received since the last piece of a body, in earlier reads
        self._seen_body = self._too_long = False
        # What is answered, in its order.
        self._queue: deque[Incoming] = deque()
        self._current: Incoming | None = None
        self._starting = False
        self._served = False
        self._failure: bytes | None = None  # the last answer, to what is no HTTP
        # What goes out.
        self._writable: list[asyncio.Future[None]] = []
        self._unread: tuple[Budget, int] | None = None  # what was charged where
        self._last = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        address = transport.get_extra_info("peername")
        if isinstance(address, tuple):
            self.peer = str(address[0])
        self._owner.opened(self)
        self._timer = self._loop.call_later(self._owner.receive_timeout, self._check_time)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Tell whoever still works for this client."""
        self.lost = True
        self._owner.closed(self)
        self._timer.cancel()
        self._queue.clear()
        self._uncharge()
        self._wake_writers()
        current, self._current = self._current, None
        if current is not None:
            current.lose()
        # It holds us, and we hold it: each connection would be garbage for the collector, which looks rarely.
        del self._parser

    # What comes in.

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        self._last = self._loop.time()
        if self._failure is not None:
            return
        between = not self._in_head and self._receiving is None
        if between and self._repeated is not None and (found := self._repeated.find(data)) is not None:
            self._queue.append(Incoming(self, *found))
        else:
            self._parse(data, from_start=between)
        self._start_next()

    def _parse(self, data: bytes, *, from_start: bool) -> None:
        if b"pgrade" in data and self._receiving is None:
            data = _without_upgrade(data)
        self._seen_body = False
        waiting = len(self._queue)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # CONNECT, or an offer that came in two pieces. What was parsed of it has no body.
            self._queue.pop()
            self._fail(_NO_HTTP)
            return
        except httptools.HttpParserError:
            self._fail(_TOO_LONG if self._too_long else _NO_HTTP)
            return
        if self._in_head or self._receiving is not None:
            self._check_overhead(data)
            self._read_bytes += len(data)
            if self._read_bytes >= MAX_READ_BYTES:
                self._rest()
        elif from_start and len(self._queue) == waiting + 1:
            self._repeated = RepeatedHead.of(self._queue[-1].head, data)

    def _check_overhead(self, data: bytes) -> None:
        """Bound what is received of a head, or of trailers, which are one too."""
        if self._seen_body:
            self._overhead_bytes = 0
            return
        # What stands before an empty line is of a head that is over, and maybe of others.
        behind = data.rfind(b"\r\n\r\n")
        self._overhead_bytes += len(data) if behind < 0 else len(data) - behind - 4
        if self._overhead_bytes > self._owner.max_header_bytes:
            if self._in_head:
                self._fail(_TOO_LONG)
            else:
                self.abort()

    def on_message_begin(self) -> None:
        """Begin a request (httptools)."""
        if len(self._queue) >= MAX_WAITING:
            raise ValueError  # through the parser, which stops
        self._in_head = True
        self._url = b""
        self._fields = []
        self._overhead_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target (httptools)."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field (httptools).

        Trailers are left out. What decides who asks must not come behind the body, where proxies do not
        look (RFC 9110, 6.5.1).
        """
        if self._in_head:
            self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Take a head (httptools)."""
        self._in_head = False
        size = len(self._url) + sum(len(name) + len(value) for name, value in self._fields)
        if size > self._owner.max_header_bytes:
            self._too_long = True
            raise ValueError  # through the parser, which stops
        self._overhead_bytes = 0
        self._receiving = Incoming(self, self._head())
        self._queue.append(self._receiving)

    def _head(self) -> Head:
        url = httptools.parse_url(self._url)
        path = url.path.decode("ascii")
        version = self._parser.get_http_version()
        values = dict(self._fields)
        if len(values) != len(self._fields):
            values = _join_repeated(self._fields)
        length = values.get(b"content-length")
        return Head(
            method=self._parser.get_method().decode("ascii"),
            path=unquote(path) if "%" in path else path,
            query=url.query or b"",
            fields=self._fields,
            values=values,
            length=None if length is None else int(length),
            keeps_alive=version != "1.0" and self._parser.should_keep_alive(),
            chunks=version != "1.0",
            # What a client of HTTP/1.0 expects is ignored (RFC 9110, 10.1.1).
            expects=version != "1.0" and values.get(b"expect", b"").lower() == b"100-continue",
        )

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body (httptools)."""
        self._seen_body = True
        if self._receiving is not None:
            self._receiving.feed(body)

    def on_message_complete(self) -> None:
        """End a request (httptools)."""
        if self._receiving is not None:
            self._receiving.finish()
            self._receiving = None

    def pause_reading(self) -> None:
        """Read no more for now."""
        if self._reading:
            self._reading = False
            self._read_or_not()

    def resume_reading(self) -> None:
        """Read again."""
        if not self._reading:
            self._reading = True
            self._last = self._loop.time()  # until now it was we who have paused
            self._read_or_not()

    def _rest(self) -> None:
        """Let everybody else have a turn: the loop would read on for as long as there is something."""
        self._resting = True
        self._read_bytes = 0
        self._read_or_not()
        self._loop.call_soon(self._rested)

    def _rested(self) -> None:
        self._resting = False
        self._read_or_not()

    def _read_or_not(self) -> None:
        if self.lost or self._transport.is_closing():
            return
        if self._resting or not self._reading:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # What is answered.

    def _start_next(self) -> None:
        """Have the next request answered if none is. It may be before this returns, and so the next one."""
        if self._starting:
            return
        self._starting = True
        while self._queue and self._current is None and not self.blocked and not self.lost:
            self._served = True
            self._current = self._queue.popleft()
            self._owner.serve(self._current)
        self._starting = False
        if self._queue:
            self.pause_reading()
        elif self._failure is not None and self._current is None:
            self.write(self._failure)
            self._transport.close()
        elif self._receiving is None:
            # Else nobody would notice that the client goes while the last one is being answered.
            self.resume_reading()

    def go_on(self, request: Incoming, work: Coroutine[None, None, None]) -> None:
        """Do the rest of a request in a task."""
        self._owner.go_on(request, work)

    def finished(self, request: Incoming, *, keeps_alive: bool) -> None:
        """Note that a request was answered."""
        if request is not self._current or self.lost:
            return
        self._current = None
        self._last = self._loop.time()
        if not keeps_alive:
            self._queue.clear()
            self._transport.close()
            return
        if not self._queue:
            self.resume_reading()
        self._start_next()

    def _fail(self, answer: bytes) -> None:
        """Answer what came whole, then this, and close: what follows cannot be understood."""
        self._failure = answer
        unfinished, self._receiving = self._receiving, None
        if unfinished is None:
            return
        if unfinished in self._queue:
            self._queue.remove(unfinished)
        elif unfinished is self._current:
            if unfinished.begun:
                self.abort()
            else:
                self._current = None
                unfinished.lose()

    def finish(self) -> None:
        """Close it as soon as nothing is being answered."""
        self.closing = True
        # One whose body is still coming is one of the two, or was answered already.
        if self._current is None and not self._queue and not self.lost:
            self._transport.close()

    def abort(self) -> None:
        """Close it at once."""
        if not self.lost:
            self._transport.abort()

    # What goes out.

    def write(self, data: bytes | memoryview) -> None:
        """Send bytes; nothing once the client has gone."""
        if not self.lost and not self._transport.is_closing():
            self._transport.write(data)

    async def wait_writable(self) -> None:
        """Wait until the client has read enough, or has gone.

        Raises:
            TimeoutError: It has not read for too long.
        """
        async with asyncio.timeout(self._owner.write_timeout):
            while self.blocked and not self.lost:
                self._writable.append(waiter := self._loop.create_future())
                await waiter

    def pause_writing(self) -> None:
        """Note that the client does not read as fast as we write (asyncio)."""
        self.blocked = True
        if self.budget is not None and self._unread is None:
            # Nothing is added before it is resumed, but the end of the same answer.
            self._unread = self.budget, self._transport.get_write_buffer_size()
            self.budget.add(self._unread[1])

    def resume_writing(self) -> None:
        """Note that it has caught up (asyncio)."""
        self.blocked = False
        self._uncharge()
        self._wake_writers()
        self._start_next()

    def _wake_writers(self) -> None:
        writers, self._writable = self._writable, []
        for waiter in writers:
            if not waiter.done():
                waiter.set_result(None)

    def _uncharge(self) -> None:
        if self._unread is not None:
            budget, size = self._unread
            budget.remove(size)
            self._unread = None

    # Time.

    def _check_time(self) -> None:
        """Look whether the client has paused for too long.

        One timer for all that a connection waits for, which is not touched when something comes. It is never
        set further ahead than the shortest wait, so it is late for none.
        """
        now = self._loop.time()
        due = self._due()
        latest = now + min(self._owner.receive_timeout, self._owner.keep_alive_timeout)
        over = due is not None and due <= now
        self._timer = self._loop.call_at(latest if over else min(due or latest, latest), self._check_time)
        if over:
            self._run_out()

    def _run_out(self) -> None:
        if self._receives():
            self._time_out()
        elif self._transport.get_write_buffer_size():
            # Closing politely would wait for a client that has not read for all that time.
            self._transport.abort()
        else:
            self._transport.close()

    def _receives(self) -> bool:
        """Whether something has to come: the rest of a request, or the first one."""
        if self._failure is not None or not self._reading:
            return False
        return self._in_head or self._receiving is not None or not self._served

    def _due(self) -> float | None:
        """Return when the client's patience with us, or ours with it, is over; None if we are at work."""
        if self._receives():
            return self._last + self._owner.receive_timeout
        if self._current is not None:
            return None
        return self._last + self._owner.keep_alive_timeout

    def _time_out(self) -> None:
        self._fail(_TIMED_OUT)
        self._start_next()


def _without_upgrade(data: bytes) -> bytes:
    head, end, body = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-unanswered-upgrade:", head) + end + body


def _join_repeated(fields: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    joined: dict[bytes, bytes] = {}
    for name, value in fields:
        joined[name] = joined[name] + b", " + value if name in joined else value
    return joined
