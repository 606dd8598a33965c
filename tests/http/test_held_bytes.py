"""What HTTP holds for a client is charged: bodies until they are passed on, answers until they are read."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.bridge import Budget, Budgets
from stdio_broker.errors import LimitReached, TooManyRequests
from stdio_broker.http import App, HttpServer, bind
from stdio_broker.http import Settings as HttpSettings
from stdio_broker.http.asgi import SMALL_BODY_BYTES, AsgiRequest, Receive, Scope, Send
from stdio_broker.http.wire import PayloadTooLarge, PeerGone

MIB = 1024 * 1024
LONG = 2 * SMALL_BODY_BYTES
ROOMY = 1_000_000_000

pytestmark = pytest.mark.both_loops


# Bodies.


def _request(pieces: list[bytes], *, declared: int | None = None, leaves: bool = False) -> AsgiRequest:
    """Return a request whose body comes in pieces; the client may leave instead of sending the last one."""
    events: list[dict[str, Any]] = [
        {"type": "http.request", "body": piece, "more_body": index < len(pieces) - 1}
        for index, piece in enumerate(pieces)
    ]
    if leaves:
        events[-1] = {"type": "http.disconnect"}

    async def receive() -> dict[str, Any]:
        return events.pop(0)

    async def send(event: object) -> None:
        raise AssertionError(event)

    headers = [] if declared is None else [(b"content-length", b"%d" % declared)]
    scope = {"method": "POST", "path": "/", "headers": headers}
    return AsgiRequest(scope, receive, cast("Send", send), write_timeout=1)


@given(
    sizes=st.lists(st.integers(0, 2 * SMALL_BODY_BYTES), min_size=1, max_size=5),
    declares=st.booleans(),
    leaves=st.booleans(),
    room=st.integers(0, 5 * SMALL_BODY_BYTES),
    most=st.integers(0, 5 * SMALL_BODY_BYTES),
)
async def test_a_body_is_charged_until_it_is_released_however_its_reading_ends(
    sizes: list[int],
    declares: bool,  # noqa: FBT001
    leaves: bool,  # noqa: FBT001
    room: int,
    most: int,
) -> None:
    """Ours: bytes buffered are bounded per node and per principal."""
    budget = Budget(10 * SMALL_BODY_BYTES)
    others = budget.max_bytes - room
    budget.add(others)
    body = b"".join(bytes([index]) * size for index, size in enumerate(sizes))
    pieces = [bytes([index]) * size for index, size in enumerate(sizes)]
    request = _request(pieces, declared=len(body) if declares else None, leaves=leaves)
    request.charge_to(budget)
    fits = len(body) <= SMALL_BODY_BYTES or len(body) <= room
    try:
        assert await request.body(most) == body
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
    request = _request([], declared=LONG + 1)
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
    first, second = (_request([b"x" * LONG], declared=2 * LONG) for _ in range(2))
    first.charge_to(budget)
    second.charge_to(budget)
    await first.body(ROOMY)
    assert budget.used == 2 * LONG
    with pytest.raises(LimitReached):
        await second.body(ROOMY)


async def test_a_body_of_unknown_length_is_refused_as_soon_as_it_has_no_room() -> None:
    """Ours: what comes is counted as it comes."""
    budget = Budget(2 * LONG)
    request = _request([b"x" * LONG] * 5)
    request.charge_to(budget)
    with pytest.raises(LimitReached):
        await request.body(ROOMY)
    assert budget.used == 2 * LONG
    assert (await request._next_piece())["more_body"]  # noqa: SLF001 - the rest was left where it was
    request.release_body()
    assert budget.used == 0


async def test_a_small_body_is_read_though_there_is_no_room() -> None:
    """Ours: it may be the answer to a question, or a cancellation, which makes room."""
    budget = Budget(1000)
    budget.add(1000)
    request = _request([b"x" * SMALL_BODY_BYTES], declared=SMALL_BODY_BYTES)
    request.charge_to(budget)
    assert len(await request.body(ROOMY)) == SMALL_BODY_BYTES


async def test_a_body_that_nobody_pays_for_is_not_counted() -> None:
    request = _request([b"x" * LONG])
    assert len(await request.body(ROOMY)) == LONG
    request.release_body()


# Answers.


@contextlib.asynccontextmanager
async def _answering(budget: Budget, size: int) -> AsyncIterator[tuple[str, int]]:
    """Serve answers of so many bytes to whoever asks."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = AsgiRequest(scope, receive, send, write_timeout=60)
        request.charge_to(budget)
        await request.answer(200, (), b"x" * size)

    listener = bind("127.0.0.1", 0)
    async with HttpServer(cast("App", app), listener, HttpSettings()).serving():
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
