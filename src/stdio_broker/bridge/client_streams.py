"""The streams that lead to the client of one session: its open POSTs, its GET, and what waits for one.

A message goes to exactly one stream. Which, for what a child sends of its own accord (stdio has no
field that tells; MCP 2025-11-25, basic/transports, "Multiple Connections"; `docs/architecture.md`):

    progress                      the exchange that owns the token
    questions, log messages       the only open exchange, else GET, else the oldest exchange
    list_changed, updated         GET, else the oldest exchange
    nobody is there               the backlog, for the next GET

A client that loses a stream and has seen an event id can come back to it. Until then the exchange is
*suspended*: it goes on collecting, within its bounds, and keeps the answer. It is passed over where a
client is there to read; a question about the only call waits on it, since that is where it belongs.
"""

import asyncio
from collections.abc import Callable

from ..protocol.encoding import Pieces
from ..protocol.jsonrpc import Request, parse_line
from .backlog import Backlog
from .budget import Budget
from .events import EventLog, StreamLog
from .settings import Settings
from .streams import Exchange, MessageStream

__all__ = ["ClientSide", "ClientStreams"]


class ClientStreams:
    """Every stream of one session.

    Args:
        settings: Bounds.
        on_idle: Called whenever no client waits for an answer any more; sometimes twice.
        on_slow: Called with an exchange that was cut because its client does not read.
        on_lost: Called with the messages that reach nobody.
        budget: Bounds what these streams and others hold together; None if nothing does.

    Attributes:
        events: What was written, for clients that come back.
        lost_messages: Messages that reached nobody.
    """

    __slots__ = (
        "_backlog",
        "_budget",
        "_ended",
        "_exchanges",
        "_get",
        "_last_get",
        "_loop",
        "_on_idle",
        "_on_lost",
        "_on_slow",
        "_settings",
        "_suspended",
        "events",
        "lost_messages",
    )

    def __init__(
        self,
        settings: Settings,
        *,
        on_idle: Callable[[], None],
        on_slow: Callable[[Exchange], None],
        on_lost: Callable[[list[bytes]], None],
        budget: Budget | None = None,
    ) -> None:
        self._budget = budget or Budget()
        self.events: EventLog[MessageStream] = EventLog(
            max_events=settings.max_replay_events, max_bytes=settings.max_replay_bytes, budget=self._budget
        )
        self.lost_messages = 0
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._on_idle = on_idle
        self._on_slow = on_slow
        self._on_lost = on_lost
        # Open POSTs, oldest first → what their client reads: the same, or a successor of it.
        self._exchanges: dict[Exchange, Exchange] = {}
        self._suspended: dict[MessageStream, None] = {}
        self._get: MessageStream | None = None
        self._last_get: MessageStream | None = None  # a client can come back to it, whenever it likes
        self._backlog = Backlog(
            max_messages=settings.max_backlog_messages,
            max_bytes=settings.max_backlog_bytes,
            budget=self._budget,
        )
        self._ended = False

    @property
    def busy(self) -> bool:
        """Whether a client that we can reach, or that may come back, waits for an answer."""
        return bool(self._exchanges or self._suspended)

    @property
    def listening(self) -> bool:
        """Whether a client reads a GET stream."""
        return self._get is not None and self._get.open

    @property
    def suspended(self) -> int:
        """How many exchanges wait for their client to come back."""
        return len(self._suspended)

    @property
    def reachable(self) -> bool:
        """Whether a message about a request would go out now."""
        stream = self._for_related()
        return stream is not None and stream not in self._suspended

    def open(self, *, refusable: bool = True) -> Exchange:
        """Return the stream of a new POST. Whoever reads it must `release` it.

        Args:
            refusable: Whether this is a new call, not one that was let through already.

        Raises:
            LimitReached: Messages hold all the bytes that they may.
        """
        if refusable:
            self._budget.check()
        exchange = Exchange(
            self._loop, max_bytes=self._settings.max_stream_bytes, events=self.events, budget=self._budget
        )
        self._exchanges[exchange] = exchange
        return exchange

    def listen(self) -> MessageStream:
        """Return the stream of a GET. It gets the backlog, and takes over from an earlier GET.

        Taking over, not refusing: a client that lost its connection comes back long before we
        notice that the old one is dead.
        """
        stream = self._new_stream()
        self._take_over_get(stream)
        return stream

    def resume(self, event_id: bytes) -> MessageStream:
        """Return the stream that an event was on, from there on. Whoever reads it must `release` it.

        It takes over from an earlier reader of the same stream, for the same reason as `listen`.

        Raises:
            LocalProtocolError: This is no id of an event.
            EventsLost: The stream cannot be resumed there.
        """
        log, number = self.events.find(event_id)
        self.events.revive(log)
        earlier = log.owner
        if isinstance(earlier, Exchange):
            stream: MessageStream = self._succeed(earlier)
            stream.follow(log, number)
        else:
            stream = self._new_stream()
            stream.follow(log, number)
            self._take_over_get(stream)
        return stream

    def suspend(self, exchange: MessageStream) -> bool:
        """Say that nobody reads an exchange now, but that its client may come back; False if it cannot."""
        if (
            exchange.log is None
            or not isinstance(exchange, Exchange)
            or exchange.complete
            or not exchange.attached
            or self._ended
            or len(self._suspended) >= self._settings.max_suspended
        ):
            return False
        self._suspended[exchange] = None
        exchange.log.timer = self._loop.call_later(self._settings.resume_timeout, self._forget, exchange.log)
        return True

    def release(self, stream: MessageStream) -> None:
        """Say that nobody reads a stream any more.

        What a GET held goes to the backlog. An exchange is suspended if its client can come back to
        it; else a question on it goes to the backlog, and the answer, when it comes, has nowhere to
        go: a client that goes away does not cancel its request (MCP 2025-11-25, basic/transports).
        """
        if stream.log is None and isinstance(stream, Exchange) and stream.complete:
            stream.attached = False  # the hot path: answered with JSON, so nothing waits anywhere
            return
        if not stream.attached or stream in self._suspended or self.suspend(stream):
            return  # somebody else reads on, or may
        if isinstance(stream, Exchange):
            complete = stream.complete
            self._give_up(stream)
            if stream.log is not None and complete:
                self._retire(stream.log)
            elif stream.log is not None:
                self.events.forget(stream.log)
        else:
            self._get = None
            self._lose(self._backlog.put_back(stream.detach()))

    def answer(self, exchange: Exchange, message: bytes | Pieces) -> None:
        """Put the last message on an exchange."""
        self._exchanges.pop(exchange, exchange).answer(message)
        self._check_idle()

    def put(self, message: bytes, exchange: Exchange) -> None:
        """Put a message on the stream of its own request, or lose it."""
        if not self._put(message, self._exchanges.get(exchange, exchange)):
            self.lost_messages += 1

    def send_related(self, message: bytes) -> None:
        """Send a message about some request in flight, we cannot tell which."""
        self._send(message, self._for_related())

    def send_unrelated(self, message: bytes) -> None:
        """Send a message about the server as a whole."""
        self._send(message, self._for_unrelated())

    def end(self) -> None:
        """End the stream of the GET, and of every one to come; nobody can come back to any other."""
        self._ended = True
        if self._get is not None:
            self._get.end()
        self.events.close()
        for exchange in list(self._suspended):
            exchange.detach()
        self._suspended.clear()
        self._backlog.leave_budget()
        self._check_idle()
        # Nobody is left to be told, and whoever has made us holds us: else both would be garbage for the
        # collector, which looks rarely.
        self._on_slow = self._on_lost = _nobody

    def _new_stream(self) -> MessageStream:
        return MessageStream(
            self._loop, max_bytes=self._settings.max_stream_bytes, events=self.events, budget=self._budget
        )

    def _take_over_get(self, stream: MessageStream) -> None:
        earlier, self._last_get = self._last_get, stream
        if self._get is not None:
            self._lose(self._backlog.put_back(self._get.detach()))
            self._get.end()
        if earlier is not None and earlier.log is not None and earlier.log is not stream.log:
            self._retire(earlier.log)
        self._get = stream
        while (oldest := self._backlog.oldest) is not None and stream.has_room_for(oldest):
            stream.put(self._backlog.take())
        if self._ended:
            stream.end()

    def _succeed(self, exchange: Exchange) -> Exchange:
        self._suspended.pop(exchange, None)
        successor = exchange.succeed()
        if exchange.call in self._exchanges:
            self._exchanges[exchange.call] = successor
        return successor

    def _give_up(self, exchange: Exchange) -> None:
        """Let nobody come back to an exchange. What is no question was for its request only."""
        unread = exchange.detach()
        self._exchanges.pop(exchange.call, None)
        questions = [message for message in unread if _is_question(message)]
        self.lost_messages += len(unread) - len(questions)
        if questions:
            self._lose(self._backlog.put_back(questions))
        self._check_idle()

    def _retire(self, log: StreamLog[MessageStream]) -> None:
        self.events.retire(log, self._loop.call_later(self._settings.resume_timeout, self._forget, log))

    def _forget(self, log: StreamLog[MessageStream]) -> None:
        """Note that no client has come back to a stream in time."""
        exchange = log.owner
        if exchange in self._suspended and isinstance(exchange, Exchange):
            del self._suspended[exchange]
            self._give_up(exchange)
        self.events.forget(log)

    def _check_idle(self) -> None:
        if not self._exchanges and not self._suspended:
            self._on_idle()

    def _only_exchange(self) -> Exchange | None:
        if len(self._exchanges) != 1:
            return None
        return next(iter(self._exchanges.values()))

    def _for_related(self) -> MessageStream | None:
        return self._only_exchange() or self._for_unrelated() or self._oldest(suspended=True)

    def _for_unrelated(self) -> MessageStream | None:
        if self._get is not None and self._get.open:
            return self._get
        return self._oldest(suspended=False)

    def _oldest(self, *, suspended: bool) -> Exchange | None:
        for exchange in self._exchanges.values():
            if exchange.open and (exchange in self._suspended) == suspended:
                return exchange
        return None

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
            self._on_slow(stream.call)
        return False

    def _lose(self, messages: list[bytes]) -> None:
        self.lost_messages += len(messages)
        if messages:
            self._on_lost(messages)


class ClientSide:
    """What serves the client of one session, whatever is behind it: its streams."""

    __slots__ = ("_streams",)

    _streams: ClientStreams

    @property
    def busy(self) -> bool:
        """Whether a client that we can reach, or that may come back, waits for an answer."""
        return self._streams.busy

    @property
    def listening(self) -> bool:
        """Whether the client reads a GET stream."""
        return self._streams.listening

    def listen(self) -> MessageStream:
        """Open the stream of a GET; see `ClientStreams.listen`."""
        return self._streams.listen()

    def resume(self, event_id: bytes) -> MessageStream:
        """Go on with the stream that an event was on; see `ClientStreams.resume`.

        Raises:
            LocalProtocolError: This is no id of an event.
            EventsLost: The stream cannot be resumed there.
        """
        return self._streams.resume(event_id)

    def suspend(self, stream: MessageStream) -> bool:
        """Say that a client will come back to an exchange; see `ClientStreams.suspend`."""
        return self._streams.suspend(stream)

    def release(self, stream: MessageStream) -> None:
        """Say that nobody reads a stream any more; see `ClientStreams.release`."""
        self._streams.release(stream)


def _nobody(_: object) -> None:
    """Tell nobody."""


def _is_question(message: bytes) -> bool:
    return any(isinstance(parsed, Request) for parsed in parse_line(message))
