"""The way down as a matter of time alone: the process is played, and no second of it is waited for."""

import asyncio
import collections
import logging
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import ParamSpec, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stdio_broker.supervisor import Child, Config, EndOfOutput, ExitStatus, NotExited, Phase, start
from stdio_broker.supervisor import child as child_module
from stdio_broker.supervisor.exit_watch import Waited
from stdio_broker.supervisor.spawner import Spawner
from tests.supervisor.fakes import FakeProcess, FakeWatch
from tests.support.clock import run_in_virtual_time

P = ParamSpec("P")

EOF = None
TERM = signal.SIGTERM
CONT = signal.SIGCONT
KILL = signal.SIGKILL

GRACES = Config(
    cmd=["played"], flush_grace=0.5, eof_grace=2.0, stop_grace=5.0, kill_grace=3.0, drain_grace=0.25
)
LEAVING = Config(cmd=["played"], orphans="leave")


def virtual(test: Callable[P, Coroutine[object, object, None]]) -> Callable[P, None]:
    """Run an async test in virtual time."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_in_virtual_time(test(*args, **kwargs))

    return run


@asynccontextmanager
async def played(
    process: FakeProcess, config: Config = GRACES, on_done: Callable[[Child], None] | None = None
) -> AsyncIterator[Child]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child_module, "PidfdWatch", type("Watch", (FakeWatch,), {"process": process}))
        child = await start(config, spawner=cast("Spawner", process), on_done=on_done)
        try:
            yield child
        finally:
            process.refused = frozenset()
            process.reactions = {KILL: 0.0}
            await child.stop(eof_grace=0, stop_grace=0)
            process.exit(number=KILL)
            await asyncio.sleep(1)
            process.end()
            assert process.ours_open() == set()


def now() -> float:
    return asyncio.get_running_loop().time()


# How long each step takes.


@virtual
async def test_a_child_that_obeys_eof_takes_its_own_time_and_gets_no_signal_before_its_end() -> None:
    process = FakeProcess({EOF: 1.5})
    async with played(process) as child:
        assert await child.stop() == ExitStatus(code=0, signal=None, phase=Phase.EOF)
        assert now() == pytest.approx(1.5)
        # The last one is the sweep of the group.
        assert process.signals == [KILL]


@virtual
async def test_the_signals_come_in_order_each_after_its_grace() -> None:
    process = FakeProcess({KILL: 1.0})
    async with played(process) as child:
        times: list[tuple[float, signal.Signals]] = []
        get = process.get

        def timed(number: signal.Signals) -> bool:
            times.append((now(), number))
            return get(number)

        process.get = timed  # type: ignore[method-assign] # the time is what this test is about
        status = await child.stop()
        assert status == ExitStatus(code=None, signal=KILL, phase=Phase.KILL)
        assert times == [(2.0, TERM), (2.0, CONT), (7.0, KILL), (8.0, KILL)]


@virtual
async def test_the_worst_case_is_the_sum_of_all_graces() -> None:
    """Design, 4.3 rule 3. In the seed it was unbounded: it waited for ever after SIGKILL (its bug 7)."""
    process = FakeProcess(reads=False, holds_pipes=True)
    async with played(process) as child:
        await child.stdin.send(b"x" * 1_000_000)
        await child.stop()
        assert now() == pytest.approx(0.5 + 2.0 + 5.0 + 3.0 + 0.25)


@virtual
async def test_a_child_that_ends_while_lines_are_flushed_has_ended_by_itself() -> None:
    """Nobody has asked it for anything yet."""
    process = FakeProcess(reads=False)
    async with played(process) as child:
        await child.stdin.send(b"x" * 1_000_000)
        asyncio.get_running_loop().call_later(0.25, process.exit, 9)
        status = await child.stop()
        assert (status.code, status.phase) == (9, Phase.SELF)
        assert status.stdin_dropped > 0
        assert now() == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("exits_at", "phase"),
    [(1.9, Phase.EOF), (2.1, Phase.TERM), (6.9, Phase.TERM), (7.1, Phase.KILL), (9.9, Phase.KILL)],
)
@virtual
async def test_the_phase_is_the_step_at_which_it_ended(exits_at: float, phase: Phase) -> None:
    process = FakeProcess()
    async with played(process) as child:
        asyncio.get_running_loop().call_later(exits_at, process.exit, 1)
        assert await child.stop() == ExitStatus(code=1, signal=None, phase=phase)
        assert now() == pytest.approx(exits_at)


# Hurrying.


@virtual
async def test_a_later_caller_shortens_what_is_left_of_the_step() -> None:
    process = FakeProcess({TERM: 0.0})
    async with played(process) as child:
        first = asyncio.ensure_future(child.stop())
        await asyncio.sleep(1.0)
        await child.stop(eof_grace=1.5)
        assert now() == pytest.approx(1.5)
        assert (await first).phase is Phase.TERM


@virtual
async def test_a_grace_that_is_over_already_ends_the_step_at_once() -> None:
    process = FakeProcess({TERM: 0.0})
    async with played(process) as child:
        first = asyncio.ensure_future(child.stop())
        await asyncio.sleep(1.0)
        await child.stop(eof_grace=0.5)
        assert now() == pytest.approx(1.0)
        await first


@virtual
async def test_a_later_caller_cannot_lengthen_a_step() -> None:
    process = FakeProcess({TERM: 0.0})
    async with played(process) as child:
        first = asyncio.ensure_future(child.stop())
        await asyncio.sleep(1.0)
        await child.stop(eof_grace=100)
        assert now() == pytest.approx(2.0)
        await first


@pytest.mark.parametrize("cancelled_at", [0.1, 0.7, 3.0, 8.0])
@virtual
async def test_cancelling_in_any_step_kills_in_that_moment(cancelled_at: float) -> None:
    """In FLUSH, EOF, TERM and KILL; the seed's callers could not escalate (its bug 8)."""
    process = FakeProcess({KILL: 0.0} if cancelled_at < 7 else {}, reads=False)
    async with played(process) as child:
        await child.stdin.send(b"x" * 1_000_000)
        stopping = asyncio.ensure_future(child.stop())
        await asyncio.sleep(cancelled_at)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert KILL in process.signals
        if cancelled_at < 7:
            assert now() == pytest.approx(cancelled_at)
            assert child.exit_status().phase is Phase.KILL
        else:
            # SIGKILL was sent at 7.5; all that can be done is to wait for it, as long as that takes.
            assert now() == pytest.approx(0.5 + 2.0 + 5.0 + 3.0 + 0.25)
            assert child.exit_status().phase is Phase.UNKILLABLE


@virtual
async def test_no_graces_at_all_send_nothing_but_sigkill() -> None:
    """With SIGTERM in between, its end would depend on which signal is faster."""
    process = FakeProcess({TERM: 0.0, KILL: 0.0})
    async with played(process) as child:
        status = await child.stop(eof_grace=0, stop_grace=0)
        assert status == ExitStatus(code=None, signal=KILL, phase=Phase.KILL)
        assert process.signals == [KILL, KILL]


# Those that do not die.


@virtual
async def test_a_child_that_survives_sigkill_is_reported_and_collected_when_it_ends_after_all(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """F13: state D, for one."""
    process = FakeProcess()
    announced: list[Child] = []
    async with played(process, on_done=announced.append) as child:
        status = await child.stop()
        assert status == ExitStatus(code=None, signal=None, phase=Phase.UNKILLABLE, pipes_held=True)
        assert str(child.exit_err()) == "the child has not ended, although SIGKILL was sent"
        assert (child.pid, child.exited.is_set(), announced) == (1, False, [child])
        assert caplog.records[-1].levelno == logging.ERROR
        # Nothing of it is open but what tells of its end.
        assert len(process.ours_open()) == 1

        await asyncio.sleep(86_400)
        process.exit(number=KILL)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert process.reaped
        assert child.pid is None
        assert child.exited.is_set()
        assert process.ours_open() == set()
        assert (await child.stop(), announced) == (status, [child])
    assert [record.getMessage() for record in caplog.records] == ["child.exited", "child.reaped_late"]


@virtual
async def test_a_child_that_dies_of_sigkill_at_the_last_moment_is_not_reported_as_unkillable() -> None:
    """While its pipes were being drained."""
    process = FakeProcess({KILL: 3.1})
    async with played(process) as child:
        assert await child.stop() == ExitStatus(code=None, signal=KILL, phase=Phase.KILL)
        assert process.reaped


@virtual
async def test_a_child_that_may_not_be_signalled_ends_when_it_wants_to() -> None:
    """F34: set-uid. It is told so once per step, and the way down goes on."""
    process = FakeProcess({EOF: 4.0}, refused=frozenset({TERM, KILL}))
    async with played(process) as child:
        status = await child.stop()
        assert (status.code, status.phase) == (0, Phase.TERM)
        assert now() == pytest.approx(4.0)


@virtual
async def test_members_of_the_group_that_outlive_its_sweep_are_waited_for() -> None:
    process = FakeProcess({EOF: 0.0}, group_lives_for=0.5)
    async with played(process) as child:
        assert not (await child.stop()).survivors
        # Looked at after 1, 2, 4 … 64, 64 … milliseconds.
        assert 0.5 <= now() < 0.5 + 0.064


@virtual
async def test_members_of_the_group_that_outlive_the_kill_grace_are_reported() -> None:
    process = FakeProcess({EOF: 0.0}, group_lives_for=1000)
    async with played(process) as child:
        assert (await child.stop()).survivors
        assert 3.0 <= now() < 3.0 + 0.064


@virtual
async def test_a_group_that_shall_be_left_is_neither_swept_nor_waited_for() -> None:
    process = FakeProcess({EOF: 0.0}, group_lives_for=1000)
    async with played(process, LEAVING) as child:
        assert not (await child.stop()).survivors
        assert process.signals == []
        assert now() == 0


@virtual
async def test_a_zombie_is_looked_at_closely_only_after_a_while() -> None:
    """It costs a look at every process of the machine."""
    looks: list[tuple[float, bool]] = []
    process = FakeProcess({EOF: 0.0}, group_lives_for=1000)

    class Zombies(FakeWatch):
        def group_alive(self, *, closely: bool) -> bool:
            looks.append((now(), closely))
            return not closely

    Zombies.process = process
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child_module, "PidfdWatch", Zombies)
        child = await start(GRACES, spawner=cast("Spawner", process))
        assert not (await child.stop()).survivors
        process.end()
    assert [closely for _, closely in looks] == [False, False, False, False, True]
    assert looks[-1][0] == pytest.approx(0.015)


# Pipes that somebody holds.


@virtual
async def test_held_pipes_cost_the_drain_grace_and_are_reported() -> None:
    process = FakeProcess({EOF: 0.0}, holds_pipes=True)
    async with played(process) as child:
        assert (await child.stop()).pipes_held
        assert now() == pytest.approx(0.25)


@virtual
async def test_pipes_that_are_let_go_in_time_are_no_news() -> None:
    process = FakeProcess({EOF: 0.0}, holds_pipes=True)
    async with played(process) as child:
        asyncio.get_running_loop().call_later(0.1, process.let_go)
        assert not (await child.stop()).pipes_held
        assert now() == pytest.approx(0.1)


@virtual
async def test_a_slow_stderr_callback_is_not_mistaken_for_a_held_pipe() -> None:
    process = FakeProcess()
    async with played(process) as child:
        pump = child._stderr  # noqa: SLF001 - played: a callback that is behind
        pump._line(b"one")  # noqa: SLF001
        pump._delivering = True  # noqa: SLF001
        pump._backlog = collections.deque(["two"])  # noqa: SLF001
        patience = asyncio.get_running_loop().time()
        process.exit(0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(pump), "_deliver", lambda _: None)
            assert not (await child.wait()).pipes_held
        assert now() == pytest.approx(patience + 0.25)


# By itself.


@virtual
async def test_an_exit_by_itself_waits_for_no_grace() -> None:
    process = FakeProcess()
    async with played(process) as child:
        process.write(b"last words\n")
        process.exit(5)
        assert await child.wait() == ExitStatus(code=5, signal=None, phase=Phase.SELF)
        assert now() == 0
        assert await child.stdout.receive() == b"last words"
        assert process.signals == [KILL]


@virtual
async def test_an_exit_that_came_before_the_watch_is_an_exit() -> None:
    process = FakeProcess()
    process.exit(5)
    async with played(process) as child:
        assert (await child.wait()).code == 5


@virtual
async def test_when_its_task_is_cancelled_the_child_is_killed_and_the_end_seen_through() -> None:
    """The event loop is being shut down (`asyncio.run` cancels every task)."""
    process = FakeProcess({KILL: 1.0})
    async with played(process) as child:
        await asyncio.sleep(0)
        child._task.cancel()  # noqa: SLF001 - it is what asyncio.run does
        with pytest.raises(asyncio.CancelledError):
            await child._task  # noqa: SLF001
        assert child.exit_status() == ExitStatus(code=None, signal=KILL, phase=Phase.KILL)
        assert now() == pytest.approx(1.0)


@virtual
async def test_when_its_task_is_cancelled_during_the_drain_the_end_is_seen_through_too() -> None:
    process = FakeProcess(holds_pipes=True)
    async with played(process) as child:
        process.exit(0)
        await asyncio.sleep(0.1)
        child._task.cancel()  # noqa: SLF001 - as above
        assert (await child.wait()).pipes_held
        assert now() == pytest.approx(0.25)


@virtual
async def test_when_its_task_is_cancelled_before_its_first_step_the_child_is_given_to_the_spawner() -> None:
    """`sys.exit` right behind the start: a coroutine that has not begun cannot clean up."""
    process = FakeProcess()
    announced: list[Child] = []
    async with played(process, on_done=announced.append) as child:
        child._task.cancel()  # noqa: SLF001 - as above
        waiting = asyncio.ensure_future(child.wait())
        receiving = asyncio.ensure_future(child.stdout.receive())
        assert await waiting == ExitStatus(code=None, signal=None, phase=Phase.KILL)
        with pytest.raises(EndOfOutput):
            await receiving
        assert (child.pid, announced) == (None, [child])
        assert process.discarded
        assert process.ours_open() == set()
        # Its watch may still tell of its end: it is somebody else's to reap.
        process.exit(number=KILL)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not process.reaped


@virtual
async def test_a_mistake_of_ours_leaves_no_child_and_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    process = FakeProcess({EOF: 0.0})
    async with played(process) as child:
        process.reap = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
        assert await child.stop() == ExitStatus(code=None, signal=None, phase=Phase.KILL)
        assert process.ours_open() == set()
    assert caplog.records[-1].getMessage() == "child.abandoned"
    assert caplog.records[-1].exc_info is not None


# Anything, in any order.

SECONDS = st.floats(0, 8, allow_nan=False).map(lambda seconds: round(seconds, 2))
REACTION = st.one_of(st.none(), SECONDS)


@settings(max_examples=100)
@given(
    reactions=st.fixed_dictionaries({EOF: REACTION, TERM: REACTION, KILL: REACTION}),
    refused=st.sets(st.sampled_from([TERM, KILL])),
    holds_pipes=st.booleans(),
    lets_go_at=SECONDS,
    group_lives_for=SECONDS,
    exits_at=st.one_of(st.none(), SECONDS),
    reads=st.booleans(),
    stops=st.lists(st.tuples(SECONDS, REACTION, REACTION, REACTION), min_size=1, max_size=4),
)
def test_every_end_is_bounded_complete_and_the_same_for_all(
    reactions: dict[signal.Signals | None, float | None],
    refused: set[signal.Signals],
    *,
    holds_pipes: bool,
    lets_go_at: float,
    group_lives_for: float,
    exits_at: float | None,
    reads: bool,
    stops: list[tuple[float, float | None, float | None, float | None]],
) -> None:
    """F39. The played process itself refuses a signal or a second reaping once it is reaped."""
    process_reactions = {cause: delay for cause, delay in reactions.items() if delay is not None}

    async def stop(
        child: Child, after: float, eof_grace: float | None, stop_grace: float | None, patience: float | None
    ) -> ExitStatus | None:
        await asyncio.sleep(after)
        try:
            async with asyncio.timeout(patience):
                return await child.stop(eof_grace=eof_grace, stop_grace=stop_grace)
        except TimeoutError:
            assert child.done.is_set()
            return None

    async def main() -> None:
        loop = asyncio.get_running_loop()
        process = FakeProcess(
            process_reactions,
            reads=reads,
            holds_pipes=holds_pipes,
            group_lives_for=group_lives_for,
            refused=frozenset(refused),
        )
        reaped_when_done: list[bool] = []
        async with played(process, on_done=lambda _: reaped_when_done.append(process.reaped)) as child:
            loop.call_later(lets_go_at, process.let_go)
            if exits_at is not None:
                loop.call_later(exits_at, process.exit, 1)
            await child.stdin.send(b"x" * 200_000)
            with pytest.raises(NotExited):
                child.exit_status()
            first_stop = min(after for after, *_ in stops)
            statuses = set(await asyncio.gather(*(stop(child, *request) for request in stops)))
            finished = now()

            status = child.exit_status()
            assert statuses <= {status, None}
            last_stop = max(after for after, *_ in stops)
            # flush + eof + stop + kill + drain + the group, whose last look may come late.
            assert finished <= max(last_stop, first_stop + 0.5 + 2.0 + 5.0 + 3.0 + 0.25 + 3.0 + 0.07)
            assert child.done.is_set()
            assert child.stdin.closed
            assert child.stdout.ended
            with pytest.raises(EndOfOutput):
                await child.stdout.receive()
            # Later it may have been reaped after all.
            assert reaped_when_done == [status.phase is not Phase.UNKILLABLE]
            if process.reaped:
                assert child.pid is None
                assert process.ours_open() == set()
            if status.phase is not Phase.UNKILLABLE:
                assert process.waited == Waited(code=status.code, signal=status.signal, core=False)
            # In order, and SIGKILL a second time for the rest of the group.
            assert process.signals == sorted(process.signals, key=[TERM, CONT, KILL].index)
            assert process.signals.count(TERM) <= 1
            assert process.signals.count(KILL) <= 2
            assert status.ok == (status.code == 0 or status.phase in {Phase.EOF, Phase.TERM})

    run_in_virtual_time(main())
