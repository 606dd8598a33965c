"""The configuration of `run`: composed, checked as one, every mistake told at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from stdio_broker.config import Configuration, run_configuration
from stdio_broker.errors import ConfigError

DEFAULTS: Mapping[str, Any] = {
    "command": ("server",),
    "host": "127.0.0.1",
    "port": 8080,
    "env": (),
    "environ": {},
    "name": None,
    "cwd": None,
    "allow_remote": False,
    "allow_hosts": (),
    "allow_origins": (),
    "max_sessions": 256,
    "max_body_bytes": 1000,
    "max_line_bytes": 2000,
    "start_timeout": 60.0,
    "session_timeout": 86_400.0,
    "recovery": "replay",
    "idle_timeout": 1800.0,
    "eof_grace": 2.0,
    "stop_grace": 5.0,
    "drain_grace": 10.0,
    "legacy_sse": False,
    "poll_interval": None,
}


def configured(**options: object) -> Configuration:
    """Return the configuration with these options, and defaults for the rest."""
    return run_configuration(**{**DEFAULTS, **options})


def problems(**options: object) -> tuple[str, ...]:
    """Return what is wrong with these options."""
    with pytest.raises(ConfigError) as caught:
        configured(**options)
    return caught.value.problems


def test_every_option_arrives_where_it_counts() -> None:
    """Ours: `config` composes each package's own settings."""
    configuration = configured(
        command=("server", "--flag"),
        port=1234,
        name="git",
        cwd="/srv",
        max_sessions=3,
        max_body_bytes=1001,
        max_line_bytes=2002,
        start_timeout=1.5,
        idle_timeout=2.5,
        eof_grace=0.25,
        stop_grace=0.75,
        drain_grace=4.5,
        legacy_sse=True,
        poll_interval=5.5,
    )
    child = configuration.servers[0].recipe.config
    assert (configuration.host, configuration.port, configuration.drain_grace) == ("127.0.0.1", 1234, 4.5)
    assert (configuration.servers[0].recipe.name, tuple(child.cmd), child.cwd) == (
        "git",
        ("server", "--flag"),
        "/srv",
    )
    assert (child.eof_grace, child.stop_grace, child.max_line_bytes) == (0.25, 0.75, 2002)
    assert configuration.http.max_body_bytes == 1001
    assert configuration.servers[0].path == "/mcp"
    assert (configuration.http.legacy_sse, configuration.http.poll_interval) == (True, 5.5)
    sessions = configuration.servers[0].sessions
    assert (sessions.max_sessions, sessions.start_timeout, sessions.idle_timeout) == (3, 1.5, 2.5)


def test_a_child_sees_only_the_minimal_environment_and_what_is_named() -> None:
    """design.md, 6.8: an allow-list, never the whole environment."""
    environ = {"TOKEN": "from outside", "OTHER": "never", "EMPTY": ""}
    child = (
        configured(env=("NAME=value", "WITH=a=b", "BLANK=", "TOKEN", "EMPTY"), environ=environ)
        .servers[0]
        .recipe.config
    )
    assert child.env == {"NAME": "value", "WITH": "a=b", "BLANK": "", "TOKEN": "from outside", "EMPTY": ""}
    assert child.inherit_env == "minimal"


def test_the_last_of_two_values_for_a_variable_counts() -> None:
    """Ours: as with `docker run --env`."""
    assert configured(env=("A=1", "A=2")).servers[0].recipe.config.env == {"A": "2"}


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("MISSING", "--env MISSING"),
        ("=value", "--env"),
        ("", "--env"),
    ],
)
def test_a_variable_that_we_do_not_have_or_cannot_read_is_named(option: str, named: str) -> None:
    """Style guide, "Errors": what was expected, and what was found."""
    (problem,) = problems(env=(option,))
    assert named in problem


def test_no_problem_names_the_value_of_a_variable() -> None:
    """design.md, 6.8: never in errors."""
    told = problems(env=("TOKEN=hunter2", "=hunter2", "A=\0hunter2"), allow_origins=("x",))
    assert "hunter2" not in " ".join(told)


def test_every_mistake_is_told_at_once() -> None:
    """design.md, 5: every mistake, so that nobody mends one after the other."""
    told = problems(
        host="0.0.0.0",  # noqa: S104 - a mistake, on purpose
        env=("MISSING_ONE", "MISSING_TWO", "=x"),
        allow_origins=("app.example.com", "https://fine.example.com"),
        command=("",),
    )
    for named in ("--host", "MISSING_ONE", "MISSING_TWO", "app.example.com", "program"):
        assert [problem for problem in told if named in problem], (named, told)
    assert not [problem for problem in told if "fine.example.com" in problem]
    assert len(told) == 6


@pytest.mark.parametrize("name", ["start_timeout", "idle_timeout", "eof_grace", "stop_grace", "drain_grace"])
def test_seconds_that_are_no_number_are_a_mistake(name: str) -> None:
    """Ours: click lets `nan` through, and a timer that is set to it fails in the middle of something."""
    (problem,) = problems(**{name: float("nan")})
    assert name.replace("_", "-") in problem.replace("_", "-")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "mcp.example.com", ""])  # noqa: S104
def test_an_address_that_others_can_reach_needs_a_word_of_consent(host: str) -> None:
    """2025-11-25, transports: SHOULD bind only to localhost; whoever reaches `run` runs the command."""
    (problem,) = problems(host=host)
    assert "--allow-remote" in problem
    assert configured(host=host, allow_remote=True).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST"])
def test_a_loopback_address_needs_none(host: str) -> None:
    """design.md, 5: loopback only unless explicitly opened."""
    assert configured(host=host).host == host


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("mcp.example.com", "mcp.example.com"),
        ("MCP.Example.com", "mcp.example.com"),
        ("2001:db8::1", "[2001:db8::1]"),
        ("[2001:db8::1]", "[2001:db8::1]"),
    ],
)
def test_an_allowed_host_is_kept_as_a_host_header_names_it(given: str, named: str) -> None:
    """http.Settings: lower case, IPv6 in brackets."""
    assert configured(allow_hosts=(given,)).http.allowed_hosts >= {named, "127.0.0.1", "localhost", "[::1]"}


@pytest.mark.parametrize(
    "given", ["mcp.example.com:8443", "https://mcp.example.com", "mcp.example.com/mcp", ""]
)
def test_an_allowed_host_with_more_than_a_name_is_understood_or_a_mistake(given: str) -> None:
    """Ours: an option that silently does nothing costs its user an hour."""
    mistake = ""
    allowed: frozenset[str] = frozenset()
    try:
        allowed = configured(allow_hosts=(given,)).http.allowed_hosts
    except ConfigError as exc:
        mistake = str(exc)
    assert "--allow-host" in mistake or "mcp.example.com" in allowed


def test_the_host_that_we_listen_on_is_allowed() -> None:
    """Ours: a client that uses the URL that we print must get through."""
    assert "[::1]" in configured(host="::1").http.allowed_hosts
    assert "192.0.2.1" in configured(host="192.0.2.1", allow_remote=True).http.allowed_hosts


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("https://App.Example.com/", "https://app.example.com"),
        ("http://localhost:5173", "http://localhost:5173"),
    ],
)
def test_an_allowed_origin_is_kept_as_a_browser_sends_it(given: str, kept: str) -> None:
    """RFC 6454, 6.2: lower case, no path."""
    assert configured(allow_origins=(given,)).http.allowed_origins == {kept}


@pytest.mark.parametrize(
    "given", ["app.example.com", "*", "", "null", "https://", "https://app.example.com/page"]
)
def test_an_origin_that_no_browser_sends_is_a_mistake(given: str) -> None:
    """RFC 6454: scheme, host, port; anything else would silently never match."""
    (problem,) = problems(allow_origins=(given,))
    assert "--allow-origin" in problem


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("/usr/bin/mcp-server-git", "--repository", "."), "mcp-server-git"),
        (("npx", "-y", "@modelcontextprotocol/server-everything"), "server-everything"),
        (("/usr/bin/python3.12", "-I", "/srv/child.py"), "child.py"),
        (("uvx", "mcp-server-time"), "mcp-server-time"),
        (("npx",), "npx"),
    ],
)
def test_a_server_without_a_name_is_called_after_its_program(command: tuple[str, ...], name: str) -> None:
    """docs/running.md: `--name`."""
    assert configured(command=command).servers[0].recipe.name == name


def test_what_looks_like_a_secret_is_known_as_one() -> None:
    """docs/running.md, "Logs": by name alone, or by what the name says; from six characters on."""
    configuration = configured(
        env=(
            "URL=https://git.example",
            "API_TOKEN=in-the-open",
            "passphrase=also-a-secret",
            "PASS=short",
            "PLAIN",
        ),
        environ={"PLAIN": "passed-by-name"},
    )
    assert configuration.servers[0].recipe.secrets == {"in-the-open", "also-a-secret", "passed-by-name"}


def test_a_configuration_shows_no_value_of_a_variable() -> None:
    """design.md, 6.8: also where somebody logs the whole configuration."""
    configuration = configured(env=("API_TOKEN=hunter2-hunter2",))
    assert "hunter2" not in repr(configuration)
    assert "hunter2" not in str(configuration)


def test_nothing_but_the_limits_of_the_server_binds() -> None:
    """Ours: everybody is one principal, and the whole node is this server's."""
    configuration = configured(max_sessions=1000)
    quotas = configuration.quotas
    assert quotas.max_sessions == quotas.max_sessions_per_principal == 1000
    assert quotas.max_children == quotas.max_children_per_principal == 1000
    assert min(quotas.max_calls_per_principal, quotas.starts_per_minute, quotas.start_burst) >= 1_000_000
    assert quotas.max_starting_per_principal == quotas.max_starting


def test_the_command_is_started_as_it_is_for_everybody() -> None:
    """docs/running.md: no authentication, and no sandbox."""
    configuration = configured()
    (server,) = configuration.servers
    assert (configuration.auth.mode, server.principals, server.isolation.level) == ("none", None, "none")
    assert (configuration.storage_url, configuration.sources) == ("", ())
