"""Start processes on a thread of their own, so that a slow exec cannot stall the event loop.

`subprocess.Popen` returns only when execve has succeeded, which takes as long as the file
system likes. It uses vfork as long as there is no `preexec_fn`, so its cost does not grow with
our memory, and a new session keeps the terminal's Ctrl-C away from children.

Nothing is left behind by a start that fails or is cancelled: every descriptor has one owner at
any time, and a child whose caller has gone is killed and reaped by this thread.
"""

import asyncio
import contextlib
import errno
import logging
import os
import queue
import select
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import SpawnError
from .descriptors import restore_descriptor_limit

__all__ = ["Spawned", "Spawner", "default_spawner", "resolve"]

logger = logging.getLogger(__name__)

#: Seconds that the remains of a cancelled start get to die of SIGKILL. Bounded, because this
#: thread serves every other start too.
DISCARD_TIMEOUT = 2.0


@dataclass(frozen=True, slots=True)
class Spawned:
    """A process that has just been started, and our ends of its pipes (non-blocking).

    Attributes:
        pid: Its pid; also the number of its session and process group.
        pidfd: Its pidfd, or None where the system has none.
    """

    pid: int
    pidfd: int | None
    stdin: int
    stdout: int
    stderr: int


@dataclass(frozen=True, slots=True)
class _Job:
    future: asyncio.Future[Spawned]
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str | None


class Spawner:
    """One thread that starts processes, one after the other."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job | Spawned | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="stdio-broker-spawner", daemon=True)
        self._thread.start()

    async def spawn(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: str | None) -> Spawned:
        """Start a program in a session of its own.

        Raises:
            SpawnError: The system refused.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Spawned] = loop.create_future()
        self._jobs.put(_Job(future, argv, env, cwd))
        try:
            return await future
        except OSError as exc:
            raise SpawnError(argv[0], _explain(exc, argv[0], env, cwd)) from exc
        except asyncio.CancelledError:
            # Cancelled after the result was set, before we saw it: then it is ours to undo.
            if not future.cancelled() and future.exception() is None:
                self.discard(future.result())
            raise

    def discard(self, spawned: Spawned) -> None:
        """Kill and reap a process that nobody wants, and close its pipes. Does not wait."""
        self._jobs.put(spawned)

    def close(self) -> None:
        """End the thread, after what is queued."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        # A child inherits the mask of the thread that forks it: one that blocks SIGTERM makes
        # children that SIGTERM cannot stop.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        while (job := self._jobs.get()) is not None:
            if isinstance(job, Spawned):
                _discard(job)
            elif not job.future.cancelled():
                self._start(job)

    def _start(self, job: _Job) -> None:
        spawned: Spawned | None = None
        error: OSError | None = None
        try:
            spawned = _spawn(job)
        except OSError as exc:
            error = exc
        except (ValueError, subprocess.SubprocessError) as exc:
            error = OSError(errno.EINVAL, str(exc))
        try:
            job.future.get_loop().call_soon_threadsafe(self._deliver, job.future, spawned, error)
        except RuntimeError:  # the loop was closed meanwhile: nobody is left to take the child
            if spawned is not None:
                _discard(spawned)

    def _deliver(
        self, future: asyncio.Future[Spawned], spawned: Spawned | None, error: OSError | None
    ) -> None:
        if future.cancelled():
            if spawned is not None:
                self.discard(spawned)
        elif spawned is not None:
            future.set_result(spawned)
        elif error is not None:
            future.set_exception(error)


def _spawn(job: _Job) -> Spawned:
    with contextlib.ExitStack() as undo:

        def pipe() -> tuple[int, int]:
            ends = os.pipe()  # close-on-exec: no other child inherits them
            for end in ends:
                undo.callback(os.close, end)
            return ends

        child_stdin, stdin = pipe()
        stdout, child_stdout = pipe()
        stderr, child_stderr = pipe()
        for end in (stdin, stdout, stderr):
            os.set_blocking(end, False)
        process = subprocess.Popen(
            job.argv,
            stdin=child_stdin,
            stdout=child_stdout,
            stderr=child_stderr,
            env=job.env,
            cwd=job.cwd,
            start_new_session=True,
            close_fds=True,
        )
        # From here on the process is ours alone. A Popen that thinks it runs would poll it when
        # garbage-collected, and so steal the exit.
        process.returncode = 0
        try:
            restore_descriptor_limit(process.pid)
            pidfd = _open_pidfd(process.pid)
        except OSError:
            _kill_and_reap(process.pid)
            raise
        undo.pop_all()
        for end in (child_stdin, child_stdout, child_stderr):
            os.close(end)
    return Spawned(process.pid, pidfd, stdin, stdout, stderr)


def _open_pidfd(pid: int) -> int | None:
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError as exc:
        # An old kernel, or a seccomp filter. Anything else (EMFILE) must fail the start.
        if exc.errno in {errno.ENOSYS, errno.EPERM}:
            return None
        raise


def _discard(spawned: Spawned) -> None:
    """End a child that nobody waits for, on the spawner's thread."""
    for end in (spawned.stdin, spawned.stdout, spawned.stderr):
        os.close(end)
    _kill_and_reap(spawned.pid, spawned.pidfd)
    if spawned.pidfd is not None:
        os.close(spawned.pidfd)


def _kill_and_reap(pid: int, pidfd: int | None = None) -> None:
    """SIGKILL a group whose leader is not reaped, and collect the leader."""
    # PermissionError: the child has changed its user already; it goes with its pipes.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    if pidfd is not None:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(DISCARD_TIMEOUT * 1000):
            logger.error("child.unkillable", extra={"pid": pid})
            return
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


#: What to change, by the system's error.
_REASONS = {
    errno.ENOENT: "there is no such file, or the interpreter that it names is missing",
    errno.ENOTDIR: "a part of its path is no directory",
    errno.EACCES: "permission denied: is it executable?",
    errno.ENOEXEC: "it is neither a program nor a script that starts with #!",
    errno.E2BIG: "its arguments and environment are too long for the system",
    errno.EMFILE: "no file descriptors are left; raise the limit (ulimit -n) or stop some sessions",
    errno.ENFILE: "no file descriptors are left on this machine",
    errno.EAGAIN: "the system's limit on processes is reached (ulimit -u)",
}


def _explain(exc: OSError, program: str, env: Mapping[str, str], cwd: str | None) -> str:
    """Say why a start failed, so that the reader knows what to change."""
    if (
        cwd is not None
        and exc.errno in {errno.ENOENT, errno.ENOTDIR, errno.EACCES}
        and not Path(cwd).is_dir()
    ):
        return f"the working directory {cwd!r} does not exist, or is no directory"
    if exc.errno == errno.ENOENT and "/" not in program:
        return f"there is no such command on the child's PATH ({env.get('PATH', os.defpath)})"
    return _REASONS.get(exc.errno or 0) or exc.strerror or str(exc)


def resolve(argv: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """Return `argv` with its program looked up on the child's own PATH.

    Left to execve, the lookup would use the child's PATH too, but a relative entry in it would
    mean our working directory. A name with a slash stays as it is.
    """
    program, *arguments = argv
    if "/" not in program:
        program = shutil.which(program, path=env.get("PATH", os.defpath)) or program
    return [program, *arguments]


_default: Spawner | None = None


def default_spawner() -> Spawner:
    """Return the spawner of this process, started at its first use."""
    global _default  # noqa: PLW0603 - one thread per process, however many supervisors there are
    if _default is None:
        _default = Spawner()
    return _default


def _forget_after_fork() -> None:
    # A forked process has our memory but not our threads.
    global _default  # noqa: PLW0603 - see above
    _default = None


os.register_at_fork(after_in_child=_forget_after_fork)
