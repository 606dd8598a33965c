"""The authenticator that the settings ask for, ready to be asked."""

import contextlib
from collections.abc import AsyncIterator

from .authenticator import Authenticator, NoAuthentication
from .key_authenticator import KeyAuthenticator
from .settings import Settings

__all__ = ["open_authenticator"]


@contextlib.asynccontextmanager
async def open_authenticator(settings: Settings, storage_url: str) -> AsyncIterator[Authenticator]:
    """Open an authenticator within the block.

    Args:
        settings: Which one, and its limits.
        storage_url: Database of the keys. Not touched in mode "none".

    Raises:
        ConfigError: The URL is wrong, or what it needs is not installed.
        StorageError: The database cannot be used.
    """
    if settings.mode == "none":
        yield NoAuthentication()
        return
    # The database library costs 20 MB and a third of a second: only whoever needs it pays.
    from .database import Database  # noqa: PLC0415
    from .store import KeyStore  # noqa: PLC0415

    async with (
        Database(storage_url) as database,
        KeyAuthenticator(KeyStore(database), settings) as authenticator,
    ):
        yield authenticator
