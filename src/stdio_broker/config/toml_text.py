"""TOML as text: keys and strings as they are written. Pure. The standard library only reads it.

Source: TOML 1.0.0, "Keys" and "String".
"""

import json
import re
from collections.abc import Iterable

__all__ = ["dotted", "key", "string"]

_BARE = re.compile(r"[A-Za-z0-9_-]+")

# JSON leaves these as they are; TOML wants them escaped. Halves of surrogate pairs cannot be written at all.
_DELETE = "\x7f"
_SURROGATE = re.compile("[\ud800-\udfff]")


def key(name: str) -> str:
    """Return a key, in quotes if it needs them."""
    return name if _BARE.fullmatch(name) else string(name)


def dotted(path: Iterable[str | int]) -> str:
    """Return where a value stands: `servers.git.args[1]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{key(part)}"
    return text.removeprefix(".")


def string(text: str) -> str:
    """Return a basic string."""
    quoted = json.dumps(_SURROGATE.sub("\ufffd", text), ensure_ascii=False)
    return quoted.replace(_DELETE, "\\u007F")
