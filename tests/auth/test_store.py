"""The contract of a store of keys: on SQLite, on PostgreSQL, and of the fake that other tests use."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stdio_broker.auth.database import Database
from stdio_broker.auth.keys import KeyRecord, hash_of
from stdio_broker.auth.store import KeyStore
from tests.auth.engines import Engine
from tests.auth.fake_store import FakeStore, Store

pytestmark = pytest.mark.both_loops

NOW = 1_800_000_000.5


class Clock:
    """A clock on the wall, set by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def database(engine: Engine) -> AsyncIterator[Database]:
    async with Database(engine.new_url()) as database:
        yield database


@pytest.fixture
def store(database: Database, clock: Clock) -> KeyStore:
    return KeyStore(database, clock=clock)


class Contract:
    """Whose rule: ours; `stdio_broker.auth.keys.KeySource` and `stdio_broker.auth.store.KeyStore`."""

    async def test_a_new_store_is_empty(self, store: Store) -> None:
        assert await store.records() == ()
        live = await store.live()
        assert live.records == ()
        assert live.revision == await store.revision()

    async def test_a_key_is_kept_as_its_hash_with_all_that_was_said_of_it(self, store: Store) -> None:
        key = await store.create(
            "alice@example.org", servers=frozenset({"git", "forgejo"}), expires_at=NOW + 60, note="laptop, ü"
        )
        (record,) = await store.records()
        assert record == KeyRecord(
            id=key.id,
            hash=hash_of(key.text.encode()),
            principal="alice@example.org",
            servers=frozenset({"git", "forgejo"}),
            created_at=NOW,
            expires_at=NOW + 60,
            revoked_at=None,
            note="laptop, ü",
        )

    async def test_every_server_and_no_server_are_not_the_same(self, store: Store) -> None:
        every = await store.create("alice")
        none = await store.create("alice", servers=frozenset())
        assert {record.id: record.servers for record in await store.records()} == {
            every.id: None,
            none.id: frozenset(),
        }

    async def test_keys_are_listed_in_the_order_they_were_made(self, store: Store, clock: Clock) -> None:
        made = []
        for number in range(5):
            clock.now = NOW + number
            made.append((await store.create(f"user{number}")).id)
        assert [record.id for record in await store.records()] == made

    async def test_a_revoked_key_is_not_live_and_stays_in_the_list(self, store: Store, clock: Clock) -> None:
        key = await store.create("alice")
        other = await store.create("bob")
        clock.now += 10
        (revoked,) = await store.revoke_id(key.id)
        assert revoked.id == key.id
        assert revoked.revoked_at == NOW + 10
        assert [record.id for record in (await store.live()).records] == [other.id]
        assert {record.id: record.revoked_at for record in await store.records()} == {
            key.id: NOW + 10,
            other.id: None,
        }

    async def test_revoking_again_changes_nothing(self, store: Store, clock: Clock) -> None:
        key = await store.create("alice")
        first = await store.revoke_id(key.id)
        clock.now += 10
        assert await store.revoke_id(key.id) == first
        assert await store.revoke_principal("alice") == first

    async def test_a_key_is_revoked_by_its_own_text(self, store: Store) -> None:
        key = await store.create("alice")
        await store.create("alice")
        assert [record.id for record in await store.revoke_key(key.text)] == [key.id]
        assert len((await store.live()).records) == 1

    async def test_all_keys_of_a_principal_are_revoked_and_nobody_elses(self, store: Store) -> None:
        alices = {(await store.create("alice")).id for _ in range(3)}
        other = await store.create("alice2")
        assert {record.id for record in await store.revoke_principal("alice")} == alices
        assert [record.id for record in (await store.live()).records] == [other.id]

    async def test_what_does_not_exist_is_not_revoked(self, store: Store) -> None:
        key = await store.create("alice")
        assert await store.revoke_id(key.id[:-1]) == ()
        assert await store.revoke_id(key.id.swapcase()) == ()
        assert await store.revoke_key(key.text[:-1]) == ()
        assert await store.revoke_principal("Alice") == ()
        assert await store.revoke_principal("%") == ()
        assert len((await store.live()).records) == 1

    async def test_a_key_is_live_until_the_moment_it_expires(self, store: Store, clock: Clock) -> None:
        await store.create("alice", expires_at=NOW + 1)
        clock.now = NOW + 0.999
        assert len((await store.live()).records) == 1
        clock.now = NOW + 1
        assert (await store.live()).records == ()

    async def test_every_change_is_counted(self, store: Store) -> None:
        """Another process looks at the count only."""
        seen = [await store.revision()]
        key = await store.create("alice")
        seen.append(await store.revision())
        await store.revoke_id(key.id)
        seen.append(await store.revision())
        await store.create("alice")
        await store.revoke_principal("alice")
        seen.append(await store.revision())
        assert all(before < after for before, after in itertools.pairwise(seen))
        assert (await store.live()).revision == seen[-1]
        assert await store.revision() == seen[-1]  # looking changes nothing

    async def test_changes_at_once_do_not_get_lost(self, store: Store) -> None:
        keys = await asyncio.gather(*(store.create("alice") for _ in range(10)))
        before = await store.revision()
        await asyncio.gather(
            *(store.revoke_id(key.id) for key in keys), *(store.revoke_principal("alice") for _ in range(3))
        )
        assert await store.revision() == before + 13
        assert (await store.live()).records == ()


class TestFake(Contract):
    @pytest.fixture
    def store(self, clock: Clock) -> FakeStore:
        return FakeStore(clock=clock)


class TestDatabase(Contract):
    pass


async def test_a_bad_name_of_a_principal_is_refused_before_anything_is_written(store: KeyStore) -> None:
    with pytest.raises(ValueError, match="principal: expected 1 to 128 letters"):
        await store.create("../alice")
    assert await store.records() == ()
    assert await store.revision() == 0


async def test_the_text_of_a_key_is_nowhere_in_the_database(database: Database, store: KeyStore) -> None:
    """Ours: who steals the database has no key."""
    key = await store.create("alice", note="laptop")
    async with database.reading() as connection:
        rows = (await connection.exec_driver_sql("SELECT * FROM api_key")).all()
    assert key.id in repr(rows)
    assert key.text not in repr(rows)
    assert key.text[len("stdiob_key_") :] not in repr(rows)


#: PostgreSQL has no NUL, and UTF-8 no lone surrogates; neither comes from a command line.
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(note=TEXTS, servers=st.frozensets(TEXTS, max_size=3))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_text_comes_back_as_it_was(note: str, servers: frozenset[str], store: KeyStore) -> None:
    key = await store.create("alice", note=note, servers=servers)
    record = next(record for record in await store.records() if record.id == key.id)
    assert (record.note, record.servers) == (note, servers)
