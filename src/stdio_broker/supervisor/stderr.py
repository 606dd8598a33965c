"""A child's stderr, which must never block the child.

It is always read; if the callback is too slow, the oldest undelivered lines are dropped and counted.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from .source import LINE_OVERHEAD, NOTHING, PipeSource
from .splitter import PieceSplitter

__all__ = ["StderrPump"]

logger = logging.getLogger(__name__)

#: Characters of stderr that wait for a slow callback; each line counts for `LINE_OVERHEAD` more.
BACKLOG_CHARS = 1024 * 1024

#: Characters kept of each line in the tail, which is for reports that people read.
TAIL_CHARS = 1024

#: Seconds that the stderr callback may take per turn of the event loop.
SLICE = 0.02

#: Seconds that it may take at the very end, for all lines that it has not taken before.
LAST_SLICE = 0.5


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
        "_tail_lines",
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
        self._tail_lines = tail_lines
        self._tail: deque[str] = NOTHING
        self._backlog: deque[str] = NOTHING
        self._backlog_chars = 0
        self._dropped = 0
        self._delivering = False
        self._source = PipeSource(loop, fd, self._data, self._end)

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
        self._call_for(LAST_SLICE)
        self._dropped += len(self._backlog)
        self._backlog = NOTHING

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
        if not self._tail:
            self._tail = deque(maxlen=self._tail_lines)
        self._tail.append(line[:TAIL_CHARS])
        if self._callback is _nobody:
            return
        if not self._backlog:
            self._backlog = deque()
        self._backlog.append(line)
        self._backlog_chars += LINE_OVERHEAD + len(line)
        while self._backlog_chars > BACKLOG_CHARS and len(self._backlog) > 1:
            self._backlog_chars -= LINE_OVERHEAD + len(self._backlog.popleft())
            self._dropped += 1
        # Not called from here: reading must never wait for the consumer.
        if not self._delivering:
            self._delivering = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._call_for(SLICE)
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
        if not self._backlog:
            self._backlog = NOTHING
        self._backlog_chars -= LINE_OVERHEAD + len(line)
        try:
            self._callback(line)
        except Exception:  # the border to the caller's code: its mistakes must not stop the drain
            logger.exception("child.stderr_callback_failed")


def _nobody(line: str) -> None:
    """Stand for a callback that was not given."""
