"""Control groups (cgroup v2): one for each child, that nobody in it can leave. Linux only.

A process is born into the group of its parent, whatever session or process group it makes for
itself, so writing to `cgroup.kill` ends all descendants of a child, and `cgroup.events` proves it.
No rights of root are needed where the folder of our own group is writable: a systemd unit with
`Delegate=yes`, a container with a group of its own, root.

A child is put into its group right after its exec. The kernel takes its time for that: 0.1 ms, or
10 ms if nobody was moved lately. What the child has forked by then is looked for and moved too: by
its mark, its session, its parent. Only what has none of these in common with the child any more
stays outside, and for that it has to fork twice, make a session and clear its environment in its
first milliseconds. (A launcher that joins the group first would leave no such moment, but it has to
wait as long, changes the environment, and hides why a program cannot be executed.)

Source: cgroups(7); kernel documentation, admin-guide/cgroup-v2 ("cgroup.kill" is in Linux 5.14);
proc_pid_mountinfo(5); cgroup_namespaces(7).
"""

import atexit
import contextlib
import enum
import errno
import logging
import os
import re
import secrets
import signal
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from .controllers import enable, place_with
from .warden_process import MAX_ENVIRONMENT_BYTES, PROC, remove_group

__all__ = ["Cgroup", "CgroupFolder", "Held", "default_folder", "limiting_folder"]

logger = logging.getLogger(__name__)

#: Rounds of looking for what a child forked before it was in its group.
STRAY_ROUNDS = 5

#: Seconds that the end of the program waits for killed groups to become empty.
CLOSE_TIMEOUT = 1.0

#: Seconds between two looks at such a group.
LOOK_INTERVAL = 0.005

#: States of a process that runs no more.
_ENDED = {b"Z", b"X"}

#: A limit that there is none of where the kernel counts no swap.
_OPTIONAL = {"memory.swap.max"}

#: What `cgroup.events` says of a group as it was made.
_CLEAN = b"populated 0\nfrozen 0\n"

#: Groups that are kept for the next children. To make one and to remove it costs the kernel more than to
#: kill who is in it.
SPARE_GROUPS = 16

#: The parent of the kernel's own threads.
_KTHREADD = 2

#: Which of the fields of `_stat` says when a process was started.
_STARTED = 19


class Held(enum.IntEnum):
    """Who is in a group, after a process was put into it. False is doubt."""

    #: Somebody ended, or had no environment, while it was looked at, and who that was, or what it
    #: forked, has not been found.
    DOUBT = 0
    #: The process, and all that it had forked.
    FAMILY = 1
    #: The process. It had forked nobody.
    ALONE = 2


class Cgroup:
    """The control group of one child.

    Args:
        path: Its folder. Text, because a `Path` costs as much as the system calls do, and all this is
            on the way of every start and of every end.

    Attributes:
        clean: Whether nobody is in it any more, and it is as it was when it was made, as far as `kill`
            has seen.

    Raises:
        OSError: It cannot be made.
    """

    __slots__ = ("clean", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.clean = False
        os.mkdir(path)  # noqa: PTH102 - see above

    @property
    def name(self) -> str:
        """Its name, which no other group has, here or anywhere."""
        return self.path.rpartition("/")[2]

    def adopt(self, pid: int, key: str) -> Held:
        """Put a process, that has just been started, and what it has forked already into the group.

        Args:
            pid: The process. It is ours and not reaped, so the number is its own.
            key: Its mark, by which to find its descendants.

        Raises:
            OSError: It may not be moved.
        """
        self.clean = False
        with contextlib.suppress(ProcessLookupError):  # SIGCHLD is ignored: it is collected already
            self._move(pid)
        if _last_pid() == pid:  # nobody has forked since, and so it has not
            return Held.ALONE
        for number in range(STRAY_ROUNDS):
            descendants, certain = _tree(pid)
            if certain and not descendants and not number:
                return Held.ALONE
            if not certain:
                descendants, certain = _search(pid, key)
            strays = [process for process in descendants if not self._holds(process)]
            if certain and not strays:
                return Held.FAMILY
            for stray in strays:
                # A number is not given to a stranger before all others have been: not so soon.
                with contextlib.suppress(OSError):  # it has ended
                    self._move(stray)
        return Held.DOUBT

    def limit(self, limits: Mapping[str, int]) -> None:
        """Limit what may be used in it.

        Raises:
            OSError: It has not the controllers for that.
        """
        for name, value in limits.items():
            try:
                self._write(name, b"%d" % value)
            except OSError as exc:
                if name not in _OPTIONAL or exc.errno != errno.ENOENT:
                    raise OSError(f"its {name} cannot be set to {value}: {exc.strerror}") from exc

    def kill(self) -> None:
        """Kill everybody in it, if there is anybody: nobody comes in but by `adopt`."""
        if self.clean:
            return
        with contextlib.suppress(OSError):  # it is removed already
            self.clean = self._events() == _CLEAN
            if not self.clean:
                self._write("cgroup.kill", b"1")

    def populated(self) -> bool:
        """Return whether anybody lives in it, or in a group inside; zombies do not count."""
        if self.clean:
            return False
        try:
            events = self._events()
        except OSError:
            return False
        self.clean = events == _CLEAN
        return b"populated 1" in events

    def remove(self) -> bool:
        """Remove it, with the groups that were made inside; False if somebody is in it."""
        return remove_group(self.path)

    def _events(self) -> bytes:
        return _read(f"{self.path}/cgroup.events", 128)

    def _holds(self, pid: int) -> bool:
        try:
            groups = _read(f"{PROC}/{pid}/cgroup")
        except OSError:
            return False
        # The name is nobody else's. What has ended is shown where it was, or in the root.
        return f"/{self.name}".encode() in groups

    def _move(self, pid: int) -> None:
        self._write("cgroup.procs", b"%d" % pid)

    def _write(self, name: str, data: bytes) -> None:
        descriptor = os.open(f"{self.path}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)


def _tree(pid: int) -> tuple[set[int], bool]:
    """Find the descendants of a process by who is whose child. Most have none, so early.

    Returns:
        These, and whether there can be no more: nobody in the tree has lost a child, whose own children
        would be somebody else's now.
    """
    found: set[int] = set()
    certain, unseen = True, [pid]
    while unseen:
        process = unseen.pop()
        try:
            children = _children(process)
            state, *fields = _stat(process)  # last: a child that has ended meanwhile shows here
        except OSError:  # this kernel does not tell; or it has ended
            return found, False
        # Faults of children that it waited for; and the ignored signals: those of a process that
        # ignores SIGCHLD vanish without being waited for.
        faults, more_faults, ignored = (int(fields[index]) for index in (7, 9, 29))
        vanishing = ignored >> (signal.SIGCHLD - 1) & 1
        certain = certain and not (faults or more_faults or vanishing or state in _ENDED)
        found |= children
        unseen += children
    return found, certain


def _children(pid: int) -> set[int]:
    threads = os.listdir(f"{PROC}/{pid}/task")  # noqa: PTH208 - on the way of every start
    lists = [_read(f"{PROC}/{pid}/task/{thread}/children") for thread in threads]
    return {int(child) for children in lists for child in children.split()}


def _search(pid: int, key: str) -> tuple[set[int], bool]:
    """Find the living descendants of a process among all, also by mark and session. Takes milliseconds.

    Returns:
        These, and whether there can be no more. One without an environment could be anybody's: it has
        cleared that, or is in the middle of an exec.
    """
    related, blank = {pid}, set()
    parents: dict[int, int] = {}
    for process, parent, session in _younger_than(pid):
        parents[process] = parent
        with contextlib.suppress(OSError):  # it has ended meanwhile; or is another user's, and set-uid
            environment = _read(f"{PROC}/{process}/environ", MAX_ENVIRONMENT_BYTES)
            if session == pid or key.encode() in environment:
                related.add(process)
            elif not environment:
                blank.add(process)
    known = 0
    while known != len(related):
        known = len(related)
        related |= {child for child, parent in parents.items() if parent in related}
    return related - {pid}, blank <= related


def _younger_than(pid: int) -> Iterator[tuple[int, int, int]]:
    """Yield each living process that was started after one, with its parent and its session."""
    started = last = 0
    with contextlib.suppress(OSError):  # it has been collected
        started = int(_stat(pid)[_STARTED])
        last = _last_pid()
    for entry in os.listdir(PROC):  # noqa: PTH208 - a thousand Path objects cost more than the look
        # Numbers are given in ascending order, and begin again when the highest has been reached.
        if entry.isdigit() and (int(entry) > pid or last < pid):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                state, parent, _, session, *_ = fields = _stat(int(entry))
                if state not in _ENDED and int(fields[_STARTED]) >= started and int(parent) != _KTHREADD:
                    yield int(entry), int(parent), int(session)


def _last_pid() -> int:
    """Return the number that was given to a process or thread last; 0 where that is not told."""
    try:
        return int(_read("/proc/loadavg", 128).split()[-1])
    except OSError:  # there is no such file (ProcSubset=pid)
        return 0


def _stat(pid: int) -> list[bytes]:
    """Return what the kernel says about a process, from its state on: see proc_pid_stat(5)."""
    # "pid (name) state …", where the name may hold anything, a parenthesis too.
    return _read(f"{PROC}/{pid}/stat").rpartition(b")")[2].split()


class CgroupFolder:
    """Where the groups of our children are: a folder in our own group, made when first needed.

    Args:
        proc: The folder of our own process in /proc.
        controllers: What its groups must be able to limit.
    """

    def __init__(self, proc: Path = PROC / "self", *, controllers: Collection[str] = ()) -> None:
        self._proc = proc
        self._controllers = controllers
        self._lock = threading.Lock()
        self._looked = False
        self._path: Path | None = None
        self._why_not = ""
        #: Why children went without a group, to say it once. The system has only so many reasons.
        self._reported: set[str] = set()
        #: Groups in which somebody has outlived SIGKILL: as many as there are such children.
        self._populated: list[Cgroup] = []
        #: Groups in which nobody is any more, for those that shall limit nothing.
        self._spare: list[Cgroup] = []

    def place(self) -> str:
        """Return where the groups are, each under its name; empty if there can be none.

        Raises:
            OSError: That cannot be found out now.
        """
        with self._lock:
            if not self._looked:
                self._look()
        return "" if self._why_not else str(self._path)

    def make(self, name: str, *, limits: Mapping[str, int] | None = None, fresh: bool = False) -> Cgroup:
        """Make a group, or return one that an earlier child has left as it was made.

        Args:
            name: Its name, if it is made.
            limits: What it limits: its files, and what to write to them.
            fresh: Whether it must be made.

        Raises:
            OSError: Control groups cannot be used here, and the message says why; one with a number
                is no reason for ever.
        """
        with self._lock:
            if not self._looked:
                self._look()
            self._populated = [group for group in self._populated if not group.remove()]
            if self._path is None or self._why_not:
                raise OSError(self._why_not)
            if self._spare and not fresh:
                return self._spare.pop()
        group = _make(self._path, name)
        try:
            group.limit(limits or {})
        except OSError:
            group.remove()
            raise
        return group

    def remove(self, group: Cgroup) -> bool:
        """Remove a group, or keep it for another child; False if somebody is in it.

        Then it is removed when he has gone.
        """
        with self._lock:
            if group.clean and not self._controllers and len(self._spare) < SPARE_GROUPS:
                self._spare.append(group)
                return True
        removed = group.remove()
        if not removed:
            with self._lock:
                self._populated.append(group)
        return removed

    def give_up(self, why: OSError) -> None:
        """Make no more groups: a process could not be put into one."""
        self._why_not = str(why)
        self.report(why)

    def report(self, why: OSError) -> None:
        """Log why a child goes without a group; once for each reason."""
        with self._lock:
            known = str(why) in self._reported
            self._reported.add(str(why))
        if not known:
            # Where there never was one, that is how things are: an unprivileged user, a container.
            level = logging.INFO if self._path is None else logging.WARNING
            logger.log(level, "cgroup.unusable", extra={"error": str(why)})

    def close(self) -> None:
        """Remove the folder and the groups in it, which may take those in it a moment to leave."""
        if self._path is None:
            return
        deadline = time.monotonic() + CLOSE_TIMEOUT
        while not remove_group(str(self._path)) and time.monotonic() < deadline:
            time.sleep(LOOK_INTERVAL)

    def _look(self) -> None:
        try:
            self._path = _make_folder(self._proc, self._controllers)
        except OSError as exc:
            if exc.errno is not None:  # no descriptors are left, and next time there may be some
                raise
            self._why_not = str(exc)
        self._looked = True


def _make_folder(proc: Path, controllers: Collection[str]) -> Path:
    """Make a folder for groups.

    Raises:
        OSError: Groups would be of no use here; the message says why.
    """
    own = _own_group(proc)
    above = place_with(own, controllers) if controllers else own
    folder = _make(above, f"stdio-broker-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        _check(above, Path(folder.path))
        if controllers:
            enable(Path(folder.path), controllers)
    except OSError:
        folder.remove()
        raise
    return Path(folder.path)


def _make(folder: Path, name: str) -> Cgroup:
    try:
        return Cgroup(f"{folder}/{name}")
    except OSError as exc:
        # Without its number, which would be taken for the program's own: the caller explains those.
        raise OSError(f"no control group can be made in {folder}: {exc.strerror}") from exc


def _own_group(proc: Path) -> Path:
    """Return the folder of our own group."""
    try:
        groups = _lines(proc / "cgroup")
        mounts = _lines(proc / "mountinfo")
    except (FileNotFoundError, PermissionError) as exc:
        raise OSError(f"this system does not tell its control groups: {exc.strerror}") from exc
    for group in (line.removeprefix("0::") + "/" for line in groups if line.startswith("0::")):
        for root, folder in _cgroup2_mounts(mounts):
            above = root.rstrip("/") + "/"
            inside = group.removeprefix(above).split("/")
            # With ".." a namespace names what is outside of it, and that may be outside of the mount.
            if group.startswith(above) and ".." not in inside:
                return Path(folder, *inside)
    raise OSError("this process is in no cgroup v2 that is mounted here")


def _cgroup2_mounts(mounts: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the root and the folder of each mounted cgroup v2."""
    for mount in mounts:
        # Like this: 36 35 98:0 ROOT FOLDER OPTIONS [MORE] - TYPE SOURCE OPTIONS
        left, _, right = mount.partition(" - ")
        if right.startswith("cgroup2 "):
            _, _, _, root, folder, *_ = left.split(" ")
            yield _unescaped(root), _unescaped(folder)


def _unescaped(path: str) -> str:
    r"""Return a path of mountinfo, where a space is \040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _check(own: Path, path: Path) -> None:
    """Check that groups in this folder are of use.

    Raises:
        OSError: They are not; the message says why.
    """
    if not (path / "cgroup.kill").exists():
        raise OSError("the kernel is older than 5.14, and has no cgroup.kill")
    # To move a process takes the right to write here, where its way goes through.
    if not os.access(own / "cgroup.procs", os.W_OK):
        raise OSError(f"processes may not be moved out of {own}")
    if (path / "cgroup.type").read_text().strip() != "domain":
        raise OSError(f"{own} is a threaded control group")


def _lines(path: Path) -> list[str]:
    # Only at newlines, and whatever the bytes: the names of folders are anybody's.
    return os.fsdecode(path.read_bytes()).split("\n")


def _read(path: Path | str, size: int = 64 * 1024) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)


_default: CgroupFolder | None = None
_default_lock = threading.Lock()

#: Those whose groups have controllers, by which ones: there are three.
_limiting: dict[frozenset[str], CgroupFolder] = {}


def default_folder() -> CgroupFolder:
    """Return the folder of this process."""
    global _default  # noqa: PLW0603 - one folder per process
    with _default_lock:
        if _default is None:
            _default = CgroupFolder()
        return _default


def limiting_folder(controllers: frozenset[str]) -> CgroupFolder:
    """Return the folder of this process whose groups have these controllers."""
    with _default_lock:
        if controllers not in _limiting:
            _limiting[controllers] = CgroupFolder(controllers=controllers)
        return _limiting[controllers]


def _forget_after_fork() -> None:
    global _default, _default_lock
    _default, _default_lock = None, threading.Lock()
    _limiting.clear()


def _close_at_exit() -> None:
    for folder in filter(None, (_default, *_limiting.values())):
        folder.close()


os.register_at_fork(after_in_child=_forget_after_fork)
atexit.register(_close_at_exit)
