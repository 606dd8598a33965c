"""What is asked of the driver of PostgreSQL, and what if there is none."""

import sys
import traceback

import pytest

from stdio_broker.auth.database import Database
from stdio_broker.errors import ConfigError, StorageError


async def test_without_the_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue 5: PostgreSQL is a URL, and an extra."""
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(ConfigError, match=r"needs the driver asyncpg; install stdio-broker\[postgres\]"):
        async with Database("postgresql://user:canary@127.0.0.1:1/database"):
            pass


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("postgresql://user:canary@127.0.0.1:1/database?sslmode=disable", "ConnectionRefusedError"),
        ("postgresql://user:canary@/database?host=/nowhere/canary", "FileNotFoundError"),
        ("postgresql://user:canary@127.0.0.1:1/database?sslmode=canary", "ClientConfigurationError"),
        (f"postgresql://user:canary@{'canary' * 20}/database", "UnicodeError"),
    ],
)
async def test_a_server_that_cannot_be_reached_is_an_error_without_its_url(url: str, kind: str) -> None:
    """Ours: only the kind of the driver's error is told."""
    with pytest.raises(StorageError) as caught:
        async with Database(url):
            pass
    assert str(caught.value) == f"the storage cannot be used: no connection to PostgreSQL: {kind}"
    assert "canary" not in "".join(traceback.format_exception(caught.value))
