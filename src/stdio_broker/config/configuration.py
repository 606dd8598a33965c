"""What a node does: each package's own settings, composed. Frozen values."""

from dataclasses import dataclass, field
from pathlib import Path

from ..auth.settings import Settings as AuthSettings
from ..bridge import Settings as BridgeSettings
from ..http import Settings as HttpSettings
from ..sessions import ServerRecipe
from ..sessions import Settings as SessionSettings
from ..sessions.quotas import QuotaSettings
from ..supervisor.isolation import Isolation

__all__ = [
    "DRAIN_GRACE",
    "HOST",
    "MAX_BUFFERED_BYTES",
    "MAX_BUFFERED_BYTES_PER_PRINCIPAL",
    "PORT",
    "Configuration",
    "ServerConfiguration",
]

HOST = "127.0.0.1"
PORT = 8080

#: Seconds that open calls get to finish at shutdown.
DRAIN_GRACE = 10.0

#: Bytes of messages that a whole node holds at most: sixteen of the largest there may be.
MAX_BUFFERED_BYTES = 1024 * 1024 * 1024

#: The same for one principal: it takes more than three to keep the others out.
MAX_BUFFERED_BYTES_PER_PRINCIPAL = MAX_BUFFERED_BYTES // 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfiguration:
    """One server that is served.

    Attributes:
        recipe: What a child of it is, and whose credentials it gets.
        path: Where its endpoint is: "/mcp" for `run`, "/NAME/mcp" for `serve`.
        sessions: Bounds of its sessions.
        bridge: Bounds of each of its bridges.
        isolation: What keeps a child of it from the rest of the machine.
        principals: Who may use it, by name; None is everybody who is authenticated.
    """

    recipe: ServerRecipe
    path: str = "/mcp"
    sessions: SessionSettings = field(default_factory=SessionSettings)
    bridge: BridgeSettings = field(default_factory=BridgeSettings)
    isolation: Isolation = field(default_factory=Isolation)
    principals: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What a node does.

    Attributes:
        host: Address that the HTTP server listens on.
        port: Its port; 0 is any free one.
        drain_grace: Seconds that open calls get to finish at shutdown.
        servers: What is served; never empty, every name and path once.
        http: Guards and bounds of the HTTP side; its `path` is replaced by each server's own.
        quotas: What the node as a whole, and each principal, may use.
        auth: Who may use it.
        storage_url: Where keys are kept. Not in the repr: it may hold a password.
        max_buffered_bytes: Bytes of messages that the node holds at once.
        max_buffered_bytes_per_principal: Bytes of them that are one principal's.
        sources: The files that it was read from, for whoever watches them.
    """

    host: str
    port: int
    drain_grace: float
    servers: tuple[ServerConfiguration, ...]
    http: HttpSettings = field(default_factory=HttpSettings)
    quotas: QuotaSettings = field(default_factory=QuotaSettings)
    auth: AuthSettings = field(default_factory=AuthSettings)
    storage_url: str = field(default="", repr=False)
    max_buffered_bytes: int = MAX_BUFFERED_BYTES
    max_buffered_bytes_per_principal: int = MAX_BUFFERED_BYTES_PER_PRINCIPAL
    sources: tuple[Path, ...] = ()
