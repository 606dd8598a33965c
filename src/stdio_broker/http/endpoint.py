"""The MCP endpoint: Streamable HTTP, revisions 2025-03-26 to 2025-11-25, one path.

    POST    one JSON-RPC message in (2025-03-26: or a batch); its answer as JSON if the answer is the
            first thing that comes, as a stream as soon as anything else does, or when the keep-alive
            falls due
    GET     what the server says of its own accord, as a stream
    DELETE  end of the session

It knows HTTP and which message goes where; it never looks inside one.
Source: MCP 2025-11-25, basic/transports, "Streamable HTTP".
"""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import TypeVar

import msgspec

from ..bridge import Bridge, Exchange, MessageStream, StreamEnded
from ..errors import BridgeBroken, BrokerError, ChildGone, LocalProtocolError, SessionNotFound, SpawnError
from ..protocol.jsonrpc import (
    INVALID_REQUEST,
    UNSUPPORTED_PROTOCOL_VERSION,
    Message,
    Notification,
    Request,
    Response,
    parse_body,
)
from ..protocol.revisions import KNOWN_VERSIONS, MODERN_VERSION, REVISIONS
from ..protocol.sse import KEEP_ALIVE, encode_event
from ..sessions import ANONYMOUS, Principal, Session, SessionManager
from .faults import JSON, answer_to
from .guards import Refused, check_accept, check_content_type, check_host, check_origin
from .settings import Settings
from .wire import HttpRequest, PayloadTooLarge, PeerGone, PeerTooSlow

__all__ = ["McpEndpoint"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Messages in one batch; each request in it is a call in flight.
MAX_BATCH = 64

SESSION_ID = b"mcp-session-id"
PROTOCOL_VERSION = b"mcp-protocol-version"

_JSON_HEADERS = (JSON,)
_STREAM_HEADERS = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
)


class McpEndpoint:
    """The endpoint, for any HTTP server that offers `HttpRequest`.

    Args:
        sessions: Who uses which child.
        settings: Guards and bounds.
    """

    def __init__(self, sessions: SessionManager, settings: Settings) -> None:
        self._sessions = sessions
        self._settings = settings

    async def serve(self, request: HttpRequest) -> None:
        """Answer one request, whatever is wrong with it."""
        message: Message | list[Message] | None = None
        try:
            self._guard(request)
            principal = ANONYMOUS
            if request.method == "POST":
                check_content_type(request)
                check_accept(request, b"application/json", b"text/event-stream")
                message = parse_body(await request.body(self._settings.max_body_bytes))
                if isinstance(message, list):
                    await self._batch(request, self._session(request, principal), message)
                else:
                    await self._post(request, principal, message)
            elif request.method == "GET":
                check_accept(request, b"text/event-stream")
                await self._get(request, self._session(request, principal))
            else:
                self._sessions.end(self._session(request, principal), "the client deleted it")
                await request.answer(200, ())
        except PeerGone:
            return
        except (BrokerError, Refused, PayloadTooLarge, PeerTooSlow) as exc:
            answer = answer_to(exc, message.id if isinstance(message, Request) else None)
            if isinstance(exc, SpawnError):
                logger.warning("server.start_failed", extra={"problem": str(exc)})
            await request.answer(answer.status, answer.headers, answer.body)

    def _guard(self, request: HttpRequest) -> None:
        check_host(request, self._settings.allowed_hosts)
        check_origin(request, self._settings.allowed_hosts, self._settings.allowed_origins)
        if request.method not in {"POST", "GET", "DELETE"}:
            raise Refused(
                405,
                f"expected POST, GET or DELETE, found {request.method}",
                ((b"allow", b"POST, GET, DELETE"),),
            )

    def _session(
        self, request: HttpRequest, principal: Principal, request_id: bytes | None = None
    ) -> Session:
        """Return the session that a request names, once its version header makes sense."""
        session_id = request.header(SESSION_ID)
        if session_id is None:
            _check_version(request, request_id)
            raise LocalProtocolError(
                "expected an Mcp-Session-Id header; `initialize` opens a session",
                code=INVALID_REQUEST,
                request_id=request_id,
            )
        session = self._sessions.find(principal, session_id.decode("latin-1"))
        # Some clients negotiate an older revision and then name the modern one in the same session
        # (field bug). The session and the body tell what they really speak.
        if request.header(PROTOCOL_VERSION) != MODERN_VERSION.encode():
            _check_version(request, request_id)
        return session

    async def _post(self, request: HttpRequest, principal: Principal, message: Message) -> None:
        if isinstance(message, Request):
            if message.method == "initialize":
                await self._initialize(request, principal, message)
                return
            session = self._session(request, principal, message.id)
            self._sessions.check_accepting()
            exchange = await _call(session.bridge, message)
            await self._answer(request, session.bridge, exchange, _JSON_HEADERS, _STREAM_HEADERS)
            return
        session = self._session(request, principal)
        await _tell(session.bridge, message)
        await request.answer(202, ())

    async def _batch(self, request: HttpRequest, session: Session, messages: list[Message]) -> None:
        """Pass on a batch in its order; answer its requests on one stream, each as it comes.

        Source: MCP 2025-03-26, basic/transports, "Sending Messages to the Server".
        """
        if session.agreement is None or not session.agreement.revision.batches:
            raise LocalProtocolError(
                "expected one JSON-RPC message, found a batch; send each message in a POST of its own",
                code=INVALID_REQUEST,
            )
        if len(messages) > MAX_BATCH:
            raise LocalProtocolError(
                f"expected a batch of {MAX_BATCH} messages or fewer, found {len(messages)}",
                code=INVALID_REQUEST,
            )
        self._sessions.check_accepting()
        with contextlib.ExitStack() as releases:
            exchanges = []
            for message in messages:
                if not isinstance(message, Request):
                    await _tell(session.bridge, message)
                elif message.method == "initialize":
                    raise LocalProtocolError("`initialize` must not be part of a batch", code=INVALID_REQUEST)
                else:
                    exchanges.append(await _call(session.bridge, message))
                    releases.callback(session.bridge.release, exchanges[-1])
            if not exchanges:
                await request.answer(202, ())
                return
            await request.start_stream(_STREAM_HEADERS)
            with contextlib.suppress(PeerGone):
                await _unless_gone(request, self._write_all(request, exchanges))

    async def _write_all(self, request: HttpRequest, exchanges: list[Exchange]) -> None:
        turn = asyncio.Lock()  # one event at a time
        async with asyncio.TaskGroup() as tasks:
            for exchange in exchanges:
                tasks.create_task(self._write(request, exchange, turn=turn))
        await request.end_stream()

    async def _initialize(self, request: HttpRequest, principal: Principal, message: Request) -> None:
        if request.header(SESSION_ID) is not None:
            raise LocalProtocolError(
                "expected `initialize` without an Mcp-Session-Id header; it opens a session of its own",
                code=INVALID_REQUEST,
            )
        _check_version(request, message.id)
        # A client that gives up waiting here would never learn the id of its session.
        opened = await _unless_gone(request, self._sessions.open(principal, message))
        extra = () if opened.session is None else ((SESSION_ID, opened.session.id.encode()),)
        await self._answer(
            request, opened.bridge, opened.exchange, (*_JSON_HEADERS, *extra), (*_STREAM_HEADERS, *extra)
        )

    async def _answer(
        self,
        request: HttpRequest,
        bridge: Bridge,
        exchange: Exchange,
        json_headers: tuple[tuple[bytes, bytes], ...],
        stream_headers: tuple[tuple[bytes, bytes], ...],
    ) -> None:
        """Answer a POST: JSON if the answer comes first, else a stream."""
        try:
            first = await exchange.receive(self._settings.keep_alive_interval)
            if first is not None and exchange.complete:
                await request.answer(200, json_headers, first)
            else:
                await request.start_stream(stream_headers)
                await self._stream(request, exchange, first)
        finally:
            bridge.release(exchange)

    async def _get(self, request: HttpRequest, session: Session) -> None:
        stream = session.bridge.listen()
        try:
            await request.start_stream(_STREAM_HEADERS)
            # Now, not with the first message: the client shall know that the stream is open.
            await self._stream(request, stream, None)
        finally:
            session.bridge.release(stream)

    async def _stream(self, request: HttpRequest, stream: MessageStream, first: bytes | None) -> None:
        """Write a stream's messages as events until it ends or the client goes.

        Args:
            request: Where to.
            stream: Whose messages.
            first: A message that was taken from it already; None sends a comment at once.
        """
        with contextlib.suppress(PeerGone):
            await _unless_gone(request, self._write_one(request, stream, first))

    async def _write_one(self, request: HttpRequest, stream: MessageStream, first: bytes | None) -> None:
        await request.write(KEEP_ALIVE if first is None else encode_event(first))
        if await self._write(request, stream, turn=contextlib.nullcontext()):
            await request.end_stream()

    async def _write(
        self,
        request: HttpRequest,
        stream: MessageStream,
        *,
        turn: contextlib.AbstractAsyncContextManager[object],
    ) -> bool:
        """Write messages until the stream ends; return whether the client kept up.

        Args:
            request: Where to.
            stream: Whose messages.
            turn: Held while writing.
        """
        try:
            while not (isinstance(stream, Exchange) and stream.complete):
                message = await stream.receive(self._settings.keep_alive_interval)
                async with turn:
                    await request.write(KEEP_ALIVE if message is None else encode_event(message))
        except StreamEnded:
            if stream.cut:
                logger.warning("client.stream_cut")
        except PeerTooSlow:
            logger.warning("client.too_slow")
            return False
        return True


def _check_version(request: HttpRequest, request_id: bytes | None) -> None:
    """Refuse a version header that names a revision we do not speak; a missing one is 2025-03-26."""
    value = request.header(PROTOCOL_VERSION)
    if value is None or value.decode("latin-1") in REVISIONS:
        return
    requested = value.decode("latin-1")
    data = msgspec.json.encode({"supported": KNOWN_VERSIONS, "requested": requested})
    raise LocalProtocolError(
        f"expected MCP-Protocol-Version to be one of {', '.join(KNOWN_VERSIONS)}, found {requested!r}",
        code=UNSUPPORTED_PROTOCOL_VERSION,
        request_id=request_id,
        data=data,
    )


async def _call(bridge: Bridge, message: Request) -> Exchange:
    try:
        return await bridge.call(message)
    except (ChildGone, BridgeBroken):
        # The child is being stopped, or has just ended: so has the session.
        raise SessionNotFound from None


async def _tell(bridge: Bridge, message: Notification | Response) -> None:
    try:
        if isinstance(message, Notification):
            await bridge.notify(message)
        else:
            await bridge.reply(message)
    except ChildGone:
        raise SessionNotFound from None  # see above


async def _unless_gone(request: HttpRequest, work: Coroutine[None, None, Result]) -> Result:
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
