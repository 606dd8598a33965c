"""A child in memory: what a bridge sees of one, without a process. `test_fake_child.py` has its contract."""

import asyncio
from collections import deque
from typing import cast

from stdio_broker.errors import ChildGone, EndOfOutput
from stdio_broker.supervisor import Child, ExitStatus, OversizeLine

__all__ = ["FakeChild"]


class _Stdin:
    """Takes lines; waits while it is told to be full."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.closed = False
        self._room = asyncio.Event()
        self._room.set()

    async def send(self, line: bytes) -> None:
        _check(line)
        await self._room.wait()
        if self.closed:
            raise ChildGone("the child's stdin is closed")
        self.lines.append(line)

    def send_nowait(self, line: bytes) -> bool:
        _check(line)
        if self.closed or not self._room.is_set():
            return False
        self.lines.append(line)
        return True

    def fill(self) -> None:
        self._room.clear()

    def drain(self) -> None:
        self._room.set()

    def close(self) -> None:
        self.closed = True
        self._room.set()


class _Stdout:
    """Gives lines to one reader, and tells when it has come back for more."""

    def __init__(self) -> None:
        self._lines: deque[bytes | OversizeLine] = deque()
        self._ended = False
        self._changed = asyncio.Event()
        self._wanted = asyncio.Event()

    async def receive_many(self) -> list[bytes | OversizeLine]:
        while not self._lines:
            self._wanted.set()
            if self._ended:
                raise EndOfOutput("the child's stdout has ended")
            self._changed.clear()
            await self._changed.wait()
        lines = list(self._lines)
        self._lines.clear()
        return lines

    def feed(self, *lines: bytes | OversizeLine) -> None:
        self._wanted.clear()
        self._lines += lines
        self._changed.set()

    def end(self) -> None:
        self._ended = True
        self._changed.set()

    async def wait_wanted(self) -> None:
        await self._wanted.wait()


class FakeChild:
    """Driven by a test: `says` is its output, `stdin.lines` what it was told, `exit` its end."""

    def __init__(self) -> None:
        self.pid: int | None = 4711
        self.stdin = _Stdin()
        self.stdout = _Stdout()
        self._status: ExitStatus | None = None
        self.exited = asyncio.Event()

    def as_child(self) -> Child:
        """Return it as the type that it stands for."""
        return cast("Child", self)

    async def wait(self) -> ExitStatus:
        await self.exited.wait()
        assert self._status is not None
        return self._status

    async def says(self, *lines: bytes | OversizeLine) -> None:
        """Put lines out, and wait until the reader has dealt with them all."""
        self.stdout.feed(*lines)
        await self.stdout.wait_wanted()

    def exit(self, status: ExitStatus | None = None) -> None:
        self._status = status or ExitStatus(code=0, signal=None)
        self.stdin.close()
        self.stdout.end()
        self.exited.set()


def _check(line: bytes) -> None:
    if b"\n" in line:
        raise ValueError("a line must not contain a newline")
