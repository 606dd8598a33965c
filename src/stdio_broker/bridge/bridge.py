"""One child joined to one client: one reader, one writer, the correlation of ids.

It turns client messages into lines for the child, and the child's lines into messages on the
right stream, each on exactly one. It does not know where the client is, what a session is, or
how the child is stopped; it notices when the child's output ends, and then fails what is open.

Which stream, for what the child sends of its own accord (stdio has no field that tells; MCP
2025-11-25, basic/transports, "Multiple Connections"; `docs/architecture.md`):

    progress                      the exchange that owns the token
    questions, log messages       the only open exchange, else GET, else the oldest exchange
    list_changed, updated         GET, else the oldest exchange
    nobody is there               the backlog, for the next GET
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import BridgeBroken, EndOfOutput, LimitReached, RemoteProtocolError
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
    find_response_id,
    parse_line,
    result_response,
)
from ..supervisor import Child, ExitStatus, OversizeLine
from .backlog import Backlog
from .settings import Settings
from .streams import Exchange, MessageStream

__all__ = ["Bridge", "BridgeStatistics"]

logger = logging.getLogger(__name__)

#: Seconds between the end of a child's output and its exit, after which open calls are failed
#: without an exit status. A child that closes stdout and lives on is as good as dead to us.
EXIT_STATUS_TIMEOUT = 0.5

#: Bytes kept of the first line that is no JSON-RPC.
BAD_LINE_BYTES = 200

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


class Bridge:
    """The messages of one child, for one client.

    Args:
        child: Running, with its stdout unread.
        settings: Bounds.
        on_idle: Called whenever nothing is owed to a client any more; sometimes twice.

    Attributes:
        first_bad_line: The start of the first line that was no JSON-RPC, or None. The child's own
            text: show it to operators only.
    """

    def __init__(
        self, child: Child, settings: Settings, *, on_idle: Callable[[], None] = lambda: None
    ) -> None:
        self.first_bad_line: str | None = None
        self._loop = asyncio.get_running_loop()
        self._child = child
        self._settings = settings
        self._on_idle = on_idle
        self._correlation: Correlation[Exchange] = Correlation(lambda: secrets.token_urlsafe(16))
        self._streams: dict[Exchange, None] = {}  # open POST streams, oldest first
        self._get: MessageStream | None = None
        self._backlog = Backlog(
            max_messages=settings.max_backlog_messages, max_bytes=settings.max_backlog_bytes
        )
        self._broken: BridgeBroken | None = None
        self._bad_lines = 0
        self._repaired_lines = 0
        self._oversize_lines = 0
        self._dropped_messages = 0
        self._errors_without_id = 0

    @property
    def busy(self) -> bool:
        """Whether a client that we can reach waits for an answer that the child still owes."""
        return bool(self._streams)

    def statistics(self) -> BridgeStatistics:
        """Return a snapshot."""
        return BridgeStatistics(
            calls=self._correlation.calls,
            questions=self._correlation.questions,
            bad_lines=self._bad_lines,
            repaired_lines=self._repaired_lines,
            oversize_lines=self._oversize_lines,
            dropped_messages=self._dropped_messages,
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
        if self._broken is not None:
            raise BridgeBroken(str(self._broken), code=self._broken.code, signal=self._broken.signal)
        if self._correlation.calls >= self._settings.max_calls:
            raise LimitReached(
                f"{self._settings.max_calls} calls of this session are in flight already", retry_after=1.0
            )
        exchange = Exchange(self._loop, max_bytes=self._settings.max_stream_bytes)
        line = self._correlation.call(request, exchange)
        self._streams[exchange] = None
        try:
            await self._child.stdin.send(line)
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
            await self._child.stdin.send(encode(notification.members))
            return
        cancelled = self._correlation.cancel(notification)
        if cancelled is None:
            return
        line, exchange, client_id = cancelled
        # The child must not answer any more, so we do: the client's POST wants an end.
        self._answer(
            exchange, error_response(client_id, REQUEST_CANCELLED, "the client cancelled this request")
        )
        await self._child.stdin.send(line)

    async def reply(self, response: Response) -> None:
        """Send the client's answer to a question of the child; an answer to nothing is dropped.

        Raises:
            ChildGone: The child is being stopped, or has ended.
        """
        line = self._correlation.reply(response)
        if line is not None:
            await self._child.stdin.send(line)

    def listen(self) -> MessageStream:
        """Open the stream of a GET. It gets the backlog, and takes over from an earlier GET.

        Taking over, not refusing: a client that lost its connection comes back long before we
        notice that the old one is dead.
        """
        stream = MessageStream(self._loop, max_bytes=self._settings.max_stream_bytes)
        if self._get is not None:
            self._drop(self._backlog.put_back(self._get.detach()))
            self._get.end()
        self._get = stream
        while (oldest := self._backlog.oldest) is not None and stream.has_room_for(oldest):
            stream.put(self._backlog.take())
        if self._broken is not None:
            stream.end()
        return stream

    def release(self, stream: MessageStream) -> None:
        """Say that nobody reads a stream any more. What it held for anybody goes to the backlog.

        A client that goes away does not cancel its request (MCP 2025-11-25, basic/transports); the
        answer, when it comes, has nowhere to go.
        """
        unread = stream.detach()
        if isinstance(stream, Exchange):
            self._close_stream(stream)
            # Progress and logs were for this request only; a question still wants an answer.
            questions = [message for message in unread if _is_question(message)]
            self._dropped_messages += len(unread) - len(questions)
            unread = questions
        elif stream is self._get:
            self._get = None
        if unread:
            self._drop(self._backlog.put_back(unread))

    # From the child.

    async def run(self) -> None:
        """Route what the child sends until its output ends, then fail what is open."""
        try:
            while True:
                for line in await self._child.stdout.receive_many():
                    self._line(line)
        except EndOfOutput:
            pass
        status = await self._exit_status()
        self.fail(
            _describe(status), reason="server closed its output" if status is None else "server process ended"
        )

    def fail(self, error: BridgeBroken, *, reason: str) -> None:
        """Answer every open call with an error, end every stream, and refuse what comes.

        Args:
            error: What happened, in words and numbers.
            reason: The same as a constant that programs can compare.
        """
        self._broken = error
        data: dict[str, object] = {"reason": reason}
        if error.code is not None:
            data["exitCode"] = error.code
        if error.signal is not None:
            data["signal"] = error.signal
        for exchange, client_id in self._correlation.abandon_all():
            self._answer(exchange, error_response(client_id, INTERNAL_ERROR, str(error), data))
        if self._get is not None:
            self._get.end()

    async def _exit_status(self) -> ExitStatus | None:
        try:
            async with asyncio.timeout(EXIT_STATUS_TIMEOUT):
                await self._child.exited.wait()
        except TimeoutError:
            return None
        return await self._child.wait()  # bounded by its graces, and nearly always at once

    def _line(self, line: bytes | OversizeLine) -> None:
        if isinstance(line, OversizeLine):
            self._oversize(line)
            return
        try:
            messages = self._parse(line)
        except RemoteProtocolError as exc:
            if line.strip():
                self._count_bad_line(line, exc)
            return
        for message in messages:
            self._message(message)

    def _parse(self, line: bytes) -> list[Message]:
        try:
            return parse_line(line)
        except RemoteProtocolError:
            # A result with a stray Latin-1 byte is still an answer that somebody waits for.
            repaired = line.decode("utf-8", "replace").encode()
            if repaired == line:
                raise
            messages = parse_line(repaired)
        self._repaired_lines += 1
        if self._repaired_lines == 1:
            logger.warning("child.invalid_utf8", extra={"pid": self._child.pid})
        return messages

    def _message(self, message: Message) -> None:
        if isinstance(message, Response):
            if message.id == b"null":
                self._count_error_without_id()
                return
            answered = self._correlation.answer(message)
            if answered is None:
                logger.debug("child.late_answer", extra={"pid": self._child.pid})
                return
            self._answer(*answered)
        elif isinstance(message, Request):
            self._question(message)
        else:
            self._notification(message)

    def _question(self, request: Request) -> None:
        stream = self._stream_for_related()
        full = self._correlation.questions >= self._settings.max_questions
        if request.method == "ping" and (stream is None or full):
            # It asks whether anybody is there. We are; the client may well be between two requests.
            self._answer_child(result_response(request.id, {}))
        elif full:
            self._answer_child(
                error_response(request.id, INTERNAL_ERROR, "too many requests wait for the client's answer")
            )
        else:
            self._send(self._correlation.ask(request), stream)

    def _notification(self, notification: Notification) -> None:
        if notification.method == "notifications/progress":
            owned = self._correlation.progress(notification)
            if owned is not None:
                exchange, message = owned
                if not self._put(message, exchange):
                    self._dropped_messages += 1
            return
        if notification.method == "notifications/cancelled":
            withdrawn = self._correlation.withdraw(notification)
            if withdrawn is not None:
                self._send(withdrawn, self._stream_for_related())
            return
        unrelated = notification.method in UNRELATED
        stream = self._stream_for_unrelated() if unrelated else self._stream_for_related()
        self._send(encode(notification.members), stream)

    def _oversize(self, line: OversizeLine) -> None:
        self._oversize_lines += 1
        logger.warning("child.line_too_long", extra={"pid": self._child.pid, "line_bytes": line.length})
        child_id = find_response_id(line.head, line.tail)
        abandoned = None if child_id is None else self._correlation.abandon(child_id)
        if abandoned is not None:
            exchange, client_id = abandoned
            text = f"the server's answer of {line.length} bytes exceeds the broker's limit on a line"
            facts = {"reason": "answer too long", "bytes": line.length}
            self._answer(exchange, error_response(client_id, INTERNAL_ERROR, text, facts))

    def _count_bad_line(self, line: bytes, exc: RemoteProtocolError) -> None:
        self._bad_lines += 1
        if self._bad_lines == 1:
            self.first_bad_line = line[:BAD_LINE_BYTES].decode("utf-8", "replace")
            # Once: a server with a banner is common, one that floods its stdout is possible.
            logger.warning("child.not_json_rpc", extra={"pid": self._child.pid, "problem": str(exc)})

    def _answer(self, exchange: Exchange, message: bytes) -> None:
        exchange.answer(message)
        self._close_stream(exchange)

    def _close_stream(self, exchange: Exchange) -> None:
        self._streams.pop(exchange, None)
        if not self._streams:
            self._on_idle()

    # Streams.

    def _only_exchange(self) -> Exchange | None:
        if len(self._streams) != 1:
            return None
        return next(iter(self._streams))

    def _stream_for_related(self) -> MessageStream | None:
        return self._only_exchange() or self._stream_for_unrelated()

    def _stream_for_unrelated(self) -> MessageStream | None:
        if self._get is not None and self._get.open:
            return self._get
        return next((exchange for exchange in self._streams if exchange.open), None)

    def _send(self, message: bytes, stream: MessageStream | None) -> None:
        while stream is not None:
            if self._put(message, stream):
                return
            # It was cut just now, and is closed; maybe there is another one.
            stream = self._stream_for_unrelated()
        self._drop(self._backlog.add(message))

    def _put(self, message: bytes, stream: MessageStream) -> bool:
        if stream.put(message):
            return True
        if stream.cut and isinstance(stream, Exchange):
            self._give_up(stream)
        return False

    def _give_up(self, exchange: Exchange) -> None:
        """End a call whose client does not read: tell it at the end of what it has, and the child now."""
        closed = self._correlation.close(exchange)
        if closed is None:
            return
        child_id, client_id = closed
        self._answer_child(cancellation(child_id, "the client does not read its stream"))
        text = "the client read the stream of this request too slowly; messages were lost"
        self._answer(exchange, error_response(client_id, INTERNAL_ERROR, text, {"reason": "slow client"}))

    def _drop(self, messages: list[bytes]) -> None:
        """Count messages that reach nobody, and refuse the questions among them."""
        self._dropped_messages += len(messages)
        for message in messages:
            self._refuse_question(message)

    def _refuse_question(self, message: bytes) -> None:
        """Tell the child that its question reaches nobody, if that is what the message is."""
        for question in parse_line(message):
            if isinstance(question, Request):
                text = "no client took this request"
                (refusal,) = parse_line(error_response(question.id, INTERNAL_ERROR, text))
                line = self._correlation.reply(refusal) if isinstance(refusal, Response) else None
                if line is not None:
                    self._answer_child(line)

    def _count_error_without_id(self) -> None:
        """Note that the child could not read a line of ours, and cannot say which."""
        self._errors_without_id += 1
        if self._errors_without_id == 1:  # once, as above
            logger.warning("child.error_without_id", extra={"pid": self._child.pid})

    def _answer_child(self, line: bytes) -> None:
        """Say something to the child ourselves, without waiting: its reader must go on reading."""
        if not self._child.stdin.send_nowait(line):
            self._dropped_messages += 1


def _describe(status: ExitStatus | None) -> BridgeBroken:
    if status is None:
        return BridgeBroken("the server closed its output")
    return BridgeBroken(f"the server process {status}", code=status.code, signal=status.signal)


def _is_question(message: bytes) -> bool:
    return any(isinstance(parsed, Request) for parsed in parse_line(message))
