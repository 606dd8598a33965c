"""What is held is charged, and given back exactly, whatever ends it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Coroutine
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from stdio_broker.bridge import (
    Budget,
    Budgets,
    EventsLost,
    Exchange,
    LegacySession,
    MessageStream,
    ModernChild,
    Owner,
    Seal,
    Settings,
    StreamEnded,
)
from stdio_broker.bridge.backlog import Backlog
from stdio_broker.bridge.client_streams import ClientStreams
from stdio_broker.bridge.events import EVENT_OVERHEAD_BYTES, EventLog
from stdio_broker.bridge.streams import MESSAGE_OVERHEAD_BYTES, SMALL_BYTES
from stdio_broker.errors import BridgeBroken, LimitReached, TooManyRequests
from stdio_broker.testing import FakeChild
from tests.bridge import legacy_rig, modern_rig, session_rig
from tests.support.clock import VirtualClockLoop

_T = TypeVar("_T")

ROOMY = 1_000_000_000
QUESTION = b'{"jsonrpc":"2.0","id":"q","method":"roots/list"}'
LOG = b'{"jsonrpc":"2.0","method":"notifications/message","params":{}}'
LONG = LOG + b" " * 2 * SMALL_BYTES
ANSWER = b'{"jsonrpc":"2.0","id":1,"result":{}}'


def _charge(message: bytes) -> int:
    return len(message) + MESSAGE_OVERHEAD_BYTES


def _full(budget: Budget) -> Budget:
    """Let somebody else hold everything."""
    budget.add(budget.max_bytes)
    return budget


# The budget itself.


@given(parts=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 60)), max_size=40))
def test_the_whole_is_the_sum_of_its_parts_and_bounds_them(parts: list[tuple[str, int]]) -> None:
    """Ours: per owner and per node. The first bytes are let in however many: else they never could."""
    budgets = Budgets(100, max_bytes_each=60)
    held = {"a": 0, "b": 0}
    in_hand = {name: budgets.of(name) for name in held}
    for name, size in parts:
        fits = (not held[name] or held[name] + size <= 60) and (
            not sum(held.values()) or sum(held.values()) + size <= 100
        )
        assert in_hand[name].has_room_for(size) == fits
        if fits:
            budgets.of(name).add(size)
            held[name] += size
        assert {name: part.used for name, part in in_hand.items()} == held
        assert budgets.whole.used == sum(held.values())
        assert in_hand[name].full == (held[name] >= 60 or sum(held.values()) >= 100)
    for name, size in held.items():
        in_hand[name].remove(size)
    assert budgets.whole.used == 0


def test_a_refusal_says_whose_bytes_they_are_and_is_counted() -> None:
    """Ours: 429 for one's own part, 503 for the node."""
    budgets = Budgets(100, max_bytes_each=40)
    part, other = budgets.of("a"), budgets.of("b")
    part.add(40)
    with pytest.raises(TooManyRequests, match="messages of yours hold 40 of 40 bytes"):
        part.check()
    other.check(40)
    budgets.whole.add(60)
    with pytest.raises(LimitReached, match="100 of the 100 bytes that this node has") as caught:
        other.check()
    assert not isinstance(caught.value, TooManyRequests)
    assert (budgets.whole.refused, budgets.whole.refused_by_parts) == (1, 1)


def test_a_part_is_a_quarter_unless_it_is_said_and_is_kept_as_long_as_it_is_in_hand() -> None:
    """Ours: nothing is kept of who has nothing."""
    budgets = Budgets(100)
    part = budgets.of("a")
    assert part.max_bytes == 25
    assert budgets.of("a") is part
    assert len(budgets) == 1
    del part
    gc.collect()
    assert len(budgets) == 0


def test_a_budget_without_a_bound_is_never_full() -> None:
    part = Budgets().of("a")
    part.add(10**15)
    part.check(10**15)
    assert not part.full


# Streams.


async def test_a_full_budget_cuts_the_stream_that_wants_more() -> None:
    """Ours: as a reader is cut that is too slow; what the stream has, it keeps."""
    budget = Budget(1000)
    stream = MessageStream(asyncio.get_running_loop(), max_bytes=ROOMY, budget=budget)
    assert stream.put(b"a")
    _full(budget)
    assert not stream.put(b"b")
    assert stream.cut
    assert await stream.receive(1) == b"a"
    with pytest.raises(StreamEnded):
        await stream.receive(1)


async def test_a_client_that_reads_gets_small_messages_though_others_hold_everything() -> None:
    """Ours: one who does not read costs the others nothing they notice."""
    budget = _full(Budget(1000))
    stream = MessageStream(asyncio.get_running_loop(), max_bytes=ROOMY, budget=budget)
    for _ in range(3):
        assert stream.put(b"x" * SMALL_BYTES)
        assert await stream.receive(1) == b"x" * SMALL_BYTES
    assert not stream.put(b"x" * (SMALL_BYTES + 1))
    assert stream.cut


async def test_a_message_longer_than_the_budget_is_taken_if_nobody_holds_anything() -> None:
    """Ours: else it never could be."""
    budget = Budget(SMALL_BYTES)
    stream = MessageStream(asyncio.get_running_loop(), max_bytes=ROOMY, budget=budget)
    assert stream.put(LONG)
    assert budget.used == _charge(LONG)


async def test_the_answer_is_taken_though_the_budget_is_full() -> None:
    """Ours: somebody waits for it, and the call was let through."""
    budget = _full(Budget(1000))
    exchange = Exchange(asyncio.get_running_loop(), max_bytes=10, budget=budget)
    exchange.answer(LONG)
    assert budget.used == 1000 + _charge(LONG)
    assert await exchange.receive(1) == LONG
    assert exchange.complete
    assert budget.used == 1000


async def test_a_stream_that_nobody_reads_or_lets_go_gives_back_what_it_held() -> None:
    """Ours: a call whose client is gone before it is told of the exchange, for instance."""
    budget = Budget(ROOMY)
    exchange = Exchange(asyncio.get_running_loop(), max_bytes=ROOMY, budget=budget)
    exchange.put(LOG)
    exchange.answer(ANSWER)
    assert budget.used == _charge(LOG) + _charge(ANSWER)
    del exchange
    assert budget.used == 0


# Backlog and replay.


def test_a_backlog_is_charged_and_takes_nothing_that_there_is_no_room_for() -> None:
    """Ours: the newest is given up then; what is put back was charged before, and stays."""
    budget = Budget(10)
    backlog = Backlog(max_messages=10, max_bytes=100, budget=budget)
    assert backlog.add(b"12345678") == []
    assert backlog.add(b"123") == [b"123"]
    assert backlog.put_back([b"1234567"]) == []
    assert budget.used == 15
    assert backlog.take() == b"1234567"
    assert budget.used == 8
    backlog.leave_budget()
    assert budget.used == 0
    assert backlog.take() == b"12345678"
    assert backlog.add(b"1") == []
    assert budget.used == 0


def test_a_backlog_that_is_dropped_gives_back_what_it_held() -> None:
    budget = Budget(10)
    Backlog(max_messages=10, max_bytes=100, budget=budget).add(b"1234")
    assert budget.used == 0


def test_replay_gives_way_when_half_of_the_budget_is_held() -> None:
    """Ours: what is kept just in case must not keep others out. Its own oldest events go first."""
    size = 100 + EVENT_OVERHEAD_BYTES
    budget = Budget(6 * size)
    events: EventLog[str] = EventLog(max_events=100, max_bytes=ROOMY, budget=budget)
    log = events.start("client")
    ids = [events.record(log, b"x" * 100) for _ in range(4)]
    assert (events.held_events, budget.used) == (3, 3 * size)
    with pytest.raises(EventsLost):
        events.find(b"1_0")
    assert events.find(ids[0]) == (log, 1)
    budget.add(2 * size)
    events.record(log, b"x" * 100)
    assert (events.held_events, budget.used) == (1, 3 * size)
    budget.add(size)
    events.record(log, b"x" * 100)
    assert (events.held_events, budget.used) == (0, 3 * size)
    events.close()
    budget.remove(3 * size)
    events = EventLog(max_events=100, max_bytes=ROOMY, budget=budget)
    events.record(events.start("client"), b"x" * 100)
    assert budget.used == size
    del events
    assert budget.used == 0


def test_replay_gives_way_when_half_of_the_node_is_held() -> None:
    """Ours: by whomever."""
    budgets = Budgets(1000, max_bytes_each=800)
    part = budgets.of("a")
    assert part.can_spare(400)
    assert not part.can_spare(401)
    budgets.whole.add(400)
    assert not part.can_spare(101)
    assert part.can_spare(100)


def test_replay_of_a_stream_that_is_forgotten_is_given_back() -> None:
    budget = Budget(ROOMY)
    events: EventLog[str] = EventLog(max_events=100, max_bytes=ROOMY, budget=budget)
    first, second = events.start("a"), events.start("b")
    for log in (first, second, first):
        events.record(log, b"x" * 100)
    events.forget(first)
    assert budget.used == events.held_bytes == 100 + EVENT_OVERHEAD_BYTES


# All of a session.


class _SessionMachine(RuleBasedStateMachine):
    """Everything that a session's streams can live through, against what they say that they hold."""

    readers: Bundle[MessageStream] = Bundle("readers")
    calls: Bundle[Exchange] = Bundle("calls")
    event_ids: Bundle[bytes] = Bundle("event_ids")

    messages = st.sampled_from([LOG, QUESTION, LONG, b'{"jsonrpc":"2.0","method":"x"}'])

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualClockLoop()
        self.budget = Budget(12 * len(LONG))
        self.others = 0
        self.streams: ClientStreams
        self.known: list[MessageStream] = []
        self.reading: list[MessageStream] = []
        self.ended = False
        self._run(self._begin())

    async def _begin(self) -> None:
        self.streams = ClientStreams(
            Settings(
                max_stream_bytes=3 * len(LONG),
                max_backlog_messages=4,
                max_backlog_bytes=2 * len(LONG),
                max_replay_events=5,
                max_replay_bytes=4 * len(LONG),
                max_suspended=2,
                resume_timeout=10,
            ),
            on_idle=lambda: None,
            on_slow=lambda exchange: self.streams.answer(exchange, ANSWER),
            on_lost=lambda _messages: None,
            budget=self.budget,
        )

    def teardown(self) -> None:
        try:
            self.streams.end()
            for stream in list(self.reading):
                self.streams.release(stream)
            self.budget.remove(self.others)
            assert self.budget.used == 0
        finally:
            self._run(asyncio.sleep(100))
            self.loop.close()

    @rule(target=calls)
    def open(self) -> Exchange:
        exchange = self.streams.open(refusable=False)
        self._reads(exchange)
        return exchange

    @rule()
    def open_another(self) -> None:
        if self.budget.full:
            with pytest.raises(LimitReached):
                self.streams.open()
        else:
            self._reads(self.streams.open())

    @precondition(lambda self: not self.ended)
    @rule(target=readers)
    def listen(self) -> MessageStream:
        stream = self.streams.listen()
        self._reads(stream)
        return stream

    @precondition(lambda self: not self.ended)
    @rule(event_id=event_ids)
    def resume(self, event_id: bytes) -> None:
        with contextlib.suppress(EventsLost):
            self._reads(self.streams.resume(event_id))

    @rule(call=calls, message=messages)
    def put(self, call: Exchange, message: bytes) -> None:
        self.streams.put(message, call)

    @rule(message=messages, related=st.booleans())
    def send(self, message: bytes, related: bool) -> None:  # noqa: FBT001
        (self.streams.send_related if related else self.streams.send_unrelated)(message)

    @rule(call=consumes(calls))
    def answer(self, call: Exchange) -> None:
        self.streams.answer(call, ANSWER)

    @precondition(lambda self: self.reading)
    @rule(target=event_ids, data=st.data(), count=st.integers(0, 3))
    def read(self, data: st.DataObject, count: int) -> bytes:
        """Read what is there, as it is read for a client that knows event ids."""
        stream = data.draw(st.sampled_from(self.reading))
        seen = stream.show(None) or b""
        with contextlib.suppress(StreamEnded):
            for _ in range(count):
                missed = stream.missed()
                message = self._run(stream.receive(0)) if missed is None else None
                if message is not None:
                    seen = stream.show(message) or seen
        return seen

    @precondition(lambda self: self.reading)
    @rule(data=st.data(), suspend=st.booleans())
    def leave(self, data: st.DataObject, suspend: bool) -> None:  # noqa: FBT001
        stream = data.draw(st.sampled_from(self.reading))
        if suspend and stream.log is not None:
            self.streams.suspend(stream)
        self.streams.release(stream)
        self.reading.remove(stream)

    @rule(seconds=st.sampled_from([1, 20]))
    def wait(self, seconds: int) -> None:
        self._run(asyncio.sleep(seconds))

    @rule(part=st.integers(0, 4))
    def others_hold(self, part: int) -> None:
        self.budget.remove(self.others)
        self.others = self.budget.max_bytes * part // 4
        self.budget.add(self.others)

    @rule()
    def end(self) -> None:
        self.streams.end()
        self.ended = True

    @invariant()
    def what_is_held_is_charged(self) -> None:
        waiting = sum(stream.waiting_bytes for stream in self.known)
        backlog = 0 if self.ended else self.streams._backlog._size  # noqa: SLF001 - the rest of the sum
        held = waiting + backlog + self.streams.events.held_bytes
        assert self.budget.used - self.others == held

    def _reads(self, stream: MessageStream) -> None:
        self.known.append(stream)
        self.reading.append(stream)

    def _run(self, work: Coroutine[object, object, _T]) -> _T:
        return self.loop.run_until_complete(work)


def test_whatever_a_session_lives_through_what_it_holds_is_charged_and_in_the_end_nothing_is() -> None:
    """Ours: streams, backlog and replay share one budget, and whatever ends them gives it back."""
    run_state_machine_as_test(
        _SessionMachine, settings=settings(max_examples=150, stateful_step_count=50, deadline=None)
    )


# Calls.


async def test_a_modern_child_takes_no_new_call_while_the_budget_is_full() -> None:
    """Ours: what is in flight goes on."""
    budget = Budget(1000)
    fake = FakeChild()
    child = ModernChild(fake, Settings(), Owner(b"o", Seal()), budget=budget)
    running = asyncio.create_task(child.run())
    await fake.stdout.wait_wanted()
    exchange = await child.call(modern_rig.request())
    _full(budget)
    with pytest.raises(LimitReached):
        await child.call(modern_rig.request(b"2"))
    assert len(fake.stdin.lines) == 1
    await fake.says(modern_rig.answer(b"1", {}))
    assert budget.used == 1000 + exchange.waiting_bytes > 1000
    assert await exchange.receive(1) is not None
    assert exchange.complete
    budget.remove(1000)
    exchange.release()
    assert budget.used == 0
    fake.exit()
    await running


async def test_a_session_over_a_modern_child_pays_for_what_it_keeps_of_a_call() -> None:
    """Ours: the call is repeated with the answers to the child's questions, so it is kept until then."""
    budget = Budget(ROOMY)

    async def starts_for_ever() -> ModernChild:
        await asyncio.Event().wait()
        raise AssertionError

    session = LegacySession(
        session_rig.client(), starts_for_ever, Settings(), spawn=asyncio.create_task, budget=budget
    )
    request = session_rig.request("tools/call", {"name": "t", "arguments": {"text": "x" * 10_000}})
    exchange = await session.call(request)
    assert budget.used == len(request.source) > 10_000
    _full(budget)
    with pytest.raises(LimitReached):
        await session.call(request)
    budget.remove(budget.max_bytes)
    session.fail(BridgeBroken("over"))
    assert budget.used == exchange.waiting_bytes > 0
    await exchange.receive(1)
    assert budget.used == 0


@pytest.mark.parametrize(
    "ending",
    [
        "the client answers",
        "the child takes it back",
        "the child answers, and nobody comes",
        "the child answers, and the client comes",
        "nobody comes",
        "the child ends",
    ],
)
def test_a_parked_call_pays_for_its_questions_and_its_answer(ending: str) -> None:
    """Ours: whatever ends it. They are a child's, and as long as it likes."""

    async def main() -> None:
        budget = Budget(ROOMY)
        async with legacy_rig.legacy(park_timeout=100) as rig:
            rig.shared.budget = budget
            request = legacy_rig.modern_request()
            exchange, child_id = await rig.call(request)
            await rig.asks("q", text="x" * 10_000)
            assert budget.used > 10_000
            result = await rig.asked_of(exchange)
            question = budget.used
            assert 10_000 < question < 11_000
            if ending == "the client answers":
                exchange, _ = await rig.call(legacy_rig.repetition(request, result))
                assert budget.used == 0
                await rig.answers(child_id)
            elif ending == "the child takes it back":
                await rig.says(method="notifications/cancelled", params={"requestId": "q"})
                assert budget.used == 0
            elif ending.startswith("the child answers"):
                await rig.answers(child_id, {"text": "y" * 20_000})
                assert 20_000 < budget.used < 21_000
                if ending.endswith("client comes"):
                    exchange, _ = await rig.call(legacy_rig.repetition(request, result))
            if ending != "the child ends":
                await asyncio.sleep(100)
            exchange.release()
            if ending != "the child ends":
                assert budget.used == 0
        exchange.release()
        assert budget.used == 0

    legacy_rig.in_virtual_time(main)()


def test_a_question_that_there_is_no_room_for_is_refused_to_the_child() -> None:
    """Ours: the call goes on without it."""

    async def main() -> None:
        async with legacy_rig.legacy() as rig:
            rig.shared.budget = Budget(1000)
            exchange, child_id = await rig.call()
            rig.shared.budget.add(900)
            await rig.asks("q", text="x" * 10_000)
            (refusal,) = rig.replies("q")
            assert "no room" in refusal["error"]["message"]
            await rig.answers(child_id)
            assert (await legacy_rig.only_on(exchange))["result"]
            exchange.release()
            assert rig.shared.budget.used == 900

    legacy_rig.in_virtual_time(main)()
