"""The variables of a server's children: its templates, and the secrets that they are made of."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ..sessions.templates import EnvironmentTemplate, TemplateError
from .keys import Reference
from .node_composing import Report
from .problems import Path
from .references import References, Unresolved
from .secrecy import MIN_SECRET_CHARS, looks_secret

__all__ = ["Variables", "compose_variables"]

_NO_CREDENTIAL = "found ${credential.token}, and the server has no `credential` that says where it comes from"

#: Shorter lines of a secret with several are found in other texts too.
MIN_LINE_CHARS = 16

_ANY_FLAW = "-"  # stands for a secret that is wrong, of which that is told elsewhere


@dataclass(frozen=True, slots=True)
class Variables:
    """The variables of a server's children.

    Attributes:
        template: What they are made of.
        secrets: Values that must not be shown, besides those that templates put in.
    """

    template: EnvironmentTemplate
    secrets: frozenset[str] = field(repr=False)


def compose_variables(
    env: Mapping[str, str | Reference],
    *,
    at: Path,
    named: Mapping[str, str | None],
    references: References,
    has_credential: bool,
    report: Report,
) -> Variables | None:
    """Return the variables of a server's children; None if anything is wrong with them.

    Args:
        env: The file's table.
        at: Where it is.
        named: The operator's secrets by name; None as a value is one that is wrong.
        references: Where other values are.
        has_credential: Whether there is a credential to make them of.
        report: Takes the mistakes.
    """
    known = {name: _ANY_FLAW if value is None else value for name, value in named.items()}
    texts: dict[str, str] = {}
    secrets: set[str] = set()
    for name, value in env.items():
        try:
            text, own = _text_of(name, value, references)
            template = EnvironmentTemplate.parse({name: text})
            template.check(has_credentials=True, secrets=known)  # credentials are the server's matter
        except (TemplateError, Unresolved) as exc:
            problems = exc.problems if isinstance(exc, TemplateError) else (str(exc),)
            for problem in problems:
                report((*at, name), problem.removeprefix(f"{name}: "))
        else:
            texts[name] = text
            secrets.update(own)
            if template.needs_credential and not has_credential:
                report((*at, name), _NO_CREDENTIAL)
    if len(texts) < len(env):
        return None
    return Variables(EnvironmentTemplate.parse(texts), frozenset(secrets))


def _text_of(name: str, value: str | Reference, references: References) -> tuple[str, Iterable[str]]:
    """Return the template of a variable, and what of it must not be shown."""
    if isinstance(value, str):
        return value, _pieces(value) if looks_secret(name) and "${" not in value else ()
    secret = references.secret(value)
    return secret.replace("$", "$$"), _pieces(secret)


def _pieces(secret: str) -> Iterator[str]:
    """Yield a secret, and its lines where there are several: logs have one at a time."""
    if len(secret) >= MIN_SECRET_CHARS:
        yield secret
    lines = secret.splitlines()
    if len(lines) > 1:
        yield from (line for line in lines if len(line) >= MIN_LINE_CHARS)
