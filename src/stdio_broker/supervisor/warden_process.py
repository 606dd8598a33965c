"""The warden: a small process that outlives its broker for a moment, and ends what the broker left.

    python -I -S warden_process.py LIFELINE BROKER

LIFELINE is the number of an inherited socket, on which the broker names its children; BROKER is
the broker's pid. When the broker dies, of whatever, the socket is at its end: every child that
was not taken back goes down the ladder (EOF it has seen already, SIGTERM, SIGKILL) with its
descendants, and then the warden ends too. It survives nothing else, and keeps nothing alive.

While the broker lives it hunts: it finds the descendants of a child that left its process group
by a mark in their environment, which every process inherits, and kills them.

The standard library only, and no import of ours: it starts in milliseconds, and cannot fail on
what the broker failed on. Source: pidfd_open(2), unix(7), cgroups(7), proc(5).

Packets (`watch` is sent before the process exists, so that no moment is left uncovered; several may
come in one message)::

    watch KEY EOF_GRACE STOP_GRACE ORPHANS FOLDER     fields separated by NUL; graces in seconds
    started KEY PID CGROUP                            with the pidfd, where there is one
    hunt KEY ROUND                                    answered by: KEY ROUND COUNT, spaces between
    forget KEY
"""

import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

__all__ = ["MARK", "PACKET_BYTES", "Ward", "Warden", "kill_marked", "marked", "remove_group"]

#: The variable that marks the processes of a child. Its value names the child, and before it, set
#: off by commas, the children around it: a broker may itself be the child of one.
MARK = "STDIO_BROKER_CHILD"

PIDFD_SIGNAL_PROCESS_GROUP = 4  # <linux/pidfd.h>, Linux 6.9

#: Longest message, in bytes: seven packets, and the path in each is at most 4,096.
PACKET_BYTES = 32 * 1024

#: Seconds that a process gets to die of SIGKILL before it is reported.
KILL_GRACE = 2.0

#: Most that is read of an environment, in bytes. Reading costs in proportion.
MAX_ENVIRONMENT_BYTES = 256 * 1024

#: Seconds between looks at what no descriptor announces: hunted processes, groups, and children
#: on a system without pidfds.
LOOK_INTERVAL = 0.01

PROC = Path("/proc")


def marked(keys: Collection[str]) -> Iterator[tuple[int, str]]:
    """Find the living processes that belong to one of these children: pid and key.

    Only those whose environment we may read: of our own user, and not set-uid.
    """
    with contextlib.suppress(OSError):  # no /proc: nothing is found
        for entry in os.listdir(PROC):  # noqa: PTH208 - a thousand Path objects cost more than the look
            if entry.isdigit() and (key := _key_of(int(entry), keys)) is not None:
                yield int(entry), key


def _key_of(pid: int, keys: Collection[str]) -> str | None:
    try:
        descriptor = os.open(f"{PROC}/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        environment = os.read(descriptor, MAX_ENVIRONMENT_BYTES)
    except OSError:  # it has ended meanwhile
        return None
    finally:
        os.close(descriptor)
    # The variable is the first that we give a child, but a shell sorts them as it likes.
    _, found, rest = (b"\0" + environment).partition(b"\0" + MARK.encode() + b"=")
    if not found:
        return None
    names = rest.partition(b"\0")[0].decode(errors="replace").split(",")
    return next((name for name in names if name in keys), None)


def _state(proc: int) -> str:
    """Return the state of the process whose folder in /proc is open; empty if it is gone."""
    try:
        descriptor = os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    except OSError:
        return ""
    try:
        # "pid (name) state …", where the name may hold anything, a parenthesis too.
        return os.read(descriptor, 1024).rpartition(b")")[2].split()[0].decode()
    except OSError:
        return ""
    finally:
        os.close(descriptor)


def kill_marked(keys: Collection[str]) -> dict[str, int]:
    """Kill the processes that belong to these children; return how many there were of each.

    By pidfd, and only after a second look: a number that was recycled meanwhile is a stranger's.
    """
    found = dict.fromkeys(keys, 0)
    if not hasattr(os, "pidfd_open"):
        return found
    for pid, key in marked(keys):
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:  # it has ended; or we have no descriptor left, and the next round may
            continue
        try:
            if _key_of(pid, keys) == key:
                found[key] += 1
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except OSError:  # it has ended; or it may not be signalled, and is counted each time
            continue
        finally:
            os.close(pidfd)
    return found


def remove_group(path: str) -> bool:
    """Remove a control group, with those that were made inside of it; False if somebody is in it."""
    with contextlib.suppress(OSError):
        os.rmdir(path)  # noqa: PTH106 - on the way of every end
        return True
    for folder, _, _ in os.walk(path, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)  # noqa: PTH106 - as above
    return not os.path.exists(path)  # noqa: PTH110 - no further import


def _kill_group(path: str) -> None:
    with contextlib.suppress(OSError):  # it is gone
        Path(path, "cgroup.kill").write_text("1")


class Ward:
    """One child that the warden looks after.

    Args:
        key: Its name; also its mark.
        eof_grace: Seconds between the broker's death, which is EOF on its stdin, and SIGTERM.
        stop_grace: Seconds between SIGTERM and SIGKILL.
        orphans: Whether what it leaves behind may live ("leave") or not ("kill").
    """

    __slots__ = ("_pid", "_pidfd", "_proc", "cgroup", "eof_grace", "exited", "key", "orphans", "stop_grace")

    def __init__(self, key: str, eof_grace: float, stop_grace: float, orphans: str) -> None:
        self.key = key
        self.eof_grace = eof_grace
        self.stop_grace = stop_grace
        self.orphans = orphans
        self.cgroup = ""
        self.exited = False
        self._pid = 0
        self._pidfd: int | None = None
        self._proc: int | None = None

    def started(self, pid: int, pidfd: int | None, cgroup: str = "") -> None:
        """Take the process, its pidfd, and its control group, if it has one."""
        self.close()
        self._pid, self._pidfd, self.cgroup = pid, pidfd, cgroup
        if pidfd is None:
            with contextlib.suppress(OSError):
                # An open directory stays that process's, whoever gets the number.
                self._proc = os.open(PROC / str(pid), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def look(self) -> bool:
        """Return whether the process has exited, or never was one."""
        self.exited = self.exited or not self._runs()
        return self.exited

    def _runs(self) -> bool:
        if self._pidfd is not None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            return not poll.poll(0)
        if self._proc is not None:
            return _state(self._proc) not in {"", "Z", "X"}
        # Neither pidfd nor /proc: its children have a new parent, so the number may be a stranger's
        # from the moment on in which it ends. The group's leader is what we know.
        with contextlib.suppress(OSError):
            return self._pid > 0 and os.getpgid(self._pid) == self._pid
        return False

    def signal(self, number: signal.Signals) -> None:
        """Signal its group."""
        with contextlib.suppress(OSError):  # nobody is left; or it may not be signalled
            if self._pidfd is not None:
                try:
                    signal.pidfd_send_signal(self._pidfd, number, None, PIDFD_SIGNAL_PROCESS_GROUP)
                except ProcessLookupError:
                    return
                except OSError:  # Linux before 6.9: by number, while the process lives
                    pass
                else:
                    return
            if not self.look():
                os.killpg(self._pid, number)

    def sweep(self) -> None:
        """Kill what its group and its control group still hold."""
        if self.orphans == "kill" or not self.exited:
            self.signal(signal.SIGKILL)
            if self.cgroup:
                _kill_group(self.cgroup)

    def empty(self) -> bool:
        """Return whether nobody is left in its control group, and remove that."""
        return not self.cgroup or self.orphans == "leave" or remove_group(self.cgroup)

    def close(self) -> None:
        """Give up its descriptors."""
        for descriptor in (self._pidfd, self._proc):
            if descriptor is not None:
                os.close(descriptor)
        self._pidfd = self._proc = None

    def fileno(self) -> int | None:
        """Return what becomes readable at its exit, if anything does."""
        return self._pidfd

    def __str__(self) -> str:
        return f"pid {self._pid}" if self._pid else f"the child marked {self.key}"


class Warden:
    """Know the children of one broker while it lives, and end them when it does not.

    Args:
        lifeline: The socket to the broker.
        broker: Pidfd of the broker, or None. Its end is seen even where a forked copy of it holds
            the other side of the lifeline open.
    """

    def __init__(self, lifeline: socket.socket, broker: int | None) -> None:
        lifeline.setblocking(False)  # noqa: FBT003
        self._lifeline = lifeline
        self._broker = broker
        self._wards: dict[str, Ward] = {}
        #: Whom to look for, and in which round: the broker may ask again before we answer.
        self._hunted: dict[str, str] = {}
        self._rest = b""
        #: Where the control groups of this broker are.
        self._folders: set[str] = set()

    def serve(self) -> None:
        """Serve until the broker is dead."""
        poll = select.poll()
        poll.register(self._lifeline, select.POLLIN)
        if self._broker is not None:
            poll.register(self._broker, select.POLLIN)
        lifeline, alive = self._lifeline.fileno(), True
        while alive:
            ready = {descriptor for descriptor, _ in poll.poll(0 if self._hunted else None)}
            # What it has said in its last moments counts, so that comes first.
            alive = self._receive() if lifeline in ready else not ready
            # One look finds whoever is hunted, so only when nothing is to be read any more.
            if self._hunted and not (alive and ready):
                self._hunt()

    def _receive(self) -> bool:
        """Take a message; False at the end."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._lifeline, PACKET_BYTES, 1)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._obey(line.decode(errors="surrogateescape").split("\0"), descriptors)
        for descriptor in descriptors:  # nobody has taken it
            os.close(descriptor)
        return bool(data)

    def _obey(self, packet: list[str], descriptors: list[int]) -> None:
        what, key, *facts = packet
        if what == "watch":
            eof_grace, stop_grace, orphans, folder = facts
            self._wards[key] = Ward(key, float(eof_grace), float(stop_grace), orphans)
            if folder:
                self._folders.add(folder)
        elif what == "hunt":
            self._hunted[key] = facts[0]
        elif (ward := self._wards.get(key)) is None:
            return
        elif what == "started":
            pid, cgroup = facts
            ward.started(int(pid), descriptors.pop() if descriptors else None, cgroup)
        else:
            ward.close()
            del self._wards[key]

    def _hunt(self) -> None:
        for key, count in kill_marked(self._hunted).items():
            # A broker that does not read its answers is no reason to stand still.
            with contextlib.suppress(OSError):
                self._lifeline.send(f"{key} {self._hunted[key]} {count}\n".encode())
        self._hunted.clear()

    def end_all(self) -> list[str]:
        """End every child that was not taken back; return what could not be ended, in words."""
        wards = list(self._wards.values())
        _climb_down(wards)
        for folder in self._folders:  # who was put into a group, and not handed over any more
            _kill_group(folder)
        left = _clear(wards)
        for ward in wards:
            ward.close()
        for folder in self._folders:
            remove_group(folder)
        return left


def _climb_down(wards: Iterable[Ward]) -> None:
    """SIGTERM and SIGKILL, each after its grace; what a child that ends leaves is swept at once."""
    started = time.monotonic()
    steps = {
        ward: deque(
            [
                (ward.eof_grace, (signal.SIGTERM, signal.SIGCONT)),
                (ward.eof_grace + ward.stop_grace, (signal.SIGKILL,)),
                (ward.eof_grace + ward.stop_grace + KILL_GRACE, ()),
            ]
        )
        for ward in wards
    }
    while steps:
        now = time.monotonic() - started
        ended = [ward for ward in steps if ward.look()]
        for ward, left in list(steps.items()):
            if ward.exited:
                ward.sweep()
                del steps[ward]
            elif left[0][0] <= now:
                for number in left.popleft()[1]:
                    ward.signal(number)
                if not left:
                    del steps[ward]
        if ended:
            kill_marked({ward.key for ward in ended if ward.orphans == "kill"})
        elif steps:
            _wait(steps, min(left[0][0] for left in steps.values()) - now)


def _wait(wards: Iterable[Ward], seconds: float) -> None:
    """Wait until one of them exits, or for so many seconds."""
    poll = select.poll()
    for ward in wards:
        if (descriptor := ward.fileno()) is not None:
            poll.register(descriptor, select.POLLIN)
        else:  # nothing will tell
            seconds = min(seconds, LOOK_INTERVAL)
    poll.poll(max(0.0, seconds) * 1000)


def _clear(wards: list[Ward]) -> list[str]:
    """Kill what is left of the children, wherever it went, until nothing is found any more."""
    keys = {ward.key for ward in wards if ward.orphans == "kill"}
    deadline = time.monotonic() + KILL_GRACE
    while True:
        for ward in wards:
            ward.sweep()
        found = kill_marked(keys)
        left = [ward for ward in wards if not ward.look() or not ward.empty() or found.get(ward.key)]
        if not left or time.monotonic() >= deadline:
            return [str(ward) for ward in left]
        time.sleep(LOOK_INTERVAL)


def main(lifeline: int, broker: int) -> None:
    """Be the warden of the process `broker`."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)  # a service manager signals all of a unit; we go last
    with contextlib.ExitStack() as undo:
        pidfd = None
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                pidfd = os.pidfd_open(broker)
                undo.callback(os.close, pidfd)
        if os.getppid() != broker:  # it died first: the pidfd is a stranger's, and the lifeline at its end
            pidfd = None
        warden = Warden(undo.enter_context(socket.socket(fileno=lifeline)), pidfd)
        warden.serve()
        left = warden.end_all()
    if left and sys.stderr is not None:
        sys.stderr.write(f"stdio-broker: could not end, after the broker's death: {', '.join(left)}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
