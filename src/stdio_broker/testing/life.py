"""How a fake child goes down: by the table and with the graces of a real one, without its process."""

import asyncio
import dataclasses
import itertools
import signal
from collections.abc import Callable

from ..supervisor import Child, Config, ExitStatus, Phase
from ..supervisor.ladder import Ladder
from ..supervisor.lifecycle import GRACES, LADDER, State, follow
from ..supervisor.stderr import StderrPump

__all__ = ["Life"]

#: Numbers that no process has: Linux gives out none above 2²². Code under test may send signals.
_pids = itertools.count(2**22 + 1)


class Life:
    """The way down of one fake child. One task, from the first stop or the exit on.

    Args:
        config: For its graces.
        child: Whose life it is.
        stderr: Its stderr.
        changed: Set by whoever changes something that a step may wait for.
        send: Called with every signal that the child gets.

    Attributes:
        pid: Its number; None once it is reaped.
        state: Where in its life it is.
        stop_requested: Whether somebody has asked it to end.
        status: How it ended; None until it is done.
        failure: What the test's `answer` raised on the way down, if it did.
    """

    def __init__(
        self,
        config: Config,
        child: Child,
        *,
        stderr: StderrPump,
        changed: asyncio.Event,
        send: Callable[[signal.Signals], None],
    ) -> None:
        self.pid: int | None = next(_pids)
        self.state = State.RUNNING
        self.stop_requested = False
        self.status: ExitStatus | None = None
        self.failure: BaseException | None = None
        self._config = config
        self._child = child
        self._stderr = stderr
        self._changed = changed
        self._send = send
        self._ladder = Ladder({name: getattr(config, name) for name in GRACES})
        self._ended: ExitStatus | None = None
        self._task: asyncio.Task[None] | None = None

    def stop(self, *, eof_grace: float | None, stop_grace: float | None) -> None:
        """Begin to stop it, or shorten a stop."""
        self._ladder.shorten(eof_grace=eof_grace, stop_grace=stop_grace)
        self.stop_requested = True
        self._begin()

    def hurry(self) -> None:
        """Kill it now."""
        self.stop(eof_grace=0, stop_grace=0)

    def exit(self, status: ExitStatus) -> None:
        """Say that the process has ended."""
        self._ended = status
        self._child.exited.set()
        if self.state is State.UNKILLABLE:  # it was given up, and has ended after all
            self._reap()
            self._enter(State.DONE)
        self._begin()

    def _begin(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._live(), name=f"fake child {self.pid}")
            self._task.add_done_callback(self._finish)
        self._changed.set()

    def _enter(self, state: State) -> None:
        self.state = follow(self.state, state)

    async def _live(self) -> None:
        phase = await self._climb_down()
        if self._ended is not None:
            self._enter(State.EXITED)
            if self._config.orphans == "kill":
                self._enter(State.SWEEP)
        pipes_held = await self._drain()
        if self._ended is not None:
            self._reap()
            self._enter(State.DONE)
        else:
            phase = Phase.UNKILLABLE
            self._enter(State.UNKILLABLE)
        ended = self._ended or ExitStatus(code=None, signal=None)
        self.status = dataclasses.replace(
            ended,
            phase=phase,
            pipes_held=pipes_held or ended.pipes_held,
            stdin_dropped=self._child.stdin.dropped_bytes,
            stdout_discarded=self._child.stdout.discarded_bytes,
            stderr_dropped=self._stderr.dropped_lines,
        )

    def _finish(self, task: asyncio.Task[None]) -> None:
        if self.status is None:  # the event loop was shut down, or the test's `answer` made a mistake
            self.failure = None if task.cancelled() else task.exception()
            self.pid = None
            self._enter(State.ABANDONED)
            self.status = ExitStatus(code=None, signal=None, phase=Phase.KILL)
        self._child.done.set()

    async def _climb_down(self) -> Phase:
        for state in LADDER:
            if self._ended is not None:
                break
            if state is State.TERM and not self._ladder.grace(state):
                continue
            self._enter(state)
            self._take_step()
            await self._until(self._step_is_over)
        return LADDER.get(self.state, Phase.SELF)

    def _take_step(self) -> None:
        if self.state is State.FLUSH:
            self._child.stdout.drain()
        elif self.state is State.EOF:
            self._child.stdin.close()
        elif self.state is State.TERM:
            self._send(signal.SIGTERM)
            self._send(signal.SIGCONT)
        else:
            self._send(signal.SIGKILL)

    def _step_is_over(self) -> bool:
        flushed = self.state is State.FLUSH and not self._child.stdin.unwritten_bytes
        return flushed or self._ended is not None

    async def _drain(self) -> bool:
        """Deliver the rest of the output; return whether that was not possible in time."""
        stdout, stderr = self._child.stdout, self._stderr
        self._enter(State.DRAIN)
        self._child.stdin.close()
        stdout.drain()
        await self._until(lambda: stdout.ended and stderr.delivered)
        held = not (stdout.ended and stderr.ended)
        stdout.close()
        stderr.close()
        return held

    def _reap(self) -> None:
        self._enter(State.REAP)
        self.pid = None

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds, or the grace of the state (which may shrink) is over."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        while not condition():
            self._changed.clear()
            left = started + self._ladder.grace(self.state) - loop.time()
            if left <= 0:
                return
            timer = loop.call_later(left, self._changed.set)
            try:
                await self._changed.wait()
            finally:
                timer.cancel()
