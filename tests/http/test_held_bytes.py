"""What HTTP holds for a client is charged: bodies until they are passed on, answers until they are read."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.bridge import Budget, Budgets
from stdio_broker.errors import LimitReached, TooManyRequests
from stdio_broker.http import HttpServer, bind
from stdio_broker.http import Settings as HttpSettings
from stdio_broker.http.incoming import SMALL_BODY_BYTES
from stdio_broker.http.wire import HttpRequest, PayloadTooLarge, PeerGone
from tests.support.memory_http import MemoryOwner

MIB = 1024 * 1024
LONG = 2 * SMALL_BODY_BYTES
ROOMY = 1_000_000_000

pytestmark = pytest.mark.both_loops


# Bodies.


class Posting:
    """A client that posts one body, in pieces or as a whole.

    Args:
        declared: The length that it declares; None: it sends chunks.
    """

    def __init__(self, declared: int | None = None) -> None:
        self._seen: list[HttpRequest] = []
        self._chunked = declared is None
        self.connection, self.transport = MemoryOwner(self._serve).connect()
        framing = b"transfer-encoding: chunked" if declared is None else b"content-length: %d" % declared
        self.connection.data_received(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")
        (self.request,) = self._seen

    def _serve(self, request: HttpRequest) -> None:
        self._seen.append(request)

    def send(self, piece: bytes) -> None:
        """Send a piece of the body."""
        if self._chunked and piece:
            piece = b"%x\r\n%b\r\n" % (len(piece), piece)
        if piece:
            self.connection.data_received(piece)

    def end(self) -> None:
        """Send what stands behind the body."""
        if self._chunked:
            self.connection.data_received(b"0\r\n\r\n")

    def leave(self) -> None:
        """Close the connection."""
        self.transport.leave()


@given(
    sizes=st.lists(st.integers(0, 2 * SMALL_BODY_BYTES), min_size=1, max_size=5),
    declares=st.booleans(),
    leaves=st.booleans(),
    early=st.integers(0, 5),
    bounds=st.tuples(st.integers(0, 5 * SMALL_BODY_BYTES), st.integers(0, 5 * SMALL_BODY_BYTES)),
)
async def test_a_body_is_charged_until_it_is_released_however_its_reading_ends(
    sizes: list[int],
    declares: bool,  # noqa: FBT001
    leaves: bool,  # noqa: FBT001
    early: int,
    bounds: tuple[int, int],
) -> None:
    """Ours: bytes buffered are bounded per node and per principal. Some come before they are asked for."""
    room, most = bounds
    budget = Budget(10 * SMALL_BODY_BYTES)
    others = budget.max_bytes - room
    budget.add(others)
    pieces = [bytes([index]) * size for index, size in enumerate(sizes)]
    body = b"".join(pieces)
    client = Posting(len(body) if declares else None)
    request = client.request
    request.charge_to(budget)
    for piece in pieces[:early]:
        client.send(piece)
    reading = asyncio.ensure_future(request.body(most))
    await asyncio.sleep(0)
    for piece in pieces[early:-1] if leaves else pieces[early:]:
        client.send(piece)
    (client.leave if leaves else client.end)()
    fits = len(body) <= SMALL_BODY_BYTES or len(body) <= room
    try:
        assert await reading == body
    except PeerGone:
        assert leaves
    except PayloadTooLarge:
        assert len(body) > most
    except LimitReached:
        assert not fits or room == 0
    else:
        assert len(body) <= most
        assert fits
        assert budget.used == others + len(body)
    assert budget.used <= others + max(room, SMALL_BODY_BYTES)
    request.release_body()
    request.release_body()
    assert budget.used == others


async def test_a_body_that_has_no_room_is_refused_before_it_is_read() -> None:
    """Ours: by the length that is declared."""
    budgets = Budgets(8 * LONG)
    budget = budgets.of("me")
    request = Posting(LONG + 1).request
    request.charge_to(budget)
    budget.add(LONG)
    with pytest.raises(TooManyRequests):
        await request.body(ROOMY)
    budgets.whole.add(8 * LONG)
    with pytest.raises(LimitReached) as caught:
        await request.body(ROOMY)
    assert not isinstance(caught.value, TooManyRequests)


async def test_a_declared_body_has_its_room_before_it_has_come() -> None:
    """Ours: else many that come at once would all be let in."""
    budget = Budget(3 * LONG)
    first, second = Posting(2 * LONG), Posting(2 * LONG)
    first.request.charge_to(budget)
    second.request.charge_to(budget)
    reading = asyncio.ensure_future(first.request.body(ROOMY))
    await asyncio.sleep(0)
    assert budget.used == 2 * LONG
    with pytest.raises(LimitReached):
        await second.request.body(ROOMY)
    first.send(b"x" * 2 * LONG)
    assert len(await reading) == 2 * LONG
    assert budget.used == 2 * LONG


async def test_a_body_of_unknown_length_is_refused_as_soon_as_it_has_no_room() -> None:
    """Ours: what comes is counted as it comes, and what was refused is not kept."""
    budget = Budget(2 * LONG)
    client = Posting()
    client.request.charge_to(budget)
    reading = asyncio.ensure_future(client.request.body(ROOMY))
    await asyncio.sleep(0)
    for _ in range(5):
        client.send(b"x" * LONG)
    with pytest.raises(LimitReached):
        await reading
    assert budget.used == 2 * LONG
    client.request.release_body()
    assert budget.used == 0


async def test_a_body_is_refused_for_what_came_before_anybody_asked_for_it() -> None:
    """Ours: the same bounds hold for what was read ahead."""
    budget = Budget(2 * LONG)
    budget.add(1)  # the first bytes would always find room
    for most, error in ((LONG, PayloadTooLarge), (ROOMY, LimitReached)):
        client = Posting()
        client.request.charge_to(budget)
        client.send(b"x" * 3 * LONG)
        assert budget.used == 1
        with pytest.raises(error):
            await client.request.body(most)
        client.request.release_body()
        assert budget.used == 1


async def test_a_small_body_is_read_though_there_is_no_room() -> None:
    """Ours: it may be the answer to a question, or a cancellation, which makes room."""
    budget = Budget(1000)
    budget.add(1000)
    client = Posting(SMALL_BODY_BYTES)
    client.request.charge_to(budget)
    client.send(b"x" * SMALL_BODY_BYTES)
    assert len(await client.request.body(ROOMY)) == SMALL_BODY_BYTES


async def test_a_body_that_nobody_pays_for_is_not_counted() -> None:
    client = Posting()
    client.send(b"x" * LONG)
    client.end()
    assert len(await client.request.body(ROOMY)) == LONG
    client.request.release_body()


# Answers.


@contextlib.asynccontextmanager
async def _answering(budget: Budget, size: int) -> AsyncIterator[tuple[str, int]]:
    """Serve answers of so many bytes to whoever asks."""

    def app(request: HttpRequest) -> None:
        request.charge_to(budget)
        request.answer(200, (), b"x" * size)

    listener = bind("127.0.0.1", 0)
    async with HttpServer(app, listener, HttpSettings()).serving():
        yield "127.0.0.1", listener.getsockname()[1]


@contextlib.asynccontextmanager
async def _asking(address: tuple[str, int]) -> AsyncIterator[socket.socket]:
    """Ask, and read nothing by itself."""
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)  # noqa: FBT003 - the name of the argument is not one
        await loop.sock_connect(connection, address)
        await loop.sock_sendall(connection, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        yield connection


async def _until_held(budget: Budget, least: int, most: int) -> None:
    async with asyncio.timeout(20):
        while not least <= budget.used <= most:  # noqa: ASYNC110 - no event tells of another task's socket
            await asyncio.sleep(0.01)


async def test_an_answer_is_charged_until_its_client_has_read_it() -> None:
    """Ours: no stream pays for what was written already, and a client that does not read keeps it here."""
    budget = Budget()
    size = 32 * MIB  # more than the kernel keeps
    async with _answering(budget, size) as address, _asking(address) as connection:
        await _until_held(budget, size // 2, size + MIB)
        read = 0
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(30):
            while read < size:
                read += len(await loop.sock_recv(connection, MIB))
        await _until_held(budget, 0, 0)


async def test_an_answer_whose_client_goes_is_not_charged_any_more() -> None:
    """Ours."""
    budget = Budget()
    async with _answering(budget, 32 * MIB) as address:
        async with _asking(address):
            await _until_held(budget, 16 * MIB, 33 * MIB)
        await _until_held(budget, 0, 0)


async def test_an_answer_that_is_read_at_once_leaves_nothing() -> None:
    budget = Budget()
    async with _answering(budget, 1000) as address, _asking(address) as connection:
        assert await asyncio.get_running_loop().sock_recv(connection, 100)
        assert budget.used == 0
