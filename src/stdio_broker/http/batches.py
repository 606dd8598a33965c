"""Several messages in one POST. Source: MCP 2025-03-26, basic, "Batching"; no other revision has them."""

from ..errors import LocalProtocolError
from ..protocol.jsonrpc import INVALID_REQUEST, Message, Request
from ..sessions import Session

__all__ = ["check_batch"]

#: Messages in one batch; each request in it is a call in flight.
MAX_BATCH = 64


def check_batch(session: Session | None, messages: list[Message]) -> None:
    """Refuse a batch in a session without them, one that is too long, and one with `initialize`.

    Raises:
        LocalProtocolError: As above.
    """
    if session is None or session.agreement is None or not session.agreement.revision.batches:
        raise LocalProtocolError(
            "expected one JSON-RPC message, found a batch; send each message in a POST of its own",
            code=INVALID_REQUEST,
        )
    if len(messages) > MAX_BATCH:
        raise LocalProtocolError(
            f"expected a batch of {MAX_BATCH} messages or fewer, found {len(messages)}", code=INVALID_REQUEST
        )
    if any(isinstance(message, Request) and message.method == "initialize" for message in messages):
        raise LocalProtocolError("`initialize` must not be part of a batch", code=INVALID_REQUEST)
