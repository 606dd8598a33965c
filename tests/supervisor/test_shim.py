"""The level "shim": a process in front of the child, that does nothing but know who belongs to it.

What both levels that hold everybody must do is in `test_containment.py`; here is what only a shim can
get wrong. Its own program is measured, too, where a test is its supervisor: `ShimProcess`.
"""

import contextlib
import errno
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from stdio_broker.errors import CapacityError
from stdio_broker.supervisor import Child, Config, Phase, SpawnError, shim_process, start
from stdio_broker.supervisor import containment as containment_module
from stdio_broker.supervisor import descriptors as descriptors_module
from stdio_broker.supervisor.containment import Shimmed
from tests.supervisor.children import (
    NO_SIGNALS,
    SIGNAL_MASKS,
    command,
    ignored_signals,
    new_tag,
    start_ready,
    state_of,
)
from tests.supervisor.programs import run
from tests.support.processes import (
    children_of,
    find_tagged,
    is_alive,
    is_stopped,
    wait_until,
    wait_until_sync,
)

pytestmark = pytest.mark.both_loops

FOR_EVER = 60.0


@pytest.fixture
def tag() -> Iterator[str]:
    """Return a tag; fail if a process that carries it is left after the test."""
    made = new_tag()
    yield made
    wait_until_sync(lambda: not find_tagged(made), what="end of everything that the test has started")


def shimmed(
    mode: str, *arguments: object, eof_grace: float = FOR_EVER, stop_grace: float = FOR_EVER
) -> Config:
    return Config(
        cmd=command(mode, *arguments), containment="shim", eof_grace=eof_grace, stop_grace=stop_grace
    )


def behind(child: Child) -> int:
    """Return the process behind a shim."""
    assert child.pid is not None
    (pid,) = children_of(child.pid)
    return pid


# A child behind its shim.


async def test_the_child_leads_a_session_behind_its_shim_and_dies_with_it() -> None:
    child = await start_ready(shimmed("stubborn"))
    pid = behind(child)
    assert os.getsid(pid) == os.getpgid(pid) == pid != child.pid
    assert os.getsid(child.pid or 0) == child.pid
    await child.stop(eof_grace=0, stop_grace=0)
    assert not is_alive(pid)


async def test_the_shim_holds_none_of_the_childs_pipes(tag: str) -> None:
    """Else there would be no end of its output before the shim's."""
    child = await start(shimmed("close-everything"))
    assert await child.stdout.receive() == b"ready"
    assert [line async for line in child.stdout] == []
    assert not child.exited.is_set()
    await child.stop(eof_grace=0)


async def test_the_signals_of_a_child_are_its_own() -> None:
    """F31, and for a Python that ignores SIGPIPE, and handles SIGTERM, in front of it."""
    child = await start(Config(cmd=SIGNAL_MASKS, containment="shim"))
    blocked, ignored = [line.decode() async for line in child.stdout]
    assert blocked == NO_SIGNALS[0]
    assert not {signal.SIGPIPE, signal.SIGXFSZ} & set(ignored_signals(ignored))
    await child.wait()


async def test_the_limit_on_descriptors_is_the_childs_own_from_the_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(descriptors_module, "_original", (123, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    child = await start(Config(cmd=["sh", "-c", "ulimit -n"], containment="shim"))
    assert await child.stdout.receive() == b"123"
    await child.wait()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
async def test_a_signal_to_the_pid_of_a_child_reaches_it(number: signal.Signals) -> None:
    before = signal.signal(number, lambda *_: None)  # we may run under nohup, or in the background
    try:
        child = await start_ready(shimmed("polite"))
    finally:
        signal.signal(number, before)
    os.kill(child.pid or 0, number)
    await wait_until(lambda: f"got {number.name}" in child.stderr_tail)
    status = await child.stop()
    assert (status.code, status.phase) == (0, Phase.EOF)


@pytest.mark.parametrize("stop_grace", [0.0, FOR_EVER])
async def test_a_shim_that_was_stopped_does_what_it_is_told(stop_grace: float, tag: str) -> None:
    child = await start_ready(shimmed("parent", tag, "session", eof_grace=0))
    os.kill(child.pid or 0, signal.SIGSTOP)
    await wait_until(lambda: is_stopped(child.pid or 0))
    status = await child.stop(stop_grace=stop_grace)
    assert status.phase is (Phase.TERM if stop_grace else Phase.KILL)
    assert find_tagged(tag) == set()


async def test_without_a_pidfd_a_stopped_shim_is_continued_with_sigterm(each_watch: str, tag: str) -> None:
    child = await start_ready(shimmed("deaf", tag, eof_grace=0))
    os.kill(child.pid or 0, signal.SIGSTOP)
    status = await child.stop()
    assert (status.phase, status.signal) == (Phase.TERM, signal.SIGTERM)


async def test_a_shim_that_is_killed_takes_the_child_with_it_and_nobody_else(tag: str) -> None:
    """What is given up: only the shim knew the others. They have seen the end of our pipes."""
    child = await start_ready(shimmed("wrapper", tag, "stubborn"))
    server = behind(child)
    (other,) = children_of(server)
    os.kill(child.pid or 0, signal.SIGKILL)
    status = await child.wait()
    assert (status.phase, status.signal, status.survivors) == (Phase.SELF, signal.SIGKILL, False)
    await wait_until(lambda: not is_alive(server), what="end of the child")
    assert find_tagged(tag) == {other}
    os.kill(other, signal.SIGKILL)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_program_that_was_forked_does_not_keep_the_children_of_one_that_is_killed(
    moment: str, tag: str
) -> None:
    """F36: the copy holds the pipes and the control socket, so nothing but its pidfd tells of the end.

    Before the command has been started, it is not started; after that, it is ended.
    """
    result = run(
        f"""
        from stdio_broker.supervisor.containment import Shimmed

        def die(*_):
            if os.fork() == 0:
                os.close(0), os.close(1), os.close(2)
                signal.pause()
            print("ready", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

        async def main():
            if {moment!r} == "before":
                Shimmed._tell = die
            await ready(await start(Config(cmd=command, containment="shim", eof_grace=0.05)))
            die()

        asyncio.run(main())
        """,
        *command("deaf", tag),
    )
    assert result.stdout == "ready\n", result.stderr
    # The program has the tag among its arguments, and so has its copy.
    wait_until_sync(lambda: len(find_tagged(tag)) == 1, what="end of the child and its shim")
    (copy,) = find_tagged(tag)
    os.kill(copy, signal.SIGKILL)


async def test_the_default_timeout_of_a_programs_sockets_is_not_that_of_a_shim() -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.000_001)
    try:
        child = await start(shimmed("polite"))
    finally:
        socket.setdefaulttimeout(before)
    await child.stop()


# A shim that cannot be had.


async def test_a_shim_needs_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containment_module, "sys", SimpleNamespace(platform="darwin", executable="python"))
    with pytest.raises(SpawnError, match=r"^cannot start 'true': a shim needs Linux, and an interpreter"):
        await start(Config(cmd=["true"], containment="shim"))


async def test_a_shim_needs_an_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that embeds Python has none."""
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(SpawnError, match=r"^cannot start 'true': a shim needs Linux, and an interpreter"):
        await start(Config(cmd=["true"], containment="shim"))


async def test_a_shim_that_ends_before_it_has_started_anything_is_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An interpreter that does not find its libraries in the child's environment, for one."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SpawnError, match="its shim has ended before it could start the command"):
        await start(Config(cmd=["true"], containment="shim"))


@pytest.mark.parametrize("name", ["socket", "fcntl"])
async def test_a_shim_that_needs_one_descriptor_too_many_is_explained_and_leaks_none(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F16: two for its socket, and another number for one of these."""

    class Full:
        """A module, but what makes a descriptor fails."""

        def __getattr__(self, attribute: str) -> object:
            return refuse if attribute in {"socketpair", "fcntl"} else getattr(sys.modules[name], attribute)

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(containment_module, name, Full())
    with pytest.raises(CapacityError, match="no file descriptors are left"):
        await start(Config(cmd=["true"], containment="shim"))


def test_what_is_told_to_a_shim_that_was_given_up_is_not_sent_anywhere() -> None:
    given_up = Shimmed(Config(cmd=["true"], containment="shim"))
    given_up.close()
    given_up.kill()
    assert not given_up.alive()


# The shim, with the test as its supervisor.


class ShimProcess:
    """A shim, as the supervisor has it.

    Attributes:
        process: The shim itself.
        control: Our side of its socket.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", control: socket.socket) -> None:
        self.process = process
        self.control = control
        control.settimeout(20)

    def go(self) -> bytes:
        """Have the command started; return the answer."""
        self.control.send(b"G")
        return self.control.recv(16)

    def end(self) -> int:
        """Return how it has ended, when it has."""
        return self.process.wait(20)

    def line(self) -> bytes:
        """Return what the command says next."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def error(self) -> bytes:
        """Return what the command says next on its stderr."""
        assert self.process.stderr is not None
        return self.process.stderr.readline()

    def close_stdin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.stdin = None


#: `shim_process.py`, but it ends in a way that lets coverage write down what it has seen. Started by
#: coverage if we are; the first argument is to be executed before.
PROGRAM = """
import os, sys
if "COVERAGE_PROCESS_START" in os.environ:
    import coverage
    coverage.process_startup()
from stdio_broker.supervisor import shim_process
exec(sys.argv[1])
sys.exit(os.waitstatus_to_exitcode(shim_process.main(sys.argv[2:])))
"""
PROJECT = Path(__file__).parents[2]


@pytest.fixture
def shim() -> Iterator[Callable[..., ShimProcess]]:
    """Start shims; their commands are killed at last."""
    shims: list[ShimProcess] = []

    def start_shim(
        *cmd: str,
        before: str = "",
        graces: tuple[float, float, float] = (FOR_EVER, FOR_EVER, FOR_EVER),
        supervisor: int | None = None,
    ) -> ShimProcess:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            arguments = [
                theirs.fileno(),
                os.getpid() if supervisor is None else supervisor,
                *graces,
                "--",
                *cmd,
            ]
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, before, *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                env=_environment(),
            )
        shims.append(ShimProcess(process, ours))
        return shims[-1]

    yield start_shim
    for started in shims:
        with contextlib.suppress(OSError):
            started.control.send(b"K")
        started.control.close()
        with started.process as process, contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=5)
        started.process.kill()


def _environment() -> dict[str, str]:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT / "src"), "LC_ALL": "C"}
    # Set by coverage in the process that it measures.
    if "COVERAGE_RUN" in os.environ:
        env["COVERAGE_PROCESS_START"] = str(PROJECT / "pyproject.toml")
        env |= {name: os.environ[name] for name in ("COVERAGE_FILE",) if name in os.environ}
    return env


def test_the_command_is_started_when_it_is_wanted_and_not_before(shim: Callable[..., ShimProcess]) -> None:
    started = shim(*command("leave-at-eof", 7))
    assert select.select([started.control], [], [], 0)[0] == []
    assert started.go() == b"0"
    assert started.line() == b"ready\n"
    started.close_stdin()
    assert started.end() == 7


def test_a_command_that_nobody_wants_any_more_is_not_started(shim: Callable[..., ShimProcess]) -> None:
    """The start was cancelled, or the supervisor was killed."""
    started = shim("sh", "-c", "echo started")
    started.control.close()
    assert (started.end(), started.line()) == (0, b"")


def test_a_command_whose_supervisor_died_before_its_shim_knew_it_is_not_started(
    shim: Callable[..., ShimProcess],
) -> None:
    """Its number may be a stranger's by now, who would be waited for."""
    started = shim("sh", "-c", "echo started", supervisor=1)
    with contextlib.suppress(BrokenPipeError):
        started.control.send(b"G")
    assert (started.end(), started.line()) == (0, b"")


@pytest.mark.parametrize(
    ("before", "code"),
    [
        ("", errno.ENOENT),
        ("def refuse(*_): raise OSError(11, '')\nos.fork = refuse", errno.EAGAIN),
        ("def refuse(*_): raise OSError(1, '')\nshim_process._prctl = refuse", errno.EPERM),
        ("def refuse(*_): raise OSError('no number')\nshim_process._prctl = refuse", errno.EIO),
        ("def refuse(*_): raise FileNotFoundError(2, '')\nshim_process.open = refuse", errno.ENOSYS),
    ],
    ids=["exec", "fork", "seccomp", "unknown", "no-children"],
)
def test_what_the_system_refuses_is_told(before: str, code: int, shim: Callable[..., ShimProcess]) -> None:
    started = shim("/no/such/program", before=before)
    if code not in {errno.ENOENT, errno.EAGAIN}:  # it does not even wait
        assert started.control.recv(16) == b"%d" % code
    else:
        assert started.go() == b"%d" % code
    assert started.end() == 0


@pytest.mark.parametrize("traits", [(), ("session",), ("session", "orphan"), ("session", "orphan", "bare")])
def test_all_are_killed_when_that_is_wanted(
    traits: tuple[str, ...], tag: str, shim: Callable[..., ShimProcess]
) -> None:
    started = shim(*command("parent", tag, *traits))
    assert started.go() == b"0"
    assert started.line().startswith(b"ready")
    started.control.send(b"K")
    assert started.end() == -signal.SIGKILL & 0xFF
    assert find_tagged(tag) == set()


def test_who_is_left_by_a_command_that_ends_is_killed(tag: str, shim: Callable[..., ShimProcess]) -> None:
    started = shim(*command("parent", tag, "session", "orphan"))
    started.go()
    assert started.line().startswith(b"ready")
    started.close_stdin()
    assert started.end() == 0
    assert find_tagged(tag) == set()


#: Nobody can be killed.
REFUSE = "def refuse(*_): raise PermissionError(1, '')\nos.kill = refuse"


def test_who_cannot_be_killed_is_left_behind_and_reported(tag: str, shim: Callable[..., ShimProcess]) -> None:
    """A set-uid program, or one in state D."""
    started = shim(*command("parent", tag, "session"), before=REFUSE, graces=(FOR_EVER, FOR_EVER, 0.05))
    started.go()
    other = int(started.line().split()[1])
    started.close_stdin()
    assert started.control.recv(16) == b"S"
    assert started.end() == 0
    assert is_alive(other)
    os.kill(other, signal.SIGKILL)


def test_a_command_that_cannot_be_killed_is_not_left_behind(shim: Callable[..., ShimProcess]) -> None:
    """Nobody else could tell how it has ended."""
    started = shim(*command("stubborn"), before=REFUSE, graces=(FOR_EVER, FOR_EVER, 0.02))
    started.go()
    assert started.line() == b"ready\n"
    started.control.send(b"K")
    assert select.select([started.control], [], [], 0.2)[0] == []
    (pid,) = children_of(started.process.pid)
    os.kill(pid, signal.SIGKILL)
    assert started.end() == -signal.SIGKILL & 0xFF


def test_after_the_supervisors_death_the_shim_goes_down_the_ladder(shim: Callable[..., ShimProcess]) -> None:
    """SIGTERM after its grace, SIGKILL after another."""
    started = shim(*command("noting-stubborn"), graces=(0.05, 1.0, FOR_EVER))
    started.go()
    assert started.line() == b"ready\n"
    started.control.close()
    assert started.error() == b"got SIGTERM\n"
    assert started.end() == -signal.SIGKILL & 0xFF


@pytest.mark.parametrize("unread", [False, True])
def test_a_supervisor_that_dies_while_it_waits_for_the_answer_has_died_like_any_other(
    shim: Callable[..., ShimProcess], *, unread: bool
) -> None:
    """The answer cannot be sent; or it has not been read, and then the end of a socket is an error."""
    started = shim(*command("deaf"), graces=(0.05, FOR_EVER, FOR_EVER))
    started.control.send(b"G")
    if unread:
        assert select.select([started.control], [], [], 20)[0]
    started.control.close()
    assert started.end() == -signal.SIGTERM & 0xFF


def test_a_command_that_obeys_after_the_supervisors_death_is_not_killed(
    shim: Callable[..., ShimProcess],
) -> None:
    started = shim(*command("graceful"), graces=(0.05, FOR_EVER, FOR_EVER))
    started.go()
    assert started.line() == b"ready\n"
    started.control.close()
    assert started.end() == 7


def test_a_command_that_ends_by_eof_after_the_supervisors_death_gets_no_signal(
    shim: Callable[..., ShimProcess],
) -> None:
    started = shim(*command("polite"))
    started.go()
    assert started.line() == b"ready\n"
    started.control.close()
    started.close_stdin()
    assert started.end() == 0
    assert started.error() == b"got EOF\n"


def test_without_pidfds_the_supervisors_death_is_the_end_of_its_socket(
    shim: Callable[..., ShimProcess],
) -> None:
    started = shim(*command("deaf"), before="del os.pidfd_open", graces=(0, FOR_EVER, FOR_EVER))
    started.go()
    assert started.line() == b"ready\n"
    started.control.close()
    assert started.end() == -signal.SIGTERM & 0xFF


def test_signals_are_passed_on_but_those_that_are_to_be_ignored(shim: Callable[..., ShimProcess]) -> None:
    """As with nohup: neither the shim nor the command knows of SIGHUP then."""
    before = "import signal as s\ns.signal(s.SIGHUP, s.SIG_IGN)\ns.signal(s.SIGINT, s.SIG_DFL)"
    started = shim(*command("polite"), before=before)
    assert started.go() == b"0"
    assert started.line() == b"ready\n"
    started.process.send_signal(signal.SIGHUP)
    for number in (signal.SIGINT, signal.SIGTERM):
        started.process.send_signal(number)
        assert started.error() == f"got {number.name}\n".encode()
    assert started.error() == b"got SIGCONT\n"
    started.close_stdin()
    assert started.end() == 0
    assert started.error() == b"got EOF\n"


def test_the_shim_sleeps_while_it_waits(shim: Callable[..., ShimProcess]) -> None:
    """One that polled would cost a core for each child."""
    started = shim(*command("stubborn"))
    started.go()
    assert started.line() == b"ready\n"
    for _ in range(2):
        used = cpu_ticks(started.process.pid)
        select.select([], [], [], 0.2)
        assert cpu_ticks(started.process.pid) - used <= 1
        # Once more, as it waits after its supervisor's death.
        started.control.shutdown(socket.SHUT_RDWR)
        wait_until_sync(lambda: state_of(started.process.pid) == "S")
    (pid,) = children_of(started.process.pid)
    os.kill(pid, signal.SIGKILL)
    assert started.end() == -signal.SIGKILL & 0xFF


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


# How it ends.


class _EndedError(Exception):
    pass


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (7 << 8, [("exit", 7)]),
        (signal.SIGTERM, [("prctl", 4), ("reset", 15), ("kill", 15), ("exit", -15)]),
        (signal.SIGKILL, [("prctl", 4), ("kill", 9), ("exit", -9)]),
    ],
)
def test_a_shim_ends_like_its_child_and_leaves_no_core_of_its_own(
    status: int, expected: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ending this process; that it does end so is seen in `test_containment.py`."""
    done: list[tuple[str, int]] = []

    def reset(number: int, _: object) -> None:
        if number == signal.SIGKILL:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        done.append(("reset", number))

    monkeypatch.setattr(shim_process, "_prctl", lambda option, value: done.append(("prctl", option + value)))
    monkeypatch.setattr(signal, "signal", reset)
    monkeypatch.setattr(os, "kill", lambda _, number: done.append(("kill", number)))
    monkeypatch.setattr(os, "_exit", lambda code: done.append(("exit", code)))
    shim_process.end_like(status)
    monkeypatch.undo()
    assert done == expected


def test_what_prctl_refuses_is_an_error() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        shim_process._prctl(1 << 20, 0)  # noqa: SLF001 - it has no other way to fail
