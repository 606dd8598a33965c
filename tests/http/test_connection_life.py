"""How a connection ends: its client goes, is too slow, sends what is no HTTP, or the server closes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from stdio_broker.bridge import Budget
from stdio_broker.http.incoming import READ_AHEAD_BYTES
from stdio_broker.http.wire import HttpRequest, PeerGone, PeerTooSlow
from tests.http.wire_rig import GET, Wire, get, ok, post, turns
from tests.support.clock import run_in_virtual_time

HEADERS = ((b"content-type", b"text/event-stream"),)
CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"


def virtual(main: Callable[[], Coroutine[object, object, None]]) -> Callable[[], None]:
    """Run a test in virtual time."""

    def run() -> None:
        run_in_virtual_time(main())

    run.__name__, run.__doc__ = main.__name__, main.__doc__
    return run


# The client goes.


async def test_a_request_whose_client_has_gone_is_not_served() -> None:
    """Ours: nobody would read the answer."""
    wire = Wire()
    wire.feed(get("/1") + get("/2"))
    wire.transport.leave()
    await turns()
    ok(wire.requests[0])
    assert (wire.paths, wire.statuses()) == (["/1"], [])
    assert wire.requests[0].lost


async def test_a_body_whose_client_goes_is_not_waited_for() -> None:
    """wire.py: `PeerGone`, now and for whoever asks later."""
    wire = Wire()
    wire.feed(post(b"abc")[:-1])
    reading = asyncio.ensure_future(wire.requests[0].body(10))
    await turns()
    wire.transport.leave()
    for awaited in (reading, wire.requests[0].body(10)):
        with pytest.raises(PeerGone):
            await awaited


async def test_a_body_that_came_whole_is_there_though_its_client_has_gone() -> None:
    """Ours: a notification that was sent counts."""
    wire = Wire()
    wire.feed(post(b"abc"))
    wire.transport.leave()
    await turns()
    assert await wire.requests[0].body(10) == b"abc"


async def test_a_body_that_nobody_waits_for_any_more_is_received_all_the_same() -> None:
    """Ours: whoever waited was cancelled; the connection goes on."""
    wire = Wire()
    wire.feed(post(b"abc")[:-1])
    reading = asyncio.ensure_future(wire.requests[0].body(10))
    await turns()
    reading.cancel()
    wire.feed(b"c")
    await asyncio.wait({reading})
    ok(wire.requests[0])
    wire.feed(GET)
    ok(wire.requests[1])
    assert wire.statuses() == [200, 200]


async def test_whoever_wants_to_know_is_told_that_the_client_has_gone() -> None:
    """wire.py: one at a time; not if it was taken back."""
    told: list[str] = []
    for taken_back in (False, True):
        wire = Wire()
        wire.feed(GET)
        request = wire.requests[0]
        request.when_gone(lambda: told.append("first"))
        request.when_gone(lambda: told.append("second"))
        if taken_back:
            request.when_gone(None)
        wire.transport.leave()
        await turns()
    assert told == ["second"]


async def test_whoever_asks_too_late_is_told_soon_unless_that_is_taken_back() -> None:
    """wire.py: `when_gone`; not while it is being called."""
    told: list[str] = []
    wire = Wire()
    wire.feed(GET)
    request = wire.requests[0]
    wire.transport.leave()
    await turns()
    request.when_gone(lambda: told.append("taken back"))
    request.when_gone(None)
    await turns()
    request.when_gone(lambda: told.append("gone"))
    assert told == []
    await turns()
    assert told == ["gone"]


async def test_a_client_that_has_got_its_answer_may_go() -> None:
    """wire.py: `when_gone` is not called if the answer was complete before."""
    told: list[str] = []
    wire = Wire(lambda request: request.when_gone(lambda: told.append(request.path)))
    wire.feed(get("/1"))
    ok(wire.requests[0])
    wire.feed(get("/2"))
    wire.transport.leave()
    await turns()
    assert told == ["/2"]


async def test_a_stream_whose_client_goes_is_written_to_nobody() -> None:
    """Ours: whoever writes may not have heard of it yet."""
    wire = Wire()
    wire.feed(get("/1"), get("/2"))
    request = wire.requests[0]
    request.start_stream(HEADERS)
    wire.transport.take()
    wire.transport.leave()
    await request.write(b"x")
    await turns()
    await request.write(b"x")
    request.end_stream()
    request.fail()
    assert (wire.transport.take(), wire.paths) == (b"", ["/1"])


async def test_nothing_is_asked_of_a_transport_that_has_gone() -> None:
    """Ours: uvloop's complains."""
    wire = Wire()
    wire.feed(GET)
    wire.transport.leave()
    await turns()
    wire.transport.reading = True
    wire.connection.pause_reading()
    assert wire.reads()
    wire.transport.reading = False
    wire.connection.resume_reading()
    assert not wire.transport.reading
    wire.connection.abort()
    wire.connection.finish()
    assert not wire.transport.aborted


async def test_a_transport_is_asked_once() -> None:
    """Ours: whoever pauses the reading need not know who else does."""
    wire = Wire()
    for _ in range(2):
        wire.connection.pause_reading()
        assert not wire.reads()
    wire.transport.reading = True
    wire.connection.pause_reading()
    assert wire.reads()
    wire.transport.reading = False
    for _ in range(2):
        wire.connection.resume_reading()
    assert wire.transport.reading


# The client does not read.


async def test_what_a_client_leaves_unread_is_charged_until_it_is_read_or_the_client_goes() -> None:
    """Ours: once, whatever is added to it by the end of the same answer."""
    for ends in ("reads", "goes"):
        budget = Budget()
        wire = Wire()
        wire.feed(GET)
        wire.requests[0].charge_to(budget)
        wire.transport.block(1000)
        wire.transport.block(2000)
        assert budget.used == 1000
        (wire.transport.unblock if ends == "reads" else wire.transport.leave)()
        await turns()
        assert budget.used == 0
        wire.connection.resume_writing()
        assert budget.used == 0


async def test_what_nobody_pays_for_is_not_charged() -> None:
    """Ours: such as an answer to somebody unknown."""
    wire = Wire()
    wire.feed(GET)
    wire.transport.block(1000)
    budget = Budget()
    wire.requests[0].charge_to(budget)
    wire.transport.unblock()
    assert budget.used == 0


async def test_a_stream_waits_for_a_client_that_does_not_read() -> None:
    """wire.py: `write`; several may wait, and one may give up."""
    wire = Wire()
    wire.feed(GET)
    request = wire.requests[0]
    request.start_stream(HEADERS)
    await request.write(b"at once")
    wire.transport.block()
    writes = [asyncio.ensure_future(request.write(b"x")) for _ in range(3)]
    await turns()
    writes[0].cancel()
    await turns()
    assert [write.done() for write in writes] == [True, False, False]
    wire.transport.unblock()
    await asyncio.wait(writes[1:])
    request.end_stream()
    assert wire.answers()[0].body == b"at oncexxx"


async def test_a_stream_goes_on_waiting_if_the_client_is_behind_again() -> None:
    """Ours: between being woken and going on, much may have been written by others."""
    wire = Wire()
    wire.feed(GET)
    wire.requests[0].start_stream(HEADERS)
    wire.transport.block()
    write = asyncio.ensure_future(wire.requests[0].write(b"x"))
    await turns()
    wire.transport.unblock()
    wire.transport.block()
    await turns()
    assert not write.done()
    wire.transport.leave()
    async with asyncio.timeout(5):
        await write


@virtual
async def test_a_client_that_reads_too_slowly_loses_its_connection() -> None:
    """Ours: `write_timeout`; closing politely would wait for it."""
    wire = Wire(write_timeout=7)
    wire.feed(GET)
    wire.requests[0].start_stream(HEADERS)
    wire.transport.block()
    started = asyncio.get_running_loop().time()
    with pytest.raises(PeerTooSlow):
        await wire.requests[0].write(b"x")
    assert asyncio.get_running_loop().time() == started + 7
    assert wire.transport.aborted
    await turns()
    assert wire.connection.lost


# The client is silent.


async def pass_time(wire: Wire, seconds: float) -> float:
    """Let time pass until the connection is closing, or so many seconds; return how many."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while not wire.closing and loop.time() < started + seconds:  # noqa: ASYNC110 - it is time that passes
        await asyncio.sleep(0.5)
    return loop.time() - started


@pytest.mark.parametrize(
    "start",
    [
        pytest.param([], id="nothing"),
        pytest.param([GET[:7]], id="half a line"),
        pytest.param([GET[:-4]], id="half a head"),
        pytest.param([post(b"x" * 9)[:-9]], id="no body"),
        pytest.param([post(b"x" * 9)[:-5]], id="half a body"),
        pytest.param([CHUNKED + b"1\r\nx\r\n"], id="half of the chunks"),
        pytest.param([CHUNKED + b"1\r\nx\r\n0\r\nx:"], id="half of the trailers"),
    ],
)
def test_a_client_that_pauses_within_a_request_is_timed_out(start: list[bytes]) -> None:
    """Ours: `receive_timeout`, from the last byte on; the request was never whole, so there is one answer."""

    async def main() -> None:
        wire = Wire(receive_timeout=20)
        for piece in start:
            await asyncio.sleep(15)
            wire.feed(piece)
        assert 20 <= await pass_time(wire, 100) <= 20.5
        assert wire.statuses() == [408]
        assert wire.answers()[0].fields[b"connection"] == b"close"
        await turns()
        assert wire.connection.lost

    run_in_virtual_time(main())


@virtual
async def test_each_byte_is_waited_for() -> None:
    """Ours: `receive_timeout` bounds each pause, not the whole."""
    wire = Wire(ok, receive_timeout=20)
    for byte in get("/slow"):
        await asyncio.sleep(19)
        wire.feed(bytes([byte]))
    assert wire.statuses() == [200]


@virtual
async def test_half_a_request_behind_one_that_is_being_answered_is_timed_out_after_its_answer() -> None:
    """Ours: answers come in the order of the requests."""
    wire = Wire(receive_timeout=20)
    wire.feed(get("/1"), GET[:10])
    await asyncio.sleep(50)
    assert not wire.closing
    wire.feed(GET[10:])
    ok(wire.requests[0])
    assert (wire.statuses(), wire.closing, wire.paths) == ([200, 408], True, ["/1"])


@virtual
async def test_whoever_was_answered_before_its_body_came_is_timed_out_too() -> None:
    """Ours: the rest of the body would be waited for."""
    wire = Wire(receive_timeout=20)
    wire.feed(post(b"abc")[:-1])
    wire.requests[0].answer(413, ())
    assert await pass_time(wire, 100) <= 20.5
    assert wire.statuses()[0] == 413


@virtual
async def test_a_body_that_we_do_not_read_is_not_late() -> None:
    """Ours: it is we who pause then, and the client may go on where we have stopped."""
    wire = Wire(receive_timeout=20)
    size = 2 * READ_AHEAD_BYTES
    wire.feed(get("/1"), post(b"x" * size)[: 10 - size])
    assert not wire.reads()
    assert await pass_time(wire, 100) == 100
    ok(wire.requests[0])
    wire.feed(b"x" * READ_AHEAD_BYTES)
    assert not wire.reads()
    assert await pass_time(wire, 100) == 100
    reading = asyncio.ensure_future(wire.requests[1].body(size))
    await pass_time(wire, 15)
    assert wire.reads()
    wire.feed(b"x")
    assert 20 <= await pass_time(wire, 100) <= 20.5
    with pytest.raises(PeerGone):
        await reading
    assert wire.statuses() == [200, 408]


@virtual
async def test_a_connection_is_closed_if_nothing_more_comes() -> None:
    """Ours: `KEEP_ALIVE_TIMEOUT`, from the last answer on; no timer for anybody who is being answered."""
    wire = Wire(receive_timeout=20, keep_alive_timeout=75)
    wire.feed(GET)
    assert await pass_time(wire, 500) == 500
    ok(wire.requests[0])
    await asyncio.sleep(50)
    wire.feed(GET)
    ok(wire.requests[1])
    assert 75 <= await pass_time(wire, 500) <= 75.5
    assert wire.statuses() == [200, 200]
    assert not wire.transport.aborted


@virtual
async def test_a_time_out_is_not_late_though_it_is_shorter_than_the_one_before() -> None:
    """Ours: one timer for all; it is never set further ahead than the shortest wait."""
    wire = Wire(ok, receive_timeout=20, keep_alive_timeout=75)
    wire.feed(GET)
    await asyncio.sleep(30)
    wire.feed(GET[:5])
    assert 20 <= await pass_time(wire, 500) <= 20.5


@virtual
async def test_a_client_that_has_not_read_its_answer_is_not_waited_for_any_longer() -> None:
    """Ours: closing politely would wait for it, for good."""
    wire = Wire(ok, receive_timeout=20, keep_alive_timeout=75)
    wire.feed(GET)
    wire.transport.block()
    wire.feed(GET)  # it is not answered: the client has not read so much
    assert 75 <= await pass_time(wire, 500) <= 75.5
    assert wire.transport.aborted


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param([GET[:5]], id="half a request"),
        pytest.param([b"nonsense\r\n\r\n"], id="no HTTP"),
        pytest.param([get("/", "connection: close")], id="the end of the connection"),
    ],
)
def test_a_client_that_does_not_read_its_last_answer_is_not_waited_for_either(rest: list[bytes]) -> None:
    """Ours, as above: whatever has closed the connection. Else it would be kept, with what was not read."""

    async def main() -> None:
        wire = Wire(receive_timeout=20, keep_alive_timeout=75)
        wire.feed(get("/1"), *rest)
        wire.transport.unread = 1000  # the last answer comes on top of that
        for request in wire.requests:
            ok(request)
        await asyncio.sleep(300)
        assert wire.transport.aborted
        assert wire.connection.lost

    run_in_virtual_time(main())


# No HTTP.


async def test_garbage_in_the_body_that_is_waited_for_is_the_end_of_it() -> None:
    """RFC 9112, 7.1: its end cannot be found any more; the request gets the 400."""
    told: list[str] = []
    wire = Wire()
    wire.feed(CHUNKED)
    wire.requests[0].when_gone(lambda: told.append("gone"))
    reading = asyncio.ensure_future(wire.requests[0].body(10))
    await turns()
    wire.feed(b"x\r\n")
    with pytest.raises(PeerGone):
        await reading
    ok(wire.requests[0])  # somebody may not have heard of it
    await turns()
    assert (wire.statuses(), wire.closing, told) == ([400], True, ["gone"])


async def test_garbage_in_a_body_whose_answer_was_begun_cuts_that_off() -> None:
    """Ours: there is no other way to say it."""
    wire = Wire()
    wire.feed(CHUNKED)
    wire.requests[0].start_stream(HEADERS)
    wire.feed(b"x\r\n")
    assert wire.transport.aborted


async def test_garbage_in_a_body_that_was_answered_is_answered_once_more() -> None:
    """Ours: what follows cannot be found."""
    wire = Wire()
    wire.feed(CHUNKED)
    wire.requests[0].answer(413, ())
    wire.feed(b"x\r\n")
    await turns()
    assert (wire.statuses(), wire.closing) == ([413, 400], True)


async def test_garbage_in_the_body_of_a_request_that_waits_is_its_end() -> None:
    """Ours: it was never whole."""
    wire = Wire()
    wire.feed(get("/1"), CHUNKED, b"x\r\n")
    ok(wire.requests[0])
    await turns()
    assert (wire.paths, wire.statuses(), wire.closing) == (["/1"], [200, 400], True)


async def test_a_stream_behind_which_garbage_came_goes_on_to_its_end() -> None:
    """Ours: the good one is answered."""
    wire = Wire()
    wire.feed(get("/1"), b"nonsense\r\n\r\n")
    request = wire.requests[0]
    request.start_stream(HEADERS)
    await request.write(b"x")
    assert not wire.closing
    request.end_stream()
    assert (wire.statuses(), wire.closing) == ([200, 400], True)


# The server closes.


async def test_a_connection_on_which_nothing_is_answered_is_closed_at_once() -> None:
    """Ours: also one that has sent half a head, or all of it and nobody waits for its body any more."""

    def refuse(request: HttpRequest) -> None:
        request.answer(413, ())

    for pieces in ([], [GET], [GET[:10]], [post(b"abc")[:-1]], [GET, post(b"abc")[:-1]]):
        wire = Wire(refuse)
        wire.feed(*pieces)
        wire.connection.finish()
        wire.connection.finish()
        await turns()
        assert wire.connection.lost
        assert not wire.transport.aborted


async def test_an_answer_that_is_due_is_the_last_one_when_the_server_closes() -> None:
    """RFC 9112, 9.6: the client learns by it that there is no other."""
    wire = Wire()
    wire.feed(get("/1") + get("/2"))
    wire.connection.finish()
    assert not wire.closing
    ok(wire.requests[0])
    await turns()
    (answer,) = wire.answers()
    assert answer.fields[b"connection"] == b"close"
    assert (wire.paths, wire.connection.lost) == (["/1"], True)


async def test_a_stream_is_ended_before_the_connection_is_closed() -> None:
    """Ours: its client sees the end of the body."""
    wire = Wire()
    wire.feed(GET)
    wire.requests[0].start_stream(HEADERS)
    wire.connection.finish()
    await wire.requests[0].write(b"x")
    assert not wire.transport.is_closing()
    wire.requests[0].end_stream()
    assert wire.closing
    assert wire.answers()[0].body == b"x"


async def test_a_request_that_waits_for_a_client_to_read_is_served_before_the_end() -> None:
    """Ours: it has come whole; but no other one behind it, since its answer says that it is the last."""
    wire = Wire(ok)
    wire.transport.block()
    wire.feed(get("/1") + get("/2"))
    wire.connection.finish()
    assert not wire.closing
    wire.transport.unblock()
    await turns()
    assert (wire.paths, wire.statuses(), wire.connection.lost) == (["/1"], [200], True)
