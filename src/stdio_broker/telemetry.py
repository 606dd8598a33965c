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

__all__ = ["LogFormat", "LogLevel", "configure_logging", "printable", "redact"]

LogFormat = Literal["auto", "human", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

_ANSI_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")

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
    # uvicorn's lifecycle is ours; only what goes wrong there is news.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def redact(text: str, secrets: Collection[str]) -> str:
    """Return text of a child's without the secrets that it was given.

    Programs quote them: a Forgejo names an unknown token in its refusal, and the server in front of
    it logs that.
    """
    # The longest first: one may be the beginning of another.
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "[redacted]")
    return text


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
