"""The HTTP+SSE transport of MCP 2024-11-05, beside the endpoint: deprecated, and off unless asked for.

    GET  …/sse                      one stream for everything the server says; its first event tells
                                    where to POST
    POST …/messages?session_id=…    one JSON-RPC message in, 202 out; the answer comes on the stream

The stream is the client's session: `initialize` opens one of ours behind it, which ends with it. The
`session_id` names the stream, not our session; it is as secret, and nobody else's requests reach it.

Source: MCP 2024-11-05, basic/transports, "HTTP with SSE".
"""

import asyncio
import secrets
from urllib.parse import parse_qs

from ..bridge import Exchange
from ..errors import BrokerError, LimitReached, LocalProtocolError, SessionNotFound, TooManyRequests
from ..protocol.jsonrpc import INVALID_REQUEST, Message, Request, parse_body
from ..protocol.sse import encode_event
from ..sessions import Principal, Session, SessionBridge, SessionManager
from .batches import check_batch
from .cors import allow_page, answer_preflight, is_preflight
from .faults import answer_to
from .gate import Gate
from .guards import Refused, check_accept, check_content_type, check_host, check_origin
from .passing import call, tell
from .reports import answer_fault, report
from .settings import Settings
from .streaming import STREAM_HEADERS, see_through, write_messages
from .wire import HttpRequest, PayloadTooLarge, PeerGone

__all__ = ["SseTransport"]

#: Streams whose client has not sent `initialize` yet, and those of them that are one principal's. They cost
#: no child, so nothing else bounds them; it takes more than three principals to keep the others out.
MAX_WAITING, MAX_WAITING_EACH = 256, 64

#: Calls of one stream that are not answered to the last byte. A POST of this transport is over at once,
#: so nothing else bounds the answers to a client that does not read; as many as a session has in flight.
MAX_CALLS = 256

#: Bytes of answers and what came before them that wait for a client, past which it gets no new call. As
#: many as may wait on any other stream.
MAX_WAITING_BYTES = 4 * 1024 * 1024

#: Seconds between two looks at whether a client that has not sent `initialize` yet may still do so.
#: Below the time that the server gives to open answers when it closes.
DRAIN_CHECK_INTERVAL = 1.0


class SseTransport:
    """The two paths, for any HTTP server that offers `HttpRequest`.

    Args:
        sessions: Who uses which child.
        settings: Guards and bounds. The paths are siblings of the endpoint's.
        gate: Who may use it.
    """

    def __init__(self, sessions: SessionManager, settings: Settings, gate: Gate) -> None:
        self._gate = gate
        folder = settings.path.rpartition("/")[0]
        self._methods = {f"{folder}/sse": "GET", f"{folder}/messages": "POST"}
        self._messages_path = f"{folder}/messages"
        self._sessions = sessions
        self._settings = settings
        self._connections: dict[str, _Connection] = {}

    @property
    def paths(self) -> tuple[str, ...]:
        """What it serves."""
        return tuple(self._methods)

    async def serve(self, request: HttpRequest) -> None:
        """Answer one request to a path of ours, whatever is wrong with it."""
        request_id: bytes | None = None
        try:
            self._guard(request)
            if is_preflight(request):
                answer_preflight(request)
                return
            principal = await self._gate.admit(request)
            request.charge_to(self._sessions.quotas.budget(principal))
            self._check_method(request)  # not before: to strangers all paths look alike
            if request.method == "GET":
                check_accept(request, b"text/event-stream")
                await self._stream(request, principal)
            else:
                check_content_type(request)
                connection = self._find(request.head.query, principal)
                message = parse_body(await request.body(self._settings.max_body_bytes))
                await self._gate.admit(request)  # a body may take longer to come than a key is good for
                if isinstance(message, Request):
                    request_id = message.id
                await self._post(connection, message)
                request.answer(202, ())
        except PeerGone:
            return
        except (BrokerError, Refused, PayloadTooLarge) as exc:
            answer_fault(request, exc, request_id)
        finally:
            request.release_body()

    def _guard(self, request: HttpRequest) -> None:
        check_host(request, self._settings.allowed_hosts)
        check_origin(request, self._settings.allowed_hosts, self._settings.allowed_origins)
        allow_page(request)

    def _check_method(self, request: HttpRequest) -> None:
        method = self._methods[request.path]
        if request.method != method:
            raise Refused(405, f"expected {method}, found {request.method}", ((b"allow", method.encode()),))

    def _find(self, query: bytes, principal: Principal) -> "_Connection":
        """Return the stream that a POST belongs to; one of somebody else's looks like an unknown one."""
        ids = parse_qs(query.decode("latin-1")).get("session_id", [])
        connection = self._connections.get(ids[0]) if len(ids) == 1 else None
        if connection is None or connection.principal != principal:
            raise SessionNotFound
        return connection

    # The stream.

    async def _stream(self, request: HttpRequest, principal: Principal) -> None:
        self._sessions.check_accepting()
        self._check_waiting(principal)
        name = secrets.token_urlsafe(24)
        connection = self._connections[name] = _Connection(request, principal, self._settings)
        try:
            request.start_stream(STREAM_HEADERS)
            await see_through(request, self._live(connection, f"{self._messages_path}?session_id={name}"))
        finally:
            del self._connections[name]
            if connection.session is not None:
                self._sessions.end(connection.session, "the client's stream is gone")

    def _check_waiting(self, principal: Principal) -> None:
        """Let another stream through, or refuse it.

        Raises:
            TooManyRequests: Too many clients of this principal have not sent `initialize` yet.
            LimitReached: Too many of all have not.
        """
        waiting = [one.principal for one in self._connections.values() if one.session is None]
        if len(waiting) >= MAX_WAITING:
            raise LimitReached(f"{MAX_WAITING} clients have not sent `initialize` yet", retry_after=1.0)
        if waiting.count(principal) >= MAX_WAITING_EACH:
            raise TooManyRequests(
                f"{MAX_WAITING_EACH} clients of yours have not sent `initialize` yet", retry_after=1.0
            )

    async def _live(self, connection: "_Connection", uri: str) -> None:
        """Write everything that the server says, from the first event to the last answer."""
        await connection.write(encode_event(uri.encode(), kind=b"endpoint"))
        async with asyncio.TaskGroup() as tasks:
            connection.tasks = tasks
            try:
                session = await self._open(connection)
                if session is not None:
                    await connection.listen(session.bridge)
            finally:
                connection.tasks = None
        connection.request.end_stream()

    async def _open(self, connection: "_Connection") -> Session | None:
        """Open a session, however many tries its client needs; None if it does not even try."""
        while connection.session is None:
            request = await self._wait_initialize(connection)
            # Again, in the step in which the session is made: whoever is revoked later is found by it.
            if request is None or not await self._gate.admits(connection.request):
                return None
            try:
                opened = await self._sessions.open(connection.principal, request)
            except BrokerError as exc:
                answer = answer_to(exc, request.id)
                report(exc, answer.status, connection.request.path)
                await connection.write(encode_event(answer.body))
                continue
            connection.session = opened.session
            await connection.relay(opened.bridge, opened.exchange)
        return connection.session

    async def _wait_initialize(self, connection: "_Connection") -> Request | None:
        loop = asyncio.get_running_loop()
        connection.initialize = loop.create_future()
        give_up_at = loop.time() + self._settings.receive_timeout
        while not connection.initialize.done():
            if loop.time() >= give_up_at or self._sessions.statistics().draining:
                return None
            if not await self._gate.admits(connection.request):
                return None
            await asyncio.wait({connection.initialize}, timeout=DRAIN_CHECK_INTERVAL)
        request = connection.initialize.result()
        connection.initialize = None  # its params need not be kept as long as the stream
        return request

    # The messages.

    async def _post(self, connection: "_Connection", message: Message | list[Message]) -> None:
        if isinstance(message, list):
            check_batch(connection.session, message)
            for part in message:
                await self._take(connection, part)
        elif isinstance(message, Request) and message.method == "initialize":
            self._sessions.check_accepting()
            connection.take_initialize(message)
        else:
            await self._take(connection, message)

    async def _take(self, connection: "_Connection", message: Message) -> None:
        if connection.session is None:
            raise LocalProtocolError(
                "expected `initialize` first; it opens the session", code=INVALID_REQUEST
            )
        session = self._sessions.find(connection.principal, connection.session.id)
        if isinstance(message, Request):
            self._sessions.check_accepting()
            connection.check_room()
            await self._call(connection, session, message)
        else:
            await tell(self._sessions, session, message)

    async def _call(self, connection: "_Connection", session: Session, message: Request) -> None:
        """Pass a call on, which is in flight until its answer is written: its POST is over long before."""
        quotas = self._sessions.quotas
        quotas.enter_call(session.principal)
        try:
            exchange = await call(self._sessions, session, message)
            writing = connection.answer(session.bridge, exchange)
        except BaseException:
            quotas.leave_call(session.principal)
            raise
        writing.add_done_callback(lambda _: quotas.leave_call(session.principal))


class _Connection:
    """One client's stream, and what is written to it.

    Attributes:
        request: The GET, whose answer is the stream.
        principal: Whose it is.
        session: What its `initialize` has opened, or None.
        initialize: Waits for it; None if none is expected.
        tasks: Writes answers; None once nothing new may be written.
    """

    __slots__ = (
        "_exchanges",
        "_keep_alive",
        "_turn",
        "initialize",
        "principal",
        "request",
        "session",
        "tasks",
    )

    def __init__(self, request: HttpRequest, principal: Principal, settings: Settings) -> None:
        self.request = request
        self.principal = principal
        self.session: Session | None = None
        self.initialize: asyncio.Future[Request] | None = None
        self.tasks: asyncio.TaskGroup | None = None
        self._exchanges: set[Exchange] = set()
        self._keep_alive = settings.keep_alive_interval
        self._turn = asyncio.Lock()

    def take_initialize(self, request: Request) -> None:
        """Take the message that opens the session.

        Raises:
            LocalProtocolError: It came already.
        """
        if self.initialize is None or self.initialize.done():
            raise LocalProtocolError("`initialize` was sent already", code=INVALID_REQUEST)
        self.initialize.set_result(request)

    def check_room(self) -> None:
        """Let another call through, or refuse it.

        Raises:
            LimitReached: Too much waits for the client already.
        """
        if (
            len(self._exchanges) >= MAX_CALLS
            or sum(exchange.waiting_bytes for exchange in self._exchanges) > MAX_WAITING_BYTES
        ):
            raise LimitReached("too many answers wait for this client to read them", retry_after=1.0)

    async def write(self, event: bytes) -> None:
        """Write an event, in its turn."""
        async with self._turn:
            await self.request.write(event)

    async def listen(self, bridge: SessionBridge) -> None:
        """Write what the server says of its own accord, until the session ends."""
        stream = bridge.listen()
        try:
            await write_messages(self.request, stream, self._keep_alive, self._turn)
        finally:
            bridge.release(stream)

    def answer(self, bridge: SessionBridge, exchange: Exchange) -> asyncio.Task[None]:
        """Write what comes of a call, beside everything else; return the task that does.

        Raises:
            SessionNotFound: The stream is gone.
        """
        if self.tasks is None:
            bridge.release(exchange)
            raise SessionNotFound
        self._exchanges.add(exchange)
        return self.tasks.create_task(self.relay(bridge, exchange))

    async def relay(self, bridge: SessionBridge, exchange: Exchange) -> None:
        """Write what comes of a call, to its answer."""
        try:
            await write_messages(self.request, exchange, self._keep_alive, self._turn)
        except BaseException:
            self.tasks = None  # this ends all of them, and the group must not be asked for another one
            raise
        finally:
            self._exchanges.discard(exchange)
            bridge.release(exchange)
