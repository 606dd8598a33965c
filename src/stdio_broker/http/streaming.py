"""A bridge's streams as HTTP answers: one JSON object where that is enough, else server-sent events.

One task writes each answer, so nothing overtakes; a second one only waits for the client to go.

An event gets its id, and is kept for a client that comes back, at the moment of writing: an answer
that goes out as JSON costs nothing of this. What a batch is answered with has no ids: it is several
streams on one connection, and the last id that a client saw would name only one of them.

Source: MCP 2025-11-25, basic/transports, "Sending Messages to the Server" and "Resumability and
Redelivery"; SEP-1699 (streams that the server closes for a while).
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager

from ..bridge import Exchange, MessageStream, StreamEnded
from ..protocol.sse import KEEP_ALIVE, encode_event, encode_priming
from .faults import JSON
from .presence import WhileThere
from .settings import Settings
from .wire import Headers, HttpRequest, PeerGone, PeerTooSlow

__all__ = [
    "STREAM_HEADERS",
    "answer_exchange",
    "see_through",
    "stream_exchange",
    "stream_exchanges",
    "stream_messages",
    "write_messages",
]

logger = logging.getLogger(__name__)

STREAM_HEADERS = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
)


async def answer_exchange(
    request: HttpRequest,
    exchange: Exchange,
    headers: Headers,
    *,
    settings: Settings,
    priming: bool,
    suspend: Callable[[MessageStream], bool],
) -> None:
    """Answer a POST: JSON if the answer comes first, else a stream.

    Args:
        request: Where to.
        exchange: What the server says to the request.
        headers: Extra header fields.
        settings: When a stream is begun, gets a comment, or is closed for a while.
        priming: Whether the client knows priming events, and so polling.
        suspend: Lets the exchange wait for the client to come back, if that is possible.
    """
    writer = None
    patience = settings.keep_alive_interval
    if priming and settings.poll_interval is not None:
        writer = _Writer(request, exchange, settings, priming=priming, suspend=suspend)
        patience = writer.patience()
    answer = await exchange.first(patience)
    if answer is not None:
        request.answer(200, (JSON, *headers), answer)
        return
    request.start_stream((*STREAM_HEADERS, *headers))
    writer = writer or _Writer(request, exchange, settings, priming=priming, suspend=suspend)
    await see_through(request, writer.write(exchange.receive_nowait()))


async def stream_exchange(
    request: HttpRequest,
    exchange: Exchange,
    *,
    settings: Settings,
    priming: bool,
    suspend: Callable[[MessageStream], bool],
) -> None:
    """Answer a POST with a stream: its answer is not the first thing that comes, or does not come soon.

    Args:
        request: Where to.
        exchange: As above.
        settings: As above.
        priming: As above.
        suspend: As above.
    """
    request.start_stream(STREAM_HEADERS)
    writer = _Writer(request, exchange, settings, priming=priming, suspend=suspend)
    await see_through(request, writer.write(exchange.receive_nowait()))


async def stream_messages(
    request: HttpRequest,
    stream: MessageStream,
    *,
    settings: Settings,
    priming: bool,
    suspend: Callable[[MessageStream], bool],
) -> None:
    """Answer a GET: a stream, open until it ends or the client goes.

    It starts with a comment, or a priming event: the client shall know that the stream is open, not
    wait for a message. One that came back to a stream gets what it has missed.

    Args:
        request: Where to.
        stream: What the server says; an exchange, if a client came back for an answer.
        settings: As above.
        priming: As above.
        suspend: As above.
    """
    request.start_stream(STREAM_HEADERS)
    writer = _Writer(request, stream, settings, priming=priming, suspend=suspend)
    await see_through(request, writer.write(None))


async def stream_exchanges(request: HttpRequest, exchanges: Sequence[Exchange], *, keep_alive: float) -> None:
    """Answer a batch: one stream, on which each answer stands as soon as it comes."""
    turn = asyncio.Lock()

    async def write_all() -> None:
        async with asyncio.TaskGroup() as tasks:
            for exchange in exchanges:
                tasks.create_task(write_messages(request, exchange, keep_alive, turn))
        request.end_stream()

    request.start_stream(STREAM_HEADERS)
    await see_through(request, write_all())


async def write_messages(
    request: HttpRequest,
    stream: MessageStream,
    keep_alive: float,
    turn: AbstractAsyncContextManager[object],
) -> None:
    """Write one of several streams that share a request, each message in its turn, without ids."""
    try:
        while not (isinstance(stream, Exchange) and stream.complete):
            message = await stream.receive(keep_alive)
            async with turn:
                await request.write(KEEP_ALIVE if message is None else encode_event(message))
    except StreamEnded:
        _report_end(stream)


async def see_through(request: HttpRequest, writing: Coroutine[None, None, None]) -> None:
    """Write a stream to its end, or until the client goes, or is too slow."""
    try:
        async with WhileThere(request):
            await writing
    # With a star: some streams are written by a group of tasks.
    except* PeerTooSlow:
        logger.warning("client.too_slow")
    except* PeerGone:
        pass


class _Writer:
    """Write one stream to one connection."""

    def __init__(
        self,
        request: HttpRequest,
        stream: MessageStream,
        settings: Settings,
        *,
        priming: bool,
        suspend: Callable[[MessageStream], bool],
    ) -> None:
        self._request = request
        self._stream = stream
        self._settings = settings
        self._priming = priming
        self._suspend = suspend
        self._loop = asyncio.get_running_loop()
        self._pause_at: float | None = None
        if priming and settings.poll_interval is not None and isinstance(stream, Exchange):
            self._pause_at = self._loop.time() + settings.poll_interval

    def patience(self) -> float:
        """Return the seconds until something must be done about silence."""
        keep_alive = self._settings.keep_alive_interval
        if self._pause_at is None:
            return keep_alive
        return min(keep_alive, max(0.0, self._pause_at - self._loop.time()))

    async def write(self, first: bytes | None) -> None:
        """Write what a client that came back has missed, a message that was taken already, and the rest."""
        try:
            await self._begin(first)
            await self._go_on()
        except StreamEnded:
            _report_end(self._stream)
        self._request.end_stream()

    async def _begin(self, first: bytes | None) -> None:
        begun = False
        while (missed := self._stream.missed()) is not None:
            event_id, message = missed
            await self._request.write(encode_event(message, event_id=event_id))
            begun = True
        if begun or (first is None and self._complete()):
            return
        start = self._opening(silent=first is None)
        await self._request.write(start if first is None else start + self._event(first))

    async def _go_on(self) -> None:
        while not self._complete():
            message = await self._stream.receive(self.patience())
            if message is not None:
                await self._request.write(self._event(message))
            elif self._pauses():
                return
            else:
                await self._request.write(KEEP_ALIVE)

    def _complete(self) -> bool:
        return isinstance(self._stream, Exchange) and self._stream.complete

    def _opening(self, *, silent: bool) -> bytes:
        """Return what a stream begins with: a client that knows it gets an id to come back with."""
        event_id = self._stream.show(None) if self._priming else None
        if event_id is not None:
            return encode_priming(event_id, retry=self._settings.retry_interval)
        return KEEP_ALIVE if silent else b""

    def _event(self, message: bytes) -> bytes:
        return encode_event(message, event_id=self._stream.show(message))

    def _pauses(self) -> bool:
        """Close the connection for a while, if it is time and the exchange can wait for its client."""
        if self._pause_at is None or self._settings.poll_interval is None:
            return False
        if self._loop.time() < self._pause_at:
            return False
        if self._suspend(self._stream):
            return True
        self._pause_at = self._loop.time() + self._settings.poll_interval
        return False


def _report_end(stream: MessageStream) -> None:
    if stream.cut:
        logger.warning("client.stream_cut")
