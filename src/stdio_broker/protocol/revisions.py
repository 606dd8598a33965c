"""The revisions of MCP that we speak, and in what they differ. One table, no scattered conditions.

Pure. Source: the "Key Changes" page of each revision; `docs/architecture.md` names what follows.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "KNOWN_VERSIONS",
    "LATEST",
    "MODERN",
    "MODERN_VERSION",
    "MODERN_VERSIONS",
    "REVISIONS",
    "SUPPORTED_VERSIONS",
    "Era",
    "Revision",
    "clamp",
    "offered",
]


class Era(enum.Enum):
    """How a revision says who speaks, and what they can do."""

    #: Once, in `initialize`: there are sessions.
    LEGACY = "legacy"
    #: In the `_meta` of every request: there are none.
    MODERN = "modern"


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """What a bridge has to know of one revision.

    Attributes:
        version: Its name on the wire.
        batches: Whether a client may send several messages in one JSON array.
        elicitation: Whether a server may ask the user with a form.
        url_elicitation: Whether it may send the user to a page, and forms are a mode with a name.
        sampling_tools: Whether it may offer tools to the client's model.
        completion_context: Whether a completion may tell the arguments that are known already.
        priming: Whether a stream begins with an event that holds an id and no message, so that it
            can be resumed from its beginning. Older clients take the empty data for a message.
    """

    version: str
    batches: bool = False
    elicitation: bool = False
    url_elicitation: bool = False
    sampling_tools: bool = False
    completion_context: bool = False
    priming: bool = False


#: Up to 2025-11-25: sessions, opened by `initialize`. A child that answers 2024-11-05 is served
#: over Streamable HTTP too: its messages are a subset, and clients negotiate it there.
REVISIONS = {
    revision.version: revision
    for revision in (
        Revision(version="2024-11-05"),
        Revision(version="2025-03-26", batches=True),
        Revision(version="2025-06-18", elicitation=True, completion_context=True),
        Revision(
            version="2025-11-25",
            elicitation=True,
            url_elicitation=True,
            sampling_tools=True,
            completion_context=True,
            priming=True,
        ),
    )
}
KNOWN_VERSIONS = tuple(REVISIONS)
LATEST = KNOWN_VERSIONS[-1]

#: The first revision without sessions. Some clients send its header in a session that negotiated an
#: older one, and are understood all the same.
MODERN_VERSION = "2026-07-28"
MODERN_VERSIONS = (MODERN_VERSION,)
MODERN = Revision(
    version=MODERN_VERSION,
    elicitation=True,
    url_elicitation=True,
    sampling_tools=True,
    completion_context=True,
)

#: All that a client may name, newest first: what a refusal tells it to choose from.
SUPPORTED_VERSIONS = (*MODERN_VERSIONS, *reversed(KNOWN_VERSIONS))


def clamp(requested: str | None) -> str:
    """Return the version to ask a child for, when a client asked for this one.

    What is negotiated end to end must be a version that our HTTP side speaks too, or every later
    request of the client would be refused. An unknown one becomes the newest that we know (MCP
    2025-11-25, basic/lifecycle, "Version Negotiation").
    """
    return requested if requested in REVISIONS else LATEST


def offered(versions: Iterable[str]) -> tuple[str, ...]:
    """Return which of a modern child's versions a client may choose, for the same reason."""
    return tuple(version for version in versions if version in SUPPORTED_VERSIONS)
