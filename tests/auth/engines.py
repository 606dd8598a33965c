"""The two kinds of database that a broker can have."""

import contextlib
import secrets
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.auth.postgresql_server import PostgresqlServer

__all__ = ["Engine", "postgresql_engine", "sqlite_engine"]


@dataclass(frozen=True, slots=True)
class Engine:
    """A kind of database.

    Attributes:
        name: "sqlite" or "postgresql".
        new_url: Returns the URL of a database that has nothing in it.
        execute: Runs a statement in the database of a URL, behind our back.
    """

    name: str
    new_url: Callable[[], str]
    execute: Callable[[str, str], None]


def sqlite_engine(directory: Path) -> Engine:
    """Return databases in files below a directory."""
    return Engine(
        "sqlite", lambda: f"sqlite:///{directory / secrets.token_hex(6) / 'broker.db'}", _execute_in_file
    )


def postgresql_engine(server: PostgresqlServer) -> Engine:
    """Return databases of a server."""
    return Engine("postgresql", server.new_database, server.execute)


def _execute_in_file(url: str, statement: str) -> None:
    path = Path(url.removeprefix("sqlite:///"))
    path.parent.mkdir(exist_ok=True)
    path.touch(0o600)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)
