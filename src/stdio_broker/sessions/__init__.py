"""Who uses which child, and for how long. Knows nothing of HTTP, tokens or processes' signals."""

from .credentials import Credential, CredentialSource
from .facts import ServerFacts
from .ids import SessionIds
from .leases import Leases
from .manager import SessionManager
from .principal import ANONYMOUS, Principal
from .probe import ProbeFailed, probe
from .quotas import Quotas, QuotaSettings, QuotaStatistics
from .server import Launch, ServerRecipe
from .session import Opened, Session, SessionBridge, SessionStatistics
from .settings import Settings
from .templates import EnvironmentTemplate, TemplateError

__all__ = [
    "ANONYMOUS",
    "Credential",
    "CredentialSource",
    "EnvironmentTemplate",
    "Launch",
    "Leases",
    "Opened",
    "Principal",
    "ProbeFailed",
    "QuotaSettings",
    "QuotaStatistics",
    "Quotas",
    "ServerFacts",
    "ServerRecipe",
    "Session",
    "SessionBridge",
    "SessionIds",
    "SessionManager",
    "SessionStatistics",
    "Settings",
    "TemplateError",
    "probe",
]
