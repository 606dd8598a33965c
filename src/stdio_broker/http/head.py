"""The head of a request: parsed once, however often a client sends it.

A client sends the same head with every request of a connection, but for the length of the body. What
was parsed and found good once is recognised by comparing bytes: a twentieth of the cost of parsing. The
bytes between the two requests are the parser's business, so only whole requests are recognised, and only
where the parser is between two of them (see `connection`).
"""

import re
from dataclasses import dataclass, field

__all__ = ["Head", "RepeatedHead"]

# As a parser would take it that knows no leniency. In any other form the length is not looked for.
_LENGTH = re.compile(rb"\r\ncontent-length: ?([0-9]{1,10})\r\n", re.IGNORECASE)


@dataclass(slots=True)
class Head:
    """What stands before a body.

    Attributes:
        method: The method, in capitals.
        path: The path, decoded.
        query: What stands behind its question mark.
        fields: Header fields in their order, names in lower case.
        values: The same by name; repeated ones joined by ", ".
        length: Bytes of the body of the request that it was parsed from; None if it does not say.
        keeps_alive: Whether the connection is good for another request.
        chunks: Whether the client understands an answer in chunks.
        expects: Whether it waits for `100 Continue` before it sends the body.
        known: What whoever serves it has found out about it. What it alone decides need be looked at once.
    """

    method: str
    path: str
    query: bytes
    fields: list[tuple[bytes, bytes]]
    values: dict[bytes, bytes]
    length: int | None
    keeps_alive: bool
    chunks: bool
    expects: bool
    known: object = field(default=None, repr=False)


class RepeatedHead:
    """Recognise a head by its bytes.

    Args:
        head: As it was parsed.
        before: Its bytes up to the digits of the length.
        behind: Its bytes behind them.
    """

    __slots__ = ("_before", "_behind", "_head", "_length", "_whole")

    def __init__(self, head: Head, before: bytes, behind: bytes) -> None:
        self._head = head
        self._before = before
        self._behind = behind
        # The last one that was recognised, and the length of its request: the next one may well be as long.
        self._whole = b""
        self._length = -1

    @classmethod
    def of(cls, head: Head, data: bytes) -> "RepeatedHead | None":
        """Return what recognises this head; None if nothing can.

        Args:
            head: As it was parsed.
            data: What it was parsed from, from its first byte on; what follows it does not matter.
        """
        end = data.find(b"\r\n\r\n")
        length = _LENGTH.search(data, 0, end + 2) if end >= 0 else None
        if length is None or not head.keeps_alive or head.expects or not head.chunks:
            return None
        if b"transfer-encoding" in head.values or int(length[1]) != head.length:
            return None
        return cls(head, data[: length.start(1)], data[length.end(1) : end + 4])

    def find(self, data: bytes) -> tuple[Head, bytes] | None:
        """Return the head and the body, if this is one whole request with this head and nothing more."""
        if len(data) == self._length and data.startswith(self._whole):
            return self._head, data[len(self._whole) :]
        if not data.startswith(self._before):
            return None
        start = len(self._before)
        end = data.find(b"\r", start, start + 11)
        digits = data[start:end]
        body_start = end + len(self._behind)
        # Of bytes that are digits only: `int` takes signs, spaces and underscores as well.
        if not digits.isdigit() or not data.startswith(self._behind, end):
            return None
        if int(digits) != len(data) - body_start:
            return None
        self._whole, self._length = data[:body_start], len(data)
        return self._head, data[body_start:]
