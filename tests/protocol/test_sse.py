"""The encoder against a parser of the rules it is written for."""

import re

from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.protocol.sse import KEEP_ALIVE, encode_event

from .strategies import json_values, meaning


def _parse(stream: bytes) -> list[tuple[str, str]]:
    """Return type and data of every event. Source: WHATWG HTML, 9.2.6 "Interpreting an event stream"."""
    events: list[tuple[str, str]] = []
    kind, data = "", ""
    *lines, rest = re.split("\r\n|\r|\n", stream.decode())
    assert rest == "", "the stream ends within a line"
    for line in lines:
        if line == "":
            if data:
                events.append((kind or "message", data.removesuffix("\n")))
            kind, data = "", ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            kind = value
        elif field == "data":
            data += value + "\n"
    assert data == "", "the stream ends within an event"
    return events


@given(messages=st.lists(json_values.map(lambda text: text.replace(b"\n", b" ")), max_size=4))
def test_every_message_comes_out_of_the_stream_as_one_event_with_the_same_meaning(
    messages: list[bytes],
) -> None:
    stream = b"".join(KEEP_ALIVE + encode_event(message) for message in messages)
    events = _parse(stream)
    assert [kind for kind, _ in events] == ["message"] * len(messages)
    assert [meaning(data.encode()) for _, data in events] == [meaning(message) for message in messages]


@given(message=json_values.map(lambda text: text.replace(b"\n", b" ").replace(b"\r", b" ")))
def test_a_message_without_a_carriage_return_is_not_changed(message: bytes) -> None:
    assert _parse(encode_event(message)) == [("message", message.decode())]


def test_what_the_unicode_standard_calls_a_line_separator_ends_no_line() -> None:
    """Only CR and LF do (WHATWG HTML, 9.2.5); JSON allows U+2028 in a string."""
    message = '{"text":"\u2028\u2029\u0085\x0b"}'.encode()
    assert _parse(encode_event(message)) == [("message", message.decode())]


def test_a_keep_alive_is_no_event() -> None:
    assert _parse(KEEP_ALIVE) == []
