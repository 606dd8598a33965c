"""The configuration of `stdio-broker serve`: a file and the environment, checked as one.

In layers, so that no mistake hides another: the file's syntax; each value by itself (`model`); then what
tables must have in common, of all that are right by themselves (`node_composing`, `server_composing`).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath

from pydantic import ValidationError

from ..errors import ConfigError
from .configuration import Configuration
from .model import File
from .node_composing import compose_auth, compose_http, compose_quotas, compose_storage_url, part_of
from .overrides import Overridden, override, variable_of
from .problems import Path, Problem, problems_of
from .reading import read_toml
from .references import References, Unresolved
from .server_composing import Surroundings, compose_server

__all__ = ["load_configuration", "storage_url_of"]

# No dot: `${secret:NAME}` would take it, but a table's name would need quotes.
_SECRET_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(slots=True)
class _Findings:
    """The mistakes of one file.

    Attributes:
        file: The configuration file, as its user names it.
        overridden: Its tables, and what of them comes from the environment.
        problems: The mistakes, in the order in which they were found.
    """

    file: FilePath
    overridden: Overridden
    problems: list[Problem] = field(default_factory=list)

    def report(self, path: Path, text: str) -> None:
        """Take a mistake."""
        self.problems.append(Problem(path, text))

    def raise_if_any(self) -> None:
        """Raise all of them.

        Raises:
            ConfigError: There are some.
        """
        told = [f"{self._source(problem)}: {problem}" for problem in self.problems]
        if told or self.overridden.problems:
            raise ConfigError(*self.overridden.problems, *dict.fromkeys(told))

    def _source(self, problem: Problem) -> str:
        return variable_of(problem.path, self.overridden.variables) or str(self.file)


def load_configuration(path: FilePath, environ: Mapping[str, str]) -> Configuration:
    """Return the configuration that a file and the environment make.

    Args:
        path: The TOML file.
        environ: The broker's own environment.

    Raises:
        ConfigError: Every mistake, each with its place, what was expected and what was found.
    """
    findings = _Findings(path, override(read_toml(path), File, environ))
    file, broken = _validated(findings.overridden.tree, findings)
    references = References(path, environ)
    secrets = _secrets(file, broken, references, findings)
    surroundings = Surroundings(file.auth, file.limits, secrets, references, environ)
    http = compose_http(file.http, file.limits, file.auth, findings.report)
    quotas = compose_quotas(file.limits, findings.report)
    buffered_bytes = part_of(
        ("max_buffered_bytes", file.limits.max_buffered_bytes),
        file.limits,
        "max_buffered_bytes_per_principal",
        ("limits",),
        findings.report,
    )
    storage_url = compose_storage_url(file.storage, references, environ, findings.report)
    servers = [
        compose_server(name, server, surroundings, findings.report) for name, server in file.servers.items()
    ]
    if not servers and not any(path[0] == "servers" for path in broken):
        findings.report(
            ("servers",), "no server at all; expected a table such as [servers.git] with a `command`"
        )
    findings.raise_if_any()
    return Configuration(
        host=file.http.host,
        port=file.http.port,
        drain_grace=file.limits.drain_grace,
        servers=tuple(server for server in servers if server is not None),
        http=http,
        quotas=quotas,
        auth=compose_auth(file.auth),
        storage_url=storage_url,
        max_buffered_bytes=file.limits.max_buffered_bytes,
        max_buffered_bytes_per_principal=buffered_bytes,
        sources=tuple(dict.fromkeys(references.sources)),
    )


def storage_url_of(path: FilePath, environ: Mapping[str, str]) -> str:
    """Return where keys are kept, whatever else is wrong with the file.

    Raises:
        ConfigError: The file cannot be read, or does not say it well.
    """
    overridden = override(read_toml(path), File, environ)
    tree = {"storage": overridden.tree["storage"]} if "storage" in overridden.tree else {}
    findings = _Findings(path, Overridden(tree, overridden.variables))
    file, _ = _validated(tree, findings)
    url = compose_storage_url(file.storage, References(path, environ), environ, findings.report)
    findings.raise_if_any()
    return url


def _validated(tree: Mapping[str, object], findings: _Findings) -> tuple[File, frozenset[Path]]:
    """Return a file's tables, without what is wrong by itself, and which places that is.

    What is left is still checked against each other: whoever has made five mistakes hears of five.
    """
    try:
        return File.model_validate(tree), frozenset()
    except ValidationError as exc:
        problems = list(problems_of(exc, File))
    findings.problems += problems
    broken = frozenset(problem.path[:2] for problem in problems)
    return File.model_validate(_without(tree, broken)), broken


def _without(tree: Mapping[str, object], broken: Iterable[Path]) -> dict[str, object]:
    """Return a file's tables without what is broken: a server, a secret, or a key of another table."""
    kept = dict(tree)
    for table, *key in sorted(broken, key=len):
        below = kept.get(str(table))
        if key and isinstance(below, Mapping):
            kept[str(table)] = {name: value for name, value in below.items() if name != key[0]}
        else:
            kept.pop(str(table), None)
    return kept


def _secrets(
    file: File, broken: Iterable[Path], references: References, findings: _Findings
) -> dict[str, str | None]:
    """Return the operator's secrets by name; None for one that is wrong, which is told here."""
    secrets: dict[str, str | None] = {
        str(path[1]): None for path in broken if path[0] == "secrets" and path[1:]
    }
    for name, reference in file.secrets.items():
        secrets[name] = None
        if not _SECRET_NAME.fullmatch(name):
            findings.report(("secrets", name), "expected a name of 1 to 64 letters, digits, hyphens and _")
            continue
        try:
            secrets[name] = references.secret(reference)
        except Unresolved as exc:
            findings.report(("secrets", name), str(exc))
    return secrets
