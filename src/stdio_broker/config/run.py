"""The configuration of `stdio-broker run`: one server, from options. All mistakes are told at once."""

import math
from collections.abc import Iterable, Mapping

from ..errors import ConfigError
from ..http import LOOPBACK_HOSTS
from ..http import Settings as HttpSettings
from ..sessions import ServerRecipe
from ..sessions import Settings as SessionSettings
from ..sessions.quotas import QuotaSettings
from ..sessions.settings import Recovery
from ..supervisor import Config as ChildConfig
from ..supervisor.isolation import Isolation
from .addresses import as_host, host_in_header, is_loopback, origin_in_header
from .configuration import MAX_BUFFERED_BYTES, Configuration, ServerConfiguration
from .secrecy import MIN_SECRET_CHARS, looks_secret

__all__ = ["INLINE_CODE", "LAUNCHERS", "run_configuration"]

#: Programs that start another one, named by their first argument.
LAUNCHERS = frozenset({"bunx", "node", "npx", "pipx", "python", "uvx"})

#: Options of theirs behind which there is code, not a name.
INLINE_CODE = frozenset({"-c", "-e", "--eval"})

#: More than there can be of anything: a quota that never binds.
UNBOUND = 1_000_000


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
    session_timeout: float,
    recovery: Recovery,
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
    if not is_loopback(host) and not allow_remote:
        problems.append(
            f"--host {host}: this is reachable from other machines, and `run` has no authentication; whoever "
            "reaches it runs the command with your rights. Add --allow-remote if that is what you want"
        )
    origins = {origin: origin_in_header(origin) for origin in allow_origins}
    problems += [
        f"--allow-origin {origin}: expected an origin, such as https://app.example"
        for origin, sent in origins.items()
        if sent is None
    ]
    hosts = {allowed: host_in_header(allowed) for allowed in allow_hosts}
    problems += [
        f"--allow-host {allowed!r}: expected a host name, such as mcp.example"
        for allowed, sent in hosts.items()
        if sent is None
    ]
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
            max_sessions=max_sessions,
            start_timeout=start_timeout,
            idle_timeout=idle_timeout,
            session_timeout=session_timeout,
            recovery=recovery,
        )
    except ValueError as exc:
        problems.append(str(exc))
    if child is None or settings is None or problems:
        raise ConfigError(*problems)
    recipe = ServerRecipe(name or _name_of(command), child, _secrets(env, variables))
    return Configuration(
        host=host,
        port=port,
        drain_grace=drain_grace,
        # Whoever runs a command for themselves wants it as it is.
        servers=(ServerConfiguration(recipe=recipe, sessions=settings, isolation=Isolation(level="none")),),
        http=HttpSettings(
            allowed_hosts=LOOPBACK_HOSTS | {as_host(host)} | set(filter(None, hosts.values())),
            allowed_origins=frozenset(filter(None, origins.values())),
            max_body_bytes=max_body_bytes,
            legacy_sse=legacy_sse,
            poll_interval=poll_interval,
        ),
        quotas=_quotas(max_sessions),
        max_buffered_bytes_per_principal=MAX_BUFFERED_BYTES,
    )


def _quotas(max_sessions: int) -> QuotaSettings:
    """Return quotas that never bind before the server's own limits: everybody is one principal here."""
    return QuotaSettings(
        max_sessions=max_sessions,
        max_children=max_sessions,
        max_sessions_per_principal=max_sessions,
        max_children_per_principal=max_sessions,
        max_calls_per_principal=UNBOUND,
        max_starting_per_principal=QuotaSettings().max_starting,
        max_waiting_per_principal=max_sessions,
        starts_per_minute=UNBOUND,
        start_burst=UNBOUND,
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
        if len(value) >= MIN_SECRET_CHARS and (name in by_name or looks_secret(name))
    )


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
