"""The whole configuration, composed of each package's own settings and checked as one.

All mistakes are reported at once, each with where it stands, what was found and what was expected.
"""

import ipaddress
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .bridge import Settings as BridgeSettings
from .errors import ConfigError
from .http import LOOPBACK_HOSTS, host_of
from .http import Settings as HttpSettings
from .sessions import ServerRecipe
from .sessions import Settings as SessionSettings
from .supervisor import Config as ChildConfig

__all__ = ["Configuration", "run_configuration"]

_SECRET_NAME = re.compile("auth|credential|key|pass|secret|token", re.IGNORECASE)

# As a browser sends it: a scheme, a host, maybe a port; no path.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+/?")

#: Programs that start another one, named by their first argument.
LAUNCHERS = frozenset({"bunx", "node", "npx", "pipx", "python", "uvx"})

#: Options of theirs behind which there is code, not a name.
INLINE_CODE = frozenset({"-c", "-e", "--eval"})

#: Shorter values are no secrets worth the name, and taking them out would make logs unreadable.
MIN_SECRET_CHARS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What a node does.

    Attributes:
        host: Address that the HTTP server listens on.
        port: Its port; 0 is any free one.
        drain_grace: Seconds that open calls get to finish at shutdown.
        server: The server that is served.
        http: Guards and bounds of the HTTP side.
        sessions: Bounds of the sessions.
        bridge: Bounds of each bridge.
    """

    host: str
    port: int
    drain_grace: float
    server: ServerRecipe
    http: HttpSettings = field(default_factory=HttpSettings)
    sessions: SessionSettings = field(default_factory=SessionSettings)
    bridge: BridgeSettings = field(default_factory=BridgeSettings)


def run_configuration(
    *,
    command: tuple[str, ...],
    host: str,
    port: int,
    env: Iterable[str],
    environ: Mapping[str, str],
    name: str | None,
    cwd: str | None,
    allow_remote: bool,
    allow_hosts: tuple[str, ...],
    allow_origins: tuple[str, ...],
    max_sessions: int,
    max_body_bytes: int,
    max_line_bytes: int,
    start_timeout: float,
    idle_timeout: float,
    eof_grace: float,
    stop_grace: float,
    drain_grace: float,
    legacy_sse: bool,
    poll_interval: float | None,
) -> Configuration:
    """Return the configuration of `stdio-broker run`.

    Each argument is an option of it, but `environ`: the broker's own environment, for `--env NAME`.

    Raises:
        ConfigError: Everything that is wrong with it.
    """
    variables, problems = _parse_env(env, environ)
    if not _is_loopback(host) and not allow_remote:
        problems.append(
            f"--host {host}: this is reachable from other machines, and `run` has no authentication; whoever "
            "reaches it runs the command with your rights. Add --allow-remote if that is what you want"
        )
    problems += [
        f"--allow-origin {origin}: expected an origin, such as https://app.example"
        for origin in allow_origins
        if not _ORIGIN.fullmatch(origin.lower())
    ]
    hosts = {_as_host(host)}
    for allowed in allow_hosts:
        name_of_host = host_of(_as_host(allowed).encode("latin-1", "replace"))
        if name_of_host is None:
            problems.append(f"--allow-host {allowed!r}: expected a host name, such as mcp.example")
        else:
            hosts.add(name_of_host)
    if not (math.isfinite(drain_grace) and drain_grace >= 0):
        problems.append(f"drain_grace: expected seconds, 0 or more, found {drain_grace!r}")
    child = settings = None
    try:
        child = ChildConfig(
            cmd=command,
            env=variables,
            cwd=cwd,
            eof_grace=eof_grace,
            stop_grace=stop_grace,
            max_line_bytes=max_line_bytes,
        )
    except ValueError as exc:
        problems.append(str(exc))
    try:
        settings = SessionSettings(
            max_sessions=max_sessions, start_timeout=start_timeout, idle_timeout=idle_timeout
        )
    except ValueError as exc:
        problems.append(str(exc))
    if child is None or settings is None or problems:
        raise ConfigError(*problems)
    return Configuration(
        host=host,
        port=port,
        drain_grace=drain_grace,
        server=ServerRecipe(name or _name_of(command), child, _secrets(env, variables)),
        http=HttpSettings(
            allowed_hosts=LOOPBACK_HOSTS | hosts,
            allowed_origins=frozenset(origin.lower().rstrip("/") for origin in allow_origins),
            max_body_bytes=max_body_bytes,
            legacy_sse=legacy_sse,
            poll_interval=poll_interval,
        ),
        sessions=settings,
    )


def _parse_env(options: Iterable[str], ours: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the variables that `--env` options name, and what is wrong with the options.

    `NAME=VALUE` sets one; `NAME` takes our own value, which keeps a secret off the command line.
    """
    variables: dict[str, str] = {}
    problems: list[str] = []
    for option in options:
        name, equals, value = option.partition("=")
        if not name:
            problems.append("--env: expected NAME=VALUE or NAME, found no name")
        elif equals:
            variables[name] = value
        elif name in ours:
            variables[name] = ours[name]
        else:
            problems.append(
                f"--env {name}: the broker's own environment has no {name}; set it, or use {name}=VALUE"
            )
    return variables, problems


def _secrets(options: Iterable[str], variables: Mapping[str, str]) -> frozenset[str]:
    """Return the values that must not be shown: those of secret-looking names, and all passed by name."""
    by_name = {option for option in options if "=" not in option}
    return frozenset(
        value
        for name, value in variables.items()
        if len(value) >= MIN_SECRET_CHARS and (name in by_name or _SECRET_NAME.search(name))
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _as_host(host: str) -> str:
    """Return a host as a Host header names it: lower case, an IPv6 address in brackets."""
    try:
        return f"[{ipaddress.IPv6Address(host)}]"
    except ValueError:
        return host.lower()


def _name_of(command: tuple[str, ...]) -> str:
    """Return what to call a server whose operator has not said: its program, not what launches it."""
    program, *arguments = command
    if program.rpartition("/")[2].rstrip(".0123456789") in LAUNCHERS:
        for argument in arguments:
            if argument in INLINE_CODE:
                break
            if not argument.startswith("-"):
                program = argument
                break
    return program.rpartition("/")[2]
