"""From the tables of a file that are the node's own to its settings.

What they must have in common is checked here: what no value can know about another.
"""

from collections.abc import Callable, Mapping

from ..auth.settings import Settings as AuthSettings
from ..auth.settings import default_storage_url
from ..auth.storage_url import SqliteFile, parse_storage_url
from ..errors import ConfigError
from ..http import LOOPBACK_HOSTS
from ..http import Settings as HttpSettings
from ..sessions.quotas import QuotaSettings
from .addresses import as_host, host_in_header, is_loopback, origin_in_header
from .keys import Table
from .model import Auth, Http, Limits, Storage
from .problems import Path
from .references import References, Unresolved

__all__ = ["Report", "compose_auth", "compose_http", "compose_quotas", "compose_storage_url", "part_of"]

#: Takes a mistake: where it is, and what it is.
Report = Callable[[Path, str], None]

#: What a principal may have, and the node's part that it is of.
_PARTS = {
    "max_sessions_per_principal": "max_sessions",
    "max_children_per_principal": "max_children",
    "max_starting_per_principal": "max_starting",
}


def compose_http(http: Http, limits: Limits, auth: Auth, report: Report) -> HttpSettings:
    """Return the settings of the HTTP side."""
    if auth.mode == "none" and not is_loopback(http.host):
        report(
            ("http", "host"),
            'expected a loopback address, such as "127.0.0.1", because `auth.mode` is "none"; '
            f'found "{http.host}": whoever reaches that would run commands here',
        )
    values = http.model_dump(exclude={"host", "port", "allowed_hosts", "allowed_origins"})
    whole = ("limits.max_buffered_bytes", limits.max_buffered_bytes)
    values["max_body_bytes"] = part_of(whole, http, "max_body_bytes", ("http",), report)
    return HttpSettings(
        **values,
        allowed_hosts=LOOPBACK_HOSTS | {as_host(http.host)} | _hosts(http, report),
        allowed_origins=_origins(http, report),
    )


def compose_quotas(limits: Limits, report: Report) -> QuotaSettings:
    """Return what the node has, and what of it a principal may have."""
    values = limits.model_dump(
        exclude={"max_buffered_bytes", "max_buffered_bytes_per_principal", "drain_grace"}
    )
    for part, whole in _PARTS.items():
        values[part] = part_of((whole, values[whole]), limits, part, ("limits",), report)
    return QuotaSettings(**values)


def part_of(whole: tuple[str, int], table: Table, key: str, at: Path, report: Report) -> int:
    """Return a number that is no more than another one.

    One that nobody has set follows: whoever makes the node small need not say so of each part.

    Args:
        whole: The other one: its key, and what it is.
        table: What the file says.
        key: The number's key.
        at: Where the table is.
        report: Takes the mistake of a number that is more.
    """
    name, most = whole
    value: int = getattr(table, key)
    if value > most and key in table.model_fields_set:
        report((*at, key), f"expected no more than `{name}`, which is {most}, found {value}")
    return min(value, most)


def compose_auth(auth: Auth) -> AuthSettings:
    """Return how clients are authenticated."""
    return AuthSettings(**auth.model_dump())


def compose_storage_url(
    storage: Storage, references: References, environ: Mapping[str, str], report: Report
) -> str:
    """Return the URL of the database; the path of a file in it is absolute."""
    if storage.url is None:
        return default_storage_url(environ)
    try:
        url = storage.url if isinstance(storage.url, str) else references.secret(storage.url)
        database = parse_storage_url(url)
        if isinstance(database, SqliteFile):
            return f"sqlite:///{references.path(str(database.path))}"
    except ConfigError as exc:
        # It is a message about a table; the key is known here.
        report(("storage", "url"), str(exc).removeprefix("storage: "))
        return ""
    except Unresolved as exc:
        report(("storage", "url"), str(exc))
        return ""
    return url


def _hosts(http: Http, report: Report) -> frozenset[str]:
    hosts = [host_in_header(host) for host in http.allowed_hosts]
    for index, host in enumerate(hosts):
        if host is None:
            report(
                ("http", "allowed_hosts", index),
                f"expected a host name, such as mcp.example, found {http.allowed_hosts[index]!r}",
            )
    return frozenset(filter(None, hosts))


def _origins(http: Http, report: Report) -> frozenset[str]:
    origins = [origin_in_header(origin) for origin in http.allowed_origins]
    for index, origin in enumerate(origins):
        if origin is None:
            report(
                ("http", "allowed_origins", index),
                f"expected an origin, such as https://app.example, found {http.allowed_origins[index]!r}",
            )
    return frozenset(filter(None, origins))
