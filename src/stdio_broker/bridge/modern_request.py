"""A modern client's request: what is kept of it until it is answered, and what a legacy child reads."""

from dataclasses import replace

import msgspec

from ..protocol.jsonrpc import Members, encode, object_members
from ..protocol.modern import ModernRequest
from ..protocol.revisions import Revision
from ..protocol.to_modern import params_for_child

__all__ = ["request_line", "without_bytes"]


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
    return encode({**request.members, "id": msgspec.Raw(child_id), "params": msgspec.Raw(encode(params))})


def without_bytes(request: ModernRequest) -> ModernRequest:
    """Return a request without what keeps the bytes that it was read from in memory."""
    token = request.progress_token
    nothing: Members = {}
    return replace(
        request,
        members=nothing,
        params=nothing,
        meta=nothing,
        progress_token=None if token is None else token.copy(),
        request_state=None,
        input_responses=None,
    )
