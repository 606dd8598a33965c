"""Which database a URL names."""

import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.auth import default_storage_url
from stdio_broker.auth.storage_url import PostgresServer, SqliteFile, parse_storage_url
from stdio_broker.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////var/lib/broker.db", "/var/lib/broker.db"),
        ("sqlite:///broker.db", "broker.db"),
        ("sqlite:///with space/50%25?.db#x", "with space/50%25?.db#x"),
    ],
)
def test_a_sqlite_url_holds_a_path_as_it_stands(url: str, path: str) -> None:
    assert parse_storage_url(url) == SqliteFile(Path(path))


def test_the_default_is_the_file_it_seems_to_be() -> None:
    url = default_storage_url({"XDG_STATE_HOME": "/a b/50%25?#"})
    assert parse_storage_url(url) == SqliteFile(Path("/a b/50%25?#/stdio-broker/broker.db"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:pass@host:5432/database?sslmode=require",
        "postgres://host/database",
        "postgresql:///database?host=/run/postgresql",
        "postgresql://one:5432,two:5433/database?target_session_attrs=primary",
        "postgresql://user:p%2Fss@[::1]:5432/database",
        "postgresql://",
    ],
)
def test_a_postgresql_url_is_left_to_the_driver(url: str) -> None:
    """PostgreSQL, "Connection URIs"."""
    assert parse_storage_url(url) == PostgresServer(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "broker.db",
        "/var/lib/broker.db",
        "mysql://host/db",
        "sqlite://",
        "sqlite:///",
        "sqlite://host/x",
        "sqlite:///:memory:",
        "sqlite:///a\0b",
        "postgresql+psycopg://host/db",
        "file:///x",
    ],
)
def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^storage: expected sqlite:///PATH or postgresql://USER@HOST"):
        parse_storage_url(url)


def _shown(url: str) -> str:
    """Return all that anybody would see of a URL."""
    try:
        return repr(parse_storage_url(url))
    except ConfigError as exc:
        return "".join(traceback.format_exception(exc))


@given(before=st.text("aC1/#?@:[]%", max_size=6), after=st.text("aC1/#?@:[]%", max_size=6))
def test_no_error_and_no_repr_quotes_a_password(before: str, after: str) -> None:
    """Ours: also when it was not escaped, and the URL cannot be split for that reason."""
    assert "canary" not in _shown(f"postgresql://user:{before}canary{after}@host/database")


@pytest.mark.parametrize("password", ["pa/ss", "pa#ss", "pa?ss", "[pass"])
def test_a_password_that_was_not_escaped_is_explained(password: str) -> None:
    with pytest.raises(
        ConfigError, match="cannot be split; in a user name or password, characters such as / #"
    ):
        parse_storage_url(f"postgresql://user:{password}@host/database")
