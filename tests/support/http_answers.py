"""What a client makes of the bytes of a connection, strictly: an answer that is not well-formed fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import httptools

__all__ = ["Answer", "read_answers"]

_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        status: Its number.
        fields: Its header fields, names in lower case; none stands twice.
        body: Its body.
    """

    status: int
    fields: dict[bytes, bytes]
    body: bytes


def read_answers(data: bytes, methods: Sequence[str] = ()) -> list[Answer]:
    """Return the answers in their order; fail if they are not whole.

    Args:
        data: All that was received.
        methods: Of the requests, in their order; GET where there are no more. `100 Continue` answers none.
    """
    answers: list[Answer] = []
    final = 0
    while data:
        method = methods[final] if final < len(methods) else "GET"
        answer, size = _read(data, method)
        answers.append(answer)
        final += answer.status >= 200
        data = data[size:]
    return answers


def _read(data: bytes, method: str) -> tuple[Answer, int]:
    head, end, rest = data.partition(_END)
    assert end, f"a head without an end: {data[:200]!r}"
    lines = head.split(b"\r\n")
    pairs = [line.partition(b": ")[::2] for line in lines[1:]]
    fields = {name.lower(): value for name, value in pairs}
    assert len(fields) == len(pairs), f"a field that stands twice: {head!r}"
    status = int(lines[0].split(b" ")[1])
    assert not {b"content-length", b"transfer-encoding"} <= fields.keys()
    if status < 200 or status == 204:
        assert not {b"content-length", b"transfer-encoding"} & fields.keys()
        size = 0
    elif method == "HEAD":
        size = 0
    elif b"content-length" in fields:
        size = int(fields[b"content-length"])
    elif b"transfer-encoding" in fields:
        size = _chunks_size(rest)
    else:
        assert fields[b"connection"] == b"close", "a body without an end"
        size = len(rest)
    assert size <= len(rest), f"an answer that is cut off: {data[:200]!r}"
    whole = data[: len(head) + len(_END) + size]
    # The parser cannot know that an answer has no body, or that its end is that of the connection.
    ends = method != "HEAD" and bool({b"content-length", b"transfer-encoding"} & fields.keys())
    return Answer(status, fields, _parse(whole, status, ends=ends)), len(whole)


def _chunks_size(data: bytes) -> int:
    """Return how many bytes the chunks take, with the end."""
    at = 0
    while True:
        line, end, _ = data[at:].partition(b"\r\n")
        assert end, "chunks without an end"
        size = int(line, 16)
        at += len(line) + 2 + size + 2
        assert data[at - 2 : at] == b"\r\n"
        if not size:
            return at


class _Parsed:
    def __init__(self) -> None:
        self.body = b""
        self.whole = 0

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.whole += 1


def _parse(data: bytes, status: int, *, ends: bool) -> bytes:
    """Return the body as a parser reads it that is not ours."""
    parsed = _Parsed()
    parser = httptools.HttpResponseParser(parsed)
    parser.feed_data(data)
    assert parser.get_status_code() == status
    if ends:
        assert parsed.whole == 1
    return parsed.body
