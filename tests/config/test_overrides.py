"""Values that the environment replaces: `STDIO_BROKER_HTTP__PORT=9000`."""

from __future__ import annotations

from pathlib import Path

import pytest

from stdio_broker.supervisor.warden_process import MARK
from tests.config.files import SERVER, load, mistakes, secret_file

PREFIX = "STDIO_BROKER_"

MY_GIT = SERVER.replace("git", "my-git", 1)


def environ(**overrides: str) -> dict[str, str]:
    """Return an environment with overrides."""
    return {"HOME": "/home/me"} | {f"{PREFIX}{name}": value for name, value in overrides.items()}


def test_a_number_a_word_and_a_list_are_read_as_toml(tmp_path: Path) -> None:
    """docs/configuration.md, "Overrides from the environment"."""
    configuration = load(
        tmp_path,
        f"[http]\nport = 1\n{MY_GIT}",
        environ(
            HTTP__PORT="9000",
            HTTP__LEGACY_SSE="true",
            HTTP__WRITE_TIMEOUT="2.5",
            HTTP__ALLOWED_HOSTS='["mcp.example"]',
            LIMITS__DRAIN_GRACE="0",
            SERVERS__MY_GIT__ARGS='["a", "b"]',
            SERVERS__MY_GIT__LIMITS__NICE="5",
            SERVERS__MY_GIT__INHERIT_ENV='["PATH"]',
            SERVERS__MY_GIT__ISOLATION='{ level = "bwrap", network = false }',
        ),
    )
    assert (configuration.port, configuration.drain_grace) == (9000, 0)
    assert (configuration.http.legacy_sse, configuration.http.write_timeout) == (True, 2.5)
    assert "mcp.example" in configuration.http.allowed_hosts
    (server,) = configuration.servers
    assert tuple(server.recipe.config.cmd) == ("mcp-server-git", "a", "b")
    assert server.recipe.config.inherit_env == ("PATH",)
    assert (server.isolation.level, server.isolation.network) == ("bwrap", False)
    assert server.isolation.limits.nice == 5


@pytest.mark.parametrize(
    "text", ["8080", "true", '"quoted"', "[1]", "a = 1", "1\nb = 2", "1979-05-27", "", "{", "x" * 10_000]
)
async def test_a_text_is_that_text(tmp_path: Path, text: str) -> None:
    """Ours: a password may look like anything."""
    configuration = load(tmp_path, MY_GIT, environ(SERVERS__MY_GIT__ENV__WITH__UNDERSCORES=text))
    template = configuration.servers[0].recipe.environment
    assert template is not None
    assert template.names == ("WITH__UNDERSCORES",)
    assert (await configuration.servers[0].recipe.sample()).config.env == {"WITH__UNDERSCORES": text}


def test_a_secret_can_be_told_by_where_it_is(tmp_path: Path) -> None:
    """docs/configuration.md: the same tables as in the file."""
    secret_file(tmp_path / "url", "postgresql://h/d")
    whole = load(tmp_path, MY_GIT, environ(STORAGE__URL='{ file = "url" }'))
    part = load(tmp_path, f'[storage]\nurl = "sqlite:///x"\n{MY_GIT}', environ(STORAGE__URL__FILE="url"))
    assert whole.storage_url == part.storage_url == "postgresql://h/d"


def test_a_word_of_a_few_is_that_word(tmp_path: Path) -> None:
    """Ours: `none` is no TOML, and `"none"` would be a nuisance in a shell."""
    assert load(tmp_path, MY_GIT, environ(AUTH__MODE="none")).auth.mode == "none"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("HTTP__PORT", "x", 'http.port: expected a whole number, 0 to 65535, found "x"'),
        ("HTTP__PROT", "1", "unknown key 'prot'; did you mean \"port\"?"),
        ("HTPP__PORT", "1", "unknown key 'htpp'; did you mean \"http\"?"),
        ("HTTP__PORT__X", "1", "unknown key 'x'; see the reference page for those that there are"),
        ("HTTP__", "1", "unknown key ''; see the reference page for those that there are"),
        ("__", "1", 'unknown key \'\'; expected "auth", "http", "limits", "secrets", "servers" or "storage"'),
        ("SERVERS__MY_GTI__ARGS", "[]", 'the file has no servers.my_gti; did you mean "my-git"?'),
        (
            "SECRETS__A__ENV",
            "X",
            "the file has no secrets.a; see the reference page for those that there are",
        ),
        ("HTTP_PORT", "1", "two underscores are expected: STDIO_BROKER_HTTP__PORT"),
        ("SERVERS__MY_GIT__ENV", "hunter2", "servers.my-git.env: expected a table, found a text"),
        ("SERVERS__MY_GIT__ENV__A", "${hunter.x-hunter2-}", None),
        ("STORAGE__URL", "hunter2", None),
    ],
)
def test_a_mistake_names_the_variable(tmp_path: Path, name: str, value: str, told: str | None) -> None:
    """Issue 5: like an unknown key; and the value may be a secret."""
    (problem,) = mistakes(tmp_path, MY_GIT, environ(**{name: value}))
    assert problem.startswith(f"{PREFIX}{name}: ")
    assert told is None or problem == f"{PREFIX}{name}: {told}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (MARK, "1"),
        ("STDIO_BROKER_SERVICE_HOST", "10.0.0.1"),
        ("STDIO_BROKER_PORT", "tcp://10.0.0.1:8080"),
        ("STDIO_BROKER_HTTP_PORT", "tcp://10.0.0.1:8080"),
        ("stdio_broker_http__port", "1"),
    ],
)
def test_other_variables_are_none_of_ours(tmp_path: Path, name: str, value: str) -> None:
    """supervisor: our own mark, in a broker below a broker; Kubernetes: a service that is called like us."""
    assert load(tmp_path, MY_GIT, {"HOME": "/", name: value}).port == 8080


def test_the_longer_name_counts(tmp_path: Path) -> None:
    """Ours: names are taken in the order of the alphabet, so that it is always the same one."""
    both = environ(SERVERS__MY_GIT__LIMITS="{ nice = 1, nofile = 99 }", SERVERS__MY_GIT__LIMITS__NICE="2")
    limits = load(tmp_path, MY_GIT, both).servers[0].isolation.limits
    assert (limits.nice, limits.nofile) == (2, 99)
