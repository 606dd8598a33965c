"""Which authenticator the settings ask for."""

from pathlib import Path

import pytest

from stdio_broker.auth import KeyAuthenticator, NoAuthentication, Settings, open_authenticator
from stdio_broker.auth.database import Database
from stdio_broker.auth.store import KeyStore
from stdio_broker.errors import ConfigError, Unauthenticated


async def test_without_authentication_no_database_is_touched(tmp_path: Path) -> None:
    async with open_authenticator(Settings(mode="none"), f"sqlite:///{tmp_path}/broker.db") as authenticator:
        assert isinstance(authenticator, NoAuthentication)
    assert list(tmp_path.iterdir()) == []


async def test_with_keys_the_database_is_opened(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/broker.db"
    async with Database(url) as database:
        key = await KeyStore(database).create("alice")
    async with open_authenticator(Settings(mode="keys"), url) as authenticator:
        assert isinstance(authenticator, KeyAuthenticator)
        access = await authenticator.authenticate(f"Bearer {key.text}".encode(), "127.0.0.1")
        assert access.grant == key.id
        with pytest.raises(Unauthenticated):
            await authenticator.authenticate(b"Bearer other", "127.0.0.1")


async def test_a_bad_url_is_an_error_of_the_configuration() -> None:
    with pytest.raises(ConfigError):
        async with open_authenticator(Settings(mode="keys"), "mysql://host/database"):
            pass
