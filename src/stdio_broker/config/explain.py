"""A configuration in words: who reaches what, with which credential, kept in by what. Names, never values."""

import textwrap
from collections.abc import Iterator

from ..auth.storage_url import SqliteFile, parse_storage_url
from ..sessions import ServerRecipe
from ..supervisor import MINIMAL, describe_isolation
from .configuration import Configuration, ServerConfiguration
from .credential_composing import ConfiguredCredentials

__all__ = ["explain"]

WIDTH = 110
_LABEL_WIDTH = 14

_SOURCES = {
    "static": "one for everybody (static): to the server all of them are one user",
    "file": "a file for each principal (file)",
    "env": "a variable of the broker's for each principal (env)",
    "command": "a command is asked for each principal (command)",
}


def explain(configuration: Configuration) -> str:
    """Return what a configuration means, as a text for people."""
    parts = ["\n".join(_node(configuration))]
    parts += ["\n".join(_server(server, configuration)) for server in configuration.servers]
    return "\n\n".join(parts) + "\n"


def _node(configuration: Configuration) -> Iterator[str]:
    quotas = configuration.quotas
    yield f"The node, at http://{configuration.host}:{configuration.port}"
    if configuration.auth.mode == "none":
        yield from _line("who", "everybody who reaches this address; there is no authentication")
    else:
        yield from _line("who", "whoever has a key of `stdio-broker key create`")
        yield from _line("keys", f"in {_storage(configuration.storage_url)}")
    yield from _line("Host header", ", ".join(sorted(configuration.http.allowed_hosts)))
    if configuration.http.allowed_origins:
        yield from _line("web pages", ", ".join(sorted(configuration.http.allowed_origins)))
    yield from _line(
        "all together",
        f"{quotas.max_sessions} sessions, {quotas.max_children} children ({quotas.max_starting} starting), "
        f"{configuration.max_buffered_bytes} bytes of messages",
    )
    yield from _line(
        "each principal",
        f"{quotas.max_sessions_per_principal} sessions, {quotas.max_children_per_principal} children, "
        f"{quotas.max_calls_per_principal} calls, {quotas.starts_per_minute:g} starts a minute",
    )


def _server(server: ServerConfiguration, configuration: Configuration) -> Iterator[str]:
    recipe, sessions = server.recipe, server.sessions
    yield f"{recipe.name}, at {server.path}"
    yield from _line("who", _who(server, configuration))
    yield from _line("program", str(recipe.config.cmd[0]))
    yield from _line("credential", _credential(recipe))
    level, *rest = (f'"{server.isolation.level}"', *describe_isolation(server.isolation))
    yield from _line("isolation", f"{level}: {'; '.join(rest)}")
    yield from _line("limits", _limits(server))
    yield from _line("sets", ", ".join(_set_names(recipe)) or "no variable")
    yield from _line(
        "inherits", f"{', '.join(_inherited_names(recipe)) or 'no variable'}; if the broker has them"
    )
    after = "sleeps, and gets a fresh child when it is used" if sessions.recovery == "replay" else "ends"
    yield from _line(
        "sessions", f"one whose child has ended, or was idle for {sessions.idle_timeout:g} s, {after}"
    )


def _who(server: ServerConfiguration, configuration: Configuration) -> str:
    if configuration.auth.mode == "none":
        return "everybody who reaches the address"
    if server.principals is None:
        return "everybody with a key, unless the key is for other servers only"
    names = ", ".join(sorted(server.principals))
    return f"{names}; with a key that is not for other servers only"


def _credential(recipe: ServerRecipe) -> str:
    source = recipe.credentials
    if source is None:
        by_name = "; its variables depend on who the principal is" if recipe.per_principal else ""
        return f"none{by_name}"
    return _SOURCES[source.kind] if isinstance(source, ConfiguredCredentials) else "some other source"


def _limits(server: ServerConfiguration) -> str:
    sessions, bridge = server.sessions, server.bridge
    return (
        f"{sessions.max_sessions} sessions, {sessions.places} children; of a session "
        f"{bridge.max_calls} calls at once, {bridge.max_parked} waiting for a person"
    )


def _set_names(recipe: ServerRecipe) -> list[str]:
    names = set(recipe.config.env)
    if recipe.environment is not None:
        names.update(recipe.environment.names)
    return sorted(names)


def _inherited_names(recipe: ServerRecipe) -> list[str]:
    inherited = recipe.config.inherit_env
    names = MINIMAL if inherited == "minimal" else tuple(inherited)
    return sorted(set(names) - set(_set_names(recipe)))


def _storage(url: str) -> str:
    """Return where keys are, without a password."""
    database = parse_storage_url(url)
    return f"the file {database.path}" if isinstance(database, SqliteFile) else "PostgreSQL"


def _line(label: str, text: str) -> list[str]:
    indent = " " * (_LABEL_WIDTH + 4)
    first = f"  {label:<{_LABEL_WIDTH}}  "
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=indent, break_long_words=False)
