"""A start that would use up the last of something is refused, and the error says what to change."""

import errno
import fcntl
import logging
import os
import resource
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from stdio_broker.errors import CapacityError
from stdio_broker.supervisor import SpawnError, capacity
from stdio_broker.supervisor.capacity import (
    DESCRIPTOR_RESERVE,
    PROCESS_RESERVE,
    ProcessLimits,
    refusal,
    refuse_when_full,
)
from stdio_broker.supervisor.spawner import Spawned, Spawner
from tests.supervisor.limits import only_free_descriptors
from tests.supervisor.programs import run
from tests.support.processes import children_of, wait_until_sync

pytestmark = pytest.mark.both_loops

NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")


async def spawn(spawner: Spawner) -> Spawned:
    return await spawner.spawn(["cat"], env={"PATH": os.environ["PATH"]}, cwd=None)


# Descriptors.


async def test_a_start_that_would_use_up_the_last_descriptors_is_refused_and_says_what_to_change(
    spawner: Spawner,
) -> None:
    free = DESCRIPTOR_RESERVE + 5  # the start itself makes six at once
    with only_free_descriptors(free) as limit, pytest.raises(CapacityError) as caught:
        await spawn(spawner)
    used = limit - free
    assert str(caught.value) == (
        f"cannot start 'cat': {used} of {limit} file descriptors are in use, and 32 are kept for other "
        "things; raise the limit (ulimit -n, a service's LimitNOFILE=) or stop some sessions"
    )
    assert (caught.value.resource, caught.value.used, caught.value.limit) == ("file descriptors", used, limit)
    # It is its own explanation, and no error of the system lies behind it.
    assert (caught.value.command, caught.value.__cause__) == ("cat", None)


async def test_a_start_that_leaves_the_reserve_alone_succeeds(spawner: Spawner) -> None:
    with only_free_descriptors(DESCRIPTOR_RESERVE + 6):
        child = await spawn(spawner)
    spawner.discard(child)


async def test_starts_until_one_is_refused_leave_descriptors_for_everything_else(spawner: Spawner) -> None:
    children: list[Spawned] = []
    others: list[int] = []
    with only_free_descriptors(DESCRIPTOR_RESERVE + 60):
        with pytest.raises(CapacityError):
            while True:
                children.append(await spawn(spawner))
        for _ in range(DESCRIPTOR_RESERVE):
            others.append(os.open(os.devnull, os.O_RDONLY))  # noqa: PERF401 - to close those that it got
        for fd in others:
            os.close(fd)
        for child in children:
            spawner.discard(child)
    # Four each, and the last one could not have six for a moment.
    assert len(children) == (60 - 6) // 4 + 1


async def test_a_limit_that_was_raised_counts_at_once(spawner: Spawner) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with only_free_descriptors(10):
        with pytest.raises(CapacityError):
            await spawn(spawner)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        child = await spawn(spawner)
    spawner.discard(child)


@pytest.mark.parametrize(
    ("limit", "highest"),
    [(1024, 991), (256, 223), (200, 174), (64, 55), (7, 6), (resource.RLIM_INFINITY, 100_000)],
)
def test_the_reserve_is_at_most_an_eighth_of_the_limit(
    limit: int, highest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "_warn_of_small_pipes", lambda _: None)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    refuse_when_full("cat", highest)
    if limit != resource.RLIM_INFINITY:
        with pytest.raises(CapacityError):
            refuse_when_full("cat", highest + 1)


# Processes: the files of a system that is nearly full.


class System:
    """A proc file system and control groups that a test has written."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.groups = folder / "groups"
        self.namespace("pid:[4026531836]")
        self.write("proc/sys/kernel/threads-max", "100000")
        self.write("proc/sys/kernel/pid_max", "100000")
        self.machine_has(100)
        self.write("proc/self/cgroup", "0::/\n")
        self.write("proc/self/mountinfo", f"31 23 0:28 / {self.groups} rw - cgroup2 cgroup rw\n")

    def write(self, name: str, text: str) -> None:
        path = self.proc.parent / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def namespace(self, name: str) -> None:
        link = self.proc / "self/ns/pid"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(name)

    def machine_has(self, tasks: int) -> None:
        self.write("proc/loadavg", f"0.12 0.21 0.25 2/{tasks} 24101\n")

    def group(self, name: str, *, used: int, maximum: int | str) -> None:
        self.write(f"groups/{name}/pids.current", f"{used}\n")
        self.write(f"groups/{name}/pids.max", f"{maximum}\n")

    def is_in(self, *lines: str) -> None:
        self.write("proc/self/cgroup", "".join(f"{line}\n" for line in lines))


@pytest.fixture
def system(tmp_path: Path) -> System:
    """Return a system with plenty of room, and no limit on its control groups."""
    return System(tmp_path)


def refused_by(limits: ProcessLimits) -> tuple[int, int, str] | None:
    """Return what is used, the limit and its setting; None if there is room."""
    if (reached := limits.reached()) is None:
        return None
    limit, used = reached
    return used, limit.maximum, limit.setting


GROUPS = "a service's TasksMax=, a container's --pids-limit"


async def test_a_start_with_too_few_processes_left_is_refused_and_says_what_to_change(
    system: System, spawner: Spawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.group(".", used=490, maximum=500)
    monkeypatch.setattr(capacity, "process_limits", ProcessLimits(system.proc))
    before = children_of(os.getpid())
    with pytest.raises(CapacityError) as caught:
        await spawn(spawner)
    assert str(caught.value) == (
        "cannot start 'cat': 490 of 500 processes and threads are in use, and 16 are kept for other things; "
        "raise the limit (a service's TasksMax=, a container's --pids-limit) or stop some sessions"
    )
    assert (caught.value.resource, caught.value.used, caught.value.limit) == ("processes", 490, 500)
    assert children_of(os.getpid()) == before
    system.group(".", used=480, maximum=500)
    spawner.discard(await spawn(spawner))


@pytest.mark.parametrize(("maximum", "most"), [(500, 483), (80, 69), (20, 17), (1, 0)])
def test_the_reserve_of_processes_is_at_most_an_eighth_of_the_limit(
    maximum: int, most: int, system: System
) -> None:
    limits = ProcessLimits(system.proc)
    system.group(".", used=most, maximum=maximum)
    assert refused_by(limits) is None
    system.group(".", used=most + 1, maximum=maximum)
    assert refused_by(ProcessLimits(system.proc)) == (most + 1, maximum, GROUPS)


@pytest.mark.parametrize("name", ["threads-max", "pid_max"])
def test_the_whole_machine_may_be_full(name: str, system: System) -> None:
    system.write(f"proc/sys/kernel/{name}", "32768\n")
    system.machine_has(32768 - PROCESS_RESERVE)
    assert refused_by(ProcessLimits(system.proc)) == (32752, 32768, f"sysctl kernel.{name}")
    system.machine_has(32768 - PROCESS_RESERVE - 1)
    assert refused_by(ProcessLimits(system.proc)) is None


def test_the_highest_pid_of_a_namespace_is_not_compared_with_the_processes_of_the_machine(
    system: System,
) -> None:
    """A container may have a pid_max of its own (since Linux 6.14), and sees the load of its host."""
    system.write("proc/sys/kernel/pid_max", "500\n")
    system.machine_has(5000)
    system.namespace("pid:[4026532177]")
    assert refused_by(ProcessLimits(system.proc)) is None


@pytest.mark.parametrize(
    ("membership", "mount", "folder"),
    [
        ("0::/broker.service", "/ {groups} rw - cgroup2 cgroup rw,nsdelegate", "broker.service"),
        ("0::/", "/ {groups} rw shared:4 master:1 - cgroup2 cgroup rw", "."),
        ("8:pids:/broker", "/ {groups}/pids rw - cgroup cgroup rw,pids", "pids/broker"),
        ("4:cpu,pids:/broker", "/ {groups} rw - cgroup none rw,cpu,pids", "broker"),
        ("8:pids:/docker/4f", "/docker/4f {groups} ro - cgroup cgroup rw,pids", "."),
        ("8:pids:/docker/4f/x", "/docker/4f {groups} ro - cgroup cgroup rw,pids", "x"),
        ("0::/ü\x85 x", "/ {groups} rw - cgroup2 cgroup rw", "ü\x85 x"),
    ],
    ids=["v2", "v2-namespace", "v1", "v1-together", "v1-container", "v1-below-container", "odd-name"],
)
def test_our_control_group_is_found_whatever_its_version_and_wherever_it_is_mounted(
    membership: str, mount: str, folder: str, system: System
) -> None:
    system.is_in("9:name=systemd:/elsewhere", membership, "1:cpu:/elsewhere")
    mount = mount.format(groups=system.groups)
    system.write("proc/self/mountinfo", f"23 1 0:21 / /proc rw - proc proc rw\n36 31 0:33 {mount}\n")
    system.group(folder, used=100, maximum=100)
    assert refused_by(ProcessLimits(system.proc)) == (100, 100, GROUPS)


@pytest.mark.parametrize(
    ("membership", "mount"),
    [
        ("0::/../other", "/ {groups}/mounted rw - cgroup2 cgroup rw"),
        ("0::/broker", "/other {groups} rw - cgroup2 cgroup rw"),
        ("8:pids:/broker", "/ {groups} rw - cgroup cgroup rw,cpu"),
        ("0::/broker", "/ {groups} rw - cgroup cgroup rw,pids"),
    ],
    ids=["outside-the-namespace", "not-mounted", "another-controller", "another-version"],
)
def test_a_group_that_is_not_ours_limits_nothing(membership: str, mount: str, system: System) -> None:
    system.is_in(membership)
    mount = mount.format(groups=system.groups)
    system.write("proc/self/mountinfo", f"36 31 0:33 {mount}\n")
    for folder in (".", "broker", "other", "mounted"):
        system.group(folder, used=100, maximum=100)
    assert refused_by(ProcessLimits(system.proc)) is None


def test_the_tightest_of_the_groups_around_ours_counts(system: System) -> None:
    system.is_in("0::/user.slice/session.scope/broker")
    system.group("user.slice", used=190, maximum=200)
    system.group("user.slice/session.scope", used=90, maximum="max")
    system.group("user.slice/session.scope/broker", used=80, maximum=1000)
    limits = ProcessLimits(system.proc)
    assert refused_by(limits) == (190, 200, GROUPS)
    system.group("user.slice", used=100, maximum=200)
    assert refused_by(limits) is None
    system.group("user.slice/session.scope/broker", used=999, maximum=1000)
    assert refused_by(limits) == (999, 1000, GROUPS)


def test_a_group_without_a_limit_refuses_nothing(system: System) -> None:
    system.group(".", used=1_000_000, maximum="max")
    assert refused_by(ProcessLimits(system.proc)) is None


def test_a_limit_that_is_raised_counts_at_once(system: System) -> None:
    """As the message says: raise it, and no restart is needed."""
    system.group(".", used=100, maximum=100)
    limits = ProcessLimits(system.proc)
    assert refused_by(limits) == (100, 100, GROUPS)
    system.group(".", used=100, maximum=200)
    assert refused_by(limits) is None
    system.group(".", used=190, maximum="max")
    assert refused_by(limits) is None


def test_a_process_that_is_moved_is_not_refused_for_the_sake_of_its_former_group(system: System) -> None:
    system.is_in("0::/small")
    system.group("small", used=10, maximum=100)
    limits = ProcessLimits(system.proc)
    assert refused_by(limits) is None
    system.group("small", used=100, maximum=100)
    system.group("large", used=10, maximum=1000)
    system.is_in("0::/large")
    assert refused_by(limits) is None


def test_when_a_group_vanishes_the_one_that_we_are_in_then_is_looked_for(system: System) -> None:
    system.is_in("0::/former")
    system.group("former", used=10, maximum=100)
    limits = ProcessLimits(system.proc)
    assert refused_by(limits) is None
    (system.groups / "former/pids.current").unlink()
    system.is_in("0::/present")
    system.group("present", used=100, maximum=100)
    assert refused_by(limits) is None  # it is noticed now, and nothing is known to be full
    assert refused_by(limits) == (100, 100, GROUPS)


def test_a_start_costs_one_small_read_for_each_limit(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not change is not read again, nor what tells nothing: it is on the way of every start."""
    system.is_in("0::/ours")
    system.group("ours", used=10, maximum=100)
    system.write("groups/pids.max", "100\n")  # and no pids.current
    mount = (system.proc / "self/mountinfo").read_text()
    system.write("proc/self/mountinfo", mount + mount)
    limits = ProcessLimits(system.proc)
    limits.reached()
    reads: list[Path] = []
    read = capacity._read  # noqa: SLF001 - to see what it is called with

    def counted(path: Path | str) -> bytes:
        reads.append(Path(path))
        return read(path)

    monkeypatch.setattr(capacity, "_read", counted)
    monkeypatch.setattr(capacity, "_lines", _never)
    assert limits.reached() is None
    assert reads == [system.proc / "loadavg", system.groups / "ours/pids.current"]


def _never(*_: object) -> list[str]:
    raise AssertionError("it was asked again")


@pytest.mark.parametrize("missing", ["everything", "loadavg", "self/cgroup", "self/mountinfo", "self/ns/pid"])
def test_a_system_that_does_not_tell_refuses_nothing(missing: str, system: System) -> None:
    """MacOS; a container whose /proc is hidden."""
    if missing == "everything":
        system.proc = system.proc / "missing"
    else:
        (system.proc / missing).unlink()
    assert refused_by(ProcessLimits(system.proc)) is None


@pytest.mark.parametrize(
    "name", ["loadavg", "sys/kernel/threads-max", "sys/kernel/pid_max", "self/cgroup", "self/mountinfo"]
)
@pytest.mark.parametrize("text", ["", "\n"])
def test_files_that_say_nothing_refuse_nothing(name: str, text: str, system: System) -> None:
    """As those of other systems that only look like Linux."""
    system.write(f"proc/{name}", text)
    assert refused_by(ProcessLimits(system.proc)) is None


# Processes: for real, in a process of its own.


PROGRAM = """
import resource
from stdio_broker.supervisor import capacity
from stdio_broker.supervisor.spawner import Spawner

async def spawn(spawner):
    return await spawner.spawn(["cat"], env={"PATH": os.environ["PATH"]}, cwd=None)

async def spawn_until_refused(spawner):
    children = []
    while True:
        try:
            children.append(await spawn(spawner))
        except capacity.CapacityError as exc:
            return children, exc

def open_descriptors():
    return [number for number in range(300) if is_open(number)]

def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True

async def main(*changes):
    before = open_descriptors()
    spawner = Spawner()
    for change in changes:
        change()
        children, exc = await spawn_until_refused(spawner)
        print(len(children), exc.resource, exc.used, exc.limit, exc.reason, sep="|")
        for child in children:
            spawner.discard(child)
    spawner.close()
    assert open_descriptors() == before
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        print("no child is left")
"""


def run_program(code: str) -> list[str]:
    """Return what it prints."""
    result = run(PROGRAM + textwrap.dedent(code), "cat")
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def _controller() -> Path | None:
    """Return where control groups with a limit on processes can be made, if there is such a place."""
    first, second = Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")
    if os.access(first / "cgroup.procs", os.W_OK):
        return first
    try:
        usable = "pids" in (second / "cgroup.subtree_control").read_text().split()
    except OSError:
        return None
    return second if usable and os.access(second / "cgroup.procs", os.W_OK) else None


@pytest.fixture
def pids_group() -> Iterator[Path]:
    """Return a control group that allows forty processes and threads."""
    controller = _controller()
    if controller is None:
        pytest.skip("needs root, and control groups that limit processes and may be written to")
    group = controller / f"stdio-broker-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "pids.max").write_text("40")
        yield group
    finally:
        wait_until_sync(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_in_a_container_that_limits_processes_the_last_ones_are_left_alone(pids_group: Path) -> None:
    """F18: a start is refused before the kernel has to; and if nobody looks, that is the same error."""
    printed = run_program(
        f"""
        def join():
            open("{pids_group}/cgroup.procs", "w").write(str(os.getpid()))

        def look_no_more():
            capacity._refuse_without_processes = lambda _: None

        asyncio.run(main(join, look_no_more))
        """
    )
    # With the program, its thread, and five for others they are forty.
    assert printed == [
        f"33|processes|35|40|{OURS}",
        f"38|processes|None|None|{THE_KERNELS}",
        "no child is left",
    ]


OURS = (
    "35 of 40 processes and threads are in use, and 5 are kept for other things; raise the limit "
    "(a service's TasksMax=, a container's --pids-limit) or stop some sessions"
)
THE_KERNELS = (
    "the system's limit on processes is reached "
    "(ulimit -u, a service's TasksMax=, a container's --pids-limit)"
)


@as_root
def test_a_user_who_may_have_no_more_processes_gets_the_same_error_from_the_kernel() -> None:
    """F18: nobody looks, because it is a limit on all processes of a user, wherever they are."""
    printed = run_program(
        f"""
        def one_is_enough():
            os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
            resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))

        asyncio.run(main(one_is_enough))
        """
    )
    assert printed == [f"0|processes|None|None|{THE_KERNELS}", "no child is left"]


@pytest.mark.parametrize("watch", ["pidfd", "thread"])
def test_each_thread_or_process_that_cannot_be_had_fails_the_start_and_leaves_nothing(
    watch: str, pids_group: Path
) -> None:
    """F18, F19: the kernel allows none, one, two… until the start succeeds; and it is not asked before."""
    printed = run_program(
        f"""
        from stdio_broker.supervisor import SpawnError, spawner

        group = "{pids_group}"
        with open(f"{{group}}/cgroup.procs", "w") as procs:
            procs.write(str(os.getpid()))
        capacity._refuse_without_processes = lambda _: None
        if {watch!r} == "thread":
            spawner._open_pidfd = lambda _: None

        def used():
            with open(f"{{group}}/pids.current") as current:
                return int(current.read())

        async def main():
            before, alone = open_descriptors(), used()
            for free in range(9):
                with open(f"{{group}}/pids.max", "w") as maximum:
                    maximum.write(str(alone + free))
                child = None
                try:
                    child = await start(Config(cmd=["cat"], warden=False, containment="group"))
                    print(await child.stop())
                except SpawnError as exc:
                    print(exc)
                if spawner._default is not None:
                    spawner._default.close()
                    spawner._default = None
                assert open_descriptors() == before
                while used() != alone:  # a thread that has been joined is gone a moment later
                    await asyncio.sleep(0)
                if child is not None:
                    return

        asyncio.run(main())
        """
    )
    assert printed == [
        "cannot start 'cat': the system refused a thread to start it: can't start new thread",
        f"cannot start 'cat': {THE_KERNELS}",
        *([UNWATCHED] if watch == "thread" else []),
        "exited with code 0",
    ]


UNWATCHED = "cannot start 'cat': the system refused what it takes to watch it: can't start new thread"


# What the kernel refuses.


@pytest.mark.parametrize(
    ("number", "what", "reason"),
    [
        (errno.EMFILE, "file descriptors", "no file descriptors are left; raise the limit (ulimit -n)"),
        (errno.ENFILE, "file descriptors", "no more pipes for this user (sysctl fs.pipe-user-pages-hard)"),
        (errno.EAGAIN, "processes", "the system's limit on processes is reached (ulimit -u"),
    ],
)
async def test_what_the_kernel_has_no_more_of_is_named_without_numbers(
    number: int, what: str, reason: str, spawner: Spawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user beyond fs.pipe-user-pages-hard gets ENFILE from pipe(2), see pipe(7)."""
    cause = OSError(number, os.strerror(number))

    def refuse() -> None:
        raise cause

    monkeypatch.setattr(os, "pipe", refuse)
    with pytest.raises(CapacityError) as caught:
        await spawn(spawner)
    monkeypatch.undo()
    assert reason in caught.value.reason
    assert (caught.value.resource, caught.value.used, caught.value.limit) == (what, None, None)
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize("cause", [OSError(errno.ENOENT, "missing"), OSError("no number"), ValueError("NUL")])
def test_a_command_that_is_at_fault_is_no_question_of_capacity(cause: Exception) -> None:
    """Callers try again later after the one, and not after the other."""
    assert type(refusal("cat", "because", cause)) is SpawnError


# Pipes.


@pytest.fixture
def small_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """Return the ends of a pipe like those that a user with too many of them gets."""
    monkeypatch.setattr(capacity, "_small_pipes_seen", False)
    ends = os.pipe()
    if sys.platform == "linux":
        fcntl.fcntl(ends[0], fcntl.F_SETPIPE_SZ, 8192)
    yield ends
    for end in ends:
        os.close(end)


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.getMessage() == "spawner.small_pipes"]


only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the size of a pipe")


@only_linux
def test_small_pipes_are_reported_once_with_the_setting_to_raise(
    small_pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    refuse_when_full("cat", *small_pipe)
    refuse_when_full("cat", *small_pipe)
    (record,) = warnings(caplog)
    assert record.levelno == logging.WARNING
    assert (record.__dict__["bytes"], record.__dict__["sysctl"]) == (8192, "fs.pipe-user-pages-soft")


@only_linux
async def test_pipes_of_the_usual_size_are_nothing_to_report(
    spawner: Spawner, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody's first 1,024, and all of root's."""
    monkeypatch.setattr(capacity, "_small_pipes_seen", False)
    spawner.discard(await spawn(spawner))
    assert warnings(caplog) == []


def test_a_system_that_does_not_tell_the_size_of_a_pipe_is_not_asked(
    small_pipe: tuple[int, int], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MacOS."""
    monkeypatch.setattr(capacity, "_F_GETPIPE_SZ", None)
    refuse_when_full("cat", *small_pipe)
    assert warnings(caplog) == []


@only_linux
def test_a_size_that_may_not_be_asked_for_does_not_fail_the_start(
    small_pipe: tuple[int, int], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seccomp filter."""

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EPERM, "filtered")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    refuse_when_full("cat", *small_pipe)
    assert warnings(caplog) == []


@as_root
@only_linux
def test_a_user_with_too_many_pipes_is_told_once_and_served_all_the_same() -> None:
    """F37, with the kernel's own small pipes; a line that is many times their size gets through."""
    printed = run_program(
        f"""
        import fcntl, logging

        class Told(logging.Handler):
            def emit(self, record):
                if record.getMessage() == "spawner.small_pipes":
                    print("told of", record.bytes, record.sysctl)

        logging.getLogger().addHandler(Told())
        os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
        pipes = [os.pipe()]
        while fcntl.fcntl(pipes[-1][0], fcntl.F_GETPIPE_SZ) == 16 * resource.getpagesize():
            pipes.append(os.pipe())

        async def main():
            for _ in range(2):
                child = await start(Config(cmd=["cat"], warden=False, containment="group"))
                line = b"x" * 1_000_000
                await child.stdin.send(line)
                assert await child.stdout.receive() == line
                print(await child.stop())

        asyncio.run(main())
        print(fcntl.fcntl(pipes[-1][0], fcntl.F_GETPIPE_SZ))
        """
    )
    told, *rest, small = printed
    assert told == f"told of {small} fs.pipe-user-pages-soft"
    assert rest == ["exited with code 0"] * 2
