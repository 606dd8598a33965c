"""One child of a session: its messages on their way to the client's streams, and back.

A session may have two for a while: one that answers what it was asked, and its successor, which gets
everything new. Each has ids of its own; the streams are the session's.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable

from ..errors import BridgeBroken, RemoteProtocolError
from ..protocol.correlation import Correlation
from ..protocol.encoding import Pieces, encode_message
from ..protocol.handshake import error_text
from ..protocol.journal import INITIALIZE, Entry, Journal, Likeness, unsubscription
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
    object_members,
    parse_line,
    result_response,
)
from ..supervisor import Child
from .channel import Channel
from .client_streams import ClientStreams
from .messages import answer_too_long, child_ended, request_members, slow_client
from .settings import Settings
from .streams import Exchange

__all__ = ["UNRELATED", "Link"]

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


class Link:
    """The messages of one child, for the client of one session.

    Args:
        child: Running, with its stdout unread.
        streams: Where to.
        journal: What the client has told the session's children.
        settings: Bounds.
        outlived: Whether the session goes on with another child.
        on_noted: Called when something new stands in the journal.

    Attributes:
        child: The child.
        ending: How it ended; None while it can be used.
        used: Whether new requests have gone here.
    """

    __slots__ = (
        "__weakref__",
        "_correlation",
        "_entries",
        "_journal",
        "_loop",
        "_on_noted",
        "_outlived",
        "_own",
        "_quiet",
        "_settings",
        "_streams",
        "channel",
        "child",
        "ending",
        "used",
    )

    def __init__(
        self,
        child: Child,
        streams: ClientStreams,
        journal: Journal,
        settings: Settings,
        *,
        outlived: bool,
        on_noted: Callable[["Link", Entry], None],
    ) -> None:
        self.child = child
        self.ending: BridgeBroken | None = None
        self.used = False
        self.channel = Channel(child, self)
        self._loop = asyncio.get_running_loop()
        self._streams = streams
        self._journal = journal
        self._settings = settings
        self._outlived = outlived
        self._on_noted = on_noted
        self._correlation: Correlation[Exchange] = Correlation(lambda: secrets.token_urlsafe(16))
        self._entries: dict[Exchange, Entry] = {}
        self._own: set[Exchange] = set()  # what we have asked ourselves
        self._quiet: asyncio.Future[None] | None = None

    @property
    def usable(self) -> bool:
        """Whether its child takes requests."""
        return self.ending is None and not self.child.stdin.closed

    @property
    def calls(self) -> int:
        """Requests of the client that the child has not answered."""
        return self._correlation.calls

    @property
    def questions(self) -> int:
        """Requests of the child that the client has not answered."""
        return self._correlation.questions

    # From the client.

    async def call(self, request: Request, exchange: Exchange) -> None:
        """Send a request to the child; its answer, and what comes before, arrive on the exchange.

        Waits while the child's stdin is above its high-water mark. If it fails, nothing was sent.

        Raises:
            BridgeBroken: The child has ended.
            ChildGone: The child is being stopped.
        """
        if self.ending is not None:
            raise self.ending.again()
        entry = self._journal.entry(request)
        if entry is not None:
            self._entries[exchange] = entry
        line = encode_message(self._correlation.open(request, exchange), request.source)
        try:
            await self.channel.send(line)
        except BaseException:
            self._correlation.close(exchange)
            self._entries.pop(exchange, None)
            self._check_quiet()
            raise

    def call_nowait(self, request: Request, exchange: Exchange) -> bool:
        """Do as `call` if that needs no waiting; False if it does, or is refused, and nothing was done."""
        if self.ending is not None:
            return False
        entry = self._journal.entry(request)
        if entry is not None:
            self._entries[exchange] = entry
        line = encode_message(self._correlation.open(request, exchange), request.source)
        if self.channel.try_send(line):
            return True
        self._correlation.close(exchange)
        self._entries.pop(exchange, None)
        self._check_quiet()
        return False

    async def notify(self, notification: Notification) -> None:
        """Send a notification to the child.

        Raises:
            ChildGone: The child is being stopped, or has ended.
        """
        await self.channel.send(encode(notification.members))

    async def cancel(self, notification: Notification) -> bool:
        """Cancel the call that a client's cancellation names; False if it is not open here.

        Raises:
            ChildGone: The child is being stopped, or has ended.
        """
        cancelled = self._correlation.cancel(notification)
        if cancelled is None:
            return False
        line, exchange, client_id = cancelled
        self._entries.pop(exchange, None)
        # The child must not answer any more, so we do: the client's POST wants an end.
        self._streams.answer(
            exchange, error_response(client_id, REQUEST_CANCELLED, "the client cancelled this request")
        )
        self._check_quiet()
        await self.channel.send(line)
        return True

    def reply(self, response: Response) -> bytes | None:
        """Take the client's answer to a question; return the line for the child, None if it did not ask."""
        return self._correlation.reply(response)

    def give_up(self, exchange: Exchange) -> bool:
        """End a call whose client does not read: tell it at the end of what it has, and the child now."""
        closed = self._correlation.close(exchange)
        if closed is None:
            return False
        child_id, client_id = closed
        self._entries.pop(exchange, None)
        self.channel.send_nowait(cancellation(child_id, "the client does not read its stream"))
        self._streams.answer(exchange, slow_client(client_id))
        self._check_quiet()
        return True

    # Of our own.

    async def replay(self) -> Likeness:
        """Tell a fresh child what the session's client has told the others; compare what it says of itself.

        Bound the wait: it may never answer.

        Raises:
            BridgeBroken: It has ended, or ends meanwhile.
            ChildGone: It is being stopped.
            RemoteProtocolError: It refused `initialize`.
        """
        answer = await self._query(INITIALIZE, self._journal.initialize_params or b"{}")
        (response,) = parse_line(answer)
        result = object_members(response.members.get("result"))
        if result is None:
            raise RemoteProtocolError(
                f"the server refused `initialize`: {error_text(answer)}", code=INTERNAL_ERROR
            )
        likeness = self._journal.compare(result)
        if likeness is not Likeness.INCOMPATIBLE and self._journal.initialized:
            await self.channel.send(encode(request_members("notifications/initialized", None)))
            await self._catch_up()
        return likeness

    async def _catch_up(self) -> None:
        """Ask for everything that stands in the journal, until it has not changed meanwhile."""
        asked: dict[Entry, None] = {}
        while asked.keys() != (wanted := dict.fromkeys(self._journal.entries())).keys():
            over = [
                unsubscription(entry.uri) for entry in asked if entry not in wanted and entry.uri is not None
            ]
            missing = [*over, *(entry for entry in wanted if entry not in asked)]
            # All at once, each in its turn: a session with many subscriptions must not wait for each.
            answers = [await self._send(entry.method, entry.params) for entry in missing]
            for entry, exchange in zip(missing, answers, strict=True):
                if not _succeeded(await self._answer(exchange)):
                    logger.warning(
                        "session.not_replayed", extra={"pid": self.channel.pid, "method": entry.method}
                    )
            asked = wanted

    def repeat_nowait(self, entry: Entry) -> None:
        """Ask for something that the client has just asked this child's predecessor for."""
        self.channel.send_nowait(self._correlation.statement(entry.method, entry.params))

    async def wait_quiet(self) -> None:
        """Wait until the child owes the client no answer, or has ended. One may wait at a time."""
        if self._correlation.calls and self.ending is None:
            self._quiet = self._loop.create_future()
            try:
                await self._quiet
            finally:
                self._quiet = None

    # From the child.

    async def run(self) -> BridgeBroken:
        """Route what the child sends until its output ends; fail what is open, and return how it ended."""
        self.fail(await self.channel.run())
        self._on_noted = _nobody  # it holds us; see `ClientStreams.end`
        assert self.ending is not None  # noqa: S101 - for mypy: `fail` has just set it
        return self.ending

    def fail(self, ending: BridgeBroken) -> None:
        """Answer every open call with an error, and refuse what comes."""
        if not self._outlived:
            ending = ending.final()
        if self.ending is None:
            self.ending = ending
        self._entries.clear()
        for exchange, client_id in self._correlation.abandon_all():
            self._end(exchange, child_ended(client_id, ending))
        self._check_quiet()

    def withdraw_questions(self) -> None:
        """Take back what a child has asked that will hear no answer any more."""
        for question_id in self._correlation.abandon_questions():
            self._streams.send_related(cancellation(question_id, "the server process has ended"))

    def message(self, message: Message) -> None:
        """Take a message of the child (`Receiver`)."""
        if isinstance(message, Response):
            exchange = self._correlation.settle(message)
            if exchange is None:
                logger.debug("child.late_answer", extra={"pid": self.channel.pid})
                return
            if self._entries:
                self._note(exchange, message)
            self._end(exchange, encode_message(message.members, message.source))
            if self._quiet is not None:
                self._check_quiet()
        elif isinstance(message, Request):
            self._question(message)
        else:
            self._notification(message)

    def lost_answer(self, child_id: bytes, line_bytes: int) -> None:
        """Fail the call whose answer was too long (`Receiver`)."""
        abandoned = self._correlation.abandon(child_id)
        if abandoned is not None:
            exchange, client_id = abandoned
            self._entries.pop(exchange, None)
            self._end(exchange, answer_too_long(client_id, line_bytes))
            self._check_quiet()

    def _end(self, exchange: Exchange, answer: bytes | Pieces) -> None:
        if exchange in self._own:  # no client waits for it, so none is idle because of it
            self._own.discard(exchange)
            exchange.answer(answer)
        else:
            self._streams.answer(exchange, answer)

    def _note(self, exchange: Exchange, response: Response) -> None:
        entry = self._entries.pop(exchange, None)
        if entry is not None and self._journal.commit(entry, response):
            self._on_noted(self, entry)

    def _question(self, request: Request) -> None:
        full = self._correlation.questions >= self._settings.max_questions
        if request.method == "ping" and (full or not self._streams.reachable):
            # It asks whether anybody is there. We are; the client may well be between two requests.
            self.channel.send_nowait(result_response(request.id, {}))
        elif full:
            self.channel.send_nowait(
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

    def _check_quiet(self) -> None:
        over = not self._correlation.calls or self.ending is not None
        if over and self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)

    async def _query(self, method: str, params: bytes) -> bytes:
        return await self._answer(await self._send(method, params))

    async def _send(self, method: str, params: bytes) -> Exchange:
        """Send a request of our own; return where its answer arrives, which no client reads."""
        exchange = Exchange(self._loop, max_bytes=self._settings.max_stream_bytes)
        self._own.add(exchange)
        await self.channel.send(self._correlation.query(method, params, exchange))
        return exchange

    async def _answer(self, exchange: Exchange) -> bytes:
        """Return the answer to a request of our own.

        Raises:
            BridgeBroken: The child has ended.
        """
        answer = await exchange.wait_answered()
        if self.ending is not None:
            raise self.ending.again()
        return answer


def _nobody(_link: Link, _entry: Entry) -> None:
    """Tell nobody."""


def _succeeded(answer: bytes) -> bool:
    (response,) = parse_line(answer)
    return "result" in response.members
