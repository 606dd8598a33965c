"""A child joined to the protocol: exchanges, questions, streams. Knows nothing of HTTP or sessions."""

from .bridge import Bridge, BridgeStatistics
from .settings import Settings
from .streams import Exchange, MessageStream, StreamEnded

__all__ = ["Bridge", "BridgeStatistics", "Exchange", "MessageStream", "Settings", "StreamEnded"]
