"""A long text is read in steps, and means what a short one would mean."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stdio_broker.errors import LocalProtocolError, RemoteProtocolError
from stdio_broker.protocol import decoding, jsonrpc
from stdio_broker.protocol.decoding import (
    SMALL_BYTES,
    STEP_BYTES,
    Steps,
    finish,
    replace_invalid_utf8,
)
from stdio_broker.protocol.jsonrpc import (
    Message,
    Notification,
    Request,
    encode,
    params_of,
    parse_body,
    parse_body_in_steps,
    parse_line,
    parse_line_in_steps,
)

from .strategies import ids, json_objects, json_values, rendered, white_space


@contextmanager
def everything_long(step_bytes: int) -> Iterator[None]:
    """Make every text a long one, so that a test needs none that takes long."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (decoding, jsonrpc):
            patch.setattr(module, "SMALL_BYTES", 0)
        patch.setattr(decoding, "STEP_BYTES", step_bytes)
        patch.setattr(decoding, "UTF8_CHECK_BYTES", step_bytes // 2)
        yield


_even = st.integers(1, 10).map(lambda half: 2 * half)

_envelopes = st.builds(
    lambda identifier, params, space: rendered(
        [
            (b'"jsonrpc"', b'"2.0"'),
            (b'"id"', identifier),
            (b'"method"', '"tools/\\u0063all ü"'.encode()),
            (b'"params"', params),
        ],
        space,
    ),
    ids,
    st.one_of(json_objects, json_values),
    white_space,
)


def _outcome(body: bytes) -> list[bytes] | str:
    """Return what a body says, or what is wrong with it."""
    try:
        found = parse_body(body)
    except LocalProtocolError as exc:
        return str(exc)
    return [encode(message.members) for message in (found if isinstance(found, list) else [found])]


@given(body=_envelopes, step_bytes=_even, in_batch=st.booleans(), space=white_space)
def test_a_long_body_means_what_a_short_one_means(
    body: bytes, step_bytes: int, space: bytes, *, in_batch: bool
) -> None:
    body = space + b"[" + body + b"," + body + b"]" if in_batch else space + body + space
    expected = _outcome(body)
    with everything_long(step_bytes):
        assert _outcome(body) == expected


@given(line=_envelopes, step_bytes=_even, in_batch=st.booleans())
def test_a_long_line_means_what_a_short_one_means(line: bytes, step_bytes: int, *, in_batch: bool) -> None:
    line = b"[" + line + b',{"jsonrpc":"1.0"}]' if in_batch else line
    expected = [encode(message.members) for message in parse_line(line)]
    with everything_long(step_bytes):
        assert [encode(message.members) for message in parse_line(line)] == expected


_crumbs = st.sampled_from(
    [
        rb"\ud800",
        rb"\uDBff",
        rb"\udc00",
        rb"\\",
        rb"\\\\\\\\\\",
        rb"\n",
        b"ud800",
        b"x",
        "ü".encode(),
        rb"\ud83d\ude00",
        b"\xff",
        b"\0",
        b"\n",
        b'"',
        b"\\",
    ]
)


@given(crumbs=st.lists(_crumbs, max_size=12), step_bytes=_even)
@example(crumbs=[rb"\\", rb"\ud83d", rb"\ude00", rb"\ud83d"], step_bytes=2)
@example(crumbs=[rb"\\" * 20, rb"\ud800"], step_bytes=4)
def test_where_a_step_ends_is_nothing_to_what_is_repaired_or_refused(
    crumbs: list[bytes], step_bytes: int
) -> None:
    """Our rule: half a pair of surrogates is replaced, whatever stands at the border of two steps."""
    body = b'{"jsonrpc":"2.0","method":"m","params":["' + b"".join(crumbs) + b'"]}'
    expected = _outcome(body)
    with everything_long(step_bytes):
        assert _outcome(body) == expected


def _long(value: bytes, tail: bytes = b"}") -> bytes:
    return b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"' + value + b'"}' + tail


def _taken(steps: Steps[object]) -> int:
    """Take all steps; return how many there were."""
    return sum(1 for _ in steps) + 1


@pytest.mark.parametrize("value", ["é".encode() * STEP_BYTES, rb"\ud800" + b"x" * STEP_BYTES])
def test_what_is_long_is_looked_at_in_more_steps_than_what_is_short(value: bytes) -> None:
    """Ours: nobody else is held up for all of it. Text that is not ASCII, and text to be repaired."""
    once, twice = _long(value), _long(2 * value)
    assert _taken(parse_body_in_steps(twice)) > _taken(parse_body_in_steps(once)) > 3
    assert _taken(parse_line_in_steps(twice)) > _taken(parse_line_in_steps(once)) > 3


def test_what_is_wrong_with_a_long_text_is_told_as_of_a_short_one() -> None:
    broken = _long(b"x" * SMALL_BYTES, b"")
    with pytest.raises(LocalProtocolError, match="truncated"):
        finish(parse_body_in_steps(broken))
    with pytest.raises(RemoteProtocolError, match="truncated"):
        finish(parse_line_in_steps(b"[" + broken))


def _request(body: bytes) -> Request:
    message = parse_body(body)
    assert isinstance(message, Request)
    return message


@pytest.mark.parametrize("tail", [b"}", b"}\r", b"}\r\n", b"\n}", b"} "])
def test_a_long_message_on_one_line_is_not_copied(tail: bytes) -> None:
    """Ours: 64 MiB would take 28 ms. What stands behind the last member is no part of any."""
    body = _long(b"x" * SMALL_BYTES, tail)
    assert _request(body).source is body


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_a_long_message_has_no_line_ends_in_any_member(line_end: bytes) -> None:
    """MCP 2025-11-25, basic/transports, "stdio": what is sent on in pieces is not looked at again."""
    message = _request(_long(b"x" * SMALL_BYTES, line_end + b"}").replace(b":", b":" + line_end))
    assert not {10, 13} & set(b"".join(map(bytes, message.members.values())))


def test_reading_a_long_message_takes_no_memory_for_its_length() -> None:
    """Ours: what waits to be sent is the text that came, once."""
    body = _long(b"x" * 4 * STEP_BYTES)
    tracemalloc.start()
    try:
        message = _request(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert params_of(message)
    assert peak < STEP_BYTES


@given(
    pieces=st.lists(
        st.sampled_from(["é🙂€".encode(), b"\xe9", b"\xf0\x9f", b"\xed\xa0\x80", b"\x80", b"xy"])
    ),
    step_bytes=_even,
)
def test_where_a_step_ends_is_nothing_to_what_is_no_utf_8(pieces: list[bytes], step_bytes: int) -> None:
    """Unicode 15, 3.9, "U+FFFD Substitution of Maximal Subparts": as the decoder of the language does."""
    text = b"".join(pieces)
    with everything_long(step_bytes):
        assert finish(replace_invalid_utf8(text)) == text.decode("utf-8", "replace").encode()


# Params.


def _params(text: bytes) -> Message:
    return parse_line(b'{"jsonrpc":"2.0","id":1,"method":"m","params":' + text + b"}")[0]


@given(params=json_values)
def test_the_params_of_a_message_are_an_object_or_none(params: bytes) -> None:
    message = _params(params)
    assert isinstance(message, Request)
    assert params_of(message) == jsonrpc.object_members(message.members["params"])


def test_params_are_read_once_and_again_when_others_are_in_their_place() -> None:
    """Ours: with 64 MiB in them it takes 11 ms."""
    message = _params(b'{"a":1}')
    assert isinstance(message, Request)
    assert params_of(message) is params_of(message)
    message.members["params"] = jsonrpc.raw({"b": 2})
    assert list(params_of(message) or {}) == ["b"]


def test_a_message_may_have_no_params() -> None:
    (message,) = parse_line(b'{"jsonrpc":"2.0","method":"m"}')
    assert isinstance(message, Notification)
    assert params_of(message) is None


def test_the_params_of_a_long_message_are_read_in_a_step_of_its_own() -> None:
    """Ours: whoever asks for them later does so in the middle of something else."""
    assert _request(_long(b"x" * SMALL_BYTES)).read_params is not None
    assert _request(_long(b"x")).read_params is None
