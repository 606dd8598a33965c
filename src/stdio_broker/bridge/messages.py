"""What a bridge says in place of a child, or of a client."""

import msgspec

from ..errors import BridgeBroken
from ..protocol.jsonrpc import INTERNAL_ERROR, Members, encode, error_response
from ..protocol.listen import ListenFilter
from .seal import MAX_STATE_CHARS

__all__ = [
    "answer_too_long",
    "changes",
    "child_ended",
    "listened_for",
    "request_members",
    "slow_client",
    "state_too_long",
]

UPDATED = "notifications/resources/updated"


def answer_too_long(client_id: bytes, line_bytes: int) -> bytes:
    """Return the answer in place of one that was over the limit on a line."""
    text = f"the server's answer of {line_bytes} bytes exceeds the broker's limit on a line"
    return error_response(client_id, INTERNAL_ERROR, text, {"reason": "answer too long", "bytes": line_bytes})


def slow_client(client_id: bytes) -> bytes:
    """Return the end of a stream that was cut because its client does not read."""
    text = "the client read the stream of this request too slowly; messages were lost"
    return error_response(client_id, INTERNAL_ERROR, text, {"reason": "slow client"})


def state_too_long(client_id: bytes, length: int) -> bytes:
    """Return the answer in place of one whose `requestState` we could not take back."""
    text = f"the server's requestState became {length} characters; the broker takes {MAX_STATE_CHARS} back"
    return error_response(client_id, INTERNAL_ERROR, text, {"reason": "requestState too long"})


def child_ended(client_id: bytes, ending: BridgeBroken) -> bytes:
    """Return the answer to a call whose child ended under it."""
    return error_response(client_id, INTERNAL_ERROR, str(ending), ending.data())


def changes(wanted: ListenFilter) -> list[Members]:
    """Return a notification for everything that a listener wants to know of: all of it may have changed."""
    lists = [
        request_members(method, None)
        for method, is_wanted in listened_for(wanted).items()
        if is_wanted and method != UPDATED
    ]
    uris = [{"uri": msgspec.Raw(msgspec.json.encode(uri))} for uri in wanted.uris]
    return lists + [request_members(UPDATED, uri) for uri in uris]


def listened_for(wanted: ListenFilter) -> dict[str, bool]:
    """Return for each kind of change that we know, by its method, whether a listener wants it."""
    return {
        "notifications/tools/list_changed": wanted.tools,
        "notifications/prompts/list_changed": wanted.prompts,
        "notifications/resources/list_changed": wanted.resources,
        UPDATED: bool(wanted.uris),
    }


def request_members(method: str, params: Members | None) -> Members:
    """Return a notification of ours, or a request without its id."""
    members: Members = {"jsonrpc": msgspec.Raw(b'"2.0"'), "method": msgspec.Raw(msgspec.json.encode(method))}
    if params is not None:
        members["params"] = msgspec.Raw(encode(params))
    return members
