"""Notice that a process has ended, signal its group, collect it: each without hitting a stranger.

A pid names a process only until it has been reaped. So an exit is first *peeked* at (the zombie
pins pid and group), then the group is swept, and reaping comes last. On Linux a pidfd says
when, and since Linux 6.9 it signals the group without a number at all.

Two implementations of one interface: a pidfd in the event loop, and a thread that waits, where
pidfds cannot be had. Source: pidfd_open(2), pidfd_send_signal(2), waitid(2);
python/cpython#127049 for what goes wrong otherwise.
"""

import asyncio
import contextlib
import errno
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["ExitWatch", "PidfdWatch", "ThreadWatch", "Waited"]

PIDFD_SIGNAL_PROCESS_GROUP = 4  # <linux/pidfd.h>, Linux 6.9


@dataclass(frozen=True, slots=True)
class Waited:
    """What the kernel says about an ended process; both None if somebody else collected it."""

    code: int | None
    signal: int | None
    core: bool


class ExitWatch(Protocol):
    """One process from its start to its reaping."""

    def reap(self) -> Waited:
        """Collect the exit. Call once, after `on_exit`; the pid is a stranger's from then on."""

    def signal_group(self, number: signal.Signals) -> bool:
        """Signal the process group; False if there is nobody in it any more.

        Raises:
            PermissionError: No member may be signalled (a set-uid child).
        """

    def group_alive(self) -> bool:
        """Whether a member of the group still runs. Only after `reap`."""

    def close(self) -> None:
        """Give up what the watch holds."""


class PidfdWatch:
    """Watch by a pidfd in the event loop. Takes over the pidfd.

    Args:
        pid: The process, which leads a group of its own.
        pidfd: Its pidfd.
        on_exit: Called once on the loop when it has ended. It is not reaped yet.
    """

    __slots__ = ("_loop", "_on_exit", "_pid", "_pidfd", "_reaped")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pid: int, pidfd: int, on_exit: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._pid = pid
        self._pidfd = pidfd
        self._on_exit = on_exit
        self._reaped = False
        loop.add_reader(pidfd, self._readable)

    def _readable(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._on_exit()

    def reap(self) -> Waited:
        """Collect the exit."""
        self._reaped = True
        return _wait(os.P_PIDFD, self._pidfd)

    def signal_group(self, number: signal.Signals) -> bool:
        """Signal the process group; False if there is nobody in it any more."""
        try:
            signal.pidfd_send_signal(self._pidfd, number, None, PIDFD_SIGNAL_PROCESS_GROUP)
        except ProcessLookupError:
            return False
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            # Linux < 6.9. The number is ours as long as the leader is not reaped.
            return not self._reaped and _killpg(self._pid, number)
        return True

    def group_alive(self) -> bool:
        """Whether a member of the group still runs."""
        try:
            signal.pidfd_send_signal(self._pidfd, 0, None, PIDFD_SIGNAL_PROCESS_GROUP)
        except ProcessLookupError:
            return False
        except OSError:
            # Linux < 6.9 cannot tell after the reaping, or the members are set-uid.
            return False
        # Zombies that their new parent does not collect keep the group; they are not alive.
        return _group_runs(self._pid)

    def close(self) -> None:
        """Close the pidfd."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


class ThreadWatch:
    """Watch by a thread blocked in waitid(WNOWAIT), for systems without pidfds.

    The thread only peeks. If it also reaped, the loop could signal a stranger in between.
    """

    __slots__ = ("_loop", "_on_exit", "_pid", "_reaped", "_thread")

    def __init__(self, loop: asyncio.AbstractEventLoop, pid: int, on_exit: Callable[[], None]) -> None:
        self._loop = loop
        self._pid = pid
        self._on_exit = on_exit
        self._reaped = False
        self._thread = threading.Thread(target=self._peek, name=f"stdio-broker-exit-{pid}", daemon=True)
        self._thread.start()

    def _peek(self) -> None:
        # ChildProcessError: SIGCHLD is ignored. It has ended, and its status is lost.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._on_exit)

    def reap(self) -> Waited:
        """Collect the exit."""
        self._reaped = True
        self._thread.join()
        return _wait(os.P_PID, self._pid)

    def signal_group(self, number: signal.Signals) -> bool:
        """Signal the process group; False if there is nobody in it any more."""
        return not self._reaped and _killpg(self._pid, number)

    def group_alive(self) -> bool:
        """Whether a member of the group still runs: nobody can tell without a pidfd."""
        return False

    def close(self) -> None:
        """Hold nothing: the thread ends with the process."""


def _wait(kind: int, identifier: int) -> Waited:
    try:
        info = os.waitid(kind, identifier, os.WEXITED)
    except ChildProcessError:
        return Waited(code=None, signal=None, core=False)
    if info is None:  # only with WNOHANG, which is not asked for
        return Waited(code=None, signal=None, core=False)
    if info.si_code == os.CLD_EXITED:
        return Waited(code=info.si_status, signal=None, core=False)
    return Waited(code=None, signal=info.si_status, core=info.si_code == os.CLD_DUMPED)


def _killpg(pgid: int, number: signal.Signals) -> bool:
    try:
        os.killpg(pgid, number)
    except ProcessLookupError:
        return False
    return True


def _group_runs(pgid: int) -> bool:
    """Whether /proc shows a member of the group that is not a zombie. Costs a read per process."""
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            # The name in parentheses may hold anything, a parenthesis too.
            fields = (directory / "stat").read_bytes().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == pgid and fields[0] not in {b"Z", b"X"}:
            return True
    return False
