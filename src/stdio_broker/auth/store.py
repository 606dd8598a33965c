"""The keys in the database. Each verb is one transaction.

Every change is counted in the same transaction as it is made, so whoever has seen a count has seen, or can
load, all that it counts. The count is taken first: it is the one row that all writers lock, and so they
queue instead of blocking each other crosswise.
"""

import time
from collections.abc import Callable

from sqlalchemy import ColumnElement, Row, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .database import Database
from .keys import KeyRecord, LiveKeys, NewKey, hash_of, new_key, principal_problem
from .tables import api_key, change_counter

__all__ = ["KeyStore"]

_REVISION = select(change_counter.c.value).where(change_counter.c.name == api_key.name)
_COUNT_CHANGE = (
    update(change_counter)
    .where(change_counter.c.name == api_key.name)
    .values(value=change_counter.c.value + 1)
)


class KeyStore:
    """All keys.

    Args:
        database: Where they are; open.
        clock: Tells the seconds since the epoch.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def create(
        self,
        principal: str,
        *,
        servers: frozenset[str] | None = None,
        expires_at: float | None = None,
        note: str = "",
    ) -> NewKey:
        """Make a key. Nobody can ever read it again.

        Args:
            principal: Whose it is.
            servers: Names of the servers that it may use; None: every server.
            expires_at: When it ends to be good, in seconds since the epoch; None: never.
            note: What is to be remembered of it.

        Raises:
            StorageError: The database cannot be used.
            ValueError: That is no name of a principal.
        """
        if problem := principal_problem(principal):
            raise ValueError(f"principal: {problem}")
        key = new_key()
        row = {
            "id": key.id,
            "hash": hash_of(key.text.encode("ascii")),
            "principal": principal,
            "servers": None if servers is None else sorted(servers),
            "created_at": self._clock(),
            "expires_at": expires_at,
            "note": note,
        }
        async with self._database.writing() as connection:
            await connection.execute(_COUNT_CHANGE)
            await connection.execute(insert(api_key).values(row))
        return key

    async def records(self) -> tuple[KeyRecord, ...]:
        """Return all keys there ever were, the oldest first.

        Raises:
            StorageError: The database cannot be used.
        """
        async with self._database.reading() as connection:
            rows = await connection.execute(select(api_key).order_by(api_key.c.created_at, api_key.c.id))
            return tuple(map(_record, rows))

    async def revoke_id(self, key_id: str) -> tuple[KeyRecord, ...]:
        """Revoke the key of an id; return it, or nothing if there is none. May be repeated.

        Raises:
            StorageError: The database cannot be used.
        """
        return await self._revoke(api_key.c.id == key_id)

    async def revoke_key(self, text: str) -> tuple[KeyRecord, ...]:
        """Revoke a key by its own text; return it, or nothing if there is none. May be repeated.

        Raises:
            StorageError: The database cannot be used.
        """
        return await self._revoke(api_key.c.hash == hash_of(text.encode()))

    async def revoke_principal(self, principal: str) -> tuple[KeyRecord, ...]:
        """Revoke all keys of a principal; return them, with those that had been revoked before.

        Raises:
            StorageError: The database cannot be used.
        """
        return await self._revoke(api_key.c.principal == principal)

    async def revision(self) -> int:
        """Return the count of changes to the keys so far.

        Raises:
            StorageError: The database cannot be used.
        """
        async with self._database.reading() as connection:
            return await _revision(connection)

    async def live(self) -> LiveKeys:
        """Return all keys that are good now.

        Raises:
            StorageError: The database cannot be used.
        """
        is_live = api_key.c.revoked_at.is_(None) & (
            api_key.c.expires_at.is_(None) | (api_key.c.expires_at > self._clock())
        )
        async with self._database.reading() as connection:
            # The count first: between the two, another process may change a key. Then the change is in the
            # rows but not in the count, and who compares counts later loads once too often, not too rarely.
            revision = await _revision(connection)
            rows = await connection.execute(select(api_key).where(is_live))
            return LiveKeys(revision, tuple(map(_record, rows)))

    async def _revoke(self, which: ColumnElement[bool]) -> tuple[KeyRecord, ...]:
        revoked = (
            update(api_key)
            .where(which)
            .values(revoked_at=func.coalesce(api_key.c.revoked_at, self._clock()))
            .returning(api_key)
        )
        async with self._database.writing() as connection:
            await connection.execute(_COUNT_CHANGE)
            return tuple(map(_record, await connection.execute(revoked)))


async def _revision(connection: AsyncConnection) -> int:
    value: int = (await connection.execute(_REVISION)).scalar_one()
    return value


def _record(row: Row[tuple[object, ...]]) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        hash=row.hash,
        principal=row.principal,
        servers=None if row.servers is None else frozenset(row.servers),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        note=row.note,
    )
