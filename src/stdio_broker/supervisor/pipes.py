"""The three pipes of a child, in the event loop. Bytes only; every buffer is bounded.

- `LineReader`: stdout, with back-pressure: unread output above the limit stops the reading, and
  so blocks the child.
- `LineWriter`: stdin, with back-pressure the other way: `send` waits above its limit.
- `StderrPump`: stderr, which must never block the child: it always reads, and drops the oldest
  undelivered lines if the callback is too slow.

None of them uses asyncio's transports (64 KiB line trap, EOF that never comes while data is
unsent: `docs/supervisor.md` has the list).
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Callable

from ..errors import ChildGone, EndOfOutput, LineTooLong
from .splitter import LineSplitter, OversizeLine, PieceSplitter

__all__ = ["LineReader", "LineWriter", "StderrPump"]

logger = logging.getLogger(__name__)

#: Bytes per read. 64 KiB is a pipe's usual capacity; larger reads measured slower.
CHUNK_BYTES = 64 * 1024

#: Most that is read from a pipe after its process has ended: what a pipe can hold at most (by
#: default an unprivileged user may raise it to 1 MiB). An escaped process that keeps writing
#: cannot keep us here.
MAX_REMAINS_BYTES = 1024 * 1024

#: A line longer than this is written without copying it to append the newline.
COPY_BELOW_BYTES = 64 * 1024

#: Characters of stderr that wait for a slow callback.
STDERR_BACKLOG_CHARS = 1024 * 1024

#: Characters kept of each line in the tail, which is for reports that people read.
STDERR_TAIL_CHARS = 1024

#: Lines of stderr given to the callback per turn of the event loop.
STDERR_BATCH_LINES = 64


class _Source:
    """Read one pipe whenever it is readable, until its end.

    Args:
        on_data: Called with every chunk.
        on_end: Called once, after the last chunk.
    """

    __slots__ = ("_fd", "_loop", "_on_data", "_on_end", "_reading")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        on_data: Callable[[bytes], None],
        on_end: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._fd = fd
        self._on_data = on_data
        self._on_end = on_end
        self._reading = False
        self.resume()

    @property
    def ended(self) -> bool:
        return self._fd < 0

    def pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        if not self._reading and self._fd >= 0:
            self._reading = True
            self._loop.add_reader(self._fd, self._read)

    def _read(self) -> bool:
        """Read once; False if there is nothing now, or nothing any more."""
        try:
            chunk = os.read(self._fd, CHUNK_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        if chunk:
            self._on_data(chunk)
            return True
        self.close()
        return False

    def read_remains(self) -> None:
        """Read what a process that has ended left in the pipe."""
        for _ in range(MAX_REMAINS_BYTES // CHUNK_BYTES):
            if self._fd < 0 or not self._read():
                return

    def close(self) -> None:
        if self._fd >= 0:
            self.pause()
            os.close(self._fd)
            self._fd = -1
            self._on_end()


class LineReader:
    """The lines of a child's stdout, for one consumer.

    Iterate, or call `receive`. Lines are bytes without their newline; nothing is decoded.

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
        self._lines: deque[bytes | OversizeLine] = deque()
        self._unread = 0
        self._discarded = 0
        self._draining = False
        self._waiter: asyncio.Future[None] | None = None
        self._source = _Source(loop, fd, self._data, self._end)

    async def receive(self) -> bytes:
        """Return the next line.

        Raises:
            LineTooLong: This line was over the limit; the next call goes on behind it.
            EndOfOutput: There are no more lines.
        """
        while not self._lines:
            await self._wait()
        line = self._lines.popleft()
        self._taken(_size(line))
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
        self._lines.clear()
        self._taken(self._unread)
        return lines

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

    def _taken(self, size: int) -> None:
        self._unread -= size
        if self._unread <= self._buffer_bytes // 2:
            self._source.resume()

    def _data(self, chunk: bytes) -> None:
        for line in self._splitter.feed(chunk):
            self._add(line)
        if self._unread >= self._buffer_bytes and not self._draining:
            self._source.pause()

    def _add(self, line: bytes | OversizeLine) -> None:
        size = _size(line)
        if self._draining and self._unread >= self._buffer_bytes + MAX_REMAINS_BYTES:
            self._discarded += size
            return
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
    return 64 + (len(line) if isinstance(line, bytes) else len(line.head) + len(line.tail))


class LineWriter:
    """The lines of a child's stdin. Any number of tasks may send; lines never interleave.

    Args:
        fd: Write end of the pipe, non-blocking; taken over.
        buffer_bytes: Unwritten bytes above which `send` waits.
        on_flushed: Called when the last accepted byte is written, or stdin is closed.
    """

    __slots__ = (
        "_armed",
        "_buffer_bytes",
        "_dropped",
        "_fd",
        "_loop",
        "_on_flushed",
        "_pending",
        "_scheduled",
        "_unwritten",
        "_waiters",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        *,
        buffer_bytes: int,
        on_flushed: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._fd = fd
        self._buffer_bytes = buffer_bytes
        self._on_flushed = on_flushed
        self._pending: deque[bytes | memoryview] = deque()
        self._scheduled = False  # a flush is due in this turn of the loop
        self._armed = False  # a flush is due when the pipe is writable
        self._unwritten = 0
        self._dropped = 0
        self._waiters: set[asyncio.Future[None]] = set()

    async def send(self, line: bytes) -> None:
        r"""Send one line; wait first while more than `buffer_bytes` are unwritten.

        Cancelling it while it waits sends nothing; a line is accepted whole or not at all.

        Args:
            line: The line without its newline; must not contain one.

        Raises:
            ChildGone: stdin is closed: the child was stopped, has ended, or does not read.
            ValueError: The line contains a newline.
        """
        if b"\n" in line:
            raise ValueError("a line must not contain a newline")
        while self._unwritten >= self._buffer_bytes:
            waiter = self._loop.create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        if self._fd < 0:
            raise ChildGone("the child's stdin is closed")
        self._send(line)

    def send_nowait(self, line: bytes) -> bool:
        """Send one line without waiting; False if stdin is closed or above its limit.

        Raises:
            ValueError: The line contains a newline.
        """
        if b"\n" in line:
            raise ValueError("a line must not contain a newline")
        if self._fd < 0 or self._unwritten >= self._buffer_bytes:
            return False
        self._send(line)
        return True

    @property
    def closed(self) -> bool:
        """Whether stdin is closed, by us or because the child does not read it any more."""
        return self._fd < 0

    @property
    def unwritten_bytes(self) -> int:
        """Bytes accepted but not written yet."""
        return self._unwritten

    @property
    def dropped_bytes(self) -> int:
        """Bytes accepted but never written, because stdin was closed first."""
        return self._dropped

    def close(self) -> None:
        """Close stdin at once: the child reads EOF behind what the pipe takes now. Drops the rest."""
        if self._fd >= 0 and self._scheduled:
            self._flush()
        if self._fd < 0:
            return
        if self._armed:
            self._loop.remove_writer(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._dropped += self._unwritten
        self._unwritten = 0
        self._pending.clear()
        self._wake()
        self._on_flushed()

    def _send(self, line: bytes) -> None:
        if len(line) < COPY_BELOW_BYTES:
            self._pending.append(line + b"\n")
        else:
            self._pending += (line, b"\n")
        self._unwritten += len(line) + 1
        # Not at once: what one turn of the loop sends goes out in one write, and wakes the child once.
        if not self._scheduled and not self._armed:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write until nothing is left or the pipe is full; then go on when it is writable."""
        self._scheduled = False
        try:
            while self._pending and self._fd >= 0:
                batch = self._take_batch()
                try:
                    written = os.write(self._fd, batch)
                except (BlockingIOError, InterruptedError):
                    written = 0
                self._unwritten -= written
                if written < len(batch):
                    self._pending.appendleft(memoryview(batch)[written:])
                    break
        except OSError:  # EPIPE: the child has closed its end
            self.close()
            return
        self._arm(on=bool(self._pending))
        if self._unwritten <= self._buffer_bytes // 2:
            self._wake()
        if not self._pending:
            self._on_flushed()

    def _take_batch(self) -> bytes | memoryview:
        """Take the first piece, and as many of the next ones as make a write worth while."""
        first = self._pending.popleft()
        if not self._pending or len(first) >= COPY_BELOW_BYTES:
            return first
        batch, size = [first], len(first)
        while self._pending and size + len(self._pending[0]) <= COPY_BELOW_BYTES:
            batch.append(self._pending.popleft())
            size += len(batch[-1])
        return b"".join(batch)

    def _arm(self, *, on: bool) -> None:
        if self._fd < 0 or on == self._armed:
            return
        self._armed = on
        if on:
            self._loop.add_writer(self._fd, self._flush)
        else:
            self._loop.remove_writer(self._fd)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class StderrPump:
    """Read a child's stderr for ever, keep its last lines, pass each to a callback.

    Args:
        fd: Read end of the pipe, non-blocking; taken over.
        callback: Gets each line; None only keeps the tail.
        max_line_bytes: Longer lines are delivered in pieces of this size.
        tail_lines: How many of the last lines are kept.
        on_end: Called once at the end of stderr.
    """

    __slots__ = (
        "_backlog",
        "_backlog_chars",
        "_callback",
        "_delivering",
        "_dropped",
        "_loop",
        "_on_end",
        "_source",
        "_splitter",
        "_tail",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        fd: int,
        *,
        callback: Callable[[str], None] | None,
        max_line_bytes: int,
        tail_lines: int,
        on_end: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._callback = callback
        self._on_end = on_end
        self._splitter = PieceSplitter(max_line_bytes)
        self._tail: deque[str] = deque(maxlen=tail_lines)
        self._backlog: deque[str] = deque()
        self._backlog_chars = 0
        self._dropped = 0
        self._delivering = False
        self._source = _Source(loop, fd, self._data, self._end)

    @property
    def ended(self) -> bool:
        """Whether stderr is at its end and every line of it was delivered."""
        return self._source.ended and not self._backlog

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, oldest first. Text of the child's: treat it as user data."""
        return tuple(self._tail)

    @property
    def dropped_lines(self) -> int:
        """Lines that the callback was too slow for. They still went through the tail."""
        return self._dropped

    def close(self) -> None:
        """Take what is left in the pipe, deliver it, then close."""
        self._source.read_remains()
        self._source.close()
        while self._backlog:
            self._call()

    def _data(self, chunk: bytes) -> None:
        for piece in self._splitter.feed(chunk):
            self._line(piece)

    def _end(self) -> None:
        if (rest := self._splitter.finish()) is not None:
            self._line(rest)
        if not self._delivering:
            self._on_end()

    def _line(self, piece: bytes) -> None:
        line = piece.decode("utf-8", "replace").rstrip("\r")
        self._tail.append(line[:STDERR_TAIL_CHARS])
        if self._callback is None:
            return
        self._backlog.append(line)
        self._backlog_chars += len(line)
        while self._backlog_chars > STDERR_BACKLOG_CHARS:
            self._backlog_chars -= len(self._backlog.popleft())
            self._dropped += 1
        # Not called from here: reading must never wait for the consumer.
        if not self._delivering:
            self._delivering = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        for _ in range(min(STDERR_BATCH_LINES, len(self._backlog))):
            self._call()
        if self._backlog:
            self._loop.call_soon(self._deliver)
            return
        self._delivering = False
        if self._source.ended:
            self._on_end()

    def _call(self) -> None:
        line = self._backlog.popleft()
        self._backlog_chars -= len(line)
        try:
            if self._callback is not None:
                self._callback(line)
        except Exception:  # the border to the caller's code: its mistakes must not stop the drain
            logger.exception("child.stderr_callback_failed")
