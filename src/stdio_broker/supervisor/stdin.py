"""The lines of a child's stdin, with back-pressure: `send` waits above the limit. Bounded."""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Protocol

from ..errors import ChildGone
from .source import NOTHING

__all__ = ["LineInPieces", "LineWriter"]

#: A line longer than this is written without copying it to append the newline.
COPY_BELOW_BYTES = 64 * 1024

#: Waiting pieces per write, of which there is one per turn of the event loop: a child that reads as
#: fast as we write must not keep us here until everything is gone.
PIECES_PER_WRITE = 64

_NEWLINE = memoryview(b"\n")

# As an integer: to look for one takes an eighth of the time.
_NEWLINE_BYTE = 10


class LineInPieces(Protocol):
    """A line that is too long to be copied into one piece.

    There is no newline in it: whoever has cut it has looked, and it is too long to be looked at again.
    """

    @property
    def pieces(self) -> Sequence[bytes | memoryview]:
        """Its bytes, in their order."""

    def __len__(self) -> int:
        """Return how many bytes it is long."""


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
        self._pending: deque[memoryview] = NOTHING
        self._in_turn = False  # something was written in this turn of the event loop
        self._armed = False  # a flush is due when the pipe is writable
        self._unwritten = 0
        self._dropped = 0
        # In the order of their calls; the first is woken first. While somebody waits, nobody can
        # overtake: else a busy stream of new lines could keep the buffer full for ever.
        self._waiters: dict[asyncio.Future[None], None] = {}

    async def send(self, line: bytes | LineInPieces) -> None:
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

    def send_nowait(self, line: bytes | LineInPieces) -> bool:
        """Send one line without waiting; False if stdin is closed or above its limit.

        Raises:
            ValueError: The line contains a newline.
        """
        _check(line)
        return not self._must_wait and self._send(line)

    @property
    def ready(self) -> bool:
        """Whether a line would be accepted without waiting."""
        return self._fd >= 0 and not self._must_wait

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
        self._pending = NOTHING
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

    def _send(self, line: bytes | LineInPieces) -> bool:
        """Accept a line; False if stdin is closed, maybe because the child does not read it."""
        if self._fd < 0:
            return False
        if self._armed or self._in_turn:
            self._add(line)
            return True
        # The first line of a turn of the event loop goes out at once; what else this turn sends goes
        # out together at its end, which costs one system call and wakes the child once.
        self._in_turn = True
        self._loop.call_soon(self._end_turn)
        if isinstance(line, bytes) and len(line) < COPY_BELOW_BYTES:
            return self._write(line + b"\n")
        self._add(line)
        if self._flush():
            return True
        self._dropped -= len(line) + 1  # refused, not dropped
        return False

    def _write(self, data: bytes) -> bool:
        """Write a short line when nothing waits, which is most of them; False if the pipe is broken."""
        try:
            written = os.write(self._fd, data)
        except (BlockingIOError, InterruptedError):
            written = 0
        except OSError:  # EPIPE: the child has closed its end
            self.close()
            return False
        if written < len(data):
            self._unwritten = len(data) - written
            self._pending = deque((memoryview(data)[written:],))
            self._arm(on=True)
        else:
            self._on_flushed()
        if self._unwritten <= self._buffer_bytes // 2:
            self._wake_next()
        return True

    def _add(self, line: bytes | LineInPieces) -> None:
        if not self._pending:
            self._pending = deque()
        if not isinstance(line, bytes):
            # An empty one would never be written, and with enough of them nothing would.
            self._pending.extend(memoryview(piece) for piece in line.pieces if len(piece))
            self._pending.append(_NEWLINE)
        elif len(line) < COPY_BELOW_BYTES:
            self._pending.append(memoryview(line + b"\n"))
        else:
            self._pending += (memoryview(line), _NEWLINE)
        self._unwritten += len(line) + 1

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
            self._pending = NOTHING
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
            self._pending = NOTHING
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


def _check(line: bytes | LineInPieces) -> None:
    if isinstance(line, bytes) and _NEWLINE_BYTE in line:
        raise ValueError("a line must not contain a newline")


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
