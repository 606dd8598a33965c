"""The test's side of a fake child, and that it stands for a real one in type and in time."""

import asyncio
import inspect
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from functools import wraps
from typing import ParamSpec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stdio_broker.supervisor import (
    Child,
    ChildGone,
    Config,
    EndOfOutput,
    ExitStatus,
    LineTooLong,
    LineWriter,
    NotExited,
    OversizeLine,
    Phase,
)
from stdio_broker.supervisor.lifecycle import State
from stdio_broker.testing import FakeChild, FakeStdin
from tests.supervisor.fakes import FakeProcess
from tests.supervisor.test_child_in_virtual_time import played
from tests.support.clock import run_in_virtual_time

P = ParamSpec("P")

EOF = None
TERM = signal.SIGTERM
KILL = signal.SIGKILL

GRACES = Config(
    cmd=["played"], flush_grace=0.5, eof_grace=2.0, stop_grace=5.0, kill_grace=3.0, drain_grace=0.25
)
TIGHT = Config(cmd=["fake"], stdin_buffer_bytes=10, stdout_buffer_bytes=100)


def virtual(test: Callable[P, Coroutine[object, object, None]]) -> Callable[P, None]:
    """Run an async test in virtual time."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_in_virtual_time(test(*args, **kwargs))

    return run


def now() -> float:
    return asyncio.get_running_loop().time()


# What it stands for.


async def test_it_is_a_child_to_code_that_takes_one() -> None:
    """Without a cast, under mypy's strict rules too: this file is checked by them."""

    async def ask(child: Child) -> bytes:
        await child.stdin.send(b"question")
        return await child.stdout.receive()

    child = FakeChild(answer=lambda _: [b"answer"])
    assert isinstance(child, Child)
    assert await ask(child) == b"answer"


def _public(of: type) -> set[str]:
    return {name for name in dir(of) if not name.startswith("_")}


def test_nothing_that_needs_a_process_is_inherited() -> None:
    """What is new in `Child` must be played, too: the slots that it would read are empty here."""
    inherited = _public(Child) - _public(object) - set(vars(FakeChild)) - set(FakeChild.__annotations__)
    # They are written in terms of the others.
    assert inherited == {"exited", "done", "wait", "exit_err"}
    assert _public(LineWriter) <= set(vars(FakeStdin))


@pytest.mark.parametrize(("fake", "real"), [(FakeChild, Child), (FakeStdin, LineWriter)])
def test_what_is_overridden_is_called_like_the_original(fake: type, real: type) -> None:
    functions = {name for name in _public(real) if inspect.isfunction(getattr(real, name))}
    assert functions
    for name in functions:
        assert inspect.signature(getattr(fake, name)) == inspect.signature(getattr(real, name)), name


async def test_it_says_whether_somebody_has_asked_it_to_end() -> None:
    left, stopped = FakeChild(), FakeChild()
    left.exit()
    await left.wait()
    await stopped.stop()
    assert (left.stop_requested, stopped.stop_requested) == (False, True)


async def test_nothing_private_has_a_name_of_the_original() -> None:
    """Else a change there could change something here, and nobody would expect it."""
    ours = {name for name in {*vars(FakeChild()), *vars(FakeChild)} if not name.startswith("__")}
    theirs = {name for name in dir(Child) if not name.startswith("__")}
    assert {name for name in ours & theirs if name.startswith("_")} == set()


async def test_its_pid_is_nobodys() -> None:
    """Code under test may send signals."""
    one, other = FakeChild(), FakeChild()
    assert one.pid != other.pid
    assert one.pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(one.pid, 0)


async def test_there_is_no_descriptor_to_give_away() -> None:
    child = FakeChild()
    assert {child.stdin.release(), child.stdout.release(), child.stderr.release()} == {-1}


# What the code under test has sent.


async def test_a_test_can_wait_for_each_line_and_look_at_all_of_them() -> None:
    child = FakeChild()
    hearing = asyncio.ensure_future(child.hears())
    await asyncio.sleep(0)
    assert not hearing.done()
    await child.stdin.send(b"one")
    await child.stdin.send(b"two")
    assert [await hearing, await child.hears()] == [b"one", b"two"]
    assert child.stdin.lines == [b"one", b"two"]


async def test_who_waits_for_a_line_that_cannot_come_is_told_so() -> None:
    """A test that would hang fails instead."""
    child = FakeChild()
    hearing = asyncio.ensure_future(child.hears())
    await asyncio.sleep(0)
    await child.stdin.send(b"last")
    child.stdin.close()
    assert await hearing == b"last"
    with pytest.raises(EOFError, match="no other line"):
        await child.hears()


async def test_a_full_stdin_makes_senders_wait_until_it_is_drained() -> None:
    child = FakeChild(TIGHT)
    child.stdin.fill()
    assert child.stdin.unwritten_bytes == 10
    assert not child.stdin.send_nowait(b"not now")
    senders = [asyncio.ensure_future(child.stdin.send(b"%d" % number)) for number in range(3)]
    await asyncio.sleep(0)
    assert child.stdin.lines == []
    child.stdin.drain()
    await asyncio.gather(*senders)
    assert child.stdin.lines == [b"0", b"1", b"2"]
    assert child.stdin.unwritten_bytes == 0


async def test_a_turn_that_is_cancelled_goes_to_the_next() -> None:
    child = FakeChild(TIGHT)
    child.stdin.fill()
    first, second = (asyncio.ensure_future(child.stdin.send(name)) for name in (b"first", b"second"))
    await asyncio.sleep(0)
    child.stdin.drain()
    first.cancel()  # it has been woken, but has not run
    async with asyncio.timeout(20):
        await second
    assert first.cancelled()
    assert child.stdin.lines == [b"second"]


async def test_closing_a_full_stdin_loses_what_filled_it() -> None:
    child = FakeChild(TIGHT)
    child.stdin.fill()
    waiting = asyncio.ensure_future(child.stdin.send(b"waits"))
    await asyncio.sleep(0)
    child.stdin.close()
    with pytest.raises(ChildGone):
        await waiting
    assert child.stdin.dropped_bytes == 10


async def test_a_child_that_does_not_read_takes_up_to_the_mark_and_notices_no_eof() -> None:
    child = FakeChild(TIGHT, reads=False)
    assert child.stdin.send_nowait(b"12345678")
    assert child.stdin.send_nowait(b"9")
    assert not child.stdin.send_nowait(b"")
    assert child.stdin.lines == []
    child.stdin.drain()
    assert child.stdin.lines == [b"12345678", b"9"]
    child.stdin.fill()
    child.stdin.close()
    await asyncio.sleep(0)
    assert not child.exited.is_set()
    child.stdin.drain()
    assert (await child.wait()).code == 0


async def test_a_child_takes_a_moment_to_act_on_eof() -> None:
    """Else code that closes stdin would find it gone in the same moment, which never happens."""
    child = FakeChild()
    child.stdin.close()
    assert not child.exited.is_set()
    assert (await child.wait()).phase is Phase.SELF


# What it says.


async def test_saying_something_waits_until_it_has_been_dealt_with() -> None:
    dealt_with: list[bytes] = []

    async def consume(child: Child) -> None:
        async for line in child.stdout:
            await asyncio.sleep(0)
            dealt_with.append(line)

    child = FakeChild()
    consuming = asyncio.ensure_future(consume(child))
    await child.says(b"one", b"two")
    assert dealt_with == [b"one", b"two"]
    await child.says(b"three")
    assert dealt_with == [b"one", b"two", b"three"]
    child.exit()
    await consuming


async def test_an_answer_may_be_any_number_of_lines() -> None:
    def answer(line: bytes) -> Iterator[bytes]:
        for number in range(int(line)):
            yield b"%d" % number

    child = FakeChild(answer=answer)
    for line in (b"0", b"3", b"1"):
        await child.stdin.send(line)
    assert await child.stdout.receive_many() == [b"0", b"1", b"2", b"0"]


async def test_what_an_answer_raises_comes_out_where_the_line_is_sent() -> None:
    def answer(_: bytes) -> list[bytes]:
        raise LookupError("an expectation of the test")

    child = FakeChild(answer=answer)
    with pytest.raises(LookupError):
        await child.stdin.send(b"line")
    with pytest.raises(LookupError):
        child.stdin.send_nowait(b"line")


async def test_what_an_answer_raises_during_a_stop_comes_out_of_the_stop() -> None:
    def answer(line: bytes) -> list[bytes]:
        if line == b"last":
            raise LookupError("an expectation of the test")
        return [b"x" * 200, b"and more"]

    child = FakeChild(TIGHT, answer=answer)
    assert child.stdin.send_nowait(b"first")
    assert child.stdout.blocked
    assert child.stdin.send_nowait(b"last")
    for ask in (child.stop, child.wait):
        with pytest.raises(LookupError):
            await ask()
    assert (child.state, child.pid) == (State.ABANDONED, None)


async def test_a_line_with_a_newline_is_no_line() -> None:
    child = FakeChild()
    with pytest.raises(ValueError, match="newline"):
        child.stdout.feed(b"one", b"two\n")
    child.stdout.end()
    with pytest.raises(EndOfOutput):
        await child.stdout.receive()


@pytest.mark.parametrize(
    "say",
    [
        lambda child: child.stdout.feed(b"late"),
        lambda child: child.stdout.write(b"late"),
        lambda child: child.stdout.feed(OversizeLine(5, b"l", b"e")),
        lambda child: child.stderr.feed("late"),
    ],
)
async def test_a_child_that_has_ended_says_nothing(say: Callable[[FakeChild], None]) -> None:
    """A process could not either: it is a mistake of the test."""
    child = FakeChild()
    child.exit()
    with pytest.raises(RuntimeError, match="has ended"):
        say(child)


async def test_the_rest_of_a_line_may_come_later() -> None:
    child = FakeChild()
    receiving = asyncio.ensure_future(child.stdout.receive())
    child.stdout.write(b"half a ")
    await asyncio.sleep(0)
    assert not receiving.done()
    child.stdout.write(b"line\n")
    assert await receiving == b"half a line"


async def test_a_remark_about_a_line_that_was_too_long_needs_no_such_line() -> None:
    """What is left of 70 MB, without 70 MB. It has its place among the others, blocked or not."""
    over = OversizeLine(70_000_000, b"head", b"tail")
    child = FakeChild(TIGHT)
    child.stdout.feed(b"x" * 200, b"before", over, b"after")
    assert child.stdout.blocked
    assert [await child.stdout.receive() for _ in range(2)] == [b"x" * 200, b"before"]
    with pytest.raises(LineTooLong) as caught:
        await child.stdout.receive()
    assert caught.value.length == 70_000_000
    assert await child.stdout.receive_many() == [b"after"]


async def test_output_that_was_closed_under_back_pressure_ends_behind_what_was_said() -> None:
    child = FakeChild(TIGHT)
    child.stdout.feed(b"x" * 200, b"last")
    child.stdout.end()
    assert not child.stdout.ended
    assert [line async for line in child.stdout] == [b"x" * 200, b"last"]


async def test_what_it_says_on_stderr_is_kept_and_passed_on() -> None:
    lines: list[str] = []
    child = FakeChild(Config(cmd=["fake"], on_stderr=lines.append))
    child.stderr.feed("one", "two")
    child.stderr.write(b"unfinished")
    assert " ".join(child.stderr_tail) == "one two"
    child.exit()
    await child.wait()
    assert lines == ["one", "two", "unfinished"]
    assert " ".join(child.stderr_tail) == "one two unfinished"


# How it ends.


@virtual
async def test_a_stubborn_child_costs_every_grace_and_gets_every_signal() -> None:
    child = FakeChild(GRACES, ignores_eof=True, ignores_sigterm=True)
    assert await child.stop() == ExitStatus(code=None, signal=KILL, phase=Phase.KILL)
    assert now() == pytest.approx(2.0 + 5.0)
    assert child.signals == [TERM, signal.SIGCONT, KILL]


@virtual
async def test_a_polite_child_costs_nothing_and_gets_no_signal() -> None:
    child = FakeChild(GRACES, eof_code=4)
    assert await child.stop() == ExitStatus(code=4, signal=None, phase=Phase.EOF)
    assert now() == 0
    assert child.signals == []


@virtual
async def test_a_child_that_survives_sigkill_is_reported_and_collected_when_it_ends_after_all() -> None:
    child = FakeChild(GRACES, ignores_eof=True, ignores_sigterm=True, ignores_sigkill=True)
    status = await child.stop()
    assert status == ExitStatus(code=None, signal=None, phase=Phase.UNKILLABLE, pipes_held=True)
    assert now() == pytest.approx(2.0 + 5.0 + 3.0 + 0.25)
    assert (child.state, child.exited.is_set(), child.pid is None) == (State.UNKILLABLE, False, False)
    child.exit()
    assert (child.state, child.exited.is_set(), child.pid is None) == (State.DONE, True, True)
    assert await child.stop() == status


async def test_an_exit_tells_what_it_was_told_to_except_what_can_be_seen() -> None:
    """What no fake can play can be said: a core dump, a pipe that is held, survivors."""
    child = FakeChild(reads=False)
    assert child.stdin.send_nowait(b"line")
    child.exit(
        ExitStatus(
            code=None,
            signal=11,
            core=True,
            pipes_held=True,
            survivors=True,
            phase=Phase.KILL,
            stdout_discarded=7,
        )
    )
    assert await child.wait() == ExitStatus(
        code=None, signal=11, core=True, pipes_held=True, survivors=True, stdin_dropped=5
    )


async def test_it_ends_only_once() -> None:
    child = FakeChild()
    child.exit(ExitStatus(code=1, signal=None))
    child.exit(ExitStatus(code=2, signal=None))
    assert (await child.wait()).code == 1


async def test_it_is_not_done_in_the_moment_in_which_it_exits() -> None:
    """Between the two its last output is delivered."""
    child = FakeChild()
    child.exit()
    assert child.exited.is_set()
    assert not child.done.is_set()
    assert child.pid is not None
    with pytest.raises(NotExited):
        child.exit_status()
    await child.wait()


@virtual
async def test_orphans_that_shall_be_left_are_not_swept() -> None:
    child = FakeChild(Config(cmd=["fake"], orphans="leave"))
    assert (await child.stop()).code == 0
    assert child.state is State.DONE


def test_a_loop_that_is_shut_down_ends_a_stop_by_force() -> None:
    """As that of a real one: `asyncio.run` cancels every task."""
    children: list[FakeChild] = []

    async def main() -> None:
        children.append(FakeChild(ignores_eof=True, ignores_sigterm=True))
        stopping = asyncio.ensure_future(children[0].stop())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert children[0].state is State.EOF
        assert not stopping.done()

    asyncio.run(main())
    assert children[0].exit_status().phase is Phase.KILL
    assert (children[0].state, children[0].pid) == (State.ABANDONED, None)


def test_a_loop_that_is_shut_down_before_the_first_step_leaves_nobody_waiting() -> None:
    children: list[FakeChild] = []

    async def main() -> None:
        children.append(FakeChild())
        children[0].exit()
        (task,) = asyncio.all_tasks() - {asyncio.current_task()}
        task.cancel()

    asyncio.run(main())
    assert children[0].done.is_set()
    assert children[0].exit_status() == ExitStatus(code=None, signal=None, phase=Phase.KILL)
    assert children[0].state is State.ABANDONED


# Beside a real one, whose process is played.

SECONDS = st.floats(0, 8, allow_nan=False).map(lambda seconds: round(seconds, 2))
GRACE = st.one_of(st.none(), SECONDS)


@settings(max_examples=100)
@given(
    ignored=st.sets(st.sampled_from([EOF, TERM, KILL])),
    exits_at=GRACE,
    orphans=st.sampled_from(["kill", "leave"]),
    reads=st.booleans(),
    stops=st.lists(st.tuples(SECONDS, GRACE, GRACE, GRACE), min_size=1, max_size=4),
)
def test_it_ends_as_a_real_one_does_and_at_the_same_time(
    *,
    ignored: set[signal.Signals | None],
    exits_at: float | None,
    orphans: str,
    reads: bool,
    stops: list[tuple[float, float | None, float | None, float | None]],
) -> None:
    """Whoever stops it when, with whichever graces, and gives up.

    The odd fractions keep two things from happening at the same time: which is first then is chance.
    """
    config = Config(
        cmd=["played"],
        flush_grace=0.5,
        eof_grace=2.0,
        stop_grace=5.0,
        kill_grace=3.0,
        drain_grace=0.25,
        orphans="leave" if orphans == "leave" else "kill",
    )

    async def stop(
        child: Child, after: float, eof_grace: float | None, stop_grace: float | None, patience: float | None
    ) -> tuple[ExitStatus | None, float]:
        await asyncio.sleep(after)
        try:
            async with asyncio.timeout(patience):
                return await child.stop(eof_grace=eof_grace, stop_grace=stop_grace), round(now(), 6)
        except TimeoutError:
            return None, round(now(), 6)

    async def course(child: Child, leave: Callable[[], None]) -> list[object]:
        """Tell what the callers saw and when, and what is left."""
        if exits_at is not None:
            asyncio.get_running_loop().call_later(exits_at + 0.001, leave)
        requests = [
            (after + number * 0.0001, eof_grace, stop_grace, None if patience is None else patience + 0.003)
            for number, (after, eof_grace, stop_grace, patience) in enumerate(stops)
        ]
        seen: list[object] = [*await asyncio.gather(*(stop(child, *request) for request in requests))]
        return [*seen, child.exit_status(), child.state, child.pid is None, child.exited.is_set()]

    async def of_a_real_one() -> tuple[list[object], list[signal.Signals]]:
        reactions = {cause: 0.0 for cause in (EOF, TERM, KILL) if cause not in ignored}
        process = FakeProcess(reactions, reads=reads)
        async with played(process, config) as child:
            seen = await course(child, lambda: process.exit(1))
            return seen, process.signals

    async def of_a_fake_one() -> tuple[list[object], list[signal.Signals]]:
        child = FakeChild(
            config,
            reads=reads,
            ignores_eof=EOF in ignored,
            ignores_sigterm=TERM in ignored,
            ignores_sigkill=KILL in ignored,
        )
        seen = await course(child, lambda: child.exit(ExitStatus(code=1, signal=None)))
        return seen, child.signals

    fake, fake_signals = run_in_virtual_time(of_a_fake_one())
    real, real_signals = run_in_virtual_time(of_a_real_one())
    assert fake == real
    # SIGKILL goes to the rest of the group, too, when the child is gone. The phase tells if it got one.
    assert [number for number in fake_signals if number != KILL] == [
        number for number in real_signals if number != KILL
    ]
