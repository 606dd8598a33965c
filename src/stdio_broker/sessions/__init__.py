"""Who uses which child, and for how long. Knows nothing of HTTP, tokens or processes' signals."""

from .facts import ServerFacts
from .ids import SessionIds
from .leases import Leases
from .manager import SessionManager
from .principal import ANONYMOUS, Principal
from .probe import ProbeFailed, probe
from .server import ServerRecipe
from .session import Opened, Session, SessionBridge, SessionStatistics
from .settings import Settings

__all__ = [
    "ANONYMOUS",
    "Leases",
    "Opened",
    "Principal",
    "ProbeFailed",
    "ServerFacts",
    "ServerRecipe",
    "Session",
    "SessionBridge",
    "SessionIds",
    "SessionManager",
    "SessionStatistics",
    "Settings",
    "probe",
]
