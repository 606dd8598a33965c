"""The life of a child, with real processes: what only the kernel can show.

What is about time alone stands in `test_child_in_virtual_time.py`. Here a grace is either next to
nothing, or so long that a test which used it up would fail by the time limit of the suite.
"""

import asyncio
import errno
import logging
import os
import signal
from collections.abc import Callable
from typing import cast

import pytest

from stdio_broker.supervisor import (
    Child,
    ChildExitError,
    ChildGone,
    Config,
    ExitStatus,
    LineTooLong,
    NotExited,
    Phase,
    SpawnError,
    start,
)
from stdio_broker.supervisor import child as child_module
from stdio_broker.supervisor import spawner as spawner_module
from tests.supervisor.children import (
    NO_SIGNALS,
    SIGNAL_MASKS,
    command,
    gone,
    new_tag,
    ready_line,
    start_ready,
    state_of,
)
from tests.support.processes import children_of, find_tagged, is_alive, is_stopped, wait_until

pytestmark = [pytest.mark.both_loops, pytest.mark.usefixtures("each_watch")]

LONG = 300.0
PIPE_CAPACITY = 65536


def patient(
    mode: str,
    *arguments: object,
    flush_grace: float = LONG,
    eof_grace: float = LONG,
    stop_grace: float = LONG,
    on_stderr: Callable[[str], None] | None = None,
) -> Config:
    """Return a configuration in which every step of the way down that is needed takes for ever."""
    return Config(
        cmd=command(mode, *arguments),
        flush_grace=flush_grace,
        eof_grace=eof_grace,
        stop_grace=stop_grace,
        on_stderr=on_stderr,
    )


# The way down.


async def test_a_polite_child_ends_by_eof_and_never_gets_a_signal() -> None:
    """F1. The seed sent SIGTERM with the EOF: work in flight was cut (its bug 4)."""
    child = await start_ready(patient("polite"))
    assert await child.stop() == ExitStatus(code=0, signal=None, phase=Phase.EOF)
    assert child.stderr_tail == ("got EOF",)
    assert child.exit_err() is None


async def test_a_child_that_ignores_eof_ends_by_sigterm() -> None:
    """F3."""
    child = await start_ready(patient("deaf", eof_grace=0.01))
    assert await child.stop() == ExitStatus(code=None, signal=signal.SIGTERM, phase=Phase.TERM)
    assert child.exit_err() is None


async def test_a_child_may_end_with_a_code_of_its_own_at_sigterm() -> None:
    child = await start_ready(patient("graceful", eof_grace=0))
    assert await child.stop() == ExitStatus(code=7, signal=None, phase=Phase.TERM)
    assert child.exit_err() is None


async def test_a_child_that_ignores_sigterm_is_killed() -> None:
    child = await start_ready(patient("stubborn", eof_grace=0, stop_grace=0.01))
    assert await child.stop() == ExitStatus(code=None, signal=signal.SIGKILL, phase=Phase.KILL)
    error = child.exit_err()
    assert isinstance(error, ChildExitError)
    assert str(error) == "the child ended by SIGKILL"
    assert (error.code, error.signal) == (None, signal.SIGKILL)


async def test_no_graces_at_all_kill_at_once() -> None:
    """The seed could not express that (its bug 16)."""
    child = await start_ready(patient("stubborn"))
    status = await child.stop(eof_grace=0, stop_grace=0)
    assert status == ExitStatus(code=None, signal=signal.SIGKILL, phase=Phase.KILL)


async def test_a_stopped_child_ends_by_sigterm_because_it_is_continued() -> None:
    """F2: SIGTERM alone waits until somebody continues it (systemd does both; the SDKs do not)."""
    child = await start_ready(patient("deaf", eof_grace=0))
    assert child.pid is not None
    os.kill(child.pid, signal.SIGSTOP)
    await wait_until(lambda: state_of(child.pid) == "T")
    assert (await child.stop()).phase is Phase.TERM


async def test_accepted_lines_reach_the_child_before_its_eof() -> None:
    child = await start_ready(patient("count"))
    await child.stdin.send(b"x" * 999_999)
    assert child.stdin.unwritten_bytes > 0
    status = await child.stop()
    assert await child.stdout.receive() == b"1000000"
    assert status == ExitStatus(code=0, signal=None, phase=Phase.EOF)


async def test_a_child_that_does_not_read_gets_its_eof_after_the_flush_grace() -> None:
    """F22. In asyncio, closing stdin with unsent data never reaches the child."""
    child = await start_ready(patient("polite", flush_grace=0.01))
    assert child.pid is not None
    stopped = child.pid
    os.kill(stopped, signal.SIGSTOP)
    await wait_until(lambda: is_stopped(stopped))
    await child.stdin.send(b"x" * 9_999_999)
    stopping = asyncio.ensure_future(child.stop())
    await wait_until(lambda: child.stdin.closed)
    os.kill(child.pid, signal.SIGCONT)
    status = await stopping
    assert status.phase is Phase.EOF
    assert status.stdin_dropped == 10_000_000 - PIPE_CAPACITY
    with pytest.raises(ChildGone):
        await child.stdin.send(b"late")


async def test_a_child_that_is_blocked_writing_can_end_by_eof_because_its_output_is_drained() -> None:
    """F23. Undrained it could not see EOF, nor handle SIGTERM: the seed always killed it (its bug 12)."""
    child = await start(patient("write", 1, 2_000_000))
    await wait_until(lambda: child.stdout.discarded_bytes == 0 and state_of(child.pid) == "S")
    status = await child.stop()
    assert (status.code, status.phase) == (0, Phase.EOF)
    assert status.stdout_discarded > 1_000_000
    assert len(await child.stdout.receive()) == 15


async def test_a_child_that_reads_nothing_before_everything_is_written_does_not_deadlock() -> None:
    """F24: both pipes are full."""
    child = await start_ready(patient("deadlock"))
    await child.stdin.send(b"x" * 5_000_000)
    status = await child.stop()
    assert (status.code, status.phase, status.stdin_dropped) == (0, Phase.EOF, 0)


# Who may stop it, how often and when.


async def test_stopping_twice_is_stopping_once() -> None:
    """S7."""
    child = await start_ready(patient("polite"))
    assert await child.stop() == await child.stop() == await child.wait() == child.exit_status()
    assert child.stderr_tail == ("got EOF",)


async def test_many_callers_share_one_way_down_and_the_shortest_graces_win() -> None:
    """F30. In the seed the first caller decided, and the others waited for it (its bug 8)."""
    child = await start_ready(patient("stubborn"))
    statuses = await asyncio.gather(
        *(child.stop(eof_grace=number / 100, stop_grace=number / 100) for number in reversed(range(50)))
    )
    assert set(statuses) == {ExitStatus(code=None, signal=signal.SIGKILL, phase=Phase.KILL)}


async def test_a_later_caller_hurries_an_earlier_one() -> None:
    child = await start_ready(patient("stubborn"))
    first = asyncio.ensure_future(child.stop())
    await wait_until(lambda: child.stdin.closed)
    assert (await child.stop(eof_grace=0, stop_grace=0)).phase is Phase.KILL
    assert (await first).phase is Phase.KILL


async def test_stopping_a_child_that_has_ended_returns_how_it_ended() -> None:
    child = await start(patient("leave", 3))
    status = await child.wait()
    assert await child.stop(eof_grace=0) == status == ExitStatus(code=3, signal=None, phase=Phase.SELF)


async def test_a_grace_that_is_no_length_of_time_is_refused_and_the_child_lives() -> None:
    child = await start_ready(patient("polite"))
    with pytest.raises(ValueError, match="eof_grace: expected seconds"):
        await child.stop(eof_grace=-1)
    with pytest.raises(ValueError, match="stop_grace: expected seconds"):
        await child.stop(stop_grace=float("nan"))
    assert not child.stdin.closed
    await child.stop()


async def _in_flush(child: Child) -> None:
    await asyncio.sleep(0)
    assert child.stdin.unwritten_bytes > 0


async def _in_eof(child: Child) -> None:
    await wait_until(lambda: child.stdin.closed)


async def _in_term(child: Child) -> None:
    await wait_until(lambda: child.stderr_tail == ("got SIGTERM",))


@pytest.mark.parametrize(
    ("eof_grace", "unread", "reached"),
    [(LONG, 1_000_000, _in_flush), (LONG, 0, _in_eof), (0, 0, _in_term)],
)
async def test_a_stop_that_is_cancelled_kills_at_once(
    eof_grace: float, unread: int, reached: Callable[[Child], "asyncio.Future[None]"]
) -> None:
    """F30: in every step; whoever cancels a stop has no time left."""
    child = await start_ready(patient("noting-stubborn", eof_grace=eof_grace, flush_grace=eof_grace))
    if unread:
        await child.stdin.send(b"x" * unread)
    stopping = asyncio.ensure_future(child.stop())
    await reached(child)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert child.done.is_set()
    assert child.exit_status().phase is Phase.KILL


async def test_of_several_callers_one_that_is_cancelled_hurries_all() -> None:
    child = await start_ready(patient("stubborn"))
    impatient, other = (asyncio.ensure_future(child.stop()) for _ in range(2))
    await _in_eof(child)
    impatient.cancel()
    assert (await other).phase is Phase.KILL
    with pytest.raises(asyncio.CancelledError):
        await impatient


async def test_a_stop_that_is_cancelled_twice_does_not_wait_for_the_end() -> None:
    child = await start_ready(patient("stubborn"))
    stopping = asyncio.ensure_future(child.stop())
    await _in_eof(child)
    stopping.cancel()
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert (await child.wait()).phase is Phase.KILL


async def test_cancelling_who_started_a_child_leaves_it_alone() -> None:
    """F21. The seed bound the child to the context of its start: a request killed the server (its bug 1)."""
    children: list[Child] = []

    async def request() -> None:
        children.append(await start(patient("echo")))
        await asyncio.Event().wait()

    task = asyncio.ensure_future(request())
    await wait_until(lambda: bool(children))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (child,) = children
    await ready_line(child)
    await child.stdin.send(b"still here")
    assert await child.stdout.receive() == b"still here"
    await child.stop()


async def test_cancelling_who_waits_leaves_the_child_alone() -> None:
    child = await start_ready(patient("polite"))
    waiting = asyncio.ensure_future(child.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await child.stop()).phase is Phase.EOF


async def test_it_says_whether_somebody_has_asked_it_to_end() -> None:
    left = await start(patient("leave", 0))
    await left.wait()
    stopped = await start_ready(patient("polite"))
    await stopped.stop()
    assert (left.stop_requested, stopped.stop_requested) == (False, True)


async def test_as_a_context_manager_it_is_stopped_at_the_end() -> None:
    with pytest.raises(RuntimeError, match="mine"):
        async with await start(patient("polite")) as child:
            await ready_line(child)
            raise RuntimeError("mine")
    assert child.exit_status().phase is Phase.EOF


async def test_a_stderr_callback_may_stop_the_child() -> None:
    """F27, F30."""
    stops: list[asyncio.Task[ExitStatus]] = []
    lines: list[str] = []

    def callback(line: str) -> None:
        lines.append(line)
        stops.append(asyncio.get_running_loop().create_task(child.stop()))

    child = await start(patient("say-bytes", 2, "one\\n", "two\\n", on_stderr=callback))
    status = await child.wait()
    assert lines == ["one", "two"]
    assert {await stop for stop in stops} == {status}


# Its descendants.


async def test_the_child_of_a_wrapper_is_stopped_with_it() -> None:
    """F4: npx, uvx and `sh -c` do not pass signals on, and the seed signalled only them (its bug 5)."""
    tag = new_tag()
    child = await start(patient("wrapper", tag, "deaf-member", eof_grace=0))
    await ready_line(child)
    assert (await child.stop()).phase is Phase.TERM
    await gone(tag)


async def test_the_stubborn_child_of_a_wrapper_is_killed_with_it() -> None:
    tag = new_tag()
    child = await start(patient("wrapper", tag, "member", eof_grace=0, stop_grace=0.01))
    await ready_line(child)
    await child.stop()
    await gone(tag)


async def test_what_a_wrapper_leaves_in_its_group_is_killed_when_it_ends_politely() -> None:
    """F5. The python-sdk leaves it."""
    tag = new_tag()
    child = await start(patient("leaving-wrapper", tag))
    await ready_line(child)
    status = await child.stop()
    assert status == ExitStatus(code=0, signal=None, phase=Phase.EOF)
    await gone(tag)


async def test_done_means_that_the_group_is_gone(each_watch: str) -> None:
    """Where it can be told at all: without a pidfd only the kill is certain."""
    tag = new_tag()
    child = await start(patient("leaving-wrapper", tag))
    await ready_line(child)
    await child.stop()
    assert each_watch == "thread" or not find_tagged(tag)
    await gone(tag)


async def test_orphans_may_be_left_alone() -> None:
    """F5."""
    tag = new_tag()
    child = await start(Config(cmd=command("leaving-wrapper", tag), orphans="leave", drain_grace=0.01))
    orphan = int(await ready_line(child))
    status = await child.stop()
    assert status == ExitStatus(code=0, signal=None, phase=Phase.EOF, pipes_held=True)
    assert find_tagged(tag) == {orphan}
    os.kill(orphan, signal.SIGKILL)
    await gone(tag)


def _unhunted(*arguments: object) -> Config:
    """Return a child that nothing but its process group holds together."""
    return Config(
        cmd=command(*map(str, arguments)),
        eof_grace=LONG,
        drain_grace=0.05,
        containment="group",
        warden=False,
    )


async def test_a_descendant_that_escaped_and_holds_the_pipes_delays_the_end_by_a_grace_only() -> None:
    """F28. The wait() of asyncio hangs until it lets go."""
    tag = new_tag()
    child = await start(_unhunted("escaping-wrapper", tag))
    escapee = int(await ready_line(child))
    status = await child.stop()
    assert status == ExitStatus(code=0, signal=None, phase=Phase.EOF, pipes_held=True)
    assert find_tagged(tag) == {escapee}
    os.kill(escapee, signal.SIGKILL)
    await gone(tag)


async def test_a_descendant_that_escaped_and_never_stops_writing_does_not_keep_us() -> None:
    tag = new_tag()
    child = await start(_unhunted("talking-wrapper", tag))
    escapee = int(await ready_line(child))
    status = await child.stop()
    assert status.pipes_held
    assert is_alive(escapee) or not find_tagged(tag)
    await gone(tag)  # it got SIGPIPE, or EPIPE


# Its end by itself.


@pytest.mark.parametrize("code", [0, 1, 127, 255])
async def test_an_exit_code_is_reported_as_it_is(code: int) -> None:
    """F33."""
    child = await start(patient("leave", code))
    assert await child.wait() == ExitStatus(code=code, signal=None, phase=Phase.SELF)
    error = child.exit_err()
    if code == 0:
        assert error is None
    else:
        assert isinstance(error, ChildExitError)
        assert str(error) == f"the child exited with code {code}"


async def test_a_fatal_signal_is_reported_as_it_is() -> None:
    """F33."""
    child = await start(patient("die", int(signal.SIGABRT)))
    status = await child.wait()
    assert (status.code, status.signal, status.phase) == (None, signal.SIGABRT, Phase.SELF)
    assert str(child.exit_err()).startswith("the child ended by SIGABRT")


async def test_everything_written_before_an_exit_is_delivered_before_done() -> None:
    """F27: the seed closed the pipes under its readers, and lost the crash message (its bugs 2 and 3)."""
    lines: list[str] = []
    child = await start(patient("burst", 1000, on_stderr=lines.append))
    await child.wait()
    assert lines == [f"line {number}" for number in range(1000)]
    assert child.stderr_tail == tuple(lines[-64:])


async def test_output_that_nobody_has_read_survives_the_exit() -> None:
    """The last answers of a child that exits are answers."""
    child = await start(patient("say-bytes", 1, "one\\ntwo\\n", "three"))
    assert (await child.wait()).stdout_discarded == 0
    assert [line async for line in child.stdout] == [b"one", b"two", b"three"]


async def test_bytes_are_passed_on_as_they_are() -> None:
    """F26: NUL, CRLF and invalid UTF-8."""
    child = await start(patient("say-bytes", 1, "a\\0b\\r\\n", "\\xff", "\\xfe\\n", "\\n", "end"))
    assert [line async for line in child.stdout] == [b"a\0b\r", b"\xff\xfe", b"", b"end"]
    await child.wait()


async def test_before_the_end_there_is_no_exit_status() -> None:
    """The seed answered nil, which also means a clean exit (its bug 9)."""
    child = await start_ready(patient("polite"))
    for question in (child.exit_status, child.exit_err):
        with pytest.raises(NotExited):
            question()
    await child.stop()


async def test_the_pid_is_known_until_the_child_is_reaped_and_not_longer() -> None:
    """The seed handed out the stale number (its bug 15)."""
    child = await start_ready(patient("polite"))
    assert child.pid in children_of(os.getpid())
    await child.stop()
    assert child.pid is None


async def test_a_process_whose_main_thread_has_ended_still_runs() -> None:
    """F33: /proc says Z, but only the pidfd, or waitid, knows."""
    child = await start_ready(patient("zombie-leader"))
    assert state_of(child.pid) == "Z"
    assert not child.exited.is_set()
    assert await child.stop() == ExitStatus(code=3, signal=None, phase=Phase.EOF)


async def test_the_end_is_announced_once_and_to_whoever_started_it() -> None:
    announced: list[Child] = []
    child = await start(patient("leave", 0), on_done=announced.append)
    await child.wait()
    await child.stop()
    assert announced == [child]


# The three facts, each for itself: exit, end of output, stop.


async def test_a_child_that_closes_its_stdout_lives_on() -> None:
    """F29."""
    child = await start_ready(patient("close-stdout"))
    assert [line async for line in child.stdout] == []
    assert child.stdout.ended
    assert not child.exited.is_set()
    assert (await child.stop()).phase is Phase.EOF


async def test_a_child_that_closes_its_stdin_lives_on() -> None:
    """F29."""
    child = await start_ready(patient("close-stdin", eof_grace=0))
    await child.stdin.send(b"x")
    assert await child.stdout.receive() == b"closed"
    with pytest.raises(ChildGone):
        await child.stdin.send(b"y")
    assert not child.exited.is_set()
    assert (await child.stop()).phase is Phase.TERM


async def test_a_child_that_closes_everything_lives_on() -> None:
    """F29."""
    child = await start_ready(patient("close-everything", eof_grace=0))
    await wait_until(lambda: child.stdout.ended)
    assert not child.exited.is_set()
    assert (await child.stop()).phase is Phase.TERM


async def test_closing_stdin_asks_the_child_to_end_without_stopping_it() -> None:
    child = await start_ready(patient("leave-at-eof", 4))
    child.stdin.close()
    assert await child.wait() == ExitStatus(code=4, signal=None, phase=Phase.SELF)


# Its pipes, with a real partner.


async def test_a_long_line_goes_both_ways() -> None:
    child = await start_ready(patient("echo"))
    line = bytes(range(32, 127)) * 50_000
    await child.stdin.send(line)
    assert await child.stdout.receive() == line
    await child.stop()


async def test_output_above_the_limit_costs_one_line_and_bounded_memory() -> None:
    """F25."""
    child = await start(Config(cmd=command("write-one-line", 1, 20_000_000), max_line_bytes=1_000_000))
    with pytest.raises(LineTooLong) as caught:
        await child.stdout.receive()
    assert caught.value.length == 20_000_000
    assert await child.stdout.receive() == b"next"
    await child.wait()


async def test_stderr_without_a_newline_never_blocks_the_child() -> None:
    """F27."""
    child = await start(patient("write-one-line", 2, 20_000_000))
    assert (await child.wait()).code == 0
    assert child.stderr_tail[-1] == "next"


async def test_unread_output_blocks_the_child_and_nobody_else() -> None:
    child = await start(patient("write", 1, 2_000_000))
    await wait_until(lambda: state_of(child.pid) == "S")
    received = 0
    while received < 2_000_000:
        received += 16 * len(await child.stdout.receive_many())
    assert (await child.stop()).stdout_discarded == 0


# Starts that fail after the process is there.


async def test_a_child_that_no_thread_can_be_had_to_watch_is_not_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F19."""
    monkeypatch.setattr(child_module, "ThreadWatch", _refuse_thread)
    monkeypatch.setattr(spawner_module, "_open_pidfd", lambda _: None)
    with pytest.raises(SpawnError, match="refused what it takes to watch it: can't start new thread"):
        await start(patient("stubborn"))
    await wait_until(lambda: not children_of(os.getpid()))


async def test_a_child_that_no_thread_can_be_had_to_start_is_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F19."""
    monkeypatch.setattr(spawner_module, "_default", None)
    monkeypatch.setattr(spawner_module, "Spawner", _refuse_thread)
    with pytest.raises(SpawnError, match="the system refused a thread to start it: can't start new thread"):
        await start(patient("polite"))


def _refuse_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


async def test_a_child_that_has_no_room_in_the_selector_is_not_left_behind(
    each_watch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is a limit of epoll per user. What is registered must go before its number is somebody else's."""
    loop = asyncio.get_running_loop()
    for free in range(3 if each_watch == "pidfd" else 2):
        with monkeypatch.context() as patch:
            full = cast("asyncio.AbstractEventLoop", _FullLoop(loop, free))
            patch.setattr(asyncio, "get_running_loop", lambda full=full: full)
            with pytest.raises(SpawnError, match=r"refused what it takes to watch it: .* No space left"):
                await start(patient("stubborn"))
        await wait_until(lambda: not children_of(os.getpid()))
        # The numbers are used again, and the loop has forgotten what they were.
        await (await start_ready(patient("polite"))).stop()


class _FullLoop:
    """A loop that has room for some readers only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, free: int) -> None:
        self._loop = loop
        self._free = free

    def __getattr__(self, name: str) -> object:
        return getattr(self._loop, name)

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        if self._free == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._free -= 1
        self._loop.add_reader(fd, callback)


# What it was given.


async def test_its_environment_is_what_the_configuration_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """S10; the seed gave it everything (its bug 14)."""
    monkeypatch.setenv("BROKER_SECRET", "secret")
    monkeypatch.setenv("LANG", "C")
    child = await start(Config(cmd=command("environment"), env={"TOKEN": "mine", "HOME": None}))
    lines = [line async for line in child.stdout]
    await child.wait()
    names = {line.partition(b"=")[0].decode() for line in lines}
    assert b"TOKEN=mine" in lines
    assert "PATH" in names
    assert not {"BROKER_SECRET", "HOME"} & names


async def test_its_arguments_are_passed_on_as_they_are() -> None:
    values = ["", " ", "a b", "*", "$HOME", "ä", "\udcff", "'\""]
    child = await start(patient("arguments", *values))
    assert [line async for line in child.stdout] == [os.fsencode(value) for value in values]
    await child.wait()


async def test_its_directory_is_what_the_configuration_says(tmp_path: object) -> None:
    child = await start(Config(cmd=command("directory"), cwd=str(tmp_path)))
    assert await child.stdout.receive() == str(tmp_path).encode()
    await child.wait()


async def test_it_has_three_descriptors_and_no_blocked_signals() -> None:
    """F31, F32."""
    for cmd, expected in ((command("descriptors"), "0 1 2"), (SIGNAL_MASKS, NO_SIGNALS[0])):
        child = await start(Config(cmd=cmd))
        assert await child.stdout.receive() == expected.encode()
        await child.wait()


async def test_its_logs_tell_its_life_and_nothing_of_what_it_says(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="stdio_broker"):
        child = await start(patient("say-bytes", 2, "secret\\n"))
        pid = child.pid
        await child.wait()
        failing = await start(patient("leave", 3))
        await failing.wait()
    assert [(record.getMessage(), record.levelname) for record in caplog.records] == [
        ("child.started", "INFO"),
        ("child.exited", "INFO"),
        ("child.started", "INFO"),
        ("child.exited", "WARNING"),
    ]
    assert vars(caplog.records[1])["pid"] == pid
    assert "secret" not in caplog.text
