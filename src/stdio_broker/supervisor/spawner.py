"""Start processes on a thread of their own, so that a slow exec cannot stall the event loop.

`subprocess.Popen` returns only when execve has succeeded, which takes as long as the file
system likes. It uses vfork as long as there is no `preexec_fn`, so its cost does not grow with
our memory, and a new session keeps the terminal's Ctrl-C away from children. (Before Python
3.11.4 the thread keeps the GIL meanwhile, so there a slow exec stalls us: python/cpython#104372.)

Nothing is left behind by a start that fails or is cancelled: every descriptor has one owner at
any time, and a child whose caller has gone is killed and reaped by this thread.
"""

import asyncio
import atexit
import contextlib
import errno
import logging
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import SpawnError
from .descriptors import restore_descriptor_limit

__all__ = ["Spawned", "Spawner", "default_spawner"]

logger = logging.getLogger(__name__)

#: Seconds that a child nobody wants gets to die of SIGKILL. Bounded, because this thread serves
#: every other start too; a thread of its own waits for whatever takes longer.
DISCARD_TIMEOUT = 2.0

#: Seconds between looks at a child that was killed: the first, and the longest.
_FIRST_LOOK, _LAST_LOOK = 0.0005, 0.02


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

    def close(self) -> None:
        """Close every descriptor; one below 0 is closed already."""
        for fd in (self.stdin, self.stdout, self.stderr, -1 if self.pidfd is None else self.pidfd):
            if fd >= 0:
                os.close(fd)


class _Job:
    """One start, and the hand-over of its outcome, which has exactly one owner at any time.

    The event loop is only told that there is an outcome, never given it: a loop that is closed
    drops what it was given.
    """

    __slots__ = ("_left", "_lock", "argv", "cwd", "env", "outcome", "settled")

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], cwd: str | None) -> None:
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.outcome: Spawned | Exception | None = None
        self._left = False
        self._lock = threading.Lock()

    @property
    def left(self) -> bool:
        """Whether nobody waits for the outcome any more."""
        return self._left

    def settle(self, outcome: Spawned | Exception) -> bool:
        """Give the outcome to the caller; False if the caller has left. For the spawner's thread."""
        with self._lock:
            if self._left:
                return False
            self.outcome = outcome
        with contextlib.suppress(RuntimeError):  # the loop is closed; its coroutines are told next
            self.settled.get_loop().call_soon_threadsafe(self._wake)
        return True

    def leave(self) -> Spawned | None:
        """Stop waiting; return what was started already, if anything. For the caller."""
        with self._lock:
            self._left = True
        return self.outcome if isinstance(self.outcome, Spawned) else None

    def _wake(self) -> None:
        if not self.settled.done():
            self.settled.set_result(None)


class Spawner:
    """One thread that starts processes, one after the other.

    Raises:
        RuntimeError: The system refused a thread.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job | Spawned | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="stdio-broker-spawner", daemon=True)
        self._thread.start()

    async def spawn(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: str | None) -> Spawned:
        """Start a program in a session of its own.

        A name without a slash is looked up on the PATH in `env`, by execve's own rules.

        Raises:
            SpawnError: The system refused.
            RuntimeError: The spawner is closed.
        """
        if self._closed:
            raise RuntimeError("the spawner is closed")
        job = _Job(argv, env, cwd)
        self._jobs.put(job)
        try:
            await job.settled
        except BaseException:  # cancelled; or GeneratorExit: the loop was closed under us
            if (spawned := job.leave()) is not None:
                self.discard(spawned)
            raise
        if isinstance(job.outcome, Spawned):
            return job.outcome
        raise SpawnError(argv[0], _explain(job)) from job.outcome

    def discard(self, spawned: Spawned) -> None:
        """Kill and reap a process that nobody wants, and close its pipes. Does not wait."""
        if self._closed:  # nobody would serve the queue
            _discard(spawned)
        else:
            self._jobs.put(spawned)

    def close(self) -> None:
        """End the thread, after what is queued; wait for it, but not for ever (a slow exec)."""
        self._closed = True
        self._jobs.put(None)
        self._thread.join(DISCARD_TIMEOUT)

    def _run(self) -> None:
        # No local variable keeps a job, and so its caller, alive until the next one comes.
        while _serve(self._jobs.get()):
            pass


def _serve(job: "_Job | Spawned | None") -> bool:
    try:
        if isinstance(job, Spawned):
            _discard(job)
        elif job is not None and not job.left:
            _start(job)
    except Exception:  # every later start needs this thread
        logger.exception("spawner.failed")
    return job is not None


def _start(job: _Job) -> None:
    outcome: Spawned | Exception
    try:
        outcome = _spawn(job)
    except Exception as exc:  # noqa: BLE001 - whatever it is, the caller must hear of it
        outcome = exc
    if not job.settle(outcome) and isinstance(outcome, Spawned):
        _discard(outcome)


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
        # A child inherits the mask of the thread that forks it: one that blocks SIGTERM makes
        # children that SIGTERM cannot stop. Only for as long as it takes, because a program that
        # blocks a signal everywhere, to fetch it with sigwait, must not find it delivered here.
        mask = signal.pthread_sigmask(signal.SIG_SETMASK, ())
        try:
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
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        # From here on the process is ours alone. A Popen that thinks it runs would poll it when
        # garbage-collected, and so steal the exit.
        process.returncode = 0
        try:
            pidfd = _open_pidfd(process.pid)
        except OSError as exc:
            undo.close()
            # No such process: SIGCHLD is ignored, so the system has collected it already, and the
            # number may be a stranger's.
            if exc.errno != errno.ESRCH:
                _end(process.pid)
            raise
        restore_descriptor_limit(process.pid)
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
    # The pipes first: a child that may not be signalled (set-uid) may yet go at EOF.
    spawned.close()
    _end(spawned.pid)


def _end(pid: int) -> None:
    """SIGKILL a group whose leader is not reaped, and collect the leader. Bounded."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    deadline = time.monotonic() + DISCARD_TIMEOUT
    pause = _FIRST_LOOK
    while not _collect(pid, os.WNOHANG):
        if time.monotonic() >= deadline:
            logger.error("child.unkillable", extra={"pid": pid})
            # Its end may take days, which costs a thread.
            threading.Thread(target=_collect, args=(pid, 0), name="stdio-broker-reaper", daemon=True).start()
            return
        time.sleep(pause)
        pause = min(2 * pause, _LAST_LOOK)


def _collect(pid: int, options: int) -> bool:
    try:
        return os.waitpid(pid, options)[0] == pid
    except ChildProcessError:  # the system, or somebody else, has collected it
        return True


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
    errno.ESRCH: "it has ended already, and its exit status is lost because SIGCHLD is ignored",
}


def _explain(job: _Job) -> str:
    """Say why a start failed, so that the reader knows what to change."""
    exc, program = job.outcome, job.argv[0]
    if not isinstance(exc, OSError):
        return str(exc)
    # Popen names the file that the error is about: the program, or the working directory.
    if job.cwd is not None and exc.filename == job.cwd != program:
        return f"cannot enter the working directory {job.cwd!r}: {exc.strerror}"
    if exc.errno in {errno.ENOENT, errno.EACCES} and "/" not in program:
        # execve says EACCES also of a directory on the PATH that the user may not enter.
        such = "such" if exc.errno == errno.ENOENT else "such executable"
        return f"there is no {such} command on the child's PATH ({job.env.get('PATH', os.defpath)})"
    return _REASONS.get(exc.errno or 0) or exc.strerror or str(exc)


_default: Spawner | None = None
_default_lock = threading.Lock()


def default_spawner() -> Spawner:
    """Return the spawner of this process, started at its first use.

    Raises:
        RuntimeError: The system refused a thread.
    """
    global _default  # noqa: PLW0603 - one thread per process, however many supervisors there are
    with _default_lock:
        if _default is None:
            _default = Spawner()
        return _default


def _forget_after_fork() -> None:
    # A forked process has our memory but not our threads.
    global _default, _default_lock
    _default, _default_lock = None, threading.Lock()


def _close_at_exit() -> None:
    # What was cancelled last may not have been killed yet, and this thread ends with the process.
    if _default is not None:
        _default.close()


os.register_at_fork(after_in_child=_forget_after_fork)
atexit.register(_close_at_exit)
