"""Refuse a start before the system does, while there is room to say so, and name what to change.

The system's own refusal comes in the middle of something: EMFILE also keeps us from accepting a
connection, EAGAIN also keeps a server from starting its threads. So the last few of each are left
alone. Nothing is counted along, because others use up the same limits: each start looks.

Only what can be known in microseconds is looked at. How many processes a user has (`ulimit -u`)
is not: there fork's EAGAIN has to do, which becomes the same error without numbers. What a system
does not tell (macOS; a container without /proc or control groups) refuses nothing.

Source: pipe(7); getrlimit(2); proc_loadavg(5); cgroups(7); kernel documentation, admin-guide/cgroup-v2
("PID"), admin-guide/cgroup-v1/pids and admin-guide/sysctl.
"""

import contextlib
import errno
import fcntl
import logging
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import CapacityError, SpawnError

__all__ = ["ProcessLimit", "ProcessLimits", "refusal", "refuse_when_full"]

logger = logging.getLogger(__name__)

#: Descriptors that no start may use up, so that the program can still accept, answer, log and stop
#: things; also what a start needs for a moment. At most an eighth of the limit.
DESCRIPTOR_RESERVE = 32

#: Processes and threads that no start may use up. At most an eighth of the limit.
PROCESS_RESERVE = 16

#: Pages of a pipe, unless its owner has too many pipes (PIPE_DEF_BUFFERS).
PIPE_PAGES = 16

_F_GETPIPE_SZ: int | None = getattr(fcntl, "F_GETPIPE_SZ", None)  # Linux

#: The PID namespace of the machine itself, by its number, which is the same everywhere
#: (PROC_PID_INIT_INO).
_FIRST_NAMESPACE = "pid:[4026531836]"

#: What has run out, by the system's error.
_RUN_OUT = {
    errno.EMFILE: "file descriptors",
    errno.ENFILE: "file descriptors",
    errno.EAGAIN: "processes",
}


def refuse_when_full(command: str, *pipe_ends: int) -> None:
    """Refuse a start that would leave too little. For the spawner's thread.

    Args:
        command: What shall be started, for the error.
        pipe_ends: All descriptors that were just made for it.

    Raises:
        CapacityError: There is too little left.
    """
    _refuse_without_descriptors(command, pipe_ends)
    _refuse_without_processes(command)
    _warn_of_small_pipes(pipe_ends[0])


def refusal(command: str, reason: str, cause: Exception | None) -> SpawnError:
    """Return the error of a start that the system itself has refused."""
    if isinstance(cause, OSError) and cause.errno in _RUN_OUT:
        return CapacityError(command, reason, resource=_RUN_OUT[cause.errno], used=None, limit=None)
    return SpawnError(command, reason)


def _refuse_without_descriptors(command: str, just_made: tuple[int, ...]) -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The system gives the lowest number that is free, so all below the highest are in use: there is
    # nothing to count. Those above it may be in use too, but no start has taken them.
    highest = max(just_made)
    reserve = min(DESCRIPTOR_RESERVE, limit // 8)
    if limit == resource.RLIM_INFINITY or highest + reserve < limit:
        return
    used = highest + 1 - len(just_made)
    raise CapacityError(
        command,
        f"{used} of {limit} file descriptors are in use, and {reserve} are kept for other things; "
        "raise the limit (ulimit -n, a service's LimitNOFILE=) or stop some sessions",
        resource="file descriptors",
        used=used,
        limit=limit,
    )


def _refuse_without_processes(command: str) -> None:
    if (reached := process_limits.reached()) is None:
        return
    limit, used = reached
    raise CapacityError(
        command,
        f"{used} of {limit.maximum} processes and threads are in use, and {limit.reserve} are kept for other "
        f"things; raise the limit ({limit.setting}) or stop some sessions",
        resource="processes",
        used=used,
        limit=limit.maximum,
    )


@dataclass(frozen=True, slots=True)
class ProcessLimit:
    """A limit on processes and threads that this process is under.

    Attributes:
        maximum: How many there may be.
        current: The file that says how many there are. Text, because a `Path` costs as much as to read it.
        setting: What sets it, for whoever has to raise it.
    """

    maximum: int
    current: str
    setting: str

    @property
    def reserve(self) -> int:
        """How many of them no start may use up."""
        return min(PROCESS_RESERVE, self.maximum // 8)

    def used(self) -> int | None:
        """Return how many there are; None if the system does not tell."""
        try:
            # One number; or, in /proc/loadavg, behind the slash: "0.12 0.21 0.25 2/105 24101".
            return int(_read(self.current).rpartition(b"/")[2].split()[0])
        except (OSError, ValueError, IndexError):
            return None


class ProcessLimits:
    """The limits on processes that this process is under: the machine's, and those of its control groups.

    They are looked for at the first start, and again before one of them refuses a start, because
    limits are raised and processes are moved; else a start costs one small read for each of them.
    (One that is lowered meanwhile is only seen then. The system still refuses what it must.)

    Args:
        proc: Where the proc file system is.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._found: tuple[ProcessLimit, ...] = ()

    def reached(self) -> tuple[ProcessLimit, int] | None:
        """Return a limit that leaves no room for a start, and how many processes there are."""
        fresh = not self._found
        if fresh:
            self._found = tuple(self._find())
        reached = self._first_reached()
        if reached is None or fresh:
            return reached
        self._found = tuple(self._find())
        return self._first_reached()

    def _first_reached(self) -> tuple[ProcessLimit, int] | None:
        for limit in self._found:
            used = limit.used()
            if used is None:
                self._found = ()  # its control group is gone: we were moved
            elif used + limit.reserve >= limit.maximum:
                return limit, used
        return None

    def _find(self) -> Iterator[ProcessLimit]:
        for limit in (self._of_machine(), *map(_of_group, self._control_groups())):
            if limit is not None and limit.used() is not None:
                yield limit

    def _of_machine(self) -> ProcessLimit | None:
        sysctls = ["threads-max"]
        # What loadavg counts is the whole machine, and threads-max is its limit. A namespace has a
        # pid_max of its own (since Linux 6.14), for which there is no such count.
        with contextlib.suppress(OSError):
            if str((self._proc / "self/ns/pid").readlink()) == _FIRST_NAMESPACE:
                sysctls.append("pid_max")
        limits = [
            ProcessLimit(maximum, str(self._proc / "loadavg"), f"sysctl kernel.{name}")
            for name in sysctls
            if (maximum := _number(self._proc / "sys/kernel" / name)) is not None
        ]
        return min(limits, key=lambda limit: limit.maximum, default=None)

    def _control_groups(self) -> Iterator[Path]:
        """Yield the folders of our control groups that may limit processes, and of those around them."""
        # Lines like this: 8:pids:/GROUP, or in version 2: 0::/GROUP
        groups: dict[str, str] = {}
        for line in _lines(self._proc / "self/cgroup"):
            _, controllers, group = line.split(":", 2)
            if not controllers:
                groups["cgroup2"] = group
            elif "pids" in controllers.split(","):
                groups["cgroup"] = group
        for line in _lines(self._proc / "self/mountinfo"):
            # Like this: 36 35 98:0 ROOT FOLDER OPTIONS [MORE] - TYPE SOURCE OPTIONS
            left, _, right = line.partition(" - ")
            root, folder = left.split(" ")[3:5]
            kind, _, options = right.split(" ", 2)
            if kind not in groups or (kind == "cgroup" and "pids" not in options.split(",")):
                continue
            own = Path(groups[kind])
            if own.is_relative_to(root) and ".." not in own.parts:
                del groups[kind]  # it may be mounted more than once
                inside = own.relative_to(root)
                yield from (Path(folder, around) for around in (inside, *inside.parents))


def _of_group(folder: Path) -> ProcessLimit | None:
    maximum = _number(folder / "pids.max")
    if maximum is None:
        return None
    setting = "a service's TasksMax=, a container's --pids-limit"
    return ProcessLimit(maximum, str(folder / "pids.current"), setting)


def _lines(path: Path) -> list[str]:
    try:
        # Paths are bytes; and not `splitlines`, which splits them at more than newlines.
        return [line for line in os.fsdecode(path.read_bytes()).split("\n") if line]
    except OSError:
        return []


def _number(path: Path) -> int | None:
    """Read one number; None if there is none, or another word ("max")."""
    try:
        return int(_read(path))
    except (OSError, ValueError):
        return None


def _read(path: Path | str) -> bytes:
    # A third of the time that `read_bytes` takes.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 100)
    finally:
        os.close(descriptor)


#: Of this process. Nothing in it is wrong in a copy made by fork.
process_limits = ProcessLimits()

_small_pipes_seen = False


def _warn_of_small_pipes(pipe_end: int) -> None:
    """Say once if a new pipe is small: everything works, but big messages take more turns."""
    global _small_pipes_seen  # noqa: PLW0603 - once per process, however many spawners there are
    if _small_pipes_seen or _F_GETPIPE_SZ is None:
        return
    usual = PIPE_PAGES * resource.getpagesize()
    try:
        size = fcntl.fcntl(pipe_end, _F_GETPIPE_SZ)
    except OSError:  # a seccomp filter: it is only a warning that we miss
        size = usual
    if size < usual:
        _small_pipes_seen = True
        logger.warning("spawner.small_pipes", extra={"bytes": size, "sysctl": "fs.pipe-user-pages-soft"})
