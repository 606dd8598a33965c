"""The shim: a process between the supervisor and one child, that adopts whatever the child abandons.

    python -I -S shim_process.py CONTROL SUPERVISOR EOF_GRACE STOP_GRACE KILL_GRACE -- COMMAND [ARG…]

A descendant whose parent ends gets a new one: process 1, or the nearest *subreaper*, which the shim
makes itself. So it knows every descendant of the child, whatever session or environment that made
for itself, and is done when the system says that it has no children left.

Pipes, environment, directory, and the way it ended are the child's own; only a core that it left is
not told. CONTROL is an inherited socket that keeps messages apart:

==  =======================================================================================
G   to the shim: go, start the command
0   from the shim: it runs; or the system's error number
K   to the shim: kill all
S   from the shim, at its end: somebody has outlived SIGKILL by KILL_GRACE, and is left behind
==  =======================================================================================

`PASSED_ON` are the signals that reach the child's process group when they are sent to the shim. If
SUPERVISOR dies, the shim does what is left of the ladder. If the shim itself is killed, the system
kills the child with it; what has left the child by then lives on, as there is nobody who knows it.

The standard library only, Linux only. Source: prctl(2), PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG,
PR_SET_DUMPABLE; proc_pid_task(5); CONFIG_PROC_CHILDREN.
"""

import contextlib
import ctypes
import errno
import os
import select
import signal
import sys
import time

__all__ = ["PASSED_ON", "Shim", "end_like", "main"]

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36

#: Seconds between looks at children that were killed and have not ended yet. There is a signal for
#: that too, but others may have come before it.
LOOK_INTERVAL = 0.005

#: Signals that are sent on, unless we were started with them ignored: then the child ignores them.
PASSED_ON = frozenset(
    {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
)

#: What Python ignores, and a program expects not to be.
IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)


class Shim:
    """One child and its descendants. The process that makes one adopts orphans from then on.

    Args:
        control: The socket to the supervisor.
        supervisor: Pidfd of the supervisor, or None. Its end is seen even where a forked copy of it
            holds the other side of the socket open.
        eof_grace: Seconds between the supervisor's death and SIGTERM.
        stop_grace: Seconds between SIGTERM and SIGKILL.
        kill_grace: Seconds that descendants get to die of SIGKILL, once the child itself has ended.

    Raises:
        OSError: The system refused.
    """

    def __init__(
        self, control: int, supervisor: int | None, *, eof_grace: float, stop_grace: float, kill_grace: float
    ) -> None:
        self._control = control
        self._supervisor = supervisor
        self._eof_grace = eof_grace
        self._stop_grace = stop_grace
        self._kill_grace = kill_grace
        self._pid = 0
        self._status: int | None = None
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        _children()  # a system that does not tell them is none for us
        # From here on each signal is a byte in a pipe, and no handler does anything.
        self._woken, wake = os.pipe()
        for end in (self._woken, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, *PASSED_ON):
            if number == signal.SIGCHLD or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda *_: None)
        self._poll = select.poll()
        for source in (control, supervisor):
            if source is not None:
                self._poll.register(source, select.POLLIN)

    def is_wanted(self) -> bool:
        """Wait until the supervisor wants the command to be started; False if it has died."""
        ready = {descriptor for descriptor, _ in self._poll.poll()}
        return self._control in ready and self._receive() == b"G"

    def start(self, argv: list[str]) -> None:
        """Start the command.

        Raises:
            OSError: The system refused.
        """
        shim = os.getpid()
        news, report = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            _exec(argv, report, shim)  # pragma: no cover - in a process that becomes another program
        os.close(report)
        with open(news, "rb") as file:  # noqa: PTH123 - no further import
            code = int(file.read() or 0)
        if code:
            os.waitpid(self._pid, 0)
            raise OSError(code, os.strerror(code))

    def serve(self) -> int:
        """Serve until the child and all its descendants have ended; return the child's wait status."""
        self._poll.register(self._woken, select.POLLIN)
        deadline: float | None = None
        terminated = False
        while self._collect() and self._status is None:
            ready = {descriptor for descriptor, _ in self._poll.poll(_milliseconds(deadline))}
            self._pass_on()
            if self._control in ready and self._receive() == b"K":
                break
            if deadline is None and ready & {self._control, self._supervisor}:
                # It is dead, and the child has seen EOF.
                self._poll = select.poll()
                self._poll.register(self._woken, select.POLLIN)
                deadline = time.monotonic() + self._eof_grace
            if deadline is not None and time.monotonic() >= deadline:
                if terminated:
                    break
                self._signal(signal.SIGTERM)
                deadline, terminated = time.monotonic() + self._stop_grace, True
        self._sweep()
        return self._status or 0

    def _receive(self) -> bytes:
        try:
            return os.read(self._control, 1)
        except OSError:  # nobody is there any more
            return b""

    def _signal(self, number: int) -> None:
        # Here nothing has been collected since we saw it living, so the number is its own.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, number)
            if number == signal.SIGTERM:  # a stopped process cannot act on it
                os.killpg(self._pid, signal.SIGCONT)

    def _pass_on(self) -> None:
        for number in self._wakeups():
            if number in PASSED_ON:
                self._signal(number)

    def _wakeups(self) -> bytes:
        """Return the numbers of the signals that have come."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._woken, 4096)
        return b""

    def _collect(self) -> bool:
        """Reap who has ended; False if there is nobody left at all."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return True
                if pid == self._pid:
                    self._status = status
        return False

    def _sweep(self) -> None:
        """Kill and reap until there is nobody left. Our own children: no number can be a stranger's."""
        deadline = time.monotonic() + self._kill_grace
        while self._collect():
            for pid in _children():
                with contextlib.suppress(PermissionError):  # set-uid: it goes when it likes
                    os.kill(pid, signal.SIGKILL)
            if self._status is None:  # without that there is nothing to tell
                deadline = time.monotonic() + self._kill_grace
            elif time.monotonic() >= deadline:
                _tell(self._control, b"S")
                return
            select.select([self._woken], [], [], LOOK_INTERVAL)
            self._wakeups()


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:  # noqa: PTH123 - as above
            return [int(pid) for pid in file.read().split()]
    except FileNotFoundError as exc:  # that would look like the command's
        raise OSError(errno.ENOSYS, "no /proc, or a kernel without CONFIG_PROC_CHILDREN") from exc


def _exec(argv: list[str], report: int, shim: int) -> None:  # pragma: no cover - as above
    """Become the command. In the forked process; the handlers of the shim end with it."""
    try:
        for number in IGNORED:
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == shim:  # else it died before we asked to die with it
            os.execvpe(argv[0], argv, _initial_environment())  # noqa: S606 - that is the command
    except OSError as exc:
        os.write(report, b"%d" % (exc.errno or errno.EIO))
    finally:
        os._exit(127)


def _initial_environment() -> dict[bytes, bytes]:  # pragma: no cover - as above
    """Return the environment that we were started with; Python may have set LC_CTYPE since."""
    with open("/proc/self/environ", "rb") as file:  # noqa: PTH123 - as above
        pairs = (variable.partition(b"=") for variable in file.read().split(b"\0") if variable)
        return {name: value for name, _, value in pairs}


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _tell(control: int, message: bytes) -> None:
    with contextlib.suppress(OSError):  # the supervisor is dead
        os.write(control, message)


def _milliseconds(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000


def _pidfd_of(supervisor: int) -> int | None:
    try:
        return os.pidfd_open(supervisor)
    except (AttributeError, OSError):  # an old Python or kernel, or a seccomp filter; or it is dead
        return None


def main(arguments: list[str]) -> int:
    """Be the shim of one command; return how that ended, as wait(2) tells it."""
    control, supervisor = map(int, arguments[:2])
    eof_grace, stop_grace, kill_grace = map(float, arguments[2:5])
    _, *argv = arguments[5:]
    os.set_inheritable(control, False)  # noqa: FBT003 - the function has no keyword
    pidfd = _pidfd_of(supervisor)
    if os.getppid() != supervisor:  # it is dead, and the pidfd may be a stranger's
        return 0
    try:
        shim = Shim(control, pidfd, eof_grace=eof_grace, stop_grace=stop_grace, kill_grace=kill_grace)
        if not shim.is_wanted():
            return 0
        shim.start(argv)
    except OSError as exc:
        _tell(control, b"%d" % (exc.errno or errno.EIO))
        return 0
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # its pipes are the child's alone
        os.dup2(nothing, standard)
    _tell(control, b"0")
    return shim.serve()


def end_like(status: int) -> None:
    """End this process the way the child has: by the same code, or the same signal."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        _prctl(PR_SET_DUMPABLE, 0)  # the child has left its core already, if it was to leave one
        with contextlib.suppress(OSError):  # SIGKILL has no handler to reset
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    end_like(main(sys.argv[1:]))
