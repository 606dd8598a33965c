"""The streams that lead to the client of one session: its open POSTs, its GET, and what waits for one.

A message goes to exactly one stream. Which, for what a child sends of its own accord (stdio has no
field that tells; MCP 2025-11-25, basic/transports, "Multiple Connections"; `docs/architecture.md`):

    progress                      the exchange that owns the token
    questions, log messages       the only open exchange, else GET, else the oldest exchange
    list_changed, updated         GET, else the oldest exchange
    nobody is there               the backlog, for the next GET
"""

import asyncio
from collections.abc import Callable

from ..protocol.jsonrpc import Request, parse_line
from .backlog import Backlog
from .settings import Settings
from .streams import Exchange, MessageStream

__all__ = ["ClientStreams"]


class ClientStreams:
    """Every stream of one session.

    Args:
        settings: Bounds.
        on_idle: Called whenever no client waits for an answer any more; sometimes twice.
        on_slow: Called with an exchange that was cut because its client does not read.
        on_lost: Called with the messages that reach nobody.

    Attributes:
        lost_messages: Messages that reached nobody.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_idle: Callable[[], None],
        on_slow: Callable[[Exchange], None],
        on_lost: Callable[[list[bytes]], None],
    ) -> None:
        self.lost_messages = 0
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._on_idle = on_idle
        self._on_slow = on_slow
        self._on_lost = on_lost
        self._exchanges: dict[Exchange, None] = {}  # open POSTs, oldest first
        self._get: MessageStream | None = None
        self._backlog = Backlog(
            max_messages=settings.max_backlog_messages, max_bytes=settings.max_backlog_bytes
        )
        self._ended = False

    @property
    def busy(self) -> bool:
        """Whether a client that we can reach waits for an answer."""
        return bool(self._exchanges)

    @property
    def reachable(self) -> bool:
        """Whether a message about a request would go out now."""
        return self._for_related() is not None

    def open(self) -> Exchange:
        """Return the stream of a new POST. Whoever reads it must `release` it."""
        exchange = Exchange(self._loop, max_bytes=self._settings.max_stream_bytes)
        self._exchanges[exchange] = None
        return exchange

    def listen(self) -> MessageStream:
        """Return the stream of a GET. It gets the backlog, and takes over from an earlier GET.

        Taking over, not refusing: a client that lost its connection comes back long before we
        notice that the old one is dead.
        """
        stream = MessageStream(self._loop, max_bytes=self._settings.max_stream_bytes)
        if self._get is not None:
            self._lose(self._backlog.put_back(self._get.detach()))
            self._get.end()
        self._get = stream
        while (oldest := self._backlog.oldest) is not None and stream.has_room_for(oldest):
            stream.put(self._backlog.take())
        if self._ended:
            stream.end()
        return stream

    def release(self, stream: MessageStream) -> None:
        """Say that nobody reads a stream any more. What it held for anybody goes to the backlog.

        A client that goes away does not cancel its request (MCP 2025-11-25, basic/transports); the
        answer, when it comes, has nowhere to go.
        """
        unread = stream.detach()
        if isinstance(stream, Exchange):
            self._close(stream)
            # Progress and logs were for this request only; a question still wants an answer.
            questions = [message for message in unread if _is_question(message)]
            self.lost_messages += len(unread) - len(questions)
            unread = questions
        elif stream is self._get:
            self._get = None
        if unread:
            self._lose(self._backlog.put_back(unread))

    def answer(self, exchange: Exchange, message: bytes) -> None:
        """Put the last message on an exchange."""
        exchange.answer(message)
        self._close(exchange)

    def put(self, message: bytes, exchange: Exchange) -> None:
        """Put a message on the stream of its own request, or lose it."""
        if not self._put(message, exchange):
            self.lost_messages += 1

    def send_related(self, message: bytes) -> None:
        """Send a message about some request in flight, we cannot tell which."""
        self._send(message, self._for_related())

    def send_unrelated(self, message: bytes) -> None:
        """Send a message about the server as a whole."""
        self._send(message, self._for_unrelated())

    def end(self) -> None:
        """End the stream of the GET, and of every one to come."""
        self._ended = True
        if self._get is not None:
            self._get.end()

    def _close(self, exchange: Exchange) -> None:
        self._exchanges.pop(exchange, None)
        if not self._exchanges:
            self._on_idle()

    def _only_exchange(self) -> Exchange | None:
        if len(self._exchanges) != 1:
            return None
        return next(iter(self._exchanges))

    def _for_related(self) -> MessageStream | None:
        return self._only_exchange() or self._for_unrelated()

    def _for_unrelated(self) -> MessageStream | None:
        if self._get is not None and self._get.open:
            return self._get
        return next((exchange for exchange in self._exchanges if exchange.open), None)

    def _send(self, message: bytes, stream: MessageStream | None) -> None:
        while stream is not None:
            if self._put(message, stream):
                return
            # It was cut just now, and is closed; maybe there is another one.
            stream = self._for_unrelated()
        self._lose(self._backlog.add(message))

    def _put(self, message: bytes, stream: MessageStream) -> bool:
        if stream.put(message):
            return True
        if stream.cut and isinstance(stream, Exchange):
            self._on_slow(stream)
        return False

    def _lose(self, messages: list[bytes]) -> None:
        self.lost_messages += len(messages)
        if messages:
            self._on_lost(messages)


def _is_question(message: bytes) -> bool:
    return any(isinstance(parsed, Request) for parsed in parse_line(message))
