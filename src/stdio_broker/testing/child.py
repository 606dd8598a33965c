"""A child without a process: what users of `Child` see of one, driven by a test.

It keeps the rules of a real one (`ChildContract` has them), and goes down by the same table with
the same graces, so that a test may have it stopped, in virtual time too. What it cannot play:
descendants, and pipes that somebody else holds open (`exit` takes a status that says so).
"""

import asyncio
import signal
from collections.abc import Callable, Iterable

from ..errors import NotExited
from ..supervisor import Child, Config, ExitStatus, OversizeLine
from ..supervisor.flag import Flag
from ..supervisor.lifecycle import State
from .life import Life
from .output import FakeStderr, FakeStdout
from .stdin import FakeStdin

__all__ = ["Answer", "FakeChild"]

#: What a child says to a line that it reads: any number of lines.
Answer = Callable[[bytes], Iterable[bytes | OversizeLine]]


class FakeChild(Child):
    """A child in memory. Make it where the event loop runs.

    It does what its arguments say, and what the test makes it do: `hears`, `says` and `exit` here,
    the rest on its pipes: `stdin.lines`, `stdin.fill`, `stdout.write`, `stdout.end`, `stderr.feed` ….

    Args:
        config: For its limits, graces and `on_stderr`; what it runs does not matter. None is the
            defaults.
        answer: What it says to each line that it reads; None says nothing. What it raises comes out
            where the line is read: in `send`, or in what made room for it.
        reads: Whether it reads its stdin; if not, it does not notice EOF either.
        ignores_eof: Live on after EOF.
        ignores_sigterm: Live on after SIGTERM.
        ignores_sigkill: Live on after SIGKILL, so that it is reported as unkillable.
        eof_code: Code it exits with after EOF.
        sigterm_code: Code it exits with after SIGTERM; None ends it by the signal.

    Attributes:
        stdin: What was sent to it, and whether it reads on.
        stdout: What it says, for the code under test; the test's side of it, too.
        stderr: The test's side of its stderr.
        signals: The signals that it got, in order.
    """

    stdin: FakeStdin
    stdout: FakeStdout

    def __init__(
        self,
        config: Config | None = None,
        *,
        answer: Answer | None = None,
        reads: bool = True,
        ignores_eof: bool = False,
        ignores_sigterm: bool = False,
        ignores_sigkill: bool = False,
        eof_code: int = 0,
        sigterm_code: int | None = None,
    ) -> None:
        # Not that of `Child`: there is no process. What would need one is overridden.
        loop = asyncio.get_running_loop()
        config = config or Config(cmd=["fake"])
        self.exited = Flag()
        self.done = Flag()
        self.signals: list[signal.Signals] = []
        self._answer = answer
        self._endings: dict[signal.Signals | None, ExitStatus] = {}
        if not ignores_eof:
            self._endings[None] = ExitStatus(code=eof_code, signal=None)
        if not ignores_sigterm:
            self._endings[signal.SIGTERM] = (
                _ended_by(signal.SIGTERM)
                if sigterm_code is None
                else ExitStatus(code=sigterm_code, signal=None)
            )
        if not ignores_sigkill:
            self._endings[signal.SIGKILL] = _ended_by(signal.SIGKILL)
        changed = asyncio.Event()
        self.stdout = FakeStdout(loop, config, on_empty=self._unblocked, on_end=changed.set)
        self.stderr = FakeStderr(loop, config, on_end=changed.set)
        self.stdin = FakeStdin(
            buffer_bytes=config.stdin_buffer_bytes,
            reads=reads,
            blocked=lambda: self.stdout.blocked,
            on_line=self._read,
            on_eof=self._read_eof,
            on_flushed=changed.set,
        )
        self._life = Life(config, self, stderr=self.stderr, changed=changed, send=self._get)

    # What the code under test does.

    @property
    def pid(self) -> int | None:
        """A number that no process has; None once it is reaped."""
        return self._life.pid

    @property
    def state(self) -> State:
        """Where in its life it is."""
        return self._life.state

    @property
    def stop_requested(self) -> bool:
        """Whether somebody has asked it to end."""
        return self._life.stop_requested

    @property
    def stderr_tail(self) -> tuple[str, ...]:
        """The last lines of its stderr, oldest first."""
        return self.stderr.tail

    def exit_status(self) -> ExitStatus:
        """Return how it ended.

        Raises:
            NotExited: It is not done yet.
        """
        if self._life.failure is not None:
            raise self._life.failure
        if self._life.status is None:
            raise NotExited("the child is not done yet; wait for `done` first")
        return self._life.status

    async def stop(self, *, eof_grace: float | None = None, stop_grace: float | None = None) -> ExitStatus:
        """End the child by the stop ladder and return how it ended; see `Child.stop`.

        Raises:
            ValueError: A grace is negative.
        """
        self.stop_nowait(eof_grace=eof_grace, stop_grace=stop_grace)
        try:
            await self.done.wait()
        except asyncio.CancelledError:
            self._life.hurry()
            await self.done.wait()
            raise
        return self.exit_status()

    def stop_nowait(self, *, eof_grace: float | None = None, stop_grace: float | None = None) -> None:
        """Begin what `stop` does; see `Child.stop_nowait`.

        Raises:
            ValueError: A grace is negative.
        """
        self._life.stop(eof_grace=eof_grace, stop_grace=stop_grace)

    # What the test does.

    async def hears(self) -> bytes:
        """Wait for the next line that it has not been asked for yet, and return it.

        Raises:
            EOFError: stdin is closed, and there is none.
        """
        return await self.stdin.receive()

    async def says(self, *lines: bytes | OversizeLine) -> None:
        """Say lines, and wait until the consumer has dealt with them all and wants more.

        To say something without waiting: `stdout.feed`.
        """
        self.stdout.feed(*lines)
        await self.stdout.wait_wanted()

    def exit(self, status: ExitStatus | None = None) -> None:
        """End the process; it is done a moment later, when its last output is delivered.

        Args:
            status: How it ended; None is with code 0. Its phase and its losses do not matter: they
                are what really happened. Nothing happens if it has ended already.
        """
        if not self.exited.is_set():
            self.stdin.shut()
            self.stdout.end()
            self.stderr.end()
            self._life.exit(status or ExitStatus(code=0, signal=None))

    def _get(self, number: signal.Signals) -> None:
        self.signals.append(number)
        self._react(number)

    def _react(self, cause: signal.Signals | None) -> None:
        if (status := self._endings.get(cause)) is not None:
            self.exit(status)

    def _read_eof(self) -> None:
        # Not at once: a process takes a moment, and code under test must not find it gone already.
        asyncio.get_running_loop().call_soon(self._react, None)

    def _read(self, line: bytes) -> None:
        if self._answer is not None:
            self.stdout.feed(*self._answer(line))

    def _unblocked(self) -> None:
        self.stdin.read()


def _ended_by(number: signal.Signals) -> ExitStatus:
    return ExitStatus(code=None, signal=number)
