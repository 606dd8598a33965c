"""Everything that can go wrong with a child, F1 to F39, and the test of each (`supervision.md`, 4.4).

Most stand where their subject is, and in the table at the end with their names. Here is what has no
better place: what takes a fault of the machine, many repetitions, or very much data. How many and
how much comes from the environment, because the normal run shall be short.
"""

import asyncio
import contextlib
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pytest

from stdio_broker.supervisor import (
    Child,
    Config,
    EndOfOutput,
    ExitStatus,
    LineTooLong,
    Phase,
    Supervisor,
    SupervisorStatistics,
    start,
)
from stdio_broker.supervisor.config import Level
from stdio_broker.supervisor.spawner import Spawner
from tests.supervisor.children import (
    command,
    gone,
    leased,
    new_tag,
    ready_line,
    start_ready,
    state_of,
)
from tests.supervisor.programs import run
from tests.support.processes import children_of, find_tagged, is_alive, is_stopped, wait_until

pytestmark = pytest.mark.both_loops

T = TypeVar("T")

#: Children that say a last word and are gone; 10,000 by hand.
LAST_WORDS = int(os.environ.get("STDIO_BROKER_LAST_WORDS", "300"))
#: Starts that are cancelled; 1,000 by hand.
CANCELLED_STARTS = int(os.environ.get("STDIO_BROKER_CANCELLED_STARTS", "150"))
#: MB of stderr without a newline; 1,000 by hand.
STDERR_MB = int(os.environ.get("STDIO_BROKER_STDERR_MB", "100"))
#: MB of a single line of stdout.
LINE_MB = int(os.environ.get("STDIO_BROKER_LINE_MB", "100"))

#: What a machine that is as slow as one can be may need for all that was asked for, in seconds.
HEAVY = pytest.mark.timeout(60 + (LAST_WORDS + CANCELLED_STARTS + STDERR_MB + LINE_MB) / 10)

LONG = 300.0
MB = 1_000_000


# The way down.


async def test_a_child_that_ends_by_eof_has_never_been_sent_a_signal() -> None:
    """F1: it blocks them all, so not one could come and go unnoticed."""
    child = await start_ready(Config(cmd=command("recording"), eof_grace=LONG))
    assert (await child.stop()).phase is Phase.EOF
    assert child.stderr_tail == ("signals: ",)


async def test_a_child_that_is_sent_a_signal_would_tell() -> None:
    """F1, the counter-test: the signals of the next step are recorded."""
    child = await start_ready(Config(cmd=command("recording"), eof_grace=LONG))
    assert child.pid is not None
    os.kill(child.pid, signal.SIGTERM)
    await child.stop()
    assert child.stderr_tail == (f"signals: {int(signal.SIGTERM)}",)


@pytest.mark.parametrize(("mode", "phase"), [("polite", Phase.TERM), ("stubborn", Phase.KILL)])
async def test_a_stopped_child_costs_its_graces_and_nothing_more(mode: str, phase: Phase) -> None:
    """F2: continued, the polite one ends by its EOF; SIGKILL needs no continuing."""
    stop_grace = LONG if phase is Phase.TERM else 0.01
    child = await start_ready(
        Config(cmd=command(mode), eof_grace=0.01, stop_grace=stop_grace, kill_grace=LONG)
    )
    await _stop_process(child)
    assert (await child.stop()).phase is phase


async def _stop_process(child: Child) -> None:
    pid = child.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    await wait_until(lambda: is_stopped(pid))


@pytest.mark.parametrize(
    "wrapper",
    [
        ("sh", "-c", '"$@"; true', "sh"),
        ("sh", "-c", 'sh -c \'"$@"; true\' sh "$@"; true', "sh"),
        ("timeout", "100"),
    ],
    ids=["sh", "sh-in-sh", "timeout"],
)
async def test_a_server_behind_a_wrapper_ends_like_one_that_is_not(wrapper: tuple[str, ...]) -> None:
    """F4: the first two do not pass signals on, the third makes a group of its own if it can."""
    tag = new_tag()
    # By nothing but its group: the other levels would kill what the signal did not reach.
    config = Config(
        cmd=[*wrapper, *command("deaf", tag)],
        eof_grace=0,
        stop_grace=LONG,
        orphans="leave",
        containment="group",
        warden=False,
    )
    child = await start_ready(config)
    assert (await child.stop()).phase is Phase.TERM
    await gone(tag)


async def test_a_stop_that_is_cancelled_after_the_exit_waits_for_the_last_grace_only() -> None:
    """F30: in DRAIN, where nobody is left to be killed."""
    tag = new_tag()
    config = Config(
        cmd=command("escaping-wrapper", tag), eof_grace=LONG, drain_grace=0.2, orphans="leave", warden=False
    )
    child = await start(config)
    escapee = int(await ready_line(child))
    stopping = asyncio.ensure_future(child.stop())
    await child.exited.wait()
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert child.exit_status() == ExitStatus(code=0, signal=None, phase=Phase.EOF, pipes_held=True)
    os.kill(escapee, signal.SIGKILL)
    await gone(tag)


# Children that cannot be killed, or not be signalled.


@pytest.fixture
def freezer() -> Iterator[Path]:
    """Return a control group of version 1, in which processes can be frozen: not even SIGKILL ends them."""
    folder = Path("/sys/fs/cgroup/freezer") / f"test-{uuid4().hex}"
    try:
        folder.mkdir()
    except OSError as exc:
        pytest.skip(f"needs a freezer (cgroup v1) and the right to use it: {exc.strerror}")
    yield folder
    folder.rmdir()


def _freeze(folder: Path, state: str) -> None:
    (folder / "freezer.state").write_text(state)


async def test_a_child_that_no_signal_can_end_is_reported_in_time_and_collected_when_it_ends(
    freezer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """F13, with a real one. Without a freezer there is the played one, in virtual time."""
    child = await start_ready(
        Config(cmd=command("polite"), eof_grace=0.01, stop_grace=0.01, kill_grace=0.05, drain_grace=0.05)
    )
    pid = child.pid
    assert pid is not None
    (freezer / "cgroup.procs").write_text(str(pid))
    _freeze(freezer, "FROZEN")
    try:
        await wait_until(lambda: state_of(pid) == "D")
        status = await child.stop()
        assert status.phase is Phase.UNKILLABLE
        assert (child.pid, child.exited.is_set(), is_alive(pid)) == (pid, False, True)
    finally:
        _freeze(freezer, "THAWED")
    await wait_until(lambda: child.pid is None, what="late end")
    assert pid not in children_of(os.getpid())
    assert caplog.records[-1].getMessage() == "child.reaped_late"
    assert await child.stop() == status
    await wait_until(lambda: not (freezer / "cgroup.procs").read_text())


async def test_a_child_in_state_d_does_not_act_on_sigterm_but_can_be_killed(tmp_path: Path) -> None:
    """F14: it waits in the kernel for a program that it starts."""
    program = _copy_of("true", tmp_path)
    with leased(program, LONG) as being_started:
        child = await start_ready(Config(cmd=command("start-leased", program), eof_grace=0, stop_grace=LONG))
        pid = child.pid
        assert pid is not None
        await asyncio.to_thread(being_started)
        await wait_until(lambda: state_of(pid) == "D")
        stopping = asyncio.ensure_future(child.stop())
        await wait_until(lambda: signal.SIGTERM in _pending_signals(pid))
        assert (state_of(pid), child.stderr_tail) == ("D", ())
        status = await child.stop(stop_grace=0)
        assert await stopping == status == ExitStatus(code=None, signal=signal.SIGKILL, phase=Phase.KILL)


def _pending_signals(pid: int) -> set[signal.Signals | int]:
    found = re.search(r"ShdPnd:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return {number for number in signal.valid_signals() if int(found[1], 16) >> (number - 1) & 1}


def _copy_of(program: str, folder: Path) -> Path:
    copy = folder / program
    shutil.copy(shutil.which(program) or "", copy)
    return copy


@pytest.mark.skipif(sys.version_info < (3, 11, 4), reason="Python before 3.11.4 stands still meanwhile")
async def test_while_a_start_hangs_other_children_are_served_and_stopped(tmp_path: Path) -> None:
    """F15."""
    program = _copy_of("cat", tmp_path)
    other = await start_ready(Config(cmd=command("echo"), eof_grace=LONG))
    with leased(program, LONG) as being_started:
        starting = asyncio.ensure_future(start(Config(cmd=[program])))
        await asyncio.to_thread(being_started)
        for number in range(100):
            await other.stdin.send(b"%d" % number)
            assert await other.stdout.receive() == b"%d" % number
        assert (await other.stop()).phase is Phase.EOF
        assert not starting.done()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    await wait_until(lambda: not children_of(os.getpid()), what="end of what was being started")


@pytest.fixture
def foreign_python() -> Iterator[str]:
    """Return a Python that is set-uid: the user "nobody" may run it, but then it is not his process."""
    if os.geteuid() != 0 or not _nobody_may_run(PYTHON):
        pytest.skip("needs root, and a Python 3.11 that another user may run")
    # Not in `tmp_path`, where he may not enter. And nobody but him may, to become "daemon".
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, NOBODY, -1)
        copy = Path(folder, "python")
        shutil.copy(Path(PYTHON).resolve(), copy)
        os.chown(copy, DAEMON, -1)
        copy.chmod(0o4711)
        yield str(copy)


PYTHON, DAEMON, NOBODY = "/usr/bin/python3", 1, 65534


def _nobody_may_run(python: str) -> bool:
    usable = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    return Path(python).exists() and subprocess.run(usable, user=NOBODY, check=False).returncode == 0


async def test_a_child_that_may_not_be_signalled_is_reported_and_not_asked_again_and_again(
    foreign_python: str,
) -> None:
    """F34, with a real one: set-uid, as sudo is."""
    tag = new_tag()
    result = run(
        """
        import logging
        steps = []
        logging.getLogger("stdio_broker.supervisor.child").addFilter(
            lambda record: steps.append(getattr(record, "step", None))
        )

        async def main():
            child = await ready(await start(Config(
                cmd=command, eof_grace=0.01, stop_grace=0.05, kill_grace=0.05, drain_grace=0.05, warden=False
            )))
            status = await child.stop()
            print(status.phase.value, *filter(None, steps))

        asyncio.run(main())
        """,
        foreign_python,
        *command("foreign", tag)[1:],
        python=PYTHON,
        user=NOBODY,
    )
    try:
        assert result.stdout == "unkillable term kill\n", result.stderr
        assert len(find_tagged(tag)) == 1
    finally:
        for pid in find_tagged(tag):
            os.kill(pid, signal.SIGKILL)
    await gone(tag)


# Numbers that were used before.


@pytest.mark.parametrize(("watch", "user"), [("pidfd", None), ("thread", None), ("pidfd", NOBODY)])
def test_nothing_that_is_done_to_an_ended_child_hits_a_stranger_with_its_number(
    watch: str, user: int | None
) -> None:
    """F12, in a pid namespace of its own, where nobody else takes numbers: not even root is needed."""
    if user is not None and (os.geteuid() != 0 or not _nobody_may_run(PYTHON)):
        pytest.skip("needs root, and a Python 3.11 that another user may run")
    namespace = ["unshare", "-Urpf", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"], check=False, user=user).returncode:
        pytest.skip("needs a system that lets this user have a pid namespace")
    result = run(
        f"""
        if os.getpid() != 1:
            os.execvp({namespace[0]!r}, [*{namespace}, sys.executable, *sys.orig_argv[1:]])

        import subprocess
        from stdio_broker.supervisor import child as child_module, spawner, tree
        if {watch!r} == "thread":
            spawner._open_pidfd = lambda pid: None

        def start_under(pid, **options):
            with open("/proc/sys/kernel/ns_last_pid", "w") as file:
                file.write(str(pid - 1))
            stranger = subprocess.Popen(["sleep", "100"], **options)
            assert stranger.pid == pid, (stranger.pid, pid)
            return stranger

        async def main():
            ended = []
            for orphans in ("kill", "leave"):
                child = await start(Config(cmd=command, orphans=orphans, warden=False, containment="group"))
                ended.append((child, child.pid, child._tree))
                await child.wait()
            for child, pid, child_tree in ended:
                stranger = start_under(pid, process_group=0)
                member = subprocess.Popen(["sleep", "100"], process_group=pid)
                for leader_lives in (True, False):
                    await child.stop(eof_grace=0, stop_grace=0)
                    child._signal(child_tree.kill)
                    child._signal(child_tree.terminate)
                    tree._kill_at_exit()
                    assert not child_tree._watch.group_alive(closely=True)
                    assert member.poll() is None
                    assert not leader_lives or stranger.poll() is None
                    stranger.kill()
                    stranger.wait()
                member.kill()
                member.wait()

        asyncio.run(main())
        print("unharmed")
        """,
        "true",
        python=sys.executable if user is None else PYTHON,
        user=user,
    )
    assert (result.stdout, result.returncode) == ("unharmed\n", 0), result.stderr


# Starts that nobody waits for any more.


@types.coroutine
def _cancelled_at(turn: int, awaitable: Awaitable[T]) -> Generator[object, object, T]:
    """Await, and cancel the task in which this happens where it waits for the n-th time."""
    inner = awaitable.__await__()
    error: BaseException | None = None
    for number in itertools.count():
        try:
            waits_for: object = inner.throw(error) if error else inner.send(None)
        except StopIteration as done:
            break_with: T = done.value
            return break_with
        if number == turn:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        error = None
        try:
            yield waits_for
        except BaseException as exc:  # noqa: BLE001 - whatever it is, it is for the one who waits
            error = exc
    raise AssertionError


@pytest.mark.parametrize("containment", ["group", "auto", "shim"])
async def test_a_start_that_is_cancelled_wherever_it_waits_leaves_nothing(
    containment: Level, spawner: Spawner
) -> None:
    """F20: at every await point there is; the leak check sees what is left."""
    config = Config(cmd=["cat"], containment=containment)

    async def start_and_be_cancelled(supervisor: Supervisor, turn: int) -> Child:
        return await _cancelled_at(turn, supervisor.start(config))

    cancelled = 0
    async with Supervisor(spawner=spawner) as supervisor:
        while not supervisor.statistics().started:  # until it does not wait so often any more
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.ensure_future(start_and_be_cancelled(supervisor, cancelled))
            cancelled += 1
        assert supervisor.statistics() == SupervisorStatistics(running=1, started=1)
    assert cancelled > 1


@HEAVY
@pytest.mark.parametrize("containment", ["group", "auto", "shim"])
async def test_starts_that_are_cancelled_at_any_moment_leave_nothing(
    containment: Level, spawner: Spawner
) -> None:
    """F20: several at once, so that each may also be waiting for its turn."""
    chance = random.Random(20)  # noqa: S311 - no secret, and the same moments every time
    config = Config(cmd=["cat"], containment=containment)
    # A shim is an interpreter: it takes its time.
    longest, starts = (0.08, CANCELLED_STARTS // 10) if containment == "shim" else (0.01, CANCELLED_STARTS)
    outcomes: list[bool] = []

    async def start_some(amount: int) -> None:
        for _ in range(amount):
            child = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.uniform(0, longest)):
                    child = await start(config, spawner=spawner)
            outcomes.append(child is not None)
            if child is not None:
                await child.stop(eof_grace=0, stop_grace=0)

    await asyncio.gather(*(start_some(starts // 3) for _ in range(3)))
    assert False in outcomes, "no start was cancelled"


# Much data.


async def test_what_a_blocked_child_had_to_say_is_delivered_or_counted_to_the_last_line() -> None:
    """F23: 10 MB that nobody reads."""
    child = await start(Config(cmd=command("write", 1, 10 * MB), eof_grace=LONG))
    await wait_until(lambda: state_of(child.pid) == "S")
    status = await child.stop()
    assert (status.code, status.phase) == (0, Phase.EOF)
    delivered = len([line async for line in child.stdout])
    # Each is 15 bytes and a newline, and they come in blocks of 64 KiB.
    assert 16 * delivered + 16 * (status.stdout_discarded // 15) == -(-10 * MB // 65536) * 65536


async def test_a_stop_comes_to_its_end_though_both_pipes_are_full() -> None:
    """F24, with 10 MB each way, and a child that never reads: EOF cannot reach it, SIGTERM can."""
    child = await start_ready(
        Config(cmd=command("deadlock"), flush_grace=0.01, eof_grace=LONG, stop_grace=LONG)
    )
    await child.stdin.send(b"x" * 10 * MB)
    await _stop_process(child)
    status = await child.stop(eof_grace=0.05)
    # Continued, it may still have read some: it was not waited for.
    assert status.phase in {Phase.EOF, Phase.TERM}
    assert 0 < status.stdin_dropped < 10 * MB


@contextlib.contextmanager
def _memory_growth() -> Iterator[Callable[[], int]]:
    """Yield a function that says by how many bytes our memory has been larger, at most, than now."""
    try:
        # Forget the peak so far; see proc(5).
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("needs a system that tells the peak of the memory of a process")
    before = _peak_memory()
    yield lambda: _peak_memory() - before


def _peak_memory() -> int:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


async def _long_line(size: int, max_line_bytes: int) -> tuple[float, int]:
    """Receive a line of so many bytes, and the one behind it; return CPU seconds and memory."""
    began = time.process_time()
    with _memory_growth() as growth:
        config = Config(cmd=command("write-one-line", 1, size), max_line_bytes=max_line_bytes)
        child = await start(config)
        if size > max_line_bytes:
            with pytest.raises(LineTooLong, match=f"a line of {size} bytes exceeds the limit"):
                await child.stdout.receive()
        else:
            assert len(await child.stdout.receive()) == size
        assert await child.stdout.receive() == b"next"
        with pytest.raises(EndOfOutput):
            await child.stdout.receive()
        assert (await child.wait()).code == 0
        return time.process_time() - began, growth()


@HEAVY
async def test_a_line_of_100_mb_over_the_limit_costs_little_memory_and_no_other_line() -> None:
    """F25."""
    _, memory = await _long_line(LINE_MB * MB, 1 * MB)
    assert memory < 16 * MB


@HEAVY
async def test_a_line_of_100_mb_within_the_limit_costs_its_length_and_linear_time() -> None:
    """F25. Joined once; the python-sdk's way would take 16 times as long for 4 times as much."""
    short, _ = await _long_line(LINE_MB * MB // 4, LINE_MB * MB)
    long, memory = await _long_line(LINE_MB * MB, LINE_MB * MB)
    assert memory < 2.5 * LINE_MB * MB
    assert long < 10 * max(short, 0.01)


@HEAVY
async def test_stderr_without_an_end_costs_bounded_memory_and_never_blocks_the_child() -> None:
    """F27: 1 GB by hand. Nobody asks the child to end, so it ends because all was taken."""
    size = STDERR_MB * MB
    pieces: list[int] = []
    with _memory_growth() as growth:
        child = await start(
            Config(
                cmd=["sh", "-c", f"exec head -c {size} /dev/zero >&2"],
                on_stderr=lambda piece: pieces.append(len(piece)),
            )
        )
        assert await child.wait() == ExitStatus(code=0, signal=None, phase=Phase.SELF)
        assert sum(pieces) == size
        assert max(pieces) == 65536
        assert growth() < 32 * MB
    assert set("".join(child.stderr_tail)) == {"\0"}


async def test_a_callback_that_stands_still_blocks_the_child_and_loses_nothing_but_time() -> None:
    """F27: it stops our event loop, and so all that reads; the child waits, and then goes on."""
    stood_still: list[bool] = []

    def callback(_: str) -> None:
        if not stood_still:
            # It writes more than its pipe takes, so in the end it is asleep.
            deadline = time.monotonic() + 20
            while state_of(child.pid) != "S" and time.monotonic() < deadline:
                pass
            stood_still.append(state_of(child.pid) == "S")

    child = await start(Config(cmd=command("burst", 50_000), on_stderr=callback))
    status = await child.wait()
    assert stood_still == [True]
    assert (status.code, status.phase) == (0, Phase.SELF)
    assert child.stderr_tail[-1] == "line 49999"


@HEAVY
async def test_the_last_words_of_a_child_are_never_lost() -> None:
    """F27, F33: written right before the exit, without a newline, on both pipes; 10,000 times by hand."""
    # As fast as a program can be gone, and nothing that slows its end.
    says = ["sh", "-c", "printf 'first\\nanswer %s' $0; printf 'first\\ncrash %s' $0 >&2; exit $1"]

    async def listen(numbers: Iterator[int]) -> None:
        for number in numbers:
            code = number % 256
            heard: list[str] = []
            config = Config(
                cmd=[*says, str(number), str(code)],
                on_stderr=heard.append,
                containment="group",
                warden=False,
            )
            child = await start(config)
            assert (await child.wait()).code == code
            assert heard == ["first", f"crash {number}"]
            assert [line async for line in child.stdout] == [b"first", b"answer %d" % number]

    # A few at once, which share the numbers among them.
    numbers = iter(range(LAST_WORDS))
    await asyncio.gather(*(listen(numbers) for _ in range(4)))
    assert next(numbers, None) is None


# How it ended, as the kernel says it.

#: What ends a program that does nothing about it (signal(7)).
FATAL = sorted(
    signal.valid_signals()
    - {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
    - {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
)


async def test_every_fatal_signal_is_told_from_every_exit_code(tmp_path: Path) -> None:
    """F33: a shell says 128 + n for both. Every exit code is among the last words."""
    # Not by the program itself: the C library keeps some signals from its programs.
    async with Supervisor() as supervisor:
        for number in FATAL:
            child = await supervisor.start(Config(cmd=["cat"], cwd=tmp_path, eof_grace=LONG))
            assert child.pid is not None
            os.kill(child.pid, number)
            status = await child.wait()
            assert (status.code, status.signal, status.phase) == (None, number, Phase.SELF)


@pytest.mark.parametrize("limit", ["0", "unlimited"])
async def test_whether_a_core_was_dumped_is_what_the_kernel_says(limit: str, tmp_path: Path) -> None:
    """F33. It depends on the machine; so the same program is asked about in the plainest way there is."""
    program = ["sh", "-c", f"ulimit -c {limit} && kill -ABRT $$"]
    plain = os.posix_spawnp("sh", ["sh", "-c", f"cd '{tmp_path}' && {program[2]}"], os.environ)
    _, expected = os.waitpid(plain, 0)
    child = await start(Config(cmd=program, cwd=tmp_path))
    status = await child.wait()
    if not os.WIFSIGNALED(expected):
        pytest.skip("this machine does not let a program raise its limit on core files")
    assert (status.signal, status.core) == (signal.SIGABRT, os.WCOREDUMP(expected))


# What the program was started with.


async def test_eight_threads_that_start_children_at_once_give_them_nothing_of_each_other() -> None:
    """F32, with descriptors lying around that a careless library made inheritable."""
    careless = os.pipe()
    spawners = [Spawner() for _ in range(8)]
    try:
        for fd in careless:
            os.set_inheritable(fd, True)  # noqa: FBT003 - the function has no keyword
        children = await asyncio.gather(
            *(start(Config(cmd=command("descriptors")), spawner=spawner) for spawner in spawners * 3)
        )
        for child in children:
            assert await child.stdout.receive() == b"0 1 2"
            await child.wait()
    finally:
        for spawner in spawners:
            spawner.close()
        for fd in careless:
            os.close(fd)


def test_what_nohup_ignores_is_not_ignored_in_children() -> None:
    """F31, for real: a program that goes on when its terminal is gone has children that may be hung up."""
    result = run(
        """
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            os.execvp("nohup", ["nohup", sys.executable, *sys.orig_argv[1:]])
        drop_inherited_ignores()

        async def main():
            child = await ready(await start(config))
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(child.pid, signal.SIGHUP)
            print(await child.wait())

        asyncio.run(main())
        """,
        *command("deaf"),
    )
    assert result.stdout == "ended by SIGHUP\n", result.stderr


# The table.

#: These have each kind of descendant, at each level that holds everybody.
DESCENDANTS = [
    "test_containment::test_who_a_child_leaves_behind_is_gone_when_it_is_done",
    "test_containment::test_who_a_stopped_child_leaves_behind_is_gone_when_it_is_done",
    "test_containment::test_who_belongs_to_a_child_that_is_killed_is_gone_when_it_is_done",
]

#: Each fault, and the tests that would find a child that cannot stand it.
FAULTS = {
    "F1: a server that knows only EOF gets no signal": [
        "test_child::test_a_polite_child_ends_by_eof_and_never_gets_a_signal",
        "test_faults::test_a_child_that_ends_by_eof_has_never_been_sent_a_signal",
    ],
    "F2: a stopped server": [
        "test_child::test_a_stopped_child_ends_by_sigterm_because_it_is_continued",
        "test_faults::test_a_stopped_child_costs_its_graces_and_nothing_more",
        "test_warden::test_a_stopped_child_gets_its_sigterm_because_it_is_continued",
    ],
    "F3: a server that ignores EOF": [
        "test_child::test_a_child_that_ignores_eof_ends_by_sigterm",
        "test_child::test_a_child_that_ignores_sigterm_is_killed",
    ],
    "F4: a server behind a wrapper": [
        "test_child::test_the_child_of_a_wrapper_is_stopped_with_it",
        "test_child::test_the_stubborn_child_of_a_wrapper_is_killed_with_it",
        "test_faults::test_a_server_behind_a_wrapper_ends_like_one_that_is_not",
    ],
    "F5: a wrapper that goes, and leaves its server": [
        "test_child::test_what_a_wrapper_leaves_in_its_group_is_killed_when_it_ends_politely",
        "test_child::test_orphans_may_be_left_alone",
        "test_child_in_virtual_time::test_members_of_the_group_that_outlive_the_kill_grace_are_reported",
        *DESCENDANTS,
    ],
    "F6: a server that has left the group": DESCENDANTS,
    "F7: a server that has forked twice": [
        *DESCENDANTS,
        "test_containment::test_a_level_that_holds_only_the_group_does_not_know_the_bare_daemon",
    ],
    "F8: a hydra": DESCENDANTS,
    "F9: the broker is killed": [
        "test_killed::test_a_program_that_is_killed_takes_its_children_with_it",
        "test_killed::test_a_hundred_children_of_every_kind_are_gone_after_the_graces",
    ],
    "F10: its warden is killed before": [
        "test_killed::test_that_its_warden_was_killed_before_makes_no_difference",
        "test_warden::test_a_warden_that_dies_is_replaced_and_told_everything_again",
    ],
    "F11: the broker is killed while it starts a child": [
        "test_killed::test_the_moment_around_the_start_of_a_process_is_covered_too",
        "test_warden::test_a_child_that_was_announced_and_not_yet_handed_over_is_found_by_its_mark",
    ],
    "F12: the number of a child becomes a stranger's": [
        "test_exit_watch::test_a_stranger_with_the_same_number_is_never_signalled",
        "test_faults::test_nothing_that_is_done_to_an_ended_child_hits_a_stranger_with_its_number",
        "test_warden::test_a_number_that_became_a_strangers_between_two_looks_is_not_signalled",
    ],
    "F13: a child that cannot be killed": [
        (
            "test_child_in_virtual_time::"
            "test_a_child_that_survives_sigkill_is_reported_and_collected_when_it_ends_after_all"
        ),
        "test_faults::test_a_child_that_no_signal_can_end_is_reported_in_time_and_collected_when_it_ends",
        "test_containment::test_who_outlives_sigkill_is_reported_and_the_child_is_done_nevertheless",
    ],
    "F14: a child in state D that can be killed": [
        "test_faults::test_a_child_in_state_d_does_not_act_on_sigterm_but_can_be_killed",
    ],
    "F15: an exec that hangs, or fails": [
        "test_spawner::test_a_slow_exec_does_not_stall_the_event_loop_and_its_start_can_be_cancelled",
        "test_faults::test_while_a_start_hangs_other_children_are_served_and_stopped",
        "test_spawner::test_a_start_that_fails_says_why_and_what_to_change",
        "test_spawner::test_a_bad_working_directory_is_not_mistaken_for_a_bad_program",
        "test_spawner::test_arguments_that_are_too_long_for_the_system_are_explained",
        "test_spawner::test_a_program_that_is_being_written_is_explained",
        "test_config::test_a_nul_in_the_command_is_refused",
        "test_config::test_a_nul_in_a_value_is_refused_without_showing_the_value",
        "test_config::test_a_name_that_no_variable_can_have_is_refused",
    ],
    "F16: any one descriptor cannot be had": [
        "test_descriptor_exhaustion::test_each_descriptor_that_cannot_be_had_fails_the_start_and_leaks_none",
    ],
    "F17: the pidfd cannot be had": [
        "test_spawner::test_a_pidfd_that_cannot_be_had_now_fails_the_start_and_leaves_no_process",
        "test_spawner::test_a_system_without_pidfds_starts_without_one",
        (
            "test_descriptor_exhaustion::"
            "test_a_pidfd_whose_place_somebody_else_has_taken_fails_the_start_and_leaves_no_process"
        ),
    ],
    "F18: no process can be had": [
        "test_spawner::test_a_machine_that_is_full_is_explained",
        "test_capacity::test_a_user_who_may_have_no_more_processes_gets_the_same_error_from_the_kernel",
    ],
    "F19: no thread can be had": [
        "test_child::test_a_child_that_no_thread_can_be_had_to_watch_is_not_left_behind",
        "test_child::test_a_child_that_no_thread_can_be_had_to_start_is_explained",
        "test_capacity::test_each_thread_or_process_that_cannot_be_had_fails_the_start_and_leaves_nothing",
    ],
    "F20: a start is cancelled": [
        "test_faults::test_a_start_that_is_cancelled_wherever_it_waits_leaves_nothing",
        "test_faults::test_starts_that_are_cancelled_at_any_moment_leave_nothing",
        "test_spawner::test_a_start_that_is_cancelled_when_it_has_succeeded_leaves_no_process",
        "test_spawner::test_a_start_that_is_cancelled_before_its_turn_starts_nothing",
        "test_supervisor::test_a_start_that_is_cancelled_while_it_is_closed_leaves_no_child",
    ],
    "F21: whoever started it is cancelled later": [
        "test_child::test_cancelling_who_started_a_child_leaves_it_alone",
        "test_child::test_cancelling_who_waits_leaves_the_child_alone",
    ],
    "F22: a stop with much to write to a child that does not read": [
        "test_child::test_a_child_that_does_not_read_gets_its_eof_after_the_flush_grace",
        "test_pipes::test_closing_gives_the_child_eof_at_once_and_counts_what_it_drops",
    ],
    "F23: a stop of a child that is blocked writing": [
        "test_child::test_a_child_that_is_blocked_writing_can_end_by_eof_because_its_output_is_drained",
        "test_faults::test_what_a_blocked_child_had_to_say_is_delivered_or_counted_to_the_last_line",
    ],
    "F24: both at once": [
        "test_child::test_a_child_that_reads_nothing_before_everything_is_written_does_not_deadlock",
        "test_faults::test_a_stop_comes_to_its_end_though_both_pipes_are_full",
    ],
    "F25: a line of 100 MB": [
        "test_faults::test_a_line_of_100_mb_over_the_limit_costs_little_memory_and_no_other_line",
        "test_faults::test_a_line_of_100_mb_within_the_limit_costs_its_length_and_linear_time",
        "test_splitter::test_a_long_line_costs_in_proportion_to_its_length",
    ],
    "F26: lines of any bytes, in any pieces": [
        "test_child::test_bytes_are_passed_on_as_they_are",
        "test_splitter::test_lines_may_arrive_byte_by_byte",
        "test_splitter::test_lines_do_not_depend_on_chunk_boundaries",
        "test_splitter::test_a_line_is_kept_up_to_the_limit_exactly",
        "test_pipes::test_lines_come_in_order_and_the_last_one_needs_no_newline",
    ],
    "F27: stderr without an end, and whoever listens to it": [
        "test_faults::test_stderr_without_an_end_costs_bounded_memory_and_never_blocks_the_child",
        "test_faults::test_a_callback_that_stands_still_blocks_the_child_and_loses_nothing_but_time",
        "test_faults::test_the_last_words_of_a_child_are_never_lost",
        "test_child::test_everything_written_before_an_exit_is_delivered_before_done",
        "test_child::test_a_stderr_callback_may_stop_the_child",
        "test_pipes::test_a_callback_that_raises_is_logged_and_gets_the_next_line",
        "test_pipes::test_a_slow_callback_never_stops_the_reading_and_loses_the_oldest_lines",
    ],
    "F28: somebody who escaped holds the pipes": [
        "test_child::test_a_descendant_that_escaped_and_holds_the_pipes_delays_the_end_by_a_grace_only",
        "test_child::test_a_descendant_that_escaped_and_never_stops_writing_does_not_keep_us",
        "test_child_in_virtual_time::test_held_pipes_cost_the_drain_grace_and_are_reported",
    ],
    "F29: a child closes its pipes and lives on": [
        "test_child::test_a_child_that_closes_its_stdout_lives_on",
        "test_child::test_a_child_that_closes_its_stdin_lives_on",
        "test_child::test_a_child_that_closes_everything_lives_on",
    ],
    "F30: stops from everywhere, at any time": [
        "test_child::test_many_callers_share_one_way_down_and_the_shortest_graces_win",
        "test_child::test_a_stop_that_is_cancelled_kills_at_once",
        "test_child::test_stopping_a_child_that_has_ended_returns_how_it_ended",
        "test_child_in_virtual_time::test_cancelling_in_any_step_kills_in_that_moment",
        "test_child_in_virtual_time::test_the_phase_is_the_step_at_which_it_ended",
        "test_faults::test_a_stop_that_is_cancelled_after_the_exit_waits_for_the_last_grace_only",
        "test_supervisor::test_a_child_that_is_being_started_while_it_is_closed_is_ended_and_refused",
        "test_restart::test_stopping_all_during_a_start_ends_the_loop_and_the_child",
    ],
    "F31: signals that the broker blocks or ignores": [
        "test_spawner::test_signals_that_we_block_are_not_blocked_in_the_child",
        "test_process::test_what_the_program_ignores_is_not_ignored_in_its_children_once_it_has_said_so",
        "test_process::test_with_sigchld_ignored_the_exit_status_is_unknown_and_nobody_waits_for_ever",
        "test_faults::test_what_nohup_ignores_is_not_ignored_in_children",
    ],
    "F32: descriptors of the broker, and of other children": [
        "test_spawner::test_the_child_has_exactly_three_descriptors_whatever_we_have_open",
        "test_faults::test_eight_threads_that_start_children_at_once_give_them_nothing_of_each_other",
    ],
    "F33: every exit code, every fatal signal, and a leader that only looks dead": [
        "test_faults::test_the_last_words_of_a_child_are_never_lost",
        "test_faults::test_every_fatal_signal_is_told_from_every_exit_code",
        "test_faults::test_whether_a_core_was_dumped_is_what_the_kernel_says",
        "test_child::test_a_process_whose_main_thread_has_ended_still_runs",
    ],
    "F34: a set-uid child": [
        "test_faults::test_a_child_that_may_not_be_signalled_is_reported_and_not_asked_again_and_again",
        "test_child_in_virtual_time::test_a_child_that_may_not_be_signalled_ends_when_it_wants_to",
    ],
    "F35: the loop, or the program, ends first": [
        "test_process::test_when_the_loop_is_shut_down_living_children_are_killed_and_reaped",
        "test_process::test_control_c_ends_a_program_and_its_children",
        "test_process::test_an_exit_right_behind_the_start_leaves_no_child",
        "test_process::test_a_loop_that_is_closed_over_a_living_child_ends_it_when_it_is_collected",
        "test_process::test_a_program_that_ends_without_stopping_its_children_kills_them",
        "test_killed::test_a_program_that_is_killed_takes_its_children_with_it",
        "test_spawner::test_a_start_on_a_loop_that_is_closed_meanwhile_leaves_nothing",
    ],
    "F36: the broker forks": [
        "test_process::test_a_forked_copy_of_the_program_may_end_in_any_way_and_start_children_of_its_own",
        "test_process::test_a_process_made_by_fork_leaves_the_children_of_its_parent_alone",
        "test_killed::test_a_forked_copy_of_the_program_does_not_keep_its_children_alive",
    ],
    "F37: a thousand children": [
        "test_scale::test_a_thousand_children_cost_descriptors_and_little_else",
        "test_scale::test_a_child_costs_little_memory",
        "test_scale::test_a_user_whose_pipes_have_become_small_is_served_like_any_other",
    ],
    "F38: a child that fails again and again": [
        "test_supervisor::test_a_restart_storm_ends_in_an_error_with_the_last_exit_status",
        "test_restart::test_it_opens_exactly_at_the_first_failure_beyond_the_intensity",
        "test_restart::test_the_backoff_is_drawn_from_nothing_to_a_bound_that_doubles",
    ],
    "F39: everything, in any order": [
        (
            "test_child_machine::"
            "test_whatever_happens_a_child_lives_by_the_table_and_its_end_is_bounded_and_complete"
        ),
        "test_child_in_virtual_time::test_every_end_is_bounded_complete_and_the_same_for_all",
    ],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_test_of_each_fault_exists(fault: str) -> None:
    assert FAULTS[fault]
    for name in FAULTS[fault]:
        module, _, test = name.partition("::")
        assert f"def {test}(" in (Path(__file__).parent / f"{module}.py").read_text(), name


def test_no_fault_is_forgotten() -> None:
    assert [fault.partition(":")[0] for fault in FAULTS] == [f"F{number}" for number in range(1, 40)]
