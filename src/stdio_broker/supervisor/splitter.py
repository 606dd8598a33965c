"""Bytes to lines, however the bytes were chunked. Sans-IO, linear time, bounded memory.

Two kinds, because stdout and stderr want different things of a line that is too long: stdout
carries messages, so an over-long one is reported and skipped; stderr carries text, so it is
cut into pieces and nothing is lost.
"""

import io
from dataclasses import dataclass

__all__ = ["LineSplitter", "OversizeLine", "PieceSplitter"]

#: How much of each end of an over-long line is kept: enough for a reader to tell what the line
#: was about.
EDGE_BYTES = 4096

#: A line that has grown to this is put together as it comes. To copy all of it at its end would hold
#: everybody else up, 25 ms for 64 MiB, and take its size in memory twice.
GATHER_FROM_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class OversizeLine:
    """What is left of a line over the limit.

    Attributes:
        length: Bytes of the whole line.
        head: Its first bytes, at most `EDGE_BYTES`.
        tail: Its last bytes, at most `EDGE_BYTES`.
    """

    length: int
    head: bytes
    tail: bytes


class LineSplitter:
    r"""Split at ``\n``; report a line over the limit and stay in sync.

    Args:
        max_line_bytes: Longest line kept, newline excluded. A security limit: without it a
            child that never sends a newline fills our memory.
    """

    __slots__ = ("_gathered", "_head", "_max", "_parts", "_size", "_tail")

    def __init__(self, max_line_bytes: int) -> None:
        self._max = max_line_bytes
        # Joined once per line: joining at every chunk makes one long line cost O(n²).
        self._parts: list[bytes] = []
        # Instead, for a long line. It grows without a copy, mostly, and gives its content away without one.
        self._gathered: io.BytesIO | None = None
        self._size = 0
        # Set while inside an over-long line; its parts are gone by then.
        self._head: bytes | None = None
        self._tail = b""

    def feed(self, chunk: bytes) -> list[bytes | OversizeLine]:
        """Take the next chunk and return the lines it completes, without newline."""
        lines: list[bytes | OversizeLine] = []
        *complete, rest = chunk.split(b"\n")
        for line in complete:
            if self._size or len(line) > self._max:
                self._keep(line)
                lines.append(self._take())
            else:
                lines.append(line)
        if rest:
            self._keep(rest)
        return lines

    def finish(self) -> bytes | OversizeLine | None:
        """Return what stands after the last newline, or None."""
        return self._take() if self._size else None

    @property
    def pending_bytes(self) -> int:
        """Bytes held for a line that is not complete."""
        return self._size if self._head is None else len(self._head) + len(self._tail)

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._head is not None:
            self._head += part[: EDGE_BYTES - len(self._head)]
            self._tail = (self._tail + part)[-EDGE_BYTES:]
            return
        if self._size > self._max:
            whole = self._take_kept()
            self._head = (whole[:EDGE_BYTES] + part[:EDGE_BYTES])[:EDGE_BYTES]
            self._tail = (whole[-EDGE_BYTES:] + part[-EDGE_BYTES:])[-EDGE_BYTES:]
        elif self._gathered is not None:
            self._gathered.write(part)
        else:
            self._parts.append(part)
            if self._size >= GATHER_FROM_BYTES:
                self._gathered = io.BytesIO()
                self._gathered.writelines(self._parts)
                self._parts.clear()

    def _take(self) -> bytes | OversizeLine:
        line: bytes | OversizeLine
        if self._head is None:
            line = self._take_kept()
        else:
            line = OversizeLine(self._size, self._head, self._tail)
            self._head, self._tail = None, b""
        self._size = 0
        return line

    def _take_kept(self) -> bytes:
        if self._gathered is not None:
            line = self._gathered.getvalue()
            self._gathered = None
        else:
            line = b"".join(self._parts)
            self._parts.clear()
        return line


class PieceSplitter:
    r"""Split at ``\n`` and, inside a line that is too long, every `max_piece_bytes`."""

    __slots__ = ("_max", "_rest")

    def __init__(self, max_piece_bytes: int) -> None:
        self._max = max_piece_bytes
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next chunk and return the pieces it completes, without newline."""
        *complete, self._rest = (self._rest + chunk).split(b"\n")
        pieces = [piece for line in complete for piece in self._cut(line)]
        if len(self._rest) > self._max:
            *full, self._rest = self._cut(self._rest)
            pieces += full
        return pieces

    def finish(self) -> bytes | None:
        """Return what stands after the last newline, or None."""
        rest, self._rest = self._rest, b""
        return rest or None

    def _cut(self, line: bytes) -> list[bytes]:
        if len(line) <= self._max:
            return [line]
        return [line[start : start + self._max] for start in range(0, len(line), self._max)]
