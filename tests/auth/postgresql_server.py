"""A PostgreSQL server of the tests' own, on a Unix socket in a directory of its own, with passwords."""

import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.debian import library_path, program

__all__ = ["PASSWORD", "PostgresqlServer", "find_programs", "running"]

#: Must never be seen anywhere. Its characters must be quoted in a URL.
PASSWORD = "canary/p@ss#word:1"  # noqa: S105 - of a server that lives as long as the tests

USER = "broker"

#: Seconds that the server may take to come up on a machine that does other things, too.
START_TIMEOUT = 50.0

#: Where Debian puts the programs of each version.
_DEBIAN = Path("/usr/lib/postgresql")

# Ends the server with us: when our end of its stdin is closed, for whatever reason.
_GUARD = """
"$1/postgres" -D "$2/data" -k "$2" -c listen_addresses= -c fsync=off >"$2/log" 2>&1 &
until "$1/pg_isready" -q -h "$2"
do kill -0 $! || exit 1; sleep 0.05
done
echo ready
read -r _
kill -QUIT $!
wait $!
"""


class PostgresqlServer:
    """A running server.

    Attributes:
        directory: Its socket is here.
    """

    def __init__(self, programs: Path, directory: Path) -> None:
        self.directory = directory
        self._programs = programs
        self._environ = _environ(programs)

    def new_database(self) -> str:
        """Make an empty database; return its URL."""
        name = f"test_{secrets.token_hex(6)}"
        self._run("postgres", f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str, *, user: str = USER, password: str = PASSWORD) -> str:
        """Return the URL of a database, whether there is one or not."""
        host = quote(str(self.directory), safe="")
        return f"postgresql://{user}:{quote(password, safe='')}@/{database}?host={host}"

    def execute(self, url: str, statement: str) -> None:
        """Run a statement in the database of a URL."""
        self._run(_name_of(url), statement)

    def disconnect_all(self, url: str) -> None:
        """End every connection to the database of a URL, as a restart of the server would."""
        which = f"datname = '{_name_of(url)}'"
        self._run("postgres", f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {which}")  # noqa: S608

    def _run(self, database: str, statement: str) -> None:
        subprocess.run(
            [self._programs / "psql", "-qXAt", "-h", self.directory, "-U", USER, "-c", statement, database],
            check=True,
            capture_output=True,
            env={**self._environ, "PGPASSWORD": PASSWORD},
            timeout=START_TIMEOUT,
        )


def find_programs() -> Path:
    """Return the directory of the server's programs; skip the test, with the reason, if there are none."""
    found = shutil.which("initdb")
    candidates = [Path(found).resolve().parent] if found else []
    candidates += sorted(_DEBIAN.glob("*/bin"), reverse=True)
    needed = ("initdb", "pg_isready", "postgres", "psql")
    for candidate in candidates:
        if all((candidate / name).exists() for name in needed):
            return candidate
    try:
        return program(
            "postgresql-15", str(_DEBIAN / "15/bin/postgres"), "postgresql-client-15", "libpq5"
        ).parent
    except (RuntimeError, FileNotFoundError) as exc:
        pytest.skip(f"no PostgreSQL server is installed, and none can be had: {exc}")


@contextlib.contextmanager
def running(programs: Path) -> Iterator[PostgresqlServer]:
    """Run a server within the block."""
    # Not below pytest's directory: a socket's path must be short, and the server's user must get there.
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        directory = Path(name)
        (directory / "password").write_text(PASSWORD)
        user = group = groups = None
        if os.geteuid() == 0:  # the server refuses to run as root
            nobody = pwd.getpwnam("nobody")
            user, group, groups = nobody.pw_uid, nobody.pw_gid, [nobody.pw_gid]
            for path in (directory, directory / "password"):
                os.chown(path, user, group)
        subprocess.run(
            [
                programs / "initdb",
                *("--pgdata", directory / "data", "--username", USER, "--no-sync", "--locale=C"),
                *("--encoding=UTF8", "--auth=scram-sha-256", "--pwfile", directory / "password"),
            ],
            check=True,
            capture_output=True,
            timeout=START_TIMEOUT,
            env=_environ(programs),
            user=user,
            group=group,
            extra_groups=groups,
        )
        with subprocess.Popen(  # which closes its stdin at the end, and waits for it
            ["/bin/sh", "-c", _GUARD, "guard", programs, directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environ(programs),
            user=user,
            group=group,
            extra_groups=groups,
        ) as guard:
            assert guard.stdout is not None
            if guard.stdout.readline() != "ready\n":
                raise AssertionError(f"PostgreSQL did not start: {(directory / 'log').read_text()[-2000:]}")
            yield PostgresqlServer(programs, directory)


def _environ(programs: Path) -> dict[str, str]:
    libraries = library_path(programs / "postgres")
    return {**os.environ, "LD_LIBRARY_PATH": libraries} if libraries else dict(os.environ)


def _name_of(url: str) -> str:
    return url.rpartition("@/")[2].partition("?")[0]
