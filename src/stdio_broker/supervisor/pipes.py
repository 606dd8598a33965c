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
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from itertools import islice

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

_NEWLINE = memoryview(b"\n")

#: Waiting pieces per write, of which there is one per turn of the event loop: a child that reads as
#: fast as we write must not keep us here until everything is gone.
PIECES_PER_WRITE = 64

#: Characters of stderr that wait for a slow callback; each line counts for `LINE_OVERHEAD` more.
STDERR_BACKLOG_CHARS = 1024 * 1024

#: What a line that waits counts for on top of its length: the object. Without it empty lines would
#: be free, and there could be any number of them.
LINE_OVERHEAD = 64

#: Characters kept of each line in the tail, which is for reports that people read.
STDERR_TAIL_CHARS = 1024

#: Seconds that the stderr callback may take per turn of the event loop.
STDERR_SLICE = 0.02

#: Seconds that it may take at the very end, for all lines that it has not taken before.
STDERR_LAST_SLICE = 0.5


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

    def release(self) -> int:
        fd, self._fd = self._fd, -1
        return fd


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
            self._discarded += len(line) if isinstance(line, bytes) else line.length
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
    return LINE_OVERHEAD + (len(line) if isinstance(line, bytes) else len(line.head) + len(line.tail))


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
        "_in_turn",
        "_loop",
        "_on_flushed",
        "_pending",
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
        self._pending: deque[memoryview] = deque()
        self._in_turn = False  # something was written in this turn of the event loop
        self._armed = False  # a flush is due when the pipe is writable
        self._unwritten = 0
        self._dropped = 0
        # In the order of their calls; the first is woken first. While somebody waits, nobody can
        # overtake: else a busy stream of new lines could keep the buffer full for ever.
        self._waiters: dict[asyncio.Future[None], None] = {}

    async def send(self, line: bytes) -> None:
        r"""Send one line; wait first while more than `buffer_bytes` are unwritten.

        Cancelling it while it waits sends nothing; a line is accepted whole or not at all.

        Args:
            line: The line without its newline; must not contain one.

        Raises:
            ChildGone: stdin is closed: the child was stopped, has ended, or does not read.
            ValueError: The line contains a newline.
        """
        _check(line)
        if self._must_wait:
            await self._wait_for_turn()
        if not self._send(line):
            raise ChildGone("the child's stdin is closed")

    def send_nowait(self, line: bytes) -> bool:
        """Send one line without waiting; False if stdin is closed or above its limit.

        Raises:
            ValueError: The line contains a newline.
        """
        _check(line)
        return not self._must_wait and self._send(line)

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
        if self._pending and not self._armed:
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
        for waiter in self._waiters:
            _wake(waiter)
        self._on_flushed()

    def release(self) -> int:
        """Give the descriptor to the caller, or -1 if stdin is closed. For when the loop is gone."""
        fd, self._fd = self._fd, -1
        return fd

    @property
    def _must_wait(self) -> bool:
        return self._fd >= 0 and (self._unwritten >= self._buffer_bytes or bool(self._waiters))

    async def _wait_for_turn(self) -> None:
        waiter = self._loop.create_future()
        self._waiters[waiter] = None
        try:
            await waiter
        except asyncio.CancelledError:
            del self._waiters[waiter]
            self._wake_next()  # it may have been this one's turn
            raise
        del self._waiters[waiter]

    def _wake_next(self) -> None:
        if self._waiters and self._unwritten < self._buffer_bytes:
            _wake(next(iter(self._waiters)))

    def _send(self, line: bytes) -> bool:
        """Accept a line; False if stdin is closed, maybe because the child does not read it."""
        if self._fd < 0:
            return False
        if len(line) < COPY_BELOW_BYTES:
            self._pending.append(memoryview(line + b"\n"))
        else:
            self._pending += (memoryview(line), _NEWLINE)
        self._unwritten += len(line) + 1
        if self._armed or self._in_turn:
            return True
        # The first line of a turn of the event loop goes out at once; what else this turn sends goes
        # out together at its end, which costs one system call and wakes the child once.
        self._in_turn = True
        self._loop.call_soon(self._end_turn)
        if self._flush():
            return True
        self._dropped -= len(line) + 1  # refused, not dropped
        return False

    def _end_turn(self) -> None:
        self._in_turn = False
        if self._pending and not self._armed:
            self._flush()

    def _flush(self) -> bool:
        """Write what one system call takes, the rest when the pipe is writable; False if it is broken."""
        try:
            written = os.writev(self._fd, list(islice(self._pending, PIECES_PER_WRITE)))
        except (BlockingIOError, InterruptedError):
            written = 0
        except OSError:  # EPIPE: the child has closed its end
            self._pending.clear()
            self.close()
            return False
        self._unwritten -= written
        while written:
            piece = self._pending.popleft()
            if written < len(piece):
                self._pending.appendleft(piece[written:])
            written -= min(written, len(piece))
        self._arm(on=bool(self._pending))
        if not self._pending:
            self._on_flushed()
        if self._unwritten <= self._buffer_bytes // 2:
            self._wake_next()
        return True

    def _arm(self, *, on: bool) -> None:
        if on == self._armed:
            return
        self._armed = on
        if on:
            self._loop.add_writer(self._fd, self._flush)
        else:
            self._loop.remove_writer(self._fd)


def _check(line: bytes) -> None:
    if b"\n" in line:
        raise ValueError("a line must not contain a newline")


def _wake(waiter: asyncio.Future[None]) -> None:
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
        self._callback = callback or _nobody
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
        """Whether the pipe is at its end (lines may still wait for the callback)."""
        return self._source.ended

    @property
    def delivered(self) -> bool:
        """Whether the pipe is at its end and the callback has seen every line."""
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
        """Take what is left in the pipe, close it, and deliver; drop what takes too long."""
        self._source.read_remains()
        self._source.close()
        self._call_for(STDERR_LAST_SLICE)
        self._dropped += len(self._backlog)
        self._backlog.clear()

    def release(self) -> int:
        """Give the descriptor to the caller, or -1 at the end of stderr. For when the loop is gone."""
        return self._source.release()

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
        if self._callback is _nobody:
            return
        self._backlog.append(line)
        self._backlog_chars += LINE_OVERHEAD + len(line)
        while self._backlog_chars > STDERR_BACKLOG_CHARS and len(self._backlog) > 1:
            self._backlog_chars -= LINE_OVERHEAD + len(self._backlog.popleft())
            self._dropped += 1
        # Not called from here: reading must never wait for the consumer.
        if not self._delivering:
            self._delivering = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._call_for(STDERR_SLICE)
        if self._backlog:
            self._loop.call_soon(self._deliver)
            return
        self._delivering = False
        if self._source.ended:
            self._on_end()

    def _call_for(self, seconds: float) -> None:
        # Not the loop's clock: that one may stand still during a turn (uvloop).
        deadline = time.monotonic() + seconds
        while self._backlog:
            self._call()
            if time.monotonic() >= deadline:
                return

    def _call(self) -> None:
        line = self._backlog.popleft()
        self._backlog_chars -= LINE_OVERHEAD + len(line)
        try:
            self._callback(line)
        except Exception:  # the border to the caller's code: its mistakes must not stop the drain
            logger.exception("child.stderr_callback_failed")


def _nobody(line: str) -> None:
    """Stand for a callback that was not given."""
