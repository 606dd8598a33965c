"""Which era is a client's message spoken in? Pure.

The body and the session tell; the header alone does not: there are clients that negotiate 2025-11-25
and then name 2026-07-28 in the header of the same session.

Source: MCP 2026-07-28, basic/transports/streamable-http, "Backward Compatibility"; protocol matrix,
section 1.
"""

from .jsonrpc import Message, Request
from .modern import META_VERSION, has_modern_meta
from .revisions import REVISIONS, Era

__all__ = ["era_of"]

_MARK = META_VERSION.encode()


def era_of(message: Message | list[Message], version: str | None, *, in_session: bool) -> Era:
    """Return the era in which a POST is to be answered.

    Args:
        message: The body.
        version: The `MCP-Protocol-Version` header, or None.
        in_session: Whether the request names a living session of its principal. Only looked at where
            the header names no legacy revision.
    """
    if isinstance(message, list):
        return _era_of_header(version, in_session=in_session)
    if _may_have_modern_meta(message) and has_modern_meta(message.members):
        return Era.MODERN
    return _era_of_header(version, in_session=in_session)


def _era_of_header(version: str | None, *, in_session: bool) -> Era:
    if version is None or version in REVISIONS or in_session:
        return Era.LEGACY
    return Era.MODERN


def _may_have_modern_meta(message: Message) -> bool:
    """Return False where looking for the word saves us from decoding; its characters may be escaped."""
    source = message.source if isinstance(message, Request) else bytes(message.members.get("params", b""))
    # PHP writes every slash as an escape.
    return _MARK in source or b"\\u" in source or b"\\/" in source
