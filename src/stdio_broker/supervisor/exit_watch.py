"""Notice that a process has ended, signal its group, collect it: each without hitting a stranger.

A pid names a process only until it has been reaped. So an exit is first *peeked* at (the zombie
pins pid and group), then the group is swept, and reaping comes last. On Linux a pidfd says
when, and since Linux 6.9 it signals the group without a number at all.

Two implementations of one interface: a pidfd in the event loop, and a thread that waits, where
pidfds cannot be had. Source: pidfd_open(2), pidfd_send_signal(2), waitid(2), kqueue(2);
python/cpython#127049 for what goes wrong otherwise.
"""

import asyncio
import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

__all__ = ["ExitWatch", "PidfdWatch", "ThreadWatch", "Waited"]

PIDFD_SIGNAL_PROCESS_GROUP = 4  # <linux/pidfd.h>, Linux 6.9

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Waited:
    """What the kernel says about an ended process; both None if somebody else collected it."""

    code: int | None
    signal: int | None
    core: bool


_UNKNOWN = Waited(code=None, signal=None, core=False)


class ExitWatch(Protocol):
    """One process from its start to its reaping."""

    def reap(self) -> Waited:
        """Collect the exit. Call once, after `on_exit`; the pid is a stranger's from then on."""

    def signal_group(self, number: signal.Signals) -> bool:
        """Signal the process group; False if there is nobody in it any more.

        Raises:
            PermissionError: No member may be signalled (a set-uid child).
        """

    def group_alive(self, *, closely: bool) -> bool:
        """Whether the group still has a member; False where nobody can tell. Only after `reap`.

        Args:
            closely: Do not count zombies, which stay where nobody collects orphans (a container
                without an init). Expensive: reads all of /proc.
        """

    def close(self) -> None:
        """Give up what the watch holds."""

    def release(self) -> int | None:
        """Give the pidfd to the caller, if there is one. For when the loop is gone."""


class PidfdWatch:
    """Watch by a pidfd in the event loop. Takes over the pidfd.

    Args:
        pid: The process, which leads a group of its own.
        pidfd: Its pidfd.
        on_exit: Called once on the loop when it has ended. It is not reaped yet.
    """

    __slots__ = ("__weakref__", "_loop", "_on_exit", "_pid", "_pidfd", "_reaped")

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
        # Let go of it: who is done shall not have to be found by the garbage collector.
        on_exit, self._on_exit = self._on_exit, _nothing
        on_exit()

    def reap(self) -> Waited:
        """Collect the exit."""
        self._reaped = True
        try:
            # None is only for WNOHANG.
            info = cast("os.waitid_result", os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED))
        except ChildProcessError:
            return _UNKNOWN
        if info.si_code == os.CLD_EXITED:
            return Waited(code=info.si_status, signal=None, core=False)
        return Waited(code=None, signal=info.si_status, core=info.si_code == os.CLD_DUMPED)

    def signal_group(self, number: signal.Signals) -> bool:
        """Signal the process group; False if there is nobody in it any more."""
        try:
            signal.pidfd_send_signal(self._pidfd, number, None, PIDFD_SIGNAL_PROCESS_GROUP)
        except ProcessLookupError:
            return False
        except OSError:
            # Linux < 6.9 (EINVAL), or a seccomp filter; a set-uid child refuses the number too.
            # The number is ours as long as the leader is not reaped.
            return not self._reaped and _killpg(self._pid, number)
        return True

    def group_alive(self, *, closely: bool) -> bool:
        """Whether the group still has a member."""
        try:
            signal.pidfd_send_signal(self._pidfd, 0, None, PIDFD_SIGNAL_PROCESS_GROUP)
        except PermissionError:
            pass  # there is one, and it has changed its user
        except OSError:  # there is none; or Linux < 6.9, which cannot tell after the reaping
            return False
        return not closely or _group_runs(self._pid)

    def close(self) -> None:
        """Close the pidfd."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def release(self) -> int | None:
        """Give the pidfd to the caller."""
        pidfd, self._pidfd = self._pidfd, -1
        return pidfd


class ThreadWatch:
    """Watch by a thread that waits without collecting, for systems without pidfds.

    The thread only peeks. If it also reaped, the loop could signal a stranger in between.

    Raises:
        RuntimeError: The system refused a thread.
    """

    __slots__ = ("__weakref__", "_loop", "_on_exit", "_pid", "_reaped", "_thread")

    def __init__(self, loop: asyncio.AbstractEventLoop, pid: int, on_exit: Callable[[], None]) -> None:
        self._loop = loop
        self._pid = pid
        self._on_exit = on_exit
        self._reaped = False
        self._thread = threading.Thread(target=self._peek, name=f"stdio-broker-exit-{pid}", daemon=True)
        self._thread.start()

    def _peek(self) -> None:
        if not _wait_for_exit(self._pid):
            # SIGCHLD is ignored: the system has collected it, and the number may be a stranger's.
            self._reaped = True
        on_exit, self._on_exit = self._on_exit, _nothing  # as above
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(on_exit)

    def reap(self) -> Waited:
        """Collect the exit."""
        self._reaped = True
        self._thread.join()
        try:
            _, status = os.waitpid(self._pid, 0)
        except ChildProcessError:
            return _UNKNOWN
        if os.WIFEXITED(status):
            return Waited(code=os.WEXITSTATUS(status), signal=None, core=False)
        return Waited(code=None, signal=os.WTERMSIG(status), core=os.WCOREDUMP(status))

    def signal_group(self, number: signal.Signals) -> bool:
        """Signal the process group; False if there is nobody in it any more."""
        return not self._reaped and _killpg(self._pid, number)

    def group_alive(self, *, closely: bool) -> bool:  # noqa: ARG002 - nobody can tell without a pidfd
        """Whether the group still has a member."""
        return False

    def close(self) -> None:
        """Hold nothing: the thread ends with the process."""

    def release(self) -> int | None:
        """Hold nothing."""
        return None


def _nothing() -> None:
    """Stand for what was called already."""


def _wait_for_exit(pid: int) -> bool:
    """Block until a child has ended, without collecting it; False if somebody else has done that."""
    if sys.platform == "darwin" and not hasattr(os, "waitid"):  # before Python 3.13
        events = select.kqueue()
        end = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
        with contextlib.closing(events), contextlib.suppress(ProcessLookupError):  # ended already
            events.control([end], 1)
        return True
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _killpg(pgid: int, number: signal.Signals) -> bool:
    try:
        os.killpg(pgid, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        # macOS says so of a group of zombies as well, and that is what it usually is.
        if sys.platform == "darwin":
            return False
        raise
    return True


def _group_runs(pgid: int) -> bool:
    try:
        processes = [entry for entry in _PROC.iterdir() if entry.name.isdigit()]
    except OSError:
        return True  # no /proc: the kernel says that somebody is there, and we cannot look closer
    return any(_is_running_member(process, pgid) for process in processes)


def _is_running_member(process: Path, pgid: int) -> bool:
    try:
        stat = (process / "stat").read_bytes()
    except OSError:
        return False  # it has ended meanwhile
    # "pid (name) state ppid pgrp …", where the name may hold anything, a parenthesis too.
    state, _, group = stat.rpartition(b")")[2].split()[:3]
    return int(group) == pgid and state not in {b"Z", b"X"}
