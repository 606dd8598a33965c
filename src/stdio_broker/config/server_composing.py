"""From a `[servers.NAME]` table to a server that can be served.

What its keys must have in common, with each other and with the rest of the file, is checked here.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ..auth.keys import KEY_ISSUER, principal_problem
from ..bridge import Settings as BridgeSettings
from ..sessions import ANONYMOUS, ServerRecipe
from ..sessions import Settings as SessionSettings
from ..supervisor import Config as ChildConfig
from ..supervisor.isolation import Isolation
from ..supervisor.limits import Limits as ChildLimits
from .configuration import ServerConfiguration
from .credential_composing import VARIABLE, compose_credential
from .environment_composing import compose_variables
from .isolation_model import IsolationTable
from .model import Auth, Limits
from .node_composing import Report, part_of
from .problems import Path
from .references import References, Unresolved
from .server_model import MAX_NAME_CHARS, NAME_PATTERN, Server
from .toml_text import string

__all__ = ["RESERVED", "Surroundings", "compose_server", "name_problem"]

#: What else is served: a server of such a name could not be reached, or stood in its way.
RESERVED = frozenset(
    {
        *(
            "account",
            "admin",
            "api",
            "authorize",
            "callback",
            "consent",
            "healthz",
            "jwks",
            "login",
            "logout",
        ),
        *("mcp", "messages", "metrics", "readyz", "register", "revoke", "sse", "static", "token"),
    }
)

_NAME = re.compile(NAME_PATTERN)

#: Keys of a server's table that are the settings of a layer below, by the same name.
_SESSION_KEYS = frozenset(
    {
        *("recovery", "max_sessions", "max_children", "idle_timeout", "session_timeout", "start_timeout"),
        *("drain_timeout", "refresh_interval"),
    }
)
_BRIDGE_KEYS = frozenset({"max_calls", "max_parked", "park_timeout"})

_NO_TEMPLATE = "no template is possible here: what a user brings must not choose a directory"
_NO_TEMPLATE_IN_COMMAND = (
    "no template is possible here: everybody on the machine can read the arguments of a process, and what a "
    "user brings must not choose what is executed; use `env`"
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a server is composed with, besides its own table.

    Attributes:
        auth: Who may use the node.
        limits: What the node has.
        secrets: The operator's secrets by name; None as a value is one that is wrong.
        references: Where paths lead, and other secrets are.
        environ: The broker's own environment.
    """

    auth: Auth
    limits: Limits
    secrets: Mapping[str, str | None]
    references: References
    environ: Mapping[str, str]


def name_problem(name: str) -> str | None:
    """Return what is wrong with the name of a server, if anything."""
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_CHARS:
        return (
            f"expected a name of 1 to {MAX_NAME_CHARS} small letters, digits and hyphens, "
            "the first one no hyphen: it is a part of the URL"
        )
    if name in RESERVED:
        return f"this name is reserved: the broker itself serves, or will serve, something at /{name}"
    return None


def compose_server(
    name: str, server: Server, surroundings: Surroundings, report: Report
) -> ServerConfiguration | None:
    """Return a server that can be served; None if its table is too wrong for that.

    Args:
        name: Its name.
        server: Its table.
        surroundings: The rest of the file.
        report: Takes the mistakes.
    """
    at: Path = ("servers", name)
    if (problem := name_problem(name)) is not None:
        report(at, problem)
    for path, text in (*_flaws_of_text(server), *_flaws_of_access(server, surroundings.auth)):
        report((*at, *path), text)
    limits = surroundings.limits
    recipe = _recipe(name, server, surroundings, report)
    isolation = _isolation(at, server, surroundings.references, report)
    sessions = server.model_dump(include=set(_SESSION_KEYS))
    for key, whole in (("max_sessions", limits.max_sessions), ("max_children", limits.max_children)):
        if sessions[key] is not None:
            sessions[key] = part_of((f"limits.{key}", whole), server, key, at, report)
    if recipe is None or isolation is None:
        return None
    return ServerConfiguration(
        recipe=recipe,
        path=f"/{name}/mcp",
        sessions=SessionSettings(**sessions),
        bridge=BridgeSettings(**server.model_dump(include=set(_BRIDGE_KEYS))),
        isolation=isolation,
        principals=None if server.principals is None else frozenset(server.principals),
    )


def _recipe(name: str, server: Server, surroundings: Surroundings, report: Report) -> ServerRecipe | None:
    at: Path = ("servers", name)
    references = surroundings.references
    variables = compose_variables(
        server.env,
        at=(*at, "env"),
        named=surroundings.secrets,
        references=references,
        has_credential=server.credential is not None,
        report=report,
    )
    credentials = None
    if server.credential is not None:
        credentials = compose_credential(
            name,
            server.credential,
            at=(*at, "credential"),
            issuer=ANONYMOUS.issuer if surroundings.auth.mode == "none" else KEY_ISSUER,
            references=references,
            environ=surroundings.environ,
            report=report,
        )
    child = _child(at, server, surroundings, report)
    if variables is None:
        return None
    needed = variables.template.needs_credential
    if not needed and server.credential is not None:
        report(
            (*at, "credential"), "no variable of `env` uses ${credential.token}, so that nobody would get it"
        )
    named = _named(variables.template.secret_names, surroundings.secrets)
    if child is None or needed is (credentials is None) or len(named) < len(variables.template.secret_names):
        return None
    return ServerRecipe(
        name,
        child,
        variables.secrets,
        environment=variables.template,
        credentials=credentials,
        named_secrets=named,
    )


def _named(names: Collection[str], secrets: Mapping[str, str | None]) -> dict[str, str]:
    """Return the secrets of these names, as far as they are right."""
    return {name: value for name in sorted(names) if (value := secrets.get(name)) is not None}


def _child(at: Path, server: Server, surroundings: Surroundings, report: Report) -> ChildConfig | None:
    """Return how a child is started and stopped; its variables come later."""
    references, limits = surroundings.references, surroundings.limits
    command = cwd = None
    try:
        command = references.command((server.command, *server.args))
    except Unresolved as exc:
        report((*at, "command"), str(exc))
    try:
        cwd = references.directory(server.cwd) if server.cwd is not None and "${" not in server.cwd else None
    except Unresolved as exc:
        report((*at, "cwd"), str(exc))
    if command is None:
        return None
    inherited: Literal["minimal"] | tuple[str, ...]
    inherited = "minimal" if isinstance(server.inherit_env, str) else tuple(server.inherit_env)
    buffered = ("limits.max_buffered_bytes", limits.max_buffered_bytes)
    return ChildConfig(
        cmd=command,
        cwd=cwd,
        inherit_env=inherited,
        eof_grace=server.eof_grace,
        stop_grace=server.stop_grace,
        max_line_bytes=part_of(buffered, server, "max_line_bytes", at, report),
    )


def _isolation(at: Path, server: Server, references: References, report: Report) -> Isolation | None:
    """Return what keeps a child from the rest; its paths are absolute."""
    limits = ChildLimits(**server.limits.model_dump())
    table = server.isolation
    if isinstance(table, str):
        table = IsolationTable(level=table)
    try:
        return Isolation(
            level=table.level,
            read_only=_paths(table.read_only, references),
            read_write=_paths(table.read_write, references),
            network=table.network,
            tmp_bytes=table.tmp_bytes,
            wrapper=tuple(table.wrapper),
            limits=limits,
        )
    except Unresolved as exc:
        report((*at, "isolation"), str(exc))
    except ValueError as exc:
        key, _, text = str(exc).partition(": ")
        # A wrapper's arguments are the operator's, and maybe not for everybody.
        report((*at, "isolation", key), text.partition(", found [")[0])
    return None


def _paths(texts: list[str], references: References) -> tuple[str, ...]:
    return tuple(os.path.normpath(references.path(text)) for text in texts)


def _flaws_of_text(server: Server) -> Iterator[tuple[Path, str]]:
    """Yield where a template would be used that cannot be."""
    if "${" in server.command:
        yield ("command",), _NO_TEMPLATE_IN_COMMAND
    if server.cwd is not None and "${" in server.cwd:
        yield ("cwd",), _NO_TEMPLATE
    for index, text in enumerate(server.args):
        if "${" in text:
            yield ("args", index), _NO_TEMPLATE_IN_COMMAND


def _flaws_of_access(server: Server, auth: Auth) -> Iterator[tuple[Path, str]]:
    """Yield what is wrong with the lists of names: of principals, and of variables that are inherited."""
    yield from _flaws_of_principals(server.principals, auth)
    if isinstance(server.inherit_env, str):
        return
    for index, name in enumerate(server.inherit_env):
        at: Path = ("inherit_env", index)
        if not VARIABLE.fullmatch(name.removesuffix("*")):
            yield at, f"expected the name of a variable, maybe with an * at its end, found {string(name)}"
        elif name in server.env:
            yield at, f"{name} is in `env` too, and that one counts; remove one of them"
        elif name in server.inherit_env[:index]:
            yield at, f"{name} is there twice"


def _flaws_of_principals(names: list[str] | None, auth: Auth) -> Iterator[tuple[Path, str]]:
    if names is None:
        return
    if not names:
        yield ("principals",), "expected at least one name; to let everybody use it, leave it out"
    if auth.mode == "none":
        yield ("principals",), 'there are no principals where `auth.mode` is "none"; use mode "keys"'
    for index, name in enumerate(names):
        if (problem := principal_problem(name)) is not None:
            yield ("principals", index), problem
        elif name in names[:index]:
            yield ("principals", index), f"{name} is there twice"
