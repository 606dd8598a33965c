"""A modern client's request: what is kept of it until it is answered, and what a legacy child reads."""

import msgspec

from ..protocol.jsonrpc import Members, encode, object_members
from ..protocol.modern import ModernRequest, encode_with
from ..protocol.revisions import Revision
from ..protocol.to_modern import params_for_child

__all__ = ["kept", "request_line", "without_bytes"]

#: Longest message that is kept whole until its answer. It is about what the rest of a call takes.
MAX_KEPT_BYTES = 4096


def request_line(request: ModernRequest, child_id: bytes, revision: Revision) -> bytes:
    """Return a request as a legacy child reads it.

    Args:
        request: What the client sent.
        child_id: What the child shall know it by; also the token of its progress, if that is wanted.
        revision: What was agreed on with the child.
    """
    params = params_for_child(request, revision)
    if request.progress_token is not None:
        meta = object_members(params.get("_meta")) or {}
        meta["progressToken"] = msgspec.Raw(child_id)
        params["_meta"] = msgspec.Raw(encode(meta))
    return encode_with(request.members, child_id, "params", params)


def kept(request: ModernRequest) -> ModernRequest:
    """Return what to keep of a request: if it is short, all of it, since that costs the least."""
    return request if request.source_bytes <= MAX_KEPT_BYTES else without_bytes(request)


def without_bytes(request: ModernRequest) -> ModernRequest:
    """Return a request without what keeps the bytes that it was read from in memory."""
    token = request.progress_token
    nothing: Members = {}
    return msgspec.structs.replace(
        request,
        members=nothing,
        params=nothing,
        meta=nothing,
        progress_token=None if token is None else token.copy(),
        request_state=None,
        input_responses=None,
    )
