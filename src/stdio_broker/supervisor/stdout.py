"""The lines of a child's stdout, with back-pressure.

Unread output above the limit stops the reading, and so blocks the child. While a child is being
stopped it is the other way round: it is read on, and what does not fit is dropped and counted.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from ..errors import EndOfOutput, LineTooLong
from .source import LINE_OVERHEAD, MAX_REMAINS_BYTES, NOTHING, PipeSource
from .splitter import LineSplitter, OversizeLine

__all__ = ["LineReader"]


class LineReader:
    """The lines of a child's stdout, for one consumer.

    Iterate, or call `receive`, or have them handed over by `forward`. Lines are bytes without their
    newline; nothing is decoded.

    Args:
        fd: Read end of the pipe, non-blocking; taken over.
        max_line_bytes: Longest line kept.
        buffer_bytes: Unread bytes above which reading stops.
        on_end: Called once at the end of the output.
    """

    __slots__ = (
        "_buffer_bytes",
        "_discarded",
        "_draining",
        "_lines",
        "_loop",
        "_max_line_bytes",
        "_on_end",
        "_source",
        "_splitter",
        "_take",
        "_take_below",
        "_unread",
        "_waiter",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        *,
        max_line_bytes: int,
        buffer_bytes: int,
        on_end: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._max_line_bytes = max_line_bytes
        self._buffer_bytes = buffer_bytes
        self._on_end = on_end
        self._splitter = LineSplitter(max_line_bytes)
        self._lines: deque[bytes | OversizeLine] = NOTHING
        self._unread = 0
        self._discarded = 0
        self._draining = False
        self._waiter: asyncio.Future[None] | None = None
        self._take: Callable[[bytes | OversizeLine], None] | None = None
        self._take_below = 0
        self._source = PipeSource(loop, fd, self._data, self._end)

    async def receive(self) -> bytes:
        """Return the next line.

        Raises:
            LineTooLong: This line was over the limit; the next call goes on behind it.
            EndOfOutput: There are no more lines.
        """
        while not self._lines:
            await self._wait()
        line = self._pop()
        if isinstance(line, OversizeLine):
            raise LineTooLong(line.length, self._max_line_bytes, head=line.head, tail=line.tail)
        return line

    async def receive_many(self) -> list[bytes | OversizeLine]:
        """Return all lines that have arrived, at least one; an over-long one as what is left of it.

        Waking up once per batch instead of once per line is what makes a busy child cheap.

        Raises:
            EndOfOutput: There are no more lines.
        """
        while not self._lines:
            await self._wait()
        lines = list(self._lines)
        self._lines = NOTHING
        self._taken(self._unread)
        return lines

    async def forward(self, take: Callable[[bytes | OversizeLine], None], *, below_bytes: int) -> bytes:
        """Hand over lines as they arrive, until there is a long one, which is returned.

        A line is handed over in the very turn of the event loop in which it is read: no task has to be
        woken for it. Whoever takes it must not wait, and should be quick.

        Args:
            take: Gets each line. What it raises is raised here; the line is gone.
            below_bytes: A line of so many bytes is a long one.

        Raises:
            EndOfOutput: There are no more lines.
        """
        while True:
            while self._lines:
                line = self._pop()
                if isinstance(line, bytes) and len(line) >= below_bytes:
                    return line
                take(line)
            self._take, self._take_below = take, below_bytes
            try:
                await self._wait()
            finally:
                self._take = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the lines until the end of the output."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next line; see `receive` for what else it raises."""
        try:
            return await self.receive()
        except EndOfOutput:
            raise StopAsyncIteration from None

    @property
    def ended(self) -> bool:
        """Whether the pipe is at its end (lines may still be unread)."""
        return self._source.ended

    @property
    def discarded_bytes(self) -> int:
        """Bytes of lines that nobody read while the child was being stopped."""
        return self._discarded

    def drain(self) -> None:
        """Read on even if nobody takes the lines, and drop what does not fit.

        A child that is blocked writing cannot notice that it shall end.
        """
        self._draining = True
        self._source.resume()

    def close(self) -> None:
        """Take what is left in the pipe, then close it."""
        self._draining = True
        self._source.read_remains()
        self._source.close()

    def release(self) -> int:
        """Give the descriptor to the caller, or -1 at the end of the output. For when the loop is gone."""
        return self._source.release()

    async def _wait(self) -> None:
        if self._source.ended:
            raise EndOfOutput("the child's stdout has ended")
        if self._waiter is not None:
            raise RuntimeError("another task is already receiving from this child")
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _pop(self) -> bytes | OversizeLine:
        line = self._lines.popleft()
        if not self._lines:
            self._lines = NOTHING
        self._taken(_size(line))
        return line

    def _taken(self, size: int) -> None:
        self._unread -= size
        if self._unread <= self._buffer_bytes // 2:
            self._source.resume()

    def _data(self, chunk: bytes) -> None:
        for line in self._splitter.feed(chunk):
            if (
                self._take is None
                or self._lines
                or (isinstance(line, bytes) and len(line) >= self._take_below)
            ):
                self._add(line)
            else:
                self._hand_over(self._take, line)
        if self._unread >= self._buffer_bytes and not self._draining:
            self._source.pause()

    def _hand_over(self, take: Callable[[bytes | OversizeLine], None], line: bytes | OversizeLine) -> None:
        try:
            take(line)
        except Exception as exc:  # noqa: BLE001 - it is for the task that has given us `take`
            self._take = None
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_exception(exc)

    def _add(self, line: bytes | OversizeLine) -> None:
        size = _size(line)
        if self._draining and self._unread >= self._buffer_bytes + MAX_REMAINS_BYTES:
            self._discarded += len(line) if isinstance(line, bytes) else line.length
            return
        if not self._lines:
            self._lines = deque()
        self._lines.append(line)
        self._unread += size
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end(self) -> None:
        if (rest := self._splitter.finish()) is not None:
            self._add(rest)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self._on_end()


def _size(line: bytes | OversizeLine) -> int:
    """What a line counts for in the buffer: its bytes, and a little for the object."""
    return LINE_OVERHEAD + (len(line) if isinstance(line, bytes) else len(line.head) + len(line.tail))
