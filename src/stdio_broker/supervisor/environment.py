"""The child's environment, from an allow-list. Pure.

A broker holds secrets; a child gets the few variables that programs need, and what its
configuration names. Source: design decision 8; MCP python-sdk inherits six names.
"""

from collections.abc import Collection, Mapping
from typing import Literal

__all__ = ["MINIMAL", "build_environment"]

#: Names that "minimal" lets through; a trailing * is a prefix.
MINIMAL = (
    "HOME",
    "LANG",
    "LC_*",
    "LOGNAME",
    "PATH",
    "SHELL",
    "TERM",
    "TMPDIR",
    "TZ",
    "USER",
    # Without these two no Go, Node or Python program trusts a private certificate authority.
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
)


def _split(names: Collection[str]) -> tuple[frozenset[str], tuple[str, ...]]:
    exact = frozenset(name for name in names if not name.endswith("*"))
    return exact, tuple(name[:-1] for name in names if name.endswith("*"))


_MINIMAL = _split(MINIMAL)


def build_environment(
    ours: Mapping[str, str],
    *,
    inherit: Literal["minimal", "all"] | Collection[str],
    overrides: Mapping[str, str | None],
) -> dict[str, str]:
    """Return the environment of a child.

    Args:
        ours: The environment to inherit from.
        inherit: "minimal", "all", or the names to let through (a trailing * is a prefix).
        overrides: Variables to set; None unsets one.
    """
    if inherit == "all":
        env = dict(ours)
    else:
        exact, prefixes = _MINIMAL if inherit == "minimal" else _split(inherit)
        # First the names: to take the value of one out of `os.environ` costs two conversions.
        wanted = [name for name in ours if name in exact or (prefixes and name.startswith(prefixes))]
        env = {name: ours[name] for name in wanted}
    for name, value in overrides.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    return env
