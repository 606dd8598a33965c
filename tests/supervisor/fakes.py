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
        pace: Seconds that it takes for what it reads at once.
        holds_pipes: A descendant that escaped keeps stdout and stderr open.
        group_lives_for: Seconds that the group outlives the reaping.
        refused: Signals that the system refuses to send.
        signals: What it got, in order.
        attempts: What was sent to it and when, refused or not.
        arrived: What has come out of its stdin, and at its end what it had left there.
        said: What it has written to stdout, as far as the pipe took it.
        complained: The same of stderr.
        reaped: Whether it was reaped.
    """

    reactions: Mapping[signal.Signals | None, float] = field(default_factory=dict)
    code: int = 0
    reads: bool = True
    pace: float = 0.0
    holds_pipes: bool = False
    group_lives_for: float = 0.0
    refused: frozenset[signal.Signals] = frozenset()
    signals: list[signal.Signals] = field(default_factory=list)
    attempts: list[tuple[float, signal.Signals]] = field(default_factory=list)
    arrived: bytearray = field(default_factory=bytearray)
    said: bytearray = field(default_factory=bytearray)
    complained: bytearray = field(default_factory=bytearray)
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
        self._unsaid = bytearray()
        self._listening = False
        self._busy = False
        self._identities: dict[int, tuple[int, int]] = {}
        self._exits: list[asyncio.TimerHandle] = []

    async def spawn(self, *_: object, **__: object) -> Spawned:
        """Stand for a spawner."""
        stdin, near_stdin = os.pipe()
        near_stdout, stdout = os.pipe()
        near_stderr, stderr = os.pipe()
        self._far = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        for fd in (stdin, near_stdin, stdout, near_stdout, stderr, near_stderr):
            os.set_blocking(fd, False)
        pidfd = os.open(os.devnull, os.O_RDONLY)
        self.ours = Spawned(1, pidfd, near_stdin, near_stdout, near_stderr)
        given = (near_stdin, near_stdout, near_stderr, pidfd)
        self._identities = {fd: _identity(fd) or (0, 0) for fd in given}
        self._listen()
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
        self.close_stdin()
        if not self.holds_pipes:
            self.let_go()
        if self.on_exit is not None:
            self._loop.call_soon(self.on_exit)

    def let_go(self, *names: str) -> None:
        """Close stdout and stderr, or one of them, whoever held them."""
        names = names or ("stdout", "stderr")
        if "stdout" in names:
            self._unsaid.clear()
        self._close(*names)
        self._listen()

    def read_on(self, *, on: bool) -> None:
        """Begin or cease to read stdin."""
        self.reads = on
        self._listen()

    def close_stdin(self) -> None:
        """Read no more, ever."""
        if "stdin" in self._far:
            while self._read():
                pass
        self._close("stdin")

    def write(self, data: bytes) -> None:
        """Write to stdout. While the pipe is full it does nothing else: it does not notice EOF."""
        if "stdout" in self._far:
            self._unsaid += data
            self._write()

    def complain(self, data: bytes) -> None:
        """Write to stderr."""
        if "stderr" in self._far:
            self.complained += data[: _write(self._far["stderr"], data) or 0]

    @property
    def blocked(self) -> bool:
        """Whether it waits for room in stdout's pipe."""
        return bool(self._unsaid)

    @property
    def holds_any_pipe(self) -> bool:
        """Whether stdout or stderr is open at the far end."""
        return not self._far.keys().isdisjoint({"stdout", "stderr"})

    def get(self, number: signal.Signals) -> bool:
        """Receive a signal, as a member of a group."""
        self.attempts.append((self._loop.time(), number))
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
        # A number alone could be somebody else's by now.
        return {fd for fd, identity in self._identities.items() if _identity(fd) == identity}

    def _react(self, cause: signal.Signals | None) -> None:
        if (delay := self.reactions.get(cause)) is not None:
            code, number = (self.code, None) if cause is None else (None, int(cause))
            self._exits.append(self._loop.call_later(delay, self.exit, code, number))

    def _listen(self) -> None:
        able = self.reads and not self._busy and not self.blocked
        listening = able and not self.eof and "stdin" in self._far
        if listening and not self._listening:
            self._loop.add_reader(self._far["stdin"], self._read)
        elif self._listening and not listening and "stdin" in self._far:
            self._loop.remove_reader(self._far["stdin"])
        self._listening = listening

    def _read(self) -> bool:
        """Read once; False if there is nothing now, or nothing any more."""
        try:
            data = os.read(self._far["stdin"], 65536)
        except BlockingIOError:
            return False
        self.arrived += data
        if not data:
            self.eof = True
            self._listen()
            if not self.exited:
                self._react(None)
        elif self.pace:
            self._work(on=True)
            self._loop.call_later(self.pace, lambda: self._work(on=False))
        return bool(data)

    def _work(self, *, on: bool) -> None:
        self._busy = on
        self._listen()

    def _write(self) -> None:
        written = _write(self._far["stdout"], self._unsaid)
        if written is None:
            self._unsaid.clear()
            self._close("stdout")
        else:
            self.said += self._unsaid[:written]
            del self._unsaid[:written]
            self._loop.remove_writer(self._far["stdout"])
            if self._unsaid:
                self._loop.add_writer(self._far["stdout"], self._write)
        self._listen()

    def _close(self, *names: str) -> None:
        for name in names:
            if (fd := self._far.pop(name, None)) is not None:
                self._loop.remove_reader(fd)
                self._loop.remove_writer(fd)
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


def _write(fd: int, data: bytes | bytearray) -> int | None:
    """Return how much of it the pipe took; None if nobody can read it any more."""
    try:
        return os.write(fd, data)
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        return None


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        stat = os.fstat(fd)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino
