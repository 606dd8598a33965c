"""A pipe that a child writes to, read in the event loop until its end. Bytes only.

Not asyncio's transports (64 KiB line trap, EOF that never comes while data is unsent:
`docs/supervisor.md` has the list).
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["CHUNK_BYTES", "LINE_OVERHEAD", "MAX_REMAINS_BYTES", "NOTHING", "PipeSource"]

#: Bytes per read. 64 KiB is a pipe's usual capacity; larger reads measured slower.
CHUNK_BYTES = 64 * 1024

#: Most that is read from a pipe after its process has ended: what a pipe can hold at most (by
#: default an unprivileged user may raise it to 1 MiB). An escaped process that keeps writing
#: cannot keep us here.
MAX_REMAINS_BYTES = 1024 * 1024

#: What a line that waits counts for on top of its length: the object. Without it empty lines would
#: be free, and there could be any number of them.
LINE_OVERHEAD = 64

#: Stands for a queue in which nothing waits, in all of them: an empty deque takes 760 bytes, a child
#: has four, and most children are idle.
NOTHING: deque[Any] = deque(maxlen=0)


class PipeSource:
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
        """Whether the pipe is at its end, or closed."""
        return self._fd < 0

    def pause(self) -> None:
        """Stop reading; the child blocks when the pipe is full."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Read again."""
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
        """Close the pipe, and say so."""
        if self._fd >= 0:
            self.pause()
            os.close(self._fd)
            self._fd = -1
            # Let go of both: who is done shall not have to be found by the garbage collector.
            on_end, self._on_data, self._on_end = self._on_end, _nothing, _nothing
            on_end()

    def release(self) -> int:
        """Give the descriptor to the caller, or -1 at the end. For when the loop is gone."""
        fd, self._fd = self._fd, -1
        return fd


def _nothing(*_: bytes) -> None:
    """Stand for what is not called any more."""
