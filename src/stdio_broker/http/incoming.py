"""One request of a connection: its body as it comes, and its answer as it goes.

Source: RFC 9110; RFC 9112, 6 and 7 (framing).
"""

import asyncio
import functools
import io
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import TYPE_CHECKING

from ..bridge import Budget
from ..errors import LimitReached
from ..protocol.encoding import Pieces
from .head import Head
from .wire import Headers, PayloadTooLarge, PeerGone, PeerTooSlow

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["SMALL_BODY_BYTES", "Incoming"]

#: A body up to this size is read though the budget is full: it may be what makes room again, an answer
#: to a question or a cancellation. New calls are refused further on.
SMALL_BODY_BYTES = 64 * 1024

#: Bytes of a body that are read before anybody has asked for it.
READ_AHEAD_BYTES = 64 * 1024

#: A body over this size is put together as it comes: to join all its pieces in the end holds everybody
#: else up for 25 ms at 64 MiB, and takes twice the memory.
GATHER_ABOVE_BYTES = 4 * 1024 * 1024

#: An answer up to this size is copied behind its head: one write costs less than two.
COPY_BELOW_BYTES = 64 * 1024

_TEXT = (b"content-type", b"text/plain")
_CLOSE = b"connection: close\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Incoming:
    """An `HttpRequest`.

    Args:
        connection: What it came on.
        head: Its head.
        whole_body: Its body, if all of it is here.

    Attributes:
        head: As above.
        whole_body: As above, if the body is short as well.
        complete: Whether all of the body has come.
        begun: Whether anything of the answer was sent.
        answered: Whether all of it was.
        lost: Whether its client has gone.
    """

    __slots__ = (
        "_budget",
        "_chunks",
        "_connection",
        "_extra",
        "_gathered",
        "_held_bytes",
        "_max_bytes",
        "_on_gone",
        "_pieces",
        "_size",
        "_waiter",
        "answered",
        "begun",
        "complete",
        "head",
        "lost",
        "whole_body",
    )

    def __init__(self, connection: "Connection", head: Head, whole_body: bytes | None = None) -> None:
        self._connection = connection
        self.head = head
        self.whole_body = whole_body
        self.complete = whole_body is not None
        self.begun = self.answered = self.lost = False
        self._extra: Headers = ()
        self._on_gone: Callable[[], None] | None = None
        self._budget: Budget | None = None
        self._held_bytes = 0  # of the body, charged to the budget
        self._waiter: asyncio.Future[None] | None = None
        if whole_body is None or len(whole_body) > SMALL_BODY_BYTES:
            self.whole_body = None
            self._pieces = [] if whole_body is None else [whole_body]
            self._size = 0 if whole_body is None else len(whole_body)
            self._gathered: io.BytesIO | None = None
            self._max_bytes = 0

    @property
    def method(self) -> str:
        """The method, in capitals."""
        return self.head.method

    @property
    def path(self) -> str:
        """The path, decoded."""
        return self.head.path

    @property
    def fields(self) -> Headers:
        """All header fields in their order, names in lower case; a repeated one stands here twice."""
        return self.head.fields

    @property
    def peer(self) -> str:
        """Address of the client; empty if it has none."""
        return self._connection.peer

    def header(self, name: bytes) -> bytes | None:
        """Return a header field's value; None if it is missing."""
        return self.head.values.get(name)

    def charge_to(self, budget: Budget) -> None:
        """Say who pays for the bytes of the body, and of what the client has not read."""
        self._budget = self._connection.budget = budget

    def go_on(self, work: Coroutine[None, None, None]) -> None:
        """Have the rest done by a task."""
        self._connection.go_on(self, work)

    # The body.

    async def body(self, max_bytes: int) -> bytes:
        """Return the whole body."""
        if self.whole_body is not None:
            if len(self.whole_body) > max_bytes:
                raise PayloadTooLarge
            self._hold(len(self.whole_body))
            return self.whole_body
        # A head that is shared tells the length of another body.
        declared = self._size if self.complete else self.head.length or 0
        if declared > max_bytes:
            raise PayloadTooLarge
        self._hold(declared)
        self._max_bytes = max_bytes
        self._check_size()
        if not self.complete:
            await self._rest()
        pieces, self._pieces = self._pieces, []
        if self._gathered is not None:
            gathered, self._gathered = self._gathered, None
            return gathered.getvalue()  # without a copy
        # The usual case: one piece, nothing to join.
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _rest(self) -> None:
        if self.lost:
            raise PeerGone
        if self.head.expects and not self._size:
            self._connection.write(_CONTINUE)
        self._connection.resume_reading()
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def feed(self, piece: bytes) -> None:
        """Take a piece of the body. What comes after the answer is for nobody."""
        if self.answered:
            return
        self._size += len(piece)
        if self._gathered is not None:
            self._gathered.write(piece)
        else:
            self._pieces.append(piece)
            if self._size > GATHER_ABOVE_BYTES:
                self._gathered = io.BytesIO()
                self._gathered.writelines(self._pieces)
                self._pieces.clear()
        if self._waiter is None:
            if self._size > READ_AHEAD_BYTES:
                self._connection.pause_reading()
            return
        try:
            self._check_size()
        except (PayloadTooLarge, LimitReached) as exc:
            self._pieces.clear()
            self._gathered = None
            if not self._waiter.done():
                self._waiter.set_exception(exc)

    def finish(self) -> None:
        """Note that all of the body has come."""
        self.complete = True
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
        elif self._size <= SMALL_BODY_BYTES:
            self.whole_body = b"".join(self._pieces)

    def _check_size(self) -> None:
        if self._size > self._max_bytes:
            raise PayloadTooLarge
        self._hold(self._size)  # if its length was not declared

    def _hold(self, size: int) -> None:
        """Charge a body of so many bytes, of which some may be charged already."""
        more = size - self._held_bytes
        if self._budget is None or more <= 0:
            return
        if size > SMALL_BODY_BYTES:
            self._budget.check(more)
        self._held_bytes = size
        self._budget.add(more)

    def release_body(self) -> None:
        """Say that nobody holds the body any more."""
        self.whole_body = None
        if self._held_bytes and self._budget is not None:
            self._budget.remove(self._held_bytes)
            self._held_bytes = 0

    # The answer.

    def add_header(self, name: bytes, value: bytes) -> None:
        """Add a header field to the answer, whichever it will be."""
        self._extra = (*self._extra, (name, value))

    def answer(self, status: int, headers: Headers, body: bytes | Pieces = b"") -> None:
        """Send a whole answer."""
        head = _head_of(status, headers) if len(headers) == 1 else _encode(status, headers)
        if self._extra:
            head += _fields(self._extra)
        keeps = self._keeps_alive()
        if not keeps:
            head += _CLOSE
        if status == HTTPStatus.NO_CONTENT:  # RFC 9110, 8.6: no content, no length
            head, body = head + b"\r\n", b""
        else:
            head += b"content-length: %d\r\n\r\n" % len(body)
        self.begun = self.answered = True
        connection = self._connection
        if self.head.method == "HEAD":  # RFC 9110, 9.3.2
            connection.write(head)
        elif len(body) < COPY_BELOW_BYTES:
            connection.write(head + bytes(body))
        else:
            connection.write(head)
            for piece in body.pieces if isinstance(body, Pieces) else (body,):
                connection.write(piece)
        connection.finished(self, keeps_alive=keeps)

    def start_stream(self, headers: Headers) -> None:
        """Begin an answer of unknown length, with status 200."""
        self._chunks = self.head.chunks
        head = _encode(200, headers) + _fields(self._extra)
        if not self._keeps_alive():
            head += _CLOSE
        self.begun = True
        self._connection.write(head + (b"transfer-encoding: chunked\r\n\r\n" if self._chunks else b"\r\n"))

    async def write(self, data: bytes) -> None:
        """Send a piece of a stream; wait while the client does not read."""
        if not data:  # in chunks that would be the end
            return
        connection = self._connection
        if not self._chunks:
            connection.write(data)
        elif len(data) < COPY_BELOW_BYTES:
            connection.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            connection.write(b"%x\r\n" % len(data))
            connection.write(data)
            connection.write(b"\r\n")
        if connection.blocked:
            try:
                await connection.wait_writable()
            except TimeoutError:
                # Closing politely would wait for what the client does not read.
                connection.abort()
                raise PeerTooSlow from None

    def end_stream(self) -> None:
        """End the stream."""
        self.answered = True
        if self._chunks:
            self._connection.write(b"0\r\n\r\n")
        self._connection.finished(self, keeps_alive=self._keeps_alive())

    def fail(self) -> None:
        """Answer that we have failed, if nothing else was said."""
        if not self.begun:
            self.answer(500, (_TEXT,), b"the broker has failed; its operator finds the reason in its log\n")
        elif not self.answered:
            self._connection.abort()

    def _keeps_alive(self) -> bool:
        head = self.head
        if not head.keeps_alive or self._connection.closing:
            return False
        # A client that waits for leave to send its body, and gets an answer instead, may send it or not.
        return not head.expects or self.complete or self._size > 0

    # The client.

    def when_gone(self, callback: Callable[[], None] | None) -> None:
        """Have a callback called when the client closes the connection; None: not any more."""
        self._on_gone = callback
        if self.lost and callback is not None:
            asyncio.get_running_loop().call_soon(self.lose)

    def lose(self) -> None:
        """Note that the client has gone, or is not understood any more."""
        self.lost = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(PeerGone())
        callback, self._on_gone = self._on_gone, None
        if callback is not None:
            callback()


def _encode(status: int, headers: Headers) -> bytes:
    phrase = HTTPStatus(status).phrase.encode()
    return b"HTTP/1.1 %d %b\r\n%b" % (status, phrase, _fields(headers))


#: Nearly every answer has one of a few heads. What is kept is never longer: others may hold secrets.
_head_of = functools.lru_cache(maxsize=64)(_encode)


def _fields(headers: Headers) -> bytes:
    return b"".join([b"%b: %b\r\n" % field for field in headers])
