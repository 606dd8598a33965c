"""The MCP endpoint: Streamable HTTP, revisions 2025-03-26 to 2025-11-25, one path.

    POST    one JSON-RPC message in; its answer as JSON if the answer is the first thing that comes,
            as a stream as soon as anything else does, or when the keep-alive falls due
    GET     what the server says of its own accord, as a stream
    DELETE  end of the session

It knows HTTP and which message goes where; it never looks inside one.
Source: MCP 2025-11-25, basic/transports, "Streamable HTTP".
"""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterator
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
        message: Message | None = None
        try:
            self._guard(request)
            principal = ANONYMOUS
            if request.method == "POST":
                check_content_type(request)
                check_accept(request, b"application/json", b"text/event-stream")
                message = parse_body(await request.body(self._settings.max_body_bytes))
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
            exchange = await self._call(session, message)
            await self._answer(request, session.bridge, exchange, _JSON_HEADERS, _STREAM_HEADERS)
            return
        session = self._session(request, principal)
        with _session_found():
            if isinstance(message, Notification):
                await session.bridge.notify(message)
            else:
                await session.bridge.reply(message)
        await request.answer(202, ())

    @staticmethod
    async def _call(session: Session, message: Request) -> Exchange:
        with _session_found():
            return await session.bridge.call(message)

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
        except StreamEnded:
            # Cut before anything was sent: more arrived at once than a stream may hold.
            raise Refused(500, "the server sent more than the broker holds for one request") from None
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
        """Write a stream's messages as events until it ends or the client goes."""
        with contextlib.suppress(PeerGone):
            await _unless_gone(request, self._write(request, stream, first))

    async def _write(self, request: HttpRequest, stream: MessageStream, message: bytes | None) -> None:
        try:
            while True:
                await request.write(KEEP_ALIVE if message is None else encode_event(message))
                if isinstance(stream, Exchange) and stream.complete:
                    break
                message = await stream.receive(self._settings.keep_alive_interval)
        except StreamEnded:
            pass
        except PeerTooSlow:
            logger.warning("client.too_slow")
            return
        if stream.cut:
            logger.warning("client.stream_cut")
        await request.end_stream()


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


@contextlib.contextmanager
def _session_found() -> Iterator[None]:
    """A child that is being stopped, or has just ended, is a session that has ended."""
    try:
        yield
    except (ChildGone, BridgeBroken):
        raise SessionNotFound from None


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
