"""A database as the broker uses it, of either kind: shared with other processes, and full of secrets."""

import asyncio
import contextlib
import traceback

import pytest
from sqlalchemy import insert, text

from stdio_broker.auth.database import Database
from stdio_broker.auth.store import KeyStore
from stdio_broker.auth.tables import api_key
from stdio_broker.errors import StorageError
from tests.auth.engines import Engine
from tests.auth.postgresql_server import PostgresqlServer
from tests.auth.programs import python

both_loops = pytest.mark.both_loops


@both_loops
async def test_what_was_stored_is_there_when_the_database_is_opened_again(url: str) -> None:
    async with Database(url) as database:
        key = await KeyStore(database).create("alice")
    async with Database(url) as database:
        assert [record.id for record in await KeyStore(database).records()] == [key.id]


@both_loops
async def test_several_databases_are_opened_at_once_by_one_process(engine: Engine) -> None:
    """Ours: the migration library has global state, and an upgrade of one must not end up in another."""
    databases = [Database(engine.new_url()) for _ in range(4)]
    async with contextlib.AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(database) for database in databases))
        for database in databases:
            await KeyStore(database).create("alice")
            assert await KeyStore(database).revision() == 1


async def test_several_processes_open_a_new_database_at_once(url: str) -> None:
    """Issue 5: any of them may be the first."""
    with contextlib.ExitStack() as stack:
        programs = [stack.enter_context(python('await store.create("alice")', url)) for _ in range(4)]
        for program in programs:
            program.go()
        for program in programs:
            program.finish()
    async with Database(url) as database:
        assert len(await KeyStore(database).records()) == 4
        assert await KeyStore(database).revision() == 4


async def test_a_transaction_that_fails_leaves_nothing_behind(url: str) -> None:
    async with Database(url) as database:
        store = KeyStore(database)
        with pytest.raises(ZeroDivisionError):
            async with database.writing() as connection:
                await connection.execute(text("UPDATE change_counter SET value = 99"))
                raise ZeroDivisionError
        assert await store.revision() == 0


async def test_an_error_of_the_database_shows_no_value_of_a_row(engine: Engine) -> None:
    """Ours: hashes are no secrets of the first rank, but notes and names may be."""
    row = {
        "id": "canary-id",
        "hash": "canary-hash",
        "principal": "canary",
        "created_at": 0.0,
        "note": "canary",
    }
    async with Database(engine.new_url()) as database:
        with pytest.raises(StorageError) as caught:
            async with database.writing() as connection:
                await connection.execute(insert(api_key).values(row))
                await connection.execute(insert(api_key).values(row))
    shown = "".join(traceback.format_exception(caught.value))
    kinds = {"sqlite": "UNIQUE constraint failed: api_key.", "postgresql": "PostgreSQL: UniqueViolationError"}
    assert kinds[engine.name] in str(caught.value)
    assert "canary" not in shown


async def test_connections_that_the_server_has_ended_are_replaced(postgresql: PostgresqlServer) -> None:
    """Ours: a restart of PostgreSQL costs one error, which tells that changes may have been missed."""
    url = postgresql.new_database()
    async with Database(url) as database:
        store = KeyStore(database)
        key = await store.create("alice")
        postgresql.disconnect_all(url)
        with pytest.raises(StorageError):
            await store.revision()
        assert [record.id for record in await store.records()] == [key.id]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"password": "wrong-canary"}, "InvalidPasswordError"),
        ({"user": "nobody-canary"}, "InvalidPasswordError"),
    ],
)
async def test_a_refused_login_shows_neither_name_nor_password(
    postgresql: PostgresqlServer, changes: dict[str, str], reason: str
) -> None:
    url = postgresql.url("postgres", **changes)
    with pytest.raises(StorageError) as caught:
        async with Database(url):
            pass
    assert str(caught.value) == f"the storage cannot be used: no connection to PostgreSQL: {reason}"
    assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_the_database_shows_no_password() -> None:
    url = "postgresql://user:canary@localhost/database"
    database = Database(url)
    assert "canary" not in repr(database)
    assert "canary" not in repr(vars(database))


@both_loops
async def test_opening_may_be_cancelled_at_any_step(engine: Engine) -> None:
    """Ours: no thread and no connection is left, and the next one can open it."""

    async def open_and_close(url: str) -> None:
        async with Database(url) as database:
            await KeyStore(database).revision()

    for steps in range(0, 120, 3 if engine.name == "sqlite" else 15):  # a new PostgreSQL database takes time
        url = engine.new_url()
        task = asyncio.ensure_future(open_and_close(url))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled() or task.exception() is None
        await open_and_close(url)
