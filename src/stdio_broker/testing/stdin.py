"""The stdin of a fake child, without a descriptor: half of a real one is the kernel, so all of it is new."""

import asyncio
from collections import deque
from collections.abc import Callable

from ..errors import ChildGone
from ..supervisor import LineWriter
from ..supervisor.stdin import LineInPieces

__all__ = ["FakeStdin", "refuse_newline"]


class FakeStdin(LineWriter):
    """What is sent to a fake child.

    The child takes a line in the moment in which it is sent, unless it does not read (`fill`) or
    is blocked because nobody reads its stdout. Then up to `stdin_buffer_bytes` wait here; there is
    no pipe that holds some more, as the kernel's does.

    Args:
        buffer_bytes: Unread bytes above which `send` waits.
        reads: Whether the child reads; if not, it does not notice EOF either.
        blocked: Whether it cannot read now, because it waits for something else.
        on_line: Called with every line that it reads.
        on_eof: Called once, when it reads EOF.
        on_flushed: Called when everything accepted is read, or stdin is closed.

    Attributes:
        lines: The lines that the child has read, in order.
    """

    def __init__(
        self,
        *,
        buffer_bytes: int,
        reads: bool,
        blocked: Callable[[], bool],
        on_line: Callable[[bytes], None],
        on_eof: Callable[[], None],
        on_flushed: Callable[[], None],
    ) -> None:
        # Not that of `LineWriter`, whose every public method is overridden: there is no pipe.
        self.lines: list[bytes] = []
        self._buffer_bytes = buffer_bytes
        self._reads = reads
        self._blocked = blocked
        self._on_line = on_line
        self._on_eof = on_eof
        self._on_flushed = on_flushed
        self._told = asyncio.Event()
        self._heard = 0
        self._is_closed = False
        self._sees_eof = True
        self._reading = False
        self._unread: deque[bytes] = deque()
        self._unread_bytes = 0
        self._filler_bytes = 0
        self._lost_bytes = 0
        self._queue: deque[asyncio.Future[None]] = deque()  # who waits, the first in front

    async def send(self, line: bytes | LineInPieces) -> None:
        """Send one line; wait first while more than `stdin_buffer_bytes` are unread.

        Cancelling it while it waits sends nothing.

        Raises:
            ChildGone: stdin is closed: the child was stopped, has ended, or does not read.
            ValueError: The line contains a newline.
        """
        whole = _in_one(line)
        refuse_newline(whole)
        if self._must_wait:
            await self._wait_for_turn()
        if self._is_closed:
            raise ChildGone("the child's stdin is closed")
        self._accept(whole)

    def send_nowait(self, line: bytes | LineInPieces) -> bool:
        """Send one line without waiting; False if stdin is closed or above its limit.

        Raises:
            ValueError: The line contains a newline.
        """
        whole = _in_one(line)
        refuse_newline(whole)
        if self._is_closed or self._must_wait:
            return False
        self._accept(whole)
        return True

    @property
    def ready(self) -> bool:
        """Whether a line would be accepted without waiting."""
        return not self._is_closed and not self._must_wait

    @property
    def closed(self) -> bool:
        """Whether stdin is closed, by us or because the child does not read it any more."""
        return self._is_closed

    @property
    def unwritten_bytes(self) -> int:
        """Bytes accepted but not read yet."""
        return self._unread_bytes + self._filler_bytes

    @property
    def dropped_bytes(self) -> int:
        """Bytes accepted but never read, because stdin was closed first."""
        return self._lost_bytes

    def close(self) -> None:
        """Close stdin: the child reads EOF behind what it has read. Drops the rest."""
        if self._is_closed:
            return
        self._is_closed = True
        self._lost_bytes = self.unwritten_bytes
        self._unread_bytes = self._filler_bytes = 0
        self._unread.clear()
        for waiter in self._queue:
            _wake(waiter)
        self._told.set()
        self.read()

    def release(self) -> int:
        """Return -1: there is no descriptor."""
        return -1

    # What the child does.

    async def receive(self) -> bytes:
        """Return the next of `lines`; wait for it first.

        Raises:
            EOFError: stdin is closed, and there is none.
        """
        while self._heard == len(self.lines):
            if self._is_closed:
                raise EOFError("the stdin of the fake child is closed, and it has got no other line")
            self._told.clear()
            await self._told.wait()
        self._heard += 1
        return self.lines[self._heard - 1]

    def fill(self) -> None:
        """Stop reading, with stdin full: from now on senders wait."""
        self._reads = False
        self._filler_bytes = max(0, self._buffer_bytes - self._unread_bytes)

    def drain(self) -> None:
        """Read again."""
        self._reads = True
        self._filler_bytes = 0
        self.read()

    def shut(self) -> None:
        """Close stdin as the child: it reads no more, and who sends is told so."""
        self._sees_eof = False
        self.close()

    def read(self) -> None:
        """Read whatever can be read now. Called by itself, whenever something has changed."""
        if self._reading:  # an answer to a line has made room for the next one
            return
        self._reading = True
        try:
            while self._unread and self._can_read:
                line = self._unread.popleft()
                self._unread_bytes -= len(line) + 1
                self.lines.append(line)
                self._told.set()
                self._on_line(line)
        finally:
            self._reading = False
        if not self.unwritten_bytes:
            self._on_flushed()
        if self.unwritten_bytes <= self._buffer_bytes // 2:
            self._wake_first()
        if self._is_closed and self._sees_eof and self._can_read:
            self._sees_eof = False
            self._on_eof()

    @property
    def _can_read(self) -> bool:
        return self._reads and not self._blocked()

    @property
    def _must_wait(self) -> bool:
        # Who waits is not overtaken.
        return not self._is_closed and (self.unwritten_bytes >= self._buffer_bytes or bool(self._queue))

    async def _wait_for_turn(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._queue.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            self._queue.remove(waiter)
            self._wake_first()  # it may have been this one's turn
            raise
        self._queue.remove(waiter)

    def _wake_first(self) -> None:
        if self._queue and self.unwritten_bytes < self._buffer_bytes:
            _wake(self._queue[0])

    def _accept(self, line: bytes) -> None:
        self._unread.append(line)
        self._unread_bytes += len(line) + 1
        self.read()


def refuse_newline(line: bytes) -> None:
    """Refuse what is not one line.

    Raises:
        ValueError: It contains a newline.
    """
    if b"\n" in line:
        raise ValueError("a line must not contain a newline")


def _in_one(line: bytes | LineInPieces) -> bytes:
    return line if isinstance(line, bytes) else b"".join(line.pieces)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
