"""The MCP endpoint for revision 2026-07-28: every POST by itself, no sessions.

    POST    one request in; its answer as JSON if that comes first, else as a stream that ends with it.
            A client that closes the stream cancels the request
    GET, DELETE   405

Checks come in this order: what stands twice, `_meta`, headers against body, the version, the method,
and last the headers that mirror arguments, which take the child's word for which they are.

Source: MCP 2026-07-28, basic/transports/streamable-http; protocol matrix, sections 6.1, 8 and 9.
"""

import logging
from collections.abc import Sequence

import msgspec

from ..bridge import SharedExchange, StreamEnded
from ..errors import LocalProtocolError
from ..protocol.headers import check_no_duplicates, check_standard_headers
from ..protocol.jsonrpc import (
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    UNSUPPORTED_PROTOCOL_VERSION,
    Message,
    Notification,
    Request,
)
from ..protocol.modern import REMOVED_METHODS, ModernRequest, has_modern_meta, read_request
from ..protocol.revisions import MODERN_VERSIONS, SUPPORTED_VERSIONS
from ..protocol.sse import KEEP_ALIVE, encode_event
from ..sessions import Leases, Principal
from .faults import CODE_STATUS, JSON
from .presence import WhileThere
from .settings import Settings
from .streaming import STREAM_HEADERS
from .wire import HttpRequest, PeerTooSlow

__all__ = ["ModernEndpoint", "unsupported_version"]

logger = logging.getLogger(__name__)


class ModernEndpoint:
    """What answers modern requests, once the guards have let them through.

    Args:
        leases: Whose child answers.
        settings: Bounds.
    """

    def __init__(self, leases: Leases, settings: Settings) -> None:
        self._leases = leases
        self._settings = settings

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
            await request.answer(202, ())
            return
        if not isinstance(message, Request):
            raise LocalProtocolError(
                "expected one JSON-RPC request, found a batch or a response", code=INVALID_REQUEST
            )
        serving = self._serve(request, principal, _read(request, message))
        # A long argument must not stay in memory until the answer: from here on nobody has it but `_call`.
        del message
        try:
            await serving
        except PeerTooSlow:
            logger.warning("client.too_slow")
            # Its connection is being closed. To return before that would look like an answer without end.
            await request.wait_disconnected()

    async def _serve(self, request: HttpRequest, principal: Principal, modern: ModernRequest) -> None:
        async with WhileThere(request):
            exchange = await self._call(request, principal, modern)
            del modern
            request.release_body()
            try:
                await self._answer(request, exchange)
            finally:
                # Without an answer on it that cancels the request.
                exchange.release()

    async def _answer(self, request: HttpRequest, exchange: SharedExchange) -> None:
        """Answer with JSON if the answer comes first, else with a stream."""
        keep_alive = self._settings.keep_alive_interval
        message = await exchange.receive(keep_alive)
        if message is not None and exchange.complete:
            status = 200 if exchange.error_code is None else CODE_STATUS.get(exchange.error_code, 200)
            await request.answer(status, (JSON,), message)
            return
        await request.start_stream(STREAM_HEADERS)
        try:
            while True:
                await request.write(KEEP_ALIVE if message is None else encode_event(message))
                if exchange.complete:
                    break
                message = await exchange.receive(keep_alive)
        except StreamEnded:
            # No answer: its child is gone for good. A stream that ends so is not at its end.
            logger.warning("client.stream_lost")
        await request.end_stream()

    async def _call(
        self, request: HttpRequest, principal: Principal, modern: ModernRequest
    ) -> SharedExchange:
        if modern.method != "tools/call":
            return await self._leases.call(principal, modern)
        return await self._leases.call(
            principal, modern, check=lambda child: child.check_headers(modern, request.fields)
        )


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
    check_no_duplicates(request.fields, message.id)
    if not has_modern_meta(message.members):
        # Without `_meta` it is modern by its header only. Some errors help more than that it is missing:
        # to an old client the versions, and to one that opens a session that there is none.
        named = (request.header(b"mcp-protocol-version") or b"").decode("latin-1")
        if named not in SUPPORTED_VERSIONS:
            raise unsupported_version(named, message.id)
        _check_method(message)
    modern = read_request(message)
    check_standard_headers(request.fields, modern.method, modern.params, modern.version, modern.id)
    if modern.version not in MODERN_VERSIONS:
        # The same that `server/discover` names; an older one is not spoken in this way.
        raise unsupported_version(modern.version, modern.id, supported=MODERN_VERSIONS)
    _check_method(message)
    return modern


def _check_method(message: Request) -> None:
    if message.method in REMOVED_METHODS:
        raise LocalProtocolError(
            f"MCP {MODERN_VERSIONS[-1]} has no method {message.method!r}",
            code=METHOD_NOT_FOUND,
            request_id=message.id,
        )
