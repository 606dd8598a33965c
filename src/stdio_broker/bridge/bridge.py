"""One child joined to one client of its own era, with sessions: ids swapped, nothing else touched.

It turns client messages into lines for the child, and the child's lines into messages on the
right stream. It does not know where the client is, what a session is, or how the child is stopped;
it notices when the child's output ends, and then fails what is open.
"""

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import BridgeBroken, LimitReached
from ..protocol.correlation import Correlation
from ..protocol.jsonrpc import (
    INTERNAL_ERROR,
    REQUEST_CANCELLED,
    Message,
    Notification,
    Request,
    Response,
    cancellation,
    encode,
    error_response,
    parse_line,
    result_response,
)
from ..supervisor import Child
from .channel import Channel
from .client_streams import ClientSide, ClientStreams
from .messages import answer_too_long, child_ended, slow_client
from .settings import Settings
from .streams import Exchange

__all__ = ["Bridge", "BridgeStatistics"]

logger = logging.getLogger(__name__)

#: Notifications about the server as a whole, not about a request in flight.
UNRELATED = frozenset(
    {
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
        "notifications/tasks/status",
        "notifications/tools/list_changed",
    }
)


@dataclass(frozen=True, slots=True)
class BridgeStatistics:
    """A snapshot.

    Attributes:
        calls: Client requests in flight.
        questions: Requests of the child that wait for the client.
        bad_lines: Lines of stdout that were no JSON-RPC (banners, for instance).
        repaired_lines: Lines that were not UTF-8, with U+FFFD in place of what was wrong.
        oversize_lines: Lines over the limit.
        dropped_messages: Messages that no stream could take.
    """

    calls: int
    questions: int
    bad_lines: int
    repaired_lines: int
    oversize_lines: int
    dropped_messages: int


class Bridge(ClientSide):
    """The messages of one child, for one client.

    Args:
        child: Running, with its stdout unread.
        settings: Bounds.
        on_idle: Called whenever nothing is owed to a client any more; sometimes twice.
    """

    def __init__(
        self, child: Child, settings: Settings, *, on_idle: Callable[[], None] = lambda: None
    ) -> None:
        self._settings = settings
        self._channel = Channel(child, self)
        self._correlation: Correlation[Exchange] = Correlation(lambda: secrets.token_urlsafe(16))
        self._streams = ClientStreams(
            settings, on_idle=on_idle, on_slow=self._give_up, on_lost=self._refuse_questions
        )
        self._ending: BridgeBroken | None = None

    @property
    def first_bad_line(self) -> str | None:
        """The start of the first line that was no JSON-RPC: for operators only."""
        return self._channel.first_bad_line

    def statistics(self) -> BridgeStatistics:
        """Return a snapshot."""
        return BridgeStatistics(
            calls=self._correlation.calls,
            questions=self._correlation.questions,
            bad_lines=self._channel.bad_lines,
            repaired_lines=self._channel.repaired_lines,
            oversize_lines=self._channel.oversize_lines,
            dropped_messages=self._streams.lost_messages + self._channel.unsaid_lines,
        )

    # From the client.

    async def call(self, request: Request) -> Exchange:
        """Send a request to the child; its answer, and what comes before, arrive on the exchange.

        Waits while the child's stdin is above its high-water mark. Whoever reads the exchange must
        `release` it.

        Raises:
            BridgeBroken: The child has ended.
            ChildGone: The child is being stopped.
            LimitReached: Too many calls are in flight.
        """
        if self._ending is not None:
            raise self._ending.again()
        if self._correlation.calls >= self._settings.max_calls:
            raise LimitReached(
                f"{self._settings.max_calls} calls of this session are in flight already", retry_after=1.0
            )
        exchange = self._streams.open()
        line = self._correlation.call(request, exchange)
        try:
            await self._channel.send(line)
        except BaseException:
            self._correlation.close(exchange)
            self.release(exchange)
            raise
        return exchange

    async def notify(self, notification: Notification) -> None:
        """Send a notification to the child; a cancellation of a call that is not open is dropped.

        Raises:
            ChildGone: The child is being stopped, or has ended.
        """
        if notification.method != "notifications/cancelled":
            await self._channel.send(encode(notification.members))
            return
        cancelled = self._correlation.cancel(notification)
        if cancelled is None:
            return
        line, exchange, client_id = cancelled
        # The child must not answer any more, so we do: the client's POST wants an end.
        self._streams.answer(
            exchange, error_response(client_id, REQUEST_CANCELLED, "the client cancelled this request")
        )
        await self._channel.send(line)

    async def reply(self, response: Response) -> None:
        """Send the client's answer to a question of the child; an answer to nothing is dropped.

        Raises:
            ChildGone: The child is being stopped, or has ended.
        """
        line = self._correlation.reply(response)
        if line is not None:
            await self._channel.send(line)

    # From the child.

    async def run(self) -> None:
        """Route what the child sends until its output ends, then fail what is open."""
        self.fail(await self._channel.run())

    def fail(self, ending: BridgeBroken) -> None:
        """Answer every open call with an error, end every stream, and refuse what comes."""
        self._ending = ending
        for exchange, client_id in self._correlation.abandon_all():
            self._streams.answer(exchange, child_ended(client_id, ending))
        self._streams.end()

    def message(self, message: Message) -> None:
        """Take a message of the child (`Receiver`)."""
        if isinstance(message, Response):
            answered = self._correlation.answer(message)
            if answered is None:
                logger.debug("child.late_answer", extra={"pid": self._channel.pid})
            else:
                self._streams.answer(*answered)
        elif isinstance(message, Request):
            self._question(message)
        else:
            self._notification(message)

    def lost_answer(self, child_id: bytes, line_bytes: int) -> None:
        """Fail the call whose answer was too long (`Receiver`)."""
        abandoned = self._correlation.abandon(child_id)
        if abandoned is not None:
            exchange, client_id = abandoned
            self._streams.answer(exchange, answer_too_long(client_id, line_bytes))

    def _question(self, request: Request) -> None:
        full = self._correlation.questions >= self._settings.max_questions
        if request.method == "ping" and (full or not self._streams.reachable):
            # It asks whether anybody is there. We are; the client may well be between two requests.
            self._channel.send_nowait(result_response(request.id, {}))
        elif full:
            self._channel.send_nowait(
                error_response(request.id, INTERNAL_ERROR, "too many requests wait for the client's answer")
            )
        else:
            self._streams.send_related(self._correlation.ask(request))

    def _notification(self, notification: Notification) -> None:
        if notification.method == "notifications/progress":
            owned = self._correlation.progress(notification)
            if owned is not None:
                exchange, message = owned
                self._streams.put(message, exchange)
        elif notification.method == "notifications/cancelled":
            withdrawn = self._correlation.withdraw(notification)
            if withdrawn is not None:
                self._streams.send_related(withdrawn)
        elif notification.method in UNRELATED:
            self._streams.send_unrelated(encode(notification.members))
        else:
            self._streams.send_related(encode(notification.members))

    def _give_up(self, exchange: Exchange) -> None:
        """End a call whose client does not read: tell it at the end of what it has, and the child now."""
        closed = self._correlation.close(exchange)
        if closed is None:
            return
        child_id, client_id = closed
        self._channel.send_nowait(cancellation(child_id, "the client does not read its stream"))
        self._streams.answer(exchange, slow_client(client_id))

    def _refuse_questions(self, messages: list[bytes]) -> None:
        """Tell the child which of its questions reach nobody."""
        for message in messages:
            for question in parse_line(message):
                if isinstance(question, Request):
                    text = "no client took this request"
                    (refusal,) = parse_line(error_response(question.id, INTERNAL_ERROR, text))
                    line = self._correlation.reply(refusal) if isinstance(refusal, Response) else None
                    if line is not None:
                        self._channel.send_nowait(line)
