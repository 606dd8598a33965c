"""Keys in memory: the contract of `KeyStore` without a database, and with one that can go away."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from stdio_broker.auth.keys import KeyRecord, KeySource, LiveKeys, NewKey, hash_of, new_key
from stdio_broker.errors import StorageError

__all__ = ["FakeStore", "Store"]


class Store(KeySource, Protocol):
    """What `KeyStore` can do."""

    async def create(
        self,
        principal: str,
        *,
        servers: frozenset[str] | None = None,
        expires_at: float | None = None,
        note: str = "",
    ) -> NewKey: ...

    async def records(self) -> tuple[KeyRecord, ...]: ...

    async def revoke_id(self, key_id: str) -> tuple[KeyRecord, ...]: ...

    async def revoke_key(self, text: str) -> tuple[KeyRecord, ...]: ...

    async def revoke_principal(self, principal: str) -> tuple[KeyRecord, ...]: ...


class FakeStore:
    """A store in memory.

    Attributes:
        is_away: Whether every question fails.
        loads: How often the keys were asked for.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.is_away = False
        self.loads = 0
        self._clock = clock
        self._records: dict[str, KeyRecord] = {}
        self._revision = 0

    async def create(
        self,
        principal: str,
        *,
        servers: frozenset[str] | None = None,
        expires_at: float | None = None,
        note: str = "",
    ) -> NewKey:
        key = new_key()
        self._revision += 1
        self._records[key.id] = KeyRecord(
            id=key.id,
            hash=hash_of(key.text.encode()),
            principal=principal,
            servers=servers,
            created_at=self._clock(),
            expires_at=expires_at,
            revoked_at=None,
            note=note,
        )
        return key

    async def records(self) -> tuple[KeyRecord, ...]:
        return tuple(self._records.values())

    async def revoke_id(self, key_id: str) -> tuple[KeyRecord, ...]:
        return self._revoke(lambda record: record.id == key_id)

    async def revoke_key(self, text: str) -> tuple[KeyRecord, ...]:
        return self._revoke(lambda record: record.hash == hash_of(text.encode()))

    async def revoke_principal(self, principal: str) -> tuple[KeyRecord, ...]:
        return self._revoke(lambda record: record.principal == principal)

    async def revision(self) -> int:
        self._check()
        return self._revision

    async def live(self) -> LiveKeys:
        self._check()
        self.loads += 1
        now = self._clock()
        return LiveKeys(
            self._revision, tuple(record for record in self._records.values() if record.is_live(now))
        )

    def change(self, key_id: str, *, note: str | None = None, servers: frozenset[str] | None = None) -> None:
        """Change a key in a way that no verb does, as an operator may do by hand."""
        record = self._records[key_id]
        self._records[key_id] = replace(
            record, note=record.note if note is None else note, servers=servers or record.servers
        )
        self._revision += 1

    def _check(self) -> None:
        if self.is_away:
            raise StorageError("away, says the test")

    def _revoke(self, which: Callable[[KeyRecord], bool]) -> tuple[KeyRecord, ...]:
        self._revision += 1
        found = [
            replace(record, revoked_at=self._clock() if record.revoked_at is None else record.revoked_at)
            for record in self._records.values()
            if which(record)
        ]
        self._records |= {record.id: record for record in found}
        return tuple(found)
