"""Limits of one child: set from outside, on a process that has just been started.

No launcher, and no code between fork and exec: prlimit(2), setpriority(2) and oom_score_adj reach a
running process, and what it forks inherits them. The program has been running since its exec, though,
for as long as it takes us to get here: about a millisecond, more if this process is busy. So:

* Whatever it has forked by then is limited too, found by who is whose child. Only what has lost its
  parent within that time stays as it was, and has our own limits: a program that means harm can do that
  on purpose, unless a launcher that takes longer stands in front of it (`isolation`, from landlock on).
* What it has used by then, it has: a file that was opened before `nofile` stays open, and a
  megabyte that was written before `file_bytes` stays written.

Memory and processes are no matter of this module: RLIMIT_AS counts what a program reserves (Node
reserves 700 MB for nothing), and RLIMIT_NPROC counts all processes of a *user*. A control group counts
what a child really uses (`cgroup`), and where none can be made the start fails.

Source: getrlimit(2), prlimit(2), setpriority(2), core(5), proc_pid_oom_score_adj(5); kernel,
fs/coredump.c, on a limit of 1 byte.
"""

import contextlib
import errno
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields

__all__ = ["Limits", "apply_limits", "apply_limits_to_descendants"]

_KIB, _MIB = 1024, 1024 * 1024

#: What each field may be, at least and at most.
_RANGES: dict[str, tuple[int, int]] = {
    "nofile": (16, 1 << 30),
    "core_bytes": (0, 1 << 62),
    "cpu_seconds": (1, 1 << 31),
    "file_bytes": (_KIB, 1 << 62),
    "nice": (-20, 19),
    "oom_score_adj": (0, 1000),
    "memory_bytes": (_MIB, 1 << 62),
    "processes": (1, 1 << 22),
}

#: Seconds that a descendant gets which may not be limited yet: a launcher that changes its rights
#: (bwrap) belongs to root until it has become the program.
PERMISSION_TIMEOUT = 1.0

#: Seconds between looks at such a one. There is no event for it.
LOOK_INTERVAL = 0.001

#: Which field of /proc/PID/stat, counted from the state on, has the flags of a process; and the flag of
#: one that is about to end. Source: proc_pid_stat(5); kernel, include/linux/sched.h.
_FLAGS, _PF_EXITING = 6, 0x4

#: Rounds of looking for what has been forked meanwhile. Who is found in the second was forked during
#: the first by one that was not limited yet, and so on.
ROUNDS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one child may use. None leaves a limit as the child inherits it from us.

    Args:
        nofile: Open files, 16 or more; soft and hard. A limit above our own hard one takes
            the right to raise it (CAP_SYS_RESOURCE); the start fails without. So for all that follow.
        core_bytes: Size of a core dump. 0 by default, because a core holds the credential; it keeps
            the core from programs that collect cores, too.
        cpu_seconds: Seconds of CPU time of each process, 1 or more: SIGXCPU, and SIGKILL a second
            later. For runaways; a server that lives long needs much.
        file_bytes: Largest file that a process can write, in bytes, 1,024 or more. It gets SIGXFSZ.
            Not a quota: it may write many.
        nice: Scheduling priority, -20 to 19; the greater, the less. One below ours takes rights.
        oom_score_adj: How much rather than us a child is killed when memory runs out, 0 to 1,000.
            Added to our own value, and 1,000 at most, so it holds wherever we run.
        memory_bytes: Memory of the child with all its descendants, in bytes, 1 MiB or more; no swap.
            Needs a control group of version 2 with the controller memory; the start fails without.
        processes: Processes and threads of the child with all its descendants. Needs the controller pids.

    On systems other than Linux only `nice` can be set on a running process: what else is asked for
    fails the start, and the defaults are left out.

    Raises:
        ValueError: A value is out of range; the message names the field, and what it expects.
    """

    nofile: int | None = None
    core_bytes: int | None = 0
    cpu_seconds: int | None = None
    file_bytes: int | None = None
    nice: int | None = None
    oom_score_adj: int | None = 200
    memory_bytes: int | None = None
    processes: int | None = None

    def __post_init__(self) -> None:
        """Check every field; the first mistake is named."""
        for name, (lowest, highest) in _RANGES.items():
            value = getattr(self, name)
            if value is None:
                continue
            # True is an integer too.
            if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
                raise ValueError(
                    f"{name}: expected an integer from {lowest} to {highest}, or none, found {value!r}"
                )

    @property
    def controllers(self) -> frozenset[str]:
        """The controllers that its control group must have; empty if it needs no group."""
        if self.memory_bytes is None and self.processes is None:
            return frozenset()
        return frozenset(name.partition(".")[0] for name in self.of_group())

    def of_group(self) -> dict[str, int]:
        """Return what its control group limits: the files of the group, and what to write to them."""
        group: dict[str, int] = {}
        if self.memory_bytes is not None:
            # Together: half a server is no server, and swap would only make its death slow.
            group |= {"memory.max": self.memory_bytes, "memory.swap.max": 0, "memory.oom.group": 1}
        if self.processes is not None:
            group["pids.max"] = self.processes
        return group


def apply_limits(limits: Limits, pid: int) -> None:
    """Set the limits of a process that has just been started. What it forks from now on inherits them.

    Args:
        limits: The limits. Those of its control group are set where that is made.
        pid: The process. It leads a process group, and is ours and not reaped.

    Raises:
        OSError: A limit may not be set; the message names it. The error has no number.
    """
    if limits.nice is not None:
        # Of the whole group: of the process alone it would be the first thread's.
        nice = limits.nice
        _set("nice", nice, lambda: os.setpriority(os.PRIO_PGRP, pid, nice))
    if sys.platform == "linux":
        _limit(limits, pid, _score(limits), deadline=None)
    else:
        _refuse_what_cannot_be_set(limits)


def apply_limits_to_descendants(limits: Limits, pid: int) -> None:
    """Set the limits of what a process has forked before its own were set.

    Args:
        limits: The limits.
        pid: The process.

    Raises:
        OSError: As for `apply_limits`.
    """
    if sys.platform != "linux":
        return
    score = _score(limits)
    done = {pid}
    deadline = time.monotonic() + PERMISSION_TIMEOUT
    for _ in range(ROUNDS):
        found = _family(pid) - done
        if not found:
            return
        for process in found:
            _limit(limits, process, score, deadline=deadline)
        done |= found


def _limit(limits: Limits, pid: int, score: int | None, *, deadline: float | None) -> None:
    """Limit one process; wait until the deadline for the permission to."""
    if limits.nofile is not None:
        _set_resource("nofile", pid, resource.RLIMIT_NOFILE, limits.nofile)
    if limits.core_bytes is not None:
        _set_resource("core_bytes", pid, resource.RLIMIT_CORE, limits.core_bytes)
    if limits.cpu_seconds is not None:
        _set_resource("cpu_seconds", pid, resource.RLIMIT_CPU, limits.cpu_seconds)
    if limits.file_bytes is not None:
        _set_resource("file_bytes", pid, resource.RLIMIT_FSIZE, limits.file_bytes)
    if score is not None:
        _set("oom_score_adj", score, lambda: _write_score(pid, score, deadline))


def _set_resource(name: str, pid: int, which: int, value: int) -> None:
    _set(name, value, lambda: _prlimit(pid, which, value))


def _prlimit(pid: int, which: int, value: int) -> None:
    _, ceiling = resource.prlimit(pid, which)
    bounded = ceiling != resource.RLIM_INFINITY
    soft = hard = value
    if which == resource.RLIMIT_CPU:
        # With both the same the kernel sends SIGKILL at once, which does not tell why.
        hard = min(value + 1, max(value, ceiling)) if bounded else value + 1
    elif which == resource.RLIMIT_CORE and not value and ceiling:
        # A program that collects cores (the pattern begins with |) gets them whatever the limit is;
        # but for 1, and that is also less than any core has.
        soft = hard = 1
    resource.prlimit(pid, which, (soft, hard))


def _score(limits: Limits) -> int | None:
    """Return the score of the child; None leaves it alone."""
    if not limits.oom_score_adj:
        return None
    return min(int(_read("/proc/self/oom_score_adj")) + limits.oom_score_adj, 1000)


def _write_score(pid: int, score: int, deadline: float | None) -> None:
    while True:
        try:
            _write(f"/proc/{pid}/oom_score_adj", b"%d" % score)
            return
        except PermissionError:
            if _is_exiting(pid):  # and has become root's by that
                return
            if deadline is None or time.monotonic() >= deadline:
                raise
            time.sleep(LOOK_INTERVAL)


def _is_exiting(pid: int) -> bool:
    """Return whether it is at its end, or beyond: in the middle of it the state does not tell."""
    try:
        # "pid (name) state …", where the name may hold anything, a parenthesis too.
        flags = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[_FLAGS]
    except OSError:
        return True
    return bool(int(flags) & _PF_EXITING)


def _set(name: str, value: int, setter: Callable[[], object]) -> None:
    """Set one limit; explain why it cannot be set. A process that has ended needs none."""
    try:
        setter()
    except OSError as exc:
        if exc.errno in {errno.ESRCH, errno.ENOENT}:
            return
        reason = exc.strerror
        if exc.errno in {errno.EPERM, errno.EACCES}:
            reason = "not permitted: it is beyond our own limit, or the program changes its user"
        # Without its number, which would be taken for the program's own.
        raise OSError(f"its limit {name} cannot be set to {value}: {reason}") from exc


def _family(pid: int) -> set[int]:
    """Find a process and its descendants, as far as they have not lost their parents."""
    found: set[int] = set()
    unseen = [pid]
    while unseen:
        process = unseen.pop()
        found.add(process)
        with contextlib.suppress(OSError):  # it has ended; or this kernel does not tell
            for thread in os.listdir(f"/proc/{process}/task"):  # noqa: PTH208 - on the way of every start
                unseen += map(int, _read(f"/proc/{process}/task/{thread}/children").split())
    return found


def _read(path: str) -> bytes:
    # Not a file object, which takes three times as long.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 64 * 1024)
    finally:
        os.close(descriptor)


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def _refuse_what_cannot_be_set(limits: Limits) -> None:
    for field in fields(limits):
        value = getattr(limits, field.name)
        if field.name != "nice" and value is not None and value != field.default:
            raise OSError(f"its limit {field.name} cannot be set to {value}: that needs Linux")
