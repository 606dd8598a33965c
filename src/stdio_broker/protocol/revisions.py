"""The revisions of MCP that we speak, and in what they differ. One table, no scattered conditions.

Pure. Source: the "Key Changes" page of each revision; `docs/architecture.md` names what follows.
"""

from dataclasses import dataclass

__all__ = ["KNOWN_VERSIONS", "LATEST", "MODERN_VERSION", "REVISIONS", "Revision", "clamp"]


@dataclass(frozen=True, slots=True)
class Revision:
    """What a bridge has to know of one revision.

    Attributes:
        version: Its name on the wire.
        batches: Whether a client may send several messages in one JSON array.
    """

    version: str
    batches: bool = False


#: Up to 2025-11-25: sessions, opened by `initialize`. A child that answers 2024-11-05 is served
#: over Streamable HTTP too: its messages are a subset, and clients negotiate it there.
REVISIONS = {
    revision.version: revision
    for revision in (
        Revision("2024-11-05"),
        Revision("2025-03-26", batches=True),
        Revision("2025-06-18"),
        Revision("2025-11-25"),
    )
}
KNOWN_VERSIONS = tuple(REVISIONS)
LATEST = KNOWN_VERSIONS[-1]

#: The first revision without sessions. Not spoken yet; some clients send its header in a session
#: that negotiated an older one, and are understood all the same.
MODERN_VERSION = "2026-07-28"


def clamp(requested: str | None) -> str:
    """Return the version to ask a child for, when a client asked for this one.

    What is negotiated end to end must be a version that our HTTP side speaks too, or every later
    request of the client would be refused. An unknown one becomes the newest that we know (MCP
    2025-11-25, basic/lifecycle, "Version Negotiation").
    """
    return requested if requested in REVISIONS else LATEST
