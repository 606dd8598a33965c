"""`stdio-broker key`: make, list and revoke the bearer keys of users."""

import asyncio
import json
import re
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import parse_qs, urlsplit

import click

from ..auth.keys import KeyRecord, is_well_formed, looks_like_key, principal_problem
from ..config import storage_url_of
from ..errors import BrokerError, ConfigError
from ..telemetry import printable
from .common import fail, loop_factory

if TYPE_CHECKING:
    from ..auth.store import KeyStore

__all__ = ["key_commands"]

Command = TypeVar("Command", bound=Callable[..., Any])
Work: TypeAlias = "Callable[[KeyStore], Coroutine[None, None, None]]"

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

#: Longest life of a key, in seconds. Whoever wants more leaves the option out.
MAX_LIFE = 100 * 365 * 86400

#: Longest text of a key that is read: a key, and what an editor or a shell adds to it.
MAX_KEY_CHARS = 4096

_COLUMNS = ("ID", "PRINCIPAL", "STATE", "CREATED", "EXPIRES", "SERVERS", "NOTE")


def _as_seconds(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,12})([smhdw])", value)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= MAX_LIFE:
        raise click.BadParameter(
            f"expected a number and s, m, h, d or w, such as 12h or 30d, found {value!r}"
        )
    return seconds


def _as_principal(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    if problem := principal_problem(value):
        raise click.BadParameter(problem)
    return value


def _as_servers(
    _ctx: click.Context, _param: click.Parameter, names: tuple[str, ...]
) -> frozenset[str] | None:
    from ..config.server_composing import name_problem  # noqa: PLC0415 - slow, and not always needed

    for name in names:
        if problem := name_problem(name):
            raise click.BadParameter(problem)
    return frozenset(names) or None


def _storage_options(command: Command) -> Command:
    """Give a command the options that choose the database."""
    config = click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False),
        help="The broker's configuration file; its [storage] says where the keys are.",
    )
    storage = click.option(
        "--storage",
        metavar="URL",
        callback=_without_password,
        help="Where the keys are: sqlite:///PATH or postgresql://USER@HOST/DATABASE. "
        "[default: a file of yours, as for a broker whose configuration names none]",
    )
    return config(storage(command))


def _without_password(_ctx: click.Context, _param: click.Parameter, url: str | None) -> str | None:
    """Refuse a password: what stands on a command line can be seen by all users of the machine."""
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        has_password = parts.password is not None or "password" in parse_qs(parts.query)
    except ValueError:
        has_password = False  # whatever it is, it is refused when it is opened
    if has_password:
        raise click.BadParameter(
            "other users of this machine can see a password here; "
            "use --config, or give it in PGPASSWORD or in ~/.pgpass"
        )
    return url


@click.group("key")
def key_commands() -> None:
    """Make, list and revoke the keys that users prove themselves with.

    A broker with `mode = "keys"` sees what is changed here within a second, while it runs.
    """


@key_commands.command("create")
@click.option("--principal", required=True, metavar="NAME", callback=_as_principal, help="Whose key it is.")
@click.option(
    "--server",
    "servers",
    multiple=True,
    metavar="NAME",
    callback=_as_servers,
    help="Only for this server. May be repeated.",
)
@click.option(
    "--expires",
    callback=_as_seconds,
    metavar="DURATION",
    help="Good for so long, such as 12h or 30d. [default: for ever]",
)
@click.option("--note", default="", help="What you want to remember of it, such as the machine it is for.")
@_storage_options
def create(
    *,
    principal: str,
    servers: frozenset[str] | None,
    expires: float | None,
    note: str,
    config: str | None,
    storage: str | None,
) -> None:
    """Make a key, and print it: this once, for only its hash is kept."""

    async def make(store: "KeyStore") -> None:
        key = await store.create(
            principal,
            servers=servers,
            expires_at=None if expires is None else time.time() + expires,
            note=note,
        )
        click.echo(key.text)
        click.echo(
            f"stdio-broker: this is key {key.id} of {principal}; it cannot be shown again. "
            "A client sends it in the header Authorization: Bearer KEY",
            err=True,
        )

    _run(make, config, storage)


@key_commands.command("list")
@click.option("--json", "as_json", is_flag=True, help="As a JSON array.")
@_storage_options
def list_(*, as_json: bool, config: str | None, storage: str | None) -> None:
    """List all keys there ever were, the oldest first. What a key was is not known, only its hash."""

    async def show(store: "KeyStore") -> None:
        records = await store.records()
        now = time.time()
        if as_json:
            click.echo(json.dumps([_as_json(record, now) for record in records], indent=2))
        else:
            click.echo(_as_table(records, now))

    _run(show, config, storage)


@key_commands.command("revoke")
@click.argument("key_id", metavar="[ID]", required=False)
@click.option("--principal", metavar="NAME", help="Revoke all keys of this user.")
@click.option(
    "--from-stdin",
    is_flag=True,
    help="Revoke the key whose text comes on stdin: one that somebody has found.",
)
@_storage_options
def revoke(
    *, key_id: str | None, principal: str | None, from_stdin: bool, config: str | None, storage: str | None
) -> None:
    """Revoke a key, or all keys of a user. All that the user has running ends, whichever key it came with."""
    if [key_id is not None, principal is not None, from_stdin].count(True) != 1:
        raise click.UsageError("expected one of ID, --principal NAME and --from-stdin")
    if key_id is not None and looks_like_key(key_id):
        raise click.UsageError(
            "that is a key, not the id of one; it is now in the history of your shell. "
            "Find its id with `key list`, or use --from-stdin"
        )
    text = _read_key() if from_stdin else ""

    async def end(store: "KeyStore") -> None:
        if key_id is not None:
            records = await store.revoke_id(key_id)
        elif principal is not None:
            records = await store.revoke_principal(principal)
        else:
            records = await store.revoke_key(text)
        if not records:
            fail(1, "there is no such key; `stdio-broker key list` shows all there are")
        for record in records:
            click.echo(f"revoked {record.id} of {printable(record.principal)}")

    _run(end, config, storage)


def _read_key() -> str:
    """Return the key on stdin; a typo is told from an unknown key here, and only here."""
    text = sys.stdin.read(MAX_KEY_CHARS).strip()
    if not is_well_formed(text):
        fail(1, "that is no key: it is cut off, or has a typo in it (its checksum does not fit)")
    return text


def _run(work: Work, config: str | None, storage: str | None) -> None:
    """Do some work on the keys; exit if it fails."""
    if config is not None and storage is not None:
        raise click.UsageError("expected --config or --storage, found both")
    try:
        url = storage_url_of(config) if storage is None else storage
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_with_store(work, url))
    except ConfigError as exc:
        fail(2, *exc.problems)
    except BrokerError as exc:
        fail(1, str(exc))


async def _with_store(work: Work, url: str) -> None:
    # Other commands shall not pay for what only this one needs.
    from ..auth.database import Database  # noqa: PLC0415
    from ..auth.store import KeyStore  # noqa: PLC0415

    async with Database(url) as database:
        await work(KeyStore(database))


def _as_json(record: KeyRecord, now: float) -> dict[str, object]:
    return {
        "id": record.id,
        "principal": record.principal,
        "servers": None if record.servers is None else sorted(record.servers),
        "state": _state(record, now),
        "created_at": _time(record.created_at),
        "expires_at": _time(record.expires_at),
        "revoked_at": _time(record.revoked_at),
        "note": record.note,
    }


def _as_table(records: Sequence[KeyRecord], now: float) -> str:
    rows = [_COLUMNS, *(_row(record, now) for record in records)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _row(record: KeyRecord, now: float) -> tuple[str, ...]:
    servers = "all" if record.servers is None else ",".join(sorted(record.servers)) or "none"
    return (
        record.id,
        printable(record.principal),
        _state(record, now),
        _time(record.created_at) or "",
        _time(record.expires_at) or "never",
        printable(servers),
        printable(record.note),
    )


def _state(record: KeyRecord, now: float) -> str:
    if record.revoked_at is not None:
        return "revoked"
    return "live" if record.is_live(now) else "expired"


def _time(seconds: float | None) -> str | None:
    """Return a time as people and programs read it: UTC, RFC 3339."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
