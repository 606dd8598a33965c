"""What is measured: the broker, and what bounds it from above."""

import json
import sys
from dataclasses import dataclass

from benchmarks.tools import Tools

__all__ = ["BROKER", "CEILING", "CONSTANT", "Subject", "subjects"]

BROKER = "stdio-broker"
CONSTANT = "uvicorn, constant"
CEILING = "C, no child"

# As long as the child's answer to the echo that the generator sends.
_CONSTANT_ANSWER = json.dumps(
    {"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": "." * 32}]}},
    separators=(",", ":"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One column of the comparison: a program that serves MCP, or pretends to.

    Args:
        argv: Starts it; it prints its URL on stdout when it is ready.
        constant: The one answer it gives to everything; None: it speaks MCP.
        bridges: It has children, so that opening sessions and holding them open means something.
    """

    name: str
    argv: tuple[str, ...]
    constant: str | None = None
    bridges: bool = False


def subjects(tools: Tools, tag: str) -> tuple[Subject, ...]:
    """Return everything that can be measured here; the tag goes into the command line of every child."""
    child = (*tools.child, tag)
    broker = (sys.executable, "-m", "stdio_broker", "run", "--port", "0", "--log-level", "warning", "--")
    constant = (sys.executable, "-m", "benchmarks.constant", _CONSTANT_ANSWER)
    found = [
        Subject(name=BROKER, argv=(*broker, *child), bridges=True),
        Subject(name=CONSTANT, argv=constant, constant=_CONSTANT_ANSWER),
    ]
    if tools.answer:
        found.append(Subject(name=CEILING, argv=tools.answer))
    return tuple(found)
