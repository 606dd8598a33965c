"""The one table from what went wrong to an HTTP status and a JSON-RPC code.

Source: MCP 2025-11-25, basic/transports; `docs/errors.md` explains each to users.
"""

import math
from dataclasses import dataclass

import msgspec

from ..errors import (
    BridgeBroken,
    BrokerError,
    CapacityError,
    CredentialMissing,
    Forbidden,
    LocalProtocolError,
    RemoteProtocolError,
    SessionNotFound,
    SpawnError,
    StartTimeout,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)
from ..protocol.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    UNSUPPORTED_PROTOCOL_VERSION,
    error_response,
)
from ..protocol.modern import MISSING_CAPABILITY
from .guards import Refused
from .wire import Headers, PayloadTooLarge

__all__ = ["CODE_STATUS", "FAULTS", "JSON", "Answer", "answer_to"]

#: Seconds after which there may be room again. A guess: somebody else's end makes room.
CAPACITY_RETRY_AFTER = 5

JSON = (b"content-type", b"application/json")


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer."""

    status: int
    headers: Headers
    body: bytes


#: Exception → (HTTP status, JSON-RPC code). The first row that fits counts.
#:
#: What went wrong behind a well-formed request is told in the JSON-RPC error, with status 200:
#: clients show that message to their user, but of another status they show only the number.
FAULTS: tuple[tuple[type[Exception], int, int], ...] = (
    (LocalProtocolError, 400, INVALID_REQUEST),
    (Unauthenticated, 401, INVALID_REQUEST),
    (Forbidden, 403, INVALID_REQUEST),
    (SessionNotFound, 404, INVALID_REQUEST),
    (PayloadTooLarge, 413, INVALID_REQUEST),
    (TooManyRequests, 429, INTERNAL_ERROR),
    (Unavailable, 503, INTERNAL_ERROR),
    (CapacityError, 503, INTERNAL_ERROR),
    (CredentialMissing, 200, INTERNAL_ERROR),
    (SpawnError, 200, INTERNAL_ERROR),
    (StartTimeout, 200, INTERNAL_ERROR),
    (RemoteProtocolError, 200, INTERNAL_ERROR),
    (BridgeBroken, 200, INTERNAL_ERROR),
    (BrokerError, 500, INTERNAL_ERROR),
)

#: JSON-RPC code → HTTP status, where a modern client is told by both (MCP 2026-07-28, "Error Codes" and
#: basic/transports/streamable-http). Of an answer of the child's own, any other code goes with 200.
CODE_STATUS = {METHOD_NOT_FOUND: 404, MISSING_CAPABILITY: 400, UNSUPPORTED_PROTOCOL_VERSION: 400}


def answer_to(exc: Exception, request_id: bytes | None) -> Answer:
    """Return the answer to what went wrong.

    Args:
        exc: Something in the table, or `Refused`.
        request_id: The raw id of the request that it went wrong with, if there is one.
    """
    if isinstance(exc, Refused):
        return Answer(exc.status, (JSON, *exc.headers), error_response(None, INVALID_REQUEST, str(exc)))
    status, code = next((status, code) for kind, status, code in FAULTS if isinstance(exc, kind))
    headers: list[tuple[bytes, bytes]] = [JSON]
    data: dict[str, object] | msgspec.Raw | None = None
    if isinstance(exc, LocalProtocolError):
        code = exc.code
        status = CODE_STATUS.get(code, status)
        data = None if exc.data is None else msgspec.Raw(exc.data)
        request_id = request_id or exc.request_id
    if isinstance(exc, BridgeBroken):
        data = exc.data()
    if isinstance(exc, Unavailable):
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(exc.retry_after))))
    elif isinstance(exc, CapacityError):
        headers.append((b"retry-after", b"%d" % CAPACITY_RETRY_AFTER))
    return Answer(status, tuple(headers), error_response(request_id, code, _message(exc), data))


def _message(exc: Exception) -> str:
    if isinstance(exc, CapacityError):
        return "the broker has no room for another server now; the operator finds the reason in its log"
    if isinstance(exc, SpawnError):
        # The command and its path are the operator's business; they are in our log.
        return "the server could not be started; the operator finds the reason in the broker's log"
    if isinstance(exc, BrokerError):
        return str(exc)
    return "the request's body is longer than this broker accepts"
