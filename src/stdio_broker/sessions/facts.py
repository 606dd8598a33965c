"""What is known of a server, from having started it: which eras it speaks, and whether it asks.

The era is a property of the server, not of a process: it is found out once. Two facts, not one: a
server that lists only modern versions may take `initialize` all the same. What turns out wrong later
is found out again.

Source: MCP 2026-07-28, basic/transports/stdio, "Backward Compatibility"; protocol matrix, section 2.
"""

from dataclasses import dataclass

from ..protocol.jsonrpc import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    UNSUPPORTED_PROTOCOL_VERSION,
    Members,
    encode,
)
from ..protocol.revisions import MODERN_VERSIONS

__all__ = ["ServerFacts", "refuses_for_being_modern"]

#: Seconds that a server has to answer `server/discover`, at least, where it is known to take
#: `initialize`: then silence is an answer, too.
MIN_DISCOVER_TIMEOUT = 2.0

#: The same as a multiple of what it took to answer `initialize`.
DISCOVER_PATIENCE = 5.0


@dataclass(slots=True)
class ServerFacts:
    """What is known of one server.

    Attributes:
        speaks_legacy: Whether it takes `initialize`; None if nobody has tried.
        speaks_modern: Whether it takes `server/discover`; None likewise.
        foreign_versions: The versions that it speaks, if they are modern ones that we do not.
        handshake_seconds: How long it took from its start to its answer to `initialize`.
        asks: Whether one of its children has asked its client something.
    """

    speaks_legacy: bool | None = None
    speaks_modern: bool | None = None
    foreign_versions: tuple[str, ...] = ()
    handshake_seconds: float | None = None
    asks: bool = False

    def discover_timeout(self, start_timeout: float) -> float:
        """Return the seconds that a child has from its start to its answer to `server/discover`.

        Args:
            start_timeout: Seconds that any child has to start.
        """
        if self.handshake_seconds is None:
            return start_timeout
        return min(start_timeout, max(MIN_DISCOVER_TIMEOUT, DISCOVER_PATIENCE * self.handshake_seconds))


def refuses_for_being_modern(error: Members) -> bool:
    """Return whether an error in answer to `initialize` says that the server is too new for it.

    Source: MCP 2026-07-28, basic/versioning, "Backward Compatibility": it SHOULD name its versions.
    """
    code = bytes(error.get("code", b""))
    if code == b"%d" % UNSUPPORTED_PROTOCOL_VERSION:
        return True
    text = encode(error)
    named = any(version.encode() in text for version in MODERN_VERSIONS)
    return named and code in {b"%d" % METHOD_NOT_FOUND, b"%d" % INVALID_PARAMS}
