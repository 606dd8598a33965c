"""A client of a session joined to a child of its own era: ids swapped, nothing else touched.

It turns client messages into lines for the child, and the child's lines into messages on the right
stream. It does not know where the client is, what a session is, or how a child is started or stopped.
The client stays, with its streams; children come and go: one that ends fails what it was asked, and
the next request wakes another one, which is told first what the client has told the others.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from ..errors import BridgeBroken, ChildGone, LimitReached
from ..protocol.journal import Entry, Journal
from ..protocol.jsonrpc import (
    INTERNAL_ERROR,
    Notification,
    Request,
    Response,
    error_response,
    parse_line,
)
from ..supervisor import Child
from .budget import Budget
from .client_streams import ClientSide, ClientStreams
from .link import Link
from .settings import Settings
from .streams import Exchange, MessageStream

__all__ = ["Bridge", "BridgeStatistics"]

#: What a child that is not there need not hear: its successor asks, or was never asked.
_DISPENSABLE = frozenset({"notifications/initialized", "notifications/roots/list_changed"})


@dataclass(frozen=True, slots=True)
class BridgeStatistics:
    """A snapshot.

    Attributes:
        calls: Client requests in flight.
        questions: Requests of a child that wait for the client.
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
    """The messages of one client, and of its children, one after the other.

    Args:
        settings: Bounds.
        budget: Bounds what its messages and others hold together; None if nothing does.
        wake: Returns a link to a child that can be used, and starts one if need be; None if a bridge
            that has lost its child is of no use any more.
        on_idle: Called whenever nothing is owed to a client any more; sometimes twice.
        on_listening: Called whenever the client may have begun to read a stream of changes.

    Attributes:
        journal: What the client has told its children.
    """

    __slots__ = (
        "_ending",
        "_link",
        "_links",
        "_loop",
        "_on_idle",
        "_on_listening",
        "_settings",
        "_waiting",
        "_wake",
        "journal",
    )

    def __init__(
        self,
        settings: Settings,
        *,
        budget: Budget | None = None,
        wake: Callable[[], Awaitable[Link]] | None = None,
        on_idle: Callable[[], None] = lambda: None,
        on_listening: Callable[[], None] = lambda: None,
    ) -> None:
        self.journal = Journal()
        self._settings = settings
        self._wake = wake
        self._on_idle = on_idle
        self._on_listening = on_listening
        self._loop = asyncio.get_running_loop()
        self._waiting = 0  # requests that wait for a child
        self._streams = ClientStreams(
            settings,
            budget=budget,
            on_idle=on_idle,
            on_slow=self._give_up,
            on_lost=self._refuse_questions,
        )
        self._link: Link | None = None
        # The one that is used, and those beside it: not yet, or not any more.
        self._links: list[Link] = []
        self._ending: BridgeBroken | None = None

    @property
    def link(self) -> Link | None:
        """Where new requests go; None while there is no child."""
        return self._link

    @property
    def links(self) -> tuple[Link, ...]:
        """Every child that there is: the one that is used, and those beside it."""
        return tuple(self._links)

    @property
    def first_bad_line(self) -> str | None:
        """The start of the first line that was no JSON-RPC: for operators only."""
        return next((link.channel.first_bad_line for link in self._links), None)

    def statistics(self) -> BridgeStatistics:
        """Return a snapshot, of the children that there are now."""
        return BridgeStatistics(
            calls=sum(link.calls for link in self._links),
            questions=sum(link.questions for link in self._links),
            bad_lines=sum(link.channel.bad_lines for link in self._links),
            repaired_lines=sum(link.channel.repaired_lines for link in self._links),
            oversize_lines=sum(link.channel.oversize_lines for link in self._links),
            dropped_messages=self._streams.lost_messages
            + sum(link.channel.unsaid_lines for link in self._links),
        )

    @property
    def busy(self) -> bool:
        """Whether a client that we can reach, or that may come back, waits for an answer, or for a child."""
        return self._waiting > 0 or super().busy

    @property
    def outlives_children(self) -> bool:
        """Whether another child can take the place of one that has ended."""
        return self._wake is not None and self.journal.complete

    def listen(self) -> MessageStream:
        """Open the stream of a GET; see `ClientStreams.listen`."""
        stream = super().listen()
        self._on_listening()
        return stream

    def resume(self, event_id: bytes) -> MessageStream:
        """Go on with the stream that an event was on; see `ClientStreams.resume`.

        Raises:
            LocalProtocolError: This is no id of an event.
            EventsLost: The stream cannot be resumed there.
        """
        stream = super().resume(event_id)
        self._on_listening()
        return stream

    # Children.

    def join(self, child: Child) -> Link:
        """Return a link to a child. Nothing goes there before it is told to `use` it.

        Args:
            child: Running, with its stdout unread.
        """
        link = Link(
            child,
            self._streams,
            self.journal,
            self._settings,
            outlived=self._wake is not None,
            on_noted=self._noted,
        )
        self._links.append(link)
        return link

    def use(self, link: Link, *, told: Iterable[bytes] = ()) -> Link | None:
        """Send what is new to another child; return the link that was used before.

        Args:
            link: To a child that has heard what stands in the journal.
            told: What the client is told of the change.
        """
        earlier, self._link = self._link, link
        link.used = True
        for message in told:
            self._streams.send_unrelated(message)
        return earlier

    def rest(self) -> Link | None:
        """Use no child until the next request wakes one; return the link that was used."""
        earlier, self._link = self._link, None
        return earlier

    async def run(self, link: Link) -> BridgeBroken:
        """Route what a child sends until its output ends; return how it did. What it owed has failed."""
        ending = await link.run()
        if self._wake is not None:
            self._links.remove(link)
            if self._link is link:
                self._link = None
            if self._ending is None:
                link.withdraw_questions()
        return ending

    # From the client.

    def call_nowait(self, request: Request) -> Exchange | None:
        """Do as `call` if that needs no waiting; None if it does, or is refused for lack of a child.

        Raises:
            LimitReached: Too many calls are in flight, or messages hold all the bytes that they may.
        """
        link = self._link
        if self._ending is not None or link is None or not link.usable:
            return None
        self._check_room(link)
        exchange = self._streams.open()
        if link.call_nowait(request, exchange):
            return exchange
        self.release(exchange)
        return None

    async def call(self, request: Request) -> Exchange:
        """Send a request to the child; its answer, and what comes before, arrive on the exchange.

        Waits while the child's stdin is above its high-water mark, and for a child that has to be woken.
        Whoever reads the exchange must `release` it.

        Raises:
            BridgeBroken: The child has ended; or the session has.
            ChildGone: The child is being stopped.
            LimitReached: Too many calls are in flight.
            BrokerError: No child could be woken; see there.
        """
        link = await self._usable()
        self._check_room(link)
        exchange = self._streams.open()
        try:
            await link.call(request, exchange)
        except (BridgeBroken, ChildGone):
            # It has ended since. Nothing was sent to it, so another one may be asked; once.
            if exchange.answered:  # while it waited to be sent: cancelled, or failed with the child
                return exchange
            if self._wake is None or self._ending is not None:
                self.release(exchange)
                raise
        except BaseException:
            self.release(exchange)
            raise
        else:
            return exchange
        return await self._call_again(request, exchange)

    async def notify(self, notification: Notification) -> None:
        """Send a notification to the child; a cancellation of a call that is not open is dropped.

        Raises:
            ChildGone: The child is being stopped, or has ended.
            BrokerError: No child could be woken; see there.
        """
        method = notification.method
        if method == "notifications/cancelled":
            await self._cancel(notification)
            return
        if method == "notifications/initialized":
            self.journal.initialized = True
        if self._link is None and self._wake is not None and method in _DISPENSABLE:
            return
        used = self._link if self._wake is None else await self._usable()
        if used is None:
            raise ChildGone("there is no server process")
        try:
            await used.notify(notification)
        except ChildGone:
            if self._wake is None:
                raise

    async def _cancel(self, notification: Notification) -> None:
        try:
            for link in self._links:
                if await link.cancel(notification):
                    return
        except ChildGone:  # a child that is about to end; the call has been answered
            if self._wake is None:
                raise

    async def reply(self, response: Response) -> None:
        """Send the client's answer to a question of a child; an answer to nothing is dropped.

        Raises:
            ChildGone: The child is being stopped, or has ended.
        """
        for link in self._links:
            line = link.reply(response)
            if line is None:
                continue
            try:
                await link.channel.send(line)
            except ChildGone:
                if self._wake is None:
                    raise
            return

    def fail(self, ending: BridgeBroken) -> None:
        """Answer every open call with an error, end every stream, and refuse what comes."""
        self._ending = ending
        for link in list(self._links):
            link.fail(ending)
        self._streams.end()

    def _check_room(self, link: Link) -> None:
        if link.calls >= self._settings.max_calls:
            raise LimitReached(
                f"{self._settings.max_calls} calls of this session are in flight already", retry_after=1.0
            )

    async def _usable(self) -> Link:
        if self._ending is not None:
            raise self._ending.again()
        if self._link is not None and (self._link.usable or self._wake is None):
            return self._link
        if self._wake is None:
            raise ChildGone("there is no server process")
        self._waiting += 1
        try:
            return await self._wake()
        finally:
            self._waiting -= 1
            # Not at once: what has waited is about to be a call.
            self._loop.call_soon(self._check_idle)

    def _check_idle(self) -> None:
        if not self.busy:
            self._on_idle()

    async def _call_again(self, request: Request, exchange: Exchange) -> Exchange:
        try:
            link = await self._usable()
            try:
                await link.call(request, exchange)
            except (BridgeBroken, ChildGone) as exc:
                if exchange.answered:  # as above
                    return exchange
                if isinstance(exc, BridgeBroken):
                    raise
                raise BridgeBroken("the server does not read its requests") from None
        except BaseException:
            self.release(exchange)
            raise
        return exchange

    # From a child.

    def _noted(self, link: Link, entry: Entry) -> None:
        """Tell the child that is used now what its predecessor was asked before and has just agreed to."""
        if self._link is not None and self._link is not link:
            self._link.repeat_nowait(entry)

    def _give_up(self, exchange: Exchange) -> None:
        any(link.give_up(exchange) for link in self._links)

    def _refuse_questions(self, messages: list[bytes]) -> None:
        """Tell children which of their questions reach nobody."""
        for message in messages:
            for question in parse_line(message):
                if isinstance(question, Request):
                    text = "no client took this request"
                    (refusal,) = parse_line(error_response(question.id, INTERNAL_ERROR, text))
                    if isinstance(refusal, Response):
                        self._refuse(refusal)

    def _refuse(self, refusal: Response) -> None:
        for link in self._links:
            line = link.reply(refusal)
            if line is not None:
                link.channel.send_nowait(line)
                return
