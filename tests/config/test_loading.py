"""The configuration of `serve`: every key arrives where it counts, and nothing that is not in the file."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from stdio_broker.auth import Settings as AuthSettings
from stdio_broker.bridge import Settings as BridgeSettings
from stdio_broker.config import load_configuration, storage_url_of
from stdio_broker.config.configuration import MAX_BUFFERED_BYTES
from stdio_broker.config.server_composing import RESERVED, name_problem
from stdio_broker.errors import ConfigError, CredentialMissing
from stdio_broker.http import LOOPBACK_HOSTS
from stdio_broker.http import Settings as HttpSettings
from stdio_broker.sessions import ANONYMOUS, Principal
from stdio_broker.sessions import Settings as SessionSettings
from stdio_broker.sessions.quotas import QuotaSettings
from stdio_broker.supervisor.isolation import Isolation
from stdio_broker.supervisor.limits import Limits
from tests.config.files import SERVER, load, mistakes, secret_file

ANNA = Principal("keys", "anna")

EVERYTHING = """
[http]
host = "::1"
port = 9000
allowed_hosts = ["MCP.example.org"]
allowed_origins = ["https://App.example.org/"]
max_body_bytes = 1001
max_header_bytes = 1002
receive_timeout = 3
keep_alive_interval = 4.5
write_timeout = 5
retry_interval = 6
poll_interval = 7
legacy_sse = true

[limits]
max_sessions = 101
max_children = 102
max_starting = 13
queue_timeout = 14
max_sessions_per_principal = 15
max_children_per_principal = 16
max_calls_per_principal = 17
max_starting_per_principal = 3
max_waiting_per_principal = 4
starts_per_minute = 18
start_burst = 19
max_buffered_bytes = 100000
drain_grace = 0

[auth]
mode = "keys"
failures_per_minute = 20
failure_burst = 21
poll_interval = 22

[storage]
url = "sqlite:///keys.db"

[servers.my-git]
command = "bin/server"
args = ["--flag", "a b"]
inherit_env = ["PATH", "GIT_*"]
cwd = "work"
principals = ["anna", "ben"]
recovery = "end"
max_sessions = 23
max_children = 24
idle_timeout = 25
session_timeout = 26
start_timeout = 27
drain_timeout = 28
refresh_interval = 29
eof_grace = 0
stop_grace = 0.5
max_line_bytes = 30
max_calls = 31
max_parked = 32
park_timeout = 33

[servers.my-git.isolation]
level = "bwrap"
read_only = ["ro"]
read_write = ["/srv/../srv/rw"]
network = false
tmp_bytes = 2097152

[servers.my-git.env]
WHO = "${principal.name}"

[servers.my-git.limits]
nofile = 64
core_bytes = 1
cpu_seconds = 2
file_bytes = 4096
nice = 5
oom_score_adj = 6
memory_bytes = 10485760
processes = 8

[servers.other]
command = "other"
"""


def test_every_key_arrives_where_it_counts(tmp_path: Path) -> None:
    """design.md, 5: `config` composes each package's own settings."""
    (tmp_path / "work").mkdir()
    configuration = load(tmp_path, EVERYTHING)
    assert (configuration.host, configuration.port, configuration.drain_grace) == ("::1", 9000, 0)
    assert configuration.http == HttpSettings(
        allowed_hosts=LOOPBACK_HOSTS | {"[::1]", "mcp.example.org"},
        allowed_origins=frozenset({"https://app.example.org"}),
        max_body_bytes=1001,
        max_header_bytes=1002,
        receive_timeout=3,
        keep_alive_interval=4.5,
        write_timeout=5,
        retry_interval=6,
        poll_interval=7,
        legacy_sse=True,
    )
    assert configuration.quotas == QuotaSettings(
        max_sessions=101,
        max_children=102,
        max_starting=13,
        queue_timeout=14,
        max_sessions_per_principal=15,
        max_children_per_principal=16,
        max_calls_per_principal=17,
        max_starting_per_principal=3,
        max_waiting_per_principal=4,
        starts_per_minute=18,
        start_burst=19,
    )
    assert configuration.auth == AuthSettings(
        mode="keys", failures_per_minute=20, failure_burst=21, poll_interval=22
    )
    assert configuration.storage_url == f"sqlite:///{tmp_path}/keys.db"
    assert configuration.max_buffered_bytes == 100_000
    assert configuration.sources == (tmp_path / "broker.toml",)
    server, other = configuration.servers
    assert (server.path, server.principals) == ("/my-git/mcp", frozenset({"anna", "ben"}))
    assert (other.path, other.principals) == ("/other/mcp", None)
    assert server.sessions == SessionSettings(
        max_sessions=23,
        max_children=24,
        recovery="end",
        idle_timeout=25,
        session_timeout=26,
        start_timeout=27,
        drain_timeout=28,
        refresh_interval=29,
    )
    assert server.bridge == BridgeSettings(max_calls=31, max_parked=32, park_timeout=33)
    assert server.isolation == Isolation(
        level="bwrap",
        read_only=(f"{tmp_path}/ro",),
        read_write=("/srv/rw",),
        network=False,
        tmp_bytes=2 * 1024 * 1024,
        limits=Limits(
            nofile=64,
            core_bytes=1,
            cpu_seconds=2,
            file_bytes=4096,
            nice=5,
            oom_score_adj=6,
            memory_bytes=10 * 1024 * 1024,
            processes=8,
        ),
    )
    child = server.recipe.config
    assert (server.recipe.name, tuple(child.cmd)) == ("my-git", (f"{tmp_path}/bin/server", "--flag", "a b"))
    assert (child.cwd, child.inherit_env) == (tmp_path / "work", ("PATH", "GIT_*"))
    assert (child.eof_grace, child.stop_grace, child.max_line_bytes) == (0, 0.5, 30)


def test_what_is_not_in_the_file_is_as_each_layer_has_it(tmp_path: Path) -> None:
    """docs/configuration.md: the defaults; one source for each."""
    configuration = load(tmp_path, SERVER)
    assert (configuration.host, configuration.port, configuration.drain_grace) == ("127.0.0.1", 8080, 10.0)
    assert configuration.http == HttpSettings()
    assert configuration.quotas == QuotaSettings()
    assert configuration.auth == dataclasses.replace(AuthSettings(), mode="keys")
    assert configuration.max_buffered_bytes == MAX_BUFFERED_BYTES
    assert configuration.storage_url == f"sqlite:///{tmp_path}/.local/state/stdio-broker/broker.db"
    (server,) = configuration.servers
    assert (server.sessions, server.bridge, server.isolation) == (
        SessionSettings(),
        BridgeSettings(),
        Isolation(),
    )
    assert (tuple(server.recipe.config.cmd), server.recipe.config.cwd) == (("mcp-server-git",), None)
    assert (server.recipe.config.inherit_env, server.recipe.credentials) == ("minimal", None)
    assert not server.recipe.per_principal


def test_parts_that_nobody_has_set_are_no_more_than_the_whole(tmp_path: Path) -> None:
    """Ours: whoever makes the node small does not have to say it of every principal and server, too."""
    configuration = load(
        tmp_path, "[limits]\nmax_sessions = 5\nmax_children = 4\nmax_starting = 2\n" + SERVER
    )
    quotas = configuration.quotas
    assert (quotas.max_sessions_per_principal, quotas.max_children_per_principal) == (5, 4)
    assert quotas.max_starting_per_principal == 2
    assert configuration.servers[0].sessions.max_sessions == 5


async def test_variables_are_made_for_the_principal(tmp_path: Path) -> None:
    """docs/configuration.md, "Templates"."""
    secret_file(tmp_path / "pass", "s3cret$word\n")
    secret_file(tmp_path / "key.pem", "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\n-----END KEY-----\n")
    (tmp_path / "tokens").mkdir()
    secret_file(tmp_path / "tokens" / "anna", "anna-token\n")
    configuration = load(
        tmp_path,
        SERVER
        + """
        [servers.git.env]
        PLAIN = "a=b $HOME $$x"
        API_TOKEN = "in-the-open"
        WHO = "<${principal.name}>"
        TOKEN = "${credential.token}"
        URL = "https://x:${secret:pass}@host"
        KEY = { file = "key.pem" }
        OURS = { env = "OUR_SECRET" }
        [servers.git.credential]
        source = "file"
        path = "tokens/{principal}"
        [secrets]
        pass = { file = "pass" }
        unused = { env = "OUR_SECRET" }
        """,
        {"OUR_SECRET": "ours-${x}"},
    )
    recipe = configuration.servers[0].recipe
    launch = await recipe.resolve(ANNA)
    assert launch.config.env == {
        "PLAIN": "a=b $HOME $x",
        "API_TOKEN": "in-the-open",
        "WHO": "<anna>",
        "TOKEN": "anna-token",
        "URL": "https://x:s3cret$word@host",
        "KEY": "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\n-----END KEY-----",
        "OURS": "ours-${x}",
    }
    # A log has single lines: those of a key that are long enough to be nothing else are hidden, too.
    assert launch.secrets >= {"in-the-open", "anna-token", "s3cret$word", "ours-${x}", "MIIEvQIBADANBgkq"}
    assert recipe.named_secrets == {"pass": "s3cret$word"}  # what it needs, not all there are
    with pytest.raises(CredentialMissing):
        await recipe.resolve(Principal("keys", "ben"))
    assert configuration.sources == (tmp_path / "broker.toml", tmp_path / "pass", tmp_path / "key.pem")


@pytest.mark.parametrize(
    ("credential", "token"),
    [
        ('{ source = "static", value = { env = "SHARED" } }', "shared-token"),
        ('{ source = "file", path = "tokens" }', "file-token"),
        ('{ source = "env", name = "TOKEN_{PRINCIPAL}" }', "env-token"),
        (
            '{ source = "command", command = ["./print", "x"], env = { A = "a$b", B = { env = "SHARED" } } }',
            "x anna git a$b shared-token",
        ),
    ],
)
async def test_each_source_of_credentials_can_be_configured(
    tmp_path: Path, credential: str, token: str
) -> None:
    """Issue 5: static, a file per principal, the environment, a command."""
    (tmp_path / "tokens").mkdir()
    secret_file(tmp_path / "tokens" / "anna", "file-token")
    script = tmp_path / "print"
    script.write_text('#!/bin/sh\necho "$1 $STDIO_BROKER_PRINCIPAL $STDIO_BROKER_SERVER $A $B"\n')
    script.chmod(0o700)
    configuration = load(
        tmp_path,
        f'{SERVER}credential = {credential}\nenv = {{ T = "${{credential.token}}" }}\n',
        {"SHARED": "shared-token", "TOKEN_ANNA": "env-token"},
    )
    launch = await configuration.servers[0].recipe.resolve(ANNA)
    assert launch.config.env == {"T": token}


async def test_without_authentication_everybody_is_anonymous(tmp_path: Path) -> None:
    """design.md, 1: `anonymous` where authentication is off; such a one can have a credential, too."""
    secret_file(tmp_path / "anonymous", "their-token")
    configuration = load(
        tmp_path,
        f"""
        [auth]
        mode = "none"
        {SERVER}
        env = {{ T = "${{credential.token}}" }}
        credential = {{ source = "file", path = "{{principal}}" }}
        """,
    )
    assert configuration.auth.mode == "none"
    launch = await configuration.servers[0].recipe.resolve(ANONYMOUS)
    assert launch.config.env == {"T": "their-token"}


def test_the_same_file_makes_the_same_configuration(tmp_path: Path) -> None:
    """Issue 5, reload: what has not changed is not disturbed."""
    secret_file(tmp_path / "token", "first-token")
    text = f"""
        {SERVER}
        env = {{ T = "${{credential.token}}", W = "${{principal.name}}" }}
        credential = {{ source = "static", value = {{ file = "token" }} }}
        [servers.asks]
        command = "asks"
        env = {{ T = "${{credential.token}}" }}
        credential = {{ source = "command", command = ["ask"] }}
        """
    git, asks = load(tmp_path, text).servers
    assert (git, asks) == load(tmp_path, text).servers
    assert asks != load(tmp_path, text.replace('["ask"]', '["ask", "more"]')).servers[1]
    secret_file(tmp_path / "token", "second-token")
    assert git != load(tmp_path, text).servers[0]
    assert asks == load(tmp_path, text).servers[1]


def test_no_secret_is_in_a_repr(tmp_path: Path) -> None:
    """design.md, 6.8: also where somebody logs the whole configuration."""
    secret_file(tmp_path / "token")
    configuration = load(
        tmp_path,
        f"""
        {SERVER}
        credential = {{ source = "static", value = {{ file = "token" }} }}
        [servers.git.env]
        T = "${{credential.token}}"
        P = "${{secret:p}}"
        K = "hunter2-hunter2"
        F = {{ file = "token" }}
        [secrets.p]
        file = "token"
        [storage]
        url = "postgresql://me:hunter2-hunter2@host/db"
        """,
    )
    assert "hunter2" in configuration.storage_url
    assert "hunter2" not in repr(configuration)
    assert "hunter2" not in repr(configuration.servers[0].recipe.credentials)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("sqlite:///keys.db", "sqlite:///{here}/keys.db"),
        ("sqlite:////var/lib/keys.db", "sqlite:////var/lib/keys.db"),
        ("postgresql://me:p%40ss@host:5433/db?sslmode=require", None),
    ],
)
def test_a_relative_database_is_beside_the_file(tmp_path: Path, url: str, kept: str | None) -> None:
    """docs/configuration.md: relative paths are relative to the file."""
    found = load(tmp_path, f'{SERVER}[storage]\nurl = "{url}"\n').storage_url
    assert found == (url if kept is None else kept.format(here=tmp_path))


def test_the_database_can_be_told_by_a_file(tmp_path: Path) -> None:
    """docs/configuration.md, "[storage]": the URL of PostgreSQL holds a password."""
    url = "postgresql://me:secret@host/db"
    secret_file(tmp_path / "url", url)
    configuration = load(tmp_path, f'{SERVER}[storage]\nurl = {{ file = "url" }}\n')
    assert configuration.storage_url == url
    assert configuration.sources == (tmp_path / "broker.toml", tmp_path / "url")


def test_the_keys_can_be_found_whatever_else_is_wrong(tmp_path: Path) -> None:
    """Ours: `stdio-broker key` needs the database only, not a file without mistakes."""
    file = tmp_path / "broker.toml"
    file.write_text('[storage]\nurl = "sqlite:///k.db"\n[servers.git]\ncomand = "x"\n[http]\nport = "x"\n')
    assert storage_url_of(str(file), {}) == f"sqlite:///{tmp_path}/k.db"
    other = {"STDIO_BROKER_STORAGE__URL": "postgresql://h/d", "STDIO_BROKER_HTTP__PROT": "1"}
    assert storage_url_of(str(file), other) == "postgresql://h/d"
    assert storage_url_of(None, {"XDG_STATE_HOME": "/state"}) == "sqlite:////state/stdio-broker/broker.db"
    file.write_text("")
    assert storage_url_of(str(file), {"HOME": "/h"}) == "sqlite:////h/.local/state/stdio-broker/broker.db"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[storage]\nurl = 3", "storage.url: expected a text or a table, found a number"),
        ("[storage]\nulr = 3", 'storage.ulr: unknown key; did you mean "url"?'),
        ("storage = 3", "storage: expected a table, found a number"),
    ],
)
def test_the_keys_cannot_be_found_where_the_file_says_it_badly(
    tmp_path: Path, text: str, problem: str
) -> None:
    """Ours: never another database than the one that was meant."""
    file = tmp_path / "broker.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        storage_url_of(str(file), {})
    assert caught.value.problems == (f"{file}: {problem}",)


def test_our_own_environment_counts_if_no_other_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: the default of the command line."""
    monkeypatch.setenv("STDIO_BROKER_HTTP__PORT", "1234")
    file = tmp_path / "broker.toml"
    file.write_text(SERVER)
    assert load_configuration(os.fspath(file)).port == 1234


def test_a_name_that_the_broker_needs_is_reserved(tmp_path: Path) -> None:
    """design.md, 5: the paths of the HTTP side."""
    for name in ("authorize", "token", "register", "revoke", "account", "healthz", "readyz", "mcp", "sse"):
        assert name in RESERVED
        assert mistakes(tmp_path, SERVER.replace("git]", f"{name}]")) == [
            f"broker.toml: servers.{name}: {name_problem(name)}"
        ]


@pytest.mark.parametrize("name", ["a", "0", "git", "my-git-2", "a" * 64])
def test_a_name_that_can_be_a_part_of_a_url_is_one(name: str) -> None:
    """docs/configuration.md: `[servers.NAME]`."""
    assert name_problem(name) is None


@pytest.mark.parametrize(
    "name", ["", "Git", "-git", "a_b", "a/b", "a.b", ".well-known", "ä", "a" * 65, "a\n"]
)
def test_another_name_is_none(name: str) -> None:
    """The same rule, from the other side."""
    assert name_problem(name) is not None
