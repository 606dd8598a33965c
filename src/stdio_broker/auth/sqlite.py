"""A SQLite file: made so that only we can read it, and opened so that several processes can use it.

Sources: SQLite, "Write-Ahead Logging", "PRAGMA Statements"; SQLAlchemy, "SQLite", "Transactions with SQLite
and the sqlite3 driver".
"""

import os
import sqlite3
import stat
from pathlib import Path

from sqlalchemy import URL, Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from ..errors import StorageError

__all__ = ["WRITES", "open_sqlite"]

#: Execution option of transactions that write.
WRITES = "stdio_broker_writes"

#: Seconds that a transaction waits for another process's.
BUSY_TIMEOUT = 10.0

#: Times that another process may come between us and the choice of a journal. Without it all works, too.
WAL_TRIES = 10

#: Connections at once; each is a thread.
MAX_CONNECTIONS = 4


def open_sqlite(path: Path) -> AsyncEngine:
    """Return an engine for the file, which is made if it does not exist.

    Raises:
        StorageError: The file cannot be made, or others than its owner may read or write it.
    """
    path = path.absolute()  # no absolute path is special to SQLite
    try:
        _make_private(path)
        # Tried here, because the asynchronous driver leaves a thread behind when it fails to open a file.
        sqlite3.connect(path).close()
    except sqlite3.Error as exc:
        raise StorageError(f"{path}: {exc}") from exc
    except OSError as exc:
        raise StorageError(f"{exc.filename or path}: {exc.strerror}") from exc
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        connect_args={
            "timeout": BUSY_TIMEOUT,
            "isolation_level": None,  # the driver begins no transaction of its own: we say when, and which
        },
        pool_size=MAX_CONNECTIONS,
        max_overflow=0,
        pool_timeout=BUSY_TIMEOUT,
        hide_parameters=True,  # a hash of a key is nobody's business
    )
    event.listen(engine.sync_engine, "connect", _prepare)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _make_private(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        # Only a new file is opened here: to close one that SQLite has open elsewhere in this process would
        # take its locks away (SQLite, "How To Corrupt An SQLite Database File", 2.2).
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise StorageError(
                f"{path}: expected a file for its owner only, found mode {mode:04o}; "
                "others may have read or changed what is in it. If you trust it, run: chmod 600"
            ) from None


def _prepare(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    try:
        _write_ahead(cursor)
    finally:
        cursor.close()


def _write_ahead(cursor: DBAPICursor) -> None:
    """Choose write-ahead logging: readers and a writer do not wait for each other."""
    for _ in range(WAL_TRIES):
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:
            # Another process writes, or does the same as we. This statement does not wait for it; these do.
            cursor.execute("BEGIN IMMEDIATE")
            cursor.execute("COMMIT")


def _begin(connection: Connection) -> None:
    # Whoever reads first and writes later may find that somebody else has written meanwhile, and then fails
    # without waiting. So a transaction that will write says so at once.
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
