"""The configuration file of `stdio-broker serve`, as classes: each key with its default and the reason.

The reference page (docs/configuration.md) and the JSON Schema (docs/broker.schema.json) are made of them.
"""

# ruff: noqa: RUF012 - pydantic copies a default

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

from ..auth.settings import Settings as AuthSettings
from ..http import Settings as HttpSettings
from ..sessions.quotas import QuotaSettings
from .configuration import (
    DRAIN_GRACE,
    HOST,
    MAX_BUFFERED_BYTES,
    MAX_BUFFERED_BYTES_PER_PRINCIPAL,
    PORT,
)
from .keys import Count, Grace, Reference, Seconds, Size, Table, Value, about
from .server_model import MAX_NAME_CHARS, NAME_PATTERN, Server

__all__ = ["Auth", "File", "Http", "Limits", "Storage"]

_HTTP = HttpSettings()
_QUOTAS = QuotaSettings()
_AUTH = AuthSettings()


class Http(Table):
    """Where it listens, and what it takes from clients."""

    host: Annotated[
        str,
        about(
            "Address to listen on.",
            why="Nobody else reaches loopback. For other machines, put a proxy with TLS in front, or name an "
            "address of this machine.",
        ),
    ] = HOST
    port: Annotated[
        int, Field(ge=0, le=65535), about("Port to listen on; 0 is any free one.", why="As `run` has it.")
    ] = PORT
    allowed_hosts: Annotated[
        list[str],
        about(
            "Names that the Host header may have, besides loopback names and `host`; without port.",
            why="A page whose name was made to point at this machine (DNS rebinding) still names itself.",
        ),
    ] = []
    allowed_origins: Annotated[
        list[str],
        about(
            "Origins of web pages that may use it, besides those on an allowed host.",
            why="A web page can send requests that its reader knows nothing of.",
        ),
    ] = []
    max_body_bytes: Annotated[
        Size,
        about(
            "Longest request body; a longer one gets 413.",
            unit="bytes",
            why="A value of 16 MiB crosses with its envelope, and more.",
        ),
    ] = _HTTP.max_body_bytes
    max_header_bytes: Annotated[
        Size,
        about("Longest request head.", unit="bytes", why="What nginx and Node take, and more than enough."),
    ] = _HTTP.max_header_bytes
    receive_timeout: Annotated[
        Seconds,
        about(
            "How long a client may pause within a request, or before its first one.",
            unit="seconds",
            why="Connections that say nothing would use up the descriptors.",
        ),
    ] = _HTTP.receive_timeout
    keep_alive_interval: Annotated[
        Seconds,
        about(
            "Silence after which a stream gets a comment.",
            unit="seconds",
            why="Proxies give up after 30 to 60.",
        ),
    ] = _HTTP.keep_alive_interval
    write_timeout: Annotated[
        Seconds,
        about(
            "How long a client may take to read what was written to it.",
            unit="seconds",
            why="What it does not read is kept in memory.",
        ),
    ] = _HTTP.write_timeout
    retry_interval: Annotated[
        Seconds,
        about(
            "What clients of 2025-11-25 are told to wait before they come back to a stream.",
            unit="seconds",
            why="Soon enough not to be noticed, late enough not to come in a burst.",
        ),
    ] = _HTTP.retry_interval
    poll_interval: Annotated[
        Seconds | None,
        about(
            "Close the stream of a call that is silent for this long; its client comes back for the answer "
            "(SEP-1699). Never, if not given.",
            unit="seconds",
            why="Of use only where something on the way cannot hold long requests.",
        ),
    ] = _HTTP.poll_interval
    legacy_sse: Annotated[
        bool,
        about(
            "Serve the HTTP+SSE transport of 2024-11-05 too, at /NAME/sse and /NAME/messages.",
            why="It is deprecated: only for clients that know nothing newer.",
        ),
    ] = _HTTP.legacy_sse


class Limits(Table):
    """What the node has to give, and how much of it one principal may have, across all servers."""

    max_sessions: Annotated[
        Count,
        about(
            "Sessions of the node at once, those that sleep included.",
            unit="sessions",
            why="One that sleeps costs some 10 KB.",
        ),
    ] = _QUOTAS.max_sessions
    max_children: Annotated[
        Count,
        about(
            "Children of the node at once.",
            unit="processes",
            why="Some 50 MB each, so that many fill a machine of 32 GB.",
        ),
    ] = _QUOTAS.max_children
    max_starting: Annotated[
        Count,
        about(
            "Children of the node that are being started at once; the others queue.",
            unit="processes",
            why="A start costs far more than a running child: interpreters, package managers.",
        ),
    ] = _QUOTAS.max_starting
    queue_timeout: Annotated[
        Seconds,
        about(
            "How long a start waits for its turn before its request gets 503.",
            unit="seconds",
            why="Clients give up after 30 to 60.",
        ),
    ] = _QUOTAS.queue_timeout
    max_sessions_per_principal: Annotated[
        Count,
        about(
            "Sessions of one principal at once.",
            unit="sessions",
            why="A person has a few clients, and one that crashes leaves its session behind until that is "
            "idle for too long.",
        ),
    ] = _QUOTAS.max_sessions_per_principal
    max_children_per_principal: Annotated[
        Count,
        about(
            "Children of one principal at once.",
            unit="processes",
            why="As many as its sessions may need.",
        ),
    ] = _QUOTAS.max_children_per_principal
    max_calls_per_principal: Annotated[
        Count,
        about(
            "Calls of one principal in flight at once, over all its sessions.",
            unit="calls",
            why="As many as one child takes; whoever has that many does not wait for answers.",
        ),
    ] = _QUOTAS.max_calls_per_principal
    max_starting_per_principal: Annotated[
        Count,
        about(
            "Children of one principal that are being started at once.",
            unit="processes",
            why="Less than `max_starting`, so that one whose starts hang does not keep the others out.",
        ),
    ] = _QUOTAS.max_starting_per_principal
    max_waiting_per_principal: Annotated[
        Count,
        about(
            "Starts of one principal that wait for their turn; more get 429 at once.",
            unit="starts",
            why="More could not have their turn in time.",
        ),
    ] = _QUOTAS.max_waiting_per_principal
    starts_per_minute: Annotated[
        Seconds,
        about(
            "Children that one principal may start, in the long run.",
            unit="starts a minute",
            why="An agent that opens a session for each call, every second, is at this limit.",
        ),
    ] = _QUOTAS.starts_per_minute
    start_burst: Annotated[
        Count,
        about(
            "Children that one principal may start at once, after a while without a start.",
            unit="starts",
            why="What a client with many servers configured does when it comes up.",
        ),
    ] = _QUOTAS.start_burst
    max_buffered_bytes: Annotated[
        Size,
        about(
            "Bytes of messages that the node holds at once; past it requests get 503.",
            unit="bytes",
            why="Sixteen of the largest messages there may be. Without it, the sum of what each stream may "
            "hold is more than any machine has.",
        ),
    ] = MAX_BUFFERED_BYTES
    max_buffered_bytes_per_principal: Annotated[
        Size,
        about(
            "Bytes of them that are one principal's; past it that one's requests get 429.",
            unit="bytes",
            why="A quarter: it takes more than three whose clients do not read to keep the others out.",
        ),
    ] = MAX_BUFFERED_BYTES_PER_PRINCIPAL
    drain_grace: Annotated[
        Grace,
        about(
            "What calls in flight get to finish at shutdown.",
            unit="seconds",
            why="Most calls take less, and a service manager waits some 90 before it kills.",
        ),
    ] = DRAIN_GRACE


class Auth(Table):
    """Who may use it."""

    mode: Annotated[
        Literal["none", "keys"],
        about(
            '"keys": whoever has a key of `stdio-broker key create`. "none": everybody who reaches the port, '
            "which must be on loopback.",
            why="Whoever gets through runs commands here, with the credentials that are configured.",
        ),
    ] = "keys"
    failures_per_minute: Annotated[
        Seconds,
        about(
            "Refused keys of one address, in the long run; then it gets 429.",
            unit="failures a minute",
            why="A key cannot be guessed, but whoever tries costs work and fills logs.",
        ),
    ] = _AUTH.failures_per_minute
    failure_burst: Annotated[
        Count,
        about(
            "Refused keys of one address at once, after a while without any.",
            unit="failures",
            why="A client with an old key asks a few times before its user notices.",
        ),
    ] = _AUTH.failure_burst
    poll_interval: Annotated[
        Seconds,
        about(
            "Time between two looks at the keys, for those that another process has revoked.",
            unit="seconds",
            why="Whoever revokes a key expects that it is over now.",
        ),
    ] = _AUTH.poll_interval


class Storage(Table):
    """Where keys are kept."""

    url: Annotated[
        Value | None,
        Field(repr=False),
        about(
            "`sqlite:///PATH` or `postgresql://USER@HOST/DATABASE`, or where such a URL is. If not given: a "
            "file below $XDG_STATE_HOME, or ~/.local/state.",
            why="SQLite needs no server. Several nodes share a PostgreSQL, whose URL holds a password.",
        ),
    ] = None


def _name_servers(schema: JsonDict) -> None:
    """Say in the schema what a server can be called."""
    properties = schema["properties"]
    servers = properties["servers"] if isinstance(properties, dict) else None
    if isinstance(servers, dict):
        servers["propertyNames"] = {"pattern": f"^{NAME_PATTERN}$", "maxLength": MAX_NAME_CHARS}


class File(Table):
    """The whole file."""

    # Beside what pydantic writes itself; what else a name must not be, no schema knows.
    model_config = ConfigDict(json_schema_extra=_name_servers)

    http: Http = Http()
    limits: Limits = Limits()
    auth: Auth = Auth()
    storage: Storage = Storage()
    secrets: Annotated[
        dict[str, Reference],
        Field(repr=False),
        about(
            "Secrets by name, for `${secret:NAME}` in the `env` of servers.",
            why="One secret in several values stands in one place.",
        ),
    ] = {}
    servers: Annotated[
        dict[str, Server],
        about(
            "The servers by name; each is served at /NAME/mcp.",
            why="A name is a part of a URL: small letters, digits and hyphens, at most 64.",
        ),
    ] = {}
