"""The pipes of a child, with the test at their other ends."""

import asyncio
import contextlib
import fcntl
import itertools
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stdio_broker.supervisor import ChildGone, EndOfOutput, LineReader, LineTooLong, LineWriter, OversizeLine
from stdio_broker.supervisor import stderr as stderr_module
from stdio_broker.supervisor import stdin as stdin_module
from stdio_broker.supervisor.source import CHUNK_BYTES, LINE_OVERHEAD, MAX_REMAINS_BYTES
from stdio_broker.supervisor.stderr import StderrPump
from tests.support.processes import wait_until

pytestmark = pytest.mark.both_loops


class Far:
    """The far end of a pipe: what a child would hold."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        os.set_blocking(fd, False)

    def write(self, data: bytes) -> int:
        """Write as much as the pipe takes; return how much that was."""
        written = 0
        with contextlib.suppress(BlockingIOError):
            while written < len(data):
                written += os.write(self.fd, data[written:])
        return written

    def read(self) -> bytes:
        """Read everything that is in the pipe."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.fd, 1 << 20):
                data += chunk
        return data

    def at_end(self) -> bool:
        """Tell whether the pipe is empty and its other end closed."""
        try:
            return os.read(self.fd, 1) == b""
        except BlockingIOError:
            return False

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@contextlib.contextmanager
def line_reader(
    *, max_line_bytes: int = 1000, buffer_bytes: int = 1000
) -> Iterator[tuple[LineReader, Far, asyncio.Event]]:
    ended = asyncio.Event()
    near, far_fd = os.pipe()
    os.set_blocking(near, False)
    far = Far(far_fd)
    reader = LineReader(
        asyncio.get_running_loop(),
        near,
        max_line_bytes=max_line_bytes,
        buffer_bytes=buffer_bytes,
        on_end=ended.set,
    )
    try:
        yield reader, far, ended
    finally:
        far.close()
        reader.close()


@contextlib.contextmanager
def line_writer(*, buffer_bytes: int = 1000) -> Iterator[tuple[LineWriter, Far, list[int]]]:
    """Yield also what was unwritten each time the writer said that it is flushed."""
    flushed: list[int] = []
    far_fd, near = os.pipe()
    os.set_blocking(near, False)
    far = Far(far_fd)
    writer = LineWriter(
        asyncio.get_running_loop(),
        near,
        buffer_bytes=buffer_bytes,
        on_flushed=lambda: flushed.append(writer.unwritten_bytes),
    )
    try:
        yield writer, far, flushed
    finally:
        writer.close()
        far.close()


@contextlib.contextmanager
def stderr_pump(
    callback: Callable[[str], None] | None, *, max_line_bytes: int = 1000, tail_lines: int = 5
) -> Iterator[tuple[StderrPump, Far, asyncio.Event]]:
    ended = asyncio.Event()
    near, far_fd = os.pipe()
    os.set_blocking(near, False)
    far = Far(far_fd)
    pump = StderrPump(
        asyncio.get_running_loop(),
        near,
        callback=callback,
        max_line_bytes=max_line_bytes,
        tail_lines=tail_lines,
        on_end=ended.set,
    )
    try:
        yield pump, far, ended
    finally:
        far.close()
        pump.close()


async def turns(number: int = 5) -> None:
    """Let the event loop do all that it has to do now."""
    for _ in range(number):
        await asyncio.sleep(0)


# stdout


async def test_lines_come_in_order_and_the_last_one_needs_no_newline() -> None:
    with line_reader() as (reader, far, ended):
        far.write(b"one\n\ntwo\r\nthr")
        assert [await reader.receive() for _ in range(3)] == [b"one", b"", b"two\r"]
        far.write(b"ee")
        far.close()
        assert await reader.receive() == b"three"
        assert ended.is_set()
        assert reader.ended
        for _ in range(2):
            with pytest.raises(EndOfOutput):
                await reader.receive()


async def test_iterating_ends_with_the_output() -> None:
    with line_reader() as (reader, far, _):
        far.write(b"one\ntwo\n")
        far.close()
        assert [line async for line in reader] == [b"one", b"two"]
        assert [line async for line in reader] == []


async def test_an_empty_output_ends_at_once() -> None:
    with line_reader() as (reader, far, _):
        far.close()
        with pytest.raises(EndOfOutput):
            await reader.receive_many()


async def test_a_line_over_the_limit_costs_only_itself() -> None:
    with line_reader(max_line_bytes=10) as (reader, far, _):
        far.write(b"before\n" + b"x" * 11 + b"\nbehind\n")
        assert await reader.receive() == b"before"
        with pytest.raises(LineTooLong, match="a line of 11 bytes exceeds the limit of 10 bytes") as caught:
            await reader.receive()
        assert (caught.value.length, caught.value.head, caught.value.tail) == (11, b"x" * 11, b"x" * 11)
        assert await reader.receive() == b"behind"


async def test_all_lines_that_have_arrived_come_in_one_batch() -> None:
    with line_reader(max_line_bytes=10) as (reader, far, _):
        far.write(b"one\n" + b"x" * 11 + b"\ntwo\nthr")
        assert await reader.receive_many() == [b"one", OversizeLine(11, b"x" * 11, b"x" * 11), b"two"]
        far.write(b"ee\n")
        assert await reader.receive_many() == [b"three"]


async def test_only_one_task_may_receive() -> None:
    with line_reader() as (reader, far, _):
        first = asyncio.ensure_future(reader.receive())
        await turns()
        with pytest.raises(RuntimeError, match="another task is already receiving"):
            await reader.receive()
        far.write(b"line\n")
        assert await first == b"line"


async def test_a_cancelled_receive_loses_nothing() -> None:
    with line_reader() as (reader, far, _):
        receiving = asyncio.ensure_future(reader.receive())
        await turns()
        far.write(b"line\n")
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        assert await reader.receive() == b"line"


async def test_unread_output_above_the_limit_blocks_the_writer_until_it_is_read() -> None:
    line = b"x" * 99 + b"\n"
    with line_reader(buffer_bytes=1000) as (reader, far, _):
        left = line * 10_000
        for _ in range(5):
            left = left[far.write(left) :]
            await turns()
        # What is read stops at the limit, give or take a chunk; then the pipe is full again.
        assert len(line) * 10_000 - len(left) <= 1000 + CHUNK_BYTES + fcntl.fcntl(far.fd, fcntl.F_GETPIPE_SZ)
        received = 0
        while received < 10_000:
            received += len(await reader.receive_many())
            left = left[far.write(left) :]
        assert not left


async def test_a_line_longer_than_the_buffer_arrives_whole() -> None:
    line = bytes(range(1, 10)) * 50_000
    with line_reader(max_line_bytes=1_000_000, buffer_bytes=10) as (reader, far, _):
        receiving = asyncio.ensure_future(reader.receive())
        left = line + b"\n"
        while left:
            left = left[far.write(left) :]
            await asyncio.sleep(0)
        assert await receiving == line


async def test_while_draining_everything_is_read_and_what_does_not_fit_is_counted() -> None:
    """The seed did not drain stdout in Stop, so a child blocked in write could not see EOF (its bug 12)."""
    line = b"x" * 999 + b"\n"
    total = 4000
    with line_reader(buffer_bytes=1000) as (reader, far, ended):
        reader.drain()
        left = line * total
        while left:
            left = left[far.write(left) :]
            await asyncio.sleep(0)
        far.close()
        await ended.wait()
        kept = 0
        with contextlib.suppress(EndOfOutput):
            while True:
                kept += len(await reader.receive_many())
        assert kept == -(-(1000 + MAX_REMAINS_BYTES) // (999 + LINE_OVERHEAD))
        assert reader.discarded_bytes == (total - kept) * 999


async def test_draining_goes_on_where_back_pressure_had_stopped() -> None:
    with line_reader(buffer_bytes=10) as (reader, far, ended):
        far.write(b"x" * 20 + b"\n")
        await turns()
        far.write(b"y\n")
        far.close()
        await turns()
        assert not ended.is_set()
        reader.drain()
        await ended.wait()
        assert await reader.receive_many() == [b"x" * 20, b"y"]


async def test_closing_takes_what_is_left_in_a_pipe_that_somebody_holds_open() -> None:
    with line_reader(buffer_bytes=10) as (reader, far, ended):
        far.write(b"x" * 20 + b"\n")
        await turns()
        far.write(b"one\ntwo")
        reader.close()
        assert ended.is_set()
        assert await reader.receive_many() == [b"x" * 20, b"one", b"two"]
        reader.close()


async def test_closing_wakes_who_waits() -> None:
    with line_reader() as (reader, _, _):
        receiving = asyncio.ensure_future(reader.receive())
        await turns()
        reader.close()
        with pytest.raises(EndOfOutput):
            await receiving


async def test_closing_does_not_read_for_ever_from_who_never_stops_writing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads = 0

    def endless(fd: int, amount: int) -> bytes:
        nonlocal reads
        reads += 1
        return b"x" * (amount - 1) + b"\n"

    with line_reader() as (reader, _, _):
        monkeypatch.setattr(os, "read", endless)
        reader.close()
        monkeypatch.undo()
        assert reads == MAX_REMAINS_BYTES // CHUNK_BYTES


async def test_an_interrupted_read_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """InterruptedError is only raised if a signal handler raises; then the next event reads."""
    with line_reader() as (reader, far, ended):
        monkeypatch.setattr(os, "read", _raises(InterruptedError()))
        far.write(b"line\n")
        await turns()
        monkeypatch.undo()
        assert await reader.receive() == b"line"
        assert not ended.is_set()


def _raises(exc: Exception) -> Callable[..., object]:
    def function(*_: object) -> object:
        raise exc

    return function


@settings(max_examples=30)
@given(
    lines=st.lists(st.binary(max_size=30).map(lambda text: text.replace(b"\n", b" "))),
    buffer_bytes=st.integers(1, 500),
    batches=st.booleans(),
)
async def test_no_line_is_lost_or_reordered_whatever_the_consumer_does(
    lines: list[bytes], buffer_bytes: int, *, batches: bool
) -> None:
    async def receive_all() -> AsyncIterator[bytes | OversizeLine]:
        with contextlib.suppress(EndOfOutput):
            while True:
                for line in await reader.receive_many() if batches else [await reader.receive()]:
                    yield line

    with line_reader(max_line_bytes=30, buffer_bytes=buffer_bytes) as (reader, far, _):
        far.write(b"".join(line + b"\n" for line in lines))
        far.close()
        assert [line async for line in receive_all()] == lines


@contextlib.asynccontextmanager
async def forwarding(
    reader: LineReader, take: Callable[[bytes | OversizeLine], None], *, below_bytes: int = 100
) -> AsyncIterator[asyncio.Future[bytes]]:
    """Have lines handed over in the block."""
    task = asyncio.ensure_future(reader.forward(take, below_bytes=below_bytes))
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_lines_are_handed_over_in_the_turn_in_which_they_are_read() -> None:
    taken: list[bytes | OversizeLine] = []
    with line_reader() as (reader, far, _):
        async with forwarding(reader, taken.append) as task:
            far.write(b"one\ntwo\nthr")
            await wait_until(lambda: bool(taken))
            assert taken == [b"one", b"two"]
            far.write(b"ee\n\n")
            await wait_until(lambda: len(taken) == 4)
            assert taken[2:] == [b"three", b""]
            assert not task.done()


async def test_nothing_is_handed_over_while_a_long_line_is_dealt_with() -> None:
    """What comes behind it waits, and comes in its order, whoever asks for it."""
    taken: list[bytes | OversizeLine] = []
    with line_reader() as (reader, far, _):
        async with forwarding(reader, taken.append, below_bytes=5) as task:
            far.write(b"one\nthree\ntwo\n")
            assert await task == b"three"
            far.write(b"four\n")
            await turns()
            assert taken == [b"one"]
            assert await reader.receive() == b"two"
        async with forwarding(reader, taken.append, below_bytes=5):
            far.write(b"six\n")
            await wait_until(lambda: len(taken) == 3)
            assert taken == [b"one", b"four", b"six"]


async def test_what_is_there_already_is_handed_over_first() -> None:
    with line_reader(max_line_bytes=5) as (reader, far, _):
        far.write(b"one\ntoo long\nfour\nfive5\nsix\n")
        assert await reader.receive() == b"one"
        taken: list[bytes | OversizeLine] = []
        assert await reader.forward(taken.append, below_bytes=5) == b"five5"
        assert taken == [OversizeLine(8, b"too long", b"too long"), b"four"]
        assert await reader.receive() == b"six"


async def test_the_end_of_the_output_ends_the_handing_over() -> None:
    """The last line needs no newline."""
    taken: list[bytes | OversizeLine] = []
    with line_reader() as (reader, far, ended):
        far.write(b"one\ntwo")
        far.close()
        for _ in range(2):
            with pytest.raises(EndOfOutput):
                await reader.forward(taken.append, below_bytes=100)
        assert taken == [b"one", b"two"]
        assert ended.is_set()


@pytest.mark.parametrize("there", [False, True])
async def test_what_a_taker_raises_costs_its_own_line(*, there: bool) -> None:
    """Whether the line was there already or comes: those behind it stay."""

    def fail(line: bytes | OversizeLine) -> None:
        if line == b"bad":
            raise ValueError(line)
        taken.append(line)

    taken: list[bytes | OversizeLine] = []
    with line_reader() as (reader, far, _):
        if there:
            far.write(b"first\nbad\ntwo\nthree\n")
            assert await reader.receive() == b"first"
        task = asyncio.ensure_future(reader.forward(fail, below_bytes=100))
        await asyncio.sleep(0)
        if not there:
            far.write(b"bad\ntwo\nthree\n")
        with pytest.raises(ValueError, match="bad"):
            await task
        assert taken == []
        assert await reader.receive_many() == [b"two", b"three"]


async def test_a_taker_that_is_cancelled_and_fails_in_the_same_moment_is_cancelled() -> None:
    """Its error is for nobody, and what comes behind is received."""

    def fail(line: bytes | OversizeLine) -> None:
        raise ValueError(line)

    with line_reader() as (reader, far, _):
        task = asyncio.ensure_future(reader.forward(fail, below_bytes=100))
        await asyncio.sleep(0)
        task.cancel()
        reader._data(b"bad\ntwo\n")  # noqa: SLF001 - read before the task hears of it
        await asyncio.wait({task})
        assert task.cancelled()
        assert await reader.receive() == b"two"
        far.close()


@settings(max_examples=60)
@given(
    lines=st.lists(st.sampled_from([b"", b"a", b"bc", b"x" * 10, b"y" * 11, b"z" * 30]), max_size=20),
    cuts=st.lists(st.integers(1, 40), max_size=20),
    ways=st.lists(st.sampled_from(["receive", "many", "forward", "cancelled"]), min_size=1, max_size=8),
)
async def test_no_line_is_lost_or_overtaken_whichever_way_they_are_asked_for(
    lines: list[bytes], cuts: list[int], ways: list[str]
) -> None:
    """Lines over 20 bytes are too long, those of 10 and more are long."""
    data = b"".join(line + b"\n" for line in lines)
    got: list[bytes | OversizeLine] = []

    async def consume() -> None:
        for way in itertools.cycle(ways):
            if way == "receive":
                try:
                    got.append(await reader.receive())
                except LineTooLong as exc:
                    got.append(OversizeLine(exc.length, exc.head, exc.tail))
            elif way == "many":
                got.extend(await reader.receive_many())
            elif way == "forward":
                got.append(await reader.forward(got.append, below_bytes=10))
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0):
                        got.append(await reader.forward(got.append, below_bytes=10))

    with line_reader(max_line_bytes=20, buffer_bytes=50) as (reader, far, _):
        consuming = asyncio.ensure_future(consume())
        for size in itertools.chain(cuts, itertools.repeat(len(data) + 1)):
            await turns(2)
            if not data:
                break
            data = data[far.write(data[:size]) :]
        far.close()
        async with asyncio.timeout(20):
            with pytest.raises(EndOfOutput):
                await consuming
    expected = [OversizeLine(30, line, line) if len(line) > 20 else line for line in lines]
    assert got == expected


# stdin


async def test_a_line_is_written_with_its_newline_at_once() -> None:
    with line_writer() as (writer, far, _):
        await writer.send(b"one")
        assert far.read() == b"one\n"
        assert writer.unwritten_bytes == 0


async def test_what_one_turn_of_the_loop_sends_goes_out_in_two_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ours: the first line at once, all others together: thirty-two calls wake the child twice."""
    writes: list[int] = []
    write, writev = os.write, os.writev

    def count_one(fd: int, data: bytes) -> int:
        writes.append(1)
        return write(fd, data)

    def count(fd: int, pieces: list[memoryview]) -> int:
        writes.append(len(pieces))
        return writev(fd, pieces)

    monkeypatch.setattr(os, "write", count_one)
    monkeypatch.setattr(os, "writev", count)
    with line_writer() as (writer, far, _):
        for number in range(32):
            await writer.send(b"%d" % number)
        assert writes == [1]
        await asyncio.sleep(0)
        assert writes == [1, 31]
        assert far.read() == b"".join(b"%d\n" % number for number in range(32))
        assert writer.unwritten_bytes == 0


async def test_what_was_sent_in_this_turn_is_written_before_stdin_is_closed() -> None:
    """Ours: EOF stands behind what the pipe had room for."""
    with line_writer() as (writer, far, _):
        await writer.send(b"one")
        assert writer.send_nowait(b"")
        await writer.send(b"two\r")
        writer.close()
        assert far.read() == b"one\n\ntwo\r\n"
        assert writer.dropped_bytes == 0


async def test_a_line_with_a_newline_is_refused_whole() -> None:
    """MCP, stdio: a message must not contain an embedded newline."""
    with line_writer() as (writer, far, _):
        with pytest.raises(ValueError, match="a line must not contain a newline"):
            await writer.send(b"one\ntwo")
        with pytest.raises(ValueError, match="a line must not contain a newline"):
            writer.send_nowait(b"one\n")
        assert far.read() == b""


@pytest.mark.parametrize("length", [65534, 65535, 65536, 65537, 300_000])
async def test_a_line_of_any_length_arrives_whole(length: int) -> None:
    """Around the size up to which a line is copied, and the capacity of a pipe."""
    line = bytes(range(11, 11 + 200)) * (length // 200 + 1)
    with line_writer(buffer_bytes=1) as (writer, far, flushed):
        await writer.send(line[:length])
        received = far.read()
        while writer.unwritten_bytes:
            await asyncio.sleep(0)
            received += far.read()
        assert received == line[:length] + b"\n"
        assert set(flushed) <= {0}


@dataclass(frozen=True, slots=True)
class Cut:
    """A line in pieces."""

    pieces: tuple[bytes | memoryview, ...]

    def __len__(self) -> int:
        return sum(map(len, self.pieces))


@settings(max_examples=30)
@given(
    pieces=st.lists(st.integers(0, 70_000).map(lambda size: b"x" * size), max_size=5)
    | st.just([b""] * 2 * stdin_module.PIECES_PER_WRITE),
    views=st.booleans(),
    nowait=st.booleans(),
)
async def test_a_line_in_pieces_arrives_whole_between_others(
    pieces: list[bytes], *, views: bool, nowait: bool
) -> None:
    """Ours: what is too long to be copied."""
    line = Cut(tuple(memoryview(piece) if views else piece for piece in pieces))
    with line_writer(buffer_bytes=1_000_000) as (writer, far, _):
        await writer.send(b"before")
        if nowait:
            assert writer.send_nowait(line)
        else:
            await writer.send(line)
        await writer.send(b"behind")
        received = far.read()
        while writer.unwritten_bytes:
            await asyncio.sleep(0)
            received += far.read()
        assert received + far.read() == b"before\n" + b"".join(pieces) + b"\nbehind\n"


async def test_a_line_in_pieces_may_be_the_first_of_its_turn() -> None:
    with line_writer() as (writer, far, flushed):
        await writer.send(Cut((b"one", memoryview(b" two"))))
        assert far.read() == b"one two\n"
        assert flushed == [0]


@pytest.mark.parametrize("line", [b"short", b"x" * 100_000])
@pytest.mark.parametrize("buffer_bytes", [1, 1_000_000])
async def test_a_line_for_which_the_pipe_has_no_room_waits_for_it(line: bytes, buffer_bytes: int) -> None:
    with line_writer(buffer_bytes=buffer_bytes) as (writer, far, _):
        filler = b"x" * (fcntl.fcntl(far.fd, fcntl.F_GETPIPE_SZ) - 1)
        await writer.send(filler)
        await turns()  # the next one is the first of its turn
        await writer.send(line)
        assert 0 < writer.unwritten_bytes <= len(line) + 1
        received = far.read()
        while writer.unwritten_bytes:
            await asyncio.sleep(0)
            received += far.read()
        assert received + far.read() == filler + b"\n" + line + b"\n"


async def test_sending_waits_above_the_mark_and_goes_on_at_half_of_it() -> None:
    with line_writer(buffer_bytes=100_000) as (writer, far, _):
        await writer.send(bytes(200_000).replace(b"\0", b"x"))
        assert writer.unwritten_bytes >= 100_000
        assert not writer.send_nowait(b"overtakes")
        sending = asyncio.ensure_future(writer.send(b"waits"))
        received = b""
        while writer.unwritten_bytes > 50_000:
            assert not sending.done()
            received += os.read(far.fd, 4096)
            await turns()
        await sending
        while writer.unwritten_bytes:
            received += far.read()
            await asyncio.sleep(0)
        assert (received + far.read()).endswith(b"x\nwaits\n")


async def test_a_send_that_is_cancelled_while_it_waits_sends_nothing() -> None:
    with line_writer(buffer_bytes=10) as (writer, far, _):
        await writer.send(b"x" * 100_000)
        sending = asyncio.ensure_future(writer.send(b"never"))
        await turns()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        received = b""
        while writer.unwritten_bytes:
            received += far.read()
            await asyncio.sleep(0)
        assert received + far.read() == b"x" * 100_000 + b"\n"


async def test_who_waits_first_sends_first_and_nobody_overtakes() -> None:
    """Ours: else a stream of new lines could keep the buffer full, and who waits would wait for ever."""
    with line_writer(buffer_bytes=10) as (writer, far, _):
        await writer.send(b"x" * 100_000)
        senders = [asyncio.ensure_future(writer.send(b"waiting %d" % number)) for number in range(5)]
        await turns()
        received = b""
        while not senders[-1].done():
            received += far.read()
            # There may be room now, but it is somebody else's.
            assert not writer.send_nowait(b"overtakes")
            await asyncio.sleep(0)
        await asyncio.gather(*senders)
        received += far.read()
        assert received.split(b"\n")[1:-1] == [b"waiting %d" % number for number in range(5)]
        assert writer.send_nowait(b"nobody waits now")


async def test_a_turn_that_is_cancelled_goes_to_the_next() -> None:
    with line_writer(buffer_bytes=10) as (writer, far, _):
        await writer.send(b"x" * 100_000)
        first, second = (asyncio.ensure_future(writer.send(name)) for name in (b"first", b"second"))
        await turns()
        received = b""
        while writer.unwritten_bytes:
            received += far.read()
            # Not a turn more: the first has been woken, but has not run.
            await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        async with asyncio.timeout(20):
            await second
        assert (received + far.read()).endswith(b"x\nsecond\n")


async def test_a_send_may_be_cancelled_in_the_moment_in_which_the_pipe_is_closed() -> None:
    with line_writer(buffer_bytes=10) as (writer, _, _):
        await writer.send(b"x" * 100_000)
        first, second = (asyncio.ensure_future(writer.send(name)) for name in (b"first", b"second"))
        await turns()
        first.cancel()
        writer.close()
        with pytest.raises(asyncio.CancelledError):
            await first
        with pytest.raises(ChildGone):
            await second


async def test_many_senders_never_interleave_their_lines() -> None:
    with line_writer(buffer_bytes=5000) as (writer, far, _):
        lines = [bytes([65 + number]) * (number * 997) for number in range(50)]
        received = b""

        async def read() -> None:
            nonlocal received
            while received.count(b"\n") < len(lines):
                received += far.read()
                await asyncio.sleep(0)

        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            tasks.create_task(read())
            for line in lines:
                tasks.create_task(writer.send(line))
        assert sorted(received.split(b"\n")[:-1]) == sorted(lines)


async def test_many_waiting_lines_are_written_in_few_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    with line_writer(buffer_bytes=1_000_000) as (writer, far, _):
        capacity = fcntl.fcntl(far.fd, fcntl.F_GETPIPE_SZ)
        await writer.send(b"x" * capacity)
        for _ in range(1000):
            await writer.send(b"line")
        writes: list[int] = []
        writev = os.writev

        def counted(fd: int, buffers: list[memoryview]) -> int:
            writes.append(len(buffers))
            return writev(fd, buffers)

        monkeypatch.setattr(os, "writev", counted)
        received = far.read()
        while writer.unwritten_bytes:
            await asyncio.sleep(0)
            received += far.read()
        assert received + far.read() == b"x" * capacity + b"\n" + b"line\n" * 1000
        assert max(writes) == stdin_module.PIECES_PER_WRITE
        assert len(writes) < 50


@pytest.mark.parametrize("line", [b"line", b"x" * 100_000])
async def test_a_pipe_that_the_child_has_closed_refuses_the_line(line: bytes) -> None:
    with line_writer() as (writer, far, flushed):
        far.close()
        with pytest.raises(ChildGone):
            await writer.send(line)
        assert writer.closed
        assert not writer.send_nowait(b"line")
        with pytest.raises(ChildGone):
            await writer.send(b"x" * 100_000)
        # Nothing was accepted, so nothing was dropped.
        assert writer.dropped_bytes == 0
        assert flushed == [0]


async def test_a_pipe_that_the_child_closes_wakes_who_waits_and_drops_what_was_accepted() -> None:
    with line_writer(buffer_bytes=10) as (writer, far, flushed):
        await writer.send(b"x" * 100_000)
        unwritten = writer.unwritten_bytes
        sending = [asyncio.ensure_future(writer.send(b"waits")) for _ in range(3)]
        await turns()
        far.close()
        for sender in sending:
            with pytest.raises(ChildGone):
                await sender
        assert writer.closed
        assert writer.dropped_bytes == unwritten
        assert flushed == [0]


async def test_what_was_accepted_in_a_turn_is_dropped_if_the_child_goes_before_its_end() -> None:
    """Ours: accepted and never written is counted; refused is not."""
    with line_writer() as (writer, far, _):
        await writer.send(b"one")
        await writer.send(b"two")
        far.close()
        await asyncio.sleep(0)
        assert writer.closed
        assert writer.dropped_bytes == len(b"two\n")
        with pytest.raises(ChildGone):
            await writer.send(b"three")
        assert writer.dropped_bytes == len(b"two\n")


async def test_closing_gives_the_child_eof_at_once_and_counts_what_it_drops() -> None:
    """StreamWriter.close() of asyncio keeps the pipe open until everything is written: never."""
    with line_writer(buffer_bytes=10_000_000) as (writer, far, flushed):
        for _ in range(10):
            assert writer.send_nowait(b"x" * 99_999)
        accepted = 10 * 100_000
        sending = asyncio.ensure_future(writer.send(b"x" * 9_500_000))
        await sending
        accepted += 9_500_001
        waiting = asyncio.ensure_future(writer.send(b"waits"))
        await turns()
        writer.close()
        assert flushed == [0]
        received = far.read()
        assert far.at_end()
        assert writer.dropped_bytes == accepted - len(received)
        with pytest.raises(ChildGone):
            await waiting
        writer.close()
        assert writer.dropped_bytes == accepted - len(received)


async def test_who_comes_while_the_closed_pipe_wakes_its_waiters_does_not_wait() -> None:
    with line_writer(buffer_bytes=10) as (writer, _, _):
        await writer.send(b"x" * 100_000)
        waiting = asyncio.ensure_future(writer.send(b"waits"))
        await turns()
        writer.close()
        with pytest.raises(ChildGone):
            await writer.send(b"late")
        assert not writer.send_nowait(b"late")
        with pytest.raises(ChildGone):
            await waiting


async def test_an_interrupted_write_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with line_writer() as (writer, far, _):
        monkeypatch.setattr(os, "write", _raises(InterruptedError()))
        monkeypatch.setattr(os, "writev", _raises(InterruptedError()))
        await writer.send(b"line")
        await turns()
        monkeypatch.undo()
        await wait_until(lambda: not writer.unwritten_bytes)
        assert far.read() == b"line\n"


# stderr


async def test_every_line_of_stderr_reaches_the_callback_in_order() -> None:
    lines: list[str] = []
    with stderr_pump(lines.append) as (pump, far, ended):
        far.write(b"one\r\n\nt\xffo\nthree, unfinished")
        far.close()
        await ended.wait()
        assert pump.ended
        assert pump.delivered
        assert lines == ["one", "", "t\ufffdo", "three, unfinished"]
        assert pump.tail == ("one", "", "t\ufffdo", "three, unfinished")


async def test_stderr_without_a_callback_keeps_only_its_tail() -> None:
    with stderr_pump(None, tail_lines=2) as (pump, far, ended):
        far.write(b"one\ntwo\n" + b"x" * 1000 + b"y" * 500 + b"\n")
        far.close()
        await ended.wait()
        # 1000 is the longest piece here; 1024 characters of each are kept.
        assert pump.tail == ("x" * 1000, "y" * 500)
        assert pump.dropped_lines == 0


async def test_a_line_of_the_tail_is_shortened() -> None:
    with stderr_pump(None, max_line_bytes=5000) as (pump, far, ended):
        far.write(b"x" * 3000 + b"\n")
        far.close()
        await ended.wait()
        assert pump.tail == ("x" * stderr_module.TAIL_CHARS,)


async def test_stderr_without_a_newline_is_delivered_in_pieces() -> None:
    """The seed read lines without a limit (its bug 10)."""
    pieces: list[str] = []
    with stderr_pump(pieces.append, max_line_bytes=1000) as (_, far, ended):
        left = b"x" * 1_000_000
        while left:
            left = left[far.write(left) :]
            await asyncio.sleep(0)
        far.close()
        await ended.wait()
        assert pieces == ["x" * 1000] * 1000


async def test_a_callback_that_keeps_within_its_time_gets_every_line_of_a_flood(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many lines there are: one read may bring thousands."""
    lines: list[str] = []
    # How fast this machine is shall not matter here.
    monkeypatch.setattr(stderr_module, "SLICE", 60)
    with stderr_pump(lines.append) as (pump, far, ended):
        left = b"line %d\n" * 50_000 % tuple(range(50_000))
        while left:
            left = left[far.write(left) :]
            await asyncio.sleep(0)
        far.close()
        await ended.wait()
        assert len(lines) == 50_000
        assert pump.dropped_lines == 0


async def test_a_slow_callback_never_stops_the_reading_and_loses_the_oldest_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The seed called it inline: a slow callback filled the pipe and blocked the child (its bug 11)."""
    lines: list[str] = []
    # One line per turn: as slow as a callback can be without keeping this test waiting.
    monkeypatch.setattr(stderr_module, "SLICE", 0)
    monkeypatch.setattr(stderr_module, "LAST_SLICE", 0)
    with stderr_pump(lines.append) as (pump, far, _):
        for number in range(40_000):
            while not far.write(b"line %d\n" % number):
                await turns(1)
        far.close()
        await wait_until(lambda: pump.ended)
        assert len(lines) + pump.dropped_lines < 40_000
        pump.close()
        assert len(lines) + pump.dropped_lines == 40_000
        assert lines == sorted(lines, key=lambda line: int(line.split()[1]))
        assert pump.tail == tuple(f"line {number}" for number in range(39_995, 40_000))


async def test_empty_lines_that_wait_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty line has no characters, but it is an object."""
    monkeypatch.setattr(stderr_module, "SLICE", 0)
    waiting = stderr_module.BACKLOG_CHARS // LINE_OVERHEAD
    lines: list[str] = []
    with stderr_pump(lines.append) as (pump, far, _):
        for _ in range(2):
            fill_with = b"\n" * 65536
            while fill_with:
                fill_with = fill_with[far.write(fill_with) :]
                await asyncio.sleep(0)
        far.close()
        await wait_until(lambda: pump.ended)
        assert pump.dropped_lines + len(lines) >= 131_072 - waiting
        pump.close()
        assert pump.dropped_lines + len(lines) == 131_072


async def test_a_single_line_may_be_longer_than_all_that_may_wait() -> None:
    lines: list[str] = []
    with stderr_pump(lines.append, max_line_bytes=3_000_000) as (pump, far, ended):
        left = b"x" * 2_000_000 + b"\n"
        while left:
            left = left[far.write(left) :]
            await asyncio.sleep(0)
        far.close()
        await ended.wait()
        assert [len(line) for line in lines] == [2_000_000]
        assert pump.dropped_lines == 0


async def test_a_callback_that_raises_is_logged_and_gets_the_next_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the seed a panic of the callback killed the broker (its bug 11)."""
    lines: list[str] = []

    def callback(line: str) -> None:
        lines.append(line)
        if line == "two":
            raise RuntimeError("callback")

    with stderr_pump(callback) as (_, far, ended), caplog.at_level(logging.ERROR):
        far.write(b"one\ntwo\nthree\n")
        far.close()
        await ended.wait()
    assert lines == ["one", "two", "three"]
    assert [record.getMessage() for record in caplog.records] == ["child.stderr_callback_failed"]


async def test_closing_delivers_what_has_arrived_from_a_pipe_that_somebody_holds_open() -> None:
    lines: list[str] = []
    with stderr_pump(lines.append) as (pump, far, ended):
        far.write(b"one\ntwo")
        pump.close()
        assert lines == ["one", "two"]
        await turns()
        assert ended.is_set()
        assert pump.delivered


async def test_the_end_comes_after_the_last_line_is_delivered() -> None:
    order: list[str] = []
    with stderr_pump(order.append) as (pump, far, _):
        pump._on_end = lambda: order.append("end")  # noqa: SLF001 - the order is what this test is about
        far.write(b"one\n")
        far.close()
        await wait_until(lambda: "end" in order)
        assert order == ["one", "end"]


async def test_reading_and_writing_survive_a_partner_that_is_slower_than_any_buffer() -> None:
    """The whole chain at once: a thread echoes through two pipes with pauses of its own."""
    in_fd, in_near = os.pipe()
    out_near, out_fd = os.pipe()
    for fd in (in_near, out_near):
        os.set_blocking(fd, False)

    def echo() -> None:
        with os.fdopen(in_fd, "rb") as source, os.fdopen(out_fd, "wb", buffering=0) as target:
            target.writelines(source)

    loop = asyncio.get_running_loop()
    thread = threading.Thread(target=echo)
    thread.start()
    writer = LineWriter(loop, in_near, buffer_bytes=1000, on_flushed=lambda: None)
    reader = LineReader(loop, out_near, max_line_bytes=100_000, buffer_bytes=1000, on_end=lambda: None)
    lines = [bytes([65 + number % 26]) * (number * 37 % 9001) for number in range(300)]
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:

        async def send() -> None:
            for line in lines:
                await writer.send(line)
            await wait_until(lambda: not writer.unwritten_bytes)
            writer.close()

        tasks.create_task(send())
        assert [line async for line in reader] == lines
    thread.join()
