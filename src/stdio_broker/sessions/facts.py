"""What is known of a server, from having started it: which eras it speaks, and whether it asks.

The era is a property of the server, not of a process: it is found out once. Two facts, not one: a
server that lists only modern versions may take `initialize` all the same. What turns out wrong later,
because the server was replaced, is found out again.

Source: MCP 2026-07-28, basic/transports/stdio, "Backward Compatibility"; protocol matrix, section 2.
"""

import math
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

#: How often a server is asked that says nothing, or ends, before that counts as a refusal. It may have
#: been slow; but each time it costs a client the wait.
MAX_SILENCES = 3


@dataclass(slots=True)
class ServerFacts:
    """What is known of one server.

    Attributes:
        speaks_legacy: Whether it takes `initialize`; None if nobody has tried.
        speaks_modern: Whether it takes `server/discover`; None likewise.
        silences: How often it gave no answer to `server/discover`, and no refusal either.
        foreign_versions: The versions that it speaks, if they are modern ones that we do not.
        foreign_until: When it is asked for them again (event loop time, seconds).
        handshake_seconds: How long it took from its start to its answer to `initialize`.
        asks: Whether one of its children has asked its client something.
    """

    speaks_legacy: bool | None = None
    speaks_modern: bool | None = None
    silences: int = 0
    foreign_versions: tuple[str, ...] = ()
    foreign_until: float = -math.inf
    handshake_seconds: float | None = None
    asks: bool = False

    def discover_timeout(self, start_timeout: float) -> float:
        """Return the seconds that a child has from its start to its answer to `server/discover`.

        Args:
            start_timeout: Seconds that any child has to start.
        """
        if self.speaks_modern or self.handshake_seconds is None:
            return start_timeout
        return min(start_timeout, max(MIN_DISCOVER_TIMEOUT, DISCOVER_PATIENCE * self.handshake_seconds))

    def note_silence(self) -> None:
        """Note that there was no answer to `server/discover`: take it for legacy, for now."""
        self.silences += 1
        self.speaks_modern = False

    def note_refusal(self) -> None:
        """Note that `server/discover` was refused."""
        self.silences = MAX_SILENCES
        self.speaks_modern = False

    def note_modern(self) -> None:
        """Note that it takes `server/discover`."""
        self.silences = 0
        self.foreign_versions = ()
        self.speaks_modern = True

    def doubt_silence(self) -> None:
        """Ask it again next time, if all that it did was to say nothing."""
        if self.speaks_modern is False and self.silences < MAX_SILENCES:
            self.speaks_modern = None


def refuses_for_being_modern(error: Members) -> bool:
    """Return whether an error in answer to `initialize` says that the server is too new for it.

    It SHOULD name its versions (MCP 2026-07-28, basic/versioning, "Backward Compatibility"); but no
    server of an older revision does not know the method at all.
    """
    code = bytes(error.get("code", b""))
    if code in {b"%d" % UNSUPPORTED_PROTOCOL_VERSION, b"%d" % METHOD_NOT_FOUND}:
        return True
    text = encode(error)
    return code == b"%d" % INVALID_PARAMS and any(version.encode() in text for version in MODERN_VERSIONS)
