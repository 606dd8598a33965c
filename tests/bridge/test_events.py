"""What is kept of a session's event streams: within its bounds, and of one stream never another's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.bridge.events import EVENT_OVERHEAD_BYTES, EventLog, EventsLost, StreamLog
from stdio_broker.errors import LocalProtocolError

ROOMY = 1_000_000


class Timer:
    """A timer that tells whether it was cancelled."""

    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


def event_log(*, max_events: int = ROOMY, max_bytes: int = ROOMY) -> EventLog[str]:
    return EventLog(max_events=max_events, max_bytes=max_bytes)


def rest(events: EventLog[str], event_id: bytes) -> list[tuple[bytes, bytes]]:
    """Return id and message of all that is repeated to a client that has seen this event last."""
    log, number = events.find(event_id)
    missed = []
    while (event := events.after(log, number)) is not None:
        number, *following = event
        missed.append((following[0], following[1]))
    return missed


def test_what_follows_an_event_comes_again_in_order_under_the_same_ids() -> None:
    """2025-11-25, transports, "Resumability": replay what would have been sent after the last event id."""
    events = event_log()
    log = events.start("post")
    ids = [events.record(log, message) for message in (b"a", b"b", b"c")]
    assert ids == [b"1_1", b"1_2", b"1_3"]
    assert rest(events, b"1_0") == list(zip(ids, (b"a", b"b", b"c"), strict=True))
    assert rest(events, ids[0]) == [(b"1_2", b"b"), (b"1_3", b"c")]
    assert rest(events, ids[2]) == []


def test_only_the_stream_that_was_lost_is_repeated() -> None:
    """2025-11-25, transports: MUST NOT replay what would have been delivered on a different stream."""
    events = event_log()
    one, other = events.start("one"), events.start("other")
    for number in range(4):
        events.record((one, other)[number % 2], b"%d" % number)
    assert [message for _, message in rest(events, b"1_0")] == [b"0", b"2"]
    assert [message for _, message in rest(events, b"2_0")] == [b"1", b"3"]


def test_an_event_without_a_message_has_an_id_and_is_not_repeated() -> None:
    events = event_log()
    log = events.start("post")
    assert events.mark(log) == b"1_1"
    events.record(log, b"a")
    assert events.mark(log) == b"1_3"
    assert rest(events, b"1_1") == [(b"1_2", b"a")]
    assert rest(events, b"1_3") == []
    assert events.held_events == 1


@pytest.mark.parametrize(
    "event_id",
    [
        b"x",
        b"1",
        b"1_",
        b"_1",
        b"1_1_1",
        b"1_-1",
        b"+1_1",
        b"1_1 ",
        b"1_1\n",
        "1_\N{SUPERSCRIPT TWO}".encode(),
        b"9" * 99,
    ],
)
def test_what_is_no_id_of_ours_is_the_mistake_of_the_client(event_id: bytes) -> None:
    """Ours: 400, not a search for a stream of that name."""
    events = event_log()
    events.record(events.start("post"), b"a")
    with pytest.raises(LocalProtocolError, match="Last-Event-ID") as caught:
        events.find(event_id)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("event_id", [b"2_1", b"0_0", b"1_2", b"999999999999999_1"])
def test_an_event_that_never_was_cannot_be_resumed_from(event_id: bytes) -> None:
    events = event_log()
    events.record(events.start("post"), b"a")
    with pytest.raises(EventsLost):
        events.find(event_id)


def test_a_resume_below_the_horizon_is_refused_and_at_the_horizon_it_is_not() -> None:
    """protocol.md, 7: overflow drops the oldest; what cannot be repeated in full is not repeated at all."""
    events = event_log(max_events=2)
    log = events.start("post")
    for message in (b"a", b"b", b"c", b"d"):
        events.record(log, message)
    for event_id in (b"1_0", b"1_1"):
        with pytest.raises(EventsLost):
            events.find(event_id)
    assert rest(events, b"1_2") == [(b"1_3", b"c"), (b"1_4", b"d")]


def test_the_events_of_all_streams_share_the_room() -> None:
    events = event_log(max_events=3)
    one, other = events.start("one"), events.start("other")
    events.record(one, b"a")
    for _ in range(3):
        events.record(other, b"b")
    with pytest.raises(EventsLost):
        events.find(b"1_0")
    assert rest(events, b"1_1") == [], "the client has all of it"
    assert len(rest(events, b"2_0")) == 3


def test_an_event_that_is_too_long_is_not_kept_and_costs_no_other_stream_anything() -> None:
    """Ours: a bound on bytes; a resume that would skip it is refused."""
    events = event_log(max_bytes=1000)
    one, other = events.start("one"), events.start("other")
    events.record(other, b"kept")
    events.record(one, b"before")
    assert events.record(one, b"x" * 1000) == b"1_2"
    events.record(one, b"behind")
    with pytest.raises(EventsLost):
        events.find(b"1_1")
    assert rest(events, b"1_2") == [(b"1_3", b"behind")]
    assert rest(events, b"2_0") == [(b"2_1", b"kept")]


def test_a_stream_that_is_over_is_forgotten_with_its_last_event() -> None:
    """Ours: the table of streams is bounded by the events that are kept."""
    events = event_log(max_events=2)
    log, timer = events.start("post"), Timer()
    events.record(log, b"a")
    events.retire(log, timer)
    assert rest(events, b"1_0") == [(b"1_1", b"a")]
    newer = events.start("newer")
    for _ in range(2):
        events.record(newer, b"b")
    assert events.streams == 1
    assert timer.cancelled
    with pytest.raises(EventsLost):
        events.find(b"1_1")


def test_a_stream_that_is_over_and_holds_nothing_is_forgotten_at_once() -> None:
    events = event_log()
    log, timer = events.start("post"), Timer()
    events.mark(log)
    events.retire(log, timer)
    assert events.streams == 0
    assert timer.cancelled


def test_a_stream_that_a_client_came_back_to_stays() -> None:
    events = event_log(max_events=1)
    log, timer = events.start("post"), Timer()
    events.record(log, b"a")
    events.retire(log, timer)
    events.revive(log)
    assert timer.cancelled
    events.record(events.start("newer"), b"b")
    assert rest(events, b"1_1") == []


@pytest.mark.parametrize("end", [lambda events, log: events.forget(log), lambda events, _log: events.close()])
def test_what_is_forgotten_holds_nothing_and_has_ids_still(
    end: Callable[[EventLog[str], StreamLog[str]], None],
) -> None:
    """Ours: a stream that is being written when its session ends is written to its end."""
    events = event_log()
    log = events.start("post")
    events.record(log, b"a")
    end(events, log)
    assert (events.held_bytes, events.held_events, events.streams) == (0, 0, 0)
    assert events.record(log, b"b") == b"1_2"
    assert (events.held_bytes, events.held_events) == (0, 0)
    with pytest.raises(EventsLost):
        events.find(b"1_1")
    with pytest.raises(EventsLost):
        events.after(log, 1)


def test_a_stream_that_begins_after_the_end_is_not_kept() -> None:
    events = event_log()
    events.close()
    assert events.record(events.start("post"), b"a") == b"1_1"
    assert (events.streams, events.held_bytes) == (0, 0)


@given(
    writes=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 300)), max_size=60),
    max_events=st.integers(1, 20),
    max_bytes=st.integers(0, 4000),
    over=st.sets(st.integers(0, 3)),
)
def test_no_order_of_writes_breaks_a_bound_or_a_promise(
    writes: list[tuple[int, int]], max_events: int, max_bytes: int, over: set[int]
) -> None:
    """Ours: bytes counted, not guessed; from every id either all that followed comes again, or nothing."""
    events = event_log(max_events=max_events, max_bytes=max_bytes)
    logs = [events.start(str(number)) for number in range(4)]
    written: list[list[tuple[bytes, bytes]]] = [[], [], [], []]
    for stream, size in writes:
        message = b"x" * size
        written[stream].append((events.record(logs[stream], message), message))
        assert events.held_bytes <= max_bytes
        assert events.held_events <= max_events
    for stream in over:
        events.retire(logs[stream], Timer())
    assert events.streams >= 4 - len(over)
    held = 0
    for stream, log in enumerate(logs):
        held += sum(len(message) + EVENT_OVERHEAD_BYTES for message in log.kept.values())
        for number in range(len(written[stream]) + 1):
            try:
                assert rest(events, b"%d_%d" % (stream + 1, number)) == written[stream][number:]
            except EventsLost:
                assert any(index + 1 not in log.kept for index in range(number, log.last)) or stream in over
    assert held == events.held_bytes
