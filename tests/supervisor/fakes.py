"""A child that is not there: its pipes are real, its process is played. For virtual time."""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stdio_broker.supervisor.exit_watch import Waited
from stdio_broker.supervisor.spawner import Spawned

__all__ = ["FakeProcess", "FakeWatch"]


@dataclass
class FakeProcess:
    """How the process behaves, and what has happened to it.

    Attributes:
        reactions: Seconds until it exits after EOF (None) or a signal; a missing one is ignored.
        code: Its exit code, if it exits by itself or by EOF.
        reads: Whether it reads its stdin; if not, it does not notice EOF.
        holds_pipes: A descendant that escaped keeps stdout and stderr open.
        group_lives_for: Seconds that the group outlives the reaping.
        refused: Signals that the system refuses to send.
        signals: What it got, in order.
        reaped: Whether it was reaped.
    """

    reactions: Mapping[signal.Signals | None, float] = field(default_factory=dict)
    code: int = 0
    reads: bool = True
    holds_pipes: bool = False
    group_lives_for: float = 0.0
    refused: frozenset[signal.Signals] = frozenset()
    signals: list[signal.Signals] = field(default_factory=list)
    eof: bool = False
    exited: bool = False
    reaped: bool = False
    discarded: bool = False
    waited: Waited | None = None
    on_exit: Callable[[], None] | None = None
    ours: Spawned | None = None

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reaped_at = 0.0
        self._far: dict[str, int] = {}
        self._exits: list[asyncio.TimerHandle] = []

    async def spawn(self, *_: object, **__: object) -> Spawned:
        """Stand for a spawner."""
        stdin, near_stdin = os.pipe()
        near_stdout, stdout = os.pipe()
        near_stderr, stderr = os.pipe()
        self._far = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        for fd in (stdin, near_stdin, near_stdout, near_stderr):
            os.set_blocking(fd, False)
        if self.reads:
            self._loop.add_reader(stdin, self._read)
        pidfd = os.open(os.devnull, os.O_RDONLY)
        self.ours = Spawned(1, pidfd, near_stdin, near_stdout, near_stderr)
        return self.ours

    def discard(self, spawned: Spawned) -> None:
        """Stand for a spawner."""
        self.discarded = True
        spawned.close()

    def exit(self, code: int | None = None, number: int | None = None) -> None:
        """End the process."""
        if self.exited:
            return
        self.exited = True
        self.waited = Waited(code=code, signal=number, core=False)
        self._close("stdin")
        if not self.holds_pipes:
            self.let_go()
        if self.on_exit is not None:
            self._loop.call_soon(self.on_exit)

    def let_go(self) -> None:
        """Close stdout and stderr."""
        self._close("stdout", "stderr")

    def write(self, data: bytes) -> None:
        """Write to stdout."""
        os.write(self._far["stdout"], data)

    def get(self, number: signal.Signals) -> bool:
        """Receive a signal, as a member of a group."""
        assert not self.reaped, "a signal after the reaping is a stranger's"
        if number in self.refused:
            raise PermissionError(1, "Operation not permitted")
        self.signals.append(number)
        self._react(number)
        return not self.exited

    def reap(self) -> Waited:
        assert self.exited, "reaping before the exit would wait"
        assert not self.reaped, "reaping twice could reap a stranger"
        assert self.waited is not None
        self.reaped = True
        self._reaped_at = self._loop.time()
        return self.waited

    def group_alive(self) -> bool:
        assert self.reaped
        return self._loop.time() < self._reaped_at + self.group_lives_for

    def end(self) -> None:
        """Give up everything, at the end of the test."""
        for handle in self._exits:
            handle.cancel()
        self._close(*self._far)

    def ours_open(self) -> set[int]:
        """Return which of the descriptors that were given away are open."""
        assert self.ours is not None
        fds = (self.ours.stdin, self.ours.stdout, self.ours.stderr, self.ours.pidfd or -1)
        return {fd for fd in fds if _is_open(fd)}

    def _react(self, cause: signal.Signals | None) -> None:
        if (delay := self.reactions.get(cause)) is not None:
            code, number = (self.code, None) if cause is None else (None, int(cause))
            self._exits.append(self._loop.call_later(delay, self.exit, code, number))

    def _read(self) -> None:
        if os.read(self._far["stdin"], 65536) == b"":
            self._loop.remove_reader(self._far["stdin"])
            self.eof = True
            self._react(None)

    def _close(self, *names: str) -> None:
        for name in names:
            if (fd := self._far.pop(name, None)) is not None:
                self._loop.remove_reader(fd)
                os.close(fd)


class FakeWatch:
    """An exit watch of a played process; takes the place of `PidfdWatch`."""

    process: FakeProcess

    def __init__(self, _loop: object, _pid: int, pidfd: int, on_exit: Callable[[], None]) -> None:
        self._pidfd = pidfd
        self.process.on_exit = on_exit
        if self.process.exited:
            asyncio.get_running_loop().call_soon(on_exit)

    def reap(self) -> Waited:
        return self.process.reap()

    def signal_group(self, number: signal.Signals) -> bool:
        return self.process.get(number)

    def group_alive(self, *, closely: bool) -> bool:  # noqa: ARG002 - none of them is a zombie
        return self.process.group_alive()

    def close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def release(self) -> int:
        pidfd, self._pidfd = self._pidfd, -1
        return pidfd


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
