"""Which stream a message takes while its client is away, and for how long anything waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.bridge import EventsLost, Exchange, MessageStream, Settings, StreamEnded
from stdio_broker.bridge.client_streams import ClientStreams
from tests.support.clock import run_in_virtual_time

QUESTION = b'{"jsonrpc":"2.0","id":"q","method":"roots/list"}'
PROGRESS = b'{"jsonrpc":"2.0","method":"notifications/progress"}'
LOG = b'{"jsonrpc":"2.0","method":"notifications/message"}'
CHANGED = b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'
ANSWER = b'{"jsonrpc":"2.0","id":1,"result":{}}'


class Client:
    """The streams of a session, and what they told their owner."""

    def __init__(self, **settings: float) -> None:
        self.lost: list[bytes] = []
        self.slow: list[Exchange] = []
        self.idle = 0
        self.streams = ClientStreams(
            Settings(**settings),  # type: ignore[arg-type] # some are numbers of things
            on_idle=self._count_idle,
            on_slow=self.slow.append,
            on_lost=self.lost.extend,
        )

    def _count_idle(self) -> None:
        self.idle += 1

    def open(self) -> Exchange:
        """Open a call whose client has seen an id."""
        exchange = self.streams.open()
        exchange.show(None)
        return exchange

    def open_lost(self) -> Exchange:
        """Open a call whose client has seen an id, and lost the stream."""
        exchange = self.open()
        self.streams.release(exchange)
        return exchange


async def read(stream: MessageStream) -> list[bytes]:
    """Return what can be read now: what was missed, then what waits."""
    messages = []
    while (missed := stream.missed()) is not None:
        messages.append(missed[1])
    while not (isinstance(stream, Exchange) and stream.complete):
        try:
            message = await stream.receive(0)
        except StreamEnded:
            break
        if message is None:
            break
        messages.append(message)
    return messages


def in_virtual_time(test: Callable[[], Coroutine[object, object, None]]) -> Callable[[], None]:
    """Run a test on a clock of its own."""

    def run() -> None:
        run_in_virtual_time(test())

    run.__name__ = test.__name__
    return run


@in_virtual_time
async def test_a_client_that_comes_back_gets_what_came_meanwhile_and_the_answer() -> None:
    """2025-11-25, transports: resume the stream from that point; issue 4: the answer is kept."""
    client = Client()
    call = client.open_lost()
    assert client.streams.suspended == 1
    client.streams.put(PROGRESS, call)
    client.streams.answer(call, ANSWER)
    await asyncio.sleep(59)
    stream = client.streams.resume(b"1_1")
    assert await read(stream) == [PROGRESS, ANSWER]
    assert client.streams.suspended == 0
    client.streams.release(stream)
    assert not client.streams.busy


@in_virtual_time
async def test_what_was_written_and_did_not_arrive_comes_first() -> None:
    client = Client()
    call = client.open()
    client.streams.put(PROGRESS, call)
    message = await call.receive(1)
    assert call.show(message) == b"1_2"
    client.streams.release(call)
    client.streams.put(LOG, call)
    stream = client.streams.resume(b"1_1")
    assert await read(stream) == [PROGRESS, LOG]
    client.streams.answer(call, ANSWER)
    assert await read(stream) == [ANSWER]


@in_virtual_time
async def test_an_answer_that_was_written_can_be_fetched_again_for_a_while() -> None:
    """Ours: written is not read; what a broken connection held is lost otherwise."""
    client = Client(resume_timeout=10)
    call = client.open()
    client.streams.answer(call, ANSWER)
    call.show(await call.receive(1))
    client.streams.release(call)
    assert not client.streams.busy
    for _ in range(2):
        await asyncio.sleep(9)
        stream = client.streams.resume(b"1_1")
        assert await read(stream) == [ANSWER]
        client.streams.release(stream)
    await asyncio.sleep(11)
    with pytest.raises(EventsLost):
        client.streams.resume(b"1_1")
    assert client.streams.events.held_bytes == 0


@in_virtual_time
async def test_who_comes_too_late_is_refused_and_all_is_released_as_for_a_client_without_ids() -> None:
    """Issue 4: progress and logs dropped, questions to the backlog; the answer has nowhere to go."""
    client = Client(resume_timeout=10)
    call = client.open_lost()
    for message in (PROGRESS, QUESTION, LOG):
        client.streams.put(message, call)
    await asyncio.sleep(9.9)
    assert (client.streams.busy, client.idle) == (True, 0)
    await asyncio.sleep(0.2)
    assert (client.streams.busy, client.idle) == (False, 1)
    assert client.streams.lost_messages == 2
    with pytest.raises(EventsLost):
        client.streams.resume(b"1_1")
    client.streams.answer(call, ANSWER)
    assert await read(client.streams.listen()) == [QUESTION]


@in_virtual_time
async def test_a_question_that_waits_for_nobody_any_more_is_refused_if_the_backlog_is_full() -> None:
    client = Client(resume_timeout=10, max_backlog_messages=0)
    client.streams.put(QUESTION, client.open_lost())
    await asyncio.sleep(11)
    assert client.lost == [QUESTION]


@in_virtual_time
async def test_an_exchange_that_never_showed_an_id_is_released_at_once() -> None:
    """Issue 4: its client has nothing to come back with."""
    client = Client()
    call = client.streams.open()
    client.streams.put(QUESTION, call)
    client.streams.release(call)
    assert not client.streams.busy
    assert client.streams.events.streams == 0
    assert await read(client.streams.listen()) == [QUESTION]


@in_virtual_time
async def test_no_more_exchanges_wait_than_the_bound_says() -> None:
    """Ours: what waits for clients that may never come is bounded by number, too."""
    client = Client(max_suspended=2)
    for _ in range(3):
        client.open_lost()
    assert client.streams.suspended == 2
    with pytest.raises(EventsLost):
        client.streams.resume(b"3_1")
    client.streams.resume(b"1_1")
    client.open_lost()
    assert client.streams.suspended == 2


@in_virtual_time
async def test_an_exchange_that_waits_is_bounded_like_one_that_is_read_too_slowly() -> None:
    """Ours: one rule for both; who comes back is told."""
    client = Client(max_stream_bytes=1000)
    call = client.open_lost()
    client.streams.put(b"x" * 900, call)
    client.streams.put(b"y" * 900, call)
    assert client.slow == [call]
    assert client.streams.lost_messages == 1
    client.streams.answer(call, ANSWER)  # what a bridge does then
    stream = client.streams.resume(b"1_1")
    assert stream.cut
    assert await read(stream) == [b"x" * 900, ANSWER]


@in_virtual_time
async def test_the_later_of_two_resumes_takes_over() -> None:
    """Issue 4; ours: a client comes back long before we notice that its old connection is dead."""
    client = Client()
    call = client.open()
    first = client.streams.resume(b"1_1")
    client.streams.put(PROGRESS, call)
    second = client.streams.resume(b"1_1")
    for earlier in (call, first):
        with pytest.raises(StreamEnded):
            await earlier.receive(1)
        client.streams.release(earlier)
    client.streams.answer(call, ANSWER)
    assert await read(second) == [PROGRESS, ANSWER]
    client.streams.release(second)


@in_virtual_time
async def test_a_cut_after_a_resume_names_the_call_that_it_cuts() -> None:
    client = Client(max_stream_bytes=1000)
    call = client.open_lost()
    client.streams.resume(b"1_1")
    for _ in range(2):
        client.streams.put(b"x" * 900, call)
    assert client.slow == [call]


@in_virtual_time
async def test_a_question_about_the_only_call_waits_on_its_stream_but_nobody_is_reachable() -> None:
    """protocol.md, 6.2: to the only open POST; a ping wants an answer now, so it does not count."""
    client = Client()
    client.open_lost()
    get = client.streams.listen()
    assert not client.streams.reachable
    client.streams.send_related(QUESTION)
    assert await read(get) == []
    assert await read(client.streams.resume(b"1_1")) == [QUESTION]
    assert client.streams.reachable


@in_virtual_time
async def test_an_exchange_that_waits_is_passed_over_where_a_client_reads() -> None:
    client = Client()
    client.open_lost()
    reading = client.streams.open()
    client.streams.send_related(QUESTION)
    client.streams.send_unrelated(CHANGED)
    assert await read(reading) == [QUESTION, CHANGED]


@in_virtual_time
async def test_a_question_waits_on_the_oldest_call_if_all_of_them_wait_and_news_in_the_backlog() -> None:
    """Ours: a question belongs to a call, and is asked when its client comes back to one."""
    client = Client()
    client.open_lost()
    client.open_lost()
    client.streams.send_related(QUESTION)
    client.streams.send_unrelated(CHANGED)
    assert await read(client.streams.resume(b"1_1")) == [QUESTION]
    assert await read(client.streams.resume(b"2_1")) == []
    assert await read(client.streams.listen()) == [CHANGED]


@in_virtual_time
async def test_a_get_stream_is_resumed_behind_what_arrived_and_gets_the_backlog() -> None:
    """2025-11-25, transports: regardless of how the original stream was initiated."""
    client = Client()
    get = client.streams.listen()
    ids = [get.show(message) for message in (CHANGED, LOG)]
    client.streams.release(get)
    client.streams.send_unrelated(PROGRESS)
    await asyncio.sleep(100_000)
    assert ids[0] is not None
    stream = client.streams.resume(ids[0])
    assert await read(stream) == [LOG, PROGRESS]
    assert stream.show(CHANGED) == b"1_3"
    client.streams.send_unrelated(CHANGED)
    assert await read(stream) == [CHANGED]


@in_virtual_time
async def test_a_get_stream_that_another_one_took_over_can_be_resumed_for_a_while() -> None:
    client = Client(resume_timeout=10)
    old = client.streams.listen()
    old.show(CHANGED)
    new = client.streams.listen()
    new.show(None)
    await asyncio.sleep(9)
    resumed = client.streams.resume(b"1_0")
    assert not new.attached
    assert await read(resumed) == [CHANGED]
    await asyncio.sleep(11)
    with pytest.raises(EventsLost):
        client.streams.resume(b"2_1")
    assert await read(client.streams.resume(b"1_0")) == [CHANGED]


@in_virtual_time
async def test_a_resumed_get_takes_over_from_its_own_earlier_connection() -> None:
    client = Client()
    get = client.streams.listen()
    get.show(None)
    client.streams.send_unrelated(CHANGED)
    resumed = client.streams.resume(b"1_1")
    client.streams.release(get)
    assert await read(resumed) == [CHANGED]
    client.streams.send_unrelated(CHANGED)
    assert await read(resumed) == [CHANGED]


@in_virtual_time
async def test_everything_dies_with_the_session() -> None:
    """Issue 4; no timer and no message is left behind."""
    client = Client()
    call = client.open_lost()
    get = client.streams.listen()
    get.show(CHANGED)
    client.streams.answer(call, ANSWER)
    client.streams.end()
    assert not client.streams.busy
    assert client.idle >= 1
    assert (client.streams.events.held_bytes, client.streams.events.streams) == (0, 0)
    assert call.detach() == []
    for event_id in (b"1_1", b"2_0"):
        with pytest.raises(EventsLost):
            client.streams.resume(event_id)
    assert get.show(CHANGED) == b"2_2", "what is still written has an id"
    late = client.open()
    client.streams.release(late)
    assert not client.streams.busy


@in_virtual_time
async def test_a_client_may_leave_and_come_back_any_number_of_times() -> None:
    """SEP-1699: polling; every time with the newest id."""
    client = Client(resume_timeout=10)
    call = client.open()
    stream: MessageStream = call
    event_id: bytes | None = b"1_1"
    for _ in range(20):
        assert client.streams.suspend(stream)
        client.streams.release(stream)
        client.streams.put(PROGRESS, call)
        await asyncio.sleep(9)
        assert event_id is not None
        stream = client.streams.resume(event_id)
        assert stream.missed() is None
        stream.show(None)
        event_id = stream.show(await stream.receive(1))
    client.streams.answer(call, ANSWER)
    assert await read(stream) == [ANSWER]
    assert not client.streams.suspend(stream)
    client.streams.release(stream)
    assert client.streams.events.held_events == 20


class Caller:
    """One call of a client that loses its stream and comes back, with all that was sent and received."""

    def __init__(self, client: Client) -> None:
        self.sent: list[bytes] = []
        self.got: list[bytes] = []
        self._streams = client.streams
        self._call = client.open()
        self._stream: MessageStream | None = self._call
        assert self._call.log is not None
        self._seen = b"%d_1" % self._call.log.number
        self._answered = False

    def put(self) -> None:
        """Let the server say something."""
        if not self._answered:
            self._streams.put(self._next(), self._call)

    def answer(self) -> None:
        """Let the server answer."""
        if not self._answered:
            self._answered = True
            self._streams.answer(self._call, self._next())

    def lose(self) -> None:
        """Let the connection break."""
        if self._stream is not None:
            self._streams.release(self._stream)
            self._stream = None

    def resume(self) -> None:
        """Let the client come back, whether the broker has noticed that it was gone or not."""
        self._stream = self._streams.resume(self._seen)

    async def read(self) -> None:
        """Let the client read what there is."""
        stream = self._stream
        if stream is None:
            return
        while (missed := stream.missed()) is not None:
            self._seen, message = missed
            self.got.append(message)
        while not (isinstance(stream, Exchange) and stream.complete):
            waiting = await stream.receive(0)
            if waiting is None:
                break
            self._seen = stream.show(waiting) or b""
            self.got.append(waiting)

    def _next(self) -> bytes:
        message = b"%d of %s" % (len(self.sent), self._seen)
        self.sent.append(message)
        return message


STEPS = ("put", "answer", "lose", "resume", "read")


@given(steps=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(STEPS)), max_size=40))
async def test_no_order_of_losing_and_coming_back_loses_repeats_or_mixes_messages(
    steps: list[tuple[int, str]],
) -> None:
    """Issue 4: each message with its own request, in order, and none twice to a client that resumes."""
    client = Client()
    callers = [Caller(client) for _ in range(3)]
    for number, step in [*steps, *((n, s) for n in range(3) for s in ("answer", "resume", "read"))]:
        if step == "read":
            await callers[number].read()
        else:
            getattr(callers[number], step)()
    assert [caller.got for caller in callers] == [caller.sent for caller in callers]
    assert all(caller.sent for caller in callers)
    client.streams.end()
