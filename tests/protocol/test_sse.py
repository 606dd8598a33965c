"""The encoder against a parser of the rules it is written for."""

import re

from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.protocol.sse import KEEP_ALIVE, encode_event, encode_priming

from .strategies import json_values, meaning


class _Client:
    """What a browser makes of a stream. Source: WHATWG HTML, 9.2.6 "Interpreting an event stream"."""

    def __init__(self, stream: bytes) -> None:
        self.events: list[tuple[str, str]] = []
        self.last_event_id = ""
        self.retry: int | None = None
        kind, data = "", ""
        *lines, rest = re.split("\r\n|\r|\n", stream.decode())
        assert rest == "", "the stream ends within a line"
        for line in lines:
            if line == "":
                if data:
                    self.events.append((kind or "message", data.removesuffix("\n")))
                kind, data = "", ""
                continue
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                kind = value
            elif field == "data":
                data += value + "\n"
            elif field == "id":
                self.last_event_id = value
            elif field == "retry":
                self.retry = int(value)
        assert data == "", "the stream ends within an event"


def _parse(stream: bytes) -> list[tuple[str, str]]:
    return _Client(stream).events


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


@given(message=json_values.map(lambda text: text.replace(b"\n", b" ")))
def test_an_id_is_where_the_client_would_resume_and_changes_nothing_else(message: bytes) -> None:
    """2025-11-25, transports, "Resumability": a server MAY attach an id to its events."""
    client = _Client(encode_event(message, event_id=b"3_14"))
    assert client.last_event_id == "3_14"
    assert client.events == _parse(encode_event(message))


def test_an_event_may_be_of_another_kind() -> None:
    """2024-11-05, transports: the first event is an `endpoint` event."""
    assert _parse(encode_event(b"/messages", kind=b"endpoint")) == [("endpoint", "/messages")]


def test_a_priming_event_is_an_id_with_empty_data_and_says_when_to_come_back() -> None:
    """2025-11-25, transports: an event ID and an empty `data` field; `retry` is in milliseconds."""
    client = _Client(encode_priming(b"1_1", retry=2.5))
    assert client.events == [("message", "")]
    assert client.last_event_id == "1_1"
    assert client.retry == 2500
