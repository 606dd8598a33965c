"""Databases for the tests of auth: files, and a PostgreSQL server that is started for them."""

from collections.abc import Iterator

import pytest

from tests.auth.engines import Engine, postgresql_engine, sqlite_engine
from tests.auth.postgresql_server import PostgresqlServer, find_programs, running


@pytest.fixture(scope="package")
def postgresql() -> Iterator[PostgresqlServer]:
    """Run a PostgreSQL server for all tests that ask for one."""
    with running(find_programs()) as server:
        yield server


@pytest.fixture(scope="package", params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Return each kind of database in turn."""
    if request.param == "sqlite":
        return sqlite_engine(tmp_path_factory.mktemp("sqlite"))
    return postgresql_engine(request.getfixturevalue("postgresql"))


@pytest.fixture
def url(engine: Engine) -> str:
    """Return the URL of a database that has nothing in it."""
    return engine.new_url()
