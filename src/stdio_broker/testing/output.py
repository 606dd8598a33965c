"""stdout and stderr of a fake child, without a descriptor.

They are read by the code that reads a real child; only where the bytes come from is played. So
limits, order, back-pressure and what is counted are the same by construction.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from ..supervisor import Config, LineReader, OversizeLine
from ..supervisor.source import CHUNK_BYTES, PipeSource
from ..supervisor.stderr import StderrPump
from .stdin import refuse_newline

__all__ = ["FakeStderr", "FakeStdout"]

_NO_DESCRIPTOR = -1


class FakeStdout(LineReader):
    """What a fake child says, for one consumer.

    Args:
        config: For its limits.
        on_empty: Called when everything said is read, so that the child is not blocked.
        on_end: Called once at the end of the output.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: Config,
        *,
        on_empty: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(
            loop,
            _NO_DESCRIPTOR,
            max_line_bytes=config.max_line_bytes,
            buffer_bytes=config.stdout_buffer_bytes,
            on_end=on_end,
        )
        self._wanted = asyncio.Event()
        self._pipe = self._source = _MemoryPipe(on_empty, self._end)

    # What the child does.

    def feed(self, *lines: bytes | OversizeLine) -> None:
        """Say lines. An `OversizeLine` arrives as it is, whatever the limit.

        Raises:
            ValueError: A line contains a newline; nothing is said.
            RuntimeError: stdout is closed.
        """
        for line in lines:
            if isinstance(line, bytes):
                refuse_newline(line)
        for line in lines:
            if isinstance(line, bytes):
                self.write(line + b"\n")
            else:
                self._put(partial(self._add, line))

    def write(self, data: bytes) -> None:
        """Say bytes, which need not be whole lines.

        Raises:
            RuntimeError: stdout is closed.
        """
        # In the pieces in which a pipe is read: between two of them the reading may stop.
        for start in range(0, len(data), CHUNK_BYTES):
            self._put(partial(self._data, data[start : start + CHUNK_BYTES]))

    def end(self) -> None:
        """Close stdout as the child: what was said is still read, then comes the end."""
        self._pipe.end()

    @property
    def blocked(self) -> bool:
        """Whether the child waits until somebody reads what it said."""
        return self._pipe.full

    async def wait_wanted(self) -> None:
        """Wait until the consumer has dealt with everything and come back for more."""
        await self._wanted.wait()

    def _put(self, delivery: Callable[[], None]) -> None:
        self._wanted.clear()
        self._pipe.put(delivery)
        # It may have been handed over. What that has set going has its turn before anybody who waits here.
        self._loop.call_soon(self._come_back)

    def _come_back(self) -> None:
        if self._take is not None and not self._lines and not self._splitter.pending_bytes:
            self._wanted.set()

    async def _wait(self) -> None:
        self._wanted.set()
        await super()._wait()


class FakeStderr(StderrPump):
    """What a fake child says on stderr. It never blocks the child.

    Args:
        config: For its limits and the callback.
        on_end: Called once at the end.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, config: Config, *, on_end: Callable[[], None]
    ) -> None:
        super().__init__(
            loop,
            _NO_DESCRIPTOR,
            callback=config.on_stderr,
            max_line_bytes=config.max_stderr_line_bytes,
            tail_lines=config.stderr_tail_lines,
            on_end=on_end,
        )
        self._pipe = self._source = _MemoryPipe(lambda: None, self._end)

    # What the child does.

    def feed(self, *lines: str) -> None:
        """Say lines.

        Raises:
            RuntimeError: stderr is closed.
        """
        for line in lines:
            self.write(line.encode() + b"\n")

    def write(self, data: bytes) -> None:
        """Say bytes, which need not be whole lines.

        Raises:
            RuntimeError: stderr is closed.
        """
        self._pipe.put(partial(self._data, data))

    def end(self) -> None:
        """Close stderr as the child."""
        self._pipe.end()


class _MemoryPipe(PipeSource):
    """A pipe that is a list. Unbounded: what it holds, the test has in memory anyway.

    Args:
        on_empty: Called when everything is read that was written.
        on_end: Called once, at the end.
    """

    __slots__ = ("_deliveries", "_ended", "_ending", "_on_empty", "_paused")

    def __init__(self, on_empty: Callable[[], None], on_end: Callable[[], None]) -> None:
        # Not that of `PipeSource`, whose every public method is overridden: there is no pipe.
        self._on_empty = on_empty
        self._on_end = on_end
        self._deliveries: deque[Callable[[], None]] = deque()
        self._paused = False
        self._ending = False
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether the pipe is at its end, or closed."""
        return self._ended

    @property
    def full(self) -> bool:
        """Whether something was written that is not read."""
        return bool(self._deliveries)

    def put(self, delivery: Callable[[], None]) -> None:
        """Write a piece: the call that delivers it to the reader.

        Raises:
            RuntimeError: The pipe is closed, at either end.
        """
        if self._ending or self._ended:
            raise RuntimeError("the fake child has ended, or closed this output")
        self._deliveries.append(delivery)
        self._deliver()

    def end(self) -> None:
        """Close the far end."""
        self._ending = True
        self._deliver()

    def pause(self) -> None:
        """Stop reading."""
        self._paused = True

    def resume(self) -> None:
        """Read again."""
        self._paused = False
        self._deliver()

    def read_remains(self) -> None:
        """Read everything that was written."""
        self.resume()

    def close(self) -> None:
        """Close the near end, and say so."""
        if not self._ended:
            self._ended = True
            self._on_end()

    def release(self) -> int:
        """Return -1: there is no descriptor."""
        return _NO_DESCRIPTOR

    def _deliver(self) -> None:
        while self._deliveries and not self._paused:
            self._deliveries.popleft()()
        if not self._deliveries:
            self._on_empty()
        # Asked again: the child may have used the room at once.
        if self._ending and not self._deliveries and not self._paused:
            self.close()
