"""A bridge's streams as HTTP answers: one JSON object where that is enough, else server-sent events.

One task writes each answer, so nothing overtakes; a second one only waits for the client to go.
Source: MCP 2025-11-25, basic/transports, "Sending Messages to the Server".
"""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Sequence
from typing import TypeVar

from ..bridge import Exchange, MessageStream, StreamEnded
from ..protocol.sse import KEEP_ALIVE, encode_event
from .faults import JSON
from .wire import Headers, HttpRequest, PeerGone, PeerTooSlow

__all__ = ["STREAM_HEADERS", "answer_exchange", "stream_exchanges", "stream_messages", "unless_gone"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

STREAM_HEADERS = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
)


async def answer_exchange(
    request: HttpRequest, exchange: Exchange, headers: Headers, *, keep_alive: float
) -> None:
    """Answer a POST: JSON if the answer comes first, else a stream.

    Args:
        request: Where to.
        exchange: What the server says to the request.
        headers: Extra header fields.
        keep_alive: Seconds of silence after which the answer becomes a stream, and a stream gets a
            comment.
    """
    first = await exchange.receive(keep_alive)
    if first is not None and exchange.complete:
        await request.answer(200, (JSON, *headers), first)
        return
    await request.start_stream((*STREAM_HEADERS, *headers))
    await _write_stream(request, exchange, first, keep_alive)


async def stream_messages(request: HttpRequest, stream: MessageStream, *, keep_alive: float) -> None:
    """Answer a GET: a stream, open until it ends or the client goes.

    It starts with a comment: the client shall know that the stream is open, not wait for a message.
    """
    await request.start_stream(STREAM_HEADERS)
    await _write_stream(request, stream, None, keep_alive)


async def stream_exchanges(request: HttpRequest, exchanges: Sequence[Exchange], *, keep_alive: float) -> None:
    """Answer a batch: one stream, on which each answer stands as soon as it comes."""
    turn = asyncio.Lock()

    async def write_all() -> None:
        async with asyncio.TaskGroup() as tasks:
            for exchange in exchanges:
                tasks.create_task(_write_messages(request, exchange, keep_alive, turn))
        await request.end_stream()

    await request.start_stream(STREAM_HEADERS)
    await _see_through(request, write_all())


async def _write_stream(
    request: HttpRequest, stream: MessageStream, first: bytes | None, keep_alive: float
) -> None:
    """Write a message that was taken already, or a comment; then the rest of the stream."""

    async def write_all() -> None:
        await request.write(KEEP_ALIVE if first is None else encode_event(first))
        await _write_messages(request, stream, keep_alive, contextlib.nullcontext())
        await request.end_stream()

    await _see_through(request, write_all())


async def _see_through(request: HttpRequest, writing: Coroutine[None, None, None]) -> None:
    try:
        await unless_gone(request, writing)
    # With a star: a batch is written by a group of tasks.
    except* PeerTooSlow:
        logger.warning("client.too_slow")
    except* PeerGone:
        pass


async def _write_messages(
    request: HttpRequest,
    stream: MessageStream,
    keep_alive: float,
    turn: contextlib.AbstractAsyncContextManager[object],
) -> None:
    """Write messages until the stream ends; each within its turn, if several streams share a request."""
    try:
        while not (isinstance(stream, Exchange) and stream.complete):
            message = await stream.receive(keep_alive)
            async with turn:
                await request.write(KEEP_ALIVE if message is None else encode_event(message))
    except StreamEnded:
        if stream.cut:
            logger.warning("client.stream_cut")


async def unless_gone(request: HttpRequest, work: Coroutine[None, None, Result]) -> Result:
    """Do some work; cancel it when the client closes the connection.

    Raises:
        PeerGone: The client went first.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(request.wait_disconnected())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.wait({task, gone})
    if task.cancelled():
        raise PeerGone
    return task.result()
