"""When a child that failed may be started again; and how one is kept running, as a matter of time alone."""

import asyncio
import dataclasses
import math
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import aclosing, asynccontextmanager
from functools import wraps
from types import SimpleNamespace
from typing import Any, ParamSpec, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stdio_broker.supervisor import Child, Config, ExitStatus, Phase, SpawnError, Supervisor
from stdio_broker.supervisor import child as child_module
from stdio_broker.supervisor import supervisor as supervisor_module
from stdio_broker.supervisor.restart import (
    Attempt,
    Breaker,
    BreakerState,
    BreakerStatistics,
    RestartPolicy,
    RestartsExhausted,
)
from stdio_broker.supervisor.spawner import Spawned, Spawner
from tests.supervisor.fakes import FakeProcess, FakeWatch
from tests.support.clock import run_in_virtual_time

P = ParamSpec("P")

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN

#: Bears two failures within ten seconds.
POLICY = RestartPolicy(max_restarts=2, window=10.0, first_backoff=1.0, max_backoff=5.0, stable_after=4.0)
NO_MERCY = dataclasses.replace(POLICY, max_restarts=0)


def longest(_low: float, high: float) -> float:
    """Draw the longest back-off."""
    return high


def started(breaker: Breaker, now: float) -> Attempt:
    """Start what must be let through."""
    attempt = breaker.try_start(now)
    assert attempt is not None
    return attempt


def fail(breaker: Breaker, *times: float) -> None:
    """Start and fail at each of these times."""
    for now in times:
        breaker.failed(started(breaker, now), now, f"at {now:g}")


# The policy.


def test_the_default_policy_is_the_one_that_was_designed() -> None:
    """supervision.md, 4.2: intensity 3 in 60 s, back-off 0.1 to 30 s, stable after 30 s."""
    assert dataclasses.astuple(RestartPolicy()) == (3, 60.0, 0.1, 30.0, 30.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_restarts": -1}, "max_restarts: expected 0 or more, found -1"),
        ({"window": 0.0}, "window: expected seconds, more than 0, found 0.0"),
        ({"window": math.inf}, "window: expected seconds, more than 0, found inf"),
        ({"stable_after": -1.0}, "stable_after: expected seconds, more than 0, found -1.0"),
        ({"stable_after": math.nan}, "stable_after: expected seconds, more than 0, found nan"),
        ({"first_backoff": -0.1}, "first_backoff: expected seconds, 0 or more, found -0.1"),
        ({"max_backoff": math.nan}, "max_backoff: expected seconds, 0 or more, found nan"),
        ({"max_backoff": 0.05}, r"max_backoff: expected at least first_backoff \(0.1\), found 0.05"),
    ],
)
def test_a_value_that_is_out_of_range_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        RestartPolicy(**options)


def test_a_policy_without_waits_and_without_mercy_is_one_too() -> None:
    """OTP has no back-off, and an intensity of 0 is allowed there."""
    breaker = Breaker(RestartPolicy(max_restarts=0, first_backoff=0.0, max_backoff=0.0), uniform=longest)
    fail(breaker, 1.0)
    assert breaker.state is OPEN
    assert breaker.try_start(1.0) is not None


# The breaker.


def test_as_many_failures_as_the_policy_bears_change_nothing() -> None:
    breaker = Breaker(POLICY, uniform=longest)
    fail(breaker, 0.0, 1.0)
    assert breaker.statistics(1.0) == BreakerStatistics(CLOSED, 2, 0.0, "at 1")
    assert breaker.admits(1.0)


def test_one_failure_more_opens_it_until_the_backoff_is_over() -> None:
    breaker = Breaker(POLICY, uniform=longest)
    fail(breaker, 0.0, 1.0, 2.0)
    assert breaker.statistics(3.0) == BreakerStatistics(OPEN, 3, 3.0, "at 2")
    assert not breaker.admits(5.9)
    assert breaker.try_start(5.9) is None
    assert breaker.admits(6.0)


@pytest.mark.parametrize(("last", "state"), [(10.0, OPEN), (10.1, CLOSED)])
def test_a_failure_counts_as_long_as_the_window(last: float, state: BreakerState) -> None:
    breaker = Breaker(POLICY, uniform=longest)
    fail(breaker, 0.0, 5.0, last)
    assert breaker.state is state


def test_after_the_backoff_one_trial_is_let_through() -> None:
    breaker = Breaker(POLICY, uniform=longest)
    fail(breaker, 0.0, 0.0, 0.0)
    assert breaker.state is OPEN
    started(breaker, 4.0)
    assert breaker.statistics(4.0) == BreakerStatistics(HALF_OPEN, 3, 0.0, "at 0")
    assert not breaker.admits(100.0)
    assert breaker.try_start(100.0) is None


def test_a_trial_that_succeeds_closes_it_and_all_is_forgotten() -> None:
    breaker = Breaker(POLICY, uniform=longest)
    fail(breaker, 0.0, 0.0, 0.0)
    started(breaker, 4.0)
    assert breaker.succeeded()
    assert breaker.statistics(4.0) == BreakerStatistics(CLOSED, 0, 0.0, None)
    fail(breaker, 4.0, 4.0)
    assert breaker.state is CLOSED
    assert breaker.backoff(4.0) == 2.0  # the second one, as if there had been no others


def test_a_trial_that_fails_opens_it_for_longer_up_to_the_maximum() -> None:
    breaker = Breaker(POLICY, uniform=longest)
    fail(breaker, 0.0, 0.0, 0.0)
    waits = []
    now = 0.0
    for _ in range(3):
        waits.append(breaker.statistics(now).retry_after)
        now += waits[-1]
        assert not breaker.failed(started(breaker, now), now, "a trial")  # it was open before
    assert waits == [4.0, 5.0, 5.0]


def test_the_trial_fails_even_if_the_earlier_failures_are_past() -> None:
    """A back-off may be longer than the window."""
    breaker = Breaker(POLICY, uniform=longest)
    fail(breaker, 0.0, 0.0, 0.0, 100.0)
    assert breaker.statistics(100.0) == BreakerStatistics(OPEN, 1, 5.0, "at 100")


def test_an_abandoned_trial_lets_the_next_one_through() -> None:
    breaker = Breaker(POLICY, uniform=longest)
    fail(breaker, 0.0, 0.0, 0.0)
    trial = started(breaker, 4.0)
    breaker.abandoned(trial)
    assert breaker.state is OPEN
    assert breaker.try_start(4.0) is not None


def test_an_abandoned_start_changes_nothing_while_it_is_closed() -> None:
    breaker = Breaker(POLICY, uniform=longest)
    breaker.abandoned(started(breaker, 0.0))
    assert breaker.statistics(0.0) == BreakerStatistics(CLOSED, 0, 0.0, None)


def test_it_tells_once_that_it_opened_and_once_that_it_closed() -> None:
    breaker = Breaker(POLICY, uniform=longest)
    assert not breaker.succeeded()
    opened = [breaker.failed(started(breaker, 0.0), 0.0, "no") for _ in range(3)]
    assert opened == [False, False, True]
    assert breaker.succeeded()
    assert not breaker.succeeded()


def test_what_failed_of_the_storm_that_opened_it_does_not_count_again() -> None:
    """Eight may be started at once; each that fails must not make the wait longer."""
    breaker = Breaker(POLICY, uniform=longest)
    storm = [started(breaker, 0.0) for _ in range(5)]
    for attempt in storm[:4]:
        breaker.failed(attempt, 1.0, "no")
    assert breaker.statistics(1.0) == BreakerStatistics(OPEN, 3, 4.0, "no")
    started(breaker, 5.0)
    assert not breaker.failed(storm[4], 5.0, "late")
    assert breaker.statistics(5.0) == BreakerStatistics(HALF_OPEN, 3, 0.0, "no")
    breaker.abandoned(storm[4])
    assert breaker.state is HALF_OPEN


def test_a_slow_start_that_succeeds_after_all_closes_it() -> None:
    breaker = Breaker(POLICY, uniform=longest)
    started(breaker, 0.0)
    fail(breaker, 1.0, 1.0, 1.0)
    assert breaker.succeeded()
    assert breaker.admits(1.0)


def test_the_backoff_is_drawn_from_nothing_to_a_bound_that_doubles() -> None:
    """AWS, "Exponential Backoff and Jitter": full jitter."""
    draws: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        draws.append((low, high))
        return high / 4

    breaker = Breaker(dataclasses.replace(POLICY, max_restarts=9), uniform=draw)
    fail(breaker, *(float(second) for second in range(5)))
    assert draws == [(0.0, 1.0), (0.0, 2.0), (0.0, 4.0), (0.0, 5.0), (0.0, 5.0)]
    assert breaker.backoff(4.0) == 1.25
    assert breaker.backoff(100.0) == 0.0


def test_failing_for_ever_overflows_nothing() -> None:
    """2 ** 1024 is no float."""
    breaker = Breaker(RestartPolicy(max_restarts=1100, first_backoff=1e-3), uniform=longest)
    fail(breaker, *([0.0] * 1100))
    assert breaker.backoff(0.0) == 30.0


class Starts(RuleBasedStateMachine):
    """Any number of overlapping starts, each ending anyhow, beside a plain account of them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.draws: list[float] = []
        self.breaker = Breaker(POLICY, uniform=self.draw)
        self.fraction = 0.0
        self.running: list[tuple[Attempt, int, bool]] = []  # attempt, openings at its start, is a trial
        self.openings = 0
        self.failures: list[float] = []  # that count, since the last success
        self.before = CLOSED
        self.succeeding = False

    def draw(self, low: float, high: float) -> float:
        assert low == 0.0
        assert POLICY.first_backoff <= high <= POLICY.max_backoff
        return high * self.fraction

    @rule(seconds=st.floats(0, 12), fraction=st.floats(0, 1))
    def wait(self, seconds: float, fraction: float) -> None:
        self.now += seconds
        self.fraction = fraction

    @rule()
    def start(self) -> None:
        state = self.breaker.state
        waiting = self.breaker.statistics(self.now).retry_after > 0
        attempt = self.breaker.try_start(self.now)
        if attempt is None:
            assert state is HALF_OPEN or waiting
        else:
            assert state is CLOSED or (state is OPEN and not waiting)
            assert (self.breaker.state is HALF_OPEN) == (state is OPEN)
            self.running.append((attempt, self.openings, state is OPEN))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        attempt, openings, _ = self.take(data)
        was = self.breaker.state
        opened = self.breaker.failed(attempt, self.now, "no")
        if openings != self.openings:
            assert (self.breaker.state, opened) == (was, False)
            return
        self.failures.append(self.now)
        recent = [failure for failure in self.failures if self.now - failure <= POLICY.window]
        opens = was is not CLOSED or len(recent) > POLICY.max_restarts
        assert self.breaker.state is (OPEN if opens else CLOSED)
        assert opened == (opens and was is CLOSED)
        self.openings += opens

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        self.take(data)
        self.succeeding = True
        assert self.breaker.succeeded() == (self.breaker.state is not self.before)
        assert self.breaker.state is CLOSED
        self.failures.clear()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        attempt, openings, is_trial = self.take(data)
        was = self.breaker.state
        self.breaker.abandoned(attempt)
        back = was is HALF_OPEN and is_trial and openings == self.openings
        assert self.breaker.state is (OPEN if back else was)

    def take(self, data: st.DataObject) -> tuple[Attempt, int, bool]:
        return self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))

    @invariant()
    def closes_only_after_a_success(self) -> None:
        state = self.breaker.state
        assert state is not CLOSED or self.before is CLOSED or self.succeeding
        self.before, self.succeeding = state, False

    @invariant()
    def waits_are_bounded(self) -> None:
        assert 0.0 <= self.breaker.backoff(self.now) <= POLICY.max_backoff
        assert 0.0 <= self.breaker.statistics(self.now).retry_after <= POLICY.max_backoff

    @invariant()
    def memory_is_bounded(self) -> None:
        assert self.breaker.statistics(self.now).failures <= POLICY.max_restarts + 1
        assert len(self.breaker._failures) <= POLICY.max_restarts + 1  # noqa: SLF001 - it cannot be seen otherwise


TestAnySequenceOfStarts = Starts.TestCase


@given(gaps=st.lists(st.floats(0, 20), max_size=40))
def test_it_opens_exactly_at_the_first_failure_beyond_the_intensity(gaps: list[float]) -> None:
    breaker = Breaker(POLICY, uniform=longest)
    times: list[float] = []
    for gap in gaps:
        times.append((times[-1] if times else 0.0) + gap)
        breaker.failed(started(breaker, times[-1]), times[-1], "no")
        recent = [time for time in times if times[-1] - time <= POLICY.window]
        assert (breaker.state is OPEN) == (len(recent) > POLICY.max_restarts)
        if breaker.state is OPEN:
            break


# A child that is kept running, in virtual time.


def virtual(test: Callable[P, Coroutine[object, object, None]]) -> Callable[P, None]:
    """Run an async test in virtual time."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_in_virtual_time(test(*args, **kwargs))

    return run


def now() -> float:
    return asyncio.get_running_loop().time()


class Stage:
    """Stands for a spawner: each start is the next of the played lives.

    A number is the seconds after which a process exits by itself, with code 3; None is a process
    that lives until EOF; an error is a start that fails.
    """

    def __init__(self, lives: Iterable[float | SpawnError | None]) -> None:
        self.lives = iter(lives)
        self.processes: list[FakeProcess] = []
        self.starts: list[float] = []
        self.start_takes = 0.0
        self.reactions: dict[signal.Signals | None, float] = {None: 0.0}

    async def spawn(self, *_: object, **__: object) -> Spawned:
        self.starts.append(now())
        life = next(self.lives)
        await asyncio.sleep(self.start_takes)
        if isinstance(life, SpawnError):
            raise life
        process = FakeProcess(self.reactions)
        self.processes.append(process)
        if life is not None:
            asyncio.get_running_loop().call_later(life, process.exit, 3)
        return await process.spawn()

    def watch(self, loop: object, pid: int, pidfd: int, on_exit: Callable[[], None]) -> FakeWatch:
        played = type("Watch", (FakeWatch,), {"process": self.processes[-1]})
        return cast("FakeWatch", played(loop, pid, pidfd, on_exit))


@asynccontextmanager
async def played(*lives: float | SpawnError | None) -> AsyncIterator[tuple[Supervisor, Stage]]:
    """Supervise played processes; every back-off is the longest."""
    stage = Stage(lives)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child_module, "PidfdWatch", stage.watch)
        patch.setattr(supervisor_module, "random", SimpleNamespace(uniform=longest))
        async with Supervisor(spawner=cast("Spawner", stage)) as supervisor:
            yield supervisor, stage
        for process in stage.processes:
            process.end()
            assert process.reaped
            assert process.ours_open() == set()


PLAYED = Config(cmd=["played"], eof_grace=2.0)
NO_PROGRAM = SpawnError("played", "no such program")


async def lives_of(supervisor: Supervisor, policy: RestartPolicy = POLICY) -> list[Child]:
    """Keep a child running until that ends; return its incarnations."""
    return [child async for child in supervisor.keep(PLAYED, policy=policy)]


@virtual
async def test_each_end_is_followed_by_the_next_start_after_the_backoff() -> None:
    async with played(0.5, 0.5, None) as (supervisor, stage):
        async with aclosing(supervisor.keep(PLAYED, policy=POLICY)) as incarnations:
            pids = []
            async for child in incarnations:
                pids.append(child.pid)
                if len(pids) == 3:
                    break
        assert stage.starts == [0.0, 0.5 + 1.0, 2.0 + 2.0]
        assert supervisor.statistics().started == 3


@virtual
async def test_too_many_ends_are_raised_with_the_last_exit_status() -> None:
    """OTP, supervisor: "the supervisor terminates all the child processes and then itself"."""
    async with played(0.5, 0.5, 0.5) as (supervisor, stage):
        message = "^more than 2 failures within 10 s; the last one: the child exited with code 3$"
        with pytest.raises(RestartsExhausted, match=message) as caught:
            await lives_of(supervisor)
        assert caught.value.exit_status == ExitStatus(code=3, signal=None)
        assert caught.value.__cause__ is None
        assert len(stage.starts) == 3
        assert now() == 4.5  # at its end, not a back-off later


@virtual
async def test_a_start_that_fails_counts_like_an_end() -> None:
    async with played(NO_PROGRAM, 0.5, NO_PROGRAM) as (supervisor, stage):
        with pytest.raises(RestartsExhausted, match="cannot start 'played': no such program") as caught:
            await lives_of(supervisor)
        assert caught.value.exit_status is None
        assert caught.value.__cause__ is NO_PROGRAM
        assert stage.starts == [0.0, 1.0, 1.5 + 2.0]


@virtual
async def test_ends_that_are_far_enough_apart_are_borne_for_ever() -> None:
    """Each is shorter than `stable_after`, so only the window forgets, and the back-off grows to its end."""
    policy = dataclasses.replace(POLICY, window=5.9)
    async with played(*[3.0] * 20, None) as (supervisor, stage):
        async with aclosing(supervisor.keep(PLAYED, policy=policy)) as incarnations:
            async for _ in incarnations:
                if len(stage.starts) == 21:
                    break
        gaps = [later - earlier for earlier, later in zip(stage.starts, stage.starts[1:], strict=False)]
        assert gaps == pytest.approx([4.0, 5.0, 7.0, *[8.0] * 17])


@virtual
async def test_a_child_that_was_stable_starts_from_scratch() -> None:
    policy = dataclasses.replace(POLICY, window=1000.0)
    async with played(*[4.0] * 9, None) as (supervisor, stage):
        async with aclosing(supervisor.keep(PLAYED, policy=policy)) as incarnations:
            async for _ in incarnations:
                if len(stage.starts) == 10:
                    break
        assert stage.starts == [number * (4.0 + 1.0) for number in range(10)]


@virtual
async def test_a_child_that_was_not_stable_does_not() -> None:
    policy = dataclasses.replace(POLICY, window=1000.0)
    async with played(*[3.9] * 9) as (supervisor, stage):
        with pytest.raises(RestartsExhausted):
            await lives_of(supervisor, policy)
        assert len(stage.starts) == 3


@virtual
async def test_a_caller_that_comes_back_late_does_not_make_a_life_look_long() -> None:
    """The back-off counts from the end, so there is nothing left to wait for; but each end counts."""
    async with played(0.5, 0.5, 0.5) as (supervisor, stage):
        policy = dataclasses.replace(POLICY, window=1000.0)
        with pytest.raises(RestartsExhausted):
            async for _ in supervisor.keep(PLAYED, policy=policy):
                await asyncio.sleep(50)
        assert stage.starts == [0.0, 50.0, 100.0]


@virtual
async def test_the_next_one_waits_for_the_end_even_if_the_caller_has_nothing_to_do() -> None:
    async with played(7.0, None) as (supervisor, stage):
        async with aclosing(supervisor.keep(PLAYED, policy=POLICY)) as incarnations:
            first = await anext(incarnations)
            second = await anext(incarnations)
            assert first.done.is_set()
            assert not second.done.is_set()
        assert stage.starts == [0.0, 8.0]


@virtual
async def test_a_stop_of_the_child_ends_the_loop_without_an_error() -> None:
    async with played(0.5, None) as (supervisor, stage):
        children = []
        async for child in supervisor.keep(PLAYED, policy=POLICY):
            children.append(child)
            if len(children) == 2:
                await child.stop()
        assert [child.exit_status().phase for child in children] == [Phase.SELF, Phase.EOF]
        assert len(stage.starts) == 2


@virtual
async def test_a_stop_by_somebody_else_ends_the_loop_too() -> None:
    async with played(None) as (supervisor, _):
        running = asyncio.create_task(lives_of(supervisor))
        await asyncio.sleep(1)
        await supervisor.stop_all()
        (child,) = await running
        assert child.exit_status().phase is Phase.EOF


@virtual
async def test_stopping_all_during_a_backoff_ends_the_loop_at_once() -> None:
    async with played(0.5) as (supervisor, stage):
        running = asyncio.create_task(lives_of(supervisor))
        await asyncio.sleep(0.75)
        await supervisor.stop_all()
        assert len(await running) == 1
        assert (now(), len(stage.starts)) == (0.75, 1)


@virtual
async def test_stopping_all_just_when_the_child_has_ended_by_itself_ends_the_loop() -> None:
    """Whoever stops everything must not find a new child a moment later, or an error."""
    async with played(0.5, 0.5) as (supervisor, stage):
        incarnations = supervisor.keep(PLAYED, policy=NO_MERCY)
        child = await anext(incarnations)
        await child.wait()
        await supervisor.stop_all()
        with pytest.raises(StopAsyncIteration):
            await anext(incarnations)
        assert child.exit_status().phase is Phase.SELF
        assert len(stage.starts) == 1


@pytest.mark.parametrize("life", [None, NO_PROGRAM], ids=["that succeeds", "that fails"])
@virtual
async def test_stopping_all_during_a_start_ends_the_loop_and_the_child(life: SpawnError | None) -> None:
    """F30: a stop during a start. Nobody has spoken to the child yet, so it gets no grace."""
    async with played(life) as (supervisor, stage):
        stage.start_takes = 1.0
        stage.reactions = {signal.SIGKILL: 0.0}
        running = asyncio.create_task(lives_of(supervisor, NO_MERCY))
        await asyncio.sleep(0.5)
        await supervisor.stop_all()
        assert await running == []
        assert now() == 1.0


@virtual
async def test_closing_the_supervisor_during_a_start_ends_the_loop_and_the_child() -> None:
    """The same; it is a start that is refused after the fact."""
    async with played(None) as (supervisor, stage):
        stage.start_takes = 1.0
        stage.reactions = {signal.SIGKILL: 0.0}
        async with supervisor:
            running = asyncio.create_task(lives_of(supervisor))
            await asyncio.sleep(0.5)
        assert await running == []
        assert now() == 1.0


@virtual
async def test_the_supervisor_remembers_nothing_of_a_loop_that_has_ended() -> None:
    async with played(0.5, 0.5, None, None) as (supervisor, _):
        for _ in range(2):
            with pytest.raises(RestartsExhausted):
                await lives_of(supervisor, NO_MERCY)
        for _ in range(2):
            async with aclosing(supervisor.keep(PLAYED)) as incarnations:
                await anext(incarnations)
        assert not supervisor._keeping  # noqa: SLF001 - it cannot be seen otherwise


@virtual
async def test_a_closed_supervisor_keeps_nothing_running() -> None:
    async with played() as (supervisor, _):
        async with supervisor:
            pass
        with pytest.raises(RuntimeError, match="the supervisor is closed"):
            await lives_of(supervisor)


@virtual
async def test_after_stopping_all_a_new_one_may_be_kept_running() -> None:
    async with played(None) as (supervisor, _):
        await supervisor.stop_all()
        async with aclosing(supervisor.keep(PLAYED)) as incarnations:
            assert not (await anext(incarnations)).done.is_set()


@virtual
async def test_closing_the_iterator_stops_the_child() -> None:
    async with played(None) as (supervisor, stage):
        incarnations = supervisor.keep(PLAYED)
        child = await anext(incarnations)
        await incarnations.aclose()
        assert child.exit_status().phase is Phase.EOF
        assert len(stage.starts) == 1


@virtual
async def test_an_error_in_the_body_of_the_loop_stops_the_child() -> None:
    children = []
    async with played(None) as (supervisor, _):
        with pytest.raises(LookupError):
            async with aclosing(supervisor.keep(PLAYED)) as incarnations:
                async for child in incarnations:
                    children.append(child)
                    raise LookupError("mine")
        assert [child.exit_status().phase for child in children] == [Phase.EOF]


@pytest.mark.parametrize(
    ("lives", "moment"),
    [([None], 1.0), ([0.5, None], 0.75)],
    ids=["while it runs", "while the next one waits"],
)
@virtual
async def test_cancelling_who_waits_for_the_next_one_leaves_no_child(
    lives: list[float | None], moment: float
) -> None:
    async with played(*lives) as (supervisor, stage):
        running = asyncio.create_task(lives_of(supervisor))
        await asyncio.sleep(moment)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert supervisor.statistics().running == 0
        assert len(stage.starts) == 1


@virtual
async def test_cancelling_twice_is_a_kill() -> None:
    """As with `stop`, which is what the first cancellation began."""
    async with played(None) as (supervisor, stage):
        running = asyncio.create_task(lives_of(supervisor))
        await asyncio.sleep(1)
        stage.processes[0].reactions = {signal.SIGKILL: 0.0}
        running.cancel()
        await asyncio.sleep(1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert now() == 2.0
        assert signal.SIGKILL in stage.processes[0].signals


@virtual
async def test_every_restart_is_logged_with_its_reason_and_its_wait(caplog: pytest.LogCaptureFixture) -> None:
    async with played(0.5, NO_PROGRAM, None) as (supervisor, stage):
        async with aclosing(supervisor.keep(PLAYED, policy=POLICY)) as incarnations:
            async for _ in incarnations:
                if len(stage.starts) == 3:
                    break
        assert supervisor.statistics().started == 2
    restarts = [vars(record) for record in caplog.records if record.msg == "child.restarting"]
    assert [(restart["reason"], restart["backoff"]) for restart in restarts] == [
        ("the child exited with code 3", 1.0),
        ("cannot start 'played': no such program", 2.0),
    ]
