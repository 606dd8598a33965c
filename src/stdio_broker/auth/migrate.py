"""Bring the tables of a database up to date, whoever else does the same at the same time.

The steps are in `auth.migrations`. All run in one transaction, begun here under a lock of the whole
database, so a second process waits, and then finds nothing to do.
"""

import asyncio
import logging
from weakref import WeakKeyDictionary

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationInfo
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from ..errors import StorageError

__all__ = ["VERSION_TABLE", "migrate"]

logger = logging.getLogger(__name__)

#: Where Alembic keeps which steps are done. Not under its usual name: the database may be shared.
VERSION_TABLE = "stdio_broker_version"

#: Names our lock to PostgreSQL. Any number, but always the same.
_LOCK = 0x7374_6469_6F62

# Alembic's `op` and `context` are global: in one process, one migration at a time.
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


async def migrate(connection: AsyncConnection) -> None:
    """Bring the tables up to date.

    Args:
        connection: In a transaction that may write.

    Raises:
        StorageError: A newer version has been here.
    """
    async with _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
        if connection.dialect.name == "postgresql":  # a SQLite transaction that may write is alone anyway
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        try:
            await connection.run_sync(_upgrade)
        except CommandError as exc:
            raise StorageError("a newer version of stdio-broker has changed its tables") from exc


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", "stdio_broker.auth:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["on_step"] = _log_step
    command.upgrade(config, "head")


def _log_step(*, step: MigrationInfo, **_: object) -> None:
    logger.info("storage.migrated", extra={"step": step.up_revision_id})
