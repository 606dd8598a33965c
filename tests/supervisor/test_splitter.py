"""Lines do not depend on how the bytes came, and cost what they are long."""

import time
import tracemalloc
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.supervisor import splitter as splitter_module
from stdio_broker.supervisor.splitter import EDGE_BYTES, LineSplitter, OversizeLine, PieceSplitter

# Few different bytes, so that newlines are frequent; and what some splitters take for a line end.
TEXT = st.lists(st.sampled_from([b"\n", b"\r", b"\0", b"a", b"bc", b"\xff", b"\x85", "\u2028".encode()])).map(
    b"".join
)

CHUNK = bytes(8192)


def chunked(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(edges)]


def lines_of(splitter: LineSplitter, chunks: Iterable[bytes]) -> list[bytes | OversizeLine]:
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    rest = splitter.finish()
    return lines if rest is None else [*lines, rest]


def pieces_of(splitter: PieceSplitter, chunks: Iterable[bytes]) -> list[bytes]:
    pieces = [piece for chunk in chunks for piece in splitter.feed(chunk)]
    rest = splitter.finish()
    return pieces if rest is None else [*pieces, rest]


def expected_lines(data: bytes, limit: int) -> list[bytes | OversizeLine]:
    *lines, rest = data.split(b"\n")
    return [
        line if len(line) <= limit else OversizeLine(len(line), line[:EDGE_BYTES], line[-EDGE_BYTES:])
        for line in [*lines, *([rest] if rest else [])]
    ]


@given(data=TEXT, cuts=st.lists(st.integers(0, 60)), limit=st.integers(1, 12))
def test_lines_do_not_depend_on_chunk_boundaries(data: bytes, cuts: list[int], limit: int) -> None:
    assert lines_of(LineSplitter(limit), chunked(data, cuts)) == expected_lines(data, limit)


@given(data=TEXT, limit=st.integers(1, 12))
def test_lines_may_arrive_byte_by_byte(data: bytes, limit: int) -> None:
    single_bytes = [bytes([byte]) for byte in data]
    assert lines_of(LineSplitter(limit), single_bytes) == expected_lines(data, limit)


@given(data=TEXT, cuts=st.lists(st.integers(0, 60)), limit=st.integers(1, 12), gathered=st.integers(1, 12))
def test_lines_do_not_depend_on_how_they_are_put_together(
    data: bytes, cuts: list[int], limit: int, gathered: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitter_module, "GATHER_FROM_BYTES", gathered)
        assert lines_of(LineSplitter(limit), chunked(data, cuts)) == expected_lines(data, limit)


def test_a_long_line_is_in_memory_once() -> None:
    """Ours: 64 MiB in 64 KiB each, and then together, were 128 MiB."""
    splitter, chunk = LineSplitter(1 << 30), bytes(65536)
    tracemalloc.start()
    try:
        for _ in range(4 * splitter_module.GATHER_FROM_BYTES // len(chunk)):
            splitter.feed(bytes(memoryview(chunk)))
        (line,) = splitter.feed(b"\n")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(line, bytes)
    assert peak < 1.5 * len(line)


def test_only_a_newline_ends_a_line() -> None:
    """A carriage return, a NUL and the Unicode separators are content (MCP, stdio: newlines only)."""
    line = b"a\rb\0c\x0b\x0c\x1c\x85" + "\u2028\u2029".encode() + b"\r"
    assert LineSplitter(100).feed(line + b"\n\n\r\n") == [line, b"", b"\r"]


@pytest.mark.parametrize("chunk_size", [1, 7, 10, 1000])
@pytest.mark.parametrize("length", [9, 10, 11])
def test_a_line_is_kept_up_to_the_limit_exactly(length: int, chunk_size: int) -> None:
    line = bytes(range(65, 65 + length))
    data = b"before\n" + line + b"\nbehind\n"
    chunks = [data[start : start + chunk_size] for start in range(0, len(data), chunk_size)]
    middle = line if length <= 10 else OversizeLine(length, line, line)
    assert lines_of(LineSplitter(10), chunks) == [b"before", middle, b"behind"]


@pytest.mark.parametrize("chunk_size", [1000, EDGE_BYTES, 65536, 1_000_000])
def test_an_oversize_line_keeps_its_two_ends_and_its_length(chunk_size: int) -> None:
    line = b"head" + bytes(500_000) + b"tail"
    data = line + b"\nnext\n"
    chunks = [data[start : start + chunk_size] for start in range(0, len(data), chunk_size)]
    oversize, following = lines_of(LineSplitter(100_000), chunks)
    assert oversize == OversizeLine(len(line), line[:EDGE_BYTES], line[-EDGE_BYTES:])
    assert following == b"next"


def test_an_oversize_line_without_a_newline_is_reported_at_the_end() -> None:
    splitter = LineSplitter(4)
    assert splitter.feed(b"123456789") == []
    assert splitter.finish() == OversizeLine(9, b"123456789", b"123456789")
    assert splitter.finish() is None


def test_what_is_held_of_an_oversize_line_does_not_grow_with_it() -> None:
    splitter = LineSplitter(10_000)
    for _ in range(1000):
        splitter.feed(bytes(65536))
        assert splitter.pending_bytes <= 2 * EDGE_BYTES


def test_what_is_held_of_a_line_is_counted() -> None:
    splitter = LineSplitter(100)
    splitter.feed(b"whole\npart")
    assert splitter.pending_bytes == 4
    splitter.feed(b"\n")
    assert splitter.pending_bytes == 0


@pytest.mark.parametrize("limit", [1 << 30, 1000])
def test_a_long_line_costs_in_proportion_to_its_length(limit: int) -> None:
    """Joining what is left over with every chunk would make 4 times as much cost 16 times as much."""

    def cost(chunks: int) -> float:
        splitter = LineSplitter(limit)
        started = time.process_time()
        for _ in range(chunks):
            splitter.feed(CHUNK)
        splitter.feed(b"\n")
        return time.process_time() - started

    assert min(cost(2000) for _ in range(5)) < 9 * min(cost(500) for _ in range(5))


@given(data=TEXT, cuts=st.lists(st.integers(0, 60)), limit=st.integers(1, 12))
def test_pieces_lose_nothing_and_none_is_longer_than_the_limit(
    data: bytes, cuts: list[int], limit: int
) -> None:
    pieces = pieces_of(PieceSplitter(limit), chunked(data, cuts))
    assert b"".join(pieces) == data.replace(b"\n", b"")
    assert all(len(piece) <= limit for piece in pieces)


@given(data=TEXT, cuts=st.lists(st.integers(0, 60)))
def test_pieces_are_lines_while_no_line_is_too_long(data: bytes, cuts: list[int]) -> None:
    *lines, rest = data.split(b"\n")
    assert pieces_of(PieceSplitter(1000), chunked(data, cuts)) == [*lines, *([rest] if rest else [])]


def test_a_long_line_is_cut_into_pieces_of_the_limit() -> None:
    splitter = PieceSplitter(4)
    assert splitter.feed(b"0123456789") == [b"0123", b"4567"]
    assert splitter.feed(b"ab\ncd") == [b"89ab"]
    assert splitter.finish() == b"cd"
    assert splitter.finish() is None


def test_what_is_held_of_a_long_line_is_at_most_one_piece() -> None:
    splitter = PieceSplitter(100)
    pieces = [piece for _ in range(1000) for piece in splitter.feed(b"x" * 33)]
    assert len(pieces) == 329
    assert splitter.finish() == b"x" * 100
