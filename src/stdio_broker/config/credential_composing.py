"""From a `credential` table to a source of credentials."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..auth.command_credentials import CommandCredentials
from ..auth.credentials import EnvironmentCredentials, FileCredentials, StaticCredential
from ..sessions import Principal
from ..sessions.credentials import Credential, CredentialSource
from .credential_model import CommandCredential, EnvironmentCredential, FileCredential
from .credential_model import StaticCredential as StaticTable
from .keys import Reference
from .node_composing import Report
from .problems import Path
from .references import References, Unresolved

__all__ = ["VARIABLE", "ConfiguredCredentials", "compose_credential"]

#: The key of a table that says where the credential is.
_KEYS = {"static": "value", "file": "path", "env": "name", "command": "command"}

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Tables = StaticTable | FileCredential | EnvironmentCredential | CommandCredential


@dataclass(frozen=True, slots=True)
class ConfiguredCredentials:
    """A source of credentials that is equal to another one of the same configuration.

    So that a file that is read again changes those servers only whose tables say something else.

    Attributes:
        kind: Which source it is, as the file calls it.
    """

    kind: str
    _definition: tuple[object, ...] = field(repr=False)
    _source: CredentialSource = field(compare=False, repr=False)

    @property
    def per_principal(self) -> bool:
        """Whether principals have different ones."""
        return self._source.per_principal

    async def resolve(self, principal: Principal) -> Credential:
        """Return the credential that a principal has now.

        Raises:
            CredentialMissing: It has none.
            CredentialUnavailable: It cannot be had now.
        """
        return await self._source.resolve(principal)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    server: str
    at: Path
    issuer: str
    references: References
    environ: Mapping[str, str]
    report: Report


def compose_credential(
    server: str,
    table: Tables,
    *,
    at: Path,
    issuer: str,
    references: References,
    environ: Mapping[str, str],
    report: Report,
) -> ConfiguredCredentials | None:
    """Return where the credentials of a server's principals come from; None if that is no place.

    Args:
        server: The server's name.
        table: What the file says.
        at: Where it says so.
        issuer: Who vouches for the principals of this node.
        references: Where paths and secrets are.
        environ: The broker's own environment.
        report: Takes the mistakes.
    """
    context = _Context(
        server=server, at=at, issuer=issuer, references=references, environ=environ, report=report
    )
    try:
        definition, source = _source(table, context)
    except (Unresolved, ValueError) as exc:
        # Whoever has put the secret itself there shall not find it in a log.
        report((*at, _KEYS[table.source]), str(exc).partition(", found '")[0])
        return None
    return ConfiguredCredentials(table.source, (server, issuer, *definition), source)


def _source(table: Tables, context: _Context) -> tuple[tuple[object, ...], CredentialSource]:
    """Return a source, and what it is made of.

    Raises:
        Unresolved: A path or a secret is not as it should be.
        ValueError: Something else is.
    """
    server, issuer, references = context.server, context.issuer, context.references
    match table:
        case StaticTable():
            token = references.secret(table.value)
            return (token,), StaticCredential(token)
        case FileCredential():
            path = str(references.path(table.path))
            return (path,), FileCredentials(server, path, issuer=issuer)
        case EnvironmentCredential():
            source = EnvironmentCredentials(server, table.name, issuer=issuer, environment=context.environ)
            return (table.name,), source
        case CommandCredential():
            argv = references.command(table.command)
            env = _variables(table.env, context)
            command = CommandCredentials(server, argv, environment=env, timeout=table.timeout, ttl=table.ttl)
            return (argv, env, table.timeout, table.ttl), command


def _variables(env: Mapping[str, str | Reference], context: _Context) -> dict[str, str]:
    """Return the variables of a command; there are no templates, for it serves everybody."""
    variables: dict[str, str] = {}
    for name, value in env.items():
        at: Path = (*context.at, "env", name)
        if not VARIABLE.fullmatch(name):
            context.report(at, "expected a name of letters, digits and _, which does not begin with a digit")
        elif isinstance(value, str) and "\0" in value:
            context.report(at, "expected text without NUL, which no variable can hold")
        else:
            try:
                variables[name] = value if isinstance(value, str) else context.references.secret(value)
            except Unresolved as exc:
                context.report(at, str(exc))
    return variables
