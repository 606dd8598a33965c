"""One running child, from its start to its last byte, by the table in `lifecycle.py`.

*Exit*, *end of output* and *stop* are three facts, and each can come first. One task per child
turns them into one end; everybody else only changes facts and wakes it. `done` means: reaped,
every descriptor closed, the last line of stdout and stderr delivered, the process group empty
or reported. It knows no protocol.
"""

import asyncio
import functools
import logging
import os
import signal
from collections.abc import Callable
from types import TracebackType
from typing import Self

from ..errors import CapacityError, ChildExitError, NotExited, SpawnError
from .config import Config
from .containment import contain
from .environment import build_environment
from .exit_watch import PidfdWatch, ThreadWatch, Waited
from .flag import Flag
from .ladder import Ladder
from .lifecycle import GRACES, LADDER, State, follow
from .spawner import Spawned, Spawner, default_spawner
from .status import ExitStatus, Phase
from .stderr import StderrPump
from .stdin import LineWriter
from .stdout import LineReader
from .temporary import Temporary
from .tree import ProcessTree

__all__ = ["Child", "start"]

logger = logging.getLogger(__name__)

#: Seconds between looks at a group whose members were killed but have not vanished yet: the
#: first, and the longest. There is no event for that; the wait is bounded by `kill_grace`.
FIRST_GROUP_POLL, LAST_GROUP_POLL = 0.001, 0.064

#: From this interval on, look closely. The killed usually vanish long before.
CLOSE_LOOK_FROM = 0.016


async def start(
    config: Config, *, spawner: Spawner | None = None, on_done: Callable[["Child"], None] | None = None
) -> "Child":
    """Start a child.

    Cancelling the start leaves no process and no descriptor behind. Cancelling anything later
    never ends the child: it lives until it exits or is stopped.

    Args:
        config: What to run.
        spawner: Thread that starts it; None is the one shared by this process.
        on_done: Called once when the child is done.

    Raises:
        SpawnError: The operating system refused; the message says why and what to change.
        CapacityError: Too few descriptors, processes or threads are left. A `SpawnError`, too.
    """
    env = build_environment(os.environ, inherit=config.inherit_env, overrides=config.env)
    argv = [os.fspath(argument) for argument in config.cmd]
    cwd = None if config.cwd is None else os.fspath(config.cwd)
    try:
        spawner = spawner or default_spawner()
    except RuntimeError as exc:
        raise _no_thread(argv[0], f"the system refused a thread to start it: {exc}") from exc
    containment = Temporary(contain(config)) if config.private_tmp else contain(config)
    spawned = await spawner.spawn(argv, env=env, cwd=cwd, containment=containment, limits=config.limits)
    try:
        return Child(config, spawned, spawner, on_done)
    except (OSError, RuntimeError) as exc:
        # No thread for the watch, or no room in the event loop's selector. What is in there must
        # come out before its number is closed, and becomes somebody else's.
        loop = asyncio.get_running_loop()
        for fd in (spawned.pidfd, spawned.stdout, spawned.stderr):
            if fd is not None:
                loop.remove_reader(fd)
        spawner.discard(spawned)
        reason = f"the system refused what it takes to watch it: {exc}"
        if isinstance(exc, RuntimeError):
            raise _no_thread(argv[0], reason) from exc
        raise SpawnError(argv[0], reason) from exc


def _no_thread(command: str, reason: str) -> CapacityError:
    return CapacityError(command, reason, resource="processes", used=None, limit=None)


class Child:
    """A running child. Made by `start`, never directly.

    Attributes:
        stdin: Lines to the child; `close()` is EOF.
        stdout: Lines from the child, for one consumer.
        exited: Set when the process has exited; its last output may still be on the way.
        done: Set when nothing of the child is left (see the module's docstring).
    """

    __slots__ = (
        "_cancelled",
        "_changed",
        "_config",
        "_ladder",
        "_loop",
        "_on_done",
        "_owner",
        "_pid",
        "_spawner",
        "_state",
        "_status",
        "_stderr",
        "_stopping",
        "_task",
        "_tree",
        "done",
        "exited",
        "stdin",
        "stdout",
    )

    def __init__(
        self,
        config: Config,
        spawned: Spawned,
        spawner: Spawner,
        on_done: Callable[["Child"], None] | None = None,
    ) -> None:
        loop = self._loop = asyncio.get_running_loop()
        self._config = config
        self._spawner = spawner
        self._owner = os.getpid()
        self._on_done = on_done
        self._pid: int | None = spawned.pid
        self._ladder = Ladder({name: getattr(config, name) for name in GRACES})
        self._state = State.RUNNING
        self._changed = Flag()
        self._stopping = Flag()
        self._cancelled = False
        self._status: ExitStatus | None = None
        self.exited = Flag()
        self.done = Flag()
        watch = (
            ThreadWatch(loop, spawned.pid, self._exit_peeked)
            if spawned.pidfd is None
            else PidfdWatch(loop, spawned.pid, spawned.pidfd, self._exit_peeked)
        )
        self.stdin = LineWriter(
            loop,
            spawned.stdin,
            buffer_bytes=config.stdin_buffer_bytes,
            # Not a method of ours: who is done shall not have to be found by the garbage collector.
            on_flushed=functools.partial(_flushed, self._stopping, self._changed),
        )
        self.stdout = LineReader(
            loop,
            spawned.stdout,
            max_line_bytes=config.max_line_bytes,
            buffer_bytes=config.stdout_buffer_bytes,
            on_end=self._changed.set,
        )
        self._stderr = StderrPump(
            loop,
            spawned.stderr,
            callback=config.on_stderr,
            max_line_bytes=config.max_stderr_line_bytes,
            tail_lines=config.stderr_tail_lines,
            on_end=self._changed.set,
        )
        # Last: from here on it is ended, whatever becomes of us.
        self._tree = ProcessTree(watch, spawned.containment)
        logger.info("child.started", extra={"pid": spawned.pid})
        self._task = loop.create_task(self._live(), name=f"child {spawned.pid}")
        self._task.add_done_callback(self._finish)

    @property
    def pid(self) -> int | None:
        """Its pid; None once it is reaped, because the number may be a stranger's then."""
        return self._pid

    @property
    def state(self) -> State:
        """Where in its life it is."""
        return self._state

    @property
    def stop_requested(self) -> bool:
        """Whether somebody has asked it to end."""
        return self._stopping.is_set()

    @property
    def stderr_tail(self) -> tuple[str, ...]:
        """The last lines of its stderr, oldest first. The child's own text: show it to operators only."""
        return self._stderr.tail

    def exit_status(self) -> ExitStatus:
        """Return how it ended.

        Raises:
            NotExited: It is not done yet.
        """
        if self._status is None:
            raise NotExited("the child is not done yet; wait for `done` first")
        return self._status

    def exit_err(self) -> ChildExitError | None:
        """Return the error of a bad end; None after a clean exit, or a stop that was obeyed.

        Raises:
            NotExited: It is not done yet.
        """
        status = self.exit_status()
        if status.ok:
            return None
        return ChildExitError(f"the child {status}", code=status.code, signal=status.signal)

    async def wait(self) -> ExitStatus:
        """Wait until it is done, without asking it to end, and return how it ended."""
        await self.done.wait()
        return self.exit_status()

    async def stop(self, *, eof_grace: float | None = None, stop_grace: float | None = None) -> ExitStatus:
        """End the child by the stop ladder and return how it ended.

        May be called any number of times, by any number of tasks: they share one way down, and
        each can only shorten it. Cancelling any of them sends SIGKILL at once, and the
        cancellation goes on when the child is done.

        Args:
            eof_grace: Seconds between EOF and SIGTERM; None is the configured grace.
            stop_grace: Seconds between SIGTERM and SIGKILL; None is the configured grace.

        Raises:
            ValueError: A grace is negative.
        """
        self.stop_nowait(eof_grace=eof_grace, stop_grace=stop_grace)
        try:
            await self.done.wait()
        except asyncio.CancelledError:
            self._hurry()
            # Bounded: kill_grace and drain_grace are all that is left of the ladder.
            await self.done.wait()
            raise
        return self.exit_status()

    def stop_nowait(self, *, eof_grace: float | None = None, stop_grace: float | None = None) -> None:
        """Begin what `stop` does, and do not wait for its end.

        Raises:
            ValueError: A grace is negative.
        """
        self._ladder.shorten(eof_grace=eof_grace, stop_grace=stop_grace)
        self._stopping.set()
        self._changed.set()

    async def __aenter__(self) -> Self:
        """Return the child; it is running already."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        await self.stop()

    def _exit_peeked(self) -> None:
        self.exited.set()
        self._changed.set()
        # It was reported as unkillable, and has ended after all.
        if self._status is not None and self._pid is not None:
            waited = self._reap()
            self._tree.close()
            self._enter(State.DONE)
            logger.warning(
                "child.reaped_late", extra={"exit_code": waited.code, "exit_signal": waited.signal}
            )

    def _hurry(self) -> None:
        self.stop_nowait(eof_grace=0, stop_grace=0)

    def _enter(self, state: State) -> None:
        self._state = follow(self._state, state)

    def _grace(self) -> float:
        return self._ladder.grace(self._state)

    async def _live(self) -> None:
        """Wait for the end, and see it through. The only writer of the child's state."""
        try:
            await self._until(lambda: self.exited.is_set() or self._stopping.is_set())
            self._status = await self._end()
        except GeneratorExit:  # the event loop was closed under us
            self._abandon()
            raise
        if self._cancelled:
            raise asyncio.CancelledError

    def _finish(self, task: asyncio.Task[None]) -> None:
        """Tell the end; bring it about if the task did not get so far (cancelled before its first step)."""
        if self._status is None:
            self._abandon()
            self._status = ExitStatus(code=None, signal=None, phase=Phase.KILL)
            exc = None if task.cancelled() else task.exception()
            logger.error("child.abandoned", exc_info=exc)
        self.done.set()
        if self._on_done is not None:
            self._on_done(self)

    async def _end(self) -> ExitStatus:
        phase = await self._climb_down()
        pid = self._pid
        waited = Waited(code=None, signal=None, core=False)
        survivors = False
        if self.exited.is_set():
            self._enter(State.EXITED)
            if self._config.orphans == "kill":
                self._enter(State.SWEEP)
                self._signal(self._tree.kill)
        pipes_held = await self._drain()
        if self.exited.is_set():
            waited = self._reap()
            survivors = await self._outlive_descendants()
            self._tree.close()
        else:
            phase = Phase.UNKILLABLE
        status = ExitStatus(
            code=waited.code,
            signal=waited.signal,
            core=waited.core,
            phase=phase,
            pipes_held=pipes_held,
            survivors=survivors,
            stdin_dropped=self.stdin.dropped_bytes,
            stdout_discarded=self.stdout.discarded_bytes,
            stderr_dropped=self._stderr.dropped_lines,
        )
        _report(pid, status)
        # Last: if anything above were to fail, it could still be abandoned.
        self._enter(State.UNKILLABLE if phase is Phase.UNKILLABLE else State.DONE)
        return status

    async def _climb_down(self) -> Phase:
        """Take one step of the ladder after the other until the child has exited; return when it did."""
        for state in LADDER:
            if self.exited.is_set():
                break
            if state is State.TERM and not self._ladder.grace(state):
                continue  # now means now: its end shall not depend on which signal is faster
            self._enter(state)
            self._take_step()
            await self._until(self._step_is_over, grace=self._grace)
        return LADDER.get(self._state, Phase.SELF)

    def _take_step(self) -> None:
        if self._state is State.FLUSH:
            # A child that is blocked writing to a full pipe can neither see EOF nor act on SIGTERM.
            self.stdout.drain()
        elif self._state is State.EOF:
            self.stdin.close()
        elif self._state is State.TERM:
            self._signal(self._tree.terminate)
        else:
            self._signal(self._tree.kill)

    def _step_is_over(self) -> bool:
        return self.exited.is_set() or (self._state is State.FLUSH and not self.stdin.unwritten_bytes)

    def _signal(self, send: Callable[[], None]) -> None:
        try:
            send()
        except OSError as exc:  # a set-uid child; whatever it is, the way down goes on
            facts = {"pid": self._pid, "step": self._state.value, "error": str(exc)}
            logger.warning("child.signal_refused", extra=facts)

    async def _drain(self) -> bool:
        """Read both pipes to their ends, bounded; return whether somebody still holds one open."""
        self._enter(State.DRAIN)
        self.stdin.close()
        self.stdout.drain()
        await self._until(lambda: self.stdout.ended and self._stderr.delivered, grace=self._grace)
        held = not (self.stdout.ended and self._stderr.ended)
        self.stdout.close()
        self._stderr.close()
        return held

    def _reap(self) -> Waited:
        self._enter(State.REAP)
        self._pid = None
        waited = self._tree.reap()
        return _as_signal(waited) if self._config.signal_codes else waited

    async def _outlive_descendants(self) -> bool:
        """Wait until what was swept is gone; return whether any of it has outlived `kill_grace`."""
        if self._config.orphans == "leave":
            return False
        deadline = self._loop.time() + self._grace()
        interval = FIRST_GROUP_POLL
        while self._tree.alive(closely=interval >= CLOSE_LOOK_FROM):
            if self._loop.time() >= deadline:
                return True
            await self._pause(interval)
            interval = min(2 * interval, LAST_GROUP_POLL)
        return False

    async def _pause(self, seconds: float) -> None:
        await self._until(lambda: False, grace=lambda: seconds)

    def _abandon(self) -> None:
        """Have the child ended by the spawner's thread: its task is gone, and maybe the event loop."""
        ours = os.getpid() == self._owner  # else we are a copy made by fork, which shares the loop's epoll
        pidfd, containment = self._tree.release()
        if ours and not self._loop.is_closed():
            if pidfd is not None and pidfd >= 0:
                self._loop.remove_reader(pidfd)
            self.stdin.close()
            self.stdout.close()
            self._stderr.close()
        rest = Spawned(
            pid=self._pid or 0,
            pidfd=pidfd,
            stdin=self.stdin.release(),
            stdout=self.stdout.release(),
            stderr=self._stderr.release(),
            containment=containment,
        )
        if ours:
            self._pid = None
            self._spawner.discard(rest)
        else:
            rest.close()
        self._enter(State.ABANDONED)

    async def _until(
        self, condition: Callable[[], bool], *, grace: Callable[[], float] | None = None
    ) -> None:
        """Wait until the condition holds, or the grace (which may shrink meanwhile) is over.

        The condition is looked at whenever `_changed` is set. A cancellation of this task (the
        event loop is being shut down) means: now, and by force. It is raised at the very end.
        """
        started = self._loop.time()
        while not condition():
            self._changed.clear()
            left = None if grace is None else started + grace() - self._loop.time()
            if left is not None and left <= 0:
                return
            # Not `asyncio.timeout`, which cancels this task: only one kind of cancellation is left.
            timer = None if left is None else self._loop.call_later(left, self._changed.set)
            try:
                await self._changed.wait()
            except asyncio.CancelledError:
                self._cancelled = True
                self._hurry()
            finally:
                if timer is not None:
                    timer.cancel()


def _flushed(stopping: Flag, changed: Flag) -> None:
    """Wake a child's task. Only while it is being stopped: this comes with every line."""
    if stopping.is_set():
        changed.set()


def _as_signal(waited: Waited) -> Waited:
    """Return the end that an exit code of 128 + N stands for."""
    if waited.code is None or (number := waited.code - 128) not in signal.valid_signals():
        return waited
    return Waited(code=None, signal=number, core=False)


def _report(pid: int | None, status: ExitStatus) -> None:
    level = logging.INFO if status.ok else logging.WARNING
    if status.phase is Phase.UNKILLABLE or status.survivors:
        level = logging.ERROR
    facts = {
        "pid": pid,
        "exit_code": status.code,
        "exit_signal": status.signal,
        "phase": status.phase.value,
    }
    if status.pipes_held or status.survivors:
        facts |= {"pipes_held": status.pipes_held, "survivors": status.survivors}
    logger.log(level, "child.exited", extra=facts)
