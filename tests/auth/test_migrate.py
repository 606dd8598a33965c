"""The tables are brought up to date, wholly or not at all."""

import logging

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from stdio_broker.auth.database import Database
from stdio_broker.auth.migrate import VERSION_TABLE
from stdio_broker.auth.store import KeyStore
from stdio_broker.auth.tables import metadata
from stdio_broker.errors import StorageError
from tests.auth.engines import Engine


async def test_the_steps_make_the_tables_that_statements_know(url: str) -> None:
    """Ours: whoever changes a table adds a step."""

    def compare(connection: Connection) -> object:
        return compare_metadata(
            MigrationContext.configure(
                connection, opts={"compare_type": True, "version_table": VERSION_TABLE}
            ),
            metadata,
        )

    async with Database(url) as database, database.reading() as connection:
        assert await connection.run_sync(compare) == []


async def test_the_tables_carry_names_of_ours(url: str) -> None:
    """Ours: in a database that is shared with others, Alembic's usual table may be theirs."""
    async with Database(url) as database, database.reading() as connection:
        tables = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    assert sorted(tables) == ["api_key", "change_counter", "stdio_broker_version"]


async def test_each_step_is_logged_once(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Ours: an operator reads in the log when the tables were changed."""
    caplog.set_level(logging.INFO, "stdio_broker")
    for _ in range(2):
        async with Database(url):
            pass
    steps = [vars(record)["step"] for record in caplog.records if record.getMessage() == "storage.migrated"]
    assert steps == ["0001"]


async def test_tables_of_a_newer_version_are_left_alone(url: str) -> None:
    """Ours: an older broker does not know what it would break."""
    async with Database(url) as database, database.writing() as connection:
        await connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))  # noqa: S608
    with pytest.raises(StorageError, match="a newer version of stdio-broker has changed its tables"):
        async with Database(url):
            pass


async def test_a_step_that_fails_leaves_nothing_behind(engine: Engine) -> None:
    """Ours: after the obstacle is gone, the same step runs from its beginning."""
    url = engine.new_url()
    engine.execute(url, "CREATE TABLE change_counter (x INTEGER)")  # what the first step makes last
    with pytest.raises(StorageError):
        async with Database(url):
            pass
    engine.execute(url, "DROP TABLE change_counter")
    async with Database(url) as database:
        await KeyStore(database).create("alice")


def test_there_is_one_newest_step() -> None:
    """Alembic: two would be two histories."""
    config = Config()
    config.set_main_option("script_location", "stdio_broker.auth:migrations")
    config.set_main_option("path_separator", "os")
    assert len(ScriptDirectory.from_config(config).get_heads()) == 1
