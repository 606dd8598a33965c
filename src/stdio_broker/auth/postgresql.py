"""A PostgreSQL database. The URI goes to the driver as it is, which knows all that libpq knows of one."""

import functools
import importlib
from types import ModuleType

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ..errors import ConfigError, StorageError
from .storage_url import PostgresServer

__all__ = ["open_postgresql"]

#: Seconds that the server has for a connection, and for an answer.
CONNECT_TIMEOUT = 5.0
COMMAND_TIMEOUT = 10.0

#: Connections at once.
MAX_CONNECTIONS = 4


def open_postgresql(server: PostgresServer) -> AsyncEngine:
    """Return an engine for the server; nothing is connected yet.

    Raises:
        ConfigError: The driver is not installed.
    """
    driver = _driver()
    return create_async_engine(
        "postgresql+asyncpg://",  # so the engine does not know the password, and cannot show it
        async_creator=functools.partial(_connect, driver, server),
        pool_size=MAX_CONNECTIONS,
        max_overflow=0,
        pool_timeout=CONNECT_TIMEOUT,
        hide_parameters=True,  # a hash of a key is nobody's business
    )


def _driver() -> ModuleType:
    try:
        return importlib.import_module("asyncpg")
    except ImportError:
        raise ConfigError(
            "storage: a postgresql:// URL needs the driver asyncpg; install stdio-broker[postgres]"
        ) from None


async def _connect(driver: ModuleType, server: PostgresServer) -> object:
    """Return a connection of the driver's.

    Raises:
        StorageError: There is none. Only the kind of error is told: its text may quote a piece of the URI.
    """
    try:
        return await driver.connect(server.uri, timeout=CONNECT_TIMEOUT, command_timeout=COMMAND_TIMEOUT)
    except (driver.PostgresError, driver.InterfaceError, OSError, ValueError) as exc:
        raise StorageError(f"no connection to PostgreSQL: {type(exc).__name__}") from None
