"""Logs: for people on a terminal, for machines otherwise; and text that is safe to show.

Every record is a constant event name with facts beside it (`extra`). Facts never hold tokens,
bodies or values of the environment.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Collection
from typing import Literal, TextIO

__all__ = ["LogFormat", "LogLevel", "Redaction", "configure_logging", "printable", "redact"]

LogFormat = Literal["auto", "human", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

_ANSI_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")

#: A key of this broker's own, whosever it is (see `auth.keys`).
_OWN_KEY = re.compile(r"stdiob_key_[0-9A-Za-z]+")

_REDACTED = "[redacted]"

#: Fewer characters of a secret are found in other words too, and give nothing away.
MIN_PART_CHARS = 4

#: Libraries of which only what goes wrong is news. What they do is ours, and told by us; and one of them
#: writes every statement of the database into the log.
_OTHERS = ("aiosqlite", "alembic", "asyncio", "asyncpg", "sqlalchemy")

#: What every record has; the rest are facts.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message", "taskName"}


def configure_logging(level: LogLevel, log_format: LogFormat, stream: TextIO = sys.stderr) -> None:
    """Send the process's logs to a stream.

    Args:
        level: Least severe level shown.
        log_format: "human", "json" (one object per line), or "auto": human on a terminal.
        stream: Where to.
    """
    human = stream.isatty() if log_format == "auto" else log_format == "human"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_HumanFormatter() if human else _JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _OTHERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def redact(text: str, secrets: Collection[str]) -> str:
    """Return text of a child's without the secrets that it was given, and without keys for this broker.

    Programs quote them: a Forgejo names an unknown token in its refusal, and the server in front of
    it logs that. No child is given a key, but its user may have pasted one into a call.
    """
    # The longest first: one may be the beginning of another.
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, _REDACTED)
    return _OWN_KEY.sub(_REDACTED, text)


class Redaction:
    """Redact lines that may have been cut, one after the other: a cut may go through a secret.

    What is left of one is taken out, too, from four characters on. Of a key for this broker that is so for
    the part before the cut only.

    Args:
        secrets: What must not be shown.
        cut_bytes: Length of a line from which on it has been cut, so that the next one may be its rest.
    """

    def __init__(self, secrets: Collection[str], *, cut_bytes: int) -> None:
        self._secrets = secrets
        self._cut_bytes = cut_bytes
        self._was_cut = False

    def line(self, text: str) -> str:
        """Return the next line without what must not be shown."""
        is_cut = len(text.encode("utf-8", "replace")) >= self._cut_bytes
        shown = redact(text, self._secrets)
        if self._was_cut:
            rest = max((_overlap(secret[::-1], shown[::-1]) for secret in self._secrets), default=0)
            shown = _REDACTED + shown[rest:] if rest else shown
        if is_cut:
            start = max((_overlap(secret, shown) for secret in self._secrets), default=0)
            shown = shown[: len(shown) - start] + _REDACTED if start else shown
        self._was_cut = is_cut
        return shown


def _overlap(secret: str, text: str) -> int:
    """Return how many characters at the end of a text are the beginning of a secret; 0 for a few."""
    longest = min(len(secret), len(text))
    return next((size for size in range(longest, MIN_PART_CHARS - 1, -1) if text.endswith(secret[:size])), 0)


def printable(text: str) -> str:
    """Return text of a stranger's that is safe on a terminal: no colours, control characters visible."""
    text = _ANSI_SEQUENCE.sub("", text)
    return "".join(
        character if character.isprintable() or character == "\t" else f"\\x{ord(character):02x}"
        for character in text
    )


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        entry |= _facts(record)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class _HumanFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        facts = " ".join(
            f"{name}={printable(str(value))}" for name, value in _facts(record).items() if value is not None
        )
        line = f"{clock} {record.levelname.lower():7} {record.getMessage()} {facts}".rstrip()
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _facts(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}
