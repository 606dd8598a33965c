"""Who uses which child, and for how long. Knows nothing of HTTP, tokens or processes' signals."""

from .ids import SessionIds
from .manager import Opened, SessionManager, SessionStatistics
from .principal import ANONYMOUS, Principal
from .probe import ProbeFailed, probe
from .server import ServerRecipe
from .session import Session
from .settings import Settings

__all__ = [
    "ANONYMOUS",
    "Opened",
    "Principal",
    "ProbeFailed",
    "ServerRecipe",
    "Session",
    "SessionIds",
    "SessionManager",
    "SessionStatistics",
    "Settings",
    "probe",
]
