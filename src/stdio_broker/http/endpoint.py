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

from ..bridge import EventsLost, Exchange, MessageStream, in_turns
from ..errors import (
    BrokerError,
    LocalProtocolError,
)
from ..protocol.decoding import SMALL_BYTES
from ..protocol.inbound import era_of, names_version
from ..protocol.jsonrpc import (
    INVALID_REQUEST,
    Message,
    Request,
    parse_body,
    parse_body_in_steps,
)
from ..protocol.revisions import MODERN_VERSION, REVISIONS, Era
from ..sessions import Principal, Session, SessionBridge, SessionManager
from . import passing
from .batches import check_batch
from .cors import allow_page, answer_preflight, is_preflight
from .gate import Gate
from .guards import Refused, check_accept, check_content_type, check_host, check_origin
from .modern import ModernEndpoint, unsupported_version
from .patience import Patience
from .presence import WhileThere
from .reports import answer_fault
from .settings import Settings
from .silent_call import SessionCall, knows_priming
from .streaming import answer_exchange, stream_exchanges, stream_messages
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
        self._patience = Patience(settings.keep_alive_interval)
        self._modern = ModernEndpoint(sessions.leases, sessions.quotas, settings, self._patience)

    def serve(self, request: HttpRequest) -> None:
        """Answer one request, whatever is wrong with it.

        A call of somebody known, in a session with a living child, is passed on here and now, and its answer
        is written when it comes: no task is made for it. Everything else is done in one.
        """
        message, principal = None, None
        body = request.whole_body
        if body is not None and request.head.method == "POST" and len(body) <= self._settings.max_body_bytes:
            principal = self._gate.recognise(request)
        if principal is None or body is None:
            request.go_on(self._serve(request))
            return
        try:
            head = request.head.known
            if not isinstance(head, _KnownHead) or head.endpoint is not self:
                head = self._check_head(request)
            message = parse_body(body)
            passed_on = self._pass_on(request, head, principal, message)
        except (BrokerError, Refused) as exc:
            answer_fault(request, exc, message.id if isinstance(message, Request) else None)
            return
        if not passed_on:
            request.go_on(self._posted(request, message))

    def _check_head(self, request: HttpRequest) -> "_KnownHead":
        """Check what the head of a POST alone decides; keep with it what is known, if it is good."""
        self._guard(request)
        check_content_type(request)
        check_accept(request, b"application/json", b"text/event-stream")
        known = _KnownHead(self, request.header(SESSION_ID), request.header(PROTOCOL_VERSION))
        if request.header(b"origin") is None:  # the answer to a page needs header fields, each time
            request.head.known = known
        return known

    def _pass_on(
        self, request: HttpRequest, head: "_KnownHead", principal: Principal, message: Message | list[Message]
    ) -> bool:
        """Pass on a request, if that needs no waiting; False if it does, or this is none."""
        if not isinstance(message, Request):
            return False
        if (not head.is_legacy and head.session_id is None) or names_version(message):
            return self._modern.pass_on(request, principal, message)
        if not head.is_legacy or head.session_id is None or message.method == "initialize":
            return False
        if self._settings.poll_interval is not None:
            return False
        session = self._sessions.find(principal, head.session_id)
        self._sessions.check_accepting()
        self._sessions.quotas.enter(session.share)
        exchange = None
        try:
            exchange = session.bridge.call_nowait(message)
        finally:
            if exchange is None:
                self._sessions.quotas.leave(session.share)
        if exchange is None:
            return False
        request.charge_to(session.budget)
        request.release_body()
        call = SessionCall(
            request,
            exchange,
            self._patience,
            session=session,
            quotas=self._sessions.quotas,
            settings=self._settings,
        )
        call.begin()
        return True

    async def _serve(self, request: HttpRequest) -> None:
        """Answer a request that has to be waited for, or is no call."""
        try:
            self._guard(request)
            if is_preflight(request):  # a browser sends none of what it will send
                answer_preflight(request)
                return
            principal = await self._gate.admit(request)
            request.charge_to(self._sessions.quotas.budget(principal))
            _check_method(request)  # not before: to strangers all paths look alike
            if request.method == "GET":
                check_accept(request, b"text/event-stream")
                await self._get(request, self._session(request, principal))
            elif request.method == "DELETE":
                self._sessions.end(self._session(request, principal), "the client deleted it")
                request.answer(200, ())
            else:
                check_content_type(request)
                check_accept(request, b"application/json", b"text/event-stream")
                await self._posted(
                    # A long argument must not stay in memory until the answer: nobody else has it.
                    request,
                    await _parse(await request.body(self._settings.max_body_bytes)),
                )
        except PeerGone:
            return
        except (BrokerError, Refused, PayloadTooLarge) as exc:
            answer_fault(request, exc, None)
        finally:
            request.release_body()

    async def _posted(self, request: HttpRequest, message: Message | list[Message]) -> None:
        """Answer a POST, whatever is wrong with its message."""
        request_id = message.id if isinstance(message, Request) else None
        try:
            # Again: the body may have taken longer to come than a key is good for, and a task to begin.
            principal = await self._gate.admit(request)
            request.charge_to(self._sessions.quotas.budget(principal))
            if self._era(request, principal, message) is Era.MODERN:
                answering = self._modern.serve(request, principal, message)
            else:
                answering = self._post(request, principal, message)
            del message  # as above
            await self._counted(principal, answering)
        except PeerGone:
            return
        except (BrokerError, Refused) as exc:
            answer_fault(request, exc, request_id)
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
            await passing.tell(self._sessions, self._session(request, principal), message)
            request.answer(202, ())
        elif message.method == "initialize":
            await self._initialize(request, principal, message)
        else:
            session = self._session(request, principal)
            self._sessions.check_accepting()
            exchange = await passing.call(self._sessions, session, message)
            del message  # see above
            request.release_body()
            await self._answer(request, session.bridge, exchange, priming=knows_priming(session))

    async def _initialize(self, request: HttpRequest, principal: Principal, message: Request) -> None:
        if request.header(SESSION_ID) is not None:
            raise LocalProtocolError(
                "expected `initialize` without an Mcp-Session-Id header; it opens a session of its own",
                code=INVALID_REQUEST,
            )
        _check_version(request)
        # A client that gives up waiting here would never learn the id of its session.
        async with WhileThere(request):
            # Again, in the step of the loop in which the session is made: whoever is revoked later is found
            # by it.
            await self._gate.admit(request)
            opened = await self._sessions.open(principal, message)
        headers = () if opened.session is None else ((SESSION_ID, opened.session.id.encode()),)
        priming = knows_priming(opened.session)
        await self._answer(request, opened.bridge, opened.exchange, headers, priming=priming)

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
                    exchanges.append(await passing.call(self._sessions, session, message))
                    releases.callback(session.bridge.release, exchanges[-1])
                else:
                    await passing.tell(self._sessions, session, message)
            if exchanges:
                await stream_exchanges(request, exchanges, keep_alive=self._settings.keep_alive_interval)
            else:
                request.answer(202, ())

    async def _get(self, request: HttpRequest, session: Session) -> None:
        stream = _stream_for(request, session)
        try:
            await stream_messages(
                request,
                stream,
                settings=self._settings,
                priming=knows_priming(session),
                suspend=session.bridge.suspend,
            )
        finally:
            session.bridge.release(stream)


class _KnownHead:
    """What an endpoint knows of the head of a POST that is good, once and for all its requests.

    Attributes:
        endpoint: Whose.
        session_id: The session that it names, or None.
        is_legacy: Whether it names a legacy revision, or none.
    """

    __slots__ = ("endpoint", "is_legacy", "session_id")

    def __init__(self, endpoint: McpEndpoint, session_id: bytes | None, version: bytes | None) -> None:
        self.endpoint = endpoint
        self.session_id = None if session_id is None else session_id.decode("latin-1")
        self.is_legacy = version is None or version.decode("latin-1") in REVISIONS


async def _parse(body: bytes) -> Message | list[Message]:
    """Parse a body; if it is long, with turns for everybody else in between."""
    if len(body) <= SMALL_BYTES:
        return parse_body(body)
    steps = parse_body_in_steps(body)
    del body  # the message has its parts of it
    return await in_turns(steps)


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
