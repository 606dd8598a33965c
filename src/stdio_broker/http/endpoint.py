"""The MCP endpoint: Streamable HTTP, revisions 2025-03-26 to 2025-11-25, one path.

    POST    one JSON-RPC message in (2025-03-26: or a batch); its answer as JSON if the answer is the
            first thing that comes, as a stream as soon as anything else does, or when the keep-alive
            falls due
    GET     what the server says of its own accord, as a stream
    DELETE  end of the session

It knows HTTP and which message goes where; it never looks inside one.
Source: MCP 2025-11-25, basic/transports, "Streamable HTTP".
"""

import contextlib
from collections.abc import Coroutine

from ..bridge import EventsLost, Exchange, MessageStream
from ..errors import (
    BrokerError,
    LocalProtocolError,
)
from ..protocol.inbound import era_of
from ..protocol.jsonrpc import (
    INVALID_REQUEST,
    Message,
    Request,
    parse_body,
)
from ..protocol.revisions import MODERN_VERSION, REVISIONS, Era
from ..sessions import Opened, Principal, Session, SessionBridge, SessionManager
from .batches import check_batch
from .cors import allow_page, answer_preflight, is_preflight
from .gate import Gate
from .guards import Refused, check_accept, check_content_type, check_host, check_origin
from .modern import ModernEndpoint, unsupported_version
from .passing import call, tell
from .reports import answer_fault
from .settings import Settings
from .streaming import answer_exchange, stream_exchanges, stream_messages, unless_gone
from .wire import Headers, HttpRequest, PayloadTooLarge, PeerGone

__all__ = ["McpEndpoint"]

LAST_EVENT_ID = b"last-event-id"
SESSION_ID = b"mcp-session-id"
PROTOCOL_VERSION = b"mcp-protocol-version"

#: 404 ends a session, for a client that keeps to the specification: what it missed may be an answer or
#: a question, and nobody can tell it which (MCP 2025-11-25, basic/transports, "Session Management").
STREAM_LOST = (
    "the stream cannot be resumed at this Last-Event-ID: it is unknown or over, or what followed the event "
    "is not kept any more; send `initialize` to open a new session"
)

_MODERN = MODERN_VERSION.encode()


class McpEndpoint:
    """The endpoint, for any HTTP server that offers `HttpRequest`.

    Args:
        sessions: Who uses which child.
        settings: Guards and bounds.
        gate: Who may use it.
    """

    def __init__(self, sessions: SessionManager, settings: Settings, gate: Gate) -> None:
        self._gate = gate
        self._sessions = sessions
        self._settings = settings
        self._modern = ModernEndpoint(sessions.leases, settings)

    async def serve(self, request: HttpRequest) -> None:
        """Answer one request, whatever is wrong with it."""
        request_id: bytes | None = None
        try:
            self._guard(request)
            if is_preflight(request):  # a browser sends none of what it will send
                await answer_preflight(request)
                return
            principal = await self._gate.admit(request)
            request.charge_to(self._sessions.quotas.budget(principal))
            _check_method(request)  # not before: to strangers all paths look alike
            if request.method == "POST":
                check_content_type(request)
                check_accept(request, b"application/json", b"text/event-stream")
                message = parse_body(await request.body(self._settings.max_body_bytes))
                await self._gate.admit(request)  # a body may take longer to come than a key is good for
                if isinstance(message, Request):
                    request_id = message.id
                if self._era(request, principal, message) is Era.MODERN:
                    posted = self._modern.serve(request, principal, message)
                else:
                    posted = self._post(request, principal, message)
                # A long argument must not stay in memory until the answer: nobody but `_post` has it.
                del message
                await self._counted(principal, posted)
            elif request.method == "GET":
                check_accept(request, b"text/event-stream")
                await self._get(request, self._session(request, principal))
            else:
                self._sessions.end(self._session(request, principal), "the client deleted it")
                await request.answer(200, ())
        except PeerGone:
            return
        except (BrokerError, Refused, PayloadTooLarge) as exc:
            await answer_fault(request, exc, request_id)
        finally:
            request.release_body()

    async def _counted(self, principal: Principal, posted: Coroutine[None, None, None]) -> None:
        """Answer a POST, as one of those that its principal has in flight."""
        quotas = self._sessions.quotas
        try:
            quotas.enter_call(principal)
        except BrokerError:
            posted.close()
            raise
        try:
            await posted
        finally:
            quotas.leave_call(principal)

    def _guard(self, request: HttpRequest) -> None:
        check_host(request, self._settings.allowed_hosts)
        check_origin(request, self._settings.allowed_hosts, self._settings.allowed_origins)
        allow_page(request)

    def _era(self, request: HttpRequest, principal: Principal, message: Message | list[Message]) -> Era:
        version = request.header(PROTOCOL_VERSION)
        return era_of(
            message,
            None if version is None else version.decode("latin-1"),
            in_session=version == _MODERN and self._is_in_session(request, principal),
        )

    def _is_in_session(self, request: HttpRequest, principal: Principal) -> bool:
        session_id = request.header(SESSION_ID)
        return session_id is not None and self._sessions.has(principal, session_id.decode("latin-1"))

    def _session(self, request: HttpRequest, principal: Principal) -> Session:
        """Return the session that a request names, once its version header makes sense."""
        session_id = request.header(SESSION_ID)
        if request.header(PROTOCOL_VERSION) == _MODERN and not self._is_in_session(request, principal):
            # Only GET and DELETE come here. MCP 2026-07-28, basic/transports/streamable-http, "Earlier
            # Streamable HTTP Revisions".
            raise Refused(405, f"MCP {MODERN_VERSION} has no {request.method}", ((b"allow", b"POST"),))
        if session_id is None:
            _check_version(request)
            raise LocalProtocolError(
                "expected an Mcp-Session-Id header; `initialize` opens a session", code=INVALID_REQUEST
            )
        session = self._sessions.find(principal, session_id.decode("latin-1"))
        # Some clients negotiate an older revision and then name the modern one in the same session
        # (field bug). The session and the body tell what they really speak.
        if request.header(PROTOCOL_VERSION) != _MODERN:
            _check_version(request)
        return session

    async def _post(
        self, request: HttpRequest, principal: Principal, message: Message | list[Message]
    ) -> None:
        if isinstance(message, list):
            await self._batch(request, self._session(request, principal), message)
        elif not isinstance(message, Request):
            await tell(self._sessions, self._session(request, principal), message)
            await request.answer(202, ())
        elif message.method == "initialize":
            await self._initialize(request, principal, message)
        else:
            session = self._session(request, principal)
            self._sessions.check_accepting()
            exchange = await call(self._sessions, session, message)
            del message  # see above
            request.release_body()
            await self._answer(request, session.bridge, exchange, priming=_knows_priming(session))

    async def _initialize(self, request: HttpRequest, principal: Principal, message: Request) -> None:
        if request.header(SESSION_ID) is not None:
            raise LocalProtocolError(
                "expected `initialize` without an Mcp-Session-Id header; it opens a session of its own",
                code=INVALID_REQUEST,
            )
        _check_version(request)
        # A client that gives up waiting here would never learn the id of its session.
        opened = await unless_gone(request, self._open(request, principal, message))
        headers = () if opened.session is None else ((SESSION_ID, opened.session.id.encode()),)
        priming = _knows_priming(opened.session)
        await self._answer(request, opened.bridge, opened.exchange, headers, priming=priming)

    async def _open(self, request: HttpRequest, principal: Principal, message: Request) -> Opened:
        # In the step of the loop in which the session is made: whoever is revoked later is found by it.
        await self._gate.admit(request)
        return await self._sessions.open(principal, message)

    async def _answer(
        self,
        request: HttpRequest,
        bridge: SessionBridge,
        exchange: Exchange,
        headers: Headers = (),
        *,
        priming: bool,
    ) -> None:
        try:
            await answer_exchange(
                request, exchange, headers, settings=self._settings, priming=priming, suspend=bridge.suspend
            )
        finally:
            bridge.release(exchange)

    async def _batch(self, request: HttpRequest, session: Session, messages: list[Message]) -> None:
        """Pass on a batch in its order; answer its requests on one stream, each as it comes.

        Source: MCP 2025-03-26, basic/transports, "Sending Messages to the Server".
        """
        check_batch(session, messages)
        self._sessions.check_accepting()
        with contextlib.ExitStack() as releases:
            # The first one is counted with the POST. Before any is sent: half a batch would help nobody.
            for _ in range(sum(isinstance(message, Request) for message in messages) - 1):
                self._sessions.quotas.enter_call(session.principal)
                releases.callback(self._sessions.quotas.leave_call, session.principal)
            exchanges = []
            for message in messages:
                if isinstance(message, Request):
                    exchanges.append(await call(self._sessions, session, message))
                    releases.callback(session.bridge.release, exchanges[-1])
                else:
                    await tell(self._sessions, session, message)
            if exchanges:
                await stream_exchanges(request, exchanges, keep_alive=self._settings.keep_alive_interval)
            else:
                await request.answer(202, ())

    async def _get(self, request: HttpRequest, session: Session) -> None:
        stream = _stream_for(request, session)
        try:
            await stream_messages(
                request,
                stream,
                settings=self._settings,
                priming=_knows_priming(session),
                suspend=session.bridge.suspend,
            )
        finally:
            session.bridge.release(stream)


def _check_method(request: HttpRequest) -> None:
    if request.method not in {"POST", "GET", "DELETE"}:
        raise Refused(
            405,
            f"expected POST, GET or DELETE, found {request.method}",
            ((b"allow", b"POST, GET, DELETE"),),
        )


def _check_version(request: HttpRequest) -> None:
    """Refuse a version header that names a revision we do not speak; a missing one is 2025-03-26."""
    value = request.header(PROTOCOL_VERSION)
    if value is None or value.decode("latin-1") in REVISIONS:
        return
    raise unsupported_version(value.decode("latin-1"))


def _knows_priming(session: Session | None) -> bool:
    return session is not None and session.agreement is not None and session.agreement.revision.priming


def _stream_for(request: HttpRequest, session: Session) -> MessageStream:
    """Return the stream that a GET asks for: the session's own, or one that the client has lost.

    Raises:
        LocalProtocolError: Its Last-Event-ID is no id of an event.
        Refused: That stream cannot be resumed there.
    """
    event_id = request.header(LAST_EVENT_ID)
    if not event_id:
        return session.bridge.listen()
    try:
        return session.bridge.resume(event_id)
    except EventsLost:
        raise Refused(404, STREAM_LOST) from None
