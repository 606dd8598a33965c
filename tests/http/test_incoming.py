"""What is answered is well-formed HTTP, in the order of the requests, whatever is answered and how."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.http.incoming import (
    COPY_BELOW_BYTES,
    GATHER_ABOVE_BYTES,
    READ_AHEAD_BYTES,
    SMALL_BODY_BYTES,
)
from stdio_broker.http.wire import HttpRequest, PayloadTooLarge
from stdio_broker.protocol.encoding import Pieces
from tests.http.wire_rig import GET, Wire, get, ok, post, turns

JSON = ((b"content-type", b"application/json"),)
TWO = (*JSON, (b"mcp-session-id", b"s"))
EXPECTING = post(b"abc", "expect: 100-continue")[:-3]

# Any answers to any requests.


@dataclass(frozen=True, slots=True)
class Plan:
    """A request, and what is answered.

    Attributes:
        pieces: Of a stream; None: a whole answer.
        later: Whether it is a task that answers.
    """

    method: str
    version: str
    closes: bool
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    extra: bool
    body: bytes
    pieces: tuple[bytes, ...] | None
    later: bool

    @property
    def last(self) -> bool:
        """Whether no other request is answered after this one."""
        return self.closes or self.version == "1.0"

    @property
    def streams(self) -> bool:
        """Whether it is answered with a stream; nobody streams to a HEAD."""
        return self.pieces is not None and self.method != "HEAD"

    def encode(self, number: int) -> bytes:
        """Return the request."""
        closes = "connection: close\r\n" if self.closes else ""
        return f"{self.method} /{number} HTTP/{self.version}\r\nhost: a\r\n{closes}\r\n".encode()

    def answer(self, request: HttpRequest) -> None:
        """Answer it."""
        if self.extra:
            request.add_header(b"www-authenticate", b"Bearer")
            request.add_header(b"vary", b"origin")
        if self.later or self.streams:
            request.go_on(self._answer(request))
        else:
            request.answer(self.status, self.headers, self.body)

    async def _answer(self, request: HttpRequest) -> None:
        if not self.streams:
            await asyncio.sleep(0)
            request.answer(self.status, self.headers, self.body)
            return
        request.start_stream(self.headers)
        for piece in self.pieces or ():
            await asyncio.sleep(0)
            await request.write(piece)
        request.end_stream()


sizes = st.sampled_from([0, 1, 15, 16, 300, COPY_BELOW_BYTES - 1, COPY_BELOW_BYTES, COPY_BELOW_BYTES + 1])
texts = st.one_of(sizes.map(lambda size: b"x" * size), st.sampled_from([b"\r\n\r\n", b"0\r\n\r\n", GET]))
plans = st.builds(
    Plan,
    method=st.sampled_from(["GET", "POST", "HEAD"]),
    version=st.sampled_from(["1.1"] * 5 + ["1.0"]),
    closes=st.sampled_from([False] * 5 + [True]),
    status=st.sampled_from([200, 202, 204, 400, 404, 503]),
    headers=st.sampled_from([(), JSON, TWO]),
    extra=st.booleans(),
    body=texts,
    pieces=st.one_of(st.none(), st.lists(texts, max_size=4).map(tuple)),
    later=st.booleans(),
)


@given(answered=st.lists(plans, min_size=1, max_size=6), at_once=st.booleans())
async def test_answers_are_read_back_as_they_were_given(answered: list[Plan], *, at_once: bool) -> None:
    """RFC 9112, 6 and 9.3: one answer for each request, in order, and the end where it is."""

    def serve(request: HttpRequest) -> None:
        answered[int(request.path[1:])].answer(request)

    wire = Wire(serve)
    stream = [plan.encode(number) for number, plan in enumerate(answered)]
    wire.feed(*([b"".join(stream)] if at_once else stream))
    await turns(100)
    last = next((number for number, plan in enumerate(answered) if plan.last), len(answered) - 1)
    found = wire.answers(*[plan.method for plan in answered])
    assert len(found) == last + 1
    for plan, answer in zip(answered, found, strict=False):
        fields = dict(plan.headers)
        if plan.extra:
            fields |= {b"www-authenticate": b"Bearer", b"vary": b"origin"}
        if plan.last:
            fields[b"connection"] = b"close"
        if plan.streams:
            expected = (200, b"".join(plan.pieces or ()))
            if plan.version == "1.1":
                fields[b"transfer-encoding"] = b"chunked"
        else:
            no_body = plan.method == "HEAD" or plan.status == 204
            expected = (plan.status, b"" if no_body else plan.body)
            if plan.status != 204:
                fields[b"content-length"] = b"%d" % len(plan.body)
        assert ((answer.status, answer.body), answer.fields) == (expected, fields)
    assert wire.closing == answered[last].last


async def test_nothing_is_no_chunk() -> None:
    """RFC 9112, 7.1: a chunk of size zero is the end."""
    wire = Wire()
    wire.feed(GET)
    wire.requests[0].start_stream(JSON)
    for piece in (b"", b"x", b""):
        await wire.requests[0].write(piece)
    wire.requests[0].end_stream()
    assert [answer.body for answer in wire.answers()] == [b"x"]


async def test_a_stream_to_a_client_that_knows_no_chunks_ends_with_the_connection() -> None:
    """RFC 9112, 6.3: and not before; nothing is written where nothing is said."""
    wire = Wire()
    wire.feed(GET.replace(b"HTTP/1.1", b"HTTP/1.0"))
    request = wire.requests[0]
    request.start_stream(JSON)
    for piece in (b"x", b"", b"y" * COPY_BELOW_BYTES):
        await request.write(piece)
    assert not wire.closing
    request.end_stream()
    assert (wire.answers()[0].body, wire.closing) == (b"x" + b"y" * COPY_BELOW_BYTES, True)


@pytest.mark.parametrize("size", [1, COPY_BELOW_BYTES])
async def test_an_answer_in_pieces_is_one_answer(size: int) -> None:
    """Ours: what is long is not copied."""
    wire = Wire()
    body = Pieces([b'{"a":', memoryview(b"x" * size), b"}"])
    for request in (GET, get("/").replace(b"GET", b"HEAD")):
        wire.feed(request)
        wire.requests[-1].answer(200, JSON, body)
    answer, head = wire.answers("GET", "HEAD")
    assert answer.body == b'{"a":' + b"x" * size + b"}"
    assert (head.body, head.fields[b"content-length"]) == (b"", b"%d" % len(body))


async def test_only_heads_of_one_field_are_remembered() -> None:
    """Ours: others may hold secrets, such as the id of a session."""
    wire = Wire()
    for headers in (JSON, TWO, JSON):
        wire.feed(GET)
        wire.requests[-1].add_header(b"vary", b"%d" % len(wire.requests))
        wire.requests[-1].answer(200, headers)
    first, second, third = wire.answers()
    assert (first.fields[b"vary"], second.fields[b"vary"], third.fields[b"vary"]) == (b"1", b"2", b"3")
    assert b"mcp-session-id" not in third.fields


async def test_a_mistake_of_ours_is_an_answer_if_none_was_begun() -> None:
    """wire.py: `fail`; else the client sees that its answer is not whole."""
    wire = Wire(lambda request: request.fail())
    wire.feed(GET, GET)
    assert wire.statuses() == [500, 500]
    assert not wire.closing
    wire = Wire(ok)
    wire.feed(GET)
    wire.requests[0].fail()
    assert (wire.statuses(), wire.closing) == ([200], False)
    wire = Wire()
    wire.feed(GET)
    wire.requests[0].start_stream(JSON)
    wire.requests[0].fail()
    assert wire.transport.aborted


# The body.


async def test_a_short_body_is_there_at_once_and_can_be_had_by_waiting_too() -> None:
    """wire.py: `whole_body`, until it is released."""
    wire = Wire()
    wire.feed(post(b"x" * SMALL_BODY_BYTES))
    request = wire.requests[0]
    assert request.whole_body == b"x" * SMALL_BODY_BYTES
    with pytest.raises(PayloadTooLarge):
        await request.body(SMALL_BODY_BYTES - 1)
    assert await request.body(SMALL_BODY_BYTES) == b"x" * SMALL_BODY_BYTES
    request.release_body()
    assert request.whole_body is None


async def test_a_body_that_comes_in_pieces_is_joined() -> None:
    """wire.py: `body`, also if some came before anybody asked, and some while nobody runs."""
    wire = Wire()
    wire.feed(post(b"abcdef")[:-6], b"ab")
    reading = asyncio.ensure_future(wire.requests[0].body(6))
    await turns()
    wire.feed(b"c", b"def")
    assert await reading == b"abcdef"


@pytest.mark.parametrize("refused", [False, True])
async def test_a_long_body_is_gathered_from_any_pieces(*, refused: bool) -> None:
    """Ours: `GATHER_ABOVE_BYTES`; joining pieces would hold it twice. One that is refused is not held."""
    pieces = [bytes([65 + number]) * (GATHER_ABOVE_BYTES // 3) for number in range(8)]
    body = b"".join(pieces)
    wire = Wire()
    wire.feed(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
    reading = asyncio.ensure_future(wire.requests[0].body(len(body) - refused))
    await turns()
    for piece in pieces:
        wire.feed(b"%x\r\n%b\r\n" % (len(piece), piece))
    wire.feed(b"0\r\n\r\n")
    if refused:
        with pytest.raises(PayloadTooLarge):
            await reading
    else:
        assert await reading == body
        assert wire.requests[0].whole_body is None


async def test_a_long_body_is_gathered_before_anybody_asks_for_it() -> None:
    """Ours, as above: a loop may give us more in one read than is read ahead."""
    body = b"x" * 2 * GATHER_ABOVE_BYTES
    wire = Wire()
    wire.feed(post(body)[:-1], b"x")
    assert await wire.requests[0].body(len(body)) == body


async def test_a_body_that_is_too_long_is_refused_as_soon_as_that_is_known() -> None:
    """wire.py: `PayloadTooLarge`; by what was declared, by what is here, or by what comes."""
    wire = Wire()
    wire.feed(post(b"abc")[:-3])
    with pytest.raises(PayloadTooLarge):
        await wire.requests[0].body(2)
    chunked = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    wire = Wire()
    wire.feed(chunked, b"3\r\nabc\r\n")
    with pytest.raises(PayloadTooLarge):
        await wire.requests[0].body(2)
    reading = asyncio.ensure_future(wire.requests[0].body(5))
    await turns()
    wire.feed(b"2\r\nde\r\n")
    await turns()
    assert not reading.done()
    wire.feed(b"1\r\nf\r\n", b"1\r\ng\r\n", b"0\r\n\r\n")
    with pytest.raises(PayloadTooLarge):
        await reading


async def test_what_comes_of_a_body_after_its_answer_is_for_nobody() -> None:
    """Ours: it is not kept."""
    wire = Wire()
    wire.feed(post(b"x" * 3 * READ_AHEAD_BYTES)[: -3 * READ_AHEAD_BYTES])
    wire.requests[0].answer(401, ())
    wire.feed(b"x" * 2 * READ_AHEAD_BYTES)
    assert wire.reads()
    wire.feed(b"x" * READ_AHEAD_BYTES, GET)
    assert len(wire.requests) == 2


# Expect: 100-continue.


async def test_a_client_that_waits_for_leave_gets_it_once_its_body_is_wanted() -> None:
    """RFC 9110, 10.1.1."""
    wire = Wire()
    wire.feed(EXPECTING)
    assert wire.transport.take() == b""
    reading = asyncio.ensure_future(wire.requests[0].body(10))
    await turns()
    assert wire.transport.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire.feed(b"abc")
    assert await reading == b"abc"
    ok(wire.requests[0])
    assert (wire.statuses(), wire.closing) == ([200], False)


@pytest.mark.parametrize("sent", [b"a", b"abc"])
async def test_a_client_that_does_not_wait_for_leave_gets_none(sent: bytes) -> None:
    """RFC 9110, 10.1.1: a server MAY omit it if it has received some of the body already."""
    wire = Wire()
    wire.feed(EXPECTING + sent)
    reading = asyncio.ensure_future(wire.requests[0].body(10))
    await turns()
    wire.feed(b"abc"[len(sent) :])
    assert await reading == b"abc"
    ok(wire.requests[0])
    assert (wire.statuses(), wire.closing) == ([200], False)


async def test_a_client_that_waits_for_leave_and_gets_an_answer_loses_the_connection() -> None:
    """RFC 9110, 10.1.1: it may send the body or not; nobody could tell it from the next request."""
    wire = Wire()
    wire.feed(EXPECTING)
    wire.requests[0].answer(413, ())
    assert wire.answers()[0].fields[b"connection"] == b"close"
    assert wire.closing


async def test_a_client_that_expects_something_else_or_cannot_expect_anything_waits_for_nothing() -> None:
    """RFC 9110, 10.1.1: what an HTTP/1.0 client expects MUST be ignored."""
    for head in (EXPECTING.replace(b"100-continue", b"x"), EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0")):
        wire = Wire()
        wire.feed(head)
        reading = asyncio.ensure_future(wire.requests[0].body(10))
        await turns()
        assert wire.transport.take() == b""
        wire.feed(b"abc")
        assert await reading == b"abc"
