"""Who sends a request, and with which credentials its child works. Knows nothing of sessions or HTTP.

The database is in `auth.database` and `auth.store`, which are not imported here: it is needed for keys only.
"""

from .authenticator import Access, Authenticator, NoAuthentication, OnRevoked
from .command_credentials import CommandCredentials
from .credentials import EnvironmentCredentials, FileCredentials, StaticCredential
from .key_authenticator import KeyAuthenticator
from .opening import open_authenticator
from .settings import Mode, Settings, default_storage_url

__all__ = [
    "Access",
    "Authenticator",
    "CommandCredentials",
    "EnvironmentCredentials",
    "FileCredentials",
    "KeyAuthenticator",
    "Mode",
    "NoAuthentication",
    "OnRevoked",
    "Settings",
    "StaticCredential",
    "default_storage_url",
    "open_authenticator",
]
