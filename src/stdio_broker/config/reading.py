"""The file as tables: read, and its syntax told. Knows no key."""

import os
import re
import stat
import tomllib
from pathlib import Path

from ..errors import ConfigError

__all__ = ["read_toml"]

_PLACE = re.compile(r"line (\d+), column (\d+)")


def read_toml(path: Path) -> dict[str, object]:
    """Return a TOML file's tables.

    Raises:
        ConfigError: It cannot be read, or is everybody's to write, or is no TOML; with the line.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read().decode()
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        raise ConfigError(f"{path}, line {line}: expected UTF-8, found other bytes") from None
    if mode & stat.S_IWOTH:
        raise ConfigError(
            f"{path}: every user of this machine may change the file (mode {mode:04o}), and so what is run "
            "as you; expected 0644 or less, as `chmod o-w FILE` makes it"
        )
    try:
        # An editor on another system may have left a byte order mark, which is no TOML.
        return tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}, {_syntax(str(exc), text)}") from None
    except RecursionError:
        raise ConfigError(f"{path}: lists or tables are nested too deeply") from None
    except ValueError:
        raise ConfigError(f"{path}: a number has more digits than any number that is expected here") from None


def _syntax(message: str, text: str) -> str:
    """Return a message of the standard library's with its place in front."""
    head, _, place = message.rpartition(" (at ")
    what = head or place
    what = what[:1].lower() + what[1:]
    if (match := _PLACE.match(place)) is None:
        return f"line {text.rstrip().count(chr(10)) + 1}: {what}, and the file ends"
    return f"line {match[1]}: {what} (column {match[2]})"
