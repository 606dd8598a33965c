"""The MCP endpoint for revision 2026-07-28: every POST by itself, no sessions.

    POST    one request in; its answer as JSON if that comes first, else as a stream that ends with it.
            A client that closes the stream cancels the request
    GET, DELETE   405

Checks come in this order: what stands twice, `_meta`, headers against body, the version, the method,
and last the headers that mirror arguments, which take the child's word for which they are.

Source: MCP 2026-07-28, basic/transports/streamable-http; protocol matrix, sections 6.1, 8 and 9.
"""

import contextlib
import logging
from collections.abc import Sequence

import msgspec

from ..bridge import SharedExchange, StreamEnded
from ..errors import LocalProtocolError
from ..protocol.headers import check_no_duplicates, check_standard_headers, repeat_plainly
from ..protocol.jsonrpc import (
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    UNSUPPORTED_PROTOCOL_VERSION,
    Message,
    Notification,
    Request,
)
from ..protocol.modern import MAY_ASK, REMOVED_METHODS, ModernRequest, has_modern_meta, read_request
from ..protocol.revisions import MODERN_VERSIONS, SUPPORTED_VERSIONS
from ..protocol.sse import KEEP_ALIVE, encode_event
from ..sessions import Leases, Principal, Quotas
from ..sessions.quotas import Share
from .faults import CODE_STATUS
from .patience import Patience
from .presence import WhileThere
from .settings import Settings
from .silent_call import JSON_HEADERS, SilentCall
from .streaming import STREAM_HEADERS
from .wire import HttpRequest, PeerGone, PeerTooSlow

__all__ = ["ModernEndpoint", "unsupported_version"]

logger = logging.getLogger(__name__)


class ModernEndpoint:
    """What answers modern requests, once the guards have let them through.

    Args:
        leases: Whose child answers.
        quotas: Count the calls in flight.
        settings: Bounds.
        patience: Says when a client that waits must see that we are there.
    """

    def __init__(self, leases: Leases, quotas: Quotas, settings: Settings, patience: Patience) -> None:
        self._leases = leases
        self._quotas = quotas
        self._settings = settings
        self._patience = patience

    def pass_on(self, request: HttpRequest, principal: Principal, message: Request) -> bool:
        """Pass on a request to a child that runs, if that needs no waiting; False if it does.

        Raises:
            BrokerError: What is wrong with it.
        """
        modern = _read(request, message)
        share = self._quotas.enter_call(principal)
        exchange = None
        try:
            exchange = self._leases.call_nowait(principal, modern, request.fields)
        finally:
            if exchange is None:
                self._quotas.leave(share)
        if exchange is None:
            return False
        request.charge_to(exchange.budget)  # the principal's, as the child is
        request.release_body()
        call = _SharedCall(
            request,
            exchange,
            self._patience,
            keep_alive=self._settings.keep_alive_interval,
            quotas=self._quotas,
            share=share,
        )
        call.begin()
        return True

    async def serve(
        self, request: HttpRequest, principal: Principal, message: Message | list[Message]
    ) -> None:
        """Answer one POST.

        Raises:
            BrokerError: What is wrong with it, or with the server.
            PeerGone: The client went before there was an answer.
        """
        if isinstance(message, Notification):
            # No notification of a client means anything in this revision over HTTP.
            request.answer(202, ())
            return
        if not isinstance(message, Request):
            raise LocalProtocolError(
                "expected one JSON-RPC request, found a batch or a response", code=INVALID_REQUEST
            )
        calling = self._call(request, principal, _read(request, message))
        # A long argument must not stay in memory until the answer: from here on nobody has it but `_call`.
        del message
        async with WhileThere(request):
            exchange = await calling
            request.release_body()
            try:
                await self._answer(request, exchange)
            finally:
                # Without an answer on it that cancels the request.
                exchange.release()

    async def _answer(self, request: HttpRequest, exchange: SharedExchange) -> None:
        """Answer with JSON if the answer comes first, else with a stream."""
        keep_alive = self._settings.keep_alive_interval
        answer = await exchange.first(keep_alive)
        if answer is not None:
            request.answer(_status_of(exchange), JSON_HEADERS, answer)
        else:
            await _stream(request, exchange, exchange.receive_nowait(), keep_alive)

    async def _call(
        self, request: HttpRequest, principal: Principal, modern: ModernRequest
    ) -> SharedExchange:
        if modern.method != "tools/call":
            return await self._leases.call(principal, modern)
        return await self._leases.call(
            principal, modern, check=lambda child: child.check_headers(modern, request.fields)
        )


class _SharedCall(SilentCall):
    """A call without a session. A client that goes cancels it.

    Args:
        request: Where the answer goes.
        exchange: Where it comes from. It is released in the end.
        patience: As in `SilentCall`.
        keep_alive: Seconds of silence after which a stream gets a comment.
        quotas: Count it as one in flight. They are told when it is over.
        share: What it is counted in.
    """

    __slots__ = ("_keep_alive", "_quotas", "_share", "_shared")

    def __init__(
        self,
        request: HttpRequest,
        exchange: SharedExchange,
        patience: Patience,
        *,
        keep_alive: float,
        quotas: Quotas,
        share: Share,
    ) -> None:
        super().__init__(request, exchange, patience)
        self._shared = exchange
        self._keep_alive = keep_alive
        self._quotas = quotas
        self._share = share

    def begin(self) -> None:
        """Wait for the first thing that comes, or for the client to go."""
        self._request.when_gone(self._lose)
        super().begin()

    def _lose(self) -> None:
        self._patience.end(self)
        self._shared.read_first()
        self._over()

    def _status(self) -> int:
        return _status_of(self._shared)

    async def _stream(self) -> None:
        with contextlib.suppress(PeerGone):
            async with WhileThere(self._request):
                message = self._shared.receive_nowait()
                await _stream(self._request, self._shared, message, self._keep_alive)

    def _over(self) -> None:
        self._request.when_gone(None)
        self._shared.release()
        self._quotas.leave(self._share)


def _status_of(exchange: SharedExchange) -> int:
    return 200 if exchange.error_code is None else CODE_STATUS.get(exchange.error_code, 200)


async def _stream(
    request: HttpRequest, exchange: SharedExchange, message: bytes | None, keep_alive: float
) -> None:
    """Answer with a stream that begins with a message, or with a comment."""
    request.start_stream(STREAM_HEADERS)
    try:
        while True:
            await request.write(KEEP_ALIVE if message is None else encode_event(message))
            if exchange.complete:
                break
            message = await exchange.receive(keep_alive)
    except StreamEnded:
        # No answer: its child is gone for good. A stream that ends so is not at its end.
        logger.warning("client.stream_lost")
    except PeerTooSlow:
        logger.warning("client.too_slow")
        return
    request.end_stream()


def unsupported_version(
    requested: str, request_id: bytes | None = None, *, supported: Sequence[str] = SUPPORTED_VERSIONS
) -> LocalProtocolError:
    """Return the refusal of a version that we do not speak.

    Args:
        requested: What was asked for.
        request_id: The raw id of the request, if there is one.
        supported: What the client can choose from instead.
    """
    return LocalProtocolError(
        f"expected a protocol version of {', '.join(supported)}, found {requested[:80]!r}",
        code=UNSUPPORTED_PROTOCOL_VERSION,
        request_id=request_id,
        data=msgspec.json.encode({"supported": supported, "requested": requested}),
    )


def _read(request: HttpRequest, message: Request) -> ModernRequest:
    """Return the request, if it is one of this revision.

    Raises:
        LocalProtocolError: It is not.
    """
    values, fields = request.head.values, request.head.fields
    repeated = len(values) != len(fields)
    if repeated:
        check_no_duplicates(fields, message.id)
    try:
        modern = read_request(message)
    except LocalProtocolError:
        _check_named(request, message)
        raise
    name = modern.name if modern.method in MAY_ASK else None
    if repeated or not repeat_plainly(values, modern.method, name, modern.version):
        check_standard_headers(fields, modern.method, modern.params, modern.version, modern.id)
    if modern.version not in MODERN_VERSIONS:
        # The same that `server/discover` names; an older one is not spoken in this way.
        raise unsupported_version(modern.version, modern.id, supported=MODERN_VERSIONS)
    if modern.method in REMOVED_METHODS:
        raise _no_such_method(message)
    return modern


def _check_named(request: HttpRequest, message: Request) -> None:
    """Refuse a request that is modern by its header only, where that helps more than that `_meta` is missing.

    An old client learns the versions, and one that opens a session that there is none.
    """
    if has_modern_meta(message.members):
        return
    named = (request.header(b"mcp-protocol-version") or b"").decode("latin-1")
    if named not in SUPPORTED_VERSIONS:
        raise unsupported_version(named, message.id)
    if message.method in REMOVED_METHODS:
        raise _no_such_method(message)


def _no_such_method(message: Request) -> LocalProtocolError:
    return LocalProtocolError(
        f"MCP {MODERN_VERSIONS[-1]} has no method {message.method!r}",
        code=METHOD_NOT_FOUND,
        request_id=message.id,
    )
