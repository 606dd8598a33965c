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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import SpawnError
from .capacity import refusal, refuse_when_full
from .containment import Containment, Uncontained
from .descriptors import restore_descriptor_limit
from .limits import Limits, apply_limits, apply_limits_to_descendants
from .signals import nothing_blocked

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
        containment: What holds its descendants.
    """

    pid: int
    pidfd: int | None
    stdin: int
    stdout: int
    stderr: int
    containment: Containment = field(default_factory=Uncontained)

    def close_pipes(self) -> None:
        """Close our ends of the pipes; one below 0 is closed already."""
        _close(self.stdin, self.stdout, self.stderr)

    def close(self) -> None:
        """Close every descriptor."""
        self.close_pipes()
        _close(self.pidfd)


class _Job:
    """One start, and the hand-over of its outcome, which has exactly one owner at any time.

    The event loop is only told that there is an outcome, never given it: a loop that is closed
    drops what it was given.
    """

    __slots__ = ("_left", "_lock", "argv", "containment", "cwd", "env", "limits", "outcome", "settled")

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str | None,
        containment: Containment,
        limits: Limits | None,
    ) -> None:
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.containment = containment
        self.limits = limits
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

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None,
        containment: Containment | None = None,
        limits: Limits | None = None,
    ) -> Spawned:
        """Start a program in a session of its own.

        A name without a slash is looked up on the PATH in `env`, by execve's own rules.

        Args:
            argv: The program and its arguments.
            env: Its whole environment.
            cwd: Its working directory; None is ours.
            containment: What shall hold its descendants; None is nothing.
            limits: What it may use; None leaves it what we may.

        Raises:
            CapacityError: Too few descriptors or processes are left.
            SpawnError: The system refused.
            RuntimeError: The spawner is closed.
        """
        if self._closed:
            raise RuntimeError("the spawner is closed")
        job = _Job(argv, env, cwd, containment or Uncontained(), limits)
        self._jobs.put(job)
        try:
            await job.settled
        except BaseException:  # cancelled; or GeneratorExit: the loop was closed under us
            if (spawned := job.leave()) is not None:
                self.discard(spawned)
            raise
        if isinstance(job.outcome, Spawned):
            return job.outcome
        if isinstance(job.outcome, SpawnError):  # it has been explained already
            raise job.outcome
        raise refusal(argv[0], _explain(job), job.outcome) from job.outcome

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
    ends: list[int] = []
    try:
        for _ in range(3):
            ends += os.pipe()  # close-on-exec: no other child inherits them
        child_stdin, stdin, stdout, child_stdout, stderr, child_stderr = ends
        refuse_when_full(job.argv[0], *ends)
        for end in (stdin, stdout, stderr):
            os.set_blocking(end, False)
        pid = _launch(job, child_stdin, child_stdout, child_stderr)
        pidfd = None
        try:
            pidfd = _open_pidfd(pid)
            # First of all: to put it into a control group may take 10 ms. What it forks by then, and
            # the command behind a shim, inherit them.
            restore_descriptor_limit(pid)
            if job.limits is not None:
                apply_limits(job.limits, pid)
            alone = job.containment.adopt(pid, pidfd)
            if job.limits is not None and not alone:
                apply_limits_to_descendants(job.limits, pid)
        except OSError as exc:
            while ends:
                os.close(ends.pop())
            # No such process: SIGCHLD is ignored, so the system has collected it already, and the
            # number may be a stranger's.
            lost = pidfd is None and exc.errno == errno.ESRCH
            _end(None if lost else pid, job.containment)
            _close(pidfd)
            raise
    except BaseException:
        _close(*ends)
        raise
    _close(child_stdin, child_stdout, child_stderr)
    return Spawned(pid, pidfd, stdin, stdout, stderr, job.containment)


def _launch(job: _Job, stdin: int, stdout: int, stderr: int) -> int:
    """Start the process with these pipes as its own; return its pid."""
    try:
        argv, env = job.containment.launch(job.argv, job.env)
        with nothing_blocked():
            process = subprocess.Popen(
                argv,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=env,
                cwd=job.cwd,
                start_new_session=True,
                close_fds=True,
                pass_fds=job.containment.pass_fds,
            )
    except BaseException:
        job.containment.close()
        raise
    # From here on the process is ours alone. A Popen that thinks it runs would poll it when
    # garbage-collected, and so steal the exit.
    process.returncode = 0
    return process.pid


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
    spawned.close_pipes()
    _end(spawned.pid or None, spawned.containment)
    _close(spawned.pidfd)


def _close(*descriptors: int | None) -> None:
    for descriptor in descriptors:
        if descriptor is not None and descriptor >= 0:
            os.close(descriptor)


def _end(pid: int | None, containment: Containment) -> None:
    """Kill a child whose leader is not reaped, with all that belongs to it, and collect it. Bounded.

    Args:
        pid: The leader; None if it is collected already.
        containment: What holds the rest. It is closed.
    """
    if pid is not None and not containment.leader_sweeps:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    containment.kill()
    deadline = time.monotonic() + DISCARD_TIMEOUT
    if pid is not None and not _wait_until(lambda: _collect(pid, os.WNOHANG), deadline):
        logger.error("child.unkillable", extra={"pid": pid})
        # Its end may take days, which costs a thread.
        threading.Thread(target=_collect, args=(pid, 0), name="stdio-broker-reaper", daemon=True).start()
    elif not _wait_until(lambda: not containment.alive(), deadline):
        logger.error("child.survivors", extra={"pid": pid})
    containment.close()


def _wait_until(condition: Callable[[], bool], deadline: float) -> bool:
    """Look until it holds; return whether it does. There is no event for any of this."""
    pause = _FIRST_LOOK
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, _LAST_LOOK)
    return True


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
    errno.ENFILE: "no file descriptors are left on this machine (sysctl fs.file-max), or no more pipes for "
    "this user (sysctl fs.pipe-user-pages-hard)",
    errno.EAGAIN: "the system's limit on processes is reached (ulimit -u, a service's TasksMax=, a "
    "container's --pids-limit)",
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
