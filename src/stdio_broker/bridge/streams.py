"""Messages on their way to a client: bounded queues with one reader each.

A `MessageStream` is what a GET reads. An `Exchange` is what a POST reads: the same, with a last
message that answers the request.
"""

import asyncio
from collections import deque

__all__ = ["Exchange", "MessageStream", "StreamEnded"]

#: What a waiting message costs besides its bytes, so that many tiny ones count too.
MESSAGE_OVERHEAD_BYTES = 64


class StreamEnded(Exception):
    """There is nothing more on this stream."""


class MessageStream:
    """A bounded queue of encoded messages with one reader.

    Args:
        loop: The running loop. Asking for it here would cost every call a system call (Python 3.11).
        max_bytes: Bytes that may wait, with `MESSAGE_OVERHEAD_BYTES` for each message.

    Attributes:
        attached: Whether a client still reads it. Detached, it takes nothing more.
        cut: Whether it was ended because its reader was too slow.
    """

    __slots__ = (
        "_ended",
        "_loop",
        "_max_bytes",
        "_messages",
        "_size",
        "_waiter",
        "attached",
        "cut",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, *, max_bytes: int) -> None:
        self._loop = loop
        self._max_bytes = max_bytes
        self._messages: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None
        self.attached = True
        self.cut = False

    @property
    def open(self) -> bool:
        """Whether a message put here reaches a client."""
        return self.attached and not self._ended

    def has_room_for(self, message: bytes) -> bool:
        """Whether a message would be taken.

        The first one always fits: a long one that nobody had the time to read is nobody's fault.
        """
        return not self._messages or self._size + len(message) + MESSAGE_OVERHEAD_BYTES <= self._max_bytes

    def put(self, message: bytes) -> bool:
        """Add a message; False if the stream takes none.

        A reader that is too far behind has its stream cut here.
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
        self._messages.clear()
        self._size = 0
        return rest

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
        message = self._messages.popleft()
        self._size -= len(message) + MESSAGE_OVERHEAD_BYTES
        return message

    def _add(self, message: bytes) -> None:
        self._messages.append(message)
        self._size += len(message) + MESSAGE_OVERHEAD_BYTES
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Exchange(MessageStream):
    """One client request in flight, from the POST to its answer.

    Attributes:
        answered: Whether the answer is here (it may still wait to be read).
    """

    __slots__ = ("answered",)

    def __init__(self, loop: asyncio.AbstractEventLoop, *, max_bytes: int) -> None:
        super().__init__(loop, max_bytes=max_bytes)
        self.answered = False

    def answer(self, message: bytes) -> None:
        """Add the last message, whatever its size, and end."""
        self.answered = True
        if self.attached:
            self._add(message)
        self._ended = True

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
