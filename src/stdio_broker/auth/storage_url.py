"""Which database a URL names. Pure.

    sqlite:///relative/path   sqlite:////absolute/path     a file; the path is taken as it stands
    postgresql://…            postgres://…                 a connection URI of libpq

Source: PostgreSQL, "Connection URIs". A URL may hold a password, so no message quotes one.
"""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import ConfigError

__all__ = ["PostgresServer", "SqliteFile", "parse_storage_url"]

_EXPECTED = "expected sqlite:///PATH or postgresql://USER@HOST/DATABASE"


@dataclass(frozen=True, slots=True)
class SqliteFile:
    """A file of ours."""

    path: Path


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A database of somebody else's.

    Attributes:
        uri: How to reach it, with its password.
    """

    uri: str = field(repr=False)


def parse_storage_url(url: str) -> SqliteFile | PostgresServer:
    """Return the database that a URL names.

    Raises:
        ConfigError: None.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ConfigError(f"storage: {_EXPECTED}, found no ://")
    if scheme == "sqlite":
        if not rest.startswith("/") or rest in {"/", "/:memory:"} or "\0" in rest:
            raise ConfigError(f"storage: {_EXPECTED}, found sqlite:// without the path of a file")
        return SqliteFile(Path(rest[1:]))
    if scheme in {"postgres", "postgresql"}:
        _check_uri(url)
        return PostgresServer(url)
    raise ConfigError(f"storage: {_EXPECTED}, found a URL of another kind")


def _check_uri(uri: str) -> None:
    """Refuse a URI that cannot be split.

    That is most often a password with a / or # or ? in it, and a piece of it would stand in the error of
    whoever splits it.
    """
    try:
        host = urlsplit(uri).netloc.rpartition("@")[2]
        # One port for each host: postgresql://one:5432,two:5433/database
        for part in host.split(","):
            _ = urlsplit(f"//{part}").port
    except ValueError:
        raise ConfigError(
            "storage: the PostgreSQL URL cannot be split; in a user name or password, "
            "characters such as / # ? @ : are written as %2F %23 %3F %40 %3A"
        ) from None
