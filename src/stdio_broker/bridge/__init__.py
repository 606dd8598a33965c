"""Children joined to the protocol: exchanges, questions, streams. Knows nothing of HTTP or sessions.

What joins a client's era to a child's:

    client   child    joined by
    legacy   legacy   Bridge          one client, one child at a time (by a Link each); ids swapped
    legacy   modern   LegacySession   state of ours, over a ModernChild
    modern   modern   ModernChild     a relay for all requests of a principal
    modern   legacy   LegacyChild     calls parked while their questions are answered
"""

from .bridge import Bridge, BridgeStatistics
from .budget import Budget, Budgets
from .changes import Changes
from .events import EventsLost
from .in_turns import in_turns
from .legacy_child import LegacyChild
from .legacy_client import LegacyClient
from .legacy_session import LegacySession
from .link import Link
from .modern_child import ModernChild
from .owner import Owner
from .seal import Seal, invalid_state
from .settings import Settings
from .shared_child import SharedExchange
from .streams import Exchange, MessageStream, StreamEnded

__all__ = [
    "Bridge",
    "BridgeStatistics",
    "Budget",
    "Budgets",
    "Changes",
    "EventsLost",
    "Exchange",
    "LegacyChild",
    "LegacyClient",
    "LegacySession",
    "Link",
    "MessageStream",
    "ModernChild",
    "Owner",
    "Seal",
    "Settings",
    "SharedExchange",
    "StreamEnded",
    "in_turns",
    "invalid_state",
]
