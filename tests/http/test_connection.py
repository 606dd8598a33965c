"""What comes on a connection: its requests, in their order, whole, bounded, and nothing else."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.http.connection import MAX_READ_BYTES, MAX_WAITING
from stdio_broker.http.head import RepeatedHead
from stdio_broker.http.incoming import READ_AHEAD_BYTES
from stdio_broker.http.wire import HttpRequest, PeerGone
from tests.http.wire_rig import GET, Wire, get, ok, post, turns
from tests.support.http_answers import read_answers

Field = tuple[bytes, bytes]

# What is sent is what is read, however it is cut.


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as a client sends it."""

    method: str
    target: str
    fields: tuple[tuple[str, str], ...]
    body: bytes
    framing: Literal["sized", "chunked", "none"]
    version: Literal["1.0", "1.1"]
    closes: bool
    expects: bool

    def encode(self) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/{self.version}"]
        lines += [f"{name}: {value}" for name, value in self.fields]
        if self.closes:
            lines.append("Connection: close")
        if self.expects:
            lines.append("Expect: 100-Continue")
        if self.framing == "sized":
            lines.append(f"Content-Length: {len(self.body)}")
        if self.framing == "chunked":
            lines.append("Transfer-Encoding: chunked")
        head = "\r\n".join([*lines, "", ""]).encode()
        if self.framing == "chunked":
            middle = len(self.body) // 2
            chunks = [chunk for chunk in (self.body[:middle], self.body[middle:]) if chunk]
            body = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
            return head + body + b"0\r\nHost: trailer\r\n\r\n"
        return head + (self.body if self.framing == "sized" else b"")


names = st.sampled_from(["Host", "X-A", "x-a", "ACCEPT", "Mcp-Session-Id", "authorization"])
values = st.sampled_from(["", "a", "b, c", "application/json", "\u00e9"])
bodies = st.sampled_from([b"", b"{}", b"x" * 300, b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}", b"\r\n"])
requests = st.builds(
    Sent,
    method=st.sampled_from(["GET", "POST", "DELETE", "HEAD", "OPTIONS"]),
    target=st.sampled_from(["/", "/mcp", "/a%20b?q=1&r", "/%E2%82%AC", "http://a.example/x?y"]),
    fields=st.lists(st.tuples(names, values), max_size=4).map(tuple),
    body=bodies,
    framing=st.sampled_from(["sized", "sized", "chunked", "none"]),
    version=st.sampled_from(["1.1", "1.1", "1.1", "1.1", "1.0"]),
    closes=st.sampled_from([False, False, False, False, True]),
    expects=st.sampled_from([False, False, False, True]),
)

Read = tuple[str, str, bytes, tuple[Field, ...], bytes]


async def read_all(pieces: Sequence[bytes], *, repeats: bool = True) -> tuple[list[Read], bytes, bool]:
    """Return what was read of pieces, what was written, and whether it was closed."""
    read: list[Read] = []

    async def answer(request: HttpRequest) -> None:
        try:
            body = await request.body(10_000)
        except PeerGone:
            return
        # The length of a repeated head is that of the request that it was first read from.
        fields = tuple(field for field in request.fields if field[0] != b"content-length")
        read.append((request.method, request.path, request.head.query, fields, body))
        request.answer(200, (), request.method.encode())

    with pytest.MonkeyPatch.context() as patch:
        if not repeats:
            patch.setattr(RepeatedHead, "of", lambda *_: None)
        wire = Wire(lambda request: request.go_on(answer(request)))
        for piece in pieces:
            for _ in range(1000):  # a transport delivers nothing while it is paused
                if wire.transport.reading:
                    break
                await asyncio.sleep(0)
            wire.feed(piece)
        await turns(300)
        closing = wire.closing
        wire.transport.leave()
        await turns()
    return read, bytes(wire.transport.written).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b""), closing


def cut(stream: bytes, at: Sequence[int]) -> list[bytes]:
    """Return the pieces of a stream."""
    marks = sorted({mark % (len(stream) + 1) for mark in at} | {0, len(stream)})
    return [stream[start:end] for start, end in itertools.pairwise(marks)]


@given(sent=st.lists(requests, min_size=1, max_size=5), cuts=st.lists(st.integers(0, 3000), max_size=12))
async def test_what_is_read_does_not_depend_on_how_it_comes(sent: list[Sent], cuts: list[int]) -> None:
    """RFC 9112, 2.2: a message is a sequence of octets; TCP has no packets."""
    # A parser does not read on behind the end of a connection, nor do we answer what stands there.
    last = next((n for n, one in enumerate(sent) if one.closes or one.version == "1.0"), len(sent) - 1)
    stream = b"".join(one.encode() for one in sent)
    read, written, closing = await read_all([stream])
    assert [(method, body) for method, _, _, _, body in read] == [
        (one.method, b"" if one.framing == "none" else one.body) for one in sent[: last + 1]
    ]
    assert len(read_answers(written, [one.method for one in sent])) == last + 1
    assert closing == (sent[last].closes or sent[last].version == "1.0")
    assert await read_all(cut(stream, cuts)) == (read, written, closing)
    assert await read_all(cut(stream, cuts), repeats=False) == (read, written, closing)
    assert await read_all([one.encode() for one in sent]) == (read, written, closing)


async def test_a_head_is_read_as_it_is() -> None:
    """RFC 9110, 5.1 and 5.3: names know no case, and fields with one name are one."""
    wire = Wire()
    wire.feed(b"POST /a%20b?c=%20 HTTP/1.1\r\nHost: a\r\nX: 1\r\nx:  2 \r\nContent-Length: 0\r\n\r\n")
    (request,) = wire.requests
    assert (request.method, request.path, request.head.query) == ("POST", "/a b", b"c=%20")
    assert [name for name, _ in request.fields] == [b"host", b"x", b"x", b"content-length"]
    assert (request.header(b"x"), request.header(b"y")) == (b"1, 2 ", None)
    assert (request.head.length, request.whole_body, request.peer) == (0, b"", "127.0.0.1")


async def test_a_client_without_an_address_has_none() -> None:
    """Such as one on a Unix socket."""
    wire = Wire(peer="")
    wire.feed(GET)
    assert wire.requests[0].peer == ""


@pytest.mark.parametrize("target", ["http://a", "/\u00e9", "/a b", "", "http://[/", "//\x7f"], ids=repr)
async def test_a_target_that_is_no_path_is_a_bad_request(target: str) -> None:
    """RFC 9112, 3.2: nothing of ours is behind one."""
    wire = Wire(ok)
    wire.feed(f"OPTIONS {target} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    await turns()
    assert wire.statuses() == [400]
    assert (wire.paths, wire.closing) == ([], True)


async def test_trailers_are_no_fields() -> None:
    """RFC 9110, 6.5.1: what decides who asks must not come behind the body."""
    wire = Wire()
    wire.feed(
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\nauthorization: b\r\n\r\n"
    )
    assert wire.requests[0].header(b"authorization") is None
    assert wire.requests[0].fields == [(b"host", b"a"), (b"transfer-encoding", b"chunked")]


# One after the other.


async def test_a_request_that_comes_whole_is_answered_at_once_with_one_write() -> None:
    """Ours: no task, no waiting."""
    wire = Wire(ok)
    for _ in range(3):
        wire.feed(post(b"{}"))
    assert wire.statuses() == [200, 200, 200]


async def test_requests_that_wait_are_answered_in_their_order_and_one_at_a_time() -> None:
    """RFC 9112, 9.3.2: pipelining."""
    wire = Wire()
    wire.feed(get("/1") + get("/2") + get("/3"))
    assert wire.paths == ["/1"]
    for number in (1, 2, 3):
        assert wire.paths == [f"/{n}" for n in range(1, number + 1)]
        ok(wire.requests[-1])
    assert [answer.body for answer in wire.answers()] == [b"/1", b"/2", b"/3"]


async def test_nothing_more_is_read_while_a_request_waits_for_another() -> None:
    """Ours: what waits is bounded."""
    wire = Wire()
    wire.feed(get("/1"))
    assert wire.reads()
    wire.feed(get("/2"))
    assert not wire.reads()
    ok(wire.requests[-1])
    # Else the end of the connection would not be noticed while the last one is being answered.
    assert wire.reads()
    ok(wire.requests[-1])
    assert wire.reads()


async def test_so_many_requests_wait_and_no_more() -> None:
    """Ours: `MAX_WAITING`; those before are answered."""
    wire = Wire()
    wire.feed(GET * (MAX_WAITING + 2))
    while not wire.closing:
        ok(wire.requests[-1])
    assert wire.statuses() == [200] * MAX_WAITING + [400]


async def test_whoever_is_not_read_gets_no_next_answer_before() -> None:
    """Ours: what is written for a client that does not read is bounded."""
    wire = Wire(ok)
    wire.transport.block()
    wire.feed(get("/1") + get("/2"))
    assert (wire.paths, wire.reads()) == ([], False)
    wire.transport.unblock()
    assert wire.paths == ["/1", "/2"]
    assert wire.reads()


async def test_a_request_behind_one_that_closes_the_connection_is_not_answered() -> None:
    """RFC 9112, 9.6: the server ... MUST NOT process any further requests."""
    wire = Wire(ok)
    wire.feed(get("/1", "connection: close") + get("/2"))
    await turns()
    assert wire.paths == ["/1"]
    assert wire.closing


async def test_a_connection_of_an_older_client_is_for_one_request() -> None:
    """RFC 9112, 9.3 and C.2.2: the older way to keep one open is not ours, and need not be."""
    for together in (True, False):
        wire = Wire(ok)
        old = get("/1", "connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")
        wire.feed(*([old + get("/2")] if together else [old, get("/2")]))
        await turns()
        assert (wire.paths, wire.closing) == (["/1"], True)
        assert wire.answers()[0].fields[b"connection"] == b"close"


async def test_an_answer_of_a_request_that_is_over_ends_no_other() -> None:
    """Ours: `finished` counts for the one that is being answered only."""
    wire = Wire()
    wire.feed(get("/1"), get("/2"))
    ok(wire.requests[0])
    wire.connection.finished(wire.requests[0], keeps_alive=False)
    assert not wire.closing
    ok(wire.requests[1])
    assert wire.statuses() == [200, 200]


# Bodies.


async def test_a_body_is_read_ahead_and_no_further_until_somebody_asks_for_it() -> None:
    """Ours: `READ_AHEAD_BYTES`."""
    wire = Wire()
    size = 3 * READ_AHEAD_BYTES
    wire.feed(post(b"x" * size)[:-size], b"x" * READ_AHEAD_BYTES)
    assert wire.reads()
    wire.feed(b"x")
    assert not wire.reads()
    reading = asyncio.ensure_future(wire.requests[0].body(size))
    await turns()
    assert wire.reads()
    wire.feed(b"x" * (2 * READ_AHEAD_BYTES - 1))
    assert len(await reading) == size


async def test_the_rest_of_a_body_that_was_refused_is_read_and_dropped() -> None:
    """Ours: a client that sends all of it before it looks for an answer gets one, and may go on."""
    wire = Wire()
    size = 3 * READ_AHEAD_BYTES
    wire.feed(post(b"x" * size)[:-1])
    assert not wire.reads()
    wire.requests[0].answer(413, ())
    assert wire.reads()
    wire.feed(b"x", get("/2"))
    ok(wire.requests[1])
    assert wire.statuses() == [413, 200]
    assert wire.requests[0].whole_body is None or not wire.requests[0].whole_body


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_long_body_leaves_everybody_else_a_turn(*, wanted: bool) -> None:
    """Ours: `MAX_READ_BYTES`; a loop would read on for as long as there is something."""
    wire = Wire()
    size = 2 * MAX_READ_BYTES
    wire.feed(post(b"x" * size)[:-size])
    reading = asyncio.ensure_future(wire.requests[0].body(size)) if wanted else None
    await turns()
    wire.feed(b"x" * (MAX_READ_BYTES - 1000))
    assert wire.reads() == wanted  # else it is read ahead so far, and no further
    wire.feed(b"x" * 1000)
    assert not wire.reads()
    await turns()
    assert wire.reads() == wanted
    if reading is not None:
        wire.feed(b"x" * MAX_READ_BYTES)
        assert len(await reading) == size


# What is too long.


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([get("/", "x: " + "y" * 1000)], id="a field"),
        pytest.param([get("/" + "y" * 1000)], id="a target"),
        pytest.param([get("/", *[f"x{n}: y" for n in range(300)])], id="fields"),
        pytest.param([get("/", "x: " + "y" * 2000)[:990], b"y" * 20, b"y" * 20], id="in pieces"),
        pytest.param([b"GET /"] + [b"y"] * 2000, id="by bytes"),
    ],
)
async def test_a_head_that_is_too_long_is_a_bad_request(pieces: list[bytes]) -> None:
    """Ours: `max_header_bytes`; it is told in words."""
    wire = Wire(ok, max_header_bytes=1000)
    wire.feed(get("/before"), *pieces)
    await turns()
    assert wire.statuses() == [200, 400]
    assert b"longer" in wire.answers()[1].body
    assert (wire.paths, wire.closing) == (["/before"], True)


async def test_a_head_just_within_the_limit_is_read_however_it_comes() -> None:
    """Ours: the bound is on what a client chooses: target, names and values."""
    head = get("/", "x: " + "y" * 900)
    for pieces in ([head], [head[:500], head[500:]], [bytes([byte]) for byte in head]):
        wire = Wire(ok, max_header_bytes=1000)
        wire.feed(*pieces)
        assert wire.statuses() == [200]


async def test_what_stands_before_half_a_head_does_not_count_for_it() -> None:
    """Ours: many requests in one read and a piece of another are none of them too long."""
    wire = Wire(ok, max_header_bytes=1000)
    many = get("/1", "x: " + "y" * 400) * 4
    wire.feed(many + GET[:10], GET[10:], many + post(b"{}")[:-2], b"{}")
    assert wire.statuses() == [200] * 10


async def test_trailers_without_end_end_the_connection() -> None:
    """Ours: `max_header_bytes`; what follows a chunked body is a head too."""
    wire = Wire(max_header_bytes=1000)
    wire.feed(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
    for _ in range(100):
        wire.feed(b"x: " + b"y" * 100 + b"\r\n")
    assert wire.transport.aborted


async def test_what_stands_between_pieces_of_a_body_counts_from_the_last_one_on() -> None:
    """Ours: a long body of many chunks has many lines between them."""
    wire = Wire(max_header_bytes=100)
    wire.feed(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
    wire.feed(*[b"1\r\n", b"x\r\n"] * 100, b"0\r\n\r\n")
    assert wire.requests[0].whole_body == b"x" * 100


async def test_pieces_of_a_body_are_no_head() -> None:
    """Ours: what a body may be long is for others to say."""
    wire = Wire(max_header_bytes=1000)
    wire.feed(post(b"x" * 5000)[:-5000], *[b"x" * 500] * 10)
    assert wire.requests[0].whole_body == b"x" * 5000


# What is no HTTP, or another one.


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"nonsense\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n\x16\x03\x01",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nx\r\n",
    ],
)
async def test_what_is_no_http_is_a_bad_request_once_what_came_before_is_answered(garbage: bytes) -> None:
    """RFC 9112, 2.2; and nothing that follows it is read."""
    for pieces in ([get("/1") + garbage], [get("/1"), garbage], [get("/1"), garbage, get("/2")]):
        wire = Wire()
        wire.feed(*pieces)
        assert (wire.paths, wire.closing) == (["/1"], False)
        wire.feed(get("/2"))
        ok(wire.requests[0])
        assert wire.statuses() == [200, 400]
        assert wire.answers()[1].fields[b"connection"] == b"close"
        assert (wire.paths, wire.closing) == (["/1"], True)
        await turns()
        assert wire.connection.lost


OFFER = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")


async def test_an_offer_of_another_protocol_is_left_unanswered() -> None:
    """RFC 9110, 7.8; Java's client makes one with its first POST."""
    wire = Wire()
    offer = post(b"{\r\nupgrade: x}", *OFFER)
    for pieces in ([offer], [offer[:-5], offer[-5:]]):
        wire.feed(*pieces)
        assert wire.requests[-1].whole_body == b"{\r\nupgrade: x}"
        assert wire.requests[-1].header(b"upgrade") is None
        ok(wire.requests[-1])
    assert wire.statuses() == [200, 200]


async def test_an_offer_in_two_pieces_is_refused() -> None:
    """Ours: the parser has stopped then. No client is known that does it."""
    wire = Wire(ok)
    offer = post(b"{}", *OFFER)
    at = offer.index(b"grade: h2c")
    wire.feed(get("/1"), offer[:at], offer[at:-1], offer[-1:])
    await turns()
    assert (wire.paths, wire.statuses(), wire.closing) == (["/1"], [200, 400], True)


async def test_a_body_that_speaks_of_upgrades_is_a_body() -> None:
    """Ours: nothing but a head is changed."""
    wire = Wire()
    body = b"\r\nUpgrade: h2c\r\n\r\nupgrade"
    for pieces in ([post(body)], [post(body)[: -len(body)], body]):
        wire.feed(*pieces)
        assert wire.requests[-1].whole_body == body
        ok(wire.requests[-1])
