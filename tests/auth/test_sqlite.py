"""A file that only its owner can read, and that several processes use."""

import asyncio
import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stdio_broker.auth.database import Database
from stdio_broker.auth.store import KeyStore
from stdio_broker.errors import StorageError
from tests.auth.programs import FINISH_TIMEOUT


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def no_umask() -> Iterator[None]:
    """Let everybody read what is made without a word about it."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("no_umask")
async def test_all_that_is_made_is_for_the_owner_only(tmp_path: Path) -> None:
    """Issue 5: whatever the umask."""
    path = tmp_path / "state" / "stdio-broker" / "broker.db"
    async with Database(_url(path)) as database:
        await KeyStore(database).create("alice")
        assert {child.name: _mode(child) for child in path.parent.iterdir()} == {
            "broker.db": 0o600,
            "broker.db-wal": 0o600,
            "broker.db-shm": 0o600,
        }
    assert _mode(path.parent) == 0o700
    assert [child.name for child in path.parent.iterdir()] == ["broker.db"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644])
async def test_a_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    """Issue 5. Ours: not repaired in silence, for somebody may have read it already."""
    path = tmp_path / "broker.db"
    async with Database(_url(path)):
        pass
    path.chmod(mode)
    with pytest.raises(StorageError, match=rf"expected a file for its owner only, found mode {mode:04o}"):
        async with Database(_url(path)):
            pass


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Path.mkdir, "unable to open database file"),
        (lambda path: path.write_bytes(b"no database" * 500), "file is not a database"),
    ],
)
async def test_what_is_no_database_is_refused(tmp_path: Path, make: object, reason: str) -> None:
    path = tmp_path / "broker.db"
    assert callable(make)
    make(path)
    path.chmod(0o700 if path.is_dir() else 0o600)
    with pytest.raises(StorageError) as caught:
        async with Database(_url(path)):
            pass
    assert str(caught.value) == f"the storage cannot be used: {path}: {reason}"


async def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "broker.db"
    with pytest.raises(StorageError, match=f"{tmp_path}/file: File exists"):
        async with Database(_url(path)):
            pass


def test_a_process_that_does_not_close_it_ends_nevertheless(tmp_path: Path) -> None:
    """Ours: each connection is a thread, and after a second Ctrl-C nobody closes it."""
    opening = f"Database({_url(tmp_path / 'broker.db')!r}).__aenter__()"
    code = (
        "import asyncio; from stdio_broker.auth.database import Database\n"
        f"asyncio.new_event_loop().run_until_complete({opening}); print('open')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=FINISH_TIMEOUT
    )
    assert result.stdout == "open\n"


async def test_a_reader_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    """SQLite, "Write-Ahead Logging"."""
    path = tmp_path / "broker.db"
    async with Database(_url(path)) as database:
        store = KeyStore(database)
        await store.create("alice")
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("UPDATE change_counter SET value = 99")
            assert await store.revision() == 1
            assert len((await store.live()).records) == 1
            other.execute("COMMIT")
        assert await store.revision() == 99


async def test_a_writer_waits_for_another_one(tmp_path: Path) -> None:
    path = tmp_path / "broker.db"
    async with Database(_url(path)) as database:
        store = KeyStore(database)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            creating = asyncio.ensure_future(store.create("alice"))
            # Long enough that it has begun to wait; if it has not, the test shows nothing, but does not fail.
            done, _ = await asyncio.wait({creating}, timeout=0.3)
            assert not done
            other.execute("COMMIT")
        await creating


async def test_a_new_file_is_opened_while_another_process_writes_to_it(tmp_path: Path) -> None:
    """Ours: the choice of the journal does not wait by itself (SQLite answers "database is locked")."""
    path = tmp_path / "broker.db"
    path.touch(0o600)
    database = Database(_url(path))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE other (x)")
        other.execute("BEGIN IMMEDIATE")
        opening = asyncio.ensure_future(database.__aenter__())
        done, _ = await asyncio.wait({opening}, timeout=0.3)
        assert not done
        other.execute("COMMIT")
        async with contextlib.AsyncExitStack() as stack:
            await opening
            stack.push_async_exit(database)
            other.execute("SELECT * FROM other")  # only then does it look which journal there is
            assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
