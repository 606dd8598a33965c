"""What one node and one principal may have, and whose turn it is: bounded, fair, and nothing is lost."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from stdio_broker.bridge import Budgets
from stdio_broker.errors import LimitReached, TooManyRequests
from stdio_broker.sessions import Principal
from stdio_broker.sessions.fair_turns import FairTurns
from stdio_broker.sessions.quotas import Quotas, QuotaSettings, Refusal
from tests.support.clock import VirtualClockLoop, run_in_virtual_time

_T = TypeVar("_T")

PRINCIPALS = [Principal("test", name) for name in "abcd"]
A, B, C, _D = PRINCIPALS

#: So many starts that no test meets the bucket unless it is about it.
NO_RATE = {"starts_per_minute": 6e9, "start_burst": 1_000_000}


def _virtual(test: Callable[[], Coroutine[object, object, None]]) -> Callable[[], None]:
    def run() -> None:
        run_in_virtual_time(test())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


def _quotas(**bounds: float) -> Quotas:
    chosen = QuotaSettings(**{**NO_RATE, **bounds})  # type: ignore[arg-type]
    return Quotas(chosen, now=asyncio.get_running_loop().time)


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class _Starts:
    """Starts of children that last until they are told to end."""

    def __init__(self, quotas: Quotas) -> None:
        self.quotas = quotas
        self.log: list[Principal] = []  # who had a turn, in the order of the turns

    async def hold(self, principal: Principal, until: asyncio.Event | float) -> None:
        async with self.quotas.turn(principal):
            self.log.append(principal)
            await (asyncio.sleep(until) if isinstance(until, float) else until.wait())


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


# Sessions, children, calls.


KINDS = {
    "session": (Quotas.take_session, Quotas.give_session),
    "child": (Quotas.take_child, Quotas.give_child),
    "call": (Quotas.enter_call, Quotas.leave_call),
}
#: Of one principal, and of the node; no node has a bound on calls.
BOUNDS = {"session": (3, 5), "child": (2, 4), "call": (4, 1_000_000)}


class _CountingMachine(RuleBasedStateMachine):
    """Everything that is taken is counted, against three counters."""

    taken: Bundle[tuple[str, Principal]] = Bundle("taken")

    def __init__(self) -> None:
        super().__init__()
        self.quotas = Quotas(
            QuotaSettings(
                max_sessions_per_principal=3,
                max_sessions=5,
                max_children_per_principal=2,
                max_children=4,
                max_calls_per_principal=4,
            ),
            now=_Clock(),
        )
        self.model: Counter[tuple[str, Principal]] = Counter()
        self.refused = 0

    def _total(self, kind: str) -> int:
        return sum(count for (name, _), count in self.model.items() if name == kind)

    @rule(target=taken, kind=st.sampled_from(sorted(KINDS)), principal=st.sampled_from(PRINCIPALS))
    def take(
        self, kind: str, principal: Principal
    ) -> tuple[str, Principal] | MultipleResults[tuple[str, Principal]]:
        each, all_ = BOUNDS[kind]
        own_is_reached = self.model[kind, principal] >= each
        if own_is_reached or self._total(kind) >= all_:
            with pytest.raises(LimitReached) as caught:
                KINDS[kind][0](self.quotas, principal)
            assert ("yours" in str(caught.value)) == own_is_reached
            assert isinstance(caught.value, TooManyRequests) == (kind == "call")
            self.refused += 1
            return multiple()
        KINDS[kind][0](self.quotas, principal)
        self.model[kind, principal] += 1
        return (kind, principal)

    @rule(one=consumes(taken))
    def give(self, one: tuple[str, Principal]) -> None:
        KINDS[one[0]][1](self.quotas, one[1])
        self.model[one] -= 1

    @invariant()
    def it_agrees_with_the_model(self) -> None:
        statistics = self.quotas.statistics()
        counted = (statistics.sessions, statistics.children, statistics.calls)
        assert counted == (self._total("session"), self._total("child"), self._total("call"))
        assert statistics.principals == len(
            {principal for (_, principal), count in self.model.items() if count}
        )
        assert sum(statistics.refused.values()) == self.refused


def test_what_is_taken_is_counted_and_what_has_nothing_is_forgotten() -> None:
    """Ours: limits per principal and per node, whatever is taken and given back in whatever order."""
    run_state_machine_as_test(
        _CountingMachine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )


@pytest.mark.parametrize(
    ("bounds", "take", "message", "reason"),
    [
        (
            {"max_sessions_per_principal": 1},
            Quotas.take_session,
            "all 1 sessions of yours are in use",
            Refusal.PRINCIPAL_SESSIONS,
        ),
        (
            {"max_sessions": 1},
            Quotas.take_session,
            "all 1 sessions of this node are in use",
            Refusal.NODE_SESSIONS,
        ),
        (
            {"max_children_per_principal": 1},
            Quotas.take_child,
            "all 1 server processes of yours are in use",
            Refusal.PRINCIPAL_CHILDREN,
        ),
        (
            {"max_children": 1},
            Quotas.take_child,
            "all 1 server processes of this node are in use",
            Refusal.NODE_CHILDREN,
        ),
        (
            {"max_calls_per_principal": 1},
            Quotas.enter_call,
            "1 calls of yours are in flight already",
            Refusal.PRINCIPAL_CALLS,
        ),
    ],
)
def test_a_refusal_says_which_limit_it_was_and_whose(
    bounds: dict[str, int], take: Callable[[Quotas, Principal], None], message: str, reason: Refusal
) -> None:
    """Ours: and counts under a constant name."""
    quotas = Quotas(QuotaSettings(**bounds, retry_after=7), now=_Clock())
    take(quotas, A)
    with pytest.raises(LimitReached) as caught:
        take(quotas, A)
    assert str(caught.value) == message
    assert caught.value.retry_after == 7
    assert {name: count for name, count in quotas.statistics().refused.items() if count} == {reason: 1}
    assert set(quotas.statistics().refused) == set(Refusal), "names are there before the first refusal"


@pytest.mark.parametrize("take", [Quotas.take_session, Quotas.take_child])
def test_who_is_refused_by_a_full_node_is_not_remembered(take: Callable[[Quotas, Principal], None]) -> None:
    """Ours: nothing is kept of who has nothing."""
    quotas = Quotas(QuotaSettings(max_sessions=1, max_children=1), now=_Clock())
    take(quotas, A)
    with pytest.raises(LimitReached, match="of this node"):
        take(quotas, B)
    assert quotas.statistics().principals == 1


def test_each_principal_has_its_part_of_the_bytes_of_the_node() -> None:
    """Ours: bytes buffered, per principal and per node, whatever the server."""
    quotas = Quotas(QuotaSettings(), now=_Clock(), budgets=Budgets(1000, max_bytes_each=400))
    mine, other = quotas.budget(A), quotas.budget(B)
    assert quotas.budget(A) is mine is not other
    mine.add(400)
    with pytest.raises(TooManyRequests):
        mine.check()
    other.add(600)
    with pytest.raises(LimitReached):
        quotas.budget(C).check()
    statistics = quotas.statistics()
    assert statistics.buffered_bytes == 1000
    assert statistics.refused[Refusal.PRINCIPAL_BYTES] == statistics.refused[Refusal.NODE_BYTES] == 1


def test_a_node_says_which_of_its_limits_is_reached() -> None:
    """Ours: truthful readiness."""
    bounds = QuotaSettings(max_sessions=1, max_children=1)
    quotas = Quotas(bounds, now=_Clock(), budgets=Budgets(1000))
    assert quotas.full() is None
    budget = quotas.budget(A)
    budget.add(1000)
    assert quotas.full() == "messages hold all 1000 bytes that this node has for them"
    quotas.take_child(A)
    assert quotas.full() == "all 1 server processes of this node are in use"
    quotas.take_session(A)
    assert quotas.full() == "all 1 sessions of this node are in use"


def test_a_snapshot_does_not_change_any_more() -> None:
    quotas = Quotas(QuotaSettings(max_sessions=1), now=_Clock())
    before = quotas.statistics()
    quotas.take_session(A)
    with pytest.raises(LimitReached):
        quotas.take_session(B)
    assert (before.sessions, before.refused[Refusal.NODE_SESSIONS]) == (0, 0)


# Turns.


class _JudgedTurns(FairTurns):
    """Turns under the rule of fairness, checked when they are given: who gets one may run only later."""

    def __init__(self, *, max_turns: int, max_turns_each: int, max_waiting_each: int) -> None:
        super().__init__(
            max_turns=max_turns, max_turns_each=max_turns_each, max_waiting_each=max_waiting_each
        )
        #: For each principal, who could have had a turn ever since its last one, and had none.
        self.owed: dict[Principal, set[Principal]] = {principal: set() for principal in PRINCIPALS}

    def _take(self, principal: Principal) -> None:
        assert not self.owed[principal], "others have waited since its last turn"
        super()._take(principal)
        for creditors in self.owed.values():
            creditors.discard(principal)
        self.owed[principal] = {other for other in self._ring if self._may_have_one(other)} - {principal}

    def _leave(self, principal: Principal, turn: asyncio.Future[None]) -> None:
        super()._leave(principal, turn)
        if principal not in self._ring:
            for creditors in self.owed.values():
                creditors.discard(principal)

    def _give_back_unused(self, principal: Principal) -> None:
        self.owed[principal].clear()
        super()._give_back_unused(principal)


class _TurnMachine(RuleBasedStateMachine):
    """Starts that begin, end and are cancelled in every order, also several in one turn of the loop.

    A model of the ring would be the ring again. So this checks what it is for: between two turns of one
    principal, everybody had one who waited for the whole time; within a principal it goes by order; and
    whenever the loop has come to rest, no turn lies idle that somebody could have.
    """

    MAX, EACH, WAITING = 3, 2, 4

    starts: Bundle[int] = Bundle("starts")

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualClockLoop()
        self.quotas = Quotas(
            QuotaSettings(
                starts_per_minute=6e9,
                start_burst=1_000_000,
                max_starting=self.MAX,
                max_starting_per_principal=self.EACH,
                max_waiting_per_principal=self.WAITING,
                queue_timeout=10,
            ),
            now=self.loop.time,
        )
        self.quotas._turns = _JudgedTurns(  # noqa: SLF001 - the same, with a judge
            max_turns=self.MAX, max_turns_each=self.EACH, max_waiting_each=self.WAITING
        )
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.ends: dict[int, asyncio.Event] = {}
        self.holding: dict[int, Principal] = {}
        self.waiting: dict[int, Principal] = {}
        self.queued: dict[int, None] = {}  # whoever was not served at once, in their order

    def teardown(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        self._run(_settle())
        try:
            self._check_at_rest()
            assert all(task.done() for task in self.tasks.values())
            statistics = self.quotas.statistics()
            assert (statistics.starting, statistics.waiting) == (0, 0)
            self._pass(1.0)
            assert self.quotas.statistics().principals == 0
        finally:
            self.loop.close()

    @rule(target=starts, principal=st.sampled_from(PRINCIPALS), rest=st.booleans())
    def begin(self, principal: Principal, rest: bool) -> int:  # noqa: FBT001
        number = len(self.tasks)
        self.ends[number] = asyncio.Event()
        self.tasks[number] = self.loop.create_task(self._start(number, principal))
        self._rest(rest)
        return number

    @rule(number=starts, rest=st.booleans())
    def end(self, number: int, rest: bool) -> None:  # noqa: FBT001
        self.ends[number].set()
        self._rest(rest)

    @rule(number=starts, rest=st.booleans())
    def cancel(self, number: int, rest: bool) -> None:  # noqa: FBT001
        self.tasks[number].cancel()
        self._rest(rest)

    @rule(steps=st.integers(1, 3))
    def go_on_a_bit(self, steps: int) -> None:
        for _ in range(steps):
            self._run(asyncio.sleep(0))

    @rule(seconds=st.sampled_from([1.0, 4.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self._pass(seconds)
        self._check_at_rest()

    def _rest(self, rest: bool) -> None:  # noqa: FBT001
        if rest:
            self._run(_settle())
            self._check_at_rest()

    def _check_at_rest(self) -> None:
        for task in self.tasks.values():
            if task.done() and not task.cancelled():
                task.result()
        statistics = self.quotas.statistics()
        assert statistics.starting == len(self.holding) <= self.MAX
        assert statistics.waiting == len(self.waiting)
        held = Counter(self.holding.values())
        assert all(count <= self.EACH for count in held.values())
        if len(self.holding) < self.MAX:
            assert all(held[principal] >= self.EACH for principal in self.waiting.values()), (
                "a turn lies idle"
            )
        assert all(count <= self.WAITING for count in Counter(self.waiting.values()).values())

    async def _start(self, number: int, principal: Principal) -> None:
        began = self.loop.time()
        self.waiting[number] = principal
        self.loop.call_soon(self.queued.setdefault, number)
        try:
            async with self.quotas.turn(principal):
                self._had_turn(number, principal)
                try:
                    await self.ends[number].wait()
                finally:
                    del self.holding[number]
        except TooManyRequests:
            assert sum(owner == principal for owner in self.waiting.values()) > self.WAITING
        except LimitReached:
            assert self.loop.time() == pytest.approx(began + 10)
        finally:
            self.waiting.pop(number, None)

    def _had_turn(self, number: int, principal: Principal) -> None:
        if number in self.queued:  # else it was served at once, maybe before one that has its turn already
            earlier = [other for other in self.queued if self.waiting.get(other) == principal]
            assert next(other for other in earlier if not self.tasks[other].cancelling()) == number
        self.holding[number] = principal
        del self.waiting[number]

    def _pass(self, seconds: float) -> None:
        self._run(asyncio.sleep(seconds))
        self._run(_settle())

    def _run(self, work: Coroutine[object, object, _T]) -> _T:
        return self.loop.run_until_complete(work)


def test_no_turn_is_lost_and_nobody_starves_whatever_begins_ends_and_is_cancelled() -> None:
    """Ours: between two turns of one principal, everybody else who waits has one; F.I.F.O. within one."""
    run_state_machine_as_test(
        _TurnMachine, settings=settings(max_examples=150, stateful_step_count=50, deadline=None)
    )


@_virtual
async def test_who_waits_is_served_round_robin_over_principals() -> None:
    """Ours: a principal with many starts delays another by one start, not by all of its own."""
    starts = _Starts(_quotas(max_starting=1))
    async with asyncio.TaskGroup() as tasks:
        for principal in [A, A, A, A, B, B, C]:
            tasks.create_task(starts.hold(principal, 1.0))
            await asyncio.sleep(0)
    assert starts.log == [A, A, B, C, A, B, A]


@_virtual
async def test_a_principal_whose_starts_hang_leaves_turns_to_the_others() -> None:
    """Ours: `max_starting_per_principal`. Round robin alone would not help those who come later."""
    starts = _Starts(_quotas(max_starting=3, max_starting_per_principal=2))
    hanging = [asyncio.create_task(starts.hold(A, 1000.0)) for _ in range(3)]
    await asyncio.sleep(1)
    async with asyncio.timeout(0.1):
        await starts.hold(B, 0.0)
    assert starts.log == [A, A, B]
    for task in hanging:
        task.cancel()
    await asyncio.wait(hanging)


@_virtual
async def test_a_turn_given_to_somebody_who_is_gone_goes_to_the_next_of_the_same_principal() -> None:
    """Ours: a start that is cancelled in the moment of its turn costs its principal nothing."""
    starts = _Starts(_quotas(max_starting=1))
    waiting: list[asyncio.Task[None]] = []
    async with starts.quotas.turn(C):
        for principal in (A, A, B, A):
            waiting.append(asyncio.create_task(starts.hold(principal, 1.0)))
            await asyncio.sleep(0)
    assert starts.quotas.statistics().starting == 1
    waiting[0].cancel()  # it has its turn, and does not run yet
    await asyncio.wait(waiting)
    assert starts.log == [A, B, A]


@_virtual
async def test_the_wait_for_a_turn_is_bounded_in_time_and_in_number() -> None:
    """Ours: `queue_timeout`, the node's limit; `max_waiting_per_principal`, one's own."""
    quotas = _quotas(max_starting=1, max_waiting_per_principal=1, queue_timeout=5, retry_after=3)
    starts = _Starts(quotas)
    end = asyncio.Event()
    holder = asyncio.create_task(starts.hold(A, end))
    await _settle()
    waiter = asyncio.create_task(starts.hold(B, end))
    await _settle()
    with pytest.raises(TooManyRequests, match="1 server processes of yours wait to be started") as crowded:
        await starts.hold(B, end)
    assert crowded.value.retry_after == 3
    with pytest.raises(
        LimitReached, match=r"no turn .* within 5 s; 1 may start at once on this node"
    ) as late:
        await waiter
    assert asyncio.get_running_loop().time() == pytest.approx(5)
    assert not isinstance(late.value, TooManyRequests)
    assert late.value.retry_after == 3
    refused = quotas.statistics().refused
    assert (refused[Refusal.NODE_STARTS], refused[Refusal.PRINCIPAL_STARTS]) == (1, 1)
    end.set()
    await holder


# The rate of starts.


async def _start(quotas: Quotas, principal: Principal) -> float:
    """Start a child, and return 0; or return how long to wait."""
    try:
        async with quotas.turn(principal):
            return 0.0
    except TooManyRequests as exc:
        return exc.retry_after


@given(
    per_minute=st.floats(0.5, 600),
    burst=st.integers(1, 40),
    pauses=st.lists(st.floats(0, 60), max_size=60),
    start=st.floats(0, 1e6),
)
async def test_starts_are_no_more_than_the_bucket_gives(
    per_minute: float, burst: int, pauses: list[float], start: float
) -> None:
    """Ours: `start_burst` at once, `starts_per_minute` in the long run; the wait that is told is enough."""
    clock = _Clock()
    clock.now = start
    quotas = Quotas(QuotaSettings(starts_per_minute=per_minute, start_burst=burst), now=clock)
    tokens, then = float(burst), clock.now
    for pause in [*pauses, *[0.0] * burst]:
        clock.now += pause
        tokens = min(burst, tokens + (clock.now - then) * per_minute / 60)
        then = clock.now
        wait = await _start(quotas, A)
        if wait:
            assert wait == pytest.approx((1 - tokens) * 60 / per_minute, abs=1e-4)
            clock.now += wait
            tokens, then = 1.0, clock.now
            assert not await _start(quotas, A)
        tokens -= 1
        assert tokens >= -1e-4
    assert not await _start(quotas, B)


@_virtual
async def test_who_starts_too_fast_is_told_when_the_next_start_is_his() -> None:
    """Ours: 429, with the seconds until the next token; others are not affected."""
    quotas = _quotas(starts_per_minute=6, start_burst=2)
    assert [await _start(quotas, A) for _ in range(2)] == [0, 0]
    await asyncio.sleep(4)
    text = r"6 server processes a minute, and 2 at once; .* in 6\.0 s"
    with pytest.raises(TooManyRequests, match=text) as caught:
        await _Starts(quotas).hold(A, 0.0)
    assert caught.value.retry_after == pytest.approx(6)
    assert not await _start(quotas, B)
    await asyncio.sleep(6)
    assert not await _start(quotas, A)
    assert quotas.statistics().refused[Refusal.PRINCIPAL_START_RATE] == 1


@pytest.mark.parametrize("how", ["cancelled", "late", "crowded"])
def test_a_start_that_had_no_turn_does_not_count(how: str) -> None:
    """Ours: nothing was started, so it was no start."""

    async def main() -> None:
        bounds = {"max_starting": 1, "starts_per_minute": 1e-3, "start_burst": 2, "queue_timeout": 5}
        quotas = _quotas(**bounds, max_waiting_per_principal=1)
        starts = _Starts(quotas)
        end = asyncio.Event()
        holder = asyncio.create_task(starts.hold(A, end))
        await _settle()
        for _ in range(3):
            waiter = asyncio.create_task(starts.hold(B, end))
            await _settle()
            if how == "crowded":
                with pytest.raises(TooManyRequests, match="wait to be started"):
                    await starts.hold(B, end)
            if how != "late":
                waiter.cancel()
            await asyncio.wait([waiter])
            assert waiter.cancelled() == (how != "late")
            assert waiter.cancelled() or isinstance(waiter.exception(), LimitReached)
        end.set()
        await holder
        assert [await _start(quotas, B) > 0 for _ in range(3)] == [False, False, True]

    run_in_virtual_time(main())


@_virtual
async def test_the_tables_do_not_grow_with_the_principals_ever_seen() -> None:
    """Ours: of who has nothing and has started nothing lately, nothing is kept."""
    quotas = _quotas(starts_per_minute=60, start_burst=10)
    most = 0
    for number in range(5000):
        principal = Principal("test", str(number))
        quotas.take_session(principal)
        quotas.take_child(principal)
        quotas.enter_call(principal)
        assert not await _start(quotas, principal)
        quotas.leave_call(principal)
        quotas.give_child(principal)
        quotas.give_session(principal)
        most = max(most, len(quotas._rates), len(quotas._shares))  # noqa: SLF001 - what is kept is the point
        await asyncio.sleep(0.01)  # so 100 buckets are not full at any time
    assert most <= 2 * 101
    assert quotas.statistics().principals == 100
    await asyncio.sleep(1)
    assert quotas.statistics().principals == 0
    assert len(quotas._rates) == 0  # noqa: SLF001


# Settings.


@given(name=st.sampled_from([field.name for field in dataclasses.fields(QuotaSettings)]))
def test_a_bound_that_is_out_of_range_is_named(name: str) -> None:
    for value in (0, -1, *([float("inf"), float("nan")] if isinstance(_default(name), float) else [])):
        with pytest.raises(ValueError, match=rf"^{name}: expected .* found {value}"):
            QuotaSettings(**{name: value})  # type: ignore[arg-type]


def test_every_bound_is_documented() -> None:
    documented = QuotaSettings.__doc__ or ""
    for field in dataclasses.fields(QuotaSettings):
        assert f" {field.name}: " in documented


def _default(name: str) -> float:
    value = getattr(QuotaSettings(), name)
    assert isinstance(value, int | float)
    return value
