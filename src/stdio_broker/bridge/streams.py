"""Messages on their way to a client: bounded queues with one reader each.

A `MessageStream` is what a GET reads. An `Exchange` is what a POST reads: the same, with a last
message that answers the request. A client that lost its connection and comes back reads a successor:
first what was written and did not reach it, then what waits, then what comes.

What waits is charged to a budget, and given back when it is read, when its client is gone, and when
the stream is dropped, whatever came before.
"""

import asyncio
import functools
from collections import deque
from collections.abc import Callable

from ..protocol.encoding import Pieces
from .budget import Budget
from .events import EventLog, EventsLost, StreamLog
from .nothing import NOTHING

__all__ = ["Exchange", "MessageStream", "StreamEnded"]

#: What a waiting message costs besides its bytes, so that many tiny ones count too.
MESSAGE_OVERHEAD_BYTES = 64

#: A message up to this size finds room on a stream on which nothing waits, though the budget is full: it
#: is others that hold it, and a client that reads shall not pay for it.
SMALL_BYTES = 4096


class StreamEnded(Exception):
    """There is nothing more on this stream."""


class MessageStream:
    """A bounded queue of encoded messages with one reader.

    Args:
        loop: The running loop. Asking for it here would cost every call a system call (Python 3.11).
        max_bytes: Bytes that may wait, with `MESSAGE_OVERHEAD_BYTES` for each message.
        events: Keeps what is written, for a client that comes back; None if there is no coming back.
        budget: Bounds what waits on all streams together; None if nothing does.

    Attributes:
        attached: Whether a client still reads it. Detached, it takes nothing more.
        cut: Whether it was ended because its reader was too slow.
        log: Its events; None as long as the client has seen no id.
    """

    __slots__ = (
        "_budget",
        "_ended",
        "_events",
        "_loop",
        "_max_bytes",
        "_messages",
        "_seen",
        "_size",
        "_waiter",
        "attached",
        "cut",
        "log",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        max_bytes: int,
        events: "EventLog[MessageStream] | None" = None,
        budget: Budget | None = None,
    ) -> None:
        self._loop = loop
        self._budget = Budget() if budget is None else budget
        self._events = events
        self._max_bytes = max_bytes
        self._messages: deque[bytes] = NOTHING
        self._size = 0
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None
        self._seen: int | None = None  # the last event that a client which came back has; None: it has all
        self.attached = True
        self.cut = False
        self.log: StreamLog[MessageStream] | None = None

    def __del__(self) -> None:
        # Not everybody who opens a stream comes to the point of reading it, or of letting it go.
        if self._size:
            self._budget.remove(self._size)

    @property
    def open(self) -> bool:
        """Whether a message put here reaches a client."""
        return self.attached and not self._ended

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait to be read, with the overhead."""
        return self._size

    def has_room_for(self, message: bytes) -> bool:
        """Whether a message would be taken.

        The first one fits whatever the stream's own bound: a long one that nobody had the time to read
        is nobody's fault.
        """
        size = len(message) + MESSAGE_OVERHEAD_BYTES
        if not self._messages:
            return len(message) <= SMALL_BYTES or self._budget.has_room_for(size)
        return self._size + size <= self._max_bytes and self._budget.has_room_for(size)

    def put(self, message: bytes) -> bool:
        """Add a message; False if the stream takes none.

        A reader that is too far behind has its stream cut here; so has one that wants what the budget
        does not have.
        """
        if not self.open:
            return False
        if not self.has_room_for(message):
            self.cut = True
            self.end()
            return False
        self._add(message)
        return True

    def end(self) -> None:
        """Let the reader have what is there, and nothing more."""
        self._ended = True
        self._wake()

    def detach(self) -> list[bytes]:
        """Say that the client is gone; return what it has not taken."""
        self.attached = False
        rest = list(self._messages)
        self._messages = NOTHING
        self._budget.remove(self._size)
        self._size = 0
        return rest

    def show(self, message: bytes | None) -> bytes | None:
        """Return the id of an event that is being written; None if this stream has none.

        Args:
            message: What it carries; None if it only tells its id.
        """
        if self._events is None:
            return None
        if self.log is None:
            self.log = self._events.start(self)
        return self._events.mark(self.log) if message is None else self._events.record(self.log, message)

    def follow(self, log: "StreamLog[MessageStream]", number: int) -> None:
        """Let a client that came back read here, behind the last event that it has seen."""
        self.log = log
        self._seen = number
        log.owner = self

    def missed(self) -> tuple[bytes, bytes] | None:
        """Return id and message of the next event that did not reach the client; None if there is none.

        One at a time: a client that reads slowly must not hold all of them.

        Raises:
            StreamEnded: The client has come back once more, or what it missed is not kept any more.
        """
        if self._events is None or self.log is None or self._seen is None:
            return None
        if not self.attached:
            raise StreamEnded
        try:
            event = self._events.after(self.log, self._seen)
        except EventsLost:
            self.cut = True
            raise StreamEnded from None
        if event is None:
            self._seen = None
            return None
        self._seen, event_id, message = event
        return event_id, message

    async def receive(self, timeout: float) -> bytes | None:  # noqa: ASYNC109 - see below
        """Return the next message, or None if there is none within `timeout` seconds.

        A timer of its own instead of `asyncio.timeout`: running out is the normal case of a keep-alive
        here, and the hot path does not pay for a context manager and an exception.

        Raises:
            StreamEnded: There is nothing more.
        """
        if not self._messages:
            if self._ended:
                raise StreamEnded
            if self._waiter is not None:
                raise RuntimeError("another task is already reading this stream")
            self._waiter = self._loop.create_future()
            timer = self._loop.call_later(timeout, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
            if not self._messages:
                if self._ended:
                    raise StreamEnded
                return None
        return self._next()

    def receive_nowait(self) -> bytes | None:
        """Return the next message if there is one."""
        return self._next() if self._messages else None

    def _next(self) -> bytes:
        message = self._messages.popleft()
        if not self._messages:
            self._messages = NOTHING
        size = len(message) + MESSAGE_OVERHEAD_BYTES
        self._size -= size
        self._budget.remove(size)
        return message

    def _add(self, message: bytes) -> None:
        size = len(message) + MESSAGE_OVERHEAD_BYTES
        if not self._messages:
            self._messages = deque()
        self._messages.append(message)
        self._size += size
        self._budget.add(size)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Exchange(MessageStream):
    """One client request in flight, from the POST to its answer.

    Args:
        loop: As above.
        max_bytes: As above.
        events: As above.
        budget: As above.
        call: The exchange that the call was opened with, if this is a successor of it.

    Attributes:
        answered: Whether the answer is here (it may still wait to be read).
    """

    __slots__ = ("_call", "_on_first", "answered")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        max_bytes: int,
        events: EventLog[MessageStream] | None = None,
        budget: Budget | None = None,
        call: "Exchange | None" = None,
    ) -> None:
        # As in `MessageStream`, whose `__init__` would cost every call a third as much as all of this.
        self._loop = loop
        self._budget = Budget() if budget is None else budget
        self._events = events
        self._max_bytes = max_bytes
        self._messages = NOTHING
        self._size = 0
        self._ended = self.cut = False
        self._waiter = self._seen = self.log = None
        self.attached = True
        self._call = call  # None, not itself: a cycle would leave every call to the garbage collector
        self.answered = False
        self._on_first: Callable[[bytes | Pieces | None], None] | None = None

    @property
    def call(self) -> "Exchange":
        """The exchange that the call was opened with."""
        return self._call or self

    def succeed(self) -> "Exchange":
        """Move what waits here to a new exchange, and end this one's reader."""
        successor = Exchange(
            self._loop, max_bytes=self._max_bytes, events=self._events, budget=self._budget, call=self.call
        )
        successor.answered = self.answered
        successor.cut = self.cut
        for message in self.detach():
            successor._add(message)
        successor._ended = self._ended
        self.end()
        return successor

    def answer(self, message: bytes | Pieces) -> None:
        """Add the last message, whatever its size and the budget, and end."""
        self.answered = self._ended = True
        if self._on_first is not None:
            on_first, self._on_first = self._on_first, None
            on_first(message)
        elif self.attached:
            self._add(bytes(message))

    def when_first(self, callback: Callable[[bytes | Pieces | None], None]) -> None:
        """Have a callback called once, in place of a first `receive`: no task has to be woken for it.

        Args:
            callback: Gets the answer if that is the first thing that comes, which it is for nearly every
                call; None if something else is there to be read.
        """
        if not self._messages and not self._ended:
            self._on_first = callback
        elif self.answered and len(self._messages) == 1:
            callback(self._next())
        else:
            callback(None)

    async def first(self, timeout: float) -> bytes | Pieces | None:  # noqa: ASYNC109 - as `receive`
        """Return the answer if it is the first thing that comes; None if something else does, or nothing.

        Args:
            timeout: Seconds to wait for it.
        """
        waiter: asyncio.Future[bytes | Pieces | None] = self._loop.create_future()
        timer = self._loop.call_later(timeout, _settle, waiter, None)
        self.when_first(functools.partial(_settle, waiter))
        try:
            return await waiter
        finally:
            timer.cancel()
            self.read_first()

    def read_first(self) -> None:
        """Take that back: the first message is received as any other."""
        self._on_first = None

    async def wait_answered(self) -> bytes:
        """Wait for the answer and return it; it stays on the stream, for the reader."""
        while not self.answered:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._messages[-1]

    @property
    def complete(self) -> bool:
        """Whether the message that was received last was the answer."""
        return self.answered and not self._messages

    def _wake(self) -> None:
        if self._on_first is not None:
            on_first, self._on_first = self._on_first, None
            on_first(None)
        else:
            super()._wake()


def _settle(waiter: "asyncio.Future[bytes | Pieces | None]", answer: bytes | Pieces | None) -> None:
    if not waiter.done():
        waiter.set_result(answer)
