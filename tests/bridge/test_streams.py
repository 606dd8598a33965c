"""Messages on their way to one client: bounded, in order, and never a reader left hanging."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.bridge import Budget, Exchange, MessageStream, StreamEnded
from stdio_broker.bridge.events import EventLog
from stdio_broker.bridge.streams import MESSAGE_OVERHEAD_BYTES
from stdio_broker.protocol.encoding import Pieces
from tests.support.clock import run_in_virtual_time

_ROOMY = 1_000_000


def _stream(max_bytes: int) -> MessageStream:
    return MessageStream(asyncio.get_running_loop(), max_bytes=max_bytes)


def _exchange(max_bytes: int) -> Exchange:
    return Exchange(asyncio.get_running_loop(), max_bytes=max_bytes)


async def _rest(stream: MessageStream) -> list[bytes]:
    """Return everything that is on a stream that has ended."""
    messages = []
    try:
        while True:
            message = await stream.receive(1)
            assert message is not None, "the stream has not ended"
            messages.append(message)
    except StreamEnded:
        return messages


async def test_messages_come_in_order_then_the_end_for_ever() -> None:
    stream = _stream(_ROOMY)
    assert all(stream.put(message) for message in (b"a", b"b"))
    stream.end()
    assert await _rest(stream) == [b"a", b"b"]
    with pytest.raises(StreamEnded):
        await stream.receive(1)


def test_no_message_in_time_is_none_and_loses_nothing() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        stream = _stream(_ROOMY)
        assert await stream.receive(15) is None
        assert loop.time() == pytest.approx(15)
        loop.call_later(5, stream.put, b"a")
        assert await stream.receive(15) == b"a"
        assert loop.time() == pytest.approx(20)
        assert await stream.receive(15) is None

    run_in_virtual_time(main())


@pytest.mark.parametrize("waker", ["message", "end", "both"])
async def test_a_waiting_reader_is_woken(waker: str) -> None:
    stream = _stream(_ROOMY)
    reading = asyncio.create_task(_rest(stream))
    await asyncio.sleep(0)
    if waker != "end":
        stream.put(b"a")
    if waker == "message":
        await asyncio.sleep(0)
    stream.end()
    assert await reading == ([] if waker == "end" else [b"a"])


async def test_a_reader_that_is_cancelled_takes_no_message_with_it() -> None:
    stream = _stream(_ROOMY)
    reading = asyncio.create_task(stream.receive(60))
    await asyncio.sleep(0)
    stream.put(b"a")
    reading.cancel()
    await asyncio.wait({reading})
    assert reading.cancelled()
    assert await stream.receive(1) == b"a"


async def test_a_stream_that_has_ended_or_has_no_client_takes_nothing() -> None:
    for close in (MessageStream.end, MessageStream.detach):
        stream = _stream(_ROOMY)
        assert stream.open
        close(stream)
        assert not stream.put(b"a")
        assert not stream.cut, "it was not too slow"


async def test_detaching_returns_what_was_not_taken() -> None:
    stream = _stream(_ROOMY)
    for message in (b"a", b"b", b"c"):
        stream.put(message)
    assert await stream.receive(1) == b"a"
    assert stream.detach() == [b"b", b"c"]
    assert stream.detach() == []


@given(sizes=st.lists(st.integers(0, 300), max_size=20), bound=st.integers(0, 2000))
async def test_a_stream_is_cut_at_the_message_that_does_not_fit(sizes: list[int], bound: int) -> None:
    """Our bound: one slow reader costs its own stream only. What it has, it keeps."""
    stream = _stream(bound)
    taken: list[bytes] = []
    held = 0
    for size in sizes:
        message = b"x" * size
        if stream.put(message):
            taken.append(message)
            held += size + MESSAGE_OVERHEAD_BYTES
        elif not stream.cut:
            pytest.fail("refused without being cut")
        else:
            break
        # The first message always fits.
        assert len(taken) == 1 or held <= bound
    assert stream.cut == (len(taken) < len(sizes))
    stream.end()
    assert await _rest(stream) == taken


async def test_what_was_read_makes_room_again() -> None:
    stream = _stream(200 + MESSAGE_OVERHEAD_BYTES)
    for _ in range(100):
        assert stream.put(b"x" * 200)
        await stream.receive(1)
    assert not stream.cut


async def test_one_message_always_fits_a_stream_that_nothing_waits_on() -> None:
    """Our rule: a stream is cut because its reader is slow; a question may hold a large image."""
    assert _stream(1000).put(b"x" * 10_000)


async def test_an_answer_fits_whatever_its_size_and_is_the_last_message() -> None:
    """Our rule: a final answer always fits."""
    exchange = _exchange(100)
    assert exchange.put(b"a")
    exchange.answer(b"x" * 10_000)
    assert exchange.answered
    assert not exchange.put(b"late")
    assert not exchange.cut
    last = [(await exchange.receive(1), exchange.complete) for _ in range(2)]
    assert last == [(b"a", False), (b"x" * 10_000, True)]
    with pytest.raises(StreamEnded):
        await exchange.receive(1)


async def test_an_answer_also_ends_an_exchange_that_was_cut() -> None:
    exchange = _exchange(100)
    exchange.put(b"a")
    assert not exchange.put(b"x" * 100)
    exchange.answer(b"sorry")
    assert await _rest(exchange) == [b"a", b"sorry"]


async def test_an_answer_without_a_client_is_kept_by_nobody() -> None:
    exchange = _exchange(_ROOMY)
    exchange.detach()
    exchange.answer(b"a")
    assert exchange.answered
    assert exchange.detach() == []


async def test_waiting_for_the_answer_leaves_it_and_what_came_before_to_the_reader() -> None:
    exchange = _exchange(_ROOMY)
    waiting = asyncio.create_task(exchange.wait_answered())
    for message in (b"a", b"b"):
        await asyncio.sleep(0)
        exchange.put(message)
    await asyncio.sleep(0)
    assert not waiting.done()
    exchange.answer(b"c")
    assert await waiting == b"c"
    assert await exchange.wait_answered() == b"c"
    assert await _rest(exchange) == [b"a", b"b", b"c"]


async def test_who_stops_waiting_for_the_answer_leaves_the_exchange_as_it_was() -> None:
    exchange = _exchange(_ROOMY)
    waiting = asyncio.create_task(exchange.wait_answered())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    exchange.answer(b"a")
    assert await exchange.receive(1) == b"a"


@given(pauses=st.lists(st.integers(0, 2), min_size=1, max_size=9))
async def test_no_order_of_putting_and_reading_loses_or_repeats_a_message(pauses: list[int]) -> None:
    exchange = _exchange(_ROOMY)
    *sent, answer = [b"%d" % number for number in range(len(pauses))]
    received: list[bytes] = []

    async def read() -> None:
        while not exchange.complete:
            message = await exchange.receive(60)
            assert message is not None
            received.append(message)

    reading = asyncio.create_task(read())
    for turns, message in zip(pauses, [*sent, answer], strict=True):
        for _ in range(turns):
            await asyncio.sleep(0)
        if message is answer:
            exchange.answer(message)
        else:
            exchange.put(message)
    await reading
    assert received == [*sent, answer]


# Coming back.


def _log() -> EventLog[MessageStream]:
    return EventLog(max_events=2, max_bytes=_ROOMY)


async def test_a_stream_without_a_log_shows_no_ids() -> None:
    """2026-07-28 has no resumption; its streams are the same class."""
    stream = _stream(_ROOMY)
    assert stream.show(b"a") is stream.show(None) is None
    assert stream.log is None
    assert stream.missed() is None


async def test_a_stream_has_no_number_until_it_shows_an_id() -> None:
    """Ours: an answer that goes out as JSON costs nothing of this."""
    events = _log()
    loop = asyncio.get_running_loop()
    first, second = (MessageStream(loop, max_bytes=_ROOMY, events=events) for _ in range(2))
    assert events.streams == 0
    assert second.show(None) == b"1_1"
    assert second.show(b"a") == b"1_2"
    assert first.show(b"a") == b"2_1"
    assert events.held_events == 2


async def test_a_client_that_came_back_gets_what_it_missed_one_by_one() -> None:
    events = _log()
    loop = asyncio.get_running_loop()
    lost = MessageStream(loop, max_bytes=_ROOMY, events=events)
    for message in (b"a", b"b"):
        lost.show(message)
    assert lost.log is not None
    stream = MessageStream(loop, max_bytes=_ROOMY, events=events)
    stream.follow(lost.log, 0)
    assert [stream.missed() for _ in range(4)] == [(b"1_1", b"a"), (b"1_2", b"b"), None, None]
    assert stream.show(b"c") == b"1_3"


async def test_what_is_given_up_while_it_is_repeated_cuts_the_stream() -> None:
    """Ours: repeating holds nothing; a client that reads too slowly for that must come back, and is told."""
    events = _log()
    loop = asyncio.get_running_loop()
    lost, other = (MessageStream(loop, max_bytes=_ROOMY, events=events) for _ in range(2))
    for message in (b"a", b"b"):
        lost.show(message)
    assert lost.log is not None
    stream = MessageStream(loop, max_bytes=_ROOMY, events=events)
    stream.follow(lost.log, 0)
    other.show(b"x")
    with pytest.raises(StreamEnded):
        stream.missed()
    assert stream.cut


async def test_a_successor_has_all_that_waits_and_the_earlier_reader_ends() -> None:
    call = _exchange(_ROOMY)
    for message in (b"a", b"b"):
        call.put(message)
    assert await call.receive(1) == b"a"
    successor = call.succeed()
    assert await _rest(call) == []
    successor.answer(b"c")
    assert await _rest(successor) == [b"b", b"c"]
    assert successor.call is successor.succeed().call is call


async def test_a_reader_that_waits_learns_that_another_one_took_over() -> None:
    call = _exchange(_ROOMY)
    reading = asyncio.create_task(_rest(call))
    await asyncio.sleep(0)
    successor = call.succeed()
    assert await reading == []
    successor.put(b"a")
    assert await successor.receive(1) == b"a"


async def test_a_successor_of_an_answered_exchange_is_answered() -> None:
    call = _exchange(_ROOMY)
    call.answer(b"a")
    successor = call.succeed()
    assert not successor.complete
    assert await _rest(successor) == [b"a"]
    assert successor.succeed().complete


async def test_a_successor_has_the_room_that_is_left() -> None:
    call = _exchange(300 + 2 * MESSAGE_OVERHEAD_BYTES)
    call.put(b"x" * 200)
    successor = call.succeed()
    assert not successor.has_room_for(b"x" * 101)
    assert successor.has_room_for(b"x" * 100)


async def test_an_earlier_reader_that_repeats_what_was_missed_stops_too() -> None:
    events = _log()
    call = Exchange(asyncio.get_running_loop(), max_bytes=_ROOMY, events=events)
    call.show(b"a")
    assert call.log is not None
    second = call.succeed()
    second.follow(call.log, 0)
    second.succeed()
    with pytest.raises(StreamEnded):
        second.missed()
    assert not second.cut, "it was not too slow"


# The first thing that comes, without a task.


def _noting(exchange: Exchange) -> list[bytes | None]:
    told: list[bytes | None] = []
    exchange.when_first(lambda answer: told.append(None if answer is None else bytes(answer)))
    return told


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(
    ("happens", "expected", "left"),
    [
        (["answer"], [b"a"], []),
        (["put"], [None], [b"p"]),
        (["put", "answer"], [None], [b"p", b"a"]),
        (["put", "put"], [None], [b"p", b"p"]),
        (["end"], [None], []),
        (["put", "end"], [None], [b"p"]),
        (["answer", "end"], [b"a"], []),
        (["answer", "put"], [b"a"], []),
        (["succeed"], [None], []),
    ],
)
async def test_whoever_waits_for_the_first_thing_is_told_once_what_it_is(
    happens: list[str], expected: list[bytes | None], left: list[bytes], *, before: bool
) -> None:
    """Ours: the answer if that comes first, None if anything else does, whether it came before or comes."""
    exchange = _exchange(_ROOMY)
    told: list[bytes | None] = []
    if not before:
        told = _noting(exchange)
    for what in happens:
        if what == "answer":
            exchange.answer(b"a")
        elif what == "put":
            exchange.put(b"p")
        elif what == "end":
            exchange.end()
        else:
            exchange.succeed()
    if before:
        told = _noting(exchange)
    assert told == expected
    rest: list[bytes] = []
    while (message := exchange.receive_nowait()) is not None:
        rest.append(message)
    assert rest == left
    assert exchange.complete == ("answer" in happens)
    assert exchange.waiting_bytes == 0


async def test_an_answer_that_is_told_is_charged_to_nobody() -> None:
    """Ours: it never waits; an answer in pieces comes as it is."""
    budget = Budget()
    exchange = Exchange(asyncio.get_running_loop(), max_bytes=_ROOMY, budget=budget)
    told: list[bytes | Pieces | None] = []
    exchange.when_first(told.append)
    pieces = Pieces([b"a", memoryview(b"b")])
    exchange.answer(pieces)
    assert told == [pieces]
    assert (budget.used, exchange.complete, exchange.open) == (0, True, False)


async def test_what_is_taken_back_is_received_as_any_other_message() -> None:
    """Ours: `read_first`."""
    exchange = _exchange(_ROOMY)
    told = _noting(exchange)
    exchange.read_first()
    receiving = asyncio.ensure_future(exchange.receive(10))
    await asyncio.sleep(0)
    exchange.answer(b"a")
    assert await receiving == b"a"
    assert (told, exchange.complete) == ([], True)
    assert exchange.receive_nowait() is None


def test_the_answer_can_be_waited_for_if_it_is_the_first_thing() -> None:
    """Ours: `first`; what else comes, and when nothing does in time, is None, and nothing is lost."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        exchange = _exchange(_ROOMY)
        loop.call_later(5, exchange.answer, b"a")
        assert await exchange.first(10) == b"a"
        exchange = _exchange(_ROOMY)
        loop.call_later(5, exchange.put, b"p")
        assert await exchange.first(10) is None
        assert exchange.receive_nowait() == b"p"
        started = loop.time()
        assert await exchange.first(10) is None
        assert loop.time() == pytest.approx(started + 10)
        waiting = asyncio.ensure_future(exchange.first(10))
        await asyncio.sleep(1)
        waiting.cancel()
        exchange.answer(b"a")
        await asyncio.wait({waiting})
        assert waiting.cancelled()

    run_in_virtual_time(main())
