"""The broker's database, open and up to date. SQLite and PostgreSQL look the same from here on.

Every error of the database becomes a `StorageError`. Of a driver's own words only SQLite's are passed on:
they never quote a value, while those of others may quote a piece of the URL or of a row.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Self

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ..errors import StorageError
from .migrate import migrate
from .postgresql import open_postgresql
from .sqlite import WRITES, open_sqlite
from .storage_url import SqliteFile, parse_storage_url

__all__ = ["Database"]


class Database:
    """A database of ours.

    Use as an async context manager; entering it makes the database or brings it up to date.

    Args:
        url: See `auth.storage_url`.

    Raises:
        ConfigError: The URL is wrong, or what it needs is not installed.
        StorageError: On entering: the database cannot be used.
    """

    def __init__(self, url: str) -> None:
        self._place = parse_storage_url(url)

    async def __aenter__(self) -> Self:
        """Open it."""
        if isinstance(self._place, SqliteFile):
            self._engine = open_sqlite(self._place.path)
        else:
            self._engine = open_postgresql(self._place)
        self._writer = self._engine.execution_options(**{WRITES: True})
        try:
            async with self.writing() as connection:
                await migrate(connection)
        except BaseException:
            await self._engine.dispose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self._engine.dispose()

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection for a transaction that only reads.

        Raises:
            StorageError: Something went wrong with the database.
        """
        async with self._transaction(self._engine) as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection for a transaction, which is committed at the end of the block.

        Raises:
            StorageError: Something went wrong with the database.
        """
        async with self._transaction(self._writer) as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def _transaction(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        with self._translated():
            async with _connected(engine) as connection, connection.begin():
                yield connection

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, OSError) as exc:
            # Not `from exc`: what may quote a value is not to be printed with a traceback.
            raise StorageError(self._reason(exc)) from None

    def _reason(self, exc: Exception) -> str:
        cause = (exc.orig if isinstance(exc, DBAPIError) else None) or exc
        if isinstance(self._place, SqliteFile):
            words = str(cause) if isinstance(cause, sqlite3.Error) else type(cause).__name__
            return f"{self._place.path}: {words}"
        return f"PostgreSQL: {type(cause.__cause__ or cause).__name__}"


@contextlib.asynccontextmanager
async def _connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Lend a connection, and leave none behind: to cancel one that is being made would do that.

    Nobody closes it then, neither the driver nor the pool. It takes a bounded time, as both have limits.
    """
    connection = engine.connect()
    connecting = asyncio.ensure_future(connection.start())
    async with contextlib.AsyncExitStack() as stack:
        try:
            await asyncio.shield(connecting)
        finally:
            await asyncio.wait({connecting})
            if connecting.exception() is None:
                stack.push_async_exit(connection)
        yield connection
