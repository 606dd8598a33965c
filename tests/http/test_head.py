"""A head that is recognised by its bytes means what the parser would make of it, or is not recognised."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stdio_broker.http.head import Head, RepeatedHead
from stdio_broker.http.incoming import SMALL_BODY_BYTES
from stdio_broker.http.wire import HttpRequest, PayloadTooLarge, PeerGone
from tests.http.wire_rig import GET, Wire, get, ok, post, turns

FIRST = (
    b"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    b"Content-Length: 12\r\nMcp-Session-Id: s-1\r\n\r\n" + b'{"id":1,"m"}'
)
PROBE = get("/probe")

Fields = tuple[tuple[bytes, bytes], ...]
Meaning = tuple[str, str, bytes, Fields, bytes]


async def meaning(*pieces: bytes, repeats: bool = True) -> tuple[list[Meaning], bytes, bool]:
    """Return which requests were read of pieces, what was answered, and whether that was the end."""
    read: list[Meaning] = []

    async def answer(request: HttpRequest) -> None:
        try:
            body = await request.body(10_000)
        except (PeerGone, PayloadTooLarge) as exc:
            body = type(exc).__name__.encode()
        fields = tuple(field for field in request.fields if field[0] != b"content-length")
        read.append((request.method, request.path, request.head.query, fields, body))
        request.answer(200, ())

    with pytest.MonkeyPatch.context() as patch:
        if not repeats:
            patch.setattr(RepeatedHead, "of", lambda *_: None)
        wire = Wire(lambda request: request.go_on(answer(request)))
        for piece in pieces:
            wire.feed(piece)
            await turns(12)
        closing = wire.closing
        wire.transport.leave()
        await turns(12)
    return read, bytes(wire.transport.written), closing


def with_length(text: bytes, body: bytes = b'{"id":1,"m"}') -> bytes:
    """Return the first request with something else for the digits of its length."""
    return FIRST.partition(b"\r\n\r\n")[0].replace(b"12", text) + b"\r\n\r\n" + body


def with_line(line: bytes) -> bytes:
    """Return the first request with a line more, in front of its length."""
    return FIRST.replace(b"Content-Length", line + b"\r\nContent-Length")


#: Second requests of which each could mean two things, if it were read carelessly.
TRICKS = {
    "the same": FIRST,
    "another body": FIRST.replace(b'"id":1', b'"id":2'),
    "another length": with_length(b"2", b"{}"),
    "no body": with_length(b"0", b""),
    "leading zeros": with_length(b"0012"),
    "many leading zeros": with_length(b"0" * 30 + b"12"),
    "ten digits": with_length(b"0000000012"),
    "eleven digits": with_length(b"00000000012"),
    "a plus": with_length(b"+12"),
    "a minus": with_length(b"-12"),
    "a minus and nothing": with_length(b"-0", b""),
    "an underscore": with_length(b"1_2"),
    "a space in front": with_length(b" 12"),
    "a space behind": with_length(b"12 "),
    "a tab behind": with_length(b"12\t"),
    "a space between": with_length(b"1 2"),
    "no digits": with_length(b"", b""),
    "a hexadecimal number": with_length(b"0xc"),
    "an exponent": with_length(b"1e1", b"x" * 10),
    "digits that are none in ASCII": with_length("\u0661\u0662".encode()),
    "two numbers": with_length(b"12, 12"),
    "a huge number": with_length(b"9" * 10),
    "a number beyond 64 bits": with_length(b"1" + b"0" * 20),
    "a number that wraps around 64 bits": with_length(b"%d" % (2**64 + 12)),
    "a number that wraps around 32 bits": with_length(b"%d" % (2**32 + 12)),
    "a second length": with_length(b"12\r\nContent-Length: 5"),
    "a second length, the same": with_length(b"12\r\nContent-Length: 12"),
    "a length in front": with_line(b"Content-Length: 5"),
    "another number in front": with_line(b"X-Content-Length: 24") + FIRST[-12:],
    "another number in front, and another length": with_line(b"X-Content-Length: 2"),
    "chunks too": with_length(b"12\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
    "chunks in front": with_line(b"Transfer-Encoding: chunked"),
    "chunks instead": FIRST.replace(b"Content-Length: 12", b"Transfer-Encoding: chunked"),
    "a folded line": with_length(b"12\r\n 5"),
    "a length in a folded line": with_line(b"X: y\r\n Content-Length: 5"),
    "a line feed alone behind the number": with_length(b"12\nX: y"),
    "a carriage return alone behind the number": with_length(b"12\rX: y"),
    "line feeds alone": FIRST.replace(b"\r\n", b"\n"),
    "a line feed alone at the end": FIRST.replace(b"s-1\r\n\r\n", b"s-1\n\n"),
    "a zero byte": with_length(b"12\0"),
    "the end of the head too soon": with_length(b"12\r\n\r\nX: y"),
    "a byte behind the body": FIRST + b"x",
    "a line end behind the body": FIRST + b"\r\n",
    "a byte less": FIRST[:-1],
    "two requests": FIRST + FIRST,
    "two of different length": FIRST + with_length(b"2", b"{}"),
    "a request behind it": FIRST + GET,
    "half a request behind it": FIRST + FIRST[:40],
    "a request in the body": with_length(b"%d" % len(GET), GET),
    "the same request in the body": with_length(b"%d" % len(FIRST), FIRST),
    "a length in the body": with_length(b"23", b"\r\nContent-Length: 5\r\n\r\n"),
    "a line end in front": b"\r\n" + FIRST,
    "another case": FIRST.replace(b"Content-Length", b"content-LENGTH"),
    "another session": FIRST.replace(b"s-1", b"s-2"),
    "another path": FIRST.replace(b"/mcp", b"/mcq"),
    "another method": FIRST.replace(b"POST", b"PUT"),
    "an older version": FIRST.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "the end of the connection": with_line(b"Connection: close"),
    "a client that waits": with_line(b"Expect: 100-continue"),
    "another protocol": with_line(b"Connection: Upgrade\r\nUpgrade: h2c"),
    "nothing": b"",
    "half a head": FIRST[:60],
    "a head alone": FIRST[: FIRST.index(b"{")],
}


@pytest.mark.parametrize(
    "first",
    [
        FIRST,
        with_length(b"012"),
        b"\r\n" + FIRST,
        FIRST + FIRST,
        FIRST + FIRST.replace(b"/mcp", b"/other"),
        FIRST + b"\r\n",
        with_line(b"X-Content-Length: 12"),
    ],
)
@pytest.mark.parametrize("second", TRICKS.values(), ids=TRICKS)
async def test_no_trick_makes_a_repeated_head_mean_something_else(first: bytes, second: bytes) -> None:
    """Ours: else a request could be smuggled past whoever stands in front of us, or past our own guards."""
    for pieces in (
        [first, second, PROBE],
        [first, FIRST, second, FIRST, PROBE],
        [first + second, second, PROBE],
    ):
        assert await meaning(*pieces) == await meaning(*pieces, repeats=False)


@pytest.mark.parametrize("at", range(1, len(FIRST)))
async def test_a_piece_of_a_request_is_never_taken_for_one(at: int) -> None:
    """Ours: a head is kept only if all of it was there, from its first byte on."""
    for pieces in (
        [FIRST[:at], FIRST[at:], FIRST[at:], PROBE],
        [FIRST, FIRST[:at], FIRST[at:], FIRST, PROBE],
    ):
        assert await meaning(*pieces) == await meaning(*pieces, repeats=False)


edits = st.tuples(
    st.integers(0, 2**16),
    st.integers(0, 4),
    st.one_of(
        st.binary(max_size=2),
        st.sampled_from(
            [b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"0", b"9", b"-", b"+", b"_", b"\r\n\r\n", b","]
        ),
    ),
)
heads = st.sampled_from([trick for trick in TRICKS.values() if len(trick) < 400])


def edited(request: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Return a request with some bytes replaced by others."""
    for at, length, put in changes:
        start = at % (len(request) + 1)
        request = request[:start] + put + request[start + length :]
    return request


@settings(max_examples=400)
@given(
    first=st.one_of(st.just(FIRST), heads),
    second=st.one_of(st.just(FIRST), heads),
    changes=st.lists(edits, min_size=1, max_size=3),
    again=st.booleans(),
)
@example(first=FIRST, second=FIRST, changes=[(FIRST.index(b"12") + 1, 1, b"\r")], again=True)
async def test_no_edit_makes_a_repeated_head_mean_something_else(
    first: bytes,
    second: bytes,
    changes: list[tuple[int, int, bytes]],
    again: bool,  # noqa: FBT001
) -> None:
    """Ours, as above: whatever is changed, and wherever."""
    changed = edited(second, changes)
    pieces = [first, changed, *([changed, first] if again else []), PROBE]
    assert await meaning(*pieces) == await meaning(*pieces, repeats=False)


# What is recognised at all: else all of that would be tested of nothing.


def head(**changes: object) -> Head:
    """Return the head of `FIRST`, or nearly."""
    values = {b"content-length": b"12"}
    plain = Head("POST", "/mcp", b"", list(values.items()), values, 12, True, True, False)  # noqa: FBT003 - its own
    return replace(plain, **changes)  # type: ignore[arg-type] # of whatever type


def test_the_same_head_is_recognised_with_any_body() -> None:
    """Ours: this is what most requests are."""
    parsed = head()
    repeated = RepeatedHead.of(parsed, FIRST)
    assert repeated is not None
    for body in (b"", b"{}", b'{"id":1,"m"}', b"x" * 1000, FIRST):
        assert repeated.find(with_length(b"%d" % len(body), body)) == (parsed, body)
    assert repeated.find(with_length(b"0000000002", b"{}")) == (parsed, b"{}")


#: Tricks that are none: the same head, a plain length, and just that body.
PLAIN = {
    "the same",
    "another body",
    "another length",
    "no body",
    "leading zeros",
    "ten digits",
    "a request in the body",
    "the same request in the body",
    "a length in the body",
}


@pytest.mark.parametrize("name", TRICKS)
def test_another_head_is_not_recognised(name: str) -> None:
    """Ours: it is parsed."""
    repeated = RepeatedHead.of(head(), FIRST)
    assert repeated is not None
    assert (repeated.find(TRICKS[name]) is not None) == (name in PLAIN)


@pytest.mark.parametrize("extra", [b"x", b"\r\n", GET, FIRST])
def test_a_request_with_something_behind_it_is_not_recognised(extra: bytes) -> None:
    """Ours: what stands behind is the parser's to read."""
    repeated = RepeatedHead.of(head(), FIRST)
    assert repeated is not None
    assert repeated.find(FIRST + extra) is None
    assert repeated.find(FIRST[:-1]) is None


@pytest.mark.parametrize(
    ("parsed", "data"),
    [
        pytest.param(head(keeps_alive=False), FIRST, id="the end of the connection"),
        pytest.param(head(chunks=False), FIRST, id="an older version"),
        pytest.param(head(expects=True), FIRST, id="a client that waits"),
        pytest.param(head(values={b"transfer-encoding": b"chunked"}), FIRST, id="chunks"),
        pytest.param(head(length=13), FIRST, id="another length than the parser found"),
        pytest.param(head(length=None), GET, id="no length"),
        pytest.param(head(), FIRST[:60], id="half a head"),
        pytest.param(head(), with_length(b"12 "), id="a space behind the digits"),
        pytest.param(head(), with_length(b"  12"), id="two spaces in front of them"),
        pytest.param(head(), with_length(b"00000000012"), id="eleven digits"),
        pytest.param(head(), GET + b"\r\nContent-Length: 12\r\n\r\n", id="a length in the body"),
    ],
)
def test_nothing_is_made_of_a_head_that_is_not_plain(parsed: Head, data: bytes) -> None:
    """Ours: what is rare is parsed each time."""
    assert RepeatedHead.of(parsed, data) is None


async def test_a_recognised_head_is_the_same_object() -> None:
    """Ours: what was found of a head need not be looked for again (`Head.known`)."""
    wire = Wire(ok)
    wire.feed(FIRST, FIRST, with_length(b"2", b"{}"), get("/other"), FIRST, FIRST)
    heads = [request.head for request in wire.requests]
    assert heads[0] is heads[1] is heads[2]
    assert heads[3] is not heads[4]
    assert heads[4] is heads[5]


@pytest.mark.both_loops
async def test_a_client_that_goes_while_a_request_with_a_known_head_is_answered_is_noticed() -> None:
    """Ours: whoever works for it is told, as with any other."""
    wire, gone = Wire(), list[str]()
    wire.feed(FIRST)
    ok(wire.requests[-1])
    wire.feed(FIRST)
    wire.requests[-1].when_gone(lambda: gone.append("gone"))
    wire.connection.connection_lost(None)
    assert gone == ["gone"]


@pytest.mark.parametrize("first", [b"{}", b"x" * 3 * SMALL_BODY_BYTES])
async def test_a_long_body_is_long_however_its_head_was_read(first: bytes) -> None:
    """Ours: only a short one is given away before its bytes are counted (`HttpRequest.whole_body`)."""
    wire = Wire()
    wire.feed(post(first))
    ok(wire.requests[-1])
    long = b"x" * (SMALL_BODY_BYTES + 1)
    for body in (b"{}", long, long, long[1:], b"{}"):
        wire.feed(post(body))
        request = wire.requests[-1]
        assert request.whole_body == (None if body is long else body)
        assert await request.body(SMALL_BODY_BYTES + 1) == body
        ok(request)


async def test_only_what_stands_between_two_requests_is_looked_at() -> None:
    """Ours: in a body, what looks like a request is none."""
    wire = Wire(lambda request: request.go_on(_answer(request)))
    wire.feed(FIRST)
    await turns()
    body = FIRST * 3
    wire.feed(post(body, path="/other")[: -len(body)], FIRST, FIRST, FIRST)
    await turns()
    wire.feed(FIRST[:30], FIRST[30:])
    await turns()
    assert wire.paths == ["/mcp", "/other", "/mcp"]
    assert wire.statuses() == [200, 200, 200]


async def _answer(request: HttpRequest) -> None:
    await request.body(10_000)
    request.answer(200, ())
