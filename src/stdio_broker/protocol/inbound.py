"""Which era is a client's message spoken in? Pure.

The body and the session tell; the header alone does not: there are clients that negotiate 2025-11-25
and then name 2026-07-28 in the header of the same session.

Source: MCP 2026-07-28, basic/transports/streamable-http, "Backward Compatibility"; protocol matrix,
section 1.
"""

from .jsonrpc import Message, Response, object_members, params_of
from .modern import META_VERSION, has_modern_meta
from .revisions import REVISIONS, Era

__all__ = ["era_of", "names_version"]


def era_of(message: Message | list[Message], version: str | None, *, in_session: bool) -> Era:
    """Return the era in which a POST is to be answered.

    Args:
        message: The body.
        version: The `MCP-Protocol-Version` header, or None.
        in_session: Whether the request names a living session of its principal. Only looked at where
            the header names no legacy revision.
    """
    if not isinstance(message, list) and names_version(message):
        return Era.MODERN
    if version is None or version in REVISIONS or in_session:
        return Era.LEGACY
    return Era.MODERN


def names_version(message: Message) -> bool:
    """Return whether a message names its version by itself, as modern ones do."""
    if isinstance(message, Response):
        return has_modern_meta(message.members)
    params = params_of(message)
    if params is None or "_meta" not in params:
        return False
    return META_VERSION in (object_members(params["_meta"]) or {})
