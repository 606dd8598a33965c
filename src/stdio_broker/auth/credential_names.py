"""A principal's name as a part of the name of a file or a variable. Pure.

A name that a user brings chooses among files and variables. So different principals must always have
different ones, inside the directory and behind the prefix that the operator has chosen: names are encoded
so that nothing is lost, and a pattern is refused that could not keep two of them apart.
"""

import difflib
import re
from urllib.parse import quote

from ..sessions import Principal

__all__ = ["path_of", "path_pattern", "variable_of", "variable_pattern"]

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")

#: What is between two placeholders must have something in it that no encoded name has.
_ENCODED = re.compile(r"[A-Za-z0-9_.~%@+-]*")


def path_pattern(pattern: str) -> str:
    """Return a pattern of paths that keeps all principals apart, as far as `{issuer}` is in it.

    Args:
        pattern: An absolute path, maybe with `{principal}` and `{issuer}`. Without `{principal}` it is a
            directory of files that are named by it.

    Raises:
        ValueError: It is no such pattern.
    """
    if "{principal}" not in pattern:
        pattern = f"{pattern.rstrip('/')}/{{principal}}"
    _check_path(pattern)
    return pattern


def path_of(pattern: str, principal: Principal) -> str | None:
    """Return a principal's path; None if it can have none."""
    if not principal.subject or ("{issuer}" in pattern and not principal.issuer):
        return None
    values = {"principal": _component(principal.subject), "issuer": _component(principal.issuer)}
    return _PLACEHOLDER.sub(lambda found: values[found[1]], pattern)


def variable_pattern(pattern: str) -> str:
    """Return a pattern of variables' names.

    Raises:
        ValueError: It is none.
    """
    # Something before it: else a principal called `path` would have what is in PATH.
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*_\{PRINCIPAL\}[A-Za-z0-9_]*", pattern):
        raise ValueError(f"expected the name of a variable such as TOKEN_{{PRINCIPAL}}, found {pattern!r}")
    return pattern


def variable_of(pattern: str, subject: str) -> str:
    """Return the name of a principal's variable."""
    return pattern.replace("{PRINCIPAL}", _variable_part(subject))


def _check_path(pattern: str) -> None:
    """Find out whether every principal has a path of its own.

    Raises:
        ValueError: Not so.
    """
    if not pattern.startswith("/") or "\0" in pattern:
        raise ValueError(f"expected an absolute path, found {pattern!r}")
    # Text and names of placeholders by turns.
    parts = _PLACEHOLDER.split(pattern)
    texts, names = parts[::2], parts[1::2]
    for name in names:
        if name not in {"principal", "issuer"}:
            nearest = difflib.get_close_matches(name, ("principal", "issuer"), n=1) or ["principal"]
            raise ValueError(f"found {{{name}}}, expected {{{nearest[0]}}}")
    if len(set(names)) < len(names):
        raise ValueError(f"expected each placeholder once, found {pattern!r}")
    if any("{" in text or "}" in text for text in texts):
        raise ValueError(f"expected no braces but those of {{principal}} and {{issuer}}, found {pattern!r}")
    if any(_ENCODED.fullmatch(text) for text in texts[1:-1]):
        raise ValueError(f"expected a / between {{issuer}} and {{principal}}, found {pattern!r}")


def _component(name: str) -> str:
    """Return a name as a part of a component of a path: no slash, no dot at the beginning, nothing lost."""
    encoded = quote(name, safe="@+", errors="surrogatepass")
    return f"%2E{encoded[1:]}" if encoded.startswith(".") else encoded


def _variable_part(name: str) -> str:
    """Return a name as a part of a variable's name; nothing is lost."""

    def encode(found: re.Match[str]) -> str:
        if found[1]:
            return "_"
        return "".join(f"__{byte:02X}" for byte in found[0].encode(errors="surrogatepass"))

    # A hyphen only there, so that one `_` is never beside another.
    return re.sub(r"((?<=[a-z0-9])-(?=[a-z0-9]))|[^a-z0-9]", encode, name).upper()
